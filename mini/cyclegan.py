"""CycleGAN: it translates images of one kind into another kind and back, learnt without any pairs.

There are faces with blond hair and others with black hair, but nobody is shown with both. What
would a blond face look like with black hair? Two generators translate: G_AB from domain A to domain
B, and G_BA from B to A. Two discriminators judge: D_A(x) says of each patch of an image x whether
it is from a real image of A (1) or from a translated one (0), and D_B likewise. With a drawn from A
and b from B, the generators minimise

    E (D_B(G_AB(a)) − 1)² + E (D_A(G_BA(b)) − 1)²               adversarial   (eq. 1, with §4)
    + λ_cycle (E |G_BA(G_AB(a)) − a| + E |G_AB(G_BA(b)) − b|)   cycle         (eq. 2)
    + λ_identity (E |G_AB(b) − b| + E |G_BA(a) − a|)            identity      (§5.2)

where the squares of §4 stand in place of the logarithms of eq. 1. The whole is eq. 3 plus the
identity term. Each discriminator minimises the mean of two squares (§4, §7.1). For D_B it is

    ½ (E (D_B(b) − 1)² + E D_B(G_AB(a))²)

The adversarial term asks that translations look real. With this term alone, G_AB could draw any
face of B, whatever face it is given. The cycle term asks that the way back leads to the original,
so a translation must keep enough of it to reconstruct it. The identity term asks that an image
which is in the target domain already stays as it is.

The faces are drawn by a program. It can draw the same face with blond and with black hair, so true
translations are known; they are only used to score the networks.

Shapes: a batch of one domain is (N, C, S, S): N images of C channels and S × S pixels.

Paper: Zhu, Park, Isola & Efros 2017, "Unpaired image-to-image translation using cycle-consistent
adversarial networks", https://arxiv.org/abs/1703.10593. All numbers of equations and sections are
its own, unless another paper is named. It calls the domains X and Y, so G_AB is its G, G_BA its F,
D_A its D_X and D_B its D_Y. The squares are from Mao et al. 2017, "Least squares generative
adversarial networks" (LSGAN).

Our departures: the images are small, so by default the networks are smaller, too, and halve them
less often; the batches are larger, the steps fewer and the learning rate higher; the identity term
is there for all data, while the paper has it for paintings. And there is a trick of our own,
--remove_checkerboard: where G doubles the size, it has kernels of 4, not 3, and after each step
they are kept from drawing checkerboards. --preset=paper undoes all of these. In any case the
learning rate falls from step to step, not from epoch to epoch.

    python -m mini.cyclegan                                         blond hair <-> black hair
    python -m mini.cyclegan --data_a=glasses=none --data_b=glasses=round    or any two values
    python -m mini.cyclegan --data_a=horses --data_b=zebras         your own two folders of images
    python -m mini.cyclegan sample --image=me.png --direction=ab    or without an image, a grid
    python -m mini.cyclegan evaluate                                which term is needed for what?

Measured times and scores: README.md. Read before: train_gan.py. Read next: mini/vae.py.
"""
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn

# the two domains, the command line, devices, the judge of what is translated, pictures, the folder
# of a run: this file can be followed without reading them
from mini.data.images.domains import load_domains, true_translations
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.domain_judge import SHARES, DomainJudge, accuracy_report
from mini.utils.images import remove_checkerboard, sheet, to_float, to_size
from mini.utils.metrics import table
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore

# ---- the generator

# Instance normalisation (Ulyanov et al. 2016) subtracts from each channel of each image its mean
# over all pixels, and divides it by its standard deviation. So no image depends on the others in
# its batch. Convolutions before a Norm have no bias: the Norm would subtract it.
Norm = nn.InstanceNorm2d


class ResidualBlock(nn.Module):
    """x + f(x), of the same shape (N, C, H, W). Beyond its edges x is mirrored, by padding."""

    def __init__(self, C: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(C, C, kernel_size=3, bias=False),
            Norm(C),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(C, C, kernel_size=3, bias=False),
            Norm(C),
        )

    def forward(self, x):
        return x + self.layers(x)


