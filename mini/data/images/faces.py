"""Cartoon faces, drawn on the spot: the data set that all image models here share.

Every face has six attributes (ATTRIBUTES). The rest, the nuisance, is random: its place, size and
tilt, its eyes, its shirt. The true answer is always known, so every model can be scored, and
`render` can draw the same face again with one attribute changed.

    draw_parameters     labels and nuisance of faces, by number
    render              the images of labels and nuisance
    faces               both at once
    caption             labels in words

How a shape is drawn: its signed distance d (negative inside, in the face's own units) gives the
share of each pixel that it covers, clamp(½ − d / (width of a pixel), 0, 1). This makes smooth edges
at any size. Only + − × ÷ and √ are used, which IEEE 754 rounds in the same way everywhere (`root`),
so a face is the same bit for bit on every machine.

One that no model learns from is mini/gallery/face.png: faces(1, size=256, first=10**7 + 824).
"""
import functools

import numpy as np
import torch

from mini.utils.config import UserError

ATTRIBUTES = {
    "hair": ["black", "brown", "blond", "red"],
    "style": ["short", "long", "curly", "bun"],
    "skin": ["light", "medium", "dark"],
    "glasses": ["none", "round", "square"],
    "mouth": ["smile", "neutral", "open"],
    "background": ["blue", "green", "pink", "grey"],
}
# What else differs between faces: (smallest, largest) value, drawn uniformly.
NUISANCE = {
    "x": (-0.09, 0.09),             # where the face is, in half-widths of the picture
    "y": (-0.07, 0.07),
    "scale": (1.16, 1.36),
    "tilt": (-0.07, 0.07),          # tangent of half the angle
    "width": (0.93, 1.07),          # of the head
    "eyes": (0.185, 0.225),         # from the middle of the face to an eye
    "iris": (0, 1),                 # its colour
    "gaze": (-0.025, 0.025),        # where the eyes look
    "parting": (-0.18, 0.18),       # slope of the hairline
    "shirt": (0, 1),                # its colour
}

# The colours of each value, in the order of ATTRIBUTES: red, green, blue.
HAIR = torch.tensor([
    (0.11, 0.10, 0.13), (0.44, 0.26, 0.14), (0.96, 0.80, 0.38), (0.80, 0.32, 0.12)])
SKIN = torch.tensor([
    (0.99, 0.85, 0.74), (0.86, 0.64, 0.47), (0.58, 0.40, 0.29)])
BACKGROUND = torch.tensor([
    (0.50, 0.71, 0.93), (0.56, 0.80, 0.58), (0.96, 0.68, 0.78), (0.78, 0.78, 0.80)])
# and those of the nuisance, and of all faces
IRIS = torch.tensor([
    (0.36, 0.21, 0.10), (0.20, 0.45, 0.80), (0.22, 0.52, 0.30)])
SHIRT = torch.tensor([
    (0.93, 0.93, 0.95), (0.20, 0.28, 0.48), (0.72, 0.25, 0.28), (0.30, 0.52, 0.50)])
LIPS = torch.tensor((0.76, 0.26, 0.27))
THROAT = torch.tensor((0.40, 0.08, 0.11))
DARK = torch.tensor((0.14, 0.12, 0.16))
WHITE = torch.tensor((1.0, 1.0, 1.0))


# ---- the parameters of a face

def uniform(seed: int, index, columns: int):
    """Random numbers in [0, 1), float64 (n, columns). Row i depends only on seed and index[i], so a
    face is the same, however many are drawn at once. They come from SplitMix64 (Steele, Lea & Flood
    2014), a hash of a counter; all of it is modulo 2^64."""
    rows = np.asarray(index, np.uint64)[:, None]                    # (n, 1)
    counter = rows * np.uint64(256) + np.arange(columns, dtype=np.uint64)
    offset = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    z = (counter + offset) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) / 2.0**53                           # its first 53 bits


def draw_parameters(n: int, seed: int, first: int = 0):
    """(labels, nuisance) of the faces number first … first + n − 1 of a seed. labels int64 (n, 6):
    the number of each attribute's value, in the order of ATTRIBUTES. nuisance float32 (n, 10), in
    the order of NUISANCE."""
    A = len(ATTRIBUTES)
    numbers = np.arange(first, first + n)
    u = torch.from_numpy(uniform(seed, numbers, A + len(NUISANCE)))     # float64 (n, 16)
    n_values = torch.tensor([len(values) for values in ATTRIBUTES.values()])
    labels = (u[:, :A] * n_values).long()
    low, high = torch.tensor(list(NUISANCE.values()), dtype=torch.float64).T
    nuisance = low + (high - low) * u[:, A:]
    return labels, nuisance.float()


