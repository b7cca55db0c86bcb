"""train_diffusion.py against diffusers (tests/reference/diffusion.npz), the papers' formulas, a
network and a training loop written out here, and the classic bugs.

Tests marked `paper` know our network, noise, loss or samplers. Whoever changes one of them on
purpose, in a fork, leaves them out by -m "not paper". All others have to pass even so: with another
network that is made by UNet(cfg, C, S, V) and called by net(x, t, y), with other weights of the
loss, with another schedule, or with flow matching (its times as t/T, for t = 1 … T).
"""
import csv
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import train_diffusion
from mini.data.images import image_sets
from mini.data.images.faces import faces
from mini.studies import diffusion as study
from mini.utils.device import autocast
from mini.utils.images import film, noise, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import read_png, write_png
from tests.helpers import (alike, cheap_judges, close, find_text, normal, read_grid, read_sheet,
                           refused, refused_by, rng_of)

TINY = dict(size=16, n_images=64, width=32, T=20, batch_size=8, steps=4, warmup=1, n=8,
            sample_steps=4, log_every=1, sample_every=2, eval_every=2, device="cpu",
            matmul="highest")
FACES = image_sets.ATTRIBUTES
SHAPES = {"shade": ["dark", "bright"], "shape": ["disc", "square", "star"]}     # made-up attributes
GOLDEN = np.load(Path(__file__).parent / "reference/diffusion.npz")     # it counts t from 0

paper = pytest.mark.paper
TYPES = get_type_hints(train_diffusion.Config)
schedules = pytest.mark.parametrize("name", ["linear", "cosine"])
all_schedules = pytest.mark.parametrize("name", get_args(TYPES.get("schedule", Literal["none"])))
# with the settings as they are; and with others, which a fork may not have
targets = pytest.mark.parametrize("changes", [
    pytest.param({}, id="default"),
    *(pytest.param(dict(predict=name), id=name, marks=paper)
      for name in get_args(TYPES.get("predict")))])
samplers = pytest.mark.parametrize("changes", [
    pytest.param({}, id="default"),
    pytest.param(dict(sampler="ddpm"), id="small", marks=paper),
    pytest.param(dict(sampler="ddpm", variance="large"), id="large", marks=paper),
    pytest.param(dict(sampler="ddim"), id="eta0", marks=paper),
    pytest.param(dict(sampler="ddim", eta=1.0), id="eta1", marks=paper),
    pytest.param(dict(sampler="dpm"), id="dpm", marks=paper)])


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    with cheap_judges(tmp_path_factory, "diffusion") as (folder, _):
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 4 steps, not to be written to but in samples/."""
    folder = place / "trained"
    return folder, train_diffusion.train(tiny(out_dir=str(folder)))


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


def noise_schedule(**changes):
    return train_diffusion.make_schedule(tiny(**changes))


def no_judge(cfg, learn, held_out, n):
    return SimpleNamespace(n=0, labels=held_out.labels[:0], scores=lambda *_: {})


def held_out_faces(n=64):
    """(images in [-1, 1], labels) of the first n held-out faces."""
    held_out = image_sets.load_images("faces", 16, 64)[1]
    return to_float(held_out.images[:n]), held_out.labels[:n]


def lively(C=3, attributes=SHAPES, size=16, **changes):
    """A network whose weights are not as at first, when some are 0: all of its parts matter."""
    net = train_diffusion.make_nets(tiny(**changes), C, size, attributes)["net"]
    with torch.no_grad():
        for seed, weight in enumerate(net.parameters()):
            weight += 0.1 * normal(*weight.shape, seed=seed, dtype=torch.float32)
    return net


def chain(predict, x, cfg, rng):
    """Sampling from noise x: (the images, [(t, x_t, x̂₀) of each step])."""
    steps = []

    def watched(xt, t):
        x0 = predict(xt, t)
        steps.append((t, xt, x0))
        return x0

    schedule = train_diffusion.make_schedule(cfg)
    images = train_diffusion.denoise(watched, x, schedule, cfg, rng)
    return images, steps


@torch.no_grad()
def chain_of(net, x, y, cfg):
    """The same with the answers of a network, for labels y."""
    schedule = train_diffusion.make_schedule(cfg)

    def predict(xt, t):
        return train_diffusion.predict_with_guidance(net, schedule, xt, t, y, cfg.guidance)

    return chain(predict, x, cfg, rng_of(cfg.seed + 1))


def alpha_sigma(schedule, t: int):
    """What is left at time t of an image of 1, and of noise of 1."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    alpha = schedule.add_noise(one, zero, t)
    sigma = schedule.add_noise(zero, one, t)
    return alpha.item(), sigma.item()


def golden(name, way):
    return torch.tensor(GOLDEN[f"{name}/{way}"])


# ---- the noise

@paper
@schedules
def test_schedules_equal_diffusers(name):
    """β at T = 1000, which diffusers has in float32; ᾱ at T = 50, in float64; and ᾱ₀ = 1."""
    abar = noise_schedule(T=1000, schedule=name).abar
    assert abar.shape == (1001,)
    assert abar.dtype == torch.float64
    assert abar[0] == 1
    want = golden(name, "betas").double()
    betas = 1 - abar[1:] / abar[:-1]
    assert (betas - want).abs().max() < 1e-7
    close(abar[1:], (1 - want).cumprod(0), 1e-6)
    close(noise_schedule(T=50, schedule=name).abar[1:], golden(name, "abar"), 1e-12)


@paper
@all_schedules
@pytest.mark.parametrize("T", [1000, 250, 50, 20, 5, 2, 1])
def test_something_is_always_left_of_the_image(name, T):
    """β is below 1, or x₀ could not be found from x_T and ε, and λ_T would be infinite. But if
    there are enough steps, a chain that begins with noise finds no trace of an image there."""
    abar = noise_schedule(T=T, schedule=name, sample_steps=1).abar
    assert len(abar) == T + 1
    assert abar[0] == 1
    assert (abar > 0).all()
    assert (abar[1:] < abar[:-1]).all()
    if T >= 50:
        assert abar[T] ** 0.5 < 0.01
        assert abar[1] > 0.99
    if T >= 50 and name == "linear":                # so much noise at first, whatever T
        assert math.isclose(1 - abar[1], 1e-4 * 1000 / T, rel_tol=1e-9)


@paper
def test_an_unknown_schedule():
    """A name that Config allows, but that nobody has written a schedule for, must not fall through
    to another one."""
    cfg = SimpleNamespace(**{**vars(tiny()), "schedule": "square"})
    with pytest.raises(ValueError, match="square"):
        train_diffusion.make_schedule(cfg)


@paper
@pytest.mark.parametrize("T", [50, 1000])
def test_noise_grows_from_nothing_to_all_there_is(T):
    """At time 0 there is the image, without noise: ᾱ that begins with 1 − β₁ is off by one. At
    time T there is noise alone, for that is what sampling begins with."""
    schedule = noise_schedule(T=T)
    levels = [alpha_sigma(schedule, t) for t in range(T + 1)]
    assert levels[0] == (1, 0)
    assert levels[T][0] < 0.01
    assert abs(levels[T][1] - 1) < 0.01
    for before, after in zip(levels[:-1], levels[1:]):
        assert after[0] < before[0]
        assert after[1] > before[1]


@paper
@schedules
def test_add_noise_equals_diffusers(name):
    """With a time for each image, and with one for all."""
    schedule = noise_schedule(T=50, schedule=name)
    x0 = torch.tensor(GOLDEN["x0"])[:, None]        # (50, 1, 2, 3)
    eps = torch.tensor(GOLDEN["eps"])[:, None]
    want = golden(name, "forward")[:, None]
    close(schedule.add_noise(x0, eps, torch.arange(1, 51)), want, 1e-10)
    close(schedule.add_noise(x0[7:8], eps[7:8], 8), want[7:8], 1e-10)


@paper
@schedules
def test_predict_x0_equals_diffusers(name):
    xt = torch.tensor(GOLDEN["noise"])[:, None]
    out = torch.tensor(GOLDEN["eps"])[:, None]
    t = torch.arange(1, 51)
    x0 = noise_schedule(T=50, schedule=name, predict="v").predict_x0(out, xt, t)
    close(x0[:, 0], golden(name, "from_v"), 1e-10)
    x0 = noise_schedule(T=50, schedule=name, predict="eps").predict_x0(out, xt, t)
    for got, want in zip(x0[:, 0], golden(name, "from_eps")):   # one by one, for they grow with t
        close(got, want, 1e-10)
    x0 = noise_schedule(T=50, schedule=name, predict="x0").predict_x0(out, xt, t)
    assert torch.equal(x0, out)


@targets
def test_the_right_answer_gives_the_image_back(changes):
    """What the network is to learn, and what sampling makes of its answer, are two functions; a
    wrong sign in one of them gives beautiful losses and no images. And each image has its own time.
    """
    schedule = noise_schedule(T=50, **changes)
    x0 = normal(50, 3, 4, 4)
    eps = normal(50, 3, 4, 4, seed=1)
    t = torch.arange(1, 51)
    xt = schedule.add_noise(x0, eps, t)
    out = schedule.target(x0, eps, t)
    close(schedule.predict_x0(out, xt, t), x0, 1e-8)
    for i in range(50):
        own = slice(i, i + 1)
        close(schedule.add_noise(x0[own], eps[own], i + 1), xt[own], 1e-12)
        close(schedule.target(x0[own], eps[own], i + 1), out[own], 1e-12)
        close(schedule.predict_x0(out[own], xt[own], i + 1), x0[own], 1e-8)


# ---- the network

@pytest.mark.parametrize("attributes", [SHAPES, {}], ids=["labels", "none"])
def test_shapes_of_the_network(attributes):
    """Gray or colour, with labels or without; and the answer is of the same shape."""
    V = 5 if attributes else 0
    for C in (1, 3):
        net = lively(C, attributes)
        x = normal(2, C, 16, 16, dtype=torch.float32)
        out = net(x, torch.tensor([1, 20]), torch.ones(2, V))
        assert out.shape == x.shape
        assert out.isfinite().all()


@pytest.mark.parametrize("size", [13, 28])
def test_odd_sizes_of_images(size):
    """The answer has the size of the images, whether or not the network can divide it; and every
    pixel of the answer depends on the pixel of x_t there."""
    net = lively(size=size)
    x = normal(1, 3, size, size, dtype=torch.float32).requires_grad_()
    out = net(x, torch.tensor([5]), torch.eye(5)[:1])
    assert out.shape == x.shape
    for row, column in [(0, 0), (0, size - 1), (size - 1, 0), (size - 1, size - 1)]:
        gradient, = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
        assert gradient[0, :, row, column].abs().max() > 0


def test_the_network_sees_the_time():
    """A network that is not told t, or forgets it on the way, still learns to remove some noise,
    and its samples are blurred for no reason that one could see."""
    net = lively()
    x = normal(1, 3, 16, 16, dtype=torch.float32)
    y = torch.zeros(1, 5)
    answers = [net(x, torch.tensor([t]), y) for t in (1, 10, 20)]
    size = answers[0].abs().mean()
    assert (answers[0] - answers[1]).abs().mean() > 1e-3 * size
    assert (answers[0] - answers[2]).abs().mean() > 1e-3 * size
    assert (answers[1] - answers[2]).abs().mean() > 1e-3 * size


