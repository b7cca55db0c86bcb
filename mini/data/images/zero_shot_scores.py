"""Tables of how well the attributes of faces are read without training for it (zero-shot): all in
all, and where a face has two values that never occurred together in training."""
import math

from mini.data.images.captions import HELD_BACK, has_pair
from mini.data.images.faces import ATTRIBUTES
from mini.utils.metrics import table


def zero_shot_scores(answers: dict, parts: dict, train_labels) -> dict:
    """What result.json holds of zero-shot classification: n, zero_shot and held_back.

    parts: {"held out": Captioned, "combinations never seen": Captioned}. answers, for each of them:
    {"prompts": (N, A), "descriptions": (N, A), "nearest description": (N, A)}, what was read.
    """
    n = {name: len(part.images) for name, part in parts.items()}
    unseen = parts["combinations never seen"]
    for pair in HELD_BACK:
        n[pair_name(pair)] = int(has_pair(unseen.labels, pair).sum())
    rows = {name: by_attribute(answers[name], part.labels, train_labels)
            for name, part in parts.items()}
    pairs = by_pair(answers["combinations never seen"], unseen.labels,
                    answers["held out"], parts["held out"].labels)
    return {"n": n, "zero_shot": rows, "held_back": pairs}


def share(right) -> float:
    """The share of True."""
    return right.double().mean().item()


def by_attribute(answers: dict, labels, train_labels) -> dict:
    """For each attribute the share of faces whose value is right by prompts, and by descriptions;
    "baseline": if it is always the most frequent value of train_labels.

    For "all six", by prompts: the share of faces of which every value is right; by descriptions:
    whose nearest one, among those of all combinations, is right; "baseline" is chance.
    """
    most_frequent = train_labels.mode(dim=0).values             # (A,)
    rows = {}
    for a, name in enumerate(ATTRIBUTES):
        true = labels[:, a]
        rows[name] = {"prompts": share(answers["prompts"][:, a] == true),
                      "descriptions": share(answers["descriptions"][:, a] == true),
                      "baseline": share(most_frequent[a] == true)}
    n_combinations = math.prod(len(values) for values in ATTRIBUTES.values())
    all_by_prompts = (answers["prompts"] == labels).all(dim=1)
    nearest_is_right = (answers["nearest description"] == labels).all(dim=1)
    rows["all six"] = {"prompts": share(all_by_prompts),
                       "descriptions": share(nearest_is_right),
                       "baseline": 1 / n_combinations}
    return rows


def by_pair(answers: dict, labels, other_answers: dict, other_labels) -> dict:
    """{pair: {attribute: row}}: for each held-back pair, on the faces that have it, the share whose
    value is right; "…, others": the same on faces without a held-back pair that have this value,
    too; "chance": if the value is drawn by lot. Without such faces there is no row."""
    names = list(ATTRIBUTES)
    rows = {}
    for pair in HELD_BACK:
        has = has_pair(labels, pair)
        rows[pair_name(pair)] = {}
        for name, value in pair.items():
            a = names.index(name)
            v = ATTRIBUTES[name].index(value)
            others = other_labels[:, a] == v
            if not has.any() or not others.any():
                continue
            rows[pair_name(pair)][name] = {
                "prompts": share(answers["prompts"][has, a] == v),
                "prompts, others": share(other_answers["prompts"][others, a] == v),
                "descriptions": share(answers["descriptions"][has, a] == v),
                "descriptions, others": share(other_answers["descriptions"][others, a] == v),
                "chance": 1 / len(ATTRIBUTES[name])}
    return rows


def pair_name(pair: dict) -> str:
    return ", ".join(f"{value} {name}" for name, value in pair.items())


def zero_shot_report(scores: dict) -> str:
    """The zero_shot_scores as tables."""
    text = ""
    for name, rows in scores["zero_shot"].items():
        text += f"\n{name}: {scores['n'][name]:,} faces, read by prompts that name one value, and "
        text += "by descriptions\nthat differ in one value "
        text += "(baseline: the most frequent value; of all six, chance)\n"
        text += table(rows, shares=rows["hair"]) + "\n"
    for pair, rows in scores["held_back"].items():
        if rows:
            text += f"\n{pair}, never together in training: read in {scores['n'][pair]:,} faces "
            text += "that have both,\nand in others that have one of them\n"
            text += table(rows, shares=next(iter(rows.values()))) + "\n"
    return text
