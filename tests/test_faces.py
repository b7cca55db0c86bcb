"""mini/data/images/faces.py: the same faces everywhere, drawn as a slow renderer draws them, labelled as they look."""
import hashlib
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.data.images.faces import (ATTRIBUTES, NUISANCE, WORDINGS, caption, draw_parameters, faces,
                                    render, uniform, visible)
from mini.utils.png import read_png
from tests.helpers import refused

ROOT = Path(__file__).parent.parent
COUNTS = [len(values) for values in ATTRIBUTES.values()]
PINNED = {32: (64, "d1dd1cbf26d371632c35d139ccb9a1d9f2744a381cbf12885f6c484f3ee86d3a"),
          64: (16, "75456b4c2d1b1f7122dd7080a6852d62f7c4e5ca1ce7ec1df7896d5220b22cce")}


def digest(images) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


# ---- the same everywhere

def test_pinned_pixels():
    """Guards against faces that change from one version or machine to another: scores would not be comparable, and
    checkpoints would be judged on other data."""
    for size, (n, sha256) in PINNED.items():
        assert digest(faces(n, size)[0]) == sha256


def test_the_face_in_the_gallery():
    """A held-out one: red hair, square glasses, a smile."""
    images, labels = faces(1, size=256, first=10**7 + 824)
    picture = read_png(Path(__file__).parent.parent / "mini/gallery/face.png")
    assert np.array_equal(picture, images[0].permute(1, 2, 0).numpy())
    assert caption(labels[0]).startswith("a smiling face with long red hair, light skin and square glasses")


def test_another_process_with_two_threads_and_plain_instructions_draws_the_same():
    """Guards against faces that depend on the number of cores, on the width of the processor's vectors, on what Intel's
    MKL does on other processors (in its compatible mode one root of six has another last bit, which showed in the larger
    faces), or on what the process did before. (16 · 64² numbers are enough for torch to share them; waiting threads must
    not spin, for on a busy machine that takes seconds.)"""
    script = ("import hashlib, torch; from mini.data.images.faces import faces; print(torch.get_num_threads())\n"
              "for n, size in ((64, 32), (16, 64)):\n"
              "    print(hashlib.sha256(faces(n, size)[0].numpy().tobytes()).hexdigest())")
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2",
           "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=env)
    assert result.stdout.split() == ["2", *(sha256 for _, sha256 in PINNED.values())], result


def test_a_face_does_not_depend_on_its_batch_mates():
    """Guards against faces that depend on how many are drawn, in which order, and how many at once."""
    images, labels = faces(70, 16)
    for n, first in ((1, 0), (3, 5), (66, 4), (1, 69)):
        part, part_labels = faces(n, 16, first=first)
        assert torch.equal(part, images[first:first + n]) and torch.equal(part_labels, labels[first:first + n])
    labels, nuisance = draw_parameters(70, 1)
    for at_once in (1, 7, 69, 70, 1000):
        assert torch.equal(render(labels, nuisance, 16, at_once), images)
    turned = torch.arange(69, -1, -1)
    assert torch.equal(render(labels[turned], nuisance[turned], 16), images[turned])
    assert images.dtype == torch.uint8 and images.shape == (70, 3, 16, 16)
    assert labels.dtype == torch.int64 and labels.shape == (70, 6) and nuisance.dtype == torch.float32
    assert faces(0, 16)[0].shape == (0, 3, 16, 16)


def test_seeds_and_numbers_give_different_faces():
    """Guards against a seed that is ignored, or that only shifts the numbering of the same faces."""
    seeds = [0, 1, 2, 3, 2**20, 2**63, -1]
    images = [faces(40, 8, seed=seed)[0] for seed in seeds]
    assert all(torch.equal(a, faces(40, 8, seed=seed)[0]) for a, seed in zip(images, seeds))
    assert len({digest(image) for image in torch.cat(images)}) == 40 * len(seeds)
    far = faces(40, 8, first=10**7)[0]
    assert len({digest(image) for image in torch.cat([images[1], far])}) == 80


