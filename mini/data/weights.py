"""Published weights: those of GPT-2 and BERT as transformers saves them, in .safetensors files.

A config.json beside them says how the network computes. Ours compute as the first published GPT-2
and BERT did. For another network they would load the same tensors without a word, and be wrong, so
weights of one are refused.
"""
import json
import re
from pathlib import Path

import torch

from mini.data.safetensors import folder_of, read_weights
from mini.data.text.tokenizers import BPETokenizer, load_tokenizer
from mini.utils.config import UserError, printable, require, require_file
from mini.utils.run import load_checkpoint, merge_config, stand_in

# ---- GPT-2

SIZES = ("n_layer", "n_head", "n_embd", "block_size")

# transformers keeps these as (in, out), to be multiplied from the right; nn.Linear has (out, in)
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

# What config.json may say: {setting: the values with which train_gpt.GPT computes the same}, the
# published one first. The other settings change no logits. GELU's approximation by tanh has several
# names.
GPT2_SETTINGS = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),                    # code of its own
}

# Tensors that may be there besides: the heads of other tasks, which the logits do not pass
GPT2_OTHERS = ("score.", "classifier.", "qa_outputs.", "multiple_choice_head.", "v_head.")

# Names of sizes that config.json may use, and GPT-2's own
ALIASES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embd",
           "max_position_embeddings": "n_positions"}


def read_gpt(cfg, longest_context: int = 10**9):
    """(config, checkpoint) of the trained GPT in cfg.init_from.

    That names GPT-2's model.safetensors, with its vocab.json and merges.txt in the same folder, or
    a checkpoint.pt of train_gpt.py, or the folder of either. The returned checkpoint has, like
    train_gpt.py's own, "config" (here only sizes and tokenizer), "model" and "tokenizer"; the
    returned config is cfg with these sizes. A context longer than longest_context is cut. Raises
    UserError for any other file, and for flags that ask for other sizes.
    """
    path = Path(cfg.init_from)
    if (path / "checkpoint.pt").exists():
        path = path / "checkpoint.pt"
    folder = folder_of(path)
    if path.suffix == ".pt":
        checkpoint = load_checkpoint(path, "gpt")
        sizes = {name: checkpoint["config"][name] for name in SIZES}
        for name, size in sizes.items():
            require(type(size) is int and size > 0,
                    f"{path}: a damaged checkpoint: in its config, {name} is {size!r}; train anew")
        weights = dict(checkpoint["model"])
        for name, tensor in weights.items():
            check_finite(path, name, tensor)
        tokenizer = checkpoint["tokenizer"]
    else:
        sizes, weights = read_gpt2(path)
        bpe = BPETokenizer.read(folder)
        tied = ("wte.weight", "lm_head.weight")
        cut_filling(weights, tied, bpe.vocab_size, folder / "vocab.json")
        tokenizer = bpe.state()
    sizes["block_size"] = min(sizes["block_size"], longest_context)
    sizes["tokenizer"] = str(folder)
    sizes["vocab_size"] = load_tokenizer(tokenizer).vocab_size
    if "wpe.weight" in weights:             # a fork with other positions may have none
        weights["wpe.weight"] = weights["wpe.weight"][:longest_context]
    checkpoint = {"config": sizes, "model": weights, "tokenizer": tokenizer}
    with_preset = {"config": {"preset": cfg.preset, **sizes}}   # its settings are those of cfg
    return merge_config(cfg, with_preset), checkpoint


