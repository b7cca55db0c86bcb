"""VAE: an encoder turns an image x into a few numbers z, its code; a decoder turns z into an image.

The decoder is the model. To make a new image, draw z from the prior p(z) = N(0, I) and decode it:
the decoder gives p(x|z), the distribution of the image. How probable is a given image x? p(x) =
∫ p(x|z) p(z) dz, and nobody can compute this integral over all z. So a second network, the encoder,
looks at x and approximates the posterior p(z|x), which says what codes x may have, by

    q(z|x) = N(μ, diag(σ²)),    μ and σ² computed from x

Training raises the ELBO (evidence lower bound), which can be computed:

    ELBO = E_q log p(x|z) − KL(q(z|x) ‖ p(z))                               (eq. 3)
    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x))                                   (eq. 1)

where E_q is the mean over z ~ q(z|x). The KL of eq. 1 is never negative, so the ELBO is at most
log p(x). The first term of the ELBO asks that x can be reconstructed from z. The second keeps all
q(z|x) near the prior, so that the decoder can make something of a z that is drawn from the prior.
As a loss, with one z for each x in place of the mean:

    loss = beta · KL(q(z|x) ‖ p(z)) − log p(x|z)

With beta = 1, as in the paper, it is −ELBO. A larger beta keeps the codes nearer to the prior, and
leaves less of the image in them (Higgins et al. 2017, "β-VAE").

Both terms are sums, over the numbers of the image and over those of z. A mean in place of one of
the sums would change their balance. The unit is nats (bits times ln 2) per image.

Shapes: B images with C channels and size × size pixels in a batch.

Papers: Kingma & Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
(the equation numbers), and Rybkin et al. 2021, "Simple and effective VAE training with calibrated
decoders" (σ-VAE), https://arxiv.org/abs/2006.13202 (the variance of the pixels).

--preset=paper has the paper's networks, batch and prior, but trains by Adam, which needs fewer
steps than the paper's Adagrad. By default we depart further, to draw coloured faces well in
minutes:

    --network=conv          convolutional networks with BatchNorm; the paper's have one hidden layer
    --optimizer=muon        Muon for the kernels and Adam for the rest
    --likelihood=gaussian   the variance of the pixels is one number, s²; the paper's decoder of
                            faces computes one for each pixel, its decoder of digits is Bernoulli
    --prior=mixture         new images come from a mixture of normal distributions, which is fitted
                            to the codes after the training; the paper draws z from N(0, I)

To read it with the paper: the networks, the bound, and the first half of the loop in `train`. What
comes after `train` is about scores and samples.

    python -m mini.vae                                  faces, drawn on the spot
    python -m mini.vae --preset=paper --data=mnist --size=0 --likelihood=bernoulli      the paper's
    python -m mini.vae sample --show=reconstruct        or walk; with --z_dim=2 also map
    python -m mini.vae sample --show=arithmetic --glasses=round
    python -m mini.vae evaluate                         tighter bounds; scores of arithmetic

Measured times and scores: README.md. Read next: mini/lstm.py.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

# images and their labels, the command line, devices, grids of images, scores, Muon, mixtures, the
# folder of a run: this file can be followed without reading them
from mini.data.images.image_sets import LabelConfig, load_images
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.image_metrics import image_report
from mini.utils.images import crop, noise, pad, padded_size, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.mixture import Mixture, fit_mixture
from mini.utils.optim import muon_and_adam
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the paper's networks: --network=mlp

class MLPEncoder(nn.Module):
    """An image -> μ and log σ² of q(z|x), by one hidden layer (appendix C.2).

    n_pixels: C · size · size.
    """

    def __init__(self, n_pixels: int, n_hidden: int, z_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_pixels, n_hidden),
            nn.Tanh(),
            nn.Linear(n_hidden, 2 * z_dim),
        )

    def forward(self, x):
        """(B, C, size, size) -> mu and logvar, (B, z_dim) each."""
        h = self.layers(x).float()                  # (B, 2 z_dim)
        mu, logvar = h.chunk(2, dim=1)              # log σ² may be any number, σ² must be positive
        return mu, logvar


class MLPDecoder(nn.Module):
    """z -> the mean x̂ of p(x|z), or its logits if p(x|z) is Bernoulli (appendix C.1, C.2)."""

    def __init__(self, image_shape: tuple, n_hidden: int, z_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(z_dim, n_hidden),
            nn.Tanh(),
            nn.Linear(n_hidden, math.prod(image_shape)),
            nn.Unflatten(1, image_shape),
        )

    def forward(self, z):
        """(B, z_dim) -> (B, C, size, size)."""
        return self.layers(z).float()


# ---- convolutional networks: --network=conv

class ConvEncoder(nn.Module):
    """An image -> μ and log σ² of q(z|x).

    The image is padded to S × S pixels, S a power of two. Each convolution halves height and width,
    until 4 × 4 pixels are left. channels: those after each of them; for S = 32 and width = 32 they
    are [32, 64, 128].
    """

    def __init__(self, C: int, channels: list, z_dim: int):
        super().__init__()
        layers = []
        c_in = C
        for c_out in channels:
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            c_in = c_out
        layers += [nn.Conv2d(c_in, 2 * z_dim, kernel_size=4)]           # 4 × 4 pixels -> 1 × 1
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        """(B, C, size, size) -> mu and logvar, (B, z_dim) each."""
        h = self.layers(pad(x))                     # (B, C, S, S) -> (B, 2 z_dim, 1, 1)
        h = h.flatten(1).float()                    # (B, 2 z_dim), no longer in bfloat16
        mu, logvar = h.chunk(2, dim=1)
        return mu, logvar


class ConvDecoder(nn.Module):
    """z -> the mean x̂ of p(x|z), or its logits if p(x|z) is Bernoulli.

    The first layer makes 4 × 4 pixels, each further one doubles height and width. channels: those
    after each of them; for S = 32 and width = 32 they are [128, 64, 32, 16].
    """

    def __init__(self, C: int, size: int, channels: list, z_dim: int):
        super().__init__()
        self.size = size
        c_in = channels[0]
        layers = [
            nn.ConvTranspose2d(z_dim, c_in, kernel_size=4, bias=False),     # 1 × 1 -> 4 × 4 pixels
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
        ]
        for c_out in channels[1:]:
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
            c_in = c_out
        layers += [nn.Conv2d(c_in, C, kernel_size=3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        """(B, z_dim) -> (B, C, size, size)."""
        h = z[:, :, None, None]                     # (B, z_dim) -> (B, z_dim, 1, 1)
        h = self.layers(h).float()                  # -> (B, C, S, S)
        return crop(h, self.size)                   # -> (B, C, size, size)


# ---- both together

class VAE(nn.Module):
    """Encoder and decoder for images (B, C, size, size) in [-1, 1]."""

    def __init__(self, cfg, C: int, size: int):
        super().__init__()
        self.cfg = cfg
        self.size = size
        if cfg.network == "mlp":
            self.encoder = MLPEncoder(C * size * size, cfg.width, cfg.z_dim)
            self.decoder = MLPDecoder((C, size, size), cfg.width, cfg.z_dim)
        else:
            n_halvings = int(math.log2(padded_size(size))) - 2  # 32 -> 16 -> 8 -> 4 pixels: 3
            channels = [cfg.width * 2**i for i in range(n_halvings)]
            self.encoder = ConvEncoder(C, channels, cfg.z_dim)
            self.decoder = ConvDecoder(C, size, channels[::-1] + [cfg.width // 2], cfg.z_dim)
        self.register_buffer("var", torch.tensor(1.0))          # s², the variance of each pixel

    def encode(self, x):
        """Images (B, C, size, size) -> mu and logvar of q(z|x), (B, z_dim) each."""
        return self.encoder(x)

    def decode(self, z):
        """z (B, z_dim) -> x_hat (B, C, size, size): of each pixel the mean, or its logit."""
        return self.decoder(z)

    def forward(self, x, eps):
        """x_hat, mu and logvar of images x, with z made from eps (B, z_dim), which is drawn from
        N(0, I) outside: so the same eps can be used twice."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, eps)
        return self.decode(z), mu, logvar

    @property
    def device(self):
        return self.var.device


