"""Reading and writing MIDI files; notes as tokens for a language model, as a picture, and as sound.

A Standard MIDI File holds no sound, only what was played: "key 60 down, with velocity 80", "key 60
up".

    header    "MThd", length 6, format (0: one track, 1: several at once), number of tracks,
              division
    track     "MTrk", length in bytes, then events, each with the time since the one before it:

    delta     ticks: 7 bits a byte, highest first, the top bit set on all bytes but the last
    event     status byte (top bit set) and data bytes (top bit clear); the low four bits are the
              channel
                80 key velocity   note off
                90 key velocity   note on (velocity 0 is an off, too)
                A0 B0 E0          2 data bytes: pressure, controllers (pedals), pitch bend
                C0 D0             1 data byte: instrument, pressure
                F0 F7             system exclusive: a length, then so many bytes
                FF type length …  meta: 51 tempo, microseconds per beat; 2F end of track; titles,
                                  lyrics
              A missing status byte repeats the last one ("running status"), which saves a third of
              the file.

Division is the number of ticks in a beat, so seconds = ticks · tempo / (1e6 · division), summed
over the changes of tempo; a change in one track holds for all tracks. If the top bit of division is
set, the timing is SMPTE, of film frames. Numbers have the highest byte first. Only notes and tempo
are read; drums (channel 10) are left out.
"""
import struct
import wave
from collections import defaultdict, deque
from dataclasses import dataclass
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


# ---- reading

DEFAULT_TEMPO = 500_000         # microseconds per beat, if a file does not say
SHORTEST_BEAT = 20_000          # microseconds: 3,000 beats a minute, which only a damaged file has
LONGEST_SILENCE = 60.0          # seconds in which no key goes down or up; see shorten_silences
DRUMS = 9                       # their channel, which musicians count as the tenth
MISSING = "the file is cut short, or no MIDI file; fetch it again"


def read_midi(path) -> tuple:
    """(notes sorted by start, seconds per beat at the first note) of a MIDI file of format 0 or 1.

    Of overlapping notes on one key, the first to begin is the first to end. A note without an end
    ends with its track. Raises UserError for another kind of file, a file that is cut short, SMPTE
    timing, or no notes.
    """
    require_file(path, f"{path}: no such MIDI file")
    data = Path(path).read_bytes()
    reason = what_is(data) or "it does not begin with MThd"
    require(data[:4] == b"MThd" and len(data) >= 14, f"{path}: not a MIDI file ({reason})")
    length, kind, n_tracks, division = struct.unpack(">IHHH", data[4:14])
    require(division < 0x8000,
            f"{path}: SMPTE timing, of film frames; export it with ticks per beat")
    require(kind < 2 and division > 0,
            f"{path}: only formats 0 and 1 with a division above 0 can be read")

    tempos = [(0, DEFAULT_TEMPO)]               # (tick, microseconds per beat from there on)
    spans = []                                  # (tick, end tick, pitch, velocity) of each note
    position = 8 + length                       # behind the header
    n_found = 0
    while n_found < n_tracks:
        begin = position + 8                    # of the chunk's content
        require(begin <= len(data),
                f"{path}: {n_found} of {n_tracks} tracks are there: {MISSING}")
        name = data[position:position + 4]
        size = int.from_bytes(data[position + 4:begin], "big")
        require(begin + size <= len(data),
                f"{path}: a chunk of {size} bytes is not whole: {MISSING}")
        if name == b"MTrk":                     # chunks of other names are for later versions
            n_found += 1
            try:
                read_track(data[begin:begin + size], tempos, spans)
            except IndexError:
                raise UserError(f"{path}: track {n_found} breaks off: {MISSING}") from None
            except ValueError as error:
                raise UserError(f"{path}: track {n_found} is damaged: {error}; fetch it "
                                "again") from None
        position = begin + size
    require(spans, f"{path}: there are no notes in it")

    clock = Clock(tempos, division)
    begin, end, pitch, velocity = np.array(spans).T
    notes = map(Note, clock.seconds(begin), clock.seconds(end), pitch.tolist(), velocity.tolist())
    return sorted(notes), clock.beat_at(begin.min())


