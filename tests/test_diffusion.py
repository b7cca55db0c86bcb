"""train_diffusion.py against diffusers (tests/reference/diffusion.npz), the papers' formulas, a network and a training
loop written out here, and the classic bugs."""
import csv
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import train_diffusion
from mini.data.images import image_sets
from mini.data.images.faces import faces
from mini.utils.device import autocast
from mini.utils.images import crop, film, noise, pad, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import read_png, write_png
from tests.helpers import (alike, cheap_judges, close, find_text, normal, read_grid, read_sheet,
                           refused_by, rng_of)

TINY = dict(size=16, n_images=64, width=32, T=20, batch_size=8, steps=4, warmup=1, n=8, sample_steps=4, log_every=1,
            sample_every=2, eval_every=2, device="cpu", matmul="highest")
SHAPES = {"shade": ["dark", "bright"], "shape": ["disc", "square", "star"]}     # the attributes of made-up images
GOLDEN = np.load(Path(__file__).parent / "reference/diffusion.npz")

schedules = pytest.mark.parametrize("schedule", ["linear", "cosine"])
predictions = pytest.mark.parametrize("predict", ["x0", "v", "eps"])
samplers = pytest.mark.parametrize("sampler", [dict(sampler="ddpm"), dict(sampler="ddpm", variance="large"),
                                               dict(sampler="ddim"), dict(sampler="ddim", eta=1.0),
                                               dict(sampler="dpm")],
                                   ids=["small", "large", "eta0", "eta1", "dpm"])


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "diffusion") as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 4 steps, not to be written to but in samples/."""
    return place / "trained", train_diffusion.train(train_diffusion.Config(**TINY, out_dir=str(place / "trained")))


@pytest.fixture
def arrays(tmp_path):
    """Images of noise in files: gray 28 × 28 without labels and with them."""
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "gray.npy", images)
    np.savez(tmp_path / "gray.npz", images=images, labels=np.arange(40) % 3)
    return tmp_path


def tiny(**changes):
    return train_diffusion.Config(**{**TINY, **changes})


def flags(**changes):
    return [f"--{key}={value}" for key, value in {**TINY, **changes}.items()]


def no_judge(cfg, learn, held_out, n):
    return SimpleNamespace(n=0, labels=held_out.labels[:0], scores=lambda *_: {})


def step_back(xt, x0, abar_t, abar_s, z, cfg, before=None):
    return train_diffusion.make_step(cfg.sampler, cfg.eta, cfg.variance)(xt, x0, abar_t, abar_s, z, before)


def sample_chain(predict, x, cfg, rng, *known):
    return train_diffusion.sample_chain(predict, x, train_diffusion.make_abar(cfg.T, cfg.schedule), cfg.sample_steps,
                                        train_diffusion.make_step(cfg.sampler, cfg.eta, cfg.variance), rng, *known)


def guided(net, y, cfg):
    return train_diffusion.guided(net, y, train_diffusion.make_abar(cfg.T, cfg.schedule), cfg.predict, cfg.guidance)


def draw(net, labels, shape, cfg):
    return train_diffusion.draw(net, image_sets.one_hot(labels, shape[3]), shape, cfg)


def spread(net):
    """Weights such that every part of a network matters, and none is zero; in float64."""
    for i, p in enumerate(net.parameters()):
        with torch.no_grad():
            p.copy_(normal(*p.shape, seed=i) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5) + 0.3 * (p.ndim == 1))
    return net.double()


def golden(name, way):
    return torch.tensor(GOLDEN[f"{name}/{way}"])


# ---- the noise

@pytest.mark.paper
@schedules
def test_schedules_equal_diffusers(schedule):
    """β at T = 1000, which diffusers has in float32; ᾱ at T = 50 in float64; and 1 behind the last."""
    abar = train_diffusion.make_abar(1000, schedule)
    assert abar.shape == (1001,) and abar.dtype == torch.float64
    betas = 1 - abar[:-1] / torch.cat([torch.ones(1), abar[:-2]])
    want = golden(schedule, "betas").double()
    assert (betas - want).abs().max() < 1e-7
    close(abar[:-1], (1 - want).cumprod(0), 1e-6)
    close(train_diffusion.make_abar(50, schedule)[:-1], golden(schedule, "abar"), 1e-12)


@schedules
@pytest.mark.parametrize("T", [1000, 250, 50, 20, 5, 2, 1])
def test_the_end_is_noise_and_the_beginning_the_image(schedule, T):
    """β is below 1: something is left of the image, λ is finite. But from some steps on a chain that begins with noise
    finds no trace of an image there: √ᾱ_{T−1} < 0.01. Index -1 is no noise."""
    abar = train_diffusion.make_abar(T, schedule)
    assert len(abar) == T + 1 and abar[-1] == 1 and (abar[:T] > 0).all() and (abar[:T] < 1).all()
    assert (abar[1:T] < abar[:T - 1]).all()
    assert T < 50 or abar[T - 1]**0.5 < 0.01 and abar[0] > 0.99
    if schedule == "linear" and T >= 50:            # so much noise at first, whatever T
        assert math.isclose(1 - abar[0], 1e-4 * 1000 / T, rel_tol=1e-9)


@schedules
def test_add_noise_equals_diffusers(schedule):
    x0, eps, abar = torch.tensor(GOLDEN["x0"]), torch.tensor(GOLDEN["eps"]), train_diffusion.make_abar(50, schedule)
    close(train_diffusion.add_noise(x0, eps, abar[:50, None, None]), golden(schedule, "forward"), 1e-10)
    close(train_diffusion.add_noise(x0[7], eps[7], abar[7].item()), golden(schedule, "forward")[7], 1e-10)


@schedules
def test_to_x0_equals_diffusers(schedule):
    xt, out = torch.tensor(GOLDEN["noise"]), torch.tensor(GOLDEN["eps"])
    abar = train_diffusion.make_abar(50, schedule)[:50, None, None]
    close(train_diffusion.to_x0(out, xt, abar, "v"), golden(schedule, "from_v"), 1e-10)
    x0 = train_diffusion.to_x0(out, xt, abar, "eps")
    for got, want in zip(x0, golden(schedule, "from_eps")):                 # they grow with t
        close(got, want, 1e-10)
    assert train_diffusion.to_x0(out, xt, abar, "x0") is out


# ---- the network

def written_block(p, x, e):
    """A ResBlock in torch's functional forms, with the weights p."""
    h = F.conv2d(F.silu(F.group_norm(x, 8, p["norm1.weight"], p["norm1.bias"])), p["conv1.weight"], p["conv1.bias"],
                 padding=1)
    h, C = F.group_norm(h, 8, p["norm2.weight"], p["norm2.bias"]), h.size(1)
    scale, shift = (F.linear(e, p["emb.weight"][part], p["emb.bias"][part]).view(len(e), C, 1, 1)
                    for part in (slice(C), slice(C, 2 * C)))
    h = h + h * scale + shift
    h = F.conv2d(F.silu(h), p["conv2.weight"], p["conv2.bias"], padding=1)
    return h + (F.conv2d(x, p["skip.weight"], p["skip.bias"]) if "skip.weight" in p else x)


