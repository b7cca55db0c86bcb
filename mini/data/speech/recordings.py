"""Recordings with their transcripts: sentences made on the spot, or a folder of WAV files."""
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from mini.data.files import find_file, list_files, places
from mini.data.speech.rooms import add_noise, in_rooms, make_noises
from mini.data.speech.sentences import write_sentences
from mini.data.speech.synthesiser import RATE, make_voices, speak
from mini.data.speech.wav import read_sound
from mini.data.text.tables import read_rows, without_header
from mini.utils.config import UserError, printable, require, require_file
from mini.utils.progress import Progress

N_VOICES = 1000                 # that are learnt from
HELD_OUT = 300                  # sentences in each held-out set, each in a voice of its own


@dataclass
class Recordings:
    sound: torch.Tensor         # int16 (N, samples), 8,000 in a second, filled up with 0
    n: torch.Tensor             # (N,): how many of the samples are the recording
    texts: list                 # N transcripts

    def __getitem__(self, part: slice):
        return Recordings(self.sound[part], self.n[part], self.texts[part])

    def first(self, n: int):
        return self[:n]

    def seconds(self) -> float:
        return self.n.sum().item() / RATE

    def __len__(self):
        return len(self.texts)


def to_int16(sound):
    """Sounds (B, N), the loudest sample of each at 0.7 of what 16 bits hold."""
    loudest = sound.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
    return (0.7 * 32767 * sound / loudest).round().short()


# ---- made on the spot

def spoken_sentences(sentences: list, voices, seed: int) -> Recordings:
    """The sentences (lists of words), number i said by voice i, each in a room of its own."""
    progress = Progress("spoken", len(sentences))
    rng = torch.Generator().manual_seed(seed)
    # those of about the same length at once, so that little is filled up with silence
    order = sorted(range(len(sentences)), key=lambda i: sum(map(len, sentences[i])))
    sounds = [None] * len(sentences)
    lengths = torch.zeros(len(sentences), dtype=torch.long)
    for start in range(0, len(order), 64):
        part = order[start:start + 64]
        sound, n = speak([sentences[i] for i in part], voices[torch.tensor(part)], rng)
        sound = to_int16(in_rooms(sound, rng))
        for i, row, length in zip(part, sound, n.tolist()):
            sounds[i] = row[:length]
            lengths[i] = length
        progress.add(len(part))
    sound = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
    return Recordings(sound, lengths, [" ".join(words) for words in sentences])


def noisy(recordings: Recordings, snr: float, seed: int) -> Recordings:
    """The same with noise, snr dB below the speech."""
    rng = torch.Generator().manual_seed(seed)
    sound = recordings.sound.float()
    noises = make_noises(sound, rng)
    sound = add_noise(sound, recordings.n, torch.full((len(sound),), snr), noises, rng)
    return Recordings(to_int16(sound), recordings.n, recordings.texts)


def made_sentences(n: int, seed: int) -> tuple:
    """(training set, {set: held out}) of spoken_sentences. No voice of a held-out set is learnt
    from, and no pair of words of HELD_BACK, of which each sentence of "unseen combinations" has
    one. In the noisy sets the sentences are those of "unseen voices"."""
    voices = make_voices(N_VOICES, seed)
    which = torch.randint(N_VOICES, (n,), generator=torch.Generator().manual_seed(seed))
    train_set = spoken_sentences(write_sentences(n, seed), voices[which], seed)
    return train_set, held_out_sentences()


def held_out_sentences() -> dict:
    """{set: Recordings} for made_sentences, always the same."""
    others = make_voices(2 * HELD_OUT, 10**6)
    unseen_voices = spoken_sentences(write_sentences(HELD_OUT, 10**6), others[:HELD_OUT], 10**6)
    unseen_pairs = spoken_sentences(write_sentences(HELD_OUT, 10**6 + 1, unseen=True),
                                    others[HELD_OUT:], 10**6 + 1)
    return {"unseen voices": unseen_voices, "unseen combinations": unseen_pairs,
            "10 dB": noisy(unseen_voices, 10.0, 1), "0 dB": noisy(unseen_voices, 0.0, 2)}


# ---- your own

# How the columns may be called in a file's first line.
HEADER = [{"file", "path", "audio", "wav", "filename", "file_name"},
          {"text", "transcript", "transcription", "sentence", "word", "label"}]
SHAPE = "a WAV file's path, a tab, what is said in it"
QUIET = 1e-4                    # the loudest sample of a recording in which nothing is to be heard
MARGIN = int(0.1 * RATE)        # of silence before and after what is said


