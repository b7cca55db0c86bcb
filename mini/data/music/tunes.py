"""Piano pieces in the style of the 1770s, made on the spot. The same seed gives the same piece.

Each is a small song form of 16 bars, in one key and metre (4/4 or 3/4):

    bars  1–4    antecedent: a motif, its answer, a second idea; it ends open, on the dominant
                 (half cadence)
    bars  5–8    consequent: bars 1 and 2 again, note for note; it ends closed, on the tonic
                 (perfect cadence)
    bars  9–12   middle: the second idea as a sequence, on other degrees, then waiting on the
                 dominant
    bars 13–16   the consequent again

The left hand plays broken chords (Alberti bass: low, high, middle, high) or a waltz; each chord
moves to the nearest position of the next one. The right hand plays motifs, each a rhythm and a
contour. A motif is moved to each new chord, with chord tones on the beats and steps of the scale
between them, so it comes back from bar to bar. The right hand is louder than the left; each phrase
grows louder and then softer.

    compose         one piece
    read_corpus     (training pieces, held-out pieces, seconds per beat): ours, or your MIDI files
"""
import random
from pathlib import Path
from typing import NamedTuple

import torch

from mini.data.files import list_files, places
from mini.data.music.midi import (LONGEST_SILENCE, PIECE, Note, encode, piano_roll, read_midi,
                                  shorten_silences, write_midi, write_wav)
from mini.data.music.music_scores import bar_similarity
from mini.utils.config import UserError, printable, require
from mini.utils.metrics import Progress
from mini.utils.png import write_png

BEAT = 0.48         # seconds; so a sixteenth is a whole number of the tokens' time steps
SIXTEENTH = BEAT / 4


# ---- keys and chords

# Pitches are MIDI numbers: 60 is C4, and a number modulo 12 is the name of the note, 0 for C.
MAJOR = (0, 2, 4, 5, 7, 9, 11)          # the scales, in semitones above the tonic
MINOR = (0, 2, 3, 5, 7, 8, 10)
KEYS = ([(tonic, "major") for tonic in (0, 7, 2, 5, 10, 9)] +       # C, G, D, F, B flat, A
        [(tonic, "minor") for tonic in (9, 4, 2, 7)])               # A, E, D, G

# Chords in semitones above the tonic, root first. /ii and /V: the dominant of that degree.
CHORDS = {
    "major": {"I": (0, 4, 7), "ii": (2, 5, 9), "IV": (5, 9, 0), "V": (7, 11, 2), "V7": (7, 11, 5),
              "vi": (9, 0, 4), "V7/ii": (9, 1, 7), "V7/V": (2, 6, 0)},
    "minor": {"I": (0, 3, 7), "ii": (2, 5, 8), "IV": (5, 8, 0), "V": (7, 11, 2), "V7": (7, 11, 5),
              "vi": (8, 0, 3), "III": (3, 7, 10), "VII": (10, 2, 5)},
}

# The chords of each part of a piece. One entry per bar; two chords in an entry share the bar.
OPENINGS = ["I|V7", "I|V7", "I|IV", "I|I", "I|vi"]
HALF_CADENCES = ["I|V", "IV|V", "ii|V", "I,ii|V", "vi,ii|V"]
PERFECT_CADENCES = ["ii,V7|I", "IV,V7|I", "I,V7|I", "V7|I"]
MIDDLES = {"major": ["V7/ii|ii|V7|I", "V7|I|V7/V|V", "V|I|V7|V7", "vi|ii|V7/V|V"],
           "minor": ["VII|III|V7|I", "V7|I|ii|V", "VII|III|IV|V", "V|I|V7|V7"]}


class Key:
    """A tonic and a mode."""

    def __init__(self, tonic: int, mode: str):
        self.tonic = tonic
        self.chords = CHORDS[mode]
        self.scale = MAJOR if mode == "major" else MINOR

    def pitches(self, degrees, low: int, high: int) -> list:
        """All pitches from low to high that are, in some octave, so many semitones above the
        tonic."""
        return [pitch for pitch in range(low, high + 1) if (pitch - self.tonic) % 12 in degrees]

    def chord_tones(self, chord: str, low: int, high: int) -> list:
        """All pitches from low to high that belong to the chord."""
        return self.pitches(self.chords[chord], low, high)

    def ladder(self, chord: str, low: int, high: int) -> list:
        """The scale adapted to the chord: a chord tone that is not in the scale replaces the tone
        below it."""
        tones = set(self.chords[chord])
        adapted = set(self.scale)
        for tone in tones - adapted:
            adapted.discard(tone - 1)
            if tone - 1 not in self.scale:      # the leading note of minor, G sharp for G
                adapted.discard(tone - 2)
        return self.pitches(adapted | tones, low, high)


