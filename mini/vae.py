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

    loss = −log p(x|z) + β KL(q(z|x) ‖ p(z))    one z in place of E; with β = 1, −ELBO

The first term of the loss is the error of the reconstruction: x should be probable, given its z.
The second, the regularisation, keeps q(z|x) near the prior, so that the decoder can make an image
of a z that is drawn from there. The first is a sum over all pixels, the second over all numbers of
z: a mean in place of one of these sums would change their balance. In the paper β, --beta, is 1; a
larger one makes a β-VAE (Higgins et al. 2017).

Shapes: B images in a batch, C colours, size × size pixels; z has z_dim numbers.

Paper: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114
(the equation numbers). The file begins with it: networks, loss, sampling, settings, training.
--preset=paper has its networks, batch and prior. But weights begin as torch draws them and do not
decay, and the optimiser is Adam, not Adagrad. By default there is also what stands in the appendix,
at the end of the file, to draw coloured faces well in minutes on a CPU:

    --network=conv          convolutions; the paper's networks have one hidden layer
    --likelihood=gaussian   one variance for all pixels; the paper's decoder is Bernoulli for
                            digits, and for faces computes a variance of each pixel
    --optimizer=muon        Muon for the kernels of convolutions, Adam for the rest
    --prior=mixture         samples come from a mixture of normal distributions, which is fitted to
                            the z of training images; the paper draws z from N(0, I)

    python -m mini.vae                                  faces, drawn on the spot
    python -m mini.vae --preset=paper --data=mnist --size=0 --likelihood=bernoulli      digits
    python -m mini.vae sample                           new images; --prior=standard as in the paper
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

# images and their grids, the command line, devices, the scores of images, the folder of a run: this
# file can be followed without reading them. to_float turns uint8 into [-1, 1]. noise(n, k, seed)
# are n rows of k normal random numbers, which only depend on the seed. sheet lays images out in a
# grid. Judge is a classifier that compares generated images with real ones.
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
    """z (B, z_dim) -> x_hat (B, C, size, size), which says what p(x|z) is: of each pixel the mean,
    or the logit if p(x|z) is Bernoulli (appendix C.1, C.2)."""

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

    For other networks, write classes that are made and called like these, a branch here, and its
    name in Config.network.
    """

    def __init__(self, cfg, C: int, size: int):
        super().__init__()
        self.cfg = cfg
        self.size = size
        if cfg.network == "mlp":
            self.encoder = MLPEncoder(C, size, cfg.width, cfg.z_dim)
            self.decoder = MLPDecoder(C, size, cfg.width, cfg.z_dim)
        else:                                                   # see the appendix
            self.encoder = ConvEncoder(C, size, cfg.width, cfg.z_dim)
            self.decoder = ConvDecoder(C, size, cfg.width, cfg.z_dim)
        # the variance of a pixel, if p(x|z) is Gaussian (see the appendix)
        self.register_buffer("var", torch.tensor(1.0))

    def encode(self, x):
        """mu and logvar, (B, z_dim) each."""
        mu, logvar = self.encoder(x)
        return mu.float(), logvar.float()                       # float32, also under autocast

    def decode(self, z):
        """x_hat (B, C, size, size)."""
        return self.decoder(z).float()

    def forward(self, x, eps):
        """(x_hat, mu, logvar). eps (B, z_dim) ~ N(0, I) is drawn outside, as in g(ε, x) of §2.4."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, eps)
        x_hat = self.decode(z)
        return x_hat, mu, logvar


# ---- the loss

