"""Piano pieces in the style of the 1770s, made on the spot. The same seed gives the same piece.

Each is a small song form of 16 bars, in one key and metre (4/4 or 3/4):

    bars  1–4    antecedent: a motif, its answer, a second idea; it ends open, on the dominant (half cadence)
    bars  5–8    consequent: bars 1 and 2 again, note for note; it ends closed, on the tonic (perfect cadence)
    bars  9–12   middle: the second idea as a sequence, on other degrees, then waiting on the dominant
    bars 13–16   the consequent again

The left hand plays broken chords (Alberti bass: low, high, middle, high) or a waltz; each chord moves to the
nearest position of the next one. The right hand plays motifs, each a rhythm and a contour. A motif is moved to
each new chord, with chord tones on the beats and steps of the scale between them, so it comes back from bar to
bar. The right hand is louder than the left; each phrase grows louder and then softer.
"""
import random
from pathlib import Path

import torch

from mini.data.files import list_files, places
from mini.data.music.midi import (LONGEST_SILENCE, PIECE, Note, encode, piano_roll, read_midi,
                                  shorten_silences, write_midi, write_wav)
from mini.data.music.music_scores import bar_similarity
from mini.utils.config import UserError, printable, require
from mini.utils.metrics import Progress
from mini.utils.png import write_png

BEAT = 0.48                     # seconds; so a sixteenth is a whole number of the tokens' time steps
SIXTEENTH = BEAT / 4
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
KEYS = ([(tonic, "major") for tonic in (0, 7, 2, 5, 10, 9)] +       # C, G, D, F, B flat, A
        [(tonic, "minor") for tonic in (9, 4, 2, 7)])               # A, E, D, G

# Chords in semitones above the tonic, root first. /ii and /V: the dominant of that degree.
CHORDS = {
    "major": {"I": (0, 4, 7), "ii": (2, 5, 9), "IV": (5, 9, 0), "V": (7, 11, 2), "V7": (7, 11, 5),
              "vi": (9, 0, 4), "V7/ii": (9, 1, 7), "V7/V": (2, 6, 0)},
    "minor": {"I": (0, 3, 7), "ii": (2, 5, 8), "IV": (5, 8, 0), "V": (7, 11, 2), "V7": (7, 11, 5),
              "vi": (8, 0, 3), "III": (3, 7, 10), "VII": (10, 2, 5)},
}
# One entry per bar; two chords in an entry share the bar.
OPENINGS = ["I|V7", "I|V7", "I|IV", "I|I", "I|vi"]
HALF_CADENCES = ["I|V", "IV|V", "ii|V", "I,ii|V", "vi,ii|V"]
PERFECT_CADENCES = ["ii,V7|I", "IV,V7|I", "I,V7|I", "V7|I"]
MIDDLES = {"major": ["V7/ii|ii|V7|I", "V7|I|V7/V|V", "V|I|V7|V7", "vi|ii|V7/V|V"],
           "minor": ["VII|III|V7|I", "V7|I|ii|V", "VII|III|IV|V", "V|I|V7|V7"]}

# Rhythms of a bar in sixteenths, by the number of beats.
RHYTHMS = {4: [(4, 4, 4, 4), (8, 4, 4), (6, 2, 4, 4), (4, 2, 2, 4, 4), (4, 4, 2, 2, 2, 2), (2, 2, 2, 2, 4, 4),
               (8, 2, 2, 2, 2), (6, 2, 2, 2, 4), (6, 1, 1, 4, 4), (2, 2, 2, 2, 2, 2, 4), (4, 4, 6, 2)],
           3: [(4, 4, 4), (8, 4), (6, 2, 4), (4, 2, 2, 4), (2, 2, 2, 2, 4), (4, 4, 2, 2), (4, 6, 2),
               (2, 2, 2, 2, 2, 2), (6, 1, 1, 4)]}