def chord_at(chords: list, sixteenth: int, beats: int) -> str:
    """The chord at a sixteenth of the bar. Two chords have half of a 4/4 bar each; of 3/4 two beats
    and one."""
    beats_of_first = (beats + 1) // 2
    if len(chords) == 2 and sixteenth >= 4 * beats_of_first:
        return chords[1]
    return chords[0]


def nearest(pitches, target: float):
    """The pitch that is nearest to the target; of two such, the lower one."""
    return min(pitches, key=lambda pitch: (abs(pitch - target), pitch))


# ---- the right hand
#
# A bar is a list of (at, length, pitch): when a note begins, and how long it is, in sixteenths.

LOW = 67                        # its range, G4 to D6
HIGH = 86

# Rhythms of a bar in sixteenths, by the number of beats.
RHYTHMS = {
    4: [(4, 4, 4, 4), (8, 4, 4), (6, 2, 4, 4), (4, 2, 2, 4, 4), (4, 4, 2, 2, 2, 2),
        (2, 2, 2, 2, 4, 4), (8, 2, 2, 2, 2), (6, 2, 2, 2, 4), (6, 1, 1, 4, 4),
        (2, 2, 2, 2, 2, 2, 4), (4, 4, 6, 2)],
    3: [(4, 4, 4), (8, 4), (6, 2, 4), (4, 2, 2, 4), (2, 2, 2, 2, 4), (4, 4, 2, 2), (4, 6, 2),
        (2, 2, 2, 2, 2, 2), (6, 1, 1, 4)],
}
RUNS = {
    4: [(4, 2, 2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 2, 2), (4, 2, 2, 4, 2, 2), (4, 4, 4, 2, 2)],
    3: [(2, 2, 2, 2, 2, 2), (4, 2, 2, 2, 2), (4, 4, 2, 2)],
}


def make_motif(rng, rhythm) -> tuple:
    """(rhythm, contour). The contour is the distance of each note from the first, in steps of the
    scale. The notes mostly go on by steps in one direction; after a long note there is sometimes a
    leap."""
    place = 0
    contour = [place]
    direction = rng.choice((-1, 1))
    for length_before in rhythm[:-1]:
        turns = rng.random() < 0.3
        if abs(place) > 3:                              # too far away: back to the first note
            direction = -1 if place > 0 else 1
        elif turns:
            direction = -direction
        leaps = length_before >= 4 and rng.random() < 0.4
        place += direction * (2 if leaps else 1)
        contour.append(place)
    return rhythm, contour


def play_motif(motif, key, chords: list, beats: int, near: float) -> list:
    """The motif on a bar's chords (one or two), as [(sixteenth, length, pitch)]. Its first note is
    the chord tone nearest to `near`; notes on a beat become chord tones, and the notes between them
    stay on the scale."""
    rhythm, contour = motif
    notes = []
    at = 0
    first = None                                        # the pitch of the first note
    for length, step in zip(rhythm, contour):
        chord = chord_at(chords, at, beats)
        ladder = key.ladder(chord, LOW - 5, HIGH + 5)
        tones = key.chord_tones(chord, LOW - 5, HIGH + 5)
        if first is None:
            first = nearest([tone for tone in tones if LOW <= tone <= HIGH], near)
        home = ladder.index(nearest(ladder, first))     # the first note's place on the ladder
        place = min(max(home + step, 0), len(ladder) - 1)
        pitch = ladder[place]
        on_a_beat = at % 4 == 0
        if on_a_beat:
            pitch = nearest(tones, pitch)
        notes.append((at, length, pitch))
        at += length
    return notes


def cadence_bar(rng, key, chord: str, beats: int, near: float, closed: bool) -> list:
    """The last bar of a phrase. Its goal is the tonic if closed, otherwise a tone of the dominant;
    sometimes the note above the goal comes first (a suspension)."""
    goals = (0,) if closed else (2, 11)                 # semitones above the tonic
    goal = nearest(key.pitches(goals, LOW - 8, HIGH + 2), near)
    ladder = key.ladder(chord, LOW - 8, HIGH + 8)
    above = ladder[ladder.index(goal) + 1]
    # at the end of either bar, a rest of one beat
    if rng.random() < 0.5:
        return [(0, 4, above), (4, 4 * beats - 8, goal)]
    return [(0, 4 * beats - 4, goal)]


