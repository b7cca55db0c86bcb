"""Which draws better without labels, a GAN, a VAE or diffusion? Each learns for about as long.
Their images are scored as on the other pages: by the Fréchet distance from held-out images, and by
how much the images vary, as a classifier, the judge, sees them (mini/utils/judge.py). The judge has
learnt from labels; the models are told none. And three ways to help diffusion:

Latents. A VAE turns each image into 32 numbers, z. Its own new images are made of a z that is drawn
from N(0, I), or, as in mini/vae.py, from a mixture of normal distributions that is fitted to the z
of images. Both also draw z that no image has, and the decoder then mixes two faces: half of the
glasses round, half square. Here diffusion learns where the z of images lie (Wehenkel & Louppe 2021,
"Diffusion Priors in Variational Autoencoders", https://arxiv.org/abs/2106.15671). 32 numbers are
soon learnt, and a z that is like those of images is decoded to a face whose parts mostly belong
together. Here the VAE is trained first, and then left as it is. (Wehenkel & Louppe, in their code,
train both together, and so do Vahdat et al. 2021, "Score-based Generative Modeling in Latent
Space", https://arxiv.org/abs/2106.05931. The latents of mini/latent_diffusion.py are something
else: small images, which keep nearly everything.)

Groups. Labels split the images into kinds, each of which is easier to draw than all together. Where
there are none, images can be sorted into groups of similar ones, and the network is told the number
of an image's group (Bao et al. 2022, "Why Are Conditional Generative Models Better Than
Unconditional Ones?", https://arxiv.org/abs/2212.00362, who compare features that another network
has learnt; we compare images of 8 × 8 pixels). To draw, a group is chosen with a probability
proportional to its number of images.

Autoguidance. A network that has learnt for a short time should make the same errors as one that has
learnt for longer, only larger. Then the way from its answer to the other's leads further, to a
better one (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself",
https://arxiv.org/abs/2406.02507; their bad version is also a smaller network). Each step of drawing
calls both:

    x̂₀ = x̂₀_early + w (x̂₀_late − x̂₀_early)         w = 1: the late network alone

    python -m mini.studies.families                     three seeds of each
    python -m mini.studies.families --seeds 1 --share=0.1           a short trial
    python -m mini.studies.families --data=my_pictures              your own; scored if they have
                                                                    labels, drawn in any case
"""
import argparse
import copy
import hashlib
import json
import math
import statistics
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import train_diffusion
import train_gan
from mini import vae
from mini.data.images.image_sets import load_images, one_hot
from mini.utils.device import autocast, pick_device
from mini.utils.images import in_batches, noise, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.metrics import table
from mini.utils.png import write_png
from mini.utils.progress import Progress
from mini.utils.run import atomic_open, write_json

# Optimiser steps that take about 3 minutes, on the machine whose minutes stand in README.md; the
# VAE for latents and the diffusion of latents take them together.
STEPS = {"GAN": 2500, "VAE": 10000, "diffusion": 4600, "VAE for latents": 6000,
         "diffusion of latents": 1900}
N_DRAWN = 2048              # images of each model whose distance is measured
# Images whose diversity is measured, of the models that draw fast (diffusion of pixels does not).
# Diversity compares images with the same labels. Of 2,048 many have labels that no other has, and
# it then differs from one draw to the next by about 0.01.
N_VARIED = 8192
# The weight of the KL in the loss of the VAE for latents. z need not be like N(0, I) here, as it is
# not drawn from that: with a smaller weight it keeps more of the image.
BETA = 0.3
# BETA and the next three were chosen in trials with seed 1, as what else is special to latents was:
# the sizes, the optimiser, the batch and the steps.
K = 64                      # groups
EARLY = 0.27                # the early network has learnt for this share of the steps
GUIDANCE = 2.0              # w of autoguidance

# ---- groups of similar images

def coarse(images, side: int = 8):
    """Images uint8 (N, C, S, S), each as a row of numbers (N, C · side²): its mean colours in a
    grid of side × side squares."""
    return F.adaptive_avg_pool2d(to_float(images), side).flatten(1)


