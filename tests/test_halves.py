"""mini/studies/halves.py: what it says of faces whose halves agree, and of such whose halves are of different faces."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_gan
from mini.studies import halves
from mini.utils.judge import Reading
from tests.helpers import cheap_judges


def test_a_half_beside_its_mirror_image():
    images = torch.arange(24.0).view(1, 1, 2, 12)
    left, right = halves.mirrored_halves(images)
    assert left[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]
    assert right[0, 0, 1].tolist() == [23, 22, 21, 20, 19, 18, 18, 19, 20, 21, 22, 23]


def test_correlation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 3))
    expected = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(3)]
    found = halves.correlation(torch.tensor(a), torch.tensor(b))
    assert np.allclose(found, expected, atol=1e-12)


def pictures(left, right):
    """Images whose left half shows one number and whose right half another."""
    return torch.cat([x[:, None, None, None].expand(-1, 1, 4, 2) for x in (left, right)], dim=3)


def read(images):
    """A judge that sees the mean of an image, and whether it is above 0."""
    mean = images.mean(dim=(1, 2, 3))
    return Reading(labels=(mean > 0).long()[:, None], features=mean[:, None], nuisances=mean[:, None])


def test_halves_that_agree_and_halves_that_do_not():
    """With halves of different faces the labels agree by chance only. Each half varies as much as in real faces, the
    whole face less: the mean of two independent numbers has half their variance."""
    rng = torch.Generator().manual_seed(0)
    u, v, w = torch.rand(3, 4000, generator=rng) * 2 - 1
    judge = SimpleNamespace(read=read)
    real = pictures(u, u)
    mixed = pictures(v, w)
    assert halves.agreement(real, judge, {"sign": 2}) == {"sign": 1.0}
    assert halves.agreement(mixed, judge, {"sign": 2})["sign"] == pytest.approx(0.5, abs=0.03)
    row = halves.variety(mixed, real, judge, ["number"])["number"]
    assert row["half"] == pytest.approx(1, abs=0.1) and row["whole"] < 0.8
    assert row["correlation"] == pytest.approx(0, abs=0.05) and row["of real"] == pytest.approx(1)


def test_the_study(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """From a run to its tables, very short."""
    monkeypatch.setattr(halves, "N", 64)
    with cheap_judges(tmp_path_factory, "halves"):
        train_gan.train(train_gan.Config(size=16, n_images=64, ngf=8, ndf=8, steps=2, batch_size=8, n_test=8,
                                         device="cpu", out_dir=str(tmp_path / "run")))
        halves.main([f"--out_dir={tmp_path}/run"])
    printed = capsys.readouterr().out
    assert "generated" in printed and "background" in printed
    assert (tmp_path / "run/halves.json").exists()