def approach(notes: list, key) -> list:
    """The bar before a perfect cadence, which leads to the tonic by a step: its last note becomes
    the second degree or the leading note."""
    at, length, pitch = notes[-1]
    neighbours = key.pitches((2, 11), LOW - 2, HIGH + 2)
    return notes[:-1] + [(at, length, nearest(neighbours, pitch))]


# ---- the left hand

# Which of the chord's three pitches each quaver of a bar plays, by the number of beats.
PATTERNS = {
    ("alberti", 4): (0, 2, 1, 2, 0, 2, 1, 2),
    ("alberti", 3): (0, 2, 1, 2, 1, 2),
    ("broken", 4): (0, 1, 2, 1, 0, 1, 2, 1),
    ("broken", 3): (0, 1, 2, 1, 2, 1),
}
TEXTURES = ["alberti", "alberti", "broken", "waltz"]    # likely ones twice


def voice(key, chord: str, before) -> list:
    """Three pitches, the lowest first: the position of the chord that is nearest to the chord
    before it, or to C–E–G."""
    before = before or [48, 52, 55]                     # C3, E3, G3
    names = [(key.tonic + tone) % 12 for tone in key.chords[chord]]
    positions = []
    for low in range(46, 60):
        if low % 12 in names:
            upper = [low + (name - low) % 12 for name in names if name != low % 12]
            positions.append([low, *sorted(upper)])

    def distance(position):
        moved = sum(abs(new - old) for new, old in zip(position, before))
        from_the_middle = abs(position[0] - 51) / 2     # so that the chords do not wander away
        return moved + from_the_middle, position

    return min(positions, key=distance)


def accompany(texture: str, key, chords: list, beats: int, before, last: bool) -> tuple:
    """(notes, voicing) of a bar of the left hand: notes as [(sixteenth, length, pitch)]; voicing,
    the three pitches of its last chord, is `before` of the next bar. last: the bar ends a
    phrase."""
    voicing = voice(key, chords[0], before)
    if last:
        return final_chord(key, chords[0], voicing, beats), voicing
    notes = []
    for quaver in range(2 * beats):
        at = 2 * quaver
        if len(chords) == 2 and at == 8:
            voicing = voice(key, chords[1], voicing)
        if texture != "waltz":
            which = PATTERNS[texture, beats][quaver]
            notes.append((at, 2, voicing[which]))
        elif quaver % 2 == 0:                           # a waltz has crotchets
            is_bass = quaver == 0 or (quaver == 4 and beats == 4)
            pitches = voicing[:1] if is_bass else voicing[1:]
            notes += [(at, 4, pitch) for pitch in pitches]
    return notes, voicing


def final_chord(key, chord: str, voicing: list, beats: int) -> list:
    """The last bar of a phrase in the left hand: the root, then the chord above it, then a rest."""
    root = nearest(key.pitches(key.chords[chord][:1], 41, 55), 46)
    notes = [(0, 4, root)]
    for pitch in voicing:
        if pitch % 12 != root % 12:
            notes.append((4, 4 * beats - 8, pitch))
    return notes


# ---- a piece

def compose(seed: int) -> tuple:
    """(notes, beats in a bar) of one piece. The notes are a sorted list of Note that begins at
    0 s."""
    rng = random.Random(seed)
    tonic, mode = rng.choice(KEYS)
    key = Key(tonic, mode)
    beats = rng.choice((4, 4, 3))
    texture = rng.choice(TEXTURES)
    middle_texture = rng.choice(TEXTURES)

    # the chords of each part: a list of bars, each with one or two chords
    opening = draw_chords(rng, OPENINGS)
    half_cadence = draw_chords(rng, HALF_CADENCES)
    perfect_cadence = draw_chords(rng, PERFECT_CADENCES)
    middle = draw_chords(rng, MIDDLES[mode])
    consequent = opening + perfect_cadence
    chords = opening + half_cadence + consequent + middle + consequent

    melody = compose_melody(rng, key, beats, opening, half_cadence, perfect_cadence, middle)
    loudness = rng.choice((-4, 0, 4))
    swell = (64, 68, 76, 64)                    # velocities of a phrase's bars

    notes = []
    voicing = None
    for bar in range(16):
        is_in_middle = 8 <= bar < 12
        if bar in (4, 12):                      # the opening comes back note for note
            voicing = None
        left_hand, voicing = accompany(middle_texture if is_in_middle else texture, key,
                                       chords[bar], beats, voicing, last=bar in (3, 7, 15))
        velocity = swell[bar % 4] + loudness
        if is_in_middle:
            velocity += 8
        bar_begin = 4 * beats * bar             # in sixteenths, as `at` and `length`
        notes += to_notes(melody[bar], bar_begin, velocity)
        notes += to_notes(left_hand, bar_begin, velocity - 16)
    return sorted(notes), beats