# ---- the bound

def reparameterize(mu, logvar, eps):
    """z ~ N(μ, σ²), made from eps ~ N(0, 1) (§2.4).  mu, logvar, eps, z: (B, z_dim).

    It is a function of μ and σ, so gradients reach them. A sample that was simply drawn from
    N(μ, σ²) would have none.
    """
    sigma = (logvar / 2).exp()
    return mu + sigma * eps


def kl_divergence(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, 1)) of each image, in nats: (B,).

        ½ Σ (μ² + σ² − 1 − log σ²), summed over the numbers of z        (appendix B)
    """
    return (mu**2 + logvar.exp() - 1 - logvar).sum(dim=1) / 2


def log_normal(x, mean, var):
    """log N(x; mean, var), summed over all axes but the first: (B,)."""
    log_p = -((x - mean) ** 2 / var + (2 * math.pi * var).log()) / 2
    return log_p.flatten(1).sum(dim=1)


def log_bernoulli(x, logits):
    """The log-probability of x in [-1, 1], seen as shades from black to white, if each pixel is
    white with the probability sigmoid(logit): (B,). (Appendix C.1.) This is right for images in
    black and white, and nearly right for digits."""
    white = (x + 1) / 2
    log_p = -F.binary_cross_entropy_with_logits(logits, white, reduction="none")
    return log_p.flatten(1).sum(dim=1)


LEAST_VAR = 5e-6    # the smallest s²: (2/255)²/12, the variance of rounding to one of 256 shades


@torch.no_grad()
def mean_squared_error(x, x_hat):
    """s², the variance of the pixels with which log p(x|z) is highest (Rybkin et al., eq. 6).

    log p = −½ Σ ((x − x̂)² / s² + log 2πs²), and its derivative by s² is 0 where s² is the mean of
    (x − x̂)². So a gradient that passed through s² would add nothing.
    """
    return (x - x_hat).square().mean().clamp(min=LEAST_VAR)


def log_likelihood(x, x_hat, var, likelihood: str):
    """log p(x|z) of each image, in nats: (B,). Gaussian: p(x|z) = N(x̂, s²) for each pixel, with s²
    = var. This is a density, which may be above 1. So its logarithm may be positive, and the loss
    negative."""
    if likelihood == "bernoulli":
        return log_bernoulli(x, logits=x_hat)
    return log_normal(x, x_hat, var)


def elbo_terms(model, x, eps):
    """(log p(x|z), KL) of each image, in nats: (B,) each. ELBO = log p(x|z) − KL (eq. 3), with one
    z ~ q(z|x) in place of the expectation (eq. 7 with L = 1). s² is the running average."""
    x_hat, mu, logvar = model(x, eps)
    log_p = log_likelihood(x, x_hat, model.var, model.cfg.likelihood)
    return log_p, kl_divergence(mu, logvar)


# ---- settings

@dataclass
class Config(LabelConfig):
    """It also has the fields of RunConfig (mini/utils/config.py): preset, eval_every, seed, device
    and so on; and of LabelConfig: hair, style, skin, glasses, mouth, background, label."""
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own images
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training

    # model
    z_dim: int = 32             # length of z, which an image is made from (--show=map needs 2)
    network: Literal["conv", "mlp"] = "conv"    # convolutions, or one hidden layer as in the paper
    # conv: channels at half the image's size, twice as many at each smaller; mlp: hidden units
    width: int = 32
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"   # the distribution p(x|z) of a pixel

    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 32        # images in a step
    # Muon trains the kernels, but for those next to pixels, and Adam the rest; or Adam trains all
    optimizer: Literal["muon", "adam"] = "muon"
    muon_lr: float = 0.05       # Muon's learning rate at the start; it falls linearly to 0
    lr: float = 5e-3            # Adam's learning rate at the start; it falls linearly to 0
    beta: float = 1.0           # weight of the KL term in the loss

    # run
    out_dir: str = "runs/vae"   # folder of the run
    # images to score (0: 512, or proportionally fewer if --steps is below its default)
    n_test: int = 0

    # sampling
    # draw z from a mixture of normal distributions fitted to codes, or from N(0, 1)
    prior: Literal["mixture", "standard"] = "mixture"
    components: int = 60        # normal distributions in the mixture
    n: int = 64                 # images in a grid
    # new images; held-out images above their reconstructions; images on the way from one held-out
    # image to the next, or over the plane of z; a change that --glasses=round or the like asks for
    show: Literal["samples", "reconstruct", "walk", "map", "arithmetic"] = "samples"

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("size", "n_images", "z_dim", "network", "width", "likelihood")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # as in the paper (§5): for digits, with --data=mnist --likelihood=bernoulli
    "paper": dict(network="mlp", width=500, z_dim=20, optimizer="adam", lr=1e-3,
                  batch_size=100, prior="standard"),
    # larger images on a GPU
    "gpu": dict(size=64, z_dim=64, width=64, batch_size=128, lr=2e-3, steps=20000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "z_dim", "components", "n", "lr", "muon_lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")  # BatchNorm
    require(cfg.width >= 2, f"--width={cfg.width} must be at least 2")
    require(cfg.beta >= 0, f"--beta={cfg.beta} must be at least 0")


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "vae", wanted=cfg.resume)     # no checkpoint: None
    device = pick_device(cfg.device)

    # images: all of the training set is kept on the device
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    images = train_set.images.to(device)                        # (N, C, size, size), bytes
    C, size = images.shape[1:3]
    shape = (C, size, train_set.attributes)                     # what a checkpoint belongs to
    check_shape(checkpoint, *shape)

    # model and optimisers, new or resumed
    torch.manual_seed(cfg.seed)                                 # for the initial weights
    model = VAE(cfg, C, size)
    untrained = VAE(cfg, C, size)                               # to compare its images with
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
    model = model.to(device, memory_format=conv_layout(cfg.compile))
    if cfg.optimizer == "muon":
        # A gradient has strong directions, such as the colours of large areas, and weak ones. Muon
        # makes all of them equally strong (Jordan et al. 2024): what is small, such as a mouth, is
        # learnt in far fewer steps
        optimizers = muon_and_adam(model.encoder, model.decoder, cfg.muon_lr, cfg.lr)
    else:
        optimizers = [torch.optim.Adam(model.parameters(), cfg.lr)]
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches and for eps
    if checkpoint:
        restore(checkpoint, optimizers, data_rng)
    net = compile_convolutions(model) if cfg.compile else model

    # what is evaluated: always with the same random numbers
    judge = Judge(cfg, train_set, held_out, n=512)
    held_out_eps = noise(len(held_out.images), cfg.z_dim, cfg.seed)

    if checkpoint:
        mixture = Mixture(**checkpoint["mixture"])              # for a run with no step left to do

    run = Run(cfg, "vae", model, ["loss", "log_p", "kl", "val_elbo"], checkpoint)
    with run:
        for step in range(run.first, cfg.steps):
            # learning rates: they fall to 0 in a straight line
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = optimizer.defaults["lr"] * (1 - step / cfg.steps)

            # batch
            chosen = torch.randint(len(images), (cfg.batch_size,), generator=data_rng)
            x = to_float(images[chosen.to(device)])             # (B, C, size, size)
            eps = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # encode, draw z, decode
            with autocast(device, cfg.matmul):                  # bfloat16 where that is faster
                x_hat, mu, logvar = net(x, eps)

            # the variance of the pixels; its running average is for images that are not learnt from
            var = None
            if cfg.likelihood == "gaussian":
                var = mean_squared_error(x, x_hat)
                model.var.lerp_(var, 0.05)                      # 0.95 · average + 0.05 · var

            # the two terms of the ELBO, means over the images of the batch
            log_p = log_likelihood(x, x_hat, var, cfg.likelihood).mean()
            kl = kl_divergence(mu, logvar).mean()
            loss = cfg.beta * kl - log_p
            run.check_finite(step, loss=loss.item())            # NaN stops here
            loss.backward()

            # step
            with autocast(device, cfg.matmul):                  # Muon multiplies matrices, too
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            with run.untimed():
                val_elbo = None
                if run.due(done, cfg.eval_every):
                    val_log_p, val_kl = elbo_of(model, held_out.images[:1024], held_out_eps[:1024])
                    val_elbo = val_log_p - val_kl

                if val_elbo is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), log_p=log_p.item(), kl=kl.item(),
                            val_elbo=val_elbo)

                sampling = run.due(done, cfg.sample_every)
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                saving = val_elbo is not None or stopping
                if sampling or saving:
                    # which z to draw: until the end, it is enough to know it roughly
                    n_codes = len(images) if done == cfg.steps else 2048
                    mixture = fit_prior(model, train_set.images[:n_codes], cfg.components)
                if sampling:
                    z = new_z(cfg, mixture, cfg.n)
                    path = f"{cfg.out_dir}/samples/step_{done:06d}.png"
                    write_png(path, sheet(draw(model, z)))
                if saving:
                    # checkpoint.pt: settings, weights, optimisers, random states, mixture
                    run.save(done, model, optimizers, data_rng, shape=shape,
                             mixture=mixture.state())

            if stopping and done < cfg.steps:
                return run.leave(done)

        # scores, each beside its baseline
        log_p, kl = elbo_of(model, held_out.images, held_out_eps)
        mean_image = log_p_of_mean_image(cfg, train_set, held_out)
        run.say(f"held-out ELBO {log_p - kl:.1f} nats per image, log p(x|z) {log_p:.1f} − "
                f"KL {kl:.1f}; of the mean image, without z, {mean_image:.1f}")
        scores = {}
        if judge.n > 0:
            z = new_z(cfg, mixture, judge.n)
            scores = judge.scores(draw(model, z), draw(untrained, z))
        run.say(image_report(scores))
        return run.finish(elbo=log_p - kl, log_p=log_p, kl=kl, mean_image=mean_image, **scores)


# ---- scores, and which z to draw

@torch.no_grad()
def in_batches(model, function, *inputs):
    """function(*inputs), a tensor or several, on the CPU, computed for 256 rows at a time.

    uint8 images become floats first. BatchNorm uses its running means and variances, so no image
    depends on the others.
    """
    was_training = model.training
    model.eval()
    outputs = []
    for start in range(0, len(inputs[0]), 256):
        rows = [x[start:start + 256].to(model.device) for x in inputs]
        rows = [to_float(x) if x.dtype == torch.uint8 else x for x in rows]
        outputs.append(function(*rows))
    model.train(was_training)
    if torch.is_tensor(outputs[0]):
        return torch.cat(outputs).cpu()
    n_tensors = len(outputs[0])
    return [torch.cat([output[i] for output in outputs]).cpu() for i in range(n_tensors)]


def elbo_of(model, images, eps):
    """The mean log p(x|z) and the mean KL of images (N, C, size, size), in nats."""
    log_p, kl = in_batches(model, lambda x, eps: elbo_terms(model, x, eps), images, eps)
    return log_p.double().mean().item(), kl.double().mean().item()


def sampled_codes(model, images):
    """z ~ q(z|x) of each image: (N, z_dim). They are the same at every call."""
    mu, logvar = in_batches(model, model.encode, images)
    eps = noise(len(mu), mu.size(1), model.cfg.seed)
    return reparameterize(mu, logvar, eps)


def draw(model, z):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim): the means of p(x|z), without its
    noise."""
    x_hat = in_batches(model, model.decode, z)
    if model.cfg.likelihood == "bernoulli":
        x_hat = 2 * x_hat.sigmoid() - 1
    return x_hat.clamp(-1, 1)


