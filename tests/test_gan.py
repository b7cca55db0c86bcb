"""train_gan.py and mini/cgan.py against DCGAN's layout and a training loop written out here, and the classic bugs."""
import copy
import csv
import dataclasses
import functools
import json
import math
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import Adam

import train_gan
from mini import cgan, classifier
from mini.data.images import image_sets
from mini.studies import few_labels
from mini.studies import gan as study
from mini.utils import config
from mini.utils.images import crop, noise, pad, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.png import read_png, write_png
from tests.helpers import close, find_text, of, read_grid, refused_by, watch

# networks, optimiser and rates as in the paper, but for the sizes; the rates fall from the first step on
TINY = dict(size=16, n_images=256, z_dim=6, ngf=8, ndf=4, d_norm="batch", batch_size=8, steps=6, n=4,
            beta1=0.5, beta2=0.999, constant=0.0, log_every=1, sample_every=3, eval_every=3, device="cpu",
            matmul="highest")
SHAPES = {"shade": ["dark", "bright"], "shape": ["disc", "square", "star"]}     # the attributes of made-up images
SIZES = [2, 3]                                                                  # how many values each has

both = pytest.mark.parametrize("script", [train_gan, cgan], ids=["gan", "cgan"])


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder to work in, with the judges under runs/ for all tests here: cheap ones, which learn for 2 steps."""
    folder = tmp_path_factory.mktemp("gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(image_sets, "HELD_OUT", 64)
        patch.setattr("mini.utils.judge.STEPS", 2)
        patch.setattr("mini.utils.judge.TRIAL_STEPS", 2)
        patch.setattr(config, "field_notes", functools.cache(config.field_notes))       # it reads the source each time
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """{script: (folder, result, what was printed)} of a run of 6 steps, not to be written to."""
    runs = {}
    for script in (train_gan, cgan):
        folder = place / f"trained-{script.__name__}"
        runs[script] = folder, script.train(script.Config(**TINY, out_dir=str(folder)))
    return runs


@pytest.fixture
def arrays(tmp_path):
    """Images of noise in files: gray 28 × 28 without labels and with them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "gray.npy", images)
    np.savez(tmp_path / "gray.npz", images=images, labels=np.arange(40) % 3)
    return tmp_path


def tiny(script, tmp_path, **changes):
    return script.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def flags(tmp_path, **changes):
    return [f"--{key}={value}" for key, value in {**TINY, "out_dir": tmp_path / "run", **changes}.items()]


def plain(script):
    """Without attention, which the paper does not have; cgan.py has none."""
    return {"attention": False} if script is train_gan else {}


def nets_of(script, C=3, S=16, **changes):
    """G and D of a script, without attention, for images of S × S pixels."""
    nets = make_nets(script, script.Config(**{**TINY, **plain(script), **changes}), C, S, S, SHAPES)
    return nets["G"], nets["D"]


def make_nets(script, cfg, C, S, size, attributes):
    """The networks of a script; only those of cgan know labels."""
    return script.make_nets(cfg, C, S, size, *([attributes] if script is cgan else []))


def random_labels(n, seed=0):
    """Made-up labels, one-hot, by hand: (n, 5)."""
    rng, y = np.random.default_rng(seed), torch.zeros(n, sum(SIZES), dtype=torch.get_default_dtype())
    for b in range(n):
        y[b, rng.integers(2)] = y[b, 2 + rng.integers(3)] = 1
    return y


# ---- parity with the layout of Radford et al. 2016, figure 1, in float64

WIDTHS = {16: [2, 1], 32: [4, 2, 1], 64: [8, 4, 2, 1]}      # of a network for images of this size, from 4 × 4 on


class Reference:
    """A network's weights, copied, in the layout of DCGAN; BatchNorm and what the labels do are written out."""

    def __init__(self, net, width, S, training=True, sizes=(), conditional=False):
        self.weights = [p.detach().double().clone().requires_grad_() for p in net.parameters()]
        self.statistics = [b.double().clone() for b in net.buffers() if b.is_floating_point()]
        self.widths = [n * width for n in WIDTHS[S]]
        self.training, self.sizes, self.conditional = training, sizes, conditional

    def norm(self, h, w, mean, var, e=None):
        """BatchNorm: by the batch in training, else by running statistics, which move by a tenth (of the unbiased
        variance). Then a scale and a shift for each channel: weights, or, of z and labels e (B, E), an affine map."""
        m, v = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), correction=0, keepdim=True)
        if self.training:
            n = h.numel() // h.size(1)
            mean.copy_(0.9 * mean + 0.1 * m.detach().flatten())
            var.copy_(0.9 * var + 0.1 * v.detach().flatten() * n / (n - 1))
        else:
            m, v = mean.view(1, -1, 1, 1), var.view(1, -1, 1, 1)
        h = (h - m) / (v + 1e-5).sqrt()
        if e is None:
            return h * next(w).view(1, -1, 1, 1) + next(w).view(1, -1, 1, 1)
        weight, bias = next(w), next(w)             # (2C, E) and (2C,): for each image of the batch its own numbers
        rows = []
        for b in range(len(h)):
            numbers = weight @ e[b] + bias
            scale, shift = numbers[:h.size(1)], numbers[h.size(1):]
            rows.append(h[b] * (1 + scale).view(-1, 1, 1) + shift.view(-1, 1, 1))
        return torch.stack(rows)

    def G(self, z, y=None):
        w, s = iter(self.weights), iter(self.statistics)
        e = z if y is None else torch.cat([z, y], 1)
        h = e.view(len(z), -1, 1, 1)
        for i, width in enumerate(self.widths):
            h = nn.functional.conv_transpose2d(h, next(w), stride=2 if i else 1, padding=1 if i else 0)
            assert h.shape == (len(z), width, 4 * 2**i, 4 * 2**i)
            h = self.norm(h, w, next(s), next(s), e if self.conditional else None).clamp(min=0)
        x = torch.tanh(nn.functional.conv_transpose2d(h, next(w), stride=2, padding=1))
        assert list(w) == [] and list(s) == []
        return x

    def D(self, x, y=None):
        w, s = iter(self.weights), iter(self.statistics)
        h = x
        for i, width in enumerate(reversed(self.widths)):
            h = nn.functional.conv2d(h, next(w), stride=2, padding=1)
            assert h.shape == (len(x), width, x.size(2) // 2**(i + 1), x.size(2) // 2**(i + 1))
            if i:
                h = self.norm(h, w, next(s), next(s))
            h = torch.where(h > 0, h, 0.2 * h)
        assert h.shape[2:] == (4, 4) and list(s) == []
        h = h.flatten(1)
        last, *values = w                           # (1, features), for cGAN also (features, V)
        if y is None:
            return (h * last).sum(1)
        logits = []
        for b in range(len(x)):
            weight, start = last[0], 0
            for size in self.sizes:                 # each attribute has one value
                value, = (y[b, start:start + size] == 1).nonzero().flatten().tolist()
                weight = weight + values[0][:, start + value]
                start += size
            logits.append((h[b] * weight).sum())
        return torch.stack(logits)


def spread(net):
    """Weights and statistics such that every part of the layout matters."""
    for p in net.parameters():
        nn.init.normal_(p, 0.3 * (p.ndim == 1), 0.3)
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 2.0) if name.endswith("var") else nn.init.normal_(buffer)
    return net.double()


