"""CycleGAN: from one kind of image to another and back, learnt without a single pair.

Blond faces and black-haired ones, but nobody twice: what would this face look like with black hair? Two
generators translate, G_ab from domain A to B and G_ba back; D_a and D_b say of each patch of an image whether
it is from their domain. Zhu, Park, Isola & Efros 2017, "Unpaired image-to-image translation using
cycle-consistent adversarial networks". With a from A and b from B, the generators minimise

    E (D_b(G_ab(a)) − 1)² + E (D_a(G_ba(b)) − 1)²                   they pass for the other domain's (eq. 1)
    + λ_cycle (E |G_ba(G_ab(a)) − a| + E |G_ab(G_ba(b)) − b|)       what was there can be had back   (eq. 2)
    + λ_identity (E |G_ab(b) − b| + E |G_ba(a) − a|)                what fits already stays          (§5.2)

and D_b minimises (E (D_b(b) − 1)² + E D_b(G_ab(a))²) / 2, D_a likewise (§4; Mao et al. 2017, "LSGAN"). The
first term alone would be content with any face of B, whoever was given. Departures: the images are small, so
the networks are too, and halve less often; larger batches, fewer steps and a higher rate; as in train_gan.py,
kernels of 4 where G doubles the size, kept even, against a checkerboard.

    python -m mini.cyclegan                                             blond hair <-> black hair
    python -m mini.cyclegan --data_a=glasses=none --data_b=glasses=round        or any two values
    python -m mini.cyclegan --data_a=horses --data_b=zebras             your own two folders of images
    python -m mini.cyclegan sample --image=me.png --direction=ab        or without an image, a grid
    python -m mini.cyclegan evaluate                                    which term is needed for what?

Measured times and scores: README.md. Read before: train_gan.py; next: train_diffusion.py.
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

HELD_OUT, SHARES = 512, ["right", "kept", "worst"]      # faces of each domain for the scores; what is in %


@dataclass
class Config(RunConfig):
    # data
    data_a: str = "hair=blond"  # domain A: an attribute of faces and its value, or your own folder of images
    data_b: str = "hair=black"  # domain B, likewise
    size: int = 32              # height and width of the images (0: as they are)
    n_images: int = 4000        # how many faces of each domain are drawn to learn from
    # model
    ngf: int = 32               # channels of G at full size; doubled at each halving of the image
    halvings: int = 1           # how often G halves the image (paper: 2, of 128 or 256 pixels)
    blocks: int = 3             # residual blocks, where the image is smallest (paper: 6 or 9)
    ndf: int = 32               # channels after D's first layer; doubled at each further one
    d_halvings: int = 2         # how often D does: its patches are 34 pixels wide (1: 16; 3, the paper's: 70)
    # optimisation
    steps: int = 2000           # steps of the generators, and of the discriminators
    batch_size: int = 8         # images of each domain per step (paper: 1)
    lr: float = 1e-3            # Adam's learning rate, of all networks
    constant: float = 0.5       # for which part of the steps it stays; from there it falls to 0
    beta1: float = 0.5          # Adam's: how much of the old mean gradient is kept
    lambda_cycle: float = 10.0      # weight of the cycle term (0: no such term)
    lambda_identity: float = 5.0    # weight of the identity term (0: no such term)
    pool: int = 50              # translated images kept to be shown to D again (0: only new ones)
    # run
    out_dir: str = "runs/cyclegan"  # folder of the run
    # held-out images of each domain to score (0: all; in a run of fewer steps, their share)
    n_test: int = 0
    # sampling
    image: str = ""             # picture to translate (default: n held-out ones)
    direction: Literal["ab", "ba"] = "ab"  # from A to B, or from B to A
    n: int = 8                  # images in a row
    # evaluation
    ablation_steps: int = 0     # steps of each of the four runs (0: as many as the run's own)

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("data_a", "data_b", "size", "n_images", "ngf", "halvings", "blocks", "ndf",
             "d_halvings")


PRESETS = {"gpu": dict(size=64, ngf=64, halvings=2, blocks=6, ndf=64, d_halvings=3, lr=2e-4, steps=40000)}


# ---- the networks
class ResBlock(nn.Module):
    """x + f(x), at the edge on reflected pixels."""

    def __init__(self, C: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(C, C, 3, bias=False), nn.InstanceNorm2d(C), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(C, C, 3, bias=False), nn.InstanceNorm2d(C))

    def forward(self, x):
        return x + self.layers(x)


class Generator(nn.Module):
    """Images (B, C, S, S) in [-1, 1] -> images alike (Zhu et al. 2017, §7.2: c7s1, d, R, u, c7s1). Each
    normalisation is over the pixels of one channel of one image: no image depends on the others."""

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
    """Images (B, C, S, S) -> (B, 1, P, P): of P × P overlapping patches, is each real (1) or translated (0)?
    PatchGAN (Isola et al. 2017, §3.2.2): it judges texture and colour, the cycle keeps the rest in place."""

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
    """Zhu et al. 2017, §7.1: all weights from a normal distribution with standard deviation 0.02."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, 0, 0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


