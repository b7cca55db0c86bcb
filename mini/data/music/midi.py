"""Reading and writing MIDI files; notes as tokens for a language model, as a picture, and as sound.

A Standard MIDI File holds no sound, only what was played: "key 60 down, with velocity 80", "key 60 up".

    header    "MThd", length 6, format (0: one track, 1: several at once), number of tracks, division
    track     "MTrk", length in bytes, then events, each with the time since the one before it:

    delta     ticks: 7 bits a byte, highest first, the top bit set on all bytes but the last
    event     status byte (top bit set) and data bytes (top bit clear); the low four bits are the channel
                80 key velocity   note off          90 key velocity   note on (velocity 0 is an off, too)
                A0 B0 E0          2 data bytes: pressure, controllers (pedals), pitch bend
                C0 D0             1 data byte: instrument, pressure
                F0 F7             system exclusive: a length, then so many bytes
                FF type length …  meta: 51 tempo, microseconds per beat; 2F end of track; titles, lyrics
              A missing status byte repeats the last one ("running status"), which saves a third of the file.

Division is the number of ticks in a beat, so seconds = ticks · tempo / (1e6 · division), summed over the changes
of tempo; a change in one track holds for all tracks. If the top bit of division is set, the timing is SMPTE, of
film frames. Numbers have the highest byte first. Only notes and tempo are read; drums (channel 10) are left out.
"""
import struct
import wave
from collections import defaultdict, deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mini.data.files import what_is
from mini.utils.config import UserError, require, require_file
from mini.utils.run import atomic_open


class Note(NamedTuple):
    start: float        # seconds
    end: float
    pitch: int          # 0 to 127; 60 is the C in the middle of the piano
    velocity: int       # 1 to 127, how hard the key is struck


DEFAULT_TEMPO = 500_000         # microseconds per beat, if a file does not say
SHORTEST_BEAT = 20_000          # microseconds: 3,000 beats a minute, which only a damaged file has
LONGEST_SILENCE = 60.0          # seconds in which no key goes down or up; see shorten_silences
MISSING = "the file is cut short, or no MIDI file; fetch it again"


# ---- reading
def read_midi(path) -> tuple:
    """(notes sorted by start, seconds per beat at the first note) of a MIDI file of format 0 or 1.

    Of overlapping notes on one key, the first to begin is the first to end. A note without an end ends with its
    track. Raises UserError for another kind of file, a file that is cut short, SMPTE timing, or no notes.
    """
    require_file(path, f"{path}: no such MIDI file")
    data = Path(path).read_bytes()
    reason = what_is(data) or "it does not begin with MThd"
    require(data[:4] == b"MThd" and len(data) >= 14, f"{path}: not a MIDI file ({reason})")
    length, kind, n_tracks, division = struct.unpack(">IHHH", data[4:14])
    require(division < 0x8000, f"{path}: SMPTE timing, of film frames; export it with ticks per beat")
    require(kind < 2 and division > 0, f"{path}: only formats 0 and 1 with a division above 0 can be read")
    position, found, tempos, spans = 8 + length, 0, [(0, DEFAULT_TEMPO)], []
    while found < n_tracks:
        require(position + 8 <= len(data), f"{path}: {found} of {n_tracks} tracks are there: {MISSING}")
        name, size = data[position:position + 4], int.from_bytes(data[position + 4:position + 8], "big")
        require(position + 8 + size <= len(data), f"{path}: a chunk of {size} bytes is not whole: {MISSING}")
        if name == b"MTrk":     # chunks of other names are for later versions
            try:
                read_track(data[position + 8:position + 8 + size], tempos, spans)
            except IndexError:
                raise UserError(f"{path}: track {found + 1} breaks off: {MISSING}") from None
            except ValueError as error:
                raise UserError(f"{path}: track {found + 1} is damaged: {error}; fetch it again") from None
            found += 1
        position += 8 + size
    require(spans, f"{path}: there are no notes in it")
    tempos.sort(key=lambda change: change[0])                   # of two at the same tick, the later one holds
    ticks, tempo = np.array(tempos, dtype=float).T
    scale = tempo / 1e6 / division                              # seconds per tick
    at = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * scale[:-1])])        # seconds at each change

    def seconds(tick):
        i = np.searchsorted(ticks, tick, side="right") - 1      # the change that holds at the tick
        return (at[i] + (tick - ticks[i]) * scale[i]).tolist()

    begin, end, pitch, velocity = np.array(spans).T
    notes = sorted(map(Note, seconds(begin), seconds(end), pitch.tolist(), velocity.tolist()))
    return notes, float(tempo[np.searchsorted(ticks, begin.min(), side="right") - 1]) / 1e6


