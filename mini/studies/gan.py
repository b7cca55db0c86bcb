"""Two studies of train_gan.py: has D lost, and are the images new (`evaluate`); and which trick
buys what:

    python -m mini.studies.gan                          each trick taken away, and all of them
    python -m mini.studies.gan --steps=600 --seeds=1    shorter, and one seed of three
"""
import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import torch

import train_gan
from mini.data.images.image_sets import load_images
from mini.utils.config import require
from mini.utils.image_metrics import variety
from mini.utils.images import noise, padded_size, sheet, to_float
from mini.utils.metrics import print_tables, table
from mini.utils.png import write_png
from mini.utils.run import write_json

# ---- has D lost?

def evaluate(nets, cfg) -> dict:
    """Tables, also in evaluate.json: how well D, and a fresh D, tell generated images from held-out
    ones, and whether the images vary as the data does. samples/nearest.png shows eight images, and
    below each the training image that is most like it."""
    nets = nets.cpu()
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    train_images = to_float(train_set.images)
    real = to_float(held_out.images[:1024])
    N = len(train_images)
    require(min(N, len(real)) >= 2,
            f"--data={cfg.data}: this compares real images with real ones, and needs 2 of them to "
            f"learn from and 2 held out; there are {N} and {len(real)}")
    z = noise(N + len(real), cfg.z_dim, cfg.seed + 3)
    generated = train_gan.generate(nets["ema"], z)
    require(generated.shape[1:] == real.shape[1:],
            f"--data={cfg.data}: the model draws images of another size")
    to_learn = generated[:N]
    new = generated[N:]                                 # as many as there are held-out images

    lost = train_gan.d_loss(torch.zeros(1), torch.zeros(1)).item()      # all answers are ½: 2 ln 2
    tables = {"ideal": {"accuracy": 0.5, "loss": lost}}
    tables["D_of_this_run"] = verdict(nets["D"], real, new, cfg)
    tables["the_same,_without_noise"] = verdict(nets["D"], real, new, cfg, noisy=False)

    # a fresh D sees more than G has been trained against; and a control: real against real images
    print("a fresh D is trained on 20,000 images of each kind", flush=True)
    fresh = fresh_discriminator(train_images, to_learn, cfg)
    tables["fresh_D"] = verdict(fresh, real, new, cfg)
    print("another one is trained to tell real images from real ones", flush=True)
    half = N // 2
    control = fresh_discriminator(train_images[:half], train_images[half:2 * half], cfg)
    middle = len(real) // 2
    tables["control:_real_against_real"] = verdict(control, real[:middle], real[middle:], cfg)

    varied, neighbours = variety(new, real, train_images)
    write_png(f"{cfg.out_dir}/samples/nearest.png", sheet(neighbours))
    print("samples/nearest.png: eight samples, and below each the training image most like it")
    return print_tables(cfg, **tables, **varied)


@torch.no_grad()
def verdict(D, real, fake, cfg, noisy: bool = True) -> dict:
    """The accuracy and the loss of D on real and generated images (n, C, size, size), each image by
    itself (BatchNorm uses its running averages), with noise and shift as in training or without."""
    rng = torch.Generator().manual_seed(cfg.seed + 3)
    was_training = D.training
    D.eval()
    logits = []
    for images in (real, fake):
        if noisy:
            images = train_gan.shift_and_add_noise(images, cfg, last_noise(cfg), rng)
        logits.append(torch.cat([D(part) for part in images.split(256)]))
    D.train(was_training)
    real_logits, fake_logits = logits
    right = torch.cat([real_logits > 0, fake_logits < 0])
    return {"accuracy": right.float().mean().item(),
            "loss": train_gan.d_loss(real_logits, fake_logits).item()}


def last_noise(cfg) -> float:
    """The noise on what D saw at the end of training."""
    return cfg.noise * train_gan.fall(cfg.steps, cfg) if cfg.noise_decay else cfg.noise