def read_gpt2(path):
    """(sizes, weights) of a GPT-2 `model.safetensors` of any size.

    sizes: n_layer, n_head, n_embd, block_size. They follow from the shapes of the tensors, except
    for n_head, which is taken from config.json beside the file; without one it is n_embd / 64, as
    in every published GPT-2. weights: {name: float32 tensor}, named as in `train_gpt.GPT`. Raises
    UserError for any other file, and for a GPT-2 that computes its logits in another way.
    """
    config = with_own_names(path, read_config(path))
    check_settings(path, config, GPT2_SETTINGS, "GPT-2")
    tensors = {}
    for name, tensor in read_weights(path).items():
        name = name.removeprefix("transformer.")
        require(name not in tensors, f"{path}: {name} is there twice, with transformer. before it")
        if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            tensors[name] = tensor          # the others are the causal mask, which old files hold

    # sizes
    V, C = matrix_shape(path, tensors, "wte.weight", "GPT-2")
    T, _ = matrix_shape(path, tensors, "wpe.weight", "GPT-2")
    n_layer = count_layers(path, tensors, "h.", "GPT-2")
    check_settings(path, config, {"n_inner": (4 * C, None)}, "GPT-2")
    in_config = {"n_layer": n_layer, "n_embd": C, "n_positions": T, "vocab_size": V}
    check_sizes(path, config, in_config)
    n_head = number_of_heads(path, config, "n_head", C)

    # weights
    shapes = gpt2_shapes(n_layer, C, V, T)
    check_tensors(path, tensors, shapes, ("lm_head.weight", *GPT2_OTHERS), "GPT-2")
    check_tied(path, tensors, "lm_head.weight", "wte.weight", config)
    weights = {}
    for name in shapes:
        tensor = tensors[name]
        if name.endswith(TRANSPOSED):
            tensor = tensor.t()
        weights[name] = tensor.float().contiguous()
    weights["lm_head.weight"] = weights["wte.weight"]       # tied
    return {"n_layer": n_layer, "n_head": n_head, "n_embd": C, "block_size": T}, weights


def gpt2_shapes(n_layer: int, C: int, V: int, T: int) -> dict:
    """{name: shape} of the tensors in a GPT-2's file."""
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    for i in range(n_layer):
        shapes |= norm_shapes(f"h.{i}.ln_1", C)
        shapes |= {f"h.{i}.attn.c_attn.weight": (C, 3 * C), f"h.{i}.attn.c_attn.bias": (3 * C,)}
        shapes |= {f"h.{i}.attn.c_proj.weight": (C, C), f"h.{i}.attn.c_proj.bias": (C,)}
        shapes |= norm_shapes(f"h.{i}.ln_2", C)
        shapes |= {f"h.{i}.mlp.c_fc.weight": (C, 4 * C), f"h.{i}.mlp.c_fc.bias": (4 * C,)}
        shapes |= {f"h.{i}.mlp.c_proj.weight": (4 * C, C), f"h.{i}.mlp.c_proj.bias": (C,)}
    return shapes | norm_shapes("ln_f", C)


# ---- BERT

# What config.json may say, as above, for mini.bert.BERT
BERT_SETTINGS = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_python"),
    "layer_norm_eps": (1e-12,),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}

# Tensors that may be there besides: heads of other tasks, and numbers of the positions
BERT_OTHERS = ("pooler.", "cls.seq_relationship.", "classifier.", "qa_outputs.",
               "embeddings.position_ids", "embeddings.token_type_ids")

# names in BERT's published files, and ours
BERT_NAMES = (("embeddings.word_embeddings", "wte"),
              ("embeddings.position_embeddings", "wpe"),
              ("embeddings.token_type_embeddings", "wtt"),
              ("embeddings.LayerNorm", "ln_e"),
              ("encoder.layer", "h"),
              ("attention.output.dense", "attn.c_proj"),
              ("attention.output.LayerNorm", "ln_1"),
              ("intermediate.dense", "mlp.c_fc"),
              ("output.dense", "mlp.c_proj"),
              ("output.LayerNorm", "ln_2"),
              ("cls.predictions.transform.dense", "transform"),
              ("cls.predictions.transform.LayerNorm", "ln_transform"),
              ("cls.predictions.bias", "bias"))


