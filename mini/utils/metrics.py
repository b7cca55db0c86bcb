"""How much of the held-out data is scored, scores of language models, and the tables for them."""
import math

import torch
import torch.nn.functional as F

from mini.data.text.corpus import longest_copied_run
from mini.utils.config import require
from mini.utils.progress import Progress     # so that scripts find it here: metrics.Progress
from mini.utils.run import write_json

# ---- how much is scored
FEWEST = 100        # held-out items that even the shortest run is scored on


def n_to_score(cfg, n_held_out: int, items: str) -> int:
    """How many of the held-out items are scored: as many as --n_test says. If that is 0, all of
    them; but if --steps is below its default, proportionally fewer, so that a short trial is not
    followed by long scoring. Then a line says so.

    The number depends on steps, not on seconds, so that the same command gives the same scores
    everywhere, and a resumed run the same as an uninterrupted one. A run with --steps=0 uses
    published weights as they are, and is scored on all items.
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
    pair, and n how many pairs there are. So p(b|a) is the share of b among the tokens that
    follow a, mixed with the share of b among all tokens, which weighs as much as c =
    pseudo_count occurrences of a. This matters if a is rare (MacKay & Peto 1995). The mean
    is over held_out[1:].
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


class KneserNey:
    """An interpolated Kneser–Ney model: it predicts a token from the order − 1 tokens before it, by
    counting. (Kneser & Ney 1995; Chen & Goodman 1999, §2.7, with a discount D for each order.)

        p(w|u) = (max(0, n(u,w) − D) + D · n(u,·) · p(w|u′)) / n(u)

    n(u,w) says how often w followed the context u, n(u) how often anything did, and n(u,·) how many
    different tokens did. What the discount takes from each n(u,w) goes to the shorter context u′, u
    without its oldest token. For a shorter context, n(u,w) does not say how often w followed, but
    after how many different tokens it did: "Francisco" may be frequent, but if it only ever follows
    "San", it is unlikely after anything new. Below the shortest context, each token has p = 1/V.

    tokens: the text to learn from, a 1-D tensor of token numbers below V = vocab_size.
    """

    def __init__(self, tokens, vocab_size: int, order: int = 5):
        V = self.V = vocab_size
        tokens = tokens.cpu().long()

        # number the contexts: one of length k is one of length k − 1 with an older token before it
        ids = torch.zeros_like(tokens)                      # of each token's context of length 0
        self.contexts = []
        shorter = [None]
        for k in range(1, order):
            older = F.pad(tokens, (k, 0), value=V)[:len(tokens)]        # V: before the text began
            known, ids = torch.unique(ids * (V + 1) + older, return_inverse=True)
            self.contexts.append(known)                     # sorted: its place is its number
            shorter.append(known // (V + 1))

        # count what follows them, the longest first
        self.tables = []
        pairs, counts = torch.unique(ids * V + tokens, return_counts=True)
        for k in range(order - 1, -1, -1):
            once = (counts == 1).sum().item()
            twice = (counts == 2).sum().item()
            D = once / (once + 2 * twice) if once else 0.5      # at most 1, so n − D is never < 0
            counts = counts.double()
            n_u = torch.bincount(pairs // V, counts)
            n_types = torch.bincount(pairs // V).double()
            # for each pair n(u,w) − D, and for each context n(u) and D · n(u,·), the discounts that
            # it hands to its shorter context
            self.tables.insert(0, (pairs, counts - D, n_u, D * n_types))
            if k > 0:                                       # each pair counts once from here on
                without_oldest = shorter[k][pairs // V] * V + pairs % V
                pairs, counts = torch.unique(without_oldest, return_counts=True)

    def context_numbers(self, idx):
        """The numbers (B,) of the contexts of length 0, 1, 2, … at the end of idx (B, T), −1 for
        one that never occurred."""
        B, T = idx.shape
        ids = torch.zeros(B, dtype=torch.long)
        numbers = [ids]
        for k, known in enumerate(self.contexts, start=1):
            older = idx[:, -k] if k <= T else torch.full((B,), self.V)
            wanted = ids * (self.V + 1) + older
            place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
            ids = torch.where(known[place] == wanted, place, -1)    # −1 stays −1: then wanted < 0
            numbers.append(ids)
        return numbers

    def probs(self, idx):
        """The probabilities (B, V) of the token after the tokens idx (B, T)."""
        V = self.V
        p = torch.full((len(idx), V), 1 / V, dtype=torch.float64)
        numbers = self.context_numbers(idx.cpu())
        for ids, (pairs, discounted, n_u, kept) in zip(numbers, self.tables):
            row = (ids >= 0).nonzero().squeeze(1)           # those whose context was seen
            u = ids[row]
            p[row] = kept[u][:, None] * p[row] / n_u[u][:, None]

            # all pairs of a context stand in one stretch of the sorted `pairs`
            start = torch.searchsorted(pairs, u * V)
            length = torch.searchsorted(pairs, (u + 1) * V) - start
            begins = length.cumsum(0) - length              # of each stretch, one after the other
            place = torch.arange(length.sum()) + (start - begins).repeat_interleave(length)
            row = row.repeat_interleave(length)
            u = u.repeat_interleave(length)
            p[row, pairs[place] % V] += discounted[place] / n_u[u]
        return p

    def losses(self, tokens):
        """−log p in nats (N − 1,) of tokens[1:], each after the order − 1 tokens before it."""
        tokens = tokens.cpu().long()
        w = tokens[1:]
        longest = len(self.contexts)                        # in tokens
        before = F.pad(tokens[:-1], (longest - 1, 0), value=self.V)
        idx = before.unfold(0, longest, 1)                  # (N − 1, longest)
        p = torch.full((len(w),), 1 / self.V, dtype=torch.float64)
        for u, (pairs, discounted, n_u, kept) in zip(self.context_numbers(idx), self.tables):
            place = torch.searchsorted(pairs, u * self.V + w).clamp(max=len(pairs) - 1)
            n_uw = torch.where(pairs[place] == u * self.V + w, discounted[place], 0.0)
            p = torch.where(u >= 0, (n_uw + kept[u] * p) / n_u[u], p)
        return -p.log()

    def loss(self, documents: list) -> float:
        """The mean loss in nats of all tokens of the documents but the first of each."""
        losses = self.losses(torch.cat(documents))          # each follows the end of the one before
        first = torch.tensor([len(tokens) for tokens in documents]).cumsum(0)[:-1]
        counts = torch.ones(len(losses), dtype=torch.bool)
        counts[first - 1] = False                           # losses[i] is that of token i + 1
        return losses[counts].mean().item()


def text_scores(val_loss: float, val_docs: list, vocab_size: int, baseline: KneserNey, corpus,
                sample: str) -> dict:
    """The scores of a language model's run: held-out loss, its baselines, and copying.

    val_loss: the mean loss in nats over val_docs, which are the documents corpus.val as tokens;
    baseline: learnt from the same tokens as the model; sample: text that the model wrote. The
    baselines of the loss are ln V, for a model that knows nothing, and Kneser–Ney. The baseline of
    copying is held-out text as long as the sample: it is not copied, so a passage of it that also
    stands in the training text stands there by chance.
    """
    val_text = "".join(corpus.val)
    train_text = "".join(corpus.train)
    n_predicted = sum(len(tokens) - 1 for tokens in val_docs)
    return {
        "val_loss": val_loss,
        "bits_per_byte": bits_per_byte(val_loss * n_predicted, val_text),
        "chance": math.log(vocab_size),
        "kneser_ney": baseline.loss(val_docs),
        "copied": longest_copied_run(sample, train_text),
        "copied_held_out": longest_copied_run(val_text[:len(sample)], train_text),
    }


def text_report(scores: dict) -> str:
    """The scores of `text_scores` in words, each beside its baseline."""
    lines = [f"held-out loss {scores['val_loss']:.4f} nats per token "
             f"({scores['bits_per_byte']:.3f} bits per byte); by counting (Kneser–Ney, order 5) "
             f"{scores['kneser_ney']:.4f}, knowing nothing {scores['chance']:.4f}"]
    if "test_loss" in scores:
        lines.append(f"on the test set, by which no setting was chosen: "
                     f"{scores['test_loss']:.4f}; by counting {scores['test_kneser_ney']:.4f}")
    lines.append(f"longest run copied from the training text: {scores['copied']} characters in the "
                 f"sample above, {scores['copied_held_out']} in as much held-out text")
    return "\n".join(lines)


def by_position(total, count) -> dict:
    """The mean loss by the length of the context: {"0–0": nats, "1–1": …, "2–3": …, …}.

    total (T,): the sum of the losses in nats at each position of the window; count (T,): the
    number of losses in each sum. A range of positions without any losses is left out.
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
    """Print tables {title: {row: number}}, write them to evaluate.json, and return them.

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
    """Accuracies {name: share} as lines, one for each name, with the baseline's in brackets."""
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
