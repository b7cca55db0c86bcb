"""The judge of generated images: what is in them, how far they are from real ones, how they vary.

It is the classifier of mini/classifier.py, trained on the images that the judged model has learnt
from. The distance is the Fréchet distance between its features of generated and of held-out images.
A judge of faces also estimates what varies besides the labels: where the face is, how it is tilted,
the colour of the eyes and so on. So its features see this variety, and diversity is measured, too.

A judge is trained when it is first needed, and kept under runs/, so that all runs on the same
images have the same judge.
"""
import hashlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mini import classifier
from mini.data.images.faces import draw_parameters, render
from mini.data.images.image_sets import load_images
from mini.utils.config import printable
from mini.utils.image_metrics import diversity, frechet_distance
from mini.utils.metrics import n_to_score

VERSION = 2                         # raise it when the training changes: then no old judge is used
STEPS = classifier.Config.steps     # of the judge's training
TRIAL_STEPS = 40                    # the same, for a run of a tenth of its usual steps or less
LEAST_R2 = 0.5                      # a nuisance of which estimates explain less is not looked at
SECONDS_PER_STEP = 0.04             # measured on one CPU core, with 32 × 32 pixels


@dataclass
class Reading:
    """What the judge sees in N images."""
    labels: torch.Tensor            # (N, A): for each attribute the number of its value
    features: torch.Tensor          # (N, F): for the Fréchet distance
    nuisances: torch.Tensor         # (N, K): what varies besides the labels, as far as the judge
                                    # can estimate it, each in [-1, 1]


class Judge:
    """A classifier of some images, and real images to compare generated ones with.

    `n` is the number of images that it compares. It is 0 if there can be no judge: because the
    images have no labels, or all the same (then there is nothing to tell apart, and the features
    would be those of an untrained network), because there are fewer than two, or because this
    process is not the first of several. `labels` are those of n held-out images. The classifier is
    trained when it is first needed.
    """

    def __init__(self, cfg, train_set, held_out, n: int = 2048):
        """cfg: that of the judged run; train_set and held_out: its ImageSets; n: how many images to
        compare, if --n_test is 0."""
        self.cfg = cfg
        self.train_set = train_set
        self.held_out = held_out
        self.model = None
        self.n = min(max(n, cfg.n_test), len(train_set.images), len(held_out.images))
        first_process = os.environ.get("RANK", "0") == "0"
        if not train_set.has_classes() or self.n < 2 or not first_process:
            self.n = 0
        if self.n > 0:
            self.n = n_to_score(cfg, self.n, "images")
        self.labels = held_out.labels[:self.n]

    def prepare(self):
        """Load the classifier from runs/, or train it if it is not there yet."""
        if self.model:
            return
        self.model = trained_classifier(self.cfg, self.train_set, self.held_out)
        self.is_estimated = []              # numbers of the nuisances that the judge knows well
        if self.train_set.nuisances is not None:
            r2 = classifier.explained(self.model, self.held_out)
            self.is_estimated = [k for k, value in enumerate(r2.values()) if value > LEAST_R2]
        self.real = self.read(self.held_out.images)

    def read(self, images):
        """What the judge sees in images (N, C, H, W), bytes or in [-1, 1]: a Reading."""
        self.prepare()
        labels, features = classifier.predict(self.model, images)
        nuisances = features[:, :0]                         # none
        if self.is_estimated:
            nuisances = classifier.estimate_nuisances(self.model, features)[:, self.is_estimated]
            # An estimate ends where the range of real images does: an image that is no face does
            # not count as varied because the estimates for it are wild.
            nuisances = nuisances.clamp(-1, 1)
        return Reading(labels, features, nuisances)

    def accuracy(self, images, labels) -> dict:
        """{attribute: share of images (N, C, H, W) in which its value in labels (N, A) is read}."""
        return self.accuracy_of(self.read(images), labels)

    def frechet(self, images) -> float:
        """The Fréchet distance of n images (n, C, H, W), bytes or in [-1, 1], from real ones."""
        return self.frechet_of(self.read(images[:self.n]))

    def diversity(self, images):
        """How much images (N, C, H, W) with the same labels vary: 1 if as much as real ones do, 0
        if not at all (see `diversity` in mini/utils/image_metrics.py). It is None if it cannot be
        said: if the judge knows nothing but labels, or if no two images have the same ones."""
        return self.diversity_of(self.read(images))

    # the same three of a Reading

    def accuracy_of(self, reading, labels) -> dict:
        return classifier.share_right(self.train_set.attributes, reading.labels, labels.cpu())

    def frechet_of(self, reading) -> float:
        return frechet_distance(reading.features, self.real.features[:self.n])

    def diversity_of(self, reading):
        if not self.is_estimated:
            return None
        return diversity(reading.nuisances, reading.labels, self.real.nuisances, self.real.labels)

    def scores(self, images, untrained, asked=None) -> dict:
        """The scores of n generated images: their distance from held-out images, and for comparison
        that of an untrained network's images, and that of other real images (the floor). And their
        diversity, beside that of other real images.

        asked: the labels (n, A) that the images should have, those of the held-out images. If
        given, the floor is that of other images with the very same labels: a model that is told the
        labels gets a smaller distance than images that differ in these, too. The scores then also
        say how often each attribute is read as asked for, and how often it would be if all images
        had its most frequent value.
        """
        if self.n == 0:
            return {}
        generated = self.read(images)
        scores = {
            "frechet": self.frechet_of(generated),
            "frechet_untrained": self.frechet(untrained),
            "frechet_n": self.n,
            "features": "face features",
        }
        if self.train_set.source != "faces":
            scores["features"] = f"features of a classifier of {self.train_set.source}"

        # other real images: with the same labels, if the model was told labels, else any
        same_labels = images_with_labels(self.train_set, self.labels if asked is None else asked)
        if asked is not None and same_labels is not None:
            scores["floor_images"] = "other images with the same labels"
            scores["frechet_floor"] = self.frechet(same_labels)
        else:
            scores["floor_images"] = "training images"
            scores["frechet_floor"] = self.frechet(self.train_set.images)

        if self.train_set.nuisances is not None:
            scores["diversity"] = self.diversity_of(generated)
            scores["diversity_data"] = self.diversity(same_labels)
        if asked is not None:
            scores["accuracy"] = self.accuracy_of(generated, asked)
            scores["most_frequent"] = classifier.most_frequent(self.train_set, asked)
        return scores


