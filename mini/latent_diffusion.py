"""Latent diffusion: an autoencoder makes images small, and a Transformer draws the small ones.

Most numbers of an image say little: within a shape, a pixel is like its neighbours. Diffusion on
pixels pays for all of them, in every step of training and of sampling. Stable Diffusion shares the
work:

    1  An autoencoder learns to write an image as few numbers, a latent, and to draw it again from
       these: z = encode(x), x̂ = decode(z). 64 × 64 × 3 numbers become 16 × 16 × 8. A step of
       training then costs 0.61 GFLOP an image; on pixels, the same Transformer would need 2.8 (in
       patches of 4 × 4) or 18 (of 2 × 2).
    2  A Transformer (DiT) reads a noisy latent in patches, the time, and the words of a prompt.
    3  A rectified flow: the Transformer learns which way from a latent to noise leads, so that
       noise can be followed back to a latent.

Encoder and decoder are each a linear layer plus a network, side by side. The linear layers begin as
the principal components of squares of 4 × 4 pixels, the networks at 0; then all are trained. The
loss has three terms. ∂ is the difference between neighbours, right and below; it counts blurred
edges, and needs no second network. z = μ + σ ε, with μ and σ from the encoder. β is tiny: it keeps
latents from growing and σ from becoming 0, and is far too small for a VAE whose latents could be
drawn from N(0, 1) (that is the flow's task):

    loss = mean (x̂ − x)²  +  λ Σ mean (∂x̂ − ∂x)²  +  β mean KL(N(μ, σ²) ‖ N(0, 1))

A line leads from a latent x₀, at t = 0, to noise ε, at t = 1. The network learns to say the
velocity at x_t. Many lines cross at x_t, and the network cannot know which is meant. So it learns
the mean of their velocities: that is enough. Noise that follows the mean velocity, from t = 1 back
to t = 0, is distributed at each t as the x_t are, and at the end as the latents (Liu et al. 2023,
theorem 3.3). Its path is no longer straight; the straighter, the fewer steps. Then the decoder
draws, once:

    x_t = (1 − t) x₀ + t ε          dx_t/dt = ε − x₀        t = sigmoid(n), n ~ N(0, 1)
    loss = mean |v(x_t, t, words) − (ε − x₀)|²
    x_s = x_t + (s − t) v(x_t, t, words)                    (Euler's step, from t to s < t)

With v, ε and x₀ are known as well, as in train_diffusion.py: ε = x_t + (1 − t) v, x₀ = x_t − t v.

Shapes: B images in a batch, C colours, S × S pixels; c channels of a latent, H × H places; T
patches; D numbers in a vector of a patch or a word; L numbers of a prompt; K captions of an image.

Papers: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (Stable
Diffusion), https://arxiv.org/abs/2112.10752; Peebles & Xie 2023, "Scalable Diffusion Models with
Transformers" (DiT), https://arxiv.org/abs/2212.09748; Liu et al. 2023, "Flow Straight and Fast"
(rectified flow), https://arxiv.org/abs/2209.03003, and Lipman et al. 2023, "Flow Matching for
Generative Modeling", https://arxiv.org/abs/2210.02747; Esser et al. 2024, "Scaling Rectified Flow
Transformers" (Stable Diffusion 3), https://arxiv.org/abs/2403.03206. To read them in this file:
Autoencoder, autoencoder_loss; DiTBlock, DiT; flow_loss, draw_times, euler_step. Departures:

    autoencoder         the authors add a perceptual loss (features of a trained VGG) and an
                        adversarial one, which draw hair and grass that look right without being
                        right; flat shapes make do with edges. Errors are squared, not absolute. A
                        linear code, of principal components, stands beside the networks. These
                        have no attention, and no layer at full resolution. Latents are the
                        encoder's μ, without noise, less the mean of each channel
    text                a small encoder learns with the Transformer; theirs (CLIP, T5) are trained
                        before. Patches attend to words; in Stable Diffusion 3, words and patches
                        are one sequence, and attend to each other. The paper's DiT is told a label
    positions           learnt, not cosines
    flow                time runs as in Stable Diffusion 3, from data to noise (in Liu et al. the
                        other way); it is trained once, and not again on its own pairs ("reflow")
    --image --strength  begin with a noisy picture: Meng et al. 2021, "SDEdit",
                        https://arxiv.org/abs/2108.01073
    --stratified        the times in a batch are spread evenly
    --optimizer --lr --decay --beta2 --ema          good images after minutes, not days

    python -m mini.latent_diffusion                     faces and captions, made on the spot
    python -m mini.latent_diffusion sample --prompt="a smiling face with blond hair" --guidance=3
    python -m mini.latent_diffusion sample --show=steps     from noise to image
    python -m mini.latent_diffusion sample --image=face.png --strength=0.6 --prompt="red hair"
    python -m mini.latent_diffusion evaluate            compares guidance, samplers, steps and costs
    python -m mini.latent_diffusion --data=captions.tsv     your own: an image's path, a tab, a
                                                            caption

Measured times and scores: README.md.
Read before: train_diffusion.py, mini/vae.py, mini/text_to_image.py.
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
from mini.utils import image_metrics, metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import noise, sheet, to_float, to_size
from mini.utils.judge import images_with_labels, judge_of_faces
from mini.utils.optim import Muon
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- part 1: the autoencoder

def zero_init(layer):
    """The layer, with weights and bias 0. A block that ends with it changes nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ConvBlock(nn.Module):
    """x (B, C, H, W) -> x + f(x), of the same shape: two convolutions. Before training, f is 0."""

    def __init__(self, C: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, C)
        self.conv1 = nn.Conv2d(C, C, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(8, C)
        self.conv2 = zero_init(nn.Conv2d(C, C, kernel_size=3, padding=1))

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class Upsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, 2H, 2W): each pixel is repeated to become 2 × 2. The
    convolution comes first, where it has a quarter of the pixels to work on."""

    def __init__(self, C_in: int, C_out: int):
        super().__init__()
        self.conv = nn.Conv2d(C_in, C_out, kernel_size=3, padding=1)

    def forward(self, x):
        return F.interpolate(self.conv(x), scale_factor=2, mode="nearest")


def pixels_of_a_place(cfg) -> int:
    """f: a square of f × f pixels becomes one place of a latent."""
    return cfg.stem * 2 ** (cfg.ae_levels - 1)


def channels_of_levels(cfg) -> list:
    """Channels at each resolution of the autoencoder, the highest first."""
    return [min(2**level, 4) * cfg.ae_width for level in range(cfg.ae_levels)]


class Encoder(nn.Module):
    """Images (B, C, S, S) -> mu and logvar of their latents, (B, c, S/f, S/f) each.

    mu is a linear code of each square of f × f pixels by itself (it begins as their principal
    components), plus what convolutions make of the image, which is 0 before training. Convolutions
    alone learn late what only differs in colour, as red lips do from brown skin.

    The convolutions see stem × stem pixels as one pixel with more channels (pixel_unshuffle): at
    full resolution they would be most of the work.
    """

    def __init__(self, cfg, C: int):
        super().__init__()
        widths = channels_of_levels(cfg)
        self.stem = cfg.stem
        self.f = pixels_of_a_place(cfg)
        self.linear = nn.Conv2d(C * self.f**2, cfg.z_channels, kernel_size=1)
        self.first = nn.Conv2d(C * cfg.stem**2, widths[0], kernel_size=3, padding=1)
        self.down = nn.ModuleList()
        for level, w in enumerate(widths):
            block = ConvBlock(w)
            if level < cfg.ae_levels - 1:
                to_next = nn.Conv2d(w, widths[level + 1], kernel_size=3, stride=2, padding=1)
            else:
                to_next = nn.Identity()
            self.down.append(nn.ModuleList([block, to_next]))
        self.norm = nn.GroupNorm(8, widths[-1])
        self.last = zero_init(nn.Conv2d(widths[-1], 2 * cfg.z_channels, kernel_size=3, padding=1))
        nn.init.constant_(self.last.bias[cfg.z_channels:], -6)      # logvar; σ = e^−3 = 0.05

    def forward(self, x):
        linear = self.linear(F.pixel_unshuffle(x, self.f))  # (B, C f², S/f, S/f) -> (B, c, …)
        h = F.pixel_unshuffle(x, self.stem)                 # (B, C, S, S) -> (B, C stem², S/stem …)
        h = self.first(h)
        for block, to_next in self.down:
            h = block(h)
            h = to_next(h)
        h = self.last(F.silu(self.norm(h)))
        mu, logvar = h.chunk(2, dim=1)
        mu = linear.float() + mu.float()
        return mu, logvar.float().clamp(-20, 10)


class Decoder(nn.Module):
    """Latents (B, c, S/f, S/f) -> images (B, C, S, S). The encoder backwards: an image is drawn
    square by square by a linear layer, and convolutions add what it lacks. They have two blocks at
    each resolution: to draw is harder than to describe."""

    def __init__(self, cfg, C: int):
        super().__init__()
        widths = channels_of_levels(cfg)
        self.stem = cfg.stem
        self.f = pixels_of_a_place(cfg)
        self.linear = nn.Conv2d(cfg.z_channels, C * self.f**2, kernel_size=1)
        self.first = nn.Conv2d(cfg.z_channels, widths[-1], kernel_size=3, padding=1)
        self.up = nn.ModuleList()
        for level, w in reversed(list(enumerate(widths))):
            block1 = ConvBlock(w)
            block2 = ConvBlock(w)
            if level > 0:
                to_next = Upsample(w, widths[level - 1])
            else:
                to_next = nn.Identity()
            self.up.append(nn.ModuleList([block1, block2, to_next]))
        self.norm = nn.GroupNorm(8, widths[0])
        self.last = zero_init(nn.Conv2d(widths[0], C * cfg.stem**2, kernel_size=3, padding=1))

    def forward(self, z):
        linear = F.pixel_shuffle(self.linear(z), self.f)    # (B, C f², S/f, S/f) -> (B, C, S, S)
        h = self.first(z)
        for block1, block2, to_next in self.up:
            h = block1(h)
            h = block2(h)
            h = to_next(h)
        h = self.last(F.silu(self.norm(h)))
        h = F.pixel_shuffle(h, self.stem)                   # -> (B, C, S, S)
        return linear.float() + h.float()


class Autoencoder(nn.Module):
    """Encoder and Decoder, and two buffers: the mean of each channel of the latents, and one
    standard deviation for all channels. With these `to_latents` makes their variance 1 on average,
    as that of the noise is.

    Why one? The flow's loss weighs all channels alike. A channel that changes pixels little has
    small numbers, so its errors weigh little, too.
    """

    def __init__(self, cfg, C: int):
        super().__init__()
        self.encoder = Encoder(cfg, C)
        self.decoder = Decoder(cfg, C)
        self.register_buffer("mean", torch.zeros(1, cfg.z_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1, 1))

    def forward(self, x, eps):
        """x̂, mu and logvar of images x; eps ~ N(0, I), of the shape of the latents."""
        mu, logvar = self.encoder(x)
        z = mu + (logvar / 2).exp() * eps
        return self.decoder(z), mu, logvar

    def to_latents(self, x):
        """Images (B, C, S, S) -> x₀ of the flow: their latents without noise, scaled."""
        mu, _ = self.encoder(x)
        return (mu - self.mean) / self.std

    def to_images(self, latents):
        """Latents, scaled as by to_latents -> images (B, C, S, S) in [-1, 1]."""
        return self.decoder(latents * self.std + self.mean).clamp(-1, 1)


@torch.no_grad()
def start_with_principal_components(autoencoder, images):
    """Set the linear layers to the linear autoencoder of least squared error, for squares of f × f
    pixels of images (n, C, S, S).

    The squares vary most along the eigenvectors of their covariance with the largest eigenvalues.
    A latent says how much of each of these patterns is in a square; all are divided by one number,
    so that their variances are 1 on average. This is computed on the CPU, in float64: the same for
    all devices.
    """
    encode = autoencoder.encoder.linear
    decode = autoencoder.decoder.linear
    squares = F.pixel_unshuffle(images.cpu().double(), autoencoder.encoder.f)
    squares = squares.transpose(0, 1).flatten(1)            # (n, C f², H, H) -> (C f², n H²)
    mean = squares.mean(1)
    variances, patterns = torch.linalg.eigh(squares.cov())  # the largest are the last
    c = min(encode.out_channels, len(mean))                 # there may be fewer patterns
    patterns = patterns[:, -c:]                             # (C f², c), each of length 1
    std = variances[-c:].mean().clamp(min=1e-6).sqrt()
    to_code = (patterns / std).T                            # (c, C f²)
    encode.weight[:c, :, 0, 0].copy_(to_code)
    encode.bias[:c].copy_(-to_code @ mean)
    decode.weight[:, :c, 0, 0].copy_(patterns * std)
    decode.bias.copy_(mean)


def edges(x):
    """The differences between neighbours, right and below, of images (B, C, H, W)."""
    right = x[:, :, :, 1:] - x[:, :, :, :-1]
    below = x[:, :, 1:, :] - x[:, :, :-1, :]
    return right, below


def autoencoder_loss(autoencoder, x, eps, edge_weight: float, kl_weight: float):
    """The mean squared error of pixels, and of edges, and the KL divergence of each number of a
    latent.

    Why squares? If a detail is there with probability p < 1/2, absolute errors are least without it
    (the median), squared errors with it drawn p times as strong (the mean): it is not lost.
    """
    x_hat, mu, logvar = autoencoder(x, eps)
    error = (x_hat - x).square().mean()
    right_hat, below_hat = edges(x_hat)
    right, below = edges(x)
    edge_error = (right_hat - right).square().mean() + (below_hat - below).square().mean()
    kl = (mu**2 + logvar.exp() - 1 - logvar).mean() / 2
    return error + edge_weight * edge_error + kl_weight * kl


# ---- part 2: the Transformer

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


def attention(q, k, v, hs: int, mask=0.0):
    """softmax(q kᵀ/√hs + mask) v: (B, T, D), in D/hs heads. q (B, T, D); k and v (B, T', D)."""
    B, T, D = q.shape
    n_head = D // hs
    q = q.view(B, T, n_head, hs).transpose(1, 2)            # (B, T, D) -> (B, nh, T, hs)
    k = k.view(B, -1, n_head, hs).transpose(1, 2)           # -> (B, nh, T', hs)
    v = v.view(B, -1, n_head, hs).transpose(1, 2)
    att = q @ k.transpose(2, 3) / math.sqrt(hs)             # (B, nh, T, T')
    att = F.softmax(att + mask, dim=-1)
    h = att @ v                                             # (B, nh, T, hs)
    return h.transpose(1, 2).reshape(B, T, D)               # heads side by side again


class DiTBlock(nn.Module):
    """Patches x (B, T, D), e (B, D), words (B, L', D), mask (B, 1, 1, L') -> (B, T, D).

    Self-attention, cross-attention to the words, and an MLP. e, made from the time and the prompt
    as a whole, says how each patch is shifted and scaled before attention and MLP, and by which
    gate their results are multiplied (adaLN-zero). The gates are 0 before training, and so is the
    result of the cross-attention: the block changes nothing.
    """

    def __init__(self, D: int, hs: int = 32):
        super().__init__()
        self.hs = hs
        self.modulation = zero_init(nn.Linear(D, 6 * D))
        self.norm1 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(D, 3 * D)
        self.proj = nn.Linear(D, D)
        self.cross_norm = nn.LayerNorm(D, eps=1e-6)
        self.cross_q = nn.Linear(D, D)
        self.cross_kv = nn.Linear(D, 2 * D)
        self.cross_proj = zero_init(nn.Linear(D, D))
        self.norm2 = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.fc = nn.Linear(D, 4 * D)
        self.fc_proj = nn.Linear(4 * D, D)

    def forward(self, x, e, words, mask):
        modulation = self.modulation(e)[:, None]            # (B, 1, 6D): alike for all patches
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=2)

        # every patch attends to all patches
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).chunk(3, dim=2)               # (B, T, D) each
        x = x + gate1 * self.proj(attention(q, k, v, self.hs))

        # every patch attends to all words
        q = self.cross_q(self.cross_norm(x))
        k, v = self.cross_kv(words).chunk(2, dim=2)         # (B, L', D) each
        x = x + self.cross_proj(attention(q, k, v, self.hs, mask))

        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.fc_proj(F.gelu(self.fc(h)))


