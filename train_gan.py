"""DCGAN: two networks that play against each other, until one draws what the other takes for real.

The generator G turns random numbers z into an image; the discriminator D says how probable it is that an
image is real. Both are trained in turn, D to tell real from generated, G to deceive it:

    D maximises  E log D(x) + E log(1 − D(G(z)))         x real, z ~ N(0, 1)
    G maximises  E log D(G(z))                           (Goodfellow et al. 2014, §3: the non-saturating loss)

If G drew just as the data is distributed, D could only say ½: its loss would be 2 ln 2. Networks and training
are those of Radford, Metz & Chintala 2016, "Unsupervised representation learning with deep convolutional
generative adversarial networks". Departures: a learning rate ten times theirs that falls to 0; D sees images
with noise, moved by a pixel at random (`disturb`), and G's kernels are kept from drawing checkerboards
(`even_out`); samples come from a running average of G's weights.

    python train_gan.py                                 faces, drawn on the spot
    python train_gan.py --data=my_pictures              your own folder of images
    python train_gan.py sample --n=64                   a grid of new ones: samples/sample.png
    python train_gan.py sample --interpolate            walks from one z to another
    python train_gan.py evaluate                        the equilibrium report

Measured times and scores: README.md. Read next: mini/cgan.py, train_gpt.py.
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
from mini.utils.device import pick_device
from mini.utils.images import crop, disturb, even_out, noise, pad, sheet, to_float, walks
from mini.utils.judge import Judge
from mini.utils.png import write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore


@dataclass
class Config(RunConfig):
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, flowers, or your own folder of images
    size: int = 32              # height and width of the images (0: as they are)
    n_images: int = 20000       # how many faces are drawn to learn from
    # model
    z_dim: int = 100            # random numbers that an image is made from
    ngf: int = 40               # channels before G's last layer; doubled at each layer further from the image
    ndf: int = 32               # channels after D's first layer; doubled at each layer further from the image
    # optimisation
    steps: int = 2000           # steps of D, and of G
    batch_size: int = 64        # real images per step, and as many generated ones
    lr: float = 2e-3            # Adam's learning rate at first, of both networks; it falls to 0
    beta1: float = 0.5          # Adam's: how much of the old mean gradient is kept
    noise: float = 0.2          # standard deviation at first of noise on what D sees; it falls to 0
    ema: float = 0.99           # how much of G's average is kept at each step
    # run
    out_dir: str = "runs/gan"   # folder of the run
    # images to score (0: 2,048; in a run of fewer steps than usual, its share of them)
    n_test: int = 0
    # sampling
    n: int = 64                 # images in a grid
    interpolate: bool = False   # each row a walk from one z to another

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("size", "n_images", "z_dim", "ngf", "ndf")


PRESETS = {"gpu": dict(size=64, ngf=64, ndf=64, batch_size=128, lr=2e-4, ema=0.999, steps=20000)}


# ---- the two networks
class Generator(nn.Module):
    """z (B, z_dim) -> images (B, C, S, S) in [-1, 1]. From 4 × 4, each layer doubles the size and halves the
    channels. With a kernel of 4 at stride 2 every pixel is the sum of equally many: no checkerboard."""

    def __init__(self, cfg, C: int, S: int):
        super().__init__()
        width = cfg.ngf * S // 8                                # at 4 × 4
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
        while width < cfg.ndf * S // 8:                         # until 4 × 4
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                       nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, True)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 0, bias=False))
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x).view(-1)                          # (B, 1, 1, 1) -> (B,)


def init_weights(m):
    """Radford et al. 2016, §4: all weights from a normal distribution with standard deviation 0.02."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, 0, 0.02)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1, 0.02)


# ---- the game
def bce(logits, y: int):
    """Binary cross-entropy in nats from logits (B,), with p = sigmoid(logit): −E log p for y = 1 (real),
    −E log(1 − p) for y = 0 (generated). With the logarithm inside it is finite even where p is 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, y))


@torch.no_grad()
def update_average(average, model, keep: float):
    """average ← keep · average + (1 − keep) · model for parameters; buffers (BatchNorm's) are copied."""
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, 1 - keep)
    for a, b in zip(average.buffers(), model.buffers()):
        a.copy_(b)


