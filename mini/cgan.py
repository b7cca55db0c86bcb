"""Conditional GAN: a DCGAN that draws what it is told to. It is train_gan.py, and both networks
read labels y.

G draws an image with the labels y. D says how probable it is that an image is real and its labels
are y, D(x|y), "D of x, given y":

    D maximises  E log D(x|y) + E log(1 − D(G(z|y)|y))      (x, y) real, z ~ N(0, I)
    G maximises  E log D(G(z|y)|y)

Real images always come with their own labels, so a face with blond hair where y says black cannot
be real: D learns to notice, and G to do as it is told. (D is never shown real images with wrong
labels: a G that disobeys makes the wrong pairs.)

Shapes: B images in a batch, C colours, S × S pixels. An image has a value of each attribute (of the
attribute hair: black, brown, blond or red); V is the number of values of all attributes together.
y is (B, V): 1 at the values that the image has, 0 elsewhere.

What is new here:

    1. G reads y beside z. (Mirza & Osindero 2014, "Conditional Generative Adversarial Nets",
       https://arxiv.org/abs/1411.1784)
    2. D has a vector for each value, as long as the features of an image. To its logit it adds the
       dot product of the features with the sum of the vectors of the values in y. (Miyato & Koyama
       2018, "cGANs with Projection Discriminator", https://arxiv.org/abs/1802.05637, eq. 3)
    3. G's BatchNorms are scaled and shifted by numbers computed from y. (the same)

Our departures from these: the networks are those of DCGAN (Radford et al. 2016) with what we added
in train_gan.py, but without attention; G's BatchNorms read z as well as y (--g_norm); and the
averaged G has BatchNorm statistics of its own (update_batch_norm). What these change is in
mini/studies/README.md. --preset=paper is DCGAN with labels: without point 3, so G reads z and y
before its first layer only, but with point 2.

    python -m mini.cgan                                             faces
    python -m mini.cgan sample --hair=blond --glasses=round         faces as you describe them
    python -m mini.cgan sample --vary=glasses                       a row for each value
    python -m mini.cgan evaluate                                    do they help a classifier that
                                                                    has few real images?
    git diff --no-index train_gan.py mini/cgan.py                   shows what is new here

Measured times and scores: README.md. Read before: train_gan.py. Read next: mini/cyclegan.py.
"""
import copy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrize import cached, register_parametrization

# images and their grids, the command line, devices, the scores of images, the folder of a run: this
# file can be followed without reading them
from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.image_metrics import image_report
from mini.utils.images import crop, noise, pad, padded_size, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the two networks

