"""mini/text_to_image.py against torch's functional attention, diffusers (tests/reference/diffusion.npz), an exactly
known conditional distribution, and the classic bugs."""
import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import text_to_image
from mini.data.images import captions, image_sets
from mini.data.images.captions import Words
from mini.utils.images import to_float
from mini.utils.png import read_png
from tests.helpers import (alike, cheap_judges, close, find_text, normal, own_captions, read_grid, read_sheet,
                           refused_by, rng_of)

PAD = Words.PAD
TINY = dict(n_images=40, width=32, T=20, batch_size=4, steps=6, warmup=1, n=2, sample_steps=3, log_every=1,
            sample_every=3, eval_every=2, device="cpu", matmul="highest")
SHAPE = 3, 32, 12, 7            # channels, size, words, longest prompt
GOLDEN = np.load(Path(__file__).parent / "reference/diffusion.npz")
WAYS = {"small": dict(sampler="ddpm", sample_steps=50), "eta0": dict(sampler="ddim", sample_steps=10),
        "dpm": dict(sampler="dpm", sample_steps=10)}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "cascade") as (folder, patch):
        patch.setattr(captions, "HELD_OUT", 64)
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 6 steps, 3 of each stage; only its samples/ may be written to."""
    return place / "trained", text_to_image.train(tiny(out_dir=str(place / "trained")))


def tiny(**changes):
    return text_to_image.Config(**{**TINY, **changes})


def no_judge(*_):
    return SimpleNamespace(n=0)


def some_nets():
    """The networks of two stages with weights that matter, in float32."""
    nets = text_to_image.make_nets(tiny(), SHAPE, None)["averages"]
    for i, p in enumerate(nets.parameters()):
        p.data += 0.1 * normal(*p.shape, seed=i, dtype=torch.float32)
    return nets


def prompts(lengths, seed=0, L=7):
    """Random prompts (n, L) of these numbers of words, filled up with PAD."""
    y = torch.randint(1, 12, (len(lengths), L), generator=rng_of(seed))
    return y.masked_fill(torch.arange(L) >= torch.tensor(lengths)[:, None], PAD)


# ---- the noise and the samplers, by the golden outputs of train_diffusion.py

@pytest.mark.paper
def test_the_schedule_equals_diffusers():
    """β at T = 1000, which diffusers has in float32; ᾱ at T = 50; 1 behind the last, and noise alone at it."""
    abar = text_to_image.make_abar(1000)
    assert abar.shape == (1001,) and abar.dtype == torch.float64 and abar[-1] == 1 and 0 < abar[999]**0.5 < 0.01
    want = torch.tensor(GOLDEN["cosine/betas"]).double()
    assert (1 - abar[:-1] / torch.cat([torch.ones(1), abar[:-2]]) - want).abs().max() < 1e-7
    close(text_to_image.make_abar(50)[:-1], GOLDEN["cosine/abar"], 1e-12)
    x0, eps = torch.tensor(GOLDEN["x0"]), torch.tensor(GOLDEN["eps"])
    close(text_to_image.add_noise(x0, eps, text_to_image.make_abar(50)[:50, None, None]), GOLDEN["cosine/forward"],
          1e-10)


@pytest.mark.paper
@pytest.mark.parametrize("way", WAYS)
def test_every_step_and_every_chain_equals_diffusers(way, monkeypatch):
    """Steps one by one, each from diffusers' x, and the chain as a whole: its times, and which noise goes where."""
    cfg, want, asked, before = tiny(T=50, **WAYS[way]), torch.tensor(GOLDEN[f"cosine/{way}"]), [], None
    x0, z, abar = torch.tensor(GOLDEN["x0"]), torch.tensor(GOLDEN["noise"]), text_to_image.make_abar(50).tolist()
    times = list(range(49, -1, -1)) if cfg.sample_steps == 50 else GOLDEN["times"].tolist()
    for i, (t, s) in enumerate(zip(times, [*times[1:], -1])):
        close(text_to_image.step_back(want[i], x0[t], abar[t], abar[s], z[t], cfg, before), want[i + 1], 1e-10)
        before = x0[t], abar[t]
    monkeypatch.setattr(torch, "randn", lambda shape, generator, dtype: z[asked[-1]])
    steps = list(text_to_image.sample_chain(lambda x, t: asked.append(t) or x0[t], want[0], cfg, None))
    assert asked == times
    for (x, answer), wanted, t in zip(steps, want, times):
        close(x, wanted, 1e-10)
        assert torch.equal(answer, x0[t])
    close(steps[-1][1], want[-1], 1e-10)


