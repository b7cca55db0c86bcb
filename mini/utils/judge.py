"""The judge of generated images: it says what is in them, and how far they are from real ones.

It is the classifier of mini/classifier.py, trained on the images that the judged model has learnt
from. The distance is the Fréchet distance between its features of generated and of held-out images.
A judge is trained when it is first needed, and kept under runs/, so that all runs on the same
images have the same judge.
"""
import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

from mini import classifier
from mini.data.images.image_sets import load_images
from mini.utils.config import printable
from mini.utils.image_metrics import frechet_distance
from mini.utils.metrics import n_to_score

VERSION = 1                         # raise it when the training changes: then no old judge is used
STEPS = classifier.Config.steps     # of the judge's training
TRIAL_STEPS = 40                    # the same, for a run of a tenth of its usual steps or less
SECONDS_PER_STEP = 0.018            # measured on two CPU cores, with 32 × 32 pixels


class Judge:
    """A classifier of some images, and real images to compare generated ones with.

    `n` is the number of images that it compares. It is 0 if there can be no judge: because the
    images have no labels, because there are fewer than two, or because this process is not the
    first of several. `labels` are those of n held-out images. The classifier is trained when it is
    first needed.
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
        if not train_set.attributes or self.n < 2 or not first_process:
            self.n = 0
        if self.n > 0:
            self.n = n_to_score(cfg, self.n, "images")
        self.labels = held_out.labels[:self.n]

    def prepare(self):
        """Load the classifier from runs/, or train it if it is not there yet."""
        if self.model:
            return
        self.model = trained_classifier(self.cfg, self.train_set, self.held_out)
        _, self.real_features = classifier.predict(self.model, self.held_out.images[:self.n])

    def accuracy(self, images, labels) -> dict:
        """{attribute: share of images (N, C, H, W) in which its value in labels (N, A) is read}."""
        self.prepare()
        return classifier.accuracy(self.model, images, labels)

    def frechet(self, images) -> float:
        """The Fréchet distance of n images (n, C, H, W), bytes or in [-1, 1], from real ones."""
        self.prepare()
        _, features = classifier.predict(self.model, images[:self.n])
        return frechet_distance(features, self.real_features)

    def scores(self, images, untrained, asked=None) -> dict:
        """The scores of generated images: their distance, and for comparison that of an untrained
        network's images, and that of training images (the floor).

        asked: the labels (n, A) that the images should have. If given, the scores also say how
        often each attribute is read as asked for, and how often it would be if all images had its
        most frequent value.
        """
        if self.n == 0:
            return {}
        self.prepare()
        read, features = classifier.predict(self.model, images)
        _, training_features = classifier.predict(self.model, self.train_set.images[:self.n])
        _, untrained_features = classifier.predict(self.model, untrained)
        scores = {
            "frechet": frechet_distance(features, self.real_features),
            "frechet_floor": frechet_distance(training_features, self.real_features),
            "frechet_untrained": frechet_distance(untrained_features, self.real_features),
            "frechet_n": self.n,
            "features": "face features",
        }
        if self.train_set.source != "faces":
            scores["features"] = f"features of a classifier of {self.train_set.source}"
        if asked is not None:
            scores["accuracy"] = classifier.share_right(self.train_set.attributes, read, asked)
            scores["most_frequent"] = classifier.most_frequent(self.train_set, asked)
        return scores


def judge_of_faces(cfg, n: int, n_images: int = classifier.Config.n_images) -> Judge:
    """The judge of faces of cfg.size pixels, for a run that has learnt from other data; by default
    the same judge as in other runs on faces."""
    train_set, held_out = load_images("faces", cfg.size, n_images)
    return Judge(cfg, train_set, held_out, n)


def trained_classifier(cfg, train_set, held_out):
    """The classifier of these images: the one that is kept under runs/, or a new one, which is then
    kept there. An interrupted training goes on."""
    is_trial = 0 < 10 * cfg.steps <= type(cfg).steps
    steps = TRIAL_STEPS if is_trial else STEPS
    size = train_set.images.size(2)
    own = classifier.Config(data=train_set.source, size=size, n_images=len(train_set.images),
                            steps=steps)
    folder = Path(f"runs/judge-{Path(train_set.source).stem}-{fingerprint(own, train_set)}")
    own = replace(own, device=cfg.device, out_dir=str(folder))
    if not (folder / "result.json").exists():
        trial = f" and not {STEPS}, since this run is a trial" if is_trial else ""
        seconds = steps * SECONDS_PER_STEP * (size / 32)**2
        print(f"now the judge of the images is trained, once, for {steps} steps{trial}: about "
              f"{seconds:.0f} s on two CPU cores; it is kept in {printable(folder)}", flush=True)
        began = time.perf_counter()
        unfinished = (folder / "checkpoint.pt").exists()
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
    """Eight characters that change with VERSION, the classifier's settings, images or labels."""
    content = hashlib.sha256(f"{VERSION} {own}".encode())
    for tensor in (train_set.images, train_set.labels):
        content.update(tensor.numpy())
    return content.hexdigest()[:8]
