"""mini/data/music/midi.py against mido (golden files in reference/midi), and its tokens, pictures and sounds."""
import json
import os
import random
import struct
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from mini.data.music import midi
from mini.data.music.midi import (Note, decode, encode, piano_roll, read_midi, shorten_silences,
                                  variable_length, write_midi, write_wav)
from mini.data.music.music_scores import bar_similarity, music_scores
from mini.data.music.tunes import compose
from mini.utils.config import UserError
from tests.helpers import refused

REFERENCE = Path(__file__).parent / "reference"
GOLDEN = json.loads((REFERENCE / "midi.json").read_text())
FUZZ = 150              # damaged files; before a change of the reader is kept, 2,000 of them


@pytest.mark.parametrize("name", GOLDEN)
def test_files_are_read_as_mido_reads_them(name):
    notes, _ = read_midi(REFERENCE / "midi" / name)
    assert len(notes) == len(GOLDEN[name]) > 0
    for ours, theirs in zip(notes, GOLDEN[name]):
        assert ours[2:] == tuple(theirs[2:]) and np.allclose(ours[:2], theirs[:2], rtol=1e-12, atol=1e-9)


def test_the_tempo_at_the_first_note():
    assert read_midi(REFERENCE / "midi/ours.mid")[1] == 0.48 and read_midi(REFERENCE / "midi/format1.mid")[1] == 0.4
    assert read_midi(REFERENCE / "midi/overlaps.mid")[1] == 0.5     # none in the file


def test_what_is_written_is_the_golden_file_that_mido_read(tmp_path):
    """make_midi.py lets mido read it, and compares the notes."""
    notes, beats = compose(3)
    write_midi(tmp_path / "a.mid", read_midi(REFERENCE / "midi/ours.mid")[0], 0.48)
    assert (tmp_path / "a.mid").read_bytes() == (REFERENCE / "midi/ours.mid").read_bytes()


def test_written_and_read_back(tmp_path):
    rng = random.Random(1)
    starts = sorted(rng.sample(range(100_000), 60))
    notes = [Note(s / 1000, (s + rng.randint(1, 3000)) / 1000, p, rng.randint(1, 127))
             for p, s in zip(rng.sample(range(128), 60), starts)]
    write_midi(tmp_path / "a.mid", notes, 0.48)                 # one tick is a millisecond
    got, beat = read_midi(tmp_path / "a.mid")
    assert beat == 0.48 and [n[2:] for n in got] == [n[2:] for n in notes]
    assert np.allclose([n[:2] for n in got], [n[:2] for n in notes], atol=1e-9)
    write_midi(tmp_path / "b.mid", [Note(0, 0, 60, 5), Note(0, 1e-5, 61, 5)])
    assert all(n.end > n.start for n in read_midi(tmp_path / "b.mid")[0])


def test_numbers_of_variable_length():      # the examples of the MIDI specification
    for value, code in ((0, "00"), (0x40, "40"), (0x7F, "7F"), (0x80, "8100"), (0x2000, "C000"), (0x3FFF, "FF7F"),
                        (0x4000, "818000"), (0x1FFFFF, "FFFF7F"), (0x0FFFFFFF, "FFFFFF7F")):
        assert variable_length(value).hex().upper() == code


def header(kind=0, tracks=1, division=96):
    return b"MThd" + struct.pack(">IHHH", 6, kind, tracks, division)


def track(body: str):
    body = bytes.fromhex(body)
    return b"MTrk" + struct.pack(">I", len(body)) + body


def read_bytes(tmp_path, data):
    path = tmp_path / "x.mid"
    path.write_bytes(data)
    return read_midi(path)[0]


NOTE = "00 90 3C 40 60 80 3C 40"


def test_small_liberties_are_taken(tmp_path):
    want = [Note(0, 0.5, 60, 64)]
    empty = track("")
    for data in (header() + track(NOTE), header(1, 2) + empty + track(NOTE), header(1, 2) + track(NOTE) + empty,
                 header() + b"XFIH" + struct.pack(">I", 3) + b"abc" + track(NOTE), header() + track(NOTE) + b"rubbish",
                 b"MThd" + struct.pack(">IHHH", 8, 0, 1, 96) + b"\0\0" + track(NOTE),
                 header() + track("00 FF 51 03 00 00 00" + NOTE),               # a tempo of zero is none
                 header() + track("00 90 3C 40 60 FF 01 00 00 3C 00")):         # running status through a text
        assert read_bytes(tmp_path, data) == want