@pytest.mark.paper
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("S", [16, 32, 64])
@pytest.mark.parametrize("script, g_norm", [(train_gan, None), (cgan, "batch"), (cgan, "conditional")])
def test_networks_equal_the_layout_of_dcgan(script, g_norm, S, C, training):
    """A wrong kernel, slope, eps or order of layers; labels that reach the wrong weights."""
    G, D = nets_of(script, C, S, ngf=3, ndf=2, **({"g_norm": g_norm} if g_norm else {}))
    sizes = SIZES if script is cgan else []
    torch.manual_seed(1)
    y = [random_labels(3).double()] if script is cgan else []
    for name, net, width, first in (("G", G, 3, (3, TINY["z_dim"])), ("D", D, 2, (3, C, S, S))):
        spread(net).train(training)
        reference = Reference(net, width, S, training, sizes, g_norm == "conditional")
        a = torch.randn(first, dtype=torch.float64, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        got, want = net(a, *y), getattr(reference, name)(b, *y)
        assert got.shape == ((3, C, S, S) if name == "G" else (3,))
        close(got, want, 1e-10)
        mix = torch.randn_like(got)
        gradients = zip(torch.autograd.grad((got * mix).sum(), [a, *net.parameters()]),
                        torch.autograd.grad((want * mix).sum(), [b, *reference.weights]))
        for one, other in gradients:
            close(one, other, 1e-10)
        for one, other in zip([s for s in net.buffers() if s.is_floating_point()], reference.statistics):
            close(one, other, 1e-10)


@pytest.mark.paper
@both
def test_initialisation(script):
    """Every weight from N(0, 0.02²), BatchNorm's from N(1, 0.02²) (§4), not torch's defaults."""
    for net in nets_of(script, S=32, ngf=16, ndf=16, z_dim=50):
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                assert not p.any(), name
                continue
            mean = 1 if p.ndim == 1 else 0
            deviations = 5 / math.sqrt(p.numel())       # of the mean, in standard deviations
            assert abs(p.mean().item() - mean) < 0.02 * deviations, name
            assert abs(p.std().item() / 0.02 - 1) < deviations, name


@pytest.mark.paper
def test_the_layout_for_64_pixels_has_the_published_size():
    """The parameters of pytorch/examples' dcgan with its defaults, 64 channels beside the image: 512 at 4 × 4."""
    cfg = train_gan.Config(z_dim=100, ngf=64, ndf=64, d_norm="batch", attention=False)
    nets = train_gan.make_nets(cfg, 3, 64, 64)
    counts = [sum(p.numel() for p in nets[name].parameters()) for name in ("G", "D")]
    assert counts == [3_576_704, 2_765_568]


# ---- spectral normalisation

@pytest.mark.paper
@both
@pytest.mark.parametrize("layer, x", [(nn.Linear(12, 5), (2, 12)), (nn.Conv2d(3, 6, 4), (2, 3, 4, 4)),
                                      (nn.Linear(1, 1), (2, 1))], ids=str)
def test_spectral_norm_equals_torchs(layer, x, script):
    """torch.nn.utils.spectral_norm, which steps in the paper's order: outputs, both vectors and the gradient; in
    training, where each use does one step of the power iteration, and outside of it, where none does."""
    theirs, ours = copy.deepcopy(layer).double(), copy.deepcopy(layer).double()
    nn.utils.spectral_norm(theirs, n_power_iterations=1)
    register_parametrization(ours, "weight", script.SpectralNorm(ours.weight))
    norm, trained = ours.parametrizations.weight[0], ours.parametrizations.weight
    norm.u, norm.v = theirs.weight_u.clone(), theirs.weight_v.clone()
    for training in (True, True, False, False, True):
        x = torch.randn(x, dtype=torch.float64) if isinstance(x, tuple) else x
        a, b = ours.train(training)(x), theirs.train(training)(x)
        close(a, b, 1e-12)
        a.square().sum().backward()
        b.square().sum().backward()
        close(trained.original.grad, theirs.weight_orig.grad, 1e-12)
        close(norm.u, theirs.weight_u, 1e-12)
        close(norm.v, theirs.weight_v, 1e-12)


@pytest.mark.paper
@both
def test_no_layer_of_D_makes_anything_longer(script, tmp_path):
    """Each of its weights has the largest singular value 1, roughly, after it was used some times; no BatchNorm is left."""
    D = nets_of(script, d_norm="spectral")[1]
    y = [random_labels(2)] if script is cgan else []
    for _ in range(60):
        D(torch.zeros(2, 3, 16, 16), *y)
    layers = [m for m in D.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 2 + 1 + (script is cgan) and not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.01)
    assert all(layer.bias is not None for layer in layers if isinstance(layer, nn.Conv2d))


# ---- self-attention

@pytest.mark.paper
def test_self_attention_equals_torchs(float64):
    """torch's attention of one head, with scale 1 (SAGAN has no other): the sum over places, not over channels; the
    softmax over keys, not over queries; places read row by row; what it adds, and gradients."""
    C, H, W = 16, 3, 5
    layer = train_gan.SelfAttention(C)
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(2, C, H, W, requires_grad=True)
    query, key, value, out = [m.weight[:, :, 0, 0] for m in (layer.query, layer.key, layer.value, layer.out)]
    assert query.shape == key.shape == (2, C) and value.shape == (8, C) and out.shape == (C, 8)
    places = x.permute(0, 2, 3, 1).reshape(2, H * W, C)
    y = nn.functional.scaled_dot_product_attention(places @ query.T, places @ key.T, places @ value.T, scale=1.0)
    want = x + 0.7 * (y @ out.T).view(2, H, W, C).permute(0, 3, 1, 2)
    got = layer(x)
    close(got, want, 1e-12)
    mix = torch.randn_like(got)
    weights = [x, *layer.parameters()]
    for one, other in zip(torch.autograd.grad((got * mix).sum(), weights[:1]), torch.autograd.grad((want * mix).sum(), x)):
        close(one, other, 1e-12)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad((layer(x) * mix).sum(), weights))


@pytest.mark.paper
@pytest.mark.parametrize("S", [16, 32, 64])
def test_where_attention_is(S):
    """Once in each network, among 8 × 8 places; at first it changes nothing; in D its weights are normalised, too."""
    cfg = train_gan.Config(**{**TINY, "d_norm": "spectral"})
    nets = train_gan.make_nets(cfg, 3, S, S)
    for name, first in (("G", (2, TINY["z_dim"])), ("D", (2, 3, S, S))):
        net = nets[name].eval()
        layer, = [m for m in net.modules() if isinstance(m, train_gan.SelfAttention)]
        seen = []
        layer.register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
        net(torch.randn(first))
        (x, y), = seen
        assert x.shape[2:] == (8, 8) and torch.equal(x, y)
        for part in (layer.query, layer.key, layer.value, layer.out):
            W = part.weight.flatten(1)
            values = torch.linalg.svdvals(W)
            assert values.min() > 0.99 and values.max() < 1.01
            assert hasattr(part, "parametrizations") == (name == "D")