def read_bert(path, longest: int = 10**9):
    """(sizes, weights) of a BERT `model.safetensors` with its masked-LM head, of any size, cut to
    `longest` positions.

    sizes: n_layer, n_head, n_embd, block_size, d_ff, and conv_width, which is 0, for none. n_head
    is taken from config.json beside the file; without one it is n_embd / 64. weights: {name:
    float32 tensor}, named as in `mini.bert.BERT`; the pooler and the next-sentence head are left
    out. Raises UserError for any other file, and for a BERT that computes its logits in another
    way.
    """
    config = read_config(path)
    check_settings(path, config, BERT_SETTINGS, "BERT")
    tensors = {}
    for name, tensor in read_weights(path).items():
        name = name.removeprefix("bert.")
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")      # of old files
        require(name not in tensors, f"{path}: {name} is there twice, once by its older name")
        tensors[name] = tensor

    # sizes
    V, C = matrix_shape(path, tensors, "embeddings.word_embeddings.weight", "BERT")
    T, _ = matrix_shape(path, tensors, "embeddings.position_embeddings.weight", "BERT")
    n_types, _ = matrix_shape(path, tensors, "embeddings.token_type_embeddings.weight", "BERT")
    d_ff, _ = matrix_shape(path, tensors, "encoder.layer.0.intermediate.dense.weight", "BERT")
    n_layer = count_layers(path, tensors, "encoder.layer.", "BERT")
    in_config = {"num_hidden_layers": n_layer, "hidden_size": C, "max_position_embeddings": T,
                 "vocab_size": V, "intermediate_size": d_ff, "type_vocab_size": n_types}
    check_sizes(path, config, in_config)
    n_head = number_of_heads(path, config, "num_attention_heads", C)

    # weights
    shapes = bert_shapes(n_layer, C, d_ff, V, T, n_types)
    if "cls.predictions.bias" not in tensors and "cls.predictions.decoder.bias" in tensors:
        tensors["cls.predictions.bias"] = tensors["cls.predictions.decoder.bias"]
    others = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", *BERT_OTHERS)
    check_tensors(path, tensors, shapes, others, "BERT with its masked-LM head")
    check_tied(path, tensors, "cls.predictions.decoder.weight",
               "embeddings.word_embeddings.weight", config)
    check_tied(path, tensors, "cls.predictions.decoder.bias", "cls.predictions.bias", config)
    weights = {}
    for name in shapes:
        tensor = tensors[name].float().contiguous()
        for theirs, ours in BERT_NAMES:
            name = name.replace(theirs, ours)
        weights[name] = tensor
    for i in range(n_layer):
        join_qkv(weights, i)
    weights["wpe.weight"] = weights["wpe.weight"][:longest].clone()

    # BERT has vectors for two texts. A model of one text only gets its one vector for both.
    first_two = [0, min(1, n_types - 1)]
    weights["wtt.weight"] = weights["wtt.weight"][first_two]
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": C,
             "block_size": len(weights["wpe.weight"]), "d_ff": d_ff, "conv_width": 0}
    return sizes, weights


def bert_shapes(n_layer: int, C: int, d_ff: int, V: int, T: int, n_types: int) -> dict:
    """{name: shape} of the tensors in a BERT's file, without the prefix "bert."."""
    shapes = {"embeddings.word_embeddings.weight": (V, C),
              "embeddings.position_embeddings.weight": (T, C),
              "embeddings.token_type_embeddings.weight": (n_types, C)}
    shapes |= norm_shapes("embeddings.LayerNorm", C)
    for i in range(n_layer):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= linear_shapes(f"{layer}.attention.self.{part}", C, C)
        shapes |= linear_shapes(f"{layer}.attention.output.dense", C, C)
        shapes |= norm_shapes(f"{layer}.attention.output.LayerNorm", C)
        shapes |= linear_shapes(f"{layer}.intermediate.dense", d_ff, C)
        shapes |= linear_shapes(f"{layer}.output.dense", C, d_ff)
        shapes |= norm_shapes(f"{layer}.output.LayerNorm", C)
    shapes |= linear_shapes("cls.predictions.transform.dense", C, C)
    shapes |= norm_shapes("cls.predictions.transform.LayerNorm", C)
    return shapes | {"cls.predictions.bias": (V,)}


