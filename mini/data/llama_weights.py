"""Published weights of mini/llama.py's kind: Llama 2 and 3, SmolLM2, TinyLlama, Qwen 2, 2.5 and 3,
as transformers saves them.

A folder holds config.json (how the network computes), the weights in one .safetensors file or in
several, and tokenizer.json. A network that computes in another way than ours is refused, by the
name of the setting: it would load without a word, and write nonsense.
"""
import json
import math
from pathlib import Path

import torch

from mini.data.safetensors import folder_of, read_weights
from mini.data.text.chat import format_of_folder
from mini.data.text.tokenizer_json import JSONTokenizer
from mini.data.weights import (check_finite, check_integer, check_settings, check_sizes,
                               check_tensors, count_layers, linear_shapes, matrix_shape,
                               read_config)
from mini.utils.config import UserError, printable, require
from mini.utils.run import load_checkpoint, merge_config

# What config.json may say: {setting: the values with which mini.llama.Llama computes the same}
SETTINGS = {
    "model_type": ("llama", "qwen2", "qwen3"),
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False, None),
    "sliding_window": (None,),              # asked only if use_sliding_window is not there
    "partial_rotary_factor": (1.0, 1, None),
    "rope_interleaved": (False, None),      # which numbers are rotated together
    "no_rope_layers": (None, []),
    "quantization_config": (None,),
    "auto_map": (None,),                    # code of its own
}

# names in published files, and ours
NAMES = (("model.embed_tokens.", "wte."),
         ("model.layers.", "h."),
         ("model.norm.", "ln_f."),
         ("input_layernorm.", "ln_1."),
         ("post_attention_layernorm.", "ln_2."),
         ("self_attn.q_proj.", "attn.c_q."),
         ("self_attn.k_proj.", "attn.c_k."),
         ("self_attn.v_proj.", "attn.c_v."),
         ("self_attn.o_proj.", "attn.c_proj."),
         ("self_attn.q_norm.", "attn.q_norm."),
         ("self_attn.k_norm.", "attn.k_norm."),
         ("mlp.gate_proj.", "mlp.c_gate."),
         ("mlp.up_proj.", "mlp.c_fc."),
         ("mlp.down_proj.", "mlp.c_proj."))

# The settings of a mini.llama.Config that say which network the weights are of
SIZES = ("n_layer", "n_head", "n_kv_head", "n_embd", "d_ff", "positions", "norm", "mlp", "bias",
         "tied", "rope_theta", "head_size", "qkv_bias", "qk_norm", "norm_eps", "rope_scaling")

# Published contexts are up to 131,072 tokens, and the keys and values of so many fill the memory:
# unless --block_size asks for more, so many are kept
CONTEXT = 2048


def read_llama(cfg, longest_context: int = CONTEXT):
    """(config, checkpoint) of the trained model in cfg.init_from.

    That names a checkpoint.pt of mini/llama.py, or the folder of one, or the folder of published
    weights. The returned checkpoint has, like our own, "config" (here only sizes and tokenizer),
    "model" and "tokenizer"; the returned config is cfg with these sizes. A context longer than
    longest_context is cut, unless --block_size asks for it. Raises UserError for anything else, and
    for flags that ask for other sizes.
    """
    path = Path(cfg.init_from)
    if (path / "checkpoint.pt").exists():
        path = path / "checkpoint.pt"
    folder = folder_of(path)
    if path.suffix == ".pt":
        checkpoint = load_checkpoint(path, "llama")
        sizes = {name: checkpoint["config"][name] for name in (*SIZES, "rank", "alpha")}
        longest = checkpoint["config"]["block_size"]
        weights = dict(checkpoint["model"])
        for name, tensor in weights.items():
            check_finite(path, name, tensor)
        tokenizer = checkpoint["tokenizer"]
        vocab_size = checkpoint["config"]["vocab_size"]
    else:
        sizes, longest, weights = read_published(path)
        reader = JSONTokenizer.read(folder, format_of_folder(folder))
        cut_rows(weights, reader.vocab_size, folder)
        tokenizer = reader.state()
        vocab_size = reader.vocab_size

    given = getattr(cfg, "given", {"block_size"} if cfg.block_size != type(cfg).block_size else ())
    block_size = min(longest, longest_context)
    if "block_size" in given:
        own_rotary = path.suffix == ".pt" and sizes["positions"] == "rotary"    # may go beyond
        require(cfg.block_size <= longest or own_rotary,
                f"--block_size={cfg.block_size}: {printable(path)} is for contexts up to {longest}")
        block_size = cfg.block_size
    if "wpe.weight" in weights:                             # learnt positions: so many are needed
        weights["wpe.weight"] = weights["wpe.weight"][:block_size]
    sizes |= {"block_size": block_size, "tokenizer": str(folder), "vocab_size": vocab_size}
    rank = {"rank": sizes.pop("rank", 0), "alpha": sizes.pop("alpha", 16.0)}    # as it was trained
    merged = merge_config(cfg, {"config": {"preset": cfg.preset, **sizes}})
    return merged, {"config": {**sizes, **rank}, "model": weights, "tokenizer": tokenizer}


