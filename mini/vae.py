"""VAE: an encoder turns an image x into a short vector z, a decoder turns z back into an image.

A new image is made by decoding a z that is drawn from the prior, p(z) = N(0, I). So the decoder,
which gives p(x|z), should make the training images probable: log p(x) should be high. But this is
intractable: p(x) = ∫ p(x|z) p(z) dz is an integral over all z. So a second network, the encoder,
looks at x, and approximates the posterior p(z|x), which says from which z it may have come:

    encoder     q(z|x) = N(μ, diag(σ²))         μ and σ² are computed from x
    sample      z = μ + σ ε,  ε ~ N(0, I)       the reparameterisation: gradients reach μ and σ
    decoder     p(x|z)                          the distribution of the pixels, computed from z

Training raises the ELBO (evidence lower bound), which can be computed, and is at most log p(x):

    ELBO = E log p(x|z) − KL(q(z|x) ‖ p(z))     E: the mean over z ~ q(z|x)             (eq. 3)
    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x))       a KL is never negative                  (eq. 1)

    loss = −log p(x|z) + KL(q(z|x) ‖ p(z))      −ELBO, with one z ~ q(z|x) in place of E

The first term of the loss is the error of the reconstruction: x should be probable, given its z.
The second, the regularisation, keeps q(z|x) near the prior, so that the decoder can make an image
of a z that is drawn from there. The first is a sum over all pixels, the second over all numbers of
z: a mean in place of one of these sums would change their balance. To change it on purpose, --beta
multiplies the KL: above 1, the model is a β-VAE (Higgins et al. 2017).

Shapes: B images in a batch, C colours, size × size pixels; z has z_dim numbers.

Paper: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114
(the numbers of equations, sections and appendices).

    python -m mini.vae --preset=paper       the paper's model of digits; MNIST is downloaded
    python -m mini.vae                      faces, drawn on the spot
    python -m mini.vae sample               new images, after the training

The preset differs from the paper in how it is optimised: by Adam, not Adagrad; at a rate that
falls to 0; without weight decay; and the first weights are drawn as torch does it. The default run
goes beyond the paper, to draw coloured faces well in minutes on a CPU, by --network=conv,
--likelihood=gaussian, --optimizer=muon and --prior=mixture. They stand at the end of the file, in
this order. A first reading ends before the settings: what follows is settings, bookkeeping, and
what goes beyond the paper.

More commands, measured times and scores: mini/gallery/README.md. Read next: mini/lstm.py.
"""
import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# Images and their grids, the command line, devices, the folder of a run: this file can be followed
# without reading them. to_float turns uint8 into [-1, 1], noise(n, k, seed) are n rows of k normal
# random numbers, which only depend on the seed, in_batches calls a model in evaluation mode on some
# images at a time, and sheet lays images out in a grid.
from mini.data.images.image_sets import LabelConfig, load_images
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import compile_convolutions, conv_layout, mixed_precision, pick_device
from mini.utils.images import crop, in_batches, noise, pad, padded_size, sheet, to_float
from mini.utils.mixture import Mixture, fit_mixture
from mini.utils.optim import Together, muon_and_adam
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- encode, sample z, decode

class MLPEncoder(nn.Module):
    """Images x (B, C, size, size) -> mu and logvar, (B, z_dim) each: μ and log σ² of q(z|x)
    (appendix C.2). A layer's output may be any number, so it is log σ²: σ² must be positive."""

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),                                       # (B, C · size · size)
            nn.Linear(C * size * size, width),
            nn.Tanh(),
            nn.Linear(width, 2 * z_dim),
        )

    def forward(self, x):
        h = self.layers(x)                                      # (B, 2 z_dim)
        mu, logvar = h.chunk(2, dim=1)                          # (B, z_dim) each
        return mu, logvar


def reparameterize(mu, logvar, eps):
    """z ~ N(μ, σ²), made from eps ~ N(0, I) (§2.4). All are (B, z_dim).

    Like this z is a function of μ and σ, so gradients reach them. Through a sample that is simply
    drawn from N(μ, σ²) none would.
    """
    sigma = (logvar / 2).exp()
    return mu + sigma * eps


