"""A classifier: a discriminative model, unlike the generative ones; and the judge of what these draw.

A discriminative model learns p(label | image): it turns 3,072 numbers into one of a few words. A generative
model learns p(image), the whole picture, which is harder, and harder to score. So this small convolutional
network is the judge of generated images (mini/utils/judge.py): it says which attributes an image has. It also
says how far generated images are from real ones, by the Fréchet distance between its features of both. (FID is
that distance with the features of a large network, Heusel et al. 2017, "GANs trained by a two time-scale
update rule"; ours cannot be compared with it.)

The loss is the sum over attributes of the cross-entropy; for one image with the labels y₁ … y_A it is

    L = −Σₐ log softmax(headₐ(features(x)))[yₐ]

    python -m mini.classifier                           faces
    python -m mini.classifier sample --image=me.png     which attributes does it see?
    python -m mini.classifier evaluate                  how many images does it need?

Measured times and scores: README.md. Read next: train_gan.py.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from mini.data.images.image_sets import load_images
from mini.utils import metrics
from mini.utils.config import RunConfig, command_line, require, require_positive
from mini.utils.device import autocast, pick_device
from mini.utils.images import to_float, to_size
from mini.utils.png import read_image
from mini.utils.run import Run, check_shape, own_checkpoint, restore


@dataclass
class Config(RunConfig):
    # data
    # faces, mnist, fashion-mnist, cifar10, or your own: a folder with a sub-folder for each class, IDX or .npz
    data: str = "faces"
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training
    # model
    width: int = 16             # channels after the first convolution
    n_features: int = 64        # F, the number of features of an image
    # optimisation
    steps: int = 400            # optimiser steps
    batch_size: int = 128       # images in a step
    lr: float = 3e-3            # AdamW's learning rate at the start; it falls to 0 along half a cosine
    weight_decay: float = 0.05  # of all parameters
    # run
    out_dir: str = "runs/classifier"    # folder of the run
    # sampling
    image: str = ""             # a picture, whose attributes `sample` prints

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "width", "n_features")


PRESETS = {"gpu": dict(width=64, batch_size=512, steps=3000)}


# ---- the network
class Classifier(nn.Module):
    """Convolutions that halve the image until it is 4 × 4, then F features, then one head per attribute."""

    def __init__(self, cfg, channels: int, size: int, attributes: dict):
        super().__init__()
        self.attributes = attributes
        C = cfg.width
        layers = [nn.Conv2d(channels, C, 3, 1, 1, bias=False), nn.BatchNorm2d(C), nn.ReLU()]
        while size > 4:
            wider = min(2 * C, 4 * cfg.width)
            layers += [nn.Conv2d(C, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
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
    """The sum over attributes of the mean cross-entropy in nats. logits: from Classifier; labels (B, A)."""
    return sum(F.cross_entropy(of_one, y) for of_one, y in zip(logits, labels.T))


@torch.no_grad()
def predict(model, images, at_once: int = 512):
    """(predicted labels (N, A), features (N, F)) of images (N, C, H, W), uint8 or floats in [-1, 1]."""
    model.eval()
    device, labels, features = model.project.weight.device, [], []
    for x in images.split(at_once):
        f = model.features((to_float(x) if x.dtype == torch.uint8 else x).to(device))
        labels.append(torch.stack([head(F.relu(f)).argmax(1) for head in model.heads], dim=1).cpu())
        features.append(f.cpu())
    model.train()
    return torch.cat(labels), torch.cat(features)


def accuracy(model, images, labels) -> dict:
    """{attribute: share of images whose label is predicted right}; labels (N, A)."""
    read, _ = predict(model, images)
    return share_right(model.attributes, read, labels.cpu())


def share_right(attributes: dict, read, labels) -> dict:
    """{attribute: share of rows in which two tensors of labels (N, A) agree}."""
    return dict(zip(attributes, (read == labels).double().mean(0).tolist()))


# ---- the run
def check(cfg):
    """Raise UserError for flags that cannot be used."""
    require_positive(cfg, "width", "n_features", "batch_size")


def train(cfg: Config, data=None) -> dict:
    """Train, and return what result.json holds. data: what load_images returns, if it is loaded already. Raises
    UserError for input that cannot be used."""
    cfg, state = own_checkpoint(cfg, "classifier", cfg.resume)
    check(cfg)
    device = pick_device(cfg.device)
    learn, held_out = data or load_images(cfg.data, cfg.size, cfg.n_images)
    require(learn.attributes, f"--data={cfg.data} has no labels to learn; bring a folder with a "
                              "sub-folder for each class")
    images, labels = learn.images.to(device), learn.labels.to(device)
    N, C, H, W = images.shape
    check_shape(state, C, H, learn.attributes)
    torch.manual_seed(cfg.seed)
    model = Classifier(cfg, C, H, learn.attributes)
    if state:
        model.load_state_dict(state["model"])
    model = model.to(device, memory_format=torch.channels_last)     # the faster layout for convolutions
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    data_rng = torch.Generator().manual_seed(cfg.seed)
    if state:
        restore(state, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model
    bf16 = autocast(device, "highest")      # on CUDA; on a CPU everything is in float32

    with Run(cfg, "classifier", model, ["loss", "lr", "accuracy"], state) as run:
        chance = sum(math.log(len(names)) for names in learn.attributes.values())
        run.say(f"{N:,} images to learn from, {len(held_out.images):,} held out\n"
                f"a model that knows nothing has loss Σ ln(number of values) = {chance:.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = optimizer.param_groups[0]["lr"] = cfg.lr * (1 + math.cos(math.pi * step / cfg.steps)) / 2
            # batch
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x, y = to_float(images[i]).contiguous(memory_format=torch.channels_last), labels[i]
            # loss and backward
            with bf16:
                loss = loss_of(net(x), y)
            run.check_finite(step, loss=loss.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            # step
            optimizer.step()
            # evaluate, log and save, each when it is due
            done, mean = step + 1, None
            with run.untimed():
                if run.due(done, cfg.eval_every):
                    scores = accuracy(model, held_out.images, held_out.labels)
                    mean = sum(scores.values()) / len(scores)
                if mean is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, accuracy=mean)
                stop = run.stopping(done)
                if mean is not None or stop:
                    run.save(done, model, [optimizer], data_rng, shape=(C, H, learn.attributes))
            if stop and done < cfg.steps:
                return run.leave(done)

        scores = accuracy(model, held_out.images, held_out.labels)
        guess = most_frequent(learn, held_out.labels)
        run.say("held-out accuracy (in brackets: always saying the most frequent value)\n"
                + metrics.shares(scores, guess))
        return run.finish(accuracy=scores, most_frequent=guess, n_held_out=len(held_out.images))


def most_frequent(learn, labels) -> dict:
    """The baseline: {attribute: accuracy of always predicting its most frequent value}; labels (N, A): true."""
    said = learn.labels.mode(dim=0).values
    return share_right(learn.attributes, said, labels)


def load(cfg):
    """(model, config, shape) as trained in out_dir."""
    cfg, state = own_checkpoint(cfg, "classifier")
    model = Classifier(cfg, *state["shape"])
    model.load_state_dict(state["model"])
    return model.to(pick_device(cfg.device), memory_format=torch.channels_last), cfg, state["shape"]


def sample(cfg: Config) -> dict:
    """What the classifier sees in --image: {attribute: {value: probability}}, which is also printed."""
    require(cfg.image, "which picture? Name it by --image=me.png")
    model, cfg, (C, size, _) = load(cfg)
    x = to_size(read_image(cfg.image), size)[None]                  # (1, 1 or 3, size, size)
    x = x.expand(-1, 3, -1, -1) if C == 3 else x.float().mean(1, keepdim=True).round().byte()
    with torch.no_grad():
        logits = model.eval()(to_float(x).to(model.project.weight.device))
    seen = {}
    for (attribute, names), of_one in zip(model.attributes.items(), logits):
        p = F.softmax(of_one[0], dim=0).tolist()
        seen[attribute] = dict(sorted(zip(names, p), key=lambda pair: -pair[1])[:4])
        print(f"{attribute:>12}  " + "  ".join(f"{name} {q:.1%}" for name, q in seen[attribute].items()))
    return seen


def evaluate(cfg: Config) -> dict:
    """The accuracy after training on fewer images; also in evaluate.json."""
    from mini.studies.few_labels import from_few
    _, cfg, _ = load(cfg)
    table = from_few(cfg, *load_images(cfg.data, cfg.size, cfg.n_images), few=(100, 300, 1000, 3000))
    return metrics.print_tables(cfg, mean_accuracy_from_so_few_images=table)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --width, --n_features, --size or --n_images")


if __name__ == "__main__":
    main()
