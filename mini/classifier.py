"""A classifier: the discriminative model, what generative models are not; and the judge of what they make.

A discriminative model learns p(label | image): from 3,072 numbers to one of a few words. A generative model
learns p(image), the whole picture: harder, and harder to score. So this small convolutional network serves as
the judge. Trained on the real images, it says

  - which attributes it reads from a generated image: are they the ones that were asked for?
  - how far generated images are from real ones: the Fréchet distance between its features of both. That
    of Heusel et al. 2017, "GANs trained by a two time-scale update rule", §4, is called FID and uses the
    features of a large network; ours is not to be compared with it, nor across data sets.

The loss is the sum over attributes of the cross-entropy; for one image with the labels y₁ … y_A

    L = −Σₐ log softmax(headₐ(features(x)))[yₐ]

    python -m mini.classifier                           faces
    python -m mini.classifier --data=mnist              or any folder with a sub-folder for each class
    python -m mini.classifier sample --image=me.png     what does it see there?
    python -m mini.classifier evaluate                  what it mixes up

Measured times and scores: README.md. Read next: train_gan.py.
"""
import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini import common, metrics
from mini.data.image_sets import load_images
from mini.data.images import read_image, to_float, to_size
from mini.data.pretrained import own_checkpoint


@dataclass
class Config(common.RunConfig):
    # data
    data: str = "faces"         # faces, mnist, fashion-mnist, cifar10, a folder with sub-folders, IDX, .npz
    size: int = 32              # height and width of the images (0: as they are)
    n_images: int = 20000       # how many faces are drawn to learn from
    # model
    width: int = 16             # channels after the first convolution
    n_features: int = 64        # F, numbers that describe an image
    # optimisation
    steps: int = 400            # optimiser steps
    batch_size: int = 128       # images per step
    lr: float = 3e-3            # AdamW's peak learning rate
    warmup: int = 20            # steps until the rate is at its peak; then it falls in half a cosine
    weight_decay: float = 0.05  # of weights
    # run
    out_dir: str = "runs/classifier"    # folder of the run
    # sampling
    image: str = ""             # picture to read the attributes of


PRESETS = {"gpu": dict(width=64, batch_size=512, steps=3000)}


