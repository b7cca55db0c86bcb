"""DDPM: a network that has learnt to remove noise can draw images, starting from pure noise.

Forward: an image x₀ is turned into noise in T steps. Step t shrinks the image a little, and adds
Gaussian noise of variance β_t. The sum of independent Gaussian noises is Gaussian, and their
variances add up (to α_t (1 − ᾱ_{t−1}) + β_t = 1 − ᾱ_t), so x_t can be drawn from x₀ at once:

    q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t I)                   α_t = 1 − β_t
    q(x_t | x₀)      = N(√ᾱ_t x₀, (1 − ᾱ_t) I)                  ᾱ_t = α₁ α₂ ⋯ α_t

Training: a network, a U-Net, is shown x_t and the time t. It predicts ε, the noise that is mixed
into x_t; a hat marks a prediction:

    x_t  = √ᾱ_t x₀ + √(1 − ᾱ_t) ε           ε ~ N(0, I)
    loss = mean of (ε̂ − ε)²                 over images, times, noise and pixels

Sampling: begin with noise x_T, and take small steps down to x₀. Each removes a little of the
predicted noise, and adds some that is new, z ~ N(0, I), with a variance σ_t², such as β_t; only the
last, to x₀, adds none:

    x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε̂) / √α_t + σ_t z

Why so many steps? ε̂ is also a prediction of the image, x̂₀ = (x_t − √(1 − ᾱ_t) ε̂) / √ᾱ_t. For a
squared error the best one is the expected image, E[x₀ | x_t]: a mean of all images that x_t may
have come from, which is blurred. But it is good enough for one small step, and the next prediction,
from x_{t−1}, is a little sharper.

The file has four parts: DDPM, as in the paper; the network; what we add to the paper; settings and
the run. **The first part is the whole method**, with its training loop, in functions of a few
lines. The third adds what it takes to draw good images after minutes on a CPU, with the labels y
that you ask for, such as "red hair". Departures from the paper are listed there, and those of the
network in UNet.

Shapes: B images in a batch, C colours (within the network: channels), S × S pixels; V values that
labels can have, all together (red, blond, …, round glasses, …).

Paper: Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models",
https://arxiv.org/abs/2006.11239.

    python train_diffusion.py                                   faces, drawn on the spot
    python train_diffusion.py --data=my_pictures                your own folder of images
    python train_diffusion.py sample --hair=red --guidance=3    faces as you describe them
    python train_diffusion.py sample --show=reverse             from noise to image; or forward,
                                                                walk, inpaint
    python train_diffusion.py evaluate                          compares samplers, steps, guidance
    python train_diffusion.py ddpm                              part one alone

Measured times and scores: README.md. Read next: mini/text_to_image.py.
"""
import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# images and their labels, the command line, devices, the scores of images, the folder of a run:
# this file can be followed without reading them. one_hot(labels, attributes) is (N, V): 1 at the
# values that an image has, 0 elsewhere. to_float turns uint8 into [-1, 1]. noise(n, k, seed) are n
# rows of k normal random numbers, which only depend on the seed. sheet lays images out in a grid.
# Judge is a classifier that reads the labels off drawn images. Muon is an optimiser of matrices.
from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, data_parallel, my_share, pick_device, start_processes
from mini.utils.image_metrics import image_report
from mini.utils.images import noise, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.optim import Muon
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ==== part one: DDPM, as in the paper

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


# ---- training: algorithm 1

