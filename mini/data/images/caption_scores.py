"""Are captions right? The values that a caption names are read from its words, and compared with the true ones."""
from collections import Counter
from itertools import chain

import torch
import torch.nn.functional as F

from mini.data.images.captions import split
from mini.data.images.faces import ATTRIBUTES, MOUTHS, draw_parameters, render
from mini.utils import metrics, translation_metrics

# For each value of a face, the one word by which a full caption names it; no two values share a word.
TELLS = {name: [MOUTHS.get(value, "no" if value == "none" else value) for value in values]
         for name, values in ATTRIBUTES.items()}


def read(text: str) -> list:
    """The numbers of the values that a full caption names, in the order of ATTRIBUTES; −1 for an attribute of
    which it names no value, or more than one."""
    named = [[i for i, word in enumerate(tell) if word in split(text)] for tell in TELLS.values()]
    return [values[0] if len(values) == 1 else -1 for values in named]


def nearest(text: str, references: list) -> str:
    """The reference that shares the most pairs of neighbouring words with a text; the text, if it is one."""
    def pairs(words):
        return Counter(zip(["", *words], [*words, ""]))
    shared = {known: (pairs(split(text)) & pairs(split(known))).total() for known in references}
    return max(references, key=lambda known: (shared[known], split(known) == split(text)))


def to_score(cfg, held_out: dict) -> dict:
    """Of each held-out set {name: Captioned} as many images as metrics.n_to_score says."""
    n = metrics.n_to_score(cfg, len(held_out["held out"].images), "held-out images of each set")
    return {name: part.first(n) for name, part in held_out.items()}


def right(outputs: list, part) -> torch.Tensor:
    """Bool (N, A): does caption i name the right value of attribute a of image i? part: the Captioned. Without
    attributes, (N, 1): is it one of the captions of its image, word for word?"""
    if part.attributes:
        return torch.tensor([read(text) for text in outputs]) == part.labels[:len(outputs)]
    return torch.tensor([[split(text) in map(split, known)] for text, known in zip(outputs, part.captions)])


def share_right(outputs: list, part) -> float:
    """The share of the captions in which every attribute is right (see `right`)."""
    return right(outputs, part).all(1).double().mean().item()


def baselines(learn, part) -> dict:
    """Captions for the images of a Captioned: {"most frequent": always the most frequent caption of `learn`,
    "nearest image": a caption of the training image whose pixels are nearest}."""
    often = Counter(chain(*learn.captions)).most_common(1)[0][0]
    x, known = (F.adaptive_avg_pool2d(of.images.float(), 16).flatten(1) for of in (part, learn))
    like = torch.cdist(x, known).argmin(1).tolist()
    return {"most frequent": [often] * len(x), "nearest image": [learn.captions[i][0] for i in like]}


def scores(outputs: list, learn, part) -> dict:
    """{who: {"right": share_right, "bleu": against the nearest of an image's captions, "accuracy": {attribute:
    share}}} for the model, which wrote `outputs`, and for the baselines."""
    table = {}
    for who, texts in {"model": outputs, **baselines(learn, part)}.items():
        known = [nearest(text, captions) for text, captions in zip(texts, part.captions)]
        accuracy = dict(zip(part.attributes, right(texts, part).double().mean(0).tolist()))
        bleu = translation_metrics.bleu(*([" ".join(split(text)) for text in side] for side in (texts, known)))
        table[who] = {"right": share_right(texts, part), "bleu": bleu, "accuracy": accuracy}
    return table


def report(results: dict, n: dict) -> str:
    """The scores {set: {who: scores}} in words, each beside its baselines.

    n: {set: how many images were scored}."""
    lines = []
    for name, table in results.items():
        line = f"{name} (n = {n[name]:,})"
        for who, s in table.items():
            line += f"; {who} {s['right']:.1%} right, BLEU {s['bleu']:.1f}"
        lines += [line]
        if table["model"]["accuracy"]:
            lines += [metrics.shares(table["model"]["accuracy"], table["most frequent"]["accuracy"])]
            lines += ["right: every attribute is; in brackets: in the most frequent caption"]
    return "\n".join(lines)


def places(look, size: int, P: int, n: int = 64) -> dict:
    """Does a captioner look where an attribute is? A patch of P × P pixels belongs to an attribute if it changes
    with its value. Two tables: the share of attention that the word for the attribute gives to these patches,
    and the share of the image that they cover. look(image): the words of its caption, and how they attended to
    the patches, (T, size/P, size/P)."""
    labels, nuisance = draw_parameters(n, seed=2)
    images, attention, area = render(labels, nuisance, size), {}, {}
    seen = [look(image) for image in images]
    for a, (name, tell) in enumerate(TELLS.items()):
        other = labels.clone()
        other[:, a] = (other[:, a] + 1) % len(tell)
        where = F.max_pool2d((render(other, nuisance, size) != images).any(1).float(), P)
        found = [(maps[words.index(tell[y])] * at).sum().item() for (words, maps), y, at
                 in zip(seen, labels[:, a].tolist(), where) if tell[y] in words]
        attention[name], area[name] = sum(found) / max(1, len(found)), where.mean().item()
    return {"attention_where_the_attribute_is": attention, "share_of_the_image_that_this_is": area}