class Clock:
    """Ticks as seconds.

    tempos: [(tick, microseconds per beat from there on), …], in any order; of two at the same tick,
    the later one in the list holds.
    """

    def __init__(self, tempos: list, division: int):
        changes = sorted(tempos, key=lambda change: change[0])
        self.ticks, self.tempos = np.array(changes, dtype=float).T      # (n,) each
        self.seconds_per_tick = self.tempos / 1e6 / division
        durations = np.diff(self.ticks) * self.seconds_per_tick[:-1]
        self.times = np.concatenate([[0.0], np.cumsum(durations)])      # seconds at each change

    def change_at(self, tick):
        """The number of the change that holds at a tick, or at many of them."""
        return np.searchsorted(self.ticks, tick, side="right") - 1

    def seconds(self, tick) -> list:
        """The times of ticks, an array."""
        i = self.change_at(tick)
        times = self.times[i] + (tick - self.ticks[i]) * self.seconds_per_tick[i]
        return times.tolist()

    def beat_at(self, tick) -> float:
        """Seconds per beat at a tick."""
        return float(self.tempos[self.change_at(tick)]) / 1e6


def read_track(data: bytes, tempos: list, spans: list):
    """Read a track; add its changes (tick, µs) to tempos and its notes (tick, end tick, pitch,
    velocity) to spans. Raises IndexError if the bytes run out, and ValueError if they are not
    events."""
    sounding = defaultdict(deque)               # {(channel, pitch): [(tick, velocity), …]}
    position = 0
    tick = 0
    status = 0                                  # none yet
    while position < len(data):
        delta, position = read_number(data, position)
        tick += delta
        byte = data[position]

        if byte in (0xFF, 0xF0, 0xF7):                          # meta, system exclusive
            is_tempo = data[position:position + 2] == b"\xFF\x51"
            position += 2 if byte == 0xFF else 1
            size, position = read_number(data, position)
            if position + size > len(data):
                raise IndexError("the bytes run out")
            if is_tempo:
                tempo = read_tempo(data[position:position + size])
                if tempo > 0:
                    tempos.append((tick, tempo))
            position += size
            continue

        if byte >= 0x80:                                        # else the last status holds
            status = byte
            position += 1
        kind = status >> 4
        channel = status & 15
        pitch = data[position]                                  # of notes; the first data byte
        velocity = 0
        position += 1
        if kind not in (0xC, 0xD):
            velocity = data[position]                           # the second data byte
            position += 1
        if status == 0:
            raise ValueError(f"byte {position}: data before any status byte")
        if status >= 0xF0:
            raise ValueError(f"byte {position}: status {status:02X}, which files do not have")
        if max(pitch, velocity) > 127:
            raise ValueError(f"byte {position}: a data byte above 127")

        if kind not in (8, 9) or channel == DRUMS:
            continue
        key = (channel, pitch)
        if kind == 9 and velocity > 0:
            sounding[key].append((tick, velocity))
        elif sounding[key]:
            begin, own_velocity = sounding[key].popleft()
            spans.append((begin, tick, pitch, own_velocity))

    for (channel, pitch), notes in sounding.items():            # those without an end
        spans += [(begin, tick, pitch, velocity) for begin, velocity in notes]


def read_number(data: bytes, position: int) -> tuple:
    """(a number of 7 bits a byte, the position behind it)."""
    value = 0
    for _ in range(4):
        byte = data[position]
        position += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position
    raise ValueError(f"byte {position}: a number of more than four bytes")


def read_tempo(content: bytes) -> int:
    """Microseconds per beat; 0 stands for no tempo. Raises ValueError if there cannot be such a
    tempo."""
    tempo = int.from_bytes(content, "big")
    if len(content) != 3 or 0 < tempo < SHORTEST_BEAT:
        raise ValueError(f"a tempo of {len(content)} bytes, {tempo:,} µs a beat (3 bytes are the "
                         f"rule, and at least {SHORTEST_BEAT:,} µs)")
    return tempo


def shorten_silences(notes) -> tuple:
    """(notes, how many silences were shortened): where for more than LONGEST_SILENCE no key goes
    down or up, the rest of that time is cut out. A single wrong byte can make a pause of weeks, in
    which there is nothing to learn."""
    times = np.unique([time for note in notes for time in (note.start, note.end)])     # sorted
    excess = np.maximum(np.diff(times) - LONGEST_SILENCE, 0)
    if not excess.any():
        return notes, 0
    cut_out = np.concatenate([[0.0], np.cumsum(excess)])        # seconds before each of the times
    new_times = times - cut_out
    new = dict(zip(times.tolist(), new_times.tolist()))
    notes = [note._replace(start=new[note.start], end=new[note.end]) for note in notes]
    return notes, int((excess > 0).sum())