def read_published(path):
    """(sizes, longest context, weights) of published weights.

    sizes: the settings named in SIZES. weights: {name: tensor}, named as in mini.llama.Llama, of
    the type that they have in the file: the model that loads them converts them one by one.
    """
    config = read_config(path)
    require(config, f"{path}: there is no config.json beside the weights, which says how they "
                    "compute; fetch it from the same place")
    require("model_type" in config, f"{path}: config.json has no model_type; fetch it again")
    settings = dict(SETTINGS)
    if config.get("use_sliding_window") is False:           # then its width means nothing
        settings.pop("sliding_window")
    model_type = config["model_type"]
    check_settings(path, config, settings, "Llama or Qwen")
    for kind in config.get("layer_types") or []:
        require(kind == "full_attention", f"{path}: a layer of {kind} in config.json, which is not "
                                          "computed here; take another model")
    tensors = read_weights(path)
    tensors = {name: tensor for name, tensor in tensors.items()
               if not name.endswith("rotary_emb.inv_freq")}             # of old files: no weights

    # sizes
    model = "Llama or Qwen"
    V, C = matrix_shape(path, tensors, "model.embed_tokens.weight", model)
    d_ff, _ = matrix_shape(path, tensors, "model.layers.0.mlp.gate_proj.weight", model)
    q_rows, _ = matrix_shape(path, tensors, "model.layers.0.self_attn.q_proj.weight", model)
    k_rows, _ = matrix_shape(path, tensors, "model.layers.0.self_attn.k_proj.weight", model)
    n_layer = count_layers(path, tensors, "model.layers.", model)
    check_sizes(path, config, {"vocab_size": V, "hidden_size": C, "intermediate_size": d_ff,
                               "num_hidden_layers": n_layer})
    for name in ("num_attention_heads", "max_position_embeddings"):
        require(name in config, f"{path}: {name} is not in config.json; fetch it again")
        check_integer(path, name, config[name])
    n_head = config["num_attention_heads"]
    n_kv_head = config.get("num_key_value_heads") or n_head
    check_integer(path, "num_key_value_heads", n_kv_head)
    require(n_head > 0 and n_kv_head > 0 and q_rows % n_head == 0
            and k_rows * n_head == q_rows * n_kv_head,
            f"{path}: num_attention_heads is {n_head} and num_key_value_heads {n_kv_head} in "
            f"config.json, which does not fit {q_rows} rows of q and {k_rows} of k; fetch both "
            "files from the same place")
    hs = q_rows // n_head
    check_sizes(path, config, {"head_dim": hs})

    # how it computes
    tied = config.get("tie_word_embeddings", False)
    qkv_bias = model_type == "qwen2" or bool(config.get("attention_bias"))
    o_bias = model_type != "qwen2" and bool(config.get("attention_bias"))
    mlp_bias = bool(config.get("mlp_bias"))
    require(o_bias == mlp_bias, f"{path}: attention_bias is {o_bias} and mlp_bias {mlp_bias} in "
                                "config.json; here all linear layers of a model have biases, or "
                                "none, or q, k and v alone; take another model")
    theta, scaling = read_rope(path, config)
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_kv_head": n_kv_head, "n_embd": C,
             "d_ff": d_ff, "positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": o_bias,
             "tied": tied, "rope_theta": theta, "head_size": 0 if hs * n_head == C else hs,
             "qkv_bias": qkv_bias and not o_bias, "qk_norm": model_type == "qwen3",
             "norm_eps": float(config.get("rms_norm_eps", 1e-6)), "rope_scaling": scaling}

    # weights
    shapes = llama_shapes(sizes, V, hs)
    check_tensors(path, tensors, shapes, ("lm_head.weight",) if tied else (), model)
    if tied and "lm_head.weight" in tensors:
        same = torch.equal(tensors["lm_head.weight"].float(),
                           tensors["model.embed_tokens.weight"].float())
        require(same, f"{path}: lm_head.weight differs from the embedding, although "
                      "tie_word_embeddings is true in config.json; fetch both again")
    weights = {}
    for name in shapes:
        tensor = tensors[name]
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        weights[name] = tensor
    if tied:
        weights["lm_head.weight"] = weights["wte.weight"]
    return sizes, config["max_position_embeddings"], weights