def written_attention(p, x, hs=32):
    B, C, H, W = x.shape
    h = F.group_norm(x, 8, p["norm.weight"], p["norm.bias"]).permute(0, 2, 3, 1).reshape(B, H * W, C)
    q, k, v = (F.linear(h, w, b) for w, b in zip(p["qkv.weight"].split(C), p["qkv.bias"].split(C)))
    heads = [F.scaled_dot_product_attention(*(part[..., i:i + hs] for part in (q, k, v))) for i in range(0, C, hs)]
    h = F.linear(torch.cat(heads, -1), p["proj.weight"], p["proj.bias"])
    return x + h.reshape(B, H, W, C).permute(0, 3, 1, 2)


def part_of(p, name):
    return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}


def written_unet(p, cfg, x, t, y):
    """The U-Net, step by step, with the weights p."""
    B, C, S, _ = x.shape
    k, half = cfg.stem, cfg.width // 2
    lengths = torch.tensor([10000 ** (-i / (half - 1)) for i in range(half)])
    waves = torch.stack([f(t[b] * length) for b in range(B) for f in (torch.cos, torch.sin) for length in lengths])
    e = F.silu(F.linear(waves.view(B, cfg.width), p["time.0.weight"], p["time.0.bias"]))
    e = F.linear(e, p["time.2.weight"], p["time.2.bias"]) + (y @ p["label.weight"].T if "label.weight" in p else 0)
    e = F.silu(e)
    h = x.view(B, C, S // k, k, S // k, k).permute(0, 1, 3, 5, 2, 4).reshape(B, C * k * k, S // k, S // k)
    h, skips = F.conv2d(h, p["stem.weight"], p["stem.bias"], padding=1), []
    for level in range(cfg.levels):
        if level:
            h = F.conv2d(h, p[f"shrink.{level - 1}.weight"], p[f"shrink.{level - 1}.bias"], stride=2, padding=1)
        h = written_block(part_of(p, f"down.{level}"), h, e)
        assert h.shape == (B, cfg.width * min(4, 2**level), S // k // 2**level, S // k // 2**level)
        skips += [h]
    h = written_block(part_of(p, "before"), h, e)
    h = written_block(part_of(p, "after"), written_attention(part_of(p, "attention"), h), e)
    for level in range(cfg.levels - 1, -1, -1):
        h = written_block(part_of(p, f"up.{level}"), torch.cat([h, skips[level]], 1), e)
        if level:
            h = F.conv2d(h, p[f"grow.{level - 1}.weight"], p[f"grow.{level - 1}.bias"], padding=1)
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    h = F.silu(F.group_norm(h, 8, p["norm.weight"], p["norm.bias"]))
    h = F.conv2d(h, p["out.weight"], p["out.bias"], padding=1)
    return h.view(B, C, k, k, S // k, S // k).permute(0, 1, 4, 2, 5, 3).reshape(B, C, S, S)


def compare(module, written, *inputs):
    """Forward, and the gradients for inputs and weights, to 1e-10."""
    spread(module)
    p = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
    own = [x.clone().requires_grad_() for x in inputs]
    others = [x.clone().requires_grad_() for x in inputs]
    got, want = module(*own), written(p, *others)
    close(got, want, 1e-10)
    mix = normal(*got.shape, seed=99)
    a = torch.autograd.grad((got * mix).sum(), [*own, *module.parameters()])
    b = torch.autograd.grad((want * mix).sum(), [*others, *p.values()])
    for one, other in zip(a, b):
        close(one, other, 1e-10)


@pytest.mark.paper
@pytest.mark.parametrize("C_in, C", [(16, 16), (16, 24), (24, 16)])
def test_resblock(C_in, C):
    compare(train_diffusion.ResBlock(C_in, C, 12), written_block, normal(3, C_in, 5, 6), normal(3, 12, seed=1))


@pytest.mark.paper
@pytest.mark.parametrize("C", [32, 64])
def test_attention(C):
    """Heads or pixels mixed up: the picture is not square."""
    compare(train_diffusion.Attention(C), written_attention, normal(2, C, 3, 5))


@pytest.mark.paper
@pytest.mark.parametrize("levels, stem, labels", [(1, 1, {}), (2, 2, SHAPES), (3, 1, SHAPES), (4, 1, {})])
def test_unet(levels, stem, labels, double):
    """A wrong skip, an upsampling by zeros, times or labels that reach the wrong place."""
    cfg, V = tiny(levels=levels, stem=stem), sum(map(len, labels.values()))
    net, y = train_diffusion.UNet(cfg, 3, V), normal(2, V, seed=2)
    x, t = normal(2, 3, 16, 16), torch.tensor([3, 17])
    if levels == 2:
        compare(Fixed(net, t), lambda p, x, y: written_unet(part_of(p, "net"), cfg, x, t, y), x, y)
    else:
        p = dict(spread(net).named_parameters())
        close(net(x, t, y), written_unet(p, cfg, x, t, y), 1e-10)


class Fixed(nn.Module):
    """A U-Net at fixed times."""

    def __init__(self, net, t):
        super().__init__()
        self.net, self.t = net, t

    def forward(self, x, y):
        return self.net(x, self.t, y)


@pytest.mark.paper
@pytest.mark.parametrize("levels, stem", [(1, 2), (2, 1), (3, 2)])
def test_unet_at_first(levels, stem):
    """Blocks change nothing and the output is 0; but once the zeros are left, every weight has a gradient."""
    torch.manual_seed(0)
    net, y = train_diffusion.UNet(tiny(levels=levels, stem=stem), 3, 5), torch.eye(5)[:2]
    x, t = normal(2, 3, 16, 16, dtype=torch.float32), torch.tensor([1, 19])
    assert net(x, t, y).shape == x.shape and (net(x, t, y) == 0).all()
    e, h = torch.randn(2, 128), torch.randn(2, 32 * min(4, 2**(levels - 1)), 4, 4)
    assert torch.equal(net.before(h, e), h) and torch.equal(net.attention(h), h)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.01 * torch.randn_like(p)
    net(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_the_gpu_presets_fit():
    """Both go down to 8 × 8, with 512 channels."""
    for preset, S in (("gpu", 32), ("gpu64", 64)):
        cfg = train_diffusion.Config(**train_diffusion.PRESETS[preset])
        assert (cfg.size, S // 2**(cfg.levels - 1), cfg.stem, cfg.width) == (S, 8, 1, 128)


# ---- the loss

@predictions
@pytest.mark.parametrize("max_weight", [5.0, 1.5, math.inf])
def test_loss_by_hand(predict, max_weight, double):
    """A weight that is σ², or not of this image's t; a mean over the wrong numbers."""
    cfg, t = tiny(predict=predict, max_weight=max_weight, T=1000), torch.tensor([0, 300, 600, 900])
    x0, eps, out, y = normal(4, 3, 4, 4), normal(4, 3, 4, 4, seed=1), normal(4, 3, 4, 4, seed=2), normal(4, 5)
    seen, abar = [], train_diffusion.make_abar(1000, "cosine")

    def net(*inputs):
        seen.extend(inputs)
        return out

    got, want = train_diffusion.loss_of(net, x0, y, t, eps, abar, cfg), 0.0
    for b in range(4):
        a = abar[t[b]].item()
        alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
        xt = alpha * x0[b].numpy() + sigma * eps[b].numpy()
        close(seen[0][b], torch.tensor(xt), 1e-12)
        right = {"x0": x0[b], "v": alpha * eps[b] - sigma * x0[b], "eps": eps[b]}[predict].numpy()
        weight = min(max_weight, 1 / sigma**2) if predict == "x0" else 1
        want += weight * ((out[b].numpy() - right)**2).sum() / out.numel()
    assert math.isclose(got, want, rel_tol=1e-10) and seen[1] is t and seen[2] is y


def test_the_loss_is_taken_in_float32():
    """The network may answer in bfloat16; ᾱ is kept in float64."""
    x0 = normal(2, 1, 4, 4, dtype=torch.float32)
    loss = train_diffusion.loss_of(lambda x, *_: x.bfloat16(), x0, None, torch.tensor([0, 5]), x0,
                                   train_diffusion.make_abar(20, "cosine"), tiny())
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("B, T", [(8, 1000), (32, 1000), (7, 50), (1, 20), (20, 20)])
def test_times_are_spread_evenly(B, T):
    """One in each of B equal parts of the T steps, anywhere in it; alike from the same rng."""
    images, labels, cfg, spreads = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, 0), tiny(T=T), []
    for seed in range(40):
        t = train_diffusion.draw_batch(images, labels, B, cfg, rng_of(seed))[2]
        assert t.shape == (B,) and t.dtype == torch.int64
        for i in range(B):
            assert math.floor(i * T / B) <= t[i] < (i + 1) * T / B
            assert abs(t[i] - t[0] - i * T / B) <= 1                    # one beginning for all
        spreads.append(t[0].item())
    assert len(set(spreads)) > min(T / B, 10) / 2 and len(set(spreads)) <= T / B + 1


@pytest.mark.parametrize("B", [32, 100, 256])
def test_times_end_before_T(B, monkeypatch):
    """(B − 1 + u) / B rounds to 1 in float32 if u is close to 1: t would be T, where ᾱ is 1, the image."""
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, 1 - 2**-24))
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, 0)
    assert train_diffusion.draw_batch(images, labels, B, tiny(T=1000), rng_of(0))[2].max() == 999


def test_a_batch():
    """An image beside its label; pixels in [-1, 1]; normal noise; all of it by the rng."""
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 8, 8) * 5
    labels, cfg = torch.eye(50), tiny(drop=0.0)
    x0, y, t, eps = train_diffusion.draw_batch(images, labels, 40, cfg, rng_of(3))
    again = train_diffusion.draw_batch(images, labels, 40, cfg, rng_of(3))
    other = train_diffusion.draw_batch(images, labels, 40, cfg, rng_of(4))
    assert all(torch.equal(a, b) for a, b in zip((x0, y, t, eps), again))
    assert not any(torch.equal(a, b) for a, b in zip((x0, y, eps), (other[0], other[1], other[3])))
    assert x0.shape == eps.shape == (40, 3, 8, 8) and x0.dtype == eps.dtype == torch.float32
    close(x0[:, 0, 0, 0], y.argmax(1) * 5 / 127.5 - 1, 1e-6)
    assert len(y.argmax(1).unique()) > 20 and eps.mean().abs() < 0.05 and abs(eps.std() - 1) < 0.05
    assert len(eps.unique()) > 7000
    rng = rng_of(3)
    batches = [train_diffusion.draw_batch(images, labels, 40, cfg, rng) for _ in range(2)]
    assert not torch.equal(batches[0][3], batches[1][3])