def test_the_network_sees_the_labels():
    """Every value of every attribute changes the answer, each in its own way."""
    net = lively()
    x = normal(1, 3, 16, 16, dtype=torch.float32)
    labels = torch.cat([torch.zeros(1, 5), torch.eye(5)])
    answers = [net(x, torch.tensor([10]), y[None]) for y in labels]
    size = answers[0].abs().mean()
    for i in range(6):
        for j in range(i):
            assert (answers[i] - answers[j]).abs().mean() > 1e-3 * size


def test_no_image_depends_on_the_others():
    """BatchNorm, or times and labels that reach the image next to theirs."""
    net = lively()
    x = normal(3, 3, 16, 16, dtype=torch.float32)
    t = torch.tensor([1, 8, 20])
    y = torch.eye(5)[:3]
    together = net(x, t, y)
    for i in range(3):
        own = slice(i, i + 1)
        close(net(x[own], t[own], y[own]), together[own], 1e-4)


def test_every_weight_is_trained():
    """Once the zeros are left that some layers begin with, every weight has a gradient."""
    net = lively()
    x = normal(2, 3, 16, 16, dtype=torch.float32)
    net(x, torch.tensor([1, 19]), torch.eye(5)[:2]).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def spread(net):
    """Weights such that every part of a network matters, and none is zero; in float64."""
    for seed, weight in enumerate(net.parameters()):
        if weight.ndim == 1:
            value = 0.3 + 0.3 * normal(*weight.shape, seed=seed)
        else:
            fan_in = weight[0].numel()
            value = normal(*weight.shape, seed=seed) / math.sqrt(fan_in)
        weight.data.copy_(value)
    return net.double()


def part_of(p, name):
    """The weights of a part of the network, by their names in it."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in p.items() if key.startswith(start)}


def conv(p, name, x, **options):
    return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options)


def linear(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def group_norm(p, name, x):
    return F.group_norm(x, 8, p[f"{name}.weight"], p[f"{name}.bias"])


def written_block(p, x, e, scale_shift=True):
    """A ResBlock in torch's functional forms, with the weights p."""
    h = conv(p, "conv1", F.silu(group_norm(p, "norm1", x)), padding=1)
    B, C, _, _ = h.shape
    e = linear(p, "emb", e)
    if scale_shift:
        scale = e[:, :C].view(B, C, 1, 1)
        shift = e[:, C:].view(B, C, 1, 1)
        h = group_norm(p, "norm2", h)
        h = h + h * scale + shift
    else:
        h = group_norm(p, "norm2", h + e.view(B, C, 1, 1))
    h = conv(p, "conv2", F.silu(h), padding=1)
    if "shortcut.weight" in p:
        x = conv(p, "shortcut", x)
    return x + h


def written_attention(p, x, hs=32):
    """Attention head by head, by torch's own."""
    B, C, H, W = x.shape
    h = group_norm(p, "norm", x).permute(0, 2, 3, 1).reshape(B, H * W, C)
    q, k, v = linear(p, "qkv", h).split(C, dim=2)
    heads = []
    for start in range(0, C, hs):
        own = slice(start, start + hs)
        heads.append(F.scaled_dot_product_attention(q[..., own], k[..., own], v[..., own]))
    h = linear(p, "proj", torch.cat(heads, -1))
    return x + h.reshape(B, H, W, C).permute(0, 3, 1, 2)


