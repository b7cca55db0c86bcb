"""How much of the held-out data is scored, scores of language models, and the tables for them."""
import math
import sys
import time

import torch

from mini.data.text.corpus import longest_copied_run
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
    """The total loss over a text, in nats, as bits per byte of the text in UTF-8.

    Losses per token cannot be compared where tokenizers differ; this number can.
    """
    bits = nats / math.log(2)
    return bits / len(text.encode())


def bigram_loss(train, held_out, vocab_size: int, pseudo_count: float = 10.0) -> float:
    """The cross-entropy of a bigram model, in nats per token.

        p(b|a) = (n(a,b) + c·p(b)) / (n(a) + c),    p(b) = (n(b) + 1) / (n + V)

    A bigram model predicts each token from the one before it, by counting. train and
    held_out are 1-D tensors of token numbers below V = vocab_size. n(a,b) says how often b
    follows a in train, n(a) and n(b) how often a is the first and b the second token of a
    pair, and n how many pairs there are. So p(b|a) is the share of b among what follows a,
    mixed with the share of b anywhere, which weighs as much as c = pseudo_count occurrences
    of a. That matters after a rare a. (MacKay & Peto 1995.) The mean is over held_out[1:].
    """
    V = vocab_size
    train = train.cpu().long()          # the counts need float64, which not every GPU has
    held_out = held_out.cpu().long()

    # Count. A table of V × V numbers might not fit, so a pair (a, b) is the number a·V + b,
    # and only the pairs that occur are kept.
    first = train[:-1]
    second = train[1:]
    n_first = torch.bincount(first, minlength=V).double()               # (V,)
    n_second = torch.bincount(second, minlength=V).double()             # (V,)
    p_second = (n_second + 1) / (len(second) + V)                       # (V,)
    pairs, n_pairs = torch.unique(first * V + second, return_counts=True)   # pairs: sorted

    # Look up each pair of the held-out text. For one that never occurred searchsorted gives
    # the place of another pair.
    a = held_out[:-1]
    b = held_out[1:]
    wanted = a * V + b
    index = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
    was_seen = pairs[index] == wanted
    n_ab = torch.where(was_seen, n_pairs[index], 0).double()

    p = (n_ab + pseudo_count * p_second[b]) / (n_first[a] + pseudo_count)
    return -p.log().mean().item()


def text_scores(val_loss: float, train_tokens, val_tokens, vocab_size: int, train_text: str,
                val_text: str, sample: str) -> dict:
    """The scores of a language model's run: held-out loss, its baselines, and copying.

    val_loss: the mean loss in nats over val_tokens[1:]; train_text, val_text: the text learnt
    from and the held-out text, train_tokens and val_tokens: the same as tensors of token
    numbers; sample: text that the model wrote. The baselines of the loss are ln V, for a model
    that knows nothing, and the bigram model. The baseline of copying is held-out text as long
    as the sample: nobody copied it, so what stands in the training text stands there by chance.
    """
    total = val_loss * (len(val_tokens) - 1)
    return {
        "val_loss": val_loss,
        "bits_per_byte": bits_per_byte(total, val_text),
        "chance": math.log(vocab_size),
        "bigram": bigram_loss(train_tokens, val_tokens, vocab_size),
        "copied": longest_copied_run(sample, train_text),
        "copied_held_out": longest_copied_run(val_text[:len(sample)], train_text),
    }


def text_report(val_loss, bits_per_byte, chance, bigram, copied, copied_held_out) -> str:
    """The scores of `text_scores` in words, each beside its baseline."""
    return (f"held-out loss {val_loss:.4f} nats per token "
            f"({bits_per_byte:.3f} bits per byte); "
            f"baselines: counting pairs of tokens {bigram:.4f}, knowing nothing {chance:.4f}\n"
            f"longest run copied from the training text: {copied} characters in the sample "
            f"above, {copied_held_out} in as much held-out text")


def by_position(total, count) -> dict:
    """The mean loss by the length of the context: {"0–0": nats, "1–1": …, "2–3": …, …}.

    total (T,): the losses in nats summed at each position of the window; count (T,): how
    many losses were summed there. A range of positions without any is left out.
    """
    T = len(total)
    edges = [0]
    edge = 1
    while edge < T:
        edges.append(edge)
        edge *= 2
    edges.append(T)

    losses = {}
    for start, end in zip(edges, edges[1:]):
        n = count[start:end].sum()
        if n > 0:
            mean = total[start:end].sum() / n
            losses[f"{start}–{end - 1}"] = mean.item()
    return losses


# ---- tables
def print_tables(cfg, **tables) -> dict:
    """The tables {title: {row: number}}, which it prints and writes to evaluate.json.

    Published weights (cfg.init_from) have no run folder of ours, so for them nothing is
    written.
    """
    for title, rows in tables.items():
        print(title.replace("_", " "))
        for row, value in rows.items():
            print(f"{row:>12}  {value:.4g}")
    if not getattr(cfg, "init_from", ""):
        write_json(f"{cfg.out_dir}/evaluate.json", tables)
    return tables


def shares(accuracy: dict, baseline: dict) -> str:
    """Accuracies {name: share} as lines, one for each name, the baseline's in brackets."""
    lines = []
    for name in accuracy:
        lines.append(f"{name:>12}  {accuracy[name]:.2%}  ({baseline[name]:.2%})")
    return "\n".join(lines)


def table(rows: dict, shares=()) -> str:
    """{name: {column: number}} as lines, the columns side by side under their names.

    Numbers of the columns named in `shares` are printed in per cent, the others as they
    are.
    """
    name_width = max([14, *map(len, rows)])
    first_row = next(iter(rows.values()))
    columns = list(first_row)
    widths = {column: max(10, len(column) + 2) for column in columns}

    header = " " * name_width
    for column in columns:
        header += f"{column:>{widths[column]}}"
    lines = [header]
    for name, row in rows.items():
        line = f"{name:>{name_width}}"
        for column in columns:
            number_format = ".1%" if column in shares else ".4g"
            line += f"{row[column]:{widths[column]}{number_format}}"
        lines.append(line)
    return "\n".join(lines)