class DiT(nn.Module):
    """x_t (B, c, H, W), t (B,) from 0 to 1, words and mask of the TextEncoder -> the velocity
    v (B, c, H, W). (Peebles & Xie 2023)."""

    def __init__(self, cfg, c: int, H: int):
        super().__init__()
        D = cfg.width
        self.patch = cfg.patch
        self.width = D
        n_numbers = c * cfg.patch**2                        # in a patch
        n_patches = (H // cfg.patch) ** 2
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.prompt = nn.Linear(D, D, bias=False)
        self.first = nn.Linear(n_numbers, D)
        self.position = nn.Embedding(n_patches, D)
        self.blocks = nn.ModuleList(DiTBlock(D) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(D, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(D, 2 * D))
        self.last = zero_init(nn.Linear(D, n_numbers))

    def forward(self, xt, t, words, mask):
        # the time, and the prompt as a whole
        e = self.time(time_embedding(1000 * t, self.width))         # (B, D)
        e = e + self.prompt(words[:, 0])                    # the vector of the whole prompt
        e = F.silu(e)

        # patches × patches become a sequence
        B, c, H, W = xt.shape
        h = F.pixel_unshuffle(xt, self.patch)               # (B, c p², H/p, W/p)
        h = h.flatten(2).transpose(1, 2)                    # -> (B, T, c p²)
        x = self.first(h) + self.position.weight
        for block in self.blocks:
            x = block(x, e, words, mask)

        # and images again
        shift, scale = self.modulation(e)[:, None].chunk(2, dim=2)
        h = self.last(self.norm(x) * (1 + scale) + shift)   # (B, T, c p²)
        h = h.transpose(1, 2).unflatten(2, (H // self.patch, W // self.patch))
        return F.pixel_shuffle(h, self.patch)               # -> (B, c, H, W)


# ---- part 3: the flow. A batch, and the loss. Random numbers are drawn on the CPU: the same for
# all devices.

def draw_times(B: int, cfg, rng):
    """Random times (B,) between 0 and 1, on the CPU. Uniform, or logit-normal, t = sigmoid(n) with
    n ~ N(0, 1): most of them in the middle, where v is hardest to say (Esser et al. 2024, eq. 19).

    If they are stratified, there is one in each of B parts of equal probability, so that every
    batch has all levels of noise (Kingma et al. 2021, "Variational Diffusion Models", §I.1).
    """
    if cfg.stratified:
        offset = torch.rand(1, generator=rng)               # the same for all
        u = (torch.arange(B) + offset) / B
    else:
        u = torch.rand(B, generator=rng)                    # from 0 to below 1
    if cfg.times == "uniform":
        return u
    n = torch.special.ndtri(u)                              # the share u of N(0, 1) is below n
    return torch.sigmoid(n)


def drop_prompts(prompts, p: float, rng):
    """Prompts (B, L); with probability p, all of a prompt becomes PAD. So the network learns to
    answer with prompts and without, as guidance needs (Ho & Salimans 2021, algorithm 1)."""
    drop = torch.rand(len(prompts), 1, generator=rng) < p
    return prompts.masked_fill(drop.to(prompts.device), Words.PAD)


def get_batch(latents, captions, B: int, cfg, rng):
    """From latents (N, c, H, H) and captions (N, K, L): x0 (B, c, H, H), one of their captions
    (B, L), t (B,), and eps of the shape of x0."""
    device = latents.device
    i = torch.randint(len(latents), (B,), generator=rng).to(device)
    x0 = latents[i]
    which = torch.randint(captions.size(1), (B,), generator=rng).to(device)
    prompts = drop_prompts(captions[i, which], cfg.prompt_dropout, rng)
    t = draw_times(B, cfg, rng).to(device)
    eps = torch.randn(x0.shape, generator=rng).to(device)
    return x0, prompts, t, eps


def add_noise(x0, eps, t):
    """x_t = (1 − t) x₀ + t ε. t: a number, or (B,)."""
    if torch.is_tensor(t):
        t = t.view(-1, 1, 1, 1)
    return (1 - t) * x0 + t * eps


def flow_loss(dit, encoder, x0, prompts, t, eps):
    """The mean of |v − (ε − x₀)|² over all numbers, for what get_batch returns."""
    words, mask = encoder(prompts)
    v = dit(add_noise(x0, eps, t), t, words, mask).float()
    return (v - (eps - x0)).square().mean()


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


# ---- sampling: from x_t to x_s, s < t

def euler_step(velocity, xt, t: float, s: float):
    """Straight on, as fast as at x_t. velocity(x_t, t) returns v."""
    return xt + (s - t) * velocity(xt, t)


def heun_step(velocity, xt, t: float, s: float):
    """With the mean of the velocities here and where Euler's step would end: of second order, for
    two calls of the network (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
    Generative Models", algorithm 1)."""
    v = velocity(xt, t)
    if s == 0:
        return xt + (s - t) * v                             # t = 0 is hardly met in training
    v_there = velocity(xt + (s - t) * v, s)
    return xt + (s - t) * (v + v_there) / 2


def denoise(velocity, x, cfg, start: float = 1.0):
    """From x, x_t at the time t = start, to x₀, in steps of equal length."""
    times = torch.linspace(start, 0, cfg.sample_steps + 1, dtype=torch.float64).tolist()
    for t, s in zip(times[:-1], times[1:]):
        if cfg.sampler == "euler":
            x = euler_step(velocity, x, t, s)
        elif cfg.sampler == "heun":
            x = heun_step(velocity, x, t, s)
        else:
            raise ValueError(f"unknown sampler: {cfg.sampler}")
    return x


def velocity_with_guidance(dit, xt, t: float, words, no_words, guidance: float):
    """v (B, c, H, H). words: vectors and mask of prompts; no_words: of empty prompts.

    Guidance moves the answer from the one without a prompt towards the one with it, or beyond it:
    uncond + guidance · (cond − uncond) (Ho & Salimans 2021, "Classifier-Free Diffusion Guidance",
    eq. 6, with guidance = 1 + w).
    """
    times = torch.full((len(xt),), t, device=xt.device)     # (B,)
    if guidance == 1:
        return dit(xt, times, *words).float()               # cond alone: one call is enough
    if guidance == 0:
        return dit(xt, times, *no_words).float()
    cond = dit(xt, times, *words).float()
    uncond = dit(xt, times, *no_words).float()
    return uncond + guidance * (cond - uncond)


@torch.no_grad()
def generate_latents(nets, prompts, cfg, latents=None, watch=None):
    """Latents (n, c, H, H) for prompts (n, L), scaled. They begin as noise; or, with latents
    (n, c, H, H), as these with as much noise as at the time --strength. watch(x_t, t, v), if it is
    given, is called at each step."""
    encoder, dit = nets["encoder"], nets["dit"]
    words = encoder(prompts)
    no_words = encoder(torch.full_like(prompts, Words.PAD))

    def velocity(xt, t):
        v = velocity_with_guidance(dit, xt, t, words, no_words, cfg.guidance)
        if watch:
            watch(xt, t, v)
        return v

    n = len(prompts)
    H = latent_size(cfg)
    eps = noise(n, cfg.z_channels * H * H, cfg.seed).view(n, cfg.z_channels, H, H)
    eps = eps.to(prompts.device)
    if latents is None:
        return denoise(velocity, eps, cfg)
    return denoise(velocity, add_noise(latents, eps, cfg.strength), cfg, start=cfg.strength)


@torch.no_grad()
def generate(nets, prompts, cfg, latents=None):
    """Images (n, C, S, S) in [-1, 1], on the CPU, for prompts (n, L)."""
    z = generate_latents(nets, prompts, cfg, latents)
    return nets["autoencoder"].to_images(z).cpu()


# ---- settings

@dataclass
class Config(RunConfig):
    """More settings come from RunConfig: seed, device, matmul (the precision of products), compile,
    resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints)."""

    # data
    # faces, or your .tsv file: on each line an image's path, a tab, its caption
    data: str = "faces"
    size: int = 64              # height and width of the images in pixels
    n_images: int = 20000       # number of faces to draw for training

    # autoencoder
    z_channels: int = 8         # numbers at each place of a latent
    stem: int = 4               # its networks see a square of stem × stem pixels as one pixel
    ae_levels: int = 1          # resolutions, each half of the one above; the lowest: the latent's
    ae_width: int = 64          # channels at the highest of them; then 2 ×, then 4 × as many
    edge_weight: float = 0.5    # of the error of edges in the loss
    kl_weight: float = 2.5e-4   # of the KL divergence in the loss

    # transformer
    width: int = 128            # numbers in the vector of a patch, and of a word
    depth: int = 6              # blocks
    patch: int = 2              # a square of patch × patch places of a latent is one vector
    n_layer: int = 2            # blocks of the text encoder

    # optimisation
    prompt_dropout: float = 0.1     # share of training images without their prompt
    stratified: bool = True     # spread the times in a batch evenly
    # how times are drawn: many in the middle, or all alike
    times: Literal["logit-normal", "uniform"] = "logit-normal"
    # optimiser steps, of both parts; another number at --resume moves the border between them, so
    # keep it
    steps: int = 2500
    ae_share: float = 0.4       # share of the steps for the autoencoder, the first of them
    ae_batch_size: int = 16     # images in a step of the autoencoder
    batch_size: int = 64        # latents in a step of the Transformer
    # what trains the weights of hidden layers; Adam trains the rest, or everything
    optimizer: Literal["muon", "adam"] = "muon"
    muon_lr: float = 0.02       # Muon's peak learning rate
    lr: float = 4e-3            # Adam's peak learning rate
    warmup: int = 100           # a part's steps in which the learning rates rise to their peak
    decay: bool = True          # then they fall to 0 in a straight line (false: they stay)
    beta2: float = 0.99         # of Adam: the weight of old squared gradients in their average
    ema: float = 0.995          # weight of the old average in the moving average of the weights

    # run
    out_dir: str = "runs/latent_diffusion"      # folder of the run
    # images to score, half of them of held-out prompts, half of unseen ones (0: 1,024, or
    # proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    # what to draw; | separates several prompts ("": anything; *: held-out captions)
    prompt: str = "*"
    n: int = 8                  # images for each prompt
    sampler: Literal["euler", "heun"] = "euler"  # Heun's steps call the network twice
    sample_steps: int = 20      # steps from noise to latent
    guidance: float = 2.0       # 0: ignore the prompt; 1: use it; above 1: exaggerate it
    image: str = ""             # a picture to change, as the prompt says ("": draw a new one)
    strength: float = 0.6       # how much of it: the time t at which it begins (1: all)
    # the images, or what they would become, at eight moments on their way from noise
    show: Literal["samples", "steps"] = "samples"

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "z_channels", "stem", "ae_levels", "ae_width", "width", "depth",
             "patch", "n_layer", "prompt_dropout")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # for a GPU: images of 128 × 128, and of 256 × 256, both with latents of 32 × 32; not tried
    "gpu": dict(size=128, ae_width=128, width=384, depth=12, n_layer=4, ae_batch_size=64,
                batch_size=128, steps=100000, ae_share=0.2, optimizer="adam", lr=3e-4, warmup=1000,
                ema=0.9995),
    "gpu256": dict(size=256, ae_levels=2, ae_width=128, z_channels=8, width=512, depth=16,
                   n_layer=4, ae_batch_size=32, batch_size=128, steps=200000, ae_share=0.2,
                   optimizer="adam", lr=2e-4, warmup=1000, ema=0.9995),
}


def latent_size(cfg) -> int:
    """Height and width of a latent."""
    return cfg.size // pixels_of_a_place(cfg)


def first_flow_step(cfg) -> int:
    """How many of the steps train the autoencoder; the others train the Transformer."""
    return round(cfg.steps * cfg.ae_share)


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "size", "z_channels", "stem", "ae_levels", "ae_width", "width", "depth",
                     "patch", "n_layer", "n", "batch_size", "ae_batch_size", "sample_steps", "lr",
                     "muon_lr")
    require(cfg.ae_width % 8 == 0, f"--ae_width={cfg.ae_width} must be a multiple of 8, the groups "
            "of a norm")
    require(cfg.width % 32 == 0, f"--width={cfg.width} must be a multiple of 32, the numbers of a "
            "head of attention")
    require(cfg.ae_levels <= 10, f"--ae_levels={cfg.ae_levels}: at most 10")
    multiple = pixels_of_a_place(cfg) * cfg.patch
    require(cfg.size % multiple == 0, f"--size={cfg.size} must be a multiple of {multiple}, for "
            "these --stem, --ae_levels and --patch")
    require(0 <= cfg.prompt_dropout <= 1, f"--prompt_dropout={cfg.prompt_dropout}: from 0 to 1")
    require(0 <= cfg.ae_share <= 1, f"--ae_share={cfg.ae_share}: from 0 to 1")
    require(0 < cfg.strength <= 1, f"--strength={cfg.strength} must be above 0 and at most 1")
    require(cfg.beta2 < 1, f"--beta2={cfg.beta2} must be below 1")
    for name in ("edge_weight", "kl_weight"):
        require(getattr(cfg, name) >= 0, f"--{name}={getattr(cfg, name)} must not be negative")


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
    checkpoint; each {"autoencoder", "encoder": of text, "dit"}. V: number of words; L: length of
    the longest prompt."""
    torch.manual_seed(cfg.seed)
    nets = nn.ModuleDict({
        "autoencoder": Autoencoder(cfg, C),
        "encoder": TextEncoder(cfg, V, L),
        "dit": DiT(cfg, cfg.z_channels, latent_size(cfg)),
    })
    ema = copy.deepcopy(nets).requires_grad_(False).eval()  # eval: if you add dropout, it is off
    both = nn.ModuleDict({"nets": nets, "ema": ema})
    if checkpoint:
        both.load_state_dict(checkpoint["model"])
    return both.to(pick_device(cfg.device), memory_format=torch.channels_last)


def make_optimizers(networks, cfg) -> list:
    """[Adam], or [Muon, Adam], for networks that learn together: Muon for matrices and the kernels
    of convolutions; Adam for vectors, for layers that touch pixels or latents, and for embeddings
    (see train_diffusion.py)."""
    hidden = []
    others = []
    for network in networks:
        for name, parameter in network.named_parameters():
            by_adam = name.startswith(("linear.", "first.", "last.", "embed.", "position."))
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


def set_lr(optimizers, factor: float):
    """Set the learning rates to this factor times their peaks."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]     # its peak


def train_autoencoder(run, both, optimizers, images, val_images, data_rng, save):
    """Part 1, from step run.first on. Returns None, or what `train` returns if it was stopped."""
    cfg = run.cfg
    device = images.device
    model = both["nets"]["autoencoder"]
    ema = both["ema"]["autoencoder"]
    net = torch.compile(model) if cfg.compile else model
    end = first_flow_step(cfg)
    own_cfg = replace(cfg, steps=end)
    H = latent_size(cfg)
    for step in range(run.first, end):
        # learning rates
        factor = lr_factor(step, own_cfg)
        set_lr(optimizers, factor)

        # batch
        i = torch.randint(len(images), (cfg.ae_batch_size,), generator=data_rng)
        x = to_float(images[i.to(device)]).to(memory_format=torch.channels_last)
        eps = torch.randn(len(x), cfg.z_channels, H, H, generator=data_rng).to(device)

        # loss, backward, step. Products are in bfloat16, if that is faster on this device;
        # weights and the loss stay in float32.
        with autocast(device, cfg.matmul):
            loss = autoencoder_loss(net, x, eps, cfg.edge_weight, cfg.kl_weight)
        run.check_finite(step, loss=loss.item())                    # NaN stops here
        model.zero_grad(set_to_none=True)
        loss.backward()
        with autocast(device, cfg.matmul):
            for optimizer in optimizers:
                optimizer.step()                                    # Muon multiplies matrices, too

        update_ema(ema, model, step, cfg.ema)

        # evaluate, log, sample and save, each when it is due
        done = step + 1
        val_loss = None
        with run.untimed():                                         # this is not training time
            if run.due(done, cfg.eval_every) or done == end:
                val_loss = evaluate_autoencoder(ema, val_images, cfg)
            if val_loss is not None or run.due(done, cfg.log_every):
                run.log(done, part="autoencoder", loss=loss.item(), lr=factor * cfg.lr,
                        val_loss=val_loss)
            if run.due(done, cfg.sample_every):
                picture = beside_reconstructions(ema, val_images[:16], cfg)
                write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
            stopping = run.stopping(done)                           # after Ctrl-C, or --stop_after
            if stopping or val_loss is not None:
                save(done)
        if stopping and done < cfg.steps:
            return run.leave(done)                                  # says how to resume
    return None


def train_flow(run, both, optimizers, latents, captions, val_batch, data_rng, save, draw):
    """Parts 2 and 3, from step run.first on. Returns None, or what `train` returns if they were
    stopped. draw() returns a picture of what the networks draw by now."""
    cfg = run.cfg
    device = latents.device
    encoder, dit = both["nets"]["encoder"], both["nets"]["dit"]
    ema = both["ema"]
    net = torch.compile(dit, dynamic=False) if cfg.compile else dit
    first = first_flow_step(cfg)
    own_cfg = replace(cfg, steps=cfg.steps - first)
    for step in range(max(run.first, first), cfg.steps):
        # learning rates
        factor = lr_factor(step - first, own_cfg)
        set_lr(optimizers, factor)

        # batch
        batch = get_batch(latents, captions, cfg.batch_size, cfg, data_rng)

        # loss, backward, step
        with autocast(device, cfg.matmul):
            loss = flow_loss(net, encoder, *batch)
        run.check_finite(step, loss=loss.item())
        both["nets"].zero_grad(set_to_none=True)
        loss.backward()
        with autocast(device, cfg.matmul):
            for optimizer in optimizers:
                optimizer.step()

        update_ema(ema["dit"], dit, step - first, cfg.ema)
        update_ema(ema["encoder"], encoder, step - first, cfg.ema)

        # evaluate, log, sample and save, each when it is due
        done = step + 1
        val_loss = None
        with run.untimed():
            if run.due(done, cfg.eval_every):
                val_loss = evaluate_flow(ema, val_batch)
            if val_loss is not None or run.due(done, cfg.log_every):
                run.log(done, part="flow", loss=loss.item(), lr=factor * cfg.lr, val_loss=val_loss)
            if run.due(done, cfg.sample_every):
                write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", draw())
            stopping = run.stopping(done)
            if stopping or val_loss is not None:
                save(done)
        if stopping and done < cfg.steps:
            return run.leave(done)                                  # says how to resume
    return None


def train(cfg: Config) -> dict:
    """Train the parts in turn; returns what result.json holds. Raises UserError for bad input."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "latent_diffusion", cfg.resume)
    device = pick_device(cfg.device)

    # images: uint8 (N, C, size, size), and their captions (N, K, L); the held-out ones only score
    vocabulary, parts, captions = load_data(cfg, checkpoint)
    train_set, held_out = parts[0], parts[1]
    images = train_set.images.to(device)
    val_images = held_out.images[:256].to(device)
    train_captions = captions[0].to(device)
    C = images.size(1)
    L = max(of_part.size(2) for of_part in captions)
    shape = (C, cfg.size, len(vocabulary), L)
    check_shape(checkpoint, *shape)
    examples = [texts[0] for texts in held_out.captions[:8]]
    shown_texts, shown = read_prompts(cfg, vocabulary, examples, L)

    # networks and optimisers; the text encoder learns with the Transformer
    both = make_nets(cfg, C, len(vocabulary), L, checkpoint)
    nets, ema = both["nets"], both["ema"]
    autoencoder = nets["autoencoder"]
    if not checkpoint:
        for of_nets in (nets, ema):
            start_with_principal_components(of_nets["autoencoder"], to_float(images[:256]))
    of_autoencoder = make_optimizers([autoencoder.encoder, autoencoder.decoder], cfg)
    of_flow = make_optimizers([nets["encoder"], nets["dit"]], cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)              # for batches
    if checkpoint:
        restore(checkpoint, of_autoencoder + of_flow, data_rng)

    run = Run(cfg, "latent_diffusion", nets, ["part", "loss", "lr", "val_loss"], checkpoint)

    def save(done):
        run.save(done, both, of_autoencoder + of_flow, data_rng, shape=shape,
                 words=vocabulary.state(), examples=examples)

    def draw():
        with autocast(device, cfg.matmul):
            drawn = generate(ema, shown.to(device), cfg)
        return sheet(drawn, columns=cfg.n, row_names=shown_texts)

    with run:
        run.say(f"{len(images):,} images of {cfg.size} × {cfg.size}; {len(vocabulary)} words")
        stopped = train_autoencoder(run, both, of_autoencoder, images, val_images, data_rng, save)
        if stopped:
            return stopped

        # all images become latents, once: the Transformer never sees an image
        with run.untimed():
            run.say("turning the images into latents")
            with autocast(device, cfg.matmul):
                latents = encode_all(ema["autoencoder"], images)
                val_latents = ema["autoencoder"].to_latents(to_float(val_images))
            val_rng = torch.Generator().manual_seed(cfg.seed + 2)
            val_batch = get_batch(val_latents, captions[1][:256].to(device), 256, cfg, val_rng)

        stopped = train_flow(run, both, of_flow, latents, train_captions, val_batch, data_rng, save,
                             draw)
        if stopped:
            return stopped

        # scores, each beside its baseline
        val_loss = evaluate_flow(ema, val_batch)
        psnr = evaluate_psnr(ema["autoencoder"], held_out.images, cfg)
        run.say(f"held-out loss {val_loss:.4f}; reconstructions {psnr:.2f} dB")
        n, rows, diversity = score(ema, parts, captions, cfg, run.say)
        if rows:
            table = metrics.table(rows, {"mean", *train_set.attributes})
            run.say(f"how often the judge reads what the prompt says:\n{table}")
            for name, value in diversity.items():
                run.say(f"diversity, {name}: {value:.3f}")
        else:
            run.say("no labels, no judge")
        return run.finish(val_loss=val_loss, psnr=psnr, n=n, scores=rows,
                          diversity=diversity)                      # result.json


@torch.no_grad()
def encode_all(autoencoder, images, at_once: int = 256):
    """The latents (N, c, H, H) of images uint8 (N, C, S, S). They are moved and scaled, so
    that each channel has mean 0, and all of them on average variance 1, as the noise has; the
    autoencoder keeps by how much."""
    autoencoder.mean.zero_()
    autoencoder.std.fill_(1)
    progress = metrics.Progress("encoded", len(images))
    parts = []
    for x in images.split(at_once):
        parts.append(autoencoder.to_latents(to_float(x)))
        progress.add(len(x))
    latents = torch.cat(parts)
    autoencoder.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    variances = latents.var((0, 2, 3))                              # (c,)
    autoencoder.std.copy_(variances.mean().sqrt().clamp(min=1e-6))
    return (latents - autoencoder.mean) / autoencoder.std


# ---- scores

@torch.no_grad()
def evaluate_autoencoder(autoencoder, images, cfg) -> float:
    """Its loss for images uint8 (n, C, S, S), with the same noise at every call."""
    H = latent_size(cfg)
    eps = noise(len(images), cfg.z_channels * H * H, cfg.seed + 2).to(images.device)
    eps = eps.view(-1, cfg.z_channels, H, H)
    x = to_float(images)
    return autoencoder_loss(autoencoder, x, eps, cfg.edge_weight, cfg.kl_weight).item()


@torch.no_grad()
def evaluate_flow(nets, batch) -> float:
    """The loss of a batch."""
    return flow_loss(nets["dit"], nets["encoder"], *batch).item()


@torch.no_grad()
def reconstruct(autoencoder, images, cfg):
    """What becomes of images uint8 (n, C, S, S) that are encoded and decoded: (n, C, S, S), in
    [-1, 1], on the CPU."""
    device = autoencoder.mean.device
    parts = []
    with autocast(device, cfg.matmul):
        for x in images.split(256):
            latents = autoencoder.to_latents(to_float(x.to(device)))
            parts.append(autoencoder.to_images(latents).cpu())
    return torch.cat(parts)


def beside_reconstructions(autoencoder, images, cfg):
    """A picture: each image, and right of it what becomes of it."""
    pairs = torch.stack([to_float(images).cpu(), reconstruct(autoencoder, images, cfg)], dim=1)
    return sheet(pairs.flatten(0, 1))                       # (n, 2, C, S, S) -> (2n, C, S, S)


def evaluate_psnr(autoencoder, images, cfg) -> float:
    """The mean PSNR in dB of reconstructions of images uint8 (n, C, S, S)."""
    return image_metrics.psnr(reconstruct(autoencoder, images, cfg), to_float(images)).mean().item()


def score(nets, parts, captions, cfg, say):
    """(n, {row: scores}, {row: diversity}): what the judge says of n images drawn for held-out
    captions, and of n for captions with combinations that no training image has ("unseen"). Beside
    them the real images of these captions ("real"), these after encoding and decoding ("decoded":
    what a perfect Transformer would reach), other real faces with the same attributes ("same
    labels"), and training images of other captions ("other faces").

    It is (0, {}, {}) for images without attributes, which no judge can read. The diversity is 1 if
    images vary as real ones with the same labels do; it is left out where the judge cannot tell.
    """
    if not parts[0].attributes:
        return 0, {}, {}
    n = metrics.n_to_score(cfg, max(1024, cfg.n_test), "images") // 2
    judge = judge_of_faces(replace(cfg, n_test=n), n, cfg.n_images)
    n = judge.n
    if n == 0:
        return 0, {}, {}
    device = pick_device(cfg.device)
    rows = {}
    diversity = {}
    for name, part, prompts in zip(("held out", "unseen"), parts[1:], captions[1:]):
        say(f"drawing {n} images, prompts {name}")
        real = part.images[-n:]                                     # not those of judge.frechet
        labels = part.labels[-n:]
        with autocast(device, cfg.matmul):
            drawn = generate(nets, prompts[-n:, 0].to(device), cfg)
        shown = {
            name: drawn,
            f"{name}, decoded": reconstruct(nets["autoencoder"], real, cfg),
            f"{name}, real": real,
            f"{name}, same labels": images_with_labels(judge.train_set, labels),
            f"{name}, other faces": judge.train_set.images[:n],
        }
        for row, images in shown.items():
            reading = judge.read(images)
            shares = judge.accuracy_of(reading, labels)
            mean = sum(shares.values()) / len(shares)
            rows[row] = {**shares, "mean": mean, "Fréchet": judge.frechet_of(reading)}
            if judge.diversity_of(reading) is not None:
                diversity[row] = judge.diversity_of(reading)
    return n, rows, diversity


# ---- using what was trained

def load(cfg):
    """(the averaged networks, config, checkpoint) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "latent_diffusion")
    C, _, V, L = checkpoint["shape"]
    return make_nets(cfg, C, V, L, checkpoint)["ema"], cfg, checkpoint


def load_picture(cfg, nets, n: int):
    """The latent of the picture --image, n times, (n, c, H, H), or None if there is no --image."""
    if not cfg.image:
        return None
    pixels = read_image(cfg.image)
    image = to_size(pixels, cfg.size)[None]                         # uint8 (1, C, size, size)
    x = to_float(image).to(pick_device(cfg.device))
    return nets["autoencoder"].to_latents(x).expand(n, -1, -1, -1)


@torch.no_grad()
def sample(cfg: Config):
    """Draw n images for each prompt into samples/; with --image, change that picture as the prompt
    says. With --show=steps, eight moments of each image on its way from noise."""
    nets, cfg, checkpoint = load(cfg)
    L = checkpoint["shape"][3]
    device = pick_device(cfg.device)
    vocabulary = Words(checkpoint["words"])
    texts, prompts = read_prompts(cfg, vocabulary, checkpoint["examples"], L)
    prompts = prompts.to(device)
    with autocast(device, cfg.matmul):
        latents = load_picture(cfg, nets, len(prompts))
        if cfg.show == "steps":
            from mini.studies import latent_diffusion  # only this picture needs it
            picture = latent_diffusion.show_steps(nets, texts, prompts, cfg, latents)
        elif len(texts) == 1:                                       # all of them in one grid
            picture = sheet(generate(nets, prompts, cfg, latents))
        else:                                                       # a row for each prompt
            drawn = generate(nets, prompts, cfg, latents)
            picture = sheet(drawn, columns=cfg.n, row_names=texts)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    for text in texts:
        print(text.strip() or "no prompt")
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """What do guidance, samplers and steps do; what do latents save? See
    mini/studies/latent_diffusion.py."""
    from mini.studies import latent_diffusion  # only this command needs it
    nets, cfg, checkpoint = load(cfg)
    return latent_diffusion.evaluate(nets, checkpoint, cfg)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    remedy = "lower --batch_size, --ae_batch_size, --width, --depth, --size, --n_images or --n"
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory=remedy)


if __name__ == "__main__":
    main()
