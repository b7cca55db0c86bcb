"""Conditional GAN: a DCGAN that draws what it is told to. It is train_gan.py with one more idea.

Both networks read labels y: G draws an image with these labels, D says whether an image is real and has them:

    D maximises  E log D(x|y) + E log(1 − D(G(z|y)|y))      (x, y) real, z ~ N(0, 1)
    G maximises  E log D(G(z|y)|y)

Paper: Mirza & Osindero 2014, "Conditional generative adversarial nets". As there, G reads y beside z. In our
D, each value adds weights of its own to the last layer (Miyato & Koyama 2018, "cGANs with projection
discriminator"). With --loss=wgan-gp, D is a critic without BatchNorm, and a penalty holds the norm of its
gradient at 1 (Gulrajani et al. 2017, eq. 3).

    python -m mini.cgan                                             faces
    python -m mini.cgan sample --hair=blond --glasses=round         faces as you describe them
    python -m mini.cgan sample --vary=glasses --blend               the same z, from one value to another
    python -m mini.cgan evaluate                                    can a classifier learn from its images?
    git diff --no-index train_gan.py mini/cgan.py                   shows what is new here

Measured times and scores: README.md. Read before: train_gan.py. Read next: mini/cyclegan.py.
"""
import copy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import ImageSet, LabelConfig, draw_labels, load_images, one_hot
from mini.utils import image_metrics, metrics
from mini.utils.config import command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.images import crop, disturb, even_out, noise, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore


@dataclass
class Config(LabelConfig):
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, or a folder of sub-folders
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training
    # model
    z_dim: int = 100            # length of z, the random numbers that an image is made from
    ngf: int = 48               # channels before G's last layer; twice as many at each layer before it
    ndf: int = 24               # channels after D's first layer; twice as many at each layer after it
    loss: Literal["bce", "wgan-gp"] = "bce"  # DCGAN's loss, or the Wasserstein loss with gradient penalty
    # optimisation
    steps: int = 5000           # optimiser steps of G, and as many of D (with wgan-gp five times as many)
    batch_size: int = 32        # real images in a step, and as many generated ones
    lr: float = 2e-3            # Adam's learning rate at the start, for both networks; it falls to 0
    beta1: float = 0.5          # of Adam: the weight of old gradients in their moving average
    noise: float = 0.1          # standard deviation of noise on D's images at the start; it falls to 0
    ema: float = 0.995          # weight of the old average in the moving average of G's weights
    # run
    out_dir: str = "runs/cgan"  # folder of the run
    # images to score (0: 2,048, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    vary: str = ""              # an attribute: a row for each of its values, a column for each z ("": none)
    blend: bool = False         # with --vary: go from the first value to the second and beyond, in small steps

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "z_dim", "ngf", "ndf", "loss")


PRESETS = {"gpu": dict(size=64, ngf=64, ndf=64, batch_size=128, lr=2e-4, ema=0.999, steps=20000)}


