"""Are captions right? The values that a caption names are read from its words, and compared with
the true ones.

    right, share_right      of the captions of a model
    scores, report          of a model's captions and of baselines, as a table and in words
    places                  does a captioner look where an attribute is?
"""
from collections import Counter
from itertools import chain

import torch
import torch.nn.functional as F

from mini.data.images.captions import split
from mini.data.images.faces import ATTRIBUTES, MOUTHS, draw_parameters, render
from mini.utils import metrics, translation_metrics


# ---- the values that a caption names

def _telling_words() -> dict:
    """{attribute: for each of its values the one word by which a full caption names it}. No two
    values share a word."""
    tells = {}
    for name, values in ATTRIBUTES.items():
        tells[name] = []
        for value in values:
            word = "no" if value == "none" else value           # "no glasses"
            tells[name].append(MOUTHS.get(value, word))         # "smiling" of smile
    return tells


TELLS = _telling_words()


def read(text: str) -> list:
    """The numbers of the values that a full caption names, in the order of ATTRIBUTES; −1 for an
    attribute of which it names no value, or more than one."""
    words = split(text)
    numbers = []
    for tells in TELLS.values():
        named = [i for i, word in enumerate(tells) if word in words]
        numbers.append(named[0] if len(named) == 1 else -1)
    return numbers


def nearest(text: str, references: list) -> str:
    """The reference that shares the most pairs of neighbouring words with a text; the text, if it
    is one."""
    def pairs(words):
        return Counter(zip(["", *words], [*words, ""]))

    words = split(text)
    word_pairs = pairs(words)

    def likeness(reference):
        reference_words = split(reference)
        n_shared = (word_pairs & pairs(reference_words)).total()
        return n_shared, words == reference_words

    return max(references, key=likeness)


# ---- scores

def to_score(cfg, held_out: dict) -> dict:
    """Of each held-out set {name: Captioned} as many images as metrics.n_to_score says."""
    n = metrics.n_to_score(cfg, len(held_out["held out"].images), "held-out images of each set")
    return {name: part.first(n) for name, part in held_out.items()}


def right(outputs: list, part) -> torch.Tensor:
    """Bool (N, A): does caption i name the right value of attribute a of image i? part: the
    Captioned. Without attributes, (N, 1): is it one of the captions of its image, word for word?"""
    if part.attributes:
        named = torch.tensor([read(text) for text in outputs])          # (N, A)
        return named == part.labels[:len(outputs)]
    is_right = []
    for text, references in zip(outputs, part.captions):
        is_right.append([split(text) in map(split, references)])
    return torch.tensor(is_right)


def share_right(outputs: list, part) -> float:
    """The share of the captions in which every attribute is right (see `right`)."""
    return right(outputs, part).all(dim=1).double().mean().item()


def baselines(learn, part) -> dict:
    """Captions for the images of a Captioned: {"most frequent": always the most frequent caption of
    `learn`, "nearest image": a caption of the training image whose pixels are nearest}."""
    count = Counter(chain(*learn.captions))
    most_frequent = count.most_common(1)[0][0]
    distances = torch.cdist(small_pixels(part.images), small_pixels(learn.images))      # (N, M)
    nearest_image = distances.argmin(dim=1).tolist()
    return {
        "most frequent": [most_frequent] * len(part.images),
        "nearest image": [learn.captions[i][0] for i in nearest_image],
    }


def small_pixels(images):
    """Images (N, C, H, W), reduced to 16 × 16 pixels, as vectors (N, C · 256)."""
    return F.adaptive_avg_pool2d(images.float(), 16).flatten(1)


def scores(outputs: list, learn, part) -> dict:
    """{who: {"right": share_right, "bleu": against the nearest of an image's captions, "accuracy":
    {attribute: share}}} for the model, which wrote `outputs`, and for the baselines."""
    table = {}
    for who, texts in {"model": outputs, **baselines(learn, part)}.items():
        references = []
        for text, captions in zip(texts, part.captions):
            references.append(nearest(text, captions))
        shares = right(texts, part).double().mean(dim=0).tolist()       # for each attribute
        table[who] = {
            "right": share_right(texts, part),
            "bleu": translation_metrics.bleu(normal(texts), normal(references)),
            "accuracy": dict(zip(part.attributes, shares)),
        }
    return table


def normal(texts: list) -> list:
    """Texts with a space between words and marks, in small letters."""
    return [" ".join(split(text)) for text in texts]


def report(results: dict, n: dict) -> str:
    """The scores {set: {who: scores}} in words, each beside its baselines.

    n: {set: how many images were scored}."""
    lines = []
    for name, table in results.items():
        line = f"{name} (n = {n[name]:,})"
        for who, s in table.items():
            line += f"; {who} {s['right']:.1%} right, BLEU {s['bleu']:.1f}"
        lines.append(line)
        accuracy = table["model"]["accuracy"]
        if accuracy:
            lines.append(metrics.shares(accuracy, table["most frequent"]["accuracy"]))
            lines.append("right: every attribute is; in brackets: in the most frequent caption")
    return "\n".join(lines)


# ---- where a captioner looks

def places(look, size: int, P: int, n: int = 64) -> dict:
    """Does a captioner look where an attribute is? A patch of P × P pixels belongs to an attribute
    if it changes with its value. Two tables: the share of attention that the word for the attribute
    gives to these patches, and the share of the image that they cover.

    look(image): the words of its caption, and how they attended to the patches, (T, size/P,
    size/P).
    """
    labels, nuisance = draw_parameters(n, seed=2)
    images = render(labels, nuisance, size)                             # (n, 3, size, size)
    looked = [look(image) for image in images]
    attention = {}
    area = {}
    for a, (name, tells) in enumerate(TELLS.items()):
        # the same faces with another value of this attribute
        other_labels = labels.clone()
        other_labels[:, a] = (other_labels[:, a] + 1) % len(tells)
        changes = render(other_labels, nuisance, size) != images
        changes = changes.any(dim=1).float()                            # (n, size, size)
        belongs = F.max_pool2d(changes, P)                              # (n, size/P, size/P)

        shares = []
        for (words, maps), number, patches in zip(looked, labels[:, a].tolist(), belongs):
            word = tells[number]
            if word in words:
                attended = maps[words.index(word)]                      # (size/P, size/P)
                shares.append((attended * patches).sum().item())
        attention[name] = sum(shares) / max(1, len(shares))
        area[name] = belongs.mean().item()
    return {
        "attention_where_the_attribute_is": attention,
        "share_of_the_image_that_this_is": area,
    }