class MLPDecoder(nn.Module):
    """z (B, z_dim) -> x_hat (B, C, size, size), which says what p(x|z) is. For images in black and
    white it is the logit of each pixel (appendix C.1; see Bernoulli)."""

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(z_dim, width),
            nn.Tanh(),
            nn.Linear(width, C * size * size),
            nn.Unflatten(1, (C, size, size)),
        )

    def forward(self, z):
        return self.layers(z)


class VAE(nn.Module):
    """Encoder and decoder of images (B, C, size, size) in [-1, 1].

    For other networks, or another p(x|z), write classes that are made and called like these, a
    branch here, and its name in Config.network or Config.likelihood.
    """

    def __init__(self, cfg, C: int, size: int):
        super().__init__()
        self.cfg = cfg
        if cfg.network == "mlp":
            self.encoder = MLPEncoder(C, size, cfg.width, cfg.z_dim)
            self.decoder = MLPDecoder(C, size, cfg.width, cfg.z_dim)
        else:                                                   # at the end of the file
            self.encoder = ConvEncoder(C, size, cfg.width, cfg.z_dim)
            self.decoder = ConvDecoder(C, size, cfg.width, cfg.z_dim)
        if cfg.likelihood == "bernoulli":
            self.likelihood = Bernoulli()
        else:                                                   # at the end of the file
            self.likelihood = Gaussian()
        self.mixture = None                                     # for --prior=mixture

    def encode(self, x):
        """mu and logvar, (B, z_dim) each; in float32, even if the network computes in bfloat16."""
        mu, logvar = self.encoder(x)
        return mu.float(), logvar.float()

    def decode(self, z):
        """x_hat (B, C, size, size), in float32, too."""
        return self.decoder(z).float()

    def forward(self, x, eps):
        """(x_hat, mu, logvar). eps (B, z_dim) ~ N(0, I) is drawn outside, as in g(ε, x) of §2.4."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, eps)
        x_hat = self.decode(z)
        return x_hat, mu, logvar


# ---- the loss

class Bernoulli(nn.Module):
    """p(x|z) of images in black and white: each pixel is white with a probability p of its own,
    p = sigmoid(x_hat) (appendix C.1)."""

    def log_prob(self, x, x_hat):
        """log p(x|z) of each image: (B,).

            log p(x|z) = Σ (x log p + (1 − x) log(1 − p))       a sum over pixels

        There x is 1 for white and 0 for black; greys lie between.
        """
        white = (x + 1) / 2                                     # from [-1, 1] to [0, 1]
        log_p = -F.binary_cross_entropy_with_logits(x_hat, white, reduction="none")
        return log_p.flatten(1).sum(dim=1)

    def mean(self, x_hat):
        """The mean image: p, taken back from [0, 1] to [-1, 1]."""
        return 2 * x_hat.sigmoid() - 1


def kl_divergence(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, I)) of each image: (B,), from mu and logvar (B, z_dim). Appendix B gives
    its negative.

        KL = ½ Σ (μ² + σ² − 1 − log σ²)         a sum over the numbers of z
    """
    return (mu**2 + logvar.exp() - 1 - logvar).sum(dim=1) / 2


def vae_loss(x, x_hat, mu, logvar, likelihood, beta):
    """(loss, log_p, kl), each a mean over the images of a batch, in nats (bits times ln 2). For
    beta = 1 the loss is −ELBO with one z for each image (eq. 10, L = 1)."""
    log_p = likelihood.log_prob(x, x_hat).mean()
    kl = kl_divergence(mu, logvar).mean()
    loss = -log_p + beta * kl
    return loss, log_p, kl


# ---- training

