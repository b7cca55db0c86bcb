"""Which draws better without labels, a GAN, a VAE or diffusion? Each learns for about as long, and
all are scored by the same judge. And two ways to help diffusion:

Groups. Labels split the images into kinds, each of which is easier to draw than all together. Where
there are none, images can be sorted into groups of similar ones, and the number of its group is
what the network is told about an image (Bao et al. 2022, "Why Are Conditional Generative Models
Better Than Unconditional Ones?", https://arxiv.org/abs/2212.00362, who sort features that another
network has learnt; here it is 8 × 8 pixels). To draw, a group is chosen as often as it has images.

Autoguidance. A network that has learnt for a short time makes the errors of the one that has learnt
for longer, but larger ones. So away from its answer is towards a better one (Karras et al. 2024,
"Guiding a Diffusion Model with a Bad Version of Itself", https://arxiv.org/abs/2406.02507):

    x̂₀ = x̂₀_early + w (x̂₀_late − x̂₀_early)         w = 1: the late network alone

    python -m mini.studies.families                     three seeds of each
    python -m mini.studies.families --seeds 1 --share=0.1           a short trial
    python -m mini.studies.families --data=my_pictures              your own, also without labels
"""
import argparse
import copy
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

import train_diffusion
import train_gan
from mini import vae
from mini.data.images.image_sets import load_images, one_hot
from mini.utils.device import autocast, pick_device
from mini.utils.images import noise, sheet, to_float
from mini.utils.judge import Judge
from mini.utils.metrics import table
from mini.utils.png import write_png
from mini.utils.progress import Progress
from mini.utils.run import write_json

# Optimiser steps that take each model about 3 minutes, on the machine whose minutes stand in
# README.md.
STEPS = {"GAN": 2500, "VAE": 10000, "diffusion": 2300}
N = 2048                    # images of each model that are scored
K = 64                      # groups
EARLY = 0.27                # the early network has learnt for this share of the steps
W = 2.0                     # how far autoguidance goes

# ---- groups of similar images

def coarse(images, side: int = 8):
    """Images uint8 (N, C, S, S) as rows of numbers (N, C · side²): the colours of side × side
    squares."""
    return F.adaptive_avg_pool2d(to_float(images), side).flatten(1)


def k_means(x, n_groups: int, rounds: int = 30, seed: int = 0):
    """The group (N,) of each row of x (N, F), from 0 to n_groups − 1.

    In turn, each row joins the group whose centre is nearest, and each centre becomes the mean of
    its group (Lloyd 1982). The first centres are rows that are drawn one by one, each with a
    probability that grows as the square of the distance from the nearest one so far (Arthur &
    Vassilvitskii 2007, "k-means++").
    """
    rng = torch.Generator().manual_seed(seed)
    centres = x[torch.randint(len(x), (1,), generator=rng)]             # (1, F)
    for _ in range(n_groups - 1):
        distance = torch.cdist(x, centres).amin(dim=1)                  # (N,)
        chance = distance**2 + 1e-12                                    # not all 0
        chosen = torch.multinomial(chance, 1, generator=rng)
        centres = torch.cat([centres, x[chosen]])
    for _ in range(rounds):
        group = torch.cdist(x, centres).argmin(dim=1)                   # (N,)
        for k in range(n_groups):
            if (group == k).any():
                centres[k] = x[group == k].mean(dim=0)
    return torch.cdist(x, centres).argmin(dim=1)


# ---- diffusion, told the groups or nothing

def learn_diffusion(images, groups, n_groups: int, cfg):
    """(late, early): the averaged weights of the whole training, and those of its beginning. images
    uint8 (N, C, S, S); groups (N,), or None. The loop is that of train_diffusion.py."""
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
    model, ema = nets["net"], nets["ema"]
    optimizers = train_diffusion.make_optimizers(model, cfg)
    schedule = train_diffusion.make_schedule(cfg)
    rng = torch.Generator().manual_seed(cfg.seed)
    progress = Progress("diffusion: step", cfg.steps)
    for step in range(cfg.steps):
        factor = train_diffusion.lr_factor(step, cfg)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]
        batch = train_diffusion.get_batch(images, y, cfg.batch_size, cfg, rng)
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
    """Images (n, C, S, S) in [-1, 1], on the CPU, for labels y (n, V). w: of autoguidance."""
    schedule = train_diffusion.make_schedule(cfg)
    device = pick_device(cfg.device)
    C, S = shape
    x_T = noise(len(y), C * S * S, cfg.seed + 7).view(-1, C, S, S)      # not that of the batches
    rng = torch.Generator().manual_seed(cfg.seed + 8)
    images = []
    for x, labels in zip(x_T.split(128), y.split(128)):
        labels = labels.to(device)

        def guess(xt, t):
            x0 = train_diffusion.predict_with_guidance(late, schedule, xt, t, labels, 1.0)
            if w == 1:
                return x0
            x0_early = train_diffusion.predict_with_guidance(early, schedule, xt, t, labels, 1.0)
            return (x0_early + w * (x0 - x0_early)).clamp(-1, 1)

        with autocast(device, cfg.matmul):
            images.append(train_diffusion.denoise(guess, x.to(device), schedule, cfg, rng).cpu())
    return torch.cat(images)


# ---- the models: each returns {name of a row: N images}, from images without labels

# n_test=2 below: the scores that a run itself takes at its end are not needed here.