# ---- the game
def least_squares(verdict, y: int):
    """E (D(x) − y)² over images and patches: y = 1 if they should be real, 0 if translated (§4)."""
    return (verdict.float() - y).square().mean()


def distance(x, y):
    """E |x − y| over images and pixels: of both the cycle and the identity term."""
    return (x.float() - y.float()).abs().mean()


class ImagePool:
    """What D sees of the translated images: half new ones, half some that the generators made a while ago, so
    that D does not forget what it has seen through already (Shrivastava et al. 2017, §2.3)."""

    def __init__(self, size: int, images=()):
        self.size, self.images = size, list(images)             # each (C, S, S)

    def exchange(self, new, rng):
        """A batch (B, C, S, S) for D: each new image itself, or, once the pool is full, as often an older one
        in whose place it is kept."""
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
    """At first constant, then in a straight line to 0 (§7.1)."""
    return cfg.lr * min(1, (1 - step / cfg.steps) / (1 - cfg.constant))


# ---- the two domains
@dataclass
class Domain:
    learn: torch.Tensor         # uint8 (N, C, S, S)
    held_out: torch.Tensor      # uint8 (M, C, S, S)
    labels: torch.Tensor | None     # (M, 6), of the held-out images if they are faces
    nuisance: torch.Tensor | None   # (M, 10), what else they have been drawn from

    def first(self, n: int):
        """The same with the first n of the held-out images."""
        if self.labels is None:
            return replace(self, held_out=self.held_out[:n])
        return replace(self, held_out=self.held_out[:n], labels=self.labels[:n],
                       nuisance=self.nuisance[:n])


def load_domain(source: str, size: int, n: int, which: int) -> Domain:
    """Domain number `which`, 0 or 1, of what --data_a or --data_b names. Of no face in it there is one in the
    other domain that differs by an attribute only. Raises UserError for what is no data."""
    attribute, is_faces, value = source.partition("=")
    if not is_faces or Path(source).exists():
        learn, held_out = load_images(source, size)
        return Domain(learn.images, held_out.images, None, None)
    require(attribute in ATTRIBUTES, f"{source}: no such folder; faces have {', '.join(ATTRIBUTES)}")
    values = ATTRIBUTES[attribute]
    require(value in values, f"{source}: the values of {attribute} are {', '.join(values)}")
    require(n > 0, f"--n_images={n}: at least one face is needed to learn from")
    parts = []
    for m, first in ((n, 0), (HELD_OUT, 10**7)):                     # the held-out faces begin far behind
        labels, nuisance = draw_parameters(m, seed=1, first=first + m * which)
        labels[:, list(ATTRIBUTES).index(attribute)] = values.index(value)
        parts += [render(labels, nuisance, size or 32), labels, nuisance]
    return Domain(parts[0], *parts[3:])


def load_domains(cfg):
    """(A, B), of the same number of channels. Raises UserError if they cannot be translated."""
    require(cfg.data_a != cfg.data_b, f"--data_a and --data_b are both {cfg.data_a}: bring two")
    a, b = (load_domain(source, cfg.size, cfg.n_images, which)
            for which, source in enumerate([cfg.data_a, cfg.data_b]))
    C = max(a.learn.size(1), b.learn.size(1))
    for domain in (a, b):       # one in colour, and the gray one gets three channels
        domain.learn, domain.held_out = (x.expand(-1, C, -1, -1) for x in (domain.learn, domain.held_out))
    require(a.learn.shape[1:] == b.learn.shape[1:], f"--data_a={cfg.data_a} and --data_b={cfg.data_b} "
            "differ in size; set --size")
    return a, b


def truth(cfg, x, y, n: int | None = None):
    """The first n held-out faces of domain x as they would be in y, their labels (n, 6) and images, uint8
    (n, C, S, S); None and () for domains that differ otherwise."""
    if not (attribute := same_attribute(cfg, x, y)):
        return None, ()
    labels, column = x.labels[:n].clone(), list(ATTRIBUTES).index(attribute)
    labels[:, column] = y.labels[0, column]                     # all of y have the same
    return labels, render(labels, x.nuisance[:n], x.held_out.size(2))


def same_attribute(cfg, *domains) -> str:
    """The attribute in which two domains of faces differ; '' for others, of which nobody knows the truth."""
    (of_a, *_), (of_b, *_) = (source.split("=") for source in (cfg.data_a, cfg.data_b))
    return of_a if of_a == of_b and all(d.labels is not None for d in domains) else ""


# ---- translating, and the scores
@torch.no_grad()
def translate(G, images):
    """What G makes of images (n, C, S, S) in [-1, 1], on the CPU."""
    device = next((p.device for p in G.parameters()), "cpu")
    return torch.cat([G(part.to(device)).float().cpu() for part in images.split(128)])


