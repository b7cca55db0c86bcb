"""VAE: an encoder turns an image into a few numbers z; a decoder turns z into an image.

The decoder is a generator, like that of a GAN: draw z from p(z) = N(0, 1), and it gives p(x|z), the
distribution of the image. How probable is an image x under this model? p(x) = ∫ p(x|z) p(z) dz,
and nobody can compute this integral over all z. So a second network, the encoder, looks at x and
says which z it may come from: q(z|x) = N(μ, σ²). This gives a lower bound of log p(x), the ELBO:

    log p(x)  ≥  ELBO = E log p(x|z) − KL(q(z|x) ‖ p(z)),    z ~ q(z|x)                  (eq. 3)

The first term asks that x can be reconstructed from z. The second asks that q(z|x) stays close to
N(0, 1): it bounds how much z can tell about x, in nats. Training maximises the ELBO. That is, it
minimises

    loss = beta · KL − E log p(x|z)

With beta = 1, as in the paper, the loss is −ELBO. With a larger beta, z tells less about x, but all
z together are closer to N(0, 1) (Higgins et al. 2017, "β-VAE").

Both terms are sums, over the numbers of the image and over those of z. A mean in place of one of
the sums would change their balance. The unit is nats per image.

Shapes: B images with C channels and size × size pixels in a batch.

Papers: Kingma & Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
(the equation numbers), and Rybkin et al. 2021, "Simple and effective VAE training with calibrated
decoders" (σ-VAE), https://arxiv.org/abs/2006.13202 (the variance of the pixels).

Our departures: the networks are convolutional, like those of train_gan.py. The variance of a pixel
is not predicted; it is the mean squared error. Muon trains the kernels of the hidden layers, Adam
the rest; the paper has Adagrad (--optimizer=adam). New images come from a mixture fitted to codes,
not from N(0, 1) (--prior=standard; the appendix says why). The decoder's kernels are kept free of
what draws checkerboards (`remove_checkerboard`).

    python -m mini.vae                                  faces, drawn on the spot
    python -m mini.vae --preset=paper                   as in the paper: z ~ N(0, 1), no Muon
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

# images and their labels, the command line, devices, grids of images, scores, the folder of a run:
# this file can be followed without reading them
from mini.data.images.image_sets import LabelConfig, load_images
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.image_metrics import image_report
from mini.utils.images import crop, noise, pad, remove_checkerboard, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.optim import Muon
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the two networks

class Encoder(nn.Module):
    """An image -> μ and log σ² of q(z|x). It is built like the discriminator
    of train_gan.py.

    channels: those at S/2 × S/2 pixels, at S/4 × S/4, …, at 4 × 4 pixels.
    """

    def __init__(self, cfg, C: int, channels: list):
        super().__init__()
        layers = []
        c_in = C
        for c_out in channels:                                          # halves height and width
            layers.append(nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            c_in = c_out
        layers.append(nn.Conv2d(c_in, 2 * cfg.z_dim, kernel_size=4))    # 4 × 4 pixels -> 1 × 1
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        """(B, C, S, S) -> mu and logvar, (B, z_dim) each."""
        h = self.layers(x)
        h = h.flatten(1).float()                    # (B, 2 z_dim, 1, 1) -> (B, 2 z_dim)
        mu, logvar = h.chunk(2, dim=1)              # log σ² may be any number, σ² must be above 0
        return mu, logvar


class Decoder(nn.Module):
    """z -> the mean x̂ of p(x|z), or its logits if p(x|z) is Bernoulli. It is built like
    the generator of train_gan.py, with one more layer, and without tanh.

    channels: as in the encoder; the decoder goes through them backwards.
    """

    def __init__(self, cfg, C: int, channels: list):
        super().__init__()
        c_in = channels[-1]
        layers = [
            nn.ConvTranspose2d(cfg.z_dim, c_in, kernel_size=4, bias=False),     # 1 × 1 -> 4 × 4
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
        ]
        for c_out in [*channels[-2::-1], cfg.width // 2]:               # doubles height and width
            layers.append(nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1,
                                             bias=False))
            layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.ReLU(inplace=True))
            c_in = c_out
        layers.append(nn.Conv2d(c_in, C, kernel_size=3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        """(B, z_dim) -> (B, C, S, S)."""
        h = z[:, :, None, None]                     # (B, z_dim) -> (B, z_dim, 1, 1)
        return self.layers(h).float()


class VAE(nn.Module):
    """Encoder and decoder for images (B, C, size, size) in [-1, 1], padded to S × S pixels."""

    def __init__(self, cfg, C: int, size: int):
        super().__init__()
        self.cfg = cfg
        self.size = size
        S = pad(torch.zeros(1, C, size, size)).size(2)      # a power of two, at least 16
        n_halvings = int(math.log2(S)) - 2                  # until 4 × 4 pixels are left
        channels = [cfg.width * 2**i for i in range(n_halvings)]
        self.encoder = Encoder(cfg, C, channels)
        self.decoder = Decoder(cfg, C, channels)
        self.register_buffer("var", torch.tensor(1.0))      # s², the variance of each pixel

    def encode(self, x):
        """Images (B, C, size, size) -> mu and logvar of q(z|x), (B, z_dim) each."""
        return self.encoder(pad(x))

    def decode(self, z):
        """z (B, z_dim) -> x_hat (B, C, size, size): of each pixel the mean, or its logit."""
        return crop(self.decoder(z), self.size)

    def forward(self, x, eps):
        """x_hat, mu and logvar of images x, with z made from eps (B, z_dim)."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, eps)
        return self.decode(z), mu, logvar

    @property
    def device(self):
        return self.var.device