def k_means(x, n_groups: int, rounds: int = 30, seed: int = 0):
    """The group (N,) of each row of x (N, F), from 0 to n_groups − 1.

    In turn, each row joins the group whose centre is nearest, and each centre becomes the mean of
    its group (Lloyd 1982). The first centres are rows that are drawn one by one, each with a
    probability proportional to the square of its distance from the nearest one so far (Arthur &
    Vassilvitskii 2007, "k-means++").
    """
    rng = torch.Generator().manual_seed(seed)
    centres = x[torch.randint(len(x), (1,), generator=rng)]             # (1, F)
    for _ in range(n_groups - 1):
        distance = torch.cdist(x, centres).amin(dim=1)                  # (N,)
        weights = distance**2 + 1e-12               # multinomial refuses weights that are all 0
        chosen = torch.multinomial(weights, 1, generator=rng)
        centres = torch.cat([centres, x[chosen]])
    for _ in range(rounds):
        group = torch.cdist(x, centres).argmin(dim=1)                   # (N,)
        for k in range(n_groups):
            if (group == k).any():                  # else the group keeps its centre
                centres[k] = x[group == k].mean(dim=0)
    return torch.cdist(x, centres).argmin(dim=1)


# ---- diffusion, told the groups or nothing

def learn_diffusion(images, groups, n_groups: int, cfg):
    """(late, early): a U-Net with the moving average of its weights at the end of training, and
    with the average as it was after a share EARLY of the steps. images uint8 (N, C, S, S); groups
    (N,), or None."""
    device = pick_device(cfg.device)
    attributes = {}
    y = torch.zeros(len(images), 0)                                     # nothing is known
    if groups is not None:
        attributes = {"group": [str(k) for k in range(n_groups)]}
        y = one_hot(groups[:, None], attributes)                        # (N, n_groups)
    y = y.to(device)
    images = images.to(device)
    _, C, S, _ = images.shape
    nets = train_diffusion.make_nets(cfg, C, S, attributes)

    def get_batch(rng):
        return train_diffusion.get_batch(images, y, cfg.batch_size, cfg, rng)

    return learn(nets["net"], nets["ema"], get_batch, cfg)


def learn(model, ema, get_batch, cfg):
    """The loop of train_diffusion.py; returns (late, early), as above. ema: a copy of the model.
    get_batch(rng) gives x0, y, t and eps."""
    device = pick_device(cfg.device)
    optimizers = train_diffusion.make_optimizers(model, cfg)
    schedule = train_diffusion.make_schedule(cfg)
    rng = torch.Generator().manual_seed(cfg.seed)
    progress = Progress("diffusion: step", cfg.steps)
    for step in range(cfg.steps):
        factor = train_diffusion.lr_factor(step, cfg)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]
        batch = get_batch(rng)
        with autocast(device, cfg.matmul):
            loss = train_diffusion.diffusion_loss(model, schedule, *batch)
        model.zero_grad(set_to_none=True)
        loss.backward()
        with autocast(device, cfg.matmul):
            for optimizer in optimizers:
                optimizer.step()
        train_diffusion.update_ema(ema, model, step, cfg.ema)
        if step + 1 == max(1, int(EARLY * cfg.steps)):
            early = copy.deepcopy(ema)
        progress.add()
    return ema, early


@torch.no_grad()
def draw_diffusion(late, early, y, shape: tuple, w: float, cfg):
    """Images (n, C, S, S) in [-1, 1], on the CPU, for labels y (n, V). shape: (C, S). w says how
    far autoguidance goes."""
    schedule = train_diffusion.make_schedule(cfg)
    device = pick_device(cfg.device)
    C, S = shape
    x_T = noise(len(y), C * S * S, cfg.seed + 7).view(-1, C, S, S)      # a seed of its own
    rng = torch.Generator().manual_seed(cfg.seed + 8)   # for samplers that add noise on the way
    images = []
    for x, labels in zip(x_T.split(128), y.split(128)):
        labels = labels.to(device)

        def guess(xt, t):
            x0 = train_diffusion.predict_with_guidance(late, schedule, xt, t, labels, 1.0)
            if w == 1:
                return x0
            x0_early = train_diffusion.predict_with_guidance(early, schedule, xt, t, labels, 1.0)
            # both are within [-1, 1] already, as predict_with_guidance keeps them
            return (x0_early + w * (x0 - x0_early)).clamp(-1, 1)

        with autocast(device, cfg.matmul):
            images.append(train_diffusion.denoise(guess, x.to(device), schedule, cfg, rng).cpu())
    return torch.cat(images)