def clean(text: str) -> str:
    """A transcript in small letters, without punctuation."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'").replace("_", " ")
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text))


def trim(x):
    """A sound (N,) without the silence at both ends, and then 0.1 seconds of it at each. Silence is
    what is 40 dB below the loudest 10 ms; or 30 dB below, if the quietest are as loud as that."""
    block = RATE // 100
    blocks = torch.nn.functional.pad(x, (0, -len(x) % block)).view(-1, block)
    level = blocks.pow(2).mean(dim=1).sqrt()
    quietest = level.quantile(0.05)
    threshold = max(0.01 * level.max(), min(2 * quietest, 0.03 * level.max()))
    loud = (level > threshold).nonzero()[:, 0]
    if len(loud) > 0:
        start = max(0, (loud[0].item() - 5) * block)
        x = x[start:(loud[-1].item() + 6) * block]
    return torch.nn.functional.pad(x, (MARGIN, MARGIN))


def hear(path, longest: float = 0.0):
    """Recordings, one, of a WAV file: trimmed, and as loud as all others. Raises UserError if there
    is nothing to be heard in it."""
    x = read_sound(path, RATE, longest)
    x = x - x.mean()                                            # some microphones add a constant
    require(x.abs().max() > QUIET, f"{path}: there is nothing to be heard in it, only silence")
    sound = to_int16(trim(x)[None])
    return Recordings(sound, torch.tensor([sound.size(1)]), [""])


def find_recordings(source: str) -> list:
    """[(path, transcript, split), …] of a folder or a .tsv file; split: "train", "test" or "".

    A table says what is said in each file; else it is the name of the folder around the file
    ("seven/ann_3.wav"), or, if there are no folders, what stands before the first _ in its name
    ("7_ann_3.wav"). Raises UserError if there is nothing of the kind.
    """
    path = Path(source)
    require(path.exists(), f"--data={source}: no such file or folder (without --data: sentences "
                           f"made on the spot); bring a folder of WAV files, or lines of {SHAPE}")
    tables = [path]
    if path.is_dir():
        tables = sorted(p for p in path.iterdir() if p.suffix.lower() in (".tsv", ".csv"))
        require(len(tables) <= 1, f"{path}: {len(tables)} tables in it; name one of them by --data")
    if tables:
        return read_table(tables[0])
    found = []
    for place in places(path, list_files(path, [".wav", ".wave"], "recording")):
        name = place.folders[-1] if place.folders else re.split("[_-]", place.path.stem)[0]
        require(clean(name), f"{place.path}: its folder's name says nothing of what is said in it")
        found.append((place.path, clean(name), place.split))
    return found


def read_table(path) -> list:
    """[(path, transcript, ""), …] of a file with lines of SHAPE."""
    found = []
    for number, fields in without_header(read_rows(path), HEADER, path):
        line = f"{path}, line {number}"
        require(len(fields) >= 2 and fields[0] and clean(fields[1]), f"{line}: not {SHAPE}")
        sound = find_file(path.parent, fields[0])
        require_file(sound, f"{line}: no such recording: {sound}")
        found.append((sound, clean(fields[1]), ""))
    require(found, f"{path}: there is nothing in it; bring lines of {SHAPE}")
    return found


def own_recordings(source: str, longest: float) -> tuple:
    """(training set, {"held out": …}) of what --data names. Where folders are called train and
    test, they are taken as such; else a tenth of the recordings is held out, always the same. Those
    of more than `longest` seconds, silent ones, and files that cannot be read are left out, and a
    line says how many, and why."""
    found = find_recordings(source)
    progress = Progress("read", len(found))
    sounds = []
    texts = []
    splits = []
    left_out = Counter()
    for path, text, split in found:
        progress.add()
        try:
            x = read_sound(path, RATE)
        except UserError as error:
            left_out[f"that cannot be read, as {error}"] += 1
            continue
        x = x - x.mean()
        if x.abs().max() <= QUIET:
            left_out["with nothing to be heard in them"] += 1
            continue
        x = trim(x)
        if len(x) > longest * RATE:
            left_out[f"of more than {longest:g} seconds (--max_seconds)"] += 1
            continue
        sounds.append(to_int16(x[None])[0])
        texts.append(text)
        splits.append(split)
    for reason, n in left_out.most_common(5):
        print(printable(f"note: {source}: left out: {n:,} recordings {reason}"), flush=True)
    if len(left_out) > 5:
        print(printable(f"note: {source}: left out: {len(left_out) - 5:,} more"), flush=True)
    require(len(sounds) > 1, f"{source}: {len(sounds)} recordings to learn from; two are needed, "
                             "one to learn from and one to hold out")
    if "train" in splits:
        train = [i for i, split in enumerate(splits) if split == "train"]
        held_out = [i for i, split in enumerate(splits) if split != "train"]
        require(train and held_out, f"{source}: nothing in it can be used of one of the folders of "
                                    "training and held-out recordings")
    else:
        order = torch.randperm(len(sounds), generator=torch.Generator().manual_seed(0)).tolist()
        cut = max(1, len(order) // 10)
        train, held_out = sorted(order[cut:]), sorted(order[:cut])

    def part(which):
        n = torch.tensor([len(sounds[i]) for i in which])
        sound = torch.nn.utils.rnn.pad_sequence([sounds[i] for i in which], batch_first=True)
        return Recordings(sound, n, [texts[i] for i in which])

    return part(train), {"held out": part(held_out)}


def load_speech(source: str, n: int, longest: float, seed: int) -> tuple:
    """(training set, {set: held out}), all Recordings: for "sentences" n made_sentences to learn
    from, else own_recordings."""
    if source == "sentences":
        return made_sentences(n, seed)
    return own_recordings(source, longest)


def load_held_out(cfg) -> dict:
    """{set: Recordings} of the run with these settings."""
    if cfg.data == "sentences":
        return held_out_sentences()
    return own_recordings(cfg.data, cfg.max_seconds)[1]


def noises_of(recordings: Recordings, seed: int):
    """Noises (3, samples) to learn with; babble is made of some of the recordings."""
    rng = torch.Generator().manual_seed(seed)
    return make_noises(recordings.sound[:64].float() / 32768, rng)