def visible(nuisance):
    """The nuisance (n, 10) of faces as numbers that can be read off a picture, each from −1 to 1.

    Places, sizes and angles are scaled. Of the iris only its colour shows, and how blue that is
    tells the three colours apart; of the shirt, how red it is.
    """
    low, high = torch.tensor(list(NUISANCE.values())).T
    scaled = 2 * (nuisance - low) / (high - low) - 1
    names = list(NUISANCE)
    for name, colours, channel in (("iris", IRIS, 2), ("shirt", SHIRT, 0)):     # blue, red
        k = names.index(name)
        amounts = colours[:, channel]                   # of blue or red, in each of the colours
        least = amounts.min()
        most = amounts.max()
        shown = one_of(amounts, nuisance[:, k])         # (n,)
        scaled[:, k] = 2 * (shown - least) / (most - least) - 1
    return scaled


def one_of(values, u):
    """The one of the values that each number of u in [0, 1] stands for, in equal parts."""
    number = (u * len(values)).long().clamp(max=len(values) - 1)
    return values[number]


# ---- drawing

NOTHING = torch.tensor(9.0)     # a distance so large that nothing is drawn


def render(labels, nuisance, size: int = 32, at_once: int = 64):
    """Draw faces with these labels (n, 6) and nuisance (n, 10): uint8 (n, 3, size, size).

    If some labels are changed and the nuisance is kept, only the changed attributes differ. Raises
    UserError if size is too small.
    """
    if size < 8:
        raise UserError(f"--size={size}: a face needs at least 8 pixels")
    images = torch.empty(len(labels), 3, size, size, dtype=torch.uint8)
    # few at a time, so that they fit in the processor's cache
    for begin in range(0, len(labels), at_once):
        end = begin + at_once
        images[begin:end] = _render(labels[begin:end], nuisance[begin:end], size)
    return images


