"""DCGAN: two networks that play against each other, until one draws images that the other takes for real.

The generator G turns random numbers z into an image; the discriminator D says how probable it is that an
image is real. They are trained in turn: D learns to tell real images from generated ones, G to deceive D:

    D maximises  E log D(x) + E log(1 − D(G(z)))         x real, z ~ N(0, 1)
    G maximises  E log D(G(z))                           (Goodfellow et al. 2014, §3: the non-saturating loss)

If G's images had the same distribution as the data, D could only say ½, and its loss would be 2 ln 2. The
networks and the training are those of Radford, Metz & Chintala 2016, "Unsupervised representation learning
with deep convolutional generative adversarial networks". Our departures: the learning rate is ten times
theirs, and falls to 0; the images that D sees are noisy, and moved by a pixel at random (`disturb`); G's
kernels are kept from drawing checkerboards (`even_out`); samples come from an exponential moving average of
G's weights.

    python train_gan.py                                 faces, drawn on the spot
    python train_gan.py --data=my_pictures              your own folder of images
    python train_gan.py sample --n=64                   a grid of new images: samples/sample.png
    python train_gan.py sample --interpolate            images on the way from one z to another
    python train_gan.py evaluate                        the equilibrium report

Measured times and scores: README.md. Read next: mini/cgan.py.
"""
import copy
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import load_images
from mini.utils import image_metrics, metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, compile_convolutions, conv_layout, pick_device
from mini.utils.images import crop, disturb, even_out, noise, pad, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore


@dataclass
class Config(RunConfig):
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder of images
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training
    # model
    z_dim: int = 100            # length of z, the random numbers that an image is made from
    ngf: int = 40               # channels before G's last layer; twice as many at each layer before it
    ndf: int = 32               # channels after D's first layer; twice as many at each layer after it
    # optimisation
    steps: int = 2000           # optimiser steps of G, and as many of D
    batch_size: int = 64        # real images in a step, and as many generated ones
    lr: float = 2e-3            # Adam's learning rate at the start, for both networks; it falls to 0
    beta1: float = 0.5          # of Adam: the weight of old gradients in their moving average
    noise: float = 0.2          # standard deviation of noise on D's images at the start; it falls to 0
    ema: float = 0.99           # weight of the old average in the moving average of G's weights
    # run
    out_dir: str = "runs/gan"   # folder of the run
    # images to score (0: 2,048, or proportionally fewer if --steps is below its default)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    interpolate: bool = False   # draw rows of images, each on the way from one z to another

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "z_dim", "ngf", "ndf")


PRESETS = {"gpu": dict(size=64, ngf=64, ndf=64, batch_size=128, lr=2e-4, ema=0.999, steps=20000)}


# ---- the two networks
class Generator(nn.Module):
    """z (B, z_dim) -> images (B, C, S, S) in [-1, 1]. The first layer makes 4 × 4 pixels; each further one
    doubles the size and halves the channels. With a kernel of 4 and a stride of 2, every pixel is a sum of
    equally many terms, so that the overlap of the kernels makes no checkerboard."""

    def __init__(self, cfg, C: int, S: int):
        super().__init__()
        width = cfg.ngf * S // 8                                # channels at 4 × 4 pixels
        layers = [nn.ConvTranspose2d(cfg.z_dim, width, 4, 1, 0, bias=False),
                  nn.BatchNorm2d(width), nn.ReLU(True)]
        while width > cfg.ngf:
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
                       nn.BatchNorm2d(width // 2), nn.ReLU(True)]
            width //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, C, 4, 2, 1, bias=False), nn.Tanh())
        self.apply(init_weights)

    def forward(self, z):
        return self.layers(z[:, :, None, None])                 # (B, z_dim, 1, 1) -> (B, C, S, S)


class Discriminator(nn.Module):
    """Images (B, C, S, S) -> logits (B,); sigmoid(logit) is the probability that an image is real."""

    def __init__(self, cfg, C: int, S: int):
        super().__init__()
        width = cfg.ndf
        layers = [nn.Conv2d(C, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
        while width < cfg.ndf * S // 8:                         # until 4 × 4 pixels are left
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                       nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, True)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 0, bias=False))
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x).view(-1)                          # (B, 1, 1, 1) -> (B,)