class Generator(nn.Module):
    """z (B, z_dim), y (B, V) -> images (B, C, size, size) in [-1, 1].

    The first layer makes 4 × 4 pixels, each further one doubles height and width. The channels are
    halved each time, until the last layer makes C of them (Radford et al., figure 1):

        S = 32, ngf = 64:       256 × 4 × 4, 128 × 8 × 8, 64 × 16 × 16, C × 32 × 32
        S = 64, ngf = 64:       512 × 4 × 4, 256 × 8 × 8, 128 × 16 × 16, 64 × 32 × 32, C × 64 × 64

    S is a power of two: `size`, or the next larger one (then the edges are cut off). Convolutions
    before a BatchNorm have no bias: the BatchNorm would subtract it.
    """

    def __init__(self, cfg, C: int, S: int, size: int, V: int):
        super().__init__()
        self.size = size
        width = cfg.ngf * S // 8                                # channels at 4 × 4 pixels
        E = cfg.z_dim + V                                       # z and y side by side

        def norm(channels):
            if cfg.g_norm == "batch":
                return nn.BatchNorm2d(channels)
            return ConditionalBatchNorm(channels, E)

        # 1 × 1 -> 4 × 4 pixels
        layers = [
            nn.ConvTranspose2d(E, width, kernel_size=4, stride=1, padding=0, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        ]
        # H × H -> 2H × 2H pixels, up to S/2 × S/2
        while width > cfg.ngf:
            layers += [
                nn.ConvTranspose2d(width, width // 2, kernel_size=4, stride=2, padding=1,
                                   bias=False),
                norm(width // 2),
                nn.ReLU(inplace=True),
            ]
            width = width // 2
        # S/2 × S/2 -> S × S pixels
        layers += [
            nn.ConvTranspose2d(width, C, kernel_size=4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, z, y):
        e = torch.cat([z, y], dim=1)                            # (B, E)
        x = e[:, :, None, None]                                 # -> (B, E, 1, 1)
        for layer in self.layers:                               # -> (B, C, S, S)
            if isinstance(layer, ConditionalBatchNorm):
                x = layer(x, e)
            else:
                x = layer(x)
        return crop(x, self.size)                               # -> (B, C, size, size)


class ConditionalBatchNorm(nn.Module):
    """x (B, channels, H, W), e (B, E) -> BatchNorm(x), scaled and shifted as e says, of x's shape.

    BatchNorm has a scale and a shift for each channel, which are the same for all images. Here they
    are computed from e, which is z and y of the image, side by side. So not only the first layer
    knows what to draw. (Miyato & Koyama 2018 compute them from y; Chen et al. 2019, "On Self
    Modulation for Generative Adversarial Networks", https://arxiv.org/abs/1810.01365, from z, and
    from both.)
    """

    def __init__(self, channels: int, E: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)      # without scale and shift
        self.scale_shift = nn.Linear(E, 2 * channels)
        nn.init.zeros_(self.scale_shift.bias)                   # its weights: see init_weights

    def forward(self, x, e):
        scale, shift = self.scale_shift(e).chunk(2, dim=1)      # (B, channels) each
        scale = scale[:, :, None, None]                         # -> (B, channels, 1, 1)
        shift = shift[:, :, None, None]
        return self.norm(x) * (1 + scale) + shift


class Discriminator(nn.Module):
    """Images (B, C, size, size), y (B, V) -> logits (B,). D(x|y) = sigmoid(logit): how probable it
    is that x is real, and has the labels y."""

    def __init__(self, cfg, C: int, S: int, V: int):
        super().__init__()
        width = cfg.ndf
        batch_norm = cfg.d_norm == "batch"

        # S × S -> S/2 × S/2 pixels
        layers = [
            nn.Conv2d(C, width, kernel_size=4, stride=2, padding=1, bias=not batch_norm),
            nn.LeakyReLU(0.2),
        ]
        # H × H -> H/2 × H/2 pixels, down to 4 × 4
        while width < cfg.ndf * S // 8:
            layers += [
                nn.Conv2d(width, 2 * width, kernel_size=4, stride=2, padding=1,
                          bias=not batch_norm),
                nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity(),
                nn.LeakyReLU(0.2),
            ]
            width = 2 * width
        # 4 × 4 pixels -> a logit
        self.layers = nn.Sequential(*layers, nn.Flatten())
        features = 16 * width                                   # 4 × 4 places, width channels
        self.last = nn.Linear(features, 1, bias=False)
        self.values = nn.Linear(V, features, bias=False)        # a vector for each value
        self.apply(init_weights)
        if cfg.d_norm == "spectral":                # in place of BatchNorm: see the appendix
            layers = [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
            for layer in layers:
                nn.init.orthogonal_(layer.weight)
                register_parametrization(layer, "weight", SpectralNorm(layer.weight))

    def forward(self, x, y):
        h = self.layers(pad(x))                                 # (B, C, S, S) -> (B, features)
        realness = self.last(h)[:, 0]                           # (B,)
        # values(y): the sum of the vectors of the values in y. Its product with h is large if the
        # image looks as y says.
        fits_y = (self.values(y) * h).sum(1)                    # (B,)
        return realness + fits_y


def init_weights(module):
    """Weights are drawn from N(0, 0.02²) (Radford et al., §4), those of BatchNorm from N(1, 0.02²).
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)


# ---- the losses

def d_loss(real_logits, fake_logits):
    """−E log D(x|y) − E log(1 − D(G(z|y)|y)), from the logits (B,) of real and of generated images.

    With D = sigmoid(logit), log D = −softplus(−logit) and log(1 − D) = −softplus(logit). Written
    like this it is finite even where D is rounded to 0 or 1.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def g_loss(fake_logits):
    """−E log D(G(z|y)|y), from the logits (B,) of generated images.

    Where D is sure that an image is generated, the gradient of this loss is large. That of
    log(1 − D(G(z|y)|y)), which D's own objective has, vanishes there.
    """
    return F.softplus(-fake_logits).mean()


# ---- sampling

@torch.no_grad()
def generate(G, z, y):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim) and y (n, V), on the CPU.

    BatchNorm uses its running means and variances, so no image depends on the others.
    """
    device = next(G.parameters()).device
    was_training = G.training
    G.eval()
    images = []
    for z_i, y_i in zip(z.to(device).split(256), y.to(device).split(256)):
        images.append(G(z_i, y_i).float().cpu())
    G.train(was_training)
    return torch.cat(images)


# ---- settings

@dataclass
class Config(LabelConfig):
    """More settings come from LabelConfig: seed, device, matmul (the precision of products),
    compile, resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints);
    and what to draw: hair, style, skin, glasses, mouth, background, label."""

    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, or a folder of sub-folders
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training

    # model
    z_dim: int = 16             # length of z, the random numbers that an image is made from
    ngf: int = 64               # channels before G's last layer; twice as many at each one before
    ndf: int = 64               # channels after D's first layer; twice as many at each one after
    # G's BatchNorm: scaled and shifted by z and the labels, or by the same numbers for all images
    g_norm: Literal["conditional", "batch"] = "conditional"
    # what normalises D's layers: spectral normalisation, or BatchNorm as in the paper
    d_norm: Literal["spectral", "batch"] = "spectral"

    # optimisation
    steps: int = 5000           # optimiser steps of G, and as many of D
    batch_size: int = 64        # real images in a step, and as many generated ones
    lr: float = 2e-3            # Adam's learning rate at the start, for G
    d_lr: float = 2e-3          # the same for D
    constant: float = 0.75      # share of the steps before the learning rates fall, which ends at 0
    beta1: float = 0.0          # of Adam: the weight of old gradients in their moving average
    beta2: float = 0.9          # the same for the squares of gradients
    noise: float = 0.15         # standard deviation of the noise on the images that D sees
    noise_decay: bool = True    # this noise falls as the learning rates do
    shift: bool = True          # move the images that D sees by 0 or 1 pixel to the right and down
    remove_checkerboard: bool = True        # keep G's kernels from drawing checkerboards
    ema: float = 0.995          # weight of the old average in the moving average of G's weights

    # run
    out_dir: str = "runs/cgan"  # folder of the run
    # images that the judge scores, if not all labels are alike (0: 2,048, or proportionally fewer
    # if --steps is below its default)
    n_test: int = 0

    # sampling
    n: int = 64                 # images in a grid (with --vary, there are eight in a row)
    vary: str = ""              # an attribute: a row for each value, a column for each z ("": none)

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "z_dim", "ngf", "ndf", "g_norm", "d_norm")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # the plain DCGAN, told labels, with the sizes, batch and rate of its paper: one GPU, hours
    "paper": dict(size=64, z_dim=100, ngf=64, ndf=64, g_norm="batch", d_norm="batch", steps=50000,
                  batch_size=128, lr=2e-4, d_lr=2e-4, constant=1.0, beta1=0.5, beta2=0.999,
                  noise=0.0, noise_decay=False, shift=False, remove_checkerboard=False, ema=0.0),
    # larger images and networks: one GPU
    "gpu": dict(size=64, ngf=64, ndf=64, batch_size=128, lr=2e-4, d_lr=4e-4, ema=0.999,
                steps=20000),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "z_dim", "ngf", "ndf", "n", "lr", "d_lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.beta1 < 1, f"--beta1={cfg.beta1} must be below 1")
    require(cfg.beta2 < 1, f"--beta2={cfg.beta2} must be below 1")
    require(0 <= cfg.constant <= 1, f"--constant={cfg.constant} must be from 0 to 1")


def make_nets(cfg, C: int, S: int, size: int, attributes: dict, checkpoint=None):
    """{"G", "D", "ema"}: the two networks and the average of G, new or with the weights of a
    checkpoint."""
    torch.manual_seed(cfg.seed)
    V = sum(len(values) for values in attributes.values())
    G = Generator(cfg, C, S, size, V)
    D = Discriminator(cfg, C, S, V)
    nets = nn.ModuleDict({"G": G, "D": D, "ema": copy.deepcopy(G)})
    if checkpoint:
        nets.load_state_dict(checkpoint["model"])
    return nets.to(pick_device(cfg.device), memory_format=conv_layout(cfg.compile))


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "cgan", cfg.resume)
    device = pick_device(cfg.device)

    # images: uint8 (N, C, size, size), and their labels, for each image the number of its value of
    # each attribute; those that are held out are not learnt from
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    attributes = train_set.attributes                           # {name: its values}
    require(attributes, f"--data={cfg.data} has no labels; train_gan.py needs none")
    images = train_set.images.to(device)
    labels = one_hot(train_set.labels, attributes).to(device)   # (N, V)
    N, C, size, _ = images.shape
    S = padded_size(size)                                       # size, or the next power of two
    check_shape(checkpoint, C, S, size, attributes)

    # networks and optimisers
    nets = make_nets(cfg, C, S, size, attributes, checkpoint)
    G, D, ema = nets["G"], nets["D"], nets["ema"]
    betas = (cfg.beta1, cfg.beta2)
    opt_g = torch.optim.Adam(G.parameters(), cfg.lr, betas)
    opt_d = torch.optim.Adam(D.parameters(), cfg.d_lr, betas)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for batches, z and noise
    if checkpoint:
        restore(checkpoint, [opt_g, opt_d], data_rng)

    # the networks as training calls them: with --compile, made into fewer, larger kernels
    net_g = compile_convolutions(G) if cfg.compile else G
    net_d = compile_convolutions(D) if cfg.compile else D

    # the judge will score the images; run keeps the folder out_dir
    judge = Judge(cfg, train_set, held_out, n=2048)
    # for pictures: (n, V), the labels of the faces in real.png
    to_draw = one_hot(held_out.labels[:cfg.n], attributes)
    columns = ["d_loss", "g_loss", "D(x)", "D(G(z))", "accuracy"]
    run = Run(cfg, "cgan", nn.ModuleList([G, D]), columns, checkpoint)
    with run:
        run.say(f"{N:,} images of {size} × {size} to learn from, with {', '.join(attributes)}")
        lost = d_loss(torch.zeros(1), torch.zeros(1)).item()            # 2 ln 2
        run.say("if D could not tell real from generated: D(x) = D(G(z)) = accuracy = ½, "
                f"d_loss = {lost:.3f}")
        write_png(f"{cfg.out_dir}/samples/real.png", sheet(to_float(held_out.images[:cfg.n])))
        for step in range(run.first, cfg.steps):
            # learning rates, and the noise on what D sees
            factor = fall(step, cfg)                                    # 1, and at last 1 -> 0
            opt_g.param_groups[0]["lr"] = cfg.lr * factor
            opt_d.param_groups[0]["lr"] = cfg.d_lr * factor
            sigma = cfg.noise * factor if cfg.noise_decay else cfg.noise

            def d_sees(images):
                return shift_and_add_noise(images, cfg, sigma, data_rng)

            # batch
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x = to_float(images[i])                                     # (B, C, size, size)
            y = labels[i]                           # (B, V): those of x, and what G is to draw
            z = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # ---- D's step: it maximises E log D(x|y) + E log(1 − D(G(z|y)|y))
            # Real and generated images are two batches, so that BatchNorm, if D has it, normalises
            # each by itself. detach: no gradient reaches G.
            # autocast: products are in bfloat16, if that is faster on this device; weights and
            # losses stay in float32. cached: what SpectralNorm makes of D's weights (see the
            # appendix) is computed once, and used for both batches.
            with autocast(device, cfg.matmul), cached():
                fake = net_g(z, y)                                      # (B, C, size, size)
                real_logits = net_d(d_sees(x), y).float()               # (B,)
                fake_logits = net_d(d_sees(fake.detach()), y).float()   # (B,)
            loss_d = d_loss(real_logits, fake_logits)
            run.check_finite(step, d_loss=loss_d.item())                # NaN stops here
            opt_d.zero_grad(set_to_none=True)
            loss_d.backward()
            opt_d.step()

            # ---- G's step: it maximises E log D(G(z|y)|y), by the D that has just learnt
            # The same images again. The gradient passes through D to them, and on to G's weights,
            # but D's weights get none
            D.requires_grad_(False)
            with autocast(device, cfg.matmul):
                logits = net_d(d_sees(fake), y).float()
            loss_g = g_loss(logits)
            run.check_finite(step, g_loss=loss_g.item())
            opt_g.zero_grad(set_to_none=True)
            loss_g.backward()
            opt_g.step()
            D.requires_grad_(True)

            # ours (see the appendix)
            if cfg.remove_checkerboard:
                remove_checkerboard(G)
            # the average is short at first, so that the weights at the start are soon forgotten
            update_ema(ema, G, min(cfg.ema, step / (step + 10)))

            # log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                if run.due(done, cfg.log_every):
                    correct = torch.cat([real_logits > 0, fake_logits < 0])
                    run.log(done, **{"d_loss": loss_d.item(),
                                     "g_loss": loss_g.item(),
                                     "D(x)": real_logits.sigmoid().mean().item(),
                                     "D(G(z))": fake_logits.sigmoid().mean().item(),
                                     "accuracy": correct.float().mean().item()})
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                drawing = run.due(done, cfg.sample_every)
                saving = stopping or run.due(done, cfg.eval_every)
                if (drawing or saving) and cfg.ema > 0:         # else the "average" is G itself
                    update_batch_norm(ema, labels, cfg)
                if drawing:
                    z = noise(len(to_draw), cfg.z_dim, cfg.seed)
                    picture = sheet(generate(ema, z, to_draw))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                if saving:
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S, size, attributes))
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, each beside its baseline
        scores = score(nets, judge, held_out, (C, S, size, attributes), cfg)
        run.say(image_report(scores))
        run.say(f"D is right about {scores['d_accuracy']:.1%} of held-out and generated images, "
                "one by one (if it could not tell them apart: 50 %)")
        return run.finish(**scores)                             # result.json


# ---- scores

def score(nets, judge, held_out, shape, cfg) -> dict:
    """What result.json says of the images: the judge's scores, beside those of a G that has learnt
    nothing; and how often D tells them from real ones."""
    scores = {}
    if judge.n > 0:                                             # there are labels to judge by
        z = noise(judge.n, cfg.z_dim, cfg.seed + 1)             # not those of training
        y = one_hot(judge.labels, held_out.attributes)
        untrained = make_nets(cfg, *shape)["G"]                 # as it was at the start
        scores = judge.scores(generate(nets["ema"], z, y), generate(untrained, z, y), judge.labels)
    scores["d_accuracy"] = d_accuracy(nets, held_out, cfg)
    return scores


@torch.no_grad()
def d_accuracy(nets, held_out, cfg, n: int = 1024) -> float:
    """The share of n held-out images and as many generated ones with the same labels that D tells
    right, each by itself, with noise and shift as at the end of training.

    With --d_norm=batch, the accuracy in log.csv is higher. There D sees batches that are all real
    or all generated, and the mean of a batch, which BatchNorm computes, tells more than one image.
    Here BatchNorm uses its running means and variances, a mixture of those of both kinds.
    """
    device = pick_device(cfg.device)
    real = to_float(held_out.images[:n])
    y = one_hot(held_out.labels[:n], held_out.attributes)
    fake = generate(nets["ema"], noise(len(real), cfg.z_dim, cfg.seed + 2), y)
    rng = torch.Generator().manual_seed(cfg.seed + 2)
    sigma = cfg.noise * fall(cfg.steps, cfg) if cfg.noise_decay else cfg.noise
    D = nets["D"]
    was_training = D.training
    D.eval()
    correct = []
    for x, sign in ((real, 1), (fake, -1)):
        for part, y_i in zip(x.split(256), y.split(256)):
            seen = shift_and_add_noise(part, cfg, sigma, rng)
            correct.append(sign * D(seen.to(device), y_i.to(device)).cpu() > 0)
    D.train(was_training)
    return torch.cat(correct).float().mean().item()


# ---- using what was trained

def load(cfg):
    """(average of G, attributes, config) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "cgan")
    C, S, size, attributes = checkpoint["shape"]
    nets = make_nets(cfg, C, S, size, attributes, checkpoint)
    return nets["ema"], attributes, cfg


def sample(cfg: Config):
    """Draw n images with the values that flags ask for, and random other values; with --vary, a row
    of eight for each value of an attribute; in a column, z and the other labels are the same. The
    picture: samples/ in --out_dir."""
    G, attributes, cfg = load(cfg)
    n = 8 if cfg.vary else cfg.n
    labels = draw_labels(cfg, attributes, n)                    # (n, number of attributes)
    z = noise(n, cfg.z_dim, cfg.seed)
    path = f"{cfg.out_dir}/samples/sample.png"
    row_names = None
    if cfg.vary:
        require(len(attributes.get(cfg.vary, [])) > 1,
                f"--vary: choose from {', '.join(attributes)}")
        require(not getattr(cfg, cfg.vary),
                f"--vary={cfg.vary} draws all its values, so --{cfg.vary} would change nothing: "
                "leave out one of the two")
        row_names = attributes[cfg.vary]
        column = list(attributes).index(cfg.vary)
        rows = []
        for value in range(len(row_names)):
            row = labels.clone()
            row[:, column] = value
            rows.append(row)
        labels = torch.cat(rows)                                # (8 · number of values, …)
        z = z.repeat(len(rows), 1)
        path = f"{cfg.out_dir}/samples/{cfg.vary}.png"
    write_png(path, sheet(generate(G, z, one_hot(labels, attributes)), row_names=row_names))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Do generated images help a classifier that has few real ones? See mini/studies/cgan.py."""
    from mini.studies import cgan  # only this command needs it
    G, attributes, cfg = load(cfg)
    return cgan.evaluate(G, attributes, cfg)


# ---- appendix: what is not in the paper

class SpectralNorm(nn.Module):
    """A weight W -> W / σ(W): multiplied by this, no vector gets longer.

    The spectral norm σ(W) is the largest singular value of W, seen as a matrix: it is the most by
    which W can stretch a vector. (A layer with stride 2 uses a pixel in up to four places, so it
    may make an image up to twice as long.) If all layers are like this, the logit of D cannot
    change much when the image changes a little. So D is no cliff between real and generated images,
    and its gradient shows G a way (Miyato et al. 2018, "Spectral Normalization for Generative
    Adversarial Networks", https://arxiv.org/abs/1802.05957, algorithm 1). torch's
    `register_parametrization` puts it between the parameter W and the layer that uses it. W begins
    as a matrix whose singular values are all 1 (orthogonal, as in Brock et al. 2019, BigGAN).
    """

    def __init__(self, W):
        super().__init__()
        # left and right singular vectors, roughly: M v = σ u and Mᵀ u = σ v, with M as below
        rows, columns = W.flatten(1).shape
        self.register_buffer("u", F.normalize(torch.randn(rows, dtype=W.dtype), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns, dtype=W.dtype), dim=0))

    def forward(self, W):
        M = W.flatten(1)                                        # (rows, columns)
        if self.training:
            # one step of the power iteration is enough, since W changes little in a step
            with torch.no_grad():
                self.v = F.normalize(M.T.mv(self.u).to(W.dtype), dim=0)
                self.u = F.normalize(M.mv(self.v).to(W.dtype), dim=0)
        sigma = M.T.mv(self.u).to(W.dtype).dot(self.v)          # uᵀ M v
        return W / sigma


def shift_and_add_noise(images, cfg, sigma: float, generator):
    """Images (B, C, H, W) as D is shown them: moved a little, and with noise of standard deviation
    sigma.

    Generated images hardly ever lie where real ones do, so a D that sees them as they are soon
    tells all of them apart, and its answers say little about the way to go. With noise, the two
    distributions overlap (Arjovsky & Bottou 2017, "Towards Principled Methods for Training
    Generative Adversarial Networks", §3).

    Each image is moved by 0 or 1 pixel to the right and down; its edge is repeated. D's layers have
    stride 2, so which weights a pixel meets depends on whether its row and column are odd or even.
    A pattern that is moved by one pixel meets other weights.
    """
    B = len(images)
    if cfg.shift:
        is_moved = torch.randint(2, (2, B, 1, 1, 1), generator=generator).bool()
        to_right, down = is_moved.to(images.device)                 # (B, 1, 1, 1) each
        first_column = images[:, :, :, :1]
        moved = torch.cat([first_column, images[:, :, :, :-1]], dim=3)
        images = torch.where(to_right, moved, images)
        first_row = images[:, :, :1]
        moved = torch.cat([first_row, images[:, :, :-1]], dim=2)
        images = torch.where(down, moved, images)
    if sigma > 0:
        eps = torch.randn(images.shape, generator=generator).to(images.device)
        images = images + sigma * eps
    return images


@torch.no_grad()
def remove_checkerboard(G):
    """Take out of the weights of G what draws checkerboards on an even input.

    With stride 2, a pixel of the output is computed by a quarter of the 4 × 4 weights of a kernel.
    Which quarter depends on whether the pixel's row and column are odd or even. If the input is the
    same everywhere, the output is a checkerboard wherever the sums of the quarters differ. So each
    weight loses the mean of its quarter, and gets the mean of all 16: then the sums are alike.

    (The patterns: Odena, Dumoulin & Olah 2016, "Deconvolution and Checkerboard Artifacts". These
    authors resize, then convolve.) A G without layers of stride 2 stays as it is.
    """
    # the quarter of each of the 16 weights: 0 1 0 1, 2 3 2 3, 0 1 0 1, 2 3 2 3
    is_odd = torch.arange(4) % 2
    quarter = (2 * is_odd[:, None] + is_odd).flatten()                  # (16,)
    same_quarter = quarter[:, None] == quarter                          # (16, 16)
    # 16 weights times this matrix: for each of them the mean of its quarter, minus the mean of all
    difference = same_quarter / 4 - 1 / 16                              # (16, 16)
    for layer in G.modules():
        if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (2, 2):
            I, O, _, _ = layer.weight.shape
            kernels = layer.weight.view(I, O, 16)           # a view: this changes the weights
            kernels -= kernels @ difference.to(kernels)


@torch.no_grad()
def update_ema(ema, model, decay: float):
    """ema ← decay · ema + (1 − decay) · model, for parameters. BatchNorm's buffers are copied;
    update_batch_norm computes ema's own."""
    for average, parameter in zip(ema.parameters(), model.parameters()):
        average.lerp_(parameter, 1 - decay)
    for average, buffer in zip(ema.buffers(), model.buffers()):
        average.copy_(buffer)


@torch.no_grad()
def update_batch_norm(G, labels, cfg, batches: int = 50):
    """Compute anew the running means and variances of G's BatchNorms, each the mean over so many
    batches of new images; their labels are drawn from labels (N, V).

    In the averaged G, the features between layers have other means and variances than in G. With
    those of G, which update_ema copies, its BatchNorms would normalise a little wrongly. (Izmailov
    et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization",
    https://arxiv.org/abs/1803.05407, compute them anew, too.)
    """
    for module in G.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None                  # a plain mean, in which all batches count alike
    rng = torch.Generator().manual_seed(cfg.seed)
    G.train()                                       # only then BatchNorms update their statistics
    for _ in range(batches):
        z = torch.randn(cfg.batch_size, cfg.z_dim, generator=rng).to(labels.device)
        i = torch.randint(len(labels), (cfg.batch_size,), generator=rng).to(labels.device)
        G(z, labels[i])


def fall(step: int, cfg) -> float:
    """1 for the first part of the steps, --constant; then it falls to 0 in a straight line."""
    remaining = 1 - step / cfg.steps                                    # 1 -> 0
    if remaining >= 1 - cfg.constant:
        return 1.0
    return remaining / (1 - cfg.constant)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    remedy = "lower --batch_size, --ngf, --ndf or --n"
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory=remedy)


if __name__ == "__main__":
    main()