# ---- writing

def write_midi(path, notes, beat: float = 0.5):
    """Write notes as a file of format 0 with `beat` seconds per beat. Times are rounded to 1/480 of
    a beat."""
    division = 480
    events = []                                 # (tick, status, pitch, velocity)
    for note in notes:
        begin = round(note.start / beat * division)
        end = max(begin + 1, round(note.end / beat * division))
        events.append((begin, 0x90, note.pitch, note.velocity))
        events.append((end, 0x80, note.pitch, 64))
    events.sort()                               # at the same time, offs come first: 0x80 < 0x90

    tempo = round(beat * 1e6)
    track = b"\x00\xFF\x51\x03" + tempo.to_bytes(3, "big")
    last_tick = 0
    for tick, status, pitch, velocity in events:
        track += variable_length(tick - last_tick) + bytes([status, pitch, velocity])
        last_tick = tick
    track += b"\x00\xFF\x2F\x00"                # the end of the track
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, division)
    track_header = b"MTrk" + struct.pack(">I", len(track))
    with atomic_open(path) as file:
        file.write(header + track_header + track)


def variable_length(value: int) -> bytes:
    """A number as 7 bits a byte, highest first, the top bit set on all bytes but the last."""
    reversed_bytes = [value & 0x7F]
    value >>= 7
    while value > 0:
        reversed_bytes.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(reversed_bytes[::-1])


# ---- tokens
#
# Events as in Oore et al. 2018: 128 note-on, 128 note-off, 32 velocity, and time-shift, of which
# they have 125, in steps of 8 ms. Here they are the 100 of Huang et al. 2018, in steps of 10 ms.
# PIECE is our own.

NOTE_ON = 0                     # where each kind begins: a key goes down,
NOTE_OFF = 128                  # it goes up,
SHIFT = 256                     # time goes on by 1 to 100 steps,
VELOCITY = 356                  # the velocity of the notes that follow, by fours,
PIECE = 388                     # a piece begins, so the piece before has ended
VOCAB_SIZE = PIECE + 1
STEPS = 100                     # time steps in a second; the longest shift is one second
LONGEST_REST = 5 * STEPS        # a longer time in which nothing happens is shortened to this


@dataclass
class Stroke:
    """A note in time steps."""
    begin: int
    end: int
    pitch: int
    velocity: int               # 0 to 31


def encode(notes) -> list:
    """Notes as tokens, without PIECE. Times are rounded to steps, velocities down to a multiple of
    4. If a note is struck again while it sounds, it ends there."""
    events = []                                 # (step, is the key going down?, pitch, velocity)
    for stroke in to_strokes(notes):
        events.append((stroke.begin, True, stroke.pitch, stroke.velocity))
        events.append((stroke.end, False, stroke.pitch, 0))
    events.sort()                               # at the same time: offs first, low notes first

    tokens = []
    now = events[0][0] if events else 0         # the rest before the first note is left out
    last_velocity = None
    for step, is_on, pitch, velocity in events:
        tokens += shift_tokens(min(step - now, LONGEST_REST))
        now = step
        if is_on and velocity != last_velocity:
            tokens.append(VELOCITY + velocity)
            last_velocity = velocity
        tokens.append(NOTE_ON + pitch if is_on else NOTE_OFF + pitch)
    return tokens