@pytest.mark.parametrize("drop, least, most", [(0.0, 1, 1), (1.0, 0, 0), (0.25, 0.7, 0.8)])
def test_labels_are_dropped_by_images(drop, least, most):
    """All values of an image at once, to exactly 0; never at 0, always at 1; the labels of the data stay."""
    images, labels = torch.zeros(9, 1, 1, 1, dtype=torch.uint8), torch.tensor([[1.0, 0, 0, 1, 0]]).repeat(9, 1)
    y = train_diffusion.draw_batch(images, labels, 4000, tiny(drop=drop), rng_of(0))[1]
    kept = (y == labels[0]).all(1)
    assert (kept | (y == 0).all(1)).all() and least <= kept.float().mean() <= most
    assert (labels == torch.tensor([1.0, 0, 0, 1, 0])).all()


# ---- sampling

WAYS = {"small": dict(sampler="ddpm", sample_steps=50),
        "large": dict(sampler="ddpm", variance="large", sample_steps=50),
        "strided": dict(sampler="ddpm", variance="large", sample_steps=10),
        "eta0": dict(sampler="ddim", sample_steps=10), "eta1": dict(sampler="ddim", eta=1.0, sample_steps=10),
        "dpm": dict(sampler="dpm", sample_steps=10)}


@pytest.mark.paper
@schedules
@pytest.mark.parametrize("way", WAYS)
def test_every_step_of_every_sampler_equals_diffusers(way, schedule):
    """Steps one by one, each from diffusers' x, then the chain as a whole. At the last step, from t = 0, DDPM adds no
    noise (Ho et al. 2020, algorithm 2), with both variances, and neither does diffusers; DDIM's σ is 0 there."""
    cfg, want = tiny(T=50, schedule=schedule, **WAYS[way]), golden(schedule, way)
    x0, z = torch.tensor(GOLDEN["x0"]), torch.tensor(GOLDEN["noise"])
    abar = train_diffusion.make_abar(50, schedule).tolist()
    times = list(range(49, -1, -1)) if cfg.sample_steps == 50 else GOLDEN["times"].tolist()
    before = None
    for i, (t, s) in enumerate(zip(times, [*times[1:], -1])):
        close(step_back(want[i], x0[t], abar[t], abar[s], z[t], cfg, before), want[i + 1], 1e-10)
        before = x0[t], abar[t]


@pytest.mark.parametrize("sampler, others", [("ddpm", dict(eta=1.0)), ("ddim", dict(variance="large")),
                                             ("dpm", dict(eta=1.0, variance="large"))])
def test_flags_of_another_sampler_change_nothing(sampler, others):
    abar, (x, x0, z, x1) = train_diffusion.make_abar(50, "cosine").tolist(), (normal(5, seed=i) for i in range(4))
    a, b = (step_back(x, x0, abar[30], abar[20], z, tiny(sampler=sampler, **more), (x1, abar[40]))
            for more in ({}, others))
    assert torch.equal(a, b)


@pytest.mark.paper
@schedules
@pytest.mark.parametrize("way", WAYS)
def test_chains_equal_diffusers(way, schedule, monkeypatch):
    """The times, and which step's answer and noise goes where."""
    cfg, want, asked = tiny(T=50, schedule=schedule, **WAYS[way]), golden(schedule, way), []
    x0, z = torch.tensor(GOLDEN["x0"]), torch.tensor(GOLDEN["noise"])
    monkeypatch.setattr(torch, "randn", lambda shape, generator, dtype: z[asked[-1]])
    steps = list(sample_chain(lambda x, t: asked.append(t) or x0[t], want[0], cfg, None))
    assert asked == (list(range(49, -1, -1)) if cfg.sample_steps == 50 else GOLDEN["times"].tolist())
    for (x, answer), wanted, t in zip(steps, want, asked):
        close(x, wanted, 1e-10)
        assert torch.equal(answer, x0[t])
    close(steps[-1][1], want[-1], 1e-10)            # the last answer is what the last step would make of it


@pytest.mark.parametrize("sampler", [dict(sampler="ddpm"), dict(sampler="ddpm", variance="large"),
                                     dict(sampler="ddim", eta=1.0)], ids=["small", "large", "eta1"])
