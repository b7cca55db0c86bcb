"""Does a recogniser that has learnt from our synthesiser understand another one? Twenty voices of
espeak-ng (a free synthesiser; on Debian: apt install espeak-ng) say each of our 60 words, and
mini/speech.py writes them down.

    python -m mini.studies.espeak                       the run in runs/speech
    python -m mini.studies.espeak --out_dir=runs/s2     another one

Ten of the voices were listened to while our synthesiser was changed; the other ten were not.
"""
import argparse
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import torch

from mini import speech
from mini.data.speech.phonemes import WORDS
from mini.data.speech.recordings import Recordings, hear
from mini.data.speech.scores import word_errors
from mini.utils.config import errors_in_a_line, require
from mini.utils.metrics import table

VOICES = {
    "looked at": ("en-us en-gb en-us+m3 en-us+f2 en-gb+m7 en-us+f4 en-us+m1 en-gb+f1 "
                  "en-gb-scotland en-029").split(),
    "never looked at": ("en-us+m2 en-us+m4 en-us+f1 en-us+f3 en-us+m6 en-gb+m2 en-gb+m4 en-gb+f3 "
                        "en-gb-x-rp en-gb-x-gbclan").split(),
}


def say(folder: Path, voices: list, seed: int) -> list:
    """[(path, word), …]: WAV files in folder of every word by every voice, each at a speed and a
    pitch of its own. Those that are there already are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    files = []
    for word in WORDS:
        for i, voice in enumerate(voices):
            path = folder / f"{word}_{i}.wav"
            speed = rng.randint(130, 170)               # words in a minute
            pitch = rng.randint(35, 65)                 # of 99
            if not path.exists():
                subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch),
                                "-w", str(path), word], check=True)
            files.append((path, word))
    return files


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/speech", help="folder of the run")
    parser.add_argument("--files", default="runs/espeak", help="folder for the WAV files")
    args = parser.parse_args(argv)
    with errors_in_a_line("lower --beam in training"):
        require(shutil.which("espeak-ng"), "espeak-ng is not installed (on Debian: apt install "
                                           "espeak-ng)")
        model, characters = speech.load(speech.Config(out_dir=args.out_dir))
        cfg = model.cfg
        rows = {}
        wrong = Counter()
        for seed, (name, voices) in enumerate(VOICES.items()):
            files = say(Path(args.files, name.replace(" ", "_")), voices, seed)
            heard = [hear(path) for path, _ in files]
            sound = torch.nn.utils.rnn.pad_sequence([one.sound[0] for one in heard], True)
            words = [word for _, word in files]
            recordings = Recordings(sound, torch.cat([one.n for one in heard]), words)
            texts = speech.write(model, characters, recordings, cfg.beam, cfg.alpha, cfg.ctc)
            right = sum(text == word for text, word in zip(texts, words))
            rows[f"voices {name}"] = {"words": len(words), "right": right / len(words),
                                      "word error rate": word_errors(texts, words)}
            wrong.update((word, text) for text, word in zip(texts, words) if text != word)
        print(table(rows, {"right", "word error rate"}))
        print("most often wrong: " + ", ".join(f"{word} written {text} ({n})"
                                               for (word, text), n in wrong.most_common(10)))
        return rows


if __name__ == "__main__":
    main()