# ---- diffusion of a VAE's z, which has D numbers. The schedule, the loss and the samplers of
# train_diffusion.py want images (B, C, S, S), so here z is an "image" of one pixel with D colours:
# (B, D, 1, 1).

class MLPBlock(nn.Module):
    """x (B, width) -> x + f(x): (B, width). Before training, f is 0. A vector e (B, width), made
    from the time, scales and shifts the features after the norm, as in the ResBlock of
    train_diffusion.py."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.emb = nn.Linear(width, 2 * width)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = train_diffusion.zero_init(nn.Linear(2 * width, width))

    def forward(self, x, e):
        scale, shift = self.emb(e).chunk(2, dim=1)              # (B, width) each
        h = self.norm(x) * (1 + scale) + shift
        h = F.silu(self.linear1(h))                             # (B, 2 width)
        return x + self.linear2(h)


class MLP(nn.Module):
    """Noisy latents x_t (B, D, 1, 1), t (B,) -> the network's answer (B, D, 1, 1). y is not used:
    there are no labels. The optimiser is that of train_diffusion.py: Muon for all matrices, but for
    those of the layers called first and last."""

    def __init__(self, D: int, width: int = 256, n_blocks: int = 4):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(D, width)
        self.blocks = nn.ModuleList([MLPBlock(width) for _ in range(n_blocks)])
        self.norm = nn.LayerNorm(width)
        self.last = train_diffusion.zero_init(nn.Linear(width, D))

    def forward(self, x, t, y):
        e = self.time(train_diffusion.time_embedding(t, self.width))    # (B, width)
        e = F.silu(e)
        h = self.first(x.flatten(1))                            # (B, D, 1, 1) -> (B, width)
        for block in self.blocks:
            h = block(h, e)
        return self.last(self.norm(h))[:, :, None, None]        # -> (B, D, 1, 1)


class Latents:
    """What a VAE's encoder says of images uint8 (N, C, S, S): q(z|x) = N(μ, σ²) of each.

    get_batch and to_z go from z to what diffusion learns, and back: there each of the D numbers has
    mean 0 and variance 1 over all images, as the noise has.
    """

    @torch.no_grad()
    def __init__(self, model, images):
        self.mu, logvar = in_batches(model, model.encode, images)       # (N, D), on the CPU
        self.sigma = (logvar / 2).exp()                                 # (N, D)
        self.mean = self.mu.mean(dim=0)                                 # (D,)
        # the variance of z = μ + σ ε: that of the μ, and the mean of the σ²
        variance = self.mu.var(dim=0, correction=0) + (self.sigma**2).mean(dim=0)
        self.std = variance.sqrt()

    def get_batch(self, cfg, rng, device):
        """x0 (B, D, 1, 1), one z ~ q(z|x) for each of B images, scaled; y (B, 0), t (B,), eps."""
        B = cfg.batch_size
        i = torch.randint(len(self.mu), (B,), generator=rng)
        mu, sigma = self.mu[i], self.sigma[i]
        z = mu + sigma * torch.randn(mu.shape, generator=rng)
        x0 = ((z - self.mean) / self.std)[:, :, None, None].to(device)
        t = train_diffusion.draw_times(B, cfg, rng)
        eps = torch.randn(x0.shape, generator=rng).to(device)
        return x0, torch.zeros(B, 0, device=device), t, eps

    def to_z(self, x0):
        """z (n, D), on its own scale again, from what diffusion has drawn (n, D, 1, 1)."""
        return x0.flatten(1) * self.std + self.mean


def learn_latents(latents: Latents, cfg):
    """A network that removes noise from latents, with the average of its weights."""
    torch.manual_seed(cfg.seed)
    model = MLP(latents.mu.size(1)).to(pick_device(cfg.device))
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    device = model.last.weight.device

    def get_batch(rng):
        return latents.get_batch(cfg, rng, device)

    late, _ = learn(model, ema, get_batch, cfg)
    return late


@torch.no_grad()
def draw_latents(net, latents: Latents, n: int, cfg):
    """z (n, D) of n new images, on the CPU."""
    schedule = train_diffusion.make_schedule(cfg)
    device = net.last.weight.device
    x_T = noise(n, latents.mu.size(1), cfg.seed + 7)[:, :, None, None].to(device)
    y = torch.zeros(n, 0, device=device)

    def guess(xt, t):
        out = net(xt, torch.full((n,), t, device=device), y).float()
        return schedule.predict_x0(out, xt, t)          # no clamp: z has no fixed range

    rng = torch.Generator().manual_seed(cfg.seed + 8)
    with autocast(device, cfg.matmul):
        x0 = train_diffusion.denoise(guess, x_T, schedule, cfg, rng)
    return latents.to_z(x0.cpu())


# ---- the models: each returns {name of a row: images}, N_DRAWN or N_VARIED of them, from images
# without labels

# n_test=2 below: a run scores its images at its end, which is not needed here.

def from_gan(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_gan.Config(data=args.data, size=args.size, steps=steps_of("GAN", args.share),
                           seed=seed, out_dir=str(out_dir), n_test=2, sample_every=0)
    stop_if_interrupted(train_gan.train(cfg))
    nets, cfg = train_gan.load(train_gan.Config(out_dir=cfg.out_dir))
    return {"GAN": train_gan.generate(nets["ema"], noise(N_VARIED, cfg.z_dim, seed + 1))}


def from_vae(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = vae.Config(data=args.data, size=args.size, steps=steps_of("VAE", args.share),
                     seed=seed, out_dir=str(out_dir), n_test=2, sample_every=0)
    stop_if_interrupted(vae.train(cfg))
    model, _ = vae.load(vae.Config(out_dir=cfg.out_dir))
    # z is drawn from a mixture of normal distributions
    return {"VAE": vae.generate(model, vae.sample_z(model, N_VARIED))}


def from_latents(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = vae.Config(data=args.data, size=args.size, steps=steps_of("VAE for latents", args.share),
                     beta=BETA, seed=seed, out_dir=str(out_dir), n_test=2, sample_every=0)
    stop_if_interrupted(vae.train(cfg))
    model, _ = vae.load(vae.Config(out_dir=cfg.out_dir))
    latents = Latents(model, train_set.images)

    # x₀ and ε have variance 1, so v has variance 1 at each level of noise, and none needs a weight
    # of its own. A step with 512 latents takes about as long as one with 256: most of it is Muon's.
    cfg = train_diffusion.Config(steps=steps_of("diffusion of latents", args.share), seed=seed,
                                 predict="v", batch_size=512, ema=0.999)
    net = learn_latents(latents, cfg)
    z = draw_latents(net, latents, N_VARIED, cfg)
    return {"VAE for latents": vae.generate(model, vae.sample_z(model, N_VARIED)),
            "diffusion of latents": vae.generate(model, z)}


def from_diffusion(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_diffusion.Config(size=args.size, steps=steps_of("diffusion", args.share),
                                 seed=seed, label_dropout=0.0)
    late, early = learn_diffusion(train_set.images, None, 0, cfg)
    shape = train_set.images.shape[1:3]
    nothing = torch.zeros(N_DRAWN, 0)
    return {"diffusion": draw_diffusion(late, early, nothing, shape, 1.0, cfg),
            "diffusion, autoguidance": draw_diffusion(late, early, nothing, shape, GUIDANCE, cfg)}


def from_groups(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_diffusion.Config(size=args.size, steps=steps_of("diffusion", args.share),
                                 seed=seed, label_dropout=0.0)
    n_groups = min(K, len(train_set.images))
    groups = k_means(coarse(train_set.images), n_groups, seed=seed)
    late, early = learn_diffusion(train_set.images, groups, n_groups, cfg)
    shape = train_set.images.shape[1:3]
    # the group of an image that is drawn at random
    rng = torch.Generator().manual_seed(seed + 9)
    drawn = groups[torch.randint(len(groups), (N_DRAWN,), generator=rng)]
    y = F.one_hot(drawn, n_groups).float()
    return {"diffusion, groups": draw_diffusion(late, early, y, shape, 1.0, cfg),
            "diffusion, groups, autoguidance": draw_diffusion(late, early, y, shape, GUIDANCE, cfg)}


def stop_if_interrupted(result: dict):
    """After Ctrl-C in a run, which saves and returns, the study ends, too: what has not been
    trained to the end is neither scored nor kept."""
    if "interrupted" in result:
        raise SystemExit("interrupted; the same command begins with this model again")


def steps_of(model: str, share: float) -> int:
    """The given share of the STEPS of a model; at least four, a few for each part of a run."""
    return max(4, round(share * STEPS[model]))


MODELS = {"gan": from_gan, "vae": from_vae, "diffusion": from_diffusion, "groups": from_groups,
          "latents": from_latents}

# ---- the comparison

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="faces", help="images, as in train_diffusion.py; if "
                        "they have labels, which no model is told, there are scores")
    parser.add_argument("--size", type=int, default=32, help="of the images in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="such as 1 2 3")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--share", type=float, default=1.0,
                        help="the share of the usual steps that each model takes")
    parser.add_argument("--out_dir", default="runs/families",
                        help="where runs, images and scores go")
    args = parser.parse_args(argv)
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    train_set, held_out = load_images(args.data, args.size)
    cfg = train_diffusion.Config(data=args.data, size=args.size, n_test=N_DRAWN)
    judge = Judge(cfg, train_set, held_out, n=N_DRAWN)

    found = {}                                                  # {row: scores of each seed}
    for seed in args.seeds:
        pictures = {}
        for model in args.models:
            for name, images in images_of(model, train_set, seed, folder, args).items():
                pictures[name] = images[:8]
                scores = scores_of(images, judge)
                found.setdefault(name, []).append(scores)
                said = json.dumps(scores, ensure_ascii=False) if scores else "no labels, no scores"
                print(f"seed {seed}, {name}: {said}", flush=True)
        path = folder / f"seed_{seed}.png"
        write_png(path, sheet(torch.cat(list(pictures.values())), row_names=list(pictures)))
        print(f"wrote {path}: eight images of each, not chosen", flush=True)

    if judge.n > 0:
        rows = {name: row_of(scores) for name, scores in found.items()}
        of_training_images = scores_of(train_set.images, judge)
        rows["training images"] = row_of([of_training_images] * len(args.seeds))
        print(table(rows))
        write_json(folder / "study.json", {"rows": rows, "seeds": found, "n": judge.n})


def images_of(model: str, train_set, seed: int, folder: Path, args) -> dict:
    """{name of a row: N_DRAWN images, or N_VARIED}. They are kept in the folder (25 or 100 MB for a
    row at 32 × 32), and taken from there if they were made from the same images, with the same
    settings of this file; remove them after a change in the models' own."""
    path = folder / f"{model}_{seed}.pt"
    settings = {"data": args.data, "size": args.size, "share": args.share, "steps": STEPS,
                "groups": K, "early": EARLY, "guidance": GUIDANCE, "beta": BETA,
                "n": [N_DRAWN, N_VARIED],
                "images": hashlib.sha256(train_set.images.numpy().tobytes()).hexdigest()}
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept.get("settings") == settings:
            return kept["images"]
    began = time.perf_counter()
    images = MODELS[model](train_set, seed, folder / f"{model}_{seed}", args)
    seconds = time.perf_counter() - began
    print(f"{model}, seed {seed}: {seconds:.0f} s to learn and to draw", flush=True)
    with atomic_open(path) as file:
        torch.save({"settings": settings, "images": images}, file)
    return images


def scores_of(images, judge) -> dict:
    """What the judge says of images (N, C, S, S): the distance of the first judge.n, since it
    depends on how many they are, and the diversity of all. Nothing if it knows no labels to judge
    by."""
    if judge.n == 0:
        return {}
    scores = {"Fréchet distance": judge.frechet(images)}
    diversity = judge.diversity(images)
    if diversity is not None:                                   # known of faces alone
        scores["diversity"] = diversity
    return scores


def row_of(scores: list) -> dict:
    """The mean of the seeds' scores; and, if there are two or more, its standard error."""
    row = {}
    for name in scores[0]:
        values = [of_seed[name] for of_seed in scores]
        row[name] = statistics.mean(values)
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
            row[f"± {name.split()[-1]}"] = error            # such as "± distance"
    return row


if __name__ == "__main__":
    main()
