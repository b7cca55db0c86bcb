"""DCGAN: a network that draws images learns from one that tells them from real ones.

The generator G turns random numbers z into an image. The discriminator D says how probable it is
that an image is real, D(x). They are trained in turn: D to tell real images from generated ones, G
to make D take its images for real:

    D maximises  E log D(x) + E log(1 − D(G(z)))        x real, z ~ N(0, I)
    G maximises  E log D(G(z))                          the non-saturating loss

If generated images had the same distribution as real ones, nothing could tell them apart: the best
D would answer ½ every time, and its loss would be 2 ln 2 = 1.386.

Shapes: B images in a batch, C colours, S × S pixels.

Papers: Goodfellow et al. 2014, "Generative Adversarial Nets", https://arxiv.org/abs/1406.2661
(eq. 1, and the loss of G at the end of §3), and Radford, Metz & Chintala 2016, "Unsupervised
Representation Learning with Deep Convolutional Generative Adversarial Networks",
https://arxiv.org/abs/1511.06434 (the networks and Adam's β₁).

The layout of the networks, the losses and the loop are those of the paper. To get good images on a
CPU in minutes we added the following; the code of most of it stands in the appendix, at the end of
the file. --preset=paper does without it, and has larger images and batches:

    --d_norm                    D has spectral normalisation in place of BatchNorm
    --noise --noise_decay --shift       D sees its images noisy, and moved by a pixel at random
    --lr --d_lr --constant      larger learning rates, which fall at the end
    --beta1 --beta2             Adam averages over fewer steps, as in Zhang et al. 2019 (SAGAN, §5)
    --remove_checkerboard       G's kernels are kept from drawing checkerboards
    --attention                 both networks can compare places that are far apart (from SAGAN)
    --z_dim                     z has 16 numbers, not 100
    --ema                       samples come from a moving average of G's weights

As in the authors' code for torch, z is normal (in the paper uniform), kernels are 4 × 4 (5 × 5 in
figure 1), BatchNorm's weights begin near 1, and --preset=paper has half the channels of figure 1.

    python train_gan.py                                 faces, drawn on the spot
    python train_gan.py --data=my_pictures              your own folder of images
    python train_gan.py sample --n=64                   a grid of new images: samples/sample.png
    python train_gan.py sample --interpolate            images on the way from one z to another
    python train_gan.py evaluate                        has D lost? are the images copies?

Measured times and scores: README.md. Read next: mini/cgan.py.
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
from mini.data.images.image_sets import load_images
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.image_metrics import image_report
from mini.utils.images import crop, noise, pad, padded_size, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the two networks

class Generator(nn.Module):
    """z (B, z_dim) -> images (B, C, size, size) in [-1, 1].

    The first layer makes 4 × 4 pixels, each further one doubles height and width. The channels are
    halved each time, until the last layer makes C of them (Radford et al., figure 1):

        S = 32, ngf = 64:       256 × 4 × 4, 128 × 8 × 8, 64 × 16 × 16, C × 32 × 32
        S = 64, ngf = 64:       512 × 4 × 4, 256 × 8 × 8, 128 × 16 × 16, 64 × 32 × 32, C × 64 × 64

    With --attention, SelfAttention comes after the 8 × 8 pixels (see the appendix).
    S is a power of two: `size`, or the next larger one (then the edges are cut off). Convolutions
    before a BatchNorm have no bias: the BatchNorm would subtract it.
    """

    def __init__(self, cfg, C: int, S: int, size: int):
        super().__init__()
        self.size = size
        width = cfg.ngf * S // 8                                # channels at 4 × 4 pixels

        # 1 × 1 -> 4 × 4 pixels
        layers = [
            nn.ConvTranspose2d(cfg.z_dim, width, kernel_size=4, stride=1, padding=0, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        # H × H -> 2H × 2H pixels, up to S/2 × S/2
        H = 4
        while width > cfg.ngf:
            layers += [
                nn.ConvTranspose2d(width, width // 2, kernel_size=4, stride=2, padding=1,
                                   bias=False),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(inplace=True),
            ]
            width = width // 2
            H = 2 * H
            if cfg.attention and H == 8:            # see the appendix
                layers.append(SelfAttention(width))
        # S/2 × S/2 -> S × S pixels
        layers += [
            nn.ConvTranspose2d(width, C, kernel_size=4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, z):
        x = z[:, :, None, None]                                 # (B, z_dim) -> (B, z_dim, 1, 1)
        x = self.layers(x)                                      # -> (B, C, S, S)
        return crop(x, self.size)                               # -> (B, C, size, size)


class Discriminator(nn.Module):
    """Images (B, C, size, size) -> logits (B,). D(x) = sigmoid(logit): how probable it is that x is
    real."""

    def __init__(self, cfg, C: int, S: int):
        super().__init__()
        width = cfg.ndf
        batch_norm = cfg.d_norm == "batch"

        # S × S -> S/2 × S/2 pixels
        layers = [
            nn.Conv2d(C, width, kernel_size=4, stride=2, padding=1, bias=not batch_norm),
            nn.LeakyReLU(0.2),
        ]
        # H × H -> H/2 × H/2 pixels, down to 4 × 4
        H = S // 2
        while width < cfg.ndf * S // 8:
            if cfg.attention and H == 8:            # as in G
                layers.append(SelfAttention(width))
            layers += [
                nn.Conv2d(width, 2 * width, kernel_size=4, stride=2, padding=1,
                          bias=not batch_norm),
                nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity(),
                nn.LeakyReLU(0.2),
            ]
            width = 2 * width
            H = H // 2
        # 4 × 4 pixels -> a logit
        self.layers = nn.Sequential(*layers, nn.Flatten())
        features = 16 * width                                   # numbers in 4 × 4 places
        self.last = nn.Linear(features, 1, bias=False)
        self.apply(init_weights)
        if cfg.d_norm == "spectral":                # in place of BatchNorm: see the appendix
            layers = [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
            for layer in layers:
                nn.init.orthogonal_(layer.weight)
                register_parametrization(layer, "weight", SpectralNorm(layer.weight))

    def forward(self, x):
        h = self.layers(pad(x))                                 # (B, C, S, S) -> (B, features)
        return self.last(h)[:, 0]                               # -> (B,)


def init_weights(module):
    """Weights are drawn from N(0, 0.02²) (Radford et al., §4), those of BatchNorm from N(1, 0.02²).
    Those of SelfAttention begin as orthogonal matrices.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    elif isinstance(module, SelfAttention):         # after its layers: apply() comes to it last
        for layer in module.children():
            nn.init.orthogonal_(layer.weight)


