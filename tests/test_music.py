"""mini/music.py: relative attention against its definition, causality, the cache, the whole script.

Tests marked `paper` hold the architecture to the Music Transformer's: change it, and they fail as
they should. All the others must go on passing in a fork; they build small models with random
weights. What every script must do alike, stopping and going on for instance, is tested in
test_scripts.py.
"""
import math
import re
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini import music
from mini.data.music import midi
from mini.data.music.midi import Note
from mini.data.music.music_scores import music_scores
from mini.data.music.tunes import BEAT, compose, save_piece, to_tokens
from mini.studies import music as study
from tests.helpers import close, refused_by, rng_of

TINY = dict(pieces=12, n_layer=2, n_head=2, n_embd=16, block_size=32, batch_size=4, steps=6,
            eval_every=3, sample_every=3, log_every=1, max_new_tokens=40, num_samples=2, warmup=1,
            device="cpu", matmul="highest")
V = 11              # of the small models; that of the script is midi.VOCAB_SIZE
WINDOW = 12         # theirs, where a test goes beyond it


def tiny(tmp_path, **changes):
    return music.Config(**{**TINY, "out_dir": str(tmp_path / "run"), **changes})


def flags(tmp_path, **changes):
    settings = {**TINY, "out_dir": tmp_path / "run", **changes}
    return [f"--{name}={value}" for name, value in settings.items()]


def make_model(std=0.5, **sizes):
    """A small model with random weights, larger than at the start of training, so that events
    matter to each other."""
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(**{**TINY, **sizes}), V)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model.eval()


def random_events(*shape, seed=0):
    return torch.randint(V, shape, generator=rng_of(seed))


refused = partial(refused_by, music.main)


# ---- events

def test_the_example_in_the_docstring():
    """Three notes are drawn there; the numbers below them are those of their events."""
    notes = [Note(0, 0.5, 60, 64), Note(0, 1, 64, 64), Note(0.5, 1, 67, 64)]
    numbers = re.search(r"^    (372 .*)$", music.__doc__, re.M)[1]
    assert midi.encode(notes) == [int(number) for number in numbers.split()]
    assert f"V = {midi.VOCAB_SIZE}" in music.__doc__


# ---- relative attention

def test_skew_moves_each_distance_to_its_key():
    """Entry (t, c) of x belongs to the distance S − 1 − c. With one column too few in the padding,
    or rows cut at the wrong place, all queries but the last would read a neighbour's distance."""
    for T, S in ((1, 1), (3, 3), (6, 6), (2, 5), (1, 4)):       # S > T: keys from before
        x = torch.arange(T * S).view(1, T, S)
        got = music.skew(x)
        assert got.shape == x.shape
        for t in range(T):
            query = S - T + t                                   # its place among the keys
            for key in range(query + 1):
                assert got[0, t, key] == x[0, t, S - 1 - (query - key)]


def test_the_mask_hides_the_future_and_what_is_further_back_than_the_window():
    seen = music.causal_mask(4, window=3) == 0
    assert seen.int().tolist() == [[1, 0, 0, 0],
                                   [1, 1, 0, 0],
                                   [1, 1, 1, 0],
                                   [0, 1, 1, 1]]
    assert torch.equal(music.causal_mask(1, window=3, before=3), music.causal_mask(4, 3)[3:])


def attention_by_numpy(q, k, v, E, window):
    """Query by query, over the keys that it may look at; E[:, −1 − r] is for the distance r."""
    B, nh, T, hs = q.shape
    out = np.zeros((B, nh, T, hs))
    for b, head, i in np.ndindex(B, nh, T):
        keys = range(max(0, i - window + 1), i + 1)
        scores = np.array([q[b, head, i] @ (k[b, head, j] + E[head, -1 - (i - j)]) for j in keys])
        weights = np.exp((scores - scores.max()) / math.sqrt(hs))
        weights /= weights.sum()
        out[b, head, i] = sum(weight * v[b, head, j] for weight, j in zip(weights, keys))
    return out


