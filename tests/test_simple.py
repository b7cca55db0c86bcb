"""mini/studies/simple.py: the linear classifier against torch's least squares, the table of colours on made-up pictures."""
import json

import pytest
import torch

from mini.data.images.faces import ATTRIBUTES
from mini.studies import simple
from mini.utils.config import UserError
from mini.utils.image_metrics import psnr
from mini.utils.images import to_float
from tests.helpers import close

SHAPES = {"shade": ["dark", "bright"], "shape": ["disc", "square", "star"]}


def test_the_linear_classifier_solves_ridge_regression():
    """By torch's least squares, of the same equations and one more for each weight: √penalty · W = 0."""
    torch.manual_seed(0)
    x, labels = torch.randn(40, 3, 2, 2), torch.stack([torch.randint(2, (40,)), torch.randint(3, (40,))], 1)
    classifier = simple.LinearClassifier(x, labels, SHAPES, penalty=2.0)
    X = torch.cat([x.flatten(1) - x.flatten(1).mean(0), torch.ones(40, 1)], 1)
    Y = torch.zeros(40, 5)
    for i, (shade, shape) in enumerate(labels.tolist()):
        Y[i, shade] = Y[i, 2 + shape] = 1
    rows = torch.cat([X, 2.0**0.5 * torch.eye(13)])
    want = torch.linalg.lstsq(rows.double(), torch.cat([Y, torch.zeros(13, 5)]).double()).solution
    close(classifier.W.double(), want, 1e-4)
    outputs = X.double() @ want
    read = torch.stack([outputs[:, :2].argmax(1), outputs[:, 2:].argmax(1)], 1)
    assert torch.equal(classifier.read(x), read)


def test_shares_right(monkeypatch):
    """All: the images in which every attribute is read rightly."""
    monkeypatch.setattr(simple, "ATTRIBUTES", SHAPES)
    read = torch.tensor([[0, 1], [1, 1], [1, 2], [0, 0]])

    class Reader:
        def read(self, x):
            return read

    shares = simple.shares_right(Reader(), None, torch.tensor([[0, 1], [1, 0], [0, 0], [0, 0]]))
    assert shares == {"shade": 0.75, "shape": 0.5, "all": 0.5}


def domain(colour, n, seed):
    """Gray pictures; half of the pixels are of shades of one colour (R, G, B), from dark to bright."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((n, 3, 8, 8), 128)
    shade = torch.rand(n, 1, 4, 8, generator=rng)
    images[:, :, :4] = (torch.tensor(colour).view(1, 3, 1, 1) * (0.5 + shade / 2)).long()
    return images.byte(), shade[:, 0]


def test_the_table_of_colours_exchanges_what_tells_the_domains_apart():
    """Red becomes blue, a dark red a dark blue; gray stays."""
    X, _ = domain([250, 20, 20], 200, seed=1)
    Y, _ = domain([20, 20, 250], 200, seed=2)
    x, shade = domain([250, 20, 20], 20, seed=3)
    wanted = x.clone()
    wanted[:, :, :4] = (torch.tensor([20, 20, 250]).view(1, 3, 1, 1) * (0.5 + shade[:, None] / 2)).long().byte()
    new = simple.ColourTable(X, Y, smooth=20).translate(x)
    assert torch.equal(new[:, :, 4:], to_float(x[:, :, 4:]))
    assert psnr(new, to_float(wanted)).min() > 30
    added = simple.add_difference(X, Y, x)
    difference = Y.float().mean(0) - X.float().mean(0)
    close(added, to_float((x + difference).round().clamp(0, 255).byte()), 1e-6)
    assert psnr(added, to_float(wanted)).mean() < psnr(new, to_float(wanted)).mean()


def test_a_table_of_colours_needs_colours_of_its_own():
    X, _ = domain([250, 20, 20], 50, seed=1)
    with pytest.raises(UserError, match="no colour is far more frequent"):
        simple.ColourTable(X, X)


def test_the_commands(tmp_path, monkeypatch, capsys):
    """Both, on few faces: every row, in a file, too."""
    linear, colours = simple.linear, simple.colours
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mini.utils.judge.STEPS", 2)
    monkeypatch.setattr("mini.data.images.image_sets.HELD_OUT", 64)
    monkeypatch.setattr("mini.data.images.captions.HELD_OUT", 64)
    monkeypatch.setattr("mini.data.images.domains.HELD_OUT", 16)
    monkeypatch.setattr(simple, "linear", lambda: linear(n_images=300))
    monkeypatch.setattr(simple, "colours", lambda: colours(n_images=60))
    for study in ("linear", "colours"):
        simple.main([study, f"--out_dir={tmp_path}/simple"])
        rows = json.loads((tmp_path / f"simple/{study}.json").read_text())
        printed = capsys.readouterr().out
        assert all(name in printed for name in rows)
        for row in rows.values():
            shares = row if study == "linear" else {key: row[key] for key in ("right", "kept", "worst")}
            assert all(0 <= share <= 1 for share in shares.values())
        if study == "linear":
            assert list(rows["faces"]) == [*ATTRIBUTES, "all"]
            assert rows["faces"]["background"] > 0.9 and rows["held out, 16"]["skin"] > 0.9
        else:
            mean = (rows["a → b, table of colours"]["PSNR"] + rows["b → a, table of colours"]["PSNR"]) / 2
            assert rows["mean, table of colours"]["PSNR"] == pytest.approx(mean)


NOUNS = {"dog": "chien", "cat": "chat", "horse": "cheval", "bird": "oiseau"}
COLOURS = {"red": "rouge", "grey": "gris", "black": "noir", "white": "blanc"}


def test_the_translation_memory_exchanges_words():
    """Of a made-up language in which the colour stands behind the noun: a pair of words that no training sentence has."""
    pairs = [(["the", c, n, "sleeps"], ["le", NOUNS[n], COLOURS[c], "dort"]) for c in COLOURS for n in NOUNS
             if (c, n) != ("red", "cat")]
    memory = simple.TranslationMemory(3 * pairs)
    assert memory.translate(["the", "red", "cat", "sleeps"]) == ["le", "chat", "rouge", "dort"]
    assert memory.translate(["the", "grey", "bird", "sleeps"]) == ["le", "oiseau", "gris", "dort"]      # word for word
    assert memory.translate(["sleeps"]) == []                                       # no training sentence is so short
    assert memory.exchange([["le", "chat", "gris", "dort"]], "grey", "black")[0] == ["le", "chat", "noir", "dort"]
    assert memory.exchange([["oui"]], "grey", "black") == []
    assert memory.stands_for["dog"]["chien"] == 1.0                 # they always stand together


def test_the_translation_study(tmp_path, capsys, monkeypatch):
    translation = simple.translation
    monkeypatch.setattr(simple, "translation", lambda: translation(n_pairs=3000, n_test=20))
    simple.main(["translation", f"--out_dir={tmp_path}"])
    rows = json.loads((tmp_path / "translation.json").read_text())
    assert list(rows) == ["sentences", "combinations"] and "combinations" in capsys.readouterr().out
    assert all(0 <= row["exactly right"] <= 1 for row in rows.values()) and rows["sentences"]["exactly right"] > 0
