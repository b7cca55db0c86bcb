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
import collections
import copy
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot, to_mend
from mini.utils import image_metrics, metrics
from mini.utils.config import command_line, require
from mini.utils.device import autocast, pick_device, start_processes
from mini.utils.images import crop, film, noise, pad, sheet, to_float, walks
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
def step_back(xt, x0, abar_t: float, abar_s: float, z, cfg, before=None):
    """x_s, s < t, from x_t and x̂₀. z is new noise; `before`: x̂₀ and ᾱ of the step before this one.

    ddpm: x_s ~ q(x_s | x_t, x̂₀) (Ho et al. 2020, eqs. 6, 7). ddim: the noise that is in x_t, by x̂₀, stays
    but for a part that makes room for z (Song et al. 2021, eqs. 12, 16). dpm: the same without z, and x̂₀
    goes on changing as it did since the step before (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    alpha, beta = abar_t / abar_s, 1 - abar_t / abar_s              # β_t, if s = t − 1
    posterior = beta * (1 - abar_s) / (1 - abar_t)                  # β̃_t
    if cfg.sampler == "ddpm":
        mean = (abar_s**0.5 * beta * x0 + alpha**0.5 * (1 - abar_s) * xt) / (1 - abar_t)
        var = posterior if cfg.variance == "small" or abar_s == 1 else beta     # the last step adds none
        return mean + var**0.5 * z
    if cfg.sampler == "dpm" and before and abar_s < 1:
        lam_s, lam_t, lam_b = (math.log(a / (1 - a)) / 2 for a in (abar_s, abar_t, before[1]))
        x0 = x0 + (x0 - before[0]) / (lam_t - lam_b) * (lam_s - lam_t) / 2      # λ: log α/σ, the clock of it
    eps = (xt - abar_t**0.5 * x0) / (1 - abar_t)**0.5
    var = cfg.eta**2 * posterior if cfg.sampler == "ddim" else 0.0
    return abar_s**0.5 * x0 + (1 - abar_s - var)**0.5 * eps + var**0.5 * z


def sample_chain(predict, x, cfg, rng, known=None, mask=None):
    """From noise x (n, …) to images: yields (x_t, x̂₀) at each step; the last x̂₀ is the image. predict(x_t,
    t) returns x̂₀. Where mask is 0, x₀ is `known`; so x_t there is the known image with noise, and elsewhere
    the network makes what goes with it (as in Lugmayr et al. 2022, "RePaint", eq. 8). Raises UserError for
    less than 1 step or more than T."""
    require(1 <= cfg.sample_steps <= cfg.T and 0 <= cfg.eta <= 1,
            f"--sample_steps={cfg.sample_steps}: from 1 to {cfg.T}; --eta={cfg.eta}: from 0 to 1")
    times = torch.linspace(cfg.T - 1, 0, cfg.sample_steps, dtype=torch.float64).round().int().tolist()
    abar, before = make_abar(cfg.T, cfg.schedule).tolist(), None
    for t, s in zip(times, [*times[1:], -1]):               # abar[-1] = 1
        x0 = predict(x, t) if known is None else torch.where(mask > 0, predict(x, t), known)
        yield x, x0
        z = torch.randn(x.shape, generator=rng, dtype=x.dtype).to(x.device)
        x, before = step_back(x, x0, abar[t], abar[s], z, cfg, before), (x0, abar[t])


def guided(net, y, cfg):
    """predict(x_t, t) for sample_chain: the network's x̂₀, in [-1, 1], for labels y (n, V). Guidance w leads
    from what it would draw without labels to, or beyond, what it would draw with them: out + w (out_y − out)
    (Ho & Salimans 2021, eq. 6, with w − 1 for w; there for ε, of which x̂₀ and v are linear functions)."""
    abar, w = make_abar(cfg.T, cfg.schedule).float(), cfg.guidance

    def predict(xt, t):
        times = torch.full((len(xt),), t, device=xt.device)
        with autocast(xt.device, cfg.matmul):
            out = net(xt, times, y if w == 1 else 0 * y).float()
            if w not in (0, 1):
                out = out + w * (net(xt, times, y).float() - out)
        return to_x0(out, xt, abar[t].to(xt.device), cfg.predict).clamp(-1, 1)
    return predict


@torch.no_grad()
def draw(net, labels, shape, cfg):
    """Images (n, C, size, size) in [-1, 1], on the CPU, for labels (n, A), from the noise of cfg.seed."""
    (C, S, size, attributes), device = shape, next(net.parameters()).device
    x, images, rng = noise(len(labels), C * S * S, cfg.seed), [], torch.Generator().manual_seed(cfg.seed + 1)
    for x_i, y_i in zip(x.to(device).split(128), one_hot(labels, attributes).to(device).split(128)):
        for _, x0 in sample_chain(guided(net, y_i, cfg), x_i.view(-1, C, S, S), cfg, rng):
            pass
        images.append(crop(x0.cpu(), size))
    return torch.cat(images)


# ---- the run
def make_nets(cfg, shape, state):
    """The network and its average, with the weights of a checkpoint if there is one."""
    require(min(cfg.width, cfg.levels, cfg.stem, cfg.T, cfg.n, cfg.batch_size, cfg.max_weight) > 0
            and shape[1] % (cfg.stem * 2**(cfg.levels - 1)) == cfg.width % 32 == 0,
            "every size must be at least 1, --width a multiple of 32, --max_weight above 0, and the "
            f"{shape[1]} pixels of an image's side a multiple of --stem times 2^(--levels − 1)")
    torch.manual_seed(cfg.seed)
    net = UNet(cfg, shape[0], sum(len(names) for names in shape[-1].values()))
    nets = nn.ModuleDict({"net": net, "average": copy.deepcopy(net).requires_grad_(False)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(pick_device(cfg.device), memory_format=torch.channels_last)   # the faster layout


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
    learn, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    judge = Judge(cfg, learn, held_out, n=512)
    device, size = pick_device(cfg.device), learn.images.size(2)
    rank, world = start_processes(device)
    attributes = learn.attributes if cfg.drop < 1 else {}
    images, held_out_images = pad(learn.images).to(device), pad(held_out.images).to(device)
    labels, held_out_labels = (one_hot(part.labels, attributes).to(device) for part in (learn, held_out))
    shape = *images.shape[1:3], size, attributes
    check_shape(state, *shape)
    nets, untrained = make_nets(cfg, shape, state), make_nets(cfg, shape, None)["net"]
    model, average = nets.values()
    optimizer = torch.optim.Adam(model.parameters(), cfg.lr, (0.9, 0.99))
    data_rng = torch.Generator().manual_seed(cfg.seed)      # alike in all processes: each takes its share
    test = draw_batch(held_out_images, held_out_labels, 256, cfg, data_rng)
    if state:
        restore(state, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model
    net = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    require(cfg.batch_size % world == 0, f"--batch_size must be a multiple of {world} processes")
    shown, abar = draw_labels(cfg, attributes, cfg.n), make_abar(cfg.T, cfg.schedule).float().to(device)
    draw(average, shown[:1], shape, cfg)                    # refuses wrong flags now, not after hours
    with Run(cfg, "diffusion", model, ["loss", "lr", "val_loss"], state, rank) as run:
        run.say(f"{len(images):,} images of {size} × {size}; labels: {', '.join(attributes) or 'none'}")
        for step in range(run.first, cfg.steps):
            # learning rate
            left = (cfg.steps - step) / max(1, cfg.steps - cfg.warmup)
            lr = optimizer.param_groups[0]["lr"] = cfg.lr * min((step + 1) / (cfg.warmup + 1), left)
            # batch
            batch = draw_batch(images, labels, cfg.batch_size, cfg, data_rng)
            # loss, backward, step
            with autocast(device, cfg.matmul):
                loss = loss_of(net, *(part[rank::world] for part in batch), abar, cfg)
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            update_average(average, model, min(cfg.ema, step / (step + 10)))    # short while there is little
            # log; now and then evaluate, draw, save
            done, val_loss = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_loss = loss_of(average, *test, abar, cfg).item()
                if val_loss or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every) and rank == 0:
                    picture = sheet(draw(average, shown, shape, cfg))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if val_loss or stop:
                    run.save(done, nets, [optimizer], data_rng, shape=shape)
            if stop and done < cfg.steps:
                return run.leave(done)

        val_loss, judged = loss_of(average, *test, abar, cfg).item(), [average, untrained] * bool(judge.model)
        drawn = [draw(net, judge.labels, shape, cfg) for net in judged] or [None, None]
        scores = judge.scores(*drawn, judge.labels if attributes else None)
        run.say(f"held-out loss {val_loss:.4f}\n{image_metrics.image_report(scores)}")
        return run.finish(val_loss=val_loss, **scores)


@torch.no_grad()
def sample(cfg: Config):
    """Into samples/ what --show says: new images; image to noise (forward); noise to image, x̂₀ below x_t
    (reverse); from one noise to another (walk); images with a part drawn anew (inpaint)."""
    cfg, state = own_checkpoint(cfg, "diffusion")
    net, shape = make_nets(cfg, state["shape"], state)["average"], state["shape"]
    (C, S, size, attributes), known, device = shape, (), pick_device(cfg.device)
    n = 4 if (strips := cfg.show in ("forward", "reverse")) else cfg.n
    labels, x = draw_labels(cfg, attributes, n), noise(n, C * S * S, cfg.seed).view(n, C, S, S)
    if cfg.show == "walk":
        x, labels = walks(x), labels[torch.arange(n) // 8]      # 8 to a row
    if cfg.show in ("forward", "inpaint"):
        *known, labels = (tensor.to(device) for tensor in to_mend(cfg, n, shape))
    predict = guided(net, one_hot(labels, attributes).to(device), cfg)
    chain = sample_chain(predict, x.to(device), cfg, torch.Generator().manual_seed(cfg.seed + 1), *known)
    if cfg.show == "forward":
        chain = ((add_noise(known[0].cpu(), x, a),) for a in make_abar(cfg.T, cfg.schedule).roll(1).tolist())
    images = film(list(chain)) if strips else collections.deque(chain, 1)[0][1]     # all moments, or the last
    if cfg.show == "inpaint":                                   # each beside what was given
        images = torch.stack([known[0] * (1 - known[1]), images], dim=1).flatten(0, 1)
    write_png(path := f"{cfg.out_dir}/samples/{cfg.show}.png", sheet(crop(images, size)))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """How many of the T steps does each sampler need? What does guidance do? Also in evaluate.json, and in
    samples/evaluate.png: a row for each line of the table, each column from the same noise."""
    cfg, state = own_checkpoint(cfg, "diffusion")
    net, shape = make_nets(cfg, state["shape"], state)["average"], state["shape"]
    judge = Judge(cfg, *load_images(cfg.data, cfg.size, cfg.n_images), n=512)
    require(judge.model, f"--data={cfg.data} has no labels, so there is no judge of the images")
    settings = {f"{sampler}, {steps} steps": dict(sampler=sampler, sample_steps=steps)
                for sampler in ("dpm", "ddim", "ddpm") for steps in (5, 10, 20, 50, cfg.T)
                if steps < cfg.T or steps == cfg.T and sampler == "ddpm"}
    settings |= {f"guidance {w}": dict(guidance=w) for w in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0) if shape[-1]}
    distance, right, rows = {}, {}, []
    for name, flags in settings.items():
        print(f"drawing by {name}", flush=True)
        images = draw(net, judge.labels, shape, replace(cfg, **flags))
        shares, rows = judge.accuracy(images, judge.labels), [*rows, images[:8]]
        distance[name], right[name] = judge.frechet(images), sum(shares.values()) / len(shares)
    write_png(f"{cfg.out_dir}/samples/evaluate.png", sheet(torch.cat(rows)))
    return metrics.print_tables(cfg, Fréchet_distance=distance, mean_accuracy=right)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, memory="--batch_size, --width or --n")


if __name__ == "__main__":
    main()
