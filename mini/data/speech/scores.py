"""How much of what was said is written down: errors in words and characters, beside baselines."""
import unicodedata
from collections import Counter

import torch

from mini.data.speech.warping import Warping, templates_of
from mini.data.text.pairs import Vocabulary, fill_up
from mini.utils import metrics
from mini.utils.config import require


class Characters(Vocabulary):
    """Characters and their numbers, after PAD, BOS and EOS."""

    @classmethod
    def of(cls, texts):
        return cls(sorted(set("".join(texts))))

    def state(self) -> list:                # for a checkpoint: Characters(state) gives the same
        return self.words[3:]

    def encode_all(self, texts: list, longest: int) -> torch.Tensor:
        """Texts as (N, T + 1): each begins with BOS, ends with EOS, and is filled up with PAD.
        Raises UserError if one has more than `longest` characters, or unknown ones."""
        rows = []
        for text in texts:
            unknown = sorted(set(text) - set(self.index))
            require(not unknown, f"{text[:60]!r}: {', '.join(map(repr, unknown[:8]))} was never "
                                 f"seen in training; known: {''.join(self.index)!r}")
            require(len(text) <= longest, f"{text[:60]!r} …: {len(text)} characters; there is room "
                                          f"for {longest} (--max_len)")
            rows.append([self.BOS, *(self.index[character] for character in text), self.EOS])
        return fill_up(rows)

    def decode(self, ids) -> str:
        return unicodedata.normalize("NFC", "".join(self.spell(ids)))


# ---- errors

def edit_distance(a, b) -> int:
    """The fewest insertions, deletions and replacements that turn a into b (Levenshtein 1966).

    Row i of the table has the distances of the first i parts of a from each beginning of b.
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


def error_rate(outputs: list, references: list) -> float:
    """All edit distances, divided by the length of all references: lists of strings (characters),
    or of lists of words. It can be above 1."""
    errors = sum(edit_distance(*pair) for pair in zip(outputs, references))
    return errors / max(1, sum(map(len, references)))


def word_errors(outputs: list, references: list) -> float:
    """The word error rate of texts."""
    return error_rate([text.split() for text in outputs], [text.split() for text in references])


def errors(outputs: list, references: list) -> dict:
    """Word and character error rate, and the share of the texts with any error."""
    wrong = sum(ours != right for ours, right in zip(outputs, references))
    return {"wer": word_errors(outputs, references), "cer": error_rate(outputs, references),
            "wrong": wrong / max(1, len(references))}


# ---- scores of a model, beside baselines

N_WARPING = 100

def to_score(cfg, held_out: dict) -> dict:
    """Of each held-out set as many recordings as metrics.n_to_score says."""
    largest = max(len(part) for part in held_out.values())
    n = metrics.n_to_score(cfg, largest, "held-out recordings of each set")
    return {name: part.first(n) for name, part in held_out.items()}


def most_frequent(texts: list, n: int) -> list:
    """n texts of nothing but the most frequent word of `texts`, as long as the mean text."""
    count = Counter(word for text in texts for word in text.split())
    often = count.most_common(1)[0][0]
    length = round(count.total() / len(texts))
    return [" ".join([often] * max(1, length))] * n


def scores(outputs: dict, held_out: dict, train_set, to_features) -> dict:
    """{set: {who: errors}} for the model, which wrote outputs[set], and for the baselines. Time
    warping is tried on N_WARPING recordings of the first set alone, since it takes long.

    to_features(sound, n): what the model reads, (B, T, M).
    """
    table = {}
    for name, part in held_out.items():
        table[name] = {"model": errors(outputs[name], part.texts),
                       "most frequent word": errors(most_frequent(train_set.texts, len(part)),
                                                    part.texts)}
    name = next(iter(held_out))
    part = held_out[name].first(N_WARPING)
    print(f"time warping, on {len(part):,} recordings, {name} …", flush=True)
    warping = Warping(templates_of(train_set, to_features))
    table[name]["time warping"] = errors(warping.write(part, to_features), part.texts)
    return table


def report(table: dict, n: dict) -> str:
    """The scores {set: {who: errors}} in words, each beside its baselines."""
    lines = []
    for name, by in table.items():
        parts = [f"{who} {e['wer']:.1%} of words, {e['cer']:.1%} of characters"
                 for who, e in by.items()]
        lines.append(f"{name} (n = {n[name]:,}), wrong: {'; '.join(parts)}")
    return "\n".join(lines)


def headline(table: dict) -> dict:
    """The main numbers, for result.json: word error rates of the model, and of time warping."""
    first, *others = table
    names = {"unseen combinations": "wer_unseen", "10 dB": "wer_10db", "0 dB": "wer_0db"}
    numbers = {"wer": table[first]["model"]["wer"]}
    for name in others:
        numbers[names[name]] = table[name]["model"]["wer"]
    numbers["wer_warping"] = table[first]["time warping"]["wer"]
    return numbers
