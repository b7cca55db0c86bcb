"""train_gpt.py against transformers (golden files), against numpy, and against the classic bugs."""
import dataclasses
import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_gpt
from mini.data.text.tokenizers import CharTokenizer
from mini.data.weights import load_weights, read_gpt2
from mini.utils.config import UserError
from mini.utils.fast_vectors import fast_vectors
from mini.utils.text import pick
from tests.helpers import close, refused_by
from train_gpt import GPT, CausalSelfAttention, Config, Muon, generate, lr_factor

REFERENCE = Path(__file__).parent / "reference"
TINY = dict(n_layer=2, n_head=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=3, sample_every=3,
            log_every=1, tokens=20, warmup=1, device="cpu", tokenizer="char", dropout=0.0)


@pytest.fixture
def text_file(tmp_path):
    """A small text of two sentences over and over, with some noise."""
    rng = np.random.RandomState(0)
    words = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(words[i] for i in rng.randint(3, size=150)))
    return str(path)


def tiny(text_file, tmp_path, **changes):
    return Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def golden(name):
    data = np.load(REFERENCE / "gpt2.npz")
    return {key.split("/", 1)[1]: torch.tensor(data[key]) for key in data if key.startswith(name)}


def open_golden(name, fused=False):
    sizes, weights = read_gpt2(REFERENCE / name / "model.safetensors")
    model = GPT(Config(**sizes, fused=fused, dropout=0.0), len(weights["wte.weight"]))
    load_weights(model, weights)
    return model


# ---- parity with transformers