def upsample(C_in: int, C_out: int, remove_checkerboard: bool):
    """A transposed convolution that doubles the size: (N, C_in, H, W) -> (N, C_out, 2·H, 2·W).

    It has kernels of 3, as in the paper, or of 4 (ours). With stride 2, a kernel of 3 adds up 1, 2
    or 4 of its weights for a pixel, depending on the place of the pixel, and this shows as a
    checkerboard (Odena et al. 2016). A kernel of 4 adds up 4 of its weights for every pixel.
    """
    if remove_checkerboard:
        return nn.ConvTranspose2d(C_in, C_out, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.ConvTranspose2d(C_in, C_out, kernel_size=3, stride=2, padding=1, output_padding=1,
                              bias=False)


class Generator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] -> images of the same shape and range (§7.2).

    It halves the image, changes it where it is small, and doubles it again. In the paper's words,
    c7s1 is a convolution with kernels of 7 and stride 1, d halves, R is a residual block, and u
    doubles. cfg is the Config below.
    """

    def __init__(self, cfg, C: int):
        super().__init__()
        width = cfg.ngf

        # c7s1: (N, C, S, S) -> (N, ngf, S, S)
        layers = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(C, width, kernel_size=7, bias=False),
            Norm(width),
            nn.ReLU(inplace=True),
        ]

        # d: each (N, width, H, W) -> (N, 2·width, H/2, W/2)
        for _ in range(cfg.halvings):
            layers += [
                nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1, bias=False),
                Norm(2 * width),
                nn.ReLU(inplace=True),
            ]
            width *= 2

        # R: each (N, width, H, W) -> (N, width, H, W)
        for _ in range(cfg.blocks):
            layers.append(ResidualBlock(width))

        # u: each (N, width, H, W) -> (N, width/2, 2·H, 2·W)
        for _ in range(cfg.halvings):
            layers += [
                upsample(width, width // 2, cfg.remove_checkerboard),
                Norm(width // 2),
                nn.ReLU(inplace=True),
            ]
            width //= 2

        # c7s1: (N, ngf, S, S) -> (N, C, S, S)
        layers += [
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, C, kernel_size=7),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x)


def init_weights(m):
    """Draw the weights of a convolution from N(0, 0.02²) (§7.1); its bias is 0."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, mean=0.0, std=0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


# ---- the discriminator