# ---- the two networks
class Generator(nn.Module):
    """z (B, z_dim), y (B, V) -> images (B, C, S, S) in [-1, 1]. V: the number of values of all attributes."""

    def __init__(self, cfg, C: int, S: int, V: int):
        super().__init__()
        z_y, width = cfg.z_dim + V, cfg.ngf * S // 8            # channels at 1 × 1 and at 4 × 4 pixels
        layers = [nn.ConvTranspose2d(z_y, width, 4, 1, 0, bias=False),
                  nn.BatchNorm2d(width), nn.ReLU(True)]
        while width > cfg.ngf:
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
                       nn.BatchNorm2d(width // 2), nn.ReLU(True)]
            width //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, C, 4, 2, 1, bias=False), nn.Tanh())
        self.apply(init_weights)

    def forward(self, z, y):
        return self.layers(torch.cat([z, y], dim=1)[:, :, None, None])      # (B, z_dim + V, 1, 1)


class Discriminator(nn.Module):
    """Images (B, C, S, S), y (B, V) -> logits (B,): is it real, and does it fit y?"""

    def __init__(self, cfg, C: int, S: int, V: int):
        super().__init__()
        width, wgan = cfg.ndf, cfg.loss == "wgan-gp"
        layers = [nn.Conv2d(C, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
        while width < cfg.ndf * S // 8:                         # until 4 × 4 pixels are left
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                       nn.GroupNorm(1, 2 * width) if wgan else nn.BatchNorm2d(2 * width),
                       nn.LeakyReLU(0.2, True)]
            width *= 2
        self.layers, self.last = nn.Sequential(*layers), nn.Conv2d(width, 1, 4, 1, 0, bias=False)
        self.values = nn.Linear(V, 16 * width, bias=False)      # what each value adds to the last weights
        self.apply(init_weights)

    def forward(self, x, y):
        h = self.layers(x)                                      # (B, width, 4, 4)
        return self.last(h).view(-1) + (self.values(y) * h.flatten(1)).sum(1)


def init_weights(m):
    """All weights are drawn from a normal distribution with standard deviation 0.02 (Radford et al. 2016, §4)."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(m.weight, 0, 0.02)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1, 0.02)


# ---- the game
def bce(logits, y: int):
    """Binary cross-entropy in nats from logits (B,): y is the right answer, 1 for real, 0 for generated."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, y))


def gradient_penalty(D, real, fake, y, generator):
    """E (|∇D(x̂|y)| − 1)², for x̂ at random points between real and generated images (Gulrajani et al. 2017,
    eq. 3)."""
    t = torch.rand(len(real), 1, 1, 1, generator=generator).to(real.device)
    between = torch.lerp(real, fake, t).requires_grad_()
    slope, = torch.autograd.grad(D(between, y).sum(), between, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model, for parameters; BatchNorm's buffers are copied."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)
    for a, b in zip(average.buffers(), model.buffers()):
        a.copy_(b)


# ---- sampling
@torch.no_grad()
def draw(G, z, y, size: int):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim) and y (n, V), on the CPU. BatchNorm uses its
    running means and variances, not those of the batch, so no image depends on the others."""
    G.eval()
    parts = zip(*(numbers.to(next(G.parameters()).device).split(256) for numbers in (z, y)))
    images = torch.cat([G(z_i, y_i).float().cpu() for z_i, y_i in parts])
    G.train()
    return crop(images, size)


# ---- the run
def check(cfg):
    """Raise UserError for flags that cannot be used."""
    require_positive(cfg, "z_dim", "ngf", "ndf", "n", "lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.beta1 < 1, f"--beta1={cfg.beta1} must be below 1")


def make_nets(cfg, C: int, S: int, attributes: dict, state):
    """G, D and the average of G, with the weights of a checkpoint if there is one."""
    torch.manual_seed(cfg.seed)
    V = sum(len(names) for names in attributes.values())
    G = Generator(cfg, C, S, V)
    nets = nn.ModuleDict({"G": G, "D": Discriminator(cfg, C, S, V), "average": copy.deepcopy(G)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(pick_device(cfg.device), memory_format=conv_layout(cfg.compile))


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "cgan", cfg.resume)
    check(cfg)
    learn, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    require(learn.attributes, f"--data={cfg.data} has no labels; train_gan.py needs none")
    size, device = learn.images.size(2), pick_device(cfg.device)
    images, labels = learn.tensors(device)
    N, C, S, _ = images.shape
    check_shape(state, C, S, learn.attributes)
    nets = make_nets(cfg, C, S, learn.attributes, state)
    G, D, average = nets.values()
    judge = Judge(cfg, learn, held_out, n=2048)         # it scores the images that are drawn at the end
    y = one_hot(held_out.labels[:max(judge.n, cfg.n)], learn.attributes)
    z = noise(len(y), cfg.z_dim, cfg.seed)
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), cfg.lr, (cfg.beta1, 0.999)) for net in (G, D))
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [opt_g, opt_d], data_rng)
    net_g, net_d = (compile_convolutions(G), compile_convolutions(D)) if cfg.compile else (G, D)
    bf16 = autocast(device, "highest")                  # on CUDA; on a CPU everything is in float32
    columns, wgan = ["d_loss", "g_loss", "D(x)", "D(G(z))", "accuracy"], cfg.loss == "wgan-gp"
    with Run(cfg, "cgan", nn.ModuleList([G, D]), columns, state) as run:
        run.say(f"{N:,} images of {size} × {size} to learn from, with {', '.join(learn.attributes)}")
        write_png(f"{cfg.out_dir}/samples/real.png", sheet(to_float(learn.images[:cfg.n])))
        for step in range(run.first, cfg.steps):
            # learning rate and noise fall to 0 in a straight line
            left = 1 - step / cfg.steps
            opt_g.param_groups[0]["lr"] = opt_d.param_groups[0]["lr"] = cfg.lr * left
            sigma = cfg.noise * left
            for _ in range(5 if wgan else 1):
                # batch
                i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
                x, y_i = to_float(images[i]).contiguous(memory_format=conv_layout(cfg.compile)), labels[i]
                z_i = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)
                # D maximises  E log D(x|y) + E log(1 − D(G(z|y)|y)),  or  E D(x|y) − E D(G(z|y)|y)
                with bf16:
                    fake = net_g(z_i, y_i)
                    seen_x, seen_fake = (disturb(images, sigma, data_rng) for images in (x, fake.detach()))
                    real_logits, fake_logits = net_d(seen_x, y_i).float(), net_d(seen_fake, y_i).float()
                loss_d = bce(real_logits, 1) + bce(fake_logits, 0)
                if wgan:
                    penalty = gradient_penalty(D, seen_x, seen_fake, y_i, data_rng)
                    loss_d = fake_logits.mean() - real_logits.mean() + 10 * penalty
                run.check_finite(step, d_loss=loss_d.item())
                opt_d.zero_grad(set_to_none=True)
                loss_d.backward()
                opt_d.step()
            # G maximises  E log D(G(z|y)|y),  or  E D(G(z|y)|y).  The gradient passes through D, but does
            # not change its weights
            D.requires_grad_(False)
            with bf16:
                logits = net_d(disturb(fake, sigma, data_rng), y_i).float()
            loss_g = -logits.mean() if wgan else bce(logits, 1)
            run.check_finite(step, g_loss=loss_g.item())
            opt_g.zero_grad(set_to_none=True)
            loss_g.backward()
            opt_g.step()
            even_out(G)
            D.requires_grad_(True)
            # the average is short at first, while there is little to average
            update_average(average, G, min(cfg.ema, step / (step + 10)))
            # log, sample and save, each when it is due
            done = step + 1
            with run.untimed():
                if run.due(done, cfg.log_every):
                    right = torch.cat([real_logits > 0, fake_logits < 0]).float().mean()
                    values = loss_d, loss_g, real_logits.sigmoid().mean(), fake_logits.sigmoid().mean(), right
                    run.log(done, **{name: value.item() for name, value in zip(columns, values)})
                if run.due(done, cfg.sample_every):
                    picture = sheet(draw(average, z[:cfg.n], y[:cfg.n], size))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if stop or run.due(done, cfg.eval_every):
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S, learn.attributes), size=size)
            if stop and done < cfg.steps:
                return run.leave(done)

        scores = {}
        if judge.n > 0:
            z = z[:judge.n]
            y = y[:judge.n]
            drawn = draw(average, z, y, size)
            untrained = make_nets(cfg, C, S, learn.attributes, None)["G"]
            scores = judge.scores(drawn, draw(untrained, z, y, size), judge.labels)
        run.say(image_metrics.image_report(scores))
        return run.finish(**scores)


def load(cfg):
    """(average of G, size of the images, attributes, config) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "cgan")
    check(cfg)
    return make_nets(cfg, *state["shape"], state)["average"], state["size"], state["shape"][2], cfg


def sample(cfg: Config):
    """Draw n images with the values that flags ask for, and random other values; or with --vary, a grid."""
    G, size, attributes, cfg = load(cfg)
    n, path = 8 if cfg.vary else cfg.n, f"{cfg.out_dir}/samples/sample.png"
    labels = draw_labels(cfg, attributes, n)
    z, y, names = noise(n, cfg.z_dim, cfg.seed), one_hot(labels, attributes), None
    if cfg.vary or cfg.blend:
        require(len(attributes.get(cfg.vary, [])) > 1, f"--vary: choose from {', '.join(attributes)}")
        column, values = list(attributes).index(cfg.vary), range(len(attributes[cfg.vary]))
        rows = [one_hot(labels.index_fill(1, torch.tensor(column), v), attributes) for v in values]
        names = attributes[cfg.vary]
        if cfg.blend:       # y + t · (second − first value), for t from 0 to 1.5
            rows = [torch.lerp(rows[0], rows[1], t) for t in torch.linspace(0, 1.5, 7)]
            names = [f"t = {t:g}" for t in torch.linspace(0, 1.5, 7).tolist()]
        z, y, path = z.repeat(len(rows), 1), torch.cat(rows), path.replace("sample.", f"{cfg.vary}.")
    write_png(path, sheet(draw(G, z, y, size), row_names=names))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """Data augmentation: the accuracy of classifiers that learn from few real images, without and with 4,000
    generated ones. (The generator has seen all real images, so it passes on what it learnt from them.) Also in
    evaluate.json."""
    from mini.studies.few_labels import from_few
    G, size, attributes, cfg = load(cfg)
    learn, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    require(learn.attributes == attributes, f"--data={cfg.data}: the model knows other labels")
    labels = learn.labels[:4000]
    new = draw(G, noise(len(labels), cfg.z_dim, cfg.seed + 1), one_hot(labels, attributes), size)
    more = ImageSet(((new + 1) * 127.5).round().byte(), labels, attributes)
    return metrics.print_tables(cfg, mean_accuracy_from=from_few(cfg, learn, held_out, more))


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --ngf, --ndf, --z_dim, --size, --n_images or --n")


if __name__ == "__main__":
    main()
