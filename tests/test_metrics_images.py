"""mini/utils/metrics.py, the scores of images: Fréchet distances beside scipy's (golden file), variety beside plain loops."""
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.data.images.faces import ATTRIBUTES, NUISANCE, draw_parameters, visible
from mini.utils.image_metrics import (checkerboard_power, diversity, frechet_distance, image_report,
                                      variance_within_labels, variety)
from mini.utils.metrics import shares
from tests.helpers import refused

with np.load(Path(__file__).parent / "reference" / "frechet.npz") as file:
    GOLDEN = {name: torch.from_numpy(array) for name, array in file.items()}
CASES = [name.removesuffix("/a") for name in GOLDEN if name.endswith("/a")]
FLAT = {"few vectors of many numbers", "two vectors", "flat"}      # a covariance without full rank


# ---- the Fréchet distance

@pytest.mark.parametrize("name", CASES)
def test_frechet_distance_equals_scipy(name):
    """Guards against a slip in the formula, sums in float32 and the wrong divisor (N, not N − 1). To 10⁻⁸; in a flat
    direction the square root makes 10⁻⁸ of a rounding error of 10⁻¹⁶, so there to 10⁻⁷."""
    a, b, want = (GOLDEN[f"{name}/{part}"] for part in ("a", "b", "distance"))
    tolerance = 1e-7 if name in FLAT else 1e-8
    assert a.dtype == torch.float32
    got = frechet_distance(a, b)
    assert isinstance(got, float) and abs(got - want) <= tolerance * want
    assert abs(frechet_distance(b, a) - got) <= tolerance * want                # symmetric
    assert abs(frechet_distance(b.flip(0), a.double()) - got) <= tolerance * want   # in any order


@pytest.mark.parametrize("name", CASES)
def test_frechet_distance_of_equal_sets_and_of_moved_ones(name):
    """Guards against a distance of a set from itself, and against means that count wrongly: |d|² for a move by d."""
    a = GOLDEN[f"{name}/a"].double()
    trace = a.var(0).sum().item()
    assert abs(frechet_distance(a, a)) <= 1e-7 * trace
    d = torch.arange(1.0, a.size(1) + 1, dtype=torch.float64)
    assert abs(frechet_distance(a, a + d) - (d**2).sum()) <= 1e-7 * (trace + (d**2).sum())
    twice = trace                       # of standard deviation 2σ: Σ (2σ − σ)²
    assert abs(frechet_distance(a, 2 * a - a.mean(0)) - twice) <= 1e-7 * trace


def test_frechet_distance_needs_two_vectors():
    """Guards against NaN in result.json: one vector has no covariance."""
    for n, m in ((1, 5), (5, 1), (0, 5), (1, 1)):
        refused(lambda: frechet_distance(torch.randn(n, 3), torch.randn(m, 3)), "at least two images")
    assert math.isfinite(frechet_distance(torch.randn(2, 3), torch.randn(2, 3)))


# ---- variety

def images(n: int, seed: int, size: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def distance(a, b) -> float:
    """Root mean square over the pixels of two images in [-1, 1], of a range of 1, number by number."""
    numbers = [((x - y) / 2) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist())]
    return math.sqrt(sum(numbers) / len(numbers))


def test_variety_is_that_of_plain_loops():
    """Guards against a range of 2, a mean over pairs with themselves, and neighbours of the wrong images."""
    samples, held_out, training = images(11, 0), images(9, 1), images(40, 2)
    tables, neighbours = variety(samples, held_out, training)
    between, nearest, _ = tables.values()
    assert list(tables) == ["mean_distance_of_two_images", "mean_distance_to_the_nearest_training_image",
                            "power_in_checkerboards,_relative"]
    for name, some in (("samples", samples), ("held out", held_out)):
        pairs = [distance(a, b) for a, b in itertools.combinations(some, 2)]
        assert abs(between[name] - sum(pairs) / len(pairs)) < 1e-5
        least = [min(distance(a, b) for b in training) for a in some]
        assert abs(nearest[name] - sum(least) / len(least)) < 1e-5
    assert torch.equal(neighbours[:8], samples[:8]) and neighbours.shape == (16, 3, 4, 4)
    for sample, like in zip(neighbours[:8], neighbours[8:]):
        assert distance(sample, like) == min(distance(sample, b) for b in training)