def fresh_discriminator(real, fake, cfg, n: int = 20_000):
    """A new D that has learnt to tell n real images from n generated ones, with noise and shift as
    in the run's training."""
    C, size = real.shape[1:3]
    torch.manual_seed(cfg.seed + 3)
    rng = torch.Generator().manual_seed(cfg.seed + 3)
    # spectral normalisation, always: with BatchNorm it would learn to tell batches, not images
    D = train_gan.Discriminator(replace(cfg, d_norm="spectral"), C, padded_size(size))
    optimizer = torch.optim.Adam(D.parameters(), cfg.d_lr, (cfg.beta1, cfg.beta2))
    for _ in range(max(1, n // cfg.batch_size)):
        logits = []
        for images in (real, fake):
            i = torch.randint(len(images), (cfg.batch_size,), generator=rng)
            seen = train_gan.shift_and_add_noise(images[i], cfg, last_noise(cfg), rng)
            logits.append(D(seen))
        loss = train_gan.d_loss(*logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return D


# ---- which trick buys what?

# what is changed: flags beside the defaults
BATCH_NORM = dict(d_norm="batch")
ADAM_OF_THE_PAPER = dict(beta1=0.5, beta2=0.999)
VARIANTS = {
    "as it comes": {},
    "BatchNorm in D": BATCH_NORM,
    "the paper's β of Adam": ADAM_OF_THE_PAPER,
    "both of these": {**BATCH_NORM, **ADAM_OF_THE_PAPER},
    "half the rate for D": dict(d_lr=train_gan.Config.d_lr / 2),
    "rates fall from the start": dict(constant=0.0),
    "without noise": dict(noise=0.0),
    "twice the noise": dict(noise=2 * train_gan.Config.noise),
    "noise that stays": dict(noise_decay=False),
    "no shift": dict(shift=False),
    "kernels left alone": dict(remove_checkerboard=False),
    "no average of G": dict(ema=0.0),
    "no attention": dict(attention=False),
    "z of 100 numbers": dict(z_dim=100),
    # the paper's settings, but for its sizes
    "all of it": {**BATCH_NORM, **ADAM_OF_THE_PAPER, "lr": 2e-4, "d_lr": 2e-4, "constant": 1.0,
                  "noise": 0.0, "shift": False, "remove_checkerboard": False, "ema": 0.0,
                  "attention": False, "z_dim": 100},
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=train_gan.Config.steps, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--out_dir", default="runs/gan_study", help="folder of the runs")
    args = parser.parse_args(argv)
    rows = {}
    default = []                                            # results of the default, by seed
    for name, flags in VARIANTS.items():
        results = []
        for seed in range(1, args.seeds + 1):
            folder = Path(args.out_dir, f"{name.replace(' ', '_')}_{seed}")
            results.append(result_of(folder, {**flags, "steps": args.steps, "seed": seed}))
        default = default or results
        rows[name] = row_of(results, default)
        print(table({name: rows[name]}, shares=["D right"]), flush=True)
    print()
    print(table(rows, shares=["D right"]))
    write_json(f"{args.out_dir}/study.json", rows)


def result_of(folder: Path, flags: dict) -> dict:
    """The result.json of the run with these flags; it is trained if it has not been yet."""
    if not (folder / "result.json").exists():
        train_gan.train(train_gan.Config(**flags, out_dir=str(folder)))
    return json.loads((folder / "result.json").read_text("utf-8"))


def row_of(results: list, default: list) -> dict:
    """Means over the seeds; and how much larger the distance is than the default's with the same
    seed: the mean of these differences, and its standard error."""
    differences = [a["frechet"] - b["frechet"] for a, b in zip(results, default)]
    row = {"Fréchet": mean(results, "frechet"),
           "more": statistics.mean(differences),
           "± error": 0.0,                                  # not known from one seed
           "diversity": mean(results, "diversity"),
           "D right": mean(results, "d_accuracy"),
           "seconds": mean(results, "seconds")}
    if len(differences) > 1:
        row["± error"] = statistics.stdev(differences) / math.sqrt(len(differences))
    return row


def mean(results: list, key: str) -> float:
    return statistics.mean(result[key] for result in results)


if __name__ == "__main__":
    main()