# The KL term brings the codes of the images near N(0, I), but they do not fill it. Most z that are
# drawn from N(0, I) are unlike all that the decoder has learnt from, and it draws no face. So after
# training, another p(z) is put in the place of N(0, I), one that is high where the codes are. This
# is ex-post density estimation (Ghosh et al. 2020, "From variational to deterministic
# autoencoders", §4). The ELBO is still that of N(0, I).

def fit_prior(model, images, n_components: int) -> Mixture:
    """A mixture of normal distributions, fitted to z ~ q(z|x) of images (N, C, size, size): one z
    of each. To fit one of them takes at least ten codes for each number of z: if there are too few
    for n_components, it has fewer."""
    z = sampled_codes(model, images)
    can_be_fitted = len(z) // (10 * z.size(1))
    return fit_mixture(z, max(1, min(n_components, can_be_fitted)), model.cfg.seed)


def new_z(cfg, mixture, n: int):
    """z of n new images, (n, z_dim), the same at every call: from N(0, I), which is the p(z) of the
    ELBO, or from the mixture."""
    if cfg.prior == "standard":
        return noise(n, cfg.z_dim, cfg.seed)
    return mixture.sample(n, cfg.seed)


def log_p_of_mean_image(cfg, train_set, held_out) -> float:
    """The baseline: the mean log p of the held-out images, in nats, if the decoder always drew the
    mean of the training images."""
    train_images = to_float(train_set.images)
    x = to_float(held_out.images)
    mean = train_images.mean(dim=0, keepdim=True)               # (1, C, size, size)
    if cfg.likelihood == "bernoulli":
        p_white = (mean + 1) / 2
        logits = p_white.logit(eps=1e-4)                        # not infinite where all are black
        return log_bernoulli(x, logits.expand_as(x)).mean().item()
    var = mean_squared_error(train_images, mean)
    return log_normal(x, mean, var).mean().item()