# Where the loss comes from. The network defines a distribution of images, over all ways from noise:
#
#     p(x₀) = ∫ p(x_T) p(x_{T−1} | x_T) ⋯ p(x₀ | x₁) dx₁ … dx_T           p(x_T) = N(0, I)
#
# It should make real images probable. As for a VAE, −log p(x₀) itself cannot be computed, but it is
# bounded by a mean over noisy images x₁, …, x_T made from x₀ (Jensen's inequality):
#
#     −log p(x₀) ≤ mean of  −log p(x_T) − Σ_t log [p(x_{t−1} | x_t) / q(x_t | x_{t−1})]   (eq. 3)
#
# x_t depends on x₀ through x_{t−1} alone. So, by Bayes' rule, q(x_t | x_{t−1}) is
# q(x_{t−1} | x_t, x₀) q(x_t | x₀) / q(x_{t−1} | x₀), for t ≥ 2, and in the sum over t most factors
# q(x_t | x₀) cancel. What is left (the paper's appendix A):
#
#                 =  mean of  L_T + L_{T−1} + ⋯ + L₁ + L₀                 (eq. 5)
#     L_T     = KL( q(x_T | x₀) ‖ p(x_T) )            there is nothing to learn
#     L_{t−1} = KL( q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t) )             for t = 2, …, T
#     L₀      = −log p(x₀ | x₁)                       nearly as the others (eq. 13 and §3.4)
#
# L_{t−1} compares two normal distributions of x_{t−1}. The true one is proportional to
# q(x_t | x_{t−1}) q(x_{t−1} | x₀), whose exponents add up to a square again: 1/β̃_t is the sum
# α_t/β_t + 1/(1 − ᾱ_{t−1}). For the network's the paper chooses the same mean, but with x̂₀ for x₀,
# which it cannot see, and a variance that is not learnt. (Without x₀, q(x_{t−1} | x_t) is nearly
# normal only if β_t is small. Hence the many steps.)
#
#     q(x_{t−1} | x_t, x₀) = N(μ̃, β̃_t I)                                  (eqs. 6 and 7)
#                      μ̃   = (√ᾱ_{t−1} β_t x₀ + √α_t (1 − ᾱ_{t−1}) x_t) / (1 − ᾱ_t)
#                      β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)
#     p(x_{t−1} | x_t)     = N(μ, σ_t² I)              μ is μ̃ with x̂₀ for x₀
#                      μ   = (x_t − β_t/√(1 − ᾱ_t) ε̂) / √α_t              (eq. 11)
#
# The last line is μ̃ with x̂₀ = (x_t − √(1 − ᾱ_t) ε̂) / √ᾱ_t for x₀. In the same way x₀ comes from
# ε, so x̂₀ − x₀ = −√(1 − ᾱ_t)/√ᾱ_t (ε̂ − ε), and the means differ by a multiple of ε̂ − ε:
#
#     L_{t−1} = |μ̃ − μ|² / 2σ_t² + constant           σ_t² is fixed       (eq. 8)
#             = β_t² / (2σ_t² α_t (1 − ᾱ_t)) · |ε̂ − ε|² + constant        (eq. 12)
#
# The paper has 1 in place of this weight: L_simple = |ε̂ − ε|² (eq. 14). It drew better images
# (table 2), though the bound is a little larger then (table 1): times with little noise count less,
# so that the network learns more of the harder ones (§3.4).

def ddpm_loss(net, schedule, x0):
    """L_simple for images x0 (B, C, S, S) in [−1, 1], each with a random time and random noise:
    lines 3 to 5 of algorithm 1. net(x_t, t) returns ε̂."""
    t = torch.randint(1, schedule.T + 1, (len(x0),))        # line 3: (B,), from 1 to T
    eps = torch.randn_like(x0)                              # line 4
    xt = schedule.add_noise(x0, eps, t)
    eps_hat = net(xt, t.to(xt.device))                      # line 5
    return ((eps_hat - eps) ** 2).mean()


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


