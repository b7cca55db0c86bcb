"""How much of the held-out data is scored, scores of language models, and the tables for them."""
import math
import sys
import time

import torch

from mini.utils.config import require
from mini.utils.run import write_json

# ---- how much is scored
FEWEST = 100        # held-out items that even the shortest run is scored on


def n_to_score(cfg, n_held_out: int, items: str) -> int:
    """How many of the held-out items are scored: as many as --n_test says. If it says 0: all in a
    run of the usual length, the default of --steps, and in a shorter one its share of them, so that
    a short trial is not followed by long scoring. If that is not all of them, a line says so.

    What counts is steps and not seconds, so that the same command gives the same scores everywhere,
    and a resumed run those of an uninterrupted one. A run of no steps uses published weights as
    they are, and is scored on all.
    """
    usual = type(cfg).steps
    require(cfg.n_test >= 0, f"--n_test={cfg.n_test} must be at least 0")
    if cfg.n_test > 0:
        return min(n_held_out, cfg.n_test)
    if cfg.steps == 0 or cfg.steps >= usual:
        return n_held_out
    n = min(n_held_out, max(FEWEST, round(n_held_out * cfg.steps / usual)))
    if n < n_held_out:
        print(f"note: a run of {cfg.steps:,} steps, not {usual:,}, is scored on {n:,} of the "
              f"{n_held_out:,} {items}; --n_test={n_held_out} scores all", flush=True)
    return n


class Progress:
    """Says every few seconds how far a count has come: "translated 512 of 2,000"; if it takes no
    longer than that, nothing."""

    def __init__(self, doing: str, total: int, seconds: float = 4.0):
        self.doing = doing
        self.total = total
        self.seconds = seconds
        self.done = 0
        self.last = time.perf_counter()         # when something was said

    def add(self, n: int = 1):
        """Count n more."""
        self.done += n
        now = time.perf_counter()
        if now - self.last >= self.seconds and self.done < self.total:
            clear_line = "\r\x1b[K" if sys.stdout.isatty() else ""
            print(f"{clear_line}    {self.doing} {self.done:,} of {self.total:,}", flush=True)
            self.last = now


# ---- scores of language models

def bits_per_byte(nats: float, text: str) -> float:
    """A total loss in nats over a text, as bits per UTF-8 byte: comparable whatever the tokenizer."""
    return nats / math.log(2) / len(text.encode())


def bigram_loss(train, held_out, vocab_size: int, pull: float = 10.0) -> float:
    """Cross-entropy, in nats per token, of predicting each token from the one before it by counting.

        p(b|a) = (n(a,b) + pull·p(b)) / (n(a) + pull),    p(b) = (n(b) + 1) / (n + V)

    n counts in `train`, a 1-D tensor of token numbers; after a rare a, p(b) weighs as much as `pull`
    occurrences. The mean is over held_out[1:].
    """
    train, held_out = train.cpu(), held_out.cpu()           # the counts need float64, which not every GPU has
    a, b = train[:-1].long(), train[1:].long()
    p_b = (torch.bincount(b, minlength=vocab_size).double() + 1) / (len(b) + vocab_size)
    n_a = torch.bincount(a, minlength=vocab_size).double()
    pairs, n_ab = torch.unique(a * vocab_size + b, return_counts=True)      # a full V×V table might not fit
    x, y = held_out[:-1].long(), held_out[1:].long()
    place = torch.searchsorted(pairs, x * vocab_size + y).clamp(max=len(pairs) - 1)
    n_xy = torch.where(pairs[place] == x * vocab_size + y, n_ab[place], 0).double()
    return -((n_xy + pull * p_b[y]) / (n_a[x] + pull)).log().mean().item()


def longest_copied_run(sample: str, text: str) -> int:
    """The length, in characters, of the longest piece of the sample that stands word for word in the text."""
    best = start = 0
    for end in range(1, len(sample) + 1):
        while sample[start:end] not in text:  # the longest copied piece that ends here starts at `start`
            start += 1
        best = max(best, end - start)
    return best


def text_scores(total: float, tokens, held_out, vocab_size: int, parts, sample: str) -> dict:
    """What a language model's run ends with: held-out loss, its baselines, and copying.

    total: loss in nats over held_out[1:]; tokens, held_out: the two parts of the text as tensors; parts: the
    same as strings; sample: text that the model wrote. Held-out text of the same length shows what copying is
    normal.
    """
    return {"val_loss": total / (len(held_out) - 1), "bits_per_byte": bits_per_byte(total, parts[1]),
            "chance": math.log(vocab_size), "bigram": bigram_loss(tokens, held_out, vocab_size),
            "copied": longest_copied_run(sample, parts[0]),
            "copied_held_out": longest_copied_run(parts[1][:len(sample)], parts[0])}


def text_report(val_loss, bits_per_byte, chance, bigram, copied, copied_held_out) -> str:
    """The scores of `text_scores` in words, each beside its baseline."""
    return (f"held-out loss {val_loss:.4f} nats per token ({bits_per_byte:.3f} bits per byte); baselines: "
            f"counting pairs of tokens {bigram:.4f}, knowing nothing {chance:.4f}\n"
            f"longest run copied from the training text: {copied} characters in the sample above, "
            f"{copied_held_out} in as much held-out text")


def by_position(total, count) -> dict:
    """Mean loss {"0–0", "1–1", "2–3", "4–7", …: nats} after so many tokens of context, from losses in nats
    summed at each position (T,) and the number of them (T,)."""
    edges = [0, *(2**k for k in range((len(total) - 1).bit_length())), len(total)]
    return {f"{a}–{b - 1}": (total[a:b].sum() / count[a:b].sum()).item() for a, b in zip(edges, edges[1:])
            if count[a:b].sum() > 0}


# ---- tables
def print_tables(cfg, **tables) -> dict:
    """Print the tables of `evaluate`, {title: {row: number}}, and return them; for a run of ours (and not
    somebody else's weights) write them to evaluate.json."""
    for title, rows in tables.items():
        print(title.replace("_", " "))
        for row, value in rows.items():
            print(f"{row:>12}  {value:.4g}")
    if not getattr(cfg, "init_from", ""):
        write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def shares(accuracy: dict, baseline: dict) -> str:
    """Accuracies {name: share}, a line each, with the baseline's in brackets."""
    return "\n".join(f"{name:>12}  {accuracy[name]:.2%}  ({baseline[name]:.2%})" for name in accuracy)


def table(rows: dict, shares=()) -> str:
    """{name: {column: number}} as lines: the columns named in `shares` in %, the others as they are."""
    wide, columns = max(14, *map(len, rows)), {c: max(10, len(c) + 2) for c in next(iter(rows.values()))}
    lines = [" " * wide + "".join(f"{column:>{w}}" for column, w in columns.items())]
    for name, row in rows.items():
        cells = (f"{row[column]:{w}{'.1%' if column in shares else '.4g'}}" for column, w in columns.items())
        lines.append(f"{name:>{wide}}" + "".join(cells))
    return "\n".join(lines)
