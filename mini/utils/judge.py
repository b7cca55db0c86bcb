"""The judge of generated images: the classifier of mini/classifier.py, trained once for each data set."""
import hashlib
import os
from dataclasses import replace
from pathlib import Path

from mini import classifier
from mini.data.images.image_sets import load_images
from mini.utils import image_metrics


class Judge:
    """The classifier of a data set, trained when first asked for and kept under runs/, and real images beside
    which to put generated ones. `model` is None if the images have no labels: then nothing is scored."""
    def __init__(self, cfg, learn, held_out, steps: int = classifier.Config.steps, n: int = 2048):
        """cfg: of the run (data, size, n_images, device); its images; n: as many a distance compares."""
        self.learn, self.model, self.n = learn, None, min(n, len(learn.images), len(held_out.images))
        self.labels = held_out.labels[:self.n]
        if not learn.attributes or self.n < 2 or os.environ.get("RANK", "0") != "0":    # torchrun's others
            return
        self.name = "face features" if cfg.data == "faces" else f"features of a classifier of {cfg.data}"
        own = classifier.Config(data=cfg.data, size=cfg.size, n_images=cfg.n_images, steps=steps)
        content = hashlib.sha256(repr(own).encode() + Path(classifier.__file__).read_bytes())  # edited: trained anew
        for tensor in (learn.images, learn.labels):
            content.update(tensor.numpy())
        folder = Path(f"runs/judge-{Path(cfg.data).stem}-{content.hexdigest()[:8]}")
        own = replace(own, device=cfg.device, out_dir=str(folder), resume=(folder / "checkpoint.pt").exists())
        if not (folder / "result.json").exists():
            print(f"first the judge of the images is trained, once; it is kept in {folder}", flush=True)
            if "interrupted" in classifier.train(own, (learn, held_out)):
                raise KeyboardInterrupt
        self.model = classifier.load(own)[0]
        self.real = classifier.predict(self.model, held_out.images[:self.n])[1]

    def predict(self, images):
        """As mini/classifier.py's `predict`: (labels read (N, A), features (N, F)) of images (N, C, H, W)."""
        return classifier.predict(self.model, images)

    def accuracy(self, images, labels) -> dict:
        """{attribute: the share of images whose label is read right}; labels (N, A)."""
        return classifier.accuracy(self.model, images, labels)

    def frechet(self, images) -> float:
        """The Fréchet distance of n images, (n, C, H, W) uint8 or in [-1, 1], from n held-out ones."""
        return image_metrics.frechet_distance(classifier.predict(self.model, images[:self.n])[1], self.real)

    def scores(self, images, untrained, asked=None) -> dict:
        """The distance of generated images, of the untrained network's, and the floor: of training images.
        With `asked`, labels (n, A), also how often each attribute is read as asked for, and by guessing."""
        if not self.model:
            return {}
        scores = {"frechet": self.frechet(images), "frechet_floor": self.frechet(self.learn.images),
                  "frechet_untrained": self.frechet(untrained), "frechet_n": self.n, "features": self.name}
        if asked is not None:
            scores["accuracy"] = classifier.accuracy(self.model, images, asked)
            scores["most_frequent"] = classifier.most_frequent(self.learn, asked)
        return scores


def judge_of_faces(size: int, device: str):
    """The judge of all faces, whatever a run has learnt from."""
    own = classifier.Config(size=size, device=device)       # as of other runs on faces: trained once
    return Judge(own, *load_images(own.data, own.size, own.n_images))
