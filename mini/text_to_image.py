"""Text to image by a cascade: a diffusion model draws a small picture from words, another one
enlarges it.

The first stage is the model of train_diffusion.py, but it is told words, not labels. A small
Transformer turns the prompt into 1 + L vectors: the first stands for the prompt as a whole, the
others for its words. The first, through a linear layer, is added to the vector of the time. And at
every resolution on the way down, each pixel of the U-Net attends to all of them:

    softmax(q kᵀ/√hs + mask) v          q from pixels, k and v from words; mask: −∞ where no word is

Each further stage draws an image of twice the height and width. It is shown the smaller picture,
low, with the noise of a time a (aug_t below, for augmentation), and is told a:

    loss = mean of w_t |x̂₀(x_t, t, words, √ᾱ_a low + √(1 − ᾱ_a) ε', a) − x₀|²

In training, low is a real image made smaller. In sampling, it is the image that the stage before
has drawn, which is not quite like a real one. The noise hides the difference, and a stage that was
trained with times a from 0 to T · --max_aug_level does not rely on every detail of low. Sampling
has a = T · --aug_level.

Shapes: B images in a batch, C colours, S × S pixels; L numbers of a prompt, its words, an end mark
and padding; D numbers in a vector of a word; K captions for each image.

Papers: Ho et al. 2022, "Cascaded Diffusion Models for High Fidelity Image Generation",
https://arxiv.org/abs/2106.15282 (the noise on low: non-truncated conditioning augmentation), and
Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language
Understanding" (Imagen), https://arxiv.org/abs/2205.11487: a cascade that reads words, their mean
added to the time. Attention from pixels to words: Rombach et al. 2022, "High-Resolution Image
Synthesis with Latent Diffusion Models", §3.3. Departures: Imagen's text encoder, T5, is already
trained and stays as it is; ours is small, and learns with the first stage; a vector of its own, as
BERT's [CLS], stands for the prompt, not the mean of the words; low is enlarged by repeating its
pixels. What else departs from Ho, Jain & Abbeel 2020 (DDPM) is as in train_diffusion.py.

    python -m mini.text_to_image                        faces and captions, made on the spot
    python -m mini.text_to_image sample --prompt="a smiling face with blond hair" --guidance=3
    python -m mini.text_to_image evaluate               compares guidance, steps, ways to enlarge
    python -m mini.text_to_image --data=captions.tsv    your own: an image's path, a tab, a caption

Measured times and scores: README.md.
Read before: train_diffusion.py and mini/translator.py (cross-attention). Read next:
mini/latent_diffusion.py.
"""
import copy
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# images and captions, the command line, devices, the scores of images, the folder of a run: this
# file can be followed without reading them. noise(n, k, seed) are normal random numbers (n, k),
# which only depend on the seed. Words is a vocabulary: encode(text, n) gives the numbers of at most
# n words, and of the end; PAD is the number that fills up short prompts.
from mini.data.images.captions import Words, load_captions
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import noise, sheet, to_float
from mini.utils.judge import judge_of_faces
from mini.utils.optim import Muon
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the noise

def abar_from_betas(betas):
    """ᾱ₀ = 1, ᾱ₁, …, ᾱ_T: (T + 1,), from β₁, …, β_T.

    There are divisions by √ᾱ below, so each step must leave something of the image: β is at most
    0.999 (Nichol & Dhariwal 2021, §3.2). The paper's β is never that large.
    """
    betas = betas.clamp(max=0.999)
    one = torch.ones(1, dtype=betas.dtype)
    return torch.cat([one, (1 - betas).cumprod(dim=0)])


def linear_abar(T: int):
    """ᾱ₀ = 1, ᾱ₁, …, ᾱ_T: (T + 1,) in float64. β_t rises in a straight line, from 1e-4 to 0.02 for
    T = 1,000 (Ho et al. 2020, §4). For another T, β is multiplied by 1000/T (not in the paper), so
    that little is left of the image at T (unless T is 1)."""
    betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * 1000 / T
    return abar_from_betas(betas)


def cosine_abar(T: int):
    """ᾱ₀ = 1, ᾱ₁, …, ᾱ_T: (T + 1,) in float64 (Nichol & Dhariwal 2021, "Improved Denoising
    Diffusion Probabilistic Models", eq. 17):

        ᾱ_t = f(t) / f(0)       f(t) = cos²((t/T + s) / (1 + s) · π/2)       s = 0.008

    With s, β₁ is not too small. f(T) is 0, so ᾱ_T would be 0. Therefore, as in that paper,
    β_t = 1 − ᾱ_t/ᾱ_{t−1} is computed and limited, and ᾱ is made from that.
    """
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = 1 - f[1:] / f[:-1]
    return abar_from_betas(betas)


class NoiseSchedule:
    """How images turn into noise:

        x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε            ε ~ N(0, I)             (Ho et al. 2020, eq. 4)

    abar: ᾱ₀ = 1, ᾱ₁, …, ᾱ_T, (T + 1,) in float64.

    Times t are whole numbers: 0 is the image, T is noise. t is an int, or a tensor (B,) with a time
    for each image. Tensors of times are on the CPU, as ᾱ is: other devices may have no float64.
    """

    def __init__(self, abar):
        self.abar = abar
        self.T = len(abar) - 1

    def coefficients(self, t, like):
        """√ᾱ_t and √(1 − ᾱ_t), (B, 1, 1, 1) each, or (1, 1, 1, 1) if t is an int, with the dtype
        and on the device of the tensor `like`."""
        abar = self.abar[t].view(-1, 1, 1, 1)
        sqrt_abar = abar.sqrt()
        sqrt_one_minus_abar = (1 - abar).sqrt()
        return sqrt_abar.to(like), sqrt_one_minus_abar.to(like)

    def add_noise(self, x0, eps, t):
        """x_t ~ q(x_t | x₀), if eps ~ N(0, I)."""
        sqrt_abar, sqrt_one_minus_abar = self.coefficients(t, like=x0)
        return sqrt_abar * x0 + sqrt_one_minus_abar * eps


# Each of three classes adds to a schedule what the network predicts, by three functions:
#
#     target          what it should answer, (B, C, S, S)
#     predict_x0      x̂₀, from what it answered to x_t: all samplers below begin with that
#     loss_weight     w_t, what an error at time t counts in the loss: a number, or (B, 1, 1, 1)
#
# For another answer, write a class, a branch in make_schedule, and its name in Config.predict. For
# other weights, change loss_weight in the classes. For another way from image to noise, such as
# flow matching, write a class that also has T and add_noise, and a step to sample with, since
# ddpm_step and the others read abar: a branch in denoise, and its name in Config.sampler.