def train(cfg) -> dict:
    """Train by algorithm 1 of the paper; returns what result.json holds. cfg is a Config (below).
    Raises UserError for input that cannot be used."""
    # settings (with --resume, those of the run that goes on) and images
    cfg, checkpoint = own_checkpoint(cfg, "vae", cfg.resume)
    device = pick_device(cfg.device)
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    images = train_set.images.to(device)                        # uint8 (N, C, size, size)
    N, C, size, _ = images.shape

    # model and optimiser; net is the model made faster, by --compile, and by products in bfloat16
    # on devices that are faster at them
    torch.manual_seed(cfg.seed)
    model = VAE(cfg, C, size).to(device, memory_format=conv_layout(cfg.compile))
    net = compile_convolutions(model) if cfg.compile else model
    net = mixed_precision(net, device, cfg.matmul)
    optimizer = make_optimizer(model, device)                   # Adam, or Adam and Muon as one
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches and for ε
    if checkpoint:
        go_on_from(checkpoint, train_set, model, optimizer, data_rng)

    # run keeps the folder out_dir: it prints, logs and saves
    run = Run(cfg, "vae", model, ["loss", "log_p", "kl", "val_elbo"], checkpoint)
    with run:
        for step in range(run.first, cfg.steps):
            # the learning rate falls to 0 in a straight line
            optimizer.scale_lr(1 - step / cfg.steps)

            # a batch, and a sample of ε for each image (L = 1)
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x = to_float(images[i])                             # (B, C, size, size)
            eps = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # encode, sample z, decode; then the loss, and a step down its gradient
            x_hat, mu, logvar = net(x, eps)
            loss, log_p, kl = vae_loss(x, x_hat, mu, logvar, model.likelihood, cfg.beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            losses = {"loss": loss, "log_p": log_p, "kl": kl}
            if report_and_save(run, step, losses, model, optimizer, data_rng, train_set, held_out):
                return run.leave(step + 1)                      # says how to resume

        from mini.studies import vae as study                   # scores, each beside its baseline
        scores = study.score(model, train_set, held_out)
        run.say(study.report(scores))
        return run.finish(**scores)                             # result.json


# ---- sampling

def sample_z(model, n: int):
    """z (n, z_dim) of new images, the same at every call: from the prior, N(0, I); or, with
    --prior=mixture, from the mixture at the end of the file."""
    if model.mixture is None:
        return noise(n, model.cfg.z_dim, model.cfg.seed)        # ~ N(0, I)
    return model.mixture.sample(n, model.cfg.seed)


@torch.no_grad()
def generate(model, z):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim), on the CPU: the means of p(x|z)."""
    x_hat = in_batches(model, model.decode, z)
    return model.likelihood.mean(x_hat).clamp(-1, 1)


# ---- settings

@dataclass
class Config(LabelConfig):
    """More settings come from LabelConfig: seed, device, matmul (the precision of products),
    compile, resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints);
    and for --show=arithmetic: hair, style, skin, glasses, mouth, background, label."""

    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training

    # model
    z_dim: int = 32             # length of z, which an image is made from (--show=map needs 2)
    network: Literal["conv", "mlp"] = "conv"    # convolutions, or one hidden layer as in the paper
    # mlp: hidden units; conv: channels at half the image's size, twice as many at each smaller one
    width: int = 32
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"   # the distribution p(x|z) of a pixel

    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 32        # images in a step
    # what trains the kernels of convolutions; Adam trains the rest, or everything
    optimizer: Literal["muon", "adam"] = "muon"
    muon_lr: float = 0.05       # Muon's learning rate at the start; it falls to 0
    lr: float = 5e-3            # Adam's learning rate at the start; it falls to 0
    beta: float = 1.0           # weight of the KL in the loss

    # run
    out_dir: str = "runs/vae"   # folder of the run
    # images to score (0: 512, or proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    # draw z from a mixture of normal distributions fitted to the z of training images, or from
    # N(0, I) as in the paper
    prior: Literal["mixture", "standard"] = "mixture"
    components: int = 60        # normal distributions in the mixture
    n: int = 64                 # images in a grid
    # new images; held-out images above their reconstructions; images on the way from one held-out
    # image to the next, or over the plane of z; a change that --glasses=round or the like asks for
    show: Literal["samples", "reconstruct", "walk", "map", "arithmetic"] = "samples"

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "z_dim", "network", "width", "likelihood")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # the paper's model of digits (§5, appendix C). All 70,000 of MNIST are downloaded, and a tenth
    # is held out. Without a network, name a file that you have: --data=train-images-idx3-ubyte.gz
    "paper": dict(data="mnist", size=0, network="mlp", width=500, z_dim=20, likelihood="bernoulli",
                  optimizer="adam", lr=1e-3, batch_size=100, prior="standard"),
    # larger images and networks: one GPU
    "gpu": dict(size=64, z_dim=64, width=64, batch_size=128, lr=2e-3, steps=20000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "z_dim", "components", "n", "lr", "muon_lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.width >= 2, f"--width={cfg.width} must be at least 2")
    require(cfg.beta >= 0, f"--beta={cfg.beta} must be at least 0")


# ---- during and after the training: scores, pictures, checkpoints

def elbo_terms(model, x, eps):
    """(log p(x|z), KL) of each image x, (B,) each: the ELBO is their difference."""
    x_hat, mu, logvar = model(x, eps)
    return model.likelihood.log_prob(x, x_hat), kl_divergence(mu, logvar)


@torch.no_grad()
def mean_elbo(model, images) -> dict:
    """{"elbo", "log_p", "kl"} of images (N, C, size, size), in nats per image; the same at every
    call."""
    eps = noise(len(images), model.cfg.z_dim, model.cfg.seed)
    log_p, kl = in_batches(model, partial(elbo_terms, model), images, eps)
    log_p = log_p.double().mean().item()
    kl = kl.double().mean().item()
    return {"elbo": log_p - kl, "log_p": log_p, "kl": kl}


def report_and_save(run, step, losses, model, optimizer, data_rng, train_set, held_out) -> bool:
    """Evaluate, log, sample and save, each if it is due after this step. True if the run should
    end here, before its last step: after Ctrl-C, or --stop_after."""
    cfg = model.cfg
    done = step + 1
    run.check_finite(step, loss=losses["loss"].item())          # NaN stops here: it is not saved
    with run.untimed():                                         # this is not training time
        val_elbo = None
        if run.due(done, cfg.eval_every):                       # also after the last step
            val_elbo = mean_elbo(model, held_out.images[:1024])["elbo"]
        if val_elbo is not None or run.due(done, cfg.log_every):
            numbers = {name: value.item() for name, value in losses.items()}
            run.log(done, **numbers, val_elbo=val_elbo)

        sampling = run.due(done, cfg.sample_every)
        stopping = run.stopping(done)
        saving = stopping or val_elbo is not None
        if cfg.prior == "mixture" and (sampling or saving):
            n_fitted = len(train_set.images) if done == cfg.steps else 2048
            model.mixture = fit_prior(model, train_set.images[:n_fitted], cfg.components)
        if sampling:
            picture = sheet(generate(model, sample_z(model, cfg.n)))
            write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
        if saving:
            mixture = model.mixture.state() if model.mixture else None
            run.save(done, model, optimizer, data_rng, shape=train_set.shape(), mixture=mixture)
    return stopping and done < cfg.steps


def go_on_from(checkpoint, train_set, model, optimizer, data_rng):
    """Put everything back as it was when the checkpoint was saved."""
    check_shape(checkpoint, *train_set.shape())
    load_weights(model, checkpoint)
    restore(checkpoint, optimizer, data_rng)


def load_weights(model, checkpoint):
    """Give the model what a checkpoint holds. If it has no mixture to draw z from, since it was
    trained with --prior=standard, but one is wanted now, that is fitted."""
    cfg = model.cfg
    model.load_state_dict(checkpoint["model"])
    if cfg.prior == "mixture" and checkpoint["mixture"]:
        model.mixture = Mixture(**checkpoint["mixture"])
    elif cfg.prior == "mixture":
        train_set, _ = load_images(cfg.data, cfg.size, cfg.n_images)
        model.mixture = fit_prior(model, train_set.images, cfg.components)


def load(cfg):
    """(model, shape of the images) as trained in --out_dir. model.cfg has the settings of the
    training, with the flags that were typed put over them."""
    cfg, checkpoint = own_checkpoint(cfg, "vae")
    shape = checkpoint["shape"]                                 # (C, size, attributes)
    model = VAE(cfg, *shape[:2]).to(pick_device(cfg.device))
    load_weights(model, checkpoint)
    return model, shape


def sample(cfg):
    """Draw n new images into samples/. Or what else --show says, see mini/studies/vae.py."""
    model, shape = load(cfg)
    cfg = model.cfg
    if cfg.show == "samples":
        picture = sheet(generate(model, sample_z(model, cfg.n)))
    else:
        from mini.studies import vae as study                   # only these pictures need it
        picture = study.show(model, shape)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    print(f"wrote {path}")


def evaluate(cfg) -> dict:
    """Bounds on log p(x), how much of z is used, scores of arithmetic. See mini/studies/vae.py."""
    from mini.studies import vae as study                       # only this command needs it
    model, shape = load(cfg)
    train_set, held_out = study.load_data(model.cfg, shape)
    return study.evaluate(model, train_set, held_out)


# ---- beyond the paper: --network=conv
#
# The encoder is like the discriminator of train_gan.py, the decoder like its generator, with
# BatchNorm in both.

class ConvEncoder(nn.Module):
    """Images x (B, C, size, size) -> mu and logvar, (B, z_dim) each.

    The image is padded to S × S pixels, S a power of two. Each layer halves height and width, and
    doubles the channels. For S = 32 and width = 32: C × 32 × 32, 32 × 16 × 16, 64 × 8 × 8,
    128 × 4 × 4. Convolutions before a BatchNorm have no bias: the BatchNorm would subtract it.
    """

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        n_halvings = int(math.log2(padded_size(size) / 4))      # from S × S to 4 × 4 pixels
        channels = [C] + [width * 2**i for i in range(n_halvings)]
        layers = []
        for c_in, c_out in zip(channels, channels[1:]):         # H × H -> H/2 × H/2 pixels
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [nn.Conv2d(channels[-1], 2 * z_dim, kernel_size=4)]   # 4 × 4 -> 1 × 1 pixels
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        h = self.layers(pad(x))                                 # (B, C, S, S) -> (B, 2 z_dim, 1, 1)
        mu, logvar = h.flatten(1).chunk(2, dim=1)               # (B, z_dim) each
        return mu, logvar


class ConvDecoder(nn.Module):
    """z (B, z_dim) -> x_hat (B, C, size, size): of each pixel the mean or the logit of p(x|z).

    The first layer makes 4 × 4 pixels, each further one doubles height and width, and halves the
    channels. For S = 32 and width = 32: 128 × 4 × 4, 64 × 8 × 8, 32 × 16 × 16, 16 × 32 × 32, and
    at last C × 32 × 32.
    """

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        self.size = size
        n_doublings = int(math.log2(padded_size(size) / 4))     # from 4 × 4 to S × S pixels
        channels = [width * 2**i for i in reversed(range(n_doublings))] + [width // 2]
        layers = [                                              # 1 × 1 -> 4 × 4 pixels
            nn.ConvTranspose2d(z_dim, channels[0], kernel_size=4, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        ]
        for c_in, c_out in zip(channels, channels[1:]):         # H × H -> 2H × 2H pixels
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.Conv2d(width // 2, C, kernel_size=3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        h = z[:, :, None, None]                                 # (B, z_dim) -> (B, z_dim, 1, 1)
        h = self.layers(h)                                      # -> (B, C, S, S)
        return crop(h, self.size)                               # -> (B, C, size, size)


# ---- beyond the paper: --likelihood=gaussian
#
# All pixels have one variance, s²: always the one with which log p(x|z) is highest (Rybkin et al.
# 2021, "Simple and Effective VAE Training with Calibrated Decoders", σ-VAE,
# https://arxiv.org/abs/2006.13202). A variance that is chosen by hand would be a weight of the
# reconstruction in the loss, as β is one of the KL. The paper's decoder of faces computes a
# variance for each pixel (appendix C.2).

LEAST_VAR = 5e-6    # the smallest s²: (2/255)²/12, the variance of rounding to one of 256 shades


def log_normal(x, mean, var):
    """log N(x; mean, var) of each image: (B,) (appendix C.2).

        log N = −½ Σ ((x − mean)² / var + log(2π var))          a sum over pixels

    A density may be above 1. Then its logarithm is positive, and the loss may be negative.
    """
    log_p = -((x - mean) ** 2 / var + (2 * math.pi * var).log()) / 2
    return log_p.flatten(1).sum(dim=1)


class Gaussian(nn.Module):
    """p(x|z) = N(x_hat, s²): x_hat is the mean of each pixel, s² the variance of all of them.

    As BatchNorm does, it computes s² from the batch in training, and keeps a running average for
    images that are not learnt from.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("var", torch.tensor(1.0))          # the running average of s²

    def log_prob(self, x, x_hat):
        """log p(x|z) of each image: (B,)."""
        var = self.var
        if self.training:
            var = best_variance(x, x_hat)
            self.var.lerp_(var, 0.05)                           # 0.95 · average + 0.05 · s²
        return log_normal(x, x_hat, var)

    def mean(self, x_hat):
        return x_hat