RUNS = {4: [(4, 2, 2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 2, 2), (4, 2, 2, 4, 2, 2), (4, 4, 4, 2, 2)],
        3: [(2, 2, 2, 2, 2, 2), (4, 2, 2, 2, 2), (4, 4, 2, 2)]}


class Key:
    """A tonic and a mode; pitches are MIDI numbers."""

    def __init__(self, tonic: int, mode: str):
        self.tonic, self.chords = tonic, CHORDS[mode]
        self.scale = MAJOR if mode == "major" else MINOR

    def chord_tones(self, chord: str, low: int, high: int) -> list:
        """All pitches from low to high that belong to the chord."""
        tones = {(self.tonic + tone) % 12 for tone in self.chords[chord]}
        return [pitch for pitch in range(low, high + 1) if pitch % 12 in tones]

    def ladder(self, chord: str, low: int, high: int) -> list:
        """The scale adapted to the chord: a chord tone that is not in the scale replaces the tone below it."""
        tones, scale = set(self.chords[chord]), set(self.scale)
        for tone in tones - scale:
            scale.discard(tone - 1)
            if tone - 1 not in self.scale:      # the leading note of minor, G sharp for G
                scale.discard(tone - 2)
        scale |= tones
        return [pitch for pitch in range(low, high + 1) if (pitch - self.tonic) % 12 in scale]


# ---- the right hand
LOW, HIGH = 67, 86              # its range, G4 to D6


def make_motif(rng, rhythm) -> tuple:
    """(rhythm, contour). The contour is the distance of each note from the first, in steps of the scale. The
    notes mostly go on by steps in one direction; after a long note there is sometimes a leap."""
    contour, place, direction = [], 0, rng.choice((-1, 1))
    for i, length in enumerate(rhythm):
        if i:
            if rng.random() < 0.3 or abs(place) > 3:
                direction = -direction if abs(place) <= 3 else (-1 if place > 0 else 1)
            place += direction * (2 if rhythm[i - 1] >= 4 and rng.random() < 0.4 else 1)
        contour.append(place)
    return rhythm, contour


def nearest(pitches, target: float):
    return min(pitches, key=lambda pitch: (abs(pitch - target), pitch))


def play_motif(motif, key, chords: list, beats: int, near: float) -> list:
    """The motif on a bar's chords (one or two), as [(sixteenth, length, pitch)]. Its first note is the chord tone
    nearest to `near`; notes on a beat become chord tones, and the notes between them stay on the scale."""
    rhythm, contour = motif
    at, notes, first = 0, [], None
    for length, step in zip(rhythm, contour):
        chord = chord_at(chords, at, beats)
        ladder, tones = key.ladder(chord, LOW - 5, HIGH + 5), key.chord_tones(chord, LOW - 5, HIGH + 5)
        if first is None:
            first = nearest([t for t in tones if LOW <= t <= HIGH], near)
        home = min(range(len(ladder)), key=lambda i: abs(ladder[i] - first))
        pitch = ladder[min(max(home + step, 0), len(ladder) - 1)]
        if at % 4 == 0:                                         # on a beat
            pitch = nearest(tones, pitch)
        notes.append((at, length, pitch))
        at += length
    return notes


def chord_at(chords: list, sixteenth: int, beats: int) -> str:
    """The chord at a sixteenth of the bar. Two chords have half of a 4/4 bar each; of 3/4 two beats and one."""
    return chords[-1] if len(chords) == 2 and sixteenth >= 8 else chords[0]


def cadence_bar(rng, key, chord: str, beats: int, near: float, closed: bool) -> list:
    """The last bar of a phrase. Its goal is the tonic if closed, otherwise a tone of the dominant; sometimes the
    note above the goal comes first."""
    goals = (0,) if closed else (2, 11)                         # semitones above the tonic
    goal = nearest([p for p in range(LOW - 8, HIGH + 3) if (p - key.tonic) % 12 in goals], near)
    ladder = key.ladder(chord, LOW - 8, HIGH + 8)
    above = ladder[ladder.index(goal) + 1]
    if rng.random() < 0.5:
        return [(0, 4, above), (4, 4 * beats - 8, goal)]        # the goal a beat late (suspension); a rest
    return [(0, 4 * beats - 4, goal)]