def join_qkv(weights: dict, layer: int):
    """Replace a layer's matrices of queries, keys and values by one, c_attn; also their biases."""
    for kind in ("weight", "bias"):
        parts = []
        for part in ("query", "key", "value"):
            parts.append(weights.pop(f"h.{layer}.attention.self.{part}.{kind}"))
        weights[f"h.{layer}.attn.c_attn.{kind}"] = torch.cat(parts)


# ---- is it a network that we compute?

def read_config(path) -> dict:
    """The config.json beside a file of weights, or in their folder; {} if there is none."""
    file = folder_of(path) / "config.json"
    if not file.exists():
        return {}
    require_file(file)
    content = file.read_bytes()
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    reason = stand_in(content) or "not a configuration in JSON; fetch it again"
    require(isinstance(config, dict), f"{file}: {reason}")
    return config


def with_own_names(path, config: dict) -> dict:
    """GPT-2's config.json with GPT-2's own names of sizes. Raises UserError if it gives a size by
    both names, and not the same."""
    renamed = {}
    for name, value in config.items():
        own_name = ALIASES.get(name, name)
        told = renamed.setdefault(own_name, value)
        require(told == value, f"{path}: config.json contradicts itself: {own_name} is both "
                               f"{json.dumps(told)} and {json.dumps(value)} (by its other name)")
    return renamed


def check_settings(path, config: dict, settings: dict, model: str):
    """Raise UserError, naming the setting, if config.json asks for another network than ours.

    settings: {name: the values that are allowed}.
    """
    for name, allowed in settings.items():
        if name in config and config[name] not in allowed:
            told = json.dumps(config[name])[:60]
            raise UserError(f"{path}: not the weights of a {model} as it is computed here: {name} "
                            f"is {told} in config.json, not {json.dumps(allowed[0])}; take another "
                            "model")


def check_sizes(path, config: dict, sizes: dict):
    """Raise UserError, naming the setting, if config.json contradicts the sizes of the tensors."""
    for name, size in sizes.items():
        told = config.get(name)
        if told is not None:
            check_integer(path, name, told)
            require(told == size, f"{path}: {name} is {told} in config.json, and {size} by the "
                                  "tensors; these two files do not belong together: fetch both "
                                  "from the same place")


def check_integer(path, name: str, value):
    """Raise UserError if config.json gives a size that is no integer, such as "16"."""
    require(type(value) is int,
            f"{path}: {name} is {json.dumps(value)[:60]} in config.json, where an integer belongs")


def number_of_heads(path, config: dict, name: str, n_embd: int) -> int:
    """The number of heads, which no tensor shows: from config.json, or else n_embd / 64."""
    there = (folder_of(path) / "config.json").exists()
    if not there:
        print(f"note: no config.json beside {printable(path)}: taken for a network as first "
              "published")
    if name not in config:
        remedy = "is not in config.json: fetch it again" if there else "is in config.json: fetch it"
        require(n_embd > 0 and n_embd % 64 == 0, f"{path}: how many heads? {name} {remedy}")
        return n_embd // 64
    n_head = config[name]
    check_integer(path, name, n_head)
    require(n_head > 0 and n_embd % n_head == 0,
            f"{path}: {name} is {n_head} in config.json, which does not divide the width {n_embd}; "
            "fetch both files from the same place")
    return n_head


def matrix_shape(path, tensors: dict, name: str, model: str) -> tuple:
    """The shape of a matrix, from which sizes are read. Raises UserError if there is none."""
    found = name in tensors and tensors[name].ndim == 2 and tensors[name].numel() > 0
    some = ", ".join(list(tensors)[:3])
    require(found, f"{path}: not the weights of a {model}: there is no matrix {name}, but {some} …")
    return tensors[name].shape