@pytest.mark.paper
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("T", [1, 5, 12, 20])
def test_the_whole_layer_equals_its_definition_in_numpy(T, dtype, tolerance):
    """For fewer events than the window of 12 holds, as many, and more."""
    layer = make_model(block_size=WINDOW, n_embd=12, n_head=3).to(dtype).h[0].attn
    x = torch.randn(2, T, 12, dtype=dtype)
    weight = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    qkv = x.double().numpy() @ weight["c_attn.weight"].T + weight["c_attn.bias"]
    q, k, v = qkv.reshape(2, T, 3, 3, 4).transpose(2, 0, 3, 1, 4)       # (3, B, nh, T, hs)
    y = attention_by_numpy(q, k, v, weight["E"], WINDOW)
    y = y.transpose(0, 2, 1, 3).reshape(2, T, 12)
    want = y @ weight["c_proj.weight"].T + weight["c_proj.bias"]
    close(layer(x).double(), want, tolerance)


@pytest.mark.paper
def test_gradients_equal_those_of_the_plain_way():
    """Which makes the tensor of shape (T, T, hs) that the skew saves."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 6, 8, dtype=torch.float64)           # B = 2, nh = 2, T = 6
    E = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)
    mask = music.causal_mask(6, window=6)
    music.relative_attention(q, k, v, E, mask).square().sum().backward()
    fast = E.grad
    E.grad = None

    distance = (torch.arange(6)[:, None] - torch.arange(6)).clamp(min=0)
    E_by_key = E[:, 5 - distance]                                       # (nh, T, T, hs)
    scores = q @ k.mT + torch.einsum("bhid,hijd->bhij", q, E_by_key)
    weights = F.softmax(scores / math.sqrt(8) + mask, dim=-1)
    (weights @ v).square().sum().backward()
    close(fast, E.grad, 1e-10)


@pytest.mark.paper
def test_no_position_enters_but_by_distance():
    """The same eight events, at the beginning of a piece and later in it."""
    model = make_model(n_layer=1, block_size=8)
    events = random_events(1, 20)
    close(model(events[:, 12:])[:, -1], model(events)[:, -1], 1e-5)
    assert "E" in dict(model.h[0].attn.named_parameters())
    assert not hasattr(model, "wpe")


@pytest.mark.paper
def test_initialisation():
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(n_layer=8, n_embd=256, block_size=64))
    assert model.lm_head.weight is model.wte.weight
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert abs(p.std().item() / std - 1) < 0.03, name
        else:
            is_gain = ".ln" in f".{name}" and name.endswith("weight")
            assert torch.equal(p, torch.ones_like(p) if is_gain else torch.zeros_like(p))


# ---- causality and the window

def all_logits(model, events, parts):
    """Logits (B, T, V) of a model that keeps keys and values; the events come in parts."""
    attns = [music.CachedAttention(block.attn) for block in model.h]
    logits = []
    start = 0
    for part in events.split(parts, dim=1):
        x = model.embed(part, start=start)
        for block, attn in zip(model.h, attns):
            x = block(x, attn)
        logits.append(model.lm_head(model.ln_f(x)))
        start += part.size(1)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("change", [1, 7, 19, 39])
def test_an_event_changes_nothing_before_it(change, cached):
    """Also after the window of 12 has slid. With a cache the events come in three parts."""
    model = make_model(block_size=WINDOW)
    a = random_events(2, 40)
    b = a.clone()
    b[:, change] = (b[:, change] + 1) % V
    if cached:
        one, other = (all_logits(model, events, [9, 1, 30]) for events in (a, b))
    else:
        one, other = model(a), model(b)
    assert torch.equal(one[:, :change], other[:, :change])
    assert not torch.equal(one[:, change], other[:, change])


def test_the_future_stays_hidden_however_large_the_scores():
    """Added before the skew, a mask would be moved with the rest, and open in the wrong places."""
    model = make_model(block_size=WINDOW)
    torch.nn.init.normal_(model.h[0].attn.c_attn.weight, std=1000)
    a = random_events(1, 6)
    b = a.clone()
    b[0, 4:] = (a[0, 4:] + 1) % V
    assert torch.equal(model(a)[:, :4], model(b)[:, :4])
    assert not torch.equal(model(a)[:, 4:], model(b)[:, 4:])


def test_one_layer_sees_a_window_of_events():
    model = make_model(n_layer=1, block_size=8)
    a = random_events(1, 20)
    b = a.clone()
    b[:, :12] = (b[:, :12] + 1) % V
    one, other = model(a), model(b)
    assert torch.equal(one[:, 19], other[:, 19])                # 12 to 19 are eight
    assert not torch.equal(one[:, 18], other[:, 18])


def test_dropout_acts_in_training_only():
    model = make_model(dropout=0.5)
    events = random_events(2, 8)
    assert torch.equal(model(events), model(events))
    model.train()
    assert not torch.equal(model(events), model(events))


@pytest.mark.paper
def test_attention_weights_are_dropped():
    """Where every v is 1, attention returns the sum of its weights: 1, and other numbers if some
    are dropped."""
    q, k = torch.randn(2, 1, 2, 8, 4)
    v = torch.ones(1, 2, 8, 4)
    E = torch.randn(2, 8, 4)
    mask = music.causal_mask(8, window=8)
    dropout = torch.nn.Dropout(0.5)
    close(music.relative_attention(q, k, v, E, mask), v, 1e-6)
    dropped = music.relative_attention(q, k, v, E, mask, dropout)
    assert len((1000 * dropped).round().unique()) > 4
    close(music.relative_attention(q, k, v, E, mask, dropout.eval()), v, 1e-6)


# ---- the cache

@pytest.mark.parametrize("parts", [[1] * 40, [30, 1, 1, 8], [5, 35], [40], [12, 12, 16]])
def test_logits_with_a_cache_equal_those_without(parts):
    """If this fails after a change to the network: what CachedAttention keeps must be what
    attention uses. Rotary positions, for instance, belong into `qkv`, which is told the position of
    its first event."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = make_model(block_size=WINDOW).to(dtype)
        events = random_events(2, 40)
        close(all_logits(model, events, parts), model(events), tolerance)


