"""mini/utils/run.py: the command line, the run folder, checkpoints."""
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
import torch

from mini.utils.config import RunConfig, UserError, command_line, parse
from mini.utils.run import Run, atomic_open, load_checkpoint, merge_config

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass
class Config(RunConfig):
    # model
    width: int = 8            # how wide; 100% of it
    kind: Literal["red", "blue"] = "red"  # which
    # run
    out_dir: str = "runs/toy"   # folder of the run
    rate: float = 0.5         # how fast
    on: bool = False          # a switch

    # what a resumed run must keep: the saved weights have this shape, or these data
    fixed = ("width", "kind")


PRESETS = {"big": dict(width=80, rate=0.1)}


def read(*argv):
    return parse(Config, PRESETS, ["train", "sample"], list(argv))


def make_run(tmp_path, state=None, **changes):
    cfg = Config(**{"out_dir": str(tmp_path / "run"), "steps": 4, **changes})
    return Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss", "val_loss"], state)


# ---- the command line

def test_defaults_presets_and_flags():
    assert read()[0] == "train" and dataclasses.asdict(read()[1]) == dataclasses.asdict(Config())
    command, cfg = read("sample", "--preset=big", "--width", "9", "--rate=1e-3", "--on")
    assert (command, cfg.width, cfg.rate, cfg.on, cfg.given) == ("sample", 9, 1e-3, True,
                                                                 {"preset", "width", "rate", "on"})
    assert read("--width=3", "--preset=big")[1].width == 3          # the flag wins, wherever it stands
    assert read("--seed", "-1")[1].seed == -1
    for text, value in (("true", True), ("False", False), ("1", True), ("0", False)):
        assert read(f"--on={text}")[1].on is value and read("--on", text)[1].on is value


def test_wrong_flags_are_refused():
    """And those of tests/test_scripts.py."""
    for argv, words in ((["--rate=fast"], "invalid float value"), (["--wid=3"], "did you mean --width"),
                        (["--on=maybe"], "--on"), (["--kind=green"], "choose from"),
                        (["train", "twice"], "unknown: twice")):
        with pytest.raises(UserError, match=re.escape(words)) as error:
            read(*argv)
        assert "\n" not in str(error.value)


def test_help_shows_every_field_with_its_comment(capsys):
    with pytest.raises(SystemExit) as leaving:
        read("--help")
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("how wide; 100% of it (default: 8)", "a switch (default: False)", "model:", "run:",
                  "go on from the checkpoint in out_dir", "(default: 'runs/toy')", "a set of other defaults: big"):
        assert words in text, words
    for field in dataclasses.fields(Config):
        assert f"--{field.name}" in text


