"""mini/utils/run.py: the command line, the run folder, checkpoints."""
import contextlib
import dataclasses
import io
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

import mini.clip
import mini.lstm
import mini.music
import train_gpt
from mini.utils.config import RunConfig, UserError, command_line, parse
from mini.utils.run import Run, atomic_open, load_checkpoint, merge_config
from tests.helpers import free_port, processes, refused_by

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
    for text, value in (("true", True), ("False", False), ("TRUE", True), ("1", True), ("0", False)):
        assert read(f"--on={text}")[1].on is value and read("--on", text)[1].on is value


def test_wrong_flags_are_refused():
    """And those of tests/test_scripts.py."""
    for argv, words in ((["--rate=fast"], "invalid float value"), (["--wid=3"], "did you mean --width"),
                        *((["--on=" + text], "--on: invalid") for text in ("maybe", "2", "null", "[]", '"x"', "0.5", "")),
                        (["--kind=green"], "choose from"),
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
    assert fail(UserError("a\nb\x1b[2J")) == (2, "error: a\\nb\\x1b[2J\n")
    assert fail(RuntimeError("Storage size calculation overflowed"))[1] == "error: out of memory: lower --width\n"
    assert fail(RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"))[0] == 2
    code, err = fail(OSError(28, "No space left on device", "runs/x\n\x1b.tmp"))
    assert code == 2 and "No space left" in err and "intact" in err and r"x\n\x1b.tmp" in err
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


# ---- which folders a run may use

def run_in(folder):
    """A run of two steps of a tiny GPT, in a folder: the words of its command line."""
    text = folder.parent / "text.txt"
    text.write_text("the cat sat on the mat. " * 60)
    return [f"--out_dir={folder}", f"--data={text}", "--tokenizer=char", "--n_layer=1", "--n_head=1", "--n_embd=8",
            "--block_size=8", "--batch_size=2", "--max_new_tokens=5", "--steps=2", "--device=cpu"]


def test_a_folder_that_is_no_run_is_never_moved(tmp_path, capsys, monkeypatch):
    """A folder with a thesis in it was renamed to thesis.1; --out_dir=. renamed the working directory."""
    for name, files in (("thesis", ["draft.txt"]), ("web", ["config.json", "index.html"])):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_text('{"port": 80}')
        error = refused_by(train_gpt.main, capsys, *run_in(folder))
        assert "not a run" in error and files[0] in error
        assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "file"))

    (tmp_path / "here/below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/below")
    for name in (".", "..", "../below", str(tmp_path)):
        assert "that you work in" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"), f"--out_dir={name}")
    assert "empty" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"), "--out_dir=")