def draw_chords(rng, table: list) -> list:
    """One entry of a table as bars: "I,ii|V" becomes [["I", "ii"], ["V"]]."""
    return [bar.split(",") for bar in rng.choice(table).split("|")]


def compose_melody(rng, key, beats: int, opening, half_cadence, perfect_cadence, middle) -> list:
    """The 16 bars of the right hand, over the chords of each part of the piece."""
    motif = make_motif(rng, rng.choice(RHYTHMS[beats]))
    answer = motif
    if rng.random() >= 0.5:
        answer = make_motif(rng, rng.choice(RHYTHMS[beats]))
    second_idea = make_motif(rng, rng.choice(RUNS[beats]))
    middle_idea = second_idea
    if rng.random() >= 0.5:
        middle_idea = make_motif(rng, rng.choice(RHYTHMS[beats]))
    start = rng.choice((71, 74, 76))            # the pitch around which it moves

    def play(motif, chords, before):
        """A bar that begins halfway between `start` and the pitch before it."""
        return play_motif(motif, key, chords, beats, near=(before + start) / 2)

    bar_1 = play(motif, opening[0], start)
    bar_2 = play(answer, opening[1], last_pitch(bar_1))
    bar_3 = play(second_idea, half_cadence[0], last_pitch(bar_2))
    bar_4 = cadence_bar(rng, key, half_cadence[1][0], beats, last_pitch(bar_3), closed=False)

    bar_7 = approach(play(second_idea, perfect_cadence[0], last_pitch(bar_2)), key)
    bar_8 = cadence_bar(rng, key, "I", beats, last_pitch(bar_7), closed=True)
    consequent = [bar_1, bar_2, bar_7, bar_8]

    sequence = []                               # bars 9 to 12
    before = start + 2
    for idea, chords in zip((middle_idea, middle_idea, second_idea, motif), middle):
        sequence.append(play(idea, chords, before))
        before = last_pitch(sequence[-1])
    return [bar_1, bar_2, bar_3, bar_4] + consequent + sequence + consequent


def last_pitch(bar: list) -> int:
    at, length, pitch = bar[-1]
    return pitch


def to_notes(bar: list, bar_begin: int, velocity: int) -> list:
    """A bar's [(sixteenth, length, pitch)] as Notes in seconds. bar_begin: the sixteenth at which
    the bar begins."""
    notes = []
    for at, length, pitch in bar:
        start = (bar_begin + at) * SIXTEENTH
        end = (bar_begin + at + length) * SIXTEENTH
        notes.append(Note(round(start, 2), round(end, 2), pitch, velocity))
    return notes


# ---- the corpus of a run

def read_corpus(source: str, n_pieces: int) -> tuple:
    """(training pieces, held-out pieces, seconds per beat). Each piece is a list of Note that
    begins at 0 s.

    source: 'tunes', for n_pieces of ours; or a folder with .mid and .midi files, see read_folder.
    Raises UserError if there are not at least two pieces.
    """
    if source != "tunes":
        return read_folder(source)
    require(n_pieces > 1, f"--pieces={n_pieces}: at least 2, as a tenth of them is held out")
    pieces = []
    progress = Progress("tunes composed:", n_pieces)
    for seed in range(n_pieces):
        notes, _ = compose(seed)
        pieces.append(notes)
        progress.add()
    training, held_out = hold_out_a_tenth(pieces)
    return training, held_out, BEAT


