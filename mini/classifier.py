"""A classifier: a discriminative model, unlike the others here; and the judge of what these draw.

A discriminative model learns p(label | image): it turns 3,072 numbers into one of a few words. A
generative model learns p(image), the whole picture, which is harder, and harder to score. So this
small convolutional network is the judge of generated images (mini/utils/judge.py): it says which
attributes an image has. It also says how far generated images are from real ones, by the Fréchet
distance between its features of both. (FID is that distance with the features of a large network,
Heusel et al. 2017, "GANs trained by a two time-scale update rule",
https://arxiv.org/abs/1706.08500; ours cannot be compared with it.)

The loss is the sum over attributes of the cross-entropy; with the labels y₁ … y_A of an image

    L = −Σₐ log softmax(headₐ(features(x)))[yₐ]

Faces also differ in what no label names: where the face is, how it is tilted, the colour of its
eyes and so on. With --nuisances, as in the judge, one more head estimates these K numbers v from
the same features, and a part of Σₖ (v̂ₖ − vₖ)² is added to the loss. Then the features know of
them, too.

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

# ---- the network

class Classifier(nn.Module):
    """Convolutions halve the image until it is 4 × 4; then come F features, and a head for each
    attribute.

    cfg is the Config below. attributes: {name: [names of its values]}; n_nuisances: K.
    """

    def __init__(self, cfg, channels: int, size: int, attributes: dict, n_nuisances: int = 0):
        super().__init__()
        self.attributes = attributes

        width = cfg.width
        layers = self.conv(channels, width, stride=1)               # the size stays
        while size > 4:
            wider = min(2 * width, 4 * cfg.width)
            layers += self.conv(width, wider, stride=2)             # the size is halved
            width = wider
            size = (size + 1) // 2
        self.body = nn.Sequential(*layers)
        self.project = nn.Linear(width * size * size, cfg.n_features)

        self.heads = nn.ModuleList()
        for names in attributes.values():
            self.heads.append(nn.Linear(cfg.n_features, len(names)))
        self.nuisance_head = nn.Linear(cfg.n_features, n_nuisances) if n_nuisances else None

    @staticmethod
    def conv(channels_in: int, channels_out: int, stride: int) -> list:
        """A convolution (without a bias, since BatchNorm has one), BatchNorm and ReLU."""
        return [
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]

    def features(self, x):
        """Features (B, F) of images (B, C, H, W) in [-1, 1]."""
        x = self.body(x)                    # (B, C, H, W) -> (B, 4 width, 4, 4), or less if H < 4
        return self.project(x.flatten(1))   # -> (B, 4 width · 4 · 4) -> (B, F)

    def read(self, features):
        """(logits, nuisances) from features (B, F), as `forward` returns them."""
        f = F.relu(features)
        logits = [head(f) for head in self.heads]
        # Places and angles are numbers: they are read from the features as they are. (After the
        # ReLU they were learnt less well, and the squared errors could switch features off.)
        nuisances = self.nuisance_head(features) if self.nuisance_head else None
        return logits, nuisances

    def forward(self, x):
        """(logits, nuisances) of images (B, C, H, W) in [-1, 1].

        logits: a list with (B, number of its values) for each attribute. nuisances: (B, K), or None
        if the network has no head for them.
        """
        return self.read(self.features(x))


# ---- the loss

def classification_loss(logits: list, labels):
    """The sum over attributes of the mean cross-entropy, in nats. labels: (B, A)."""
    loss = 0.0
    for attribute_logits, y in zip(logits, labels.T):
        loss = loss + F.cross_entropy(attribute_logits, y)
    return loss


NUISANCE_WEIGHT = 0.3       # of the loss below: with 1 the labels are learnt later and less well


def nuisance_loss(estimates, nuisances):
    """The sum over nuisances of the mean squared error. Both are (B, K)."""
    return (estimates - nuisances).square().mean(0).sum()


# ---- what the network sees

@torch.no_grad()
def predict(model, images, at_once: int = 512):
    """(predicted labels (N, A), features (N, F)) of images (N, C, H, W), uint8 or in [-1, 1]."""
    was_training = model.training
    model.eval()                                            # BatchNorm with its averages
    labels = []
    features = []
    for x in images.split(at_once):
        if x.dtype == torch.uint8:
            x = to_float(x)
        f = model.features(x.to(model.project.weight.device))
        logits, _ = model.read(f)
        most_likely = [attribute_logits.argmax(1) for attribute_logits in logits]
        labels.append(torch.stack(most_likely, dim=1).cpu())        # A × (B,) -> (B, A)
        features.append(f.cpu())
    model.train(was_training)
    return torch.cat(labels), torch.cat(features)


@torch.no_grad()
def estimate_nuisances(model, features):
    """The nuisances (N, K) that a network with a head for them sees in features (N, F)."""
    _, nuisances = model.read(features.to(model.project.weight.device))
    return nuisances.cpu()


def accuracy(model, images, labels) -> dict:
    """{attribute: share of images whose label is predicted right}; labels (N, A)."""
    predicted, _ = predict(model, images)
    return share_right(model.attributes, predicted, labels.cpu())


def share_right(attributes: dict, predicted, labels) -> dict:
    """{attribute: share of rows in which two tensors of labels (N, A) agree}."""
    shares = (predicted == labels).double().mean(0)         # (A,)
    return dict(zip(attributes, shares.tolist()))


def most_frequent(train_set, labels) -> dict:
    """The baseline, {attribute: accuracy of always saying its most frequent value in train_set}.

    labels (N, A): the true ones.
    """
    most_frequent_values = train_set.labels.mode(dim=0).values      # (A,)
    return share_right(train_set.attributes, most_frequent_values, labels)


def explained(model, image_set) -> dict:
    """{nuisance: R²}: 1 if the estimates are right, 0 if they are no better than the mean."""
    _, features = predict(model, image_set.images)
    true = image_set.nuisances.cpu()
    squared_error = (estimate_nuisances(model, features) - true).square().mean(0)   # (K,)
    r2 = 1 - squared_error / true.var(0, correction=0)
    return dict(zip(image_set.nuisance_names, r2.tolist()))


# ---- settings

@dataclass
class Config(RunConfig):
    # data
    # faces, mnist, fashion-mnist, cifar10, or your own: a folder with a sub-folder for each class,
    # IDX or .npz
    data: str = "faces"
    size: int = 32              # height and width of the images in pixels (0: as they are)
    n_images: int = 20000       # number of faces to draw for training
    # model
    width: int = 16             # channels after the first convolution
    n_features: int = 64        # F, the number of features of an image
    nuisances: bool = False     # estimate what varies besides the labels, too (only faces)
    # optimisation
    steps: int = 400            # optimiser steps
    batch_size: int = 128       # images in a step
    lr: float = 3e-3            # AdamW's learning rate at the start; it falls to 0 in half a cosine
    weight_decay: float = 0.05  # of all parameters
    # run
    out_dir: str = "runs/classifier"    # folder of the run
    # sampling
    image: str = ""             # a picture, whose attributes `sample` prints

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed = ("size", "n_images", "width", "n_features", "nuisances")


PRESETS = {"gpu": dict(width=64, batch_size=512, steps=3000)}


def check(cfg):
    """Raise UserError for flags that cannot be used."""
    require_positive(cfg, "width", "n_features", "batch_size")


def check_data(cfg, train_set):
    """Raise UserError for images from which a classifier cannot learn what cfg asks for."""
    require(train_set.attributes,
            f"--data={cfg.data} has no labels to learn; bring a folder with a sub-folder for "
            "each class")
    require(train_set.has_classes(),
            f"--data={cfg.data}: all images have the same label, so there is nothing to "
            "tell apart; bring images of at least two classes")
    require(train_set.nuisances is not None or not cfg.nuisances,
            f"--nuisances: those of --data={cfg.data} are not known; only those of faces are")


def learning_rate(step: int, cfg) -> float:
    """Half a cosine, from cfg.lr to 0."""
    return cfg.lr * (1 + math.cos(math.pi * step / cfg.steps)) / 2


# ---- training

def train(cfg: Config, data=None) -> dict:
    """Train, and return what result.json holds. Raises UserError for input that cannot be used.

    data: what load_images returns, if it is loaded already.
    """
    # settings: flags that were typed win over those of a run that goes on
    cfg, checkpoint = own_checkpoint(cfg, "classifier", cfg.resume)
    check(cfg)
    device = pick_device(cfg.device)
    precision = autocast(device, "highest")     # bfloat16 on CUDA; on a CPU all is in float32

    # images
    train_set, held_out = data or load_images(cfg.data, cfg.size, cfg.n_images)
    check_data(cfg, train_set)
    images = train_set.images.to(device)        # (N, C, H, W), bytes
    labels = train_set.labels.to(device)        # (N, A)
    nuisances = None
    n_nuisances = 0
    if cfg.nuisances:
        nuisances = train_set.nuisances.to(device)      # (N, K)
        n_nuisances = nuisances.size(1)
    N, C, H, W = images.shape
    shape = (C, H, train_set.attributes, n_nuisances)
    check_shape(checkpoint, *shape)

    # model and optimiser
    torch.manual_seed(cfg.seed)                 # for the initial weights
    model = Classifier(cfg, *shape)
    if cfg.resume:
        model.load_state_dict(checkpoint["model"])
    model = model.to(device, memory_format=torch.channels_last)     # convolutions are faster so
    optimizer = torch.optim.AdamW(model.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
    data_rng = torch.Generator().manual_seed(cfg.seed)              # for the batches
    if cfg.resume:
        restore(checkpoint, [optimizer], data_rng)
    net = torch.compile(model) if cfg.compile else model

    with Run(cfg, "classifier", model, ["loss", "lr", "accuracy"], checkpoint) as run:
        chance = sum(math.log(len(names)) for names in train_set.attributes.values())
        run.say(f"{N:,} images to learn from, {len(held_out.images):,} held out")
        run.say(f"a model that knows nothing has loss Σ ln(number of values) = {chance:.3f}")
        for step in range(run.first, cfg.steps):
            # learning rate
            lr = learning_rate(step, cfg)
            optimizer.param_groups[0]["lr"] = lr

            # batch
            i = torch.randint(N, (cfg.batch_size,), generator=data_rng).to(device)
            x = to_float(images[i])                                 # (B, C, H, W) in [-1, 1]
            x = x.contiguous(memory_format=torch.channels_last)

            # loss and backward
            with precision:
                logits, estimates = net(x)
                loss = classification_loss(logits, labels[i])
                if cfg.nuisances:
                    loss = loss + NUISANCE_WEIGHT * nuisance_loss(estimates, nuisances[i])
            run.check_finite(step, loss=loss.item())                # NaN stops here
            optimizer.zero_grad(set_to_none=True)
            loss.backward()

            # step
            optimizer.step()

            # evaluate, log and save, each when it is due
            done = step + 1
            with run.untimed():                                     # this is not training time
                mean_accuracy = None
                if run.due(done, cfg.eval_every):                   # also after the last step
                    shares = accuracy(model, held_out.images, held_out.labels)
                    mean_accuracy = sum(shares.values()) / len(shares)

                if mean_accuracy is not None or run.due(done, cfg.log_every):
                    run.log(done, loss=loss.item(), lr=lr, accuracy=mean_accuracy)

                stopping = run.stopping(done)                       # after Ctrl-C, or --stop_after
                if mean_accuracy is not None or stopping:
                    run.save(done, model, [optimizer], data_rng, shape=shape)

            if stopping and done < cfg.steps:
                return run.leave(done)                              # says how to resume

        # scores, each beside its baseline
        scores = {
            "accuracy": accuracy(model, held_out.images, held_out.labels),
            "most_frequent": most_frequent(train_set, held_out.labels),
            "n_held_out": len(held_out.images),
        }
        run.say("held-out accuracy (in brackets: always saying the most frequent value)")
        run.say(metrics.shares(scores["accuracy"], scores["most_frequent"]))
        if cfg.nuisances:
            scores["explained"] = explained(model, held_out)
            run.say("share of the variance of each nuisance that the estimates explain (R²)")
            run.say(explained_report(scores["explained"]))
        return run.finish(**scores)


def explained_report(r2: dict) -> str:
    """A line for each nuisance."""
    return "\n".join(f"{name:>12}  {value:.3f}" for name, value in r2.items())


# ---- using what was trained

def load(cfg):
    """(model, config, shape) as trained in out_dir."""
    cfg, checkpoint = own_checkpoint(cfg, "classifier")
    shape = checkpoint["shape"]
    model = Classifier(cfg, *shape)
    model.load_state_dict(checkpoint["model"])
    model = model.to(pick_device(cfg.device), memory_format=torch.channels_last)
    return model, cfg, shape


@torch.no_grad()
def sample(cfg: Config) -> dict:
    """Print and return what the classifier sees in --image: {attribute: {value: probability}}.

    Of each attribute the four most likely values are shown.
    """
    require(cfg.image, "which picture? Name it by --image=me.png")
    model, cfg, shape = load(cfg)
    C, size = shape[:2]
    x = to_size(read_image(cfg.image), size)[None]              # (1, 1 or 3, size, size)
    if C == 3:
        x = x.expand(-1, 3, -1, -1)
    else:
        x = x.float().mean(1, keepdim=True).round().byte()      # gray

    model.eval()
    logits, _ = model(to_float(x).to(model.project.weight.device))
    seen = {}
    for (attribute, names), attribute_logits in zip(model.attributes.items(), logits):
        probabilities = F.softmax(attribute_logits[0], dim=0)   # (number of values,)
        top = probabilities.topk(min(4, len(names)))
        seen[attribute] = {names[i]: p for i, p in zip(top.indices.tolist(), top.values.tolist())}
        words = [f"{name} {p:.1%}" for name, p in seen[attribute].items()]
        print(f"{attribute:>12}  " + "  ".join(words))
    return seen


def evaluate(cfg: Config) -> dict:
    """The accuracy after training on fewer images; also in evaluate.json."""
    from mini.studies.few_labels import from_few        # only this command needs it
    _, cfg, _ = load(cfg)
    train_set, held_out = load_images(cfg.data, cfg.size, cfg.n_images)
    table = from_few(cfg, train_set, held_out, few=(100, 300, 1000, 3000))
    return metrics.print_tables(cfg, mean_accuracy_from_so_few_images=table)


def main(argv=None):
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    return command_line(Config, PRESETS, commands, argv, __doc__,
                        out_of_memory="lower --batch_size, --width, --n_features or --size")


if __name__ == "__main__":
    main()