class PredictEps(NoiseSchedule):
    """The network answers ε, as in the paper; with weight 1 the loss is L_simple."""

    def target(self, x0, eps, t):
        return eps

    def predict_x0(self, out, xt, t):
        sqrt_abar, sqrt_one_minus_abar = self.coefficients(t, like=xt)
        return (xt - sqrt_one_minus_abar * out) / sqrt_abar             # (Ho et al. 2020, eq. 15)

    def loss_weight(self, t, like):
        return 1.0


class PredictV(NoiseSchedule):
    """The network answers v = √ᾱ_t ε − √(1 − ᾱ_t) x₀ (Salimans & Ho 2022, "Progressive Distillation
    for Fast Sampling of Diffusion Models", §4; this is not the ε − x₀ of flow matching)."""

    def target(self, x0, eps, t):
        sqrt_abar, sqrt_one_minus_abar = self.coefficients(t, like=x0)
        return sqrt_abar * eps - sqrt_one_minus_abar * x0

    def predict_x0(self, out, xt, t):
        sqrt_abar, sqrt_one_minus_abar = self.coefficients(t, like=xt)
        return sqrt_abar * xt - sqrt_one_minus_abar * out

    def loss_weight(self, t, like):
        return 1.0


class PredictX0(NoiseSchedule):
    """The network answers x₀.

    Its weight is min(SNR + 1, max_weight). SNR is the ratio of signal to noise, ᾱ_t / (1 − ᾱ_t):

        |ε̂ − ε|²  =  SNR |x̂₀ − x₀|²
        |v̂ − v|²  =  (SNR + 1) |x̂₀ − x₀|²          SNR + 1 = 1 / (1 − ᾱ_t)

    So a network that answers ε or v, with weight 1, counts errors in x̂₀ more where there is less
    noise. For one that answers x₀ we take SNR + 1, too, but at most max_weight: at t = 1 it is
    24,000 (cosine, T = 1,000), for details that nobody sees. (Hang et al. 2023, "Efficient
    Diffusion Training via Min-SNR Weighting Strategy", take min(SNR, 5). With that, an error at T,
    where sampling begins, counts for almost nothing: SNR is nearly 0 there.)
    """

    def __init__(self, abar, max_weight: float = math.inf):
        super().__init__(abar)
        self.max_weight = max_weight

    def target(self, x0, eps, t):
        return x0

    def predict_x0(self, out, xt, t):
        return out

    def loss_weight(self, t, like):
        _, sqrt_one_minus_abar = self.coefficients(t, like)
        return (1 / sqrt_one_minus_abar**2).clamp(max=self.max_weight)


def make_schedule(cfg):
    """The NoiseSchedule that --schedule, --T, --predict and --max_weight say. For another schedule,
    write a function such as cosine_abar, a branch here, and its name in Config.schedule."""
    if cfg.schedule == "linear":
        abar = linear_abar(cfg.T)
    elif cfg.schedule == "cosine":
        abar = cosine_abar(cfg.T)
    else:
        raise ValueError(f"unknown schedule: {cfg.schedule}")

    if cfg.predict == "eps":
        return PredictEps(abar)
    if cfg.predict == "v":
        return PredictV(abar)
    if cfg.predict == "x0":
        return PredictX0(abar, cfg.max_weight)
    raise ValueError(f"unknown prediction: {cfg.predict}")


# ---- the networks