def test_update_average():
    average, model, keep = nn.Linear(3, 2).double(), nn.Linear(3, 2).double(), 0.7
    want = average.weight.detach().clone()
    for step in range(4):
        nn.init.normal_(model.weight)
        text_to_image.update_average(average, model, keep)
        want = keep * want + (1 - keep) * model.weight.detach()
    close(average.weight.detach(), want, 1e-12)


# ---- the networks

def written_attention(p, x, mask, y, hs=32):
    """Attention in torch's functional forms, head by head, with the weights p."""
    h = F.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"])
    C, y = x.size(-1), h if y is None else y
    q = F.linear(h, p["q.weight"], p["q.bias"])
    k, v = (F.linear(y, p["kv.weight"][part], p["kv.bias"][part]) for part in (slice(C), slice(C, 2 * C)))
    heads = [F.scaled_dot_product_attention(q[..., i:i + hs], k[..., i:i + hs], v[..., i:i + hs],
                                            None if mask is None else mask[:, 0]) for i in range(0, C, hs)]
    return x + F.linear(torch.cat(heads, -1), p["proj.weight"], p["proj.bias"])


@pytest.mark.parametrize("way", ["words to words", "pixels to words", "pixels to pixels"])
def test_attention_with_padding_equals_torch(way):
    """Outputs, and gradients for inputs and weights, to 1e-10. Heads or pixels mixed up, a scale by √C, PAD read."""
    C, D = 64, 64 if way == "words to words" else 48
    layer = text_to_image.Attention(C, C if "to pixels" in way else D).double()
    for i, p in enumerate(layer.parameters()):                  # none may be zero
        p.data += 0.1 * normal(*p.shape, seed=i)
    mask = torch.zeros(2, 1, 1, 6).double()
    mask[0, ..., 4:] = mask[1, ..., 1:] = -math.inf
    x = normal(2, C, 3, 5) if "pixels" in way else normal(2, 6, C)
    words = normal(2, 6, D, seed=5) if way == "pixels to words" else None
    mask = None if "to pixels" in way else mask
    p = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    own, other = ([t.clone().requires_grad_() for t in (x, words) if t is not None] for _ in range(2))
    got = layer(own[0], 0.0 if mask is None else mask, *own[1:])
    flat = other[0].flatten(2).mT if x.ndim == 4 else other[0]
    want = written_attention(p, flat, mask, other[1] if words is not None else None)
    want = want.mT.reshape(x.shape) if x.ndim == 4 else want
    close(got, want, 1e-10)
    mix = normal(*x.shape, seed=9)
    for a, b in zip(torch.autograd.grad((got * mix).sum(), [*own, *layer.parameters()]),
                    torch.autograd.grad((want * mix).sum(), [*other, *p.values()])):
        close(a, b, 1e-10)
    if words is not None:
        assert (torch.autograd.grad((layer(own[0], mask, own[1])).sum(), own[1])[0][0, 4:] == 0).all()


def test_padding_changes_nothing():
    """More PAD behind, or other prompts beside it in the batch: the same vectors, and the same picture."""
    nets, y = some_nets(), prompts([3, 7, 0, 1])
    words, mask = nets[0].text(y)
    assert mask.shape == (4, 1, 1, 8) and torch.equal(mask[:, 0, 0, 1:] == 0, y != PAD) and (mask[..., 0] == 0).all()
    x, t = normal(4, 3, 16, 16, dtype=torch.float32), torch.tensor([1, 5, 9, 19])
    out = nets[0](x, t, words, mask)
    for i, n in enumerate((3, 7, 0, 1)):
        short, short_mask = nets[0].text(y[i:i + 1, :n])
        close(words[i, :n + 1], short[0], 1e-5)
        close(out[i:i + 1], nets[0](x[i:i + 1], t[i:i + 1], short, short_mask), 1e-4)
    assert not torch.allclose(out[0], nets[0](x[:1], t[:1], *nets[0].text(y[1:2]))[0], atol=1e-3)


