"""DDPM: a network that removes noise learns to draw, by beginning with nothing but noise.

Forward, an image x₀ is drowned in noise step by step, until after T steps nothing is left of it. Each step
adds normal noise; so do all steps up to t together, and x_t can be had at once:

    q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I)           ᾱ_t = Π (1 − β_s) over s ≤ t   (Ho et al. 2020, eq. 4)

Backward, a U-Net sees x_t and says what x₀ was. Its best answer is the mean of all images that x_t may have
come from, a blur; but a small step towards it is a right one, and from there it can tell more:

    L = E w_t |x̂₀(x_t, t) − x₀|²                    over images x₀, times t and noise

Ho, Jain & Abbeel 2020, "Denoising diffusion probabilistic models". Departures: the network predicts x₀, not
the noise (theirs is --predict=eps), and sees stem × stem pixels as one, which makes it affordable on a CPU.

    python train_diffusion.py                                   faces, drawn on the spot
    python train_diffusion.py --data=my_pictures                your own folder of images
    python train_diffusion.py sample --hair=red --guidance=3    what you ask for
    python train_diffusion.py sample --show=reverse             from noise to image; or forward, walk, inpaint
    python train_diffusion.py evaluate                          samplers, steps, guidance

Measured times and scores: README.md. Read next: train_gpt.py, mini/text_to_image.py.
"""
import copy
import functools
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot, to_mend
from mini.utils import image_metrics, metrics
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, pick_device, start_processes
from mini.utils.images import crop, film, noise, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore


@dataclass
class Config(LabelConfig):
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder of images
    size: int = 32              # height and width of the images (0: as they are)
    n_images: int = 20000       # how many faces are drawn to learn from
    # model
    width: int = 64             # channels at the highest resolution; doubled at each below, up to fourfold
    levels: int = 2             # resolutions, each half of the one above; attention at the lowest
    stem: int = 2               # stem × stem pixels of the image are one pixel to the network
    T: int = 1000               # steps from image to noise
    schedule: Literal["cosine", "linear"] = "cosine"  # how ᾱ falls from 1 to 0
    predict: Literal["x0", "v", "eps"] = "x0"  # what the network's output means
    drop: float = 0.1           # how often the network is not told the labels (1: never told)
    # optimisation
    max_weight: float = 5.0     # largest weight w_t of an error in x₀
    steps: int = 2500           # optimiser steps
    batch_size: int = 32        # images per step, over all processes
    lr: float = 4e-3            # Adam's peak learning rate
    warmup: int = 100           # steps until it is reached; from there it falls to 0 in a straight line
    ema: float = 0.995          # how much of the average of the weights is kept at each step
    # run
    out_dir: str = "runs/diffusion"
    # images to score (0: 512; in a run of fewer steps than usual, its share of them)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"  # DPM-Solver++(2M), DDIM, the paper's own
    sample_steps: int = 20      # steps from noise to image, at most T
    eta: float = 0.0            # ddim: 0 adds no noise, 1 as much as ddpm
    variance: Literal["small", "large"] = "small"  # ddpm adds noise of variance β̃ or β
    guidance: float = 1.0       # 0: without labels; 1: with them; more: exaggerate what they mean
    show: Literal["samples", "forward", "reverse", "walk", "inpaint"] = "samples"  # what to draw
    image: str = ""             # inpaint: your picture (default: held-out images)
    mask: str = ""              # inpaint: a picture, white where to draw anew (default: the lower half)

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("size", "n_images", "width", "levels", "stem", "T", "schedule", "predict", "drop")


GPU = dict(width=128, levels=3, stem=1, batch_size=128, steps=40000, lr=3e-4, warmup=1000, ema=0.9995)
PRESETS = {"gpu": GPU, "gpu64": dict(GPU, size=64, levels=4)}