def written_embedding(t, width):
    """cos and sin of t at width / 2 frequencies, number by number."""
    half = width // 2
    rows = []
    for time in t.tolist():
        angles = [time * 10000 ** (-i / (half - 1)) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


def written_unet(p, cfg, x, t, y):
    """The U-Net, step by step, with the weights p."""
    block = partial(written_block, scale_shift=cfg.scale_shift)
    B, C, size, _ = x.shape
    k = cfg.stem

    def shape_at(level):
        side = S // k // 2**level
        return B, cfg.width * min(4, 2**level), side, side

    # time and labels
    e = F.silu(linear(p, "time.0", written_embedding(t, cfg.width)))
    e = linear(p, "time.2", e)
    if "label.weight" in p:
        e = e + y @ p["label.weight"].T
    e = F.silu(e)

    # rows and columns are repeated at the end, until they can be halved
    multiple = k * 2 ** (cfg.levels - 1)
    S = math.ceil(size / multiple) * multiple
    index = torch.arange(S).clamp(max=size - 1)
    x = x[:, :, index][:, :, :, index]

    # a square of k × k pixels becomes one pixel
    h = x.view(B, C, S // k, k, S // k, k).permute(0, 1, 3, 5, 2, 4)
    h = conv(p, "first", h.reshape(B, C * k * k, S // k, S // k), padding=1)

    # down
    skips = []
    for level in range(cfg.levels - 1):
        h = block(part_of(p, f"down.{level}.0"), h, e)
        assert h.shape == shape_at(level)
        skips.append(h)
        h = conv(p, f"down.{level}.1", h, stride=2, padding=1)

    # middle
    assert h.shape == shape_at(cfg.levels - 1)
    h = block(part_of(p, "middle1"), h, e)
    h = written_attention(part_of(p, "attention"), h)
    h = block(part_of(p, "middle2"), h, e)

    # up: what was on the way down at the same level, behind what comes from below
    for i in range(cfg.levels - 1):
        level = cfg.levels - 2 - i
        h = conv(p, f"up.{i}.0.conv", h, padding=1)
        h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        h = torch.cat([h, skips[level]], 1)
        h = block(part_of(p, f"up.{i}.1"), h, e)

    h = conv(p, "last", F.silu(group_norm(p, "norm", h)), padding=1)
    h = h.view(B, C, k, k, S // k, S // k).permute(0, 1, 4, 2, 5, 3)
    return h.reshape(B, C, S, S)[:, :, :size, :size]


def compare(module, written, *inputs):
    """The output, and the gradients for inputs and weights, to 1e-10."""
    spread(module)
    p = {name: weight.detach().clone().requires_grad_()
         for name, weight in module.named_parameters()}
    own = [x.clone().requires_grad_() for x in inputs]
    others = [x.clone().requires_grad_() for x in inputs]
    got = module(*own)
    want = written(p, *others)
    close(got, want, 1e-10)
    mix = normal(*got.shape, seed=99)
    got_gradients = torch.autograd.grad((got * mix).sum(), [*own, *module.parameters()])
    gradients = torch.autograd.grad((want * mix).sum(), [*others, *p.values()])
    for one, other in zip(got_gradients, gradients):
        close(one, other, 1e-10)


@paper
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("C_in, C_out", [(16, 16), (16, 24), (24, 16)])
def test_resblock(C_in, C_out, scale_shift):
    """The paper adds time to the features before the second norm; we scale and shift behind it."""
    block = train_diffusion.ResBlock(C_in, C_out, 12, scale_shift)
    assert block.emb.out_features == (2 * C_out if scale_shift else C_out)
    x = normal(3, C_in, 5, 6)
    e = normal(3, 12, seed=1)
    compare(block, partial(written_block, scale_shift=scale_shift), x, e)


@paper
@pytest.mark.parametrize("C", [32, 64])
def test_attention(C):
    """Heads or pixels mixed up: the picture is not square."""
    compare(train_diffusion.Attention(C), written_attention, normal(2, C, 3, 5))


class Fixed(nn.Module):
    """A U-Net at fixed times."""

    def __init__(self, net, t):
        super().__init__()
        self.net = net
        self.t = t

    def forward(self, x, y):
        return self.net(x, self.t, y)


UNETS = [   # levels, stem, V, the side of the images, which may have to be padded; other settings
    (1, 1, 0, 16, {}),
    (2, 2, 5, 16, {}),
    (2, 1, 5, 8, dict(scale_shift=False)),
    (3, 1, 5, 13, {}),
    (4, 1, 0, 16, {}),
    (2, 3, 5, 13, {}),
]


@paper
@pytest.mark.parametrize("levels, stem, V, size, changes", UNETS)
def test_unet(levels, stem, V, size, changes, double):
    """A wrong skip, an upsampling by zeros, times or labels that reach the wrong place, an image
    that is padded on the left and cropped on the right."""
    cfg = tiny(levels=levels, stem=stem, **changes)
    net = train_diffusion.UNet(cfg, 3, size, V)
    x = normal(2, 3, size, size)
    y = normal(2, V, seed=2)
    t = torch.tensor([3, 17])
    if levels == 2:
        def written(p, x, y):
            return written_unet(part_of(p, "net"), cfg, x, t, y)

        compare(Fixed(net, t), written, x, y)
    else:
        p = dict(spread(net).named_parameters())
        close(net(x, t, y), written_unet(p, cfg, x, t, y), 1e-10)


@paper
@pytest.mark.parametrize("levels, stem", [(1, 2), (2, 1), (3, 2)])
def test_unet_at_first(levels, stem):
    """Blocks change nothing, and the output is 0."""
    torch.manual_seed(0)
    net = train_diffusion.UNet(tiny(levels=levels, stem=stem), 3, 16, 5)
    x = normal(2, 3, 16, 16, dtype=torch.float32)
    out = net(x, torch.tensor([1, 19]), torch.eye(5)[:2])
    assert out.shape == x.shape
    assert (out == 0).all()
    e = torch.randn(2, 128)
    h = torch.randn(2, 32 * min(4, 2 ** (levels - 1)), 4, 4)
    assert torch.equal(net.middle1(h, e), h)
    assert torch.equal(net.attention(h), h)


@paper
@pytest.mark.parametrize("levels, stem, size", [(2, 2, 13), (2, 2, 28), (3, 1, 9), (1, 3, 16)])
def test_images_of_any_size(levels, stem, size):
    """Images whose sides cannot be halved so often are padded inside the network, by their edges,
    and what is more than was asked for is left out at the end."""
    cfg = tiny(levels=levels, stem=stem)
    net = lively(3, SHAPES, size, levels=levels, stem=stem)
    x = normal(2, 3, size, size, dtype=torch.float32)
    out = net(x, torch.tensor([1, 19]), torch.eye(5)[:2])
    assert out.shape == x.shape
    out.square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad.abs().max() > 0, name

    padded = train_diffusion.pad(x, net.multiple)
    S = padded.size(2)
    assert S % (cfg.stem * 2 ** (cfg.levels - 1)) == 0
    assert S - size < cfg.stem * 2 ** (cfg.levels - 1)          # and no more than is needed
    assert torch.equal(padded, torch.tensor(np.pad(x, [(0, 0), (0, 0), (0, S - size),
                                                       (0, S - size)], mode="edge")))
    if size == 28:
        assert padded is x                                      # 28 = 4 · 7 needs no padding


@paper
@pytest.mark.parametrize("levels, stem, size", [(5, 1, 15), (4, 2, 8), (1, 17, 16), (9, 2, 16)])
def test_an_image_too_small_for_its_levels(levels, stem, size):
    """Padding would make it many times as large; and who asks for so many levels has mistaken
    something."""
    cfg = tiny(levels=levels, stem=stem)
    refused(lambda: train_diffusion.UNet(cfg, 3, size, 0), f"--levels={levels}", f"--stem={stem}")


@paper
@pytest.mark.parametrize("levels, stem", [(5, 1), (4, 2), (1, 16)])
def test_an_image_just_large_enough_for_its_levels(levels, stem):
    """At the lowest level there is one pixel."""
    cfg = tiny(levels=levels, stem=stem)
    net = train_diffusion.UNet(cfg, 3, 16, 0)
    x = normal(1, 3, 16, 16, dtype=torch.float32)
    assert net(x, torch.tensor([5]), torch.zeros(1, 0)).shape == x.shape


@paper
@pytest.mark.parametrize("width, levels", [(40, 2), (48, 1), (40, 1)])
def test_the_lowest_level_has_whole_heads(width, levels):
    cfg = tiny(width=width, levels=levels)
    refused(lambda: train_diffusion.UNet(cfg, 3, 16, 5), f"--width={width}", f"--levels={levels}")


@paper
@pytest.mark.parametrize("width, levels", [(48, 2), (32, 1), (8, 3)])
def test_widths_that_are_no_multiple_of_32(width, levels):
    cfg = tiny(width=width, levels=levels)
    net = train_diffusion.UNet(cfg, 3, 16, 5)
    x = normal(2, 3, 16, 16, dtype=torch.float32)
    assert net(x, torch.tensor([1, 19]), torch.eye(5)[:2]).shape == x.shape


# ---- the presets

@paper
@pytest.mark.parametrize("preset, size", [("gpu", 32), ("gpu64", 64)])
def test_the_gpu_presets(preset, size):
    """Both go down to 8 × 8, with 512 channels."""
    cfg = train_diffusion.Config(**train_diffusion.PRESETS[preset])
    assert cfg.size == size
    assert cfg.stem == 1
    assert cfg.width == 128
    assert size // 2 ** (cfg.levels - 1) == 8


@paper
def test_the_papers_preset():
    """All settings of Ho et al., §4 and appendix B: those that the preset names, and those that it
    leaves to a default, which somebody may change some day."""
    cfg = train_diffusion.Config(**train_diffusion.PRESETS["paper"])

    # noise: β rises from 1e-4 to 0.02 in 1,000 steps; the network predicts ε
    assert cfg.T == 1000
    assert cfg.predict == "eps"
    schedule = train_diffusion.make_schedule(cfg)
    betas = 1 - schedule.abar[1:] / schedule.abar[:-1]
    want = torch.tensor([1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]).double()
    assert (betas - want).abs().max() < 1e-8

    # L_simple: the mean of (ε̂ − ε)² at all times
    x0 = normal(2, 3, 4, 4)
    eps = normal(2, 3, 4, 4, seed=1)
    for t in ([1, 2], [500, 1000]):
        loss = train_diffusion.diffusion_loss(lambda xt, t, y: eps.roll(1, 0), schedule, x0, None,
                                              torch.tensor(t), eps)
        assert math.isclose(loss, (eps.roll(1, 0) - eps).square().mean(), rel_tol=1e-6)

    # times are independent, each as probable as any other
    assert not cfg.stratified
    t = train_diffusion.draw_times(100000, cfg, rng_of(0))
    assert t.min() == 1
    assert t.max() == 1000

    # the network is told no labels
    assert cfg.label_dropout == 1

    # the rate rises in 5,000 steps and then stays; 800,000 steps of Adam
    assert cfg.steps == 800000
    assert cfg.batch_size == 128
    assert cfg.optimizer == "adam"
    assert cfg.lr == 2e-4
    assert math.isclose(train_diffusion.lr_factor(2500, cfg), 0.5, rel_tol=1e-3)
    for step in (5000, 100000, 799999):
        assert train_diffusion.lr_factor(step, cfg) == 1
    assert cfg.beta2 == 0.999
    assert cfg.ema == 0.9999

    # their sampler takes every step, with variance β (which is as good as β̃, they say)
    assert cfg.sampler == "ddpm"
    assert cfg.variance == "large"
    times = train_diffusion.sample_times(cfg.T, cfg.sample_steps)
    assert times == list(range(1000, -1, -1))

    # pixels as they are, 128 channels at the highest resolution, four resolutions from 32 × 32 on,
    # and time is added to the features
    assert cfg.stem == 1
    assert cfg.width == 128
    assert cfg.size == 32
    assert cfg.levels == 4
    assert not cfg.scale_shift


@paper
def test_the_papers_preset_trains(tmp_path, monkeypatch):
    """From the command line, made small; faces have labels, but the network does not see them."""
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    small = dict(size=8, n_images=64, width=32, levels=2, batch_size=4, steps=2, n=2, T=10,
                 sample_steps=10, device="cpu", matmul="highest", out_dir=tmp_path / "run")
    typed = [f"--{key}={value}" for key, value in small.items()]
    result = train_diffusion.main(["--preset=paper", *typed])
    assert math.isfinite(result["val_loss"])
    net, (C, S, attributes), checkpoint = loaded(tmp_path / "run")
    assert (C, S, attributes) == (3, 8, {})
    assert net.label is None
    assert not net.middle1.scale_shift
    assert checkpoint["optimizers"][0]["param_groups"][0]["betas"] == (0.9, 0.999)


# ---- the loss

def test_the_right_answer_costs_nothing():
    """And a wrong one for any image does. The network sees each image at its own time, with the
    noise that the target is made of, and is told this time and the labels."""
    schedule = noise_schedule()
    x0 = normal(4, 3, 4, 4)
    eps = normal(4, 3, 4, 4, seed=1)
    y = normal(4, 5, seed=2)
    t = torch.tensor([1, 7, 13, 20])
    right = schedule.target(x0, eps, t).float()
    seen = []

    def loss(answer):
        def net(*inputs):
            seen.append(inputs)
            return answer

        return train_diffusion.diffusion_loss(net, schedule, x0, y, t, eps)

    nothing = loss(right)
    assert nothing < 1e-10
    for i in range(4):
        wrong = right.clone()
        wrong[i] += 1
        assert loss(wrong) > 1e-7                   # at T an error may count very little
    xt, times, labels = seen[0]
    for i in range(4):
        close(xt[i:i + 1], schedule.add_noise(x0[i:i + 1], eps[i:i + 1], t[i].item()), 1e-6)
    assert torch.equal(times, t)
    assert torch.equal(labels, y)


@paper
@pytest.mark.parametrize("predict", ["x0", "v", "eps"])
@pytest.mark.parametrize("max_weight", [5.0, 1.5, math.inf])
def test_loss_by_hand(predict, max_weight, double):
    """A weight that is σ², or not of this image's t; a mean over the wrong numbers."""
    schedule = noise_schedule(predict=predict, max_weight=max_weight, T=1000)
    x0 = normal(4, 3, 4, 4)
    eps = normal(4, 3, 4, 4, seed=1)
    out = normal(4, 3, 4, 4, seed=2)
    t = torch.tensor([1, 301, 601, 901])
    seen = []

    def net(xt, times, y):
        seen.append(xt)
        return out

    got = train_diffusion.diffusion_loss(net, schedule, x0, normal(4, 5), t, eps)
    want = 0.0
    for b in range(4):
        f = [math.cos((time / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for time in (t[b], 0)]
        alpha = math.sqrt(f[0] / f[1])
        sigma = math.sqrt(1 - f[0] / f[1])
        close(seen[0][b], alpha * x0[b] + sigma * eps[b], 1e-10)
        target = {"x0": x0[b], "v": alpha * eps[b] - sigma * x0[b], "eps": eps[b]}[predict]
        weight = 1.0
        if predict == "x0":
            weight = min(max_weight, 1 / sigma**2)
        want += weight * (out[b] - target).square().sum().item() / out.numel()
    assert math.isclose(got, want, rel_tol=1e-9)


def test_the_loss_is_taken_in_float32():
    """The network may answer in bfloat16; the noise schedule is kept in float64."""
    x0 = normal(2, 1, 4, 4, dtype=torch.float32)

    def net(xt, t, y):
        assert xt.dtype == torch.float32
        return xt.bfloat16()

    t = torch.tensor([1, 6])
    loss = train_diffusion.diffusion_loss(net, noise_schedule(), x0, None, t, x0)
    assert loss.dtype == torch.float32


# ---- the plain functions, and the general ones

def plain_net(x, t, y=None):
    """Answers that depend on the image and on its time."""
    return torch.tanh(x.flip(3) + t.view(-1, 1, 1, 1) / 10)


@paper
def test_ddpm_loss():
    """The same as diffusion_loss with PredictEps; its times are 1 … T, each image has its own, and
    its noise is N(0, I)."""
    abar = train_diffusion.linear_abar(20)
    schedule = train_diffusion.NoiseSchedule(abar)
    x0 = normal(256, 1, 4, 4)
    seen = []

    def watched(xt, t):
        seen.append((xt, t))
        return plain_net(xt, t)

    torch.manual_seed(5)
    loss = train_diffusion.ddpm_loss(watched, schedule, x0)
    xt, t = seen[0]
    assert set(t.tolist()) == set(range(1, 21))
    left = abar[t].view(-1, 1, 1, 1)
    eps = (xt - left.sqrt() * x0) / (1 - left).sqrt()
    assert abs(eps.mean()) < 0.06                               # some four standard errors
    assert abs(eps.std() - 1) < 0.05
    answer = plain_net(xt, t)
    close(loss, (answer - eps).square().mean(), 1e-10)
    general = train_diffusion.PredictEps(abar)
    close(train_diffusion.diffusion_loss(plain_net, general, x0, None, t, eps), loss, 1e-6)


@paper
def test_ddpm_sample():
    """Algorithm 2 and the sampler with --preset=paper's settings agree, if both keep no x̂₀ within
    [−1, 1]."""
    cfg = tiny(T=20, sample_steps=20, sampler="ddpm", variance="large", predict="eps",
               schedule="linear")
    schedule = train_diffusion.make_schedule(cfg)
    x = normal(3, 2, 4, 4)

    def guess(xt, t):
        return schedule.predict_x0(plain_net(xt, torch.full((3,), t)), xt, t)

    want = train_diffusion.denoise(guess, x, schedule, cfg, rng_of(3))
    torch.manual_seed(3)
    close(train_diffusion.ddpm_sample(plain_net, schedule, x), want, 1e-10)


@paper
def test_ddpm_train(capsys):
    """The lines at the end of part one, with fewer steps: images that are all alike are learnt, and
    the answer is that of the averaged weights."""
    torch.manual_seed(0)
    net = train_diffusion.UNet(tiny(), C=1, S=16, V=0)
    first = [weight.detach().clone() for weight in net.parameters()]
    schedule = train_diffusion.NoiseSchedule(train_diffusion.linear_abar(50))
    images = torch.full((4, 1, 16, 16), 0.5)
    ema = train_diffusion.ddpm_train(net, schedule, images, steps=250, batch_size=16, lr=3e-3)
    assert "step 249/250  loss 0." in capsys.readouterr().out
    many = images.repeat(64, 1, 1, 1)
    for weight, average in zip(net.parameters(), ema.parameters()):
        assert not torch.equal(weight, average)
    with torch.no_grad():
        torch.manual_seed(1)
        loss = train_diffusion.ddpm_loss(ema, schedule, many)
        for weight, at_first in zip(net.parameters(), first):
            weight.copy_(at_first)
        loss_at_first = train_diffusion.ddpm_loss(net, schedule, many)
    assert loss_at_first > 0.9                                  # it answers 0 at first
    assert loss < 0.05
    drawn = train_diffusion.ddpm_sample(ema, schedule, torch.randn(16, 1, 16, 16))
    assert (drawn - 0.5).abs().mean() < 0.4


@paper
def test_the_command_ddpm(tmp_path, capsys):
    """Part one alone draws a picture of n images beside the folders of runs."""
    command(tmp_path / "runs" / "run", "ddpm", "--steps=2", "--n=16", "--T=3", "--n_images=32",
            "--size=16", "--sample_steps=3")
    assert str(tmp_path / "runs" / "ddpm.png") in capsys.readouterr().out
    assert read_sheet(tmp_path / "runs" / "ddpm.png").shape == (2, 8, 3, 16, 16)


# ---- batches

@paper
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("B, T", [(8, 1000), (32, 1000), (7, 50), (1, 20), (20, 20), (9, 1)])
def test_times_are_from_1_to_T(B, T, stratified):
    """Time 0 would be an image without noise: its weight is infinite, and there is nothing to
    learn from it."""
    cfg = tiny(T=T, sample_steps=1, stratified=stratified)
    for seed in range(40):
        t = train_diffusion.draw_times(B, cfg, rng_of(seed))
        assert t.shape == (B,)
        assert t.dtype == torch.int64
        assert t.min() >= 1
        assert t.max() <= T
        assert torch.equal(t, train_diffusion.draw_times(B, cfg, rng_of(seed)))


@paper
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("B", [32, 100, 256])
def test_times_end_at_T(B, stratified, monkeypatch):
    """(B − 1 + u) / B rounds to 1 in float32 if u is close to 1: t would be T + 1, which there is
    not. With u = 0 it begins at 1."""
    cfg = tiny(T=1000, stratified=stratified)
    for u, function, want in ((1 - 2**-24, torch.max, 1000), (0.0, torch.min, 1)):
        monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, u))
        assert function(train_diffusion.draw_times(B, cfg, rng_of(0))) == want


@paper
@pytest.mark.parametrize("B, T", [(8, 1000), (32, 1000), (7, 50), (1, 20), (20, 20)])
def test_stratified_times_are_spread_evenly(B, T):
    """One in each of B equal parts of 1 … T, anywhere in it."""
    first = set()
    for seed in range(40):
        t = train_diffusion.draw_times(B, tiny(T=T), rng_of(seed)) - 1
        for i in range(B):
            assert math.floor(i * T / B) <= t[i] < (i + 1) * T / B
            assert abs(t[i] - t[0] - i * T / B) <= 1            # one offset for all
        first.add(t[0].item())
    assert len(first) > min(T / B, 10) / 2
    assert len(first) <= T / B + 1


@paper
def test_independent_times_are_uniform():
    """As the paper has them: each of 1 … T as often as any other, and none says anything about the
    next. The bounds are four to five standard deviations."""
    t = train_diffusion.draw_times(20000, tiny(T=5, sample_steps=1, stratified=False), rng_of(0))
    counts = torch.bincount(t, minlength=6)
    assert counts[0] == 0
    assert len(counts) == 6
    assert (counts[1:] - 4000).abs().max() < 5 * math.sqrt(20000 * 0.2 * 0.8)
    pairs = torch.bincount(5 * (t[:-1] - 1) + t[1:] - 1, minlength=25)
    assert (pairs - 800).abs().max() < 5 * math.sqrt(20000 * 0.04 * 0.96)


def test_a_batch():
    """An image beside its label; pixels in [-1, 1]; noise for each number; all of it by the rng."""
    values = torch.arange(50, dtype=torch.uint8) * 5
    images = values.view(50, 1, 1, 1).expand(50, 3, 8, 8)
    labels = torch.eye(50)                                      # the number of the image
    cfg = tiny(label_dropout=0.0)
    x0, y, t, eps = train_diffusion.get_batch(images, labels, 40, cfg, rng_of(3))

    number = y.argmax(1)
    assert x0.shape == (40, 3, 8, 8)
    assert x0.dtype == torch.float32
    close(x0[:, 0, 0, 0], number * 5 / 127.5 - 1, 1e-6)
    assert len(number.unique()) > 20
    assert t.shape == (40,)

    assert eps.shape == x0.shape
    assert eps.dtype == torch.float32
    assert eps.mean().abs() < 0.05
    assert abs(eps.std() - 1) < 0.05
    assert len(eps.unique()) > 7000                             # of 7,680

    again = train_diffusion.get_batch(images, labels, 40, cfg, rng_of(3))
    for one, other in zip((x0, y, t, eps), again):
        assert torch.equal(one, other)
    rng = rng_of(3)
    train_diffusion.get_batch(images, labels, 40, cfg, rng)
    following = train_diffusion.get_batch(images, labels, 40, cfg, rng)
    assert not torch.equal(x0, following[0])
    assert not torch.equal(y, following[1])
    assert not torch.equal(eps, following[3])


@pytest.mark.parametrize("p, least, most", [(0.0, 1, 1), (1.0, 0, 0), (0.25, 0.7, 0.8)])
def test_labels_are_dropped_image_by_image(p, least, most):
    """All values of an image at once, to exactly 0. Once a value was dropped here and another
    there: then no image is without labels, and guidance has nothing to start from. The labels of
    the data stay as they are."""
    images = torch.zeros(9, 1, 1, 1, dtype=torch.uint8)
    one = torch.tensor([1.0, 0, 0, 1, 0])
    labels = one.repeat(9, 1)
    y = train_diffusion.get_batch(images, labels, 4000, tiny(label_dropout=p), rng_of(0))[1]
    kept = (y == one).all(1)
    dropped = (y == 0).all(1)
    assert (kept | dropped).all()
    assert least <= kept.float().mean() <= most
    assert (labels == one).all()


# ---- the steps of sampling

WAYS = {"small": dict(sampler="ddpm", sample_steps=50),
        "large": dict(sampler="ddpm", variance="large", sample_steps=50),
        "strided": dict(sampler="ddpm", variance="large", sample_steps=10),
        "eta0": dict(sampler="ddim", sample_steps=10),
        "eta1": dict(sampler="ddim", eta=1.0, sample_steps=10),
        "dpm": dict(sampler="dpm", sample_steps=10)}


def golden_times(cfg) -> list:
    """The times of diffusers' chain, counted from 1, and 0."""
    if cfg.sample_steps == 50:
        return list(range(50, -1, -1))
    return [*(GOLDEN["times"] + 1).tolist(), 0]


@paper
@schedules
@pytest.mark.parametrize("way", WAYS)
def test_every_step_of_every_sampler_equals_diffusers(way, name):
    """Each from diffusers' x. The last step, to time 0, adds no noise (Ho et al., algorithm 2),
    with neither variance; DDIM's σ is 0 there."""
    cfg = tiny(T=50, schedule=name, **WAYS[way])
    schedule = train_diffusion.make_schedule(cfg)
    want = golden(name, way)
    answers = torch.tensor(GOLDEN["x0"])
    noises = torch.tensor(GOLDEN["noise"])
    times = golden_times(cfg)
    x0_before = None
    t_before = 0
    for i, (t, s) in enumerate(zip(times[:-1], times[1:])):
        x0 = answers[t - 1]
        z = noises[t - 1]
        if cfg.sampler == "ddpm":
            got = train_diffusion.ddpm_step(schedule, want[i], x0, t, s, z, cfg.variance)
        elif cfg.sampler == "ddim":
            got = train_diffusion.ddim_step(schedule, want[i], x0, t, s, z, cfg.eta)
        else:
            got = train_diffusion.dpm_solver_step(schedule, want[i], x0, t, s, x0_before, t_before)
        close(got, want[i + 1], 1e-10)
        x0_before = x0
        t_before = t


@paper
@schedules
@pytest.mark.parametrize("way", WAYS)
def test_chains_equal_diffusers(way, name, monkeypatch):
    """The times, and which step's answer and noise goes where."""
    cfg = tiny(T=50, schedule=name, **WAYS[way])
    want = golden(name, way)
    answers = torch.tensor(GOLDEN["x0"])
    noises = torch.tensor(GOLDEN["noise"])
    asked = []

    def predict(xt, t):
        asked.append(t)
        return answers[t - 1]

    def of_this_step(shape, generator, dtype):
        return noises[asked[-1] - 1]

    monkeypatch.setattr(torch, "randn", of_this_step)
    images, steps = chain(predict, want[0], cfg, None)
    assert asked == golden_times(cfg)[:-1]
    for (_, xt, _), wanted in zip(steps, want):
        close(xt, wanted, 1e-10)
    close(images, want[-1], 1e-10)


@paper
@pytest.mark.parametrize("sampler, others", [("ddpm", dict(eta=1.0)),
                                             ("ddim", dict(variance="large")),
                                             ("dpm", dict(eta=1.0, variance="large"))])
def test_flags_of_another_sampler_change_nothing(sampler, others):
    x = normal(5, 3)
    images = []
    for changes in ({}, others):
        cfg = tiny(T=50, sample_steps=5, sampler=sampler, **changes)
        images.append(chain(lambda xt, t: 0.5 * xt, x, cfg, rng_of(1))[0])
    assert torch.equal(images[0], images[1])


@paper
@pytest.mark.parametrize("changes", [dict(sampler="ddpm"), dict(sampler="ddpm", variance="large"),
                                     dict(sampler="ddim", eta=1.0)], ids=["small", "large", "eta1"])
def test_noise_on_the_way_is_of_the_rng(changes):
    """Alike from the same rng, another from another."""
    cfg = tiny(T=50, sample_steps=50, **changes)
    x = noise(1, 5000, seed=1).double()
    chains = [chain(lambda xt, t: 0 * xt, x, cfg, rng_of(seed))[1] for seed in (2, 2, 3)]
    for (_, a, _), (_, b, _) in zip(chains[0], chains[1]):
        assert torch.equal(a, b)
    for (_, a, _), (_, b, _) in list(zip(chains[0], chains[2]))[1:]:
        assert not torch.equal(a, b)


@paper
@pytest.mark.parametrize("n", [5, 130])
def test_the_noise_on_the_way_is_not_that_of_the_beginning(n, monkeypatch):
    """One seed for both would add x_T to itself: too much noise at the first step of ddpm, and of
    ddim with eta. Nor do two groups of images, drawn one after the other, get the same noise."""
    began = []
    came = []
    plain = train_diffusion.ddpm_step

    def spy(schedule, xt, x0, t, s, z, variance):
        began.append(xt)
        came.append(z)
        return plain(schedule, xt, x0, t, s, z, variance)

    monkeypatch.setattr(train_diffusion, "ddpm_step", spy)
    cfg = tiny(sampler="ddpm", sample_steps=2)
    train_diffusion.generate(lively(1, {}), torch.zeros(n, 0), 1, 16, cfg)
    both = torch.stack([began[0].flatten(), came[0].flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.15
    firsts = {tuple(z.flatten()[:256].tolist()) for z in came}
    assert len(firsts) == len(came)


@paper
@pytest.mark.parametrize("T", [1, 2, 3, 20, 50, 1000])
def test_times_of_a_chain(T):
    """As many steps as T: each t once. Fewer: from T to 1, no t twice. The last step ends at 0."""
    for steps in {1, 2, 3, 10, 19, T - 1, T} & set(range(1, T + 1)):
        times = train_diffusion.sample_times(T, steps)
        assert len(times) == steps + 1
        assert times[0] == T
        assert times[-1] == 0
        assert times[-2] == 1 or steps == 1
        gaps = [a - b for a, b in zip(times[:-2], times[1:-1])]
        assert all(gap >= 1 for gap in gaps)
        assert not gaps or max(gaps) - min(gaps) <= 1
        if steps == T:
            assert times == list(range(T, -1, -1))


@paper
@pytest.mark.parametrize("T", [9, 14, 15, 16, 17])
def test_ddim_keeps_no_noise_at_all(T):
    """With eta = 1, and almost no image left at T, all of the old noise is replaced, so that what
    is kept of it is 0, or by rounding the root of a number below 0."""
    cfg = tiny(T=T, schedule="linear", sampler="ddim", eta=1.0, sample_steps=2)
    images, _ = chain(lambda xt, t: 0.5 * xt, normal(2, 3), cfg, rng_of(1))
    assert images.isfinite().all()


# ---- sampling

def mixture():
    """Weights, means and covariances of a mixture of two normal distributions in the plane."""
    weights = torch.tensor([0.3, 0.7]).double()
    means = torch.tensor([[-1.4, 0.8], [0.9, -0.5]]).double()
    covariances = torch.tensor([[[0.10, 0.04], [0.04, 0.05]],
                                [[0.06, -0.03], [-0.03, 0.12]]]).double()
    return weights, means, covariances


def mean_image(xt, alpha, sigma):
    """E[x₀ | x_t], if x₀ is of the mixture: normal densities say which of the two x_t comes from;
    for each of them the answer is linear."""
    weights, means, covariances = mixture()
    logs = []
    answers = []
    for k in range(2):
        total = alpha**2 * covariances[k] + sigma**2 * torch.eye(2).double()    # of x_t
        off = xt - alpha * means[k]
        moved = off @ torch.linalg.inv(total)
        logs.append(weights[k].log() - torch.logdet(total) / 2 - (off * moved).sum(1) / 2)
        answers.append(means[k] + alpha * moved @ covariances[k])
    first = (logs[0] - logs[1]).sigmoid()[:, None]
    return first * answers[0] + (1 - first) * answers[1]


@samplers
def test_exact_answers_recover_the_distribution(changes):
    """With E[x₀ | x_t] known, 200 steps of 1000 lead from noise to the mixture: mean and covariance
    within 2 % of the largest standard deviation and the largest variance. A sampler that adds too
    little noise, or goes too far, draws images all the same, but not from this distribution."""
    cfg = tiny(T=1000, sample_steps=200, **changes)
    schedule = train_diffusion.make_schedule(cfg)

    def predict(xt, t):
        return mean_image(xt, *alpha_sigma(schedule, t))

    x, _ = chain(predict, normal(20000, 2, seed=3), cfg, rng_of(4))
    weights, means, covariances = mixture()
    mean = weights @ means
    second = covariances + means[:, :, None] * means[:, None, :]
    covariance = torch.einsum("k,kij->ij", weights, second) - mean.outer(mean)
    assert (x.mean(0) - mean).abs().max() < 0.02 * covariance.max() ** 0.5
    assert (x.T.cov() - covariance).abs().max() < 0.02 * covariance.max()
    nearest = torch.cdist(x, means).argmin(1)
    assert abs(nearest.double().mean() - 0.7) < 0.02            # both of the two


@samplers
def test_the_last_answer_is_the_image(changes):
    """A last step that stops before time 0, or adds noise, leaves images a little noisy."""
    cfg = tiny(sample_steps=5, **changes)
    images, steps = chain(lambda xt, t: 0.1 * xt + 0.2, normal(3, 4), cfg, rng_of(1))
    assert len(steps) == 5
    close(images, steps[-1][2], 1e-10)


class Linear(nn.Module):
    """A network that keeps what it was asked, and answers linearly."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, y):
        self.asked.append((x, t, y))
        return 0.3 * x + y.sum(1).view(-1, 1, 1, 1)


@targets
@pytest.mark.parametrize("w, calls", [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_guidance(w, calls, changes):
    """0: without labels, 1: with them, else u + w (c − u). It is done in the network's answer, and
    only then is x̂₀ moved into [-1, 1]."""
    x = 0.4 * normal(3, 1, 2, 2, dtype=torch.float32)
    y = torch.tensor([[1.0, 0], [0, 5.0], [-0.5, 0]])
    schedule = noise_schedule(T=1000, **changes)
    net = Linear()
    got = train_diffusion.predict_with_guidance(net, schedule, x, 600, y, w)

    uncond = 0.3 * x
    cond = 0.3 * x + y.sum(1).view(-1, 1, 1, 1)
    want = schedule.predict_x0(uncond + w * (cond - uncond), x, 600)
    assert want.abs().max() > 1.1 or w == 0
    close(got, want.clamp(-1, 1), 1e-5)

    assert len(net.asked) == calls
    for _, t, _ in net.asked:
        assert t.dtype == torch.int64
        assert t.tolist() == [600, 600, 600]
    without_labels = [bool((labels == 0).all()) for _, _, labels in net.asked]
    with_labels = [torch.equal(labels, y) for _, _, labels in net.asked]
    assert any(without_labels) == (w != 1)
    assert any(with_labels) == (w != 0)


def test_x0_is_taken_in_float32():
    """Under autocast the network answers in bfloat16; guidance subtracts numbers that are almost
    alike, and x_t goes on in float32."""
    def net(x, t, y):
        return x.bfloat16()

    x = normal(2, 1, 4, 4, dtype=torch.float32)
    y = torch.ones(2, 3)
    for w in (0.0, 1.0, 2.0):
        x0 = train_diffusion.predict_with_guidance(net, noise_schedule(), x, 5, y, w)
        assert x0.dtype == torch.float32


def test_generate():
    """From fixed noise; more than fit at once come in their order, each with its own labels, and
    none depends on the others."""
    net = lively(C=1)
    cfg = tiny(sample_steps=2, seed=5)
    numbers = torch.arange(130)
    y = image_sets.one_hot(torch.stack([numbers % 2, numbers % 3], dim=1), SHAPES)
    images = train_diffusion.generate(net, y, 1, 16, cfg)
    assert images.shape == (130, 1, 16, 16)
    assert not images.requires_grad
    assert images.abs().max() <= 1.0001
    assert torch.equal(images, train_diffusion.generate(net, y, 1, 16, cfg))
    other = train_diffusion.generate(net, y[:5], 1, 16, tiny(sample_steps=2, seed=6))
    assert not torch.equal(images[:5], other)

    x_T = torch.randn(130, 1, 16, 16, generator=rng_of(5))
    for i in (0, 1, 127, 128, 129):
        want, _ = chain_of(net, x_T[i:i + 1], y[i:i + 1], cfg)
        assert (images[i:i + 1] - want).abs().max() < 1e-5


def test_generate_heeds_guidance():
    """0 ignores the labels; 3 goes further than 1."""
    net = lively()
    y = image_sets.one_hot(torch.tensor([[1, 2]]).repeat(4, 1), SHAPES)

    def drawn(y, w):
        return train_diffusion.generate(net, y, 3, 16, tiny(guidance=w))

    nothing = torch.zeros(4, 5)
    assert torch.equal(drawn(y, 0.0), drawn(nothing, 0.0))
    assert torch.equal(drawn(y, 0.0), drawn(nothing, 1.0))
    assert not torch.equal(drawn(y, 1.0), drawn(nothing, 1.0))
    assert not torch.equal(drawn(y, 3.0), drawn(y, 1.0))


@paper
def test_generate_images_that_are_padded():
    """The noise is of the size of the images: the chain knows nothing of padding."""
    net = lively(C=1, size=13)
    cfg = tiny(sample_steps=2, seed=5)
    images = train_diffusion.generate(net, torch.eye(5), 1, 13, cfg)
    assert images.shape == (5, 1, 13, 13)
    want, _ = chain_of(net, torch.randn(5, 1, 13, 13, generator=rng_of(5)), torch.eye(5), cfg)
    assert (images - want).abs().max() < 1e-5


# ---- training

@pytest.mark.parametrize("decay, steps, warmup, want", [
    (True, 6, 2, [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]),
    (False, 6, 2, [1 / 3, 2 / 3, 1, 1, 1, 1]),
    (True, 4, 0, [1, 3 / 4, 2 / 4, 1 / 4]),
    (False, 4, 0, [1, 1, 1, 1]),
    (False, 3, 5, [1 / 6, 2 / 6, 3 / 6])])
def test_learning_rate(decay, steps, warmup, want):
    """It rises to its peak in `warmup` steps, in a straight line from above 0. With decay it falls
    to 0 just behind the last step, without it it stays."""
    cfg = tiny(decay=decay, steps=steps, warmup=warmup)
    rates = [train_diffusion.lr_factor(step, cfg) for step in range(steps)]
    assert np.allclose(rates, want, rtol=1e-12)


def test_overfits_one_batch():
    """The same noise at each step: the loss falls to a twentieth."""
    images, labels = faces(8, 16)
    cfg = tiny(T=1000)
    schedule = train_diffusion.make_schedule(cfg)
    net = train_diffusion.make_nets(cfg, 3, 16, FACES)["net"]
    y = image_sets.one_hot(labels, FACES)
    t = 1 + torch.arange(8) * 125
    eps = normal(8, 3, 16, 16, dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), 4e-3, (0.9, 0.99))
    losses = []
    for step in range(300):
        loss = train_diffusion.diffusion_loss(net, schedule, to_float(images), y, t, eps)
        losses.append(loss.item())
        if losses[-1] < 0.05 * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def noted(monkeypatch, name):
    """A list of what a function of train_diffusion.py returns, each time that it is called."""
    returned = []
    plain = getattr(train_diffusion, name)

    def spy(*args):
        returned.append(plain(*args))
        return returned[-1]

    monkeypatch.setattr(train_diffusion, name, spy)
    return returned


@pytest.mark.parametrize("changes, rates", [
    (dict(label_dropout=0.1, beta2=0.99), [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]),
    (dict(label_dropout=1.0, beta2=0.9, decay=False), [1 / 3, 2 / 3, 1, 1, 1, 1])])
def test_steps_equal_a_training_loop_written_out(changes, rates, tmp_path, monkeypatch, double):
    """In float64, with Adam and the average of the weights by hand: a forgotten zero_grad, a stale
    average, other rates. It takes network and loss as they are."""
    batches = noted(monkeypatch, "get_batch")
    made = noted(monkeypatch, "make_nets")
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    cfg = tiny(steps=6, warmup=2, ema=0.3, batch_size=4, eval_every=0, sample_every=0,
               optimizer="adam", out_dir=str(tmp_path / "run"), **changes)
    result = train_diffusion.train(cfg)
    val_batch = batches[0]
    assert len(batches) == 1 + 6
    assert len(val_batch[0]) == 256
    V = 21 if cfg.label_dropout < 1 else 0
    assert val_batch[1].shape == (256, V)

    # the same network again, as it was at the start
    net = train_diffusion.make_nets(cfg, 3, 16, FACES if V else {})["net"]
    schedule = train_diffusion.make_schedule(cfg)
    weights = list(net.parameters())
    average = [weight.detach().clone() for weight in weights]
    m = [torch.zeros_like(weight) for weight in weights]
    v = [torch.zeros_like(weight) for weight in weights]
    keeps = [0, 1 / 11, 2 / 12, 3 / 13, 4 / 14, 0.3]            # the average is short at first
    for step, batch in enumerate(batches[1:]):
        loss = train_diffusion.diffusion_loss(net, schedule, *batch)
        gradients = torch.autograd.grad(loss, weights)
        for i, gradient in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = cfg.beta2 * v[i] + (1 - cfg.beta2) * gradient**2
            mean = m[i] / (1 - 0.9 ** (step + 1))
            square = v[i] / (1 - cfg.beta2 ** (step + 1))
            weights[i].data -= cfg.lr * rates[step] * mean / (square.sqrt() + 1e-8)
            average[i] = keeps[step] * average[i] + (1 - keeps[step]) * weights[i].data

    for got, want in zip(made[0]["net"].parameters(), weights):
        close(got, want, 1e-9)
    for got, want in zip(made[0]["ema"].parameters(), average):
        close(got, want, 1e-9)
    for weight, value in zip(weights, average):
        weight.data.copy_(value)
    val_loss = train_diffusion.diffusion_loss(net, schedule, *val_batch).item()
    assert math.isclose(result["val_loss"], val_loss, rel_tol=1e-9)


def test_the_average_draws_without_dropout(trained):
    """Our U-Net has no dropout. Who adds some must not find it on while images are drawn, or while
    the loss of held-out images is measured."""
    nets = train_diffusion.make_nets(tiny(), 3, 16, FACES)
    assert nets["net"].training
    assert not nets["ema"].training
    net, _, _ = loaded(trained[0])
    assert not net.training


def test_each_weight_has_one_optimiser():
    """A weight that is in no list is never trained, one that is in both is trained twice. Muon has
    matrices only."""
    cfg = tiny()
    net = train_diffusion.make_nets(cfg, 3, 16, FACES)["net"]
    muon, adam = train_diffusion.make_optimizers(net, cfg)
    of_muon = {id(p) for p in muon.param_groups[0]["params"]}
    of_adam = {id(p) for p in adam.param_groups[0]["params"]}
    assert not of_muon & of_adam
    assert of_muon | of_adam == {id(p) for p in net.parameters()}
    for name, p in net.named_parameters():
        if p.ndim < 2:
            assert id(p) in of_adam, name

    (only,) = train_diffusion.make_optimizers(net, tiny(optimizer="adam"))
    assert {id(p) for p in only.param_groups[0]["params"]} == {id(p) for p in net.parameters()}


@paper
def test_muon_has_all_hidden_layers():
    """And not the two that touch pixels."""
    cfg = tiny()
    net = train_diffusion.make_nets(cfg, 3, 16, FACES)["net"]
    muon, _ = train_diffusion.make_optimizers(net, cfg)
    of_muon = {id(p) for p in muon.param_groups[0]["params"]}
    for name, p in net.named_parameters():
        touches_pixels = name in ("first.weight", "last.weight")
        assert (id(p) in of_muon) == (p.ndim >= 2 and not touches_pixels), name


def test_both_optimisers_follow_the_rates(tmp_path, monkeypatch):
    """The rate of one alone falls: the other goes on at its peak until the end."""
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    cfg = tiny(steps=4, warmup=1, muon_lr=0.3, lr=0.1, out_dir=str(tmp_path / "run"))
    train_diffusion.train(cfg)
    _, _, checkpoint = loaded(tmp_path / "run")
    muon, adam = (saved["param_groups"][0]["lr"] for saved in checkpoint["optimizers"])
    assert math.isclose(muon, 0.3 / 3, rel_tol=1e-9)                # before the last step
    assert math.isclose(adam, 0.1 / 3, rel_tol=1e-9)


def test_the_batch_to_validate_with_is_always_the_same(tmp_path, monkeypatch):
    """Otherwise the curve jumps with the noise, and a run that goes on is measured by another. It
    is of held-out images. Batches to learn from come from a generator that nobody else uses: what
    is validated with, and how often, must not change what is learnt."""
    batches = noted(monkeypatch, "get_batch")
    used = []
    plain = train_diffusion.evaluate_loss

    def spy(net, schedule, batch):
        used.append(batch)
        return plain(net, schedule, batch)

    monkeypatch.setattr(train_diffusion, "evaluate_loss", spy)
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    cfg = tiny(steps=4, eval_every=1, sample_every=0, stop_after=2, seed=6,
               out_dir=str(tmp_path / "run"))
    train_diffusion.train(cfg)
    resumed = tiny(steps=4, eval_every=1, sample_every=0, seed=6, resume=True,
                   out_dir=str(tmp_path / "run"))
    train_diffusion.train(resumed)
    assert len(used) == 4 + 1                                   # and once at the end
    for batch in used:
        for one, other in zip(batch, used[0]):
            assert torch.equal(one, other)

    known = {image.numpy().tobytes() for image in held_out_faces()[0]}
    for image in used[0][0]:
        assert image.numpy().tobytes() in known

    learn, _ = image_sets.load_images("faces", 16, 64)
    labels = image_sets.one_hot(learn.labels, FACES)
    rng = rng_of(6)
    learnt_from = [batch for batch in batches if len(batch[0]) == 8]
    assert len(learnt_from) == 4
    for batch in learnt_from:
        want = train_diffusion.get_batch(learn.images, labels, 8, cfg, rng)
        for one, other in zip(batch, want):
            assert torch.equal(one, other)
    assert not torch.equal(used[0][3][:8], learnt_from[0][3])   # nor is it their noise again


# ---- the run

def sheet_shape(n, size, C, columns=8):
    """(height, width, colors) of a sheet of n images, before it is enlarged."""
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    return (rows * (size + 2) + 2, columns * (size + 2) + 2, C)


def command(folder, *args):
    return train_diffusion.main([*args, f"--out_dir={folder}", "--device=cpu", "--matmul=highest"])


def loaded(folder):
    """(averaged network, (C, S, attributes), checkpoint) as they were saved."""
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    C, S, attributes = checkpoint["shape"]
    cfg = train_diffusion.Config(**checkpoint["config"])
    nets = train_diffusion.make_nets(cfg, C, S, attributes, checkpoint)
    return nets["ema"], (C, S, attributes), checkpoint


def test_end_to_end(trained):
    """A run's files and numbers."""
    run, result = trained
    distances = {"frechet", "frechet_floor", "frechet_untrained"}
    assert distances | {"val_loss", "frechet_n", "accuracy", "most_frequent"} <= set(result)
    assert result["frechet_n"] == 64
    for key in distances:
        assert math.isfinite(result[key])
    assert list(result["accuracy"]) == list(FACES)
    assert list(result["most_frequent"]) == list(FACES)

    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["val_loss"]) == result["val_loss"]
    for row in rows:
        assert float(row["loss"]) > 0
    rates = [float(row["lr"]) / train_diffusion.Config.lr for row in rows]
    assert np.allclose(rates, [1 / 2, 1, 2 / 3, 1 / 3], rtol=1e-9)

    for step in (2, 4):
        grid = read_grid(run / f"samples/step_00000{step}.png", 8, 16)
        assert grid.shape == sheet_shape(8, 16, 3)
    net, shape, checkpoint = loaded(run)
    assert shape == (3, 16, FACES)
    assert result["parameters"] == sum(p.numel() for p in net.parameters())     # and not twice
    assert {name.split(".")[0] for name in checkpoint["model"]} == {"net", "ema"}


def test_load(trained):
    """The averaged network: the weights of the last step alone draw noisier images."""
    folder = trained[0]
    net, cfg, (C, S, attributes) = train_diffusion.load(tiny(out_dir=str(folder), seed=3))
    assert (C, S, attributes) == (3, 16, FACES)
    assert cfg.steps == 4
    assert cfg.seed == 3
    weights = loaded(folder)[2]["model"]
    assert any(not torch.equal(weights[f"ema.{name}"], weights[f"net.{name}"])
               for name, _ in net.named_parameters())
    for name, weight in net.named_parameters():
        assert torch.equal(weight, weights[f"ema.{name}"])


def test_the_pictures_and_scores_of_a_run(tmp_path, monkeypatch):
    """Pictures are of the average, from fixed noise, for the labels asked for. Scores are of images
    for held-out labels, beside those of a network as it was at the start."""
    drawn = []                                                  # (network, labels, images)
    seen = {}
    made = noted(monkeypatch, "make_nets")
    plain = train_diffusion.generate
    scores = Judge.scores

    def generate(net, y, C, S, cfg):
        images = plain(net, y, C, S, cfg)
        drawn.append((net, y, images))
        return images

    def score(judge, images, untrained, asked=None):
        seen.update(images=images, untrained=untrained, asked=asked)
        return scores(judge, images, untrained, asked)

    monkeypatch.setattr(train_diffusion, "generate", generate)
    monkeypatch.setattr(Judge, "scores", score)
    cfg = tiny(steps=2, sample_every=1, n=5, hair="red", lr=0.01, out_dir=str(tmp_path / "run"))
    train_diffusion.train(cfg)
    assert len(drawn) == 4

    # after each step
    red = FACES["hair"].index("red")
    for step in (1, 2):
        net, y, images = drawn[step - 1]
        assert net is made[0]["ema"]
        assert torch.equal(y, drawn[0][1])
        assert (y[:, red] == 1).all()
        assert len(images) == 5
        path = tmp_path / f"run/samples/step_00000{step}.png"
        assert (read_png(path) == sheet(images)).all()
    assert not torch.equal(drawn[0][2], drawn[1][2])

    # at the end
    labels = held_out_faces()[1]
    net, y, images = drawn[2]
    assert net is made[0]["ema"]
    assert torch.equal(y, image_sets.one_hot(labels, FACES))
    assert torch.equal(seen["asked"], labels)
    assert seen["images"] is images
    net, y, images = drawn[3]
    assert seen["untrained"] is images
    assert torch.equal(y, drawn[2][1])
    at_the_start = train_diffusion.make_nets(cfg, 3, 16, FACES)["net"]
    for got, want in zip(net.parameters(), at_the_start.parameters()):
        assert torch.equal(got, want)


def test_images_without_labels(arrays, capsys):
    """Gray, 28 × 28: they are enough, but there is no judge, and no label to ask for."""
    run = arrays / "run"
    cfg = tiny(data=str(arrays / "gray.npy"), size=0, steps=2, out_dir=str(run))
    result = train_diffusion.train(cfg)
    out = capsys.readouterr().out
    assert "no Fréchet distance" in out
    assert "labels: none" in out
    assert "frechet" not in result
    assert read_grid(run / "samples/step_000002.png", 8, 28).shape == sheet_shape(8, 28, 1)
    assert loaded(run)[1] == (1, 28, {})

    counts = {"samples": 3, "forward": 4 * 8, "reverse": 8 * 8, "walk": 3, "inpaint": 6}
    for show, count in counts.items():
        command(run, "sample", "--n=3", f"--show={show}", "--guidance=2")
        grid = read_grid(run / f"samples/{show}.png", min(8, count), 28)
        assert grid.shape == sheet_shape(count, 28, 1)
    assert "no labels" in refused_by_main(capsys, "sample", f"--out_dir={run}", "--hair=red")
    assert "no labels" in refused_by_main(capsys, "evaluate", f"--out_dir={run}", "--device=cpu")


def test_labelled_images_of_another_size(arrays):
    run = arrays / "run"
    cfg = tiny(data=str(arrays / "gray.npz"), size=0, steps=1, out_dir=str(run))
    result = train_diffusion.train(cfg)
    assert list(result["accuracy"]) == ["label"]
    assert result["frechet_n"] == 4
    command(run, "sample", "--label=2", "--n=9")
    assert read_grid(run / "samples/samples.png", 8, 28).shape == sheet_shape(9, 28, 1)


def test_labels_left_out(tmp_path, capsys):
    """--label_dropout=1 on labelled images: a model without labels. It is judged all the same, but
    not by what it was asked for."""
    run = tmp_path / "run"
    result = train_diffusion.train(tiny(label_dropout=1.0, steps=1, out_dir=str(run)))
    assert "labels: none" in capsys.readouterr().out
    assert "frechet" in result
    assert "accuracy" not in result
    assert loaded(run)[1] == (3, 16, {})
    command(run, "sample", "--show=inpaint")            # held-out images have labels; it has none
    asked = ["sample", f"--out_dir={run}", "--hair=red", "--device=cpu"]
    assert "--hair" in refused_by_main(capsys, *asked)


# ---- sample

def test_samples(trained, capsys):
    """Those of the average, for the labels asked for; the same from the same seed."""
    folder = trained[0]
    net = loaded(folder)[0]
    path = folder / "samples/samples.png"

    def sampled(*args):
        command(folder, "sample", "--n=11", *args)
        assert "samples/samples.png" in capsys.readouterr().out
        return read_sheet(path).flatten(0, 1)[:11]

    def generated(cfg):
        y = image_sets.one_hot(image_sets.draw_labels(cfg, FACES, 11), FACES)
        return train_diffusion.generate(net, y, 3, 16, cfg)

    images = sampled("--seed=5")
    assert torch.equal(images, sampled("--seed=5"))
    assert not torch.equal(images, sampled("--seed=6"))
    assert alike(images, generated(tiny(seed=5)))
    red = sampled("--seed=5", "--hair=red", "--guidance=3")
    assert alike(red, generated(tiny(seed=5, hair="red", guidance=3.0)))
    assert not torch.equal(red, images)


@pytest.mark.parametrize("n", [5, 24])
def test_a_walk_leads_from_one_sample_to_the_next(trained, n):
    """Rows of 8 pictures, all with the labels of the first. Its ends are what is drawn from the
    noise of this row, and of the next."""
    folder = trained[0]
    net = loaded(folder)[0]
    cfg = tiny(seed=3)
    command(folder, "sample", "--show=walk", f"--n={n}", "--seed=3")
    path = folder / "samples/walk.png"
    assert read_grid(path, min(n, 8), 16).shape == sheet_shape(n, 16, 3)
    walked = read_sheet(path, min(n, 8))
    labels = image_sets.draw_labels(cfg, FACES, n)
    x_T = noise(n, 3 * 256, 3).view(n, 3, 16, 16)
    for row in range(math.ceil(n / 8)):
        y = image_sets.one_hot(labels[row:row + 1], FACES)
        first, _ = chain_of(net, x_T[row:row + 1], y, cfg)
        assert alike(walked[row, 0], first[0])
        if n >= 8:
            last, _ = chain_of(net, x_T[row + 1:row + 2], y, cfg)
            assert alike(walked[row, 7], last[0])


def test_forward_drowns_an_image_in_noise(trained):
    """Eight moments evenly spread, from the held-out image itself to noise."""
    folder = trained[0]
    command(folder, "sample", "--show=forward", "--seed=4")
    shown = read_sheet(folder / "samples/forward.png")
    assert shown.shape == (4, 8, 3, 16, 16)
    images, _ = held_out_faces(4)
    eps = noise(4, 768, 4).view(4, 3, 16, 16)
    schedule = noise_schedule()
    assert alike(shown[:, 0], images)
    for column, t in enumerate([0, 3, 6, 9, 11, 14, 17, 20]):
        assert alike(shown[:, column], schedule.add_noise(images, eps, t))


def test_reverse_makes_an_image_of_noise(trained):
    """A row of x_t, from noise, above one of x̂₀, which ends with the sample."""
    folder = trained[0]
    net = loaded(folder)[0]
    path = folder / "samples/reverse.png"
    command(folder, "sample", "--show=reverse", "--seed=4", "--sample_steps=8")
    shown = read_sheet(path).view(4, 2, 8, 3, 16, 16)

    cfg = tiny(seed=4, n=4, sample_steps=8)
    y = image_sets.one_hot(image_sets.draw_labels(cfg, FACES, 4), FACES)
    x_T = noise(4, 768, 4).view(4, 3, 16, 16)
    assert alike(shown[:, 0, 0], x_T)
    assert alike(shown[:, 1, -1], train_diffusion.generate(net, y, 3, 16, cfg))
    _, steps = chain_of(net, x_T, y, cfg)
    for column, (_, xt, x0) in enumerate(steps):
        assert alike(shown[:, 0, column], xt)
        assert alike(shown[:, 1, column], x0)

    # the names of the rows take turns
    xt_rows = [row for row, _ in find_text(read_png(path), "x_t")]
    x0_rows = [row for row, _ in find_text(read_png(path), "predicted x0")]
    assert len(xt_rows) == len(x0_rows) == 4
    in_turn = [row for pair in zip(xt_rows, x0_rows) for row in pair]
    assert in_turn == sorted(in_turn)


@paper
def test_these_pictures_are_drawn_as_samples_are():
    """With noise on the way as well: it is not that of the beginning again."""
    net = lively(attributes=FACES)
    cfg = tiny(sampler="ddpm", n=5, seed=4)
    labels = image_sets.draw_labels(cfg, FACES, 5)
    x_T = noise(5, 768, 4).view(5, 3, 16, 16)
    with torch.no_grad():
        images = study.draw(net, x_T, labels, FACES, cfg)
    y = image_sets.one_hot(labels, FACES)
    assert torch.equal(images, train_diffusion.generate(net, y, 3, 16, cfg))


def test_inpainting_leaves_what_is_known_as_it_was(trained):
    """The upper half of held-out images; the lower half is drawn anew. Beside each image is what
    was given."""
    folder = trained[0]
    known, _ = held_out_faces(12)
    command(folder, "sample", "--show=inpaint", "--n=12")
    pairs = read_sheet(folder / "samples/inpaint.png").flatten(0, 1)[:24].view(12, 2, 3, 16, 16)
    given, drawn = pairs.unbind(1)
    assert alike(given[:, :, :8], known[:, :, :8])
    assert (given[:, :, 8:].abs() < 0.01).all()
    assert alike(drawn[:, :, :8], known[:, :, :8])
    assert not alike(drawn[:, :, 8:], known[:, :, 8:])


def test_known_parts_are_known_at_each_step(monkeypatch):
    """While a part is drawn anew, the rest of x_t is the known image with noise, and this is the
    noise of the beginning at all times. A known part that is put in only at the end does not fit
    to what was drawn beside it."""
    seen = []                                                   # (t, x_t)
    plain = train_diffusion.predict_with_guidance

    def spy(net, schedule, xt, t, y, guidance):
        seen.append((t, xt))
        return plain(net, schedule, xt, t, y, guidance)

    monkeypatch.setattr(train_diffusion, "predict_with_guidance", spy)
    cfg = tiny(T=50, sample_steps=5)
    known, _ = held_out_faces(6)
    x_T = noise(6, 768, 1).view(6, 3, 16, 16)
    study.show_inpainting(Linear(), x_T, 3, 16, FACES, cfg)
    inpainting = list(seen)
    seen.clear()
    labels = study.inpainting_task(cfg, 6, 3, 16, FACES)[2]
    study.draw(Linear(), x_T, labels, FACES, cfg)
    schedule = train_diffusion.make_schedule(cfg)
    assert len(inpainting) == len(seen) == 5
    for (t, xt), (_, free) in zip(inpainting, seen):
        alpha, sigma = alpha_sigma(schedule, t)
        eps = (xt - alpha * known) / sigma
        close(eps[:, :, :8], x_T[:, :, :8], 0.01)
        close(xt[:, :, 8:], free[:, :, 8:], 1e-5)   # this network looks at each pixel by itself


@pytest.mark.parametrize("asked", [[], ["--hair=red"]], ids=["none", "red"])
def test_inpainting_draws_with_the_labels_of_the_images(asked, trained, monkeypatch):
    """Unless others are asked for, by a flag."""
    used = []
    plain = train_diffusion.predict_with_guidance

    def spy(net, schedule, xt, t, y, guidance):
        used.append(y)
        return plain(net, schedule, xt, t, y, guidance)

    monkeypatch.setattr(train_diffusion, "predict_with_guidance", spy)
    command(trained[0], "sample", "--show=inpaint", "--n=5", *asked)
    _, labels = held_out_faces(5)
    if asked:
        hair = list(FACES).index("hair")
        labels[:, hair] = FACES["hair"].index("red")
    assert torch.equal(used[-1], image_sets.one_hot(labels, FACES))


def test_inpainting_of_your_own_picture(trained, tmp_path):
    """--image and --mask, of any size: white is drawn anew."""
    folder = trained[0]
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    write_png(tmp_path / "image.png", np.full((20, 20, 3), (200, 30, 60), np.uint8))
    write_png(tmp_path / "mask.png", mask)
    command(folder, "sample", "--show=inpaint", "--n=2", f"--image={tmp_path}/image.png",
            f"--mask={tmp_path}/mask.png")
    pairs = read_sheet(folder / "samples/inpaint.png", 4)[0].view(2, 2, 3, 16, 16)
    given, drawn = pairs.unbind(1)
    color = torch.tensor([200, 30, 60]).view(1, 3, 1, 1) / 127.5 - 1
    half = color.expand(2, 3, 16, 8)
    assert alike(given[..., 8:], half)
    assert (given[..., :8].abs() < 0.01).all()
    assert alike(drawn[..., 8:], half)
    assert not alike(drawn[..., :8], half)


# ---- what is to be drawn anew

def test_held_out_images_to_inpaint():
    """Again and again if there are too few; the mask is the lower half, for all."""
    held_out, labels = held_out_faces()
    images, mask, asked = study.inpainting_task(tiny(mouth="open"), 70, 3, 16, FACES)
    assert torch.equal(images[:64], held_out)
    assert torch.equal(images[64:], images[:6])
    assert mask.shape == (1, 1, 16, 16)
    assert (mask[:, :, :8] == 0).all()
    assert (mask[:, :, 8:] == 1).all()

    mouth = list(FACES).index("mouth")
    others = [i for i in range(6) if i != mouth]
    assert asked.shape == (70, 6)
    assert (asked[:, mouth] == FACES["mouth"].index("open")).all()
    assert torch.equal(asked[:64, others], labels[:, others])
    assert study.inpainting_task(tiny(), 3, 3, 16, {})[2].shape == (3, 0)


@pytest.mark.parametrize("C, S, first", [(3, 16, 1.0), (3, 13, 1.0), (1, 16, -1 / 3)])
def test_your_own_image_to_inpaint(C, S, first, tmp_path):
    """In the size and the colors of the model; what it shows nobody knows, so its labels are -1."""
    red = np.zeros((12, 12, 3), np.uint8)
    red[..., 0] = 255
    write_png(tmp_path / "red.png", red)
    write_png(tmp_path / "mask.png", np.full((9, 9), 255, np.uint8))
    cfg = tiny(image=str(tmp_path / "red.png"), mask=str(tmp_path / "mask.png"), mouth="open")
    images, mask, labels = study.inpainting_task(cfg, 2, C, S, FACES)
    assert images.shape == (2, C, S, S)
    close(images[:, 0], torch.full((2, S, S), first), 1e-6)
    assert mask.shape == (1, 1, S, S)
    assert (mask == 1).all()
    mouth = list(FACES).index("mouth")
    others = [i for i in range(6) if i != mouth]
    assert (labels[:, mouth] == FACES["mouth"].index("open")).all()
    assert (labels[:, others] == -1).all()


def test_a_gray_image_to_inpaint(tmp_path):
    """A model of colors takes it, too."""
    write_png(tmp_path / "gray.png", np.full((16, 16), 51, np.uint8))
    cfg = tiny(image=str(tmp_path / "gray.png"))
    for C in (1, 3):
        images, _, _ = study.inpainting_task(cfg, 2, C, 16, {})
        close(images, torch.full((2, C, 16, 16), 51 / 127.5 - 1), 1e-6)


# ---- evaluate

@paper
def test_the_rows_of_evaluate():
    """Every sampler at every number of steps below T, and the paper's at all T; guidance, if there
    are labels to be guided by."""
    rows = study.settings(tiny(T=60), FACES)
    want = {}
    for sampler in ("dpm", "ddim", "ddpm"):
        for steps in (5, 10, 20, 50):
            want[f"{sampler}, {steps} steps"] = dict(sampler=sampler, sample_steps=steps)
    want["ddpm, 60 steps"] = dict(sampler="ddpm", sample_steps=60)
    for w in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0):
        want[f"guidance {w}"] = dict(guidance=w)
    assert rows == want
    assert list(rows) == list(want)

    rows = study.settings(tiny(T=20), {})               # 20 of 20 steps are all of them
    assert list(rows) == ["dpm, 5 steps", "dpm, 10 steps", "ddim, 5 steps", "ddim, 10 steps",
                          "ddpm, 5 steps", "ddpm, 10 steps", "ddpm, 20 steps"]


@pytest.mark.parametrize("label_dropout", [0.1, 1.0])
def test_evaluate(label_dropout, tmp_path, monkeypatch, capsys):
    """A row for each setting: how far its images are from real ones, and how often what was asked
    for is drawn. Here what is drawn are the held-out images."""
    run = tmp_path / "run"
    held_out, labels = held_out_faces()
    attributes = FACES if label_dropout < 1 else {}
    used = []

    def generate(net, y, C, S, cfg):
        used.append(cfg)
        assert torch.equal(y, image_sets.one_hot(labels, attributes))
        return held_out

    train_diffusion.train(tiny(steps=1, label_dropout=label_dropout, out_dir=str(run)))
    monkeypatch.setattr(train_diffusion, "generate", generate)
    tables = train_diffusion.main(["evaluate", f"--out_dir={run}", "--device=cpu"])

    rows = study.settings(tiny(), attributes)
    assert len(used) == len(rows)
    for cfg, changes in zip(used, rows.values()):
        for name, value in changes.items():
            assert getattr(cfg, name) == value
        if "sample_steps" not in changes:
            assert cfg.sample_steps == TINY["sample_steps"]     # all else is as in the run

    assert list(tables) == ["Fréchet_distance", "mean_accuracy"]
    for table in tables.values():
        assert list(table) == list(rows)
    assert json.loads((run / "evaluate.json").read_text()) == tables
    printed = capsys.readouterr().out
    for name in rows:
        assert name in printed
    for distance in tables["Fréchet_distance"].values():
        assert abs(distance) < 1e-3
    judge = Judge(tiny(), *image_sets.load_images("faces", 16, 64))
    right = sum(judge.accuracy(held_out, labels).values()) / 6
    for share in tables["mean_accuracy"].values():
        assert math.isclose(share, right, rel_tol=1e-6)

    path = run / "samples/evaluate.png"
    shown = read_sheet(path)
    assert shown.shape[:2] == (len(rows), 8)
    for row in shown:
        assert alike(row, held_out[:8])
    for name in rows:
        assert find_text(read_png(path), name)


# ---- several processes

def test_other_processes_only_learn(tmp_path, monkeypatch):
    """What the first process draws and writes, the others need not."""
    drawn = noted(monkeypatch, "generate")
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    monkeypatch.setattr(train_diffusion, "start_processes", lambda device: (1, 2))
    train_diffusion.train(tiny(steps=2, out_dir=str(tmp_path / "run")))
    assert not drawn
    assert not (tmp_path / "run").exists()


def test_each_process_takes_its_share_of_the_batch(tmp_path, monkeypatch):
    """All draw the same batch; if each took all of it, several would learn no faster than one."""
    batches = noted(monkeypatch, "get_batch")
    seen = []
    plain = train_diffusion.diffusion_loss

    def spy(net, schedule, *batch):
        if torch.is_grad_enabled():
            seen.append(batch)
        return plain(net, schedule, *batch)

    monkeypatch.setattr(train_diffusion, "diffusion_loss", spy)
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    monkeypatch.setattr(train_diffusion, "my_share", lambda *batch: [part[1::2] for part in batch])
    train_diffusion.train(tiny(steps=1, out_dir=str(tmp_path / "run")))
    for part, whole in zip(seen[0], batches[1]):
        assert torch.equal(part, whole[1::2])


def test_the_judge_is_of_the_first_process(monkeypatch, capsys):
    """Two processes would train it at once, in the same folder."""
    monkeypatch.setenv("RANK", "1")
    judge = Judge(tiny(seed=77, data="nowhere"), *image_sets.load_images("faces", 16, 64))
    assert judge.n == 0
    assert judge.scores(None, None) == {}
    assert capsys.readouterr().out == ""


# ---- bad input: one line, exit status 2, no traceback, nothing lost

refused_by_main = partial(refused_by, train_diffusion.main)

BAD = ["width=0", "T=0", "n=0", "batch_size=0", "sample_steps=0",
       "sample_steps=21", "sample_steps=-1", "max_weight=0", "hair=green", "predict=x1",
       "schedule=square", "sampler=nonsense", "variance=big", "n_images=0", "label_dropout=1.1",
       "label_dropout=-0.1", "eta=1.5", "eta=-1", "beta2=1", "ema=1", "warmup=-1",
       "stratified=perhaps"]
BAD_FOR_THE_UNET = ["width=33", "levels=0", "levels=9", "levels=11", "stem=0", "stem=17"]


@pytest.mark.parametrize("flag", [*BAD, *(pytest.param(x, marks=paper) for x in BAD_FOR_THE_UNET)])
def test_bad_sizes_and_names(flag, tmp_path, capsys):
    """Before the first step, which may take hours to be followed by samples."""
    name = flag.split("=")[0]
    error = refused_by_main(capsys, *flags(out_dir=tmp_path / "run", steps=1), f"--{flag}")
    assert f"--{name}" in error
    assert not (tmp_path / "run").exists()


def test_shares_of_labels_at_their_ends():
    """1 is a share of images without labels, though no share of neurons could be."""
    assert tiny(label_dropout=1.0).label_dropout == 1
    assert tiny(label_dropout=0.0).label_dropout == 0


@paper
@pytest.mark.parametrize("eta", [-1.0, 1.5])
def test_a_bad_eta(eta, trained, capsys):
    """Above 1 there is less than no noise to keep: the root of a negative number."""
    run = ["sample", f"--out_dir={trained[0]}", "--device=cpu", "--sampler=ddim"]
    assert "--eta" in refused_by_main(capsys, *run, "--sample_steps=20", f"--eta={eta}")


def test_bad_samples(trained, capsys):
    run = ["sample", f"--out_dir={trained[0]}", "--device=cpu"]
    assert "--show" in refused_by_main(capsys, *run, "--show=nonsense")
    assert "black, brown, blond, red" in refused_by_main(capsys, *run, "--hair=green")
    assert "--label" in refused_by_main(capsys, *run, "--label=3")
    assert "--sample_steps=0 must be at least 1" in refused_by_main(capsys, *run, "--sample_steps=0")
    error = refused_by_main(capsys, *run, "--sample_steps=21")
    assert "--sample_steps=21: from 1 to 20" in error           # the run's own T, not the default
    assert "--n=0" in refused_by_main(capsys, *run, "--n=0")
    assert refused_by_main(capsys, *run, "--show=inpaint", "--image=nothing.png")


def test_more_steps_than_the_default_T(tmp_path, monkeypatch):
    """A run that was trained with T = 1500 can be sampled from in 1200 steps."""
    monkeypatch.setattr(train_diffusion, "Judge", no_judge)
    train_diffusion.train(tiny(steps=1, T=1500, out_dir=str(tmp_path / "run")))
    monkeypatch.setattr(train_diffusion, "generate", lambda *_: torch.zeros(1, 3, 16, 16))
    command(tmp_path / "run", "sample", "--sample_steps=1200")


def test_a_batch_that_cannot_be_shared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_diffusion, "start_processes", lambda device: (0, 2))
    args = flags(batch_size=3, out_dir=tmp_path / "run")
    assert "multiple of 2" in refused_by_main(capsys, *args)
    assert not (tmp_path / "run").exists()


def test_another_data_set_on_resume(trained, arrays, capsys):
    args = flags(out_dir=trained[0], data=arrays / "gray.npz", steps=5)
    assert "another size" in refused_by_main(capsys, *args, "--resume")


# ---- helpers that came with it

@pytest.mark.parametrize("matmul, able, fast", [("highest", True, False), ("high", True, False),
                                                ("medium", True, True), ("medium", False, False),
                                                ("medium", None, False)])
def test_autocast_on_a_cpu(matmul, able, fast, monkeypatch):
    """bfloat16 if the CPU has instructions for it, and it may; able None: torch cannot tell."""
    name = "_is_avx512_bf16_supported"
    monkeypatch.setattr(torch.cpu, name, lambda: able, raising=False)
    if able is None:
        monkeypatch.delattr(torch.cpu, name)
    with autocast(torch.device("cpu"), matmul):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) == fast


def test_autocast_on_cuda(monkeypatch):
    """bfloat16 always. There may be no GPU here, so the call alone is looked at."""
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args: asked.append(args))
    autocast(torch.device("cuda"), "highest")
    assert asked == [("cuda", torch.bfloat16, True)]


@pytest.mark.parametrize("n", [1, 8, 11, 32])
def test_walks(n):
    """Ends exact; on orthogonal noises of length 1 every step has length 1, at even t; the row
    behind the last goes back to the first noise."""
    x = torch.eye(40).double()[:n].view(n, 2, 20)
    walked = walks(x)
    assert walked.shape == x.shape
    for i in range(n):
        row = i // 8
        t = i % 8 / 7
        start = x[row]
        end = x[(row + 1) % n]
        if t == 0:
            assert torch.equal(walked[i], start)
        if t == 1:
            assert torch.equal(walked[i], end)
        if n > 1:
            want = ((1 - t) * start + t * end) / math.hypot(1 - t, t)
            assert math.isclose(walked[i].norm(), 1, rel_tol=1e-6)
            assert (walked[i] - want).abs().max() < 1e-6


def test_film():
    """k films for each of n pictures, one below the other: 8 moments evenly spread over 15, the
    first and the last among them."""
    number = torch.arange(3.0).view(3, 1, 1, 1)
    moments = []
    for m in range(15):
        upper = (100 * number + m).expand(3, 1, 2, 2)
        lower = torch.full((3, 1, 2, 2), -m)
        moments.append((upper, lower))
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
    assert none.shape == (4, 0)
    assert none.dtype == torch.float32