def init_weights(m):
    """All weights are drawn from a normal distribution with standard deviation 0.02 (Radford et al. 2016, §4)."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, 0, 0.02)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1, 0.02)


# ---- the game
def bce(logits, y: int):
    """Binary cross-entropy in nats from logits (B,), with p = sigmoid(logit): −E log p for y = 1 (real),
    −E log(1 − p) for y = 0 (generated). It takes the logarithm from the logit, so it is finite even where p is
    rounded to 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, y))


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model, for parameters; BatchNorm's buffers are copied."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)
    for a, b in zip(average.buffers(), model.buffers()):
        a.copy_(b)


# ---- sampling
@torch.no_grad()
def draw(G, z, size: int):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim), on the CPU. BatchNorm uses its running means and
    variances, not those of the batch, so no image depends on the others."""
    G.eval()
    parts = z.to(next(G.parameters()).device).split(256)
    images = torch.cat([G(part).float().cpu() for part in parts])
    G.train()
    return crop(images, size)


# ---- the run
def check(cfg):
    """Raise UserError for flags that cannot be used."""
    require_positive(cfg, "z_dim", "ngf", "ndf", "n", "lr")
    require(cfg.batch_size >= 2, f"--batch_size={cfg.batch_size} must be at least 2")
    require(cfg.beta1 < 1, f"--beta1={cfg.beta1} must be below 1")


def make_nets(cfg, C: int, S: int, state):
    """G, D and the average of G, with the weights of a checkpoint if there is one."""
    torch.manual_seed(cfg.seed)
    G = Generator(cfg, C, S)
    nets = nn.ModuleDict({"G": G, "D": Discriminator(cfg, C, S), "average": copy.deepcopy(G)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(pick_device(cfg.device), memory_format=conv_layout(cfg.compile))


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "gan", cfg.resume)
    check(cfg)
    learn, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    size, device = learn.images.size(2), pick_device(cfg.device)
    images = pad(learn.images).to(device)
    N, C, S, _ = images.shape
    check_shape(state, C, S, size)
    nets = make_nets(cfg, C, S, state)
    G, D, average = nets.values()
    judge = Judge(cfg, learn, held_out, n=2048)         # it scores the images that are drawn at the end
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), cfg.lr, (cfg.beta1, 0.999)) for net in (G, D))
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [opt_g, opt_d], data_rng)
    net_g, net_d = (compile_convolutions(G), compile_convolutions(D)) if cfg.compile else (G, D)
    bf16 = autocast(device, "highest")                  # on CUDA; on a CPU everything is in float32
    columns = ["d_loss", "g_loss", "D(x)", "D(G(z))", "accuracy"]
    with Run(cfg, "gan", nn.ModuleList([G, D]), columns, state) as run:
        run.say(f"{N:,} images of {size} × {size} to learn from\nif D could not tell real from generated: "
                f"D(x) = D(G(z)) = accuracy = ½, d_loss = 2 ln 2 = {2 * math.log(2):.3f}")
        write_png(f"{cfg.out_dir}/samples/real.png", sheet(to_float(learn.images[:cfg.n])))
        for step in range(run.first, cfg.steps):
            # learning rate and noise fall to 0 in a straight line
            left = 1 - step / cfg.steps
            opt_g.param_groups[0]["lr"] = opt_d.param_groups[0]["lr"] = cfg.lr * left
            sigma = cfg.noise * left
            # batch
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x = to_float(images[i]).contiguous(memory_format=conv_layout(cfg.compile))
            z = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # D maximises  E log D(x) + E log(1 − D(G(z))).  Real and generated images are two batches, so
            # that BatchNorm normalises each by itself
            with bf16:
                fake = net_g(z)
                real_logits = net_d(disturb(x, sigma, data_rng)).float()
                fake_logits = net_d(disturb(fake.detach(), sigma, data_rng)).float()
            loss_d = bce(real_logits, 1) + bce(fake_logits, 0)
            run.check_finite(step, d_loss=loss_d.item())
            opt_d.zero_grad(set_to_none=True)
            loss_d.backward()
            opt_d.step()

            # G maximises  E log D(G(z)).  The gradient passes through D, but does not change its weights
            D.requires_grad_(False)
            with bf16:
                loss_g = bce(net_d(disturb(fake, sigma, data_rng)).float(), 1)
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
                    picture = sheet(draw(average, noise(cfg.n, cfg.z_dim, cfg.seed), size))
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if stop or run.due(done, cfg.eval_every):
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S, size))
            if stop and done < cfg.steps:
                return run.leave(done)

        scores = {}
        if judge.n > 0:
            z = noise(judge.n, cfg.z_dim, cfg.seed)
            untrained = make_nets(cfg, C, S, None)["G"]
            scores = judge.scores(draw(average, z, size), draw(untrained, z, size))
        run.say(image_metrics.image_report(scores))
        return run.finish(**scores)


def load(cfg):
    """(nets, size of the images, config) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "gan")
    check(cfg)
    C, S, size = state["shape"]
    return make_nets(cfg, C, S, state), size, cfg