def test_a_cached_model_reads_what_is_new_and_begins_anew_with_a_shorter_piece():
    model = make_model(block_size=WINDOW).double()
    cached = music.CachedMusicTransformer(model)
    events = random_events(2, 40)
    want = model(events)
    for end in (7, 13, 14, 15, 16, 40):                         # one by one, and several at once
        close(cached(events[:, :end]), want[:, end - 1:end], 1e-10)
    other = random_events(2, 9, seed=1)
    close(cached(other), model(other)[:, -1:], 1e-10)


def test_the_cache_holds_a_window_and_every_event_is_read_once(monkeypatch):
    model = make_model(block_size=WINDOW)
    lengths = []
    embed = model.embed

    def look(idx, start):
        lengths.append(idx.size(1))
        return embed(idx, start)

    monkeypatch.setattr(model, "embed", look)
    cached = music.CachedMusicTransformer(model)
    music.generate(cached, random_events(1, 16), 11, temperature=0)
    assert lengths == [16] + [1] * 10
    for attn in cached.attns:
        assert attn.k.size(2) == attn.v.size(2) == WINDOW - 1   # the next event's own come besides


@pytest.mark.parametrize("options", [dict(temperature=0), dict(), dict(top_k=3),
                                     dict(top_p=0.7, temperature=1.3)])
def test_with_a_cache_the_same_events_are_generated(options):
    model = make_model(block_size=WINDOW).double()
    primer = random_events(3, 5)
    pieces = []
    for reader in (model, music.CachedMusicTransformer(model)):
        pieces.append(music.generate(reader, primer, 40, generator=rng_of(7), **options))
    assert pieces[0].shape == (3, 45) and torch.equal(pieces[0][:, :5], primer)
    assert torch.equal(*pieces)


# ---- sampling

def test_sampling_uses_its_options():
    model = make_model()

    def piece(**options):
        return music.generate(model, random_events(3, 5), 30, generator=rng_of(7), **options)

    likeliest = piece(temperature=0)
    for options in (dict(temperature=1e-4), dict(top_k=1), dict(top_p=1e-9)):
        assert torch.equal(piece(**options), likeliest)
    assert not torch.equal(piece(), likeliest)
    assert not torch.equal(piece(temperature=5), piece())


def test_every_sampling_option_reaches_the_sampler():
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(**TINY))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)

    def pieces(**options):
        model.cfg = music.Config(**{**TINY, **options})
        return music.write(model)

    greedy = pieces(temperature=0.0)
    assert pieces(top_k=1) == pieces(top_p=1e-6) == pieces(temperature=1e-5) == greedy
    assert pieces(temperature=1.0) == pieces(temperature=1.0) != greedy
    assert pieces(temperature=1.0, seed=2) != pieces(temperature=1.0)
    assert pieces(temperature=1.0, cache=False) == pieces(temperature=1.0)
    assert len(pieces(num_samples=3)) == 3