@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["gpt2_a", "gpt2_b"])
def test_logits_loss_and_every_gradient_equal_transformers(name, fused):
    want, model = golden(name), open_golden(name, fused).double()
    tokens = want["tokens"].long()
    close(model(tokens)[0], want["logits"].double(), 1e-6)      # golden values are rounded to float32
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert abs(loss.item() - want["loss"].item()) < 1e-6     # transformers rounds the logits to float32 here
    loss.backward()
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    names = dict(model.named_parameters())
    assert {f"grad/{n}" for n in names} == {key for key in want if key.startswith("grad/")}
    for n, p in names.items():
        grad = want[f"grad/{n}"].double()
        close(p.grad, grad.t() if n.endswith(turned) else grad, 1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_float32_logits_equal_transformers(fused):
    want, model = golden("gpt2_b"), open_golden("gpt2_b", fused)
    close(model(want["tokens"].long())[0], want["logits"], 1e-5)


def test_attention_is_the_formula_in_numpy():
    torch.manual_seed(0)
    attention = CausalSelfAttention(Config(n_embd=6, n_head=1, dropout=0.0)).double()
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    w, b = (p.detach().numpy() for p in (attention.c_attn.weight, attention.c_attn.bias))
    q, k, v = np.split(x[0].numpy() @ w.T + b, 3, axis=1)
    scores = np.where(np.tril(np.ones((5, 5))) == 1, q @ k.T / np.sqrt(6), -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    w, b = (p.detach().numpy() for p in (attention.c_proj.weight, attention.c_proj.bias))
    mask = torch.full((5, 5), -math.inf, dtype=torch.float64).triu(1)
    close(attention(x, mask)[0].detach(), weights @ v @ w.T + b, 1e-12)


def test_sizes_are_read_off_the_tensors(tmp_path):
    shutil.copy(REFERENCE / "gpt2_b/model.safetensors", tmp_path)       # no config.json: heads of 64
    sizes, weights = read_gpt2(REFERENCE / "gpt2_b/model.safetensors")
    assert sizes == dict(n_layer=3, n_head=4, n_embd=32, block_size=24) and len(weights["wte.weight"]) == 61
    assert read_gpt2(tmp_path / "model.safetensors")[0]["n_head"] == 0


def test_published_sizes_give_the_published_parameter_counts():
    counts = {(12, 768): 124_439_808, (24, 1024): 354_823_168, (36, 1280): 774_030_080, (48, 1600): 1_557_611_200}
    for (L, C), count in counts.items():
        with torch.device("meta"):
            model = GPT(Config(n_layer=L, n_head=C // 64, n_embd=C, block_size=1024), 50257)
        assert sum(p.numel() for p in model.parameters()) == count


# ---- the classic bugs (PEERS: transformers)

@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_token_changes_nothing_before_it(fused, cached):
    model = open_golden("gpt2_b", fused)
    a = torch.randint(61, (1, 20), generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[0, 12] = (a[0, 12] + 1) % 61

    def logits(tokens):
        if not cached:
            return model(tokens)[0]
        cache = model.new_cache(1)      # prefill of 7, then 5 at once, then one by one
        pieces = [(0, 7), (7, 12), *((n, n + 1) for n in range(12, 20))]
        return torch.cat([model(tokens[:, i:j], cache=cache, n=i)[0] for i, j in pieces], dim=1)

    with torch.no_grad():
        one, other = logits(a), logits(b)
        assert torch.equal(one[:, :12], other[:, :12])
        assert (one[:, 12:] - other[:, 12:]).abs().amax(dim=(0, 2)).min() > 1e-4    # and everything after it
        close(one, model(a)[0], 1e-5)                           # so the cached path equals the plain one


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_acts_in_training_only(fused):
    torch.manual_seed(0)
    model = GPT(Config(n_layer=1, n_head=2, n_embd=16, block_size=8, dropout=0.5, fused=fused), 11)
    tokens = torch.randint(11, (2, 8))
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    model.train()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    # the attention weights themselves are dropped, on both paths: with every v = 1 the output is their sum, times
    # the dropout that follows, 0 or 2; without the first it could only be 0 or 2
    attention = model.h[0].attn
    attention.c_proj = torch.nn.Identity()
    with torch.no_grad():
        attention.c_attn.weight[32:] = 0
        attention.c_attn.bias[32:] = 1
    sums = attention(torch.randn(1, 8, 16), torch.full((8, 8), -math.inf).triu(1))
    assert len((1000 * sums).round().unique()) > 2


@pytest.mark.parametrize("fused", [False, True])
def test_the_future_stays_hidden_however_large_the_scores(fused):
    """A mask of −1e4 instead of −∞ would be outvoted."""
    torch.manual_seed(0)
    model = GPT(Config(n_layer=1, n_head=2, n_embd=8, block_size=6, fused=fused, dropout=0.0), 11)
    torch.nn.init.normal_(model.h[0].attn.c_attn.weight, std=1000)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = torch.tensor([[1, 2, 3, 4, 9, 10]])
    assert torch.equal(model(tokens)[0][:, :4], model(other)[0][:, :4])
    assert not torch.equal(model(tokens)[0][:, 4:], model(other)[0][:, 4:])


def test_targets_are_the_next_tokens():
    tokens = torch.arange(100)
    x, y = train_gpt.draw_batch(tokens, 8, 50, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 8) and torch.equal(y, x + 1)
    x, y = train_gpt.draw_batch(torch.arange(9), 8, 3, torch.Generator())
    assert torch.equal(y, torch.arange(1, 9).expand(3, 8))  # a text of one window can be drawn, to its end


def test_pre_norm_leaves_the_residual_stream_alone():
    model = open_golden("gpt2_b")
    block, x = model.h[0], 1000 * torch.randn(1, 4, 32)
    for branch in (block.attn, block.mlp):
        torch.nn.init.zeros_(branch.c_proj.weight), torch.nn.init.zeros_(branch.c_proj.bias)
    assert torch.equal(block(x, torch.zeros(4, 4)), x)


def test_initialisation():
    torch.manual_seed(0)
    model = GPT(Config(n_layer=8, n_head=4, n_embd=256, block_size=64, dropout=0.0), 500)
    assert model.lm_head.weight is model.wte.weight
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert abs(p.std().item() / std - 1) < 0.03, name
        else:
            assert torch.equal(p, torch.ones_like(p) if ".ln" in f".{name}" and name.endswith("weight") else 0 * p)
    tokens = torch.randint(500, (4, 64))
    assert abs(model(tokens, tokens.roll(-1, 1))[1].item() - math.log(500)) < 0.15      # chance, at the start


def test_held_out_loss_counts_every_token_once():
    model = open_golden("gpt2_b")
    model.cfg = dataclasses.replace(model.cfg, block_size=10)
    tokens = torch.randint(61, (48,), generator=torch.Generator().manual_seed(1))  # 47 targets: 10 10 10 10 7
    total, count = train_gpt.held_out_loss(model, tokens, at_once=20)
    assert count.tolist() == [5] * 7 + [4] * 3
    slow = torch.zeros(10, dtype=torch.float64)
    for start in range(0, 47, 10):
        window = tokens[start:min(start + 10, 47)]
        p = F.log_softmax(model(window[None])[0][0].detach().double(), dim=1)
        for t in range(len(window)):
            slow[t] -= p[t, tokens[start + t + 1]]
    close(total, slow, 1e-5)


# ---- optimisers and schedules

def test_orthogonalise_is_near_the_svd():
    torch.manual_seed(0)
    for shape in ((1, 8, 8), (3, 16, 48), (1, 48, 16)):
        G = torch.randn(shape, dtype=torch.float64)
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        O = train_gpt.orthogonalise(G)
        inner = U.mT @ O @ Vh.mT                                # diagonal, with the new singular values
        s = inner.diagonal(dim1=1, dim2=2)
        assert (inner - torch.diag_embed(s)).abs().max() < 1e-9
        ok = S / S.norm(dim=1, keepdim=True) > 0.02             # Jordan's iteration lifts these to about 1
        assert s[ok].min() > 0.6 and s[ok].max() < 1.3
        slow = S / S.norm(dim=1, keepdim=True)  # the same polynomial on the numbers themselves
        for _ in range(5):
            slow = 3.4445 * slow - 4.7750 * slow**3 + 2.0315 * slow**5
        close(s, slow, 1e-6)


def test_muon_step_by_hand():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(12, 4))  # (3C, C): q, k, v; each becomes orthogonal by itself
    start, m = p.detach().clone(), torch.zeros(12, 4)
    muon = Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        p.grad = torch.randn(12, 4)
        m = 0.9 * m + 0.1 * p.grad
        g = 0.1 * p.grad + 0.9 * m
        step = torch.cat([train_gpt.orthogonalise(part[None])[0] for part in g.split(4)])
        start = start * (1 - 0.1 * 0.5) - 0.1 * step
        muon.step()
        close(p.detach(), start, 1e-5)
    tall = torch.nn.Parameter(torch.zeros(64, 16))  # a tall matrix takes a step √(rows/columns) larger
    tall.grad = torch.randn(64, 16)
    Muon([tall], lr=0.1, momentum=0.0, weight_decay=0.0).step()
    close(tall.detach(), -0.1 * 2 * train_gpt.orthogonalise(tall.grad[None])[0], 1e-5)


def test_optimizers_cover_every_parameter_once():
    for optimizer, kinds in (("muon", 2), ("adamw", 1)):
        model = GPT(Config(**{**TINY, "optimizer": optimizer, "weight_decay": 0.1}), 11)
        optimizers = train_gpt.make_optimizers(model, Config(optimizer=optimizer, weight_decay=0.1))
        groups = [g for o in optimizers for g in o.param_groups]
        ids = [id(p) for g in groups for p in g["params"]]
        assert len(optimizers) == kinds and len(ids) == len(set(ids)) == len(list(model.parameters()))
        for g in groups:
            assert {p.ndim >= 2 for p in g["params"]} == {g["weight_decay"] > 0}


def test_fused_adamw_equals_the_plain_one():
    models = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = GPT(Config(**TINY), 11)
        optimizer, = train_gpt.make_optimizers(model, Config(optimizer="adamw", fused=fused, weight_decay=0.1))
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        models.append(model)
    for a, b in zip(*(m.parameters() for m in models)):
        close(a.detach(), b.detach(), 1e-5)


def test_learning_rate():
    cfg = Config(steps=100, warmup=10, final_lr=0.1, schedule="cosine")
    assert lr_factor(0, cfg) == pytest.approx(1 / 11) and lr_factor(10, cfg) == 1
    assert lr_factor(55, cfg) == pytest.approx(0.55) and lr_factor(100, cfg) == pytest.approx(0.1)
    cfg = Config(steps=100, warmup=0, final_lr=0.0, schedule="linear", hold=0.5)
    assert lr_factor(50, cfg) == 1 and lr_factor(75, cfg) == pytest.approx(0.5) and lr_factor(100, cfg) == 0
    assert lr_factor(0, Config(steps=1, warmup=0)) == 1


# ---- sampling

@pytest.mark.parametrize("fused", [False, True])
def test_cached_tokens_equal_uncached_ones_beyond_the_context(fused):
    model = open_golden("gpt2_b", fused)                        # context of 24 tokens
    prompt = torch.randint(61, (3, 5), generator=torch.Generator().manual_seed(0))
    tokens = [torch.stack(list(generate(model, prompt, 70, generator=torch.Generator().manual_seed(1), use_cache=c)))
              for c in (True, False)]
    assert torch.equal(*tokens) and tokens[0].shape == (70, 3)
    long = torch.randint(61, (1, 40), generator=torch.Generator().manual_seed(2))       # a prompt beyond it
    tokens = [torch.stack(list(generate(model, long, 30, temperature=0, use_cache=c))) for c in (True, False)]
    assert torch.equal(*tokens)


def test_a_full_context_keeps_its_last_half():
    model, seen = open_golden("gpt2_b"), []
    plain = model.forward
    model.forward = lambda idx, **kw: seen.append(idx.clone()) or plain(idx, **kw)
    text = torch.arange(24)[None] % 61
    out = torch.stack(list(generate(model, text, 15, temperature=0, use_cache=False)))[:, 0]
    everything = torch.cat([text[0], out])
    assert [s.size(1) for s in seen] == [24, *range(12, 25), 12]
    assert torch.equal(seen[1][0], everything[13:25]) and torch.equal(seen[-1][0], everything[26:38])
    seen.clear()
    list(generate(model, text, 15, temperature=0))
    assert [s.size(1) for s in seen] == [24, 12, *[1] * 12, 12]         # with the cache: only what is new


def test_a_text_does_not_depend_on_its_batch_mates():
    model = open_golden("gpt2_b")
    prompts = torch.randint(61, (4, 6), generator=torch.Generator().manual_seed(3))
    together = torch.stack(list(generate(model, prompts, 10, temperature=0)), dim=1)
    alone = torch.cat([torch.stack(list(generate(model, p[None], 10, temperature=0)), dim=1) for p in prompts])
    assert torch.equal(together, alone)


def test_pick():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    assert pick(logits, temperature=0) == 1
    rng = torch.Generator().manual_seed(0)

    def share(**options):
        draws = pick(logits.expand(20000, 4), generator=rng, **options)
        return torch.bincount(draws, minlength=4) / 20000

    def softmax(values):
        return F.softmax(torch.tensor(values), dim=0)

    inf = math.inf      # 20,000 draws: six standard deviations are below 0.022
    assert (share() - softmax([1.0, 3.0, 2.0, 0.0])).abs().max() < 0.022
    assert (share(temperature=2.0) - softmax([0.5, 1.5, 1.0, 0.0])).abs().max() < 0.022
    assert (share(top_k=2) - softmax([-inf, 3.0, 2.0, -inf])).abs().max() < 0.022
    assert (share(top_k=99) - softmax([1.0, 3.0, 2.0, 0.0])).abs().max() < 0.022
    # probabilities 0.64, 0.24, 0.09, 0.03: the smallest set with at least top_p
    assert (share(top_p=0.7) - softmax([-inf, 3.0, 2.0, -inf])).abs().max() < 0.022
    assert (share(top_p=0.6) - softmax([-inf, 3.0, -inf, -inf])).abs().max() < 1e-6
    assert (share(top_p=0.95) - softmax([1.0, 3.0, 2.0, -inf])).abs().max() < 0.022
    assert (share(top_p=1e-9) - softmax([-inf, 3.0, -inf, -inf])).abs().max() < 1e-6


def test_fast_vectors_change_nothing_but_the_speed():
    torch.manual_seed(0)
    model = GPT(Config(n_layer=2, n_head=2, n_embd=32, block_size=24, dropout=0.0), 61)
    prompt, threads = torch.randint(61, (1, 5)), torch.get_num_threads()
    torch.set_num_threads(2)                # 61 outputs are then no multiple of a slab
    try:
        plain = torch.stack(list(generate(model, prompt, 40, temperature=0)))
        with torch.no_grad():
            want = model(prompt[:, :1])[0]
            with fast_vectors(model):
                close(model(prompt[:, :1])[0], want, 1e-5)
                assert torch.equal(torch.stack(list(generate(model, prompt, 40, temperature=0))), plain)
    finally:
        torch.set_num_threads(threads)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_every_sampling_option_reaches_the_sampler():
    model, tokenizer = open_golden("gpt2_b"), CharTokenizer("".join(map(chr, range(60, 121))))
    cfg = dataclasses.replace(model.cfg, prompt="A", tokens=40)

    def text(**options):
        return train_gpt.write(model, tokenizer, dataclasses.replace(cfg, **options))

    greedy = text(temperature=0.0)
    assert text(top_k=1) == text(top_p=1e-6) == text(temperature=1e-3) == greedy
    assert text(temperature=1.0) != greedy and text(temperature=1.0, seed=2) != text(temperature=1.0)
    assert text(temperature=1.0, cache=False) == text(temperature=1.0)
    assert len(text(samples=3)) == 3 and len(text(tokens=7)[0]) == 8


# ---- training

def test_overfits_one_batch():
    torch.manual_seed(0)
    cfg = Config(n_layer=2, n_head=2, n_embd=32, block_size=16, muon_lr=0.02, lr=0.01, dropout=0.0)
    model = GPT(cfg, 20)
    tokens = torch.randint(20, (4, 17))
    optimizers = train_gpt.make_optimizers(model, cfg)
    for _ in range(100):
        _, loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss < 0.05


def test_end_to_end(text_file, tmp_path, capsys):
    result = train_gpt.train(tiny(text_file, tmp_path, steps=100, block_size=32, eval_every=50, sample_every=33))
    assert result["val_loss"] < result["bigram"] < result["chance"] == pytest.approx(math.log(len(set(
        Path(text_file).read_text()))))
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text()) == result
    assert {"model", "steps", "seconds", "parameters", "device", "bits_per_byte", "copied"} <= set(result)
    log = (run / "log.csv").read_text().splitlines()
    assert log[0] == "step,seconds,loss,lr,val_loss" and len(log) == 101
    assert (run / "samples/step_000099.txt").exists() and (run / "config.json").exists()
    out = capsys.readouterr().out
    assert "ln V" in out and "counting pairs of tokens" in out and "longest run copied" in out
    common_args = [f"--out_dir={run}", "--device=cpu", "--tokens=30"]
    train_gpt.main(["sample", *common_args, "--prompt=the cat", "--samples=2"])
    out = capsys.readouterr().out
    assert out.count("the cat") >= 2 and out.count("longest run copied") == 2
    Path(text_file).rename(tmp_path / "moved.txt")              # the checkpoint is all that `sample` needs
    assert train_gpt.main(["sample", *common_args])[0]
    assert "cannot be told" in capsys.readouterr().out
    (tmp_path / "moved.txt").rename(text_file)
    tables = train_gpt.main(["evaluate", *common_args])
    assert json.loads((run / "evaluate.json").read_text())["loss_after_so_many_tokens"] == tables["loss_after_so_many_tokens"]
    assert list(tables["loss_after_so_many_tokens"]) == ["0–0", "1–1", "2–3", "4–7", "8–15", "16–31"]


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_equals_uninterrupted(text_file, tmp_path, optimizer, tokenizer):
    changes = dict(optimizer=optimizer, dropout=0.1, weight_decay=0.1, tokenizer=tokenizer, vocab_size=270)
    train_gpt.train(tiny(text_file, tmp_path, out_dir=str(tmp_path / "whole"), **changes))
    train_gpt.train(tiny(text_file, tmp_path, stop_after=4, **changes))
    half = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert half["step"] == 4
    train_gpt.train(tiny(text_file, tmp_path, resume=True, **changes))
    a, b = (torch.load(tmp_path / f"{run}/checkpoint.pt", weights_only=True) for run in ("whole", "run"))
    assert a["step"] == b["step"] == 6
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name
    for one, other in zip(a["optimizers"], b["optimizers"]):
        assert str(one) == str(other)
    logs = [[line.split(",")[:1] + line.split(",")[2:] for line in (tmp_path / run / "log.csv").read_text().split()]
            for run in ("whole", "run")]
    assert logs[0] == logs[1]


def test_resuming_takes_changed_flags_and_refuses_another_optimizer(text_file, tmp_path, capsys):
    train_gpt.train(tiny(text_file, tmp_path))
    changes = dict(resume=True, steps=8, weight_decay=0.25, beta2=0.5, momentum=0.5)
    train_gpt.train(tiny(text_file, tmp_path, **changes))
    adamw, muon = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["optimizers"]
    assert adamw["param_groups"][0]["betas"] == (0.9, 0.5) and adamw["param_groups"][0]["weight_decay"] == 0.25
    assert muon["param_groups"][0]["momentum"] == 0.5 and muon["param_groups"][0]["weight_decay"] == 0.25
    assert adamw["state"][0]["step"] == 8                       # while the moments went on
    with pytest.raises(UserError, match="another --optimizer"):
        train_gpt.train(tiny(text_file, tmp_path, resume=True, optimizer="adamw"))


def test_grad_accumulation_gives_the_same_gradient(text_file, tmp_path, monkeypatch):
    grads, plain = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, limit):
        parameters = list(parameters)
        grads.append([p.grad.clone() for p in parameters])
        assert limit == 1.0
        return plain(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    for parts in (1, 2, 4):
        train_gpt.train(tiny(text_file, tmp_path, out_dir=str(tmp_path / str(parts)), grad_accum=parts, steps=1,
                             matmul="highest"))
    assert len(grads) == 3
    for other in grads[1:]:
        for g, h in zip(grads[0], other):
            assert (g - h).abs().max() <= 1e-5 * max(g.abs().max(), 1e-3)


def test_every_step_begins_without_a_gradient(text_file, tmp_path, monkeypatch):
    clean, forward = [], GPT.forward

    def spy(self, idx, *args, **kwargs):
        if self.training:
            clean.append(all(p.grad is None for p in self.parameters()))
        return forward(self, idx, *args, **kwargs)

    monkeypatch.setattr(GPT, "forward", spy)
    train_gpt.train(tiny(text_file, tmp_path))
    assert clean == [True] * 6


def test_compile_is_offered_and_the_checkpoint_stays_plain(text_file, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(model) or model)
    train_gpt.train(tiny(text_file, tmp_path, compile=True, steps=1))
    assert len(calls) == 1


def test_fine_tuning_from_a_checkpoint_and_from_gpt2_weights(text_file, tmp_path, capsys):
    train_gpt.train(tiny(text_file, tmp_path))
    before = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["model"]["wte.weight"]
    args = [f"--data={text_file}", "--device=cpu", "--steps=1", "--lr=0", "--muon_lr=0", "--batch_size=2", "--tokens=9"]
    train_gpt.main([*args, f"--init_from={tmp_path}/run/checkpoint.pt", f"--out_dir={tmp_path}/tuned"])
    state = torch.load(tmp_path / "tuned/checkpoint.pt", weights_only=True)
    assert torch.equal(state["model"]["wte.weight"], before) and state["config"]["n_embd"] == 16

    folder = tmp_path / "gpt2"
    shutil.copytree(REFERENCE / "gpt2_a", folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(REFERENCE / "bpe" / name, folder)
    train_gpt.main([*args, f"--init_from={folder}/model.safetensors", f"--out_dir={tmp_path}/two", "--block_size=16"])
    state = torch.load(tmp_path / "two/checkpoint.pt", weights_only=True)
    assert state["config"]["block_size"] == 16 and state["tokenizer"]["kind"] == "bpe"
    want = open_golden("gpt2_a")
    assert torch.equal(state["model"]["h.1.mlp.c_fc.weight"], want.h[1].mlp.c_fc.weight)
    assert torch.equal(state["model"]["wpe.weight"], want.wpe.weight[:16])
    capsys.readouterr()
    texts = train_gpt.main(["sample", f"--init_from={folder}/model.safetensors", "--prompt=The", "--tokens=40"])
    assert texts[0].startswith("The") and len(texts[0]) > 20    # beyond the 32 tokens of its context


# ---- several processes

WORKER = """
import json, os, sys
import torch, train_gpt
calls, plain = [], torch.nn.utils.clip_grad_norm_
def spy(parameters, limit):
    parameters = list(parameters)
    calls.append([p.grad.clone() for p in parameters])
    return plain(parameters, limit)
torch.nn.utils.clip_grad_norm_ = spy
sizes, forward = [], train_gpt.GPT.forward
def count(self, idx, *args, **kwargs):
    sizes.append(len(idx)) if self.training else None
    return forward(self, idx, *args, **kwargs)
train_gpt.GPT.forward = count
torch.set_num_threads(1)
result = train_gpt.main(sys.argv[2:])
if os.environ.get("RANK", "0") == "0":
    torch.save({"grads": calls, "sizes": sizes}, sys.argv[1])
"""


def test_two_processes_give_the_gradient_of_one(text_file, tmp_path):
    import os
    import socket
    import subprocess
    import sys
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (tmp_path / "worker.py").write_text(WORKER)
    args = [f"--data={text_file}", "--device=cpu", *(f"--{k}={v}" for k, v in TINY.items() if k != "device"),
            "--grad_accum=2", "--matmul=highest", "--steps=2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}

    def start(world, rank, out):
        ranks = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        return subprocess.Popen([sys.executable, str(tmp_path / "worker.py"), str(tmp_path / out), *args,
                                 f"--out_dir={tmp_path / out}.run"], env={**env, **ranks}, cwd=tmp_path,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    processes = [start(1, 0, "one"), start(2, 0, "two"), start(2, 1, "two")]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], outputs
    assert "step 2/2" in outputs[1] and "step" not in outputs[2]        # only rank 0 speaks
    one, two = (torch.load(tmp_path / out, weights_only=True) for out in ("one", "two"))
    assert len(one["grads"]) == len(two["grads"]) == 2
    assert one["sizes"] == [2] * 4 and two["sizes"] == [1] * 4  # each takes its share: 4 = 2 parts · 2
    for a, b in zip(one["grads"], two["grads"]):
        for g, h in zip(a, b):
            assert (g - h).abs().max() <= 1e-5 * max(g.abs().max(), 1e-3)


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, train_gpt.main)


def test_bad_data(tmp_path, capsys, text_file):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu", "--steps=1"]
    assert "no such file" in refused(capsys, *run, f"--data={tmp_path}/none.txt")
    assert "tales" in refused(capsys, *run, "--data=tale")
    (tmp_path / "empty.txt").write_text("")
    assert "no text" in refused(capsys, *run, f"--data={tmp_path}/empty.txt")
    (tmp_path / "short.txt").write_text("too short for a context")
    assert "--block_size" in refused(capsys, *run, f"--data={tmp_path}/short.txt")
    (tmp_path / "latin.txt").write_bytes("déjà vu ".encode("latin-1") * 500)
    assert "not UTF-8" in refused(capsys, *run, f"--data={tmp_path}/latin.txt")
    (tmp_path / "folder").mkdir()
    assert "no .txt file" in refused(capsys, *run, f"--data={tmp_path}/folder")
    assert not (tmp_path / "run").exists()


def test_bad_prompt(text_file, tmp_path, capsys):
    train_gpt.train(tiny(text_file, tmp_path, steps=1))
    run = ["sample", f"--out_dir={tmp_path}/run", "--device=cpu"]
    capsys.readouterr()
    assert "'é'" in refused(capsys, *run, "--prompt=thé")
    assert "17 tokens" in refused(capsys, *run, "--prompt=" + "a" * 17)
    for wrong in ("--tokens=0", "--samples=0", "--top_p=0", "--temperature=-1", "--top_k=-1"):
        assert "must be positive" in refused(capsys, *run, wrong)


def test_bad_checkpoint(text_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", f"--data={text_file}", "--device=cpu"]
    path = tmp_path / "run/checkpoint.pt"
    assert "no checkpoint" in refused(capsys, "sample", *run[:1])
    assert "no checkpoint" in refused(capsys, *run, "--resume")
    train_gpt.train(tiny(text_file, tmp_path, steps=2))
    capsys.readouterr()
    assert "leave the flag out" in refused(capsys, *run, "--resume", "--n_embd=32")
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        assert "truncated" in refused(capsys, "sample", *run)
        assert "truncated" in refused(capsys, *run, "--resume")
    torch.save({"name": "vae", "config": {}, "step": 1}, path)
    assert "'vae'" in refused(capsys, *run, "--resume")
    torch.save([1, 2, 3], path)
    assert "not a checkpoint" in refused(capsys, "sample", *run)
    torch.save(GPT(Config(**TINY), 3), path)  # a pickled module could run code: never opened
    assert "not a checkpoint" in refused(capsys, "sample", *run)


def test_bad_weights(tmp_path, capsys):
    folder = tmp_path / "gpt2"
    shutil.copytree(REFERENCE / "gpt2_a", folder)
    path = folder / "model.safetensors"
    run = ["sample", f"--init_from={path}"]
    assert "vocab.json" in refused(capsys, *run)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(REFERENCE / "bpe" / name, folder)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in refused(capsys, *run)
    path.write_bytes(whole)
    assert "--n_layer" in refused(capsys, *run, "--n_layer=5")
    assert "pickle" in refused(capsys, "sample", f"--init_from={folder}/pytorch_model.bin")
    assert "no such file" in refused(capsys, "sample", f"--init_from={folder}/other.safetensors")
    (folder / "config.json").write_text("{")
    assert "config.json" in refused(capsys, *run)


def test_bad_flags(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    assert "did you mean --steps" in refused(capsys, *run, "--step=3")
    assert "did you mean --batch_size" in refused(capsys, *run, "--batch-sise", "3")
    assert "invalid int value: 'many'" in refused(capsys, *run, "--steps=many")
    assert "choose from train, sample" in refused(capsys, "sampel")
    for wrong in ("--preset=gtp2", "--optimizer=adam", "--schedule=step", "--matmul=low"):
        assert "invalid choice" in refused(capsys, *run, wrong) and "choose from" in refused(capsys, *run, wrong)
    assert "multiple of --n_head" in refused(capsys, *run, "--n_embd=10", "--n_head=4", "--block_size=8")
    assert "at least 1" in refused(capsys, *run, "--n_layer=0", "--block_size=8")
    assert "dropout below 1" in refused(capsys, *run, "--dropout=2")
    assert "multiple of --grad_accum" in refused(capsys, *run, "--grad_accum=3", "--batch_size=4", "--block_size=8")
    assert "--tokenizer" in refused(capsys, *run, "--tokenizer=word")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_such_device(text_file, tmp_path, capsys):
    assert "--device=cpu" in refused(capsys, f"--data={text_file}", f"--out_dir={tmp_path}/run", "--device=cuda")
    assert "--device=cpu" in refused(capsys, f"--data={text_file}", f"--out_dir={tmp_path}/run", "--device=gpu")


def test_a_loss_that_is_not_a_number_stops_the_run(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run", *(f"--{k}={v}" for k, v in TINY.items())]
    train_gpt.main(run)
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    error = refused(capsys, *run, "--resume", "--steps=40", "--lr=1e30", "--grad_clip=0")
    assert "error: loss is" in error and "lower the learning rate" in error     # at the step, not at the evaluation
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before


def test_out_of_memory_names_what_to_lower(text_file, tmp_path, capsys, monkeypatch):
    def forward(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(GPT, "forward", forward)
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run", *(f"--{k}={v}" for k, v in TINY.items())]
    assert "--batch_size" in refused(capsys, *run)


def test_a_second_run_leaves_the_first_alone(text_file, tmp_path, capsys):
    train_gpt.train(tiny(text_file, tmp_path))
    files = {p.relative_to(tmp_path / "run"): p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    train_gpt.train(tiny(text_file, tmp_path, steps=1))
    assert files == {p.relative_to(tmp_path / "run.1"): p.read_bytes()
                     for p in (tmp_path / "run.1").rglob("*") if p.is_file()}
    assert "kept in" in capsys.readouterr().out
    train_gpt.main(["sample", f"--out_dir={tmp_path}/run", "--device=cpu", "--tokens=5"])
    out = capsys.readouterr().out
    assert "has only 1 steps" in out and "run.1" in out
