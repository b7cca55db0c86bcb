"""mini/data/music/tunes.py: form, harmony and metre of the pieces; the corpus of a folder; mini/data/music/music_scores.py."""
import math
import random
import time

import pytest
import torch

from mini.data.music import tunes
from mini.data.music.midi import PIECE, VOCAB_SIZE, Note, encode, write_midi
from mini.data.music.music_scores import (MOST_BARS, bar_similarity, density, in_key,
                                          loss_baselines, music_report, music_scores, on_beat,
                                          with_cache)
from mini.data.music.tunes import BEAT, Key, compose, read_corpus, to_tokens
from tests.helpers import close, refused, rng_of

SEEDS = range(60)


def bars_of(notes, beats):
    """The notes of each bar as (sixteenth within the bar, length, pitch)."""
    bars = [[] for _ in range(16)]
    for n in notes:
        begin, end = round(4 * n.start / BEAT), round(4 * n.end / BEAT)
        bars[begin // (4 * beats)].append((begin % (4 * beats), end - begin, n.pitch))
    return bars


def test_the_same_seed_gives_the_same_piece_and_others_others():
    assert compose(5) == compose(5)
    assert len({str(compose(seed)) for seed in SEEDS}) == len(SEEDS)
    assert {compose(seed)[1] for seed in SEEDS} == {3, 4}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_piece_has_sixteen_bars_and_the_consequent_begins_as_the_antecedent(seed):
    notes, beats = compose(seed)
    bars = bars_of(notes, beats)
    assert notes[0].start == 0 and notes == sorted(notes) and all(bars)
    assert max(n.end for n in notes) <= 16 * beats * BEAT + 1e-9
    assert bars[0:2] == bars[4:6] == bars[12:14] and bars[6:8] == bars[14:16]     # note for note
    assert bars[3] != bars[7]
    for n in notes:                                             # on the grid of sixteenths, and of the tokens
        assert abs(n.start / (BEAT / 4) - round(n.start / (BEAT / 4))) < 1e-6 and n.end > n.start
        assert abs(100 * n.start - round(100 * n.start)) < 1e-6
        assert 36 <= n.pitch <= 96 and n.velocity % 4 == 0 and 40 <= n.velocity <= 96


@pytest.mark.parametrize("seed", SEEDS)
def test_cadences_and_key(seed):
    """The tonic is in the bass at the end, as in the voice; the first phrase ends on the dominant."""
    notes, beats = compose(seed)
    bars = bars_of(notes, beats)
    tonic = min(bars[15])[2] % 12
    melody = [max((at + length, pitch) for at, length, pitch in bars[i])[1] for i in (3, 7, 15)]
    assert melody[1] % 12 == melody[2] % 12 == tonic and (melody[0] - tonic) % 12 in (2, 11)
    assert (min(bars[3])[2] - tonic) % 12 == 7                  # the half cadence's bass
    before = [pitch for _, _, pitch in sorted(bars[14]) if pitch > 60][-1]
    assert (before - tonic) % 12 in (2, 5, 7, 11)               # the dominant's notes before the end
    assert in_key(notes) > 0.8 and bar_similarity(notes, BEAT)[0] > 0.35


def test_melody_on_the_beat_belongs_to_the_chord():
    rng = random.Random(0)
    for tonic, mode in tunes.KEYS:
        key = Key(tonic, mode)
        for chord in key.chords:
            motif = tunes.make_motif(rng, (2, 2, 2, 2, 4, 4))
            notes = tunes.play_motif(motif, key, [chord], 4, 74)
            tones = {(tonic + t) % 12 for t in key.chords[chord]}
            assert all(pitch % 12 in tones for at, _, pitch in notes if at % 4 == 0)
            ladder = key.ladder(chord, 60, 84)
            assert all(b - a <= 3 for a, b in zip(ladder, ladder[1:]))
            assert tones <= {pitch % 12 for pitch in ladder}


def test_chords_are_spelled_in_the_key():
    c, a = Key(0, "major"), Key(9, "minor")
    assert c.chord_tones("V7", 60, 72) == [65, 67, 71] and a.chord_tones("V", 60, 72) == [64, 68, 71]
    assert c.ladder("I", 60, 72) == [60, 62, 64, 65, 67, 69, 71, 72]
    assert 68 in a.ladder("V", 60, 72) and 67 not in a.ladder("V", 60, 72) and 67 in a.ladder("I", 60, 72)
    assert 61 in c.ladder("V7/ii", 60, 72) and 60 not in c.ladder("V7/ii", 60, 72)


# ---- the corpus

def test_pieces_of_ours_are_split_and_made_in_a_moment():
    before = time.process_time()
    training, held_out, beat = read_corpus("tunes", 50)
    assert time.process_time() - before < 2 and (len(training), len(held_out), beat) == (45, 5, BEAT)
    assert not {str(p) for p in training} & {str(p) for p in held_out}
    tokens = to_tokens(held_out, "cpu").tolist()
    first = [PIECE, *encode(held_out[0])]
    assert tokens.count(PIECE) == 5 and tokens[:len(first)] == first


def test_a_folder_of_midi_files(tmp_path, capsys):
    for i in range(12):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        notes = [n._replace(start=n.start + i, end=n.end + i) for n in compose(i)[0]]
        write_midi(tmp_path / f"{i % 2}" / f"{i}.{'mid' if i % 3 else 'MIDI'}", notes, BEAT)
    (tmp_path / "half.mid").write_bytes((tmp_path / "0/2.mid").read_bytes()[:400])
    (tmp_path / "readme.txt").write_text("not music")
    training, held_out, beat = read_corpus(str(tmp_path), 0)
    note = capsys.readouterr().out
    assert (len(training), len(held_out), beat) == (11, 1, BEAT) and "half.mid" in note and note.count("\n") == 2
    assert "left out: 1 file that is no MIDI file: .txt 1" in note
    assert all(piece[0].start == 0 for piece in training + held_out)
    assert read_corpus(str(tmp_path), 0)[0] == training
    wanted = sorted(encode(compose(i)[0]) for i in range(12))
    assert sorted(encode(piece) for piece in training + held_out) == wanted


def test_what_is_held_out_of_a_folder_is_not_learnt_from_under_another_folder(tmp_path, capsys):
    """Whole pieces, beside them their melodies and their chords, as data sets of folk tunes have them;
    and one piece twice."""
    for i in range(20):
        notes = compose(i)[0]
        middle = 60
        parts = {"all": notes, "melody": [n for n in notes if n.pitch > middle],
                 "chords": [n for n in notes if n.pitch <= middle]}
        for folder, part in parts.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            write_midi(tmp_path / folder / f"{i}.mid", part, BEAT)
    (tmp_path / "all/again.mid").write_bytes((tmp_path / "all/3.mid").read_bytes())
    training, held_out, _ = read_corpus(str(tmp_path), 0)
    assert "1 of 61 files hold the same notes as another" in capsys.readouterr().out
    assert (len(training), len(held_out)) == (54, 6)
    whole = [tuple(encode(compose(i)[0])) for i in range(20)]
    held = {whole.index(tuple(encode(piece))) for piece in held_out if tuple(encode(piece)) in whole}
    assert len(held) == 2                                       # two names, with three pieces each
    melodies = {tuple(n.pitch for n in compose(i)[0] if n.pitch > 60) for i in held}
    assert not melodies & {tuple(n.pitch for n in piece) for piece in training}


def test_tempos_that_differ_are_told(tmp_path, capsys):
    for i, beat in enumerate((0.5, 0.5, 0.75)):
        write_midi(tmp_path / f"{i}.mid", compose(i)[0], beat)
    assert read_corpus(str(tmp_path), 0)[2] == 0.5
    assert "from 80 to 120 beats a minute; scores of beats and bars take 120" in capsys.readouterr().out


def test_folders_that_are_no_corpus(tmp_path):
    refused(lambda: read_corpus(str(tmp_path / "missing"), 0), tmp_path / "missing", "tunes")
    refused(lambda: read_corpus(str(tmp_path), 0), tmp_path, "no MIDI file in the folder")
    (tmp_path / "a.mid").write_text("Dear diary")
    refused(lambda: read_corpus(str(tmp_path), 0), "at least 2", "a.mid", "not a MIDI file")
    refused(lambda: read_corpus(str(tmp_path / "a.mid"), 0), tmp_path / "a.mid", "name the folder")
    write_midi(tmp_path / "b.mid", compose(0)[0], BEAT)
    write_midi(tmp_path / "c.mid", compose(0)[0], BEAT)
    refused(lambda: read_corpus(str(tmp_path), 0), "at least 2", "the same notes as another", "c.mid")
    refused(lambda: read_corpus("tunes", 1), "--pieces=1")


# ---- what counting gives

def loss_with_a_cache_by_hand(p, piece, i):
    """−log p of piece[i]: all earlier places in the piece are searched for what was played just
    before it, the last eight events, then the last sixteen."""
    for k in (8, 16):
        context = piece[max(0, i - k):i]
        followers = [piece[j] for j in range(1, i) if piece[max(0, j - k):j] == context]
        p = (followers.count(piece[i]) + 0.3 * p) / (len(followers) + 0.3)
    return -math.log(p)


def test_the_cache_copies_from_the_same_piece_alone():
    """The second piece begins like the first, and must not profit from it."""
    motif = [60, 300, 188, 64, 300, 192, 67, 305, 195, 62]
    one = [PIECE, *motif * 4, 99, *motif * 2]
    other = [PIECE, *motif * 3]
    tokens = torch.tensor([*one, *other])
    p = torch.rand(len(tokens) - 1, dtype=torch.float64, generator=rng_of(0))
    want = [loss_with_a_cache_by_hand(p[i - 1].item(), one, i) for i in range(1, len(one))]
    got = with_cache(-p.log(), tokens)
    close(got[:len(one) - 1], torch.tensor(want, dtype=torch.float64), 1e-12)
    at = len(one)                                               # where the other piece begins
    want = [loss_with_a_cache_by_hand(p[at + i - 1].item(), other, i) for i in range(1, len(other))]
    close(got[at:], torch.tensor(want, dtype=torch.float64), 1e-12)


def test_counting_is_better_the_more_it_may_look_at():
    training, held_out, _ = read_corpus("tunes", 60)
    scores = loss_baselines(to_tokens(training, "cpu"), to_tokens(held_out, "cpu"), VOCAB_SIZE)
    assert scores["chance"] == math.log(389)
    assert scores["kneser_ney_cache"] < scores["kneser_ney"] < 0.5 * scores["chance"]


# ---- scores

def scale_piece(bars=8, beat=0.5):
    return [Note(beat * i, beat * (i + 1), 60 + (0, 4, 7, 4)[i % 4], 64) for i in range(4 * bars)]


def test_scores_of_pieces_whose_scores_are_known():
    notes = scale_piece()
    assert in_key(notes) == 1 and on_beat(notes, 0.5) == 1 and density(notes) == 2
    chromatic = [Note(i / 10, i / 10 + 0.1, 60 + i % 12, 64) for i in range(120)]
    assert in_key(chromatic) == 7 / 12 and on_beat(chromatic, 0.5) == 0.2
    assert bar_similarity(notes, 0.5) == (1.0, 0.0, 4)
    waltz = [Note(0.5 * i, 0.5 * i + 0.5, 60 + (0, 4, 7)[i % 3], 64) for i in range(24)]
    assert bar_similarity(waltz, 0.5) == (1.0, 0.0, 3)
    late = [n._replace(start=n.start + 0.03 * n.start, end=9) for n in notes]
    assert on_beat(late, 0.5) < 0.2                             # the metre is lost


def test_scoring_a_piece_of_hours_takes_a_moment():
    """Each bar is compared with all before it: 5,000 bars with a note each took 19 s in silence,
    and a folder of such files minutes."""
    before = time.process_time()
    notes = [Note(60 * i, 60 * i + 1, 40 + i % 37, 64) for i in range(5 * MOST_BARS)]
    first = notes[:MOST_BARS]
    assert bar_similarity(notes, 0.5) == bar_similarity(first, 0.5)
    assert time.process_time() - before < 8


def test_means_and_words():
    scores = music_scores([scale_piece(), [], scale_piece()], 0.5)
    assert scores["bar_similarity"] == 1 and set(scores) == {"in_key", "on_beat", "notes_per_second", "bar_similarity",
                                                             "off_bar_similarity"}
    text = music_report(scores, scores, 1.0, 5.9, 2.5, 0.6)
    assert "1.0000" in text and "2.5000" in text and text.count("held-out pieces") == 5
    assert music_report({}) == "there are no notes to score" and music_scores([[]], 0.5) == {}


def test_folders_in_which_all_files_have_one_name():
    """If each tune is a folder with melody.mid in it, the name says nothing: a tenth of the pieces is held out."""
    found = [(f"piece {i}", 0.5, "", "melody") for i in range(20)]
    training, held_out = tunes.hold_out_names(found)
    assert len(training) == 18 and len(held_out) == 2 and not set(training) & set(held_out)