@torch.no_grad()
def best_variance(x, x_hat):
    """s², the variance of the pixels with which log p(x|z) is highest (Rybkin et al., eq. 6).

    log p = −½ Σ ((x − x̂)² / s² + log 2πs²), and its derivative by s² is 0 where s² is the mean of
    (x − x̂)². So a gradient that passed through s² would add nothing.
    """
    return (x - x_hat).square().mean().clamp(min=LEAST_VAR)


# ---- beyond the paper: --optimizer=muon
#
# A gradient has strong directions, such as the colours of large areas, and weak ones. Muon makes
# all of them equally strong (Jordan et al. 2024; mini/utils/optim.py). It trains the kernels of
# convolutions, but for those next to pixels: in the encoder's first layer, and in the decoder's
# last. Adam trains the rest.

def make_optimizer(model, device):
    """Adam, or Muon and Adam together, which are then used as one."""
    cfg = model.cfg
    if cfg.optimizer == "adam":
        optimizers = [torch.optim.Adam(model.parameters(), cfg.lr)]
    else:
        optimizers = muon_and_adam(model.encoder, model.decoder, cfg.muon_lr, cfg.lr)
    return Together(optimizers, device, cfg.matmul)


# ---- beyond the paper: --prior=mixture
#
# The KL brings the z of the images near N(0, I), but they do not fill it. Most z that are drawn
# from N(0, I) are unlike all that the decoder has learnt from, and it draws no face. So after
# training, another p(z) takes the place of N(0, I), one that is high where the z of images are.
# This is ex-post density estimation (Ghosh et al. 2020, "From variational to deterministic
# autoencoders", §4). The ELBO is still that of N(0, I).

@torch.no_grad()
def encode_and_sample(model, images):
    """z ~ q(z|x) of each image: (N, z_dim), the same at every call."""
    mu, logvar = in_batches(model, model.encode, images)
    eps = noise(len(mu), mu.size(1), model.cfg.seed)
    return reparameterize(mu, logvar, eps)


def fit_prior(model, images, n_components: int) -> Mixture:
    """A mixture of normal distributions, fitted to a z ~ q(z|x) of each image (N, C, size, size).
    Each of them takes ten z or more for every number in z: if there are too few for n_components,
    it has fewer."""
    z = encode_and_sample(model, images)
    can_be_fitted = len(z) // (10 * z.size(1))
    return fit_mixture(z, max(1, min(n_components, can_be_fitted)), model.cfg.seed)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    remedy = "lower --batch_size, --width, --z_dim, --size or --n"
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory=remedy)


if __name__ == "__main__":
    main()