def test_power_in_checkerboards_by_the_formula():
    """Projections on all products of a wave and (−1)^column, of (−1)^row and a wave; each of them once."""
    x = torch.randn(5, 3, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total, rows, columns = 0, torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(6.0, dtype=torch.float64)
    for k in range(8):
        for m in range(6):
            if k == 4 or m == 3:
                wave = torch.exp(-2j * math.pi * (k * rows / 8 + m * columns / 6))
                total += (x * wave).sum((2, 3)).abs().square().mean()
    assert checkerboard_power(x) == pytest.approx(total.item(), rel=1e-12)
    board = (-1.0) ** (rows + columns)
    assert checkerboard_power(board.expand(2, 3, -1, -1)) == pytest.approx(48**2) and checkerboard_power(0 * x + 1) < 1e-20
    table = variety(x, 2 * x, x)[0]["power_in_checkerboards,_relative"]
    assert table == {"samples": pytest.approx(0.25), "held out": 1.0}
    assert len(variety(x[:, :, :7], x[:, :, :7], x[:, :, :7])[0]) == 2


def test_variety_looks_at_n_images_of_each_and_at_all_of_the_training_set():
    """Guards against sets of different sizes, whose means would not be comparable."""
    samples, held_out, training = images(30, 0), images(20, 1), images(25, 2)
    assert variety(samples, held_out, training, n=6)[0] == variety(samples[:6], held_out[:6], training)[0]
    assert variety(samples, held_out, training, n=6)[0] != variety(samples, held_out, training[:20], n=6)[0]


def test_variety_sees_copies_and_a_single_picture():
    """Guards against a report in which a model that copies, or draws always the same, looks good."""
    training, held_out = images(50, 2, 8), images(20, 1, 8)
    tables, neighbours = variety(training[10:40], held_out, training)
    assert tables["mean_distance_to_the_nearest_training_image"]["samples"] < 1e-3
    assert tables["mean_distance_to_the_nearest_training_image"]["held out"] > 0.3
    assert torch.equal(neighbours[:8], neighbours[8:])
    tables, neighbours = variety(images(1, 5, 8).expand(3, -1, -1, -1), held_out, training)
    assert tables["mean_distance_of_two_images"]["samples"] < 1e-6 and neighbours.shape == (6, 3, 8, 8)


# ---- diversity

def test_variance_within_labels_by_hand():
    """Guards against means over all images, a divisor that forgets that each mean was taken from the same values, and
    images without a partner that count."""
    labels = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0]])
    values = torch.tensor([[1.0, 5], [7, 2], [4, 5], [100, 100], [9, 2], [1, 5]])
    # (0, 0): 1, 4, 1 with mean 2; (0, 1): 7, 9 with mean 8; (1, 0): one image. 6 images, 3 kinds of labels
    want = torch.tensor([(1 + 4 + 1 + 1 + 1) / 3, 0])
    assert torch.allclose(variance_within_labels(values, labels).float(), want)
    assert torch.allclose(variance_within_labels(values + 1000, labels).float(), want)
    assert variance_within_labels(values[2:5], labels[2:5]) is None


def test_variance_within_labels_has_no_bias():
    """Guards against a variance that is too small where few images have the same labels: two on average, as with 2,048
    faces, or many."""
    rng = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(20_000, 2, generator=rng)
    for kinds in (4, 10_000):
        labels = torch.randint(kinds, (20_000, 1), generator=rng)
        got = variance_within_labels(values + labels, labels)
        assert ((got / 9 - 1).abs() < 0.06).all()           # four standard deviations


def test_diversity_of_true_values():
    """Guards against a diversity that is content with a picture for each label, though it knows only one; and against
    one that is not 1 for real images. Here nobody estimates: the values are the renderer's own."""
    labels, nuisances = draw_parameters(2048, 1)
    real_labels, real_nuisances = draw_parameters(4096, 1, first=10**7)
    real = visible(real_nuisances), real_labels
    assert abs(diversity(visible(nuisances), labels, *real) - 1) < 0.03
    usual = torch.tensor([(low + high) / 2 for low, high in NUISANCE.values()])
    half = nuisances.clone()
    half[:, ::2] = usual[::2]
    assert abs(diversity(visible(half), labels, *real) - 0.5) < 0.03
    fixed = visible(usual.expand(2048, -1))
    assert diversity(fixed, labels, *real) < 1e-12
    number = torch.zeros(2048, dtype=torch.int64)           # of the combination of labels, of 1,728
    for column, values in zip(labels.T, ATTRIBUTES.values()):
        number = number * len(values) + column
    assert diversity(visible(draw_parameters(1728, 5)[1])[number], labels, *real) < 1e-12
    assert diversity(visible(nuisances[:1]), labels[:1], *real) is None
    shrunk = visible(nuisances) / 2**0.5                    # half the variance everywhere
    assert abs(diversity(shrunk, labels, *real) - 0.5) < 0.03


# ---- in words

SCORES = {"frechet": 12.34, "frechet_floor": 0.56, "frechet_untrained": 789.1, "frechet_n": 2048,
          "features": "face features", "floor_images": "training images"}


def test_shares_says_each_number_beside_its_own_baseline():
    """Guards against accuracies and baselines that are paired wrongly, and against lost lines."""
    text = shares({"hair": 0.98765, "glasses": 0.5}, {"glasses": 0.34, "hair": 0.2512})
    lines = [line.split() for line in text.split("\n")]
    assert lines == [["hair", "98.77%", "(25.12%)"], ["glasses", "50.00%", "(34.00%)"]]


def test_image_report_says_every_number():
    """Guards against a number without its baseline, and against a report that fails for want of a score."""
    report = image_report(SCORES)
    assert re.findall(r"\d[\d,.]*\d", report) == ["2,048", "12.3", "0.6", "789"]
    assert "face features" in report and "floor" in report and "untrained" in report and "asked" not in report
    varied = image_report({**SCORES, "diversity": 0.678, "diversity_data": 0.991})
    assert varied.startswith(report + "\ndiversity") and varied.endswith("0.68; other real images 0.99")
    assert image_report({**SCORES, "diversity": None, "diversity_data": None}) == report        # too few images
    told = image_report({**SCORES, "floor_images": "other images with the same labels"})
    assert "the same labels 0.6 (the floor)" in told and "training" not in told
    read, guess = {"hair": 0.9, "style": 0.8}, {"hair": 0.3, "style": 0.2}
    more = image_report({**SCORES, "accuracy": read, "most_frequent": guess})
    assert more.startswith(report + "\n") and more.endswith(shares(read, guess))
    assert "asked for" in more and "most frequent" in more
    assert image_report({}).startswith("no Fréchet distance") and "\n" not in image_report({})