def score(G_ab, G_ba, cfg, a, b, judge) -> dict:
    """{"a → b": {name: number}, "b → a": …} on held-out images. `judge`: reads faces, or None.

    right, kept, worst: in what share of the translations the judge reads the attribute as the target's, and
    the others as they were (the mean over these, and the least); PSNR in dB and SSIM from the true
    translation, which no real data has and the renderer knows; cycle, identity: what the two terms measure.
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
    """(A, B, judge): the domains with as many held-out images as are scored; the judge of faces,
    or None where there is nothing that it could read."""
    n = n_to_score(cfg, max(len(a.held_out), len(b.held_out)), "held-out images of each domain")
    judge = None
    if same_attribute(cfg, a, b):
        judge = judge_of_faces(replace(cfg, n_test=n), n)
    return a.first(n), b.first(n), judge


def copying(*given) -> dict:
    """The scores of handing back what was given, to compare with. Arguments: as of `score`."""
    rows = score(nn.Identity(), nn.Identity(), *given)
    return {f"{name}, copied": row for name, row in rows.items()}


def pictures(nets, x, direction: str, true=()):
    """Images x (n, C, S, S) in [-1, 1]; translated; translated back; the true translations, uint8, if any."""
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
            # batch: images of A and of B that have nothing to do with each other
            batches = []
            for images in (images_a, images_b):
                i = torch.randint(len(images), (cfg.batch_size,), generator=data_rng).to(device)
                batches.append(to_float(images[i]))
            a, b = batches

            discriminators.requires_grad_(False)    # the gradient passes through them
            with autocast(device, cfg.matmul):
                # ---- adversarial: translations pass for images of the other domain
                fake_b, same_b = G_ab(torch.cat([a, b])).chunk(2)   # two at once, which is faster: to G
                fake_a, same_a = G_ba(torch.cat([b, a])).chunk(2)   # every image is by itself
                g_loss = least_squares(D_b(fake_b), 1) + least_squares(D_a(fake_a), 1)
                # ---- cycle: there and back again
                cycle = distance(G_ba(fake_b), a) + distance(G_ab(fake_a), b)
                # ---- identity: what is from the domain that G translates to stays as it is
                identity = distance(same_b, b) + distance(same_a, a)
            # ---- G minimises the sum
            loss_g = g_loss + cfg.lambda_cycle * cycle + cfg.lambda_identity * identity
            run.check_finite(step, g_loss=loss_g.item())
            opt_g.zero_grad(set_to_none=True)
            loss_g.backward()
            opt_g.step()
            even_out(generators)
            discriminators.requires_grad_(True)

            # ---- D: real images are 1, translated ones 0, half of which are from the pool
            with autocast(device, cfg.matmul):
                seen_a, seen_b = (pool.exchange(fake.float(), data_rng)
                                  for pool, fake in ((pool_a, fake_a), (pool_b, fake_b)))
                d_loss = (least_squares(D_a(a), 1) + least_squares(D_a(seen_a), 0)
                          + least_squares(D_b(b), 1) + least_squares(D_b(seen_b), 0)) / 2
            run.check_finite(step, d_loss=d_loss.item())
            opt_d.zero_grad(set_to_none=True)
            d_loss.backward()
            opt_d.step()
            # log; now and then draw, save
            done = step + 1
            with run.untimed():
                if run.due(done, cfg.log_every):
                    values = g_loss, d_loss, cycle, identity
                    run.log(done, **{name: value.item() for name, value in zip(titles, values)})
                if run.due(done, cfg.sample_every):
                    picture = sheet(torch.cat([pictures(nets, *rows) for rows in fixed]), columns=n)
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
    """Translate --image, or n held-out ones, in --direction, to samples/ab.png or ba.png. In rows: what was
    given, its translation, this translated back, and the true translation of faces."""
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
    write_png(path, sheet(pictures(nets, to_float(x), cfg.direction, true), columns=len(x)))
    print(f"wrote {path}: what was given; translated; translated back" + "; the truth" * (len(true) > 0))


def evaluate(cfg: Config) -> dict:
    """Which term is needed for what? The same training without the cycle, without the identity term and with
    neither: the means of both directions, also in evaluate.json. These runs, and their samples, are kept in
    folders of their own in out_dir; what was interrupted goes on."""
    cfg, state = own_checkpoint(cfg, "cyclegan")
    check(cfg, state["shape"][1])
    a, b, judge = to_score(cfg, *load_domains(cfg))
    n_test = max(len(a.held_out), len(b.held_out))              # as many after fewer steps
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
    """Of rows {name: {column: number}} the mean of each column."""
    return {column: sum(row[column] for row in rows.values()) / len(rows)
            for column in next(iter(rows.values()))}


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__, out_of_memory="lower --batch_size, --ngf or --ndf")


if __name__ == "__main__":
    main()
