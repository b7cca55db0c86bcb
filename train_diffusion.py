"""DDPM: a network that has learnt to remove noise can draw, if it begins with nothing but noise.

Forward: noise is added to an image x₀ step by step, until after T steps nothing is left of the image. The
noise of each step is normal, and so is the noise of all steps up to t together. So x_t can be drawn at once:

    q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I)           ᾱ_t = Π (1 − β_s) over s ≤ t   (Ho et al. 2020, eq. 4)

Backward: a U-Net sees x_t and predicts x₀. The best prediction is the mean of all images that x_t may have
come from, which is blurred. But a small step towards it is right, and after it the network can predict better:

    L = E w_t |x̂₀(x_t, t) − x₀|²                    over images x₀, times t and noise

Paper: Ho, Jain & Abbeel 2020, "Denoising diffusion probabilistic models". Our departures: the network predicts
x₀, not the noise (the paper's choice is --predict=eps), and sees a square of stem × stem pixels as one pixel,
which makes it fast enough for a CPU.

    python train_diffusion.py                                   faces, drawn on the spot
    python train_diffusion.py --data=my_pictures                your own folder of images
    python train_diffusion.py sample --hair=red --guidance=3    faces as you describe them
    python train_diffusion.py sample --show=reverse             from noise to image; or forward, walk, inpaint
    python train_diffusion.py evaluate                          compares samplers, steps and guidance

Measured times and scores: README.md. Read next: mini/text_to_image.py.
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
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training
    # model
    width: int = 64             # channels at the highest resolution; twice as many at each lower one, up to 4 ×
    levels: int = 2             # number of resolutions, each half of the one above; attention at the lowest
    stem: int = 2               # the network sees a square of stem × stem pixels as one pixel
    T: int = 1000               # steps from image to noise
    schedule: Literal["cosine", "linear"] = "cosine"  # how ᾱ falls from 1 to 0
    # what the network predicts: the image, the noise (eps), or a mixture of both (v)
    predict: Literal["x0", "v", "eps"] = "x0"
    drop: float = 0.1           # label dropout: share of training images without their labels (1: all)
    # optimisation
    max_weight: float = 5.0     # upper limit of the weight w_t of an error in x₀
    steps: int = 2500           # optimiser steps
    batch_size: int = 32        # images in a step, over all processes
    lr: float = 4e-3            # Adam's peak learning rate
    warmup: int = 100           # steps in which the learning rate rises to its peak; then it falls linearly to 0
    ema: float = 0.995          # weight of the old average in the moving average of the network's weights
    # run
    out_dir: str = "runs/diffusion"     # folder of the run
    # images to score (0: 512, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"  # DPM-Solver++(2M), DDIM, or the paper's own sampler
    sample_steps: int = 20      # steps from noise to image, at most T
    eta: float = 0.0            # for ddim: 0 adds no noise, 1 adds as much as ddpm
    variance: Literal["small", "large"] = "small"  # for ddpm: the variance of the noise it adds, β̃ or β
    guidance: float = 1.0       # 0: ignore the labels; 1: use them; above 1: exaggerate what they mean
    show: Literal["samples", "forward", "reverse", "walk", "inpaint"] = "samples"  # what to draw
    image: str = ""             # for inpaint: your picture ("": held-out images)
    mask: str = ""              # for inpaint: a picture, white where to draw anew ("": the lower half)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "width", "levels", "stem", "T", "schedule", "predict", "drop")


GPU = dict(width=128, levels=3, stem=1, batch_size=128, steps=40000, lr=3e-4, warmup=1000, ema=0.9995)
PRESETS = {"gpu": GPU, "gpu64": dict(GPU, size=64, levels=4)}


# ---- the noise
def make_abar(T: int, schedule: str):
    """ᾱ_0 … ᾱ_{T−1}, followed by ᾱ = 1, for an image without noise, at index -1: (T + 1,) in float64.

    linear: β rises from 1e-4 to 0.02 (Ho et al. 2020, §4); for T < 1000 it is larger, so that x_T is noise.
    cosine (Nichol & Dhariwal 2021, eq. 17): ᾱ falls evenly. With the linear schedule, nothing is left of a
    small image long before the last step."""
    if schedule == "linear":
        betas = (torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * 1000 / T).clamp(max=0.999)
    else:
        f = ((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cat([(1 - betas).cumprod(0), betas.new_ones(1)])


def add_noise(x0, eps, abar):
    """x_t ~ q(x_t | x₀) (Ho et al. 2020, eq. 4). abar: a number, or a tensor that broadcasts to x0."""
    return abar**0.5 * x0 + (1 - abar)**0.5 * eps


def to_x0(out, xt, abar, predict: str):
    """x̂₀, from the network's output. With α = √ᾱ and σ = √(1 − ᾱ), x_t = α x₀ + σ ε. The output predicts
    x₀ itself, v = α ε − σ x₀, or ε."""
    alpha, sigma = abar**0.5, (1 - abar)**0.5
    return {"x0": out,
            "v": alpha * xt - sigma * out,                      # (Salimans & Ho 2022, §4)
            "eps": (xt - sigma * out) / alpha}[predict]         # (Ho et al. 2020, eq. 15)


# ---- the network
class ResBlock(nn.Module):
    """x + f(x). The vector e, made from time and labels, scales and shifts what f's second convolution reads.
    At first f is 0."""

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
    """Every pixel attends to all pixels: x + softmax(q kᵀ/√hs) v, in heads of hs channels. At first it adds 0."""

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
    """x_t (B, C, S, S), t (B,), y (B, V) -> out (B, C, S, S). It goes down to a low resolution, where attention
    sees the whole image, and up again. On the way up, each level also reads what it made on the way down."""

    def __init__(self, cfg, C: int, V: int):
        super().__init__()
        widths, E = [cfg.width * min(2**level, 4) for level in range(cfg.levels)], 4 * cfg.width
        low, outer, pairs = widths[-1], C * cfg.stem**2, list(zip(widths, widths[1:]))
        self.cfg, self.time = cfg, nn.Sequential(nn.Linear(cfg.width, E), nn.SiLU(), nn.Linear(E, E))
        self.label = nn.Linear(V, E, bias=False) if V else None         # a vector for each value of a label
        self.stem = nn.Conv2d(outer, cfg.width, 3, 1, 1)
        self.down = nn.ModuleList(ResBlock(w, w, E) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(w, below, 3, 2, 1) for w, below in pairs)
        self.before, self.attention, self.after = ResBlock(low, low, E), Attention(low), ResBlock(low, low, E)
        self.grow = nn.ModuleList(nn.Conv2d(below, w, 3, 1, 1) for w, below in pairs)
        self.up = nn.ModuleList(ResBlock(2 * w, w, E) for w in widths)
        self.norm, self.out = nn.GroupNorm(8, cfg.width), zeros(nn.Conv2d(cfg.width, outer, 3, 1, 1))

    def forward(self, x, t, y):
        angles = t[:, None] * 10000 ** torch.linspace(0, -1, self.cfg.width // 2, device=t.device)
        e = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))   # of many frequencies -> (B, E)
        e = F.silu(e + self.label(y) if self.label else e)              # y = 0: no labels
        h, skips = self.stem(F.pixel_unshuffle(x, self.cfg.stem)), []   # (B, C·stem², S/stem, S/stem) -> h
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, e)     # each level but the first is downsampled
            skips.append(h)
        h = self.after(self.attention(self.before(h, e)), e)
        for level, block in reversed([*enumerate(self.up)]):
            h = block(torch.cat([h, skips[level]], dim=1), e)
            if level:
                h = F.interpolate(self.grow[level - 1](h), scale_factor=2)      # each pixel becomes 2 × 2
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.cfg.stem)


# ---- the loss
def loss_of(net, x0, y, t, eps, abar, cfg):
    """The mean of w_t (out − target)² over all numbers, for images x0 and noise eps (B, C, S, S), labels y
    (B, V) and times t (B,). If v or ε is predicted, w_t is 1. If x₀ is predicted, w_t is 1/σ², at most
    max_weight: with 1/σ² the error is that of v (Salimans & Ho 2022, §4)."""
    abar = abar[t][:, None, None, None].float()
    alpha, sigma, out = abar**0.5, (1 - abar)**0.5, net(add_noise(x0, eps, abar), t, y).float()
    target = {"x0": x0, "v": alpha * eps - sigma * x0, "eps": eps}[cfg.predict]
    weight = (1 / sigma**2).clamp(max=cfg.max_weight) if cfg.predict == "x0" else 1.0
    return (weight * (out - target).square()).mean()


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model, for parameters; there are no buffers to copy."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)


# ---- sampling
# Three ways to go from x_t back to x_s, s < t, with the help of x̂₀. z is new noise; `before` holds
# x̂₀ and ᾱ of the previous step, or is None.

def ddpm_step(xt, x0, abar_t: float, abar_s: float, z, before=None, variance: str = "small"):
    """x_s ~ q(x_s | x_t, x̂₀) (Ho et al. 2020, eqs. 6, 7), with variance β̃_t (small) or β_t (large)."""
    alpha = abar_t / abar_s                                         # α_t, if s = t − 1
    beta = 1 - abar_t / abar_s                                      # β_t
    mean = (abar_s**0.5 * beta * x0 + alpha**0.5 * (1 - abar_s) * xt) / (1 - abar_t)
    var = beta * (1 - abar_s) / (1 - abar_t)                        # β̃_t; 0 at the last step
    if variance == "large" and abar_s < 1:
        var = beta
    return mean + var**0.5 * z


def ddim_step(xt, x0, abar_t: float, abar_s: float, z, before=None, eta: float = 0.0):
    """x_s, with the noise that x_t has according to x̂₀; new noise z replaces a part of it (Song et al.
    2021, eqs. 12, 16)."""
    eps = (xt - abar_t**0.5 * x0) / (1 - abar_t)**0.5
    beta = 1 - abar_t / abar_s                                      # β_t, if s = t − 1
    var = eta**2 * (beta * (1 - abar_s) / (1 - abar_t))             # η² β̃_t
    return abar_s**0.5 * x0 + (1 - abar_s - var)**0.5 * eps + var**0.5 * z


def dpm_step(xt, x0, abar_t: float, abar_s: float, z, before=None):
    """As ddim_step without z, but with x̂₀ extrapolated: it goes on changing with λ = log α/σ as it did
    since the previous step, for half of the way to s (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    if before and abar_s < 1:
        x0_before, abar_before = before
        lam_s = math.log(abar_s / (1 - abar_s)) / 2
        lam_t = math.log(abar_t / (1 - abar_t)) / 2
        lam_before = math.log(abar_before / (1 - abar_before)) / 2
        x0 = x0 + (x0 - x0_before) / (lam_t - lam_before) * (lam_s - lam_t) / 2
    return ddim_step(xt, x0, abar_t, abar_s, z)


def make_step(sampler: str, eta: float, variance: str):
    """The step function of a sampler, with eta or variance filled in."""
    if sampler == "ddpm":
        return functools.partial(ddpm_step, variance=variance)
    if sampler == "ddim":
        return functools.partial(ddim_step, eta=eta)
    return dpm_step


def sample_chain(predict, x, abar, steps: int, step_back, rng, known=None, mask=None):
    """Go from noise x (n, …) to images; yields (x_t, x̂₀) at each step. The last x̂₀ is the image.

    predict(x_t, t) returns x̂₀; abar: from make_abar; step_back: one of the three steps above. Where
    mask is 0, x̂₀ is replaced by `known`. So x_t is the known image with noise there, and elsewhere
    the network draws what fits it (as in Lugmayr et al. 2022, "RePaint", eq. 8)."""
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
    """The function predict(x_t, t) for sample_chain: it returns x̂₀ in [-1, 1], for labels y (n, V).
    kind: what the network predicts, x0, v or eps.

    Guidance w moves the output without labels towards the output with labels, or beyond it:
    out + w (out_y − out) (Ho & Salimans 2021, eq. 6, whose w is our w − 1; it is stated for ε, but
    x̂₀ and v are linear functions of ε)."""
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
    """Images (n, C, size, size) in [-1, 1], on the CPU, for labels y (n, V). cfg.seed sets the noise."""
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
    """The network and the average of its weights, with those of a checkpoint if there is one."""
    C, S, size, attributes = shape
    torch.manual_seed(cfg.seed)
    net = UNet(cfg, C, sum(len(names) for names in attributes.values()))
    nets = nn.ModuleDict({"net": net, "average": copy.deepcopy(net).requires_grad_(False)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(memory_format=torch.channels_last)           # the faster layout


def draw_batch(images, labels, B: int, cfg, rng):
    """x0 (B, C, S, S), y (B, V), t (B,), and eps of the shape of x0. Some images lose their labels (label
    dropout). The times are evenly spaced from a random start (Kingma et al. 2021, "Variational diffusion
    models", §I.1)."""
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
    shown = one_hot(draw_labels(cfg, attributes, cfg.n), attributes).to(device)     # labels of samples
    images, labels = train_set.tensors(device, attributes)
    held_out_images, held_out_labels = held_out.tensors(device, attributes)
    _, C, S, _ = images.shape
    size = train_set.images.size(2)
    shape = (C, S, size, attributes)
    check_shape(state, *shape)
    check(cfg, S, world)
    judge = Judge(cfg, train_set, held_out, n=512)      # it scores the images that are drawn at the end
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
            # evaluate, log, sample and save, each when it is due
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
    """Draw what --show says into samples/: new images (samples); how an image becomes noise (forward); how
    noise becomes an image, with x̂₀ below x_t (reverse); images from noise that changes in small steps (walk);
    images with a part drawn anew (inpaint)."""
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
        labels = labels[torch.arange(n) // 8]                   # 8 images in a row
    if cfg.show in ("forward", "inpaint"):
        known, mask, labels = to_mend(cfg, n, shape)
    abar = make_abar(cfg.T, cfg.schedule)
    if cfg.show == "forward":
        levels = abar.roll(1).tolist()                          # the first is ᾱ = 1, the image itself
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
    if cfg.show == "inpaint":                                   # each image beside its given part
        images = torch.stack([known * (1 - mask), images], dim=1).flatten(0, 1)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    names = ["x_t", "predicted x0"] * n if cfg.show == "reverse" else None      # of the rows
    write_png(path, sheet(crop(images, size), row_names=names))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """How many of the T steps does each sampler need, and what does guidance do? The tables are also in
    evaluate.json. samples/evaluate.png has a row for each line of them; a column begins with the same noise."""
    cfg, state = own_checkpoint(cfg, "diffusion")
    device = pick_device(cfg.device)
    shape = state["shape"]
    check(cfg, shape[1])
    net = make_nets(cfg, shape, state)["average"].to(device)
    judge = Judge(cfg, *load_images(cfg.data, cfg.size, cfg.n_images), n=512)
    require(judge.n > 0, f"--data={cfg.data} has no labels, or one for all, so there is no judge of "
            "the images")
    settings = {}
    for sampler in ("dpm", "ddim", "ddpm"):
        for steps in (5, 10, 20, 50, cfg.T):
            if steps < cfg.T or steps == cfg.T and sampler == "ddpm":
                settings[f"{sampler}, {steps} steps"] = dict(sampler=sampler, sample_steps=steps)
    if shape[-1]:                                               # guidance needs labels
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
    write_png(f"{cfg.out_dir}/samples/evaluate.png", sheet(torch.cat(rows), row_names=list(settings)))
    return metrics.print_tables(cfg, Fréchet_distance=distance, mean_accuracy=right)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, parallel=True,
                        out_of_memory="lower --batch_size, --width, --size, --n_images or --n")


if __name__ == "__main__":
    main()
