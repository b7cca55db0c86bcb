"""VAE: an encoder says which numbers z an image may come from; a decoder draws the image from the numbers.

The decoder is a generator p(x|z), z ~ N(0, 1), like that of a GAN. How probable does it make an image x? To
compute p(x), one would have to integrate over all z. So an encoder guesses from x which z it may come from,
q(z|x) = N(μ, σ²), and this gives a lower bound:

    log p(x)  ≥  ELBO = E log p(x|z) − KL(q(z|x) ‖ p(z))            z ~ q(z|x)

in nats per image (Kingma & Welling 2014, "Auto-encoding variational Bayes", eq. 3). The terms are sums, over
the pixels and over the numbers of z. A mean in place of one of the sums would change their balance. The loss
is beta · KL − E log p(x|z). With --beta=1 this is −ELBO. With a larger beta, z says less about x, but its
distribution is closer to N(0, 1), from which new images are drawn (Higgins et al. 2017, "β-VAE").

For each pixel p(x|z) is N(x̂, s²). s² is the mean squared error, because this s² gives the highest ELBO (Rybkin
et al. 2021, "σ-VAE"). A density may exceed 1, so log p(x) may exceed 0. With --likelihood=bernoulli the
decoder predicts for each pixel the probability that it is white. This is right only for images in black and
white, and nearly right for digits.

    python -m mini.vae                                          faces, drawn on the spot
    python -m mini.vae sample --show=arithmetic --glasses=round     or reconstruct, walk; with --z_dim=2 map
    python -m mini.vae evaluate                                 tighter bounds on log p(x); scores of arithmetic

Measured times and scores: README.md. Read next: mini/lstm.py.
"""
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot
from mini.utils import image_metrics, metrics
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.images import crop, even_out, film, noise, pad, plane, sheet, to_float, walks
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
    z_dim: int = 32             # length of z, the numbers that an image is made from (--show=map needs 2)
    width: int = 32             # channels at half the image's size; twice as many at each smaller size
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"  # the distribution p(x|z) of a pixel
    # optimisation
    steps: int = 7000           # optimiser steps
    batch_size: int = 32        # images in a step
    lr: float = 5e-3            # Adam's learning rate at the start; it falls linearly to 0
    beta: float = 30.0          # weight of the KL term in the loss
    # run
    out_dir: str = "runs/vae"   # folder of the run
    # images to score (0: 512, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    show: Literal["samples", "reconstruct", "walk", "map", "arithmetic"] = "samples"  # what to draw

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "z_dim", "width", "likelihood")


PRESETS = {"gpu": dict(size=64, z_dim=64, width=64, batch_size=128, lr=2e-3, steps=20000)}
LEAST_VAR = 5e-6        # the smallest s²: the variance of rounding to 8 bits