FIRST_OTHER_FACE = 3 * 10**7    # far above the numbers of faces that are learnt from or held out


def images_with_labels(train_set, labels):
    """Real images (n, C, H, W), none of them held out, with exactly these labels (n, A).

    Faces are drawn anew, all else about them is at random. Other images are chosen from the
    training set, at random, but always the same; one comes twice only if there are too few. None if
    there is no image with some of the labels.
    """
    if train_set.source == "faces":
        _, nuisances = draw_parameters(len(labels), seed=1, first=FIRST_OTHER_FACE)
        return render(labels, nuisances, train_set.images.size(2))

    rng = torch.Generator().manual_seed(0)
    index = torch.empty(len(labels), dtype=torch.int64)
    for row in labels.unique(dim=0):
        places = (labels == row).all(1).nonzero()[:, 0]
        candidates = (train_set.labels == row).all(1).nonzero()[:, 0]
        if len(candidates) == 0:
            return None
        candidates = candidates[torch.randperm(len(candidates), generator=rng)]
        index[places] = candidates[torch.arange(len(places)) % len(candidates)]
    return train_set.images[index]


def judge_of_faces(cfg, n: int, n_images: int = classifier.Config.n_images) -> Judge:
    """The judge of faces of cfg.size pixels, for a run that has learnt from other data; by default
    the same judge as in other runs on faces."""
    train_set, held_out = load_images("faces", cfg.size, n_images)
    return Judge(cfg, train_set, held_out, n)


# ---- its training

def trained_classifier(cfg, train_set, held_out):
    """The classifier of these images: the one that is kept under runs/, or a new one, which is then
    kept there. An interrupted training goes on."""
    is_trial = 0 < 10 * cfg.steps <= type(cfg).steps
    steps = TRIAL_STEPS if is_trial else STEPS
    size = train_set.images.size(2)
    own = classifier.Config(data=train_set.source, size=size, n_images=len(train_set.images),
                            nuisances=train_set.nuisances is not None, steps=steps)
    folder = Path(f"runs/judge-{Path(train_set.source).stem}-{fingerprint(own, train_set)}")
    own = replace(own, device=cfg.device, out_dir=str(folder))
    if not (folder / "result.json").exists():
        trial = f" and not {STEPS}, since this run is a trial" if is_trial else ""
        seconds = steps * SECONDS_PER_STEP * (size / 32)**2
        print(f"now the judge of the images is trained, once, for {steps} steps{trial}: about "
              f"{seconds:.0f} s on one quiet CPU core; it is kept in {printable(folder)}",
              flush=True)
        began = time.perf_counter()
        unfinished = (folder / "checkpoint.pt").exists()
        with torch.enable_grad():                       # also where images are drawn without
            result = classifier.train(replace(own, resume=unfinished), (train_set, held_out))
        if "interrupted" in result:
            print(f"the run in {cfg.out_dir} is trained, but not scored: go on with --resume "
                  f"--out_dir={cfg.out_dir}", flush=True)
            raise KeyboardInterrupt
        print(f"the judge took {time.perf_counter() - began:.0f} s", flush=True)
    # resume=True, since otherwise a note on a short training is printed
    model, _, _ = classifier.load(replace(own, resume=True))
    return model


def fingerprint(own, train_set) -> str:
    """Eight characters that change with VERSION, the classifier's settings, the names and sizes of
    its weights, the images and what is known of them. They do not change with its source, so that
    an edit of a comment does not train another judge."""
    images = train_set.images
    tensors = [images, train_set.labels]
    n_nuisances = 0
    if own.nuisances:
        tensors.append(train_set.nuisances)
        n_nuisances = train_set.nuisances.size(1)
    with torch.device("meta"):                      # sizes alone, without numbers
        model = classifier.Classifier(own, images.size(1), images.size(2), train_set.attributes,
                                      n_nuisances)
    sizes = {name: tuple(weights.shape) for name, weights in model.state_dict().items()}
    content = hashlib.sha256(f"{VERSION} {own} {sizes}".encode())
    for tensor in tensors:
        content.update(tensor.numpy())
    return content.hexdigest()[:8]