@both
def test_what_spectral_norm_makes_is_used_for_both_batches(script, tmp_path, monkeypatch):
    """W / σ(W) is computed twice in a step, for each of D's layers: for D's two batches, and for G."""
    forward = script.SpectralNorm.forward
    calls = []
    monkeypatch.setattr(script.SpectralNorm, "forward", lambda self, W: calls.append(self) or forward(self, W))
    of_run = []
    for steps in (1, 3):
        calls.clear()
        script.train(tiny(script, tmp_path, d_norm="spectral", steps=steps, n_test=2))
        of_run.append(len(calls))
    D = make_nets(script, tiny(script, tmp_path, d_norm="spectral"), 3, 16, 16, SHAPES)["D"]
    layers = sum(isinstance(module, script.SpectralNorm) for module in D.modules())
    assert layers >= 3 and of_run[1] - of_run[0] == (3 - 1) * 2 * layers


@pytest.mark.paper
@both
def test_rates_stay_and_then_fall(script, tmp_path, monkeypatch):
    """--constant is the share of the steps at the whole rate; with 1 it never falls. Both networks, each its own rate."""
    step_of, rates = torch.optim.Adam.step, []

    def noting(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step_of(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noting)
    for constant, want in ((0.0, [1, 0.75, 0.5, 0.25]), (0.5, [1, 1, 1, 0.5]), (1.0, [1, 1, 1, 1])):
        rates.clear()
        script.train(tiny(script, tmp_path, steps=4, constant=constant, lr=1e-3, d_lr=2e-3))
        assert rates[0:8:2] == pytest.approx([2e-3 * factor for factor in want])        # after these, a judge may learn
        assert rates[1:8:2] == pytest.approx([1e-3 * factor for factor in want])


# ---- no checkerboard

def checkerboard(x):
    """The power of images (B, C, H, W) at the highest frequency, a change at every pixel, of their rows and of
    their columns, whichever is larger, relative to the mean of the four frequencies next to it."""
    x = x.detach().double()
    ratios = []
    for axis in (2, 3):
        power = torch.fft.rfft(x, dim=axis).abs().square().transpose(axis, -1).mean((0, 1, 2))
        ratios.append(power[-1] / (power[-5:-1].mean() + 1e-12 * power.sum()))
    return max(ratios).item()


def energy_of(layers, z):
    """E x² of what transposed convolutions with independent random weights give, up to a factor: that of their
    inputs, passed through kernels of ones. The weights' own noise is left out, how often pixels are met is not."""
    h = z**2
    for m in layers:
        ones = torch.ones(1, 1, *m.kernel_size)
        h = nn.functional.conv_transpose2d(h, ones, None, m.stride, m.padding, m.output_padding)
        h = h / h.mean()
    return h


@pytest.mark.paper
@both
@pytest.mark.parametrize("S", [16, 32, 64])
def test_no_checkerboard(script, S):
    """A kernel that the stride does not divide meets some pixels more often than others."""
    z = torch.ones(1, 1, 1, 1)
    layers = [m for m in nets_of(script, S=S)[0].modules() if isinstance(m, nn.ConvTranspose2d)]
    assert checkerboard(energy_of(layers, z)) < 2
    threes = [layers[0], *(nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=1) for _ in layers[1:])]
    assert energy_of(threes, z).shape == (1, 1, S, S) and checkerboard(energy_of(threes, z)) > 4
    last = [*layers[:-1], threes[-1]]
    assert checkerboard(energy_of(last, z)) > 4                         # one such layer is enough
    torch.manual_seed(0)
    assert checkerboard(torch.randn(64, 3, S, S)) < 2


@pytest.mark.paper
@both
def test_what_is_even_stays_even(script, trained):
    """Of trained networks too: no layer of stride 2 makes a pattern out of an input without one (but at the edge)."""
    state = torch.load(trained[script][0] / "checkpoint.pt", weights_only=True)["model"]
    for net in ("G", "ema"):
        kernels = [w for name, w in state.items() if name.startswith(f"{net}.") and w.ndim == 4 and w.size(2) == 4]
        assert len(kernels) == 3                                        # the first makes 4 × 4 pixels of one
        for i, w in enumerate(kernels):
            even = nn.functional.conv_transpose2d(torch.ones(1, w.size(0), 6, 6), w, None, 2, 1)[:, :, 2:-2, 2:-2]
            pattern = (even - even.mean((2, 3), keepdim=True)).abs().max()
            assert pattern > 0.01 if i == 0 else pattern < 1e-5, (net, i, pattern)


@pytest.mark.paper
@both
def test_remove_checkerboard_changes_as_little_as_it_can(script):
    """The sums become alike, their mean and all differences inside a part stay, layers of other strides too."""
    layers = nn.Sequential(nn.ConvTranspose2d(5, 3, 4, 1), nn.ConvTranspose2d(3, 2, 4, 2, 1), nn.Conv2d(2, 2, 4, 2))
    layers = layers.double().to(memory_format=torch.channels_last)
    before = [m.weight.detach().clone() for m in layers]
    script.remove_checkerboard(layers)
    assert torch.equal(layers[0].weight, before[0]) and torch.equal(layers[2].weight, before[2])
    sums = torch.stack([layers[1].weight[:, :, a::2, b::2].sum((2, 3)) for a in (0, 1) for b in (0, 1)])
    assert (sums - before[1].sum((2, 3)) / 4).abs().max() < 1e-14
    change = layers[1].weight.detach() - before[1]
    assert (change[:, :, :2, :2] - change[:, :, 2:, 2:]).abs().max() < 1e-15 and change.abs().max() > 0.01


# ---- the losses

@pytest.mark.paper
@both
def test_losses_by_hand(script):
    """A sigmoid before the logarithm would be infinite, or without a gradient, at logits of ±200."""
    real = torch.tensor([-200.0, -30, -3, -0.5, 0, 0.25, 2, 40, 200], requires_grad=True)
    fake = torch.tensor([200.0, 7, 1, -0.25, -3, -90], requires_grad=True)

    def surprise(logits, sign):
        """−log σ(±s) = log(1 + exp(∓s)) = max(∓s, 0) + log(1 + exp(−|s|)), on average."""
        return np.mean([max(-sign * s, 0) + math.log1p(math.exp(-abs(s))) for s in logits.tolist()])

    def slope(logits, sign):
        each = [-sign / (1 + math.exp(sign * s)) / len(logits) for s in logits.tolist()]
        return torch.tensor(each, dtype=torch.float64)
    loss = script.d_loss(real, fake)
    assert loss.shape == () and loss.item() == pytest.approx(surprise(real, 1) + surprise(fake, -1), rel=1e-6)
    for gradient, want in zip(torch.autograd.grad(loss, [real, fake]), [slope(real, 1), slope(fake, -1)]):
        close(gradient.double(), want, 1e-6)
    loss = script.g_loss(fake)
    assert loss.shape == () and loss.item() == pytest.approx(surprise(fake, 1), rel=1e-6)
    close(torch.autograd.grad(loss, fake)[0].double(), slope(fake, 1), 1e-6)


@pytest.mark.paper
@both
def test_the_switches(script):
    """What --preset=paper turns off must be off: the images reach D as they are."""
    cfg = script.Config(**{**TINY, **script.PRESETS["paper"]})
    images = torch.randn(5, 3, 16, 16)
    assert script.shift_and_add_noise(images, cfg, cfg.noise, torch.Generator().manual_seed(0)) is images
    assert (cfg.noise, cfg.ema, cfg.lr, cfg.d_lr) == (0, 0, 2e-4, 2e-4)
    assert (cfg.d_norm, cfg.beta1, cfg.beta2, cfg.constant) == ("batch", 0.5, 0.999, 1)
    assert not (cfg.shift or cfg.remove_checkerboard or cfg.noise_decay)
    assert cfg.z_dim == 100 and (cfg.attention is False if script is train_gan else cfg.g_norm == "batch")