def test_a_link_is_followed(tmp_path, capsys):
    """The second run renamed the link to a mounted drive, and wrote to the local one."""
    (tmp_path / "drive/gpt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("drive/gpt")
    for _ in range(2):
        train_gpt.main(run_in(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "drive/gpt/result.json").exists()
    assert (tmp_path / "drive/gpt.1/result.json").exists()


def test_a_path_from_the_home_folder(tmp_path, monkeypatch):
    """The shell leaves the ~ of --out_dir=~/run alone, and a folder of the name ~ was made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    cfg = train_gpt.Config(out_dir="~/run", data="~/text.txt", prompt="~/ is a path")
    assert cfg.out_dir == str(tmp_path / "run") and cfg.data == str(tmp_path / "text.txt") and cfg.prompt[0] == "~"


def test_two_runs_cannot_share_a_folder(tmp_path, capsys):
    """Both ended well, with the settings of one and the weights of the other. The lock dies with its process."""
    with processes(tmp_path) as start:
        first = start(ROOT / "train_gpt.py", *run_in(tmp_path / "run"), "--steps=100000", "--log_every=1")
        while "step 1/" not in first.stdout.readline():
            pass
        before = (tmp_path / "run/config.json").read_bytes()
        assert "another run" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"))
        assert (tmp_path / "run/config.json").read_bytes() == before
        first.kill()
        first.wait()
    train_gpt.main(run_in(tmp_path / "run"))
    assert (tmp_path / "run/result.json").exists() and (tmp_path / "run.1/config.json").read_bytes() == before


# ---- output and signals

class Dead(io.TextIOBase):
    """A terminal that is gone."""

    def write(self, text=""):
        raise OSError(5, "Input/output error")

    flush = write


@pytest.mark.parametrize("stream", [lambda: io.TextIOWrapper(io.BytesIO(), "cp1252"), Dead], ids=["cp1252", "gone"])
def test_what_is_printed_never_stops_a_run(stream, tmp_path, monkeypatch):
    """A console without 'Σ' ended the run in a traceback after the last step; so did a terminal that was closed."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream())
    train_gpt.main(run_in(tmp_path / "run"))
    assert (tmp_path / "run/result.json").exists()
    for main in (train_gpt.main, mini.clip.main):
        with pytest.raises(SystemExit) as leaving:
            main(["--help"])
        assert leaving.value.code == 0
    with pytest.raises(SystemExit) as leaving:
        train_gpt.main(["--data=no\udce9where"])            # a file name that is not UTF-8
    assert leaving.value.code == 2


@pytest.mark.parametrize("signal_name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_closed_terminal_and_a_broken_pipe_lose_nothing(signal_name, tmp_path, request):
    """The reader of a pipe is gone, and then a signal comes: the run saves what it has learnt."""
    number = getattr(signal, signal_name)
    before = signal.signal(number, signal.SIG_DFL)          # under nohup it would be ignored, also by the run
    request.addfinalizer(lambda: signal.signal(number, before))
    with processes(tmp_path) as start:
        run = start(ROOT / "train_gpt.py", *run_in(tmp_path / "run"), "--steps=1000000", "--log_every=1", "--eval_every=0")
        while "step 1/" not in run.stdout.readline():
            pass
        run.stdout.close()
        time.sleep(0.2)
        run.send_signal(number)
        assert run.wait(60) == 130
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["step"] > 1


def test_ctrl_c_while_it_scores_ends_it_at_once(tmp_path, capsys, monkeypatch):
    """After the last step nothing is lost; a first Ctrl-C or SIGTERM was noted, and minutes of scoring went on."""
    monkeypatch.setattr(train_gpt, "text_scores", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    with pytest.raises(SystemExit) as leaving:
        train_gpt.main(run_in(tmp_path / "run"))
    assert leaving.value.code == 130 and "For the scores: --resume" in capsys.readouterr().out
    monkeypatch.undo()
    train_gpt.main(["--resume", f"--out_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run/result.json").exists()


def test_nohup_is_obeyed(tmp_path, monkeypatch):
    """Under nohup a closed terminal is not to be noticed at all."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        text_scores = train_gpt.text_scores
        def watch(*args, **kwargs):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            return text_scores(*args, **kwargs)
        monkeypatch.setattr(train_gpt, "text_scores", watch)
        train_gpt.main(run_in(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run/result.json").exists()


# ---- several processes

def test_only_what_works_in_several_processes_starts_in_them(capsys, monkeypatch):
    """torchrun on any other script trained the same twice, and one run moved the folder of the other away."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for main, flags in ((mini.clip.main, []), (train_gpt.main, ["sample"])):
        assert "torchrun started 2 processes" in refused_by(main, capsys, *flags)


def test_each_process_goes_on_with_its_own_dropout(tmp_path):
    """All processes went on with the random states of the first: two halves of a batch with the same masks."""
    flags = [*run_in(tmp_path / "x"), "--dropout=0.5", "--steps=4", "--eval_every=2", "--batch_size=4", "--matmul=highest"]
    with processes(tmp_path) as start:
        def train(*more):
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
            both = [start(ROOT / "train_gpt.py", *flags, *more, **address, RANK=str(rank), LOCAL_RANK=str(rank))
                    for rank in (0, 1)]
            printed = [process.communicate(timeout=120)[0] for process in both]
            assert [process.returncode for process in both] == [0, 0], printed

        train("--out_dir=whole")
        train("--out_dir=parts", "--stop_after=2")
        train("--out_dir=parts", "--resume")
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])
    assert len(whole["rng"]["others"]) == 1 and not torch.equal(whole["rng"]["cpu"], whole["rng"]["others"][0]["cpu"])


# ---- values that no run can use

@pytest.mark.parametrize("flag, words", [
    ("--lr=nan", "not a number"), ("--lr=inf", "not a number"), ("--lr=-1", "must not be negative"),
    ("--seed=12345678901234567890", "limit is 4,294,967,295"), ("--seed=-5000000000", "limit is 4,294,967,295"),
    ("--steps=-3", "must not be negative"), ("--dropout=2", "below 1"), ("--momentum=1", "below 1"),
    ("--temperature=-1", "must not be negative"), ("--log_every=-5", "must not be negative"),
    ("--lr=1e308", "limit is 1,000,000,000"), ("--top_p=1e-320", "limit is 1e-30"), (f"--n_embd={2**62}", "limit is 10,000,000"),
    ("--top_p=90", "at most 1"),            # 90 %? It cut off nothing
    (f"--batch_size={2**63}", "limit is 10,000,000"), ("--n_layer=100000000", "limit is 10,000\n"),
    ("--num_samples=100000000", "limit is 10,000\n"), (f"--steps={2**62}", "limit is 1,000,000,000,000")])
def test_values_that_no_run_can_use(flag, words, tmp_path, capsys):
    assert words in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"), flag)
    assert not (tmp_path / "run").exists()


def test_a_tiny_temperature_is_as_good_as_0():
    logits = torch.tensor([[1.0, 90.0, 3.0]])
    for script in (train_gpt, mini.lstm, mini.music):
        assert script.sample_token(logits, temperature=1e-40).item() == 1


def test_a_run_that_goes_on_with_fewer_steps_than_it_has_says_how_many_it_has(tmp_path, capsys):
    """result.json gave the scores of two steps, and said that they are those of one."""
    train_gpt.main(run_in(tmp_path / "run"))
    capsys.readouterr()
    result = train_gpt.main(["--resume", "--steps=1", f"--out_dir={tmp_path / 'run'}", "--device=cpu"])
    assert result["steps"] == 2 and "all 2 steps are done" in capsys.readouterr().out


def test_a_preset_does_not_pretend_to_change_a_run_that_goes_on(tmp_path, capsys):
    """It was ignored without a word."""
    train_gpt.main(run_in(tmp_path / "run"))
    for command in (["--resume"], ["sample"]):
        error = refused_by(train_gpt.main, capsys, *command, f"--out_dir={tmp_path / 'run'}", "--preset=gpu")
        assert "keeps its settings" in error


def test_no_compiler_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    """It was a traceback of 88 lines."""
    def compiled(net, **_):
        def call(*_):
            raise torch._inductor.exc.InvalidCxxCompiler()
        net.forward = call
        return net
    import torch._inductor.exc
    monkeypatch.setattr(torch, "compile", compiled)
    assert "Leave --compile out" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"), "--compile")


@pytest.mark.parametrize("content", [b"\xfe\xff\x00", b"", b"step\n" + b"9" * 200, b'step,loss\n1,"2\n', b"a,b\n1,2,3,4\n"])
def test_a_damaged_log_does_not_keep_a_run_from_going_on(content, tmp_path):
    """Found by tests.stress: it was decoded as if nobody ever edited it."""
    train_gpt.main(run_in(tmp_path / "run"))
    (tmp_path / "run/log.csv").write_bytes(content)
    train_gpt.main(["--resume", f"--out_dir={tmp_path / 'run'}", "--steps=3"])
    assert (tmp_path / "run/log.csv").read_text().splitlines()[-1].startswith("3,")


# ---- found by somebody who had not seen the code

def test_only_our_own_leftovers_are_deleted(tmp_path, capsys):
    """A user's thesis.tmp was, since it looked like what a killed run leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tmp").write_text("my thesis")
    assert "thesis.tmp" in refused_by(train_gpt.main, capsys, *run_in(folder))
    (folder / "thesis.tmp").unlink()
    (folder / "checkpoint.pt.123.tmp").write_text("half")
    train_gpt.main(run_in(folder))
    (folder / "notes.tmp").write_text("mine")
    train_gpt.main(["--resume", f"--out_dir={folder}"])
    assert (folder / "notes.tmp").read_text() == "mine" and not (folder / "checkpoint.pt.123.tmp").exists()


def test_without_any_output(tmp_path, monkeypatch):
    """stdout and stderr that were closed before the start are None: nothing was trained."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    train_gpt.main(run_in(tmp_path / "run"))
    assert (tmp_path / "run/result.json").exists()
    with pytest.raises(SystemExit) as leaving:
        train_gpt.main(["--lr=nan"])
    assert leaving.value.code == 2


@pytest.mark.parametrize("world, rank", [("abc", None), ("2", None), ("2", "5"), ("1", "x")])
def test_variables_that_only_torchrun_should_set(world, rank, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    assert "WORLD_SIZE" in refused_by(train_gpt.main, capsys, *run_in(tmp_path / "run"))
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.delenv("RANK", raising=False)
    train_gpt.main(run_in(tmp_path / "run"))


def test_neighbours_of_a_run_do_not_matter(tmp_path, capsys):
    """A result.json that is none, a link that leads nowhere, a name with stars; and --data= was the current folder."""
    folder = tmp_path / "a**b"
    for n, content in ((1, '{"steps": Infinity}'), (2, "[" * 100_000)):
        (tmp_path / f"a**b.{n}").mkdir()
        (tmp_path / f"a**b.{n}/result.json").write_text(content)
    (tmp_path / "a**b.3").symlink_to("nowhere")
    for _ in range(2):
        train_gpt.main(run_in(folder))
    train_gpt.main(["sample", f"--out_dir={folder}"])
    assert (tmp_path / "a**b.4/result.json").exists()
    assert "--data is empty" in refused_by(train_gpt.main, capsys, *run_in(folder), "--data=")


# ---- checkpoints that somebody damaged

DELETED = "(deleted)"


def set_in(parts: dict, place: str, value):
    """Change a part, or a part of a part: "rng.data"."""
    *way, name = place.split(".")
    for step in way:
        parts = parts[step]
    if isinstance(value, str) and value == DELETED:
        del parts[name]
    else:
        parts[name] = value


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of a run of a GPT, and what its checkpoint holds."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_gpt.main(run_in(folder))
    return folder, (folder / "checkpoint.pt").read_bytes()


@contextlib.contextmanager
def damaged(whole_run, place: str, value):
    """The path of the checkpoint of that run, in which a part is another value for as long as this lasts."""
    folder, content = whole_run
    path = folder / "checkpoint.pt"
    parts = torch.load(io.BytesIO(content), weights_only=True)
    set_in(parts, place, value)
    torch.save(parts, path)
    yield path
    path.write_bytes(content)


DAMAGES = [
    ("config", None), ("config", [1]), ("config.steps", DELETED), ("config.steps", "2"), ("config.n_embd", "8"),
    ("config.data", None), ("config.dropout", "no"), ("step", DELETED), ("step", "2"), ("step", -1), ("step", 3),
    ("step", 2.0), ("seconds", DELETED), ("seconds", None), ("seconds", -1.0), ("seconds", float("nan")),
    ("model", DELETED), ("model", None), ("model", {"a": 1}), ("optimizers", DELETED), ("optimizers", {}),
    ("optimizers", [None, None]), ("optimizers", [{}, {}]), ("optimizers", [{"state": 1, "param_groups": []}]),
    ("optimizers", [{"state": {}, "param_groups": 1}]),
    ("optimizers", [{"state": {}, "param_groups": [{}]}]), ("rng", DELETED), ("rng", None), ("rng.data", DELETED),
    ("rng.data", None), ("rng.data", torch.zeros(3, dtype=torch.uint8)), ("rng.cpu", torch.zeros(9)),
    ("rng.cpu", DELETED), ("rng.cuda", None),
    ("rng.others", 1), ("rng.others", [None]), ("rng.others", [{}]),
    ("tokenizer", DELETED), ("tokenizer", None), ("tokenizer", "char"),
    ("tokenizer.kind", DELETED), ("tokenizer.kind", "sentencepiece"), ("tokenizer.kind", 3),
    ("tokenizer.characters", DELETED), ("tokenizer.characters", None)]
ONLY_TO_RESUME = ("rng", "seconds", "optimizers")


@pytest.mark.parametrize("place, value", DAMAGES, ids=str)
def test_a_damaged_checkpoint_is_refused_in_one_line(place, value, whole_run, capsys):
    """Each of them was a traceback."""
    names = place.removeprefix("config.").split(".")
    commands = [["--resume", "--steps=3"], ["sample"]]
    if isinstance(value, str) and value == DELETED and place in ONLY_TO_RESUME:
        commands = commands[:1]
    with damaged(whole_run, place, value) as path:
        for command in commands:
            error = refused_by(train_gpt.main, capsys, *command, f"--out_dir={path.parent}")
            assert f"{path}: " in error and any(name in error for name in names), error


def test_averages_of_gradients_with_another_shape_are_refused(whole_run, capsys):
    """It was a traceback from inside the optimiser."""
    _, content = whole_run
    optimizers = torch.load(io.BytesIO(content), weights_only=True)["optimizers"]
    state = next(state for state in optimizers[0]["state"].values() if len(state) > 0)
    name = next(name for name, value in state.items() if value.dim() > 0)
    state[name] = state[name][:1]
    with damaged(whole_run, "optimizers", optimizers) as path:
        error = refused_by(train_gpt.main, capsys, "--resume", "--steps=3", f"--out_dir={path.parent}")
        assert "optimisers trained another network" in error, error


@pytest.mark.parametrize("place, value", [
    ("config", None), ("config.n_layer", DELETED), ("config.n_head", "1"), ("config.block_size", None),
    ("config.n_embd", 0), ("model", None), ("tokenizer", None)], ids=str)
def test_a_damaged_checkpoint_to_begin_with(place, value, whole_run, capsys):
    with damaged(whole_run, place, value) as path:
        error = refused_by(train_gpt.main, capsys, "sample", f"--init_from={path}", f"--out_dir={path.parent}.other")
        assert f"{path}: " in error and place.removeprefix("config.") in error, error


def test_a_whole_checkpoint_is_read_as_it_was_written(whole_run, tmp_path):
    """And can be written again."""
    folder, content = whole_run
    parts = load_checkpoint(folder / "checkpoint.pt", "gpt")
    want = torch.load(io.BytesIO(content), weights_only=True)
    assert parts.keys() == want.keys() and parts["config"] == want["config"] and parts["step"] == 2


# ---- what could not be read, and what not be written

def test_a_file_that_is_not_there_says_nothing_about_what_was_saved(tmp_path, capsys):
    def fail(error):
        def command(cfg):
            raise error
        return refused_by(lambda argv: command_line(Config, {}, {"train": command}, argv), capsys)
    for error in (FileNotFoundError(2, "No such file", "a.png"), PermissionError(13, "Permission denied", "a.png"),
                  IsADirectoryError(21, "Is a directory", "a.png"), NotADirectoryError(20, "Not a directory", "a.png")):
        assert "a.png" in fail(error) and "intact" not in fail(error)
    assert "intact" in fail(OSError(28, "No space left on device"))
    error = refused_by(mini.clip.main, capsys, "sample", f"--image={tmp_path}/no.png", f"--out_dir={tmp_path}/run")
    assert "intact" not in error


FULL_DISK = """
import resource, sys, torch
from tests.test_run import Config, Run, command_line
def train(cfg):
    with Run(cfg, "toy", torch.nn.Linear(2, 2), ["loss"]) as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        {}
command_line(Config, {{}}, {{"train": train}}, ["--out_dir={}"])
"""


@pytest.mark.parametrize("write, name", [
    ("run.log(1, loss=1.0)", "log.csv"), ("run.write_sample(1, '.txt', 'x' * 9)", "samples/step_000001.txt"),
    ("run.finish()", "result.json"), ("run.save(1, torch.nn.Linear(2, 2), [], torch.Generator())", "checkpoint.pt")])
def test_a_full_disk_is_said_with_the_name_of_the_file(write, name, tmp_path):
    """A limit of 0 bytes to a file stands for the disk."""
    script = FULL_DISK.format(write, tmp_path / "run")
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result
    assert f"{tmp_path}/run/{name}" in result.stderr and "intact" in result.stderr


def test_torchs_own_words_for_a_full_disk_get_the_name_too(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("unexpected pos 64 vs 0")
    monkeypatch.setattr(torch, "save", fail)
    with make_run(tmp_path) as run, pytest.raises(OSError, match="disk full.*unexpected pos") as caught:
        run.save(1, torch.nn.Linear(2, 2), [], torch.Generator())
    assert caught.value.filename == str(tmp_path / "run/checkpoint.pt")
