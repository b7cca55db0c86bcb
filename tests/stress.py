"""python -m tests.stress all: kills, signals, full disks, shared folders, broken files, your own data, strange flags.

    python -m tests.stress all                              every script; prints a table: tried, lost, tracebacks, hangs
    python -m tests.stress train_gpt mini.vae               some scripts
    python -m tests.stress all --only=kills,broken_files    some parts
    python -m tests.stress all --kills=20 --files=200 --seed=1
    python -m tests.stress all --patience=60                where other programs keep the machine busy

Not a test, and not run by pytest. The scripts train tiny models (those of tests/test_scripts.py), each in a process
of its own. Lost: there is no good checkpoint any more, or the run that was killed and gone on with does not end with
the weights, to the last bit, of one that nobody disturbed. Traceback: anything but success, or one line and status 2.
Hang: no end within ten seconds, or within --patience. Needs an operating system with fork.
"""
import argparse
import collections
import contextlib
import dataclasses
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import wave
from pathlib import Path

import numpy as np
import torch

from mini.data.images import image_sets
from mini.data.music.midi import Note, write_midi
from mini.data.speech.wav import write_wav
from mini.utils import config
from mini.utils.png import write_png
from tests.test_scripts import COMMON, SCRIPTS, small_data

ROOT = Path(__file__).parent.parent
PATIENCE = 10           # seconds after which a process hangs, without --patience
PARTS = ("kills", "signals", "early_signals", "full_disk", "two_runs", "broken_files", "own_data", "flags", "sampling")


# ---- processes

class Process:
    """A script's main in a fork of this process. What it prints goes to a file."""

    def __init__(self, module, args, output: Path, before=lambda: None):
        self.output = output
        sys.stdout.flush()
        self.pid = os.fork()
        self.status = None
        if self.pid == 0:
            self._run(module, args, before)

    def _run(self, module, args, before):
        """In the fork: never returns."""
        code = 99
        try:
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = open(1, "w", closefd=False)
            sys.stderr = open(2, "w", closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)    # nohup and & have them ignored
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            before()
            module.main(args)
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def poll(self):
        """The exit status, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, seconds: float = 120):
        """The exit status; "hang" after so many seconds, and then the process is killed."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                self.status = "hang"
                break
            time.sleep(0.005)
        return self.status

    def kill(self):
        self.send(signal.SIGKILL)
        if self.status is None:
            os.waitpid(self.pid, 0)
            self.status = -9

    def send(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def printed(self) -> str:
        return self.output.read_text("utf-8", "replace") if self.output.exists() else ""

    def verdict(self, seconds: float) -> str:
        """"fine", "refused" (one line, status 2), "traceback" or "hang"."""
        status = self.wait(seconds)
        if status == "hang":
            return "hang"
        if status == 0:
            return "fine"
        errors = [line for line in self.printed.splitlines() if line.startswith("error: ")]
        if status == 2 and len(errors) == 1 and "Traceback" not in self.printed:
            return "refused"
        return "traceback"


@dataclasses.dataclass
class Tried:
    """What is needed to start a script, and what was counted so far."""
    name: str
    module: object
    script: object
    folder: Path
    settings: dict
    counts: collections.Counter
    patience: float = PATIENCE

    def start(self, *args, before=lambda: None) -> Process:
        return Process(self.module, list(args), self.folder / "output.txt", before)

    def flags(self, **changes) -> list:
        settings = {**COMMON, **self.settings, "sample_every": 0, "log_every": 1, **changes}
        return [f"--{key}={value}" for key, value in settings.items()]

    def lose(self, what: str, process=None):
        self.counts["lost"] += 1
        print(f"  {self.name}: LOST, {what}", flush=True)
        if process:
            print("    " + "\n    ".join(process.printed.splitlines()[-12:]))

    def judge(self, process, what: str, seconds: float) -> str:
        """The verdict on a process, which is counted; of a traceback or a hang the place is printed."""
        verdict = process.verdict(seconds)
        self.counts[verdict] += 1
        if verdict in ("traceback", "hang"):
            lines = process.printed.splitlines()
            where = [line.strip() for line in lines if 'File "' + str(ROOT) in line]
            print(f"  {self.name}: {verdict} with {what}: {(where or [''])[-1]}: {(lines or [''])[-1][:200]}", flush=True)
        return verdict


def step_of(folder: Path) -> int:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["step"]


def same_weights(a: Path, b: Path) -> bool:
    a, b = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (a, b))
    return a["step"] == b["step"] and all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])