def test_generation_leaves_the_model_as_it_was_and_hands_out_each_event():
    """Dropout must not act while sampling, and must act again afterwards."""
    model = make_model(dropout=0.5)
    primer = random_events(2, 5)
    columns = []
    model.train()
    piece = music.generate(model, primer, 8, temperature=0, on_token=columns.append)
    assert model.training
    assert torch.equal(piece, torch.cat([primer, torch.stack(columns, dim=1)], dim=1))
    model.eval()
    assert torch.equal(piece, music.generate(model, primer, 8, temperature=0))
    assert not model.training


# ---- batches, the loss, learning

def test_batches_are_shifted_by_one():
    tokens = to_tokens([compose(1)[0]], "cpu")
    x, y = music.get_batch(tokens, 50, 64, rng_of(0))
    assert x.shape == (64, 50) and torch.equal(x[:, 1:], y[:, :-1])
    x, y = music.get_batch(torch.arange(9), 8, 3, rng_of(0))    # music of a single window, whole
    assert torch.equal(y, torch.arange(1, 9).expand(3, 8))


def test_half_of_a_batch_begins_where_a_piece_begins():
    """Of stretches that begin anywhere, few have bar 1 in them when bar 13 repeats it: the longest
    distances of the window were then hardly learnt, and the music that was written lost its way."""
    tokens = to_tokens([compose(i)[0] for i in range(4)], "cpu")
    for share in (0.0, 0.5, 1.0):
        x, _ = music.get_batch(tokens, 50, 400, rng_of(0), from_beginning=share)
        found = (x[:, 0] == midi.PIECE).float().mean().item()
        assert abs(found - share) < 0.08                        # 3 standard errors of a half of 400
    first = x[:, :20].unique(dim=0)                             # all pieces that fit, and no others
    expected = torch.stack([tokens[i:i + 20] for i in (tokens == midi.PIECE).nonzero().flatten()])
    assert torch.equal(first, expected.unique(dim=0))


def test_a_piece_is_transposed_as_a_whole():
    """Key down and key up move together, or notes would never end; all else stays as it is."""
    tokens = to_tokens([compose(1)[0]], "cpu")
    plain, _ = music.get_batch(tokens, 50, 64, rng_of(0))
    moved, _ = music.get_batch(tokens, 50, 64, rng_of(0), semitones=3)
    seen = set()
    for before, after in zip(plain, moved):
        is_note = before < midi.SHIFT
        change = (after - before)[is_note].unique()
        assert len(change) == 1
        assert torch.equal(after[~is_note], before[~is_note])
        seen.add(change.item())
    assert seen == set(range(-3, 4))

    keys = torch.tensor([0, 127, 128, 255])                     # both ends of the keyboard
    assert midi.transpose(keys, 12).tolist() == [12, 127, 140, 255]
    assert midi.transpose(keys, -12).tolist() == [0, 115, 128, 243]


def test_the_loss_at_the_start_is_that_of_knowing_nothing():
    torch.manual_seed(0)
    model = music.MusicTransformer(music.Config(**{**TINY, "n_embd": 32}))
    x, y = music.get_batch(to_tokens([compose(0)[0]], "cpu"), 32, 4, rng_of(0))
    assert abs(music.next_token_loss(model(x), y).item() - math.log(midi.VOCAB_SIZE)) < 0.15