def ddpm_train(net, schedule, images, steps: int, batch_size: int = 128, lr: float = 2e-4):
    """Trains net on images (N, C, S, S) in [−1, 1]: algorithm 1, with the paper's batch size and
    learning rate (appendix B). Returns the network with the average of the weights (see
    update_ema), as the paper's images are drawn by."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    ema = copy.deepcopy(net).eval()                         # if you add dropout, it is off here
    for step in range(steps):                               # line 1
        i = torch.randint(len(images), (batch_size,))       # line 2
        loss = ddpm_loss(net, schedule, images[i])          # lines 3 to 5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_ema(ema, net, step, decay=0.9999)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    return ema


# ---- sampling: algorithm 2

@torch.no_grad()
def ddpm_sample(net, schedule, x):
    """Algorithm 2: from noise x = x_T (B, C, S, S) to images x₀ (B, C, S, S). In each of T steps

        x_{t−1} = μ + √β_t z            μ = (x_t − β_t/√(1 − ᾱ_t) ε̂) / √α_t             (eq. 11)

    The variance σ_t² = β_t would be right if the images themselves were N(0, I), and β̃_t if there
    were one image only (§3.2). They are nearly the same, except in the last dozen steps.
    """
    for t in range(schedule.T, 0, -1):
        abar = schedule.abar[t].item()
        alpha = abar / schedule.abar[t - 1].item()          # α_t
        beta = 1 - alpha
        times = torch.full((len(x),), t, device=x.device)   # (B,)
        eps_hat = net(x, times)
        mean = (x - beta / math.sqrt(1 - abar) * eps_hat) / math.sqrt(alpha)
        z = torch.randn_like(x)
        if t == 1:
            z = 0                                           # no noise on the image
        x = mean + math.sqrt(beta) * z
    return x


# That is all. With images (N, 3, 32, 32) in [−1, 1] these lines learn and draw:
#
#     schedule = NoiseSchedule(linear_abar(1000))
#     net = UNet(Config(), C=3, S=32, V=0)                # part two; V = 0: without labels
#     net = ddpm_train(net, schedule, images, steps=4000)
#     drawn = ddpm_sample(net, schedule, torch.randn(16, 3, 32, 32))
#
# The command `python train_diffusion.py ddpm` does so, with batches of 32 and a rate of 1e-3 (see
# draw_by_ddpm in part four). As in the paper, but not in its authors' code, no x̂₀ is clipped.


# ==== part two: the network

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
    """x_t (B, C, S, S), t (B,), labels y (B, V) -> the network's answer (B, C, S, S).

    It goes down to a low resolution, where attention sees the whole image, and up again. On the way
    up, each level is also given its features from the way down (the skips), so that no detail of
    the image is lost.

    y has a 1 for each value that the image has (red hair, round glasses, …). If all are 0, or there
    is no y, nothing is said about the image.

    Departures from the authors' U-Net. Those with a flag are undone by --preset=paper:

                    ours                                    theirs
        --width     48 channels at the highest level        128
        --levels    2                                       4
        --stem      a square of 2 × 2 pixels is one pixel   each pixel by itself
        --scale_shift  time scales and shifts features      time shifts them

        blocks      one down and one up at each level, and  two, three, and three skips
                    one skip; the lowest has the middle's
        attention   in the middle; heads of 32 channels     also at 16 × 16; one head
        channels    width × 1, 2, 4, 4                      width × 1, 2, 2, 2
        between     convolutions change the number of       blocks change it; they enlarge, then
        levels      channels; Upsample convolves, then      convolve
                    enlarges
        norms       8 groups of channels                    32
        dropout     none                                    0.1
    """

    def __init__(self, cfg, C: int, S: int, V: int):
        super().__init__()
        width = cfg.width
        widths = widths_of_levels(cfg)
        lowest = widths[-1]
        E = 4 * width
        require(width % 8 == 0, f"--width={width} must be a multiple of 8, the groups of a norm")
        require(lowest % 32 == 0, f"--width={width} with --levels={cfg.levels}: the lowest level "
                f"has {lowest} channels, not a multiple of 32, those of a head of attention")
        self.width = width
        self.stem = cfg.stem
        # forward pads images until their side is a multiple of this, so that each level has exactly
        # half the side of the one above
        self.multiple = cfg.stem * 2 ** (cfg.levels - 1)
        require(S >= self.multiple, f"--levels={cfg.levels} with --stem={cfg.stem}: images of {S} "
                "pixels are too small to be halved so often, and would mostly be padding")

        # time and labels
        self.time = nn.Sequential(nn.Linear(width, E), nn.SiLU(), nn.Linear(E, E))
        self.label = nn.Linear(V, E, bias=False) if V > 0 else None     # a vector for each value

        # down, from the highest level to the lowest
        self.first = nn.Conv2d(C * cfg.stem**2, width, kernel_size=3, padding=1)
        self.down = nn.ModuleList()
        for w, w_below in zip(widths[:-1], widths[1:]):
            block = ResBlock(w, w, E, cfg.scale_shift)
            downsample = nn.Conv2d(w, w_below, kernel_size=3, stride=2, padding=1)
            self.down.append(nn.ModuleList([block, downsample]))

        # middle, at the lowest level
        self.middle1 = ResBlock(lowest, lowest, E, cfg.scale_shift)
        self.attention = Attention(lowest)
        self.middle2 = ResBlock(lowest, lowest, E, cfg.scale_shift)

        # up, to the highest level again
        self.up = nn.ModuleList()
        for w, w_below in reversed(list(zip(widths[:-1], widths[1:]))):
            upsample = Upsample(w_below, w)
            block = ResBlock(2 * w, w, E, cfg.scale_shift)  # w channels from below, w of the skip
            self.up.append(nn.ModuleList([upsample, block]))
        self.norm = nn.GroupNorm(8, width)
        self.last = zero_init(nn.Conv2d(width, C * cfg.stem**2, kernel_size=3, padding=1))

    def forward(self, x, t, y=None):
        # time and labels
        e = self.time(time_embedding(t, self.width))        # (B, E)
        if self.label is not None and y is not None:
            e = e + self.label(y)
        e = F.silu(e)

        # squares of stem × stem pixels become one pixel with more channels
        S = x.size(2)
        x = pad(x, self.multiple)                           # -> (B, C, S', S'), the padded side
        h = F.pixel_unshuffle(x, self.stem)                 # -> (B, C·stem², S'/stem, S'/stem)

        # down; with the defaults (B, 48, 16, 16) -> (B, 96, 8, 8)
        h = self.first(h)
        skips = []
        for block, downsample in self.down:
            h = block(h, e)
            skips.append(h)
            h = downsample(h)

        # middle
        h = self.middle1(h, e)
        h = self.attention(h)
        h = self.middle2(h, e)

        # up, to (B, 48, 16, 16) again
        for upsample, block in self.up:
            h = upsample(h)
            h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, e)

        h = self.last(F.silu(self.norm(h)))
        out = F.pixel_shuffle(h, self.stem)                 # -> (B, C, S', S')
        return out[:, :, :S, :S]                            # without the padding


def pad(x, multiple: int):
    """Images (B, C, S, S) with their edges repeated at the right and below, until S is a multiple
    of `multiple`."""
    missing = -x.size(2) % multiple         # up to the next multiple
    if missing == 0:
        return x
    return F.pad(x, (0, missing, 0, missing), mode="replicate")


# To try another network, replace the class UNet by one of the same name that is made and called in
# the same way, UNet(cfg, C, S, V) and net(x_t, t, y). Its settings stand in Config; Config.fixed,
# PRESETS and check name them. Keep width, which tests set. Muon trains all matrices, except those
# of layers called first and last (see make_optimizers).


# ==== part three: what we add to the paper

# The run in part four uses what follows, in place of the functions of part one. These departures
# from the paper are undone by --preset=paper (add --data=cifar10 for its images):
#
#     --predict           the network answers x₀, not ε: an error in ε is √((1 − ᾱ_t)/ᾱ_t) times as
#                         large in x₀. (In the paper's many small steps x̂₀ has little weight; there
#                         answering x₀ was worse in early trials, §3.2.)
#     --max_weight        L_simple weighs errors in x₀ by ᾱ_t / (1 − ᾱ_t); ours by 1 / (1 − ᾱ_t), at
#                         most 5. (Without a limit, this network draws far worse.)
#     --schedule          ᾱ_t falls along a cosine: small images are gone too soon if β_t rises in a
#                         straight line
#     --stratified        the times in a batch are spread evenly over 1 … T: the loss is steadier
#     --label_dropout     the network is told the labels of the images, but not of all: so sampling
#                         can ask for labels, do without them, or exaggerate them (--guidance)
#     --sampler           DPM-Solver++, which takes 20 steps (--sample_steps), not 1,000
#     --optimizer         Muon, with larger learning rates (--lr, --muon_lr) that soon reach their
#                         peak (--warmup) and fall to 0 in the end (--decay); shorter averages
#                         (--beta2, --ema); batches of 32 (--batch_size): for good images after
#                         minutes on two cores. (The paper's model of CIFAR-10 learnt for 10.6 hours
#                         on eight TPU cores, appendix B.)
#
# What the first four bring is measured in mini/studies/README.md. --preset=paper also draws with
# the larger variance.
#
# These departures stay: what UNet lists without a flag, what is said in abar_from_betas,
# linear_abar, update_ema and predict_with_guidance, and --matmul, products in bfloat16. The authors
# also flip most images at random (appendix B), and their code clips gradients.

# ---- another schedule

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


# ---- what the network answers

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
# (`evaluate` tries every sampler that is named there.)

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


def drop_labels(y, p: float, rng):
    """Labels (B, V); with probability p, all of an image's labels become 0. So the network learns
    to answer with labels and without, as guidance needs (Ho & Salimans 2021, algorithm 1)."""
    keep = torch.rand(len(y), 1, generator=rng) >= p
    return y * keep.to(y.device)


def get_batch(images, labels, B: int, cfg, rng):
    """x0 (B, C, S, S) in [-1, 1], y (B, V), t (B,) and eps (B, C, S, S), of images uint8
    (N, C, S, S) and their labels (N, V)."""
    i = torch.randint(len(images), (B,), generator=rng).to(images.device)
    x0 = to_float(images[i])
    y = drop_labels(labels[i], cfg.label_dropout, rng)
    t = draw_times(B, cfg, rng)
    eps = torch.randn(x0.shape, generator=rng).to(x0.device)
    return x0, y, t, eps


def diffusion_loss(net, schedule, x0, y, t, eps):
    """The mean of w_t (out − target)² over all numbers, for what get_batch returns: ddpm_loss for
    any answer of the network, and with labels. (The two are the same if the network answers ε, and
    has no labels; get_batch has drawn t and ε.)"""
    xt = schedule.add_noise(x0, eps, t)
    out = net(xt, t.to(xt.device), y).float()               # (B, C, S, S)
    target = schedule.target(x0, eps, t)
    weight = schedule.loss_weight(t, x0)
    return (weight * (out - target) ** 2).mean()


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


def predict_with_guidance(net, schedule, xt, t: int, y, guidance: float):
    """x̂₀ (B, C, S, S) in [-1, 1], for labels y (B, V).

    Guidance moves the answer from the one without labels towards the one with labels, or beyond it:
    uncond + guidance · (cond − uncond) (Ho & Salimans 2021, "Classifier-Free Diffusion Guidance",
    eq. 6, with guidance = 1 + w). It is stated for ε. For x̂₀ and v it is the same, since they are
    affine functions of ε̂, and the two weights, guidance and 1 − guidance, add up to 1.

    As in the authors' code, not in the paper, x̂₀ is kept in the range of images.
    """
    times = torch.full((len(xt),), t, device=xt.device)     # (B,)
    no_labels = torch.zeros_like(y)
    if guidance == 1:
        out = net(xt, times, y).float()                     # cond alone: one call is enough
    elif guidance == 0:
        out = net(xt, times, no_labels).float()
    else:
        cond = net(xt, times, y).float()
        uncond = net(xt, times, no_labels).float()
        out = uncond + guidance * (cond - uncond)
    x0_hat = schedule.predict_x0(out, xt, t)
    return x0_hat.clamp(-1, 1)


@torch.no_grad()
def generate(net, y, C: int, S: int, cfg):
    """Images (n, C, S, S) in [-1, 1], on the CPU, for labels y (n, V). cfg.seed sets the noise."""
    schedule = make_schedule(cfg)
    x_T = noise(len(y), C * S * S, cfg.seed).view(-1, C, S, S).to(y.device)
    rng = torch.Generator().manual_seed(cfg.seed + 1)       # for noise on the way

    images = []
    for x, labels in zip(x_T.split(128), y.split(128)):     # 128 at once, to save memory
        def guess(xt, t):
            return predict_with_guidance(net, schedule, xt, t, labels, cfg.guidance)

        images.append(denoise(guess, x, schedule, cfg, rng).cpu())
    return torch.cat(images)


# ---- the average of the weights, optimisers, learning rates

def make_optimizers(model, cfg) -> list:
    """[Adam], or [Muon, Adam]: Muon for matrices and the kernels of convolutions; Adam for vectors,
    and for the first and the last layer, as Muon's authors advise (Jordan et al. 2024, "Muon: an
    optimizer for hidden layers in neural networks"; they also leave embeddings to Adam. We train
    those of labels by Muon)."""
    hidden = []
    others = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2
        if cfg.optimizer == "muon" and is_matrix and not name.startswith(("first.", "last.")):
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


def set_learning_rate(optimizers: list, factor: float):
    """Each optimiser's peak learning rate, multiplied by factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * optimizer.defaults["lr"]


