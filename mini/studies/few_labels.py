"""How few labelled images would do? Classifiers of few images, with generated ones or without.

    python -m mini.classifier evaluate          the classifier's own images
    python -m mini.cgan evaluate                and 4,000 images that the conditional GAN has drawn
"""
import contextlib
import io
import tempfile
from dataclasses import replace

import torch

from mini import classifier
from mini.utils.progress import Progress


def from_few(cfg, train_set, held_out, generated=None, few=(50, 100, 200), seeds: int = 3) -> dict:
    """{what it learnt from: mean accuracy over attributes and seeds} of classifiers trained on so
    few images of the ImageSet `train_set`, and, if the ImageSet `generated` is given, on those and
    all of `generated`."""
    few = [n for n in few if n <= len(train_set.images)] or [len(train_set.images)]
    progress = Progress("classifiers trained:", len(few) * seeds * (2 if generated else 1))
    table = {}
    for n in few:
        table[f"{n} real"] = mean_accuracy(cfg, train_set, held_out, n, None, seeds, progress)
        if generated:
            table[f"{n} real + generated"] = mean_accuracy(cfg, train_set, held_out, n, generated,
                                                           seeds, progress)
    return table


def mean_accuracy(cfg, train_set, held_out, n: int, generated, seeds: int, progress) -> float:
    """Held-out accuracy, the mean over attributes and seeds; each seed chooses n other images."""
    scores = []
    for seed in range(seeds):
        rng = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(train_set.images), generator=rng)[:n]
        part = train_set.subset(chosen)
        if generated:
            part = replace(part, images=torch.cat([part.images, generated.images]),
                           labels=torch.cat([part.labels, generated.labels]), nuisances=None)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            own = classifier.Config(steps=200, eval_every=0, seed=seed, device=cfg.device,
                                    out_dir=folder)
            result = classifier.train(own, (part, held_out))
        if "interrupted" in result:
            raise KeyboardInterrupt
        progress.add()
        scores += result["accuracy"].values()
    return sum(scores) / len(scores)
