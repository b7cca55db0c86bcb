"""CycleGAN: it translates one kind of image into another and back, and learns this without any pairs.

There are faces with blond hair and others with black hair, but nobody is shown with both. What would a blond
face look like with black hair? Two generators translate: G_ab from domain A to B, G_ba from B to A. Two
discriminators, D_a and D_b, say of each patch of an image whether it is from their domain. Paper: Zhu, Park,
Isola & Efros 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks". With a
from A and b from B, the generators minimise

    E (D_b(G_ab(a)) − 1)² + E (D_a(G_ba(b)) − 1)²                   translations should look real    (eq. 1)
    + λ_cycle (E |G_ba(G_ab(a)) − a| + E |G_ab(G_ba(b)) − b|)       the way back gives the original  (eq. 2)
    + λ_identity (E |G_ab(b) − b| + E |G_ba(a) − a|)                what fits already should stay    (§5.2)

and D_b minimises (E (D_b(b) − 1)² + E D_b(G_ab(a))²) / 2, D_a likewise (§4; Mao et al. 2017, "LSGAN"). With
the first term alone, G_ab could draw any face of B, whatever face it is given. Our departures: the images are
small, so the networks are smaller, too, and halve them less often; the batches are larger, the steps fewer and
the learning rate higher. As in train_gan.py, G has kernels of 4 where it doubles the size, and they are kept
even, to avoid a checkerboard.

    python -m mini.cyclegan                                             blond hair <-> black hair
    python -m mini.cyclegan --data_a=glasses=none --data_b=glasses=round        or any two values
    python -m mini.cyclegan --data_a=horses --data_b=zebras             your own two folders of images
    python -m mini.cyclegan sample --image=me.png --direction=ab        or without an image, a grid
    python -m mini.cyclegan evaluate                                    which term is needed for what?

Measured times and scores: README.md. Read before: train_gan.py. Read next: mini/vae.py.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn

from mini.data.images.faces import ATTRIBUTES, draw_parameters, render
from mini.data.images.image_sets import load_images
from mini.utils import image_metrics, metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import even_out, sheet, to_float, to_size
from mini.utils.judge import judge_of_faces
from mini.utils.metrics import n_to_score
from mini.utils.png import read_image, write_png
from mini.utils.run import Run, check_shape, own_checkpoint, restore, write_json

HELD_OUT, SHARES = 512, ["right", "kept", "worst"]      # held-out faces of each domain; scores printed in %


@dataclass
class Config(RunConfig):
    # data
    data_a: str = "hair=blond"  # domain A: an attribute of faces and its value, or your own folder of images
    data_b: str = "hair=black"  # domain B, in the same way
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 4000        # number of faces of each domain to draw for training
    # model
    ngf: int = 32               # channels of G at full size; twice as many after each halving of the image
    halvings: int = 1           # how often G halves the size of the image (paper: 2, for 128 or 256 pixels)
    blocks: int = 3             # residual blocks of G, where the image is smallest (paper: 6 or 9)
    ndf: int = 32               # channels after D's first layer; twice as many after each further one, up to 8 ×
    # how often D halves the image; with 2, its patches are 34 pixels wide (1: 16; 3, as in the paper: 70)
    d_halvings: int = 2
    # optimisation
    steps: int = 2000           # optimiser steps of the generators, and as many of the discriminators
    batch_size: int = 8         # images of each domain in a step (paper: 1)
    lr: float = 1e-3            # Adam's learning rate at the start, for all networks
    constant: float = 0.5       # fraction of the steps before the learning rate falls; then it falls linearly to 0
    beta1: float = 0.5          # of Adam: the weight of old gradients in their moving average
    lambda_cycle: float = 10.0      # weight of the cycle term in the loss (0: no such term)
    lambda_identity: float = 5.0    # weight of the identity term in the loss (0: no such term)
    pool: int = 50              # translated images that are kept and shown to D again (0: only new ones)
    # run
    out_dir: str = "runs/cyclegan"  # folder of the run
    # held-out images of each domain to score (0: all, or proportionally fewer if --steps is below its
    # default)
    n_test: int = 0
    # sampling
    image: str = ""             # picture to translate ("": n held-out images)
    direction: Literal["ab", "ba"] = "ab"  # from A to B, or from B to A
    n: int = 8                  # held-out images in a row
    # evaluation
    ablation_steps: int = 0     # optimiser steps of each run that `evaluate` compares (0: as many as --steps)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("data_a", "data_b", "size", "n_images", "ngf", "halvings", "blocks", "ndf",
             "d_halvings")


PRESETS = {"gpu": dict(size=64, ngf=64, halvings=2, blocks=6, ndf=64, d_halvings=3, lr=2e-4, steps=40000)}


# ---- the networks
class ResBlock(nn.Module):
    """x + f(x). At the edges of the image, f reads reflected pixels."""

    def __init__(self, C: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(C, C, 3, bias=False), nn.InstanceNorm2d(C), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(C, C, 3, bias=False), nn.InstanceNorm2d(C))

    def forward(self, x):
        return x + self.layers(x)


class Generator(nn.Module):
    """Images (B, C, S, S) in [-1, 1] -> images of the same shape and range (Zhu et al. 2017, §7.2: c7s1, d, R,
    u, c7s1). Each norm is over the pixels of one channel of one image, so no image depends on the others."""

    def __init__(self, cfg, C: int):
        super().__init__()
        w = cfg.ngf
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(C, w, 7, bias=False), nn.InstanceNorm2d(w), nn.ReLU(True)]
        for _ in range(cfg.halvings):                           # (B, w, S, S) -> (B, 2 w, S/2, S/2)
            layers += [nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False), nn.InstanceNorm2d(2 * w), nn.ReLU(True)]
            w *= 2
        layers += [ResBlock(w) for _ in range(cfg.blocks)]
        for _ in range(cfg.halvings):                           # (B, w, S/2, S/2) -> (B, w/2, S, S)
            layers += [nn.ConvTranspose2d(w, w // 2, 4, 2, 1, bias=False),
                       nn.InstanceNorm2d(w // 2), nn.ReLU(True)]
            w //= 2
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, C, 7), nn.Tanh())
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x)


class Discriminator(nn.Module):
    """Images (B, C, S, S) -> (B, 1, P, P): is each of P × P overlapping patches real (1) or translated (0)? This
    PatchGAN (Isola et al. 2017, §3.2.2) judges texture and colour; the cycle term keeps the rest in place."""

    def __init__(self, cfg, C: int):
        super().__init__()
        w, layers = cfg.ndf, [nn.Conv2d(C, cfg.ndf, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for i in range(1, cfg.d_halvings + 1):                  # the last of these has stride 1
            wider, stride = cfg.ndf * min(2**i, 8), 2 if i < cfg.d_halvings else 1
            layers += [nn.Conv2d(w, wider, 4, stride, 1, bias=False), nn.InstanceNorm2d(wider),
                       nn.LeakyReLU(0.2, True)]
            w = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(w, 1, 4, 1, 1))
        self.apply(init_weights)

    def forward(self, x):
        return self.layers(x)


def init_weights(m):
    """All weights are drawn from a normal distribution with standard deviation 0.02 (Zhu et al. 2017, §7.1)."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, 0, 0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


