"""train_gpt.py: against transformers' GPT-2 (golden files), against slow loops, and against the classic bugs.

Tests marked `paper` hold the architecture to GPT-2's: change it, and they fail as they should. All the others must go
on passing in a fork; they build small models with random weights. What every script must do alike, stopping and going
on for instance, is tested in test_scripts.py.
"""
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
from mini.data.weights import read_gpt, read_gpt2
from mini.utils.config import UserError
from mini.utils.device import matmul_precision
from mini.utils.fast_vectors import fast_vectors
from mini.utils.optim import Muon, newton_schulz
from mini.utils.png import read_png
from mini.utils.run import Run
from tests.helpers import close, refused_by

REFERENCE = Path(__file__).parent / "reference"
TINY = dict(n_layer=2, n_head=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=3, sample_every=3,
            log_every=1, max_new_tokens=20, warmup=1, device="cpu", tokenizer="char", dropout=0.0)
V = 29

both_attentions = pytest.mark.parametrize("fused", [False, True], ids=["written out", "fused"])


@pytest.fixture
def text_file(tmp_path):
    """A small text: three sentences over and over, in random order."""
    rng = np.random.RandomState(0)
    sentences = ["the cat sat on the mat.", "a dog ran up the hill!", "no one saw it go?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences[i] for i in rng.randint(3, size=150)))
    return str(path)


def tiny(text_file, tmp_path, **changes):
    return train_gpt.Config(**{**TINY, "data": text_file, "out_dir": str(tmp_path / "run"), **changes})


def make_model(std=0.2, seed=0, **sizes):
    """A small GPT with random weights, larger than at the start of training, so that tokens matter to each other."""
    torch.manual_seed(seed)
    model = train_gpt.GPT(train_gpt.Config(**{**TINY, **sizes}), V)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model


def random_tokens(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


# ---- the paper: GPT-2 as transformers has it

def golden(name):
    data = np.load(REFERENCE / "gpt2.npz")
    return {key.split("/", 1)[1]: torch.tensor(data[key]) for key in data if key.startswith(name)}


def golden_model(name, fused=False):
    sizes, weights = golden_weights(name)
    model = train_gpt.GPT(train_gpt.Config(**sizes, fused=fused), len(weights["wte.weight"]))
    model.load_state_dict(weights)
    return model


def golden_weights(name):
    return read_gpt2(REFERENCE / name / "model.safetensors")


@pytest.mark.paper
@both_attentions
@pytest.mark.parametrize("name", ["gpt2_a", "gpt2_b"])
def test_logits_loss_and_every_gradient_equal_transformers(name, fused):
    want = golden(name)
    model = golden_model(name, fused).double()
    tokens = want["tokens"].long()
    close(model(tokens), want["logits"].double(), 1e-6)         # golden values are rounded to float32
    loss = train_gpt.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    assert abs(loss.item() - want["loss"].item()) < 1e-6        # transformers rounds the logits to float32 here
    loss.backward()
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    parameters = dict(model.named_parameters())
    assert {f"grad/{name}" for name in parameters} == {key for key in want if key.startswith("grad/")}
    for name, p in parameters.items():
        grad = want[f"grad/{name}"].double()
        close(p.grad, grad.t() if name.endswith(transposed) else grad, 1e-6)


@pytest.mark.paper
@both_attentions
def test_float32_logits_equal_transformers(fused):
    want = golden("gpt2_b")
    model = golden_model("gpt2_b", fused)
    close(model(want["tokens"].long()), want["logits"], 1e-5)


@pytest.mark.paper
def test_published_sizes_give_the_published_parameter_counts():
    counts = {(12, 768): 124_439_808, (24, 1024): 354_823_168, (36, 1280): 774_030_080, (48, 1600): 1_557_611_200}
    for (n_layer, n_embd), count in counts.items():
        cfg = train_gpt.Config(n_layer=n_layer, n_head=n_embd // 64, n_embd=n_embd, block_size=1024)
        with torch.device("meta"):
            model = train_gpt.GPT(cfg, 50257)
        assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    cfg = train_gpt.Config(n_layer=8, n_head=4, n_embd=256, block_size=64, dropout=0.0)
    model = train_gpt.GPT(cfg, 500)
    assert model.lm_head.weight is model.wte.weight
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert abs(p.std().item() / std - 1) < 0.03, name
        else:
            is_gain = ".ln" in f".{name}" and name.endswith("weight")
            assert torch.equal(p, torch.ones_like(p) if is_gain else torch.zeros_like(p))


@pytest.mark.paper
def test_pre_norm_leaves_the_residual_stream_alone():
    """x + f(norm(x)), not norm(x + f(x)): where both branches give 0, a block returns x itself, however large."""
    block = make_model().h[0]
    for branch in (block.attn, block.mlp):
        torch.nn.init.zeros_(branch.c_proj.weight)
        torch.nn.init.zeros_(branch.c_proj.bias)
    x = 1000 * torch.randn(1, 4, 16)
    assert torch.equal(block(x), x)


# ---- attention

def test_attention_is_the_formula_in_numpy():
    """Position by position: softmax of q·k/√hs over the positions so far, then the mean of their values."""
    rng = np.random.RandomState(0)
    q, k, v = rng.randn(3, 2, 3, 5, 4)                          # B = 2, nh = 3, T = 5, hs = 4
    want = np.zeros((2, 3, 5, 4))
    for b, head, t in np.ndindex(2, 3, 5):
        scores = k[b, head, :t + 1] @ q[b, head, t] / np.sqrt(4)
        weights = np.exp(scores) / np.exp(scores).sum()
        want[b, head, t] = weights @ v[b, head, :t + 1]
    q, k, v, want = (torch.tensor(array) for array in (q, k, v, want))
    for attend in (train_gpt.attention, train_gpt.fused_attention):
        close(attend(q, k, v, train_gpt.causal_mask(5)), want, 1e-12)
        for n in (3, 4):                                        # the last queries alone, as with a cache
            mask = train_gpt.causal_mask(5 - n, before=n)
            close(attend(q[:, :, n:], k, v, mask), want[:, :, n:], 1e-12)


@both_attentions
def test_a_token_changes_nothing_before_it(fused):
    model = make_model(fused=fused)
    a = random_tokens(1, 16)
    b = a.clone()
    b[0, 9] = (a[0, 9] + 1) % V
    one, other = model(a), model(b)
    assert torch.equal(one[:, :9], other[:, :9])
    change = (one - other).abs().amax(dim=(0, 2))
    assert change[9:].min() > 1e-4                              # and it changes everything from there on


@both_attentions
def test_the_future_stays_hidden_however_large_the_scores(fused):
    """A mask of −1e4 in place of −∞ is outvoted by scores of that size."""
    model = make_model(fused=fused)
    torch.nn.init.normal_(model.h[0].attn.c_attn.weight, std=1000)
    a = random_tokens(1, 6)
    b = a.clone()
    b[0, 4:] = (a[0, 4:] + 1) % V
    assert torch.equal(model(a)[:, :4], model(b)[:, :4])
    assert not torch.equal(model(a)[:, 4:], model(b)[:, 4:])


@both_attentions
def test_dropout_acts_in_training_only(fused):
    """The fused kernel does not know of eval(): with a constant dropout it would drop in evaluation, too."""
    model = make_model(fused=fused, dropout=0.5)
    tokens = random_tokens(2, 8)
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


@both_attentions
def test_attention_weights_are_dropped(fused):
    """Where every v is 1, attention returns the sum of its weights: 1, and other numbers if some are dropped."""
    q, k = torch.randn(2, 1, 2, 8, 4)
    v = torch.ones(1, 2, 8, 4)
    attend = train_gpt.fused_attention if fused else train_gpt.attention
    mask = train_gpt.causal_mask(8)
    dropout = torch.nn.Dropout(0.5)
    close(attend(q, k, v, mask), v, 1e-6)
    assert len((1000 * attend(q, k, v, mask, dropout)).round().unique()) > 4
    close(attend(q, k, v, mask, dropout.eval()), v, 1e-6)


# ---- batches and the loss

def test_targets_are_the_next_tokens():
    tokens = torch.arange(100)
    x, y = train_gpt.get_batch(tokens, 8, 50, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 8) and torch.equal(y, x + 1)
    x, y = train_gpt.get_batch(torch.arange(9), 8, 3, torch.Generator())
    assert torch.equal(y, torch.arange(1, 9).expand(3, 8))      # a text of one window can be drawn, to its end


def test_the_loss_at_the_start_is_that_of_knowing_nothing():
    torch.manual_seed(0)
    model = train_gpt.GPT(train_gpt.Config(n_layer=2, n_head=2, n_embd=64, block_size=64, dropout=0.0), 500)
    tokens = torch.randint(500, (4, 65))
    loss = train_gpt.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    assert abs(loss.item() - math.log(500)) < 0.15


def test_estimate_loss_predicts_every_token_once():
    """48 tokens are 47 targets: four windows of ten, and one of seven, which once was left out."""
    model = make_model(block_size=10, dropout=0.5)
    tokens = random_tokens(48, seed=1)
    got = train_gpt.estimate_loss(model, [tokens], windows_at_once=2)
    assert model.training                                       # it puts back what was there
    model.eval()
    total = 0.0
    for start in range(0, 47, 10):
        window = tokens[start:min(start + 10, 47)]
        log_p = F.log_softmax(model(window[None])[0].detach().double(), dim=1)
        for t in range(len(window)):
            total -= log_p[t, tokens[start + t + 1]].item()
    assert got == pytest.approx(total / 47, rel=1e-5)
    two = train_gpt.estimate_loss(model, [tokens[:20], tokens[20:]])
    first, second = (train_gpt.estimate_loss(model, [part]) for part in (tokens[:20], tokens[20:]))
    assert two == pytest.approx((19 * first + 27 * second) / 46, rel=1e-5)      # of documents, the first tokens are given
    assert not model.training


def test_overfits_one_batch():
    model = make_model(std=0.02, n_embd=32)
    tokens = random_tokens(4, 17)
    cfg = train_gpt.Config(lr=0.02, rest_lr=0.01)
    optimizers = train_gpt.make_optimizers(model, cfg)
    for _ in range(100):
        loss = train_gpt.next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss < 0.05


# ---- optimisers and the learning rate

def test_newton_schulz_is_near_the_svd():
    torch.manual_seed(0)
    for shape in ((1, 8, 8), (3, 16, 48), (1, 48, 16)):
        G = torch.randn(shape, dtype=torch.float64)
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        inner = U.mT @ newton_schulz(G) @ Vh.mT                 # diagonal: U and V are as they were
        s = inner.diagonal(dim1=1, dim2=2)                      # the new singular values
        assert (inner - torch.diag_embed(s)).abs().max() < 1e-9
        start = S / S.norm(dim=1, keepdim=True)
        not_tiny = start > 0.02
        assert s[not_tiny].min() > 0.6 and s[not_tiny].max() < 1.3
        for _ in range(5):                                      # the same polynomial, on the numbers themselves
            start = 3.4445 * start - 4.7750 * start**3 + 2.0315 * start**5
        close(s, start, 1e-6)


def test_muon_step_by_hand():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(12, 4))                  # q, k and v; each becomes orthogonal by itself
    expected = p.detach().clone()
    m = torch.zeros(12, 4)
    muon = Muon([{"params": [p], "n_matrices": 3}], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        p.grad = torch.randn(12, 4)
        m = 0.9 * m + 0.1 * p.grad
        direction = 0.1 * p.grad + 0.9 * m
        parts = [newton_schulz(part[None])[0] for part in direction.split(4)]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * torch.cat(parts)
        muon.step()
        close(p.detach(), expected, 1e-5)
    tall = torch.nn.Parameter(torch.zeros(64, 16))              # a tall matrix takes a step √(rows/columns) larger
    tall.grad = torch.randn(64, 16)
    Muon([tall], lr=0.1, momentum=0.0).step()
    close(tall.detach(), -0.1 * 2 * newton_schulz(tall.grad[None])[0], 1e-5)


def test_muon_in_bfloat16_goes_the_same_way():
    """The training step runs it under autocast: its products are rounded to 8 bits, its weights stay in float32."""
    torch.manual_seed(0)
    p, exact = (torch.nn.Parameter(torch.zeros(96, 64)) for _ in range(2))
    p.grad = exact.grad = torch.randn(96, 64)
    Muon([exact], lr=0.1).step()
    with torch.autocast("cpu", torch.bfloat16):
        Muon([p], lr=0.1).step()
    assert p.dtype == torch.float32
    close(p.detach(), exact.detach(), 0.03)
    assert (p != exact).any()                                   # it did round


def test_products_outside_autocast_are_exact_on_a_cpu():
    """torch's own conversion to bfloat16 keeps memory for each size of matrix that it meets, and a text that grows
    token by token has hundreds: the default run needed 12 GB to write its stories, in place of 1."""
    assert torch.get_float32_matmul_precision() == "highest"
    with matmul_precision(torch.device("cpu"), "medium"):
        assert torch.get_float32_matmul_precision() == "highest"
    with matmul_precision(torch.device("cuda"), "medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_a_run_measures_on_a_cpu_is_exact(tmp_path):
    """Guards against scores in bfloat16 on a CPU with AMX: a classifier then read images otherwise once it was loaded."""
    cfg = train_gpt.Config(out_dir=str(tmp_path / "run"))
    assert cfg.matmul == "medium"
    with Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss"]):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("optimizer, kinds", [("muon", 2), ("adamw", 1)])
def test_optimizers_cover_every_parameter_once(optimizer, kinds):
    cfg = train_gpt.Config(**{**TINY, "optimizer": optimizer, "weight_decay": 0.1})
    model = train_gpt.GPT(cfg, V)
    optimizers = train_gpt.make_optimizers(model, cfg)
    groups = [group for o in optimizers for group in o.param_groups]
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(optimizers) == kinds and len(ids) == len(set(ids)) == len(list(model.parameters()))
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}


def test_muon_trains_the_matrices_of_the_blocks_and_splits_q_k_and_v():
    cfg = train_gpt.Config(**TINY)
    model = train_gpt.GPT(cfg, V)
    muon, adamw = train_gpt.make_optimizers(model, cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["n_matrices"] for group in muon.param_groups for p in group["params"]}
    want = {name: 3 if "c_attn" in name else 1 for name, p in model.named_parameters()
            if name.startswith("h.") and p.ndim == 2}
    assert found == want


def test_each_optimizer_has_its_own_rates():
    """AdamW once kept the rate that it has beside Muon, which is far too high for it alone."""
    def rates(**changes):
        cfg = train_gpt.Config(**{**TINY, **changes})
        optimizers = train_gpt.make_optimizers(train_gpt.GPT(cfg, V), cfg)
        return [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    own = train_gpt.PEAK_LR
    assert rates() == [own["muon"], train_gpt.Config.rest_lr]
    assert rates(optimizer="adamw") == [own["adamw"]]
    assert rates(lr=0.5, rest_lr=0.1) == [0.5, 0.1]
    assert rates(lr=0.5, optimizer="adamw") == [0.5]


def test_fused_adamw_equals_the_plain_one():
    models = []
    for fused in (False, True):
        torch.manual_seed(0)
        cfg = train_gpt.Config(**{**TINY, "optimizer": "adamw", "fused": fused, "weight_decay": 0.1})
        model = train_gpt.GPT(cfg, V)
        optimizer, = train_gpt.make_optimizers(model, cfg)
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models)):
        close(a.detach(), b.detach(), 1e-5)


def test_learning_rate():
    cfg = train_gpt.Config(steps=110, warmup=10, stable_frac=0.5)
    factors = [train_gpt.lr_factor(step, cfg) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11) and factors[9] == pytest.approx(10 / 11)
    assert set(factors[10:61]) == {1}
    assert factors[85] == pytest.approx(0.5) and factors[110] == 0
    assert train_gpt.lr_factor(0, train_gpt.Config(steps=1, warmup=0)) == 1


def test_the_learning_rate_of_every_group_is_set_and_the_blocks_is_logged(text_file, tmp_path):
    cfg = tiny(text_file, tmp_path, lr=0.03, rest_lr=0.004)
    train_gpt.train(cfg)
    last = train_gpt.lr_factor(cfg.steps - 1, cfg)
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    muon, adamw = checkpoint["optimizers"]
    assert [group["lr"] for group in muon["param_groups"]] == pytest.approx([0.03 * last] * 2)
    assert [group["lr"] for group in adamw["param_groups"]] == pytest.approx([0.004 * last] * 2)
    rows = (tmp_path / "run/log.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[3]) == pytest.approx(0.03 * last)


# ---- sampling

def test_sample_token():
    """20,000 draws; six standard deviations are below 0.022."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    rng = torch.Generator().manual_seed(0)

    def share(**options):
        draws = train_gpt.sample_token(logits.expand(20000, 4), generator=rng, **options)
        return torch.bincount(draws, minlength=4) / 20000

    def softmax(*values):
        return F.softmax(torch.tensor(values), dim=0)

    inf = math.inf
    assert train_gpt.sample_token(logits, temperature=0) == 1
    assert (share() - softmax(1.0, 3.0, 2.0, 0.0)).abs().max() < 0.022
    assert (share(temperature=2.0) - softmax(0.5, 1.5, 1.0, 0.0)).abs().max() < 0.022
    assert (share(top_k=2) - softmax(-inf, 3.0, 2.0, -inf)).abs().max() < 0.022
    assert (share(top_k=99) - softmax(1.0, 3.0, 2.0, 0.0)).abs().max() < 0.022
    # probabilities 0.64, 0.24, 0.09, 0.03: the smallest set with at least top_p
    assert (share(top_p=0.7) - softmax(-inf, 3.0, 2.0, -inf)).abs().max() < 0.022
    assert (share(top_p=0.95) - softmax(1.0, 3.0, 2.0, -inf)).abs().max() < 0.022
    assert share(top_p=0.6).tolist() == share(top_p=1e-9).tolist() == [0, 1, 0, 0]


def test_each_row_is_sampled_by_its_own_logits():
    """Sorted logits must find back to their own tokens, row by row."""
    logits = torch.tensor([[5.0, 0.0, 4.0], [0.0, 5.0, 4.0], [4.0, 0.0, 5.0]])
    for _ in range(20):
        assert train_gpt.sample_token(logits, top_p=0.5).tolist() == [0, 1, 2]
        assert train_gpt.sample_token(logits, top_k=1).tolist() == [0, 1, 2]


@both_attentions
def test_with_a_cache_the_same_tokens_are_generated(fused):
    """Far beyond the context of 16 tokens; from a short prompt, and from one that does not fit into the context."""
    model = make_model(fused=fused)
    for B, length, options in ((3, 5, dict(temperature=1.0)), (1, 40, dict(temperature=0))):
        prompt = random_tokens(B, length)
        texts = []
        for reader in (model, train_gpt.CachedGPT(model)):
            rng = torch.Generator().manual_seed(1)
            texts.append(train_gpt.generate(reader, prompt, 50, generator=rng, **options))
        assert texts[0].shape == (B, length + 50) and torch.equal(texts[0][:, :length], prompt)
        assert torch.equal(texts[0], texts[1])


@both_attentions
def test_logits_with_a_cache_equal_those_without(fused):
    """If this fails after a change to the network: what CachedAttention keeps must be what attention uses. Rotary
    positions, for instance, belong into `qkv`, which is told the position of its first token."""
    model = make_model(fused=fused).double()
    tokens = random_tokens(2, 16)
    want = model(tokens)
    cached = train_gpt.CachedGPT(model)
    for end in (7, 12, 13, 14, 15, 16):                         # the prompt, five at once, then one by one
        close(cached(tokens[:, :end]), want[:, end - 1:end], 1e-10)
    other = random_tokens(2, 9, seed=1)                         # shorter: a text of its own
    close(cached(other), model(other)[:, -1:], 1e-10)


def test_a_full_context_keeps_its_last_half(monkeypatch):
    model = make_model()
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda idx: seen.append(idx.clone()) or forward(idx))
    text = train_gpt.generate(model, random_tokens(1, 16), 11, temperature=0)[0]
    assert [s.size(1) for s in seen] == [16, *range(8, 17), 8]
    assert torch.equal(seen[1][0], text[9:17]) and torch.equal(seen[-1][0], text[18:26])


def test_with_a_cache_every_token_is_read_once(monkeypatch):
    model = make_model()
    lengths = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda idx, *args, **kw: lengths.append(idx.size(1)) or embed(idx, *args, **kw))
    train_gpt.generate(train_gpt.CachedGPT(model), random_tokens(1, 16), 11, temperature=0)
    assert lengths == [16, 8, *[1] * 8, 8]                      # a full context is read anew, its last half


@pytest.mark.parametrize("cached", [False, True])
def test_generation_leaves_the_model_as_it_was_and_hands_out_each_token(cached):
    """Dropout must not act while sampling, and must act again afterwards."""
    model = make_model(dropout=0.5)
    prompt = random_tokens(2, 5)
    columns = []
    reader = train_gpt.CachedGPT(model) if cached else model
    text = train_gpt.generate(reader, prompt, 8, temperature=0, on_token=columns.append)
    assert model.training
    assert torch.equal(text, torch.cat([prompt, torch.stack(columns, dim=1)], dim=1))
    model.eval()
    reader = train_gpt.CachedGPT(model) if cached else model
    assert torch.equal(text, train_gpt.generate(reader, prompt, 8, temperature=0))
    assert not model.training


def test_a_text_does_not_depend_on_its_batch_mates():
    model = make_model()
    prompts = random_tokens(4, 6, seed=3)
    together = train_gpt.generate(model, prompts, 10, temperature=0)
    for prompt, text in zip(prompts, together):
        assert torch.equal(train_gpt.generate(model, prompt[None], 10, temperature=0)[0], text)


def test_fast_vectors_change_nothing_but_the_speed():
    model = make_model(n_embd=32)
    prompt = random_tokens(1, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)                                    # 29 outputs are then no multiple of a slab
    try:
        plain = train_gpt.generate(model, prompt, 40, temperature=0)
        with torch.no_grad():
            want = model(prompt[:, :1])
            with fast_vectors(model):
                close(model(prompt[:, :1]), want, 1e-5)
                fast = train_gpt.generate(train_gpt.CachedGPT(model), prompt, 40, temperature=0)
                assert torch.equal(fast, plain)
    finally:
        torch.set_num_threads(threads)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_every_sampling_option_reaches_the_sampler():
    model = make_model()
    tokenizer = CharTokenizer("".join(map(chr, range(60, 60 + V))))

    def text(**options):
        model.cfg = train_gpt.Config(**{**TINY, "prompt": "A", "max_new_tokens": 40, **options})
        return train_gpt.write(model, tokenizer)

    greedy = text(temperature=0.0)
    assert text(top_k=1) == text(top_p=1e-6) == text(temperature=1e-5) == greedy
    assert text(temperature=1.0) == text(temperature=1.0) != greedy
    assert text(temperature=1.0, seed=2) != text(temperature=1.0)
    assert text(temperature=1.0, cache=False) == text(temperature=1.0)
    assert len(text(num_samples=3)) == 3 and len(text(max_new_tokens=7)[0]) == 8


# ---- training

def test_end_to_end(text_file, tmp_path, capsys):
    cfg = tiny(text_file, tmp_path, steps=100, block_size=32, eval_every=50, sample_every=33)
    result = train_gpt.train(cfg)
    run = tmp_path / "run"
    characters = len(set(Path(text_file).read_text()))
    assert result["chance"] == pytest.approx(math.log(characters))
    assert max(result["val_loss"], result["kneser_ney"]) < result["chance"] / 2
    assert {"bits_per_byte", "copied", "copied_held_out"} <= set(result)
    last_row = (run / "log.csv").read_text().splitlines()[-1]
    assert float(last_row.split(",")[4]) == result["val_loss"]
    assert (run / "samples/step_000099.txt").exists()
    out = capsys.readouterr().out
    assert "ln V" in out and "by counting" in out and "longest run copied" in out

    flags = [f"--out_dir={run}", "--device=cpu", "--max_new_tokens=30"]
    texts = train_gpt.main(["sample", *flags, "--prompt=the cat", "--num_samples=2"])
    out = capsys.readouterr().out
    assert all(text in out for text in texts) and out.count("longest run copied") == 2
    Path(text_file).rename(tmp_path / "moved.txt")              # the checkpoint is all that `sample` needs
    assert train_gpt.main(["sample", *flags])[0]
    assert "cannot be told" in capsys.readouterr().out
    (tmp_path / "moved.txt").rename(text_file)
    table = train_gpt.main(["evaluate", *flags])
    assert json.loads((run / "evaluate.json").read_text()) == {"loss_by_context": table}
    assert list(table) == ["1 tokens", "2 tokens", "4 tokens", "8 tokens", "16 tokens", "32 tokens"]
    assert table["32 tokens"]["nats"] < table["1 tokens"]["nats"]       # the past does help
    assert read_png(run / "samples/context.png").shape == (460, 760, 3)


def test_the_evaluation_at_the_end_is_done_once(text_file, tmp_path, monkeypatch):
    calls = []
    plain = train_gpt.estimate_loss
    monkeypatch.setattr(train_gpt, "estimate_loss", lambda *args: calls.append(1) or plain(*args))
    train_gpt.train(tiny(text_file, tmp_path))
    assert len(calls) == 2                                      # after steps 3 and 6


def test_a_loss_of_exactly_zero_is_a_loss(text_file, tmp_path, monkeypatch):
    """0.0 counts as False: once such a run was not saved."""
    monkeypatch.setattr(train_gpt, "estimate_loss", lambda *args: 0.0)
    result = train_gpt.train(tiny(text_file, tmp_path))
    assert result["val_loss"] == 0.0 and (tmp_path / "run/checkpoint.pt").exists()


def test_gradient_accumulation_gives_the_same_gradient(text_file, tmp_path, monkeypatch):
    gradients = []
    clip = torch.nn.utils.clip_grad_norm_

    def look(parameters, limit):
        parameters = list(parameters)
        gradients.append([p.grad.clone() for p in parameters])
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", look)
    losses = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        train_gpt.train(tiny(text_file, tmp_path, out_dir=str(folder), grad_accum=parts, steps=1, matmul="highest"))
        losses.append(float((folder / "log.csv").read_text().splitlines()[1].split(",")[2]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    for others in gradients[1:]:
        for a, b in zip(others, gradients[0]):
            assert (a - b).abs().max() <= 1e-5 * max(b.abs().max(), 1e-3)


def test_every_step_begins_without_a_gradient(text_file, tmp_path, monkeypatch):
    clean = []
    forward = train_gpt.GPT.forward

    def look(self, idx):
        if self.training:
            clean.append(all(p.grad is None for p in self.parameters()))
        return forward(self, idx)

    monkeypatch.setattr(train_gpt.GPT, "forward", look)
    train_gpt.train(tiny(text_file, tmp_path))
    assert clean == [True] * 6


def test_the_gradient_is_clipped(text_file, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def look(self, *args, **kwargs):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    for clip in (0.0, 0.01):
        train_gpt.train(tiny(text_file, tmp_path, grad_clip=clip, optimizer="adamw", steps=2, eval_every=0,
                             sample_every=0))
    assert min(norms[:2]) > 0.02 and norms[2:] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_resuming_refuses_another_optimizer(text_file, tmp_path):
    train_gpt.train(tiny(text_file, tmp_path))
    with pytest.raises(UserError, match="another --optimizer"):
        train_gpt.train(tiny(text_file, tmp_path, resume=True, optimizer="adamw"))


def test_a_longer_prompt_than_a_token_is_kept_out_of_what_counts_as_copied(text_file, tmp_path):
    prompt = Path(text_file).read_text()[:15]
    result = train_gpt.train(tiny(text_file, tmp_path, steps=1, prompt=prompt))
    assert result["copied"] < 10
    assert (tmp_path / "run/samples/step_000001.txt").read_text().startswith(prompt)


# ---- published weights

def test_sizes_are_read_off_the_tensors():
    sizes, weights = read_gpt2(REFERENCE / "gpt2_b/model.safetensors")
    assert sizes == dict(n_layer=3, n_head=4, n_embd=32, block_size=24) and len(weights["wte.weight"]) == 61


def gpt2_folder(tmp_path):
    """A folder as it is published: weights, config.json, vocab.json and merges.txt."""
    folder = tmp_path / "gpt2"
    shutil.copytree(REFERENCE / "gpt2_a", folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(REFERENCE / "bpe" / name, folder)
    return folder


FEW_STEPS = ["--device=cpu", "--steps=1", "--lr=1e-30", "--rest_lr=0", "--batch_size=2", "--max_new_tokens=9"]


def test_training_begins_with_the_weights_of_another_run(text_file, tmp_path):
    train_gpt.train(tiny(text_file, tmp_path))
    before = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["model"]["wte.weight"]
    train_gpt.main([*FEW_STEPS, f"--data={text_file}", f"--init_from={tmp_path}/run/checkpoint.pt",
                    f"--out_dir={tmp_path}/tuned"])
    tuned = torch.load(tmp_path / "tuned/checkpoint.pt", weights_only=True)
    assert torch.equal(tuned["model"]["wte.weight"], before) and tuned["config"]["n_embd"] == 16


@pytest.mark.paper
def test_training_begins_with_the_weights_of_gpt2(text_file, tmp_path, capsys):
    weights = f"--init_from={gpt2_folder(tmp_path)}/model.safetensors"
    train_gpt.main([*FEW_STEPS, f"--data={text_file}", weights, f"--out_dir={tmp_path}/tuned", "--block_size=16"])
    tuned = torch.load(tmp_path / "tuned/checkpoint.pt", weights_only=True)
    assert tuned["config"]["block_size"] == 16 and tuned["tokenizer"]["kind"] == "bpe"
    _, want = golden_weights("gpt2_a")
    assert torch.equal(tuned["model"]["h.1.mlp.c_fc.weight"], want["h.1.mlp.c_fc.weight"])
    assert torch.equal(tuned["model"]["wpe.weight"], want["wpe.weight"][:16])
    capsys.readouterr()
    texts = train_gpt.main(["sample", weights, "--prompt=The", "--max_new_tokens=40"])
    assert texts[0].startswith("The") and len(texts[0]) > 20    # beyond the 32 tokens of its context
    train_gpt.main(["sample", f"--out_dir={tmp_path}/tuned", "--max_new_tokens=5"])
    assert "longest run copied" in capsys.readouterr().out      # where the run once began no longer matters


def test_weights_and_a_preset_go_together(text_file, tmp_path):
    """--init_from with --preset=finetune, as the docstring of train_gpt.py says, was refused once."""
    train_gpt.train(tiny(text_file, tmp_path))
    result = train_gpt.main([f"--init_from={tmp_path}/run", "--preset=finetune", "--steps=1", "--device=cpu",
                             "--block_size=16", f"--data={text_file}", f"--out_dir={tmp_path}/tuned", "--max_new_tokens=5"])
    config = json.loads((tmp_path / "tuned/config.json").read_text())
    assert result["steps"] == 1 and config["optimizer"] == "adamw" and config["n_embd"] == 16


def test_read_gpt_cuts_the_context(tmp_path):
    cfg = train_gpt.Config(init_from=f"{gpt2_folder(tmp_path)}/model.safetensors")
    assert read_gpt(cfg)[0].block_size == 32
    cut, checkpoint = read_gpt(cfg, longest_context=9)
    assert cut.block_size == 9 and len(checkpoint["model"]["wpe.weight"]) == 9


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused = partial(refused_by, train_gpt.main)


def test_bad_data(tmp_path, capsys):
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
    assert "no text in the folder (.txt)" in refused(capsys, *run, f"--data={tmp_path}/folder")
    assert not (tmp_path / "run").exists()


def test_bad_prompt(text_file, tmp_path, capsys):
    run = [f"--out_dir={tmp_path}/run", "--device=cpu"]
    train = [*run, f"--data={text_file}", "--tokenizer=char", "--block_size=16", "--steps=1"]
    assert "17 tokens" in refused(capsys, *train, "--prompt=" + "a" * 17)   # before it trains, not after
    assert not (tmp_path / "run").exists()
    train_gpt.train(tiny(text_file, tmp_path, steps=1))
    assert "'é'" in refused(capsys, "sample", *run, "--prompt=thé")
    with pytest.raises(SystemExit):
        train_gpt.main(["sample", *run, "--prompt=thé"])
    assert "thé" not in capsys.readouterr().out         # printed, it stood before the error, on the same line
    for flag, value, rule in (("max_new_tokens", 0, "at least 1"), ("num_samples", 0, "at least 1"),
                              ("top_p", 0.0, "above 0"), ("temperature", -1.0, "not be negative"),
                              ("top_k", -1, "not be negative")):
        error = refused(capsys, "sample", *run, f"--{flag}={value}")
        assert f"--{flag}={value}" in error and rule in error


def test_bad_sizes(text_file, tmp_path, capsys):
    run = [f"--data={text_file}", f"--out_dir={tmp_path}/run"]
    for flag, rule in (("--n_embd=10", "multiple of --n_head=4"), ("--n_layer=0", "at least 1"), ("--block_size=1", "at least 2"),
                       ("--batch_size=-1", "at least 1"), ("--dropout=2.0", "below 1"),
                       ("--stable_frac=1.0", "below 1"), ("--tokenizer=word", "vocab.json")):
        error = refused(capsys, *run, flag)
        assert flag.split("=")[0] in error and rule in error
    error = refused(capsys, *run, "--grad_accum=3", "--batch_size=4")
    assert "multiple of --grad_accum=3" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.paper
def test_bad_weights(tmp_path, capsys):
    """Marked `paper` because the weights that are not broken have to fit the network."""
    folder = gpt2_folder(tmp_path)
    path = folder / "model.safetensors"
    run = ["sample", f"--init_from={path}"]
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in refused(capsys, *run)
    path.write_bytes(whole)
    assert "--n_layer=5" in refused(capsys, *run, "--n_layer=5")
    assert "--tokenizer=char" in refused(capsys, *run, "--tokenizer=char")
    assert "pickle" in refused(capsys, "sample", f"--init_from={folder}/pytorch_model.bin")
    assert "no such file" in refused(capsys, "sample", f"--init_from={folder}/other.safetensors")
    (folder / "vocab.json").unlink()
    assert "vocab.json" in refused(capsys, *run)
    (folder / "config.json").write_text("{")
    assert "config.json" in refused(capsys, *run)


def test_a_checkpoint_of_an_edited_network_is_refused_in_one_line(text_file, tmp_path, capsys):
    """A student who adds a layer and samples from the run before: once a page of key names."""
    train_gpt.train(tiny(text_file, tmp_path, steps=1))
    path = tmp_path / "run/checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model"]["h.0.attn.sink"] = torch.zeros(3)
    torch.save(checkpoint, path)
    assert "another network" in refused(capsys, "sample", f"--out_dir={tmp_path}/run")
    checkpoint["model"] = {name: p for name, p in checkpoint["model"].items() if "h." not in name}
    torch.save(checkpoint, path)
    error = refused(capsys, "sample", f"--out_dir={tmp_path}/run")
    assert "another network" in error and "more" in error and len(error) < 250
    checkpoint["model"]["token_embedding.weight"] = checkpoint["model"].pop("wte.weight")
    torch.save(checkpoint, path)
    assert "another network" in refused(capsys, "sample", f"--out_dir={tmp_path}/run")
    assert "another network" in refused(capsys, "sample", f"--init_from={path}")


def test_a_run_does_not_go_on_with_the_optimisers_of_an_edited_network(text_file, tmp_path):
    train_gpt.train(tiny(text_file, tmp_path, steps=1))
    path = tmp_path / "run/checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizers"][0]["param_groups"][0]["params"].pop()
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="another network"):
        train_gpt.train(tiny(text_file, tmp_path, resume=True))