# ---- training: what changes when, and by how much

def copied(name, net, cfg):
    sizes = [4, 4, 3, 3, 3, 4] if hasattr(net, "values") else []
    conditional = any(isinstance(module, cgan.ConditionalBatchNorm) for module in net.modules())
    return Reference(net, 4 if name == "D" else 8, 16, sizes=sizes, conditional=conditional)


def same(a, b):
    pairs = zip(a.values(), b.values())
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


@both
def test_each_step_changes_one_network_and_leaves_the_other_no_gradient(script, tmp_path, monkeypatch):
    """D's step that trains G as well, or G's step that trains D or leaves its gradient there."""
    seen = watch(monkeypatch, script, copied)
    script.train(tiny(script, tmp_path, steps=2, **plain(script)))
    assert [owner for owner, _, _ in seen.steps] == ["D", "G"] * 2
    left = {"G": of(seen.steps[0][2], "G"), "D": None}
    assert set(left["G"].values()) == {None}
    for owner, changed, gradients in seen.steps:
        other = "G" if owner == "D" else "D"
        assert changed == set(of(gradients, owner))             # all of its parameters, and nothing else
        assert same(of(gradients, other), left[other])
        assert set(of(gradients, "ema").values()) == {None}
        left[owner] = of(gradients, owner)
    assert all(p.requires_grad for name in ("G", "D") for p in seen.nets[name].parameters())


@pytest.mark.paper
@pytest.mark.parametrize("sigma", [0.0, 0.2], ids=["", "noisy"])
@both
def test_three_steps_equal_a_training_loop_written_out(script, sigma, tmp_path, monkeypatch, float64):
    """Losses of the wrong sign or network, real and generated images in one batch, stale gradients, another learning
    rate, noise that stays or is shared, an average of the wrong thing, a logged number that is not what it says."""
    torch.set_default_dtype(torch.float32)
    learn, held_out = image_sets.load_images("faces", 16, TINY["n_images"])
    torch.set_default_dtype(torch.float64)                              # train() in float64: Adam makes much of little
    monkeypatch.setattr(script, "load_images", lambda *_: (learn, held_out))
    monkeypatch.setattr(script, "Judge", lambda *_, n: SimpleNamespace(n=4, scores=lambda *_: {}, labels=held_out.labels[:4]))
    seen = watch(monkeypatch, script, copied)
    lr, keep = {"G": 0.003, "D": 0.002}, 0.1
    script.train(tiny(script, tmp_path, steps=3, lr=lr["G"], d_lr=lr["D"], beta1=0.3, ema=keep, noise=sigma, noise_decay=True,
                      **plain(script)))
    G, D, average = (seen.start[name] for name in ("G", "D", "ema"))
    optimizers = {name: Adam(net.weights, lr=lr[name], betas=(0.3, 0.999)) for name, net in (("G", G), ("D", D))}
    real = learn.images.double() / 127.5 - 1
    calls, rows = iter(seen.calls), list(csv.DictReader((tmp_path / "run/log.csv").read_text().splitlines()))

    def given(name):
        """The next inputs of a network."""
        who, (x, *y) = next(calls)
        assert who == name and x.dtype == torch.float64
        return x, y

    def four_ways(images):
        """Images of 16 × 16, each moved to the right and down by 0 and 0 pixels, 0 and 1, 1 and 0, 1 and 1."""
        at, one_on = torch.arange(16), (torch.arange(16) - 1).clamp(min=0)
        return torch.stack([images[:, :, rows][:, :, :, columns] for rows in (at, one_on) for columns in (at, one_on)])

    def moved(images, like):
        """The images, each moved by nothing or a pixel to the right and down, as `like` says that it was."""
        candidates = four_ways(images)
        best = ((candidates - like) ** 2).sum((2, 3, 4)).argmin(0)
        moves.extend(best.tolist())
        return candidates[best, torch.arange(len(images))]

    def noise_on(images, clean):
        """What was added to images: normal, in the right amount, and new every time."""
        added, level = images - clean.detach(), sigma * (3 - step) / 3
        if not sigma:
            close(images, clean.detach(), 1e-9)
            return 0
        assert abs(added.std() / level - 1) < 0.06 and abs(added.mean()) < 0.06 * level
        assert abs((added**4).mean() / level**4 - 3) < 0.5
        for other in earlier:
            assert abs((added * other).mean()) < 0.08 * level * other.std()
        earlier.append(added)
        return added

    def softplus(s):                                                    # −log σ(−s)
        return (s.clamp(min=0) + (-s.abs()).exp().log1p()).mean()

    earlier, moves = [], []
    for step in range(3):
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = lr[name] * (3 - step) / 3
        z, y = given("G")
        assert z.shape == (8, 6) and abs(z.mean()) < 0.7 and 0.5 < z.std() < 1.5
        seen_x, y_x = given("D")
        distance = torch.stack([torch.cdist(seen_x.flatten(1), way.flatten(1)) for way in four_ways(real)])
        which = distance.amin(0).argmin(1)                                      # real ones, with their own labels
        x = real[which]
        noise_on(seen_x, moved(x, seen_x))
        if script is cgan:
            for b, labels in enumerate(learn.labels[which].tolist()):
                hot = [float(v == label) for n, label in zip([4, 4, 3, 3, 3, 4], labels) for v in range(n)]
                assert y[0][b].tolist() == y_x[0][b].tolist() == hot
        fake = G.G(z, *y)
        seen_fake, y_fake = given("D")
        noise_on(seen_fake, moved(fake.detach(), seen_fake))
        assert all(torch.equal(one, other) for one, other in zip(y_fake, y))
        real_logits, fake_logits = D.D(seen_x, *y), D.D(seen_fake, *y)
        loss_d = softplus(-real_logits) + softplus(fake_logits)
        for p, gradient in zip(D.weights, torch.autograd.grad(loss_d, D.weights)):
            p.grad = gradient
        optimizers["D"].step()
        seen_fake, y_fake = given("D")
        assert all(torch.equal(one, other) for one, other in zip(y_fake, y))
        fake = moved(fake, seen_fake)
        logits = D.D(fake + noise_on(seen_fake, fake), *y)
        loss_g = softplus(-logits)
        for p, gradient in zip(G.weights, torch.autograd.grad(loss_g, G.weights)):
            p.grad = gradient
        optimizers["G"].step()
        for w in [w.data for w in G.weights if w.ndim == 4][1:]:        # of stride 2
            mean = w.mean((2, 3), keepdim=True)
            for part in (w[:, :, ::2, ::2], w[:, :, ::2, 1::2], w[:, :, 1::2, ::2], w[:, :, 1::2, 1::2]):
                part += mean - part.mean((2, 3), keepdim=True)
        kept = min(keep, step / (step + 10))
        for a, p in zip(average.weights, G.weights):
            a.data = kept * a.data + (1 - kept) * p.data
        right = torch.cat([real_logits > 0, fake_logits < 0]).double().mean()
        want = {"d_loss": loss_d, "g_loss": loss_g, "D(x)": real_logits.sigmoid().mean(),
                "D(G(z))": fake_logits.sigmoid().mean(), "accuracy": right}
        for name in want:
            assert float(rows[step][name]) == pytest.approx(want[name].item(), rel=1e-9), name
    assert next(calls, None) is None and all(0.05 < moves.count(i) / len(moves) < 0.5 for i in range(4))
    average.statistics = G.statistics                                   # buffers are copied
    for name, reference in (("G", G), ("D", D), ("ema", average)):
        net = seen.nets[name]
        for p, want in zip(net.parameters(), reference.weights):
            close(p.detach(), want.detach(), 1e-9)
        if name != "ema" or script is train_gan:
            for s, want in zip([s for s in net.buffers() if s.is_floating_point()], reference.statistics):
                close(s, want, 1e-9)
    copied_too = all(torch.equal(a, b) for a, b in zip(seen.nets["ema"].buffers(), seen.nets["G"].buffers()))
    assert copied_too == (script is train_gan)                          # cgan computes its own: next test