# ---- the network
class Classifier(nn.Module):
    """Convolutions that halve the image until it is 4 × 4, then F features, then one head per attribute."""

    def __init__(self, cfg, channels: int, size: int, attributes: dict):
        super().__init__()
        self.attributes = attributes
        C, layers = cfg.width, [nn.Conv2d(channels, cfg.width, 3, 1, 1), nn.BatchNorm2d(cfg.width), nn.ReLU()]
        while size > 4:
            wider = min(2 * C, 4 * cfg.width)
            layers += [nn.Conv2d(C, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.ReLU()]
            C, size = wider, (size + 1) // 2
        self.body = nn.Sequential(*layers)                      # (B, channels, H, W) -> (B, C, ≤ 4, ≤ 4)
        self.project = nn.Linear(C * size * size, cfg.n_features)
        self.heads = nn.ModuleList(nn.Linear(cfg.n_features, len(names)) for names in attributes.values())

    def features(self, x):
        """Features (B, F) of images (B, C, H, W) in [-1, 1]."""
        return self.project(self.body(x).flatten(1))

    def forward(self, x):
        """Logits, (B, number of values) for each attribute, of images (B, C, H, W) in [-1, 1]."""
        f = F.relu(self.features(x))
        return [head(f) for head in self.heads]


def loss_of(logits: list, labels):
    """The sum over attributes of the mean cross-entropy in nats; logits as from Classifier, labels (B, A)."""
    return sum(F.cross_entropy(of_one, y) for of_one, y in zip(logits, labels.T))


def lr_factor(step: int, cfg) -> float:
    """The learning rate at a step as a fraction of its peak."""
    if step < cfg.warmup:
        return (step + 1) / (cfg.warmup + 1)
    return (1 + math.cos(math.pi * (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))) / 2


@torch.no_grad()
def predict(model, images, at_once: int = 512):
    """(labels read (N, A), features (N, F)) of uint8 images (N, C, H, W), or of floats in [-1, 1]."""
    model.eval()
    device, labels, features = model.project.weight.device, [], []
    for x in images.split(at_once):
        f = model.features((to_float(x) if x.dtype == torch.uint8 else x).to(device))
        labels.append(torch.stack([head(F.relu(f)).argmax(1) for head in model.heads], dim=1).cpu())
        features.append(f.cpu())
    model.train()
    return torch.cat(labels), torch.cat(features)


def accuracy(model, images, labels) -> dict:
    """{attribute: the share of images whose label is read right}; labels (N, A)."""
    right = (predict(model, images)[0] == labels.cpu()).double().mean(0).tolist()
    return dict(zip(model.attributes, right))


# ---- the run
def train(cfg: Config, data=None) -> dict:
    """Train, and return what result.json holds; `data` is what load_images would return, if it is there
    already. Raises common.UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "classifier", cfg.resume)
    device = common.pick_device(cfg.device)
    learn, held_out = data or load_images(cfg.data, cfg.size, cfg.n_images)
    common.require(learn.attributes, f"--data={cfg.data} has no labels to learn; bring a folder with a "
                                     "sub-folder for each class")
    common.require(min(cfg.width, cfg.n_features, cfg.batch_size) > 0, "every size must be at least 1")
    images, labels = learn.images.to(device), learn.labels.to(device)
    N, C, H, W = images.shape
    torch.manual_seed(cfg.seed)
    model = Classifier(cfg, C, H, learn.attributes)
    if state:
        model.load_state_dict(state["model"])
    model = model.to(device, memory_format=torch.channels_last)     # the faster layout for convolutions
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        common.restore(state, [optimizer], data_rng)
    net, bf16 = torch.compile(model) if cfg.compile else model, device.type == "cuda"
    description = {"channels": C, "size": H, "attributes": learn.attributes}

    with common.Run(cfg, "classifier", model, ["loss", "lr", "accuracy"], state) as run:
        chance = sum(math.log(len(names)) for names in learn.attributes.values())
        run.say(f"{N:,} images to learn from, {len(held_out.images):,} held out\n"
                f"step 0: a model that knows nothing has loss Σ ln(number of values) = {chance:.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            factor = lr_factor(step, cfg)
            optimizer.param_groups[0]["lr"] = factor * cfg.lr
            # batch
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x, y = to_float(images[i]).contiguous(memory_format=torch.channels_last), labels[i]
            # loss and backward
            with torch.autocast("cuda" if bf16 else "cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(net(x), y)
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            # step
            optimizer.step()
            # log; now and then evaluate, save
            done, mean = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    scores = accuracy(model, held_out.images, held_out.labels)
                    mean = sum(scores.values()) / len(scores)
                if mean is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=factor * cfg.lr, accuracy=mean)
                stop = run.stopping(done)
                if mean is not None or stop:
                    run.save(done, model, [optimizer], data_rng, **description)
            if stop and done < cfg.steps:
                return run.leave(done)

        scores, guess = accuracy(model, held_out.images, held_out.labels), most_frequent(learn, held_out)
        run.say(f"held-out accuracy, n = {len(held_out.images):,} (always saying the most frequent value)\n"
                + "\n".join(f"{a:>12}  {scores[a]:.2%}  ({guess[a]:.2%})" for a in scores))
        return run.finish(accuracy=scores, most_frequent=guess)


def most_frequent(learn, held_out) -> dict:
    """{attribute: accuracy of always saying its most frequent value}, the baseline."""
    said = learn.labels.mode(dim=0).values
    return dict(zip(learn.attributes, (held_out.labels == said).double().mean(0).tolist()))


def load(cfg):
    """(model, config, checkpoint) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "classifier")
    model = Classifier(cfg, state["channels"], state["size"], state["attributes"])
    model.load_state_dict(state["model"])
    return model.to(common.pick_device(cfg.device), memory_format=torch.channels_last), cfg, state


