"""mini/cyclegan.py against its layout and a training loop written out here; PSNR and SSIM against their formulas and
scipy (tests/reference/ssim.npz); the truth that the renderer knows; and the classic bugs."""
import csv
import functools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import classifier, cyclegan
from mini.data.images import domains, image_sets
from mini.data.images.faces import ATTRIBUTES, render
from mini.utils import config, domain_judge
from mini.utils.domain_judge import SHARES, DomainJudge
from mini.utils.image_metrics import psnr, ssim
from mini.utils.images import grid, to_float
from mini.utils.metrics import table
from mini.utils.png import read_png, write_png
from mini.utils.run import Run
from tests.helpers import close, find_text, of, read_grid, refused, refused_by, watch

TINY = dict(size=16, n_images=64, ngf=4, blocks=1, ndf=4, batch_size=4, steps=4, n=4, pool=6, log_every=1,
            sample_every=2, eval_every=2, device="cpu", matmul="highest")
HAIR = list(ATTRIBUTES).index("hair")
BLACK, BLOND = ATTRIBUTES["hair"].index("black"), ATTRIBUTES["hair"].index("blond")
COLUMNS = ["right", "kept", "worst", "PSNR", "SSIM", "cycle", "identity"]
with np.load(Path(__file__).parent / "reference/ssim.npz") as file:
    GOLDEN = {name: torch.from_numpy(array) for name, array in file.items()}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder to work in, with the judge under runs/ for all tests here: a cheap one, which learns for 2 steps."""
    folder = tmp_path_factory.mktemp("cyclegan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(image_sets, "HELD_OUT", 64)
        patch.setattr(domains, "HELD_OUT", 24)
        patch.setattr("mini.utils.judge.STEPS", 2)
        patch.setattr("mini.utils.judge.TRIAL_STEPS", 2)
        patch.setattr("mini.utils.judge.load_images", lambda source, size, n=0: image_sets.load_images(source, size, 256))
        patch.setattr(config, "field_notes", functools.cache(config.field_notes))       # it reads the source each time
        yield folder


@pytest.fixture(scope="module")
def trained(place):
    """(folder, result) of a run of 4 steps, not to be written to."""
    return place / "trained", cyclegan.train(cyclegan.Config(**TINY, out_dir=str(place / "trained")))


@pytest.fixture
def run(tmp_path, trained):
    return shutil.copytree(trained[0], tmp_path / "run")


@pytest.fixture
def folders(tmp_path):
    """Two folders of PNGs: 7 gray ones, and 12 in colour, of which one has an alpha channel; none of them square."""
    rng = np.random.default_rng(0)
    for name, n, C in (("gray", 7, 1), ("colour", 12, 3)):
        (tmp_path / name).mkdir()
        for i in range(n):
            write_png(tmp_path / name / f"{i}.png", rng.integers(0, 256, (20, 18 + i, C), dtype=np.uint8))
    transparent = Path(__file__).parent / "reference/png"
    shutil.copy(next(path for path in sorted(transparent.glob("*.png")) if path.read_bytes()[25] == 6),
                tmp_path / "colour/alpha.png")
    return tmp_path


def tiny(tmp_path, **changes):
    return cyclegan.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def loaded(cfg, state, C=3):
    """The networks of a checkpoint, without cyclegan.load."""
    nets = cyclegan.make_nets(cfg, C)
    nets.load_state_dict(state["model"])
    return nets


def read_log(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


# ---- the networks

def norm(h):
    mean = h.mean((2, 3), keepdim=True)
    return (h - mean) / (((h - mean)**2).mean((2, 3), keepdim=True) + 1e-5)**0.5


def mirrored(h, by):
    """The pixels beyond the edge are those before it, the edge itself not twice."""
    at = torch.arange(-by, h.size(2) + by).abs()
    at = torch.where(at < h.size(2), at, 2 * (h.size(2) - 1) - at)
    return h[:, :, at][:, :, :, at]


class Reference:
    """A network's weights, copied, in the layout of Zhu et al. 2017, appendix 7.2."""

    def __init__(self, net, cfg):
        self.cfg, self.weights = cfg, [p.detach().clone().requires_grad_() for p in net.parameters()]

    def G(self, x):
        w, h = iter(self.weights), x
        h = norm(F.conv2d(mirrored(h, 3), next(w))).clamp(min=0)
        for _ in range(self.cfg.halvings):
            h = norm(F.conv2d(h, next(w), stride=2, padding=1)).clamp(min=0)
        for _ in range(self.cfg.blocks):
            inner = norm(F.conv2d(mirrored(h, 1), next(w))).clamp(min=0)
            h = h + norm(F.conv2d(mirrored(inner, 1), next(w)))
        for _ in range(self.cfg.halvings):
            kernel = next(w)                    # 4, or 3 as in the paper
            h = norm(F.conv_transpose2d(h, kernel, stride=2, padding=1, output_padding=kernel.size(2) % 2)).clamp(min=0)
        h = torch.tanh(F.conv2d(mirrored(h, 3), next(w), next(w)))
        assert list(w) == []
        return h

    def D(self, x):
        w = iter(self.weights)
        h = F.conv2d(x, next(w), next(w), stride=2, padding=1)
        h = torch.where(h > 0, h, 0.2 * h)
        for i in range(self.cfg.d_halvings):
            h = norm(F.conv2d(h, next(w), stride=1 if i == self.cfg.d_halvings - 1 else 2, padding=1))
            h = torch.where(h > 0, h, 0.2 * h)
        h = F.conv2d(h, next(w), next(w), padding=1)
        assert list(w) == []
        return h


@pytest.mark.paper
@pytest.mark.parametrize("C, S, sizes", [
    (3, 16, {}), (1, 16, dict(halvings=0, blocks=2, d_halvings=1)), (3, 32, dict(halvings=2, d_halvings=3)),
    (1, 18, dict(blocks=0)), (3, 64, dict(halvings=1, d_halvings=4, ndf=1)),
    (3, 24, dict(halvings=2, remove_checkerboard=False))], ids=str)