# ---- the parts

def kills(tried: Tried, rng, count: int):
    """SIGKILL at random moments, every second time during a save; gone on with each time."""
    steps = 40 * count
    whole, run = tried.folder / "whole", tried.folder / "killed"
    process = tried.start(*tried.flags(steps=steps, eval_every=4, out_dir=whole))
    if process.wait(600) != 0:
        return tried.lose("the undisturbed run failed", process)
    checkpoint, last = run / "checkpoint.pt", 0
    process = tried.start(*tried.flags(steps=steps, eval_every=4, out_dir=run))
    for n in range(count):
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == last):
            time.sleep(0.001)
        if n % 2 == 0:
            while process.poll() is None and not any(run.glob("*.tmp")):
                pass
        else:
            time.sleep(rng.random() * 0.1)
        if process.poll() is not None:                  # it had come to its end
            break
        process.kill()
        tried.counts["in a save"] += any(run.glob("*.tmp"))
        tried.counts["kills"] += 1
        try:
            step_of(run)
        except Exception as error:
            return tried.lose(f"kill {n + 1}: {error}")
        last = checkpoint.stat().st_mtime_ns
        process = tried.start("--resume", f"--out_dir={run}")
    if process.wait(600) != 0:
        return tried.lose("the run that was killed could not go on", process)
    if not same_weights(whole, run):
        tried.lose("other weights after the kills")