# ---- the bound

def reparameterize(mu, logvar, eps):
    """z ~ N(μ, σ²), made from eps ~ N(0, 1) (§2.4).

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


LEAST_VAR = 5e-6    # the smallest s²: the variance of rounding to one of 256 shades


def reconstruction(model, x, x_hat):
    """log p(x|z) of each image, in nats: (B,). It is a density, which may be above 1, so its
    logarithm may be above 0.

    p(x|z) = N(x̂, s²) for each pixel. The s² with the highest log p is the mean squared error
    (optimal σ-VAE): in training that of the batch, afterwards its running average, as in BatchNorm.
    """
    if model.cfg.likelihood == "bernoulli":
        return log_bernoulli(x, logits=x_hat)
    var = model.var
    if model.training:
        var = mean_squared_error(x, x_hat.detach())     # no gradient: s² is what fits, no output
        model.var.lerp_(var, 0.05)
    return log_normal(x, x_hat, var)


def mean_squared_error(x, x_hat):
    return (x - x_hat).square().mean().clamp(min=LEAST_VAR)


def elbo_terms(model, x, eps, net=None):
    """(log p(x|z), KL) of each image, in nats: (B,) each. ELBO = log p(x|z) − KL (eq. 3), with one
    z ~ q(z|x) in place of the expectation (eq. 7 with L = 1).

    net: the model as training calls it, if it is compiled.
    """
    x_hat, mu, logvar = (model if net is None else net)(x, eps)
    return reconstruction(model, x, x_hat), kl_divergence(mu, logvar)


# ---- using the networks

@torch.no_grad()
def in_batches(model, function, *inputs):
    """function(*inputs), a tuple of tensors, on the CPU, computed for 256 rows at a time.

    uint8 images become floats first. BatchNorm uses its running means and variances, and s² is the
    running average, so no image depends on the others.
    """
    was_training = model.training
    model.eval()
    parts = []
    for rows in zip(*[x.split(256) for x in inputs]):
        rows = [x.to(model.device) for x in rows]
        rows = [to_float(x) if x.dtype == torch.uint8 else x for x in rows]
        parts.append(function(*rows))
    model.train(was_training)
    return tuple(torch.cat(column).cpu() for column in zip(*parts))


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
    x_hat, = in_batches(model, lambda z: (model.decode(z),), z)
    if model.cfg.likelihood == "bernoulli":
        x_hat = 2 * x_hat.sigmoid() - 1
    return x_hat.clamp(-1, 1)


def new_z(cfg, mixture, n: int):
    """z of n new images, (n, z_dim), the same at every call: from N(0, 1), which is the p(z) of the
    ELBO, or from the mixture that was fitted to the codes of training images (see the appendix)."""
    if cfg.prior == "standard":
        return noise(n, cfg.z_dim, cfg.seed)
    return mixture.sample(n, cfg.seed)


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
    width: int = 32             # channels at half the image's size; twice as many at each smaller
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"   # the distribution p(x|z) of a pixel

    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 32        # images in a step
    # what trains the kernels of the hidden layers; Adam trains the rest, or everything
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
    fixed = ("size", "n_images", "z_dim", "width", "likelihood")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # nearer to the paper: new images come from z ~ N(0, 1), and no weight is trained by Muon
    "paper": dict(prior="standard", optimizer="adam"),
    # larger images on a GPU
    "gpu": dict(size=64, z_dim=64, width=64, batch_size=128, lr=2e-3, steps=20000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "z_dim", "components", "n", "lr", "muon_lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")  # BatchNorm
    require(cfg.width >= 2, f"--width={cfg.width} must be at least 2")
    require(cfg.beta >= 0, f"--beta={cfg.beta} must be at least 0")


# ---- optimisers

def make_optimizers(model, cfg) -> list:
    """[Muon for the kernels of the hidden layers, Adam for the rest], or [Adam for all].

    A gradient has strong directions, such as the colours of large areas, and weak ones. Muon makes
    all of them equally strong (Jordan et al. 2024), so what is small, such as a mouth, is learnt in
    far fewer steps. As its authors advise, the first and the last layer of each network are left to
    Adam.
    """
    if cfg.optimizer == "adam":
        return [torch.optim.Adam(model.parameters(), cfg.lr)]
    hidden = []
    for network in (model.encoder, model.decoder):
        hidden += [p for p in network.layers[1:-1].parameters() if p.ndim == 4]
    rest = [p for p in model.parameters() if not any(p is other for other in hidden)]
    return [Muon(hidden, cfg.muon_lr, momentum=0.9), torch.optim.Adam(rest, cfg.lr)]


def set_learning_rate(optimizers: list, factor: float):
    """Set every learning rate to this fraction of the one at the start."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * optimizer.defaults["lr"]


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
    optimizers = make_optimizers(model, cfg)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches and for eps
    if checkpoint:
        restore(checkpoint, optimizers, data_rng)
    net = compile_convolutions(model) if cfg.compile else model

    # what is evaluated: always with the same random numbers
    judge = Judge(cfg, train_set, held_out, n=512)
    held_out_eps = noise(len(held_out.images), cfg.z_dim, cfg.seed)

    if checkpoint:
        mixture = Mixture(**checkpoint["mixture"])              # needed if no step is left

    run = Run(cfg, "vae", model, ["loss", "log_p", "kl", "val_elbo"], checkpoint)
    with run:
        for step in range(run.first, cfg.steps):
            # learning rate
            set_learning_rate(optimizers, factor=1 - step / cfg.steps)

            # batch
            chosen = torch.randint(len(images), (cfg.batch_size,), generator=data_rng)
            x = to_float(images[chosen.to(device)])
            eps = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # loss and backward
            with autocast(device, cfg.matmul):
                log_p, kl = elbo_terms(model, x, eps, net)
            log_p = log_p.mean()                                # over the images of the batch
            kl = kl.mean()
            loss = cfg.beta * kl - log_p
            run.check_finite(step, loss=loss.item())
            loss.backward()

            # step
            with autocast(device, cfg.matmul):                  # Muon's products of matrices, too
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
            remove_checkerboard(model.decoder)

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
                stopping = run.stopping(done)
                saving = val_elbo is not None or stopping
                if done == cfg.steps:
                    run.say(f"now the codes of {len(images):,} images are described by a mixture")
                    mixture = fit_prior(model, train_set.images, cfg.components)
                elif sampling or saving:                        # roughly: it is needed often
                    mixture = fit_prior(model, train_set.images[:2048], n_components=1)
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