def test_an_empty_prompt_is_no_nan():
    """If all keys were hidden, the softmax would be 0/0, in sampling, and in the gradients of every batch with one."""
    nets, y = some_nets(), prompts([0, 0])
    for p in nets[0].parameters():
        p.requires_grad_()
    out = nets[0](normal(2, 3, 16, 16, dtype=torch.float32), torch.tensor([1, 5]), *nets[0].text(y))
    out.square().sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in nets[0].parameters())


@pytest.mark.parametrize("stage", [0, 1])
def test_the_order_of_words_matters_and_all_parts_learn(stage):
    """At first blocks change nothing and the output is 0; once the zeros are left, every weight has a gradient."""
    nets = text_to_image.make_nets(tiny(), SHAPE, None)["nets"]
    net, y = nets[stage], prompts([5, 2])
    x, t = normal(2, 3, net.S, net.S, dtype=torch.float32), torch.tensor([1, 19])
    more = (normal(2, 3, 16, 16, dtype=torch.float32), torch.tensor([3, 7])) if stage else ()
    assert (net(x, t, *nets[0].text(y), *more) == 0).all() and net.pixel == (2 if stage else 1)
    for i, p in enumerate(nets.parameters()):
        p.data += 0.1 * normal(*p.shape, seed=i, dtype=torch.float32)
    out = net(x, t, *nets[0].text(y), *more)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    swapped = y[:, [1, 0, *range(2, 7)]]
    assert not torch.allclose(out, net(x, t, *nets[0].text(swapped), *more), atol=1e-4)
    for one, other in [(3, 0), (0, 3)] * stage:                 # the small picture and its level are looked at
        changed = net(x, t, *nets[0].text(y), more[0] + one, more[1] + other)
        assert not torch.allclose(out, changed, atol=1e-4)


# ---- the loss and the batches

def test_loss_by_hand(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    cfg, abar, t = tiny(T=1000, max_weight=5.0), text_to_image.make_abar(1000), torch.tensor([0, 300, 600, 900])
    x0, eps, out, seen, want = normal(4, 3, 4, 4), normal(4, 3, 4, 4, seed=1), normal(4, 3, 4, 4, seed=2), [], 0.0
    got = text_to_image.loss_of(lambda *inputs: seen.extend(inputs) or out, lambda y: ("words", "mask"), x0, "y", t,
                                eps, ("low", "s"), abar, cfg)
    for b in range(4):
        a = abar[t[b]].item()
        close(seen[0][b], math.sqrt(a) * x0[b] + math.sqrt(1 - a) * eps[b], 1e-12)
        want += min(5.0, 1 / (1 - a)) * (out[b] - x0[b]).square().sum().item() / out.numel()
    assert math.isclose(got, want, rel_tol=1e-10) and seen[1] is t and seen[2:] == ["words", "mask", "low", "s"]


def stage(S, text):
    return SimpleNamespace(S=S, text=text)


def test_a_batch():
    """An image beside one of its captions; pixels in [-1, 1], made small by means; times evenly spread."""
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 8, 8) * 5
    tokens = torch.arange(50)[:, None, None] * 10 + torch.arange(1, 4)[:, None] + torch.zeros(2, dtype=torch.long)
    abar, cfg = text_to_image.make_abar(1000), tiny(T=1000, drop=0.0)
    x0, y, t, eps, disturbed = text_to_image.draw_batch(images, tokens, 40, stage(4, True), cfg, abar, rng_of(3))
    assert x0.shape == eps.shape == (40, 3, 4, 4) and disturbed == () and y.shape == (40, 2)
    close(x0[:, 0, 0, 0], y[:, 0].div(10, rounding_mode="floor") * 5 / 127.5 - 1, 1e-6)
    assert set((y[:, 0] % 10).tolist()) == {1, 2, 3} and abs(eps.std() - 1) < 0.05
    assert all(25 * i <= t[i] < 25 * (i + 1) for i in range(40))