def from_gan(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_gan.Config(data=args.data, size=args.size, steps=steps_of("GAN", args.share),
                           seed=seed, out_dir=str(out_dir), n_test=2, sample_every=0)
    train_gan.train(cfg)
    nets, cfg = train_gan.load(train_gan.Config(out_dir=cfg.out_dir))
    return {"GAN": train_gan.generate(nets["ema"], noise(N, cfg.z_dim, seed + 1))}


def from_vae(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = vae.Config(data=args.data, size=args.size, steps=steps_of("VAE", args.share),
                     seed=seed, out_dir=str(out_dir), n_test=2, sample_every=0)
    vae.train(cfg)
    model, _ = vae.load(vae.Config(out_dir=cfg.out_dir))
    return {"VAE": vae.generate(model, vae.sample_z(model, N))}


def from_diffusion(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_diffusion.Config(size=args.size, steps=steps_of("diffusion", args.share),
                                 seed=seed, label_dropout=0.0)
    late, early = learn_diffusion(train_set.images, None, 0, cfg)
    shape = train_set.images.shape[1:3]
    nothing = torch.zeros(N, 0)
    return {"diffusion": draw_diffusion(late, early, nothing, shape, 1.0, cfg),
            "diffusion, autoguidance": draw_diffusion(late, early, nothing, shape, W, cfg)}


def from_groups(train_set, seed: int, out_dir: Path, args) -> dict:
    cfg = train_diffusion.Config(size=args.size, steps=steps_of("diffusion", args.share),
                                 seed=seed, label_dropout=0.0)
    n_groups = min(K, len(train_set.images))
    groups = k_means(coarse(train_set.images), n_groups, seed=seed)
    late, early = learn_diffusion(train_set.images, groups, n_groups, cfg)
    shape = train_set.images.shape[1:3]
    # a group is drawn as often as it has images
    rng = torch.Generator().manual_seed(seed + 9)
    drawn = groups[torch.randint(len(groups), (N,), generator=rng)]
    y = F.one_hot(drawn, n_groups).float()
    return {"diffusion, groups": draw_diffusion(late, early, y, shape, 1.0, cfg),
            "diffusion, groups, autoguidance": draw_diffusion(late, early, y, shape, W, cfg)}


def steps_of(model: str, share: float) -> int:
    """The steps of a model: a share of those above."""
    return max(4, round(share * STEPS[model]))


MODELS = {"gan": from_gan, "vae": from_vae, "diffusion": from_diffusion, "groups": from_groups}

# ---- the comparison

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="faces", help="as in train_diffusion.py; the models are "
                        "not told labels, but with labels there are scores")
    parser.add_argument("--size", type=int, default=32, help="of the images in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="such as 1 2 3")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual steps")
    parser.add_argument("--out_dir", default="runs/families", help="folder of the runs")
    args = parser.parse_args(argv)
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    train_set, held_out = load_images(args.data, args.size)
    cfg = train_diffusion.Config(data=args.data, size=args.size, n_test=N)
    judge = Judge(cfg, train_set, held_out, n=N)

    found = {}                                                  # {row: scores of each seed}
    for seed in args.seeds:
        pictures = {}
        for model in args.models:
            for name, images in images_of(model, train_set, seed, folder, args).items():
                pictures[name] = images[:8]
                scores = scores_of(images, judge)
                found.setdefault(name, []).append(scores)
                print(f"seed {seed}, {name}: {json.dumps(scores, ensure_ascii=False)}", flush=True)
        path = folder / f"seed_{seed}.png"
        write_png(path, sheet(torch.cat(list(pictures.values())), row_names=list(pictures)))
        print(f"wrote {path}: eight faces of each, not chosen", flush=True)

    if judge.n > 0:
        rows = {name: row_of(scores) for name, scores in found.items()}
        rows["training images"] = row_of([scores_of(train_set.images, judge)])
        print(table(rows))
        write_json(folder / "study.json", {"rows": rows, "seeds": found, "n": judge.n})


def images_of(model: str, train_set, seed: int, folder: Path, args) -> dict:
    """{name of a row: N images}, new ones, or those that are in the folder already (25 MB for a row
    at 32 × 32)."""
    path = folder / f"{model}_{seed}.pt"
    if not path.exists():
        began = time.perf_counter()
        images = MODELS[model](train_set, seed, folder / f"{model}_{seed}", args)
        print(f"{model}, seed {seed}: {time.perf_counter() - began:.0f} s with drawing", flush=True)
        torch.save(images, path)
    return torch.load(path, weights_only=True)


def scores_of(images, judge) -> dict:
    """What the judge says of images (N, C, S, S); nothing if it knows no labels to judge by."""
    if judge.n == 0:
        return {}
    reading = judge.read(images[:judge.n])
    scores = {"Fréchet distance": judge.frechet_of(reading)}
    diversity = judge.diversity_of(reading)
    if diversity is not None:                                   # known of faces alone
        scores["diversity"] = diversity
    return scores


def row_of(scores: list) -> dict:
    """The mean of the seeds' scores, each with its standard error (0 if there is one seed)."""
    row = {}
    for name in scores[0]:
        values = [of_seed[name] for of_seed in scores]
        row[name] = statistics.mean(values)
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        row[f"± {name.split()[-1]}"] = error
    return row


if __name__ == "__main__":
    main()
