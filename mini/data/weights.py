"""Published weights: those of GPT-2 and BERT as transformers saves them, in the .safetensors format.

A .safetensors file holds numbers only, never code: 8 bytes, the length N of the header (unsigned,
little-endian); N bytes of JSON, {name: {"dtype", "shape", "data_offsets": [begin, end]}}; then the
numbers, with offsets counted from the end of the header.
"""
import json
import math
import re
from pathlib import Path

import numpy as np
import torch

from mini.utils.config import UserError
from mini.utils.run import load_checkpoint, merge_config

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
          "U8": torch.uint8, "BOOL": torch.bool}


# ---- GPT-2

SIZES = ("n_layer", "n_head", "n_embd", "block_size")

# transformers keeps these as (in, out), to be multiplied from the right; nn.Linear has (out, in)
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def read_gpt(cfg, longest_context: int = 10**9):
    """(config, checkpoint) of the trained GPT in cfg.init_from.

    The file is GPT-2's model.safetensors, with its vocab.json and merges.txt in the same folder, or
    a checkpoint.pt of train_gpt.py. The returned checkpoint has, like train_gpt.py's own, "config"
    (here only sizes and tokenizer), "model" and "tokenizer"; the returned config is cfg with these
    sizes. A context longer than longest_context is cut. Raises UserError for any other file, and for
    flags that ask for other sizes.
    """
    path = cfg.init_from
    if not path.endswith(".pt"):
        sizes, weights = read_gpt2(path)
        tokenizer = {"kind": "files", "folder": str(Path(path).parent)}
    else:
        checkpoint = load_checkpoint(path, "gpt")
        sizes = {name: checkpoint["config"][name] for name in SIZES}
        weights = dict(checkpoint["model"])
        tokenizer = checkpoint["tokenizer"]
    sizes["block_size"] = min(sizes["block_size"], longest_context)
    sizes["tokenizer"] = str(Path(path).parent)
    sizes["vocab_size"] = len(weights["wte.weight"])
    if "wpe.weight" in weights:             # a fork with other positions may have none
        weights["wpe.weight"] = weights["wpe.weight"][:longest_context]
    checkpoint = {"config": sizes, "model": weights, "tokenizer": tokenizer}
    return merge_config(cfg, checkpoint), checkpoint


def read_gpt2(path):
    """(sizes, weights) of a GPT-2 `model.safetensors` of any size.

    sizes: n_layer, n_head, n_embd, block_size. They follow from the shapes of the tensors, except
    for n_head, which is taken from config.json beside the file; without one it is n_embd / 64, as in
    every published GPT-2. weights: {name: float32 tensor}, named as in `train_gpt.GPT`. Raises
    UserError for any other file.
    """
    path = safe_path(path)
    weights = {}
    for name, tensor in read_safetensors(path).items():
        name = name.removeprefix("transformer.")
        if re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            continue                                        # the causal mask, which old files hold
        if name.endswith(TRANSPOSED):
            tensor = tensor.t()
        weights[name] = tensor.float().contiguous()
    try:
        layers = [int(name.split(".")[1]) for name in weights if name.startswith("h.")]
        n_embd = weights["wte.weight"].shape[1]
        config = read_config(path)
        sizes = {"n_layer": 1 + max(layers),
                 "n_head": int(config.get("n_head", n_embd // 64)),
                 "n_embd": n_embd,
                 "block_size": len(weights["wpe.weight"])}
    except (KeyError, ValueError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path}: not the weights of a GPT-2 (or a broken config.json beside it); "
                        f"it holds {', '.join(list(weights)[:3])} …") from None
    weights["lm_head.weight"] = weights["wte.weight"]       # tied
    return sizes, weights


# ---- BERT

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
              ("cls.predictions.transform.LayerNorm", "ln_f"),
              ("cls.predictions.bias", "bias"),
              (".gamma", ".weight"),
              (".beta", ".bias"))


