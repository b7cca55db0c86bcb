"""Does a piece keep its key and its metre? Scores of pieces (lists of Note), to compare with those of the
corpus."""
from collections import Counter, defaultdict

from mini.utils.progress import Progress

MAJOR, HARMONIC_MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11)
SCALES = [{(tonic + step) % 12 for step in scale} for scale in (MAJOR, HARMONIC_MINOR) for tonic in range(12)]


def in_key(notes) -> float:
    """The share of the notes that belong to the major or harmonic minor scale that fits the piece best. Random
    notes get 7/12, and a little more because the best scale is chosen."""
    count = Counter(note.pitch % 12 for note in notes)
    return max(sum(count[pitch] for pitch in scale) for scale in SCALES) / len(notes)


def on_beat(notes, beat: float, tolerance: float = 0.015) -> float:
    """The share of the notes that begin on a beat, within `tolerance` seconds; beats are counted from the first
    note. Random notes get 2·tolerance/beat; a piece that has lost its metre comes near that."""
    from_beat = [(note.start - notes[0].start + beat / 2) % beat - beat / 2 for note in notes]
    return sum(abs(distance) <= tolerance for distance in from_beat) / len(notes)


def density(notes) -> float:
    """Notes per second."""
    return len(notes) / max(1e-9, max(note.end for note in notes) - notes[0].start)


def overlap(a: set, b: set) -> float:
    """The size of the intersection of two sets, divided by that of their union (Jaccard)."""
    return len(a & b) / max(1, len(a | b))


def bar_similarity(notes, beat: float) -> tuple:
    """(at the bar, off the bar, beats in a bar). At the bar: the overlap of a bar with the most similar earlier
    bar, as sets of (sixteenth within the bar, pitch). Off the bar: its overlap with the most similar earlier
    stretch of the same length that begins a beat after a bar does.

    Both are means over all bars but the first two. A bar has three or four beats, whichever gives more."""
    cells = [(round(4 * (note.start - notes[0].start) / beat), note.pitch) for note in notes]
    results = []
    for beats in (3, 4):
        bars = cut_into_bars(cells, 4 * beats, 0)
        others = cut_into_bars(cells, 4 * beats, 4)
        at_bar = []
        off_bar = []
        for i, bar in bars.items():
            if i >= 2:
                at_bar.append(max((overlap(bar, bars[j]) for j in bars if j < i), default=0.0))
                off_bar.append(max((overlap(bar, others[j]) for j in others if j < i - 1), default=0.0))
        n = max(1, len(at_bar))
        results.append((sum(at_bar) / n, sum(off_bar) / n, beats))
    return max(results)


def cut_into_bars(cells, size: int, begin: int) -> dict:
    """{number of a bar: {(sixteenth within it, pitch), …}} of cells (sixteenth, pitch), for bars of `size`
    sixteenths of which number 0 begins at `begin`. Empty bars are left out: in a damaged file they are millions."""
    bars = defaultdict(set)
    for cell, pitch in cells:
        if cell >= begin:
            bars[(cell - begin) // size].add(((cell - begin) % size, pitch))
    return bars


def music_scores(pieces, beat: float) -> dict:
    """The mean of each score over the pieces; pieces of fewer than two notes are left out."""
    rows = []
    pieces = [notes for notes in pieces if len(notes) > 1]
    progress = Progress("pieces scored:", len(pieces), seconds=3.0)
    for notes in pieces:
        at_bar, off_bar, _ = bar_similarity(notes, beat)
        rows.append({"in_key": in_key(notes), "on_beat": on_beat(notes, beat),
                     "notes_per_second": density(notes), "bar_similarity": at_bar,
                     "off_bar_similarity": off_bar})
        progress.add()
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def music_report(samples, corpus=None, val_loss=None, chance=None, bigram=None) -> str:
    """The scores in words: the loss beside its baselines, each score of the samples beside the corpus's."""
    lines = [] if val_loss is None else [
        f"held-out loss {val_loss:.4f} nats per event; baselines: counting pairs of events {bigram:.4f}, "
        f"knowing nothing {chance:.4f}"]
    for name, value in samples.items():
        beside = f"   (held-out pieces: {corpus[name]:.3f})" if corpus else ""
        lines.append(f"{name.replace('_', ' '):>20}  {value:.3f}{beside}")
    return "\n".join(lines) if lines else "there are no notes to score"