class Discriminator(nn.Module):
    """Images (N, C, S, S) -> (N, 1, P, P): how real is each of P × P overlapping patches?

    P = S / 2^d_halvings − 2: 6 × 6 patches by default, 14 × 14 in the paper. Except for the means
    in a Norm, each number depends on its own patch alone. So this PatchGAN (§7.2; Isola et al.
    2017, §3.2.2) judges texture and colour. It is left to the cycle term to keep the rest of the
    image in place.
    """

    def __init__(self, cfg, C: int):
        super().__init__()
        width = cfg.ndf

        # C64, without a Norm: (N, C, S, S) -> (N, ndf, S/2, S/2)
        layers = [
            nn.Conv2d(C, width, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]

        # In the paper C128, C256, C512: twice as many channels each time, at most 8 · ndf.
        # All but the last halve the size: (N, width, H, W) -> (N, wider, H/2, W/2).
        # The last has stride 1:           (N, width, H, W) -> (N, wider, H − 1, W − 1)
        for i in range(1, cfg.d_halvings + 1):
            wider = cfg.ndf * min(2**i, 8)
            stride = 2 if i < cfg.d_halvings else 1
            layers += [
                nn.Conv2d(width, wider, kernel_size=4, stride=stride, padding=1, bias=False),
                Norm(wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width = wider

        # one number for each patch: (N, width, P + 1, P + 1) -> (N, 1, P, P)
        layers.append(nn.Conv2d(width, 1, kernel_size=4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x)


# ---- the losses

# Each is a mean E over images, and over their patches or pixels. It is computed in float32, also if
# the networks compute in bfloat16.

def generator_loss(d_fake):
    """E (D(G(x)) − 1)²: translations should look real. (§4; eq. 1 with logarithms)

    d_fake: what a discriminator says of translated images, (N, 1, P, P).
    """
    return (d_fake.float() - 1).square().mean()


def discriminator_loss(d_real, d_fake):
    """½ (E (D(y) − 1)² + E D(G(x))²): real images should give 1, and translated ones 0. (§4)

    The ½ makes D learn more slowly, compared with G (§7.1).
    """
    return ((d_real.float() - 1).square().mean() + d_fake.float().square().mean()) / 2


# at the start of training, to compare the losses with
IF_D_CANNOT_TELL = "if D could not tell real from translated: D = ½ everywhere, g_loss = d_loss = ½"


def cycle_loss(translated_back, x):
    """E |G_BA(G_AB(x)) − x|: the way there and back should lead to the original. (eq. 2)"""
    return (translated_back.float() - x.float()).abs().mean()


def identity_loss(G_x, x):
    """E |G(x) − x| for images x that are in the target domain of G already. (§5.2)"""
    return (G_x.float() - x.float()).abs().mean()


# ---- the image pool

class ImagePool:
    """Translated images for a discriminator: half of them new, half of them made a while ago, so
    that it does not forget how to recognise these. (§4; Shrivastava et al. 2017, §2.3)"""

    def __init__(self, size: int):
        self.size = size
        self.images = []                                        # each (C, S, S)

    def query(self, new, rng):
        """A batch (N, C, S, S) to show to the discriminator, for new translations (N, C, S, S).

        Until the pool is full, it keeps each new image, and this one is shown. After that, one half
        of the new images are shown and not kept. Each of the other half takes the place of a random
        image in the pool, and that older image is shown.
        """
        new = new.detach()                                      # no gradient goes to G
        if self.size == 0:
            return new
        shown = []
        for image in new:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                shown.append(image)
            elif torch.rand((), generator=rng) < 0.5:
                i = torch.randint(self.size, (), generator=rng).item()
                shown.append(self.images[i])
                self.images[i] = image.clone()
            else:
                shown.append(image)
        return torch.stack(shown)


# ---- translating

@torch.no_grad()
def translate(G, images):
    """G's translations of images (n, C, S, S) in [-1, 1], on the CPU."""
    was_training = G.training
    G.eval()
    device = next(G.parameters(), images).device        # nn.Identity, which copies, has none
    parts = []
    for part in images.split(128):
        parts.append(G(part.to(device)).float().cpu())
    G.train(was_training)
    return torch.cat(parts)


ROW_NAMES = ["given", "translated", "back", "truth"]


def translation_rows(nets, direction: str, images, true=None) -> list:
    """Images (n, C, S, S), uint8, their translations, these translated back, and the true
    translations (uint8) if there are any: a list of tensors (n, C, S, S) in [-1, 1].

    direction: "ab" from A to B, "ba" from B to A.
    """
    if direction == "ab":
        G = nets["G_AB"]
        G_back = nets["G_BA"]
    else:
        G = nets["G_BA"]
        G_back = nets["G_AB"]
    x = to_float(images)
    translated = translate(G, x)
    rows = [x, translated, translate(G_back, translated)]
    if true is not None:
        rows.append(to_float(true))
    return rows


# ---- settings

@dataclass
class Config(RunConfig):
    """From RunConfig it also has, with these defaults: preset (none), eval_every 200 (steps between
    checkpoints), sample_every 500, log_every 50, seed 1, device auto, matmul medium (how exact
    products are), compile false, resume false, stop_after 0 (leave after so many steps, as if
    interrupted)."""
    # data
    data_a: str = "hair=blond"  # domain A: an attribute of faces and its value, or your own folder
    data_b: str = "hair=black"  # domain B, in the same way
    size: int = 32              # S, height and width of the images in pixels (0: as they are)
    n_images: int = 4000        # number of faces of each domain to draw for training

    # model
    # channels of G at full size; twice as many after each halving of the image
    ngf: int = 32
    halvings: int = 1           # how often G halves the size of the image (paper: 2)
    blocks: int = 3             # residual blocks of G (paper: 6 for 128 pixels, 9 for 256 or more)
    # channels after D's first layer; twice as many after each further layer, up to 8 times
    ndf: int = 32
    # how often D halves the image (paper: 3); its patches are 16 pixels wide with 1, 34 with 2, 70
    # with 3
    d_halvings: int = 2
    # ours: G doubles the size by kernels of 4, kept from drawing checkerboards (false: by kernels
    # of 3, as in the paper)
    remove_checkerboard: bool = True

    # optimisation
    steps: int = 2000           # optimiser steps, of the generators and of the discriminators alike
    batch_size: int = 8         # images of each domain in a step (paper: 1)
    lr: float = 1e-3            # Adam's learning rate at the start, for all networks
    # fraction of the steps before the learning rate falls; then it falls in a line to 0
    constant: float = 0.5
    beta1: float = 0.5          # of Adam: the weight of old gradients in their moving average
    lambda_cycle: float = 10.0      # weight of the cycle term in the loss (0: no such term)
    lambda_identity: float = 5.0    # weight of the identity term in the loss (0: no such term)
    # translated images of each domain that are kept, to be shown to D later (0: it sees new ones)
    pool: int = 50

    # run
    out_dir: str = "runs/cyclegan"  # folder of the run
    # held-out images of each domain to score (0: all, or proportionally fewer if --steps is below
    # its default)
    n_test: int = 0

    # sampling
    image: str = ""             # picture to translate ("": n held-out images)
    direction: Literal["ab", "ba"] = "ab"   # from A to B, or from B to A
    n: int = 8                  # held-out images in a row

    # evaluation
    # optimiser steps of each run that `evaluate` compares (0: as many as --steps)
    ablation_steps: int = 0

    # Not a setting: the names of those that a resumed run must keep, since its weights depend on
    # them.
    fixed = ("data_a", "data_b", "size", "n_images", "ngf", "halvings", "blocks", "ndf",
             "d_halvings", "remove_checkerboard")

    def __post_init__(self):
        super().__post_init__()
        check(self)


PRESETS = {
    # larger images and networks: one GPU
    "gpu": dict(size=64, ngf=64, halvings=2, blocks=6, ndf=64, d_halvings=3, lr=2e-4, steps=40000),
    # the paper's own (§7): images of 128 pixels, eq. 3 without the identity term (§5.2 adds it for
    # paintings, with weight 5), and 200 epochs of some 1,000 images: one GPU, hours
    "paper": dict(size=128, ngf=64, halvings=2, blocks=6, ndf=64, d_halvings=3, batch_size=1,
                  lr=2e-4, steps=200000, lambda_identity=0.0, remove_checkerboard=False),
}


def check(cfg):
    """Raise UserError, naming the flag, for settings that make no sense."""
    require_positive(cfg, "ngf", "ndf", "d_halvings", "n", "batch_size", "lr")
    for name in ("blocks", "halvings", "pool", "ablation_steps", "n_test"):
        value = getattr(cfg, name)
        require(value >= 0, f"--{name}={value} must be at least 0")
    require(0 <= cfg.constant < 1, f"--constant={cfg.constant} must be from 0 to below 1")


def check_size(cfg, S: int):
    """Raise UserError if images of S × S pixels are too small for the networks, or cannot be halved
    so often."""
    smallest = 4 * 2**max(1, cfg.halvings, cfg.d_halvings)
    multiple = 2**cfg.halvings
    require(S >= smallest and S % multiple == 0,
            f"images of {S} × {S}: --size must be at least {smallest} and a multiple of "
            f"{multiple}, for so many --halvings and --d_halvings")


# ---- training

def make_nets(cfg, C: int):
    """The four networks, for images of C channels: new ones."""
    return nn.ModuleDict({
        "G_AB": Generator(cfg, C),
        "G_BA": Generator(cfg, C),
        "D_A": Discriminator(cfg, C),
        "D_B": Discriminator(cfg, C),
    })


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of that at the start (§7.1)."""
    progress = step / cfg.steps                                 # 0 -> 1
    if progress < cfg.constant:                                 # it stays
        return 1.0
    return (1 - progress) / (1 - cfg.constant)                  # it falls to 0


def get_batch(images, batch_size: int, rng):
    """Random images of one domain: uint8 (images, C, S, S) -> (N, C, S, S) in [-1, 1]."""
    i = torch.randint(len(images), (batch_size,), generator=rng)
    return to_float(images[i.to(images.device)])


def train(cfg: Config) -> dict:
    """Train; returns what result.json holds. Raises UserError for input that cannot be used."""
    # settings: flags that were typed win over those of a run that goes on, and over the defaults
    cfg, checkpoint = own_checkpoint(cfg, "cyclegan", wanted=cfg.resume)
    device = pick_device(cfg.device)

    # the images of both domains
    domain_a, domain_b = load_domains(cfg)
    train_a = domain_a.train_set.to(device)                     # uint8 (images, C, S, S)
    train_b = domain_b.train_set.to(device)
    _, C, S, _ = train_a.shape
    check_shape(checkpoint, C, S)
    check_size(cfg, S)
    data_rng = torch.Generator().manual_seed(cfg.seed)          # for the batches and the pools

    # the networks
    torch.manual_seed(cfg.seed)                                 # for the initial weights
    nets = make_nets(cfg, C)
    if checkpoint:
        nets.load_state_dict(checkpoint["model"])
    nets = nets.to(device)
    generators = nn.ModuleList([nets["G_AB"], nets["G_BA"]])
    discriminators = nn.ModuleList([nets["D_A"], nets["D_B"]])

    # optimisers and pools
    opt_g = torch.optim.Adam(generators.parameters(), cfg.lr, betas=(cfg.beta1, 0.999))
    opt_d = torch.optim.Adam(discriminators.parameters(), cfg.lr, betas=(cfg.beta1, 0.999))
    pool_a = ImagePool(cfg.pool)                                # of translations to A
    pool_b = ImagePool(cfg.pool)
    if checkpoint:
        restore(checkpoint, [opt_g, opt_d], data_rng)
        for pool, images in zip([pool_a, pool_b], checkpoint["pools"]):
            pool.images = [image.to(device) for image in images[:cfg.pool]]

    # the networks as training calls them: as they are, or compiled
    G_AB, G_BA, D_A, D_B = nets.values()
    if cfg.compile:
        G_AB, G_BA, D_A, D_B = map(torch.compile, nets.values())

    # run keeps the folder out_dir: it prints and logs, and writes checkpoint and result
    columns = ["g_loss", "d_loss", "cycle", "identity"]
    with Run(cfg, "cyclegan", nets, columns, checkpoint) as run:
        run.say(f"A, {cfg.data_a}: {len(train_a):,} images; B, {cfg.data_b}: {len(train_b):,}; "
                f"{S} × {S}")
        run.say(IF_D_CANNOT_TELL)
        for step in range(run.first, cfg.steps):
            # learning rate
            for optimizer in (opt_g, opt_d):
                optimizer.param_groups[0]["lr"] = cfg.lr * lr_factor(step, cfg)

            # batch: images of A and images of B, which are no pairs
            a = get_batch(train_a, cfg.batch_size, data_rng)    # (N, C, S, S) in [-1, 1]
            b = get_batch(train_b, cfg.batch_size, data_rng)

            # G_AB and G_BA: the loss. Its gradient passes through D_A and D_B, but they do not
            # learn now
            discriminators.requires_grad_(False)
            with autocast(device, cfg.matmul):
                # G_AB(a) and G_AB(b) in one pass, which is faster than two; likewise G_BA
                fake_b, same_b = G_AB(torch.cat([a, b])).chunk(2)   # (2N, C, S, S) -> 2 × (N, …)
                fake_a, same_a = G_BA(torch.cat([b, a])).chunk(2)
                g_loss = generator_loss(D_B(fake_b)) + generator_loss(D_A(fake_a))
                cycle = cycle_loss(G_BA(fake_b), a) + cycle_loss(G_AB(fake_a), b)
                identity = identity_loss(same_b, b) + identity_loss(same_a, a)
            # eq. 3, and the identity term; the terms are logged also where their weight is 0
            loss = g_loss + cfg.lambda_cycle * cycle + cfg.lambda_identity * identity
            run.check_finite(step, g_loss=loss.item())          # NaN stops here, weights still good

            # G_AB and G_BA: backward and step
            opt_g.zero_grad(set_to_none=True)
            loss.backward()
            opt_g.step()
            # ours: the kernels that double the size are changed, so that from an input without a
            # pattern they make an output without one
            if cfg.remove_checkerboard:
                remove_checkerboard(generators)
            discriminators.requires_grad_(True)

            # D_A and D_B: half of the translations that they see are older ones, from the pools
            shown_a = pool_a.query(fake_a.float(), data_rng)
            shown_b = pool_b.query(fake_b.float(), data_rng)
            with autocast(device, cfg.matmul):
                d_loss = (discriminator_loss(D_A(a), D_A(shown_a))
                          + discriminator_loss(D_B(b), D_B(shown_b)))
            run.check_finite(step, d_loss=d_loss.item())
            opt_d.zero_grad(set_to_none=True)
            d_loss.backward()
            opt_d.step()

            # log, sample and save, each when it is due
            done = step + 1
            with run.untimed():                                 # this is not training time
                if run.due(done, cfg.log_every):
                    run.log(done, g_loss=g_loss.item(), d_loss=d_loss.item(), cycle=cycle.item(),
                            identity=identity.item())

                if run.due(done, cfg.sample_every):
                    picture = draw_samples(nets, domain_a, domain_b, cfg.n)
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)

                stopping = run.stopping(done)                   # after Ctrl-C, or --stop_after
                if stopping or run.due(done, cfg.eval_every):
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S),
                             pools=[pool_a.images, pool_b.images])

            if stopping and done < cfg.steps:
                return run.leave(done)                          # says how to resume

        # scores on held-out images, beside those of copying the input: the judge compares
        # translations with the true ones, and a classifier says whether they look like the target
        judge = DomainJudge(cfg, domain_a, domain_b)
        scores = score(nets["G_AB"], nets["G_BA"], judge)
        scores.update(score_copying(judge))
        run.say(table(scores, shares=SHARES))
        if judge.knows_truth:
            return run.finish(scores=scores)                    # result.json

        # Of your own images nobody knows the true translations. There the judge is a classifier
        # that has learnt from them alone, so it is said how often it is right about real ones.
        accuracy = judge.own_accuracy()
        run.say(accuracy_report(accuracy))
        return run.finish(scores=scores, judge_accuracy=accuracy)


# ---- scores

def score(G_AB, G_BA, judge) -> dict:
    """{"a → b": {name: number}, "b → a": …}: the scores of both directions on held-out images.

    First those that the judge gives, then two terms of the loss: cycle and identity.
    """
    domain_a = judge.domain_a
    domain_b = judge.domain_b
    return {"a → b": score_direction(G_AB, G_BA, domain_a, domain_b, judge),
            "b → a": score_direction(G_BA, G_AB, domain_b, domain_a, judge)}


def score_direction(G, G_back, x, y, judge) -> dict:
    """The scores of G, which translates from domain x to domain y; G_back translates back."""
    of_x = to_float(x.held_out)
    of_y = to_float(y.held_out)
    translated = translate(G, of_x)
    scores = judge.scores(translated, x, y)
    scores["cycle"] = cycle_loss(translate(G_back, translated), of_x).item()
    scores["identity"] = identity_loss(translate(G, of_y), of_y).item()
    return scores


def score_copying(judge) -> dict:
    """The baseline: the scores if each image is returned unchanged."""
    rows = score(nn.Identity(), nn.Identity(), judge)
    return {f"{direction}, copied": row for direction, row in rows.items()}


# ---- using what was trained

def load(cfg):
    """(nets, config, (C, S)) as trained in --out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "cyclegan")
    C, S = checkpoint["shape"]
    nets = make_nets(cfg, C)
    nets.load_state_dict(checkpoint["model"])
    return nets.to(pick_device(cfg.device)), cfg, (C, S)


def draw_samples(nets, domain_a, domain_b, n: int):
    """A picture of the first n held-out images of both domains: see `translation_rows`."""
    n = min(n, len(domain_a.held_out), len(domain_b.held_out))
    a = domain_a.first(n)
    b = domain_b.first(n)
    from_a = translation_rows(nets, "ab", a.held_out, true_translations(a, b))
    from_b = translation_rows(nets, "ba", b.held_out, true_translations(b, a))
    names = ROW_NAMES[:len(from_a)]
    return sheet(torch.cat(from_a + from_b), columns=n, row_names=names + names)


def sample(cfg: Config):
    """Translate --image, or n held-out images, in --direction, into samples/ab.png or ba.png.

    The rows are those of `translation_rows`; of a single image they are side by side.
    """
    nets, cfg, (C, S) = load(cfg)
    if cfg.image:
        images = to_size(read_image(cfg.image), S)[None]        # uint8 (1, 1 or 3, S, S)
        if C == 3:
            images = images.expand(-1, 3, -1, -1)
        else:
            images = images.float().mean(1, keepdim=True).round().byte()
        true = None
    else:
        x, y = load_domains(cfg)
        if cfg.direction == "ba":
            x, y = y, x
        x = x.first(cfg.n)
        images = x.held_out                                     # uint8 (n, C, S, S)
        true = true_translations(x, y)

    rows = translation_rows(nets, cfg.direction, images, true)
    if len(images) > 1:
        picture = sheet(torch.cat(rows), columns=len(images), row_names=ROW_NAMES)
    else:
        picture = sheet(torch.cat(rows), column_names=ROW_NAMES)
    path = f"{cfg.out_dir}/samples/{cfg.direction}.png"
    write_png(path, picture)
    print(f"wrote {path}: {', '.join(ROW_NAMES[:len(rows)])}")


def evaluate(cfg: Config) -> dict:
    """Which term of the loss is needed for what: see mini/studies/loss_terms.py."""
    from mini.studies import loss_terms  # only this command needs it
    nets, cfg, _ = load(cfg)
    judge = DomainJudge(cfg, *load_domains(cfg))
    return loss_terms.evaluate(cfg, nets, judge)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --ngf, --ndf, --blocks or --size")


if __name__ == "__main__":
    main()