@pytest.mark.parametrize("drop, least, most", [(0.0, 1, 1), (1.0, 0, 0), (0.25, 0.7, 0.8)])
def test_prompts_are_dropped_whole(drop, least, most):
    images, tokens = torch.zeros(9, 3, 2, 2, dtype=torch.uint8), prompts([5]).expand(9, 2, 7)
    y = text_to_image.draw_batch(images, tokens, 4000, stage(2, True), tiny(drop=drop), text_to_image.make_abar(20),
                                 rng_of(0))[1]
    kept = (y == tokens[0, 0]).all(1)
    assert (kept | (y == PAD).all(1)).all() and least <= kept.double().mean() <= most


def test_the_small_image_is_disturbed_alike_in_training_and_sampling():
    """Normalised, then noised, by the level that the network is told; in training levels from 0 to max_s."""
    abar, cfg, seen = text_to_image.make_abar(1000), tiny(T=1000, max_s=0.5, s=0.1, sample_steps=1), []
    images = torch.full((3, 3, 32, 32), 204, dtype=torch.uint8)
    low, s = text_to_image.draw_batch(images, prompts([5]).expand(3, 2, 7), 1500, stage(32, None), cfg, abar,
                                      rng_of(0))[4]
    assert low.shape == (1500, 3, 16, 16) and s.min() <= 5 and 495 <= s.max() <= 500
    z = (low - abar[s].view(-1, 1, 1, 1).sqrt() * 0.6) / (1 - abar[s]).view(-1, 1, 1, 1).sqrt()
    assert z.mean().abs() < 0.01 and abs(z.std() - 1) < 0.01 and abs(z[s < 50].std() - 1) < 0.01

    class Second:
        C, S, text = 3, 32, None

        def __call__(self, x, t, words, mask, low, s):
            seen.extend([low, s])
            return x

    text_to_image.draw([SimpleNamespace(text=lambda y: (y, y)), Second()], prompts([5] * 200), cfg,
                       low=torch.full((200, 3, 16, 16), 0.6))
    z = (seen[0] - abar[100].sqrt() * 0.6) / (1 - abar[100]).sqrt()
    assert (seen[1] == 100).all() and z.mean().abs() < 0.02 and abs(z.std() - 1) < 0.02
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    close(text_to_image.resize(x, 2), x.view(2, 3, 2, 2, 2, 2).mean((3, 5)), 1e-6)
    assert torch.equal(text_to_image.resize(x, 4), x) and text_to_image.resize(9 * x, 8).abs().max() <= 1


# ---- sampling

class Exact(nn.Module):
    """E[x₀ | x_t, low with noise, s] of normal images (C = 1, 2 × 2) with mean m, covariance V; low is the mean A x."""
    C, S, text = 1, 2, None
    m = torch.tensor([0.1, -0.1, 0.05, 0.0]).double()
    V = 0.06 * torch.tensor([[1.0, 0.6, 0.5, 0.2], [0.6, 1.0, 0.3, 0.5], [0.5, 0.3, 1.0, 0.6], [0.2, 0.5, 0.6, 1.0]])
    V, A = V.double(), torch.full((1, 4), 0.25).double()

    def given(self, a_s):
        """The gain K and the covariance P of x₀, given the disturbed mean."""
        seen = a_s * self.A @ self.V @ self.A.T + (1 - a_s)
        K = a_s**0.5 * self.V @ self.A.T / seen
        return K, self.V - a_s**0.5 * K @ self.A @ self.V

    def forward(self, x, t, words, mask, low, s):
        abar = text_to_image.make_abar(1000)
        a, a_s = abar[t[0]], abar[s[0]]
        K, P = self.given(a_s)
        mean = self.m + (low.flatten(1).double() - a_s**0.5 * self.A @ self.m) @ K.T
        gain = a**0.5 * P @ torch.linalg.inv(a * P + (1 - a) * torch.eye(4).double())
        return (mean + (x.flatten(1).double() - a**0.5 * mean) @ gain.T).view(x.shape)