def test_networks_equal_the_layout_of_the_paper(C, S, sizes):
    """A wrong kernel, stride, padding, slope or normalisation; a ReLU after the sum of a residual block."""
    cfg = cyclegan.Config(**{**TINY, **sizes})
    torch.manual_seed(1)
    for name, net in (("G", cyclegan.Generator(cfg, C)), ("D", cyclegan.Discriminator(cfg, C))):
        net = net.double()
        for p in net.parameters():
            nn.init.normal_(p, 0, 0.3)
        a = torch.randn(2, C, S, S, dtype=torch.float64, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        reference = Reference(net, cfg)
        got, want = net(a), getattr(reference, name)(b)
        P = S // 2**cfg.d_halvings - 2
        assert got.shape == ((2, C, S, S) if name == "G" else (2, 1, P, P))
        close(got, want, 1e-10)
        mix = torch.randn_like(got)
        gradients = zip(torch.autograd.grad((got * mix).sum(), [a, *net.parameters()]),
                        torch.autograd.grad((want * mix).sum(), [b, *reference.weights]))
        for one, other in gradients:
            close(one, other, 1e-9)


@pytest.mark.paper
def test_networks_have_the_published_size():
    """The authors' G with 9 residual blocks and D with 3 layers have 11,378,179 and 2,764,737 parameters. Theirs have
    biases before the normalisations, where they do nothing."""
    cfg = cyclegan.Config(**{**cyclegan.PRESETS["paper"], "blocks": 9})
    G, D = (sum(p.numel() for p in net(cfg, 3).parameters()) for net in (cyclegan.Generator, cyclegan.Discriminator))
    assert G == 11_378_179 - (64 + 128 + 256 + 18 * 256 + 128 + 64)
    assert D == 2_764_737 - (128 + 256 + 512)
    ours = cyclegan.Generator(replace(cfg, remove_checkerboard=True), 3)        # kernels of 4 where it doubles the size
    assert sum(p.numel() for p in ours.parameters()) == G + (4 * 4 - 3 * 3) * (256 * 128 + 128 * 64)


@pytest.mark.paper
def test_the_preset_of_the_paper():
    """§4, §5.2, §7: eq. 3 with λ = 10, a pool of 50, batches of 1, Adam at 2e-4 for half of the time, then falling."""
    cfg = cyclegan.Config(**cyclegan.PRESETS["paper"])
    assert (cfg.lambda_cycle, cfg.lambda_identity, cfg.pool, cfg.batch_size) == (10, 0, 50, 1)
    assert (cfg.lr, cfg.beta1, cfg.constant) == (2e-4, 0.5, 0.5) and not cfg.remove_checkerboard
    assert (cfg.size, cfg.ngf, cfg.halvings, cfg.blocks, cfg.ndf, cfg.d_halvings) == (128, 64, 2, 6, 64, 3)
    D = cyclegan.Discriminator(cfg, 3).double()
    for p in D.parameters():
        p.data.fill_(0.01)
    x = torch.zeros(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    layers = [m for m in D.layers if not isinstance(m, nn.InstanceNorm2d)]      # norms see the whole image
    nn.Sequential(*layers)(x)[0, 0, 7, 7].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]       # pixels of a patch


@pytest.mark.paper
def test_initialisation():
    """Every weight from N(0, 0.02²) (§7.1), not torch's defaults."""
    for net in cyclegan.make_nets(cyclegan.Config(size=32, device="cpu"), 3).values():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                assert not p.any(), name
                continue
            deviations = 5 / math.sqrt(p.numel())       # of the mean, in standard deviations
            assert abs(p.mean().item()) < 0.02 * deviations and abs(p.std().item() / 0.02 - 1) < deviations, name


def test_no_image_depends_on_the_others():
    """BatchNorm would let them; and then G could not be given images of A and of B at once."""
    torch.manual_seed(0)
    nets = cyclegan.make_nets(tiny(Path("."), steps=1), 3).double()
    x = torch.rand(5, 3, 16, 16, dtype=torch.float64) * 2 - 1
    for net in nets.values():
        close(net(x), torch.cat([net(x[i:i + 1]) for i in range(5)]), 1e-12)
    G, H, D, E = nets.values()
    assert not torch.equal(G(x), H(x)) and not torch.equal(D(x), E(x))      # each with weights of its own


def test_translating_is_evaluation():
    """Dropout in a generator of your own must not act, and training must go on as it was."""
    G = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))
    x = torch.randn(300, 3, 4, 4)
    for mode in (True, False):
        G.train(mode)
        made = cyclegan.translate(G, x)
        assert G.training == G[1].training == mode and not made.requires_grad
        close(made, G[0](x), 1e-6)


# ---- the terms, the pool, the learning rate

@pytest.mark.paper
def test_the_losses_by_hand():
    """A sum for a mean, a root, the wrong sign of the target, a missing ½; a square in the L1 norm."""
    fake = torch.tensor([[[[0.5, -1.0], [2.0, 1.0]]], [[[0.0, 1.0], [1.0, 3.0]]]])
    real = torch.tensor([[[[1.5, -2.0], [0.0, 1.0]]]])
    fakes, reals = fake.flatten().tolist(), real.flatten().tolist()
    of_fake = sum(v**2 for v in fakes) / 8
    of_real = sum((v - 1)**2 for v in reals) / 4
    assert cyclegan.generator_loss(fake).item() == pytest.approx(sum((v - 1)**2 for v in fakes) / 8)
    assert cyclegan.discriminator_loss(real, fake).item() == pytest.approx((of_real + of_fake) / 2)
    zeros = torch.zeros_like(fake)
    for loss in (cyclegan.cycle_loss, cyclegan.identity_loss):
        assert loss(fake, zeros).item() == pytest.approx(sum(abs(v) for v in fakes) / 8)
        assert loss(zeros, fake).item() == loss(fake, zeros).item()


@pytest.mark.paper
def test_what_is_said_of_a_discriminator_that_cannot_tell():
    half = torch.full((1, 1, 3, 3), 0.5)
    assert 2 * cyclegan.generator_loss(half) == 2 * cyclegan.discriminator_loss(half, half) == 0.5
    assert "g_loss = d_loss = ½" in cyclegan.IF_D_CANNOT_TELL


def test_losses_are_float32():
    """Sums in bfloat16 would be coarse."""
    x, y = torch.randn(2, 1, 3, 3).bfloat16(), torch.randn(2, 1, 3, 3).bfloat16()
    assert cyclegan.generator_loss(x).dtype == torch.float32
    for loss in (cyclegan.discriminator_loss, cyclegan.cycle_loss, cyclegan.identity_loss):
        assert loss(x, y).dtype == torch.float32
    for loss in (cyclegan.cycle_loss, cyclegan.identity_loss):      # whatever the distance is: nothing for the same
        assert loss(x, x).item() == 0 < loss(x, y).item()


def numbered(*numbers):
    return torch.tensor([float(n) for n in numbers])[:, None, None, None].expand(-1, 3, 2, 2).contiguous()