def zero_init(layer):
    """The layer, with weights and bias 0. A block that ends with it changes nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def time_embedding(t, width: int):
    """Cosines and sines of t (B,) at many frequencies, from 1 to 1/10,000: (B, width), after the
    Transformer (Vaswani et al. 2017, §3.5). They suit times from 1 to some thousands, not from 0
    to 1."""
    frequencies = 10000 ** torch.linspace(0, -1, width // 2, device=t.device)
    angles = t[:, None] * frequencies                       # (B, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TextBlock(nn.Module):
    """x (B, L', D), L' = 1 + L vectors -> (B, L', D): they attend to each other, and then an MLP
    works on each of them alone (Vaswani et al. 2017; with the norm first, as in GPT-2). mask:
    (B, 1, 1, L')."""

    def __init__(self, D: int, hs: int = 32):
        super().__init__()
        self.hs = hs
        self.norm1 = nn.LayerNorm(D)
        self.qkv = nn.Linear(D, 3 * D)
        self.proj = zero_init(nn.Linear(D, D))
        self.norm2 = nn.LayerNorm(D)
        self.fc = nn.Linear(D, 4 * D)
        self.fc_proj = zero_init(nn.Linear(4 * D, D))

    def forward(self, x, mask):
        B, L, D = x.shape
        n_head = D // self.hs
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=2)   # (B, L, D) each
        q = q.view(B, L, n_head, self.hs).transpose(1, 2)   # -> (B, nh, L, hs)
        k = k.view(B, L, n_head, self.hs).transpose(1, 2)
        v = v.view(B, L, n_head, self.hs).transpose(1, 2)
        att = q @ k.transpose(2, 3) / math.sqrt(self.hs)    # (B, nh, L, L)
        att = F.softmax(att + mask, dim=-1)
        h = (att @ v).transpose(1, 2).reshape(B, L, D)
        x = x + self.proj(h)

        h = F.gelu(self.fc(self.norm2(x)))
        return x + self.fc_proj(h)


class TextEncoder(nn.Module):
    """Prompts (B, L), filled up with PAD -> vectors (B, 1 + L, D), and their mask (B, 1, 1, 1 + L),
    which is −∞ at PAD and 0 elsewhere.

    The first vector stands for the whole prompt, as [CLS] does in BERT (Devlin et al. 2019). It is
    never masked: a softmax over nothing but −∞, for an empty prompt, would be NaN.
    """

    def __init__(self, cfg, V: int, L: int):
        super().__init__()
        D = cfg.width
        self.start = V                                      # a number that no word has
        self.embed = nn.Embedding(V + 1, D)
        self.position = nn.Embedding(1 + L, D)
        self.blocks = nn.ModuleList(TextBlock(D) for _ in range(cfg.n_layer))
        self.norm = nn.LayerNorm(D)

    def forward(self, tokens):
        tokens = F.pad(tokens, (1, 0), value=self.start)    # (B, L) -> (B, 1 + L)
        is_pad = tokens == Words.PAD
        mask = torch.zeros(tokens.shape, device=tokens.device).masked_fill(is_pad, -math.inf)
        mask = mask[:, None, None, :]                       # alike for all heads and queries
        x = self.embed(tokens) + self.position.weight[:tokens.size(1)]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask


class ResBlock(nn.Module):
    """x (B, C_in, H, W) -> shortcut(x) + f(x): (B, C_out, H, W). Before training, f is 0.

    A vector e (B, E), made from the time and from what the image should show, acts between f's two
    convolutions: after the norm it scales and shifts the features, or, without scale_shift, it is
    added before the norm.
    """

    def __init__(self, C_in: int, C_out: int, E: int, scale_shift: bool):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(8, C_in)
        self.conv1 = nn.Conv2d(C_in, C_out, kernel_size=3, padding=1)
        self.emb = nn.Linear(E, 2 * C_out if scale_shift else C_out)
        self.norm2 = nn.GroupNorm(8, C_out)
        self.conv2 = zero_init(nn.Conv2d(C_out, C_out, kernel_size=3, padding=1))
        self.shortcut = nn.Conv2d(C_in, C_out, kernel_size=1) if C_in != C_out else nn.Identity()

    def forward(self, x, e):
        h = self.conv1(F.silu(self.norm1(x)))               # (B, C_in, H, W) -> (B, C_out, H, W)
        e = self.emb(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)                # (B, C_out, 1, 1) each
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        h = self.conv2(F.silu(h))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """x (B, C, H, W) -> x + f(x), of the same shape: every pixel attends to all pixels,
    softmax(q kᵀ/√hs) v, in C/hs heads of hs channels each. Before training, f is 0."""

    def __init__(self, C: int, hs: int = 32):
        super().__init__()
        self.hs = hs
        self.norm = nn.GroupNorm(8, C)
        self.qkv = nn.Linear(C, 3 * C)
        self.proj = zero_init(nn.Linear(C, C))

    def forward(self, x):
        B, C, H, W = x.shape
        n_head = C // self.hs
        h = self.norm(x).flatten(2).transpose(1, 2)         # (B, C, H, W) -> (B, HW, C)
        q, k, v = self.qkv(h).chunk(3, dim=2)               # (B, HW, C) each
        q = q.view(B, H * W, n_head, self.hs).transpose(1, 2)       # -> (B, nh, HW, hs)
        k = k.view(B, H * W, n_head, self.hs).transpose(1, 2)
        v = v.view(B, H * W, n_head, self.hs).transpose(1, 2)
        att = q @ k.transpose(2, 3) / math.sqrt(self.hs)    # (B, nh, HW, HW)
        att = F.softmax(att, dim=-1)
        h = att @ v                                         # (B, nh, HW, hs)
        h = h.transpose(1, 2).reshape(B, H * W, C)          # heads side by side again
        h = self.proj(h)
        return x + h.transpose(1, 2).view(B, C, H, W)


class CrossAttention(nn.Module):
    """Pixels x (B, C, H, W), words (B, L', D), mask (B, 1, 1, L') -> x + f(x), of the shape of x:
    every pixel attends to all words, softmax(q kᵀ/√hs + mask) v. L' = 1 + L. Before training, f is
    0."""

    def __init__(self, C: int, D: int, hs: int = 32):
        super().__init__()
        self.hs = hs
        self.norm = nn.GroupNorm(8, C)
        self.q = nn.Linear(C, C)
        self.kv = nn.Linear(D, 2 * C)
        self.proj = zero_init(nn.Linear(C, C))

    def forward(self, x, words, mask):
        B, C, H, W = x.shape
        L = words.size(1)
        n_head = C // self.hs
        h = self.norm(x).flatten(2).transpose(1, 2)         # (B, C, H, W) -> (B, HW, C)
        q = self.q(h)                                       # (B, HW, C)
        k, v = self.kv(words).chunk(2, dim=2)               # (B, L, C) each
        q = q.view(B, H * W, n_head, self.hs).transpose(1, 2)       # -> (B, nh, HW, hs)
        k = k.view(B, L, n_head, self.hs).transpose(1, 2)           # -> (B, nh, L, hs)
        v = v.view(B, L, n_head, self.hs).transpose(1, 2)
        att = q @ k.transpose(2, 3) / math.sqrt(self.hs)    # (B, nh, HW, L)
        att = F.softmax(att + mask, dim=-1)
        h = att @ v                                         # (B, nh, HW, hs)
        h = h.transpose(1, 2).reshape(B, H * W, C)          # heads side by side again
        h = self.proj(h)
        return x + h.transpose(1, 2).view(B, C, H, W)


class Upsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, 2H, 2W): each pixel is repeated to become 2 × 2. The
    convolution comes first, where it has a quarter of the pixels to work on."""

    def __init__(self, C_in: int, C_out: int):
        super().__init__()
        self.conv = nn.Conv2d(C_in, C_out, kernel_size=3, padding=1)

    def forward(self, x):
        return F.interpolate(self.conv(x), scale_factor=2, mode="nearest")


def widths_of_levels(cfg) -> list:
    """The channels at each level of the UNet: with --width=64 and four levels 64, 128, 256, 256."""
    return [min(2**level, 4) * cfg.width for level in range(cfg.levels)]


class UNet(nn.Module):
    """x_t (B, C, S, S), t (B,), words and mask of the TextEncoder -> the network's answer
    (B, C, S, S). A stage that enlarges is also given low (B, C, S/2, S/2), an image with as much
    noise as at the times aug_t (B,).

    For its shape, and for what differs from the authors' U-Net, see train_diffusion.py. New are
    CrossAttention on the way down, the vector of the prompt, and low beside x_t. As in the authors'
    U-Net, the lowest level has blocks of its own on both ways, besides those of the middle
    (without them drawn faces were further from real ones, see mini/studies/README.md). Images of
    sizes that are no multiples are refused (see check), not padded.
    """

    def __init__(self, cfg, C: int, S: int, enlarges: bool):
        super().__init__()
        width = cfg.width
        widths = widths_of_levels(cfg)
        lowest = widths[-1]
        E = 4 * width
        self.width = width
        # half as long a stage earlier, so that all stages have the same grid; but at least 1
        self.stem = max(1, cfg.stem * S // cfg.size)

        # time, level of the noise in low, and the prompt as a whole
        self.time = nn.Sequential(nn.Linear(width, E), nn.SiLU(), nn.Linear(E, E))
        self.prompt = nn.Linear(width, E, bias=False)
        if enlarges:
            self.aug = nn.Sequential(nn.Linear(width, E), nn.SiLU(), nn.Linear(E, E))

        # down, from the highest level to the lowest
        n_inputs = 2 if enlarges else 1                     # x_t, or x_t and low
        self.first = nn.Conv2d(n_inputs * C * self.stem**2, width, kernel_size=3, padding=1)
        self.down = nn.ModuleList()
        for level, w in enumerate(widths):
            block = ResBlock(w, w, E, cfg.scale_shift)
            cross = CrossAttention(w, D=width)
            if level < cfg.levels - 1:
                to_next = nn.Conv2d(w, widths[level + 1], kernel_size=3, stride=2, padding=1)
            else:
                to_next = nn.Identity()
            self.down.append(nn.ModuleList([block, cross, to_next]))

        # middle, at the lowest level
        self.middle1 = ResBlock(lowest, lowest, E, cfg.scale_shift)
        self.attention = Attention(lowest)
        self.middle2 = ResBlock(lowest, lowest, E, cfg.scale_shift)

        # up, to the highest level again
        self.up = nn.ModuleList()
        for level, w in reversed(list(enumerate(widths))):
            block = ResBlock(2 * w, w, E, cfg.scale_shift)  # w channels from below, w of the skip
            if level > 0:
                to_next = Upsample(w, widths[level - 1])
            else:
                to_next = nn.Identity()
            self.up.append(nn.ModuleList([block, to_next]))
        self.norm = nn.GroupNorm(8, width)
        self.last = zero_init(nn.Conv2d(width, C * self.stem**2, kernel_size=3, padding=1))

    def forward(self, x, t, words, mask, low=None, aug_t=None):
        # time, level of the noise in low, and the prompt as a whole
        e = self.time(time_embedding(t, self.width))        # (B, E)
        e = e + self.prompt(words[:, 0])                    # the vector of the whole prompt
        if low is not None:
            e = e + self.aug(time_embedding(aug_t, self.width))
            low = F.interpolate(low, scale_factor=2, mode="nearest")        # (B, C, S, S)
            x = torch.cat([x, low], dim=1)                  # (B, 2C, S, S)
        e = F.silu(e)

        # squares of stem × stem pixels become one pixel with more channels
        h = F.pixel_unshuffle(x, self.stem)

        # down
        h = self.first(h)
        skips = []
        for block, cross, to_next in self.down:
            h = block(h, e)
            h = cross(h, words, mask)
            skips.append(h)
            h = to_next(h)

        # middle
        h = self.middle1(h, e)
        h = self.attention(h)
        h = self.middle2(h, e)

        # up
        for block, to_next in self.up:
            h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, e)
            h = to_next(h)

        h = self.last(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.stem)                # -> (B, C, S, S)


# ---- a batch, and the loss. Random numbers are drawn on the CPU: the same for all devices.

def draw_times(B: int, cfg, rng):
    """Random times (B,), on the CPU. Each number from 1 to T is as probable as any other.

    If they are stratified, there is one in each of B equal parts of 1 … T, so that every batch has
    little noise and much (Kingma et al. 2021, "Variational Diffusion Models", §I.1).
    """
    if cfg.stratified:
        offset = torch.rand(1, generator=rng)               # the same for all
        u = (torch.arange(B) + offset) / B
    else:
        u = torch.rand(B, generator=rng)                    # from 0 to below 1
    t = 1 + (u * cfg.T).long()
    return t.clamp(max=cfg.T)                               # u may have been rounded to 1


def drop_prompts(prompts, p: float, rng):
    """Prompts (B, L); with probability p, all of a prompt becomes PAD. So the network learns to
    answer with prompts and without, as guidance needs (Ho & Salimans 2021, algorithm 1)."""
    drop = torch.rand(len(prompts), 1, generator=rng) < p
    return prompts.masked_fill(drop.to(prompts.device), Words.PAD)


def resize(x, S: int):
    """Images (B, C, H, H) -> (B, C, S, S): smaller by averaging, larger by bicubic interpolation.
    """
    if S <= x.size(2):
        return F.adaptive_avg_pool2d(x, S)
    return F.interpolate(x, S, mode="bicubic").clamp(-1, 1)


def get_batch(images, captions, B: int, k: int, cfg, schedule, rng):
    """A batch for stage k, from images uint8 (N, C, H, H) and captions (N, K, L): x0 (B, C, S, S)
    in [-1, 1], one of their captions (B, L), t (B,), and eps of the shape of x0. For a stage that
    enlarges also low (B, C, S/2, S/2), with its noise, and aug_t (B,); otherwise None and None."""
    device = images.device
    S = size_of_stage(cfg, k)
    i = torch.randint(len(images), (B,), generator=rng).to(device)
    x0 = resize(to_float(images[i]), S)
    which = torch.randint(captions.size(1), (B,), generator=rng).to(device)
    prompts = drop_prompts(captions[i, which], cfg.prompt_dropout, rng)
    t = draw_times(B, cfg, rng)
    eps = torch.randn(x0.shape, generator=rng).to(device)
    if k == 0:
        return x0, prompts, t, eps, None, None

    highest = int(cfg.max_aug_level * cfg.T)
    aug_t = torch.randint(highest + 1, (B,), generator=rng)
    low = resize(x0, S // 2)
    low_eps = torch.randn(low.shape, generator=rng).to(device)
    low = schedule.add_noise(low, low_eps, aug_t)
    return x0, prompts, t, eps, low, aug_t.to(device)


def diffusion_loss(unet, encoder, schedule, x0, prompts, t, eps, low=None, aug_t=None):
    """The mean of w_t (out − target)² over all numbers, for what get_batch returns."""
    words, mask = encoder(prompts)
    xt = schedule.add_noise(x0, eps, t)
    out = unet(xt, t.to(xt.device), words, mask, low, aug_t).float()    # (B, C, S, S)
    target = schedule.target(x0, eps, t)
    weight = schedule.loss_weight(t, x0)
    return (weight * (out - target) ** 2).mean()


@torch.no_grad()
def update_ema(ema, model, step: int, decay: float):
    """ema ← decay · ema + (1 − decay) · model, for parameters; buffers, if there are any, are
    copied.

    At first decay is step / (step + 10) (not in the paper): step 0 copies the model, and then the
    last tenth of the steps has some two thirds of the weight in the average, so that the start is
    soon forgotten. Once this is more than `decay`, it is `decay`.
    """
    decay = min(decay, step / (step + 10))
    for average, parameter in zip(ema.parameters(), model.parameters()):
        average.lerp_(parameter, 1 - decay)
    for average, buffer in zip(ema.buffers(), model.buffers()):
        average.copy_(buffer)


# ---- one step of sampling: from x_t to x_s, s < t, with the network's guess x0_hat of the image

def ddpm_step(schedule, xt, x0_hat, t: int, s: int, z, variance: str = "small"):
    """Line 4 of algorithm 2 in Ho et al. 2020, with new noise z ~ N(0, I). It is given x̂₀,
    whatever the network answers, and may go to any s < t:

        x_{t−1} = μ̃ + σ z       μ̃ = (√ᾱ_{t−1} β_t x̂₀ + √α_t (1 − ᾱ_{t−1}) x_t) / (1 − ᾱ_t)
                                  = (x_t − β_t ε̂ / √(1 − ᾱ_t)) / √α_t           (eqs. 7 and 11)

    The second line is the form in algorithm 2; ε̂ is what the noise in x_t is, if x̂₀ is right.
    Small variance: σ² is β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t): x_{t−1} is drawn from
    q(x_{t−1} | x_t, x̂₀). Large: σ² = β_t. To s < t − 1, all steps are taken as one, with
    α = ᾱ_t/ᾱ_s (Nichol & Dhariwal 2021, §4).
    """
    abar_t = schedule.abar[t].item()
    abar_s = schedule.abar[s].item()
    alpha = abar_t / abar_s                                 # α_t, if s = t − 1
    beta = 1 - alpha
    weight_of_x0 = math.sqrt(abar_s) * beta / (1 - abar_t)
    weight_of_xt = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
    mean = weight_of_x0 * x0_hat + weight_of_xt * xt        # μ̃
    if s == 0:
        return mean                                         # no noise on the image
    sigma2 = beta
    if variance == "small":
        sigma2 = beta * (1 - abar_s) / (1 - abar_t)         # β̃
    return mean + math.sqrt(sigma2) * z


def ddim_step(schedule, xt, x0_hat, t: int, s: int, z=0.0, eta: float = 0.0):
    """x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ε̂ + σ z (Song et al. 2021, "Denoising Diffusion Implicit
    Models", eq. 12): the guess x̂₀ with less noise than x_t has.

    ε̂ is the noise in x_t, if x̂₀ is right; it is computed from the two. With eta > 0, a part of it
    is replaced by new noise z ~ N(0, I): σ = eta times the standard deviation of ddpm_step, small
    (eq. 16). Even σ = 0 is allowed: if x̂₀ is right, x_s has the distribution q(x_s | x₀) with any
    σ, and training depends on nothing else.
    """
    abar_t = schedule.abar[t].item()
    abar_s = schedule.abar[s].item()
    eps_hat = (xt - math.sqrt(abar_t) * x0_hat) / math.sqrt(1 - abar_t)
    beta = 1 - abar_t / abar_s
    sigma = eta * math.sqrt(beta * (1 - abar_s) / (1 - abar_t))
    remaining = math.sqrt(max(0, 1 - abar_s - sigma**2))    # of the noise in x_t; never below 0
    return math.sqrt(abar_s) * x0_hat + remaining * eps_hat + sigma * z


def dpm_solver_step(schedule, xt, x0_hat, t: int, s: int, x0_before=None, t_before: int = 0):
    """ddim_step with a better guess (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling
    of Diffusion Probabilistic Models", algorithm 2).

    ddim_step takes x̂₀ as constant from t to s. Here it moves on along the straight line through
    the last two guesses, x0_before at t_before and x0_hat at t. The line is drawn over λ_t =
    ½ log(ᾱ_t / (1 − ᾱ_t)), which grows as noise is removed. Its value half-way to s takes the place
    of x̂₀:

        x̂₀ + (x̂₀ − x0_before) / (λ_t − λ_before) · h/2          h = λ_s − λ_t

    Over λ the exact solution is an integral of x̂₀ times a weight, and the middle stands for all of
    it. This is of second order: fewer steps are enough. The first step has no x0_before, and the
    last, to s = 0, has λ_s = ∞: both are plain ddim_steps.
    """
    if x0_before is not None and s > 0:
        lam_before = half_log_snr(schedule, t_before)
        lam_t = half_log_snr(schedule, t)
        lam_s = half_log_snr(schedule, s)
        slope = (x0_hat - x0_before) / (lam_t - lam_before)
        h = lam_s - lam_t
        x0_hat = x0_hat + slope * h / 2
    return ddim_step(schedule, xt, x0_hat, t, s)


def half_log_snr(schedule, t: int) -> float:
    """λ_t = ½ log(ᾱ_t / (1 − ᾱ_t)): half of the logarithm of the ratio of signal to noise."""
    abar = schedule.abar[t].item()
    return math.log(abar / (1 - abar)) / 2


# ---- sampling

def sample_times(T: int, steps: int) -> list:
    """steps + 1 times, evenly spread from T to 1, and 0 at the end."""
    times = torch.linspace(T, 1, steps, dtype=torch.float64).round().int().tolist()
    return [*times, 0]


def denoise(guess, x, schedule, cfg, rng):
    """From noise x = x_T (B, C, S, S) to images (B, C, S, S): the loop of the paper's algorithm 2,
    for any sampler. guess(x_t, t) returns x̂₀."""
    times = sample_times(schedule.T, cfg.sample_steps)
    x0_before = None
    t_before = 0
    for t, s in zip(times[:-1], times[1:]):
        x0_hat = guess(x, t)
        if cfg.sampler == "ddpm":
            x = ddpm_step(schedule, x, x0_hat, t, s, new_noise(x, rng), cfg.variance)
        elif cfg.sampler == "ddim":
            x = ddim_step(schedule, x, x0_hat, t, s, new_noise(x, rng), cfg.eta)
        elif cfg.sampler == "dpm":
            x = dpm_solver_step(schedule, x, x0_hat, t, s, x0_before, t_before)
        else:
            raise ValueError(f"unknown sampler: {cfg.sampler}")
        x0_before = x0_hat
        t_before = t
    return x


def new_noise(x, rng):
    """N(0, I) of the shape of x, drawn on the CPU."""
    return torch.randn(x.shape, generator=rng, dtype=x.dtype).to(x.device)


def predict_with_guidance(unet, schedule, xt, t: int, words, no_words, guidance: float,
                          low=None, aug_t=None):
    """x̂₀ (B, C, S, S) in [-1, 1]. words: vectors and mask of prompts; no_words: of empty prompts.

    Guidance moves the answer from the one without a prompt towards the one with it, or beyond it:
    uncond + guidance · (cond − uncond) (Ho & Salimans 2021, "Classifier-Free Diffusion Guidance",
    eq. 6, with guidance = 1 + w; why it may be used for x̂₀, see train_diffusion.py). Both see low.
    """
    times = torch.full((len(xt),), t, device=xt.device)     # (B,)
    if guidance == 1:
        out = unet(xt, times, *words, low, aug_t).float()   # cond alone: one call is enough
    elif guidance == 0:
        out = unet(xt, times, *no_words, low, aug_t).float()
    else:
        cond = unet(xt, times, *words, low, aug_t).float()
        uncond = unet(xt, times, *no_words, low, aug_t).float()
        out = uncond + guidance * (cond - uncond)
    x0_hat = schedule.predict_x0(out, xt, t)
    return x0_hat.clamp(-1, 1)


@torch.no_grad()
def generate_stage(unet, encoder, prompts, C: int, S: int, cfg, low=None, watch=None):
    """Images (B, C, S, S) in [-1, 1] of one stage, for prompts (B, L); with low (B, C, S/2, S/2) it
    enlarges these images. watch(x_t, x̂₀), if it is given, is called at each step."""
    schedule = make_schedule(cfg)
    B = len(prompts)
    seed = cfg.seed + 1000000 * S                           # each stage has noise of its own
    words = encoder(prompts)
    no_words = encoder(torch.full_like(prompts, Words.PAD))

    # noise on low, of the level that --aug_level says
    aug_t = None
    if low is not None:
        t = int(cfg.aug_level * cfg.T)
        eps = noise(B, low[0].numel(), seed + 2).view(low.shape).to(low)
        low = schedule.add_noise(low, eps, t)
        aug_t = torch.full((B,), t, device=low.device)

    def guess(xt, t):
        x0_hat = predict_with_guidance(unet, schedule, xt, t, words, no_words, cfg.guidance,
                                       low, aug_t)
        if watch:
            watch(xt, x0_hat)
        return x0_hat

    x_T = noise(B, C * S * S, seed).view(B, C, S, S).to(prompts.device)
    rng = torch.Generator().manual_seed(seed + 1)           # for noise on the way
    return denoise(guess, x_T, schedule, cfg, rng)


def generate(nets, prompts, C: int, cfg) -> list:
    """The images of each stage, (n, C, S, S) in [-1, 1], on the CPU, for prompts (n, L)."""
    drawn = []
    low = None
    for k, unet in enumerate(nets["unets"]):
        low = generate_stage(unet, nets["encoder"], prompts, C, size_of_stage(cfg, k), cfg, low)
        drawn.append(low.cpu())
    return drawn


# ---- settings

@dataclass
class Config(RunConfig):
    """More settings come from RunConfig: seed, device, matmul (the precision of products), compile,
    resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints)."""

    # data
    # faces, or your .tsv file: on each line an image's path, a tab, its caption
    data: str = "faces"
    size: int = 32              # height and width of the last stage's images in pixels
    n_images: int = 20000       # number of faces to draw for training

    # the noise
    T: int = 1000               # steps from image to noise
    schedule: Literal["cosine", "linear"] = "cosine"  # how ᾱ falls from 1 to 0
    # what the network predicts: the image, the noise (eps), or a mixture of both (v)
    predict: Literal["x0", "v", "eps"] = "x0"
    max_aug_level: float = 0.5  # highest level of noise on low in training, as a fraction of T

    # networks
    stages: int = 2             # diffusion models; each one's images are twice as high and wide
    width: int = 64             # channels at the highest resolution; then 2 ×, then 4 × as many
    levels: int = 2             # resolutions, each half of the one above; attention at the lowest
    # the last stage sees a square of stem × stem pixels as one pixel; in each one before it, the
    # side of the square is half as long, but at least 1
    stem: int = 2
    scale_shift: bool = True    # time and prompt scale and shift features (false: they only shift)
    n_layer: int = 2            # blocks of the text encoder; a word is a vector of width numbers

    # optimisation
    prompt_dropout: float = 0.1     # share of training images without their prompt
    stratified: bool = True     # spread the times in a batch evenly over 1 … T
    max_weight: float = 5.0     # upper limit of the weight of an error in x₀
    # optimiser steps, shared evenly by the stages; another number at --resume moves the border
    # between them, so keep it
    steps: int = 4000
    batch_size: int = 32        # images in a step
    # what trains the weights of hidden layers; Adam trains the rest, or everything
    optimizer: Literal["muon", "adam"] = "muon"
    muon_lr: float = 0.02       # Muon's peak learning rate
    lr: float = 4e-3            # Adam's peak learning rate
    warmup: int = 100           # a stage's steps in which the learning rates rise to their peak
    decay: bool = True          # then they fall to 0 in a straight line (false: they stay)
    beta2: float = 0.99         # of Adam: the weight of old squared gradients in their average
    ema: float = 0.995          # weight of the old average in the moving average of the weights

    # run
    out_dir: str = "runs/text_to_image"     # folder of the run
    # images to score, half of them of held-out prompts, half of unseen ones (0: 1,024, or
    # proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    # what to draw; | separates several prompts ("": anything; *: held-out captions)
    prompt: str = "*"
    n: int = 8                  # images for each prompt
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"  # DPM-Solver++, DDIM, or Ho et al.'s own
    sample_steps: int = 20      # steps from noise to image in each stage, at most T
    eta: float = 0.0            # for ddim: 0 adds no noise, 1 as much as ddpm, --variance=small
    # for ddpm: the variance of the noise that a step adds, β̃ (small) or β (large)
    variance: Literal["small", "large"] = "small"
    guidance: float = 2.0       # 0: ignore the prompt; 1: use it; above 1: exaggerate it
    # level of noise on low in sampling, as a fraction of T, at most max_aug_level
    aug_level: float = 0.35
    # the images, or four moments of each on its way from noise, in each stage
    show: Literal["samples", "stages"] = "samples"

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "T", "schedule", "predict", "max_aug_level", "stages", "width",
             "levels", "stem", "scale_shift", "n_layer", "prompt_dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # three stages, 16, 32 and 64 pixels, of larger networks: one GPU
    "gpu": dict(size=64, stages=3, width=128, levels=3, stem=1, n_layer=4, batch_size=128,
                steps=90000, optimizer="adam", lr=3e-4, warmup=1000, ema=0.9995),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "size", "stages", "width", "levels", "stem", "n_layer", "T", "n",
                     "batch_size", "max_weight", "lr", "muon_lr")
    require(cfg.width % 32 == 0, f"--width={cfg.width} must be a multiple of 32")
    require(cfg.size % 2 ** (cfg.stages - 1) == 0, f"--size={cfg.size} must be a multiple of "
            f"{2 ** (cfg.stages - 1)}, for --stages={cfg.stages}")
    multiple = 1
    for k in range(cfg.stages):             # each stage must be able to halve its images
        S = size_of_stage(cfg, k)
        stem = max(1, cfg.stem * S // cfg.size)
        multiple = math.lcm(multiple, cfg.size // S * stem * 2 ** (cfg.levels - 1))
    require(cfg.size % multiple == 0, f"--size={cfg.size} must be a multiple of {multiple}, for "
            "these --stages, --levels and --stem")
    require(cfg.sample_steps >= 1, f"--sample_steps={cfg.sample_steps} must be at least 1")
    require(0 <= cfg.prompt_dropout <= 1, f"--prompt_dropout={cfg.prompt_dropout}: from 0 to 1")
    require(0 <= cfg.eta <= 1, f"--eta={cfg.eta}: from 0 to 1")
    require(cfg.beta2 < 1, f"--beta2={cfg.beta2} must be below 1")
    for name in ("aug_level", "max_aug_level"):
        value = getattr(cfg, name)
        require(0 <= value < 1, f"--{name}={value} must be at least 0 and below 1")


def check_sampling(cfg):
    """Raise UserError for what a network cannot do. T and max_aug_level may be those of a trained
    one."""
    require(cfg.sample_steps <= cfg.T, f"--sample_steps={cfg.sample_steps}: from 1 to {cfg.T}")
    require(cfg.aug_level <= cfg.max_aug_level, f"--aug_level={cfg.aug_level}: at most "
            f"{cfg.max_aug_level}, the --max_aug_level of training")


def size_of_stage(cfg, k: int) -> int:
    """The height and width of the images of stage k, in pixels; the last one's are cfg.size."""
    return cfg.size // 2 ** (cfg.stages - 1 - k)


# ---- data

def load_data(cfg, checkpoint):
    """(vocabulary, parts, captions): the Words of all captions; a set of images to train on, a
    held-out set, and a set whose combinations of attributes are never trained on (left out if it is
    empty; see load_captions); and the numbers (N, K, L) of their captions' words. Raises UserError
    if a checkpoint has other words."""
    parts = [part for part in load_captions(cfg.data, cfg.size, cfg.n_images) if len(part.images)]
    texts = []                                              # of each part, N · K captions
    for part in parts:
        texts.append([text for captions in part.captions for text in captions])
    vocabulary = Words.of(sum(texts, []))
    require(not checkpoint or checkpoint["words"] == vocabulary.state(),
            "made with other captions; leave out --data")
    K = len(parts[0].captions[0])
    captions = [vocabulary.encode_all(of_part).unflatten(0, (-1, K)) for of_part in texts]
    return vocabulary, parts, captions


def read_prompts(cfg, vocabulary, examples, L: int):
    """(texts, prompts): the texts of --prompt, or the examples; and the numbers of their words,
    n rows of L for each text. Raises UserError for unknown words."""
    texts = examples if cfg.prompt == "*" else cfg.prompt.split("|")
    rows = []
    for text in texts:
        row = vocabulary.encode(text, L - 1) if text.strip() else []
        row = row + [Words.PAD] * (L - len(row))
        rows += [row] * cfg.n
    return texts, torch.tensor(rows)


# ---- training

def make_nets(cfg, C: int, V: int, L: int, checkpoint=None):
    """{"nets", "ema"}: the networks and the average of their weights, new or with the weights of a
    checkpoint; each {"encoder": of text, "unets": one for each stage}. V: number of words;
    L: length of the longest prompt."""
    torch.manual_seed(cfg.seed)
    encoder = TextEncoder(cfg, V, L)
    unets = nn.ModuleList()
    for k in range(cfg.stages):
        unets.append(UNet(cfg, C, size_of_stage(cfg, k), enlarges=k > 0))
    nets = nn.ModuleDict({"encoder": encoder, "unets": unets})
    ema = copy.deepcopy(nets).requires_grad_(False).eval()  # eval: if you add dropout, it is off
    both = nn.ModuleDict({"nets": nets, "ema": ema})
    if checkpoint:
        both.load_state_dict(checkpoint["model"])
    return both.to(pick_device(cfg.device), memory_format=torch.channels_last)


def make_optimizers(networks, cfg) -> list:
    """[Adam], or [Muon, Adam], for the networks of a stage: Muon for matrices and the kernels of
    convolutions; Adam for vectors, for the first and the last layer, and for embeddings (see
    train_diffusion.py)."""
    hidden = []
    others = []
    for network in networks:
        for name, parameter in network.named_parameters():
            by_adam = name.startswith(("first.", "last.", "embed.", "position."))
            if cfg.optimizer == "muon" and parameter.ndim >= 2 and not by_adam:
                hidden.append(parameter)
            else:
                others.append(parameter)
    adam = torch.optim.Adam(others, cfg.lr, (0.9, cfg.beta2))
    return [Muon(hidden, cfg.muon_lr, momentum=0.9), adam] if hidden else [adam]


def lr_factor(step: int, cfg) -> float:
    """What the peak learning rates are multiplied by: it rises to 1 in the first --warmup steps;
    with --decay it then falls to 0."""
    rising = (step + 1) / (cfg.warmup + 1)
    if not cfg.decay:
        return min(rising, 1)
    falling = (cfg.steps - step) / max(1, cfg.steps - cfg.warmup)
    return min(rising, falling)


def train(cfg: Config) -> dict:
    """Train the stages in turn; returns what result.json holds. Raises UserError for bad input."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "text_to_image", cfg.resume)
    check_sampling(cfg)
    device = pick_device(cfg.device)

    # images: uint8 (N, C, size, size), and their captions (N, K, L); the held-out ones only score
    vocabulary, parts, captions = load_data(cfg, checkpoint)
    train_set, held_out = parts[0], parts[1]
    images = train_set.images.to(device)
    train_captions = captions[0].to(device)
    C = images.size(1)
    L = max(of_part.size(2) for of_part in captions)
    shape = (C, cfg.size, len(vocabulary), L)
    check_shape(checkpoint, *shape)
    examples = [texts[0] for texts in held_out.captions[:8]]
    shown_texts, shown = read_prompts(cfg, vocabulary, examples, L)
    saved = dict(shape=shape, words=vocabulary.state(), examples=examples)

    # networks and optimisers; the text encoder learns with the first stage
    both = make_nets(cfg, C, len(vocabulary), L, checkpoint)
    nets, ema = both["nets"], both["ema"]
    optimizers = []                                                 # a list for each stage
    for k, unet in enumerate(nets["unets"]):
        learning = [unet, nets["encoder"]] if k == 0 else [unet]
        optimizers.append(make_optimizers(learning, cfg))
    all_optimizers = sum(optimizers, [])
    data_rng = torch.Generator().manual_seed(cfg.seed)              # for batches
    if checkpoint:
        restore(checkpoint, all_optimizers, data_rng)
    schedule = make_schedule(cfg)

    # a batch for each stage to validate with, always the same
    val_rng = torch.Generator().manual_seed(cfg.seed + 2)
    val_images = held_out.images.to(device)
    val_captions = captions[1].to(device)
    val_batches = [get_batch(val_images, val_captions, 256, k, cfg, schedule, val_rng)
                   for k in range(cfg.stages)]

    run = Run(cfg, "text_to_image", nets, ["stage", "loss", "lr", "val_loss"], checkpoint)
    with run:
        run.say(f"{len(images):,} images of {cfg.size} × {cfg.size}; {len(vocabulary)} words")
        for k in range(cfg.stages):
            first = cfg.steps * k // cfg.stages                     # the steps of this stage
            end = cfg.steps * (k + 1) // cfg.stages
            stage_cfg = replace(cfg, steps=end - first)
            model = nets["unets"][k]
            unet = torch.compile(model, dynamic=False) if cfg.compile else model
            # later stages read the average of what the text encoder has learnt
            encoder = nets["encoder"] if k == 0 else ema["encoder"]
            for step in range(max(run.first, first), end):
                # learning rates
                factor = lr_factor(step - first, stage_cfg)
                for optimizer in optimizers[k]:
                    optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]  # its peak

                # batch
                batch = get_batch(images, train_captions, cfg.batch_size, k, cfg, schedule,
                                  data_rng)

                # loss, backward, step. Products are in bfloat16, if that is faster on this device;
                # weights and the loss stay in float32.
                with autocast(device, cfg.matmul):
                    loss = diffusion_loss(unet, encoder, schedule, *batch)
                run.check_finite(step, loss=loss.item())            # NaN stops here
                nets.zero_grad(set_to_none=True)
                loss.backward()
                for optimizer in optimizers[k]:
                    optimizer.step()

                update_ema(ema["unets"][k], model, step - first, cfg.ema)
                if k == 0:
                    update_ema(ema["encoder"], encoder, step - first, cfg.ema)

                # evaluate, log, sample and save, each when it is due
                done = step + 1
                val_loss = None
                with run.untimed():                                 # this is not training time
                    if run.due(done, cfg.eval_every) or done == end:
                        val_loss = evaluate_loss(ema, schedule, k, val_batches[k])
                    if val_loss is not None or run.due(done, cfg.log_every):
                        run.log(done, stage=k + 1, loss=loss.item(), lr=factor * cfg.lr,
                                val_loss=val_loss)
                    if run.due(done, cfg.sample_every):
                        so_far = dict(encoder=ema["encoder"], unets=ema["unets"][:k + 1])
                        with autocast(device, cfg.matmul):
                            drawn = generate(so_far, shown.to(device), C, cfg)[-1]
                        picture = sheet(drawn, columns=cfg.n, row_names=shown_texts)
                        write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                    stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                    if stopping or val_loss is not None:
                        run.save(done, both, all_optimizers, data_rng, **saved)
                if stopping and done < cfg.steps:
                    return run.leave(done)                          # says how to resume

        # scores, each beside its baseline
        losses = [evaluate_loss(ema, schedule, k, val_batches[k]) for k in range(cfg.stages)]
        run.say(f"held-out losses {losses}")
        n, rows = score(ema, parts, captions, C, cfg, run.say)
        if rows:
            table = metrics.table(rows, {"mean", *train_set.attributes})
            run.say(f"how often the judge reads what the prompt says:\n{table}")
        else:
            run.say("no labels, no judge")
        return run.finish(val_loss=losses, n=n, scores=rows)        # result.json


# ---- scores

@torch.no_grad()
def evaluate_loss(nets, schedule, k: int, batch) -> float:
    """The loss of a batch of stage k."""
    return diffusion_loss(nets["unets"][k], nets["encoder"], schedule, *batch).item()


def score(nets, parts, captions, C: int, cfg, say):
    """(n, {row: scores}): what the judge says of n images drawn for held-out captions, and of n for
    captions with combinations that no training image has ("unseen"). Beside each stage's images:
    the real ones, made as small ("real"), and training images of other captions ("other faces").

    It is (0, {}) for images without attributes, which no judge can read.
    """
    if not parts[0].attributes:
        return 0, {}
    n = metrics.n_to_score(cfg, max(1024, cfg.n_test), "images") // 2
    judge = judge_of_faces(replace(cfg, n_test=n), n, cfg.n_images)
    n = judge.n
    if n == 0:
        return 0, {}
    device = pick_device(cfg.device)
    rows = {}
    for name, part, prompts in zip(("held out", "unseen"), parts[1:], captions[1:]):
        say(f"drawing {n} images, prompts {name}")
        real = to_float(part.images[-n:])                           # not those of judge.frechet
        labels = part.labels[-n:]
        with autocast(device, cfg.matmul):
            drawn = generate(nets, prompts[-n:, 0].to(device), C, cfg)
        for images in drawn:
            S = images.size(2)
            rows[f"{name}, {S}"] = judge_images(judge, images, labels)
            rows[f"{name}, {S}, real"] = judge_images(judge, resize(real, S), labels)
        others = to_float(judge.train_set.images[:n])
        rows[f"{name}, other faces"] = judge_images(judge, others, labels)
    return n, rows


def judge_images(judge, images, labels) -> dict:
    """{attribute: share of images (n, C, H, H) in which the judge reads the value in labels,
    "mean": the mean of these shares, "Fréchet": distance from held-out images}. labels: (n, number
    of attributes). Small images are enlarged first."""
    images = resize(images, judge.train_set.images.size(2))
    shares = judge.accuracy(images, labels)
    mean = sum(shares.values()) / len(shares)
    return {**shares, "mean": mean, "Fréchet": judge.frechet(images)}


# ---- using what was trained

def load(cfg):
    """(the averaged networks, config, checkpoint) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "text_to_image")
    check_sampling(cfg)
    C, _, V, L = checkpoint["shape"]
    return make_nets(cfg, C, V, L, checkpoint)["ema"], cfg, checkpoint