def test_noise_is_of_the_rng(sampler):
    """Alike from the same rng, another from another."""
    cfg, x = tiny(T=50, sample_steps=50, **sampler), noise(1, 5000, seed=1).double()
    chains = [[x for x, _ in sample_chain(lambda x, t: 0 * x, x, cfg, rng_of(seed))] for seed in (2, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(chains[0], chains[1]))
    assert not any(torch.equal(a, b) for a, b in zip(chains[0][1:], chains[2][1:]))


@pytest.mark.parametrize("n", [5, 130])
def test_the_noise_on_the_way_is_not_that_of_the_beginning(n, monkeypatch):
    """One seed for both would add x_T to itself: too much noise at the first step of ddpm, and of ddim with eta."""
    began, came, plain = [], [], train_diffusion.ddpm_step

    def spy(xt, x0, abar_t, abar_s, z, before=None, variance="small"):
        began.append(xt), came.append(z)
        return plain(xt, x0, abar_t, abar_s, z, before, variance)

    monkeypatch.setattr(train_diffusion, "ddpm_step", spy)
    cfg, shape = tiny(sampler="ddpm", sample_steps=2, levels=1), (1, 16, 16, {})
    draw(train_diffusion.make_nets(cfg, shape, None)["net"], torch.zeros(n, 0).long(), shape, cfg)
    together = torch.corrcoef(torch.stack([began[0].flatten(), came[0].flatten()]))[0, 1]
    assert abs(together) < 0.15
    for a in came:
        assert sum(torch.equal(a.flatten()[:256], b.flatten()[:256]) for b in came) == 1    # nor two parts alike


@pytest.mark.parametrize("T", [1, 2, 3, 20, 50, 1000])
def test_times_of_a_chain(T):
    """As many steps as T: each t once. Fewer: from T − 1 to 0, no t twice."""
    for steps in {1, 2, 3, 10, 19, T - 1, T} & set(range(1, T + 1)):
        asked, cfg = [], tiny(T=T, sample_steps=steps)
        chain = list(sample_chain(lambda x, t: asked.append(t) or x, torch.zeros(1), cfg, rng_of(0)))
        assert len(chain) == steps == len(set(asked)) and asked == sorted(asked, reverse=True)
        assert asked[0] == T - 1 and (asked[-1] == 0 or steps == 1)
        gaps = [a - b for a, b in zip(asked, asked[1:])]
        assert not gaps or max(gaps) - min(gaps) <= 1
        if steps == T:
            assert asked == list(range(T - 1, -1, -1))


def mixture():
    """Weights, means and covariances of a mixture of two normal distributions in the plane, and its moments."""
    w, mu = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.4, 0.8], [0.9, -0.5]]).double()
    sigma = torch.tensor([[[0.10, 0.04], [0.04, 0.05]], [[0.06, -0.03], [-0.03, 0.12]]]).double()
    mean = w @ mu
    return w, mu, sigma, mean, torch.einsum("k,kij->ij", w, sigma + mu[:, :, None] * mu[:, None, :]) - mean.outer(mean)


def posterior_mean(x, abar):
    """E[x₀ | x_t] of the mixture: normal densities decide between the two, each has a linear answer."""
    w, mu, sigma, _, _ = mixture()
    logs, answers = [], []
    for k in range(2):
        total = abar * sigma[k] + (1 - abar) * torch.eye(2).double()    # covariance of x_t
        off = x - abar**0.5 * mu[k]
        moved = off @ torch.linalg.inv(total)
        logs.append(w[k].log() - torch.logdet(total) / 2 - (off * moved).sum(1) / 2)
        answers.append(mu[k] + abar**0.5 * moved @ sigma[k])
    first = (logs[0] - logs[1]).sigmoid()[:, None]
    return first * answers[0] + (1 - first) * answers[1]


@samplers
@pytest.mark.parametrize("schedule", ["cosine"])
def test_exact_answers_recover_the_distribution(sampler, schedule):
    """With E[x₀ | x_t] known, 200 steps of 1000 lead from noise to the mixture: mean and covariance within 2 %, of the
    largest standard deviation and the largest variance."""
    abar, x = train_diffusion.make_abar(1000, schedule).tolist(), normal(20000, 2, seed=3)
    cfg = tiny(T=1000, schedule=schedule, sample_steps=200, **sampler)
    for _, x0 in sample_chain(lambda x, t: posterior_mean(x, abar[t]), x, cfg, rng_of(4)):
        pass
    _, mu, _, mean, cov = mixture()
    assert (x0.mean(0) - mean).abs().max() < 0.02 * cov.max()**0.5
    assert (x0.T.cov() - cov).abs().max() < 0.02 * cov.max()
    near = torch.cdist(x0, mu).argmin(1).double().mean()
    assert abs(near - 0.7) < 0.02                                       # both of the two


class Answer(nn.Module):
    """A network that keeps what it was asked, and answers linearly."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, y):
        self.asked.append((x, t, y))
        return 0.3 * x + y.sum(1).view(-1, 1, 1, 1)


@predictions
@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 0.5])
def test_guidance(w, predict):
    """0: without labels, 1: with them, else u + w (c − u): in the network's output, and only then into [-1, 1]."""
    x, net = 0.4 * normal(3, 1, 2, 2, dtype=torch.float32), Answer()
    y = torch.tensor([[1.0, 0], [0, 2.0], [-0.5, 0]])
    cfg = tiny(guidance=w, predict=predict, T=1000)
    got = guided(net, y, cfg)(x, 600)
    u, c = 0.3 * x, 0.3 * x + y.sum(1).view(-1, 1, 1, 1)
    a = train_diffusion.make_abar(1000, "cosine")[600].item()
    want = train_diffusion.to_x0((u + w * (c - u)).double(), x.double(), a, predict)
    assert want.abs().max() > 1.1 or w < 1
    close(got, want.clamp(-1, 1).float(), 1e-5)
    assert len(net.asked) == (1 if w in (0, 1) else 2)
    assert all((t == 600).all() and t.shape == (3,) and t.dtype == torch.int64 for _, t, _ in net.asked)
    assert any((y == 0).all() for _, _, y in net.asked) == (w != 1)


def a_net(C=3, labels=SHAPES, **changes):
    """A network with weights that matter, in float32."""
    cfg = tiny(**changes)
    net = train_diffusion.make_nets(cfg, (C, 16, 16, labels), None)["net"]
    for i, p in enumerate(net.parameters()):
        p.data += 0.1 * normal(*p.shape, seed=i, dtype=torch.float32)
    return net


@pytest.mark.parametrize("size", [16, 13])
def test_draw(size):
    """From fixed noise, cropped; more than fit at once come in their order, and none depends on the others."""
    net, shape, cfg = a_net(C=1), (1, 16, size, SHAPES), tiny(sample_steps=2, seed=5)
    labels = torch.stack([torch.arange(130) % 2, torch.arange(130) % 3], 1)
    images = draw(net, labels, shape, cfg)
    assert images.shape == (130, 1, size, size) and not images.requires_grad and images.abs().max() <= 1
    assert torch.equal(images, draw(net, labels, shape, cfg))
    x = torch.randn(130, 1, 16, 16, generator=rng_of(5))
    for i in (0, 1, 127, 128, 129):
        y = torch.zeros(1, 5)
        y[0, i % 2] = y[0, 2 + i % 3] = 1
        chain = list(sample_chain(guided(net, y, cfg), x[i:i + 1], cfg, rng_of(0)))
        edge = (16 - size) // 2
        want = chain[-1][1].detach()[:, :, edge:edge + size, edge:edge + size]
        assert (images[i:i + 1] - want).abs().max() < 1e-5