# ---- the losses

def d_loss(real_logits, fake_logits):
    """−E log D(x) − E log(1 − D(G(z))), from the logits (B,) of real and of generated images.

    With D = sigmoid(logit), log D = −softplus(−logit) and log(1 − D) = −softplus(logit). Written
    like this it is finite even where D is rounded to 0 or 1.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def g_loss(fake_logits):
    """−E log D(G(z)), from the logits (B,) of generated images.

    Where D is sure that an image is generated, the gradient of this loss is large. That of
    log(1 − D(G(z))), which D's own objective has, vanishes there.
    """
    return F.softplus(-fake_logits).mean()


# ---- sampling

@torch.no_grad()
def generate(G, z):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim), on the CPU.

    BatchNorm uses its running means and variances, so no image depends on the others.
    """
    device = next(G.parameters()).device
    was_training = G.training
    G.eval()
    images = []
    for z_i in z.to(device).split(256):
        images.append(G(z_i).float().cpu())
    G.train(was_training)
    return torch.cat(images)


# ---- settings

@dataclass
class Config(RunConfig):
    """More settings come from RunConfig: seed, device, matmul (the precision of products), compile,
    resume, stop_after, log_every, sample_every, eval_every (steps between checkpoints)."""

    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training

    # model
    z_dim: int = 16             # length of z, the random numbers that an image is made from
    ngf: int = 64               # channels before G's last layer; twice as many at each one before
    ndf: int = 64               # channels after D's first layer; twice as many at each one after
    # what normalises D's layers: spectral normalisation, or BatchNorm as in the paper
    d_norm: Literal["spectral", "batch"] = "spectral"
    attention: bool = True      # self-attention among the 8 × 8 places, in both networks

    # optimisation
    steps: int = 2500           # optimiser steps of G, and as many of D
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
    out_dir: str = "runs/gan"   # folder of the run
    # images to score, if there are labels for a judge to learn (0: 2,048, or proportionally fewer
    # if --steps is below its default)
    n_test: int = 0

    # sampling
    n: int = 64                 # images in a grid
    interpolate: bool = False   # draw rows of images, each on the way from one z to another

    # Not a setting: the names of those that a resumed run must keep.
    fixed = ("size", "n_images", "z_dim", "ngf", "ndf", "d_norm", "attention")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # the plain DCGAN, with the paper's sizes, batch and rate: one GPU, hours
    "paper": dict(size=64, z_dim=100, ngf=64, ndf=64, d_norm="batch", attention=False,
                  steps=50000, batch_size=128, lr=2e-4, d_lr=2e-4, constant=1.0, beta1=0.5,
                  beta2=0.999, noise=0.0, noise_decay=False, shift=False, remove_checkerboard=False,
                  ema=0.0),
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


