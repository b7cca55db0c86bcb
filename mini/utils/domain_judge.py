"""Scores of translations between two domains of images, A and B, besides the terms of the loss."""
from dataclasses import replace
from pathlib import Path

import torch

from mini.data.images.domains import has_truth, truth
from mini.data.images.image_sets import ImageSet
from mini.utils.config import printable
from mini.utils.image_metrics import psnr, ssim
from mini.utils.images import to_float
from mini.utils.judge import Judge, judge_of_faces
from mini.utils.metrics import n_to_score

SHARES = ["right", "kept", "worst"]         # scores that are printed in per cent


class DomainJudge:
    """It says of translated images whether they look like the target domain.

    Drawn faces are read by the judge of faces, which knows all attributes, and are compared with
    the true translations, which the program that draws them knows. Of other images nobody knows the
    true translation. They are read by a small classifier that has learnt to tell the real images
    of A from those of B. The classifier is trained when it is first needed, and kept.

    domain_a, domain_b: the domains, with only the held-out images that are scored.
    """

    def __init__(self, cfg, domain_a, domain_b):
        most = max(len(domain_a.held_out), len(domain_b.held_out))
        n = n_to_score(cfg, most, "held-out images of each domain")
        self.domain_a = domain_a.first(n)
        self.domain_b = domain_b.first(n)
        self.knows_truth = has_truth(domain_a, domain_b)
        cfg = replace(cfg, n_test=n)
        if self.knows_truth:
            self.judge = judge_of_faces(cfg, n)
        else:
            self.judge = judge_of_a_against_b(cfg, self.domain_a, self.domain_b)

    def scores(self, translated, x, y) -> dict:
        """The scores of translations (M, C, S, S), in [-1, 1], of the held-out images of domain x
        to domain y. x and y: this judge's domain_a and domain_b, or the other way round.

        right: the share of them that the judge reads as the target domain. For drawn faces also
        kept, worst: the share in which it reads the other attributes as they were, as a mean over
        these attributes and for the worst of them; PSNR, in dB, and SSIM: how near they are to the
        true translations.
        """
        if not self.knows_truth:
            return {"right": self.share_read_as(translated, y)}

        labels, true = truth(x, y)
        true = to_float(true)
        read = self.judge.accuracy(translated, labels)
        right = read.pop(x.attribute)
        kept = list(read.values())                              # of the other attributes
        return {"right": right,
                "kept": sum(kept) / len(kept),
                "worst": min(kept),
                "PSNR": psnr(translated, true).mean().item(),
                "SSIM": ssim(translated, true).mean().item()}

    def share_read_as(self, images, domain) -> float:
        """The share of the images that the classifier of A against B reads as of this domain."""
        number = 0 if domain is self.domain_a else 1
        labels = torch.full((len(images), 1), number)
        return self.judge.accuracy(images, labels)["domain"]

    def own_accuracy(self) -> dict:
        """How often the classifier of A against B is right on real held-out images: {"A": share,
        "B": share}. A translation can hardly be expected to be read better."""
        return {"A": self.share_read_as(self.domain_a.held_out, self.domain_a),
                "B": self.share_read_as(self.domain_b.held_out, self.domain_b)}


def accuracy_report(accuracy: dict) -> str:
    """What own_accuracy returns, in words."""
    return ("right: read as the target domain by a classifier of A against B; of real held-out "
            f"images it reads {accuracy['A']:.1%} of those of A and {accuracy['B']:.1%} of those "
            "of B right")


def judge_of_a_against_b(cfg, a, b) -> Judge:
    """A judge that has learnt from the training images of A and of B which domain an image is
    from."""
    # The smaller domain is repeated, so that the judge has no reason to prefer the larger one.
    n = max(len(a.train_set), len(b.train_set))
    index_a = torch.arange(n) % len(a.train_set)
    index_b = torch.arange(n) % len(b.train_set)
    train_images = torch.cat([a.train_set[index_a], b.train_set[index_b]])
    train_labels = torch.arange(2).repeat_interleave(n)         # 0 … 0 1 … 1

    held_out_images = torch.cat([a.held_out, b.held_out])
    lengths = torch.tensor([len(a.held_out), len(b.held_out)])
    held_out_labels = torch.arange(2).repeat_interleave(lengths)

    attributes = {"domain": ["A", "B"]}
    names = [Path(source).stem[:40] for source in (cfg.data_a, cfg.data_b)]
    name = printable("-".join(names))                           # the judge's folder is named so
    train_set = ImageSet(train_images, train_labels[:, None], attributes, name)
    held_out = ImageSet(held_out_images, held_out_labels[:, None], attributes, name)
    return Judge(cfg, train_set, held_out, len(held_out_images))