def test_statistics_of_the_average_are_its_own():
    """Of 50 batches, all alike in weight: the means of the batches' means and unbiased variances; here of the first two
    norms, by hand, from the same random numbers. What was there before is forgotten; weights stay."""
    cfg = cgan.Config(**{**TINY, "g_norm": "batch"})
    G, labels = nets_of(cgan, g_norm="batch")[0].double(), random_labels(30).double()
    spread(G)
    weights = [p.clone() for p in G.parameters()]
    cgan.update_batch_norm(G, labels, cfg)
    assert all(torch.equal(a, b) for a, b in zip(weights, G.parameters()))
    rng = torch.Generator().manual_seed(cfg.seed)
    means, variances = [], []
    for _ in range(50):
        z = torch.randn(8, 6, generator=rng)
        y = labels[torch.randint(30, (8,), generator=rng)]
        h = nn.functional.conv_transpose2d(torch.cat([z, y], 1).view(8, -1, 1, 1), weights[0])
        m, v = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), correction=0, keepdim=True)
        after = (h - m) / (v + 1e-5).sqrt() * weights[1].view(1, -1, 1, 1) + weights[2].view(1, -1, 1, 1)
        second = nn.functional.conv_transpose2d(after.clamp(min=0), weights[3], stride=2, padding=1)
        means.append([x.mean((0, 2, 3)) for x in (h, second)])
        variances.append([x.var((0, 2, 3), correction=1) for x in (h, second)])
    norms = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, mean, variance in zip(norms, zip(*means), zip(*variances)):
        close(norm.running_mean, torch.stack(mean).mean(0), 1e-6)
        close(norm.running_var, torch.stack(variance).mean(0), 1e-6)


# ---- sampling

@both
@pytest.mark.parametrize("size", [16, 20, 28, 31, 32])
def test_a_sample_does_not_depend_on_its_batch_mates(script, size):
    """BatchNorm in training mode would mix them; a crop from a corner would cut the picture off."""
    G = make_nets(script, script.Config(**TINY), 3, 32 if size > 16 else 16, size, SHAPES)["G"]
    torch.manual_seed(0)
    y = [random_labels(5)] if script is cgan else []
    for _ in range(3):                                                  # statistics that are not 0 and 1
        G(3 * torch.randn(5, 6), *y)
    before = [b.clone() for b in G.buffers()]
    z = noise(5, 6, seed=3)
    together = script.generate(G, z, *y)
    alone = torch.cat([script.generate(G, z[i:i + 1], *(v[i:i + 1] for v in y)) for i in range(5)])
    assert together.shape == (5, 3, size, size) and together.dtype == torch.float32 and not together.requires_grad
    assert (together - alone).abs().max() < 1e-5            # rounding; a mixture would be 0.1 and more
    assert G.training and all(torch.equal(a, b) for a, b in zip(before, G.buffers()))
    S = 32 if size > 16 else 16
    larger = make_nets(script, script.Config(**TINY), 3, S, S, SHAPES)["G"]
    larger.load_state_dict(G.state_dict())
    whole = script.generate(larger, z, *y)
    edge = (S - size) // 2
    assert (together - whole[:, :, edge:edge + size, edge:edge + size]).abs().max() < 1e-5
    assert together.abs().max() <= 1 and together.std() > 0


@both
def test_the_edge_does_not_tell_generated_images(script):
    """Of images of other sizes than 2ⁿ, D sees the edge repeated, and that of generated ones is repeated, too."""
    nets = make_nets(script, script.Config(**TINY), 3, 32, 20, SHAPES)
    y = [random_labels(4)] if script is cgan else []
    fake = nets["G"](noise(4, 6, seed=0), *y)
    assert fake.shape == (4, 3, 20, 20)
    seen = []
    for layer in nets["D"].modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    nets["D"](fake, *y)
    assert pad(fake).shape == (4, 3, 32, 32)
    assert any(x.shape == (4, 3, 32, 32) and torch.equal(x, pad(fake)) for x in seen)


@both
def test_many_samples_come_in_their_order(script):
    """They are drawn some at a time."""
    G, _ = nets_of(script, C=1, ngf=1)
    z, y = noise(600, 6, seed=0), [random_labels(600)] if script is cgan else []
    images = script.generate(G, z, *y)
    for i in (0, 255, 256, 511, 512, 599):
        assert (images[i:i + 1] - script.generate(G, z[i:i + 1], *(v[i:i + 1] for v in y))).abs().max() < 1e-6


@pytest.mark.parametrize("size", [8, 16, 17, 28, 31, 32, 33])
def test_crop_undoes_pad(size):
    """The networks know powers of two only; an odd size must not lose or shift a pixel."""
    images = torch.arange(2 * size * size).view(2, 1, size, size)
    padded = pad(images)
    S = padded.size(2)
    assert padded.shape == (2, 1, S, S) and S >= max(16, size) and math.log2(S) % 1 == 0 and (S < 2 * size or S == 16)
    assert torch.equal(crop(padded, size), images)
    assert (padded[:, :, 0, 0] == images[:, :, 0, 0]).all() and (padded[:, :, -1, -1] == images[:, :, -1, -1]).all()


# ---- does it learn?

def test_learns_one_image_by_heart(tmp_path):
    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 4:12, 2:9] = 255
    np.save(tmp_path / "one.npy", image)
    cfg = tiny(train_gan, tmp_path, data=str(tmp_path / "one.npy"), steps=160, lr=2e-3, d_lr=2e-3, beta1=0.5,
               ema=0.9, log_every=0, sample_every=0, eval_every=0)
    train_gan.train(cfg)
    nets, _ = train_gan.load(train_gan.Config(out_dir=cfg.out_dir, device="cpu"))
    x = train_gan.generate(nets["ema"], noise(16, 6, seed=5))
    likeness = torch.corrcoef(torch.stack([x.flatten(), torch.tensor(image).float().expand_as(x[:, 0]).flatten()]))
    assert likeness[0, 1] > 0.4                                         # 0.86 to 0.94 for four seeds; about 0 at first