def signals(tried: Tried, rng, count: int = 1):
    """Ctrl-C, SIGTERM and SIGHUP between the first step and the last: saved, status 130, and the run goes on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) * count:
        run = tried.folder / f"signal{number}"
        process = tried.start(*tried.flags(steps=100000, eval_every=0, out_dir=run))
        while process.poll() is None and "step 1/" not in process.printed:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        process.send(number)
        tried.counts["signals"] += 1
        if process.wait(30) != 130 or "--resume" not in process.printed or step_of(run) < 1:
            tried.lose(f"signal {number}, status {process.status}", process)
        elif tried.start("--resume", f"--out_dir={run}", f"--steps={step_of(run) + 1}").wait() != 0:
            tried.lose(f"no way on after signal {number}")


def early_signals(tried: Tried, rng, count: int):
    """Ctrl-C at a random moment of a run of two steps: while data is made or read, or while scores are computed.
    Status 130, or the run was over."""
    run = tried.folder / "early"
    began = time.monotonic()
    tried.start(*tried.flags(steps=2, eval_every=0, out_dir=run)).wait(600)
    seconds = time.monotonic() - began
    for _ in range(count):
        shutil.rmtree(run, ignore_errors=True)
        process = tried.start(*tried.flags(steps=2, eval_every=0, out_dir=run))
        time.sleep(rng.random() * seconds)
        process.send(signal.SIGINT)
        status = process.wait(6 * tried.patience)
        tried.counts["signals"] += 1
        if status not in (0, 130) or "Traceback" in process.printed:
            tried.lose(f"an early Ctrl-C, status {status}", process)
        elif status == 0 and not (run / "result.json").exists():
            tried.lose("an early Ctrl-C went unnoticed", process)


def full_disk(tried: Tried, rng, count: int = 1):
    """The file system takes no more bytes somewhere inside a checkpoint; the one before stays whole."""
    for n in range(count):
        run = tried.folder / f"full{n}"
        tried.start(*tried.flags(steps=4, eval_every=2, out_dir=run), "--stop_after=2").wait()
        limit = rng.randrange(2000, (run / "checkpoint.pt").stat().st_size - 1)

        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = tried.start("--resume", f"--out_dir={run}", before=limited)
        verdict = process.verdict(6 * tried.patience)
        tried.counts["full disks"] += 1
        if verdict != "refused" or step_of(run) != 2 or list(run.glob("*.tmp")):
            tried.lose(f"full disk after {limit:,} bytes: {verdict}", process)
        elif tried.start("--resume", f"--out_dir={run}").wait() != 0:
            tried.lose("no way on after a full disk")


def two_runs(tried: Tried, rng, count: int = 1):
    """A second run in the same folder is refused, and the first ends as if nobody had come."""
    run = tried.folder / "shared"
    first = tried.start(*tried.flags(steps=100000, eval_every=0, out_dir=run))
    while first.poll() is None and "step 1/" not in first.printed:
        time.sleep(0.01)
    before = (run / "config.json").read_bytes()
    second = Process(tried.module, tried.flags(steps=2, out_dir=run), tried.folder / "second.txt")
    verdict = second.verdict(6 * tried.patience)
    first.send(signal.SIGTERM)
    tried.counts["shared"] += 1
    if verdict != "refused" or first.wait(30) != 130 or (run / "config.json").read_bytes() != before:
        tried.lose(f"two runs in one folder: the second was {verdict}", second)


def broken(data: bytes, rng) -> bytes:
    """The bytes cut off, changed in places, mixed, repeated, or replaced by noise."""
    data = bytearray(data)
    kind = rng.choice(["cut", "change", "change", "insert", "drop", "noise", "empty", "text"])
    if kind == "cut":
        return bytes(data[:rng.randrange(len(data) + 1)])
    if kind == "change":
        for _ in range(rng.choice([1, 3, 30, 300])):
            data[rng.randrange(min(len(data), rng.choice([40, 400, 10**9])))] = rng.randrange(256)
    if kind == "insert":
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice([1, 4, 1000])) if rng.random() < 0.5 else data[:1000]
    if kind == "drop":
        at = rng.randrange(len(data))
        del data[at:at + rng.choice([1, 4, 100])]
    if kind == "noise":
        return rng.randbytes(rng.randrange(3000))
    if kind == "empty":
        return b""
    if kind == "text":
        return rng.choice(["<!DOCTYPE html><p>404", "{}", "[1, 2]", "a\tb\n", "\n\n\n", "null", "é\x00\ufffe"]).encode()
    return bytes(data)


def files_of(tried: Tried, run: Path) -> list:
    """[(a file, the command line that reads it)]: of every format that the script reads."""
    own, name, out = tried.folder / "inputs", tried.name, f"--out_dir={tried.folder / 'from_broken'}"
    own.mkdir(exist_ok=True)
    use = [f"--out_dir={run}", "--device=cpu"]
    sample = ["sample", *tried.script.to_sample, *use]
    files = [(run / "checkpoint.pt", sample), (run / "checkpoint.pt", ["--resume", *use]),
             (run / "log.csv", ["--resume", *use, "--steps=6"]), (run / "config.json", ["--resume", *use]),
             (run / "result.json", sample)]
    train = [*tried.flags(steps=1, eval_every=0), out]
    for field in ("data", "reviews"):                   # the file that it was trained on: text, TSV
        if Path(str(tried.settings.get(field, ""))).is_file():
            files += 3 * [(Path(tried.settings[field]), train)]
    if tried.script.data in ("data", "data_a") and name.startswith(("train_gan", "train_diff", "mini.cgan", "mini.vae",
                                                                    "mini.classifier", "mini.cyclegan")):
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            (own / f"images/{label}").mkdir(parents=True, exist_ok=True)
            for i in range(40):
                write_png(own / f"images/{label}/{i}.png", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
        images = rng.integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
        np.save(own / "images.npy", images)
        np.savez(own / "images.npz", images=images, labels=rng.integers(0, 2, 80))
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (80, 16, 16))
        (own / "images-idx3-ubyte").write_bytes(header + images[..., 0].tobytes())
        flag = f"--{tried.script.data}="
        files += [(own / "images/cat/7.png", [*train, f"{flag}{own / 'images'}"])]
        files += [(own / file, [*train, f"{flag}{own / file}"]) for file in ("images.npy", "images.npz", "images-idx3-ubyte")]
    if name in ("mini.clip", "mini.captioner", "mini.text_to_image",
                "mini.latent_diffusion"):
        for i in range(40):
            write_png(own / f"{i}.png", np.full((20, 24, 3), 6 * i, np.uint8))
        (own / "own.tsv").write_text("".join(f"{i}.png\ta picture of number {i % 7}\n" for i in range(40)))
        files += 2 * [(own / "own.tsv", [*train, f"--data={own / 'own.tsv'}"])]
        files += [(own / "3.png", [*train, f"--data={own / 'own.tsv'}"])]
    if name in ("mini.classifier", "mini.cyclegan", "mini.clip", "mini.captioner"):
        write_png(own / "me.png", np.full((20, 24, 3), 77, np.uint8))
        files += [(own / "me.png", ["sample", f"--image={own / 'me.png'}", *use])]
    if name == "mini.speech":
        for word, pitch in (("low", 300), ("high", 900)):
            (own / f"words/{word}").mkdir(parents=True, exist_ok=True)
            for i in range(6):
                tone = torch.sin(torch.arange(3000 + 100 * i) * pitch * 2 * math.pi / 8000)
                write_wav(own / f"words/{word}/{i}.wav", tone, 8000)
        files += [(own / "words/low/3.wav", [*train, f"--data={own / 'words'}"])]
        files += 2 * [(own / "words/high/3.wav", ["sample", f"--wav={own / 'words/high/3.wav'}", *use])]
    if name == "mini.music":
        (own / "midi").mkdir(exist_ok=True)
        for i in range(12):
            notes = [Note(0.25 * t, 0.25 * t + 0.2, 60 + (t * i) % 12, 80) for t in range(60)]
            write_midi(own / f"midi/{i}.mid", notes)
        files += 6 * [(own / "midi/5.mid", [*train, f"--data={own / 'midi'}"])]
        files += 2 * [(own / "midi/5.mid", ["sample", f"--primer={own / 'midi/5.mid'}", *use])]
    if name == "mini.assistant":
        (own / "facts.tsv").write_text("".join(f"thing {i}\tcolour\tred {i}\n" for i in range(20)))
        files += 3 * [(own / "facts.tsv", ["sample", "--prompt=What is 1 plus 2?", f"--data={own / 'facts.tsv'}", *use])]
    if name == "train_gpt":
        folder = shutil.copytree(ROOT / "tests/reference/gpt2_a", own / "gpt2", dirs_exist_ok=True)
        shutil.copytree(ROOT / "tests/reference/bpe", folder, dirs_exist_ok=True)
        for file in folder.iterdir():
            files += 2 * [(file, ["sample", f"--init_from={folder}/model.safetensors", "--prompt=a", "--max_new_tokens=3",
                                  "--device=cpu"])]
    if name == "mini.bert":
        folder = shutil.copytree(ROOT / "tests/reference/bert_tiny", own / "bert", dirs_exist_ok=True)
        for file in folder.iterdir():
            files += 2 * [(file, ["sample", f"--init_from={folder}/model.safetensors", "--text=the [MASK]", "--device=cpu"])]
    return files


def broken_files(tried: Tried, rng, count: int):
    """Every file that the script reads, broken: success, or one line and status 2."""
    run = tried.folder / "to_break"
    process = tried.start(*tried.flags(steps=2, eval_every=0, out_dir=run))
    if process.wait() != 0:
        return tried.lose("no run to break", process)
    whole = shutil.copytree(run, tried.folder / "to_break.whole")
    files = files_of(tried, run)
    for n in range(count):
        path, args = files[n % len(files)]
        original = path.read_bytes()
        path.write_bytes(broken(original, rng) if original else b"x")
        process = tried.start(*args)
        verdict = tried.judge(process, f"a broken {path.name}", tried.patience)
        tried.counts["files"] += 1
        if verdict in ("traceback", "hang"):
            kept = Path(tempfile.gettempdir(), "stress")
            kept.mkdir(exist_ok=True)
            shutil.copy(path, kept / f"{tried.name}_{n}_{path.name}")
        path.write_bytes(original)
        if args[0] == "--resume":
            shutil.rmtree(run)
            shutil.copytree(whole, run)
        for other in tried.folder.glob("from_broken*"):
            shutil.rmtree(other)


SENTENCES = "the cat sat on the mat. a dog ran up the hill! no one saw it go?\n" * 40
OWN_TEXTS = {
    "a few words": b"the cat sat", "nothing": b"", "empty lines": b"\n \n\n", "one letter": b"a" * 3000,
    "a huge line": SENTENCES.replace("\n", " ").encode() * 9, "Windows": SENTENCES.replace("\n", "\r\n").encode(),
    "old Mac": SENTENCES.replace("\n", "\r").encode(), "a mark": b"\xef\xbb\xbf" + SENTENCES.encode(),
    "latin-1": ("déjà vu. " * 300).encode("latin-1"), "UTF-16": SENTENCES.encode("utf-16"),
    "emoji": ("\U0001f468\u200d\U0001f469 \u4f60\u597d, \u4e16\u754c \n" * 300).encode(),
}


def own_tables(first: list, second: list) -> dict:
    """{what: a table}: lines of one of the first, a tab, one of the second, as people bring them."""
    lines = [f"{a}\t{b}" for a, b in zip(first, second)]
    tables = {
        "as wanted": lines, "one line": lines[:1], "two lines": lines[:2], "nothing": [], "a header": ["text\tlabel", *lines],
        "no tab in a line": [*lines[:5], "no tab", *lines], "a third column": [line + "\tx" for line in lines],
        "an empty column": [*lines[:5], f"{first[0]}\t", *lines], "quotation marks": [f'"{a}"\t"{b}"' for a, b in zip(first, second)],
        "commas": [line.replace("\t", ",") for line in lines], "all alike": lines[:1] * 30,
        "one value": [f"{a}\t{second[0]}" for a in first], "long ones": [line + " so" * 400 for line in lines],
        "emoji": [f"{a}\t\U0001f600" for a in first],
    }
    return {what: "\n".join(lines).encode() for what, lines in tables.items()}


def own_pictures(folder: Path, rng) -> dict:
    """{what: a folder of pictures}."""
    shapes = {"in colour": (20, 24, 3), "grey": (18, 18, 1), "tiny": (1, 2, 3), "thin": (90, 2, 3)}
    kinds = {**{what: ([shape] * 30, [""]) for what, shape in shapes.items()},
             "mixed": (30 * list(shapes.values()), [""]), "a single one": ([(20, 24, 3)], [""]), "two": ([(20, 24, 3)] * 2, [""]),
             "two labels": ([(20, 24, 3)] * 30, ["cat", "dog"]), "one label": ([(20, 24, 3)] * 30, ["cat"]),
             "one of each label": ([(20, 24, 3)] * 3, ["a", "b", "c"]), "parts": ([(20, 24, 3)] * 40, ["train/a", "train/b", "val/a", "val/c"]),
             "one is broken": ([(20, 24, 3)] * 30, [""])}
    for what, (sizes, labels) in kinds.items():
        for i, shape in enumerate(sizes):
            place = folder / what / labels[i % len(labels)]
            place.mkdir(parents=True, exist_ok=True)
            write_png(place / f"{i}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    broken = folder / "one is broken/3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "nothing").mkdir()
    return {what: folder / what for what in (*kinds, "nothing")}


def own_sounds(folder: Path) -> dict:
    """{what: a folder of WAV files}, in folders named by what is said."""
    kinds = {"as wanted": (8000, 6, 0.4, 0.5), "44.1 kHz": (44100, 6, 0.4, 0.5), "silent": (8000, 6, 0.4, 0.0), "one": (8000, 1, 0.4, 0.5),
             "too long": (8000, 6, 9.0, 0.5), "short": (8000, 6, 0.001, 0.5)}
    for what, (rate, n, seconds, loudness) in kinds.items():
        for word, pitch in (("low", 300), ("high", 900)):
            (folder / what / word).mkdir(parents=True)
            for i in range(n):
                t = torch.arange(int(seconds * rate) + i) / rate
                write_wav(folder / what / word / f"{i}.wav", loudness * torch.sin(2 * math.pi * pitch * t), rate)
    for name, channels, width, data in (("stereo", 2, 2, bytes(range(256)) * 90), ("8 bits", 1, 1, bytes(range(256)) * 30), ("nothing", 1, 2, b"")):
        with wave.open(str(folder / "as wanted/low" / f"{name}.wav"), "wb") as file:
            file.setparams((channels, width, 8000, 0, "NONE", ""))
            file.writeframes(data)
    (folder / "as wanted/low/mp3.wav").write_bytes(b"ID3" + bytes(500))
    return {what: folder / what for what in kinds}


def own_pieces(folder: Path) -> dict:
    """{what: a folder of MIDI files}."""
    for what, n, notes in (("as wanted", 12, 60), ("one", 1, 60), ("two", 2, 60), ("short", 4, 1)):
        (folder / what).mkdir(parents=True)
        for i in range(n):
            write_midi(folder / f"{what}/{i}.mid", [Note(0.25 * t, 0.25 * t + 0.2, 60 + (t * i) % 12, 80) for t in range(notes)])
    (folder / "as wanted/broken.mid").write_bytes(b"MThd")
    return {what: folder / what for what in ("as wanted", "one", "two", "short")}


def own_of(tried: Tried) -> list:
    """[(what, settings), …]: data as a user may bring it."""
    folder = tried.folder / "brought"
    folder.mkdir()
    name, rng = tried.name, np.random.default_rng(0)
    found, flag, i = {}, tried.script.data or "data", range(40)
    if name in ("train_gpt", "mini.lstm", "mini.llama", "mini.bert"):
        found = OWN_TEXTS
    elif name == "mini.translator":
        found = own_tables([f"the cat {n % 7} sees {n} dogs ." for n in i], [f"le chat {n % 7} voit {n} chiens ." for n in i])
    elif name == "mini.finetune":
        found = own_tables([f"the plot {n} was {'good' if n % 2 else 'bad'} indeed" for n in i], ["pos" if n % 2 else "neg" for n in i])
    elif name in ("mini.clip", "mini.captioner", "mini.text_to_image", "mini.latent_diffusion"):
        for n in i:
            write_png(folder / f"{n}.png", np.full((20, 24, 1 if n % 5 else 3), 6 * n, np.uint8))
        found = own_tables([f"{n}.png" for n in i], [f"a picture of number {n % 7}" for n in i])
    elif name == "mini.speech":
        found = own_sounds(folder)
    elif name == "mini.music":
        found = own_pieces(folder)
    elif name != "mini.assistant":
        found = own_pictures(folder, rng)
    cases = []
    for what, data in found.items():
        if isinstance(data, bytes):
            path = folder / f"{what}.{'txt' if found is OWN_TEXTS else 'tsv'}"
            path.write_bytes(data)
            data = path
        more = {"data_b": folder / "in colour"} if flag == "data_a" else {}
        cases.append((what, {flag: data, **more}))
    return cases


def own_data(tried: Tried, rng, count: int = 0):
    """Data as a user may bring it: train, then `sample`, then `evaluate`: success, or one line and status 2."""
    run = tried.folder / "on_own"
    for what, settings in own_of(tried):
        process = tried.start(*tried.flags(steps=2, eval_every=0, out_dir=run, **settings))
        verdict = tried.judge(process, f"own data: {what}", 10 * tried.patience)
        tried.counts["own data"] += 1
        use = [f"--out_dir={run}", "--device=cpu"]
        if verdict == "fine":
            tried.judge(tried.start("sample", *tried.script.to_sample, *use), f"sample, own data: {what}", 3 * tried.patience)
        if verdict == "fine" and tried.name not in ("train_gan", "mini.cgan"):      # theirs take minutes
            tried.judge(tried.start("evaluate", *use), f"evaluate, own data: {what}", 20 * tried.patience)
        for other in tried.folder.glob("on_own*"):
            shutil.rmtree(other)


def flags(tried: Tried, rng, count: int = 0):
    """Every number among the settings at and past its limits: success, or one line and status 2."""
    for field in dataclasses.fields(tried.module.Config):
        kind = type(field.default)
        values = {int: (-1, 0, 1, 3, 2**62, 2**63), bool: ("2", "null"),
                  float: (-1.0, 0.0, 1.0, "nan", "inf", 1e-320, 1e-40, 1e30, 1e308)}.get(kind, ())
        for value in values:
            if field.name in ("steps", "vocab_size", "stop_after") and value == 0:
                continue                                # a run of nothing; what is there to say?
            run = tried.folder / "flags"
            changes = {"steps": 1, "eval_every": 0, "out_dir": run, field.name: value}
            process = tried.start(*tried.flags(**changes))
            tried.judge(process, f"--{field.name}={value}", 3 * tried.patience)
            tried.counts["flags"] += 1
            for other in tried.folder.glob("flags*"):
                shutil.rmtree(other)


TEXTS = ("", " ", "|", "*", "x" * 5000, "\x1b[31m\u202e", "\U0001f600", "\udce9", "nowhere.png", ".", "/dev/null")


def sampling(tried: Tried, rng, count: int = 0):
    """`sample` of a trained model, with each setting of the groups "sampling" and "evaluation" at and past its limits,
    or as a text that nobody expects: success, or one line and status 2."""
    run = tried.folder / "to_sample"
    process = tried.start(*tried.flags(steps=2, eval_every=0, out_dir=run))
    if process.wait(600) != 0:
        return tried.lose("no run to sample from", process)
    notes = config.field_notes(tried.module.Config)
    for field in dataclasses.fields(tried.module.Config):
        group, _ = notes[field.name]
        values = config.choices_of(field) or {
            int: (-1, 0, 1, 3, 2**62), float: (-1.0, 0.0, 1.0, 3.0, "nan", 1e-320, 1e8), str: TEXTS,
            bool: ("true", "false")}[type(field.default)]
        for value in values if group in ("sampling", "evaluation") else ():
            others = [flag for flag in tried.script.to_sample if not flag.startswith(f"--{field.name}=")]
            process = tried.start("sample", *others, f"--{field.name}={value}", f"--out_dir={run}", "--device=cpu")
            tried.judge(process, f"sample --{field.name}={str(value)[:40]!r}", 3 * tried.patience)
            tried.counts["flags"] += 1


# ---- all of it

def stress(name: str, parts: list, args) -> collections.Counter:
    """Do these parts to one script, in a folder of its own; returns the counts."""
    module, script = importlib.import_module(name), SCRIPTS[name]
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as where:
        os.chdir(where)
        own = Path(where, "own")
        own.mkdir()
        settings = {**script.settings, **script.prepare(own)}
        tried = Tried(name, module, script, Path(where), settings, counts, args.patience)
        for part in parts:
            rng = random.Random(f"{args.seed} {name} {part}")
            count = {"kills": args.kills, "broken_files": args.files, "early_signals": 4}.get(part, 1)
            globals()[part](tried, rng, count)
        os.chdir(ROOT)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="all, or names of scripts")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--kills", type=int, default=7, help="of each script")
    parser.add_argument("--files", type=int, default=64, help="broken files for each script")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which a process hangs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)                # threads do not survive a fork
    small_data(setattr)
    names = list(SCRIPTS) if args.names == ["all"] else args.names
    columns = ["kills", "in a save", "signals", "full disks", "shared", "lost", "files", "own data", "flags", "refused", "fine",
               "traceback", "hang"]
    total = collections.Counter()
    rows = []
    for name in names:
        began = time.monotonic()
        counts = stress(name, args.only.split(","), args)
        total.update(counts)
        rows.append((name, counts))
        print(f"{name}: {dict(counts)}; {time.monotonic() - began:.0f} s", flush=True)
    print("\n" + " " * 20 + "".join(f"{column:>11}" for column in columns))
    for name, counts in [*rows, ("all", total)]:
        print(f"{name:20}" + "".join(f"{counts[column]:>11}" for column in columns))
    sys.exit(total["lost"] + total["traceback"] + total["hang"] > 0)


if __name__ == "__main__":
    main()
