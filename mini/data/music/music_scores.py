"""Scores of music: the loss of counting, beside that of a model; and of pieces (lists of Note): do
they keep their key and their metre, and do bars come back as in the corpus?"""
import math
from collections import Counter, defaultdict

import torch

from mini.data.music.midi import PIECE
from mini.utils.metrics import KneserNey
from mini.utils.progress import Progress

# ---- the loss of counting

ORDER = 8                   # Kneser–Ney predicts an event from the seven before it
CACHE_CONTEXTS = (8, 16)    # and the cache from the eight and the sixteen before it
CACHE_WEIGHT = 0.3          # these two were chosen on tunes that the default run learns from


def loss_baselines(train_tokens, val_tokens, vocab_size: int) -> dict:
    """The losses in nats of what a model of events should beat, all over val_tokens[1:].

    chance: a model that knows nothing. kneser_ney: one that counts which event follows which seven.
    kneser_ney_cache: the same, and it copies what was played before in the same piece.
    """
    losses = KneserNey(train_tokens, vocab_size, ORDER).losses(val_tokens)
    return {
        "chance": math.log(vocab_size),
        "kneser_ney": losses.mean().item(),
        "kneser_ney_cache": with_cache(losses, val_tokens).mean().item(),
    }


def with_cache(losses, tokens):
    """−log p in nats (N − 1,) of tokens[1:], by a model mixed with a cache of the piece's
    own events.

    losses (N − 1,): those of the model alone. For each of CACHE_CONTEXTS, the k events before w are
    the context u. n(u,w) says how often w followed u in this piece until now, and n(u) how often
    anything did. The model weighs as much as c = CACHE_WEIGHT occurrences of u:

        p(w) = (n(u,w) + c · p(w)) / (n(u) + c)         p on the right: before it was mixed

    (The idea is that of Kuhn & De Mori 1990, whose cache holds single words.)
    """
    tokens = tokens.tolist()
    p_model = (-losses).exp().tolist()
    progress = Progress("held-out events counted:", len(p_model))
    mixed = []
    for i, p in enumerate(p_model, start=1):                # p is the model's for tokens[i]
        if tokens[i - 1] == PIECE:                          # a piece begins: nothing was played yet
            n_u = Counter()
            n_uw = Counter()
        w = tokens[i]
        for k in CACHE_CONTEXTS:
            if i < k:
                break                                       # so many were not played yet
            u = tuple(tokens[i - k:i])
            p = (n_uw[u, w] + CACHE_WEIGHT * p) / (n_u[u] + CACHE_WEIGHT)
            n_u[u] += 1
            n_uw[u, w] += 1
        mixed.append(p)
        progress.add()
    return -torch.tensor(mixed, dtype=torch.float64).log()


# ---- pieces

MAJOR = (0, 2, 4, 5, 7, 9, 11)
HARMONIC_MINOR = (0, 2, 3, 5, 7, 8, 11)
SCALES = [{(tonic + step) % 12 for step in scale}
          for scale in (MAJOR, HARMONIC_MINOR) for tonic in range(12)]
MOST_BARS = 1000            # of a piece, that are compared: half an hour


def in_key(notes) -> float:
    """The share of the notes that belong to the major or harmonic minor scale that fits the piece
    best. Random notes get 7/12, and a little more because the best scale is chosen."""
    count = Counter(note.pitch % 12 for note in notes)
    return max(sum(count[pitch] for pitch in scale) for scale in SCALES) / len(notes)


def on_beat(notes, beat: float, tolerance: float = 0.015) -> float:
    """The share of the notes that begin on a beat, within `tolerance` seconds; beats are counted
    from the first note. Random notes get 2·tolerance/beat; a piece that has lost its metre comes
    near that."""
    hits = 0
    for note in notes:
        from_beat = (note.start - notes[0].start + beat / 2) % beat - beat / 2
        hits += abs(from_beat) <= tolerance
    return hits / len(notes)