# ---- the noise
def make_abar(T: int, schedule: str):
    """ᾱ_0 … ᾱ_{T−1}, and after them ᾱ = 1, of an image without noise, at index -1: (T + 1,) in float64.

    linear: β from 1e-4 to 0.02 (Ho et al. 2020, §4), more for T < 1000, so that the end is noise. cosine
    (Nichol & Dhariwal 2021, eq. 17): falls evenly; the linear one drowns small images long before the end."""
    if schedule == "linear":
        betas = (torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * 1000 / T).clamp(max=0.999)
    else:
        f = ((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cat([(1 - betas).cumprod(0), betas.new_ones(1)])


def add_noise(x0, eps, abar):
    """x_t ~ q(x_t | x₀) (Ho et al. 2020, eq. 4), for abar of a shape that fits x0, or a number."""
    return abar**0.5 * x0 + (1 - abar)**0.5 * eps


def to_x0(out, xt, abar, predict: str):
    """x̂₀ by the network's output. With α = √ᾱ and σ = √(1 − ᾱ), so that x_t = α x₀ + σ ε, it is …"""
    alpha, sigma = abar**0.5, (1 - abar)**0.5
    return {"x0": out,                                          # … x₀ itself
            "v": alpha * xt - sigma * out,                      # … v = α ε − σ x₀   (Salimans & Ho 2022, §4)
            "eps": (xt - sigma * out) / alpha}[predict]         # … ε                (Ho et al. 2020, eq. 15)


# ---- the network
class ResBlock(nn.Module):
    """x + f(x), of which e, made from time and labels, scales and shifts the second half. f is 0 at first."""

    def __init__(self, C_in: int, C: int, E: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, C_in), nn.Conv2d(C_in, C, 3, 1, 1)
        self.norm2, self.conv2 = nn.GroupNorm(8, C), zeros(nn.Conv2d(C, C, 3, 1, 1))
        self.emb = nn.Linear(E, 2 * C)
        self.skip = nn.Conv2d(C_in, C, 1) if C_in != C else nn.Identity()

    def forward(self, x, e):
        h = self.conv1(F.silu(self.norm1(x)))                           # (B, C_in, H, W) -> (B, C, H, W)
        scale, shift = self.emb(e)[:, :, None, None].chunk(2, dim=1)    # (B, C, 1, 1) each
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """Every pixel reads from all pixels: x + softmax(q kᵀ/√hs) v, in heads of hs channels; + 0 at first."""

    def __init__(self, C: int, hs: int = 32):
        super().__init__()
        self.norm, self.hs = nn.GroupNorm(8, C), hs
        self.qkv, self.proj = nn.Linear(C, 3 * C), zeros(nn.Linear(C, C))

    def forward(self, x):
        B, C, H, W = x.shape
        h = self.norm(x).flatten(2).mT                                  # (B, C, H, W) -> (B, HW, C)
        q, k, v = self.qkv(h).view(B, H * W, 3, -1, self.hs).permute(2, 0, 3, 1, 4)     # (B, nh, HW, hs)
        att = F.softmax(q @ k.mT / math.sqrt(self.hs), dim=-1)          # (B, nh, HW, HW)
        h = self.proj((att @ v).transpose(1, 2).flatten(2))             # (B, nh, HW, hs) -> (B, HW, C)
        return x + h.mT.view(B, C, H, W)


def zeros(layer):
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return layer


class UNet(nn.Module):
    """x_t (B, C, S, S), t (B,), y (B, V) -> out (B, C, S, S). Down to low resolution, where attention sees
    all at once, and up again; on the way up each level is also given what it had made on the way down."""

    def __init__(self, cfg, C: int, V: int):
        super().__init__()
        widths, E = [cfg.width * min(2**level, 4) for level in range(cfg.levels)], 4 * cfg.width
        low, outer, pairs = widths[-1], C * cfg.stem**2, list(zip(widths, widths[1:]))
        self.cfg, self.time = cfg, nn.Sequential(nn.Linear(cfg.width, E), nn.SiLU(), nn.Linear(E, E))
        self.label = nn.Linear(V, E, bias=False) if V else None         # a vector for every value
        self.stem = nn.Conv2d(outer, cfg.width, 3, 1, 1)
        self.down = nn.ModuleList(ResBlock(w, w, E) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(w, below, 3, 2, 1) for w, below in pairs)
        self.before, self.attention, self.after = ResBlock(low, low, E), Attention(low), ResBlock(low, low, E)
        self.grow = nn.ModuleList(nn.Conv2d(below, w, 3, 1, 1) for w, below in pairs)
        self.up = nn.ModuleList(ResBlock(2 * w, w, E) for w in widths)
        self.norm, self.out = nn.GroupNorm(8, cfg.width), zeros(nn.Conv2d(cfg.width, outer, 3, 1, 1))

    def forward(self, x, t, y):
        angles = t[:, None] * 10000 ** torch.linspace(0, -1, self.cfg.width // 2, device=t.device)
        e = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))   # waves of many lengths -> (B, E)
        e = F.silu(e + self.label(y) if self.label else e)              # y = 0: no labels
        h, skips = self.stem(F.pixel_unshuffle(x, self.cfg.stem)), []   # (B, C·stem², S/stem, S/stem) -> h
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, e)     # from half the resolution above
            skips.append(h)
        h = self.after(self.attention(self.before(h, e)), e)
        for level, block in reversed([*enumerate(self.up)]):
            h = block(torch.cat([h, skips[level]], dim=1), e)
            if level:
                h = F.interpolate(self.grow[level - 1](h), scale_factor=2)      # each pixel becomes 2 × 2
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.cfg.stem)


