"""mini/llama.py: against transformers' Llama, Qwen2 and Qwen3 (golden files), against train_gpt.py, and against the
classic bugs.

Tests marked `paper` hold the architecture to the published one; all others must go on passing in a fork. Reading
tokenizers and conversations is tested in test_llama_text.py.
"""
import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini import finetune, llama
from mini.data.llama_weights import NAMES, read_llama, read_published, scaled_frequencies
from mini.data.safetensors import read_weights
from mini.data.text.tokenizers import BPETokenizer
from mini.utils import compiled_llama
from mini.utils import fast_vectors as fast_vectors_module
from mini.utils.fast_vectors import fast_vectors
from tests.helpers import close, refused, refused_by
from tests.test_weights import write_safetensors

REFERENCE = Path(__file__).parent / "reference"
TINY = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=3,
            sample_every=3, log_every=1, max_new_tokens=20, warmup=1, device="cpu", tokenizer="char", dropout=0.0)
V = 29
GOLDEN = ["llama_a", "llama_b", "qwen2", "qwen3"]
VARIANTS = {"llama": {}, "learned": dict(positions="learned"), "layer": dict(norm="layer"), "gelu": dict(mlp="gelu"),
            "all heads": dict(n_kv_head=4), "one kv head": dict(n_kv_head=1), "bias": dict(bias=True),
            "gpt2": llama.PRESETS["gpt2"], "qwen2": dict(qkv_bias=True, tied=False),
            "qwen3": dict(qk_norm=True, head_size=6)}

both_attentions = pytest.mark.parametrize("fused", [False, True], ids=["written out", "fused"])
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def text_file(tmp_path):
    """A small text: three sentences over and over, in random order."""
    rng = np.random.RandomState(0)
    sentences = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences[i] for i in rng.randint(3, size=150)))
    return str(path)


def tiny(text_file, tmp_path, **changes):
    return llama.Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def make_model(std=0.2, seed=0, **sizes):
    """A small Llama with random weights, larger than at the start of training, so that tokens matter to each other."""
    torch.manual_seed(seed)
    model = llama.Llama(llama.Config(**{**TINY, **sizes}), V)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model


