"""mini/classifier.py against its layers written out, against the classic bugs; and the judge of generated images."""
import csv
import dataclasses
import importlib.util
import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import classifier
from mini.data.images import image_sets
from mini.data.images.faces import ATTRIBUTES, NUISANCE, draw_parameters, faces, render
from mini.data.images.image_sets import ImageSet, load_images
from mini.studies.few_labels import from_few
from mini.utils import image_metrics
from mini.utils.images import make_square, to_float
from mini.utils.judge import SECONDS_PER_STEP, Judge, images_with_labels
from mini.utils.png import write_png
from mini.utils.progress import Progress
from mini.utils.run import load_checkpoint
from tests.helpers import close, learnt_by_heart, refused_by

TINY = dict(size=16, n_images=120, width=4, n_features=16, steps=6, batch_size=32, lr=1e-2, eval_every=3, log_every=1,
            device="cpu")
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, with few held-out faces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_sets, "HELD_OUT", 64)


def tiny(**changes):
    return classifier.Config(**{**TINY, "out_dir": "run", **changes})


def make(size=16, channels=3, attributes=ATTRIBUTES, seed=0, n_nuisances=0, **changes):
    """A model whose BatchNorms have statistics and weights of their own."""
    torch.manual_seed(seed)
    model = classifier.Classifier(tiny(**changes), channels, size, attributes, n_nuisances)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.add_(0.3 * torch.randn_like(tensor))
            module.running_var.mul_(0.5 + torch.rand_like(module.running_var))
    return model


# ---- the network

def written_out(state: dict, x, training: bool):
    """Logits and features by the weights alone: (convolution, normalisation, ReLU) until 4 × 4, a linear layer to
    the features, ReLU, and one more for each attribute. The first convolution keeps the size, the others halve it."""
    k = 0
    while f"body.{k}.weight" in state:
        x = F.conv2d(x, state[f"body.{k}.weight"], None, stride=2 if k else 1, padding=1)
        n = f"body.{k + 1}"
        mean, var = state[f"{n}.running_mean"], state[f"{n}.running_var"]
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        x = F.relu(x * state[f"{n}.weight"][:, None, None] + state[f"{n}.bias"][:, None, None])
        k += 3
    assert x.shape[2] <= 4 and k == 3 * (1 + sum(x.shape[2] * 2**i < state["size"] for i in range(9)))
    f = F.linear(x.flatten(1), state["project.weight"], state["project.bias"])
    heads = [name for name in state if name.startswith("heads.") and name.endswith("weight")]
    return [F.linear(F.relu(f), state[name], state[name.replace("weight", "bias")]) for name in heads], f