# ---- the game
def least_squares(verdict, y: int):
    """E (D(x) − y)² over images and patches: y is the wanted verdict, 1 for real, 0 for translated (§4)."""
    return (verdict.float() - y).square().mean()


def distance(x, y):
    """E |x − y| over images and pixels, in the cycle term and in the identity term."""
    return (x.float() - y.float()).abs().mean()


class ImagePool:
    """The translated images that D sees: half of them are new, and half were made a while ago, so that D does
    not forget how to recognise those (Shrivastava et al. 2017, §2.3)."""

    def __init__(self, size: int, images=()):
        self.size, self.images = size, list(images)             # each (C, S, S)

    def exchange(self, new, rng):
        """A batch (B, C, S, S) for D. Until the pool is full, D is shown each new image, and the pool keeps it.
        After that, for half of the new images D is shown an older one, whose place in the pool they take."""
        batch = []
        for image in new.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
            elif self.size and torch.rand((), generator=rng) < 0.5:
                i = int(torch.randint(self.size, (), generator=rng))
                image, self.images[i] = self.images[i], image.clone()
            batch.append(image)
        return torch.stack(batch)


def learning_rate(cfg, step: int) -> float:
    """The learning rate at a step: it is constant at first, then falls linearly to 0 (§7.1)."""
    return cfg.lr * min(1, (1 - step / cfg.steps) / (1 - cfg.constant))