# ==== part four: settings, and the run

@dataclass
class Config(LabelConfig):
    """More settings come from LabelConfig: seed, device, matmul (the precision of products),
    compile, resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints);
    and what to draw: hair, style, skin, glasses, mouth, background, label."""

    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training

    # the noise
    T: int = 1000               # steps from image to noise
    schedule: Literal["cosine", "linear"] = "cosine"  # how ᾱ falls from 1 to 0
    # what the network predicts: the image, the noise (eps), or a mixture of both (v)
    predict: Literal["x0", "v", "eps"] = "x0"

    # network
    width: int = 48             # channels at the highest resolution; then 2 ×, then 4 × as many
    levels: int = 2             # resolutions, each half of the one above; attention at the lowest
    stem: int = 2               # the network sees a square of stem × stem pixels as one pixel
    scale_shift: bool = True    # time and labels scale and shift features (false: they only shift)

    # optimisation
    label_dropout: float = 0.1  # share of training images without their labels (1: all)
    stratified: bool = True     # spread the times in a batch evenly over 1 … T
    max_weight: float = 5.0     # upper limit of the weight of an error, if x₀ is predicted
    steps: int = 4400           # optimiser steps
    batch_size: int = 32        # images in a step, over all processes
    # what trains the weights of hidden layers; Adam trains the rest, or everything
    optimizer: Literal["muon", "adam"] = "muon"
    muon_lr: float = 0.02       # Muon's peak learning rate
    lr: float = 4e-3            # Adam's peak learning rate
    warmup: int = 100           # steps in which the learning rates rise to their peak
    decay: bool = True          # then they fall to 0 in a straight line (false: they stay)
    beta2: float = 0.99         # of Adam: the weight of old squared gradients in their average
    ema: float = 0.995          # weight of the old average in the moving average of the weights

    # run
    out_dir: str = "runs/diffusion"     # folder of the run
    # images to score (0: 512, or proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    n: int = 64                 # images in a grid
    sampler: Literal["dpm", "ddim", "ddpm"] = "dpm"  # DPM-Solver++, DDIM, or the paper's own
    sample_steps: int = 20      # steps from noise to image, at most T
    eta: float = 0.0            # for ddim: 0 adds no noise, 1 as much as ddpm with small variance
    # for ddpm: the variance of the noise that a step adds, β̃ (small) or β (large)
    variance: Literal["small", "large"] = "small"
    guidance: float = 1.0       # 0: ignore the labels; 1: use them; above 1: exaggerate them
    show: Literal["samples", "forward", "reverse", "walk", "inpaint"] = "samples"  # what to draw
    image: str = ""             # for inpaint: your picture ("": held-out images)
    mask: str = ""              # for inpaint: a picture, white where to draw ("": the lower half)

    # Not a setting (it has no type): the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "T", "schedule", "predict", "width", "levels", "stem",
             "scale_shift", "label_dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # Ho et al. 2020: their noise, loss, rates and sampler for images of 32 × 32; for a GPU. The
    # network has their width and levels, but is ours in the rest (see UNet). No image has its
    # labels (label_dropout), as in the paper; for its images add --data=cifar10.
    "paper": dict(schedule="linear", predict="eps", width=128, levels=4, stem=1, scale_shift=False,
                  label_dropout=1.0, stratified=False, steps=800000, batch_size=128,
                  optimizer="adam", lr=2e-4, warmup=5000, decay=False, beta2=0.999, ema=0.9999,
                  sampler="ddpm", sample_steps=1000, variance="large"),
    # larger networks: one GPU
    "gpu": dict(width=128, levels=3, stem=1, batch_size=128, steps=40000, optimizer="adam", lr=3e-4,
                warmup=1000, ema=0.9995),
    "gpu64": dict(size=64, width=128, levels=4, stem=1, batch_size=128, steps=40000,
                  optimizer="adam", lr=3e-4, warmup=1000, ema=0.9995),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense. What depends on the images
    is checked in UNet, and the number of processes in train."""
    require_positive(cfg, "width", "levels", "stem", "T", "n", "batch_size", "max_weight",
                     "lr", "muon_lr")
    require(cfg.levels <= 10, f"--levels={cfg.levels}: at most 10")
    require(0 <= cfg.label_dropout <= 1, f"--label_dropout={cfg.label_dropout}: from 0 to 1")
    require(cfg.sample_steps >= 1, f"--sample_steps={cfg.sample_steps} must be at least 1")
    require(0 <= cfg.eta <= 1, f"--eta={cfg.eta}: from 0 to 1")
    require(cfg.beta2 < 1, f"--beta2={cfg.beta2} must be below 1")


def check_sample_steps(cfg):
    """Raise UserError if there are more steps than times. (Not in check, since T may still be
    replaced by that of a trained network.)"""
    require(cfg.sample_steps <= cfg.T, f"--sample_steps={cfg.sample_steps}: from 1 to {cfg.T}")


# ---- training

def make_nets(cfg, C: int, S: int, attributes: dict, checkpoint=None):
    """{"net", "ema"}: the network and the average of its weights, new or with the weights of a
    checkpoint. attributes: {name: its values}. The seed says what the new weights are."""
    torch.manual_seed(cfg.seed)
    V = sum(len(values) for values in attributes.values())
    net = UNet(cfg, C, S, V)
    ema = copy.deepcopy(net).requires_grad_(False).eval()   # eval: if you add dropout, it is off
    nets = nn.ModuleDict({"net": net, "ema": ema})
    if checkpoint:
        nets.load_state_dict(checkpoint["model"])
    device = pick_device(cfg.device)
    return nets.to(device, memory_format=memory_layout(device))


def memory_layout(device):
    """The order of images and kernels in memory. Channels last is faster for convolutions on CUDA;
    on a CPU, GroupNorm in bfloat16 is then several times slower."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: with --resume, those of the run, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "diffusion", cfg.resume)
    check_sample_steps(cfg)
    device = pick_device(cfg.device)
    rank, world = start_processes(device)                   # 0, 1 if there is no torchrun
    require(cfg.batch_size % world == 0,
            f"--batch_size={cfg.batch_size} must be a multiple of {world} processes")

    # images: uint8 (N, C, S, S), and their labels (N, V); the held-out ones are for scores only
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    attributes = train_set.attributes if cfg.label_dropout < 1 else {}      # {}: no labels
    images = train_set.images.to(device)
    labels = one_hot(train_set.labels, attributes).to(device)
    N, C, S, _ = images.shape
    check_shape(checkpoint, C, S, attributes)

    # network and optimisers
    nets = make_nets(cfg, C, S, attributes, checkpoint)
    model, ema = nets["net"], nets["ema"]
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)      # for batches; alike in all processes
    if checkpoint:
        restore(checkpoint, optimizers, data_rng)
    schedule = make_schedule(cfg)

    # the network as training calls it
    net = torch.compile(model) if cfg.compile else model
    net = data_parallel(net)

    # a batch to validate with, always the same (some of its labels are dropped, as in training);
    # the labels of samples
    val_rng = torch.Generator().manual_seed(cfg.seed + 2)
    held_out_labels = one_hot(held_out.labels, attributes).to(device)
    val_batch = get_batch(held_out.images.to(device), held_out_labels, 256, cfg, val_rng)
    shown = one_hot(draw_labels(cfg, attributes, cfg.n), attributes).to(device)

    # the judge will score the images; run keeps the folder out_dir
    judge = Judge(cfg, train_set, held_out, n=512)
    run = Run(cfg, "diffusion", model, ["loss", "lr", "val_loss"], checkpoint, rank)
    with run:
        known = ", ".join(attributes) or "none"
        run.say(f"{N:,} images of {S} × {S} to learn from; labels: {known}")
        for step in range(run.first, cfg.steps):
            # learning rates
            factor = lr_factor(step, cfg)
            set_learning_rate(optimizers, factor)

            # batch; of several processes, each takes a part
            batch = get_batch(images, labels, cfg.batch_size, cfg, data_rng)
            batch = my_share(*batch)

            # loss, backward, step. Products are in bfloat16, if that is faster on this device;
            # weights and the loss stay in float32.
            with autocast(device, cfg.matmul):
                loss = diffusion_loss(net, schedule, *batch)
            run.check_finite(step, loss=loss.item())                # NaN stops here
            model.zero_grad(set_to_none=True)
            loss.backward()
            with autocast(device, cfg.matmul):
                for optimizer in optimizers:
                    optimizer.step()                                # Muon multiplies matrices, too

            update_ema(ema, model, step, cfg.ema)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            val_loss = None
            with run.untimed():                                     # this is not training time
                if run.due(done, cfg.eval_every):
                    val_loss = evaluate_loss(ema, schedule, val_batch)
                if val_loss is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr, val_loss=val_loss)
                if run.due(done, cfg.sample_every) and rank == 0:
                    with autocast(device, cfg.matmul):
                        picture = sheet(generate(ema, shown, C, S, cfg))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stopping = run.stopping(done)                       # after Ctrl-C, or --stop_after
                if stopping or val_loss is not None:
                    run.save(done, nets, optimizers, data_rng, shape=(C, S, attributes))
            if stopping and done < cfg.steps:
                return run.leave(done)                              # says how to resume

        # scores, each beside its baseline
        val_loss = evaluate_loss(ema, schedule, val_batch)
        if judge.n > 0:                                             # there are labels in the data
            run.say(f"drawing {judge.n} images to be scored")
        scores = score(ema, judge, held_out_labels, C, S, attributes, cfg)
        run.say(f"held-out loss {val_loss:.4f}\n{image_report(scores)}")
        return run.finish(val_loss=val_loss, **scores)              # result.json


