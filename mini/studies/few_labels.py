"""How few labelled images would do? Classifiers trained on a few real images, with generated ones and without."""
import contextlib
import io
import itertools
import tempfile
from dataclasses import replace

import torch

from mini import classifier


def from_few(cfg, learn, held_out, more=None, few=(50, 100, 200), seeds: int = 3) -> dict:
    """{what it learnt from: mean accuracy over attributes and seeds} of classifiers trained on so few images
    of the ImageSet `learn`, and on those and `more`, an ImageSet of generated ones, if it is given."""
    table, few = {}, [n for n in few if n <= len(learn.images)] or [len(learn.images)]
    for n, extra in itertools.product(few, [[], [more]] if more else [[]]):
        scores = []
        for seed in range(seeds):
            i = torch.randperm(len(learn.images), generator=torch.Generator().manual_seed(seed))[:n]
            parts = [replace(learn, images=learn.images[i], labels=learn.labels[i]), *extra]
            images, labels = (torch.cat([getattr(p, name) for p in parts]) for name in ("images", "labels"))
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                own = classifier.Config(steps=200, eval_every=0, seed=seed, device=cfg.device, out_dir=folder)
                result = classifier.train(own, (replace(learn, images=images, labels=labels), held_out))
            if "interrupted" in result:
                raise KeyboardInterrupt
            scores += result["accuracy"].values()
        table[f"{n} real" + " + generated" * len(extra)] = sum(scores) / len(scores)
    return table