def make_nets(cfg, C: int, S: int, size: int, checkpoint=None):
    """{"G", "D", "ema"}: the two networks and the average of G, new or with the weights of a
    checkpoint."""
    torch.manual_seed(cfg.seed)
    G = Generator(cfg, C, S, size)
    D = Discriminator(cfg, C, S)
    nets = nn.ModuleDict({"G": G, "D": D, "ema": copy.deepcopy(G)})
    if checkpoint:
        nets.load_state_dict(checkpoint["model"])
    return nets.to(pick_device(cfg.device), memory_format=conv_layout(cfg.compile))


# ---- training

def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: a run that goes on keeps its own, but for flags that are typed now
    cfg, checkpoint = own_checkpoint(cfg, "gan", cfg.resume)
    device = pick_device(cfg.device)

    # images: uint8 (N, C, size, size); those that are held out only score
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    images = train_set.images.to(device)
    N, C, size, _ = images.shape
    S = padded_size(size)                                       # size, or the next power of two
    check_shape(checkpoint, C, S, size)

    # networks and optimisers
    nets = make_nets(cfg, C, S, size, checkpoint)
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
    columns = ["d_loss", "g_loss", "D(x)", "D(G(z))", "accuracy"]
    run = Run(cfg, "gan", nn.ModuleList([G, D]), columns, checkpoint)
    with run:
        run.say(f"{N:,} images of {size} × {size} to learn from")
        lost = d_loss(torch.zeros(1), torch.zeros(1)).item()            # 2 ln 2
        run.say("if D could not tell real from generated: D(x) = D(G(z)) = accuracy = ½, "
                f"d_loss = {lost:.3f}")
        write_png(f"{cfg.out_dir}/samples/real.png", sheet(to_float(train_set.images[:cfg.n])))
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
            z = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # ---- D's step: it maximises E log D(x) + E log(1 − D(G(z)))
            # Real and generated images are two batches, so that BatchNorm, if D has it, normalises
            # each by itself. detach: no gradient reaches G.
            # autocast: products are in bfloat16, if that is faster on this device; weights and
            # losses stay in float32. cached: what SpectralNorm makes of D's weights (see the
            # appendix) is computed once, and used for both batches.
            with autocast(device, cfg.matmul), cached():
                fake = net_g(z)                                         # (B, C, size, size)
                real_logits = net_d(d_sees(x)).float()                  # (B,)
                fake_logits = net_d(d_sees(fake.detach())).float()      # (B,)
            loss_d = d_loss(real_logits, fake_logits)
            run.check_finite(step, d_loss=loss_d.item())                # NaN stops here
            opt_d.zero_grad(set_to_none=True)
            loss_d.backward()
            opt_d.step()

            # ---- G's step: it maximises E log D(G(z)), by the D that has just learnt
            # The same images again. The gradient passes through D to them, and on to G's weights,
            # but D's weights get none
            D.requires_grad_(False)
            with autocast(device, cfg.matmul):
                logits = net_d(d_sees(fake)).float()
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
                if run.due(done, cfg.sample_every):
                    z = noise(cfg.n, cfg.z_dim, cfg.seed)
                    picture = sheet(generate(ema, z))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if stopping or run.due(done, cfg.eval_every):
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S, size))
            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores, each beside its baseline
        scores = score(nets, judge, held_out, (C, S, size), cfg)
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
        untrained = make_nets(cfg, *shape)["G"]                 # as it was at the start
        scores = judge.scores(generate(nets["ema"], z), generate(untrained, z))
    scores["d_accuracy"] = d_accuracy(nets, held_out, cfg)
    return scores


@torch.no_grad()
def d_accuracy(nets, held_out, cfg, n: int = 1024) -> float:
    """The share of n held-out images and as many generated ones that D tells right, each by itself,
    with noise and shift as at the end of training.

    With --d_norm=batch, the accuracy in log.csv is higher. There D sees batches that are all real
    or all generated, and the mean of a batch, which BatchNorm computes, tells more than one image.
    Here BatchNorm uses its running means and variances, a mixture of those of both kinds.
    """
    device = pick_device(cfg.device)
    real = to_float(held_out.images[:n])
    fake = generate(nets["ema"], noise(len(real), cfg.z_dim, cfg.seed + 2))
    rng = torch.Generator().manual_seed(cfg.seed + 2)
    sigma = cfg.noise * fall(cfg.steps, cfg) if cfg.noise_decay else cfg.noise
    D = nets["D"]
    was_training = D.training
    D.eval()
    correct = []
    for x, sign in ((real, 1), (fake, -1)):
        for part in x.split(256):
            seen = shift_and_add_noise(part, cfg, sigma, rng)
            correct.append(sign * D(seen.to(device)).cpu() > 0)
    D.train(was_training)
    return torch.cat(correct).float().mean().item()