# ---- using what was trained

def load(cfg):
    """(model, mixture, attributes) as trained in --out_dir. model.cfg has the settings of the
    training, with the flags that were typed put over them."""
    cfg, checkpoint = own_checkpoint(cfg, "vae")
    require("mixture" in checkpoint, f"{cfg.out_dir}: made by an older mini/vae.py; train anew")
    C, size, attributes = checkpoint["shape"]
    model = VAE(cfg, C, size)
    model.load_state_dict(checkpoint["model"])
    mixture = Mixture(**checkpoint["mixture"])
    return model.to(pick_device(cfg.device)), mixture, attributes


def load_data(model, attributes):
    """(train_set, held_out) that the model has learnt from, or that --data names."""
    cfg = model.cfg
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    C, size = train_set.images.shape[1:3]
    check_shape({"shape": (C, model.size, attributes)}, C, size, train_set.attributes)
    return train_set, held_out


def sample(cfg: Config):
    """Draw new images into samples/, or what --show says in place of them."""
    model, mixture, attributes = load(cfg)
    cfg = model.cfg
    if cfg.show == "samples":
        picture = sheet(draw(model, new_z(cfg, mixture, cfg.n)))
    else:
        from mini.studies import vae as study  # this command and the next need it
        picture = study.show(model, attributes)
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Bounds on log p(x), how much of z is used, and scores of arithmetic: mini/studies/vae.py."""
    from mini.studies import vae as study
    model, _, attributes = load(cfg)
    train_set, held_out = load_data(model, attributes)
    return study.evaluate(model, train_set, held_out)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --width, --z_dim, --size or --n")


if __name__ == "__main__":
    main()