def sample(cfg: Config):
    """Draw n images into samples/; with --interpolate, each row of 8 goes from one z to the next."""
    nets, size, cfg = load(cfg)
    z, path = noise(cfg.n, cfg.z_dim, cfg.seed), f"{cfg.out_dir}/samples/sample.png"
    if cfg.interpolate:
        z, path = walks(z), path.replace("sample.png", "walks.png")
    write_png(path, sheet(draw(nets["average"], z, size)))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """The equilibrium report: can D no longer tell real images from generated ones, and do samples vary as the
    data does? It is also written to evaluate.json."""
    nets, size, cfg = load(cfg)
    learn, held_out = (pad(to_float(part.images)) for part in load_images(cfg.data, cfg.size, cfg.n_images))
    held_out, N = held_out[:1024], len(learn)
    generated = pad(draw(nets["average"], noise(N + len(held_out), cfg.z_dim, cfg.seed + 1), size))
    require(generated.shape[1:] == learn.shape[1:], f"--data={cfg.data}: the model draws other sizes")
    new = generated[N:]
    def verdict(D):
        with torch.no_grad():       # in batches as in training, since BatchNorm uses the batch
            a, b = (torch.cat([D(part) for part in x.split(cfg.batch_size)]) for x in (held_out, new))
        right = torch.cat([a > 0, b < 0]).float().mean()
        return {"accuracy": right.item(), "loss": (bce(a, 1) + bce(b, 0)).item()}
    fresh = Discriminator(cfg, *learn.shape[1:3])       # a new D, trained on 20,000 images of each kind
    optimizer = torch.optim.Adam(fresh.parameters(), cfg.lr, (cfg.beta1, 0.999))
    for i in torch.randint(N, (20_000 // cfg.batch_size, cfg.batch_size)):
        loss = bce(fresh(learn[i]), 1) + bce(fresh(generated[i]), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    variety, neighbours = image_metrics.variety(new, held_out, learn)
    write_png(f"{cfg.out_dir}/samples/nearest.png", sheet(neighbours))
    print("samples/nearest.png: eight samples, and below each the training image that is most like it")
    return metrics.print_tables(cfg, ideal={"accuracy": 0.5, "loss": 2 * math.log(2)},
                                D_of_this_run=verdict(nets["D"].cpu()), fresh_D=verdict(fresh), **variety)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --ngf, --ndf, --z_dim, --size, --n_images or --n")


if __name__ == "__main__":
    main()