def root(x):
    """√x, rounded to the nearest number. torch.sqrt has another last bit on some processors, since
    it leaves roots to Intel's MKL; numpy leaves them to the processor."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def circle(x, y):
    """The distance from the middle, 0."""
    return root(x * x + y * y)


def ellipse(u, v, a, b):
    """The distance from the ellipse around 0 with half-axes a and b: nearly, and exactly for a
    circle."""
    return (root((u / a) ** 2 + (v / b) ** 2) - 1) * b


def within(*distances):
    """The distance of the intersection of shapes."""
    return functools.reduce(torch.maximum, distances)


def _render(labels, nuisance, size):
    """Images of n faces, uint8 (n, 3, size, size)."""
    hair, style, skin, glasses, mouth, background = labels.T                    # (n,) each
    hair_colour = HAIR[hair]                                                    # (n, 3)
    skin_colour = SKIN[skin]
    # (n, 1, 1) each
    x0, y0, scale, tilt, width, eyes, iris, gaze, parting, shirt = nuisance.T[..., None, None]

    # the pixels' centres, from −1 to 1
    at = (torch.arange(size) * 2 + 1) / size - 1                                # (size,)
    # in the face's own coordinates: u to the right, v down
    x = (at - x0) / scale                                                       # (n, 1, size)
    y = (at[:, None] - 0.10 - y0) / scale                                       # (n, size, 1)
    cos = (1 - tilt * tilt) / (1 + tilt * tilt)
    sin = 2 * tilt / (1 + tilt * tilt)
    u = cos * x + sin * y                                                       # (n, size, size)
    v = cos * y - sin * x
    w = u.abs()                                         # the same on the left and on the right
    side = u / w.clamp(min=1e-6)                        # -1 on the left, 1 on the right
    pixel = 2 / (size * scale)                          # its width

    # three channels, each (n, size, size): first the background, which is darker below
    shade = 1.04 - 0.05 * (at[:, None] + 1)                                     # (size, 1)
    canvas = []
    for value in BACKGROUND[background].T:                                      # (n,)
        canvas.append((value[:, None, None] * shade).repeat(1, 1, size))

    def paint(distance, colour, strength=1.0):
        """Cover a shape with a colour, (3,), or (n, 3) with one for each face."""
        cover = (0.5 - distance / pixel).clamp_(0, 1).mul_(strength)
        for channel, value in zip(canvas, colour.view(-1, 3).T):
            channel += (value.view(-1, 1, 1) - channel).mul_(cover)

    def choose(values, *distances):
        """For each face the distance whose number is its value; NOTHING if it has none."""
        chosen = NOTHING
        for value, distance in enumerate(distances):
            chosen = torch.where((values == value)[:, None, None], distance, chosen)
        return chosen

    # behind the head: nothing, long hair, curls or a bun
    head = 0.46 * width
    above = ellipse(w, v, head + 0.10, 0.66)
    below = within(w - head - 0.10 - 0.06 * v, v - 0.80)
    long_hair = torch.where(v > 0, below, above)
    r = root((w / 0.93) ** 2 + (v + 0.10) ** 2).clamp(min=1e-6)
    wave = (v + 0.10) / r                               # cos θ
    for _ in range(4):
        wave = 2 * wave * wave - 1                      # cos 2θ = 2 · cos² θ − 1; at last cos 16θ
    curls = r - 0.62 - 0.035 * wave
    bun = root(u ** 2 + (v + 0.70) ** 2) - 0.17
    paint(choose(style, NOTHING, long_hair, curls, bun), 0.86 * hair_colour)

    # shoulders
    paint(within(0.62 + 0.9 * w * w - v, w - 0.80), one_of(SHIRT, shirt.flatten()))
    # neck
    paint(within(w - 0.16, v - 0.72, 0.3 - v), 0.86 * skin_colour)
    # ears
    paint(ellipse(w - head, v - 0.06, 0.09, 0.12), 0.92 * skin_colour)
    # head
    paint(ellipse(u, v - 0.03, head, 0.57), skin_colour)
    # cheeks, with soft edges
    paint(ellipse(w - 0.27, v - 0.22, 0.09, 0.09) / 3, LIPS, 0.15)

    # hair in front: on a slightly larger head, above the hairline
    hair_begins = torch.where((style == 3)[:, None, None], -0.36, -0.27)        # a bun: higher up
    hairline = hair_begins + (1.15 * w + parting * side) * w
    paint(within(ellipse(u, v, head + 0.05, 0.62), 0.8 * (v - hairline)), hair_colour)

    # eyes, brows
    eu = w - eyes                                       # from the middle of the nearer eye
    ev = v + 0.02
    pupil = circle(eu - gaze * side, ev)
    paint(ellipse(eu, ev, 0.105, 0.085), WHITE)
    paint(pupil - 0.066, one_of(IRIS, iris.flatten()))
    paint(pupil - 0.032, DARK)
    brow = (ev + 0.15 + 0.9 * eu * eu).abs() - 0.022
    paint(within(brow, eu.abs() - 0.10), 0.75 * hair_colour)

    # nose
    paint(ellipse(u, v - 0.17, 0.05, 0.035), 0.78 * skin_colour)

    # mouth; an open one has upper teeth
    mv = v - 0.345                                      # from its middle
    smile = within((mv - 0.045 + 2.2 * w * w).abs() - 0.035, w - 0.21)
    neutral = within(mv.abs() - 0.028, w - 0.15)
    opened = ellipse(w, mv - 0.02, 0.125, 0.10)
    teeth = within(opened + 0.02, mv + 0.02)
    paint(choose(mouth, smile, neutral), LIPS)
    paint(choose(mouth, NOTHING, NOTHING, opened), THROAT)
    paint(choose(mouth, NOTHING, NOTHING, teeth), WHITE)

    # glasses: lenses, then rims with the bar between them and over the temples
    round_lens = circle(eu, ev) - 0.155
    square_lens = within(eu.abs() - 0.155, (ev - 0.01).abs() - 0.125)
    lens = choose(glasses, NOTHING, round_lens, square_lens)
    bar = within((ev + 0.03).abs() - 0.022, w - head, -lens)
    bar = choose(glasses, NOTHING, bar, bar)
    rim = lens.abs() - 0.026
    paint(lens, WHITE, 0.22)
    paint(torch.minimum(rim, bar), DARK)

    return torch.stack(canvas, dim=1).clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def faces(n: int, size: int = 32, seed: int = 1, first: int = 0):
    """(images uint8 (n, 3, size, size), labels int64 (n, 6)) of the faces number first …
    first + n − 1."""
    labels, nuisance = draw_parameters(n, seed, first)
    return render(labels, nuisance, size), labels


# ---- in words

WORDINGS = [
    "a {mouth} face with {style}, {skin} skin and {glasses}, on a {background} background",
    "someone with {skin} skin, {style} and {glasses}, {mouth}, before a {background} wall",
    "{style}, {glasses}, {skin} skin: a {mouth} person in front of something {background}",
    "on {background}, a {mouth} person who has {glasses}, {skin} skin and {style}",
]
MOUTHS = {"smile": "smiling", "neutral": "serious", "open": "surprised"}


def caption(labels, wording: int = 0) -> str:
    """One face's labels (6,) as an English phrase that names every attribute, in one of the
    WORDINGS."""
    value = {}                              # {attribute: value}
    for (name, values), number in zip(ATTRIBUTES.items(), labels.tolist()):
        value[name] = values[number]
    hair = f"{value['style']} {value['hair']} hair"
    if value["style"] == "bun":
        hair = f"{value['hair']} hair in a bun"
    glasses = "no glasses" if value["glasses"] == "none" else f"{value['glasses']} glasses"
    words = WORDINGS[wording % len(WORDINGS)]
    return words.format(mouth=MOUTHS[value["mouth"]], style=hair, glasses=glasses,
                        skin=value["skin"], background=value["background"])