def sample(cfg: Config) -> dict:
    """What the classifier sees in --image: {attribute: {value: probability}}, printed too."""
    common.require(cfg.image, "which picture? Name it by --image=me.png")
    model, cfg, state = load(cfg)
    print(common.older_run(cfg, state["step"]), end="")
    x = to_size(read_image(cfg.image), state["size"])[None]         # (1, 1 or 3, size, size)
    x = x.expand(-1, 3, -1, -1) if state["channels"] == 3 else x.float().mean(1, keepdim=True).round().byte()
    with torch.no_grad():
        logits = model.eval()(to_float(x).to(model.project.weight.device))
    seen = {}
    for (attribute, names), of_one in zip(model.attributes.items(), logits):
        p = F.softmax(of_one[0], dim=0).tolist()
        seen[attribute] = dict(sorted(zip(names, p), key=lambda pair: -pair[1])[:4])
        print(f"{attribute:>12}  " + "  ".join(f"{name} {q:.1%}" for name, q in seen[attribute].items()))
    return seen


def evaluate(cfg: Config) -> dict:
    """Which values are mixed up among the held-out images; also in evaluate.json."""
    model, cfg, _ = load(cfg)
    held_out = load_images(cfg.data, cfg.size, cfg.n_images)[1]
    read, mixed = predict(model, held_out.images)[0], {}
    for a, (attribute, names) in enumerate(model.attributes.items()):
        pairs = torch.stack([held_out.labels[:, a], read[:, a]], dim=1)
        for (true, said), count in zip(*(t.tolist() for t in torch.unique(pairs, dim=0, return_counts=True))):
            if true != said:
                mixed[f"{attribute}: {names[true]}, read as {names[said]}"] = count
    worst = dict(sorted(mixed.items(), key=lambda pair: -pair[1])[:10])
    return metrics.print_tables(cfg, accuracy=accuracy(model, held_out.images, held_out.labels),
                                **{f"mixed_up_most_often_in_{len(read)}": worst or {"nothing": 0}})


# ---- the judge of generated images
class Judge:
    """The classifier of a data set, trained when first asked for and kept under runs/, and its real images.

    `model` is None if the images have no labels: then nothing can be scored, and `report` says so.
    """

    def __init__(self, cfg, learn, held_out, steps: int = Config.steps):
        """cfg: of the run to be judged (data, size, n_images, device); learn, held_out: its images; steps: of
        the judge's training."""
        self.learn, self.held_out, self.model = learn, held_out, None
        self.n = min(2048, len(learn.images), len(held_out.images))     # images in a Fréchet distance
        if not learn.attributes or self.n < 2:
            return
        self.name = "face features" if cfg.data == "faces" else f"features of a classifier of {cfg.data}"
        own = Config(data=cfg.data, size=cfg.size, n_images=cfg.n_images, steps=steps)
        content = hashlib.sha256(repr(own).encode())
        for tensor in (learn.images, learn.labels):
            content.update(tensor.cpu().numpy())
        folder = Path(f"runs/judge-{Path(cfg.data).stem}-{content.hexdigest()[:8]}")
        own = replace(own, device=cfg.device, out_dir=str(folder), resume=(folder / "checkpoint.pt").exists())
        if not (folder / "result.json").exists():
            print(f"the judge of the images is trained first, once; it is kept in {folder}", flush=True)
            if "interrupted" in train(own, (learn, held_out)):
                raise KeyboardInterrupt
            print(flush=True)
        self.model = load(own)[0]
        self.real = predict(self.model, held_out.images[:self.n])[1]

    def frechet(self, images) -> float:
        """The Fréchet distance of n images, (n, C, H, W) uint8 or in [-1, 1], from n held-out ones."""
        return metrics.frechet_distance(predict(self.model, images[:self.n])[1], self.real)

    def scores(self, images, untrained) -> dict:
        """The distance of generated images, of the untrained model's, and the floor: of training images."""
        if not self.model:
            return {}
        return {"frechet": self.frechet(images), "frechet_floor": self.frechet(self.learn.images),
                "frechet_untrained": self.frechet(untrained), "frechet_n": self.n}

    def report(self, frechet=None, frechet_floor=None, frechet_untrained=None, frechet_n=0) -> str:
        """Those scores in words."""
        if frechet is None:
            return "no Fréchet distance: the images have no labels, so there is no judge"
        return (f"Fréchet distance ({self.name}) from {frechet_n:,} held-out images: {frechet:.1f}; floor "
                f"(as many training images) {frechet_floor:.1f}; untrained {frechet_untrained:.0f}")


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return common.main(Config, PRESETS, commands, argv, __doc__)


if __name__ == "__main__":
    main()