# ---- the two networks
class VAE(nn.Module):
    """The networks of train_gan.py. The encoder is D, with a norm in each layer but the last; it gives μ and
    log σ². The decoder is G with one more layer, and without tanh."""

    def __init__(self, cfg, C: int, S: int, size: int):
        super().__init__()
        self.likelihood, self.size = cfg.likelihood, size
        w = [cfg.width * 2**i for i in range(int(math.log2(S)) - 2)]    # channels at S/2 × S/2 … 4 × 4 pixels
        down, up = [], [nn.ConvTranspose2d(cfg.z_dim, w[-1], 4, 1, 0, bias=False),
                        nn.BatchNorm2d(w[-1]), nn.ReLU(True)]
        for a, b in zip([C, *w], w):
            down += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]
        for a, b in zip(w[::-1], [*w[-2::-1], cfg.width // 2]):
            up += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(w[-1], 2 * cfg.z_dim, 4, 1, 0))
        self.decoder = nn.Sequential(*up, nn.Conv2d(cfg.width // 2, C, 3, 1, 1))
        self.register_buffer("var", torch.tensor(1.0))          # s²: a running average, as in BatchNorm

    def encode(self, x):
        """Images (B, C, size, size) in [-1, 1] -> μ and log σ² of q(z|x), (B, z_dim) each."""
        return self.encoder(pad(x)).flatten(1).float().chunk(2, dim=1)  # (B, 2 z_dim, 1, 1) -> 2 · (B, z_dim)

    def decode(self, z):
        """z (B, z_dim) -> x̂ (B, C, size, size): the mean of each pixel, or its logit if it is Bernoulli."""
        return crop(self.decoder(z[:, :, None, None]).float(), self.size)

    def forward(self, x, eps):
        """The two terms of the ELBO in nats, log p(x|z) and KL, (B,) each; z is made from eps (B, z_dim)."""
        mu, logvar = self.encode(x)
        x_hat, var = self.decode(reparameterise(mu, logvar, eps)), self.var
        if self.training:
            var = (x - x_hat.detach()).square().mean().clamp(min=LEAST_VAR)
            self.var.lerp_(var, 0.05)
        return log_density(x, x_hat, var, self.likelihood), kl(mu, logvar)


# ---- the bound
def reparameterise(mu, logvar, eps):
    """z ~ N(μ, σ²), made from eps ~ N(0, 1) by a function of μ and σ, so that gradients reach μ and σ."""
    return mu + (logvar / 2).exp() * eps


def kl(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, 1)) in nats, summed over z: (B,) (Kingma & Welling 2014, appendix B)."""
    return (mu.square() + logvar.exp() - 1 - logvar).sum(1) / 2


def log_density(x, mean, var, likelihood: str = "gaussian"):
    """log N(x; mean, var), or the log-likelihood of Bernoulli variables with logits `mean`. It is in nats, and
    summed over all axes but the first: (B,)."""
    if likelihood == "gaussian":
        return -((x - mean).square() / var + (2 * math.pi * var).log()).flatten(1).sum(1) / 2
    return -F.binary_cross_entropy_with_logits(mean, x / 2 + 0.5, reduction="none").flatten(1).sum(1)


def tighter_bound(net, x, k: int, rng):
    """E log (1/k) Σ p(x, z) / q(z|x), (B,), where the sum is over k different z ~ q(z|x). For k = 1 this is the
    ELBO; for larger k it is closer to log p(x) (Burda, Grosse & Salakhutdinov 2016, "Importance weighted
    autoencoders", eq. 8)."""
    (mu, logvar), log_w = net.encode(x), []
    for _ in range(k):
        z = reparameterise(mu, logvar, torch.randn(mu.shape, generator=rng, dtype=mu.dtype).to(mu.device))
        log_p = log_density(x, net.decode(z), net.var, net.likelihood)
        log_w.append(log_p + log_density(z, 0 * mu, torch.ones_like(mu)) - log_density(z, mu, logvar.exp()))
    return torch.stack(log_w).logsumexp(0) - math.log(k)


# ---- with a trained network
@torch.no_grad()
def apply(net, function, *inputs):
    """function(*inputs) as a list of tensors on the CPU, computed for some rows at a time; uint8 images become
    floats first. BatchNorm uses its running means and variances, and s² is the running average, so no image
    depends on the others."""
    net.eval()
    rows = zip(*(x.to(net.var.device).split(256) for x in inputs))
    parts = [function(*(to_float(x) if x.dtype == torch.uint8 else x for x in some)) for some in rows]
    net.train()
    return [torch.cat(column).cpu() for column in zip(*parts)]


def draw(net, z):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim): the means of p(x|z), without its noise."""
    x_hat, = apply(net, lambda z: [net.decode(z)], z)
    return (2 * x_hat.sigmoid() - 1 if net.likelihood == "bernoulli" else x_hat).clamp(-1, 1)


def mean_codes(net, learn):
    """For each value of each attribute, the mean μ of the training images that have it: (V, z_dim). The
    difference of two of them, added to z, turns one value into the other (as Radford et al. 2016, §6.3.2, did
    with faces)."""
    hot = one_hot(learn.labels, learn.attributes)                           # (N, V)
    return hot.T @ apply(net, net.encode, learn.images)[0] / hot.sum(0).clamp(min=1)[:, None]


# ---- the run
def check(cfg):
    """Raise UserError for flags that cannot be used."""
    require_positive(cfg, "z_dim", "n", "lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.width >= 2, f"--width={cfg.width} must be at least 2")
    require(cfg.beta >= 0, f"--beta={cfg.beta} must be at least 0")


def load(cfg, resume: bool = True, without=()):
    """(config, network, training and held-out ImageSet, (C, S, size, attributes), checkpoint) of the run in
    out_dir, or of a new run if not `resume`. The ImageSets are None if config.show is in `without`."""
    cfg, state = own_checkpoint(cfg, "vae", resume)
    check(cfg)
    learn, held_out, shape = None, None, state and state["shape"]
    if cfg.show not in without:
        learn, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
        shape = *pad(learn.images[:1]).shape[1:3], learn.images.size(2), learn.attributes
        check_shape(state, *shape)
    torch.manual_seed(cfg.seed)
    net = VAE(cfg, *shape[:3])
    if state:
        net.load_state_dict(state["model"])
    net = net.to(pick_device(cfg.device), memory_format=conv_layout(cfg.compile))
    return cfg, net, learn, held_out, shape, state


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, model, learn, held_out, shape, state = load(cfg, cfg.resume)
    untrained, judge = VAE(cfg, *shape[:3]), Judge(cfg, learn, held_out, n=512)
    device, z = model.var.device, noise(max(cfg.n, judge.n, 512), cfg.z_dim, cfg.seed)
    data_rng, opt = torch.Generator().manual_seed(cfg.seed), torch.optim.Adam(model.parameters(), cfg.lr)
    if state:
        restore(state, [opt], data_rng)
    net, images = compile_convolutions(model) if cfg.compile else model, learn.images.to(device)
    test = held_out.images, noise(len(held_out.images), cfg.z_dim, cfg.seed)
    x, x_hat = to_float(test[0]), to_float(learn.images).mean(0, keepdim=True)  # baseline: the mean image
    var = (to_float(learn.images) - x_hat).square().mean().clamp(min=LEAST_VAR)
    x_hat = (x_hat / 2 + 0.5).logit(1e-4) if cfg.likelihood == "bernoulli" else x_hat
    baseline = log_density(x, x_hat.expand_as(x), var, cfg.likelihood).mean().item()
    with Run(cfg, "vae", model, ["loss", "log_p", "kl", "val_elbo"], state) as run:
        for step in range(run.first, cfg.steps):
            # learning rate
            opt.param_groups[0]["lr"] = cfg.lr * (1 - step / cfg.steps)
            # batch
            x = to_float(images[torch.randint(len(images), (cfg.batch_size,), generator=data_rng).to(device)])
            eps = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)
            # loss, backward, step
            with autocast(device, cfg.matmul):
                log_p, rate = (term.mean() for term in net(x, eps))     # means over images; each term is a sum
            loss = cfg.beta * rate - log_p
            run.check_finite(step, loss=loss.item())
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            even_out(model.decoder)
            # evaluate, log, sample and save, each when it is due
            done, val_elbo = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    val_elbo = torch.sub(*apply(model, model, *(y[:1024] for y in test))).mean().item()
                if val_elbo is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), log_p=log_p.item(), kl=rate.item(), val_elbo=val_elbo)
                if run.due(done, cfg.sample_every):
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", sheet(draw(model, z[:cfg.n])))
                stop = run.stopping(done)
                if val_elbo is not None or stop:
                    run.save(done, model, [opt], data_rng, shape=shape)
            if stop and done < cfg.steps:
                return run.leave(done)

        log_p, rate = (term.double().mean().item() for term in apply(model, model, *test))
        elbo = log_p - rate
        scores = {}
        if judge.n > 0:
            scores = judge.scores(draw(model, z[:judge.n]), draw(untrained, z[:judge.n]))
        run.say(f"held-out ELBO {elbo:.1f} nats per image, log p(x|z) {log_p:.1f} − KL {rate:.1f}; of the "
                f"mean image, without z, {baseline:.1f}\n{image_metrics.image_report(scores)}")
        return run.finish(elbo=elbo, log_p=log_p, kl=rate, mean_image=baseline, **scores)


def sample(cfg: Config):
    """Draw what --show says into samples/: new images (samples); held-out images above their reconstructions
    (reconstruct); images on the way from one z to another (walk); images over the plane of z (map); or images
    to which 0, 1/5, … 7/5 of the change is added that --glasses=round or the like asks for (arithmetic)."""
    cfg, net, learn, held_out, (*_, attributes), _ = load(cfg, without=("samples", "map"))
    z, rows, columns = noise(cfg.n, cfg.z_dim, cfg.seed), max(1, cfg.n // 8), 8
    if cfg.show == "map":
        require(cfg.z_dim == 2, f"z has {cfg.z_dim} numbers; for a map, train with --z_dim=2")
        z, columns = plane(cfg.n)
    elif cfg.show != "samples":
        x, labels = (t[torch.arange(8 * rows) % len(t)] for t in (held_out.images, held_out.labels))
        z = apply(net, net.encode, x)[0]
    if cfg.show == "arithmetic":                                            # 8 images in a row
        new, old = (one_hot(y, attributes) for y in (draw_labels(cfg, attributes, len(x), labels), labels))
        step = (new - old) @ mean_codes(net, learn)                         # (n, V) @ (V, z_dim)
        i = step.any(1).nonzero()[:rows]                                    # (rows, 1): images that change
        require(len(i), "no image would change: say by --glasses=round or the like what to add")
        z = (z[i] + step[i] * torch.arange(8)[:, None] / 5).flatten(0, 1)   # (rows, 8, z_dim) -> (n, z_dim)
    images = draw(net, walks(z) if cfg.show == "walk" else z)
    if cfg.show == "reconstruct":
        images = film(list(zip(to_float(x).split(rows), images.split(rows))))
    names = [f"{i}/5" for i in range(8)] if cfg.show == "arithmetic" else None     # of the columns
    write_png(path := f"{cfg.out_dir}/samples/{cfg.show}.png", sheet(images, columns, column_names=names))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Bounds on log p(x); how many numbers of z are used (Burda et al. 2016, §5.2); and arithmetic: in held-out
    images each attribute is changed from each value to the next, and the judge says which value it reads. Also
    in evaluate.json."""
    cfg, net, learn, held_out, (*_, attributes), _ = load(cfg)
    rng, x, labels = torch.Generator().manual_seed(cfg.seed), held_out.images[:2048], held_out.labels[:2048]
    z, tables = apply(net, net.encode, x)[0], {"log_p(x)_at_least": {}}
    for k in (1, 5, 50, 500):
        bound, = apply(net, lambda x: [tighter_bound(net, x, k, rng)], x[:256])
        tables["log_p(x)_at_least"][f"k = {k}"] = bound.mean().item()
    tables["used_of_z"] = {"numbers": (z.var(0, correction=0) > 0.01).sum().item(), "of": cfg.z_dim}
    judge = Judge(cfg, learn, held_out, n=512)
    if judge.n > 0:
        hot, means, changed, kept = one_hot(labels, attributes), mean_codes(net, learn), {}, {}
        for a, (name, values) in enumerate(attributes.items()):
            for old in labels[:, a].unique().tolist():                      # each value to the next
                i, new = labels[:, a] == old, (old + 1) % len(values)
                to = labels[i].index_fill(1, torch.tensor([a]), new)
                z_to = z[i] + (one_hot(to, attributes) - hot[i]) @ means
                read = judge.accuracy(draw(net, z_to), to)
                changed[row := f"{name}: {values[old]} → {values[new]}"] = read.pop(name)
                kept |= {row: sum(read.values()) / len(read)} if read else {}
        tables["Fréchet_distance"] = {"encoded and decoded": judge.frechet(decoded := draw(net, z))}
        tables |= {"read_right_if_only_decoded": judge.accuracy(decoded, labels),
                   "read_as_changed": changed, "others_kept": kept}
    return metrics.print_tables(cfg, **{title: rows for title, rows in tables.items() if rows})


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --width, --z_dim, --size, --n_images or --n")


if __name__ == "__main__":
    main()
