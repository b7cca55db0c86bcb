"""Do the two halves of a face agree? A study of train_gan.py on faces.

Real faces are symmetric but for a few things. So each image is cut in the middle, each half is put
beside its own mirror image, and the judge reads both of these faces: in a real face they have the
same hair, the same glasses, the same eyes. And if each half varies as much as in real faces, but
the whole face does not, then what looks like too little variety is that the halves do not agree.

    python -m mini.studies.halves                       after python train_gan.py
    python -m mini.studies.halves --out_dir=runs/other

A mirrored face is not quite what the judge has learnt from, so real faces stand beside.
"""
import argparse

import torch

import train_gan
from mini.data.images.image_sets import load_images
from mini.utils.config import require
from mini.utils.image_metrics import variance_within_labels
from mini.utils.images import noise, to_float
from mini.utils.judge import Judge
from mini.utils.metrics import table
from mini.utils.run import write_json

N = 2048                    # images of each kind


def mirrored_halves(images):
    """Two sets of images (N, C, S, S): the left half beside its mirror image, and the right."""
    middle = images.shape[3] // 2
    left = images[..., :middle]
    right = images[..., -middle:]
    return torch.cat([left, left.flip(3)], dim=3), torch.cat([right.flip(3), right], dim=3)


def correlation(a, b):
    """That of each column of a and b (N, K): (K,)."""
    a = a - a.mean(dim=0)
    b = b - b.mean(dim=0)
    return (a * b).mean(dim=0) / (a.square().mean(dim=0) * b.square().mean(dim=0)).sqrt()


def agreement(images, judge, attributes: dict) -> dict:
    """{attribute: the share of images in whose two halves the judge reads the same value}."""
    left, right = [judge.read(half) for half in mirrored_halves(images)]
    shares = (left.labels == right.labels).float().mean(dim=0)
    return dict(zip(attributes, shares.tolist()))


def variety(images, real, judge, names: list) -> dict:
    """{nuisance: {…}}: its variance within labels in whole images and in their halves, beside real
    ones, and how far both halves go together (correlation)."""
    def variances(reading):
        return variance_within_labels(reading.nuisances, reading.labels)

    mine = [judge.read(part) for part in (images, *mirrored_halves(images))]    # whole, left, right
    others = [judge.read(part) for part in (real, *mirrored_halves(real))]
    whole, left, right = [variances(a) / variances(b) for a, b in zip(mine, others)]
    half = (left + right) / 2
    together = [correlation(left.nuisances, right.nuisances) for _, left, right in (mine, others)]
    rows = {}
    for k, name in enumerate(names):
        rows[name] = {"whole": whole[k].item(), "half": half[k].item(),
                      "correlation": together[0][k].item(), "of real": together[1][k].item()}
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/gan", help="folder of a run of train_gan.py")
    args = parser.parse_args(argv)
    nets, cfg = train_gan.load(train_gan.Config(out_dir=args.out_dir))
    require(cfg.data == "faces", f"{args.out_dir}: this study is of faces, and that run's --data "
            f"is {cfg.data}")
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    judge = Judge(cfg, train_set, held_out, n=N)
    real = to_float(held_out.images[:N])
    generated = train_gan.generate(nets["ema"], noise(N, cfg.z_dim, cfg.seed + 1))

    shares = {"generated": agreement(generated, judge, train_set.attributes),
              "real": agreement(real, judge, train_set.attributes)}
    names = [train_set.nuisance_names[k] for k in judge.is_estimated]
    rows = variety(generated, real, judge, names)
    print("the same is read in both halves:")
    print(table(shares, shares=list(train_set.attributes)))
    if rows:
        print("\nvariance within labels, real ones 1: of whole faces, of halves; and how far the "
              "two halves go together:")
        print(table(rows))
    write_json(f"{args.out_dir}/halves.json", {"the same in both halves": shares, "varies": rows})


if __name__ == "__main__":
    main()