def llama_shapes(sizes: dict, V: int, hs: int) -> dict:
    """{name: shape} of the tensors in the files."""
    C, d_ff = sizes["n_embd"], sizes["d_ff"]
    q, k = sizes["n_head"] * hs, sizes["n_kv_head"] * hs
    qkv_bias, bias = sizes["qkv_bias"] or sizes["bias"], sizes["bias"]
    layers = (("self_attn.q_proj", q, C, qkv_bias), ("self_attn.k_proj", k, C, qkv_bias),
              ("self_attn.v_proj", k, C, qkv_bias), ("self_attn.o_proj", C, q, bias),
              ("mlp.gate_proj", d_ff, C, bias), ("mlp.up_proj", d_ff, C, bias),
              ("mlp.down_proj", C, d_ff, bias))
    shapes = {"model.embed_tokens.weight": (V, C)}
    for i in range(sizes["n_layer"]):
        start = f"model.layers.{i}"
        shapes[f"{start}.input_layernorm.weight"] = (C,)
        shapes[f"{start}.post_attention_layernorm.weight"] = (C,)
        for name, n_out, n_in, has_bias in layers:
            both = linear_shapes(f"{start}.{name}", n_out, n_in)
            if not has_bias:
                both.pop(f"{start}.{name}.bias")
            shapes |= both
        if sizes["qk_norm"]:
            shapes[f"{start}.self_attn.q_norm.weight"] = (hs,)
            shapes[f"{start}.self_attn.k_norm.weight"] = (hs,)
    shapes["model.norm.weight"] = (C,)
    if not sizes["tied"]:
        shapes["lm_head.weight"] = (V, C)
    return shapes


def cut_rows(weights: dict, n_tokens: int, folder):
    """Leave out rows of the embedding and of the head beyond the last token, in place: they fill
    up to a number that GPUs like, and no text holds such a token."""
    rows = len(weights["wte.weight"])
    require(n_tokens <= rows and rows - n_tokens < 1024,
            f"{folder}: tokenizer.json has {n_tokens} tokens, and the weights have {rows}: of "
            "another model; fetch all files from the same place")
    tied = weights["lm_head.weight"] is weights["wte.weight"]
    weights["wte.weight"] = weights["wte.weight"][:n_tokens]
    if tied:
        weights["lm_head.weight"] = weights["wte.weight"]
    else:
        weights["lm_head.weight"] = weights["lm_head.weight"][:n_tokens]


# ---- slower rotations, for longer contexts than a model was first trained on

def read_rope(path, config: dict):
    """(θ, how its rotations are scaled: "" or what `scaled_frequencies` reads) by config.json."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    require(type(theta) in (int, float) and 1 < theta <= 1e9,
            f"{path}: rope_theta is {theta!r} in config.json, which cannot be")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), ""
    require(kind in SCALINGS, f"{path}: the rope_type {kind!r} of config.json is not computed "
                              f"here, only {', '.join(SCALINGS)}; take another model")
    kept = {name: value for name, value in rope.items() if name not in ("rope_theta", "type")}
    kept["rope_type"] = kind
    if kind == "yarn":
        kept["rope_theta"] = theta
        kept.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    scaling = json.dumps(kept)
    scaled_frequencies(torch.ones(4), scaling)              # is all there that it needs?
    return float(theta), scaling


def scaled_frequencies(frequencies, scaling: str):
    """(the frequencies (hs/2,) of RoPE as they are scaled, the factor by which cos and sin are).

    frequencies: θ^(−2i/hs), in radians a token. scaling: a published config.json's rope_scaling, in
    JSON; "" for none. Raises UserError for a kind that is not known, or without its numbers.
    """
    if not scaling:
        return frequencies, 1.0
    try:
        rope = json.loads(scaling)
        scale = SCALINGS[rope["rope_type"]]
        return scale(frequencies, rope)
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"rope_scaling {scaling[:80]}: not a scaling that is computed here, or one "
                        f"of its numbers is missing ({error})") from None


def linear(frequencies, rope: dict):
    """All rotations slower by a factor: positions are squeezed into the range that was trained
    (Chen et al. 2023, "Position interpolation", https://arxiv.org/abs/2306.15595)."""
    return frequencies / rope["factor"], 1.0


def llama3(frequencies, rope: dict):
    """Llama 3.1: fast rotations, which tell neighbours apart, stay; slow ones, which have not made
    a whole turn in the old context, become slower by a factor; between them there is a ramp."""
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)       # 0: slower, 1: as before
    return kept * frequencies + (1 - kept) * frequencies / rope["factor"], 1.0


def yarn(frequencies, rope: dict):
    """YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071, §3.2 and 3.4): a ramp over the
    numbers of the rotations, and all scores a little larger."""
    half = len(frequencies)
    theta, factor = rope["rope_theta"], rope["factor"]

    def number_with(turns: float) -> float:
        """Which rotation makes so many turns in the old context?"""
        length = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return half * math.log(length) / math.log(theta)

    first = number_with(rope.get("beta_fast") or 32)
    last = number_with(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    if first == last:
        last += 0.001                                       # no division by 0
    slower = ((torch.arange(half) - first) / (last - first)).clamp(0, 1)
    scaled = slower * frequencies / factor + (1 - slower) * frequencies
    scale = rope.get("attention_factor")
    if scale is None:
        require(not rope.get("mscale") and not rope.get("mscale_all_dim"),
                "rope_scaling with mscale is not computed here; take another model")
        scale = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return scaled, scale


SCALINGS = {"linear": linear, "llama3": llama3, "yarn": yarn}