# ---- the loss
def loss_of(net, x0, y, t, eps, abar, cfg):
    """E w_t |out − target|² per number, for x0 and noise eps (B, C, S, S), labels y (B, V), times t (B,). w_t
    is 1 for v and ε; for x₀ 1/σ², up to max_weight: its error is then that of v (Salimans & Ho 2022, §4)."""
    abar = abar[t][:, None, None, None].float()
    alpha, sigma, out = abar**0.5, (1 - abar)**0.5, net(add_noise(x0, eps, abar), t, y).float()
    target = {"x0": x0, "v": alpha * eps - sigma * x0, "eps": eps}[cfg.predict]
    weight = (1 / sigma**2).clamp(max=cfg.max_weight) if cfg.predict == "x0" else 1.0
    return (weight * (out - target).square()).mean()


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model, for parameters; there are no buffers to be copied."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)


# ---- sampling
# Three ways from x_t back to x_s, s < t, by x̂₀. z is new noise; `before` is x̂₀ and ᾱ of the step
# before this one, or None.

def ddpm_step(xt, x0, abar_t: float, abar_s: float, z, before=None, variance: str = "small"):
    """x_s ~ q(x_s | x_t, x̂₀) (Ho et al. 2020, eqs. 6, 7), of variance β̃_t (small) or β_t."""
    alpha = abar_t / abar_s                                         # α_t, if s = t − 1
    beta = 1 - abar_t / abar_s                                      # β_t
    mean = (abar_s**0.5 * beta * x0 + alpha**0.5 * (1 - abar_s) * xt) / (1 - abar_t)
    var = beta * (1 - abar_s) / (1 - abar_t)                        # β̃_t; 0 at the last step
    if variance == "large" and abar_s < 1:
        var = beta
    return mean + var**0.5 * z


def ddim_step(xt, x0, abar_t: float, abar_s: float, z, before=None, eta: float = 0.0):
    """The noise that is in x_t, by x̂₀, stays, but for a part that makes room for z (Song et al.
    2021, eqs. 12, 16)."""
    eps = (xt - abar_t**0.5 * x0) / (1 - abar_t)**0.5
    beta = 1 - abar_t / abar_s                                      # β_t, if s = t − 1
    var = eta**2 * (beta * (1 - abar_s) / (1 - abar_t))             # η² β̃_t
    return abar_s**0.5 * x0 + (1 - abar_s - var)**0.5 * eps + var**0.5 * z


def dpm_step(xt, x0, abar_t: float, abar_s: float, z, before=None):
    """As ddim without z, and x̂₀ goes on changing as it did since the step before (Lu et al. 2022,
    "DPM-Solver++", algorithm 2). Its clock is λ = log α/σ."""
    if before and abar_s < 1:
        x0_before, abar_before = before
        lam_s = math.log(abar_s / (1 - abar_s)) / 2
        lam_t = math.log(abar_t / (1 - abar_t)) / 2
        lam_before = math.log(abar_before / (1 - abar_before)) / 2
        x0 = x0 + (x0 - x0_before) / (lam_t - lam_before) * (lam_s - lam_t) / 2
    return ddim_step(xt, x0, abar_t, abar_s, z)