# ---- the two domains
@dataclass
class Domain:
    learn: torch.Tensor         # uint8 (N, C, S, S)
    held_out: torch.Tensor      # uint8 (M, C, S, S)
    labels: torch.Tensor | None     # (M, 6): labels of the held-out images, if they are faces
    nuisance: torch.Tensor | None   # (M, 10): the other numbers that they were drawn from

    def first(self, n: int):
        """This domain with only the first n of its held-out images."""
        if self.labels is None:
            return replace(self, held_out=self.held_out[:n])
        return replace(self, held_out=self.held_out[:n], labels=self.labels[:n],
                       nuisance=self.nuisance[:n])


def load_domain(source: str, size: int, n: int, which: int) -> Domain:
    """The domain that --data_a or --data_b names; which: 0 for A, 1 for B. No face of it occurs in the other
    domain with only an attribute changed. Raises UserError if there is no such data."""
    attribute, is_faces, value = source.partition("=")
    if not is_faces or Path(source).exists():
        learn, held_out = load_images(source, size)
        return Domain(learn.images, held_out.images, None, None)
    require(attribute in ATTRIBUTES, f"{source}: no such folder; faces have {', '.join(ATTRIBUTES)}")
    values = ATTRIBUTES[attribute]
    require(value in values, f"{source}: the values of {attribute} are {', '.join(values)}")
    require(n > 0, f"--n_images={n}: at least one face is needed to learn from")
    parts = []
    for m, first in ((n, 0), (HELD_OUT, 10**7)):                     # held-out faces have much higher numbers
        labels, nuisance = draw_parameters(m, seed=1, first=first + m * which)
        labels[:, list(ATTRIBUTES).index(attribute)] = values.index(value)
        parts += [render(labels, nuisance, size or 32), labels, nuisance]
    return Domain(parts[0], *parts[3:])


def load_domains(cfg):
    """(A, B), with the same number of channels. Raises UserError if one cannot be translated to the other."""
    require(cfg.data_a != cfg.data_b, f"--data_a and --data_b are both {cfg.data_a}: bring two")
    a, b = (load_domain(source, cfg.size, cfg.n_images, which)
            for which, source in enumerate([cfg.data_a, cfg.data_b]))
    C = max(a.learn.size(1), b.learn.size(1))
    for domain in (a, b):       # if one is in colour, a gray one gets three channels
        domain.learn, domain.held_out = (x.expand(-1, C, -1, -1) for x in (domain.learn, domain.held_out))
    require(a.learn.shape[1:] == b.learn.shape[1:], f"--data_a={cfg.data_a} and --data_b={cfg.data_b} "
            "differ in size; set --size")
    return a, b


def truth(cfg, x, y, n: int | None = None):
    """The first n held-out faces of domain x as they would be in y: their labels (n, 6) and their images, uint8
    (n, C, S, S). (None, ()) unless both are domains of faces that differ in one attribute."""
    if not (attribute := same_attribute(cfg, x, y)):
        return None, ()
    labels, column = x.labels[:n].clone(), list(ATTRIBUTES).index(attribute)
    labels[:, column] = y.labels[0, column]                     # all faces of y have this value
    return labels, render(labels, x.nuisance[:n], x.held_out.size(2))


def same_attribute(cfg, *domains) -> str:
    """The attribute in which two domains of faces differ; '' for others, whose true translations are unknown."""
    (of_a, *_), (of_b, *_) = (source.split("=") for source in (cfg.data_a, cfg.data_b))
    return of_a if of_a == of_b and all(d.labels is not None for d in domains) else ""


# ---- translating, and the scores
@torch.no_grad()
def translate(G, images):
    """G's translations of images (n, C, S, S) in [-1, 1], on the CPU."""
    device = next((p.device for p in G.parameters()), "cpu")
    return torch.cat([G(part.to(device)).float().cpu() for part in images.split(128)])