def test_known_parts_take_their_place_at_each_step():
    """The known part of x_t is q(x_t | known), with the noise of the beginning; the rest goes its way."""
    n, cfg = 20000, tiny(T=50, sample_steps=5)
    known, mask = torch.full((n, 1, 1, 2), 0.7), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    x = noise(n, 2, seed=1).view(n, 1, 1, 2)
    chain, free = (list(sample_chain(lambda x, t: 0 * x - 0.2, x, cfg, rng_of(2), *rest))
                   for rest in ([known, mask], []))
    abar, times, zs = train_diffusion.make_abar(50, "cosine"), torch.linspace(49, 0, 5).round().int().tolist(), []
    for t, (x, _), (y, _) in zip(times, chain, free):
        a = abar[t].item()
        assert (x[..., 0].mean() - 0.7 * a**0.5).abs() < 0.03 and (x[..., 0].std() - (1 - a)**0.5).abs() < 0.03
        zs.append((x[:, 0, 0, 0] - 0.7 * a**0.5) / (1 - a)**0.5)
        close(x[..., 1], y[..., 1], 1e-6)           # dpm takes no noise
    assert torch.corrcoef(torch.stack(zs)).min() > 0.999 and (chain[-1][1][..., 0] == known[..., 0]).all()


# ---- does it learn?

def test_overfits_one_batch():
    """The same noise at each step: the loss falls to a twentieth."""
    (images, labels), cfg, attributes = faces(8, 16), tiny(levels=1, T=1000), image_sets.ATTRIBUTES
    net = train_diffusion.make_nets(cfg, (3, 16, 16, attributes), None)["net"]
    eps = normal(8, 3, 16, 16, dtype=torch.float32)
    batch = to_float(images), image_sets.one_hot(labels, attributes), torch.arange(8) * 125, eps
    optimizer, losses = torch.optim.Adam(net.parameters(), 4e-3, (0.9, 0.99)), []
    abar = train_diffusion.make_abar(1000, "cosine")
    for step in range(150):
        loss = train_diffusion.loss_of(net, *batch, abar, cfg)
        losses.append(loss.item())
        if losses[-1] < 0.05 * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


# ---- the run