def splitmix(seed: int, index: int, column: int) -> float:
    """Steele, Lea & Flood 2014, figure 16, in Python's integers; the state is as `uniform` chooses it."""
    mask = 2**64 - 1
    z = ((256 * index + column + seed * 0xD1342543DE82EF95) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / 2**53


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 12345, 2**62 + 1, 2**64 - 1, -1])
def test_uniform_is_splitmix64(seed):
    """Guards against a slip in the hash, warnings of overflow, and rows that depend on their place."""
    index = [0, 1, 2, 255, 256, 10**7, 10**7 + 4095, 2**40]
    got = uniform(seed, index, 16)
    assert got.dtype == np.float64 and got.shape == (8, 16)
    assert got.tolist() == [[splitmix(seed, i, column) for column in range(16)] for i in index]


def test_uniform_gives_the_published_numbers():
    """Guards against the same slip twice: the first outputs of Vigna's splitmix64.c from the state 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert uniform(0, [0], 6)[0, 1:].tolist() == [(z >> 11) / 2**53 for z in published]


# ---- labels and nuisance

def not_by_chance(statistic: float, freedom: int) -> bool:
    """Is a chi-squared statistic larger than it is once in 10⁸ times? (Laurent & Massart 2000, lemma 1.) Here are
    some 200 of them, so a good generator fails these tests with a probability below 2 · 10⁻⁶."""
    x = math.log(1e8)
    return statistic > freedom + 2 * math.sqrt(freedom * x) + 2 * x


def bins(values, low, high, count=8):
    return ((values - low) / (high - low) * count).astype(int).clip(0, count - 1)


def columns():
    """{name: (its value or its bin for each of 30,000 faces, how many there are)}"""
    labels, nuisance = (part.numpy() for part in draw_parameters(30_000, 1))
    table = {name: (labels[:, i], COUNTS[i]) for i, name in enumerate(ATTRIBUTES)}
    for i, (name, (low, high)) in enumerate(NUISANCE.items()):
        table[f"{name} (nuisance)"] = bins(nuisance[:, i].astype(float), low, high), 8
    return table


def test_every_column_is_uniform():
    """Guards against a value that never comes, or comes too often, and against clustering."""
    for name, (values, count) in columns().items():
        seen, wanted = np.bincount(values, minlength=count), len(values) / count
        assert len(seen) == count and not not_by_chance(((seen - wanted) ** 2).sum() / wanted, count - 1), name


def test_columns_are_independent():
    """Guards against a column used twice: then blond faces would all look to the left; and against a face that tells
    what the next one is."""
    table = columns()
    following = {f"next {name}": (np.roll(values, -1), count) for name, (values, count) in table.items()}
    pairs = [*itertools.combinations(table.items(), 2), *zip(table.items(), following.items())]
    assert len(pairs) == 120 + 16
    for (a, (x, n)), (b, (y, m)) in pairs:
        seen = np.bincount(x * m + y, minlength=n * m).reshape(n, m)
        wanted = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
        assert not not_by_chance(((seen - wanted) ** 2 / wanted).sum(), (n - 1) * (m - 1)), (a, b)


def test_nuisance_fills_its_range():
    """Guards against ranges swapped between columns, or not reached."""
    nuisance = draw_parameters(30_000, 1, first=7)[1]
    assert nuisance.shape == (30_000, len(NUISANCE))
    for values, (low, high) in zip(nuisance.double().T, NUISANCE.values()):
        edge = 1e-6 + 1e-3 * (high - low)
        assert low - 1e-6 <= values.min() < low + edge and high - edge < values.max() <= high + 1e-6


def test_the_ends_of_the_ranges_can_be_drawn():
    """Guards against an index out of range: in float32 a number just below 1 becomes 1, as in face 3,316,522."""
    assert faces(1, 16, first=3_316_522)[0].shape == (1, 3, 16, 16)
    ends = torch.tensor(list(itertools.zip_longest(*NUISANCE.values())))
    images = render(torch.zeros(2, 6, dtype=torch.int64), ends, 16)
    almost = ends.clone()
    for name in ("iris", "shirt"):
        almost[1, list(NUISANCE).index(name)] = 0.999
    assert torch.equal(images, render(torch.zeros(2, 6, dtype=torch.int64), almost, 16))


def test_visible_nuisances():
    """Guards against numbers that no picture shows: two faces with the same iris must have the same number for it; and
    against a scale that is not the same for all."""
    nuisance = draw_parameters(5000, 1)[1]
    shown = visible(nuisance)
    assert shown.shape == nuisance.shape and shown.min() >= -1 - 1e-5 and shown.max() <= 1 + 1e-5
    for k, (name, (low, high)) in enumerate(NUISANCE.items()):
        kinds = {"iris": 3, "shirt": 4}.get(name)
        if kinds:
            kind = (nuisance[:, k] * kinds).long()
            found = [shown[kind == i, k].unique() for i in range(kinds)]
            assert all(len(values) == 1 for values in found) and len(torch.cat(found).unique()) == kinds
            assert torch.cat(found).min() == -1 and torch.cat(found).max() == 1
        else:
            assert torch.allclose(low + (high - low) * (shown[:, k] + 1) / 2, nuisance[:, k], atol=1e-6)


# ---- beside a slow renderer

def slow_face(label, nuisance, size: int, samples: int = 6) -> np.ndarray:
    """One face (size, size, 3) from 0 to 255 in float64: each pixel is the mean of samples² points, and a point is
    inside a shape or it is not."""
    value = {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), label.tolist())}
    free = {name: float(number) for name, number in zip(NUISANCE, nuisance)}
    at = (np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1
    X, Y = np.meshgrid(at, at)
    x, y = (X - free["x"]) / free["scale"], (Y - 0.1 - free["y"]) / free["scale"]
    angle = 2 * math.atan(free["tilt"])
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    w, head = np.abs(u), 0.46 * free["width"]
    points = np.empty((*X.shape, 3))

    def paint(inside, colour, strength=1.0):
        points[inside] += (np.asarray(colour, float) - points[inside]) * strength

    def disc(a, b, radius_a, radius_b=None):
        return (a / radius_a) ** 2 + (b / (radius_b or radius_a)) ** 2 < 1

    hair, skin = ({"black": (.11, .10, .13), "brown": (.44, .26, .14), "blond": (.96, .80, .38),
                   "red": (.80, .32, .12)}[value["hair"]],
                  {"light": (.99, .85, .74), "medium": (.86, .64, .47), "dark": (.58, .40, .29)}[value["skin"]])
    hair, skin, lips, dark = np.array(hair), np.array(skin), (.76, .26, .27), (.14, .12, .16)
    ground = {"blue": (.50, .71, .93), "green": (.56, .80, .58), "pink": (.96, .68, .78), "grey": (.78, .78, .80)}
    points[:] = np.array(ground[value["background"]]) * (1.04 - 0.05 * (Y + 1))[:, :, None]
    if value["style"] == "long":
        paint((v <= 0) & disc(u, v, head + 0.1, 0.66) | (v > 0) & (w < head + 0.1 + 0.06 * v) & (v < 0.8), 0.86 * hair)
    if value["style"] == "curly":
        theta = np.arctan2(u / 0.93, v + 0.1)
        paint(np.hypot(u / 0.93, v + 0.1) < 0.62 + 0.035 * np.cos(16 * theta), 0.86 * hair)
    if value["style"] == "bun":
        paint(disc(u, v + 0.7, 0.17), 0.86 * hair)
    shirts = [(.93, .93, .95), (.20, .28, .48), (.72, .25, .28), (.30, .52, .50)]
    paint((v > 0.62 + 0.9 * u**2) & (w < 0.8), shirts[int(free["shirt"] * 4)])
    paint((w < 0.16) & (v > 0.3) & (v < 0.72), 0.86 * skin)
    for side in (-1, 1):
        paint(disc(u - side * head, v - 0.06, 0.09, 0.12), 0.92 * skin)
    paint(disc(u, v - 0.03, head, 0.57), skin)
    for side in (-1, 1):
        paint(disc(u - side * 0.27, v - 0.22, 0.09), lips, 0.15)
    line = (-0.36 if value["style"] == "bun" else -0.27) + 1.15 * u**2 + free["parting"] * u
    paint(disc(u, v, head + 0.05, 0.62) & (v < line), hair)
    for side in (-1, 1):
        a, b = u - side * free["eyes"], v + 0.02
        paint(disc(a, b, 0.105, 0.085), (1, 1, 1))
        irises = [(.36, .21, .10), (.20, .45, .80), (.22, .52, .30)]
        paint(disc(a - free["gaze"], b, 0.066), irises[int(free["iris"] * 3)])
        paint(disc(a - free["gaze"], b, 0.032), dark)
        paint((np.abs(a) < 0.1) & (np.abs(b + 0.15 + 0.9 * a**2) < 0.022), 0.75 * hair)
    paint(disc(u, v - 0.17, 0.05, 0.035), 0.78 * skin)
    if value["mouth"] == "smile":
        paint((w < 0.21) & (np.abs(v - 0.39 + 2.2 * u**2) < 0.035), lips)
    if value["mouth"] == "neutral":
        paint((w < 0.15) & (np.abs(v - 0.345) < 0.028), lips)
    if value["mouth"] == "open":
        paint(disc(u, v - 0.365, 0.125, 0.1), (.40, .08, .11))
        paint(disc(u, v - 0.365, 0.1, 0.08) & (v < 0.325), (1, 1, 1))
    if value["glasses"] != "none":
        a, b, c = w - free["eyes"], v + 0.02, v + 0.01

        def lens(more):
            if value["glasses"] == "round":
                return disc(a, b, 0.155 + more)
            return (np.abs(a) < 0.155 + more) & (np.abs(c) < 0.125 + more)
        paint(lens(0), (1, 1, 1), 0.22)
        paint(lens(0.026) & ~lens(-0.026) | (np.abs(v + 0.05) < 0.022) & (w < head) & ~lens(0), dark)
    return 255 * points.clip(0, 1).reshape(size, samples, size, samples, 3).mean((1, 3))


def many_kinds():
    """Twelve faces, among which every value of every attribute is seen at least three times."""
    nuisance = draw_parameters(12, 1)[1]
    labels = torch.stack([(torch.arange(12) + torch.arange(12) // count * shift) % count
                          for count, shift in zip(COUNTS, (0, 1, 0, 1, 1, 3))], dim=1)
    assert all((labels[:, a] == value).sum() >= 3 for a, count in enumerate(COUNTS) for value in range(count))
    return labels, nuisance


@pytest.mark.parametrize("size, mean, in_block, shift", [(32, 2.2, 15, 11), (64, 1.2, 6.8, 3)])
def test_beside_a_slow_renderer(size, mean, in_block, shift):
    """Guards against shapes in the wrong place, order or colour, and wrong coverage of pixels at the edges. Out of
    255: the mean difference of a face, the mean in any eighth by eighth of it, and how much lighter or darker that is;
    the bounds are a fifth above what is due to the distances, which are not exact."""
    for label, free in zip(*many_kinds()):
        image = render(label[None], free[None], size)[0].permute(1, 2, 0).numpy()
        difference = (slow_face(label, free, size) - image).reshape(8, size // 8, 8, size // 8, 3)
        assert abs(difference).mean() < mean
        assert abs(difference).mean((1, 3)).max() < in_block and abs(difference.mean((1, 3))).max() < shift


# ---- one attribute changed

def changes(name: str, size: int = 48):
    """For a few faces and for each two values of an attribute: the pixels (size, size) that differ between them, the
    labels, the face's own coordinates (u, v) of the pixels, the width of one, and the nuisance."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    column = list(ATTRIBUTES).index(name)
    for label, nuisance in zip(*many_kinds()):
        x0, y0, scale, tilt = nuisance[:4].tolist()
        x, y = np.meshgrid((at - x0) / scale, (at - 0.1 - y0) / scale)
        angle = 2 * math.atan(tilt)
        u = math.cos(angle) * x + math.sin(angle) * y
        v = math.cos(angle) * y - math.sin(angle) * x
        several = label.repeat(COUNTS[column], 1)
        several[:, column] = torch.arange(COUNTS[column])
        images = render(several, nuisance.repeat(COUNTS[column], 1), size)
        for a, b in itertools.combinations(range(COUNTS[column]), 2):
            differ = (images[a] != images[b]).any(0).numpy()
            assert differ.any(), name
            yield differ, several[a], u, v, 2 / (size * scale), nuisance