def test_draws_the_class_it_is_asked_for(tmp_path):
    """Labels that do not reach G or D, or not those of the images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    images = (np.array([40, 215])[labels, None, None] + rng.integers(-30, 30, (60, 16, 16))).astype(np.uint8)
    np.savez(tmp_path / "two.npz", images=images, labels=np.array(["dark", "light"])[labels])
    cfg = tiny(cgan, tmp_path, data=str(tmp_path / "two.npz"), steps=60, lr=0.02, d_lr=0.02, beta1=0.5, ema=0.9,
               log_every=0, sample_every=0, eval_every=0)
    cgan.train(cfg)
    G, attributes, _ = cgan.load(cgan.Config(out_dir=cfg.out_dir, device="cpu"))
    assert attributes == {"label": ["dark", "light"]}
    dark, light = (cgan.generate(G, noise(16, 6, seed=5), torch.eye(2)[[label] * 16]).mean() for label in (0, 1))
    assert light - dark > 0.3


# ---- the run

def sheet_shape(n, size, C, columns=8):
    columns = min(columns, n)
    return (-(-n // columns) * (size + 2) + 2, columns * (size + 2) + 2, C)


@both
def test_end_to_end(script, trained):
    """A run's files and numbers."""
    run, result = trained[script]
    assert result["frechet_n"] == 64 and 0 <= result["d_accuracy"] <= 1
    assert all(math.isfinite(result[key]) for key in ("frechet", "frechet_floor", "frechet_untrained"))
    nets = make_nets(script, script.Config(**TINY), 3, 16, 16, image_sets.ATTRIBUTES)
    counts = [sum(p.numel() for p in nets[name].parameters()) for name in ("G", "D")]
    assert result["parameters"] == sum(counts)                          # without the average of G
    if script is cgan:
        assert list(result["accuracy"]) == list(result["most_frequent"]) == list(image_sets.ATTRIBUTES)
        assert all(0 <= share <= 1 for share in result["accuracy"].values())
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    for step in (3, 6):
        assert read_grid(run / f"samples/step_00000{step}.png", 4, 16).shape == sheet_shape(4, 16, 3)
    train_set, held_out = image_sets.load_images("faces", 16, 256)
    first = (held_out if script is cgan else train_set).images[0]       # cgan: with the labels of what is drawn
    real = read_grid(run / "samples/real.png", 4, 16)
    assert real.shape == sheet_shape(4, 16, 3) and (real[2:18, 2:18] == first.permute(1, 2, 0).numpy()).all()
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert {name.split(".")[0] for name in state["model"]} == {"G", "D", "ema"}


@both
def test_the_pictures_of_a_run_are_of_the_average_from_fixed_noise(script, tmp_path, monkeypatch):
    """Pictures of other noise at each step, or of G itself, could not be compared."""
    seen, calls, generate = watch(monkeypatch, script, copied), [], script.generate

    def spy(G, *args):
        calls.append((G, args, generate(G, *args)))
        return calls[-1][2]
    monkeypatch.setattr(script, "generate", spy)
    script.train(tiny(script, tmp_path, steps=2, sample_every=1, n=5))
    pictures = [call for call in calls if len(call[2]) == 5]            # the others are 64 images, to be scored
    assert len(pictures) == 2
    for step, (G, inputs, images) in enumerate(pictures, 1):
        assert G is seen.nets["ema"] and all(torch.equal(a, b) for a, b in zip(inputs, pictures[0][1]))
        assert (read_png(tmp_path / f"run/samples/step_00000{step}.png") == sheet(images)).all()
    assert not torch.equal(pictures[0][2], pictures[1][2])


def test_scores_are_of_the_average_and_of_what_was_asked_for(tmp_path, monkeypatch):
    """Scoring G, or its images beside labels that it was not given."""
    seen, drawn, generate, scores = {}, [], cgan.generate, Judge.scores

    def spy(judge, images, untrained, asked=None):
        seen.update(images=images, untrained=untrained, asked=asked)
        return scores(judge, images, untrained, asked)
    monkeypatch.setattr(Judge, "scores", spy)
    monkeypatch.setattr(cgan, "generate", lambda G, z, y: drawn.append((z, y)) or generate(G, z, y))
    cfg = tiny(cgan, tmp_path, steps=2, lr=0.01)
    cgan.train(cfg)
    G, attributes, _ = cgan.load(cgan.Config(out_dir=cfg.out_dir, device="cpu"))
    after, before, _ = drawn[-3:]                                      # the last is for d_accuracy
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
    assert torch.equal(before[1], image_sets.one_hot(seen["asked"], attributes))
    assert torch.equal(seen["images"], generate(G, *after))
    first = cgan.make_nets(cfg, 3, 16, 16, attributes)["G"]
    assert torch.equal(seen["untrained"], generate(first, *before))


# ---- other data

def test_images_without_labels(arrays, capsys):
    """They are enough for a GAN, though there is no judge then; not for a conditional one."""
    result = train_gan.train(tiny(train_gan, arrays, data=str(arrays / "gray.npy"), size=0, steps=2))
    assert "no Fréchet distance" in capsys.readouterr().out and "frechet" not in result
    assert read_grid(arrays / "run/samples/step_000002.png", 4, 28).shape == sheet_shape(4, 28, 1)      # gray, and not padded
    train_gan.main(["sample", f"--out_dir={arrays}/run", "--device=cpu", "--n=3"])
    assert read_grid(arrays / "run/samples/sample.png", 3, 28).shape == sheet_shape(3, 28, 1)
    error = refused(capsys, cgan, *flags(arrays, data=arrays / "gray.npy", out_dir=arrays / "other"))
    assert "no labels" in error and "gray.npy" in error and "train_gan.py" in error
    assert not (arrays / "other").exists()


def test_labelled_images_of_another_size(arrays):
    result = cgan.train(tiny(cgan, arrays, data=str(arrays / "gray.npz"), size=0, steps=2))
    assert list(result["accuracy"]) == ["label"] and result["frechet_n"] == 4
    assert read_grid(arrays / "run/samples/step_000002.png", 4, 28).shape == sheet_shape(4, 28, 1)
    cgan.main(["sample", f"--out_dir={arrays}/run", "--device=cpu", "--label=2", "--n=9"])
    assert read_grid(arrays / "run/samples/sample.png", 8, 28).shape == sheet_shape(9, 28, 1)
    cgan.main(["sample", f"--out_dir={arrays}/run", "--device=cpu", "--vary=label"])
    assert (arrays / "run/samples/label.png").exists()