# ---- appendix: which z to draw

# The KL term brings the codes of the images near N(0, 1), but they do not fill it. Most z that are
# drawn from N(0, 1) are unlike all that the decoder has learnt from, and it draws no face. So after
# training, another p(z) is put in the place of N(0, 1), one that is high where the codes are. This
# is ex-post density estimation (Ghosh et al. 2020, "From variational to deterministic
# autoencoders", §4). The ELBO is still that of N(0, 1).

class Mixture:
    """A mixture of K normal distributions: p(z) = Σₖ wₖ N(z; mₖ, Σₖ).

    weights w (K,), means m (K, D), covs Σ (K, D, D), in float64.
    """

    def __init__(self, weights, means, covs):
        self.weights = weights
        self.means = means
        self.covs = covs

    def log_joint(self, z):
        """log wₖ N(z; mₖ, Σₖ) of each z (n, D) and each of the K distributions: (n, K)."""
        D = z.size(1)
        columns = []
        for w, m, cov in zip(self.weights, self.means, self.covs):
            L = torch.linalg.cholesky(cov)                              # Σ = L Lᵀ
            y = torch.linalg.solve_triangular(L, (z - m).T, upper=False)    # (D, n): L⁻¹ (z − m)
            log_det = 2 * L.diagonal().log().sum()                      # log |Σ|
            log_p = -((y**2).sum(dim=0) + log_det + D * math.log(2 * math.pi)) / 2
            columns.append(w.log() + log_p)                             # (n,)
        return torch.stack(columns, dim=1)

    def log_prob(self, z):
        """log p(z) of each z (n, D): (n,)."""
        return self.log_joint(z).logsumexp(dim=1)

    def sample(self, n: int, seed: int):
        """z (n, D), the same at every call: for each z one of the K distributions is drawn, then z
        from it."""
        rng = torch.Generator().manual_seed(seed)
        eps = torch.randn(n, self.means.size(1), generator=rng, dtype=torch.float64)
        k = torch.multinomial(self.weights, n, replacement=True, generator=rng)     # (n,)
        L = torch.linalg.cholesky(self.covs)[k]                         # (n, D, D)
        z = self.means[k] + (L @ eps[:, :, None]).squeeze(2)            # (n, D, 1) -> (n, D)
        return z.float()

    def state(self) -> dict:
        """What a checkpoint keeps: Mixture(**state) is the same mixture."""
        return {"weights": self.weights, "means": self.means, "covs": self.covs}