def make_step(sampler: str, eta: float, variance: str):
    """The step of a sampler, with what it is told by flags."""
    if sampler == "ddpm":
        return functools.partial(ddpm_step, variance=variance)
    if sampler == "ddim":
        return functools.partial(ddim_step, eta=eta)
    return dpm_step


def sample_chain(predict, x, abar, steps: int, step_back, rng, known=None, mask=None):
    """From noise x (n, …) to images: yields (x_t, x̂₀) at each step; the last x̂₀ is the image.

    predict(x_t, t) returns x̂₀; abar: make_abar's; step_back: one of the three steps above. Where
    mask is 0, x₀ is `known`; so x_t there is the known image with noise, and elsewhere the network
    makes what goes with it (as in Lugmayr et al. 2022, "RePaint", eq. 8)."""
    T = len(abar) - 1
    times = torch.linspace(T - 1, 0, steps, dtype=torch.float64).round().int().tolist()
    abar = abar.tolist()
    before = None
    for t, s in zip(times, [*times[1:], -1]):               # abar[-1] = 1
        x0 = predict(x, t)
        if known is not None:
            x0 = torch.where(mask > 0, x0, known)
        yield x, x0
        z = torch.randn(x.shape, generator=rng, dtype=x.dtype).to(x.device)
        x = step_back(x, x0, abar[t], abar[s], z, before)
        before = x0, abar[t]


def guided(net, y, abar, kind: str, w: float):
    """predict(x_t, t) for sample_chain: x̂₀, in [-1, 1], for labels y (n, V), by a network whose
    output is x0, v or eps: its kind.

    Guidance w leads from what it would draw without labels to, or beyond, what it would draw with
    them: out + w (out_y − out) (Ho & Salimans 2021, eq. 6, with w − 1 for w; there for ε, of which
    x̂₀ and v are linear functions)."""
    abar = abar.float()

    def predict(xt, t):
        times = torch.full((len(xt),), t, device=xt.device)
        if w == 1:
            out = net(xt, times, y).float()
        else:
            out = net(xt, times, 0 * y).float()
            if w != 0:
                out = out + w * (net(xt, times, y).float() - out)
        return to_x0(out, xt, abar[t].to(xt.device), kind).clamp(-1, 1)
    return predict


@torch.no_grad()
def draw(net, y, shape, cfg):
    """Images (n, C, size, size) in [-1, 1], on the CPU, for labels y (n, V); noise: cfg.seed."""
    C, S, size, _ = shape
    x = noise(len(y), C * S * S, cfg.seed).to(y.device).view(-1, C, S, S)
    rng = torch.Generator().manual_seed(cfg.seed + 1)
    abar = make_abar(cfg.T, cfg.schedule)
    step_back = make_step(cfg.sampler, cfg.eta, cfg.variance)
    images = []
    for x_i, y_i in zip(x.split(128), y.split(128)):
        predict = guided(net, y_i, abar, cfg.predict, cfg.guidance)
        for _, x0 in sample_chain(predict, x_i, abar, cfg.sample_steps, step_back, rng):
            pass
        images.append(crop(x0.cpu(), size))
    return torch.cat(images)


# ---- the run
def check(cfg, S: int, processes: int = 1):
    """Raise UserError for flags that do not go together; S: height and width of padded images."""
    require_positive(cfg, "width", "levels", "stem", "T", "n", "batch_size", "max_weight")
    require(cfg.width % 32 == 0, f"--width={cfg.width} must be a multiple of 32")
    multiple = cfg.stem * 2**(cfg.levels - 1)
    require(S % multiple == 0, f"the {S} pixels of an image's side must be a multiple of "
            f"{multiple}: of --stem times 2^(--levels − 1)")
    require(1 <= cfg.sample_steps <= cfg.T, f"--sample_steps={cfg.sample_steps}: from 1 to {cfg.T}")
    require(0 <= cfg.eta <= 1, f"--eta={cfg.eta}: from 0 to 1")
    require(cfg.batch_size % processes == 0,
            f"--batch_size must be a multiple of {processes} processes")