def random_tokens(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def rename(name: str) -> str:
    """A published name, as ours."""
    for theirs, own in NAMES:
        name = name.replace(theirs, own)
    return name


def test_groups_of_queries_need_no_copies_of_keys_and_values():
    """Stacked queries are attention with every head of k and v copied for its group, k₁ k₁ k₂ k₂.
    (k₁ k₂ k₁ k₂ is the classic mistake: then published weights write nonsense.)"""
    cfg = llama.Config(n_head=4, n_kv_head=2, n_embd=16, block_size=8)
    layer = llama.CausalSelfAttention(cfg)
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    q, k, v = layer.qkv(x)
    k = k.repeat_interleave(2, dim=1)
    v = v.repeat_interleave(2, dim=1)
    y = llama.attention(q, k, v, llama.causal_mask(5))
    close(layer(x), layer.c_proj(y.transpose(1, 2).flatten(2)), 1e-6)


# ---- the paper: as transformers has it

def golden_model(name, fused=False):
    sizes, longest, weights = read_published(REFERENCE / "llama" / name)
    model = llama.Llama(llama.Config(**sizes, block_size=longest, fused=fused), len(weights["wte.weight"]))
    model.load_state_dict(weights)
    return model


def golden(name):
    data = np.load(REFERENCE / "llama.npz")
    return {key.split("/", 1)[1]: torch.tensor(data[key]) for key in data if key.startswith(f"{name}/")}


@pytest.mark.paper
@both_attentions
@pytest.mark.parametrize("name", GOLDEN)
def test_logits_loss_and_every_gradient_equal_transformers(name, fused):
    """Grouped heads, tied and untied, biases everywhere and in q, k, v alone, norms of q and k, heads that are wider
    than n_embd / n_head, and three scalings of the rotations; in shards, and in bfloat16."""
    want = golden(name)
    model = golden_model(name, fused).double()
    tokens = want["tokens"].long()
    close(model(tokens), want["logits"].double(), 1e-6)         # golden values are rounded to float32
    loss = llama.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    assert abs(loss.item() - want["loss"].item()) < 1e-6
    loss.backward()
    gradients = {rename(key.removeprefix("grad/")): grad for key, grad in want.items() if key.startswith("grad/")}
    parameters = dict(model.named_parameters())
    assert gradients.keys() == parameters.keys()
    for key, p in parameters.items():
        close(p.grad, gradients[key].double(), 2e-6)


@pytest.mark.paper
@both_attentions
@pytest.mark.parametrize("name", GOLDEN)
def test_float32_logits_equal_transformers(name, fused):
    want = golden(name)
    close(golden_model(name, fused)(want["tokens"].long()), want["logits"], 1e-5)


@pytest.mark.paper
@pytest.mark.parametrize("sizes, vocab_size, count", [
    (dict(n_layer=16, n_head=32, n_kv_head=8, n_embd=2048, d_ff=8192), 128256, 1_235_814_400),          # Llama 3.2 1B
    (dict(n_layer=30, n_head=9, n_kv_head=3, n_embd=576, d_ff=1536), 49152, 134_515_008),               # SmolLM2 135M
    (dict(n_layer=22, n_head=32, n_kv_head=4, n_embd=2048, d_ff=5632, tied=False), 32000, 1_100_048_384),    # TinyLlama
    (dict(n_layer=24, n_head=14, n_kv_head=2, n_embd=896, d_ff=4864, qkv_bias=True), 151936, 494_032_768),   # Qwen 2.5
    (dict(n_layer=28, n_head=16, n_kv_head=8, n_embd=1024, d_ff=3072, head_size=128, qk_norm=True), 151936,
     596_049_920)])                                                                                     # Qwen 3 0.6B
def test_published_sizes_give_the_published_parameter_counts(sizes, vocab_size, count):
    with torch.device("meta"):
        model = llama.Llama(llama.Config(**sizes), vocab_size)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.paper
def test_with_all_five_switches_it_is_gpt2():
    """The diff is the five changes and nothing else: --preset=gpt2 computes what train_gpt.py does."""
    sizes = dict(TINY, n_embd=32)
    torch.manual_seed(0)
    gpt = train_gpt.GPT(train_gpt.Config(**{k: v for k, v in sizes.items() if k != "n_kv_head"}), V)
    ours = llama.Llama(llama.Config(**{**sizes, **llama.PRESETS["gpt2"]}), V)
    weights = {}
    for name, p in gpt.named_parameters():
        p.data.add_(0.2 * torch.randn_like(p))
        if ".c_attn." in name:
            for part, value in zip("qkv", p.chunk(3)):
                weights[name.replace("c_attn", f"c_{part}")] = value
        else:
            weights[name] = p
    weights["lm_head.weight"] = weights["wte.weight"]
    ours.load_state_dict(weights)
    tokens = random_tokens(2, 16)
    close(ours(tokens), gpt(tokens), 1e-6)


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    model = llama.Llama(llama.Config(n_layer=8, n_head=4, n_embd=256, block_size=64, bias=True), 500)
    assert model.lm_head.weight is model.wte.weight
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert abs(p.std().item() / std - 1) < 0.03, name
        else:
            assert torch.equal(p, torch.zeros_like(p) if name.endswith("bias") else torch.ones_like(p))


# ---- 1. rotations

def test_a_rotation_is_a_product_of_complex_numbers():
    """The pair (i, i + hs/2) is one number, and position m multiplies it by exp(i m θ^(−2i/hs)). Where neighbours 2i and
    2i + 1 are paired, published weights give nonsense, and nothing says so."""
    rotary = llama.Rotary(llama.Config(n_head=2, n_kv_head=1, n_embd=16, block_size=50, rope_theta=100.0)).double()
    x = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    z = torch.complex(x[..., :4], x[..., 4:])
    m = torch.arange(20, 25)[:, None]
    turned = z * torch.exp(1j * m * 100.0 ** (-torch.arange(4, dtype=torch.float64) / 4))
    close(rotary(x, 20), torch.cat([turned.real, turned.imag], dim=-1), 1e-5)       # its table is of float32


def test_only_the_distance_of_two_positions_counts():
    """(R_m q)·(R_n k) is the same for all m and n that are as far apart: eq. 16."""
    rotary = llama.Rotary(llama.Config(n_head=1, n_kv_head=1, n_embd=32, block_size=200))
    q, k = torch.randn(2, 1, 1, 1, 32)
    products = [(rotary(q, m + 7) * rotary(k, m)).sum() for m in (0, 1, 50, 190)]
    close(torch.stack(products), products[0].expand(4), 1e-4)
    assert abs((rotary(q, 3) * rotary(k, 0)).sum() - products[0]) > 1e-2


def test_rotations_are_exact_in_a_bfloat16_model():
    """Angles computed in bfloat16 are off by several radians at position 2,000: a long text falls apart."""
    cfg = llama.Config(n_head=1, n_kv_head=1, n_embd=8, block_size=2048)
    angles = torch.arange(2048)[:, None] * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    assert (llama.Rotary(cfg).cos - angles.cos()).abs().max() < 1e-3
    assert (llama.Rotary(cfg).bfloat16().cos - angles.cos()).abs().max() < 0.005


def test_positions_are_seen_without_vectors_for_them():
    """The same tokens in another order give other logits, also for the last token."""
    model = make_model()
    a = random_tokens(1, 8)
    b = a.clone()
    b[0, 2], b[0, 5] = a[0, 5], a[0, 2]
    assert a[0, 2] != a[0, 5] and (model(a) - model(b))[0, -1].abs().max() > 1e-3
    assert not any("wpe" in name for name, _ in model.named_parameters())


# ---- 2. grouped queries

def test_each_group_of_queries_has_its_keys_and_values():
    """Head h of the queries reads head h // group of the keys: with copies of these it is ordinary attention."""
    model = make_model(n_head=4, n_kv_head=2)
    attn = model.h[0].attn
    x = torch.randn(2, 7, 16)
    q, k, v = attn.qkv(x)
    assert q.shape == (2, 4, 7, 4) and k.shape == v.shape == (2, 2, 7, 4)
    mask = llama.causal_mask(7)
    heads = [llama.attention(q[:, h], k[:, h // 2], v[:, h // 2], mask) for h in range(4)]      # (B, T, hs) each
    close(attn.attend(q, k, v, mask), attn.c_proj(torch.cat(heads, dim=-1)), 1e-6)


def test_the_cache_of_grouped_heads_is_as_much_smaller():
    model = make_model(n_head=4, n_kv_head=1)
    cached = llama.CachedLlama(model)
    cached(random_tokens(3, 5))
    assert cached.attns[0].k.shape == cached.attns[0].v.shape == (3, 1, 16, 4)


# ---- 3, 4, 5. norms, the MLP, biases

def test_rms_norm_by_hand():
    norm = llama.RMSNorm(3, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0])
    close(norm(torch.tensor([[3.0, 0.0, -3.0]])), torch.tensor([[math.sqrt(1.5), 0.0, -3 * math.sqrt(1.5)]]), 1e-6)
    x = torch.randn(4, 3) * 100
    close(llama.RMSNorm(3, 1e-5)(x), F.rms_norm(x, (3,), eps=1e-5), 1e-6)
    half = torch.full((1, 4096), 300.0).bfloat16()              # a sum of squares in bfloat16 would stop growing
    close(llama.RMSNorm(4096, 1e-5).bfloat16()(half).float(), torch.ones(1, 4096), 1e-6)


def test_swiglu_by_hand():
    mlp = make_model().h[0].mlp
    x = torch.randn(2, 16)
    gate, up = x @ mlp.c_gate.weight.T, x @ mlp.c_fc.weight.T
    close(mlp(x), (gate * torch.sigmoid(gate) * up) @ mlp.c_proj.weight.T, 1e-6)


def test_biases_are_where_they_were_asked_for():
    def biases(**sizes):
        return {name.split(".", 2)[-1] for name, _ in make_model(**sizes).named_parameters() if name.endswith("bias")}
    assert biases() == biases(norm="layer") == set()
    assert biases(qkv_bias=True) == {"attn.c_q.bias", "attn.c_k.bias", "attn.c_v.bias"}
    assert len(biases(bias=True)) == 7 and len(biases(bias=True, norm="layer")) == 10   # ln_1, ln_2, ln_f


# ---- attention, cache, sampling

@every_variant
@both_attentions
def test_a_token_changes_nothing_before_it(variant, fused):
    model = make_model(fused=fused, **VARIANTS[variant])
    a = random_tokens(1, 16)
    b = a.clone()
    b[0, 9] = (a[0, 9] + 1) % V
    one, other = model(a), model(b)
    close(one[:, :9], other[:, :9], 1e-6)
    assert (one - other).abs().amax(dim=(0, 2))[9:].min() > 1e-4


@every_variant
@torch.no_grad()
def test_the_cache_changes_nothing(variant):
    """One token at a time, some at once, another text after that, one that begins alike, and two at a time."""
    model = make_model(**VARIANTS[variant]).eval()
    tokens = random_tokens(2, 16)
    cached = llama.CachedLlama(model)
    whole = model(tokens)
    for t in range(1, 17):
        close(cached(tokens[:, :t]), whole[:, t - 1:t], 1e-5)
    for idx in (random_tokens(2, 9, seed=1), torch.cat([tokens[:, :6], random_tokens(2, 5, seed=2)], dim=1),
                tokens[:, :3], tokens[:1, :12], tokens):
        close(cached(idx), model(idx)[:, -1:], 1e-5)


def test_what_was_said_before_is_not_read_again():
    """In a chat each question comes with all that was said before. The longest part that is the same is kept, and no
    more: once the length alone decided."""
    model = make_model()
    read = []
    plain = model.embed
    model.embed = lambda idx, start: read.append((start, idx.size(1))) or plain(idx, start)
    cached = llama.CachedLlama(model)
    tokens = random_tokens(1, 12)
    other = tokens.clone()
    other[0, 7] = (tokens[0, 7] + 1) % V
    for idx in (tokens[:, :8], tokens, tokens, other):
        cached(idx)
    assert read == [(0, 8), (8, 4), (11, 1), (7, 5)]


@torch.no_grad()
def test_generation_with_and_without_cache_beyond_the_context():
    model = make_model()
    prompt = random_tokens(2, 3)
    plain = llama.generate(model, prompt, 40, temperature=0)
    assert torch.equal(llama.generate(llama.CachedLlama(model), prompt, 40, temperature=0), plain)


def test_generation_stops_when_all_texts_have_ended():
    model = make_model()
    prompt = random_tokens(1, 3)
    free = llama.generate(model, prompt, 30, temperature=0)[0, 3:].tolist()
    end = free[4]
    stopped = llama.generate(model, prompt, 30, temperature=0, stop=(end,))[0, 3:].tolist()
    assert stopped == free[:free.index(end) + 1]


@pytest.mark.parametrize("weights, tolerance", [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.02)])
def test_fast_vectors_in_fewer_bytes(weights, tolerance):
    """The products of single vectors in bfloat16 and in int8, also with biases, for sizes that are no whole slabs."""
    torch.manual_seed(0)
    for n_in, n_out, bias in ((33, 500, True), (256, 77, False), (16, 1, True)):
        linear = torch.nn.Linear(n_in, n_out, bias=bias)
        x = torch.randn(1, 1, n_in)
        want = linear(x)
        if weights != "float32":
            linear, x = linear.bfloat16(), x.bfloat16()
        model = torch.nn.Sequential(linear)
        with torch.no_grad(), fast_vectors(model, weights):
            found = model(x)
            two = model(x.expand(1, 2, n_in))                   # more vectors than one go the plain way
        assert found.dtype == x.dtype and two.shape == (1, 2, n_out)
        close(found.float(), want, tolerance)


def test_probabilities_that_are_none_are_refused():
    for bad in (math.nan, math.inf):
        refused(lambda: llama.draw(torch.tensor([[0.5, 0.5, 0.0], [0.5, bad, 0.5]])), "--lr")


@every_variant
@torch.no_grad()
def test_one_token_in_fewer_calls(variant):
    """With the products of fast_vectors a single token goes its own way through the blocks: after a text that was read
    at once, at every position, after another text, and not when there are two texts."""
    model = make_model(**VARIANTS[variant]).eval()
    tokens = random_tokens(2, 16)
    one, two = model(tokens[:1]), model(tokens)
    with fast_vectors(model):
        assert "forward" not in model.h[0].attn.c_q.__dict__        # its weights are kept once more, and not twice
        for first in (1, 5):
            cached = llama.CachedLlama(model)
            ways = []
            read_one = cached.read_one
            cached.read_one = lambda token, n: ways.append(n) or read_one(token, n)
            for t in range(first, 17):
                close(cached(tokens[:1, :t]), one[:, t - 1:t], 1e-5)
            assert ways == [n for n in range(16) if n == 0 and first == 1 or n >= first]
            close(cached(tokens[1:, :9]), two[1:, 8:9], 1e-5)
            close(cached(tokens[:, :9]), two[:, 8:9], 1e-5)
            close(cached(tokens[:, :10]), two[:, 9:10], 1e-5)
        prompt = tokens[:1, :3]
        fast = llama.generate(llama.CachedLlama(model), prompt, 40, temperature=0)
    assert torch.equal(fast, llama.generate(model, prompt, 40, temperature=0))
    assert not any(name in module.__dict__ for module in model.modules() for name in ("forward", "product"))


def uncompiled(monkeypatch):
    """--compile without the C++ compiler, which takes a minute: torch runs the graphs that would be compiled. They are
    made once, and refuse other shapes than those for which they are made."""
    graphs = []

    def run(graph):
        graphs.append(graph)
        module = graph.module()

        def call(tensors):
            args, _ = torch.utils._pytree.tree_unflatten(tensors, graph.call_spec.in_spec)
            return torch.utils._pytree.tree_leaves(module(*args))
        return call
    monkeypatch.setattr(compiled_llama, "compiled", run)
    return graphs


@every_variant
@torch.no_grad()
def test_what_is_compiled_computes_the_same(variant, monkeypatch):
    """At every position, after another text, and for two texts at once."""
    graphs = uncompiled(monkeypatch)
    model = make_model(**{"n_layer": 4, **VARIANTS[variant]}).eval()
    tokens = random_tokens(2, 16)
    want = model(tokens)
    cached = compiled_llama.CompiledLlama(model)
    assert len(graphs) == 2                                         # of some blocks, and of the head
    ways = []
    run = cached.run_blocks
    cached.run_blocks = lambda tensors: ways.append(tensors[1].size(3)) or run(tensors)
    for t in range(1, 17):
        close(cached(tokens[:1, :t]), want[:1, t - 1:t], 1e-5)
    n_calls = {1: 1, 2: 1, 3: 1, 4: 2, 5: 5, 6: 2}[len(model.h)]    # of three, two or one blocks
    assert ways == [n for n in range(2, 16) for _ in range(n_calls)]
    close(cached(tokens[1:, :9]), want[1:, 8:9], 1e-5)
    close(cached(tokens[:, :9]), want[:, 8:9], 1e-5)
    close(cached(tokens[:, :10]), want[:, 9:10], 1e-5)
    prompt = tokens[:1, :3]
    text = llama.generate(cached, prompt, 40, temperature=0)        # forgets, when the context is full
    assert torch.equal(text, llama.generate(model, prompt, 40, temperature=0))
    assert len(graphs) == 2


def test_a_damaged_or_half_written_compilation_is_made_anew(tmp_path, monkeypatch):
    """A file cut short once ended every later run with a traceback, and Ctrl-C left half a file."""
    class Package:
        class loader:
            run = "a function"

    def load(path):
        if not Path(path).exists() or Path(path).read_text() != "whole":
            raise RuntimeError("Failed to initialize zip archive")
        return Package

    def write(graph, package_path):
        Path(package_path).write_text("half")
        if graph == "interrupted":
            raise KeyboardInterrupt
        Path(package_path).write_text("whole")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", write)
    assert compiled_llama.compiled("graph") == "a function"
    [path] = tmp_path.glob("*.pt2")
    path.write_text("cut short")
    assert compiled_llama.compiled("graph") == "a function" and path.read_text() == "whole"
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: 1 / 0)
    assert compiled_llama.compiled("graph") == "a function"         # from the file
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", write)
    with pytest.raises(KeyboardInterrupt):
        compiled_llama.compiled("interrupted")
    assert list(tmp_path.glob("*.pt2")) == [path]


def test_compile_with_additions_of_lora_is_refused(monkeypatch):
    """It was an AttributeError."""
    uncompiled(monkeypatch)
    model = make_model()
    llama.add_lora(model, 2, 4.0)
    refused(lambda: compiled_llama.CompiledLlama(model), "LoRA")


def test_sample_takes_the_compiled_reader(text_file, tmp_path, monkeypatch, capsys):
    """The same text with and without. It is asked for each time: --compile in training is another matter. int8,
    --cache=false and several texts at once are refused."""
    cfg = tiny(text_file, tmp_path, steps=1, tokenizer="bpe", vocab_size=280, block_size=64)
    uncompiled(monkeypatch)
    llama.train(replace(cfg, compile=True))
    flags = [f"--out_dir={cfg.out_dir}", "--device=cpu", "--max_new_tokens=20"]
    made = []
    make = compiled_llama.CompiledLlama
    monkeypatch.setattr(compiled_llama, "CompiledLlama", lambda model: made.append(1) or make(model))
    plain = llama.main(["sample", *flags])
    assert not made
    with monkeypatch.context() as patch:
        patch.delattr(fast_vectors_module, "make_product")          # no second copy of the weights
        assert llama.main(["sample", "--compile", *flags]) == plain and made == [1]
    assert "compiled in" in capsys.readouterr().out
    for flag in ("--weights=int8", "--cache=false", "--num_samples"):
        given = "--num_samples=2" if flag == "--num_samples" else flag
        error = refused_by(llama.main, capsys, "sample", "--compile", given, *flags)
        assert "--compile" in error and flag in error
    made.clear()
    assert llama.main(["chat", "--prompt=the cat", *flags]) and not made
    monkeypatch.delattr(fast_vectors_module, "make_product")
    assert llama.main(["chat", "--prompt=the cat", "--compile", *flags]) and made == [1]


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_one_token_in_fewer_calls_as_transformers_has_it(name):
    want = golden(name)
    model = golden_model(name).eval()
    tokens = want["tokens"][:1].long()
    with fast_vectors(model):
        cached = llama.CachedLlama(model)
        found = torch.cat([cached(tokens[:, :t + 1]) for t in range(tokens.size(1))], dim=1)
    close(found, want["logits"][:1], 1e-5)


@torch.no_grad()
def test_one_token_in_bfloat16_is_as_exact_as_the_plain_way():
    model = make_model(n_embd=64, n_layer=3).eval()
    tokens = random_tokens(1, 16)
    exact = model(tokens)[0]
    model = model.bfloat16()
    plain = (model(tokens)[0] - exact).square().mean()
    with fast_vectors(model, "bfloat16"):
        cached = llama.CachedLlama(model)
        found = torch.cat([cached(tokens[:, :t + 1])[0] for t in range(16)])
    assert found.dtype == torch.bfloat16 and (found - exact).square().mean() < 1.5 * plain


# ---- rotations for longer contexts

def test_scalings_slow_rotations_down():
    frequencies = 10000.0 ** -(torch.arange(0, 64, 2) / 64)
    assert scaled_frequencies(frequencies, "") == (frequencies, 1.0)
    linear, scale = scaled_frequencies(frequencies, '{"rope_type": "linear", "factor": 4.0}')
    close(linear, frequencies / 4, 1e-7)
    llama3, _ = scaled_frequencies(frequencies, json.dumps(dict(
        rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192)))
    ratio = frequencies / llama3
    assert ratio[0] == 1 and ratio[-1] == 32 and (ratio.diff() >= 0).all() and scale == 1
    refused(lambda: scaled_frequencies(frequencies, '{"rope_type": "linear"}'), "factor")
    refused(lambda: scaled_frequencies(frequencies, '{"rope_type": "other"}'), "other")


# ---- learning

def test_overfits_one_batch():
    model = make_model(std=0.02, n_embd=32)
    tokens = random_tokens(4, 17)
    optimizers = llama.make_optimizers(model, llama.Config(lr=0.02, rest_lr=0.01))
    for _ in range(100):
        loss = llama.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss < 0.05


@pytest.mark.parametrize("optimizer, kinds", [("muon", 2), ("adamw", 1)])
@every_variant
def test_optimizers_cover_every_parameter_once(variant, optimizer, kinds):
    model = make_model(**VARIANTS[variant])
    optimizers = llama.make_optimizers(model, llama.Config(optimizer=optimizer))
    found = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len(optimizers) == kinds and sorted(found) == sorted(id(p) for p in model.parameters())


def test_losses_are_those_of_train_gpt(text_file):
    """The shared parts are the same: the held-out loss of the same model, batches from the same random numbers."""
    model = make_model(block_size=10)
    documents = [random_tokens(48, seed=1), random_tokens(13, seed=2)]
    assert llama.estimate_loss(model, documents) == pytest.approx(train_gpt.estimate_loss(model, documents), rel=1e-6)
    for a, b in zip(*(script.get_batch(documents[0], 8, 4, torch.Generator().manual_seed(3))
                      for script in (llama, train_gpt))):
        assert torch.equal(a, b)


def test_end_to_end(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path, steps=100, block_size=32, eval_every=50, sample_every=33)
    result = llama.train(cfg)
    assert max(result["val_loss"], result["kneser_ney"]) < result["chance"] / 2
    flags = [f"--out_dir={tmp_path}/run", "--device=cpu", "--max_new_tokens=30"]
    capsys.readouterr()
    texts = llama.main(["sample", *flags, "--prompt=the cat", "--num_samples=2"])
    out = capsys.readouterr().out
    assert all(text in out for text in texts) and out.count("longest run copied") == 2
    assert llama.main(["sample", *flags, "--prompt=the cat", "--num_samples=2", "--cache=false"]) == texts
    longer = llama.main(["sample", *flags, "--block_size=64", "--prompt=the"])  # no vectors of positions that it lacks
    assert longer[0].startswith("the")


# ---- LoRA

def test_lora_begins_at_the_weights_and_merges_to_the_same():
    model = make_model()
    tokens = random_tokens(2, 9)
    before = model(tokens)
    llama.add_lora(model, r=3, alpha=6.0)
    assert torch.equal(model(tokens), before)
    learning = {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"A", "B"}
    for layer in model.modules():
        if isinstance(layer, llama.LoRALinear):
            torch.nn.init.normal_(layer.B)
    added = model(tokens)
    assert (added - before).abs().max() > 0.1
    llama.merge_lora(model)
    close(model(tokens), added, 1e-5)
    assert not any(isinstance(layer, llama.LoRALinear) for layer in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_lora_is_that_of_finetune():
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 4)
    one, other = llama.LoRALinear(linear, 2, 8.0), finetune.LoRALinear(linear, 2, 8.0)
    for p in (one.A, one.B):
        torch.nn.init.normal_(p)
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(one(x), other(x))


# ---- published weights

BACK = [(own, theirs) for theirs, own in NAMES]


def publish(folder, tokenizer: str = "qwen2", chat_format: str = "qwen2.5", **sizes):
    """A folder as it is published: random weights with the names of transformers, in two shards with their index,
    config.json and tokenizer.json; returns the model. (BACK: h.0. -> model.layers.0.)"""
    content = json.loads((REFERENCE / "llama_text.json").read_text())["tokenizers"][tokenizer]
    tokens = {**content["model"]["vocab"], **{t["content"]: t["id"] for t in content["added_tokens"]}}
    rows = max(tokens.values()) + 1 + 5                         # and five that fill up
    torch.manual_seed(0)
    sizes = {**dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=48, block_size=256, qkv_bias=True), **sizes}
    model = llama.Llama(llama.Config(**sizes), rows)
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    model.wte.weight.data.mul_(6)                               # so that LoRA, which leaves it alone, can say anything
    folder.mkdir()
    weights = {}
    for name, p in model.named_parameters():
        for own, theirs in BACK:
            name = name.replace(own, theirs)
        weights[name] = p.data
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in shards.items():
        write_safetensors(folder / file, {name: weights[name] for name in some})
    index = {name: file for file, some in shards.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "qwen2", "hidden_act": "silu", "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "vocab_size": rows}))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    signs = {"qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": signs[chat_format]}))
    return model


def test_published_weights_write_and_answer(tmp_path, capsys):
    """In shards, with older names of the settings, and more rows than tokens."""
    model = publish(tmp_path / "qwen")
    cfg = llama.Config(init_from=str(tmp_path / "qwen"), device="cpu", max_new_tokens=9, temperature=0.0)
    loaded, tokenizer = llama.load(cfg)
    assert loaded.cfg.block_size == 256 and loaded.wte.num_embeddings == tokenizer.vocab_size == 484
    tokens = torch.tensor([tokenizer.encode("The old man")])
    close(loaded(tokens), model(tokens)[..., :484], 1e-5)
    flags = [f"--init_from={tmp_path}/qwen", "--device=cpu", "--max_new_tokens=9"]
    texts = llama.main(["sample", *flags, "--prompt=The old"])
    assert texts[0].startswith("The old") and texts[0] in capsys.readouterr().out
    for more in ([], ["--weights=bfloat16"], ["--weights=int8"], ["--cache=false"]):
        messages = llama.main(["chat", *flags, "--prompt=Who?", "--system=Be brief.", *more])
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert messages[2]["content"] in capsys.readouterr().out


def test_a_chat_goes_on_and_forgets_its_oldest_questions(tmp_path, capsys, monkeypatch):
    """Three questions from standard input; by the third the context is full. Each token is read once as long as nothing
    is forgotten."""
    publish(tmp_path / "qwen")
    path = tmp_path / "qwen/config.json"
    path.write_text(path.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 130'))
    seen = []
    plain = llama.fit_chat
    monkeypatch.setattr(llama, "fit_chat", lambda *args: seen.append(plain(*args)) or seen[-1])
    with open(tmp_path / "typed", "w+") as typed:
        typed.write("Who is it?\n\nAnd what did he say to the king?\nWhy" + " so" * 40 + "?\n" + "long " * 200 + "\n")
        typed.seek(0)
        monkeypatch.setattr("sys.stdin", typed)
        messages = llama.main(["chat", f"--init_from={tmp_path}/qwen", "--device=cpu", "--max_new_tokens=30",
                               "--system=Be brief."])
    out = capsys.readouterr().out
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3]
    assert "--block_size" in out                                # the fourth question is too long, and the chat goes on
    _, tokenizer = llama.load(llama.Config(init_from=str(tmp_path / "qwen"), device="cpu"))
    texts = [tokenizer.decode(ids) for ids in seen]
    assert "Who is it?" in texts[1] and "Who is it?" not in texts[2]
    assert all("Be brief." in text and len(ids) <= 100 for text, ids in zip(texts, seen))


def test_learning_goes_on_from_published_weights(text_file, tmp_path):
    publish(tmp_path / "qwen")
    flags = [f"--init_from={tmp_path}/qwen", "--device=cpu", "--steps=1", "--batch_size=2", "--max_new_tokens=5",
             f"--data={text_file}", f"--out_dir={tmp_path}/run", "--block_size=16"]
    llama.main([*flags, "--lr=1e-30", "--rest_lr=0"])
    tuned = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert tuned["config"]["block_size"] == 16 and tuned["config"]["qkv_bias"]
    _, checkpoint = read_llama(llama.Config(init_from=str(tmp_path / "qwen")))
    for name, tensor in checkpoint["model"].items():
        assert torch.equal(tuned["model"][name], tensor), name
    assert llama.main(["sample", f"--out_dir={tmp_path}/run", "--max_new_tokens=5"])
    preset = llama.Config(init_from=str(tmp_path / "qwen"), **{**llama.PRESETS["lora"], "block_size": 99})
    preset.given = {"preset", "init_from"}                      # as from the command line: only these were typed
    assert read_llama(preset, longest_context=preset.block_size)[0].block_size == 99
    assert "--n_layer=5" in refused(lambda: read_llama(llama.Config(init_from=str(tmp_path / "qwen"), n_layer=5)))
    assert "up to 256" in refused(lambda: read_llama(llama.Config(init_from=str(tmp_path / "qwen"), block_size=257)))


@pytest.mark.parametrize("more", [[], ["--rank=8", "--lr=0.03", "--steps=100"]], ids=["all weights", "LoRA"])
def test_fine_tuning_on_questions_and_answers(more, tmp_path, capsys):
    """It learns them by heart; what LoRA has learnt is merged by those who use it, and the base stays as it was."""
    publish(tmp_path / "qwen")
    (tmp_path / "chats.tsv").write_text("question\tanswer\n" + "Who?\tThe king.\nWhere?\tAt sea.\n" * 6)
    run = [f"--out_dir={tmp_path}/run", "--device=cpu"]
    llama.main([*run, f"--init_from={tmp_path}/qwen", f"--chats={tmp_path}/chats.tsv", "--optimizer=adamw", "--lr=0.02",
                "--batch_size=4", "--steps=60", "--max_new_tokens=12", "--grad_accum=2", *more])
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["val_loss"] < 0.5 < result["val_loss_before"]
    assert "(true:" in capsys.readouterr().out
    answers = [llama.main(["chat", *run, f"--prompt={question}", "--temperature=0"])[-1]["content"]
               for question in ("Who?", "Where?")]
    assert {*answers} <= {"The king.", "At sea."}
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    _, base = read_llama(llama.Config(init_from=str(tmp_path / "qwen")))
    if not more:
        assert answers == ["The king.", "At sea."]
    else:
        assert torch.equal(checkpoint["model"]["h.0.attn.c_q.linear.weight"], base["model"]["h.0.attn.c_q.weight"])
        again = llama.main(["chat", f"--init_from={tmp_path}/run", "--prompt=Who?", "--temperature=0", "--device=cpu"])
        assert again[-1]["content"] == answers[0]
        merged, _ = llama.load(llama.Config(out_dir=f"{tmp_path}/run", device="cpu"))
        assert not any(isinstance(layer, llama.LoRALinear) for layer in merged.modules())


def test_each_token_of_an_answer_counts_alike(tmp_path):
    """Also where the batch is cut in parts, one with long answers and one with short ones: a mean of their means would
    count the short ones more."""
    publish(tmp_path / "qwen")
    (tmp_path / "chats.tsv").write_text("Who?\tHe.\nWhere?\tAt sea, in a small boat, with an old man and his dog.\n" * 6)
    losses = []
    for parts in (1, 2, 4):
        run = tmp_path / str(parts)
        llama.main([f"--init_from={tmp_path}/qwen", f"--chats={tmp_path}/chats.tsv", "--steps=1", "--batch_size=4",
                    "--max_new_tokens=5", "--device=cpu", f"--grad_accum={parts}", f"--out_dir={run}", "--matmul=highest"])
        losses.append(float((run / "log.csv").read_text().splitlines()[1].split(",")[2]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_a_lora_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    publish(tmp_path / "qwen")
    (tmp_path / "chats.tsv").write_text("Who?\tThe king.\nWhere?\tAt sea.\n" * 6)
    flags = [f"--init_from={tmp_path}/qwen", f"--chats={tmp_path}/chats.tsv", "--preset=lora", "--steps=4",
             "--batch_size=4", "--max_new_tokens=5", "--device=cpu"]
    llama.main([*flags, f"--out_dir={tmp_path}/whole"])
    llama.main([*flags, f"--out_dir={tmp_path}/stopped", "--stop_after=2"])
    llama.main(["--resume", f"--out_dir={tmp_path}/stopped"])
    a, b = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "stopped"))
    assert a["step"] == b["step"] == 4
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name


def configure(folder, **settings):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize("settings, words", [
    (dict(model_type="gemma"), "model_type"), (dict(hidden_act="gelu"), "hidden_act"),
    (dict(use_sliding_window=True), "use_sliding_window"), (dict(sliding_window=4096), "sliding_window"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "sliding_attention"),
    (dict(quantization_config={"bits": 4}), "quantization_config"), (dict(auto_map={"x": "y"}), "auto_map"),
    (dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "dynamic"),
    (dict(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "original_max_position_embeddings"),
    (dict(rope_scaling={"rope_type": "linear"}), "factor"), (dict(rope_theta="x"), "rope_theta"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor"), (dict(rope_interleaved=True), "rope_interleaved"),
    (dict(num_attention_heads=3), "num_attention_heads"), (dict(num_key_value_heads=1), "num_key_value_heads"),
    (dict(num_attention_heads=None), "num_attention_heads"), (dict(hidden_size=64), "hidden_size"),
    (dict(head_dim=16), "head_dim"), (dict(model_type="llama"), "bias"), (dict(model_type="qwen3"), "q_norm"),
    (dict(tie_word_embeddings=False), "lm_head"), (dict(model_type=None), "model_type"), (dict(vocab_size=9), "vocab_size")])
def test_another_network_is_refused_by_name(settings, words, tmp_path, capsys):
    """It would load without a word, and write nonsense."""
    publish(tmp_path / "qwen")
    configure(tmp_path / "qwen", **settings)
    assert words in refused_by(llama.main, capsys, "sample", f"--init_from={tmp_path}/qwen")


def test_files_that_are_not_there_or_of_another_model(tmp_path, capsys):
    publish(tmp_path / "qwen")
    run = ["sample", f"--init_from={tmp_path}/qwen"]
    shutil.move(tmp_path / "qwen/model-00002-of-00002.safetensors", tmp_path / "away")
    assert "fetch it, too" in refused_by(llama.main, capsys, *run)
    shutil.move(tmp_path / "away", tmp_path / "qwen/model-00002-of-00002.safetensors")
    content = (tmp_path / "qwen/tokenizer.json").read_text()
    (tmp_path / "qwen/tokenizer.json").write_text(json.dumps(
        json.loads((REFERENCE / "llama_text.json").read_text())["tokenizers"]["tinyllama"]))
    assert "of another model" in refused_by(llama.main, capsys, *run)
    (tmp_path / "qwen/tokenizer.json").write_text(content[:100])
    assert "tokenizer.json" in refused_by(llama.main, capsys, *run)
    (tmp_path / "qwen/tokenizer.json").unlink()
    assert "no such file" in refused_by(llama.main, capsys, *run)
    (tmp_path / "qwen/config.json").unlink()
    assert "config.json" in refused_by(llama.main, capsys, *run)
    assert "no config.json" in refused_by(llama.main, capsys, "sample", f"--init_from={tmp_path}")


def test_settings_of_transformers_4_and_5_are_the_same(tmp_path):
    """rope_theta and rope_scaling in version 4, rope_parameters in 5; old files also hold inv_freq."""
    folder = tmp_path / "llama"
    shutil.copytree(REFERENCE / "llama/llama_a", folder)
    new = read_published(folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": config.pop("dtype")}
    config.pop("head_dim")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = read_weights(folder)
    for file in folder.glob("model*"):
        file.unlink()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    write_safetensors(folder / "model.safetensors", tensors)
    old = read_published(folder)
    assert old[:2] == new[:2] and all(torch.equal(old[2][name], new[2][name]) for name in new[2])


# ---- bad input: one line, exit status 2, no traceback, nothing lost

bad = partial(refused_by, llama.main)


def test_bad_sizes(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    for flags, words in ((["--n_embd=10"], "multiple of --n_head=4"), (["--n_kv_head=3"], "multiple of --n_kv_head=3"),
                         (["--n_kv_head=0"], "at least 1"), (["--n_embd=12"], "rotated in pairs"),
                         (["--d_ff=-1"], "--d_ff"), (["--rope_theta=1.0"], "--rope_theta"), (["--rank=4"], "--optimizer=adamw"),
                         (["--rank=4", "--optimizer=adamw"], "--init_from"), (["--norm=batch"], "choose from"),
                         (["--positions=sines"], "choose from"), ([f"--chats={text_file}"], "--init_from"),
                         (["--rope_scaling=x"], "rope_scaling"), (["--block_size=1"], "at least 2")):
        assert words in bad(capsys, *run, *flags)
    assert not (tmp_path / "run").exists()


def test_bad_chats(tmp_path, capsys):
    publish(tmp_path / "qwen")
    run = [f"--init_from={tmp_path}/qwen", f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1", "--max_new_tokens=5",
           f"--chats={tmp_path}/chats.tsv"]
    assert "no such file" in bad(capsys, *run)
    for text, words in (("a\tb\tc\n", "line 1"), ("a\tb\nc\t\n", "line 2"), ("a\tb\n", "bring two"),
                        ("a\t" + "b " * 300 + "\nc\t" + "b " * 300 + "\n", "--block_size")):
        (tmp_path / "chats.tsv").write_text(text)
        assert words in bad(capsys, *run)
    assert not (tmp_path / "run").exists()


def test_resuming_keeps_the_five_choices(text_file, tmp_path, capsys):
    llama.train(tiny(text_file, tmp_path, steps=1))
    for flag in ("--positions=learned", "--norm=layer", "--mlp=gelu", "--n_kv_head=4", "--bias"):
        assert "leave the flag out" in bad(capsys, "--resume", f"--out_dir={tmp_path}/run", flag)


def test_the_state_of_a_published_tokenizer_survives_a_checkpoint(text_file, tmp_path):
    publish(tmp_path / "qwen")
    llama.main([f"--init_from={tmp_path}/qwen", "--device=cpu", "--steps=1", "--max_new_tokens=5",
                f"--data={text_file}", f"--out_dir={tmp_path}/run"])
    _, one = llama.load(llama.Config(init_from=str(tmp_path / "qwen"), device="cpu"))
    _, other = llama.load(llama.Config(out_dir=str(tmp_path / "run"), device="cpu"))
    text = "<|im_start|>user\nWho? 日本 12<|im_end|>"
    assert one.encode(text) == other.encode(text) and one.chat_format == other.chat_format == "qwen2.5"


def test_a_model_of_ones_own_can_learn_to_answer(text_file, tmp_path, capsys):
    """In the plain format: a line each for question and answer."""
    llama.train(tiny(text_file, tmp_path, tokenizer="bpe", vocab_size=280, steps=20, block_size=64))
    (tmp_path / "chats.tsv").write_text("the cat\tsat on the mat.\na dog\tran up the hill!\n" * 6)
    flags = ["--device=cpu", f"--out_dir={tmp_path}/tuned"]
    llama.main([*flags, f"--init_from={tmp_path}/run", f"--chats={tmp_path}/chats.tsv", "--optimizer=adamw", "--lr=0.01",
                "--steps=120", "--batch_size=8", "--max_new_tokens=20"])
    assert llama.main(["chat", *flags, "--prompt=a dog", "--temperature=0"])[-1]["content"] == "ran up the hill!"
    assert isinstance(llama.load(llama.Config(out_dir=f"{tmp_path}/tuned"))[1], BPETokenizer)