@pytest.mark.parametrize("s", [0.05, 0.5])
def test_with_exact_answers_the_second_stage_recovers_the_conditional_distribution(s):
    """Of pictures whose small one is known, but for the noise: mean and covariance within 3 % of the largest. A level
    other than that of the noise, no noise, or noise before the picture is in [-1, 1], would be seen."""
    n, cfg = 20000, tiny(T=1000, s=s, sample_steps=250, guidance=3.0)
    nets = [SimpleNamespace(text=lambda y: (y, y)), Exact()]
    moments, = text_to_image.draw(nets, torch.ones(n, 1, dtype=torch.long), cfg, low=torch.full((n, 1, 1, 1), 0.4))
    x = moments[-1]
    assert len(moments) == 18                               # of 250, each fifteenth and the last: memory is no question
    a_s, net = text_to_image.make_abar(1000)[int(s * 1000)], Exact()
    K, P = net.given(a_s)
    mean, cov = net.m + a_s**0.5 * (0.4 - net.A @ net.m) @ K.T, P + (1 - a_s) * K @ K.T
    assert (x.flatten(1).mean(0) - mean).abs().max() < 0.03 * cov.max()**0.5
    assert (x.flatten(1).double().T.cov() - cov).abs().max() < 0.03 * cov.max()


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 0.5])
def test_guidance(w):
    """0: without the prompt, 1: with it, else u + w (c − u); and only then into [-1, 1]."""
    x, asked, calls = 0.4 * normal(3, 1, 2, 2, dtype=torch.float32), (torch.tensor([1.0, 2.0, -0.5]), "mask"), []

    def net(x, t, words, mask):
        calls.append((t, words))
        return 0.3 * x + words.view(-1, 1, 1, 1)

    got = text_to_image.guided(net, asked, (torch.zeros(3), "mask"), tiny(guidance=w))(x, 6)
    want = (1 - w) * 0.3 * x + w * (0.3 * x + asked[0].view(-1, 1, 1, 1))
    assert want.abs().max() > 1.1 or w < 1
    close(got, want.clamp(-1, 1), 1e-5)
    assert len(calls) == (1 if w in (0, 1) else 2) and all((t == 6).all() and t.shape == (3,) for t, _ in calls)


def test_a_prompt_without_guidance_or_words_leaves_no_trace():
    nets, y = some_nets()[:1], prompts([5, 3])
    pictures = {(w, i): text_to_image.draw(nets, one, tiny(guidance=w))[0][-1]
                for w in (0.0, 1.0, 3.0) for i, one in enumerate((y, prompts([6, 2], seed=1), prompts([0, 0])))}
    assert torch.equal(pictures[0.0, 0], pictures[0.0, 1]) and not torch.allclose(pictures[1.0, 0], pictures[1.0, 1])
    for w in (0.0, 1.0, 3.0):
        close(pictures[w, 2], pictures[0.0, 0], 1e-5)


def test_stages_follow_each_other():
    nets, y, cfg = some_nets(), prompts([5, 3, 0]), tiny()
    first, second = text_to_image.draw(nets, y, cfg)
    assert [x.shape for x in first] == [(3, 3, 16, 16)] * 3 and [x.shape for x in second] == [(3, 3, 32, 32)] * 3
    assert torch.equal(text_to_image.draw(nets, y, cfg, low=first[-1])[0][-1], second[-1])
    close(text_to_image.draw(nets[:1], y[:1], cfg)[0][-1], first[-1][:1], 1e-4)
    close(text_to_image.draw(nets, y[:1], cfg)[1][-1], second[-1][:1], 1e-3)
    assert not torch.equal(first[0].flatten()[:700], second[0].flatten()[:700])


# ---- the run

