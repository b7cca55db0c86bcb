"""mini/data/images/image_sets.py: what is learnt from and what is held out, labels for samples; and a run's own checkpoint."""
import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.data.images import image_sets
from mini.data.images.faces import ATTRIBUTES, NUISANCE, draw_parameters, faces, visible
from mini.data.images.image_sets import LabelConfig, draw_labels, load_images, one_hot
from mini.utils.config import RunConfig, field_notes, parse
from mini.utils.png import write_png
from mini.utils.run import own_checkpoint
from tests.helpers import refused

# ---- learnt from, and held out

def numbered(path: Path, n: int) -> str:
    """A .npz file of n gray images 8 × 8; the first two pixels tell the number of each, the label is that modulo 3."""
    images = np.zeros((n, 8, 8), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    np.savez(path / f"{n}.npz", images=images, labels=np.arange(n) % 3)
    return str(path / f"{n}.npz")


def numbers(part) -> list:
    return (part.images[:, 0, 0, 0].long() + 256 * part.images[:, 0, 0, 1].long()).tolist()


@pytest.mark.parametrize("n, n_held_out", [(2, 1), (9, 1), (10, 1), (11, 2), (30, 3), (1000, 100)])
def test_one_tenth_is_held_out(tmp_path, n, n_held_out):
    """Guards against images that are learnt from and held out too, lost ones, and labels that stay behind."""
    learn, held_out = load_images(numbered(tmp_path, n), 8)
    assert len(held_out.images) == n_held_out and sorted(numbers(learn) + numbers(held_out)) == list(range(n))
    for part in (learn, held_out):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert part.attributes == {"label": [str(value) for value in range(min(n, 3))]}
        assert part.labels[:, 0].tolist() == [number % 3 for number in numbers(part)]


def test_the_split_is_always_the_same(tmp_path):
    """Guards against a model that is tested, after --resume, on what it has learnt; and against a split that changes
    the random numbers of the run."""
    source = numbered(tmp_path, 50)
    found = []
    for seed in (3, 4):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        state = torch.get_rng_state()
        found.append([numbers(part) for part in load_images(source, 8)])
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


def test_the_split_is_at_random(tmp_path):
    """Guards against holding out the last tenth: in a folder of classes that is the last class."""
    for number in range(40):
        (tmp_path / f"class{number // 10}").mkdir(exist_ok=True)
        write_png(tmp_path / f"class{number // 10}" / f"{number}.png", np.full((8, 8), number, np.uint8))
    learn, held_out = load_images(str(tmp_path), 8)
    assert len(held_out.images) == 4 and len(set(held_out.labels[:, 0].tolist())) > 1
    assert set(learn.labels[:, 0].tolist()) == {0, 1, 2, 3}
    order = learn.images[:, 0, 0, 0].tolist()
    assert order != sorted(order) and [number // 10 for number in order] == learn.labels[:, 0].tolist()


def test_one_image_is_both(tmp_path, capsys):
    """Guards against an empty set: with nothing held out there would be no score, with nothing learnt no model."""
    learn, held_out = load_images(numbered(tmp_path, 1), 8)
    assert numbers(learn) == numbers(held_out) == [0] and len(learn.labels) == len(held_out.labels) == 1
    assert "only 1 image" in capsys.readouterr().out


def test_faces_to_learn_from_and_held_out(monkeypatch):
    """Guards against held-out faces that are learnt from too, or that depend on how many these are."""
    assert image_sets.HELD_OUT == 4096
    monkeypatch.setattr(image_sets, "HELD_OUT", 30)
    drawn, plain = [], image_sets.draw_faces

    def spy(n, size, first):
        drawn.append(range(first, first + n))
        return plain(n, size, first)
    monkeypatch.setattr(image_sets, "draw_faces", spy)
    learn, held_out = load_images("faces", 16, 50)
    assert torch.equal(learn.images, faces(50, 16)[0]) and torch.equal(learn.labels, faces(50, 16)[1])
    assert len(held_out.images) == 30 and learn.attributes == held_out.attributes == ATTRIBUTES
    again = load_images("faces", 16, 7)
    assert torch.equal(again[0].images, learn.images[:7]) and torch.equal(again[1].images, held_out.images)
    assert load_images("faces", 0, 1)[0].images.shape == (1, 3, 32, 32)         # 0: as they are
    assert drawn[0] == range(50) and drawn[1].start >= 10**7                     # far behind what anybody draws
    pictures = {image.numpy().tobytes() for image in torch.cat([learn.images, held_out.images])}
    assert len(pictures) == 80
    for part, first in ((learn, 0), (held_out, 10**7)):     # what else is known of them
        nuisances = draw_parameters(len(part.images), 1, first)[1]
        assert torch.equal(part.nuisances, visible(nuisances)) and part.nuisance_names == tuple(NUISANCE)
        few = part.subset(torch.tensor([7, 2]))
        assert torch.equal(few.images, part.images[[7, 2]]) and torch.equal(few.labels, part.labels[[7, 2]])
        assert torch.equal(few.nuisances, part.nuisances[[7, 2]]) and few.attributes == part.attributes


def test_a_number_or_size_of_faces_that_cannot_be(monkeypatch):
    """Guards against a traceback from an empty tensor."""
    monkeypatch.setattr(image_sets, "HELD_OUT", 2)
    for n in (0, -5):
        refused(lambda: load_images("faces", 32, n), f"--n_images={n}")
    for size in (7, -1):
        refused(lambda: load_images("faces", size, 2), f"--size={size}")


# ---- labels

@dataclasses.dataclass
class Config(LabelConfig):
    n: int = 5


def asked(attributes=ATTRIBUTES, n=200, **flags):
    return draw_labels(Config(**flags), attributes, n)


def test_flags_name_every_value_in_their_help():
    """Guards against a value that is renamed in one place only."""
    notes = field_notes(Config)
    assert {field.name for field in dataclasses.fields(LabelConfig)} == {
        field.name for field in dataclasses.fields(RunConfig)} | {*ATTRIBUTES, "label"}
    for name, values in ATTRIBUTES.items():
        assert notes[name][0] == "sampling" and all(value in notes[name][1] for value in values)


@pytest.mark.parametrize("name, value", [(name, value) for name in ATTRIBUTES for value in ATTRIBUTES[name]])
def test_a_flag_is_honoured(name, value):
    """Guards against a flag that sets another attribute, or makes the others all alike."""
    labels, free = asked(**{name: value}), asked()
    column = list(ATTRIBUTES).index(name)
    assert (labels[:, column] == ATTRIBUTES[name].index(value)).all()
    others = [i for i in range(len(ATTRIBUTES)) if i != column]
    assert torch.equal(labels[:, others], free[:, others])          # the same pictures but for it


def test_flags_of_the_command_line():
    """Guards against flags that are declared so that `parse` does not know them, or takes "none" for nothing."""
    cfg = parse(Config, {}, ["sample"], ["sample", "--hair=red", "--glasses", "none", "--label=3"])[1]
    assert (cfg.hair, cfg.glasses, cfg.label, cfg.mouth) == ("red", "none", "3", "")


def test_what_is_not_asked_for_is_anything():
    """Guards against values that are never drawn, labels that differ from call to call, and a seed without effect."""
    labels = asked()
    assert labels.shape == (200, 6) and labels.dtype == torch.int64 and torch.equal(labels, asked())
    for column, values in zip(labels.T, ATTRIBUTES.values()):
        count = Counter(column.tolist())
        assert sorted(count) == list(range(len(values)))
        assert min(count.values()) > 20     # of 200/4; fewer once in 10⁶ times
    assert not torch.equal(labels, asked(seed=2))
    several = asked(hair="red", mouth="open")
    assert (several[:, 0] == 3).all() and (several[:, 4] == 2).all()


def test_a_class_is_asked_for_by_label():
    """Guards against classes whose names are numbers, and against faces' flags taken for others."""
    digits = {"label": [str(digit) for digit in range(10)]}
    assert asked(digits, 3, label="7").tolist() == [[7]] * 3
    assert len(set(asked(digits)[:, 0].tolist())) == 10


def test_what_the_data_does_not_know_is_refused():
    """Guards against a wish that is silently ignored."""
    refused(lambda: asked(hair="green"), "--hair=green", *ATTRIBUTES["hair"])
    refused(lambda: asked(hair="Blond"), "--hair=Blond", "blond")
    refused(lambda: asked(glasses="smile"), "--glasses=smile", *ATTRIBUTES["glasses"])
    refused(lambda: asked(label="7"), "--label", *ATTRIBUTES)
    digits = {"label": ["0", "1"]}
    refused(lambda: asked(digits, label="2"), "--label=2", "0, 1")
    refused(lambda: asked(digits, hair="red"), "--hair", "label")


def test_one_hot():
    """Guards against values of one attribute that stand in the place of another's."""
    attributes = {"a": ["x", "y"], "b": ["x", "y", "z"], "c": ["x"]}
    labels = torch.tensor([[0, 0, 0], [1, 2, 0], [1, 0, 0]])
    assert one_hot(labels, attributes).tolist() == [[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 1]]
    labels = draw_labels(Config(), ATTRIBUTES, 50)
    y = one_hot(labels, ATTRIBUTES)
    assert y.dtype == torch.float32 and y.shape == (50, 21)
    parts = y.split([len(values) for values in ATTRIBUTES.values()], dim=1)
    assert torch.equal(torch.stack([part.argmax(1) for part in parts], 1), labels) and (y.sum(1) == 6).all()
    assert one_hot(labels[:0], ATTRIBUTES).shape == (0, 21)


# ---- a run's own checkpoint

def saved(folder: Path, step: int, n: int = 9):
    folder.mkdir()
    config = dataclasses.asdict(Config(n=n, steps=step, out_dir="somewhere/else"))
    torch.save({"name": "toy", "config": config, "step": step}, folder / "checkpoint.pt")
    (folder / "result.json").write_text(f'{{"steps": {step}}}')


def test_a_short_run_is_remarked_on(tmp_path, capsys):
    """Guards against samples of a run of three steps taken for those of yesterday's long one."""
    saved(tmp_path / "run", 3)
    cfg, state = own_checkpoint(Config(out_dir=str(tmp_path / "run")), "toy")
    out = capsys.readouterr().out
    assert out.startswith("note: ") and "only 3 steps" in out and "older" not in out and out.count("\n") == 1
    assert state["step"] == 3 and cfg.n == 9 and cfg.out_dir == str(tmp_path / "run")
    saved(tmp_path / "run.1", 2000)
    own_checkpoint(Config(out_dir=str(tmp_path / "run")), "toy")
    out = capsys.readouterr().out
    assert "only 3 steps" in out and "2000 steps" in out and f"--out_dir={tmp_path / 'run.1'}" in out
    own_checkpoint(Config(out_dir=str(tmp_path / "run"), resume=True), "toy")       # it is to become a long one
    own_checkpoint(Config(out_dir=str(tmp_path / "run.1")), "toy")
    assert capsys.readouterr().out == ""


def test_no_checkpoint_wanted_or_none_there(tmp_path):
    """Guards against a new run that needs an old one."""
    cfg = Config(out_dir=str(tmp_path / "none"))
    assert own_checkpoint(cfg, "toy", wanted=False) == (cfg, None)