def make_nets(cfg, shape, state):
    """The network and its average, with the weights of a checkpoint if there is one."""
    C, S, size, attributes = shape
    torch.manual_seed(cfg.seed)
    net = UNet(cfg, C, sum(len(names) for names in attributes.values()))
    nets = nn.ModuleDict({"net": net, "average": copy.deepcopy(net).requires_grad_(False)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(memory_format=torch.channels_last)           # the faster layout


def draw_batch(images, labels, B: int, cfg, rng):
    """x0 (B, C, S, S), y (B, V), t (B,), eps as x0. Some images come without labels; the times are evenly
    spread, from a random beginning (Kingma et al. 2021, "Variational diffusion models", §I.1)."""
    i, keep = torch.randint(len(images), (B,), generator=rng), torch.rand(B, 1, generator=rng) >= cfg.drop
    t = ((torch.arange(B) + torch.rand(1, generator=rng)) / B * cfg.T).long().clamp(max=cfg.T - 1)
    eps = torch.randn(B, *images.shape[1:], generator=rng)
    return to_float(images[i]), labels[i] * keep.to(labels.device), t.to(images.device), eps.to(images.device)


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "diffusion", cfg.resume)
    device = pick_device(cfg.device)
    precision = autocast(device, cfg.matmul)
    rank, world = start_processes(device)
    # data
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    attributes = train_set.attributes if cfg.drop < 1 else {}
    shown = one_hot(draw_labels(cfg, attributes, cfg.n), attributes).to(device)     # by samples
    images, labels = train_set.tensors(device, attributes)
    held_out_images, held_out_labels = held_out.tensors(device, attributes)
    judge = Judge(cfg, train_set, held_out, n=512)      # of the images that are drawn at the end
    _, C, S, _ = images.shape
    size = train_set.images.size(2)
    shape = (C, S, size, attributes)
    check_shape(state, *shape)
    check(cfg, S, world)
    # network and optimiser
    nets = make_nets(cfg, shape, state).to(device)
    model = nets["net"]
    average = nets["average"]
    optimizer = torch.optim.Adam(model.parameters(), cfg.lr, (0.9, 0.99))
    data_rng = torch.Generator().manual_seed(cfg.seed)  # the same in all processes
    test = draw_batch(held_out_images, held_out_labels, 256, cfg, data_rng)
    if state:
        restore(state, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model
    net = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    abar = make_abar(cfg.T, cfg.schedule).float().to(device)
    with Run(cfg, "diffusion", model, ["loss", "lr", "val_loss"], state, rank) as run:
        run.say(f"{len(images):,} images of {size} × {size}; labels: {', '.join(attributes) or 'none'}")
        for step in range(run.first, cfg.steps):
            # learning rate
            left = (cfg.steps - step) / max(1, cfg.steps - cfg.warmup)
            lr = cfg.lr * min((step + 1) / (cfg.warmup + 1), left)
            optimizer.param_groups[0]["lr"] = lr
            # batch
            batch = draw_batch(images, labels, cfg.batch_size, cfg, data_rng)
            my_share = [part[rank::world] for part in batch]
            # loss, backward, step
            with precision:
                loss = loss_of(net, *my_share, abar, cfg)
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            # the average is short at first, while there is little to average
            update_average(average, model, min(cfg.ema, step / (step + 10)))
            # log; now and then evaluate, draw, save
            done = step + 1
            val_loss = None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_loss = loss_of(average, *test, abar, cfg).item()
                if val_loss is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every) and rank == 0:
                    with precision:
                        drawn = draw(average, shown, shape, cfg)
                    picture = sheet(drawn)
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if val_loss is not None or stop:
                    run.save(done, nets, [optimizer], data_rng, shape=shape)
            if stop and done < cfg.steps:
                return run.leave(done)

        val_loss = loss_of(average, *test, abar, cfg).item()
        scores = {}
        if judge.n > 0:
            run.say(f"drawing {judge.n} images to be scored")
            y = held_out_labels[:judge.n]
            untrained = make_nets(cfg, shape, None)["net"].to(device)
            with precision:
                drawn = draw(average, y, shape, cfg)
                drawn_untrained = draw(untrained, y, shape, cfg)
            scores = judge.scores(drawn, drawn_untrained, judge.labels if attributes else None)
        run.say(f"held-out loss {val_loss:.4f}\n{image_metrics.image_report(scores)}")
        return run.finish(val_loss=val_loss, **scores)


@torch.no_grad()
def sample(cfg: Config):
    """Into samples/ what --show says: new images; image to noise (forward); noise to image, x̂₀ below x_t
    (reverse); from one noise to another (walk); images with a part drawn anew (inpaint)."""
    cfg, state = own_checkpoint(cfg, "diffusion")
    device = pick_device(cfg.device)
    shape = state["shape"]
    C, S, size, attributes = shape
    check(cfg, S)
    net = make_nets(cfg, shape, state)["average"].to(device)
    n = 4 if cfg.show in ("forward", "reverse") else cfg.n
    labels = draw_labels(cfg, attributes, n)
    x = noise(n, C * S * S, cfg.seed).view(n, C, S, S)
    known = mask = None
    if cfg.show == "walk":
        x = walks(x)
        labels = labels[torch.arange(n) // 8]                   # 8 to a row
    if cfg.show in ("forward", "inpaint"):
        known, mask, labels = to_mend(cfg, n, shape)
    abar = make_abar(cfg.T, cfg.schedule)
    if cfg.show == "forward":
        levels = abar.roll(1).tolist()                          # from ᾱ = 1, the image itself, on
        images = film([(add_noise(known, x, level),) for level in levels])
    else:
        y = one_hot(labels, attributes).to(device)
        predict = guided(net, y, abar, cfg.predict, cfg.guidance)
        step_back = make_step(cfg.sampler, cfg.eta, cfg.variance)
        rng = torch.Generator().manual_seed(cfg.seed + 1)
        if cfg.show == "inpaint":
            known = known.to(device)
            mask = mask.to(device)
        moments = []
        with autocast(device, cfg.matmul):
            for xt, x0 in sample_chain(predict, x.to(device), abar, cfg.sample_steps, step_back,
                                       rng, known, mask):
                if cfg.show == "reverse":
                    moments.append((xt, x0))
        images = film(moments) if cfg.show == "reverse" else x0
    if cfg.show == "inpaint":                                   # each beside what was given
        images = torch.stack([known * (1 - mask), images], dim=1).flatten(0, 1)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, sheet(crop(images, size)))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """How many of the T steps does each sampler need? What does guidance do? Also in evaluate.json, and in
    samples/evaluate.png: a row for each line of the table, each column from the same noise."""
    cfg, state = own_checkpoint(cfg, "diffusion")
    device = pick_device(cfg.device)
    shape = state["shape"]
    check(cfg, shape[1])
    net = make_nets(cfg, shape, state)["average"].to(device)
    judge = Judge(cfg, *load_images(cfg.data, cfg.size, cfg.n_images), n=512)
    require(judge.n > 0, f"--data={cfg.data} has no labels, so there is no judge of the images")
    settings = {}
    for sampler in ("dpm", "ddim", "ddpm"):
        for steps in (5, 10, 20, 50, cfg.T):
            if steps < cfg.T or steps == cfg.T and sampler == "ddpm":
                settings[f"{sampler}, {steps} steps"] = dict(sampler=sampler, sample_steps=steps)
    if shape[-1]:                                               # there are labels to be guided by
        for w in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0):
            settings[f"guidance {w}"] = dict(guidance=w)
    y = one_hot(judge.labels, shape[-1]).to(device)
    distance = {}
    right = {}
    rows = []
    for name, flags in settings.items():
        print(f"drawing by {name}", flush=True)
        with autocast(device, cfg.matmul):
            images = draw(net, y, shape, replace(cfg, **flags))
        shares = judge.accuracy(images, judge.labels)
        distance[name] = judge.frechet(images)
        right[name] = sum(shares.values()) / len(shares)
        rows.append(images[:8])
    write_png(f"{cfg.out_dir}/samples/evaluate.png", sheet(torch.cat(rows)))
    return metrics.print_tables(cfg, Fréchet_distance=distance, mean_accuracy=right)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory="lower --batch_size, --width or --n")


if __name__ == "__main__":
    main()