def test_main_turns_trouble_into_one_line(capsys):
    def fail(error):
        def command(cfg):
            raise error
        with pytest.raises(SystemExit) as leaving:
            command_line(Config, PRESETS, {"train": command}, [], out_of_memory="lower --width")
        err = capsys.readouterr().err
        assert err.count("\n") <= 1
        return leaving.value.code, err
    assert fail(UserError("so it is")) == (2, "error: so it is\n")
    assert fail(MemoryError()) == (2, "error: out of memory: lower --width\n")
    assert fail(RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"))[0] == 2
    code, err = fail(OSError(28, "No space left on device", "runs/x.tmp"))
    assert code == 2 and "No space left" in err and "intact" in err
    assert fail(KeyboardInterrupt()) == (130, "")
    with pytest.raises(RuntimeError):       # a bug of ours is not hidden
        command_line(Config, PRESETS, {"train": lambda cfg: (_ for _ in ()).throw(RuntimeError("shapes"))}, [])
    assert command_line(Config, PRESETS, {"train": lambda cfg: {"a": 1}}, []) == {"a": 1}


# ---- the run folder

def test_log_and_result(tmp_path, capsys):
    with make_run(tmp_path) as run:
        for step in range(4):
            run.log(step + 1, loss=1.0 / (step + 1), val_loss=0.5 if step == 3 else None)
        result = run.finish(score=3)
    lines = (tmp_path / "run/log.csv").read_text().split("\n")
    assert lines[0] == "step,seconds,loss,val_loss" and lines[4].startswith("4,") and lines[4].endswith(",0.25,0.5")
    assert lines[1].endswith(",1.0,") and lines[5:] == [""]
    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    assert result["score"] == 3 and result["parameters"] == 6 and result["device"] == "cpu"
    assert "ms/step" in capsys.readouterr().out


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    with make_run(tmp_path) as run:
        for step in (1, 2):
            run.log(step, loss=float(step))
        run.save(2, torch.nn.Linear(2, 2), [], torch.Generator())
        run.log(3, loss=3.0)                                    # after the checkpoint: will come again
    with open(tmp_path / "run/log.csv", "a") as file:
        file.write("4,0.0")                                     # a line cut short by a kill
    state = load_checkpoint(tmp_path / "run/checkpoint.pt", "toy")
    with make_run(tmp_path, state) as run:
        run.log(3, loss=33.0)
    rows = [line.split(",") for line in (tmp_path / "run/log.csv").read_text().split()[1:]]
    assert [(row[0], row[2]) for row in rows] == [("1", "1.0"), ("2", "2.0"), ("3", "33.0")]
    assert not list(tmp_path.glob("run.*"))


def test_time_outside_training_does_not_count(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with make_run(tmp_path) as run:
        now[0] += 5
        with run.untimed():
            now[0] += 70
        now[0] += 2
        assert run.clock() == 7


def test_due_and_stop_after(tmp_path):
    with make_run(tmp_path, stop_after=3, steps=10) as run:
        assert [s for s in range(1, 11) if run.due(s, 4)] == [4, 8, 10] and run.due(10, 0) and not run.due(8, 0)
        assert [run.stopping(s) for s in (1, 2, 3)] == [False, False, True]
    with make_run(tmp_path) as run:
        assert not run.stopping(4)


def test_ctrl_c_lets_the_step_end_and_a_second_one_does_not(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    with make_run(tmp_path) as run:
        assert not run.stopping(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert run.stopping(1)
        assert run.leave(1)["interrupted"] and "--resume" in capsys.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_processes_write_nothing(tmp_path, capsys):
    cfg = Config(out_dir=str(tmp_path / "run"))
    with Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss"], None, rank=1) as run:
        run.log(1, loss=1.0)
        run.say("hello")
        run.save(1, torch.nn.Linear(2, 2), [], torch.Generator())
        run.write_sample(1, ".txt", b"x")
        run.finish()
    assert not (tmp_path / "run").exists() and capsys.readouterr().out == ""


def test_an_out_dir_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for folder in ("file", "file/below"):
        with pytest.raises(SystemExit):
            command_line(Config, {}, {"train": lambda cfg: make_run(tmp_path, out_dir=cfg.out_dir)},
                 [f"--out_dir={tmp_path / folder}"])
        assert str(tmp_path / "file") in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "x"


# ---- checkpoints

def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with atomic_open(path) as file:
            file.write(b"new, but only ha")
            1 / 0
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with atomic_open(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"                        # nobody ever sees half of it
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    """/dev/full answers every write with 'no space left on device'; here a limit on the file size does the same."""
    script = """
import resource, sys, torch
sys.argv = ["toy.py"]
from tests.test_run import Config, Run, command_line
def train(cfg):
    with Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss"]) as run:
        run.save(1, torch.nn.Linear(2, 2), [], torch.Generator())
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        run.save(2, torch.nn.Linear(500, 500), [], torch.Generator())
command_line(Config, {}, {"train": train}, ["--out_dir=" + %r])
""" % str(tmp_path / "run")
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result
    assert "intact" in result.stderr
    assert load_checkpoint(tmp_path / "run/checkpoint.pt", "toy")["step"] == 1
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_leftover_of_a_killed_save_is_swept_away(tmp_path):
    with make_run(tmp_path) as run:
        run.save(1, torch.nn.Linear(2, 2), [], torch.Generator())
    (tmp_path / "run/checkpoint.pt.123.tmp").write_bytes(b"half")
    with make_run(tmp_path, load_checkpoint(tmp_path / "run/checkpoint.pt", "toy")):
        pass
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_flags_over_a_checkpoint(tmp_path):
    state = {"config": dataclasses.asdict(Config(width=5, rate=0.1, seed=7, resume=True))}
    cfg = merge_config(read("--resume", "--steps=9", f"--out_dir={tmp_path}", "--width=5")[1], state)
    assert (cfg.width, cfg.rate, cfg.seed, cfg.steps, cfg.out_dir, cfg.resume) == (5, 0.1, 7, 9, str(tmp_path), True)
    assert merge_config(read("--rate=0.5")[1], state).rate == 0.5        # typed, though it is the default
    with pytest.raises(UserError, match="--width=6"):
        merge_config(read("--width=6")[1], state)
    with pytest.raises(UserError, match="--width=6"):
        merge_config(Config(width=6), state)                             # the same from Python
    del state["config"]["rate"]
    assert merge_config(read("--rate=0.2")[1], state).rate == 0.2        # a field newer than the checkpoint