def density(notes) -> float:
    """Notes per second."""
    seconds = max(note.end for note in notes) - notes[0].start
    return len(notes) / max(1e-9, seconds)


def overlap(a: set, b: set) -> float:
    """The size of the intersection of two sets, divided by that of their union (Jaccard)."""
    return len(a & b) / max(1, len(a | b))


def bar_similarity(notes, beat: float) -> tuple:
    """(at the bar, off the bar, beats in a bar). At the bar: the overlap of a bar with the most
    similar earlier bar, as sets of (sixteenth within the bar, pitch). Off the bar: its overlap with
    the most similar earlier stretch of the same length that begins a beat after a bar does.

    Both are means over all bars but the first two. A bar has three or four beats, whichever gives
    more. Every bar is compared with all before it, so of a piece with more than MOST_BARS the rest
    is left out.
    """
    cells = cells_of(notes, beat)
    results = []
    for beats in (3, 4):
        bars = cut_into_bars(cells, 4 * beats, begin=0)
        others = cut_into_bars(cells, 4 * beats, begin=4)
        at_bar = []
        off_bar = []
        for i, bar in bars.items():
            if i >= 2:
                earlier = [overlap(bar, bars[j]) for j in bars if j < i]
                shifted = [overlap(bar, others[j]) for j in others if j < i - 1]
                at_bar.append(max(earlier, default=0.0))
                off_bar.append(max(shifted, default=0.0))
        n = max(1, len(at_bar))
        results.append((sum(at_bar) / n, sum(off_bar) / n, beats))
    return max(results)


def cells_of(notes, beat: float) -> list:
    """The notes as (sixteenth, pitch), with sixteenths counted from the first note."""
    return [(round(4 * (note.start - notes[0].start) / beat), note.pitch) for note in notes]


def cut_into_bars(cells, size: int, begin: int) -> dict:
    """{number of a bar: {(sixteenth within it, pitch), …}} of cells (sixteenth, pitch), for bars of
    `size` sixteenths of which number 0 begins at `begin`. Empty bars are left out: in a damaged
    file they are millions. So are all after the first MOST_BARS."""
    bars = defaultdict(set)
    for cell, pitch in sorted(cells):
        bar = (cell - begin) // size
        if bar >= 0 and (bar in bars or len(bars) < MOST_BARS):
            bars[bar].add(((cell - begin) % size, pitch))
    return bars


def music_scores(pieces, beat: float) -> dict:
    """The mean of each score over the pieces; pieces of fewer than two notes are left out."""
    pieces = [notes for notes in pieces if len(notes) > 1]
    if not pieces:
        return {}
    rows = []
    progress = Progress("pieces scored:", len(pieces), seconds=3.0)
    for notes in pieces:
        at_bar, off_bar, _ = bar_similarity(notes, beat)
        rows.append({
            "in_key": in_key(notes),
            "on_beat": on_beat(notes, beat),
            "notes_per_second": density(notes),
            "bar_similarity": at_bar,
            "off_bar_similarity": off_bar,
        })
        progress.add()
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def music_report(samples: dict, corpus=None, val_loss=None, chance=None, kneser_ney=None,
                 kneser_ney_cache=None) -> str:
    """The scores in words: the loss beside its baselines, each score of the samples beside the
    corpus's."""
    lines = []
    if val_loss is not None:
        lines.append(f"held-out loss {val_loss:.4f} nats per event; by counting (Kneser–Ney, order "
                     f"{ORDER}) {kneser_ney:.4f}, and copying from the same piece "
                     f"{kneser_ney_cache:.4f}; knowing nothing {chance:.4f}")
    for name, value in samples.items():
        beside = f"   (held-out pieces: {corpus[name]:.3f})" if corpus else ""
        lines.append(f"{name.replace('_', ' '):>20}  {value:.3f}{beside}")
    return "\n".join(lines) if lines else "there are no notes to score"