def test_wrong_files_are_refused_in_one_line_at_once(tmp_path):
    whole = (REFERENCE / "midi/long.mid").read_bytes()
    before = time.perf_counter()
    for data, words in (
            (b"", "not a MIDI"), (b"Once upon a time there was a piano.\n" * 9, "not a MIDI"), (header()[:-1], "not a"),
            (whole[:len(whole) // 2], "cut short"), (whole[:30], "cut short"), (header(1, 3) + track(NOTE), "1 of 3"),
            (header(division=0xE728) + track(NOTE), "SMPTE"), (header(division=0) + track(NOTE), "division"),
            (header(2) + track(NOTE), "formats 0 and 1"), (header() + track(""), "no notes"),
            (header() + track("00 FF 2F 00"), "no notes"), (header(0, 0), "no notes"),
            (header() + track("00 3C 40"), "before any status"), (header() + track("00 90 3C"), "breaks off"),
            (header() + track("00 90 3C F0"), "above 127"),
            (header() + track("FF FF FF FF 00 90 3C 40"), "more than four bytes"),
            (header() + track("00 FF 01 7F 41"), "breaks off"), (header() + track("00 F4 00 00"), "status F4"),
            (header() + track("00 FF 51 04 07 A1 20 00" + NOTE), "tempo of 4 bytes"),
            (header() + track("00 FF 51 02 07 A1" + NOTE), "tempo of 2 bytes"),
            (header() + track("00 FF 51 03 00 00 01" + NOTE), "1 µs a beat"), (header() + track("00 F0 7F 41"), "breaks off"),
            (b"MThd" + b"\xff" * 10, "SMPTE"), (b"MThd" + b"\0" * 10, "division")):
        with pytest.raises(UserError):
            read_bytes(tmp_path, data)
        refused(lambda: read_bytes(tmp_path, data), tmp_path / "x.mid", words)
    assert time.perf_counter() - before < 1


def test_a_silence_of_weeks_is_cut_short(tmp_path):
    """One wrong delta time; scoring then went through 700,000 empty bars, for minutes."""
    start, end = "00 90 3C 40", "60 80 3C 40"
    for middle, want in (("FF FF FF 7F 90 3E 40 60 80 3E 40", [Note(0, 0.5, 60, 64), Note(60.5, 61, 62, 64)]),
                         ("60 90 3E 40 FF FF FF 7F 80 3E 40", [Note(0, 0.5, 60, 64), Note(1, 61, 62, 64)])):
        notes = read_bytes(tmp_path, header() + track(f"{start} {end} {middle}"))
        assert notes[1].end > 1e6
        assert shorten_silences(notes) == (want, 1)
        before = time.perf_counter()
        bar_similarity(notes, 0.5)
        assert time.perf_counter() - before < 1             # however long it is
    notes = [Note(0, 1, 60, 9), Note(61, 62, 60, 9), Note(122.5, 123, 60, 9)]
    assert shorten_silences(notes) == ([*notes[:2], Note(122, 122.5, 60, 9)], 1)
    assert shorten_silences(notes[:2]) == (notes[:2], 0) and shorten_silences([]) == ([], 0)


def test_thousands_of_keys_held_at_once(tmp_path):
    before = time.perf_counter()
    notes = read_bytes(tmp_path, header() + track("00 90 3C 40" + " 00 3C 40" * 20_000 + " 60 3C 00" * 20_000))
    assert len(notes) == 20_001 and len(decode(encode(notes))) == 1
    assert time.perf_counter() - before < 3


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there all names are Unicode")
def test_a_name_that_is_not_utf8_can_be_printed(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mid"))
    path.write_bytes(b"no music")
    assert refused(lambda: read_midi(path), "caf\\udce9.mid", "not a MIDI file").isprintable()
    refused(lambda: read_midi(tmp_path / "none.mid"), "none.mid", "no such")
    refused(lambda: read_midi(tmp_path), "no such")


def test_damaged_files_give_notes_or_one_line(tmp_path):
    """Bytes changed, lost, or put in: what comes of them is notes that can be scored and learnt, or one line."""
    rng, files = random.Random(0), [(REFERENCE / "midi" / name).read_bytes() for name in GOLDEN]
    read = 0
    for _ in range(FUZZ):
        data = bytearray(rng.choice(files))
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(data))
            change = rng.choice(("set", "set", "set", "cut", "insert", "delta"))
            if change == "set":
                data[i] = rng.randrange(256)
            elif change == "cut":
                del data[i:i + rng.randint(1, 9)]
            else:
                data[i:i] = b"\xff\xff\xff\x7f" if change == "delta" else rng.randbytes(rng.randint(1, 4))
        if data[10:12] == b"\0\1" and rng.random() < 0.8:      # a single track, and the right length for it
            data[18:22] = (len(data) - 22).to_bytes(4, "big")
        try:
            notes = read_bytes(tmp_path, bytes(data))
            beat = read_midi(tmp_path / "x.mid")[1]
        except UserError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert all(0 <= n.start <= n.end and 0 <= n.pitch < 128 and 0 < n.velocity < 128 for n in notes)
        notes = shorten_silences(notes)[0]
        assert len(encode(notes)) < 100_000 and 0.02 <= beat < 17
        assert np.isfinite(list(music_scores([notes], beat).values())).all()
        write_midi(tmp_path / "y.mid", notes, beat)
        assert len(read_midi(tmp_path / "y.mid")[0]) == len(notes)
    assert 0.1 < read / FUZZ < 0.9


# ---- tokens

def test_tokens_of_two_notes():
    notes = [Note(1.0, 1.5, 60, 64), Note(1.0, 3.51, 64, 65), Note(1.5, 3.51, 67, 80)]
    on, off, shift, velocity = midi.NOTE_ON, midi.NOTE_OFF, midi.SHIFT - 1, midi.VELOCITY
    assert encode(notes) == [velocity + 16, on + 60, on + 64, shift + 50, off + 60, velocity + 20, on + 67,
                             shift + 100, shift + 100, shift + 1, off + 64, off + 67]
    assert (midi.NOTE_OFF, midi.SHIFT, midi.VELOCITY, midi.PIECE, midi.VOCAB_SIZE) == (128, 256, 356, 388, 389)


def test_tokens_lose_nothing_of_a_tune_and_little_of_any_piece():
    for seed in range(20):
        notes, _ = compose(seed)
        assert decode(encode(notes)) == notes and decode([midi.PIECE, *encode(notes), midi.PIECE, 60]) == notes
    rng = random.Random(2)
    notes = sorted(Note(s := rng.uniform(0, 5), s + rng.uniform(0.02, 1), p, rng.randint(4, 127))
                   for p in rng.sample(range(128), 50))
    notes = [n._replace(start=n.start - notes[0].start, end=n.end - notes[0].start) for n in notes]
    got = {n.pitch: n for n in decode(encode(notes))}
    for n in notes:
        assert abs(n.start - got[n.pitch].start) <= 0.0051 and abs(n.end - got[n.pitch].end) <= 0.0051
        assert n.velocity - 4 < got[n.pitch].velocity <= n.velocity


def test_a_key_struck_while_it_sounds_and_a_long_rest():
    assert decode(encode([Note(0, 1, 60, 40), Note(0.5, 2, 60, 80), Note(0.5, 3, 60, 80)])) == [
        Note(0, 0.5, 60, 40), Note(0.5, 2, 60, 80)]
    assert decode(encode([Note(0, 1, 60, 40), Note(1e6, 1e6 + 1, 62, 40)])) == [Note(0, 1, 60, 40), Note(6, 7, 62, 40)]
    assert encode([]) == [] and decode([]) == []


def test_any_tokens_are_music():
    rng = np.random.RandomState(0)
    for _ in range(20):
        notes = decode(rng.randint(midi.PIECE, size=500))
        assert notes == sorted(notes) and all(n.end > n.start and 1 <= n.velocity <= 127 for n in notes)
    assert decode([200, 60]) == []              # an off without a note; a note that no time follows


# ---- pictures and sound

def test_the_roll_shows_each_note_where_it_is():
    image = piano_roll([Note(0, 1, 60, 40), Note(1, 2, 64, 90)], bar=1.0)
    H, W, _ = image.shape
    assert (H, W) == ((64 + 2 - 58 + 1) * 5, 2 * 30 + 1)
    low, high = image[(66 - 60) * 5, 10], image[(66 - 64) * 5, 40]
    assert low[2] > 200 > low[0] and high[0] > 200 > high[2]        # soft is blue, loud is red
    assert (image[0, 30] == 190).all() and (image[5, 45] == 255).all() and (image[0, 45] == 238).all()
    assert piano_roll([], 1.0).ndim == 3


def test_the_sound_has_the_pitch_and_the_length(tmp_path):
    write_wav(tmp_path / "a.wav", [Note(0.5, 1.5, 69, 100)])
    with wave.open(str(tmp_path / "a.wav")) as file:
        rate, sound = file.getframerate(), np.frombuffer(file.readframes(10**6), "<i2").astype(float)
    assert len(sound) == 2.5 * rate and not sound[:rate // 2].any() and not sound[int(1.75 * rate):].any()
    spectrum = np.abs(np.fft.rfft(sound[rate // 2:rate + rate // 2]))
    assert spectrum.argmax() == 440                             # hertz, as the piece is one second long
    assert 20_000 < np.abs(sound).max() <= 32_000
    write_wav(tmp_path / "b.wav", [])