def test_the_pool_is_filled_with_what_it_returns():
    """The first images come back as they are, and are all kept, as copies."""
    pool, rng = cyclegan.ImagePool(50), torch.Generator().manual_seed(0)
    for first in range(0, 50, 10):
        new = numbered(*range(first, first + 10)).requires_grad_()
        got = pool.query(new, rng)
        assert torch.equal(got, new.detach()) and not got.requires_grad
        new.data.fill_(-1)                                      # what becomes of the batch is no matter
    assert [image[0, 0, 0].item() for image in pool.images] == list(range(50))
    assert all(image.shape == (3, 2, 2) and not image.requires_grad for image in pool.images)
    assert torch.equal(rng.get_state(), torch.Generator().manual_seed(0).get_state())


def test_what_the_full_pool_returns():
    """Half new images, half old ones, each of them once, in whose place the new one is kept; always the same."""
    histories = []
    for seed in (0, 0, 1):
        pool, rng, returned, history = cyclegan.ImagePool(50), torch.Generator().manual_seed(seed), [], []
        for step in range(500):
            numbers = range(8 * step, 8 * step + 8)
            got = pool.query(numbered(*numbers), rng)[:, 0, 0, 0].tolist()
            if len(returned) >= 56:
                history += [number - now for number, now in zip(got, numbers)]
            returned += got
            kept = [image[0, 0, 0].item() for image in pool.images]
            assert len(kept) <= 50 and len(set(kept)) == len(kept)
        assert max(returned.count(n) for n in set(returned[:400])) <= 2     # when it was new, or later: see below
        histories.append(history)
    assert histories[0] == histories[1] != histories[2]
    ages = -np.array(histories[0])
    assert (ages >= 0).all() and abs((ages > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(ages))
    # an image stays until it is drawn, with probability ½ · 1/50 at each later one: it is 100 images old in the mean
    old = ages[(ages > 0) & (np.arange(len(ages)) > 1500)]
    assert abs(old.mean() - 100) < 5 * 100 / math.sqrt(len(old)) and len(np.unique(old)) > 100


def test_after_the_first_fifty_each_image_is_returned_once():
    """A pool that hands out copies and keeps what it should have given away."""
    pool, rng, counts = cyclegan.ImagePool(3), torch.Generator().manual_seed(0), {}
    for step in range(300):
        got = pool.query(numbered(step), rng)[0, 0, 0, 0].item()
        counts[got] = counts.get(got, 0) + 1
    assert all(counts.get(n, 0) == 2 for n in (0, 1, 2))        # while it was filled, and when they were given away
    assert all(n < 3 or count == 1 for n, count in counts.items()) and len(counts) == 300 - 3


def test_no_pool():
    pool, rng = cyclegan.ImagePool(0), torch.Generator().manual_seed(0)
    for step in range(20):
        assert torch.equal(pool.query(numbered(step, -step), rng), numbered(step, -step)) and pool.images == []


@pytest.mark.paper
def test_the_learning_rate_is_constant_and_then_falls_to_0():
    """As in the paper, the halves of the training by default (§7.1)."""
    cfg = cyclegan.Config(steps=200)
    factors = [cyclegan.lr_factor(step, cfg) for step in range(201)]
    assert factors[:101] == [1.0] * 101 and factors[200] == 0
    assert np.allclose(np.diff(factors[100:]), -1 / 100, atol=1e-15)
    factors = [cyclegan.lr_factor(step, replace(cfg, constant=0.0)) for step in range(201)]
    assert np.allclose(factors, np.linspace(1, 0, 201), atol=1e-15)
    assert cyclegan.lr_factor(180, replace(cfg, constant=0.9)) == 1


# ---- training: what changes when, and by how much

def copied(name, net, cfg):
    return Reference(net, cfg)


def test_each_step_changes_one_side_and_leaves_the_other_no_gradient(tmp_path, monkeypatch):
    """D's step that trains G as well, because the translations were not detached; or G's that trains D."""
    seen = watch(monkeypatch, cyclegan, copied)
    cyclegan.train(tiny(tmp_path, steps=3))
    assert [owner for owner, _, _ in seen.steps] == ["G", "D"] * 3
    assert set(of(seen.steps[0][2], "D").values()) == {None}            # G's step leaves D nothing
    left = None
    for owner, changed, gradients in seen.steps:
        own = of(gradients, owner)
        assert changed <= set(own) and None not in own.values()         # its parameters, and nothing else
        assert {name for name in own if name.endswith("weight")} <= changed     # a bias may have the gradient 0
        if left:
            assert all(torch.equal(a, b) for a, b in zip(of(gradients, left[0]).values(), left[1].values()))
        left = owner, of(gradients, owner)
    assert all(p.requires_grad for p in seen.nets.parameters())


@pytest.mark.paper
@pytest.mark.parametrize("weights, pool, even", [
    ((10, 5), 50, True), ((10, 5), 50, False), ((10, 5), 5, True), ((10, 5), 0, True), ((7, 0), 50, True),
    ((0, 3), 50, True), ((0, 0), 50, True)], ids=str)
def test_three_steps_equal_a_training_loop_written_out(weights, pool, even, tmp_path, monkeypatch, float64):
    """A term with the wrong weight, image, network or direction; D on translations of the wrong domain, or of other
    ones than G made; stale gradients; another learning rate; a logged number that is not what it says."""
    lambda_cycle, lambda_identity = weights
    monkeypatch.setattr(cyclegan, "DomainJudge", lambda *_: SimpleNamespace(knows_truth=True))
    monkeypatch.setattr(cyclegan, "score", lambda *_: {"": {"": 0.0}})
    torch.set_default_dtype(torch.float32)                              # the faces are drawn in float32
    both = cyclegan.load_domains(tiny(tmp_path))
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(cyclegan, "load_domains", lambda _: both)
    seen, lr = watch(monkeypatch, cyclegan, copied), 0.003
    cyclegan.train(tiny(tmp_path, steps=3, lr=lr, beta1=0.3, constant=1 / 3, pool=pool, remove_checkerboard=even,
                        lambda_cycle=float(lambda_cycle), lambda_identity=float(lambda_identity)))
    nets = seen.start
    G_AB, G_BA, D_A, D_B = nets["G_AB"].G, nets["G_BA"].G, nets["D_A"].D, nets["D_B"].D
    sides = {side: [w for name in names for w in nets[name].weights]
             for side, names in (("G", ("G_AB", "G_BA")), ("D", ("D_A", "D_B")))}
    optimizers = {side: torch.optim.Adam.__base__(w, lr=lr, betas=(0.3, 0.999)) for side, w in sides.items()}
    real = [to_float(domain.train_set).flatten(1) for domain in both]
    rows, made = read_log(tmp_path / "run"), {"a": [], "b": []}
    assert len(seen.calls) % 3 == 0 and all(x.dtype == torch.float64 for _, (x,) in seen.calls)
    calls = [seen.calls[i::len(seen.calls) // 3] for i in range(len(seen.calls) // 3)]     # of each step alike
    for step in range(3):
        given = {}
        for call in calls:
            given.setdefault(call[step][0], []).extend(call[step][1])
        a, b = given["G_AB"][0][:4], given["G_AB"][0][4:]
        for x, domain in ((a, real[0]), (b, real[1])):                  # real images, each domain's own
            distance, which = torch.cdist(x.flatten(1), domain).min(1)
            assert x.shape == (4, 3, 16, 16) and (distance < 1e-6).all()
            made.setdefault("which", []).append(which.tolist())
        assert made["which"][-2] != made["which"][-1]                   # not the same places in both: no pairs
        assert not any(torch.equal(a, earlier) or torch.equal(b, earlier) for earlier in made.get("before", []))
        made.setdefault("before", []).extend([a, b])

        fake_b, fake_a = G_AB(a), G_BA(b)
        cycle = (G_BA(fake_b) - a).abs().mean() + (G_AB(fake_a) - b).abs().mean()
        identity = (G_AB(b) - b).abs().mean() + (G_BA(a) - a).abs().mean()
        g_loss = ((D_B(fake_b) - 1)**2).mean() + ((D_A(fake_a) - 1)**2).mean()
        total = g_loss + lambda_cycle * cycle + lambda_identity * identity

        # what D was shown: first the new translations, by G; then real ones and translations, of which some are older
        (for_g_a, real_a, shown_a), (for_g_b, real_b, shown_b) = given["D_A"], given["D_B"]
        for got, want in ((for_g_a, fake_a), (for_g_b, fake_b), (real_a, a), (real_b, b)):
            close(got, want.detach(), 1e-7)
        for name, shown, new in (("a", shown_a, fake_a), ("b", shown_b, fake_b)):
            so_far = torch.cat([*made[name], new.detach()])
            distance, which = torch.cdist(shown.flatten(1), so_far.flatten(1)).min(1)
            assert (distance < 1e-6).all()
            older = which != torch.arange(len(so_far) - 4, len(so_far))
            assert (not older.any()) if pool != 5 or step == 0 else True
            made[name].append(new.detach())
            made.setdefault("older", []).append(older)
        seen_a, seen_b = shown_a.detach(), shown_b.detach()
        for p, gradient in zip(sides["G"], torch.autograd.grad(total, sides["G"])):
            p.grad = gradient
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = lr * (1, 1, 0.5)[step]
        optimizers["G"].step()
        for w in (w.data for name in ("G_AB", "G_BA") for w in nets[name].weights if even and w.ndim == 4 and w.size(2) == 4):
            mean = w.mean((2, 3), keepdim=True)                         # of the layers that double the size
            for part in (w[:, :, ::2, ::2], w[:, :, ::2, 1::2], w[:, :, 1::2, ::2], w[:, :, 1::2, 1::2]):
                part += mean - part.mean((2, 3), keepdim=True)
        d_loss = (((D_A(a) - 1)**2).mean() + (D_A(seen_a)**2).mean()
                  + ((D_B(b) - 1)**2).mean() + (D_B(seen_b)**2).mean()) / 2
        for p, gradient in zip(sides["D"], torch.autograd.grad(d_loss, sides["D"])):
            p.grad = gradient
        optimizers["D"].step()
        for key, value in dict(g_loss=g_loss, d_loss=d_loss, cycle=cycle, identity=identity).items():
            assert float(rows[step][key]) == pytest.approx(value.item(), rel=1e-6), (step, key)
    assert torch.cat(made["older"]).any() == (pool == 5)
    assert len(seen.calls) == 3 * 10
    for name, net in seen.nets.items():
        for one, other in zip(net.parameters(), nets[name].weights):
            close(one.detach(), other.detach(), 1e-6)


def test_it_learns_to_translate(tmp_path):
    """Dark images with one spot, to light ones and back: the spot must stay where it is, the shade change."""
    rng = np.random.default_rng(0)
    for name, shade in (("dark", 60), ("light", 200)):
        images = shade + rng.integers(-15, 15, (40, 16, 16)).astype(np.int64)
        for image, (y, x) in zip(images, rng.integers(2, 14, (40, 2))):
            image[y - 2:y + 2, x - 2:x + 2] = 128
        np.save(tmp_path / f"{name}.npy", images.astype(np.uint8))
    cfg = tiny(tmp_path, data_a=str(tmp_path / "dark.npy"), data_b=str(tmp_path / "light.npy"), steps=60, lr=4e-3,
               log_every=0, sample_every=0, eval_every=0)
    scores = cyclegan.train(cfg)["scores"]
    assert list(scores) == ["a → b", "b → a", "a → b, copied", "b → a, copied"]
    assert all(list(row) == ["right", "cycle", "identity"] for row in scores.values())
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    nets = loaded(cfg, state, C=1)
    dark, light = (to_float(torch.from_numpy(np.load(tmp_path / f"{name}.npy")))[:, None] for name in ("dark", "light"))
    assert dark.mean() < -0.4 and light.mean() > 0.4
    assert cyclegan.translate(nets["G_AB"], dark).mean() > 0.2 and cyclegan.translate(nets["G_BA"], light).mean() < -0.2


# ---- PSNR and SSIM

def test_psnr_by_the_formula():
    """A peak for the wrong range, an error over the batch, a natural logarithm."""
    torch.manual_seed(0)
    a, b = torch.rand(4, 3, 5, 7) * 2 - 1, torch.rand(4, 3, 5, 7) * 2 - 1
    for peak in (2.0, 255.0):
        got = psnr(a, b) if peak == 2 else psnr(a, b, peak)
        assert got.shape == (4,) and got.dtype == torch.float64
        for i in range(4):
            mse = np.mean((a[i].double().numpy() - b[i].double().numpy())**2)
            assert got[i].item() == pytest.approx(20 * math.log10(peak) - 10 * math.log10(mse), rel=1e-12)
    assert psnr(a, a).tolist() == [math.inf] * 4


CASES = [name.removesuffix("/a") for name in GOLDEN if name.endswith("/a")]


@pytest.mark.parametrize("name", CASES)
def test_ssim_equals_scipy(name):
    """A window that is not normalised, of another width; N − 1 in the covariances; padding; other constants. Kept
    numbers of scipy, in float64."""
    a, b, peak, want = (GOLDEN[f"{name}/{part}"] for part in ("a", "b", "peak", "ssim"))
    got = ssim(a, b, peak.item())
    assert got.dtype == torch.float64 and (got - want).abs().max() < 1e-10
    assert (ssim(b, a, peak.item()) - want).abs().max() < 1e-10         # symmetric
    if peak == 2:
        assert torch.equal(ssim(a, b), got)                             # images in [-1, 1] by default


# ---- the two domains, and the truth

def spy_on_render(monkeypatch):
    calls = []
    monkeypatch.setattr(domains, "render", lambda labels, nuisance, size: calls.append((labels.clone(), nuisance)) or
                        render(labels, nuisance, size))
    return calls


def test_domains_are_unpaired(monkeypatch):
    """No face of A may be in B with other hair, and none held out may have been learnt from."""
    calls = spy_on_render(monkeypatch)
    a, b = domains.load_domains(cyclegan.Config(size=8, n_images=600))
    (_, learn_a), (_, held_a), (_, learn_b), (_, held_b) = calls
    assert [len(x) for x in (learn_a, held_a, learn_b, held_b)] == [600, 24, 600, 24]
    everybody = torch.cat([learn_a, held_a, learn_b, held_b])
    assert len(everybody.unique(dim=0)) == len(everybody) == 1248       # each nuisance, and so each face, once
    assert [(labels[:, HAIR] == hair).all() for (labels, _), hair in zip(calls, (BLOND, BLOND, BLACK, BLACK))]
    for (labels, nuisance), images in zip(calls, (a.train_set, a.held_out, b.train_set, b.held_out)):
        assert torch.equal(render(labels, nuisance, 8), images)
        for column, names in zip(labels.T, ATTRIBUTES.values()):        # the others are as they come
            assert column is labels.T[HAIR] or len(column.unique()) in (1, len(names))
    assert torch.equal(a.labels, calls[1][0]) and torch.equal(b.nuisance, held_b)
    assert (a.labels[:, HAIR] == BLOND).all() and (b.labels[:, HAIR] == BLACK).all()
    assert all(len(a.labels[:, i].unique()) > 1 for i in range(1, 6))


class Answers(nn.Module):
    """A generator that knows the answers."""
    def __init__(self, questions, answers):
        super().__init__()
        self.questions, self.answers = questions, answers

    def forward(self, x):
        at = torch.cdist(x.flatten(1), self.questions.flatten(1)).argmin(1)
        return self.answers[at]


@pytest.mark.parametrize("attribute, of_a, of_b", [("hair", "blond", "black"), ("glasses", "none", "round")])
def test_scores_beside_the_truth(attribute, of_a, of_b, tmp_path, monkeypatch):
    """The truth: the same face, the same nuisance, one label changed. To hand that back is perfect; to copy has the
    scores of copying; what the judge reads is counted by hand."""
    cfg = tiny(tmp_path, data_a=f"{attribute}={of_a}", data_b=f"{attribute}={of_b}")
    column, values = list(ATTRIBUTES).index(attribute), ATTRIBUTES[attribute]
    a, b = cyclegan.load_domains(cfg)
    calls, judge = spy_on_render(monkeypatch), DomainJudge(cfg, a, b)
    judge.judge.prepare()
    a, b = judge.domain_a, judge.domain_b
    copied = cyclegan.score_copying(judge)
    assert len(calls) == 2
    same = cyclegan.score(nn.Identity(), nn.Identity(), judge)
    assert list(copied) == ["a → b, copied", "b → a, copied"] and list(same) == ["a → b", "b → a"]
    truth = {}
    for (labels, nuisance), (key, x, other) in zip(calls, (("a → b", a, of_b), ("b → a", b, of_a))):
        assert (labels[:, column] == values.index(other)).all() and torch.equal(nuisance, x.nuisance)
        rest = [i for i in range(6) if i != column]
        assert torch.equal(labels[:, rest], x.labels[:, rest]) and not (labels[:, column] == x.labels[:, column]).any()
        truth[key] = render(labels, nuisance, 16)
        assert (truth[key] != x.held_out).any((1, 2, 3)).all()
        row = copied[key + ", copied"]
        assert row == same[key] and list(row) == COLUMNS
        assert row["cycle"] == row["identity"] == 0
        read = classifier.predict(judge.judge.model, x.held_out)[0]
        kept = [(read[:, i] == x.labels[:, i]).double().mean().item() for i in rest]
        assert row["right"] == pytest.approx((read[:, column] == values.index(other)).double().mean().item())
        assert row["kept"] == pytest.approx(sum(kept) / 5) and row["worst"] == min(kept)
        pair = to_float(x.held_out), to_float(truth[key])
        assert row["PSNR"] == psnr(*pair).mean() and row["SSIM"] == ssim(*pair).mean()

    there, back = (Answers(to_float(x.held_out), to_float(truth[key])) for x, key in ((a, "a → b"), (b, "b → a")))
    rows = cyclegan.score(there, back, judge)
    for key, x, y, G, H in (("a → b", a, b, there, back), ("b → a", b, a, back, there)):
        given, made = to_float(x.held_out), to_float(truth[key])
        assert rows[key]["PSNR"] == math.inf and rows[key]["SSIM"] == pytest.approx(1, abs=1e-9)
        read = classifier.predict(judge.judge.model, truth[key])[0]
        assert rows[key]["right"] == (read[:, column] == values.index(of_b if key[0] == "a" else of_a)).double().mean()
        assert rows[key]["cycle"] == pytest.approx((H(made) - given).abs().mean().item(), rel=1e-5)
        theirs = to_float(y.held_out)
        assert rows[key]["identity"] == pytest.approx((G(theirs) - theirs).abs().mean().item(), rel=1e-5)


def test_the_judge_is_that_of_all_faces(tmp_path, monkeypatch):
    """With the settings of other runs on faces, so that they share it."""
    seen = []
    monkeypatch.setattr("mini.utils.judge.load_images", lambda *args: args[:2])
    monkeypatch.setattr("mini.utils.judge.Judge", lambda own, *data: seen.append((own, data)) or 3)
    images, labels = torch.zeros(2, 3, 20, 20), torch.zeros(2, 6)
    faces = domains.Domain(images, images, "hair", labels, labels)
    judge = DomainJudge(tiny(tmp_path, size=20), faces, faces)
    assert judge.judge == 3 and judge.knows_truth
    (own, data), = seen
    assert (own.device, own.n_test) == ("cpu", 2) and data == ("faces", 20, 2)


def test_the_judge_of_a_against_b(tmp_path, monkeypatch):
    """Where nobody knows the truth: of real images of both, the smaller domain repeated; never of held-out ones."""
    of_a, of_b, held_a, held_b = (torch.full((n, 3, 16, 16), 10 * n, dtype=torch.uint8) for n in (3, 7, 2, 4))
    unknown = domains.Domain(of_a, held_a), domains.Domain(of_b, held_b)
    labels = torch.zeros(4, 6)
    hair, mouth = (domains.Domain(of_a, held_a, name, labels[:2], labels[:2]) for name in ("hair", "mouth"))
    for a, b in (unknown, (hair, unknown[1]), (unknown[0], hair), (hair, mouth)):
        judge = DomainJudge(tiny(tmp_path), a, b)
        assert not judge.knows_truth
    judge = DomainJudge(tiny(tmp_path, data_a="some/horses", data_b="zebras.npy"), *unknown)
    data = judge.judge.train_set, judge.judge.held_out
    assert [(part.images[:, 0, 0, 0].tolist(), part.labels[:, 0].tolist()) for part in data] == [
        ([30] * 7 + [70] * 7, [0] * 7 + [1] * 7), ([20] * 2 + [40] * 4, [0] * 2 + [1] * 4)]
    assert all(part.attributes == {"domain": ["A", "B"]} and part.source == "horses-zebras" for part in data)

    # a reader that takes what is darker than 35 for A
    monkeypatch.setattr(judge.judge, "accuracy", lambda images, labels: {"domain": (
        (images.mean((1, 2, 3), dtype=torch.float64) > 35).long()[:, None] == labels).double().mean().item()})
    assert judge.own_accuracy() == {"A": 1.0, "B": 1.0}
    translated = torch.tensor([20.0, 40, 60, 80])[:, None, None, None].expand(-1, 3, 16, 16)
    assert judge.scores(translated, judge.domain_a, judge.domain_b) == {"right": 0.75}
    assert judge.scores(translated, judge.domain_b, judge.domain_a) == {"right": 0.25}
    assert "100.0%" in domain_judge.accuracy_report(judge.own_accuracy())


def test_the_judge_of_a_against_b_can_tell(tmp_path, monkeypatch, capsys):
    """Dark from light images, also if there are many more light ones; its time is announced; it is trained once."""
    monkeypatch.setattr("mini.utils.judge.TRIAL_STEPS", 15)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 60, (50, 1, 16, 16), generator=rng, dtype=torch.uint8)
    dark, light = domains.Domain(noise[:6], noise[6:9]), domains.Domain(noise[10:40] + 150, noise[40:] + 150)
    cfg = tiny(tmp_path, data_a="dark", data_b="light")
    for trained in (True, False):
        judge = DomainJudge(cfg, dark, light)
        assert judge.own_accuracy() == {"A": 1.0, "B": 1.0}
        assert judge.scores(to_float(light.held_out), dark, light) == {"right": 1.0}
        assert ("15 steps" in capsys.readouterr().out) == trained


# ---- the run

def sheet_shape(rows, columns, size, C=3):
    return rows * (size + 2) + 2, columns * (size + 2) + 2, C


def test_end_to_end(trained):
    """A run's files and numbers."""
    run, result = trained
    nets = cyclegan.make_nets(cyclegan.Config(**TINY), 3)
    assert result["parameters"] == sum(p.numel() for p in nets.parameters())
    assert list(result["scores"]) == ["a → b", "b → a", "a → b, copied", "b → a, copied"]
    for row in result["scores"].values():
        assert list(row) == COLUMNS and all(math.isfinite(value) for value in row.values())
        assert all(0 <= row[key] <= 1 for key in COLUMNS[:3]) and row["worst"] <= row["kept"]
    assert all(math.isfinite(float(value)) for row in read_log(run) for value in row.values())
    for step in (2, 4):
        assert read_grid(run / f"samples/step_00000{step}.png", 4).shape == sheet_shape(8, 4, 16)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["shape"] == (3, 16)
    assert "judge_accuracy" not in result
    assert {name.split(".")[0] for name in state["model"]} == {"G_AB", "G_BA", "D_A", "D_B"}
    assert len(state["optimizers"]) == 2
    for images in state["pools"]:
        assert len(images) == 6 and all(image.shape == (3, 16, 16) and image.abs().max() <= 1 for image in images)


def test_scores_are_those_of_the_last_weights(trained):
    run, result = trained
    cfg, state = cyclegan.own_checkpoint(cyclegan.Config(out_dir=str(run), device="cpu"), "cyclegan")
    nets, (a, b) = loaded(cfg, state), cyclegan.load_domains(cfg)
    judge = DomainJudge(cfg, a, b)
    scores = cyclegan.score(nets["G_AB"], nets["G_BA"], judge)
    scores |= cyclegan.score_copying(judge)
    assert scores == result["scores"]
    there = scores["a → b"]
    made = cyclegan.translate(nets["G_AB"], to_float(a.held_out))
    truth = a.labels.clone()
    truth[:, HAIR] = BLACK
    assert there["PSNR"] == pytest.approx(psnr(made, to_float(render(truth, a.nuisance, 16))).mean().item(), rel=1e-6)


def test_what_is_printed_at_the_end(tmp_path, capsys):
    cyclegan.train(tiny(tmp_path, steps=1))
    out = capsys.readouterr().out
    assert "hair=blond: 64 images" in out and "hair=black: 64" in out
    lines = [line for line in out.splitlines() if "→" in line]
    assert [line[:14].strip() for line in lines] == ["a → b", "b → a", "a → b, copied", "b → a, copied"]
    assert "".join(lines).count("%") == 12 and all(column in out for column in COLUMNS)


def test_report():
    text = table({"full": {"right": 0.5, "PSNR": 20.123, "cycle": 0.01234},
                  "no cycle": {"right": 1.0, "PSNR": 9.0, "cycle": 0.0}}, shares=SHARES)
    lines = text.splitlines()
    assert lines[0].split() == ["right", "PSNR", "cycle"] and lines[1].split() == ["full", "50.0%", "20.12", "0.01234"]
    assert lines[2].split() == ["no", "cycle", "100.0%", "9", "0"] and len({len(line) for line in lines}) == 1


def test_samples_of_a_run_are_of_fixed_faces(trained):
    """Eight rows: of each direction what was given, its translation, that translated back, and the truth."""
    run, _ = trained
    cfg, state = cyclegan.own_checkpoint(cyclegan.Config(out_dir=str(run), device="cpu"), "cyclegan")
    nets, both = loaded(cfg, state), cyclegan.load_domains(cfg)
    rows = []
    for domain, there, back in zip(both, (nets["G_AB"], nets["G_BA"]), (nets["G_BA"], nets["G_AB"])):
        with torch.no_grad():
            x, labels = to_float(domain.held_out[:4]), domain.labels[:4].clone()
            labels[:, HAIR] = BLACK + BLOND - labels[:, HAIR]
            rows += [x, there(x), back(there(x)), to_float(render(labels, domain.nuisance[:4], 16))]
    want = grid(torch.cat(rows) / 2 + 0.5, 4).astype(int)
    got = [read_grid(run / f"samples/step_00000{step}.png", 4).astype(int) for step in (2, 4)]
    assert abs(got[1] - want).max() <= 1
    places = [find_text(read_png(run / "samples/step_000004.png"), name) for name in ("given", "translated", "back", "truth")]
    assert [len(of_name) for of_name in places] == [2] * 4 and sum(zip(*places), ()) == tuple(sorted(sum(places, [])))
    given = np.r_[2:18, 3 * 18 + 2:5 * 18, 7 * 18 + 2:8 * 18]           # and the truth
    assert (got[0][given] == got[1][given]).all() and (got[0] != got[1]).any()


def test_a_smaller_pool_after_resuming(run):
    cyclegan.train(cyclegan.Config(out_dir=str(run), resume=True, steps=5, pool=2, device="cpu"))
    assert [len(images) for images in torch.load(run / "checkpoint.pt", weights_only=True)["pools"]] == [2, 2]


def test_the_presets_fit_the_networks():
    for preset in cyclegan.PRESETS.values():
        cfg = cyclegan.Config(**preset)
        cyclegan.check_size(cfg, cfg.size)
        G_AB, _, D_A, _ = cyclegan.make_nets(replace(cfg, ngf=2, ndf=2), 3).values()
        x = torch.zeros(1, 3, cfg.size, cfg.size)
        assert G_AB(x).shape == x.shape and D_A(x).shape[:2] == (1, 1)


def test_bfloat16(tmp_path, monkeypatch):
    """Where products are in bfloat16, the pool and the losses are not."""
    dtypes, query = [], cyclegan.ImagePool.query
    monkeypatch.setattr(cyclegan, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    monkeypatch.setattr(cyclegan.ImagePool, "query", lambda pool, new, rng: (
        dtypes.append(new.dtype) or query(pool, new, rng)))
    result = cyclegan.train(tiny(tmp_path, steps=2))
    assert set(dtypes) == {torch.float32} and math.isfinite(result["scores"]["a → b"]["cycle"])


# ---- own folders

def test_two_folders(folders, capsys):
    """Different numbers of images, gray and colour, none square: converted; no truth, but a judge of A against B."""
    result = cyclegan.train(tiny(folders, data_a=str(folders / "gray"), data_b=str(folders / "colour"), steps=3))
    out = capsys.readouterr().out
    assert "gray: 6 images" in out and "colour: 11;" in out and "classifier of A against B" in out
    assert len(list(Path("runs").glob("judge-gray-colour-*"))) == 1
    assert list(result["judge_accuracy"]) == ["A", "B"] and all(0 <= x <= 1 for x in result["judge_accuracy"].values())
    for key, row in result["scores"].items():
        assert list(row) == ["right", "cycle", "identity"] and (row["cycle"] == 0) == ("copied" in key)
    # copied: what is right of A is wrong as a translation of it
    for key, domain in (("a → b, copied", "A"), ("b → a, copied", "B")):
        assert result["scores"][key]["right"] == pytest.approx(1 - result["judge_accuracy"][domain])
    picture = read_grid(folders / "run/samples/step_000003.png", 1)
    assert picture.shape == sheet_shape(6, 1, 16)                           # one gray one held out
    assert torch.load(folders / "run/checkpoint.pt", weights_only=True)["shape"] == (3, 16)
    for direction, rows, columns in (("ab", 1, 3), ("ba", 3, 2)):           # of one image, side by side
        cyclegan.main(["sample", f"--out_dir={folders}/run", f"--direction={direction}", "--device=cpu"])
        picture = read_grid(folders / f"run/samples/{direction}.png", columns)
        assert picture.shape == sheet_shape(rows, columns, 16)
    tables = cyclegan.main(["evaluate", f"--out_dir={folders}/run", "--device=cpu", "--ablation_steps=1"])
    assert all(list(row) == ["right", "cycle", "identity"] for row in tables.values()) and len(tables) == 5


def test_gray_folders_stay_gray(folders):
    shutil.copytree(folders / "gray", folders / "again")
    cyclegan.train(tiny(folders, data_a=str(folders / "gray"), data_b=str(folders / "again"), steps=1))
    assert torch.load(folders / "run/checkpoint.pt", weights_only=True)["shape"] == (1, 16)
    cyclegan.main(["sample", f"--out_dir={folders}/run", f"--image={folders}/colour/3.png", "--device=cpu"])
    assert read_grid(folders / "run/samples/ab.png", 3).shape == sheet_shape(1, 3, 16, 1)


def test_a_folder_and_faces(folders):
    """Nobody knows the truth then."""
    result = cyclegan.train(tiny(folders, data_a=str(folders / "colour"), steps=1))
    assert list(result["scores"]["a → b"]) == ["right", "cycle", "identity"]


def test_a_folder_with_an_equals_sign(folders):
    shutil.copytree(folders / "gray", folders / "hair=blond")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders)
        domain = domains.load_domain("hair=blond", 16, 9, 0)
        assert domain.labels is None and len(domain.train_set) == 6


def test_bad_data_is_refused(folders, tmp_path):
    """In one line, before anything is made."""
    def trained(**changes):
        return lambda: cyclegan.train(tiny(tmp_path, **changes))
    (folders / "empty").mkdir()
    refused(trained(data_a=str(folders / "empty")), "empty", "no image")
    refused(trained(data_a="hair=green"), "hair=green", "blond")
    refused(trained(data_b="hat=green"), "hat=green", "glasses")
    refused(trained(data_b="hair=blond"), "hair=blond", "both")
    refused(trained(n_images=0), "n_images=0")
    np.save(tmp_path / "small.npy", np.zeros((4, 20, 20), np.uint8))
    np.save(tmp_path / "large.npy", np.zeros((4, 24, 24), np.uint8))
    refused(trained(data_a=str(tmp_path / "small.npy"), data_b=str(tmp_path / "large.npy"), size=0), "--size", "small")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [dict(ngf=0), dict(ndf=0), dict(blocks=-1), dict(halvings=-1), dict(d_halvings=0),
                                     dict(batch_size=0), dict(n=0), dict(pool=-1), dict(lr=0.0), dict(beta1=1.0),
                                     dict(constant=1.0), dict(constant=-0.1), dict(ablation_steps=-1),
                                     dict(size=15), dict(size=12), dict(d_halvings=3), dict(halvings=3)], ids=str)
def test_bad_sizes_are_refused(changes, tmp_path):
    (name, value), = changes.items()
    refused(lambda: cyclegan.train(tiny(tmp_path, **changes)), f"--{name}")
    assert not (tmp_path / "run").exists()


def test_the_smallest_sizes_work(tmp_path):
    cyclegan.train(tiny(tmp_path, steps=1, batch_size=1, n=1, pool=0, blocks=0, halvings=0, d_halvings=1, size=8, ngf=1,
                        ndf=1, n_images=1, constant=0.0))


def test_a_checkpoint_of_other_images_is_refused(run, folders):
    shutil.copytree(folders / "gray", folders / "again")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "shape": (1, 16)}, run / "checkpoint.pt")
    refused(lambda: cyclegan.train(cyclegan.Config(out_dir=str(run), resume=True, device="cpu")), "another size")
    refused(lambda: cyclegan.train(tiny(run.parent, resume=True, data_a="hair=red")), "--data_a", "hair=blond")