def test_overfits_one_batch():
    cfg, abar = tiny(T=1000, levels=1), text_to_image.make_abar(1000)
    net = text_to_image.make_nets(cfg, SHAPE, None)["nets"][0]
    x0 = torch.linspace(-1, 1, 16).expand(8, 3, 16, 16) * torch.tensor([1.0, -1]).repeat(4).view(8, 1, 1, 1)
    y, t, eps = prompts([3, 2]).repeat(4, 1), torch.full((8,), 900), normal(8, 3, 16, 16, dtype=torch.float32)
    optimizer, losses = torch.optim.Adam(net.parameters(), 2e-3, (0.9, 0.99)), []
    while len(losses) < 80 and (not losses or losses[-1] > 0.05 * losses[0]):
        loss = text_to_image.loss_of(net, net.text, x0, y, t, eps, (), abar, cfg)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def sheet_shape(rows, columns, size=32):
    return rows * (size + 2) + 2, columns * (size + 2) + 2, 3


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def test_end_to_end(trained):
    run, result = trained
    rows = {f"{name}, {kind}" for name in ("held out", "unseen") for kind in ("16", "16, real", "32", "32, real", "other faces")}
    assert set(result["scores"]) == rows and result["n"] == 40
    assert {*image_sets.ATTRIBUTES, "mean", "Fréchet"} == set(result["scores"]["held out, 32"])
    log = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [row["stage"] for row in log] == ["1"] * 3 + ["2"] * 3 and len(result["val_loss"]) == 2
    assert [bool(row["val_loss"]) for row in log] == [False, True, True, True, False, True]     # and where a stage ends
    assert np.allclose([float(row["lr"]) / text_to_image.Config.lr for row in log], [1 / 2, 1, 1 / 2] * 2)
    assert read_grid(run / "samples/step_000003.png", 2, 16).shape == sheet_shape(8, 2, 16)
    assert read_grid(run / "samples/step_000006.png", 2, 32).shape == sheet_shape(8, 2)


def test_the_encoder_learns_with_the_first_stage_only(place, monkeypatch):
    cfg = tiny(out_dir=str(place / "parts"), stop_after=3)
    text_to_image.train(cfg)
    first, read, plain = saved(place / "parts")["model"], [], text_to_image.loss_of

    def spy(net, text, *args):
        read.append({f"averages.0.text.{name}": p.clone() for name, p in text.state_dict().items()})
        return plain(net, text, *args)

    monkeypatch.setattr(text_to_image, "loss_of", spy)
    text_to_image.train(tiny(out_dir=str(place / "parts"), resume=True))
    assert read and all(torch.equal(p, first[name]) for one in read for name, p in one.items())     # its average
    both = saved(place / "parts")["model"]
    fresh = text_to_image.make_nets(tiny(), saved(place / "parts")["shape"], None).state_dict()

    def changed(a, b, part):
        return any(not torch.equal(a[name], b[name]) for name in a if name.startswith(part))

    for kind in ("nets", "averages"):
        assert changed(fresh, first, f"{kind}.0.text") and not changed(first, both, f"{kind}.0")
        assert not changed(fresh, first, f"{kind}.1") and changed(first, both, f"{kind}.1")


def command(folder, *args):
    return text_to_image.main([*args, f"--out_dir={folder}", "--device=cpu", "--matmul=highest"])


def test_samples(trained, capsys):
    run, state = trained[0], saved(trained[0])
    command(run, "sample", "--prompt=a smiling face with blond hair | ", "--n=3", "--guidance=2")
    shown, out = read_sheet(run / "samples/samples.png", 3, 32).flatten(0, 1), capsys.readouterr().out
    assert "a smiling face with blond hair\nno prompt\nwrote" in out
    words = torch.tensor(Words(state["words"]).encode("a smiling face with blond hair"))
    y = F.pad(words, (0, state["shape"][3] - len(words)), value=PAD) * torch.tensor([1, 1, 1, 0, 0, 0])[:, None]
    nets = text_to_image.make_nets(text_to_image.Config(**state["config"]), state["shape"], state)["averages"]
    images = text_to_image.draw(nets, y, tiny(guidance=2.0))[1][-1]
    assert alike(shown, images)
    (row, _), = find_text(read_png(run / "samples/samples.png"), "a smiling face")      # the first line, beside its row
    assert row < read_png(run / "samples/samples.png").shape[0] / 2
    command(run, "sample", "--n=3", "--show=stages")
    assert read_grid(run / "samples/stages.png", 8, 32).shape == sheet_shape(24, 8)     # of eight captions