def sheet_shape(n, size, C, columns=8):
    columns = min(columns, n)
    return (-(-n // columns) * (size + 2) + 2, columns * (size + 2) + 2, C)


def command(folder, *args):
    return train_diffusion.main([*args, f"--out_dir={folder}", "--device=cpu", "--matmul=highest"])


def loaded(folder):
    """(average, shape, state) as the checkpoint has them."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    net = train_diffusion.make_nets(train_diffusion.Config(**state["config"]), state["shape"], state)["average"]
    return net, state["shape"], state


def test_end_to_end(trained):
    """A run's files and numbers."""
    run, result = trained
    keys = {"val_loss", "frechet", "frechet_floor", "frechet_untrained", "frechet_n", "accuracy", "most_frequent"}
    assert keys <= set(result) and result["frechet_n"] == 64
    assert all(math.isfinite(result[key]) for key in keys if key.startswith("frechet"))
    assert list(result["accuracy"]) == list(result["most_frequent"]) == list(image_sets.ATTRIBUTES)
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [bool(row["val_loss"]) for row in rows] == [False, True] * 2
    assert float(rows[-1]["val_loss"]) == result["val_loss"] and all(float(row["loss"]) > 0 for row in rows)
    # the learning rate rises to its peak over `warmup` steps, and falls to 0 behind the last, in straight lines
    lr = [float(row["lr"]) / train_diffusion.Config.lr for row in rows]
    assert np.allclose(lr, [1 / 2, 1, 2 / 3, 1 / 3], rtol=1e-9)
    for step in (2, 4):
        assert read_grid(run / f"samples/step_00000{step}.png", 8, 16).shape == sheet_shape(8, 16, 3)
    net, shape, state = loaded(run)
    assert shape == (3, 16, 16, image_sets.ATTRIBUTES)
    assert result["parameters"] == sum(p.numel() for p in net.parameters())             # without the average
    assert {name.split(".")[0] for name in state["model"]} == {"net", "average"}


@pytest.mark.paper
@pytest.mark.parametrize("predict, drop", [("x0", 0.1), ("v", 1.0)])
def test_steps_equal_a_training_loop_written_out(predict, drop, tmp_path, monkeypatch, double):
    """In float64, with Adam and the average by hand: a forgotten zero_grad, a stale average, other rates."""
    batches, nets, plain, make = [], [], train_diffusion.draw_batch, train_diffusion.make_nets
    monkeypatch.setattr(train_diffusion, "draw_batch", lambda *args: batches.append(plain(*args)) or batches[-1])
    monkeypatch.setattr(train_diffusion, "make_nets", lambda *args: nets.append(make(*args)) or nets[-1])
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    cfg = tiny(levels=1, steps=6, warmup=2, ema=0.3, predict=predict, drop=drop, batch_size=4, eval_every=0,
               sample_every=0, out_dir=str(tmp_path / "run"))
    result = train_diffusion.train(cfg)
    net = make(cfg, (3, 16, 16, image_sets.ATTRIBUTES if drop < 1 else {}), None)["net"]
    average, abar = [p.detach().clone() for p in net.parameters()], train_diffusion.make_abar(20, "cosine")

    def loss(p, x0, y, t, eps):
        a = abar[t].view(-1, 1, 1, 1)
        out = written_unet(p, cfg, a.sqrt() * x0 + (1 - a).sqrt() * eps, t, y)
        if predict == "v":
            return ((out - a.sqrt() * eps + (1 - a).sqrt() * x0)**2).mean()
        return ((out - x0)**2 * (1 / (1 - a)).clamp(max=5)).mean()

    p = {name: value.detach().clone() for name, value in net.named_parameters()}
    m, v = ([torch.zeros_like(one) for one in average] for _ in range(2))
    lrs = [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]
    assert len(batches) == 7 and len(batches[0][0]) == 256 and batches[0][1].shape[1] == (21 if drop < 1 else 0)
    for step, batch in enumerate(batches[1:]):
        weights = {name: value.requires_grad_() for name, value in p.items()}
        gradient = torch.autograd.grad(loss(weights, *batch), list(weights.values()))
        for i, (name, g) in enumerate(zip(p, gradient)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.99 * v[i] + 0.01 * g**2
            move = m[i] / (1 - 0.9**(step + 1)) / ((v[i] / (1 - 0.99**(step + 1))).sqrt() + 1e-8)
            p[name] = (p[name] - cfg.lr * lrs[step] * move).detach()
            keep = [0, 1 / 11, 2 / 12, 3 / 13, 4 / 14, 0.3][step]
            average[i] = keep * average[i] + (1 - keep) * p[name]
    for got, name in zip(nets[0]["net"].parameters(), p):
        close(got.detach(), p[name], 1e-9)
    for got, want in zip(nets[0]["average"].parameters(), average):
        close(got.detach(), want, 1e-9)
    assert math.isclose(result["val_loss"], loss(dict(zip(p, average)), *batches[0]), rel_tol=1e-9)
    if drop == 1:
        assert net.label is None and torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["shape"][3] == {}


def test_the_pictures_and_scores_of_a_run(tmp_path, monkeypatch):
    """The average's, from fixed noise, for the labels asked for; then for held-out ones, beside an untrained net's."""
    drawn, made, seen, plain, make = [], [], {}, train_diffusion.draw, train_diffusion.make_nets
    scores = Judge.scores

    def spy(net, y, *rest):
        drawn.append((net, y, plain(net, y, *rest)))
        return drawn[-1][2]

    def score(judge, images, untrained, asked=None):
        seen.update(images=images, untrained=untrained, asked=asked)
        return scores(judge, images, untrained, asked)

    monkeypatch.setattr(train_diffusion, "draw", spy)
    monkeypatch.setattr(train_diffusion, "make_nets", lambda *args: made.append(make(*args)) or made[-1])
    monkeypatch.setattr(Judge, "scores", score)
    cfg = tiny(steps=2, sample_every=1, n=5, hair="red", lr=0.01, out_dir=str(tmp_path / "run"))
    train_diffusion.train(cfg)
    assert len(drawn) == 4
    assert all(net is made[0]["average"] for net, _, _ in drawn[:3])
    red = image_sets.ATTRIBUTES["hair"].index("red")
    assert torch.equal(drawn[0][1], drawn[1][1]) and (drawn[0][1][:, red] == 1).all()
    for step, (_, _, images) in enumerate(drawn[:2], 1):
        assert (read_png(tmp_path / f"run/samples/step_00000{step}.png") == sheet(images)).all() and len(images) == 5
    assert not torch.equal(drawn[0][2], drawn[1][2])
    held_out = image_sets.load_images("faces", 16, 64)[1]
    assert torch.equal(seen["asked"], held_out.labels)
    assert torch.equal(drawn[2][1], image_sets.one_hot(held_out.labels, image_sets.ATTRIBUTES))
    assert seen["images"] is drawn[2][2] and seen["untrained"] is drawn[3][2]
    assert all((p == q).all() for p, q in zip(make(cfg, (3, 16, 16, image_sets.ATTRIBUTES), None)["net"].parameters(),
                                              drawn[3][0].parameters()))


def test_images_without_labels(arrays, capsys):
    """Gray, 28 × 28: they are enough, but there is no judge, and no label to ask for."""
    cfg = tiny(data=str(arrays / "gray.npy"), size=0, steps=2, out_dir=str(arrays / "run"))
    result = train_diffusion.train(cfg)
    out = capsys.readouterr().out
    assert "no Fréchet distance" in out and "labels: none" in out and "frechet" not in result
    assert read_grid(arrays / "run/samples/step_000002.png", 8, 28).shape == sheet_shape(8, 28, 1)      # gray, and not padded
    assert loaded(arrays / "run")[1] == (1, 32, 28, {})
    for show in ("samples", "forward", "reverse", "walk", "inpaint"):
        command(arrays / "run", "sample", "--n=3", f"--show={show}", "--guidance=2")
        count = {"forward": 4 * 8, "reverse": 8 * 8, "inpaint": 6}.get(show, 3)
        assert read_grid(arrays / f"run/samples/{show}.png", min(8, count), 28).shape == sheet_shape(count, 28, 1)
    assert "no labels" in refused_by_main(capsys, "sample", f"--out_dir={arrays}/run", "--hair=red")
    assert "no labels" in refused_by_main(capsys, "evaluate", f"--out_dir={arrays}/run", "--device=cpu")


def test_labelled_images_of_another_size(arrays, capsys):
    result = train_diffusion.train(tiny(data=str(arrays / "gray.npz"), size=0, steps=1, out_dir=str(arrays / "run")))
    assert list(result["accuracy"]) == ["label"] and result["frechet_n"] == 4
    command(arrays / "run", "sample", "--label=2", "--n=9")
    assert read_grid(arrays / "run/samples/samples.png", 8, 28).shape == sheet_shape(9, 28, 1)


def test_labels_left_out(place, tmp_path, capsys):
    """--drop=1 on labelled images: a model without labels, judged all the same, but not by what it was asked for."""
    result = train_diffusion.train(tiny(drop=1.0, steps=1, out_dir=str(tmp_path / "run")))
    assert "frechet" in result and "accuracy" not in result and "labels: none" in capsys.readouterr().out
    assert loaded(tmp_path / "run")[0].label is None and loaded(tmp_path / "run")[1][3] == {}
    command(tmp_path / "run", "sample", "--show=inpaint")               # held-out images have labels; this one has none
    assert "--hair" in refused_by_main(capsys, "sample", f"--out_dir={tmp_path}/run", "--hair=red", "--device=cpu")


# ---- sample

def test_samples(trained, capsys):
    """Those of the average, for the labels asked for; the same from the same seed."""
    folder, (net, shape, _) = trained[0], loaded(trained[0])
    pixels = []
    for args in (["--seed=5"], ["--seed=5"], ["--seed=6"], ["--seed=5", "--hair=red", "--guidance=3"]):
        command(folder, "sample", "--n=11", *args)
        assert "samples/samples.png" in capsys.readouterr().out
        pixels.append(read_sheet(folder / "samples/samples.png").flatten(0, 1)[:11])
    assert torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[0], pixels[2])
    for got, own in ((pixels[0], tiny(seed=5)), (pixels[3], tiny(seed=5, hair="red", guidance=3.0))):
        assert alike(got, draw(net, image_sets.draw_labels(own, shape[3], 11), shape, own))


@pytest.mark.parametrize("n", [5, 24])
def test_a_walk_leads_from_one_sample_to_the_next(trained, n):
    """Rows of 8 pictures, all with the labels of the first: its ends are what is drawn from those noises."""
    folder, (net, shape, _), cfg = trained[0], loaded(trained[0]), tiny(seed=3)
    command(folder, "sample", "--show=walk", f"--n={n}", "--seed=3")
    labels, x = image_sets.draw_labels(cfg, shape[3], n), noise(n, 3 * 256, 3).view(n, 3, 16, 16)
    assert read_grid(folder / "samples/walk.png", min(n, 8), 16).shape == sheet_shape(n, 16, 3)
    walked = read_sheet(folder / "samples/walk.png", min(n, 8))
    for row in range(n // 8 or 1):
        for i, start in ((0, row), (7, row + 1)):
            if i < len(walked[row]):
                y = image_sets.one_hot(labels[row:row + 1], shape[3])
                *_, (_, want) = sample_chain(guided(net, y, cfg), x[start:start + 1], cfg, rng_of(0))
                assert alike(walked[row, i], want[0].detach())


def test_forward_drowns_an_image_in_noise(trained):
    """Eight moments evenly spread, from the held-out image itself to noise."""
    folder, images = trained[0], image_sets.load_images("faces", 16, 64)[1].images[:4]
    command(folder, "sample", "--show=forward", "--seed=4")
    shown = read_sheet(folder / "samples/forward.png")
    eps, abar = noise(4, 768, 4).view(4, 3, 16, 16), train_diffusion.make_abar(20, "cosine")
    assert shown.shape == (4, 8, 3, 16, 16)
    for i, moment in enumerate(torch.linspace(0, 20, 8).round().int().tolist()):
        x = to_float(images)
        if moment > 0:
            x = train_diffusion.add_noise(x, eps, abar[moment - 1].item())
        assert alike(shown[:, i], x)


def test_reverse_makes_an_image_of_noise(trained):
    """A row of x_t, from noise, above one of x̂₀, which ends with the sample."""
    folder, (net, shape, _), cfg = trained[0], loaded(trained[0]), tiny(seed=4, n=4)
    command(folder, "sample", "--show=reverse", "--seed=4", "--sample_steps=8")
    shown = read_sheet(folder / "samples/reverse.png").view(4, 2, 8, 3, 16, 16)
    (first, _), *more = find_text(read_png(folder / "samples/reverse.png"), "x_t")
    assert len(more) == 3 and first < find_text(read_png(folder / "samples/reverse.png"), "predicted x0")[0][0] < more[0][0]
    labels, cfg.sample_steps = image_sets.draw_labels(cfg, shape[3], 4), 8
    assert alike(shown[:, 0, 0], noise(4, 768, 4).view(4, 3, 16, 16))
    assert alike(shown[:, 1, -1], draw(net, labels, shape, cfg))
    y = image_sets.one_hot(labels, shape[3])
    chain = list(sample_chain(guided(net, y, cfg), noise(4, 768, 4).view(4, 3, 16, 16), cfg, rng_of(4)))
    for i, (x, x0) in enumerate(chain):
        assert alike(shown[:, 0, i], x.detach()) and alike(shown[:, 1, i], x0.detach())


def test_inpainting_leaves_what_is_known_as_it_was(trained):
    """The upper half of held-out images; the lower half is drawn anew. Beside each is what was given."""
    folder, known = trained[0], to_float(image_sets.load_images("faces", 16, 64)[1].images[:12])
    command(folder, "sample", "--show=inpaint", "--n=12")
    given, got = read_sheet(folder / "samples/inpaint.png").flatten(0, 1)[:24].view(12, 2, 3, 16, 16).unbind(1)
    assert alike(given[:, :, :8], known[:, :, :8]) and (given[:, :, 8:].abs() < 0.01).all()
    assert not alike(got[:, :, 8:], known[:, :, 8:])
    assert alike(got[:, :, :8], known[:, :, :8])


def test_inpainting_draws_with_the_labels_of_the_images(trained, monkeypatch):
    """Unless others are asked for, by a flag."""
    folder, held_out, asked = trained[0], image_sets.load_images("faces", 16, 64)[1], []
    plain = train_diffusion.guided
    monkeypatch.setattr(train_diffusion, "guided", lambda net, y, *rest: asked.append(y) or plain(net, y, *rest))
    for flag, labels in (([], held_out.labels[:5]), (["--hair=red"], held_out.labels[:5].clone())):
        labels[:, 0] = 3 if flag else labels[:, 0]
        command(folder, "sample", "--show=inpaint", "--n=5", *flag)
        assert torch.equal(asked[-1], image_sets.one_hot(labels, image_sets.ATTRIBUTES))
    assert list(image_sets.ATTRIBUTES)[0] == "hair" and image_sets.ATTRIBUTES["hair"][3] == "red"


def test_inpainting_of_your_own_picture(trained, tmp_path):
    """--image and --mask, of any size: white is drawn anew."""
    folder, image = trained[0], np.full((20, 20, 3), (200, 30, 60), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    write_png(tmp_path / "image.png", image), write_png(tmp_path / "mask.png", mask)
    command(folder, "sample", "--show=inpaint", f"--image={tmp_path}/image.png", f"--mask={tmp_path}/mask.png", "--n=2")
    given, got = read_sheet(folder / "samples/inpaint.png", 4)[0].view(2, 2, 3, 16, 16).unbind(1)
    want = torch.tensor([200, 30, 60]).view(1, 3, 1, 1) / 127.5 - 1
    assert alike(given[..., 8:], want.expand(2, 3, 16, 8)) and (given[..., :8].abs() < 0.01).all()
    assert not alike(got[..., :8], want.expand(2, 3, 16, 8))
    assert alike(got[..., 8:], want.expand(2, 3, 16, 8))


# ---- evaluate

@pytest.mark.parametrize("T, drop, steps", [(60, 0.1, [5, 10, 20, 50, 60]), (20, 1.0, [5, 10, 20])])
def test_evaluate(T, drop, steps, tmp_path, monkeypatch, capsys):
    """Every sampler at every number of steps below T, and the paper's at all T; guidance, if there are labels to be
    guided by; and how often what was asked for is drawn. Here what is drawn are the held-out images."""
    calls, held_out = [], image_sets.load_images("faces", 16, 64)[1]

    def draw(net, y, shape, cfg):
        calls.append((cfg.sampler, cfg.sample_steps, cfg.guidance))
        assert torch.equal(y, image_sets.one_hot(held_out.labels, shape[3])) and shape[3] == (image_sets.ATTRIBUTES if drop < 1 else {})
        return to_float(held_out.images)

    train_diffusion.train(tiny(steps=1, levels=1, T=T, drop=drop, out_dir=str(tmp_path / "run")))
    monkeypatch.setattr(train_diffusion, "draw", draw)
    tables = train_diffusion.main(["evaluate", f"--out_dir={tmp_path}/run", "--device=cpu"])
    assert json.loads((tmp_path / "run/evaluate.json").read_text()) == tables
    want = {f"{sampler}, {k} steps": (sampler, k, 1.0) for sampler in ("dpm", "ddim", "ddpm") for k in steps
            if k < T or sampler == "ddpm"}
    if drop < 1:
        want |= {f"guidance {w}": ("dpm", 4, w) for w in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)}
    assert list(tables) == ["Fréchet_distance", "mean_accuracy"] and calls == list(want.values())
    assert all(list(table) == list(want) for table in tables.values()) and f"ddpm, {T} steps" in capsys.readouterr().out
    assert all(abs(distance) < 1e-3 for distance in tables["Fréchet_distance"].values())
    judge = Judge(tiny(), *image_sets.load_images("faces", 16, 64))
    right = sum(judge.accuracy(held_out.images, held_out.labels).values()) / 6
    assert all(math.isclose(share, right, rel_tol=1e-6) for share in tables["mean_accuracy"].values())
    shown = read_sheet(tmp_path / "run/samples/evaluate.png")
    assert all(find_text(read_png(tmp_path / "run/samples/evaluate.png"), name) for name in want)
    assert shown.shape[:2] == (len(want), 8) and all(alike(row, to_float(held_out.images[:8])) for row in shown)


# ---- several processes

def test_other_processes_only_learn(tmp_path, monkeypatch):
    """What the first process draws and writes, the others need not."""
    drawn, draw = [], train_diffusion.draw
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    monkeypatch.setattr(train_diffusion, "start_processes", lambda device: (1, 2))
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda net: net)
    monkeypatch.setattr(train_diffusion, "draw", lambda net, labels, *rest: (
        drawn.append(len(labels)) or draw(net, labels, *rest)))
    train_diffusion.train(tiny(levels=1, steps=2, out_dir=str(tmp_path / "run")))
    assert not drawn and not (tmp_path / "run").exists()


def test_the_judge_is_of_the_first_process(place, monkeypatch, capsys):
    """Two processes would train it at once, in the same folder."""
    monkeypatch.setenv("RANK", "1")
    judge = Judge(tiny(seed=77, data="nowhere"), *image_sets.load_images("faces", 16, 64))
    assert judge.n == 0 and judge.scores(None, None) == {} and capsys.readouterr().out == ""


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused_by_main = partial(refused_by, train_diffusion.main)


@pytest.mark.parametrize("flag", ["width=33", "width=0", "levels=0", "levels=9", "stem=3", "stem=0", "T=0", "n=0",
                                  "batch_size=0", "sample_steps=0", "sample_steps=21", "sample_steps=-1", "max_weight=0",
                                  "hair=green", "predict=x1", "schedule=square", "sampler=euler", "variance=big",
                                  "n_images=0"])
def test_bad_sizes_and_names(flag, tmp_path, capsys):
    """Before the first step, which may take hours to be followed by samples."""
    name = flag.split("=")[0]
    err = refused_by_main(capsys, *flags(out_dir=tmp_path / "run", steps=1), f"--{flag}")
    assert f"--{name}" in err
    assert not (tmp_path / "run").exists()


def test_bad_samples(trained, capsys):
    run = ["sample", f"--out_dir={trained[0]}", "--device=cpu"]
    assert "--show" in refused_by_main(capsys, *run, "--show=nonsense")
    assert "black, brown, blond, red" in refused_by_main(capsys, *run, "--hair=green")
    assert "--label" in refused_by_main(capsys, *run, "--label=3")
    for eta in (-1.0, 1.5):         # above 1 there may be less than no noise to keep: a root of a negative number
        assert "--eta" in refused_by_main(capsys, *run, "--sampler=ddim", "--sample_steps=20", f"--eta={eta}")
    for steps in (0, 21):
        assert f"--sample_steps={steps}: from 1 to 20" in refused_by_main(capsys, *run, f"--sample_steps={steps}")
    assert "--n=0" in refused_by_main(capsys, *run, "--n=0")
    assert refused_by_main(capsys, *run, "--show=inpaint", "--image=nothing.png")


def test_a_batch_that_cannot_be_shared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_diffusion, "start_processes", lambda device: (0, 2))
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda net: net)
    args = flags(levels=1, batch_size=3, out_dir=tmp_path / "run")
    assert "multiple of 2" in refused_by_main(capsys, *args) and not (tmp_path / "run").exists()