def kl_divergence(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, I)) of each image: (B,), from mu and logvar (B, z_dim) (appendix B).

        KL = ½ Σ (μ² + σ² − 1 − log σ²)         a sum over the numbers of z
    """
    return (mu**2 + logvar.exp() - 1 - logvar).sum(dim=1) / 2


def log_bernoulli(x, logits):
    """log p(x|z) of each image: (B,), if a pixel is white (1) with probability p = sigmoid(logit),
    and else black (0) (appendix C.1). Greys lie between the two.

        log p(x|z) = Σ (x log p + (1 − x) log(1 − p))           a sum over pixels
    """
    white = (x + 1) / 2                                         # from [-1, 1] to [0, 1]
    log_p = -F.binary_cross_entropy_with_logits(logits, white, reduction="none")
    return log_p.flatten(1).sum(dim=1)


def log_normal(x, mean, var):
    """log N(x; mean, var) of each image: (B,) (appendix C.2).

        log N = −½ Σ ((x − mean)² / var + log(2π var))          a sum over pixels

    A density may be above 1. Then its logarithm is positive, and the loss may be negative.
    """
    log_p = -((x - mean) ** 2 / var + (2 * math.pi * var).log()) / 2
    return log_p.flatten(1).sum(dim=1)


def log_likelihood(x, x_hat, pixel_var, likelihood: str):
    """log p(x|z) of each image: (B,). pixel_var: the variance of a pixel, if it is Gaussian.

    For another distribution, write a function such as log_normal, a branch here, and its name in
    Config.likelihood. If x_hat is not its mean, add a branch in `generate`, too.
    """
    if likelihood == "bernoulli":
        return log_bernoulli(x, logits=x_hat)
    return log_normal(x, x_hat, pixel_var)


def vae_loss(x, x_hat, mu, logvar, pixel_var, cfg):
    """(loss, log_p, kl), each a mean over the images of a batch, in nats (bits times ln 2). For
    beta = 1 the loss is −ELBO with one z for each image (eq. 7, L = 1)."""
    log_p = log_likelihood(x, x_hat, pixel_var, cfg.likelihood).mean()
    kl = kl_divergence(mu, logvar).mean()
    loss = -log_p + cfg.beta * kl
    return loss, log_p, kl


# ---- sampling

def sample_z(cfg, mixture, n: int):
    """z (n, z_dim) of new images, the same at every call: from the prior N(0, I) of the paper, or
    from a mixture, which is fitted to the z of training images (see the appendix)."""
    if cfg.prior == "standard":
        return noise(n, cfg.z_dim, cfg.seed)
    return mixture.sample(n, cfg.seed)


@torch.no_grad()
def generate(model, z):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim), on the CPU: the means of p(x|z).

    BatchNorm uses its running means and variances, so no image depends on the others.
    """
    device = model.var.device
    was_training = model.training
    model.eval()
    parts = []
    for z_i in z.to(device).split(256):
        parts.append(model.decode(z_i).cpu())
    model.train(was_training)
    x_hat = torch.cat(parts)
    if model.cfg.likelihood == "bernoulli":
        x_hat = 2 * x_hat.sigmoid() - 1                         # p, and then from [0, 1] to [-1, 1]
    return x_hat.clamp(-1, 1)


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
    # as in the paper (§5): for digits, with --data=mnist --size=0 --likelihood=bernoulli
    "paper": dict(network="mlp", width=500, z_dim=20, optimizer="adam", lr=1e-3,
                  batch_size=100, prior="standard"),
    # larger images and networks: one GPU
    "gpu": dict(size=64, z_dim=64, width=64, batch_size=128, lr=2e-3, steps=20000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "z_dim", "components", "n", "lr", "muon_lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.width >= 2, f"--width={cfg.width} must be at least 2")
    require(cfg.beta >= 0, f"--beta={cfg.beta} must be at least 0")


# ---- training

def train(cfg: Config) -> dict:
    """Train (algorithm 1 of the paper); returns what result.json holds. Raises UserError for input
    that cannot be used."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "vae", cfg.resume)
    device = pick_device(cfg.device)

    # images: uint8 (N, C, size, size); those that are held out only score
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    images = train_set.images.to(device)
    N, C, size, _ = images.shape
    shape = (C, size, train_set.attributes)                     # saved with a checkpoint
    check_shape(checkpoint, *shape)

    # model and optimisers
    torch.manual_seed(cfg.seed)
    model = VAE(cfg, C, size)
    untrained = VAE(cfg, C, size)                               # the baseline of the scores
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
    model = model.to(device, memory_format=conv_layout(cfg.compile))
    if cfg.optimizer == "adam":
        optimizers = [torch.optim.Adam(model.parameters(), cfg.lr)]
    else:                                                       # see the appendix
        optimizers = muon_and_adam(model.encoder, model.decoder, cfg.muon_lr, cfg.lr)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for batches and eps
    if checkpoint:
        restore(checkpoint, optimizers, data_rng)
        mixture = Mixture(**checkpoint["mixture"])

    # the network as training calls it: with --compile, made into fewer, larger kernels
    net = compile_convolutions(model) if cfg.compile else model

    # the judge will score the images; run keeps the folder out_dir
    judge = Judge(cfg, train_set, held_out, n=512)
    run = Run(cfg, "vae", model, ["loss", "log_p", "kl", "val_elbo"], checkpoint)
    with run:
        for step in range(run.first, cfg.steps):
            # learning rates: they fall to 0 in a straight line
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / cfg.steps)

            # batch, and a sample of ε for each image (L = 1)
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x = to_float(images[i])                                     # (B, C, size, size)
            eps = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # encode, sample z, decode. Products are in bfloat16, if that is faster on this device;
            # weights and the loss stay in float32.
            with autocast(device, cfg.matmul):
                x_hat, mu, logvar = net(x, eps)

            # loss, backward, step
            pixel_var = update_variance(model, x, x_hat)        # ours: see the appendix
            loss, log_p, kl = vae_loss(x, x_hat, mu, logvar, pixel_var, cfg)
            run.check_finite(step, loss=loss.item())            # NaN stops here
            model.zero_grad(set_to_none=True)
            loss.backward()
            with autocast(device, cfg.matmul):                  # Muon multiplies matrices, too
                for optimizer in optimizers:
                    optimizer.step()

            # evaluate, log, sample and save, each when it is due
            done = step + 1
            val_elbo = None
            with run.untimed():                                 # this is not training time
                if run.due(done, cfg.eval_every):
                    val_elbo = mean_elbo(model, held_out.images[:1024])["elbo"]
                if val_elbo is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), log_p=log_p.item(), kl=kl.item(),
                            val_elbo=val_elbo)
                sampling = run.due(done, cfg.sample_every)
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                saving = stopping or val_elbo is not None
                if sampling or saving:
                    # the mixture to sample from (see the appendix): until the end, of some images
                    n_fitted = N if done == cfg.steps else 2048
                    mixture = fit_prior(model, train_set.images[:n_fitted], cfg.components)
                if sampling:
                    picture = sheet(generate(model, sample_z(cfg, mixture, cfg.n)))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                if saving:
                    run.save(done, model, optimizers, data_rng, shape=shape,
                             mixture=mixture.state())
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, each beside its baseline
        scores = score(model, untrained, mixture, judge, train_set, held_out)
        run.say("held-out ELBO {elbo:.1f} nats per image, log p(x|z) {log_p:.1f} − KL {kl:.1f}; of "
                "the mean image, without z, {mean_image:.1f}".format(**scores))
        run.say(image_report(scores))
        return run.finish(**scores)                             # result.json


# ---- scores

def score(model, untrained, mixture, judge, train_set, held_out) -> dict:
    """What result.json says: the ELBO of held-out images, beside a model without z; the judge's
    scores of new images, beside those of a model that has learnt nothing."""
    cfg = model.cfg
    scores = mean_elbo(model, held_out.images)
    scores["mean_image"] = log_p_of_mean_image(cfg, train_set, held_out)
    if judge.n > 0:                                             # there are labels to judge by
        z = sample_z(cfg, mixture, judge.n)
        scores |= judge.scores(generate(model, z), generate(untrained, z))
    return scores


def mean_elbo(model, images) -> dict:
    """{"elbo", "log_p", "kl"} of images (N, C, size, size), in nats per image; the same at every
    call."""
    eps = noise(len(images), model.cfg.z_dim, model.cfg.seed)
    log_p, kl = in_batches(model, lambda x, eps: elbo_terms(model, x, eps), images, eps)
    log_p = log_p.double().mean().item()
    kl = kl.double().mean().item()
    return {"elbo": log_p - kl, "log_p": log_p, "kl": kl}


def elbo_terms(model, x, eps):
    """(log p(x|z), KL) of each image x, (B,) each: the ELBO is their difference."""
    x_hat, mu, logvar = model(x, eps)
    log_p = log_likelihood(x, x_hat, model.var, model.cfg.likelihood)
    return log_p, kl_divergence(mu, logvar)


@torch.no_grad()
def in_batches(model, function, *inputs):
    """What function(*inputs) returns, a tensor or several, computed for 256 rows at a time, on the
    CPU. uint8 images become floats first. BatchNorm uses its running means and variances, so no
    image depends on the others."""
    was_training = model.training
    model.eval()
    outputs = []
    for start in range(0, len(inputs[0]), 256):
        rows = [x[start:start + 256].to(model.var.device) for x in inputs]
        rows = [to_float(x) if x.dtype == torch.uint8 else x for x in rows]
        outputs.append(function(*rows))
    model.train(was_training)
    if torch.is_tensor(outputs[0]):
        return torch.cat(outputs).cpu()
    return [torch.cat(parts).cpu() for parts in zip(*outputs)]


def log_p_of_mean_image(cfg, train_set, held_out) -> float:
    """The mean log p(x) of held-out images, in nats, if a decoder without z always gave the mean of
    the training images."""
    train_images = to_float(train_set.images)
    x = to_float(held_out.images)
    mean = train_images.mean(dim=0, keepdim=True)               # (1, C, size, size)
    if cfg.likelihood == "bernoulli":
        p_white = (mean + 1) / 2
        logits = p_white.logit(eps=1e-4)                        # not infinite where all are black
        return log_bernoulli(x, logits.expand_as(x)).mean().item()
    pixel_var = mean_squared_error(train_images, mean)
    return log_normal(x, mean, pixel_var).mean().item()


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
    """Draw n images into samples/. Or what else --show says, see mini/studies/vae.py."""
    model, mixture, attributes = load(cfg)
    cfg = model.cfg
    if cfg.show != "samples":
        from mini.studies import vae as study  # only these pictures need it
        picture = study.show(model, attributes)
    else:
        picture = sheet(generate(model, sample_z(cfg, mixture, cfg.n)))
    path = f"{cfg.out_dir}/samples/{cfg.show}.png"
    write_png(path, picture)
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Bounds on log p(x), how much of z is used, scores of arithmetic. See mini/studies/vae.py."""
    from mini.studies import vae as study  # only this command needs it
    model, _, attributes = load(cfg)
    train_set, held_out = load_data(model, attributes)
    return study.evaluate(model, train_set, held_out)


# ---- appendix: what is not in the paper

# --network=conv. The encoder is like D of train_gan.py, the decoder like its G, with BatchNorm in
# both.

class ConvEncoder(nn.Module):
    """Images x (B, C, size, size) -> mu and logvar, (B, z_dim) each.

    The image is padded to S × S pixels, S a power of two. Each layer halves height and width, and
    doubles the channels. For S = 32 and width = 32: C × 32 × 32, 32 × 16 × 16, 64 × 8 × 8,
    128 × 4 × 4. Convolutions before a BatchNorm have no bias: the BatchNorm would subtract it.
    """

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        S = padded_size(size)
        layers = []
        c_in = C
        c_out = width
        # H × H -> H/2 × H/2 pixels, down to 4 × 4, with width · S/8 channels
        while c_out <= width * S // 8:
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            c_in = c_out
            c_out = 2 * c_in
        # 4 × 4 -> 1 × 1 pixels
        layers += [nn.Conv2d(c_in, 2 * z_dim, kernel_size=4)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        h = self.layers(pad(x))                                 # (B, C, S, S) -> (B, 2 z_dim, 1, 1)
        mu, logvar = h.flatten(1).chunk(2, dim=1)               # (B, z_dim) each
        return mu, logvar


class ConvDecoder(nn.Module):
    """z (B, z_dim) -> x_hat (B, C, size, size): of each pixel the mean of p(x|z), or its logit.

    The first layer makes 4 × 4 pixels, each further one doubles height and width, and halves the
    channels. For S = 32 and width = 32: 128 × 4 × 4, 64 × 8 × 8, 32 × 16 × 16, 16 × 32 × 32, and
    at last C × 32 × 32.
    """

    def __init__(self, C: int, size: int, width: int, z_dim: int):
        super().__init__()
        self.size = size
        c_in = width * padded_size(size) // 8                   # channels at 4 × 4 pixels
        # 1 × 1 -> 4 × 4 pixels
        layers = [
            nn.ConvTranspose2d(z_dim, c_in, kernel_size=4, bias=False),
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
        ]
        # H × H -> 2H × 2H pixels, up to S × S
        while c_in > width // 2:
            c_out = c_in // 2
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
            c_in = c_out
        layers += [nn.Conv2d(c_in, C, kernel_size=3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        h = z[:, :, None, None]                                 # (B, z_dim) -> (B, z_dim, 1, 1)
        h = self.layers(h)                                      # -> (B, C, S, S)
        return crop(h, self.size)                               # -> (B, C, size, size)


# --optimizer=muon. A gradient has strong directions, such as the colours of large areas, and weak
# ones. Muon makes all of them equally strong (Jordan et al. 2024; mini/utils/optim.py). It trains
# the kernels of convolutions, but for those next to pixels: in the encoder's first layer, and in
# the decoder's last.

# --likelihood=gaussian. All pixels have one variance, s²: always the one with which log p(x|z) is
# highest (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders", σ-VAE,
# https://arxiv.org/abs/2006.13202). A variance that is chosen by hand would be a weight of the
# reconstruction in the loss, as β is one of the KL.

LEAST_VAR = 5e-6    # the smallest s²: (2/255)²/12, the variance of rounding to one of 256 shades


@torch.no_grad()
def mean_squared_error(x, x_hat):
    """s², the variance of the pixels with which log p(x|z) is highest (Rybkin et al., eq. 6).

    log p = −½ Σ ((x − x̂)² / s² + log 2πs²), and its derivative by s² is 0 where s² is the mean of
    (x − x̂)². So a gradient that passed through s² would add nothing.
    """
    return (x - x_hat).square().mean().clamp(min=LEAST_VAR)


def update_variance(model, x, x_hat):
    """s² of this batch, or None if p(x|z) is Bernoulli, which has none. model.var, the running
    average, is for images that are not learnt from, as BatchNorm's are."""
    if model.cfg.likelihood == "bernoulli":
        return None
    pixel_var = mean_squared_error(x, x_hat)
    model.var.lerp_(pixel_var, 0.05)                            # 0.95 · average + 0.05 · s²
    return pixel_var


# --prior=mixture. The KL brings the z of the images near N(0, I), but they do not fill it. Most z
# that are drawn from N(0, I) are unlike all that the decoder has learnt from, and it draws no face.
# So after training, another p(z) takes the place of N(0, I), one that is high where the z of images
# are. This is ex-post density estimation (Ghosh et al. 2020, "From variational to deterministic
# autoencoders", §4). The ELBO is still that of N(0, I).

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