def hold_out_a_tenth(pieces: list) -> tuple:
    """(all pieces but the last tenth, the last tenth: at least one)."""
    cut = len(pieces) - max(1, len(pieces) // 10)
    return pieces[:cut], pieces[cut:]


class Found(NamedTuple):
    """A piece in a folder of MIDI files."""
    piece: list                 # its notes, from 0 s on
    beat: float                 # seconds per beat
    split: str                  # "train", "val" or "test", if its folder says so; or ""
    name: str                   # that of the file, in small letters, without its suffix


def read_folder(source: str) -> tuple:
    """(training pieces, held-out pieces, the median of their seconds per beat) of a folder of MIDI
    files.

    They are put in a random, but fixed order. Held out are the pieces in sub-folders called val and
    test, if there are such beside one called train; otherwise a tenth, where files of one name (the
    whole piece in one sub-folder, its melody in another) stay together. A file that cannot be read
    is left out, and a line says so; so is a piece that is there twice. Raises UserError if there
    are not two pieces.
    """
    folder = Path(source)
    require(not folder.is_file(),
            f"--data={source}: a file; name the folder of .mid files in which it lies")
    require(folder.is_dir(),
            f"--data={source}: no such folder of .mid files (by name there is: tunes)")
    found = read_pieces(source)
    random.Random(0).shuffle(found)

    beats = sorted(one.beat for one in found)
    beat = beats[len(beats) // 2]
    if beats[-1] > 1.01 * beats[0]:
        print(f"note: the files have from {60 / beats[-1]:.0f} to {60 / beats[0]:.0f} beats a "
              f"minute; scores of beats and bars take {60 / beat:.0f} for all, so they mean little "
              "for the others")

    training = [one.piece for one in found if one.split == "train"]
    held_out = [one.piece for one in found if one.split in ("val", "test")]
    if training and held_out:
        print(f"note: {printable(source)}: held out are the {len(held_out)} pieces in its folders "
              "val and test")
    else:
        training, held_out = hold_out_names(found)
    return training, held_out, beat


def read_pieces(source: str) -> list:
    """The pieces in a folder's MIDI files, each once, as a list of Found. Lines say how many files
    are left out or changed, and why. Raises UserError if there are not two pieces."""
    folder = Path(source)
    paths = list_files(folder, (".mid", ".midi"), "MIDI file")
    found = []
    known = set()                           # the events of each piece
    broken = []                             # why files cannot be read
    copies = []                             # files with the notes of another
    shortened = []                          # files with long silences
    progress = Progress("MIDI files read:", len(paths))
    for place in places(folder, paths):
        progress.add()
        try:
            notes, beat = read_midi(place.path)
        except UserError as error:
            broken.append(str(error))
            continue
        notes, n_silences = shorten_silences(notes)
        if n_silences > 0:
            shortened.append(place.path)
        begin = notes[0].start
        piece = [note._replace(start=note.start - begin, end=note.end - begin) for note in notes]
        events = tuple(encode(piece))
        if events in known:
            copies.append(place.path)
            continue
        known.add(events)
        found.append(Found(piece, beat, place.split, place.path.stem.lower()))

    why = ""
    if broken:
        why += f"; {len(broken)} cannot be read, the first: {broken[0]}"
    if copies:
        why += f"; {len(copies)} hold the same notes as another, the first: {copies[0]}"
    require(len(found) > 1,
            printable(f"--data={source}: at least 2 .mid files are needed, one held out{why}"))
    if broken:
        print(f"note: {len(broken)} of {len(paths)} files cannot be read and are left out, the "
              f"first: {broken[0]}")
    if copies:
        print(f"note: {len(copies)} of {len(paths)} files hold the same notes as another and are "
              f"left out, the first: {printable(str(copies[0]))}")
    if shortened:
        print(f"note: {len(shortened)} of {len(paths)} files hold more than "
              f"{LONGEST_SILENCE:.0f} s without a key going down or up, which are shortened to "
              f"that, the first: {printable(str(shortened[0]))}")
    return found


def hold_out_names(found: list) -> tuple:
    """(training pieces, held-out pieces) of a list of Found: a tenth of the names is held out, with
    all pieces of these names. If all have one name, it is a tenth of the pieces."""
    names = list(dict.fromkeys(name for _, _, _, name in found))        # each of them once
    if len(names) == 1:
        return hold_out_a_tenth([piece for piece, _, _, _ in found])
    held_out_names = set(hold_out_a_tenth(names)[1])
    training = []
    held_out = []
    for piece, _, _, name in found:
        part = held_out if name in held_out_names else training
        part.append(piece)
    return training, held_out


# ---- tokens, and the files of a run

def to_tokens(pieces, device):
    """Pieces one after the other as a 1-D tensor of tokens, each with the token PIECE before it."""
    tokens = []
    for notes in pieces:
        tokens += [PIECE, *encode(notes)]
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
    notes, _ = read_midi(path)
    notes, _ = shorten_silences(notes)
    stop = notes[0].start + seconds
    first = [note._replace(end=min(note.end, stop)) for note in notes if note.start < stop]
    return [PIECE, *encode(first)]


def check_primer(path: str, seconds: float):
    """Raise UserError for a primer that cannot be used: before training, not after it."""
    read_primer(path, seconds)


def save_piece(path, notes, beat: float, wav: bool = False):
    """Write notes as path.mid, as a piano roll path.png and, if wav, as sound path.wav."""
    write_midi(f"{path}.mid", notes, beat)
    beats_in_bar = bar_similarity(notes, beat)[2] if notes else 4
    write_png(f"{path}.png", piano_roll(notes, bar=beat * beats_in_bar))
    if wav:
        write_wav(f"{path}.wav", notes)