def read_track(data: bytes, tempos: list, spans: list):
    """Read a track; add its changes (tick, µs) to tempos and its notes (tick, end tick, pitch, velocity) to spans.
    Raises IndexError if the bytes run out, and ValueError if they are not events."""
    position = tick = status = 0
    sounding = defaultdict(deque)                               # (channel, pitch) -> [(tick, velocity), …]

    def number():               # of variable length
        nonlocal position
        value = 0
        for _ in range(4):
            byte = data[position]
            position += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise ValueError(f"byte {position}: a number of more than four bytes")

    while position < len(data):
        tick += number()
        byte = data[position]
        if byte in (0xFF, 0xF0, 0xF7):                          # meta, system exclusive
            kind, position = data[position:position + 2], position + (2 if byte == 0xFF else 1)
            size = number()
            if position + size > len(data):
                raise IndexError
            if kind == b"\xFF\x51":
                tempo = int.from_bytes(data[position:position + size], "big")
                if size != 3 or 0 < tempo < SHORTEST_BEAT:
                    raise ValueError(f"a tempo of {size} bytes, {tempo:,} µs a beat (3 bytes are the rule, and "
                                     f"at least {SHORTEST_BEAT:,} µs)")
                if tempo > 0:
                    tempos.append((tick, tempo))
            position += size
            continue
        if byte >= 0x80:
            status, position = byte, position + 1
        kind, first, second = status >> 4, data[position], 0
        if kind not in (0xC, 0xD):
            second = data[position := position + 1]
        position += 1
        if status == 0:
            raise ValueError(f"byte {position}: data before any status byte")
        if status >= 0xF0:
            raise ValueError(f"byte {position}: status {status:02X}, which files do not have")
        if max(first, second) > 127:
            raise ValueError(f"byte {position}: a data byte above 127")
        key = status & 15, first
        if kind == 9 and second and key[0] != 9:                # channel 10, counted from 1, is the drums
            sounding[key].append((tick, second))
        elif kind in (8, 9) and sounding[key]:
            begin, velocity = sounding[key].popleft()
            spans.append((begin, tick, first, velocity))
    spans += [(begin, tick, key[1], velocity) for key in sounding for begin, velocity in sounding[key]]


def shorten_silences(notes) -> tuple:
    """(notes, how many silences were shortened): where for more than LONGEST_SILENCE no key goes down or up, the
    rest of that time is cut out. A single wrong byte can make a pause of weeks, in which there is nothing to learn.
    """
    times = np.unique([time for note in notes for time in (note.start, note.end)])     # sorted
    excess = np.maximum(np.diff(times) - LONGEST_SILENCE, 0)
    if not excess.any():
        return notes, 0
    cut = np.concatenate([[0.0], np.cumsum(excess)])            # seconds cut out before each of the times
    new = dict(zip(times.tolist(), (times - cut).tolist()))
    notes = [note._replace(start=new[note.start], end=new[note.end]) for note in notes]
    return notes, int((excess > 0).sum())


# ---- writing
def write_midi(path, notes, beat: float = 0.5):
    """Write notes as a file of format 0 with `beat` seconds per beat. Times are rounded to 1/480 of a beat."""
    division, events = 480, []
    for note in notes:
        begin = round(note.start / beat * division)
        end = max(begin + 1, round(note.end / beat * division))
        events += [(begin, 0x90, note.pitch, note.velocity), (end, 0x80, note.pitch, 64)]
    track, before = b"\x00\xFF\x51\x03" + round(beat * 1e6).to_bytes(3, "big"), 0
    for now, status, pitch, velocity in sorted(events):         # at the same time, offs come first: 0x80 < 0x90
        track += variable_length(now - before) + bytes([status, pitch, velocity])
        before = now
    track += b"\x00\xFF\x2F\x00"                               # the end
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, division) + b"MTrk" + struct.pack(">I", len(track))
    with atomic_open(path) as file:
        file.write(header + track)