def score(G_ab, G_ba, cfg, a, b, judge) -> dict:
    """{"a → b": {name: number}, "b → a": …} on held-out images. judge: the judge of faces, or None.

    right: the share of translations in which the judge reads the attribute that the target domain has. kept,
    worst: the share in which it reads the other attributes as they were, as a mean over these attributes and
    for the worst of them. PSNR (in dB) and SSIM: from the true translation, which real data does not have, but
    the renderer knows. cycle, identity: what these two terms of the loss measure.
    """
    scores = {}
    for name, G, back, x, y in (("a → b", G_ab, G_ba, a, b), ("b → a", G_ba, G_ab, b, a)):
        given, theirs = to_float(x.held_out), to_float(y.held_out)
        made, scores[name] = translate(G, given), {}
        labels, true = truth(cfg, x, y)
        if len(true):
            read, true = judge.accuracy(made, labels), to_float(true)
            right, kept = read.pop(same_attribute(cfg, x, y)), read.values()
            scores[name] = {"right": right, "kept": sum(kept) / len(kept), "worst": min(kept),
                            "PSNR": image_metrics.psnr(made, true).mean().item(),
                            "SSIM": image_metrics.ssim(made, true).mean().item()}
        scores[name] |= {"cycle": distance(translate(back, made), given).item(),
                         "identity": distance(translate(G, theirs), theirs).item()}
    return scores


def to_score(cfg, a, b):
    """(A, B, judge): the domains with as many held-out images as are scored; and the judge of faces,
    or None if the domains are not faces that differ in one attribute."""
    n = n_to_score(cfg, max(len(a.held_out), len(b.held_out)), "held-out images of each domain")
    judge = None
    if same_attribute(cfg, a, b):
        judge = judge_of_faces(replace(cfg, n_test=n), n)
    return a.first(n), b.first(n), judge


def copying(*given) -> dict:
    """The scores if each image is returned unchanged, as a baseline. Arguments: as of `score`, from cfg on."""
    rows = score(nn.Identity(), nn.Identity(), *given)
    return {f"{name}, copied": row for name, row in rows.items()}


ROW_NAMES = ["given", "translated", "back", "truth"]        # of what `pictures` returns


def pictures(nets, x, direction: str, true=()):
    """Images x (n, C, S, S) in [-1, 1], then their translations, these translated back, and the true
    translations (given as uint8), if there are any."""
    there, back = (nets["G_" + d] for d in (direction, direction[::-1]))
    made = translate(there, x)
    return torch.cat([x, made, translate(back, made), *([to_float(true)] if len(true) else [])])


# ---- the run
def check(cfg, S: int):
    """Raise UserError for flags that cannot be used. S: height and width of the images."""
    require_positive(cfg, "ngf", "ndf", "d_halvings", "n", "batch_size", "lr")
    for name in ("blocks", "halvings", "pool", "constant", "ablation_steps", "n_test"):
        value = getattr(cfg, name)
        require(value >= 0, f"--{name}={value} must be at least 0")
    require(cfg.constant < 1, f"--constant={cfg.constant} must be below 1")
    require(cfg.beta1 < 1, f"--beta1={cfg.beta1} must be below 1")
    least = 4 * 2**max(1, cfg.halvings, cfg.d_halvings)
    require(S >= least and S % 2**cfg.halvings == 0,
            f"images of {S} × {S}: --size must be at least {least} and a multiple of "
            f"{2**cfg.halvings}, for so many --halvings and --d_halvings")


def make_nets(cfg, C: int, S: int, state):
    """The four networks, with the weights of a checkpoint if there is one."""
    torch.manual_seed(cfg.seed)
    nets = nn.ModuleDict({"G_ab": Generator(cfg, C), "G_ba": Generator(cfg, C),
                          "D_a": Discriminator(cfg, C), "D_b": Discriminator(cfg, C)})
    if state:
        nets.load_state_dict(state["model"])
    return nets.to(pick_device(cfg.device))


