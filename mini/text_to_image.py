"""Text to image by a cascade: a diffusion model draws a small picture from words, another one enlarges it.

The first stage is train_diffusion.py's, but it is not told labels: it reads. A small Transformer turns the
prompt into vectors c, one for each word, and at every resolution each pixel of the U-Net attends to them:

    softmax(q kᵀ/√hs + mask) v          q from pixels, k and v from c; the mask is −∞ where there is no word

Each further stage draws twice the height and width, given the small picture, low, with noise of a level s:

    L = E w_t |x̂₀(x_t, t, c, √ᾱ_s low + √(1 − ᾱ_s) ε', s) − x₀|²     (Ho et al. 2022, "Cascaded diffusion …")

In training low is a real image made small; in sampling, what the stage before has drawn, which is not quite
like it. The noise hides the difference, and a stage that has seen levels up to max_s trusts low the less.

Imagen (Saharia et al. 2022) is built so; in DALL·E 2 (Ramesh et al. 2022) the words first become a CLIP
vector of an image. Departure: Imagen takes its text encoder, T5, as it is; ours learns by the first loss.

    python -m mini.text_to_image                        faces and captions, made on the spot
    python -m mini.text_to_image sample --prompt="a smiling face with blond hair" --guidance=3 --n=16
    python -m mini.text_to_image evaluate               guidance, steps, super-resolution
    python -m mini.text_to_image --data=captions.tsv    your own: an image's path, a tab, its caption

Measured times and scores: README.md. Read before: train_diffusion.py, mini/translator.py (cross-attention).
"""
import copy
import math
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.captions import Words, load_captions
from mini.utils import image_metrics, metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import film, noise, sheet, to_float
from mini.utils.judge import judge_of_faces
from mini.utils.metrics import n_to_score
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore, write_json


@dataclass
class Config(RunConfig):
    # data
    data: str = "faces"         # faces, or your own: a file with lines of an image's path, a tab, its caption
    size: int = 32              # height and width of the last stage's images
    n_images: int = 20000       # how many faces are drawn to learn from
    # model
    stages: int = 2             # diffusion models, each of images twice as high and wide as the one before
    width: int = 64             # channels at the highest resolution; doubled at each below, up to fourfold
    levels: int = 2             # resolutions, each half of the one above; self-attention at the lowest
    stem: int = 2               # stem × stem pixels are one to the last network; half of it in that before
    n_layer: int = 2            # layers of the text encoder, in which width numbers stand for a word
    T: int = 1000               # steps from image to noise
    drop: float = 0.1           # how often the network is not told the prompt
    max_s: float = 0.5          # highest level of noise in low-resolution images, as a share of T
    # optimisation
    max_weight: float = 5.0     # largest weight w_t of an error in x₀
    steps: int = 8000           # optimiser steps, shared evenly by the stages; keep it when you --resume
    batch_size: int = 32        # images per step
    lr: float = 2e-3            # Adam's peak learning rate
    warmup: int = 100           # a stage's steps until it is reached; then it falls to 0 in a straight line
    ema: float = 0.995          # how much of the average of the weights is kept at each step
    # run
    out_dir: str = "runs/text_to_image"
    # images to score, half of them of held-out prompts, half of unseen ones (0: 1,024; in a run of
    # fewer steps than usual, its share of them)
    n_test: int = 0
    # sampling
    prompt: str = "*"           # what to draw, several with | between; empty: anything; *: held-out captions
    n: int = 8                  # images for each prompt
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"  # DPM-Solver++(2M), DDIM, Ho et al.'s own
    sample_steps: int = 20      # steps from noise to image in each stage, at most T
    guidance: float = 2.0       # 0: without the prompt; 1: with it; more: exaggerate what it means
    s: float = 0.35             # level of noise in low-resolution images in sampling, as a share: up to max_s
    show: Literal["samples", "stages"] = "samples"  # the images, or how each comes about

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("size", "n_images", "stages", "width", "levels", "stem", "n_layer", "T", "drop",
             "max_s")


