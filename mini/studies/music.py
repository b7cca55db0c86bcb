"""What a Music Transformer makes of what came before: `python -m mini.music evaluate`.

Three tables. How well an event is predicted by the number of events read before it; how well, bar
by bar, if a piece is read from its beginning; and whether what the model writes brings bar 1 back
where the held-out pieces do: in our tunes, bars 5 and 13 are bar 1 again, note for note. In a folk
tune that repeats its first eight bars, bar 9 is. Bars are counted from the first note.
"""
import torch
import torch.nn.functional as F

from mini.data.music import midi
from mini.data.music.music_scores import bar_similarity, cells_of, cut_into_bars, overlap
from mini.data.music.tunes import read_corpus, to_tokens
from mini.music import IGNORED, next_token_loss, write
from mini.utils.metrics import by_position, n_to_score, print_tables
from mini.utils.progress import Progress

BARS = 32                       # of a piece, that are looked at; our tunes have 16
PHRASES = (5, 9, 13, 17, 25)    # the bars in which a phrase often begins: each is set beside bar 1


def evaluate(model, beat: float) -> dict:
    """Print the tables, write them to evaluate.json, and return them. beat: seconds per beat."""
    cfg = model.cfg
    model.eval()
    _, pieces, _ = read_corpus(cfg.data, cfg.pieces)
    pieces = pieces[:n_to_score(cfg, len(pieces), "held-out pieces")]
    print(f"reading {len(pieces):,} held-out pieces …", flush=True)
    tokens = to_tokens(pieces, model.device)
    return print_tables(
        cfg,
        loss_after_so_many_events=by_position(*losses_by_position(model, tokens)),
        loss_by_bar_read_from_the_beginning=loss_by_bar(model, pieces, beat),
        overlap_with_bar_1_in_held_out_pieces=bar_1_again(pieces, beat),
        overlap_with_bar_1_in_samples=bar_1_again(write(model), beat),
    )


@torch.no_grad()
def losses_by_position(model, tokens, windows_at_once: int = 10) -> tuple:
    """(total, count), two tensors (T,): the sum of the losses in nats at each position of the
    window, and how many events were predicted there. tokens[1:] are predicted in consecutive
    windows, each of which begins with no context, as `estimate_loss` does."""
    T = model.cfg.block_size
    missing = -(len(tokens) - 1) % T                            # they fill up the last window
    x = F.pad(tokens[:-1], (0, missing)).view(-1, T)
    y = F.pad(tokens[1:], (0, missing), value=IGNORED).view(-1, T)
    total = torch.zeros(T, dtype=torch.float64)
    progress = Progress("windows of held-out music read:", len(x))
    for x_i, y_i in zip(x.split(windows_at_once), y.split(windows_at_once)):
        losses = next_token_loss(model(x_i), y_i, reduction="none")         # (B·T,)
        total += losses.view(-1, T).sum(dim=0).double().cpu()
        progress.add(len(x_i))
    return total, (y != IGNORED).sum(dim=0).cpu()


@torch.no_grad()
def loss_by_bar(model, pieces: list, beat: float, n: int = 100) -> dict:
    """{"bar 1": nats, …} of the first n pieces: the mean loss of the events of each bar. Each piece
    is read from its beginning, up to four windows of it, and the window slides along it, as when
    the model writes."""
    longest = 4 * model.cfg.block_size
    pieces = pieces[:n]
    total = torch.zeros(BARS, dtype=torch.float64)
    count = torch.zeros(BARS, dtype=torch.float64)
    progress = Progress("held-out pieces read:", len(pieces))
    for notes in pieces:
        tokens = to_tokens([notes], model.device)[None, :longest + 1]       # (1, N)
        losses = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:], reduction="none")
        beats = bar_similarity(notes, beat)[2]
        bars = bars_of_events(tokens[0, 1:].tolist(), beats * beat)
        inside = bars < BARS
        total.index_add_(0, bars[inside], losses.double().cpu()[inside])
        count.index_add_(0, bars[inside], torch.ones(int(inside.sum()), dtype=torch.float64))
        progress.add()
    return {f"bar {i + 1}": (total[i] / count[i]).item() for i in range(BARS) if count[i] > 0}


def bars_of_events(tokens: list, bar: float):
    """The number of the bar, from 0, in which each event happens (N,); bar: its length in seconds.
    The time that leads to a bar belongs to the bar before it."""
    bars = []
    step = 0
    for token in tokens:
        bars.append(int(step / midi.STEPS / bar + 1e-6))
        if midi.SHIFT <= token < midi.VELOCITY:
            step += token - midi.SHIFT + 1
    return torch.tensor(bars)


def bar_1_again(pieces: list, beat: float) -> dict:
    """{"bar 5": share, …}: the mean overlap of a bar with bar 1, as sets of (sixteenth, pitch), of
    all pieces that have this bar."""
    overlaps = {f"bar {number}": [] for number in PHRASES}
    for notes in pieces:
        if len(notes) < 2:
            continue
        beats = bar_similarity(notes, beat)[2]
        bars = cut_into_bars(cells_of(notes, beat), 4 * beats, begin=0)
        for number in PHRASES:
            if number - 1 in bars:
                overlaps[f"bar {number}"].append(overlap(bars[number - 1], bars[0]))
    return {name: sum(values) / len(values) for name, values in overlaps.items() if values}