def count_layers(path, tensors: dict, prefix: str, model: str) -> int:
    """The number of layers, where the names of a layer's tensors begin like "h.0.". Raises
    UserError, naming the tensor, if the layers do not have the numbers 0 to n - 1."""
    layers = {}                             # {number, as it is written: the name of a tensor}
    for name in tensors:
        found = re.match(rf"{re.escape(prefix)}(\d+)\.", name)
        if found:
            layers[found[1]] = name
    wanted = {str(i) for i in range(len(layers))}
    for number, name in layers.items():
        require(number in wanted, f"{path}: not the weights of a {model}: there is {name}, but "
                                  f"there are only {len(layers)} layers, which begin with 0")
    return max(1, len(layers))              # where there is none, the tensors of one are missed


def check_tensors(path, tensors: dict, shapes: dict, others: tuple, model: str):
    """Raise UserError, naming the tensor, if one is missing, has another shape, holds no fractions
    or no finite ones; or if there is one that ours has not. others: how the names of those begin
    that may be there all the same."""
    for name, shape in shapes.items():
        require(name in tensors, f"{path}: not the weights of a {model}, or not all of them: "
                                 f"{name} is missing; fetch the file again, or another one")
        found = tuple(tensors[name].shape)
        require(found == shape,
                f"{path}: not the weights of a {model}: {name} has the shape {found}, not {shape}")
        dtype = str(tensors[name].dtype).removeprefix("torch.")
        require(tensors[name].is_floating_point(),
                f"{path}: {name} is quantised ({dtype}); take the file with floating-point numbers")
        check_finite(path, name, tensors[name])
    for name in tensors:
        require(name in shapes or name.startswith(others),
                f"{path}: not the weights of a {model}: there is also {name}")


def check_finite(path, name: str, tensor):
    """Raise UserError if a tensor, as float32, holds NaN or infinite numbers."""
    n_bad = (~tensor.float().isfinite()).sum().item()
    require(n_bad == 0, f"{path}: {name} holds NaN or infinity ({n_bad} of {tensor.numel()} "
                        "numbers): a copy or a training that failed; take another file")


def check_tied(path, tensors: dict, name: str, tied_to: str, config: dict):
    """Raise UserError if the output has a matrix of its own: here it is the embedding's."""
    if name in tensors:
        same = torch.equal(tensors[name].float(), tensors[tied_to].float())
        require(same, f"{path}: {name} differs from {tied_to} (untied weights, tie_word_embeddings "
                      "false); here both are one, so take another model")
    else:
        untied = config.get("tie_word_embeddings", True) is False
        require(not untied, f"{path}: tie_word_embeddings is false in config.json, and there is no "
                            f"{name}; here both are one, so take another model")


def norm_shapes(name: str, size: int) -> dict:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear_shapes(name: str, n_out: int, n_in: int) -> dict:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def cut_filling(weights: dict, names: tuple, n_tokens: int, vocabulary):
    """Leave out rows beyond the last token of the vocabulary, in place.

    names: the tensors with a row for each token. Some models round the number of rows up, since
    GPUs multiply faster then. No text holds such a token, so the model must not write one either.
    Raises UserError if the vocabulary is not that of these weights.
    """
    rows = len(weights[names[0]])
    require(n_tokens <= rows and rows - n_tokens < 128,
            f"{vocabulary}: it has {n_tokens} tokens, and the weights have {rows}: truncated, or "
            "of another model; fetch all files from the same place")
    if rows == n_tokens:
        return
    print(f"note: {vocabulary} has {n_tokens} tokens, and the weights have {rows}; the last "
          f"{rows - n_tokens} are taken for filling, and left out")
    for name in names:
        weights[name] = weights[name][:n_tokens].clone()