def approach(notes: list, key) -> list:
    """The bar before a perfect cadence, which leads to the tonic by a step: its last note becomes 2 or 7."""
    at, length, pitch = notes[-1]
    steps = [p for p in range(LOW - 2, HIGH + 3) if (p - key.tonic) % 12 in (2, 11)]
    return notes[:-1] + [(at, length, nearest(steps, pitch))]


# ---- the left hand
PATTERNS = {("alberti", 4): (0, 2, 1, 2, 0, 2, 1, 2), ("alberti", 3): (0, 2, 1, 2, 1, 2),
            ("broken", 4): (0, 1, 2, 1, 0, 1, 2, 1), ("broken", 3): (0, 1, 2, 1, 2, 1)}   # in quavers


def voice(key, chord: str, before) -> list:
    """Three pitches, the lowest first: the position of the chord that is nearest to the chord before it, or to
    C–E–G."""
    tones, positions = [(key.tonic + tone) % 12 for tone in key.chords[chord]], []
    for low in range(46, 60):
        if low % 12 in tones:
            middle, high = sorted((tone - low) % 12 + low for tone in tones if tone != low % 12)
            positions.append([low, middle, high])
    before = before or [48, 52, 55]
    return min(positions, key=lambda p: (sum(abs(a - b) for a, b in zip(p, before)) + abs(p[0] - 51) / 2, p))


def accompany(texture: str, key, chords: list, beats: int, before, last: bool) -> tuple:
    """(notes, voicing) of a bar of the left hand, as [(sixteenth, length, pitch)]."""
    notes = []
    if last:            # the end of a phrase: the root, then the chord
        voicing = voice(key, chords[0], before)
        root = nearest([p for p in range(41, 56) if (p - key.tonic) % 12 == key.chords[chords[0]][0]], 46)
        upper = [p for p in voicing if p % 12 != root % 12]
        return [(0, 4, root)] + [(4, 4 * beats - 8, p) for p in upper], voicing
    for i in range(2 * beats):                                  # quavers
        if i == 0 or 2 * i == 8 and len(chords) == 2:
            before = voicing = voice(key, chord_at(chords, 2 * i, beats), before)
        if texture == "waltz":
            length = 4 if i % 2 == 0 else 0
            pitches = voicing[:1] if i in (0, 4) and (i == 0 or beats == 4) else voicing[1:]
        else:
            length, pitches = 2, [voicing[PATTERNS[texture, beats][i]]]
        notes += [(2 * i, length, p) for p in pitches if length]
    return notes, voicing