@pytest.mark.paper
@pytest.mark.parametrize("size", [16, 28, 32, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_equals_its_layers_written_out(size, channels):
    """Guards against a ReLU too many or too few, sizes that are not powers of two, and BatchNorm in the wrong mode."""
    model, x = make(size, channels), torch.rand(6, channels, size, size) * 2 - 1
    for training in (True, False):
        state = {**{name: tensor.clone() for name, tensor in model.state_dict().items()}, "size": size}
        logits, features = written_out(state, x, training)
        close(model.train(training).features(x), features)
        model.load_state_dict({name: tensor for name, tensor in state.items() if name != "size"})
        got, _ = model(x)
        assert [of_one.shape for of_one in got] == [(6, len(values)) for values in ATTRIBUTES.values()]
        for a, b in zip(got, logits, strict=True):
            close(a, b)
    assert features.min() < 0                       # the features themselves are not cut off at 0


@pytest.mark.paper
def test_widths():
    """Guards against a network that grows with the size of the images until it is too slow."""
    convolutions = [m for m in make(64, 1, width=5).body if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(1, 5), (5, 10), (10, 20), (20, 20), (20, 20)]
    assert make(4, 3).body[-3].in_channels == 3     # 4 × 4 already: one convolution


def test_loss_is_the_cross_entropy_summed_over_attributes():
    """Guards against a mean over attributes, labels of the wrong column, and log softmax of softmax."""
    torch.manual_seed(0)
    logits = [5 * torch.randn(7, n) for n in (2, 5, 3)]
    labels = torch.stack([torch.randint(n, (7,)) for n in (2, 5, 3)], dim=1)
    want = 0.0
    for a, of_one in enumerate(logits):
        for scores, label in zip(of_one.tolist(), labels[:, a].tolist()):
            top = max(scores)
            want += (top + math.log(sum(math.exp(s - top) for s in scores)) - scores[label]) / 7
    assert abs(classifier.classification_loss(logits, labels).item() - want) < 1e-5
    nothing = [torch.zeros(7, n) for n in (2, 5, 3)]
    assert abs(classifier.classification_loss(nothing, labels).item() - math.log(2 * 5 * 3)) < 1e-6


def test_every_parameter_gets_a_gradient():
    """Guards against a head, or a layer, that is made and not used."""
    model, (images, labels) = make(n_nuisances=2), faces(32, 16)
    logits, estimates = model(to_float(images))
    assert estimates.shape == (32, 2)
    (classifier.classification_loss(logits, labels) + classifier.nuisance_loss(estimates, torch.ones(32, 2))).backward()
    for name, p in model.named_parameters():
        conv_bias = name.startswith("body") and p.ndim == 1 and int(name.split(".")[1]) % 3 == 0
        assert conv_bias or p.grad.abs().max() > 1e-5, name     # (BatchNorm takes the biases before it away)


def test_overfits_one_batch():
    """Guards against a network that cannot learn, whatever the reason."""
    torch.manual_seed(0)
    images, labels = faces(64, 16)
    model = classifier.Classifier(tiny(width=8, n_features=32), 3, 16, ATTRIBUTES).to(memory_format=torch.channels_last)
    x = to_float(images).contiguous(memory_format=torch.channels_last)
    loss = learnt_by_heart(model, lambda: classifier.classification_loss(model(x)[0], labels), 30)
    assert loss < 0.1                               # it began at Σ ln(number of values) = 7.5
    assert (torch.stack([of_one.argmax(1) for of_one in model(x)[0]], 1) == labels).all()


# ---- reading images

def test_predict_does_not_depend_on_batch_mates_and_changes_nothing():
    """Guards against BatchNorm in training mode while an image is judged, and against a model left in that of judging
    for the rest of the training."""
    model, (images, _) = make().train(), faces(20, 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels, features = classifier.predict(model, images)
    assert labels.shape == (20, 6) and labels.dtype == torch.int64 and features.shape == (20, 16)
    assert not features.requires_grad
    for at_once in (1, 7, 20):
        some_labels, some = classifier.predict(model, images, at_once)
        close(some, features)
        assert torch.equal(some_labels, labels)
    close(classifier.predict(model, images[13:14])[1], features[13:14])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        logits, _ = model(to_float(images))
        close(features, model.features(to_float(images)))
    assert torch.equal(labels, torch.stack([of_one.argmax(1) for of_one in logits], 1))


def test_bytes_and_floats_are_read_alike():
    """Guards against generated images, in [-1, 1], judged on another scale than real ones, in bytes."""
    model, (images, _) = make(), faces(9, 16)
    assert torch.equal(classifier.predict(model, images)[1], classifier.predict(model, images.float() / 127.5 - 1)[1])


def test_accuracy_and_the_most_frequent_value():
    """Guards against shares over all attributes at once, and a baseline counted on the held-out images."""
    model, (images, _) = make(), faces(40, 16)
    read = classifier.predict(model, images)[0]
    wrong = read.clone()
    for a, values in enumerate(ATTRIBUTES.values()):
        wrong[:4 * a, a] = (wrong[:4 * a, a] + 1) % len(values)
    got = classifier.accuracy(model, images, wrong)
    assert list(got) == list(ATTRIBUTES)
    assert [round(share, 6) for share in got.values()] == [1 - 4 * a / 40 for a in range(6)]
    learn = ImageSet(images, torch.tensor([[0, 1], [2, 1], [2, 0]]), {"a": "xyz", "b": "xy"})
    assert classifier.most_frequent(learn, torch.tensor([[2, 1], [0, 1], [0, 0], [0, 1]])) == {"a": 0.25, "b": 0.75}


# ---- training

def test_end_to_end(monkeypatch):
    """Guards against a run that ends without the files and the numbers that it promises."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 128)
    result = classifier.train(tiny(steps=60, width=8, n_features=32, batch_size=64, n_images=600, eval_every=0,
                                   log_every=20))
    assert list(result)[5:] == ["accuracy", "most_frequent", "n_held_out"] and result["n_held_out"] == 128
    for name in ATTRIBUTES:                         # 128 images: 0.1 is two standard deviations and more
        assert result["accuracy"][name] > result["most_frequent"][name] + 0.1, name
    assert sum(result["accuracy"].values()) / 6 > 0.7
    rows = list(csv.DictReader(Path("run/log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [20, 40, 60] and float(rows[-1]["loss"]) < 3
    assert abs(float(rows[-1]["accuracy"]) - sum(result["accuracy"].values()) / 6) < 1e-9
    # and the checkpoint is the model
    model, cfg, shape = classifier.load(classifier.Config(out_dir="run", device="cpu"))
    held_out = load_images("faces", 16, 1)[1]
    assert classifier.accuracy(model, held_out.images, held_out.labels) == result["accuracy"]
    assert shape[2] == ATTRIBUTES and cfg.width == 8


@pytest.mark.paper
def test_learning_rate():
    """Guards against a schedule that is logged and not used, or ends too early."""
    rates, plain = [], torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), plain(self)))
        classifier.train(tiny(steps=8))
    assert rates == pytest.approx([1e-2 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    logged = [float(row["lr"]) for row in csv.DictReader(Path("run/log.csv").read_text().splitlines())]
    assert logged == rates


def test_what_a_step_learns_from(monkeypatch):
    """Guards against images on the wrong scale, labels of other images, evaluation mode while learning, held-out
    images that are learnt from, and always the same batch."""
    seen, forward, loss = [], classifier.Classifier.forward, classifier.classification_loss

    def spy(self, x):
        assert self.training and all(module.training for module in self.modules())
        seen.append([x.clone()])
        return forward(self, x)

    def spy_loss(logits, y):
        seen[-1].append(y.clone())
        return loss(logits, y)
    monkeypatch.setattr(classifier.Classifier, "forward", spy)
    monkeypatch.setattr(classifier, "classification_loss", spy_loss)
    classifier.train(tiny(eval_every=2))
    images, labels = faces(120, 16)
    known = {image.numpy().tobytes(): label.tolist() for image, label in zip(images, labels)}
    assert len(seen) == 6 and len({x.numpy().tobytes() for x, _ in seen}) == 6
    for x, y in seen:
        assert x.shape == (32, 3, 16, 16) and x.min() >= -1 and x.max() <= 1
        pixels = ((x + 1) * 127.5).round().byte().contiguous()
        assert [known[image.numpy().tobytes()] for image in pixels] == y.tolist()


def test_every_step_begins_without_a_gradient(monkeypatch):
    """Guards against gradients that add up from step to step."""
    model, plain, init = [], torch.Tensor.backward, classifier.Classifier.__init__

    def spy(self):
        assert all(p.grad is None or not p.grad.any() for p in model[0].parameters())
        plain(self)
        model.append("backward")
    monkeypatch.setattr(torch.Tensor, "backward", spy)
    monkeypatch.setattr(classifier.Classifier, "__init__", lambda self,
                        *args: (init(self, *args), model.append(self))[0])
    classifier.train(tiny(steps=3))
    assert model[1:] == ["backward"] * 3


# ---- nuisances: what varies besides the labels

def test_nuisance_loss_is_the_squared_error_summed_over_nuisances():
    """Guards against a mean over nuisances, and against a sum over images."""
    estimates, true = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    assert classifier.nuisance_loss(estimates, true).item() == (1 + 4) / 2 + 9 / 2


def test_without_nuisances_the_network_is_the_plain_one():
    """Guards against a head that is there, and takes part in the training, though nobody asked for it; and against
    weights that depend on whether there is one."""
    torch.manual_seed(0)
    plain = classifier.Classifier(tiny(), 3, 16, ATTRIBUTES)
    torch.manual_seed(0)
    more = classifier.Classifier(tiny(), 3, 16, ATTRIBUTES, n_nuisances=10)
    logits, nothing = plain(to_float(faces(5, 16)[0]))
    assert nothing is None and not any("nuisance" in name for name in plain.state_dict())
    with_head = dict(more.named_parameters())
    assert all(torch.equal(weight, with_head[name]) for name, weight in plain.named_parameters())


def test_nuisances_are_learnt(monkeypatch):
    """Guards against estimates of the wrong column, a head without a loss, and R² of something else."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 256)
    result = classifier.train(tiny(nuisances=True, steps=120, width=8, n_features=32, batch_size=64, n_images=1000,
                                   eval_every=0, log_every=0))
    assert list(result["explained"]) == list(NUISANCE)
    assert min(result["explained"][name] for name in ("x", "y")) > 0.2          # seen at once, even at this size
    model, _, shape = classifier.load(classifier.Config(out_dir="run", device="cpu"))
    assert shape[3] == len(NUISANCE)
    held_out = load_images("faces", 16, 1)[1]
    estimates = classifier.estimate_nuisances(model, classifier.predict(model, held_out.images)[1])
    for k, name in enumerate(NUISANCE):
        error, true = estimates[:, k] - held_out.nuisances[:, k], held_out.nuisances[:, k]
        assert result["explained"][name] == pytest.approx(1 - (error.square().mean() / true.var(correction=0)).item(), abs=1e-4)


def weights(folder):
    return load_checkpoint(Path(folder) / "checkpoint.pt", "classifier")


def test_the_seed_decides():
    """Guards against a run that cannot be repeated, and against seeds without effect."""
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(folder) + seed)
        classifier.train(tiny(out_dir=folder, seed=seed, steps=1))
    a, b, c = (weights(folder)["model"] for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


# ---- other data than faces

def gray_classes(n=60, size=16, classes=12):
    """gray.npz: n gray images of `classes` classes, told apart by where a bright line is."""
    images, labels = np.full((n, size, size), 40, np.uint8), np.arange(n) % classes
    images[np.arange(n), labels] = 230
    np.savez("gray.npz", images=images, labels=labels)
    return images, labels


def test_gray_images_with_classes():
    """Guards against three channels, or six attributes, taken for granted."""
    gray_classes()
    result = classifier.train(tiny(data="gray.npz", steps=60, width=8, eval_every=0))
    assert list(result["accuracy"]) == ["label"] and result["n_held_out"] == 6
    assert weights("run")["shape"][2] == {"label": [str(i) for i in range(12)]} and weights("run")["shape"][0] == 1
    assert result["accuracy"]["label"] > 0.5 > result["most_frequent"]["label"]


# ---- what does it see there?

@torch.no_grad()
def read_by_hand(folder, x):
    """Probabilities, one tensor for each attribute, of one image (1, C, size, size) in bytes."""
    state = weights(folder)
    model = classifier.Classifier(classifier.Config(**state["config"]), *state["shape"])
    model.load_state_dict(state["model"])
    logits, _ = model.eval()(x.float() / 127.5 - 1)
    return [of_one.softmax(1)[0] for of_one in logits], state["shape"][2]


def agrees(seen, folder, x):
    probabilities, attributes = read_by_hand(folder, x)
    assert list(seen) == list(attributes)
    for p, (attribute, names) in zip(probabilities, attributes.items()):
        shown = seen[attribute]
        assert len(shown) == min(4, len(names)) and sum(shown.values()) <= 1 + 1e-6
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
        assert list(shown)[0] == names[p.argmax()]
        for name, q in shown.items():
            assert abs(q - p[names.index(name)]) < 1e-5


def test_sample_says_what_it_sees(capsys):
    """Guards against probabilities beside the wrong names, BatchNorm in training mode, and other sizes or shapes."""
    classifier.train(tiny(steps=10))
    images = faces(3, 16)[0]
    large = render(*draw_parameters(1, 1), 80)[0].permute(1, 2, 0).numpy()
    for name, pixels in (("same", images[0].permute(1, 2, 0).numpy()), ("large", large), ("wide", large[:50]),
                         ("gray", large[:, :, 1])):
        write_png(f"{name}.png", pixels)
        capsys.readouterr()
        seen = classifier.main(["sample", f"--image={name}.png", "--out_dir=run", "--device=cpu"])
        out = capsys.readouterr().out
        lines = [line.split() for line in out.splitlines() if not line.startswith("note")]
        assert [line[0] for line in lines] == list(ATTRIBUTES)
        for line, (attribute, shown) in zip(lines, seen.items()):
            assert line[1:] == [word for value, q in shown.items() for word in (value, f"{q:.1%}")]
        x = torch.tensor(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)[None]
        agrees(seen, "run", make_square(x, 16).expand(-1, 3, -1, -1))


def test_sample_of_a_gray_model_takes_colour_images():
    """Guards against a traceback, or the red channel alone, for a colour picture."""
    gray_classes()
    classifier.train(tiny(data="gray.npz"))
    colour = faces(1, 16)[0]
    write_png("colour.png", colour[0].permute(1, 2, 0).numpy())
    write_png("gray.png", colour[0, 0].numpy())
    for name, x in (("colour", colour.double().mean(1, True).round()), ("gray", colour[:, :1])):
        agrees(classifier.sample(classifier.Config(out_dir="run", image=f"{name}.png", device="cpu")), "run", x)


# ---- how few images would do?

def test_from_few_trains_on_so_few_real_images_with_and_without_generated_ones(monkeypatch, capsys):
    """Guards against generated images that are counted as real, held-out ones that are learnt from, and rows that
    differ in the real images that they had."""
    calls = []

    def fake(cfg, data):
        learn, held_out = data
        calls.append((cfg, learn, held_out))
        return {"accuracy": {"hair": cfg.seed / 10, "style": len(learn.images) / 1000}}
    monkeypatch.setattr(classifier, "train", fake)
    monkeypatch.setattr("mini.studies.few_labels.Progress", partial(Progress, seconds=0))
    learn, more, held_out = (ImageSet(*faces(n, 8, first=first), ATTRIBUTES) for n, first in
                             ((100, 0), (40, 1000), (30, 2000)))
    table = from_few(tiny(), learn, held_out, more, few=(10, 20), seeds=3)
    assert list(table) == ["10 real", "10 real + generated", "20 real", "20 real + generated"]
    assert "classifiers trained: 11 of 12" in capsys.readouterr().out              # it takes minutes
    for (name, value), n in zip(table.items(), (10, 50, 20, 60)):
        assert abs(value - (0.1 + n / 1000) / 2) < 1e-9, name
    assert len(calls) == 12 and all(call[2] is held_out and call[0].device == "cpu" for call in calls)
    real = {image.numpy().tobytes(): label.tolist() for image, label in zip(learn.images, learn.labels)}
    chosen = []
    for cfg, part, _ in calls:
        assert part.attributes == ATTRIBUTES and not Path(cfg.out_dir).exists()
        generated = len(part.images) in (50, 60)
        n = len(part.images) - 40 * generated
        assert [real[image.numpy().tobytes()] for image in part.images[:n]] == part.labels[:n].tolist()
        if generated:
            assert torch.equal(part.images[n:], more.images) and torch.equal(part.labels[n:], more.labels)
        chosen.append((n, cfg.seed, part.images[:n]))
    for (n, seed, images), (m, other, others) in zip(chosen[:3], chosen[3:6]):
        assert (n, seed) == (m, other) and torch.equal(images, others)              # the same, with and without
    assert len({(n, seed) for n, seed, _ in chosen}) == 6
    assert not torch.equal(chosen[0][2], chosen[1][2])                              # each seed has its own
    assert list(from_few(tiny(), learn, held_out, few=(5,), seeds=1)) == ["5 real"]


def test_from_few_for_real(monkeypatch, capsys):
    """Guards against runs that are left behind or printed."""
    plain = classifier.train
    monkeypatch.setattr(classifier, "train", lambda cfg, data: plain(dataclasses.replace(cfg, steps=3, width=4), data))
    learn, held_out = load_images("faces", 16, 100)
    table = from_few(tiny(), learn, held_out, learn, few=(20,), seeds=1)
    assert list(table) == ["20 real", "20 real + generated"] and all(0 < value < 1 for value in table.values())
    assert capsys.readouterr().out.count("\n") < 4 and not list(Path().iterdir())


def test_evaluate(monkeypatch):
    """Guards against a table that claims more images than there are, and against a lost evaluate.json."""
    plain_train = classifier.train
    monkeypatch.setattr(classifier, "train", lambda cfg, data: {"accuracy": {"a": len(data[0].images) / 1000}})
    plain_train(tiny(n_images=400, steps=1))
    table = classifier.main(["evaluate", "--out_dir=run", "--device=cpu"])
    rows, = table.values()
    assert json.loads(Path("run/evaluate.json").read_text()) == table
    for name, value in rows.items():
        assert int(name.split()[0]) == round(1000 * value) <= 400


def test_ctrl_c_ends_the_evaluation(monkeypatch, capsys):
    """Guards against a traceback (KeyError: 'accuracy') from a training that was interrupted."""
    learn, held_out = load_images("faces", 16, 50)
    monkeypatch.setattr(classifier, "train", lambda cfg, data: {"model": "classifier", "steps": 1, "interrupted": 2})
    with pytest.raises(KeyboardInterrupt):
        from_few(tiny(), learn, held_out, few=(10,), seeds=1)


# ---- the judge

@dataclasses.dataclass
class RunConfig(classifier.Config):
    """That of a run which is judged."""
    n_test: int = 0


def judge(learn, held_out, steps=4, steps_of_the_run=classifier.Config.steps, **changes):
    """A small one, ready to judge: the defaults of Config, but for `steps`."""
    cfg = RunConfig(**{**TINY, "steps": steps_of_the_run, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mini.utils.judge.STEPS", steps)
        made = Judge(cfg, learn, held_out)
        if made.n:
            made.prepare()
    return made


@pytest.fixture
def data():
    return load_images("faces", 16, 100)


@pytest.fixture
def trained(monkeypatch):
    """The folders in which a judge was trained."""
    folders, plain = [], classifier.train

    def spy(cfg, data):
        folders.append(cfg.out_dir)
        return plain(cfg, data)
    monkeypatch.setattr(classifier, "train", spy)
    return folders


@torch.no_grad()
def test_a_judge_is_trained_also_where_gradients_are_off(data, trained):
    """As while a study draws images: a traceback, once."""
    assert judge(*data).model is not None and len(trained) == 1


def test_a_judge_is_trained_once(data, monkeypatch, capsys):
    """Guards against half a minute of training before each run, and a second judge that judges otherwise."""
    first = judge(*data)
    assert "trained" in capsys.readouterr().out
    folder, = Path("runs").iterdir()
    assert folder.name.startswith("judge-faces-") and (folder / "result.json").exists()
    files = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(classifier, "train", None)
    second = judge(*data)
    assert "trained" not in capsys.readouterr().out
    assert torch.equal(first.real.features, second.real.features) and first.frechet(data[0].images) == second.frechet(data[0].images)
    assert list(Path("runs").iterdir()) == [folder]
    assert files == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_other_data_or_steps_have_a_judge_of_their_own(data, trained):
    """Guards against a judge of yesterday's images: a folder whose content changed keeps its name."""
    learn, held_out = data
    judge(learn, held_out, 1)
    changed = dataclasses.replace(learn, images=learn.images.clone())
    changed.images[3, 0, 5, 5] ^= 1
    relabelled = dataclasses.replace(learn, labels=learn.labels.clone())
    relabelled.labels[3, 0] = (relabelled.labels[3, 0] + 1) % 4
    fewer = learn.subset(torch.arange(1, 100))
    for part in (changed, relabelled, fewer):
        judge(part, held_out, 1)
    judge(learn, held_out, 2)
    assert len(trained) == len(set(trained)) == 5 == len(list(Path("runs").iterdir()))
    judge(learn, held_out, 1), judge(changed, held_out, 1)
    judge(learn, held_out, 1, seed=5, lr=1.0, batch_size=7)
    assert len(trained) == 5                        # what the run is otherwise does not matter


def test_a_trial_has_a_judge_of_few_steps(data, trained, monkeypatch, capsys):
    """Guards against a run of three steps that is followed by half a minute of judging, and against a short run whose
    judge is none of those of long ones."""
    monkeypatch.setattr("mini.utils.judge.TRIAL_STEPS", 3)
    taken = [len(judge(*data, steps=30, steps_of_the_run=n).labels) for n in (40, 41, 400)]
    out = capsys.readouterr().out
    assert len(trained) == 2 and out.count("step 3/3") == 1 and out.count("step 30/30") == 1
    assert "not 30, since this run is a trial" in out and taken == [64, 64, 64]


def test_an_interrupted_judge_goes_on(data, monkeypatch):
    """Guards against a half-trained judge that is taken for a whole one."""
    plain = classifier.train
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "train", lambda cfg, data: plain(dataclasses.replace(cfg, stop_after=2), data))
        with pytest.raises(KeyboardInterrupt):
            judge(*data)
    monkeypatch.setattr(classifier, "train", lambda cfg, data: done.append(cfg.resume) or plain(cfg, data))
    done = []
    resumed = judge(*data)
    assert done == [True] and len(list(Path("runs").iterdir())) == 1
    monkeypatch.setattr(classifier, "train", plain)
    Path("runs").rename("before")
    assert torch.equal(judge(*data).real.features, resumed.real.features)


def test_scores_of_the_judge(monkeypatch):
    """Guards against a distance that tells nothing: real images must be near, noise and single colours far away."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 128)
    learn, held_out = load_images("faces", 16, 150)
    it = judge(learn, held_out, 25)
    assert it.n == 128 and it.real.features.shape == (128, classifier.Config.n_features)
    noise = torch.randint(256, (128, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gray = torch.full_like(noise, 128)
    drawn = faces(128, 16, first=5000)[0]
    scores = it.scores(drawn, noise)
    assert {"frechet", "frechet_floor", "frechet_untrained", "diversity", "diversity_data"} <= set(scores)
    assert scores["frechet_n"] == 128 and scores["features"] == "face features"
    assert 0 < scores["frechet"] < 0.2 * scores["frechet_untrained"]
    assert 0 < scores["frechet_floor"] < 0.2 * min(it.frechet(noise), it.frechet(gray))
    assert scores["frechet_untrained"] == it.frechet(noise) and scores["frechet_floor"] == it.frechet(learn.images)
    same_labels = images_with_labels(learn, held_out.labels)
    assert scores["diversity"] == it.diversity(drawn) and scores["diversity_data"] == it.diversity(same_labels)
    unread = judge(learn, held_out, 1).scores(drawn, noise)         # of what it does not see it says nothing
    assert unread["diversity"] is None and unread["diversity_data"] is None
    assert abs(it.frechet(held_out.images)) < 1e-4 * it.frechet(noise)          # those themselves
    assert it.frechet(learn.images) == it.frechet(learn.images[:128]) == it.frechet(to_float(learn.images))
    assert list(scores) == list(json.loads(json.dumps(scores)))                 # fit for result.json
    assert "training images" in image_metrics.image_report(scores)
    asked = held_out.labels
    scores = it.scores(held_out.images, noise, asked)
    guess = classifier.most_frequent(learn, asked)
    assert list(scores)[-2:] == ["accuracy", "most_frequent"] and scores["most_frequent"] == guess
    assert sum(scores["accuracy"].values()) > sum(guess.values()) + 1.5
    other = it.scores(held_out.images, noise, asked.roll(1, 0))                 # they show what was not asked for
    assert abs(sum(other["accuracy"].values()) - sum(guess.values())) < 1
    report = image_metrics.image_report(scores)
    assert f"{scores['frechet_untrained']:.0f}" in report and report.count("\n") >= 6


def test_the_floor_of_a_model_that_is_told_labels(monkeypatch):
    """Guards against a floor that such a model can go below: training images have other labels than the held-out ones,
    and so they are further from these than images that were drawn to have the same ones."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 256)
    learn, held_out = load_images("faces", 16, 300)
    it = judge(learn, held_out, 60)
    same = images_with_labels(learn, held_out.labels)
    told, untold = it.scores(same, same, held_out.labels), it.scores(same, same)
    assert told["frechet_floor"] == it.frechet(same) < 0.7 * untold["frechet_floor"]
    assert told["diversity_data"] == untold["diversity_data"] == it.diversity(same)
    assert "the same labels" in told["floor_images"] and told["floor_images"] in image_metrics.image_report(told)


def test_other_faces_with_the_same_labels():
    """Guards against copies of the held-out faces: of these the distance would be 0; and against other labels."""
    learn, held_out = load_images("faces", 16, 20)
    same = images_with_labels(learn, held_out.labels)
    assert same.shape == held_out.images.shape and torch.equal(same, images_with_labels(learn, held_out.labels))
    assert not (same == held_out.images).flatten(1).all(1).any()
    corner = same[:, :, 0, 0].float()                       # the background, but for its shade
    for value in range(len(ATTRIBUTES["background"])):
        alike = corner[held_out.labels[:, -1] == value]
        assert (alike - alike[0]).abs().max() <= 1
    _, nuisances = draw_parameters(64, 1, first=3 * 10**7)
    assert torch.equal(same, render(held_out.labels, nuisances, 16))


def test_other_images_of_the_same_classes():
    """Guards against images of another class, the same image again and again, and a traceback for a class that the
    training set does not have."""
    train_set = ImageSet(torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 1, 8, 8),
                         torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])[:, None], {"label": ["a", "b", "c", "d"]}, "mine")
    labels = torch.tensor([2, 0, 0, 1, 0, 2])[:, None]
    chosen = images_with_labels(train_set, labels)[:, 0, 0, 0].long()
    assert torch.equal(train_set.labels[chosen], labels) and len(set(chosen.tolist())) == 6
    five = images_with_labels(train_set, torch.tensor([1] * 5)[:, None])[:, 0, 0, 0]
    assert set(five.tolist()) == {1, 4, 7}                  # there are only three of them: two come twice
    assert images_with_labels(train_set, torch.tensor([0, 3])[:, None]) is None


def test_diversity_of_the_judge(monkeypatch):
    """Guards against a score that does not see that a model draws one picture for each label; and against one that is
    content with pictures that differ from label to label."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 512)
    learn, held_out = load_images("faces", 16, 1500)
    few_values = held_out.labels.clamp(max=1)               # 64 combinations, so that many images have the same labels
    held_out.labels = few_values
    held_out.images = render(few_values, draw_parameters(512, 1, first=10**7)[1], 16)
    it = judge(learn, held_out, 250)
    varied = draw_parameters(512, 1, first=4 * 10**7)[1]
    usual = torch.tensor([(low + high) / 2 for low, high in NUISANCE.values()])
    half = varied.clone()
    half[:, ::2] = usual[::2]
    combination = (few_values * 2**torch.arange(6)).sum(1)
    one_for_each_label = varied[:64][combination]
    score = {name: it.diversity(render(few_values, nuisances, 16))
             for name, nuisances in dict(varied=varied, half=half, fixed=usual.expand(512, -1), known=one_for_each_label).items()}
    assert 0.9 < score["varied"] < 1.1 and 0.35 < score["half"] < 0.7, score
    assert score["fixed"] < 0.02 and score["known"] < 0.15, score       # (some labels are misread: two pictures as one)
    assert it.diversity(torch.stack([held_out.images[0]] * 4)) == 0
    r2 = classifier.explained(it.model, held_out)
    assert it.real.nuisances.size(1) == sum(value > 0.5 for value in r2.values()) > 1
    monkeypatch.setattr(classifier, "estimate_nuisances", lambda _, features: 100 * torch.randn(len(features), 10))
    assert it.read(held_out.images).nuisances.abs().max() == 1          # wild estimates do not count as variety


def test_no_judge_without_labels(data, trained):
    """Guards against a traceback for a folder of unlabelled images."""
    learn, held_out = (ImageSet(part.images, part.labels[:, :0], {}) for part in data)
    it = judge(learn, held_out)
    assert it.n == 0 and it.scores(learn.images, learn.images) == {}
    assert "without labels" in image_metrics.image_report(it.scores(learn.images, learn.images))
    few = data[1].subset(torch.arange(1))
    assert judge(data[0], few).n == 0                                    # one image has no distribution
    assert not trained and not Path("runs").exists()


def test_no_judge_if_there_is_one_class(data, trained, capsys):
    """Guards against distances between the features of an untrained network: a folder with a single sub-folder has
    labels, but there is nothing to learn from them."""
    learn, held_out = (ImageSet(part.images, part.labels[:, :1] * 0, {"label": ["face"]}, "mine") for part in data)
    it = judge(learn, held_out)
    assert it.n == 0 and it.scores(learn.images, learn.images, held_out.labels) == {}
    assert "one label" in image_metrics.image_report({}) and "\n" not in image_metrics.image_report({})
    assert not trained and not Path("runs").exists()
    two = [dataclasses.replace(part, attributes={"label": ["face", "no face"]}) for part in (learn, held_out)]
    assert judge(*two, 1).n == 64


def test_a_comment_does_not_train_another_judge(data, trained, monkeypatch, tmp_path):
    """Guards against a judge that is trained anew because the source of the classifier looks different; and against one
    that is not, though the network is another or VERSION says that its training is."""
    judge(*data, 1)
    source = Path(classifier.__file__).read_text("utf-8")
    (tmp_path / "edited.py").write_text(f"{source}\n# a remark\n", "utf-8")
    spec = importlib.util.spec_from_file_location("edited", tmp_path / "edited.py")
    edited = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edited", edited)
    spec.loader.exec_module(edited)
    monkeypatch.setattr(edited, "train", classifier.train)          # notes when it is called
    monkeypatch.setattr("mini.utils.judge.classifier", edited)
    judge(*data, 1)
    assert len(trained) == 1

    class Deeper(classifier.Classifier):
        def __init__(self, *args):
            super().__init__(*args)
            self.one_more = torch.nn.Linear(3, 3)
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "Classifier", Deeper)
        patch.setattr("mini.utils.judge.classifier", classifier)
        judge(*data, 1)
    assert len(trained) == 2
    monkeypatch.setattr("mini.utils.judge.VERSION", 10**6)
    judge(*data, 1)
    assert len(trained) == 3


def test_the_time_is_said_before_it_is_spent(data, trained, capsys, monkeypatch):
    """Guards against a first command that seems to hang, or that takes a minute more than it said."""
    def no_training(cfg, data):
        raise InterruptedError
    monkeypatch.setattr(classifier, "train", no_training)
    with pytest.raises(InterruptedError):
        judge(*data, 1000)
    out = capsys.readouterr().out
    seconds = 1000 * SECONDS_PER_STEP / 4                   # a quarter of the pixels of 32 × 32
    assert f"1000 steps: about {seconds:.0f} s" in out


def test_the_judge_of_a_file_is_named_after_it(trained):
    """Guards against a judge's folder outside runs/, for data in other folders."""
    gray_classes(100)
    Path("my data").mkdir()
    Path("gray.npz").rename("my data/gray.npz")
    source = str(Path("my data/gray.npz").absolute())
    it = judge(*load_images(source, 16), 2, data=source)
    assert trained[0].startswith("runs/judge-gray-") and it.scores(it.train_set.images, it.train_set.images)["features"] == (
        f"features of a classifier of {source}")


# ---- bad input: one line, exit status 2, no traceback

refuses = partial(refused_by, classifier.main)


def test_bad_data(capsys):
    """Guards against tracebacks, and folders of runs that never began."""
    Path("pictures").mkdir()
    for number in range(3):
        write_png(f"pictures/{number}.png", np.zeros((8, 8), np.uint8))
    assert "no labels" in refuses(capsys, *FLAGS, "--data=pictures")
    gray_classes(classes=1)
    assert "the same label" in refuses(capsys, *FLAGS, "--data=gray.npz")
    gray_classes()
    assert "only those of faces" in refuses(capsys, *FLAGS, "--data=gray.npz", "--nuisances")
    assert not Path("runs").exists()


def test_bad_flags(capsys):
    """Guards against a traceback from torch for sizes that cannot be."""
    for name in ("width", "n_features", "batch_size"):
        assert "at least 1" in refuses(capsys, *FLAGS, f"--{name}=0")
    assert not Path("runs").exists()


def test_resuming_with_other_data(capsys):
    """Guards against a traceback of torch's: the checkpoint's heads do not fit the new labels."""
    classifier.train(tiny(steps=2))
    gray_classes()
    refuses(capsys, "--resume", "--out_dir=run", "--device=cpu", "--data=gray.npz", "--steps=4")


def test_bad_image(capsys):
    """Guards against tracebacks from a picture that is none."""
    classifier.train(tiny(steps=1))
    flags = ["sample", "--out_dir=run", "--device=cpu"]
    assert "--image" in refuses(capsys, *flags)
    assert "none.png" in refuses(capsys, *flags, "--image=none.png")