def read_bert(path, longest: int = 10**9):
    """(sizes, weights) of a BERT `model.safetensors` with its masked-LM head, of any size, cut to
    `longest` positions.

    sizes: n_layer, n_head, n_embd, block_size, d_ff. n_head is taken from config.json beside the
    file; without one it is n_embd / 64. weights: {name: float32 tensor}, named as in
    `mini.bert.BERT`; the pooler and the next-sentence head are left out. Raises UserError for any
    other file.
    """
    path = safe_path(path)
    weights = {}
    for name, tensor in sorted(read_safetensors(path).items()):
        name = name.removeprefix("bert.")
        for theirs, ours in BERT_NAMES:
            name = name.replace(theirs, ours)
        weights[name] = tensor.float().contiguous()
    first_names = ", ".join(list(weights)[:3])
    try:
        n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
        for i in range(n_layer):
            join_qkv(weights, i)
        weights["wpe.weight"] = weights["wpe.weight"][:longest].clone()
        config = read_config(path)
        kind = config.get("model_type", "bert")
        activation = config.get("hidden_act", "gelu")
        if kind != "bert" or activation != "gelu":
            raise UserError(f"{path}: of a model {kind!r} with {activation!r}; "
                            "it must be 'bert' with 'gelu'")
        block_size, n_embd = weights["wpe.weight"].shape
        sizes = {"n_layer": n_layer,
                 "n_head": int(config.get("num_attention_heads", max(1, n_embd // 64))),
                 "n_embd": n_embd,
                 "block_size": block_size,
                 "d_ff": len(weights["h.0.mlp.c_fc.weight"])}
        weights["bias"]
    except (KeyError, ValueError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path}: not the weights of a BERT with its masked-LM head (or a broken "
                        f"config.json beside it); it holds {first_names} …") from None
    used = re.compile(r"(w..|ln_e|h|transform|ln_f|bias)(\.|$)")
    return sizes, {name: tensor for name, tensor in weights.items() if used.match(name)}


def join_qkv(weights: dict, layer: int):
    """Replace a layer's matrices of queries, keys and values by the one c_attn; also their biases."""
    for kind in ("weight", "bias"):
        parts = []
        for part in ("query", "key", "value"):
            parts.append(weights.pop(f"h.{layer}.attention.self.{part}.{kind}"))
        weights[f"h.{layer}.attn.c_attn.{kind}"] = torch.cat(parts)


# ---- files

def safe_path(path) -> Path:
    """The path. Raises UserError if it is that of a pickle."""
    path = Path(path)
    if path.suffix in (".bin", ".pth"):
        raise UserError(f"{path}: such a file is a Python pickle, which can run any code when it is "
                        "opened; take model.safetensors from the same place")
    return path


def read_config(path) -> dict:
    """The config.json beside a file of weights; {} if there is none."""
    config = path.with_name("config.json")
    if not config.exists():
        return {}
    return json.loads(config.read_text("utf-8"))


def read_safetensors(path) -> dict:
    """{name: tensor} of a .safetensors file, which is mapped from the disk, not read at once. Raises
    UserError if it is broken."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    size = path.stat().st_size
    broken = UserError(f"{path}: not a .safetensors file, or a truncated one ({size} bytes); "
                       "fetch it again")
    if size < 8:
        raise broken
    raw = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))
    start = 8 + int.from_bytes(raw[:8].numpy().tobytes(), "little")     # where the numbers begin
    if start > size:
        raise broken
    try:
        header = json.loads(raw[8:start].numpy().tobytes())
        header.pop("__metadata__", None)
        tensors = {name: read_tensor(raw, start, entry) for name, entry in header.items()}
        spans = sorted(entry["data_offsets"] for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise broken from None                              # RuntimeError: of torch's view
    begins = [begin for begin, _ in spans]
    ends = [end for _, end in spans]
    if begins + [size - start] != [0] + ends:               # side by side, up to the end of the file
        raise broken
    return tensors


def read_tensor(raw, start: int, entry: dict):
    """The tensor of one entry of the header; raw: the bytes of the whole file, a uint8 tensor.
    Raises ValueError if the entry contradicts itself."""
    dtype = DTYPES[entry["dtype"]]
    shape = entry["shape"]
    begin, end = entry["data_offsets"]
    if begin < 0 or start + end > len(raw) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError
    data = raw[start + begin:start + end]
    if (start + begin) % dtype.itemsize:
        data = data.clone()                 # a view must begin at a multiple of the number's size
    return data.view(dtype).view(shape)