def test_every_value_is_seen_and_nothing_else_moves():
    """Guards against an attribute that shows in the wrong place, or moves the rest of the face: then "the same face
    with one attribute changed" would be another face. One pixel more is allowed: edges are smooth."""
    eyes, width = (list(NUISANCE).index(name) for name in ("eyes", "width"))
    for differ, _, u, v, pixel, _ in changes("mouth"):
        assert (abs(u[differ]) < 0.21 + pixel).all() and (v[differ] > 0.25 - pixel).all()
        assert (v[differ] < 0.465 + pixel).all()
    for differ, _, u, v, pixel, nuisance in changes("glasses"):
        a, b, head = abs(u) - float(nuisance[eyes]), v + 0.02, 0.46 * float(nuisance[width])
        near = (abs(a) < 0.181 + pixel) & (abs(b) < 0.181 + pixel) | (abs(u) < head + pixel) & (abs(b + 0.03) < 0.05)
        assert near[differ].all()
    for differ, _, u, v, pixel, nuisance in changes("background"):
        head = 0.46 * float(nuisance[width])
        inside = (u / (head - pixel)) ** 2 + ((v - 0.03) / (0.57 - pixel)) ** 2 < 1
        assert not differ[inside].any() and differ[0, [0, -1]].all()    # and the corners
    for name in ("hair", "style"):
        for differ, label, u, v, pixel, nuisance in changes(name):
            head = 0.46 * float(nuisance[width])
            face = (u / (head - 2 * pixel)) ** 2 + ((v - 0.03) / (0.57 - 2 * pixel)) ** 2 < 1
            assert not differ[face & (v > 0.12)].any(), name            # below the eyes: cheeks, nose, mouth, chin
    for differ, label, u, v, pixel, nuisance in changes("skin"):
        ears = 0.46 * float(nuisance[width]) + 0.09
        assert (abs(u[differ]) < ears + pixel).all() and (v[differ] < 0.82).all() and (v[differ] > -0.54 - pixel).all()
        assert differ[(abs(u) < 0.1) & (abs(v - 0.25) < 0.02)].all()    # between nose and mouth