def test_another_data_set_on_resume(trained, arrays, capsys):
    args = flags(out_dir=trained[0], data=arrays / "gray.npz", steps=5)
    assert "another size" in refused_by_main(capsys, *args, "--resume")


# ---- helpers that came with it

@pytest.mark.parametrize("device, matmul, able, fast", [("cpu", "highest", True, False), ("cpu", "high", True, False),
                                                        ("cpu", "medium", True, True), ("cpu", "medium", False, False),
                                                        ("cpu", "medium", None, False),
                                                        ("cuda", "highest", False, True)])
def test_autocast(device, matmul, able, fast, monkeypatch):
    """bfloat16 on CUDA, and on a CPU that has instructions for it, if it may; able None: torch cannot tell."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able, raising=False)
    if able is None:
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    asked = []
    if device == "cuda":                                                # there may be none here
        monkeypatch.setattr(torch, "autocast", lambda *args: asked.append(args))
        autocast(torch.device("cuda"), matmul)
        assert asked == [("cuda", torch.bfloat16, True)]
        return
    with autocast(torch.device(device), matmul):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) == fast


@pytest.mark.parametrize("n", [1, 8, 11, 32])
def test_walks(n):
    """Ends exact; on orthogonal noises of length 1 every step has length 1, at even t; the row behind the last goes
    back to the first noise."""
    x = torch.eye(40).double()[:n].view(n, 2, 20)
    walked = walks(x)
    assert walked.shape == x.shape
    for i in range(n):
        row, t = i // 8, i % 8 / 7
        a, b = x[row], x[(row + 1) % n]
        assert i % 8 or torch.equal(walked[i], a)
        assert i % 8 < 7 or torch.equal(walked[i], b)
        if n > 1:
            assert math.isclose(walked[i].norm(), 1, rel_tol=1e-6)
            assert (walked[i] - ((1 - t) * a + t * b) / math.hypot(1 - t, t)).abs().max() < 1e-6


def test_film():
    """k films for each of n pictures, one below the other: 8 moments evenly spread over 15, the first and the last."""
    moments = [(torch.full((3, 1, 2, 2), m).add(torch.arange(3.0).view(3, 1, 1, 1) * 100),
                torch.full((3, 1, 2, 2), -m)) for m in range(15)]
    strip = film(moments)
    assert strip.shape == (3 * 2 * 8, 1, 2, 2)
    shown = strip[:, 0, 0, 0].view(3, 2, 8)
    for i in range(3):
        assert shown[i, 0].tolist() == [100 * i + m for m in range(0, 15, 2)]
        assert shown[i, 1].tolist() == [-m for m in range(0, 15, 2)]
    assert film([(torch.zeros(2, 1, 2, 2),)] * 3, pictures=5).shape == (10, 1, 2, 2)


def test_one_hot_of_what_is_not_known():
    labels = torch.tensor([[0, 2], [1, -1], [-1, -1], [-1, 0]])
    want = [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert image_sets.one_hot(labels, SHAPES).tolist() == want
    none = image_sets.one_hot(labels, {})
    assert none.shape == (4, 0) and none.dtype == torch.float32


def test_to_mend(tmp_path):
    """Held-out images again and again, or one's own picture; masks of 0 and 1; labels known, asked for, or -1."""
    shape, cfg = (3, 16, 16, image_sets.ATTRIBUTES), tiny(mouth="open")
    held_out = image_sets.load_images("faces", 16, 64)[1]
    images, masks, labels = image_sets.to_mend(cfg, 70, shape)
    assert torch.equal(images[:64], to_float(held_out.images)) and torch.equal(images[64:], images[:6])
    assert masks.shape == (70, 1, 16, 16) and (masks[:, :, :8] == 0).all() and (masks[:, :, 8:] == 1).all()
    mouth = list(image_sets.ATTRIBUTES).index("mouth")
    others = [i for i in range(len(image_sets.ATTRIBUTES)) if i != mouth]
    assert (labels[:, mouth] == image_sets.ATTRIBUTES["mouth"].index("open")).all()
    assert torch.equal(labels[:64, others], held_out.labels[:, others]) and labels.shape == (70, 6)
    assert image_sets.to_mend(tiny(), 3, (3, 16, 16, {}))[2].shape == (3, 0)

    picture = np.zeros((12, 12, 3), np.uint8)
    picture[..., 0] = 255
    write_png(tmp_path / "red.png", picture), write_png(tmp_path / "mask.png", np.full((9, 9), 255, np.uint8))
    cfg = tiny(image=str(tmp_path / "red.png"), mask=str(tmp_path / "mask.png"), mouth="open")
    for C, S, size, first in ((3, 16, 12, 1.0), (1, 16, 16, -1 / 3)):
        images, masks, labels = image_sets.to_mend(cfg, 2, (C, S, size, image_sets.ATTRIBUTES))
        assert images.shape == (2, C, S, S) and masks.shape == (2, 1, S, S) and (masks == 1).all()
        close(images[:, 0], torch.full((2, S, S), first), 1e-6)
        assert (labels[:, mouth] >= 0).all() and (labels[:, others] == -1).all()
    padded = image_sets.to_mend(tiny(size=12), 2, (3, 16, 12, image_sets.ATTRIBUTES))
    held_out = image_sets.load_images("faces", 12, 64)[1]
    assert torch.equal(padded[0], to_float(pad(held_out.images[:2])))
    assert torch.equal(crop(padded[1], 12)[:, 0, 5:7, 0], torch.tensor([[0.0, 1], [0, 1]]))