def to_strokes(notes) -> list:
    """Notes in time steps. If a key is struck while it sounds, the stroke before it ends there; of
    two at the same step, the first is kept."""
    strokes = []
    last = {}                                   # {pitch: its last stroke}
    for note in sorted(notes):
        begin = round(note.start * STEPS)
        end = max(begin + 1, round(note.end * STEPS))
        before = last.get(note.pitch)
        if before:
            if before.begin == begin:
                continue
            before.end = min(before.end, begin)
        stroke = Stroke(begin, end, note.pitch, note.velocity // 4)
        last[note.pitch] = stroke
        strokes.append(stroke)
    return strokes


def shift_tokens(steps: int) -> list:
    """Tokens that let so many steps pass: one for each whole second, and one for the rest."""
    seconds, rest = divmod(steps, STEPS)
    tokens = [SHIFT + STEPS - 1] * seconds
    if rest > 0:
        tokens.append(SHIFT + rest - 1)
    return tokens


def transpose(tokens, semitones):
    """Tokens, a tensor, with their notes raised by so many semitones (a number, or a tensor that is
    broadcast). What would leave the keyboard of 128 keys stays on its last key."""
    is_note = tokens < SHIFT                                    # key down or key up
    pitch = tokens % NOTE_OFF
    new_pitch = (pitch + semitones).clamp(0, NOTE_OFF - 1)
    return torch.where(is_note, tokens - pitch + new_pitch, tokens)


def decode(tokens) -> list:
    """The notes of any tokens, also of those that make little sense: an off without a note does
    nothing, and a note without an off ends with the tokens. It stops at the first PIECE that is not
    the first token."""
    notes = []
    sounding = {}                               # {pitch: (step at which it began, velocity)}
    step = 0
    velocity = 16                               # if no token says it

    def end_note(pitch):
        begin, own_velocity = sounding.pop(pitch)
        if step > begin:
            loudness = max(1, 4 * own_velocity)
            notes.append(Note(begin / STEPS, step / STEPS, pitch, loudness))

    for i, token in enumerate(tokens):
        if token == PIECE and i == 0:
            continue
        if token == PIECE:
            break
        if token >= VELOCITY:
            velocity = token - VELOCITY
        elif token >= SHIFT:
            step += token - SHIFT + 1
        else:
            pitch = token % NOTE_OFF
            if pitch in sounding:               # it ends, whether the key goes up or down again
                end_note(pitch)
            if token < NOTE_OFF:
                sounding[pitch] = (step, velocity)
    for pitch in list(sounding):
        end_note(pitch)
    return sorted(notes)


# ---- as a picture, and as sound

BLACK_KEYS = (1, 3, 6, 8, 10)       # pitches modulo 12


def piano_roll(notes, bar: float, seconds: float = 32.0) -> np.ndarray:
    """A picture of the first seconds, uint8 (H, W, 3): black keys are shaded, a line stands at each
    bar (of `bar` seconds), soft notes are blue, loud ones red."""
    notes = [note for note in notes if note.start < seconds]
    if not notes:
        notes = [Note(0, 1, 60, 1)]
    low = min(note.pitch for note in notes) - 2
    high = max(note.pitch for note in notes) + 2
    span = min(seconds, max(note.end for note in notes))
    width = 30                                  # pixels per second
    height = 5                                  # pixels per semitone
    image = np.full(((high - low + 1) * height, int(span * width) + 1, 3), 255, np.uint8)

    for pitch in range(low, high + 1):
        if pitch % 12 in BLACK_KEYS:
            top = (high - pitch) * height
            image[top:top + height] = 238
    for i in range(int(span / bar) + 1):
        image[:, int(i * bar * width)] = 190
    for note in notes:
        left = int(note.start * width)
        right = max(int(note.end * width) - 1, left + 1)
        top = (high - note.pitch) * height
        red = np.clip((note.velocity - 40) / 50, 0, 1)          # from 0, soft, to 1, loud
        image[top:top + height - 1, left:right] = (40 + 200 * red, 60, 220 - 180 * red)
    return image


def write_wav(path, notes, rate: int = 22050):
    """Write the notes as mono sound: each is a few sine waves that die away, like a plucked
    string."""
    last_end = max((note.end for note in notes), default=0.0)
    sound = np.zeros(int((last_end + 1) * rate))
    for note in notes:
        tone = tone_of(note, rate)
        first = int(note.start * rate)
        sound[first:first + len(tone)] += tone[:len(sound) - first]
    loudest = max(1e-9, np.abs(sound).max())
    samples = np.round(32000 * sound / loudest).astype("<i2")   # 16 bits each
    with atomic_open(path) as file, wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, len(sound), "NONE", "not compressed"))
        out.writeframes(samples.tobytes())


def tone_of(note: Note, rate: int) -> np.ndarray:
    """The sound of one note, of as many samples as it lasts, and 0.2 s in which it fades out."""
    frequency = 440 * 2 ** ((note.pitch - 69) / 12)
    duration = note.end - note.start
    t = np.arange(int((duration + 0.2) * rate)) / rate          # seconds
    tone = np.zeros(len(t))
    for k in range(1, 6):                                       # the overtones
        if k * frequency < rate / 2:
            tone += np.sin(2 * np.pi * k * frequency * t) * np.exp(-2.5 * k * t) / k**1.5
    attack = np.minimum(1, t / 0.005)                           # both without a click
    release = np.clip((duration + 0.2 - t) / 0.2, 0, 1)
    return tone * (note.velocity / 127) ** 1.5 * attack * release
