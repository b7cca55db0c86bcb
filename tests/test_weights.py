"""mini/data/weights.py and safetensors.py: published weights of other networks, in other files.

Each is computed right, or refused in one line that names what is at fault. Weights that are used
are compared with transformers in test_gpt.py and test_bert.py.
"""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import train_gpt
from mini import bert
from mini.data.safetensors import read_safetensors, weight_files
from mini.data.text.tokenizers import BPETokenizer
from mini.data.text.wordpiece import SPECIAL, WordPieceTokenizer
from mini.data.weights import read_bert, read_gpt, read_gpt2
from tests.helpers import close, refused, refused_by

REFERENCE = Path(__file__).parent / "reference"
DTYPES = {torch.float32: "F32", torch.int8: "I8", torch.uint16: "U16", torch.float8_e4m3fn: "F8_E4M3",
          torch.float8_e5m2: "F8_E5M2", torch.uint32: "U32", torch.complex64: "C64"}


def write_safetensors(path, tensors: dict):
    """Write {name: tensor} as transformers does."""
    header = {}
    data = b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def change(path, **changes):
    """Put other tensors into a file: name=None leaves one out. A dot in a name is written __."""
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(path).items()}
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    write_safetensors(path, tensors)


def configure(path, **settings):
    """Change settings of the config.json beside a file of weights: name=None leaves one out."""
    file = path.with_name("config.json")
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.fixture
def gpt2(tmp_path):
    """The model.safetensors of a GPT-2, in a folder as it is published."""
    shutil.copytree(REFERENCE / "gpt2_a", tmp_path / "gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(REFERENCE / "bpe" / name, tmp_path / "gpt2")
    return tmp_path / "gpt2/model.safetensors"


@pytest.fixture
def bert_file(tmp_path):
    """The model.safetensors of a BERT of 61 tokens, in a folder as it is published."""
    shutil.copytree(REFERENCE / "bert_tiny", tmp_path / "bert")
    write_vocabulary(tmp_path / "bert", 61)
    return tmp_path / "bert/model.safetensors"


def write_vocabulary(folder, n: int):
    tokens = [*SPECIAL, *(f"w{i}" for i in range(n - len(SPECIAL)))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


# ---- config.json asks for another network

GPT2_VARIANTS = [
    ("model_type", "gpt_neo"), ("activation_function", "relu"), ("activation_function", "gelu"),
    ("layer_norm_epsilon", 1e-6), ("scale_attn_weights", False),
    ("scale_attn_by_inverse_layer_idx", True), ("add_cross_attention", True), ("n_inner", 40),
    ("pruned_heads", {"0": [1]}), ("quantization_config", {"bits": 4}),
    ("auto_map", {"AutoModel": "own.Model"}), ("tie_word_embeddings", False), ("n_layer", 3),
    ("n_embd", 32), ("n_positions", 16), ("vocab_size", 641), ("n_head", 3), ("n_head", 0),
    ("n_head", "2")]


@pytest.mark.parametrize("setting, value", GPT2_VARIANTS, ids=str)
def test_gpt2_variants_are_refused_by_the_name_of_the_setting(gpt2, setting, value):
    configure(gpt2, **{setting: value})
    refused(lambda: read_gpt2(gpt2), gpt2, setting, str(json.dumps(value)), "config.json")


HARMLESS = [("activation_function", "gelu_pytorch_tanh"), ("reorder_and_upcast_attn", True),
            ("n_inner", 64), ("resid_pdrop", 0.5), ("use_cache", False), ("model_type", None)]


@pytest.mark.parametrize("setting, value", HARMLESS, ids=str)
def test_settings_of_gpt2_that_change_no_logits(gpt2, setting, value):
    want = read_gpt2(gpt2)[1]
    configure(gpt2, **{setting: value})
    found = read_gpt2(gpt2)[1]
    assert all(torch.equal(found[name], want[name]) for name in want)


def test_the_other_name_of_the_number_of_heads(gpt2):
    configure(gpt2, n_head=None, num_attention_heads=4)
    assert read_gpt2(gpt2)[0]["n_head"] == 4


BERT_VARIANTS = [
    ("model_type", "roberta"), ("model_type", "distilbert"), ("model_type", "albert"),
    ("hidden_act", "relu"), ("hidden_act", "gelu_new"), ("layer_norm_eps", 1e-5),
    ("position_embedding_type", "relative_key"), ("is_decoder", True),
    ("add_cross_attention", True), ("tie_word_embeddings", False), ("num_hidden_layers", 3),
    ("hidden_size", 32), ("intermediate_size", 64), ("max_position_embeddings", 99),
    ("vocab_size", 62), ("type_vocab_size", 1), ("num_attention_heads", 3)]


@pytest.mark.parametrize("setting, value", BERT_VARIANTS, ids=str)
def test_bert_variants_are_refused_by_the_name_of_the_setting(bert_file, setting, value):
    configure(bert_file, **{setting: value})
    refused(lambda: read_bert(bert_file), bert_file, setting, json.dumps(value), "config.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, "<html>"], ids=len)
def test_a_broken_config(gpt2, content):
    gpt2.with_name("config.json").write_text(content)
    refused(lambda: read_gpt2(gpt2), gpt2.with_name("config.json"))


def test_without_a_config_it_is_the_published_network_in_heads_of_64(tmp_path, gpt2, capsys):
    gpt2.with_name("config.json").unlink()
    refused(lambda: read_gpt2(gpt2), gpt2, "n_head")
    model = train_gpt.GPT(train_gpt.Config(n_layer=1, n_head=2, n_embd=128, block_size=4), 7)
    weights = dict(model.state_dict())
    weights.pop("lm_head.weight")
    for name in weights:
        if name.endswith(("attn.c_attn.weight", "c_proj.weight", "c_fc.weight")):
            weights[name] = weights[name].t()
    write_safetensors(tmp_path / "model.safetensors", weights)
    capsys.readouterr()
    sizes, found = read_gpt2(tmp_path / "model.safetensors")
    assert sizes == dict(n_layer=1, n_head=2, n_embd=128, block_size=4)
    assert "no config.json" in capsys.readouterr().out
    model.load_state_dict(found)


# ---- the tensors are those of another network

def test_gpt2_tensors_of_another_network_are_named(gpt2):
    whole = gpt2.read_bytes()
    C, V = 16, 640
    wte = read_gpt2(gpt2)[1]["wte.weight"]
    for name, tensor in (("transformer.h.1.ln_2.bias", None), ("transformer.ln_f.weight", None),
                         ("transformer.wpe.weight", None), ("transformer.wte.weight", None),
                         ("transformer.h.0.attn.c_attn.weight", torch.zeros(3 * C, C)),
                         ("transformer.h.1.mlp.c_fc.bias", torch.zeros(3)),
                         ("transformer.h.1.crossattention.c_attn.weight", torch.zeros(3)),
                         ("transformer.h.2.ln_1.bias", torch.zeros(C)),
                         ("transformer.h.0.attn.c_proj.weight", torch.zeros(C, C).to(torch.int8)),
                         ("lm_head.weight", torch.zeros(V, C))):
        gpt2.write_bytes(whole)
        change(gpt2, **{name.replace(".", "__"): tensor})
        configure(gpt2, n_layer=None)
        missing = name.replace("h.2.ln_1.bias", "h.2.ln_1.weight")
        refused(lambda: read_gpt2(gpt2), gpt2, missing.removeprefix("transformer."))
    gpt2.write_bytes(whole)
    change(gpt2, lm_head__weight=wte, score__weight=torch.zeros(2, C))      # the same; another head
    configure(gpt2, tie_word_embeddings=False)
    assert set(read_gpt2(gpt2)[1]) == {"lm_head.weight", *read_gpt2(REFERENCE / "gpt2_a")[1]}


def test_bert_tensors_of_another_network_are_named(bert_file):
    whole = bert_file.read_bytes()
    names = list(read_safetensors(bert_file))
    layer = "bert.encoder.layer.1"
    changes = {f"{layer}.attention.self.distance_embedding.weight": torch.zeros(47, 4),
               f"{layer}.crossattention.self.query.bias": torch.zeros(16),
               f"{layer}.output.dense.weight": torch.zeros(16, 41),
               "cls.predictions.decoder.weight": torch.zeros(61, 16),
               "cls.predictions.decoder.bias": torch.ones(61)}
    needed = [name for name in names if "pooler" not in name and "relationship" not in name]
    assert len(needed) == 42
    for name, tensor in (dict.fromkeys(needed) | changes).items():
        bert_file.write_bytes(whole)
        change(bert_file, **{name.replace(".", "__"): tensor})
        refused(lambda: read_bert(bert_file), bert_file, name.removeprefix("bert."))


def test_bert_of_one_token_type_and_of_three(bert_file):
    """It has no vector for a second text: that gets the same one."""
    name = "bert.embeddings.token_type_embeddings.weight"
    for n, second in ((1, 0), (3, 1)):
        types = torch.randn(n, 16)
        change(bert_file, **{name.replace(".", "__"): types})
        configure(bert_file, type_vocab_size=n)
        _, weights = read_bert(bert_file)
        assert torch.equal(weights["wtt.weight"], types[[0, second]])


# ---- the vocabulary and the rows of the embedding

def test_filling_never_wins_and_changes_no_other_logit(bert_file, capsys):
    """Rows of the embedding that no token of vocab.txt has, one of them with the largest logit."""
    run = ["sample", f"--init_from={bert_file}", "--text=w1 w2 [MASK] w3", "--device=cpu"]
    want = bert.main(run)
    tensors = read_safetensors(bert_file)
    wte = tensors["bert.embeddings.word_embeddings.weight"]
    change(bert_file, bert__embeddings__word_embeddings__weight=torch.cat([wte, torch.randn(6, 16)]),
           cls__predictions__bias=torch.cat([tensors["cls.predictions.bias"], 99 * torch.ones(6)]))
    configure(bert_file, vocab_size=67)
    capsys.readouterr()
    assert bert.main(run) == want
    assert "last 6" in capsys.readouterr().out


@pytest.mark.parametrize("n", [62, 300])
def test_a_vocabulary_longer_than_the_embedding(bert_file, capsys, n):
    write_vocabulary(bert_file.parent, n)
    run = ["sample", f"--init_from={bert_file}", "--text=w1 [MASK]", "--device=cpu"]
    error = refused_by(bert.main, capsys, *run)
    assert "vocab.txt" in error and f"{n} tokens" in error and "61" in error


def test_a_vocabulary_of_few_tokens(bert_file, capsys):
    """Fewer than the five that are shown otherwise, with room for them; and one cut off in the middle."""
    write_vocabulary(bert_file.parent, 6)
    lines = bert.main(["sample", f"--init_from={bert_file}", "--text=w0 [MASK]", "--device=cpu"])
    assert len(re.findall("%", lines[0])) == 5
    big = torch.randn(300, 16)
    change(bert_file, bert__embeddings__word_embeddings__weight=big,
           cls__predictions__bias=torch.zeros(300))
    configure(bert_file, vocab_size=300)
    write_vocabulary(bert_file.parent, 172)             # 128 are missing: no filling
    run = ["sample", f"--init_from={bert_file}", "--text=w0 [MASK]", "--device=cpu"]
    assert "truncated" in refused_by(bert.main, capsys, *run)


def test_gpt2_does_not_write_filling(gpt2, capsys):
    """40 of the 640 rows of its embedding have no token in vocab.json."""
    cfg, checkpoint = read_gpt(train_gpt.Config(init_from=str(gpt2)))
    assert cfg.vocab_size == 600 and "last 40" in capsys.readouterr().out
    model, tokenizer = train_gpt.from_checkpoint(checkpoint, cfg)
    whole = read_gpt2(gpt2)[1]["wte.weight"]
    assert tokenizer.vocab_size == 600 and torch.equal(model.lm_head.weight, whole[:600])
    vocab = json.loads(gpt2.with_name("vocab.json").read_text("utf-8"))
    more = {f"<{n}>": 600 + n for n in range(41)}
    gpt2.with_name("vocab.json").write_text(json.dumps(vocab | more), "utf-8")
    refused(lambda: read_gpt(train_gpt.Config(init_from=str(gpt2))), "vocab.json", "641", "640")


# ---- files

def test_numbers_of_types_that_are_not_read_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    for dtype, name in DTYPES.items():
        write_safetensors(path, {"a.b": torch.zeros(4).to(dtype)})
        if name in ("F32", "I8"):
            assert read_safetensors(path)["a.b"].dtype == dtype
        else:
            refused(lambda: read_safetensors(path), path, "a.b", name)


def split_in_two(path):
    """Cut a file in two shards, and write their index; returns the shards and the index."""
    tensors = read_safetensors(path)
    names = list(tensors)
    shards = [path.with_name(f"model-0000{n}-of-00002.safetensors") for n in (1, 2)]
    weight_map = {}
    for shard, some in zip(shards, (names[:9], names[9:])):
        write_safetensors(shard, {name: tensors[name] for name in some})
        weight_map |= dict.fromkeys(some, shard.name)
    path.unlink()
    index = path.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [*shards, index]


def test_any_shard_and_the_index_and_the_folder_give_all_weights(gpt2):
    _, want = read_gpt2(gpt2)
    first, second, index = split_in_two(gpt2)
    for path in (first, second, index, gpt2, gpt2.parent):
        _, found = read_gpt2(path)
        assert list(found) == list(want)
        assert all(torch.equal(found[name], want[name]) for name in want)
    cfg, _ = read_gpt(train_gpt.Config(init_from=str(gpt2.parent)))
    assert cfg.tokenizer == str(gpt2.parent)
    second.unlink()
    for path in (first, second, index, gpt2, gpt2.parent):
        refused(lambda: read_gpt2(path), second, "no such file", "one of 2")
    for content in ("", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}',
                    '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "pytorch_model.bin"}}'):
        index.write_text(content)
        refused(lambda: read_gpt2(gpt2.parent), index)
    index.unlink()
    refused(lambda: read_gpt2(gpt2.parent), second, "no such file")
    first.rename(second)
    refused(lambda: read_gpt2(gpt2.parent), first, "no such file")


def test_a_folder_without_weights(tmp_path):
    refused(lambda: weight_files(tmp_path), tmp_path, "nothing")
    refused(lambda: weight_files(tmp_path / "none"), tmp_path / "none", "no such file")
    (tmp_path / "notes.txt").write_text("")
    refused(lambda: weight_files(tmp_path), tmp_path, "notes.txt")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(lambda: weight_files(tmp_path), "pytorch_model.bin", "pickle")
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert weight_files(tmp_path) == [tmp_path / "a.safetensors"]
    (tmp_path / "b.safetensors").write_bytes(b"")
    refused(lambda: weight_files(tmp_path), tmp_path, "a.safetensors, b.safetensors")


@pytest.mark.parametrize("name, kind", [
    ("pytorch_model.bin", "pickle"), ("pytorch_model-00001-of-00002.bin", "pickle"),
    ("pytorch_model.bin.index.json", "pickle"), ("model.ckpt", "pickle"), ("a.pth", "pickle"),
    ("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"), ("m.gguf", "llama.cpp"),
    ("checkpoint.pt", "--out_dir")])
def test_files_of_other_formats_by_their_names(tmp_path, name, kind):
    for there in (False, True):
        if there:
            (tmp_path / name).write_bytes(b"")
        refused(lambda: read_bert(tmp_path / name), name, kind)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548118077\n"


@pytest.mark.parametrize("content, kind", [
    (LFS, "git lfs pull"), (b"<!DOCTYPE html><html>sorry</html>", "web page"),
    (b"PK\3\4" + bytes(99), "pickle"), (b"\x80\2}q\0X\1\0\0" + bytes(99), "pickle"),
    (b"GGUF\3" + bytes(99), "GGUF")])
def test_files_of_other_formats_by_their_content(gpt2, content, kind):
    gpt2.write_bytes(content)
    refused(lambda: read_gpt2(gpt2), gpt2, kind)


@pytest.mark.parametrize("content, kind", [(LFS, "git lfs pull"), (b"\n<HTML>sorry", "web page")])
def test_what_stands_in_place_of_a_file(gpt2, content, kind):
    for name, read in (("model.safetensors", read_gpt2), ("config.json", read_gpt2),
                       ("vocab.json", BPETokenizer.read), ("merges.txt", BPETokenizer.read)):
        path = gpt2.with_name(name)
        whole = path.read_bytes()
        path.write_bytes(content)
        refused(lambda: read(gpt2.parent), path, kind)
        path.write_bytes(whole)
    vocab = gpt2.with_name("vocab.txt")
    vocab.write_bytes(content)
    refused(lambda: WordPieceTokenizer.read(vocab), vocab, kind)
    checkpoint = gpt2.with_name("checkpoint.pt")
    checkpoint.write_bytes(content)
    refused(lambda: read_gpt(train_gpt.Config(init_from=str(checkpoint))), checkpoint, kind)


def test_a_header_as_long_as_a_sign_of_html(tmp_path):
    """Its length, 60 bytes, is written as "<"."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(b"<".ljust(8, b"\0") + header.ljust(60) + bytes(4))
    assert read_safetensors(tmp_path / "model.safetensors")["a"].item() == 0


def test_a_run_is_a_folder_to_begin_with(tmp_path, capsys):
    """--init_from=runs/gpt takes the checkpoint.pt in it."""
    rng = np.random.RandomState(0)
    (tmp_path / "text.txt").write_text("".join(rng.choice(list("abc \n"), 3000)))
    run = [f"--data={tmp_path}/text.txt", f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1",
           "--tokenizer=char", "--n_layer=1", "--n_embd=16", "--block_size=16", "--batch_size=2",
           "--max_new_tokens=9"]
    train_gpt.main(run)
    cfg, checkpoint = read_gpt(train_gpt.Config(init_from=f"{tmp_path}/run"))
    want = read_gpt(train_gpt.Config(init_from=f"{tmp_path}/run/checkpoint.pt"))[1]
    assert cfg.n_embd == 16
    close(checkpoint["model"]["wte.weight"], want["model"]["wte.weight"])
    error = refused_by(bert.main, capsys, "sample", "--text=[MASK]", f"--init_from={tmp_path}/run")
    assert "checkpoint.pt" in error and "--out_dir" in error


# ---- found by somebody who had not seen the code

def test_numbers_that_are_none(gpt2, bert_file):
    """They were printed as chances of nan %. The mean of a tensor with NaN and infinity in it is neither."""
    for path, read, name in ((gpt2, read_gpt2, "h.1.mlp.c_fc.bias"),
                             (bert_file, read_bert, "encoder.layer.1.output.dense.bias")):
        whole = path.read_bytes()
        prefix = "transformer." if path == gpt2 else "bert."
        for value in (float("nan"), float("-inf")):
            tensor = read_safetensors(path)[prefix + name].clone()
            tensor[3] = value
            change(path, **{(prefix + name).replace(".", "__"): tensor})
            refused(lambda: read(path), path, name, "NaN", f"1 of {len(tensor)}")
            path.write_bytes(whole)


def test_numbers_that_are_none_in_a_checkpoint(gpt2):
    cfg, checkpoint = read_gpt(train_gpt.Config(init_from=str(gpt2)))
    checkpoint["model"]["ln_f.bias"][0] = torch.nan
    path = gpt2.with_name("checkpoint.pt")
    torch.save({"name": "gpt", **checkpoint}, path)
    refused(lambda: read_gpt(train_gpt.Config(init_from=str(path))), path, "ln_f.bias", "NaN")


@pytest.mark.parametrize("number", ["99999999999", "9" * 5000, "3", "01", "²"])
def test_layers_that_cannot_be(gpt2, bert_file, number):
    """The tensors of a hundred thousand million layers were listed."""
    change(gpt2, **{f"transformer__h__{number}__ln_1__weight": torch.zeros(16)})
    refused(lambda: read_gpt2(gpt2), gpt2, f"h.{number}.ln_1.weight")
    change(bert_file, **{f"bert__encoder__layer__{number}__output__dense__bias": torch.zeros(16)})
    refused(lambda: read_bert(bert_file), bert_file, f"encoder.layer.{number}.output.dense.bias")


def test_no_layer_at_all(gpt2):
    for name in read_safetensors(gpt2):
        if ".h." in name:
            change(gpt2, **{name.replace(".", "__"): None})
    configure(gpt2, n_layer=None)
    refused(lambda: read_gpt2(gpt2), gpt2, "h.0.ln_1.weight is missing")


def test_tensors_that_would_change_the_logits(gpt2, bert_file):
    """A bias of the output, and a norm of the embedding, were left out without a word."""
    wholes = {path: path.read_bytes() for path in (gpt2, bert_file)}
    for path, read, name in ((gpt2, read_gpt2, "lm_head.bias"), (gpt2, read_gpt2, "ln_emb.weight"),
                             (bert_file, read_bert, "ln_emb.bias"), (bert_file, read_bert, "cls.predictions.scale"),
                             (bert_file, read_bert, "embeddings_project.weight")):
        change(path, **{name.replace(".", "__"): torch.zeros(16)})
        refused(lambda: read(path), path, f"there is also {name}")
        path.write_bytes(wholes[path])


def test_tensors_that_change_no_logits(gpt2, bert_file):
    mask = torch.ones(1, 1, 24, 24)
    harmless = {gpt2: ["transformer.h.0.attn.bias", "h.1.attn.masked_bias", "score.weight"],
                bert_file: ["bert.embeddings.position_ids", "bert.pooler.dense.weight", "classifier.bias",
                            "qa_outputs.weight"]}
    for path, names in harmless.items():
        read = read_gpt2 if path == gpt2 else read_bert
        sizes, want = read(path)
        change(path, **{name.replace(".", "__"): mask for name in names})
        assert read(path)[0] == sizes and list(read(path)[1]) == list(want)


def test_a_tensor_by_two_names(gpt2, bert_file):
    change(gpt2, ln_f__bias=torch.zeros(16))
    refused(lambda: read_gpt2(gpt2), gpt2, "ln_f.bias is there twice")
    change(bert_file, bert__embeddings__LayerNorm__gamma=torch.zeros(16))
    refused(lambda: read_bert(bert_file), bert_file, "embeddings.LayerNorm.weight is there twice")


@pytest.mark.parametrize("value", ["16", 16.5, [16], True])
def test_sizes_that_are_no_integers(gpt2, bert_file, value):
    """"16" was said to be another size than 16."""
    for path, read, names in ((bert_file, read_bert, ("hidden_size", "num_attention_heads", "vocab_size")),
                              (gpt2, read_gpt2, ("n_layer", "n_head"))):
        whole = path.with_name("config.json").read_bytes()
        for name in names:
            configure(path, **{name: value})
            refused(lambda: read(path), path, f"{name} is {json.dumps(value)} in config.json", "an integer")
            path.with_name("config.json").write_bytes(whole)


def test_a_config_without_anything(gpt2, bert_file, capsys):
    """It was said not to be there."""
    for path, read, name in ((gpt2, read_gpt2, "n_head"), (bert_file, read_bert, "num_attention_heads")):
        path.with_name("config.json").write_text("{}")
        refused(lambda: read(path), path, f"{name} is not in config.json")
        assert "no config.json" not in capsys.readouterr().out


def test_sizes_by_two_names(gpt2):
    configure(gpt2, num_attention_heads=2)
    assert read_gpt2(gpt2)[0]["n_head"] == 2
    configure(gpt2, num_attention_heads=4)
    refused(lambda: read_gpt2(gpt2), gpt2, "n_head is both 2 and 4")


@pytest.mark.parametrize("number, words", [
    ("7", 'is "7", no integer'), (7.0, "is 7.0, no integer"), (True, "is true, no integer"), (None, "is null"),
    ([7], "is [7]"), (8, "the same number, 8"), (600, "is 600, but 600 tokens"), (-1, "is -1, but 600 tokens")])
def test_numbers_of_tokens_that_cannot_be(gpt2, number, words):
    """Another token, or none, had the number; or TypeError ended it."""
    path = gpt2.with_name("vocab.json")
    vocab = json.loads(path.read_text("utf-8"))
    token = next(token for token, other in vocab.items() if other == 7)
    path.write_text(json.dumps(vocab | {token: number}), "utf-8")
    refused(lambda: BPETokenizer.read(gpt2.parent), path, repr(token), words)