# ---- a piece
def compose(seed: int) -> tuple:
    """(notes, beats in a bar) of one piece. The notes are a sorted list of Note that begins at 0 s."""
    rng = random.Random(seed)
    tonic, mode = rng.choice(KEYS)
    key, beats = Key(tonic, mode), rng.choice((4, 4, 3))
    textures = ["alberti", "alberti", "broken", "waltz"]
    texture, texture_b = rng.choice(textures), rng.choice(textures)
    opening, half, perfect, middle = (
        [bar.split(",") for bar in rng.choice(table).split("|")]
        for table in (OPENINGS, HALF_CADENCES, PERFECT_CADENCES, MIDDLES[mode]))
    one = make_motif(rng, rng.choice(RHYTHMS[beats]))
    two = one if rng.random() < 0.5 else make_motif(rng, rng.choice(RHYTHMS[beats]))
    three = make_motif(rng, rng.choice(RUNS[beats]))
    three_b = three if rng.random() < 0.5 else make_motif(rng, rng.choice(RHYTHMS[beats]))
    start = rng.choice((71, 74, 76))

    right, before = [], start                                   # bars of the right hand
    for motif, chords in ((one, opening[0]), (two, opening[1]), (three, half[0])):
        right.append(play_motif(motif, key, chords, beats, (before + start) / 2))
        before = right[-1][-1][2]
    right.append(cadence_bar(rng, key, half[1][0], beats, before, closed=False))
    before = right[1][-1][2]
    bar = approach(play_motif(three, key, perfect[0], beats, (before + start) / 2), key)
    closing = [bar, cadence_bar(rng, key, "I", beats, bar[-1][2], closed=True)]
    statement = right[:2] + closing
    before, turn = start + 2, []
    for motif, chords in zip((three_b, three_b, three, one), middle):
        turn.append(play_motif(motif, key, chords, beats, (before + start) / 2))
        before = turn[-1][-1][2]
    right = right + statement + turn + statement
    plan = opening + half + opening + perfect + middle + opening + perfect

    swell, loud = (64, 68, 76, 64), rng.choice((-4, 0, 4))      # velocities of a phrase's bars
    notes, voicing = [], None
    for i, (melody, chords) in enumerate(zip(right, plan)):
        last, inside = i in (3, 7, 15), 8 <= i < 12             # ends of phrases; the middle
        if i in (4, 12):                                        # the opening comes back note for note
            voicing = None
        left, voicing = accompany(texture_b if inside else texture, key, chords, beats, voicing, last)
        velocity = swell[i % 4] + loud + (8 if inside else 0)
        for hand, level in ((left, velocity - 16), (melody, velocity)):
            for at, length, pitch in hand:
                begin = 4 * beats * i + at
                end = begin + length
                notes.append(Note(round(begin * SIXTEENTH, 2), round(end * SIXTEENTH, 2), pitch, level))
    return sorted(notes), beats


# ---- the corpus of a run
def read_corpus(source: str, n_pieces: int) -> tuple:
    """(training pieces, held-out pieces, seconds per beat). Each piece is a list of Note that begins at 0 s.

    source: 'tunes', for n_pieces of ours; or a folder with .mid and .midi files, see read_folder. Raises
    UserError if there are not at least two pieces.
    """
    if source != "tunes":
        return read_folder(source)
    require(n_pieces > 1, f"--pieces={n_pieces}: at least 2, as a tenth of them is held out")
    pieces = []
    progress = Progress("tunes composed:", n_pieces)
    for seed in range(n_pieces):
        pieces.append(compose(seed)[0])
        progress.add()
    return *hold_out_a_tenth(pieces), BEAT