def test_evaluate(trained, capsys, monkeypatch):
    calls, real = [], to_float(captions.load_captions("faces", 32, 40)[1].images[-40:])
    monkeypatch.setattr(text_to_image, "draw", lambda nets, y, cfg, low=None: calls.append(
        (cfg.guidance, cfg.sample_steps, cfg.s, low is None)) or [[real]])
    rows = command(trained[0], "evaluate")
    assert json.loads((trained[0] / "evaluate.json").read_text()) == rows and "PSNR" in capsys.readouterr().out
    own = text_to_image.Config(**saved(trained[0])["config"])
    settings = [(w, steps, own.s, True) for w in (0, 1, 2, 3, 5) for steps in (5, 10, 20)]
    assert calls == [*settings, *((own.guidance, 3, s, False) for s in (0, own.s))]
    assert list(rows)[-3:] == ["real, enlarged, s 0", f"real, enlarged, s {own.s:g}", "real, bicubic"]
    assert rows["real, enlarged, s 0"]["PSNR"] == math.inf > rows["real, bicubic"]["PSNR"] > 15
    assert read_grid(trained[0] / "samples/evaluate.png", 8, 32).shape == sheet_shape(18, 8)


def captions_of(i):
    return [f"a {'dark' if i < 3 else 'bright'} square", f"number{i}"][:1 + i % 2]


def test_own_captions(tmp_path, capsys):
    run = tmp_path / "run"
    result = text_to_image.train(tiny(data=own_captions(tmp_path, captions_of), out_dir=str(run), steps=3))
    assert result["scores"] == {} and "no judge" in capsys.readouterr().out
    command(run, "sample", "--prompt=a bright square|number3", "--n=2")
    assert read_grid(run / "samples/samples.png", 2, 32).shape == sheet_shape(2, 2)
    refused(capsys, "labels", "evaluate", f"--out_dir={run}", "--device=cpu")
    refused(capsys, "'smiling'", "sample", f"--out_dir={run}", "--prompt=a smiling square")


# ---- bad input: one line, exit status 2, no traceback, nothing lost

def refused(capsys, words, *args):
    assert words in refused_by(text_to_image.main, capsys, *args)


def test_bad_prompts_data_and_flags(trained, tmp_path, capsys):
    run = ["sample", f"--out_dir={trained[0]}", "--device=cpu"]
    refused(capsys, "'zebra', 'unicorn'", *run, "--prompt=a smiling face | a zebra unicorn zebra")
    refused(capsys, "room for", *run, "--prompt=" + "face " * 60)
    for words, flag in (("--n=0", "--n=0"), ("from 1 to 20", "--sample_steps=21"), ("--s=1", "--s=1")):
        refused(capsys, words, *run, flag)
    data = own_captions(tmp_path, captions_of)
    refused(capsys, "leave out --data", *run[1:], "--resume", f"--data={data}", "--steps=9")


@pytest.mark.parametrize("flag", ["width=33", "width=0", "levels=0", "levels=9", "stem=3", "stem=0", "stages=0", "stages=9",
                                  "T=0", "n=0", "batch_size=0", "n_layer=0", "max_weight=0", "max_s=1", "s=-1",
                                  "sample_steps=0", "sampler=euler", "n_images=0", "prompt=zebra", "size=30", "size=0"])
def test_bad_sizes(flag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text_to_image, "judge_of_faces", no_judge)
    args = {**TINY, "out_dir": tmp_path / "run", **dict([flag.split("=")])}
    refused(capsys, "", *(f"--{key}={value}" for key, value in args.items()))
    assert not (tmp_path / "run").exists()