PRESETS = {"gpu": dict(size=64, stages=3, width=128, levels=3, stem=1, n_layer=4, batch_size=128, steps=90000,
                       lr=3e-4, warmup=1000, ema=0.9995)}


# ---- the noise
def make_abar(T: int):
    """ᾱ_0 … ᾱ_{T−1}, at index -1 ᾱ = 1 of no noise: (T + 1,), float64 (Nichol & Dhariwal 2021, eq. 17)."""
    f = ((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cat([(1 - betas).cumprod(0), betas.new_ones(1)])


def add_noise(x0, eps, abar):
    """x_t ~ q(x_t | x₀) (Ho et al. 2020, eq. 4), for abar of a shape that fits x0, or a number."""
    return abar**0.5 * x0 + (1 - abar)**0.5 * eps


def resize(x, S: int):
    """Images (B, C, H, H) to (B, C, S, S): smaller by means of pixels, larger by bicubic interpolation."""
    larger = S > x.size(2)
    return F.interpolate(x, S, mode="bicubic").clamp(-1, 1) if larger else F.adaptive_avg_pool2d(x, S)


def disturb(low, s, eps, abar):
    """low (B, C, S, S), in [-1, 1], with noise of levels s (B,), and s: for training and sampling alike."""
    return add_noise(low, eps, abar[s][:, None, None, None].float()), s


# ---- the networks
class Attention(nn.Module):
    """Each of x (B, N, C), or each pixel of x (B, C, H, W), reads from all of x, or of y (B, M, D), that the
    mask shows: x + softmax(q kᵀ/√hs + mask) v, in heads of hs channels; + 0 at first."""

    def __init__(self, C: int, D: int, hs: int = 32):
        super().__init__()
        self.norm, self.hs = nn.LayerNorm(C), hs
        self.q, self.kv, self.proj = nn.Linear(C, C), nn.Linear(D, 2 * C), zeros(nn.Linear(C, C))

    def forward(self, x, mask=0.0, y=None):
        if x.ndim == 4:
            return self(x.flatten(2).mT, mask, y).mT.view(x.shape)      # (B, C, H, W) -> (B, HW, C), and back
        h, (B, N, C) = self.norm(x), x.shape
        y = h if y is None else y                                       # (B, M, D)
        q = self.q(h).view(B, N, -1, self.hs).transpose(1, 2)           # (B, N, C) -> (B, nh, N, hs)
        k, v = self.kv(y).view(B, y.size(1), 2, -1, self.hs).permute(2, 0, 3, 1, 4)     # (B, nh, M, hs) each
        att = F.softmax(q @ k.mT / math.sqrt(self.hs) + mask, dim=-1)   # (B, nh, N, M)
        return x + self.proj((att @ v).transpose(1, 2).flatten(2))      # (B, nh, N, hs) -> (B, N, C)


class TextEncoder(nn.Module):
    """Prompts (B, L), filled up with PAD -> vectors (B, 1 + L, D), mask (B, 1, 1, 1 + L): −∞ hides PAD keys.
    Vector 0, the whole prompt, is never hidden: else the softmax of an empty one would be 0/0."""

    def __init__(self, cfg, V: int, L: int):
        super().__init__()
        self.whole, D = V, cfg.width                                    # a word behind the V others
        self.embed, self.position, self.norm = nn.Embedding(V + 1, D), nn.Embedding(1 + L, D), nn.LayerNorm(D)
        self.read = nn.ModuleList(Attention(D, D) for _ in range(cfg.n_layer))
        self.think = nn.ModuleList(nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(),
                                                 zeros(nn.Linear(4 * D, D))) for _ in range(cfg.n_layer))

    def forward(self, tokens):
        tokens = F.pad(tokens, (1, 0), value=self.whole)                # (B, L) -> (B, 1 + L)
        mask = torch.where(tokens == Words.PAD, -math.inf, 0.0)[:, None, None]
        x = self.embed(tokens) + self.position.weight[:tokens.size(1)]
        for read, think in zip(self.read, self.think):
            x = read(x, mask)
            x = x + think(x)
        return self.norm(x), mask


class ResBlock(nn.Module):
    """x + f(x), of which e, made from time and prompt, scales and shifts the second half. f is 0 at first."""

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


def zeros(layer):
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return layer


class UNet(nn.Module):
    """x_t (B, C, S, S), t (B,), words (B, 1 + L, D), mask; to enlarge: low (B, C, S/2, S/2), s (B,) -> x̂₀ as
    x_t. The first stage has the encoder, `text`, as a part: they learn together."""

    def __init__(self, cfg, C: int, S: int, text):
        super().__init__()
        widths, E = [cfg.width * min(2**level, 4) for level in range(cfg.levels)], 4 * cfg.width
        self.C, self.S, self.width, self.text = C, S, cfg.width, text
        self.pixel = max(1, cfg.stem * S // cfg.size)                   # stem, or less in the stages before
        outer, lowest, pairs = C * self.pixel**2, widths[-1], list(zip(widths, widths[1:]))
        given, self.prompt = 1 if text else 2, nn.Linear(cfg.width, E, bias=False)
        self.time = nn.Sequential(nn.Linear(given * cfg.width, E), nn.SiLU(), nn.Linear(E, E))
        self.stem = nn.Conv2d(given * outer, cfg.width, 3, 1, 1)
        self.down = nn.ModuleList(ResBlock(w, w, E) for w in widths)
        self.read = nn.ModuleList(Attention(w, cfg.width) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(w, below, 3, 2, 1) for w, below in pairs)
        self.before, self.after = ResBlock(lowest, lowest, E), ResBlock(lowest, lowest, E)
        self.attention = Attention(lowest, lowest)
        self.grow = nn.ModuleList(nn.Conv2d(below, w, 3, 1, 1) for w, below in pairs)
        self.up = nn.ModuleList(ResBlock(2 * w, w, E) for w in widths)
        self.norm, self.out = nn.GroupNorm(8, cfg.width), zeros(nn.Conv2d(cfg.width, outer, 3, 1, 1))

    def forward(self, x, t, words, mask, low=None, s=None):
        times = t[:, None] if low is None else torch.stack([t, s], dim=1)               # (B, 1), or 2
        angles = times[:, :, None] * 10000 ** torch.linspace(0, -1, self.width // 2, device=t.device)
        angles = torch.cat([angles.cos(), angles.sin()], dim=2)         # waves of many lengths
        e = F.silu(self.time(angles.flatten(1)) + self.prompt(words[:, 0]))             # (B, E)
        if low is not None:
            x = torch.cat([x, F.interpolate(low, scale_factor=2)], dim=1)       # each pixel 2 × 2
        h, skips = self.stem(F.pixel_unshuffle(x, self.pixel)), []      # (B, width, S/pixel, S/pixel)
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, e)     # from half the resolution above
            h = self.read[level](h, mask, words)
            skips.append(h)
        h = self.after(self.attention(self.before(h, e)), e)
        for level, block in reversed([*enumerate(self.up)]):
            h = block(torch.cat([h, skips[level]], dim=1), e)
            if level:
                h = F.interpolate(self.grow[level - 1](h), scale_factor=2)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.pixel)


# ---- the loss
def loss_of(net, text, x0, y, t, eps, disturbed, abar, cfg):
    """E w_t |x̂₀ − x₀|² per number, for x0, noise eps (B, C, S, S), prompts y (B, L), times t (B,), disturbed
    () or low, s. w_t is 1/σ², up to max_weight: so it is the error of v (Salimans & Ho 2022, §4)."""
    abar = abar[t][:, None, None, None].float()
    out = net(add_noise(x0, eps, abar), t, *text(y), *disturbed).float()
    return ((1 / (1 - abar)).clamp(max=cfg.max_weight) * (out - x0).square()).mean()


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model, for parameters; there are no buffers to be copied."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)


# ---- sampling
def step_back(xt, x0, abar_t: float, abar_s: float, z, cfg, before=None):
    """x_s, s < t, from x_t and x̂₀. z is new noise; `before`: x̂₀ and ᾱ of the step before this one. ddpm: of
    q(x_s | x_t, x̂₀) (Ho et al. 2020, eqs. 6, 7). ddim: the noise in x_t, by x̂₀, stays (Song et al. 2021,
    eq. 12). dpm: and x̂₀ goes on changing as it did (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    alpha, beta = abar_t / abar_s, 1 - abar_t / abar_s              # β_t, if s = t − 1
    if cfg.sampler == "ddpm":
        mean = (abar_s**0.5 * beta * x0 + alpha**0.5 * (1 - abar_s) * xt) / (1 - abar_t)
        return mean + (beta * (1 - abar_s) / (1 - abar_t))**0.5 * z     # of variance β̃_t, 0 at the last step
    if cfg.sampler == "dpm" and before and abar_s < 1:
        lam_s, lam_t, lam_b = (math.log(a / (1 - a)) / 2 for a in (abar_s, abar_t, before[1]))
        x0 = x0 + (x0 - before[0]) / (lam_t - lam_b) * (lam_s - lam_t) / 2      # λ: log α/σ, the clock of it
    eps = (xt - abar_t**0.5 * x0) / (1 - abar_t)**0.5
    return abar_s**0.5 * x0 + (1 - abar_s)**0.5 * eps


def sample_chain(predict, x, cfg, rng):
    """From noise x (n, …) to images: yields (x_t, x̂₀) at each step; the last x̂₀ is the image. predict(x_t,
    t) returns x̂₀."""
    times = torch.linspace(cfg.T - 1, 0, cfg.sample_steps, dtype=torch.float64).round().int().tolist()
    abar, before = make_abar(cfg.T).tolist(), None
    for t, s in zip(times, [*times[1:], -1]):               # abar[-1] = 1
        x0 = predict(x, t)
        yield x, x0
        z = torch.randn(x.shape, generator=rng, dtype=x.dtype).to(x.device)
        x, before = step_back(x, x0, abar[t], abar[s], z, cfg, before), (x0, abar[t])


def guided(net, asked, nothing, cfg, disturbed=()):
    """predict(x_t, t) for sample_chain: x̂₀ in [-1, 1]. cfg.guidance leads from the net's output for the
    empty prompt to that for what is asked, or beyond (Ho & Salimans 2021, eq. 6; their w is one less)."""
    def predict(xt, t):
        w, times = cfg.guidance, torch.full((len(xt),), t, device=xt.device)
        with autocast(xt.device, cfg.matmul):
            out = net(xt, times, *(asked if w == 1 else nothing), *disturbed).float()
            if w not in (0, 1):
                out = out + w * (net(xt, times, *asked, *disturbed).float() - out)
        return out.clamp(-1, 1)
    return predict


@torch.no_grad()
def draw(nets, y, cfg, low=None) -> list:
    """For prompts y (n, L) [[x_T, …, image] of each stage], (n, C, S, S) in [-1, 1], on the CPU, by the noise
    of cfg.seed; of a long chain some. Given images low (n, C, S, S), the last stage alone enlarges them."""
    n, device, made, last, every = len(y), y.device, [], cfg.sample_steps - 1, max(1, cfg.sample_steps // 16)
    asked, nothing = nets[0].text(y), nets[0].text(torch.full_like(y, Words.PAD))
    for net in nets if low is None else nets[-1:]:
        C, S, disturbed, seed = net.C, net.S, (), cfg.seed + 10**6 * net.S
        if low is not None:
            eps, s = noise(n, C * S * S // 4, seed + 2).view(low.shape), torch.full((n,), int(cfg.s * cfg.T))
            disturbed = [part.to(device) for part in disturb(low, s, eps, make_abar(cfg.T))]
        x, rng = noise(n, C * S * S, seed).view(n, C, S, S), torch.Generator().manual_seed(seed + 1)
        chain = enumerate(sample_chain(guided(net, asked, nothing, cfg, disturbed), x.to(device), cfg, rng))
        made.append([(xt, x0)[i == last].cpu() for i, (xt, x0) in chain if i % every == 0 or i == last])
        low = made[-1][-1]
    return made


# ---- the run
def check(cfg):
    """Raise UserError for flags that do not go together."""
    require_positive(cfg, "size", "stages", "width", "levels", "stem", "n_layer", "T", "n",
                     "batch_size", "max_weight")
    require(cfg.width % 32 == 0, f"--width={cfg.width} must be a multiple of 32")
    multiple = 1
    for k in range(cfg.stages):             # in the stage of images 2^k times smaller
        stem = max(1, cfg.stem // 2**k)
        multiple = math.lcm(multiple, 2**k * stem * 2**(cfg.levels - 1))
    require(cfg.size % multiple == 0, f"--size={cfg.size} must be a multiple of {multiple}, for "
            "so many --stages, --levels and --stem")
    require(1 <= cfg.sample_steps <= cfg.T, f"--sample_steps={cfg.sample_steps}: from 1 to {cfg.T}")
    require(0 <= cfg.s < 1, f"--s={cfg.s} must be at least 0 and below 1")
    require(0 <= cfg.max_s < 1, f"--max_s={cfg.max_s} must be at least 0 and below 1")


def make_nets(cfg, shape, state):
    """{"nets", "averages"} of all stages, or a checkpoint's. shape: channels, size, words, longest prompt."""
    C, size, V, L = shape
    torch.manual_seed(cfg.seed)
    nets = nn.ModuleList(UNet(cfg, C, size // 2**k, None if k + 1 < cfg.stages else TextEncoder(cfg, V, L))
                         for k in reversed(range(cfg.stages)))
    nets = nn.ModuleDict({"nets": nets, "averages": copy.deepcopy(nets).requires_grad_(False)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(pick_device(cfg.device), memory_format=torch.channels_last)   # the faster layout


def draw_batch(images, tokens, B: int, net, cfg, abar, rng):
    """x0 (B, C, S, S) for a net, prompts y (B, L), t (B,), eps as x0, () or low and s. Of an image's texts,
    tokens (N, K, L), one is taken, or none; times are evenly spread (Kingma et al. 2021, §I.1)."""
    i, keep = torch.randint(len(images), (B,), generator=rng), torch.rand(B, 1, generator=rng) >= cfg.drop
    j, device = torch.randint(tokens.size(1), (B,), generator=rng), images.device
    t = ((torch.arange(B) + torch.rand(1, generator=rng)) / B * cfg.T).long().clamp(max=cfg.T - 1)
    x0, disturbed = resize(to_float(images[i]), net.S), ()
    eps = torch.randn(x0.shape, generator=rng).to(device)
    if not net.text:
        low, s = resize(x0, net.S // 2), torch.randint(int(cfg.max_s * cfg.T) + 1, (B,), generator=rng)
        disturbed = disturb(low, s.to(device), torch.randn(low.shape, generator=rng).to(device), abar)
    return x0, tokens[i, j].where(keep.to(device), Words.PAD), t.to(device), eps, disturbed


def load_data(cfg, state):
    """Words of all captions, or a checkpoint's; parts of load_captions; their tokens (N, K, L)."""
    parts = load_captions(cfg.data, cfg.size, cfg.n_images)
    texts = [[text for captions in part.captions for text in captions] for part in parts if len(part.images)]
    words = Words.of(sum(texts, []))
    require(not state or state["words"] == words.state(), "made with other captions; leave out --data")
    tokens = [words.encode_all(some).unflatten(0, (-1, len(parts[0].captions[0]))) for some in texts]
    return words, parts, tokens


def read_prompts(cfg, words, saved):
    """(prompts, tokens (prompts · n, L)) of --prompt, or held-out captions. UserError for unknown words."""
    prompts, L = saved["examples"] if cfg.prompt == "*" else cfg.prompt.split("|"), saved["shape"][3]
    rows = [words.encode(prompt, L - 1) if prompt.strip() else [] for prompt in prompts for _ in range(cfg.n)]
    return prompts, torch.tensor([[*row, *[Words.PAD] * (L - len(row))] for row in rows])


def judged(judge, images, labels) -> dict:
    """{attribute: share of images (n, C, H, H), enlarged if small, that the judge reads as labels (n, A) say,
    "mean": of these, "Fréchet": distance from held-out images}."""
    images = resize(images, judge.train_set.images.size(2))
    shares = judge.accuracy(images, labels)
    return {**shares, "mean": sum(shares.values()) / len(shares), "Fréchet": judge.frechet(images)}


def train(cfg: Config) -> dict:
    """Train the stages in turn; return what result.json holds. Raises UserError for bad input."""
    cfg, state = own_checkpoint(cfg, "text_to_image", cfg.resume)
    check(cfg)
    words, parts, tokens = load_data(cfg, state)
    saved = {"shape": (parts[0].images.size(1), cfg.size, len(words), max(part.size(2) for part in tokens)),
             "words": words.state(), "examples": [captions[0] for captions in parts[1].captions[:8]]}
    check_shape(state, *saved["shape"])
    nets, device = make_nets(cfg, saved["shape"], state), pick_device(cfg.device)
    optimizers = [torch.optim.Adam(net.parameters(), cfg.lr, (0.9, 0.99)) for net in nets["nets"]]
    data_rng, abar = torch.Generator().manual_seed(cfg.seed), make_abar(cfg.T).float().to(device)
    averages, text = nets["averages"], nets["averages"][0].text     # it learns with the first stage alone
    learn, held_out = ((part.images.to(device), y.to(device)) for part, y in zip(parts, tokens[:2]))
    tests = [draw_batch(*held_out, 256, net, cfg, abar, data_rng) for net in averages]
    if state:
        restore(state, optimizers, data_rng)
    shown = read_prompts(cfg, words, saved)[1].to(device)
    with Run(cfg, "text_to_image", nets["nets"], ["stage", "loss", "lr", "val_loss"], state) as run:
        run.say(f"{len(learn[0]):,} images of {cfg.size} × {cfg.size}; {len(words)} words")
        for k, (model, average, optimizer) in enumerate(zip(nets["nets"], averages, optimizers)):
            first, end = (cfg.steps * i // cfg.stages for i in (k, k + 1))
            net = torch.compile(model) if cfg.compile else model
            for step in range(max(run.first, first), end):
                # learning rate
                done, left = step + 1, (end - step) / max(1, end - first - cfg.warmup)
                lr = optimizer.param_groups[0]["lr"] = cfg.lr * min((done - first) / (cfg.warmup + 1), left)
                # batch
                batch = draw_batch(*learn, cfg.batch_size, model, cfg, abar, data_rng)
                # loss, backward, step
                with autocast(device, cfg.matmul):
                    loss = loss_of(net, model.text or text, *batch, abar, cfg)
                run.check_finite(step, loss=loss.item())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                update_average(average, model, min(cfg.ema, (step - first) / (step - first + 10)))
                # log; now and then evaluate, draw, save
                with run.untimed():
                    due = run.due(done, cfg.eval_every) or done == end
                    val_loss = loss_of(average, text, *tests[k], abar, cfg).item() if due else None
                    if due or run.due(done, cfg.log_every):
                        run.log(done, stage=k + 1, loss=loss.item(), lr=lr, val_loss=val_loss)
                    if run.due(done, cfg.sample_every):
                        picture = sheet(draw(averages[:k + 1], shown, cfg)[-1][-1], cfg.n)
                        write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                    stop = run.stopping(done)
                    if due or stop:
                        run.save(done, nets, optimizers, data_rng, **saved)
                if stop and done < cfg.steps:
                    return run.leave(done)

        losses = [loss_of(net, text, *test, abar, cfg).item() for net, test in zip(averages, tests)]
        rows = {}
        sets = {}
        n = 0
        if parts[0].attributes:             # faces; of others a judge could read nothing
            n = n_to_score(cfg, max(1024, cfg.n_test), "images") // 2
            judge = judge_of_faces(replace(cfg, n_test=n), n, cfg.n_images)
            n = judge.n
        if n > 0:
            sets = {"held out": (parts[1], tokens[1]), "unseen": (parts[2], tokens[2])}
        for name, (part, y) in sets.items():
            run.say(f"drawing {n} images from prompts {name}")
            real, labels = to_float(part.images[-n:]), part.labels[-n:]     # not those of judge.frechet
            for net, made in zip(averages, draw(averages, y[-n:, 0].to(device), cfg)):
                rows[f"{name}, {net.S}"] = judged(judge, made[-1], labels)
                rows[f"{name}, {net.S}, real"] = judged(judge, resize(real, net.S), labels)
            others = to_float(judge.train_set.images[:n])
            rows[f"{name}, other faces"] = judged(judge, others, labels)
        table = "no labels, no judge"
        if rows:
            table = metrics.table(rows, {"mean", *parts[0].attributes})
        run.say(f"held-out losses {losses}; how often the judge reads what the prompt says:\n{table}")
        return run.finish(val_loss=losses, n=n, scores=rows)


def sample(cfg: Config):
    """Into samples/ what --show says: n images for each prompt, or from left to right how each came about."""
    cfg, state = own_checkpoint(cfg, "text_to_image")
    check(cfg)
    prompts, y = read_prompts(cfg, Words(state["words"]), state)
    made = draw(make_nets(cfg, state["shape"], state)["averages"], y.to(pick_device(cfg.device)), cfg)
    images, columns = made[-1][-1], 8 if len(prompts) == 1 else cfg.n
    if cfg.show == "stages":
        films = [film([(F.interpolate(xt, cfg.size),) for xt in moments], pictures=4) for moments in made]
        images = torch.stack([x.unflatten(0, (-1, 4)) for x in films], dim=1).flatten(0, 2)
        columns = 4 * cfg.stages                        # (n, stages, 4, C, size, size) -> (n · columns, …)
    write_png(path := f"{cfg.out_dir}/samples/{cfg.show}.png", sheet(images, columns))
    print("".join(f"{prompt.strip() or 'no prompt'}\n" for prompt in prompts) + f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Guidance, steps; the last stage against bicubic interpolation. PSNR means something for "real" only."""
    cfg, state = own_checkpoint(cfg, "text_to_image")
    check(cfg)
    nets = make_nets(cfg, state["shape"], state)["averages"]
    _, parts, tokens = load_data(cfg, state)
    require(parts[0].attributes and cfg.stages > 1,
            "this needs a run of two stages, on images with labels")
    judge = judge_of_faces(cfg, 512, cfg.n_images)
    rows, shown, real, labels = {}, [], to_float(parts[1].images[-judge.n:]), parts[1].labels[-judge.n:]
    y, low = tokens[1][-judge.n:, 0].to(pick_device(cfg.device)), resize(real, cfg.size // 2)
    ways = {f"w {w:g}, {steps} steps": dict(cfg=replace(cfg, guidance=w, sample_steps=min(steps, cfg.T)))
            for w in (0.0, 1.0, 2.0, 3.0, 5.0) for steps in (5, 10, 20)}
    ways |= {f"real, enlarged, s {s:g}": dict(cfg=replace(cfg, s=s), low=low) for s in (0.0, cfg.s)}
    for name in [*ways, "real, bicubic"]:
        print(f"drawing {name}", flush=True)
        began = time.perf_counter()
        images = draw(nets, y, **ways[name])[-1][-1] if name in ways else resize(low, cfg.size)
        rows[name] = {"s/image": (time.perf_counter() - began) / judge.n,
                      "PSNR": image_metrics.psnr(images, real).mean().item(), **judged(judge, images, labels)}
        shown.append(images[:8])
    write_png(f"{cfg.out_dir}/samples/evaluate.png", sheet(torch.cat(shown)))
    print(metrics.table(rows, {"mean", *parts[0].attributes}))
    write_json(f"{cfg.out_dir}/evaluate.json", rows)
    return rows


def main(argv=None):
    return command_line(Config, PRESETS, dict(train=train, sample=sample, evaluate=evaluate), argv, __doc__)


if __name__ == "__main__":
    main()