def em_step(mixture: Mixture, z):
    """A mixture under which z (n, D) is more probable, and the mean log p(z) under the old one.

    Expectation maximisation (Dempster, Laird & Rubin 1977; Bishop 2006, "Pattern Recognition and
    Machine Learning", §9.2.2).
    """
    # E: how probable is it that z comes from distribution k? r = p(k|z)
    log_joint = mixture.log_joint(z)                            # (n, K)
    log_p = log_joint.logsumexp(dim=1, keepdim=True)            # (n, 1)
    r = (log_joint - log_p).exp()                               # (n, K), each row sums to 1

    # M: each distribution gets the mean and the covariance of its share of all z
    n_k = r.sum(dim=0).clamp(min=1e-6)                          # (K,): how many z it has
    means = r.T @ z / n_k[:, None]                              # (K, n) @ (n, D) -> (K, D)
    covs = []
    for k in range(len(n_k)):
        centred = z - means[k]
        covs.append((r[:, k] * centred.T) @ centred / n_k[k])   # (D, n) @ (n, D) -> (D, D)
    covs = torch.stack(covs) + 1e-6 * torch.eye(z.size(1))      # so that each has an inverse
    return Mixture(n_k / n_k.sum(), means, covs), log_p.mean().item()


def fit_mixture(z, n_components: int, seed: int, max_rounds: int = 100) -> Mixture:
    """A mixture fitted to z (n, D) by rounds of `em_step`, until one raises log p(z) by less than
    0.01 nats. At first its means are some of the z, and each covariance is that of all z."""
    z = z.double()
    n, D = z.shape
    rng = torch.Generator().manual_seed(seed)
    means = z[torch.randperm(n, generator=rng)[:n_components]]
    K = len(means)
    everywhere = Mixture(torch.ones(1).double(), z.mean(dim=0)[None], torch.eye(D).double()[None])
    everywhere, _ = em_step(everywhere, z)                      # one distribution: it fits at once
    mixture = Mixture(torch.ones(K).double() / K, means, everywhere.covs.expand(K, D, D))

    before = -math.inf
    for _ in range(max_rounds):
        mixture, log_p = em_step(mixture, z)
        if log_p - before < 0.01:
            break
        before = log_p
    return mixture


def fit_prior(model, images, n_components: int) -> Mixture:
    """A mixture fitted to z ~ q(z|x) of images (N, C, size, size): one z of each."""
    z = sampled_codes(model, images)
    most = len(z) // (10 * z.size(1))                           # each of them needs many z
    return fit_mixture(z, max(1, min(n_components, most)), model.cfg.seed)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --width, --z_dim, --size or --n")


if __name__ == "__main__":
    main()
