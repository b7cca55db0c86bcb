"""Makes midi/*.mid and midi.json: small MIDI files and the notes that mido reads in them.

Made with mido 1.3.3:  python tests/reference/make_midi.py
mido knows messages and not notes: of overlapping notes on one key the first begun ends first, and what is open at the
end of a track ends there. The file "ours.mid" is written by mini/data/music/midi.py, and mido reads it.
"""
import json
import random
import struct
from collections import defaultdict
from pathlib import Path

import mido
from mido import Message, MetaMessage, MidiFile, MidiTrack

from mini.data.music.midi import write_midi
from mini.data.music.tunes import compose

FOLDER = Path(__file__).parent / "midi"


def notes_of(path) -> list:
    """[[start, end, pitch, velocity]] in seconds, by mido's messages and its tick2second between changes of tempo."""
    file = MidiFile(path)
    tempos = [(0, 500_000)]
    for track in file.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                tempos.append((tick, message.tempo))
    tempos.sort(key=lambda change: change[0])

    def seconds(tick):
        total = 0.0
        for (at, tempo), (after, _) in zip(tempos, tempos[1:] + [(10**12, 0)]):
            if tick > at:
                total += mido.tick2second(min(tick, after) - at, file.ticks_per_beat, tempo)
        return total

    notes = []
    for track in file.tracks:
        tick, open_notes = 0, defaultdict(list)
        for message in track:
            tick += message.time
            if message.type not in ("note_on", "note_off") or message.channel == 9:
                continue
            key = message.channel, message.note
            if message.type == "note_on" and message.velocity:
                open_notes[key].append((tick, message.velocity))
            elif open_notes[key]:
                begin, velocity = open_notes[key].pop(0)
                notes.append([seconds(begin), seconds(tick), key[1], velocity])
        for key, rest in open_notes.items():
            notes += [[seconds(begin), seconds(tick), key[1], velocity] for begin, velocity in rest]
    return sorted(notes)


def on(note, time=0, velocity=64, channel=0):
    return Message("note_on", note=note, velocity=velocity, time=time, channel=channel)


def off(note, time=0, channel=0):
    return Message("note_off", note=note, time=time, channel=channel)


def save(name, *tracks, kind=1, division=480):
    file = MidiFile(type=kind, ticks_per_beat=division)
    file.tracks += [MidiTrack(track) for track in tracks]
    file.save(FOLDER / name)


FOLDER.mkdir(exist_ok=True)
rng = random.Random(0)
save("format0.mid", [on(60), off(60, 480), on(64, 0, 100), off(64, 240), on(67, 10_000, 1), off(67, 3)], kind=0)
save("format1.mid", [MetaMessage("set_tempo", tempo=400_000), MetaMessage("track_name", name="two hands")],
     [on(72, 0, 90), off(72, 480), on(74, 0, 90), off(74, 480)], [on(48, 240, 50, 1), off(48, 720, 1)])
save("tempos.mid",      # in two tracks, out of order, in the midst of notes, two at one tick
     [MetaMessage("set_tempo", tempo=600_000, time=100), MetaMessage("set_tempo", tempo=250_000, time=400),
      MetaMessage("set_tempo", tempo=300_000, time=0), MetaMessage("set_tempo", tempo=1_000_000, time=900)],
     [on(60), on(62, 300), off(60, 500), MetaMessage("set_tempo", tempo=123_457, time=50), off(62, 1000)], division=96)
save("overlaps.mid", [on(60, 0, 10), on(60, 100, 20), on(60, 100, 30, 1), off(60, 100), on(60, 50, 40), off(60, 50),
                      off(60, 50, 1), off(60, 50), off(60, 50), on(61, 0, 0), off(99, 10)])
save("unterminated.mid", [on(60), on(64, 480), off(60, 480), on(67, 5), MetaMessage("end_of_track", time=700)],
     [on(40, 0, 30), on(40, 10, 31)], [])
save("others.mid", [Message("program_change", program=5), MetaMessage("lyrics", text="la" * 100), on(60),
                    Message("sysex", data=range(100), time=30), Message("pitchwheel", pitch=-500, time=7),
                    Message("control_change", control=64, value=127), on(40, 3, 90, 9), off(40, 3, 9), off(60, 1),
                    Message("aftertouch", value=3), Message("polytouch", note=60, value=4, time=2),
                    MetaMessage("key_signature", key="Bb"), on(62, 1), on(62, 0x3FFF, 0)])
long, held = [], []
for _ in range(300):
    if held and rng.random() < 0.5:
        long.append(off(held.pop(rng.randrange(len(held))), rng.choice((0, 1, 127, 128, 16383, 16384))))
    else:
        held.append(rng.randrange(128))
        long.append(on(held[-1], rng.randrange(400), rng.randrange(1, 128)))
save("long.mid", long, kind=0, division=32767)
# running status, which mido reads but does not write; the note-on of velocity 0; a chunk of another name before it
body = bytes.fromhex("00 90 3C 40  60 3E 50  60 3C 00  81 00 3E 00  00 C0 05  00 06  00 91 40 40  10 40 00"
                     "00 FF 2F 00")
(FOLDER / "running.mid").write_bytes(b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) +
                                     b"MTrk" + struct.pack(">I", len(body)) + body)
notes, _ = compose(3)
write_midi(FOLDER / "ours.mid", notes, 0.48)
read = notes_of(FOLDER / "ours.mid")
assert [[n.pitch, n.velocity] for n in notes] == [note[2:] for note in read]
assert all(abs(a - b) < 1e-9 for ours, theirs in zip(notes, read) for a, b in zip(ours[:2], theirs[:2]))
golden = {path.name: notes_of(path) for path in sorted(FOLDER.glob("*.mid"))}
lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in golden.items()]
(Path(__file__).parent / "midi.json").write_text("{" + ",\n".join(lines) + "}\n")