def hold_out_a_tenth(pieces: list) -> tuple:
    """(all pieces but the last tenth, the last tenth: at least one)."""
    cut = len(pieces) - max(1, len(pieces) // 10)
    return pieces[:cut], pieces[cut:]


def read_folder(source: str) -> tuple:
    """(training pieces, held-out pieces, the median of their seconds per beat) of a folder of MIDI files.

    They are put in a random, but fixed order. Held out are the pieces in sub-folders called val and test, if
    there are such beside one called train; otherwise a tenth, where files of one name (the whole piece in one
    sub-folder, its melody in another) stay together. A file that cannot be read is left out, and a line says so;
    so is a piece that is there twice. Raises UserError if there are not two pieces.
    """
    folder = Path(source)
    require(not folder.is_file(), f"--data={source}: a file; name the folder of .mid files in which it lies")
    require(folder.is_dir(), f"--data={source}: no such folder of .mid files (by name there is: tunes)")
    paths = list_files(folder, (".mid", ".midi"), "MIDI file")
    found = []                                                  # (piece, seconds per beat, split, name)
    copies = []
    known = set()                                               # the notes of each piece
    broken = []
    shortened = []
    progress = Progress("MIDI files read:", len(paths))
    for place in places(folder, paths):
        try:
            notes, beat = read_midi(place.path)
            notes, n_silences = shorten_silences(notes)
            if n_silences:
                shortened.append(place.path)
            begin = notes[0].start
            piece = [n._replace(start=n.start - begin, end=n.end - begin) for n in notes]
            events = tuple(encode(piece))
            if events in known:
                copies.append(place.path)
            else:
                known.add(events)
                found.append((piece, beat, place.split, place.path.stem.lower()))
        except UserError as error:
            broken.append(str(error))
        progress.add()
    why = f"; {len(broken)} cannot be read, the first: {broken[0]}" if broken else ""
    why += f"; {len(copies)} hold the same notes as another, the first: {copies[0]}" if copies else ""
    require(len(found) > 1, printable(f"--data={source}: at least 2 .mid files are needed, one held out{why}"))
    if broken:
        print(f"note: {len(broken)} of {len(paths)} files cannot be read and are left out, the first: {broken[0]}")
    if copies:
        print(f"note: {len(copies)} of {len(paths)} files hold the same notes as another and are left out, the "
              f"first: {printable(str(copies[0]))}")
    if shortened:
        print(f"note: {len(shortened)} of {len(paths)} files hold more than {LONGEST_SILENCE:.0f} s without a key "
              f"going down or up, which are shortened to that, the first: {printable(str(shortened[0]))}")
    random.Random(0).shuffle(found)
    beats = sorted(beat for _, beat, _, _ in found)
    beat = beats[len(beats) // 2]
    if beats[-1] > 1.01 * beats[0]:
        print(f"note: the files have from {60 / beats[-1]:.0f} to {60 / beats[0]:.0f} beats a minute; scores of "
              f"beats and bars take {60 / beat:.0f} for all, so they mean little for the others")
    training = [piece for piece, _, split, _ in found if split == "train"]
    held_out = [piece for piece, _, split, _ in found if split in ("val", "test")]
    if training and held_out:
        print(f"note: {printable(source)}: held out are the {len(held_out)} pieces in its folders val and test")
        return training, held_out, beat
    return *hold_out_names(found), beat


def hold_out_names(found: list) -> tuple:
    """(training pieces, held-out pieces) of [(piece, beat, split, name of the file), …]: a tenth of the names is
    held out, with all pieces of these names. If all have one name, it is a tenth of the pieces."""
    names = list(dict.fromkeys(name for _, _, _, name in found))
    if len(names) == 1:
        return hold_out_a_tenth([piece for piece, _, _, _ in found])
    held_out_names = set(hold_out_a_tenth(names)[1])
    training = [piece for piece, _, _, name in found if name not in held_out_names]
    held_out = [piece for piece, _, _, name in found if name in held_out_names]
    return training, held_out


def to_tokens(pieces, device):
    """Pieces one after the other as a 1-D tensor of tokens, each with the token PIECE before it."""
    tokens = [token for notes in pieces for token in (PIECE, *encode(notes))]
    return torch.tensor(tokens, device=device)


def check_length(tokens, block_size: int):
    """Raise UserError if the music is too short to cut a window from it."""
    require(len(tokens) > block_size,
            f"only {len(tokens)} events to learn from, too few for a window of {block_size}: bring "
            "more music, or lower --block_size")


def read_primer(path: str, seconds: float) -> list:
    """The tokens of the first seconds of a MIDI file, after PIECE; [PIECE] alone without a path.

    Raises UserError for a file that cannot be read.
    """
    if not path:
        return [PIECE]
    notes, _ = shorten_silences(read_midi(path)[0])
    stop = notes[0].start + seconds
    first = [note._replace(end=min(note.end, stop)) for note in notes if note.start < stop]
    return [PIECE, *encode(first)]


def check_primer(path: str, seconds: float):
    """Raise UserError for a primer that cannot be used: before training, not after it."""
    read_primer(path, seconds)


def save_piece(path, notes, beat: float, wav: bool = False):
    """Write notes as path.mid, as a piano roll path.png and, if wav, as sound path.wav."""
    write_midi(f"{path}.mid", notes, beat)
    bar = beat * (bar_similarity(notes, beat)[2] if notes else 4)    # seconds
    write_png(f"{path}.png", piano_roll(notes, bar))
    if wav:
        write_wav(f"{path}.wav", notes)