# ---- scores

@torch.no_grad()
def evaluate_loss(net, schedule, batch) -> float:
    """The loss of a batch, computed in float32. To be compared only between runs with the same
    --predict, --max_weight, --schedule and --label_dropout: these change what the loss counts."""
    return diffusion_loss(net, schedule, *batch).item()


def score(net, judge, held_out_labels, C: int, S: int, attributes, cfg) -> dict:
    """The judge's scores of images drawn for held-out labels, and, as a baseline, of images that an
    untrained network draws for the same labels (plain grey, if it answers x₀)."""
    if judge.n == 0:
        return {}
    y = held_out_labels[:judge.n]
    untrained = make_nets(cfg, C, S, attributes)["net"]             # the same seed: as at the start
    with autocast(pick_device(cfg.device), cfg.matmul):
        drawn = generate(net, y, C, S, cfg)
        drawn_untrained = generate(untrained, y, C, S, cfg)
    return judge.scores(drawn, drawn_untrained, judge.labels if attributes else None)


# ---- using what was trained

def load(cfg):
    """(the averaged network, config, (C, S, attributes)) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "diffusion")
    check_sample_steps(cfg)
    require(len(checkpoint["shape"]) == 3, "made by an older version of this file; train anew")
    C, S, attributes = checkpoint["shape"]
    return make_nets(cfg, C, S, attributes, checkpoint)["ema"], cfg, (C, S, attributes)


def sample(cfg: Config):
    """Draw n images into samples/: attributes that no flag asks for are random. Or another picture,
    as --show says: see mini/studies/diffusion.py."""
    net, cfg, (C, S, attributes) = load(cfg)
    if cfg.show != "samples":
        from mini.studies import diffusion  # only these pictures need it
        picture = diffusion.show(net, C, S, attributes, cfg)
    else:
        device = pick_device(cfg.device)
        y = one_hot(draw_labels(cfg, attributes, cfg.n), attributes).to(device)
        with autocast(device, cfg.matmul):
            picture = sheet(generate(net, y, C, S, cfg))
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """How many steps does each sampler need, what does guidance do? See mini/studies/diffusion.py.
    """
    from mini.studies import diffusion  # only this command needs it
    net, cfg, shape = load(cfg)
    return diffusion.evaluate(net, *shape, cfg)


def draw_by_ddpm(cfg: Config):
    """Part one alone: a network without labels learns for --steps, and draws --n images. Of other
    flags only those of the data and the network, --T, --batch_size, --seed, --device and --out_dir
    matter: the picture stands beside that folder."""
    device = pick_device(cfg.device)
    torch.manual_seed(cfg.seed)
    train_set, _ = load_images(cfg.data, cfg.size, cfg.n_images)
    images = to_float(train_set.images).to(device)
    _, C, S, _ = images.shape

    schedule = NoiseSchedule(linear_abar(cfg.T))
    net = UNet(cfg, C, S, V=0).to(device)
    # without the preset five times the paper's rate, as there are far fewer steps
    lr = cfg.lr if cfg.preset == "paper" else 1e-3
    net = ddpm_train(net, schedule, images, cfg.steps, cfg.batch_size, lr)
    print(f"drawing {cfg.n} images in {cfg.T} steps")
    drawn = ddpm_sample(net, schedule, torch.randn(cfg.n, C, S, S, device=device))

    path = Path(cfg.out_dir).with_name("ddpm.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet(drawn.clamp(-1, 1).cpu()))
    print(f"wrote {path}")


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate, "ddpm": draw_by_ddpm}
    remedy = "lower --batch_size, --width, --size, --n_images or --n"
    return command_line(Config, PRESETS, commands, argv, __doc__, parallel=True,
                        out_of_memory=remedy)


if __name__ == "__main__":
    main()