def train(cfg: Config) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "cyclegan", cfg.resume)
    domain_a, domain_b = load_domains(cfg)
    device = pick_device(cfg.device)
    images_a, images_b = domain_a.learn.to(device), domain_b.learn.to(device)
    _, C, S, _ = images_a.shape
    check_shape(state, C, S)
    check(cfg, S)
    nets = make_nets(cfg, C, S, state)
    generators, discriminators = (nn.ModuleList([nets[name] for name in pair])
                                  for pair in (("G_ab", "G_ba"), ("D_a", "D_b")))
    n = min(cfg.n, len(domain_a.held_out), len(domain_b.held_out))
    fixed = [(to_float(x.held_out[:n]), direction, truth(cfg, x, y, n)[1])          # for the samples
             for x, y, direction in ((domain_a, domain_b, "ab"), (domain_b, domain_a, "ba"))]
    opt_g, opt_d = (torch.optim.Adam(both.parameters(), cfg.lr, (cfg.beta1, 0.999))
                    for both in (generators, discriminators))
    data_rng = torch.Generator().manual_seed(cfg.seed)
    pool_a, pool_b = pools = ImagePool(cfg.pool), ImagePool(cfg.pool)
    if state:
        restore(state, [opt_g, opt_d], data_rng)
        for pool, images in zip(pools, state["pools"]):
            pool.images = [image.to(device) for image in images][:cfg.pool]
    G_ab, G_ba, D_a, D_b = (torch.compile(net) if cfg.compile else net for net in nets.values())
    titles = ["g_loss", "d_loss", "cycle", "identity"]
    with Run(cfg, "cyclegan", nets, titles, state) as run:
        run.say(f"A, {cfg.data_a}: {len(images_a):,} images; B, {cfg.data_b}: {len(images_b):,}; {S} × {S}\n"
                "if D could not tell real from translated: D = ½ everywhere, g_loss = d_loss = ½")
        for step in range(run.first, cfg.steps):
            # learning rate
            opt_g.param_groups[0]["lr"] = opt_d.param_groups[0]["lr"] = learning_rate(cfg, step)
            # batch: images of A and of B, which are not pairs
            batches = []
            for images in (images_a, images_b):
                i = torch.randint(len(images), (cfg.batch_size,), generator=data_rng).to(device)
                batches.append(to_float(images[i]))
            a, b = batches

            discriminators.requires_grad_(False)    # the gradient passes through them, but they do not learn
            with autocast(device, cfg.matmul):
                # ---- adversarial: translations should look like images of the other domain. G translates two
                # batches at once, which is faster; no image depends on the others
                fake_b, same_b = G_ab(torch.cat([a, b])).chunk(2)
                fake_a, same_a = G_ba(torch.cat([b, a])).chunk(2)
                g_loss = least_squares(D_b(fake_b), 1) + least_squares(D_a(fake_a), 1)
                # ---- cycle: a translation, translated back, should be the original
                cycle = distance(G_ba(fake_b), a) + distance(G_ab(fake_a), b)
                # ---- identity: an image that is in the target domain already should stay as it is
                identity = distance(same_b, b) + distance(same_a, a)
            # ---- G minimises the sum
            loss_g = g_loss + cfg.lambda_cycle * cycle + cfg.lambda_identity * identity
            run.check_finite(step, g_loss=loss_g.item())
            opt_g.zero_grad(set_to_none=True)
            loss_g.backward()
            opt_g.step()
            even_out(generators)
            discriminators.requires_grad_(True)

            # ---- D: real images should give 1, and translated ones 0; half of these are from the pool
            with autocast(device, cfg.matmul):
                seen_a, seen_b = (pool.exchange(fake.float(), data_rng)
                                  for pool, fake in ((pool_a, fake_a), (pool_b, fake_b)))
                d_loss = (least_squares(D_a(a), 1) + least_squares(D_a(seen_a), 0)
                          + least_squares(D_b(b), 1) + least_squares(D_b(seen_b), 0)) / 2
            run.check_finite(step, d_loss=d_loss.item())
            opt_d.zero_grad(set_to_none=True)
            d_loss.backward()
            opt_d.step()
            # log, sample and save, each when it is due
            done = step + 1
            with run.untimed():
                if run.due(done, cfg.log_every):
                    values = g_loss, d_loss, cycle, identity
                    run.log(done, **{name: value.item() for name, value in zip(titles, values)})
                if run.due(done, cfg.sample_every):
                    shown = [pictures(nets, *rows) for rows in fixed]
                    names = [name for x in shown for name in ROW_NAMES[:len(x) // n]]
                    picture = sheet(torch.cat(shown), columns=n, row_names=names)
                    write_png(f"{cfg.out_dir}/samples/step_{done:06d}.png", picture)
                stop = run.stopping(done)
                if stop or run.due(done, cfg.eval_every):
                    run.save(done, nets, [opt_g, opt_d], data_rng, shape=(C, S),
                             pools=[pool.images for pool in pools])
            if stop and done < cfg.steps:
                return run.leave(done)

        a, b, judge = to_score(cfg, domain_a, domain_b)
        scores = score(nets["G_ab"], nets["G_ba"], cfg, a, b, judge)
        scores |= copying(cfg, a, b, judge)
        run.say(metrics.table(scores, shares=SHARES))
        return run.finish(scores=scores)


def sample(cfg: Config):
    """Translate --image, or n held-out images, in --direction, into samples/ab.png or ba.png. The rows are the
    given images, their translations, these translated back, and for faces the true translations; of a single
    image they are side by side."""
    cfg, state = own_checkpoint(cfg, "cyclegan")
    C, S = state["shape"]
    check(cfg, S)
    nets, true = make_nets(cfg, C, S, state), ()
    if cfg.image:
        x = to_size(read_image(cfg.image), S)[None]             # (1, 1 or 3, S, S)
        x = x.expand(-1, 3, -1, -1) if C == 3 else x.float().mean(1, keepdim=True).round().byte()
    else:
        from_to = load_domains(cfg)[::1 if cfg.direction == "ab" else -1]
        x, true = from_to[0].held_out[:cfg.n], truth(cfg, *from_to, cfg.n)[1]
    path = f"{cfg.out_dir}/samples/{cfg.direction}.png"
    shown = pictures(nets, to_float(x), cfg.direction, true)
    if len(x) > 1:
        picture = sheet(shown, columns=len(x), row_names=ROW_NAMES)
    else:
        picture = sheet(shown, column_names=ROW_NAMES)          # side by side
    write_png(path, picture)
    print(f"wrote {path}: what was given; translated; translated back" + "; the truth" * (len(true) > 0))


def evaluate(cfg: Config) -> dict:
    """Which term is needed for what? The scores of the same training without the cycle term, without the
    identity term, and without both, as means over both directions; also in evaluate.json. Each run, with its
    samples, is kept in a folder of its own in out_dir. An interrupted run goes on."""
    cfg, state = own_checkpoint(cfg, "cyclegan")
    check(cfg, state["shape"][1])
    a, b, judge = to_score(cfg, *load_domains(cfg))
    n_test = max(len(a.held_out), len(b.held_out))              # the same number, also after fewer steps
    steps = cfg.ablation_steps or cfg.steps
    no_cycle, no_identity, rows = dict(lambda_cycle=0.0), dict(lambda_identity=0.0), {}
    for name, weights in {"full": {}, "no cycle": no_cycle, "no identity": no_identity,
                          "neither": no_cycle | no_identity}.items():
        if name == "full" and not cfg.ablation_steps:
            nets = make_nets(cfg, *state["shape"], state)
            rows[name] = mean(score(nets["G_ab"], nets["G_ba"], cfg, a, b, judge))
            continue
        folder = Path(cfg.out_dir, f"{name.replace(' ', '-')}-{steps}")
        own = replace(cfg, steps=steps, n_test=n_test, stop_after=0, out_dir=str(folder), **weights)
        result = train(replace(own, resume=(folder / "checkpoint.pt").exists()))
        if "interrupted" in result:
            raise KeyboardInterrupt
        rows[name] = mean({key: result["scores"][key] for key in ("a → b", "b → a")})
    rows["copied"] = mean(copying(cfg, a, b, judge))
    print(metrics.table(rows, shares=SHARES))
    write_json(f"{cfg.out_dir}/evaluate.json", rows)
    return rows


def mean(rows: dict) -> dict:
    """The mean of each column over rows {name: {column: number}}."""
    return {column: sum(row[column] for row in rows.values()) / len(rows)
            for column in next(iter(rows.values()))}


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --ngf, --ndf, --blocks, --size or --n_images")


if __name__ == "__main__":
    main()