# ---- using what was trained

def load(cfg):
    """(nets, config) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "gan")
    return make_nets(cfg, *checkpoint["shape"], checkpoint), cfg


def sample(cfg: Config):
    """Draw n images into samples/; with --interpolate, each row of 8 goes from one z to the next.
    """
    nets, cfg = load(cfg)
    z = noise(cfg.n, cfg.z_dim, cfg.seed)
    path = f"{cfg.out_dir}/samples/sample.png"
    if cfg.interpolate:
        z = walks(z)
        path = f"{cfg.out_dir}/samples/walks.png"
    write_png(path, sheet(generate(nets["ema"], z)))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Is D at a loss, are the images varied, are they copies? See mini/studies/gan.py."""
    from mini.studies import gan  # only this command needs it
    nets, cfg = load(cfg)
    return gan.evaluate(nets, cfg)


# ---- appendix: what is not in the paper

class SpectralNorm(nn.Module):
    """A weight W -> W / σ(W): multiplied by this, no vector gets longer.

    The spectral norm σ(W) is the largest singular value of W, seen as a matrix: it is the most by
    which W can stretch a vector. (A layer with stride 2 uses a pixel in up to four places, so it
    may make an image up to twice as long.) If all layers are like this, the logit of D cannot
    change much when the image changes a little. (SelfAttention has no such bound.) So D is no cliff
    between real and generated images, and its gradient shows G a way (Miyato et al. 2018, "Spectral
    Normalization for Generative Adversarial Networks", https://arxiv.org/abs/1802.05957,
    algorithm 1). torch's `register_parametrization` puts it between the parameter W and the layer
    that uses it. W begins as a matrix whose singular values are all 1 (orthogonal, as in Brock et
    al. 2019, BigGAN).
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


class SelfAttention(nn.Module):
    """x (B, C, H, W) -> x + γ · what each place gathers from all places, of x's shape.

    A convolution sees a few neighbours. Here each of the H · W places has a query; its dot products
    with the keys of all places say, after a softmax, how much of each one's value it gets. So G can
    draw a place to match one that is far away, and D can compare the two. γ is learnt, and begins
    at 0: at first nothing is added. (Zhang et al. 2019, "Self-Attention
    Generative Adversarial Networks", https://arxiv.org/abs/1805.08318, §3. Values have C/2 numbers,
    as in their code, but all places are looked at, where their code pools them. As there, the dot
    products are not divided by √(C/8). Their images are larger, and attention among 32 × 32 places
    was best there; what ours does is in mini/studies/README.md. They have spectral normalisation in
    G, too, we in D alone.)
    """

    def __init__(self, C: int):
        super().__init__()
        short = max(1, C // 8)                          # the length of queries and keys
        half = max(1, C // 2)                           # that of values
        # kernels of 1 × 1: a product with a matrix, the same at each place
        self.query = nn.Conv2d(C, short, kernel_size=1, bias=False)
        self.key = nn.Conv2d(C, short, kernel_size=1, bias=False)
        self.value = nn.Conv2d(C, half, kernel_size=1, bias=False)
        self.out = nn.Conv2d(half, C, kernel_size=1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        B, C, H, W = x.shape
        q = self.query(x).flatten(2)                    # (B, C/8, H, W) -> (B, C/8, H·W)
        k = self.key(x).flatten(2)                      # (B, C/8, H·W)
        v = self.value(x).flatten(2)                    # (B, C/2, H·W)
        scores = q.transpose(1, 2) @ k                  # (B, H·W, H·W)
        weights = F.softmax(scores, dim=-1)             # of each place: its row sums to 1
        y = v @ weights.transpose(1, 2)                 # (B, C/2, H·W)
        y = y.view(B, -1, H, W)                         # -> (B, C/2, H, W)
        return x + self.gamma * self.out(y)


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
    """ema ← decay · ema + (1 − decay) · model, for parameters. BatchNorm's buffers are copied: they
    are moving averages already."""
    for average, parameter in zip(ema.parameters(), model.parameters()):
        average.lerp_(parameter, 1 - decay)
    for average, buffer in zip(ema.buffers(), model.buffers()):
        average.copy_(buffer)


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
