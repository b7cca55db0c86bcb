"""python -m tests.stress gpt: kills, full disks, Ctrl-C and broken files, for minutes; prints how many, how many lost.

Not a test, and not run by pytest: it starts the real script many times and takes about five minutes.
"""
import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SIZES = ["--tokenizer=char", "--n_layer=4", "--n_embd=64", "--block_size=32", "--batch_size=4", "--dropout=0.1",
         "--sample_every=0", "--log_every=1", "--device=cpu", "--max_new_tokens=20",
         "--data=mini/data/text/tales/01_ferry.txt"]


def start(folder, *args, **kwargs):
    """The script in a process of its own; what it prints goes to folder.out and folder.err."""
    return subprocess.Popen([sys.executable, "train_gpt.py", *SIZES, f"--out_dir={folder}", *args], cwd=ROOT,
                            stdout=open(f"{folder}.out", "w"), stderr=open(f"{folder}.err", "w"), **kwargs)


def saved_step(folder) -> int:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["step"]


def kills(where: Path, rng, count: int = 20, steps: int = 400):
    """One run, killed `count` times, every second time while a checkpoint is written, and resumed each time; its
    weights in the end must equal those of a run that nobody disturbed, bit for bit."""
    whole, broken = where / "whole", where / "broken"
    args = [f"--steps={steps}", "--eval_every=5"]
    assert start(whole, *args).wait() == 0
    lost = in_write = 0
    process = start(broken, *args)
    checkpoint, before = broken / "checkpoint.pt", 0
    for n in range(count):
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:   # at least one save in between
            time.sleep(0.002)
        if n % 2 == 0:                                          # wait for a write to begin
            while not any(broken.glob("*.tmp")) and process.poll() is None:
                pass
        else:
            time.sleep(rng.random() * 0.5)
        in_write += any(broken.glob("*.tmp"))
        process.kill()
        process.wait()
        try:
            step = saved_step(broken)
        except Exception as error:
            print(f"kill {n + 1}: LOST ({error})")
            lost += 1
            break
        print(f"kill {n + 1}: checkpoint of step {step} intact", flush=True)
        before = checkpoint.stat().st_mtime_ns
        process = start(broken, "--resume")
    assert process.wait() == 0, Path(f"{broken}.err").read_text()
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken))
    same = all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    print(f"kills: {count}, of them during a checkpoint write: {in_write}; lost: {lost}; "
          f"final weights equal to the undisturbed run's: {same}")
    return lost == 0 and same


def full_disk(where: Path, rng, count: int = 5):
    """The file system stops taking bytes somewhere inside a checkpoint; the one before stays whole."""
    lost = 0
    for n in range(count):
        folder = where / f"full{n}"
        assert start(folder, "--steps=40", "--eval_every=5", "--stop_after=5").wait() == 0
        size = (folder / "checkpoint.pt").stat().st_size
        limit = rng.randrange(20_000, size - 1)

        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        process = start(folder, "--resume", preexec_fn=limited)
        process.wait()
        err = Path(f"{folder}.err").read_text()
        one_line = process.returncode == 2 and err.count("\n") == 1
        intact = saved_step(folder) == 5 and not list(folder.glob("*.tmp"))
        goes_on = start(folder, "--resume").wait() == 0 and saved_step(folder) == 40
        lost += not (one_line and intact and goes_on)
        print(f"full disk after {limit:,} bytes: {err.strip()}")
    print(f"full disks: {count}; lost: {lost}")
    return lost == 0


def interrupts(where: Path, rng, count: int = 10):
    """Ctrl-C at random moments, from the first step on: saved, status 130, and the run goes on."""
    folder, lost = where / "interrupted", 0
    process = start(folder, "--steps=100000", "--eval_every=100000")
    for n in range(count):
        out = Path(f"{folder}.out")
        while "step 0" not in out.read_text():
            time.sleep(0.01)
        time.sleep(rng.random())
        process.send_signal(signal.SIGINT)
        ok = process.wait() == 130 and "--resume" in out.read_text() and saved_step(folder) > 0
        lost += not ok
        print(f"Ctrl-C {n + 1}: status {process.returncode}, saved at step {saved_step(folder)}", flush=True)
        process = start(folder, "--resume")
    process.kill()
    process.wait()
    print(f"Ctrl-C: {count}; lost: {lost}")
    return lost == 0


def broken_files(where: Path, rng, count: int = 300):
    """Random bytes, cut and flipped files as data, checkpoint, weights and tokenizer: always status 2 and one line
    (or a success, where the damage does not matter)."""
    import train_gpt
    sys.path.insert(0, str(ROOT))
    gpt2 = where / "gpt2"
    shutil.copytree(ROOT / "tests/reference/gpt2_a", gpt2)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROOT / "tests/reference/bpe" / name, gpt2)
    folder = where / "run"
    assert start(folder, "--steps=1").wait() == 0
    originals = {path: path.read_bytes() for path in (folder / "checkpoint.pt", *gpt2.glob("*"))}
    originals[where / "text.txt"] = (ROOT / "README.md").read_bytes()
    refused = fine = bad = 0
    for n in range(count):
        path = rng.choice(list(originals))
        data = bytearray(originals[path])
        kind = rng.choice(["cut", "flip", "noise"])
        if kind == "cut":
            data = data[:rng.randrange(len(data))]
        elif kind == "flip":
            for _ in range(rng.choice([1, 10, 100])):
                data[rng.randrange(min(len(data), rng.choice([100, 10**9])))] = rng.randrange(256)
        else:
            data = rng.randbytes(rng.randrange(2000))
        path.write_bytes(data)
        args = {"checkpoint.pt": ["sample", f"--out_dir={folder}", "--max_new_tokens=5", "--device=cpu"],
                "text.txt": [*SIZES, f"--data={path}", f"--out_dir={where / 'text_run'}", "--steps=1"]}.get(
                    path.name, ["sample", f"--init_from={gpt2}/model.safetensors", "--max_new_tokens=5", "--device=cpu"])
        err = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
                train_gpt.main(args)
            fine += 1
        except SystemExit as leaving:
            ok = leaving.code == 2 and err.getvalue().count("\n") == 1
            refused += ok
            bad += not ok
        except BaseException as error:
            bad += 1
            print(f"{path.name}, {kind}: {type(error).__name__}: {str(error)[:200]}")
        path.write_bytes(originals[path])
    print(f"broken files: {count}; refused in one line: {refused}; harmless: {fine}; tracebacks: {bad}")
    return bad == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["gpt"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["kills", "full_disk", "interrupts", "broken_files"])
    args = parser.parse_args()
    os.chdir(ROOT)
    ok = True
    for part in (kills, full_disk, interrupts, broken_files):
        if args.only in (None, part.__name__):
            with tempfile.TemporaryDirectory() as where:
                ok &= part(Path(where), random.Random(args.seed))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
