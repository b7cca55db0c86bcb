"""Weights to begin with: a checkpoint of ours, or GPT-2's or BERT's as transformers saves them."""
import dataclasses
import json
import re
from pathlib import Path

import torch

from mini.data.safetensors import read_safetensors
from mini.data.text.tokenizers import BPETokenizer, load_tokenizer
from mini.utils.config import UserError, require
from mini.utils.run import load_checkpoint, own_checkpoint

SIZES = ("n_layer", "n_head", "n_embd", "block_size")

# transformers keeps these as (in, out), to be multiplied from the right; nn.Linear has (out, in).
TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def safe_path(path) -> Path:
    """The path, unless it is that of a pickle: then a UserError."""
    require(Path(path).suffix not in (".bin", ".pth"), f"{path}: such a file is a Python pickle, which can "
            "run any code when it is opened; take model.safetensors from the same place")
    return Path(path)


def read_gpt2(path):
    """(sizes, weights) of a GPT-2 `model.safetensors` of any size.

    sizes: n_layer, n_head, n_embd, block_size. All but n_head are read off the tensors; n_head is taken from
    config.json beside the file, and without one it is n_embd / 64, as in every published GPT-2. weights:
    {name: float32 tensor}, named and turned as `train_gpt.GPT` has them. Raises UserError for any other file.
    """
    path = safe_path(path)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in read_safetensors(path).items()}
    weights = {}
    for name, tensor in tensors.items():
        if name == "lm_head.weight" or re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            continue  # the tied head; the causal mask, which old files hold
        weights[name] = (tensor.t() if name.endswith(TURNED) else tensor).float().contiguous()
    try:
        n_embd, block_size = weights["wte.weight"].shape[1], len(weights["wpe.weight"])
        n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
        config = path.with_name("config.json")
        config = json.loads(config.read_text("utf-8")) if config.exists() else {}
        n_head = int(config.get("n_head", n_embd // 64))
    except (KeyError, ValueError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path}: not the weights of a GPT-2 (or a broken config.json beside it); "
                        f"it holds {', '.join(list(tensors)[:3])} …") from None
    return dict(zip(SIZES, (n_layer, n_head, n_embd, block_size))), weights


# Names in BERT's published files, and ours; q, k and v are joined into c_attn.
BERT_NAMES = (("embeddings.word_embeddings", "wte"), ("embeddings.position_embeddings", "wpe"),
              ("embeddings.token_type_embeddings", "wtt"), ("embeddings.LayerNorm", "ln_e"),
              ("encoder.layer", "h"), ("attention.output.dense", "attn.c_proj"),
              ("attention.output.LayerNorm", "ln_1"),
              ("intermediate.dense", "mlp.c_fc"), ("output.dense", "mlp.c_proj"),
              ("output.LayerNorm", "ln_2"), ("cls.predictions.transform.dense", "transform"),
              ("cls.predictions.transform.LayerNorm", "ln_f"),
              ("cls.predictions.bias", "bias"), (".gamma", ".weight"), (".beta", ".bias"))


def read_bert(path, longest: int = 10**9):
    """(sizes, weights) of a BERT `model.safetensors` with its masked-LM head, of any size, cut to `longest`
    positions.

    sizes: n_layer, n_head, n_embd, block_size, d_ff. n_head is taken from config.json beside the file, and
    without one it is n_embd / 64. weights: {name: float32 tensor}, named as `mini.bert.BERT` has them; the
    pooler and the next-sentence head are left out. Raises UserError for any other file.
    """
    path = safe_path(path)
    weights = {}
    for name, tensor in sorted(read_safetensors(path).items()):
        name = name.removeprefix("bert.")
        for theirs, ours in BERT_NAMES:
            name = name.replace(theirs, ours)
        weights[name] = tensor.float().contiguous()
    tensors = list(weights)
    try:
        n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
        for i, kind in ((i, kind) for i in range(n_layer) for kind in ("weight", "bias")):
            parts = [weights.pop(f"h.{i}.attention.self.{part}.{kind}") for part in ("query", "key", "value")]
            weights[f"h.{i}.attn.c_attn.{kind}"] = torch.cat(parts)
        weights["wpe.weight"] = weights["wpe.weight"][:longest].clone()
        config = path.with_name("config.json")
        config = json.loads(config.read_text("utf-8")) if config.exists() else {}
        require(config.get("hidden_act", "gelu") == "gelu" and config.get("model_type", "bert") == "bert",
                f"{path}: of a model {config.get('model_type')!r} with {config.get('hidden_act')!r}; "
                "it must be 'bert' with 'gelu'")
        block_size, n_embd = weights["wpe.weight"].shape
        sizes = dict(n_layer=n_layer, n_head=int(config.get("num_attention_heads", max(1, n_embd // 64))),
                     n_embd=n_embd, block_size=block_size, d_ff=len(weights["h.0.mlp.c_fc.weight"]))
        ours = re.compile(r"(w..|ln_e|h|transform|ln_f|bias)(\.|$)")
        weights = {name: weights[name] for name in weights if ours.match(name)}
        weights["bias"]
    except (KeyError, ValueError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path}: not the weights of a BERT with its masked-LM head (or a broken config.json "
                        f"beside it); it holds {', '.join(tensors[:3])} …") from None
    return sizes, weights


def starting_point(cfg, from_run: bool, whole_context: bool = False):
    """(config, state, tokenizer, weights) that training or sampling begins with.

    from_run: from the checkpoint in cfg.out_dir, whose content is `state`; else from the file cfg.init_from,
    if any. What is not there is None. Weights decide the sizes in the config, but training may cut their
    context to its block_size. A model.safetensors needs GPT-2's vocab.json and merges.txt in its folder.
    """
    if from_run:
        cfg, state = own_checkpoint(cfg, "gpt")
        if whole_context:
            cfg.init_from = ""      # where the run once began no longer matters
        tokenizer = load_tokenizer(state["tokenizer"])
        tokenizer.vocab_size = len(state["model"]["wte.weight"])
        return cfg, state, tokenizer, state["model"]
    if not cfg.init_from:
        return cfg, None, None, None
    if cfg.init_from.endswith(".pt"):
        state = load_checkpoint(cfg.init_from, "gpt")
        sizes, tokenizer = {name: state["config"][name] for name in SIZES}, load_tokenizer(state["tokenizer"])
        weights = state["model"]
    else:
        sizes, weights = read_gpt2(cfg.init_from)
        tokenizer = BPETokenizer.read(Path(cfg.init_from).parent)
    for name in {"n_layer", "n_head", "n_embd", "tokenizer", "vocab_size"} & getattr(cfg, "given", set()):
        require(getattr(cfg, name) == sizes.get(name), f"--{name} comes with the weights "
                f"({sizes.get(name, 'the tokenizer beside them')}); leave the flag out")
    if not whole_context:
        sizes["block_size"] = min(sizes["block_size"], cfg.block_size)
    tokenizer.vocab_size = max(tokenizer.vocab_size, len(weights["wte.weight"]))  # some embeddings are padded
    return dataclasses.replace(cfg, **sizes), None, tokenizer, weights


def load_weights(model, weights: dict):
    """Copy the weights, if any, into a GPT, whose context may be shorter than theirs, and return it. Raises
    UserError if they do not fit."""
    if weights:
        weights = {**weights, "lm_head.weight": weights["wte.weight"],
                   "wpe.weight": weights["wpe.weight"][:len(model.wpe.weight)]}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"the weights do not fit a GPT-2: {str(error).splitlines()[1].strip()}") from None
    return model