# ---- sample and evaluate

def command(folder, *args):
    return cyclegan.main([*args, f"--out_dir={folder}", "--device=cpu"])


@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_sample(direction, run, capsys):
    """Held-out faces of the right domain, through the right generator, and back through the other."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    cfg = cyclegan.Config(**TINY)
    nets, both = loaded(cfg, state), cyclegan.load_domains(cfg)
    domain = both["ab".index(direction[0])]
    x, labels = to_float(domain.held_out[:5]), domain.labels[:5].clone()
    labels[:, HAIR] = BLACK if direction == "ab" else BLOND
    true = to_float(render(labels, domain.nuisance[:5], 16))
    there, back = (nets[f"G_{d.upper()}"] for d in (direction, direction[::-1]))
    with torch.no_grad():
        want = grid(torch.cat([x, there(x), back(there(x)), true]) / 2 + 0.5, 5).astype(int)
    command(run, "sample", f"--direction={direction}", "--n=5")
    assert f"samples/{direction}.png" in capsys.readouterr().out
    assert abs(read_grid(run / f"samples/{direction}.png", 5).astype(int) - want).max() <= 1


@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_sample_of_a_picture(direction, run, folders, monkeypatch):
    """Any picture: gray ones get three channels, none has to be square; no data is needed."""
    monkeypatch.setattr(cyclegan, "load_domains", lambda *_: pytest.fail("the data are not needed"))
    nets = loaded(cyclegan.Config(**TINY), torch.load(run / "checkpoint.pt", weights_only=True))
    for image in ("gray/2.png", "colour/5.png", "colour/alpha.png"):
        command(run, "sample", f"--direction={direction}", f"--image={folders / image}")
        got = read_grid(run / f"samples/{direction}.png", 3).astype(int)
        assert got.shape == sheet_shape(1, 3, 16)
        assert len(find_text(read_png(run / f"samples/{direction}.png"), "translated")) == 1        # above its column
        x = image_sets.to_size(image_sets.read_image(folders / image), 16)
        assert (got[2:18, 2:18] == x.expand(3, -1, -1).permute(1, 2, 0).numpy()).all()
        with torch.no_grad():
            made = nets[f"G_{direction.upper()}"](to_float(x.expand(3, -1, -1)[None]))
        assert abs(got[2:18, 20:36] - ((made[0] / 2 + 0.5) * 255).permute(1, 2, 0).numpy()).max() <= 1


def test_sample_refuses(run, tmp_path, capsys):
    """In one line, with exit status 2."""
    for flag in ("--direction=aa", f"--image={tmp_path}/none.png", "--n=0"):
        refused_by(cyclegan.main, capsys, "sample", flag, f"--out_dir={run}", "--device=cpu")


ROWS = ["full", "no cycle", "no identity", "neither", "copied"]


def test_evaluate(run, trained, capsys, monkeypatch):
    """Four rows and copying: the run itself, and three runs as long as it without one term, or both."""
    configs, train = [], cyclegan.train
    monkeypatch.setattr(cyclegan, "train", lambda cfg: configs.append(cfg) or train(cfg))
    rows = command(run, "evaluate")
    out = capsys.readouterr().out
    assert list(rows) == ROWS and all(list(row) == COLUMNS for row in rows.values())
    assert json.loads((run / "evaluate.json").read_text()) == rows
    lines = out[out.rindex("right"):].splitlines()[1:]
    assert [line[:14].strip() for line in lines] == ROWS
    scores = trained[1]["scores"]
    for name, keys in (("full", ("a → b", "b → a")), ("copied", ("a → b, copied", "b → a, copied"))):
        for column in COLUMNS:
            assert rows[name][column] == pytest.approx(sum(scores[key][column] for key in keys) / 2, rel=1e-6)
    assert [(cfg.lambda_cycle, cfg.lambda_identity, cfg.steps) for cfg in configs] == [(0, 5, 4), (10, 0, 4), (0, 0, 4)]
    assert all(cfg.batch_size == 4 and not cfg.resume for cfg in configs)
    for name, cfg in zip(ROWS[1:], configs):
        result = json.loads((Path(cfg.out_dir) / "result.json").read_text())
        assert Path(cfg.out_dir).parent == run and rows[name]["PSNR"] == pytest.approx(
            (result["scores"]["a → b"]["PSNR"] + result["scores"]["b → a"]["PSNR"]) / 2)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["config"]["lambda_cycle"] == 10
    # again: what has been trained is not trained a second time
    times = [(run / cfg.out_dir / "log.csv").read_text() for cfg in configs]
    assert command(run, "evaluate") == rows
    assert all(cfg.resume for cfg in configs[3:])
    assert times == [(run / cfg.out_dir / "log.csv").read_text() for cfg in configs[:3]]
    assert not list(run.glob("*.1"))


def test_evaluate_with_shorter_runs(run, monkeypatch):
    """Then the full one is trained as long as the others."""
    configs, train = [], cyclegan.train
    monkeypatch.setattr(cyclegan, "train", lambda cfg: configs.append(cfg) or train(cfg))
    rows = command(run, "evaluate", "--ablation_steps=2")
    assert list(rows) == ROWS and [cfg.steps for cfg in configs] == [2] * 4
    assert [(cfg.lambda_cycle, cfg.lambda_identity) for cfg in configs] == [(10, 5), (0, 5), (10, 0), (0, 0)]
    assert len({json.dumps(rows[name]) for name in ROWS}) == 5
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4


def test_an_interrupted_evaluate_goes_on(run, monkeypatch):
    """Ctrl-C in the second run: it is saved, and nothing is trained twice."""
    stopping = Run.stopping
    monkeypatch.setattr(Run, "stopping", lambda self, step: (
        step == 2 and "identity" in self.cfg.out_dir) or stopping(self, step))
    with pytest.raises(SystemExit) as caught:
        command(run, "evaluate")
    assert caught.value.code == 130 and not (run / "evaluate.json").exists()
    monkeypatch.setattr(Run, "stopping", stopping)
    rows = command(run, "evaluate")
    assert list(rows) == ROWS and [len(read_log(path)) for path in sorted(run.glob("n*-4"))] == [4, 4, 4]