@pytest.mark.parametrize("optimizer, lr", [("muon", 0.04), ("adamw", 0.01)])
def test_overfits_one_batch(optimizer, lr):
    torch.manual_seed(0)
    cfg = music.Config(**{**TINY, "n_embd": 32, "optimizer": optimizer, "lr": lr})
    model = music.MusicTransformer(cfg)
    x, y = music.get_batch(to_tokens([compose(0)[0]], "cpu"), 32, 4, rng_of(0))
    optimizers = music.make_optimizers(model, cfg)
    for _ in range(100):
        loss = music.next_token_loss(model(x), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.5


@pytest.mark.parametrize("optimizer, kinds", [("muon", 2), ("adamw", 1)])
def test_optimizers_cover_every_parameter_once(optimizer, kinds):
    cfg = music.Config(**{**TINY, "optimizer": optimizer, "weight_decay": 0.1})
    model = music.MusicTransformer(cfg)
    optimizers = music.make_optimizers(model, cfg)
    groups = [group for o in optimizers for group in o.param_groups]
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(optimizers) == kinds
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.paper
def test_muon_trains_the_matrices_of_the_blocks_but_not_the_vectors_of_distances():
    model = make_model(optimizer="muon")
    muon, _ = music.make_optimizers(model, model.cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["n_matrices"]
             for group in muon.param_groups for p in group["params"]}
    assert found == {name: 3 if "c_attn" in name else 1 for name, p in model.named_parameters()
                     if name.startswith("h.") and p.ndim == 2}


def test_learning_rate():
    cfg = music.Config(steps=110, warmup=10, stable_frac=0.5)
    factors = [music.lr_factor(step, cfg) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11) and factors[9] == pytest.approx(10 / 11)
    assert set(factors[10:61]) == {1}
    assert factors[85] == pytest.approx(0.5) and factors[110] == 0


def loss_of_windows(model, tokens, T):
    """The sum of −log p of tokens[1:], in windows of T that begin with no context."""
    total = 0.0
    for start in range(0, len(tokens) - 1, T):
        window = tokens[start:min(start + T, len(tokens) - 1)]
        log_p = F.log_softmax(model(window[None])[0].detach().double(), dim=1)
        for t in range(len(window)):
            total -= log_p[t, tokens[start + t + 1]].item()
    return total


def test_estimate_loss_predicts_every_event_once():
    """30 events are 29 targets: three windows of eight, and one of five."""
    model = make_model(block_size=8, dropout=0.5).train()
    tokens = random_events(30)
    got = music.estimate_loss(model, [tokens], windows_at_once=2)
    assert model.training                                       # it puts back what was there
    want = loss_of_windows(model.eval(), tokens, 8)
    assert got == pytest.approx(want / 29, rel=1e-5)
    total, count = study.losses_by_position(model, tokens, windows_at_once=2)
    assert total.sum().item() == pytest.approx(want, rel=1e-5)
    assert count.tolist() == [4, 4, 4, 4, 4, 3, 3, 3]


# ---- the study

def test_the_bars_of_events_and_the_bars_that_come_back():
    for seed in range(6):
        notes, beats = compose(seed)
        tokens = to_tokens([notes], "cpu").tolist()
        bars = study.bars_of_events(tokens, beats * BEAT)
        begins = [int(note.start / BEAT / beats + 1e-6) for note in notes]
        keys_down = [bar for bar, token in zip(bars.tolist(), tokens) if token < midi.NOTE_OFF]
        assert sorted(keys_down) == sorted(begins) and set(keys_down) == set(range(16))
        again = study.bar_1_again([notes, []], BEAT)
        assert (again["bar 5"], again["bar 13"]) == (1, 1) and again["bar 9"] < 1
        assert list(again) == ["bar 5", "bar 9", "bar 13"]      # our tunes end with bar 16


def test_in_a_folk_tune_of_repeated_halves_bar_9_is_bar_1():
    """AABB, with eight bars in each part, and an upbeat of a quaver."""
    def part(low):
        return [(i * 0.5, low + i % 7 + i // 16) for i in range(64)]

    notes = []
    for repeat, low in enumerate((60, 60, 72, 72)):
        notes += [midi.Note(32 * repeat + at, 32 * repeat + at + 0.5, pitch, 64)
                  for at, pitch in part(low)]
    again = study.bar_1_again([notes], 1.0)
    assert again["bar 9"] == 1 and max(again[f"bar {i}"] for i in (5, 13, 17, 25)) < 1
    model = music.MusicTransformer(music.Config(**{**TINY, "block_size": 256})).eval()
    assert list(study.loss_by_bar(model, [notes], 1.0)) == [f"bar {i}" for i in range(1, 33)]


# ---- the script

def write_primer(path):
    midi.write_midi(path, compose(3)[0], BEAT)


def test_a_run_from_training_to_sound(tmp_path, capsys):
    result = music.main(flags(tmp_path))
    run = tmp_path / "run"
    last_row = (run / "log.csv").read_text().split()[-1]
    assert float(last_row.split(",")[-1]) == result["val_loss"]
    assert result["chance"] == math.log(389) and result["corpus"]["in_key"] > 0.9
    assert result["kneser_ney_cache"] < result["kneser_ney"] < 4
    assert (run / "samples/step_000003.mid").exists()
    assert (run / "samples/step_000006.png").exists()
    out = capsys.readouterr().out
    assert "held-out loss" in out and "Kneser–Ney" in out and "look in" in out

    # three pieces that go on from a primer, with and without a cache
    write_primer(tmp_path / "a.mid")
    command = ["sample", *flags(tmp_path, num_samples=3), f"--primer={tmp_path}/a.mid",
               "--primer_seconds=3.84"]
    pieces = music.main([*command, "--wav"])
    out = capsys.readouterr().out
    assert len(pieces) == 3 and "only 6 steps" in out and "in key" in out
    wanted = [note for note in compose(3)[0] if note.end < 3.84]
    for i, notes in enumerate(pieces, start=1):
        assert (run / f"sample_{i}.png").exists() and (run / f"sample_{i}.wav").exists()
        assert [note for note in notes if note.end < 3.84] == wanted
        read, _ = midi.read_midi(run / f"sample_{i}.mid")
        assert [note[2:] for note in read] == [note[2:] for note in notes]
    assert pieces[0] != pieces[1]
    assert music.main([*command, "--cache=0"]) == pieces

    tables = music.main(["evaluate", *flags(tmp_path)])
    ranges = ["0–0", "1–1", "2–3", "4–7", "8–15", "16–31"]
    assert list(tables["loss_after_so_many_events"]) == ranges
    assert len(tables["loss_by_bar_read_from_the_beginning"]) > 3
    assert (run / "evaluate.json").exists()


def test_the_evaluation_at_the_end_is_done_once(tmp_path, monkeypatch):
    calls = []
    plain = music.estimate_loss

    def count(*args):
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(music, "estimate_loss", count)
    music.train(tiny(tmp_path))
    assert len(calls) == 2                                      # after steps 3 and 6


def test_a_run_on_a_folder(tmp_path):
    (tmp_path / "midis").mkdir()
    for i in range(4):
        midi.write_midi(tmp_path / f"midis/{i}.mid", compose(i)[0], 0.6)
    result = music.main(flags(tmp_path, data=tmp_path / "midis", transpose=5, steps=3))
    assert result["steps"] == 3 and result["n"] == 1
    music.main(["sample", f"--out_dir={tmp_path}/run"])
    assert midi.read_midi(tmp_path / "run/sample_1.mid")[1] == 0.6


def test_n_test_is_honoured_and_reported(tmp_path, capsys):
    result = music.main(flags(tmp_path, pieces=40, n_test=2))
    assert result["n"] == 2 and "beside 2 held-out ones" in capsys.readouterr().out
    assert music.main(flags(tmp_path, pieces=40))["n"] == 4


def test_a_wrong_primer_is_refused_within_a_second_and_before_training(tmp_path, capsys):
    music.train(tiny(tmp_path, steps=3))
    write_primer(tmp_path / "good.mid")
    (tmp_path / "half.mid").write_bytes((tmp_path / "good.mid").read_bytes()[:-90])
    run = ["sample", f"--out_dir={tmp_path}/run"]
    for command in (run, flags(tmp_path, out_dir=tmp_path / "new")):
        before = time.process_time()
        error = refused(capsys, *command, f"--primer={tmp_path}/half.mid")
        assert "cut short" in error and "half.mid" in error
        assert time.process_time() - before < 1
    assert not (tmp_path / "new").exists()
    assert "missing.mid" in refused(capsys, *run, f"--primer={tmp_path}/missing.mid")


def test_bad_settings_are_refused_and_named(tmp_path, capsys):
    for name, value, rule in (("transpose", 13, "from 0 to 12"), ("n_embd", 15, "multiple"),
                              ("from_beginning", 1.5, "from 0 to 1"),
                              ("block_size", 1, "at least 2"), ("n_layer", 0, "at least 1"),
                              ("dropout", 2.0, "below 1"), ("stable_frac", 1.0, "below 1"),
                              ("max_new_tokens", 0, "at least 1"),
                              ("num_samples", 0, "at least 1"), ("top_p", 0.0, "above 0"),
                              ("primer_seconds", 0.0, "above 0"),
                              ("temperature", -1.0, "not be negative"),
                              ("top_k", -1, "not be negative")):
        error = refused(capsys, *flags(tmp_path, **{name: value}))
        assert f"--{name}={value}" in error and rule in error
    assert "lower --block_size" in refused(capsys, *flags(tmp_path, block_size=10**6))
    assert not (tmp_path / "run").exists()


def test_a_model_that_writes_no_notes_is_no_failure(tmp_path):
    """After a step or two a model may write a single note, or none."""
    assert music_scores([[]], BEAT) == {}
    save_piece(tmp_path / "none", [], BEAT, wav=True)
    assert (tmp_path / "none.png").stat().st_size > 0
    music.main(flags(tmp_path, steps=1, max_new_tokens=1, num_samples=1))