def sample(cfg: Config):
    """Draw n images for each prompt into samples/; or, with --show=stages, four moments of each on
    its way from noise, in each stage."""
    nets, cfg, checkpoint = load(cfg)
    C, _, _, L = checkpoint["shape"]
    device = pick_device(cfg.device)
    vocabulary = Words(checkpoint["words"])
    texts, prompts = read_prompts(cfg, vocabulary, checkpoint["examples"], L)
    prompts = prompts.to(device)
    with autocast(device, cfg.matmul):
        if cfg.show == "stages":
            from mini.studies import text_to_image  # only this picture needs it
            picture = text_to_image.show_stages(nets, texts, prompts, C, cfg)
        elif len(texts) == 1:                                       # all of them in one grid
            picture = sheet(generate(nets, prompts, C, cfg)[-1])
        else:                                                       # a row for each prompt
            picture = sheet(generate(nets, prompts, C, cfg)[-1], columns=cfg.n, row_names=texts)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    for text in texts:
        print(text.strip() or "no prompt")
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """What do guidance and more steps do; does the last stage enlarge better than interpolation?
    See mini/studies/text_to_image.py."""
    from mini.studies import text_to_image  # only this command needs it
    nets, cfg, checkpoint = load(cfg)
    return text_to_image.evaluate(nets, checkpoint, cfg)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    remedy = "lower --batch_size, --width, --n_layer, --size, --n_images or --n"
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory=remedy)


if __name__ == "__main__":
    main()