# ---- sampling
@torch.no_grad()
def draw(G, z, size: int):
    """Images (n, C, size, size) in [-1, 1] from z (n, z_dim), on the CPU. BatchNorm takes its running means
    and variances, not the batch's: no image depends on the others."""
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
    return nets.to(pick_device(cfg.device), memory_format=torch.channels_last)   # the faster layout


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
    judge = Judge(cfg, learn, held_out, n=2048)         # of the images that are drawn at the end
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), cfg.lr, (cfg.beta1, 0.999)) for net in (G, D))
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [opt_g, opt_d], data_rng)
    net_g, net_d = (torch.compile(G), torch.compile(D)) if cfg.compile else (G, D)
    bf16 = torch.autocast("cuda" if device.type == "cuda" else "cpu", torch.bfloat16, device.type == "cuda")
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
            x = to_float(images[i]).contiguous(memory_format=torch.channels_last)
            z = torch.randn(cfg.batch_size, cfg.z_dim, generator=data_rng).to(device)

            # D maximises  E log D(x) + E log(1 − D(G(z))).  To BatchNorm they are separate batches
            with bf16:
                fake = net_g(z)
                real_logits = net_d(disturb(x, sigma, data_rng)).float()
                fake_logits = net_d(disturb(fake.detach(), sigma, data_rng)).float()
            loss_d = bce(real_logits, 1) + bce(fake_logits, 0)
            run.check_finite(step, d_loss=loss_d.item())
            opt_d.zero_grad(set_to_none=True)
            loss_d.backward()
            opt_d.step()

            # G maximises  E log D(G(z)).  The gradient passes through D, whose weights stay
            D.requires_grad_(False)
            with bf16:
                loss_g = bce(net_d(disturb(fake, sigma, data_rng)).float(), 1)
            run.check_finite(step, g_loss=loss_g.item())
            opt_g.zero_grad(set_to_none=True)
            loss_g.backward()
            opt_g.step()
            even_out(G)
            D.requires_grad_(True)
            update_average(average, G, min(cfg.ema, step / (step + 10)))    # short while there is little
            # log; now and then draw, save
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
    """Draw n images, or with --interpolate walks of 8 steps from one z to the next, into samples/."""
    nets, size, cfg = load(cfg)
    z, path = noise(cfg.n, cfg.z_dim, cfg.seed), f"{cfg.out_dir}/samples/sample.png"
    if cfg.interpolate:
        z, path = walks(z), path.replace("sample.png", "walks.png")
    write_png(path, sheet(draw(nets["average"], z, size)))
    print(f"wrote {path}")


def evaluate(cfg: Config) -> dict:
    """The equilibrium report: is D at a loss, do samples vary as the data does? Also in evaluate.json."""
    nets, size, cfg = load(cfg)
    learn, held_out = (pad(to_float(part.images)) for part in load_images(cfg.data, cfg.size, cfg.n_images))
    held_out, N = held_out[:1024], len(learn)
    generated = pad(draw(nets["average"], noise(N + len(held_out), cfg.z_dim, cfg.seed + 1), size))
    require(generated.shape[1:] == learn.shape[1:], f"--data={cfg.data}: the model draws other sizes")
    new = generated[N:]
    def verdict(D):
        with torch.no_grad():       # in batches as in training, to which BatchNorm is used
            a, b = (torch.cat([D(part) for part in x.split(cfg.batch_size)]) for x in (held_out, new))
        right = torch.cat([a > 0, b < 0]).float().mean()
        return {"accuracy": right.item(), "loss": (bce(a, 1) + bce(b, 0)).item()}
    fresh = Discriminator(cfg, *learn.shape[1:3])       # it sees 20,000 real and generated images
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
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory="lower --batch_size, --ngf or --ndf")


if __name__ == "__main__":
    main()