def test_a_folder_with_classes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            write_png(tmp_path / "pets" / name / f"{i}.png", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    for script in (train_gan, cgan):
        result = script.train(tiny(script, tmp_path, data=str(tmp_path / "pets"), steps=1,
                                   out_dir=str(tmp_path / script.__name__)))
        assert result["frechet_n"] == 2
    state = torch.load(tmp_path / "mini.cgan/checkpoint.pt", weights_only=True)
    assert state["shape"][3] == {"label": ["cat", "dog"]}


# ---- sample

@pytest.fixture
def run(tmp_path, trained):
    """Copies of the trained runs: run(script) is a folder."""
    def copy(script):
        folder = tmp_path / f"{script.__name__}-run"
        return folder if folder.exists() else shutil.copytree(trained[script][0], folder)
    return copy


def drawn(script, monkeypatch):
    """A list that gets [z], or [z, y], of every call of generate()."""
    calls, plain = [], script.generate
    monkeypatch.setattr(script, "generate", lambda G, *args: calls.append(args) or plain(G, *args))
    return calls


def command(script, folder, *args):
    return script.main([*args, f"--out_dir={folder}", "--device=cpu"])


@both
def test_sample(script, run, capsys):
    """Another picture from the same seed, or the same from another."""
    folder, pictures = run(script), []
    for seed in (5, 5, 6):
        command(script, folder, "sample", "--n=11", f"--seed={seed}")
        assert "samples/sample.png" in capsys.readouterr().out
        pictures.append((folder / "samples/sample.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert read_grid(folder / "samples/sample.png", 8, 16).shape == sheet_shape(11, 16, 3)


def test_samples_are_of_the_average(run):
    """Of G itself: less steady."""
    folder = run(train_gan)
    nets, _ = train_gan.load(train_gan.Config(out_dir=str(folder), device="cpu"))
    command(train_gan, folder, "sample", "--n=5", "--seed=3")
    images = [train_gan.generate(nets[name], noise(5, 6, seed=3)) for name in ("ema", "G")]
    assert (read_png(folder / "samples/sample.png") == sheet(images[0])).all() and not torch.equal(*images)
    folder = run(cgan)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    G = cgan.load(cgan.Config(out_dir=str(folder), device="cpu"))[0]
    assert all(torch.equal(value, state[f"ema.{name}"]) for name, value in G.state_dict().items())


def test_walks_keep_the_length_of_z(run, monkeypatch):
    """A straight line between two normal z passes through shorter ones than G knows."""
    folder, calls = run(train_gan), drawn(train_gan, monkeypatch)
    command(train_gan, folder, "sample", "--interpolate", "--n=24")
    (z,), = calls
    assert z.shape == (24, 6) and read_grid(folder / "samples/walks.png", 8, 16).shape == sheet_shape(24, 16, 3)
    ends = z.view(3, 8, 6)[:, [0, -1]]
    assert len({tuple(end.tolist()) for end in ends.flatten(0, 1)}) == 4 and torch.equal(ends[:-1, 1], ends[1:, 0])
    for i, t in enumerate(np.arange(8) / 7):
        mixed = ((1 - t) * ends[:, 0] + t * ends[:, 1]) / math.sqrt((1 - t)**2 + t**2)
        assert (z.view(3, 8, 6)[:, i] - mixed).abs().max() < 1e-5
    assert command(train_gan, folder, "sample", "--interpolate", "--n=1") is None     # one row at least


def hot(y, attribute):
    """The columns of y that belong to an attribute of the faces."""
    start = 0
    for name, values in image_sets.ATTRIBUTES.items():
        if name == attribute:
            return y[:, start:start + len(values)]
        start += len(values)


def test_asked_for_attributes(run, monkeypatch):
    """--hair=blond must reach every row of y, and leave the rest as it would have been."""
    folder, calls = run(cgan), drawn(cgan, monkeypatch)
    command(cgan, folder, "sample", "--hair=blond", "--n=20")
    command(cgan, folder, "sample", "--n=20")
    (z, blond), (_, free) = calls
    assert (hot(blond, "hair") == torch.tensor([0.0, 0, 1, 0])).all() and z.shape == (20, 6)
    assert not torch.equal(hot(free, "hair"), hot(blond, "hair")) and len(hot(free, "hair").unique(dim=0)) > 1
    for name in image_sets.ATTRIBUTES:
        assert name == "hair" or torch.equal(hot(free, name), hot(blond, name))
        assert (hot(blond, name).sum(1) == 1).all()


def test_vary(run, monkeypatch):
    """A row for each value, the same z in a column, nothing else changed."""
    folder, calls = run(cgan), drawn(cgan, monkeypatch)
    command(cgan, folder, "sample", "--vary=glasses", "--n=64")
    (z, y), = calls
    assert len(z) == 24
    assert read_grid(folder / "samples/glasses.png", 8, 16).shape == sheet_shape(24, 16, 3)
    names = ["none", "round", "square"]
    places = [place for name in names for place in find_text(read_png(folder / "samples/glasses.png"), name)]
    assert len(places) == 3 and places == sorted(places)                # beside the rows, one below the other
    z, y = z.view(3, 8, -1), y.view(3, 8, -1)
    assert (z == z[:1]).all() and len(z[0].unique(dim=0)) == 8
    for i in range(3):
        for name in image_sets.ATTRIBUTES:
            values = hot(y[i], name)
            if name == "glasses":
                assert torch.equal(values, torch.eye(3)[i].expand(8, 3))
            else:
                assert torch.equal(values, hot(y[0], name))


def test_what_the_model_does_not_know(run, capsys):
    folder = f"--out_dir={run(cgan)}"
    for flag, *names in (("--hair=purple", "black", "blond", "red"), ("--label=3", "hair", "glasses"),
                         ("--vary=hat", "hair", "background"), ("--vary=label", "hair", "background")):
        error = refused(capsys, cgan, "sample", folder, "--device=cpu", flag)
        assert all(name in error for name in names) and flag.split("=")[0] in error
    error = refused(capsys, cgan, "sample", folder, "--device=cpu", "--vary=hair", "--hair=red")
    assert "--vary=hair" in error and "--hair would change nothing" in error
    assert not (run(cgan) / "samples/sample.png").exists()


# ---- evaluate

@pytest.mark.paper
def test_the_equilibrium_report(run, monkeypatch):
    """A report whose D has learnt from what it is asked about, or calls the real ones generated."""
    folder, plain = run(train_gan), train_gan.Discriminator.forward
    shift = train_gan.shift_and_add_noise
    learnt, asked, calls = [], [], drawn(train_gan, monkeypatch)

    def spy(images, cfg, sigma, rng):
        (learnt if len(images) == cfg.batch_size else asked).append(images)
        return shift(images, cfg, sigma, rng)
    monkeypatch.setattr(train_gan, "shift_and_add_noise", spy)
    tables = command(train_gan, folder, "evaluate", "--batch_size=100", "--d_lr=0.002")
    assert json.loads((folder / "evaluate.json").read_text()) == tables
    assert tables["ideal"] == {"accuracy": 0.5, "loss": pytest.approx(2 * math.log(2))}
    assert tables["fresh_D"]["accuracy"] > 0.9 and tables["fresh_D"]["loss"] < math.log(2)      # 6 steps deceive nobody
    assert abs(tables["control:_real_against_real"]["accuracy"] - 0.5) < 0.2
    for name in ("D_of_this_run", "the_same,_without_noise"):
        assert 0 <= tables[name]["accuracy"] <= 1
    train_set, held_out = image_sets.load_images("faces", 16, 256)
    known = {to_float(image).numpy().tobytes() for image in train_set.images}
    new = {to_float(image).numpy().tobytes() for image in held_out.images}
    learnt, asked = ({image.numpy().tobytes() for image in torch.cat(x)} for x in (learnt, asked))
    assert learnt & known and not learnt & new and new <= asked and not asked & known and not asked & learnt
    assert len(calls) == 1 and len(calls[0][0].unique(dim=0)) == len(calls[0][0])       # every z is new
    two, nearest = tables["mean_distance_of_two_images"], tables["mean_distance_to_the_nearest_training_image"]
    assert 0 < two["samples"] < two["held out"] and 0 < nearest["held out"] < two["held out"]
    assert read_grid(folder / "samples/nearest.png", 8, 16).shape == sheet_shape(16, 16, 3)


def test_the_report_needs_two_images_of_each_kind(tmp_path, capsys):
    """With one held-out image the control had none on one side: minutes later, an error of torch's, or NaN."""
    (tmp_path / "own").mkdir()
    for i in range(4):
        write_png(tmp_path / f"own/{i}.png", np.full((16, 16, 3), 60 * i, np.uint8))
    train_gan.main(flags(tmp_path, data=tmp_path / "own", steps=1))
    error = refused_by(train_gan.main, capsys, "evaluate", f"--out_dir={tmp_path / 'run'}", "--device=cpu")
    assert "there are 3 and 1" in error


@both
def test_d_is_judged_image_by_image(script, run, monkeypatch):
    """A D whose BatchNorm sees batches all real or all generated is right more often than it knows."""
    cfg = script.Config(out_dir=str(run(script)), device="cpu")
    loaded = script.load(cfg)
    cfg = loaded[-1]
    nets = make_nets(script, cfg, 3, 16, 16, image_sets.ATTRIBUTES)
    state = torch.load(run(script) / "checkpoint.pt", weights_only=True)
    nets.load_state_dict(state["model"])
    _, held_out = image_sets.load_images("faces", 16, 256)
    seen = []
    next(m for m in nets["D"].modules() if isinstance(m, nn.Conv2d)).register_forward_hook(lambda module, *_: seen.append(module.training))
    share = script.d_accuracy(nets, held_out, cfg, n=40)
    assert not any(seen) and nets["D"].training and nets["ema"].training
    assert share * 80 == pytest.approx(round(share * 80)) and share == script.d_accuracy(nets, held_out, cfg, n=40)
    plain = script.Discriminator.forward                                # one that says "real" of all is right in half
    monkeypatch.setattr(script.Discriminator, "forward", lambda *args: plain(*args).abs() + 1)
    assert script.d_accuracy(nets, held_out, cfg, n=40) == 0.5


@both
def test_d_is_judged_with_the_noise_of_the_end(script, monkeypatch):
    """None, if it falls with the rates; all of it, if it stays, or if the rates never fall."""
    _, held_out = image_sets.load_images("faces", 16, 256)
    seen = []
    monkeypatch.setattr(script, "shift_and_add_noise", lambda images, cfg, sigma, rng: seen.append(sigma) or images)
    for flags, sigma in ((dict(constant=0.75), 0.0), (dict(constant=0.0), 0.0), (dict(constant=1.0), 0.3),
                         (dict(constant=0.75, noise_decay=False), 0.3)):
        seen.clear()
        cfg = script.Config(**{**TINY, "noise": 0.3, **flags})
        nets = make_nets(script, cfg, 3, 16, 16, image_sets.ATTRIBUTES)
        script.d_accuracy(nets, held_out, cfg, n=4)
        assert set(seen) == {sigma}
        assert study.last_noise(cfg) == sigma


def test_accuracy_with_generated_images(run, monkeypatch):
    """Generated images beside the wrong labels, or in another range of bytes."""
    folder, calls, plain = run(cgan), drawn(cgan, monkeypatch), few_labels.from_few
    given = []
    monkeypatch.setattr(plain, "__defaults__", (None, (50,), 1))
    few = classifier.Config
    monkeypatch.setattr(classifier, "Config", lambda **fields: few(**{**fields, "steps": 2, "batch_size": 16}))
    monkeypatch.setattr(few_labels, "from_few", lambda *args: given.append(args) or plain(*args))
    tables = command(cgan, folder, "evaluate")
    assert json.loads((folder / "evaluate.json").read_text()) == tables
    table, = tables.values()
    assert len(table) == 2 and all("50" in row and 0 <= share <= 1 for row, share in table.items())
    (_, learn, held_out, more), = given
    (z, y), = calls
    G, _, _ = cgan.load(cgan.Config(out_dir=str(folder), device="cpu"))
    assert torch.equal(image_sets.one_hot(more.labels, more.attributes), y) and len(y) == len(learn.images) == 256
    assert more.images.dtype == torch.uint8
    assert (to_float(more.images) - cgan.generate(G, z, y)).abs().max() < 1.01 / 255
    assert held_out.images.shape == (64, 3, 16, 16)


# ---- bad input: one line, exit status 2, no traceback, nothing lost

def refused(capsys, script, *args):
    return refused_by(script.main, capsys, *args)


@both
def test_bad_flags(script, arrays, capsys):
    run = flags(arrays, data=arrays / "gray.npz", out_dir=arrays / "new")
    assert "--batch_size=1 must be at least 2" in refused(capsys, script, *run, "--batch_size=1")
    for wrong in ("--ngf=0", "--ndf=0", "--z_dim=0", "--n=0"):
        assert f"{wrong} must be at least 1" in refused(capsys, script, *run, wrong)
    assert "faces" in refused(capsys, script, *run, "--data=facse")
    assert not (arrays / "new").exists()


@both
def test_resuming_with_other_images(script, run, arrays, capsys):
    """Gray ones, where the model knows colours."""
    path = run(script) / "checkpoint.pt"
    whole = path.read_bytes()
    error = refused(capsys, script, "--resume", f"--data={arrays}/gray.npz", f"--out_dir={run(script)}", "--steps=9")
    assert "--data" in error and path.read_bytes() == whole


def test_resuming_without_attention(run, capsys):
    """The flag is named, not the weights that are missing."""
    error = refused(capsys, train_gan, "--resume", "--attention=false", f"--out_dir={run(train_gan)}", "--steps=9")
    assert "--attention" in error


# ---- the study of tricks

def test_the_study_pairs_runs_of_one_seed(tmp_path, monkeypatch, capsys):
    """Differences are those of runs with the same seed, and their standard error is that of their mean; a run that is
    finished is not trained again."""
    trained = []

    def train(cfg):
        trained.append(cfg)
        distance = {"spectral": 10 + cfg.seed**2, "batch": 17 + 2 * cfg.seed**2}[cfg.d_norm]
        folder = pathlib.Path(cfg.out_dir)
        folder.mkdir(parents=True)
        result = {"frechet": distance, "diversity": 0.5, "d_accuracy": 0.75, "seconds": 2.0}
        (folder / "result.json").write_text(json.dumps(result), "utf-8")

    monkeypatch.setattr(train_gan, "train", train)
    monkeypatch.setattr(study, "VARIANTS", {"as it comes": {}, "BatchNorm in D": dict(d_norm="batch")})
    for _ in range(2):
        study.main([f"--out_dir={tmp_path}", "--steps=7", "--seeds=3"])
    assert [(cfg.steps, cfg.seed, cfg.d_norm) for cfg in trained] == [
        (7, seed, norm) for norm in ("spectral", "batch") for seed in (1, 2, 3)]
    rows = json.loads((tmp_path / "study.json").read_text("utf-8"))
    assert rows["as it comes"]["Fréchet"] == pytest.approx(10 + 14 / 3) and rows["as it comes"]["more"] == 0
    differences = [7 + 1, 7 + 4, 7 + 9]
    assert rows["BatchNorm in D"]["more"] == pytest.approx(np.mean(differences))
    assert rows["BatchNorm in D"]["± error"] == pytest.approx(np.std(differences, ddof=1) / 3**0.5)
    assert rows["BatchNorm in D"]["D right"] == 0.75 and "BatchNorm in D" in capsys.readouterr().out


@pytest.mark.paper
def test_the_variants_of_the_study_are_settings():
    """Each can be made, and differs from the default in what it says."""
    default = dataclasses.asdict(train_gan.Config())
    for name, flags in study.VARIANTS.items():
        changed = {key for key, value in dataclasses.asdict(train_gan.Config(**flags)).items() if value != default[key]}
        assert changed == set(flags) and (changed or name == "as it comes"), name