def variable_length(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.insert(0, value & 0x7F | 0x80)
    return bytes(out)


# ---- tokens
#
# Events as in Oore et al. 2018: 128 note-on, 128 note-off, 32 velocity, and time-shift, of which
# they have 125, in steps of 8 ms. Here they are the 100 of Huang et al. 2018, in steps of 10 ms.
# PIECE is our own.
NOTE_ON, NOTE_OFF, SHIFT, VELOCITY, PIECE = 0, 128, 256, 356, 388      # where each kind begins
VOCAB_SIZE = PIECE + 1          # PIECE stands before each piece, so it also ends the piece before
STEPS = 100                     # time steps in a second; the longest shift is one second
LONGEST_REST = 5 * STEPS        # a longer time in which nothing happens is shortened to this


def encode(notes) -> list:
    """Notes as tokens, without PIECE. Times are rounded to steps, velocities down to a multiple of 4. If a note is
    struck again while it sounds, it ends there."""
    events, last = [], {}
    for note in sorted(notes):
        begin = round(note.start * STEPS)
        end = max(begin + 1, round(note.end * STEPS))
        before = last.get(note.pitch, [-1, -1])
        if before[0] == begin:
            continue                                            # twice the same key at the same time
        before[1] = min(before[1], begin)
        last[note.pitch] = [begin, end, note]
        events.append(last[note.pitch])
    timed = [(end, 0, note.pitch, 0) for _, end, note in events]
    timed += [(begin, 1, note.pitch, note.velocity // 4) for begin, _, note in events]
    timed.sort()                                                # at the same time: offs first, low notes first
    tokens, now, velocity = [], timed[0][0] if timed else 0, None
    for step, on, pitch, bin in timed:
        wait = min(step - now, LONGEST_REST)
        tokens += [SHIFT + STEPS - 1] * (wait // STEPS) + ([SHIFT + wait % STEPS - 1] if wait % STEPS else [])
        now = step
        if on and bin != velocity:
            tokens.append(VELOCITY + bin)
            velocity = bin
        tokens.append((NOTE_ON if on else NOTE_OFF) + pitch)
    return tokens


def transpose(tokens, semitones):
    """Tokens, a tensor, with their notes raised by so many semitones (a number, or a tensor that is
    broadcast). What would leave the keyboard of 128 keys stays on its last key."""
    is_note = tokens < SHIFT                                    # key down or key up
    pitch = tokens % NOTE_OFF
    new_pitch = (pitch + semitones).clamp(0, NOTE_OFF - 1)
    return torch.where(is_note, tokens - pitch + new_pitch, tokens)


def decode(tokens) -> list:
    """The notes of any tokens, also of those that make little sense: an off without a note does nothing, and a
    note without an off ends with the tokens. It stops at the first PIECE that is not the first token."""
    notes, sounding, step, velocity = [], {}, 0, 16

    def end(pitch):
        begin, bin = sounding.pop(pitch)
        if step > begin:
            notes.append(Note(begin / STEPS, step / STEPS, pitch, max(1, 4 * bin)))

    for i, token in enumerate(tokens):
        if token == PIECE:
            if i:
                break
        elif token >= VELOCITY:
            velocity = token - VELOCITY
        elif token >= SHIFT:
            step += token - SHIFT + 1
        else:
            pitch = token % NOTE_OFF
            if pitch in sounding:
                end(pitch)
            if token < NOTE_OFF:
                sounding[pitch] = step, velocity
    for pitch in list(sounding):
        end(pitch)
    return sorted(notes)


# ---- as a picture, and as sound
def piano_roll(notes, bar: float, seconds: float = 32.0) -> np.ndarray:
    """A picture of the first seconds, uint8 (H, W, 3): black keys are shaded, a line stands at each bar (of `bar`
    seconds), soft notes are blue, loud ones red."""
    notes = [note for note in notes if note.start < seconds] or [Note(0, 1, 60, 1)]
    low, high = min(n.pitch for n in notes) - 2, max(n.pitch for n in notes) + 2
    width, height = 30, 5                                       # pixels per second, per semitone
    span = min(seconds, max(n.end for n in notes))
    image = np.full(((high - low + 1) * height, int(span * width) + 1, 3), 255, np.uint8)
    for pitch in (p for p in range(low, high + 1) if p % 12 in (1, 3, 6, 8, 10)):
        image[(high - pitch) * height:][:height] = 238
    for i in range(int(span / bar) + 1):
        image[:, int(i * bar * width)] = 190
    for note in notes:
        left, top = int(note.start * width), (high - note.pitch) * height
        right, red = max(int(note.end * width) - 1, left + 1), np.clip((note.velocity - 40) / 50, 0, 1)
        image[top:top + height - 1, left:right] = 40 + 200 * red, 60, 220 - 180 * red
    return image


def write_wav(path, notes, rate: int = 22050):
    """Write the notes as mono sound: each is a few sine waves that die away, like a plucked string."""
    sound = np.zeros(int((max((n.end for n in notes), default=0.0) + 1) * rate))
    for note in notes:
        frequency, first = 440 * 2 ** ((note.pitch - 69) / 12), int(note.start * rate)
        t = np.arange(int((note.end - note.start + 0.2) * rate)) / rate
        tone = sum(np.sin(2 * np.pi * k * frequency * t) * np.exp(-2.5 * k * t) / k**1.5
                   for k in range(1, 6) if k * frequency < rate / 2)
        release = np.clip((note.end - note.start + 0.2 - t) / 0.2, 0, 1)        # fades out, to avoid a click
        tone = tone * (note.velocity / 127) ** 1.5 * np.minimum(1, t / 0.005) * release
        sound[first:first + len(t)] += tone[:len(sound) - first]
    with atomic_open(path) as file, wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, len(sound), "NONE", "not compressed"))
        out.writeframes(np.round(32000 * sound / max(1e-9, np.abs(sound).max())).astype("<i2").tobytes())