# ---- sizes

@pytest.mark.parametrize("size", [8, 16, 28, 32, 33, 64, 128])
def test_sizes(size):
    """Guards against sizes that only work if they are powers of two: a small face is a large one seen from afar."""
    images, labels = faces(6, size)
    assert images.shape == (6, 3, size, size) and torch.equal(labels, draw_parameters(6, 1)[0])
    large = render(*draw_parameters(6, 1), 8 * size if size < 64 else 2 * size).double()
    small = torch.nn.functional.interpolate(large, size=(size, size), mode="area")
    assert (small - images).abs().mean() < 60 / size


def test_too_small_a_size_is_refused():
    """Guards against a traceback, or an empty picture, for --size=4."""
    for size in (7, 1, 0, -32):
        refused(lambda: faces(2, size), f"--size={size}", "at least 8")


# ---- captions

SAID = {"smile": "smiling", "neutral": "serious", "none": "no glasses"}     # how a caption names a value otherwise


@pytest.mark.parametrize("wording", range(len(WORDINGS)))
def test_captions_name_every_attribute_and_tell_all_labels_apart(wording):
    """Guards against wordings that leave an attribute out: two faces with the same caption could not be told apart."""
    texts = []
    for values in itertools.product(*map(range, COUNTS)):
        text = caption(torch.tensor(values), wording)
        names = dict(zip(ATTRIBUTES, (names[i] for names, i in zip(ATTRIBUTES.values(), values))))
        words = [SAID.get(names[name], names[name]) for name in ("hair", "style", "background")]
        words += [f"{names['skin']} skin", SAID.get(names["glasses"], f"{names['glasses']} glasses")]
        words += [SAID[names["mouth"]]] if names["mouth"] in SAID else []
        assert all(re.search(rf"\b{word}\b", text) for word in words), text
        assert text == text.strip() and "  " not in text and "{" not in text
        texts.append(text)
    assert len(set(texts)) == math.prod(COUNTS) == 1728


def test_wordings_differ_and_start_again():
    """Guards against a number of a wording beyond the last, and against two wordings that are one."""
    label = torch.tensor([2, 1, 0, 1, 0, 3])
    texts = [caption(label, wording) for wording in range(len(WORDINGS) + 1)]
    assert len(set(texts[:-1])) == len(WORDINGS) and texts[-1] == texts[0] == caption(label)
    assert texts[0] == "a smiling face with long blond hair, light skin and round glasses, on a grey background"


def test_captions_are_good_english():
    """Guards against "a open-mouthed face", which a caption model would learn to say."""
    for values, wording in itertools.product(itertools.product(*map(range, COUNTS)), range(len(WORDINGS))):
        text = caption(torch.tensor(values), wording)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
