"""What every script needs and no paper is about: the command line, the run folder, checkpoints.

A script declares a dataclass `Config` and hands it to `main`; its `train` opens a `Run`, which owns
the folder `out_dir` with config.json, log.csv, samples/, checkpoint.pt and result.json.
"""
import argparse
import contextlib
import ctypes
import csv
import dataclasses
import difflib
import inspect
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import torch


class UserError(Exception):
    """Something the user can mend: `main` prints its one line and leaves with exit status 2, no traceback."""


def require(condition, message: str):
    """Raise UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help")


def boolean(text: str) -> bool:
    return bool(json.loads(text.lower()))  # true, false, 1, 0


@dataclasses.dataclass
class RunConfig:
    """The fields that mean the same in every script; a script's Config adds its own."""
    # run
    preset: str = ""            # a named set of other defaults
    out_dir: str = "runs/run"   # folder of the run
    steps: int = 1000           # optimiser steps
    eval_every: int = 200       # steps between evaluations, each with a checkpoint saved (0: at the end)
    sample_every: int = 500     # steps between samples (0: only at the end)
    log_every: int = 50         # steps between lines of progress (0: at the end)
    seed: int = 1               # of everything random
    device: str = "auto"        # auto, cpu, cuda or mps
    matmul: str = "medium"      # medium | high | highest: float32 products; medium: bfloat16 inputs if fast
    compile: bool = False       # torch.compile the model
    resume: bool = False        # go on from the checkpoint in out_dir
    stop_after: int = 0         # leave after so many steps, saved, as if interrupted


def field_notes(Config) -> dict:
    """{field: (group, help)}: a comment alone on its line opens a group, one behind a field is its help."""
    notes, group = {} if Config.__base__ is object else field_notes(Config.__base__), "options"
    for line in inspect.getsource(Config).splitlines():
        if heading := re.match(r"    # (.+)", line):
            group = heading[1]
        elif field := re.match(r"    (\w+)\s*:[^#]*(?:#\s*(.*))?", line):
            notes[field[1]] = (group, field[2] or "")
    return notes


def parse(Config, presets: dict, commands: list, argv: list, doc: str = ""):
    """Read `[command] --key=value …` into (command, Config): explicit flags win over the preset, the preset
    over the defaults. `given` in the config names the flags typed. Raises UserError for anything unknown."""
    notes, groups = field_notes(Config), {}
    parser = _Parser(allow_abbrev=False, description=doc, argument_default=argparse.SUPPRESS,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default=commands[0], help=" | ".join(commands))
    for field in dataclasses.fields(Config):
        (title, text), kind = notes.get(field.name, ("options", "")), type(field.default)
        options = re.match(r"[\w-]+( \| [\w-]+)+", text)     # "a | b" at the beginning lists the choices
        kwargs = dict(type=kind, metavar=kind.__name__.upper(), choices=options and options[0].split(" | "),
                      help=f"{text} (default: {field.default!r})".replace("%", "%%"))
        if kind is bool:
            kwargs.update(type=boolean, nargs="?", const=True)
        if field.name == "preset":
            kwargs.update(choices=["", *presets], help=f"a set of other defaults: {', '.join(presets)}")
        groups[title] = groups.get(title) or parser.add_argument_group(title)
        groups[title].add_argument(f"--{field.name}", **kwargs)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        near = difflib.get_close_matches(unknown[0].lstrip("-").split("=")[0].replace("-", "_"), notes, n=1)
        raise UserError(f"unknown: {unknown[0]}{f' (did you mean --{near[0]}?)' if near else ''}; see --help")
    command, given = vars(given).pop("command"), vars(given)
    require(command in commands, f"unknown command {command!r}: choose from {', '.join(commands)}")
    cfg = Config(**{**presets.get(given.get("preset"), {}), **given})
    cfg.given = set(given)
    return command, cfg


def main(Config, presets: dict, commands: dict, argv=None, doc: str = "", memory: str = "--batch_size"):
    """Parse the command line, call commands[name](cfg), return its result. Foreseeable trouble becomes one
    line on stderr and exit status 2, Ctrl-C status 130. `memory` says what to lower when memory runs out."""
    try:
        command, cfg = parse(Config, presets, list(commands), sys.argv[1:] if argv is None else argv, doc)
        result = commands[command](cfg)
        if isinstance(result, dict) and result.get("interrupted"):
            sys.exit(130)
        return result
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or 'while writing'}); what was saved is intact"
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not re.search("(out of|allocate|enough) memory", str(error)):
            raise
        message = f"out of memory: lower {memory}"
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def pick_device(name: str) -> torch.device:
    """'auto' takes CUDA, then Apple's MPS, then the CPU. Raises UserError if the device is not there."""
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(d for d in have if have[d]) if name == "auto" else name
    require(have.get(name.split(":")[0]), f"--device={name}: torch sees no such device; use --device=cpu")
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name)


def autocast(device: torch.device, matmul: str):
    """Inside it, products and convolutions are in bfloat16: on CUDA, and with --matmul=medium on a CPU that
    has instructions for it (1.6 times as fast there; in software it would be slower)."""
    fast = matmul == "medium" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.autocast(device.type, torch.bfloat16, device.type == "cuda" or device.type == "cpu" and fast)


def start_processes(device: torch.device):
    """(rank, number of processes); under torchrun it also joins the group (NCCL on CUDA, gloo on the CPU)."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return int(os.environ.get("RANK", 0)), world


@contextlib.contextmanager
def atomic_open(path):
    """Open path for binary writing, so that it ends up with the whole new content or keeps the old one."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    with atomic_open(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def load_checkpoint(path, model: str) -> dict:
    """Read a checkpoint of the named model onto the CPU. Raises UserError if it is missing or broken."""
    require(Path(path).exists(), f"{path}: no checkpoint there; train first, or name its folder by --out_dir")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a zip error, an unpickling error, an end of file: the same to the user
        raise UserError(f"{path}: not a checkpoint, or a truncated one ({type(error).__name__})") from None
    require(isinstance(state, dict) and {"name", "config"} <= set(state), f"{path}: not a checkpoint of ours")
    require(state["name"] == model, f"{path}: a checkpoint of the model {state['name']!r}, not of {model!r}")
    return state


def from_checkpoint(cfg, state: dict, fixed=("data", "model")):
    """The checkpoint's config with the flags given in cfg put over it (for a Config made in Python: the
    fields that differ from their defaults). A new value for a field of the groups `fixed` raises
    UserError."""
    old, notes = state["config"], field_notes(type(cfg))
    changed = {f.name for f in dataclasses.fields(cfg) if getattr(cfg, f.name) != f.default}
    given = getattr(cfg, "given", changed)
    for name in given:
        value = getattr(cfg, name)
        require(notes[name][0] not in fixed or name == "data" or value == old.get(name, value),
                f"--{name}={value}: the checkpoint was made with {old.get(name)!r}; leave the flag out")
    given = given | {"resume", "stop_after", "out_dir"}
    kept = {name: value for name, value in old.items() if name in notes and name not in given}
    return dataclasses.replace(cfg, **kept)


def restore(state: dict, optimizers, data_rng):
    """Put a checkpoint's optimisers and random states back, for a run that goes on."""
    require(len(optimizers) == len(state["optimizers"]), "the checkpoint has another --optimizer")
    for optimizer, saved in zip(optimizers, state["optimizers"]):
        for old, new in zip(saved["param_groups"], optimizer.param_groups):
            old.update({key: new[key] for key in new if key != "params"})   # flags may have changed
        optimizer.load_state_dict(saved)
    data_rng.set_state(state["rng"]["data"])
    torch.set_rng_state(state["rng"]["cpu"])
    for i, cuda in enumerate(state["rng"]["cuda"][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, i)


class Run:
    """One training run and its folder: `with Run(cfg, "gpt", model, columns) as run:`, columns for log.csv.

    Opening it renames an older folder aside (runs/gpt.1, …), unless the run goes on from the `state` of a
    checkpoint. Ctrl-C and SIGTERM only raise a flag, so that no step is cut in two: after each one the loop
    asks `run.stopping(step)`. Of several processes only rank 0 prints and writes.
    """

    def __init__(self, cfg, name: str, model, columns, state=None, rank: int = 0):
        self.cfg, self.name, self.rank, self.folder = cfg, name, rank, Path(cfg.out_dir)
        parameters = list(model.parameters())
        self.parameters, self.device = sum(p.numel() for p in parameters), parameters[0].device
        self.first, self.seconds = (state["step"], state["seconds"]) if state else (0, 0.0)     # of training
        self.signal, self.handlers, self.live = 0, {}, sys.stdout.isatty()
        if rank == 0:
            self._open_folder(["step", "seconds", *columns], state)

    def _open_folder(self, columns, state):
        log, rows = self.folder / "log.csv", []
        if state and log.exists():                          # rows after the checkpoint will come again
            rows = [row for row in csv.DictReader(log.read_text().splitlines())
                    if row["step"].isdigit() and int(row["step"]) <= self.first]
        elif not state and self.folder.exists() and any(self.folder.iterdir()):
            aside = next(path for n in range(1, 10**6)
                         if not (path := self.folder.with_name(f"{self.folder.name}.{n}")).exists())
            self.folder.rename(aside)
            self.say(f"note: an older run was there; it is kept in {aside}")
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):          # of a save that was killed
            leftover.unlink()
        write_json(self.folder / "config.json", dataclasses.asdict(self.cfg))
        rows = [columns, *([row.get(c) or "" for c in columns] for row in rows)]
        with atomic_open(log) as file:
            file.write("".join(",".join(row) + "\n" for row in rows).encode())
        self.file = open(log, "a", newline="")
        self.writer = csv.DictWriter(self.file, columns, lineterminator="\n")

    def __enter__(self):
        def note(number, frame):
            if self.signal:                                 # a second Ctrl-C does not wait
                raise KeyboardInterrupt
            self.signal = number
        with contextlib.suppress(ValueError):               # outside the main thread signals are left alone
            self.handlers = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        self.precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.cfg.matmul)
        if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
            for option, limit in ((-3, 1 << 30), (-1, (1 << 31) - 1)):  # M_MMAP_, M_TRIM_THRESHOLD: keep
                ctypes.CDLL(None).mallopt(option, limit)  # memory; new pages cost a tenth of a step
        self.mark = time.perf_counter()
        self.say(f"{self.parameters:,} parameters on {self.device}")
        return self

    def __exit__(self, *error):
        for s, handler in self.handlers.items():
            signal.signal(s, handler)
        torch.set_float32_matmul_precision(self.precision)
        if self.rank == 0:
            self.file.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def say(self, text: str):
        if self.rank == 0:
            print(("\r\x1b[K" if self.live else "") + text, flush=True)

    def clock(self) -> float:
        before, self.mark = self.mark, time.perf_counter()
        self.seconds += self.mark - before
        return self.seconds

    @contextlib.contextmanager
    def untimed(self):
        """What happens inside does not count as training time."""
        self.clock()
        yield
        self.mark = time.perf_counter()

    def check_finite(self, step: int, **losses):
        """Raise UserError if a loss is NaN or infinite: before the step that would spoil the weights."""
        for name, value in losses.items():
            require(math.isfinite(value), f"{name} is {value} at step {step}: lower the learning rate, or "
                    f"clip the gradient. Any checkpoint in {self.folder} is from before, and good")

    def log(self, step: int, **values):
        """A row of log.csv and a line of progress; values of None are left out."""
        if self.rank == 0:
            self.writer.writerow({"step": step, "seconds": f"{self.seconds:.2f}", **values})
            self.file.flush()
            pace = self.seconds / max(step, 1)
            text = "".join(f"  {key} {value:.4g}" for key, value in values.items() if value is not None)
            text += f"  {1000 * pace:.0f} ms/step  {pace * (self.cfg.steps - step):.0f} s left"
            over = self.live and not self.due(step, self.cfg.eval_every)    # the next line replaces it
            text = f"step {step}/{self.cfg.steps}{text}"
            print(f"\r\x1b[K{text}" if self.live else text, end="" if over else "\n", flush=True)

    def due(self, step: int, every: int) -> bool:
        return step == self.cfg.steps or every > 0 and step % every == 0

    def stopping(self, step: int) -> bool:
        """True if the loop should save and leave after this many steps: Ctrl-C, SIGTERM or --stop_after."""
        if torch.distributed.is_initialized():              # all processes must leave after the same step
            flag = torch.tensor(self.signal, device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.signal = int(flag)
        return bool(self.signal) or 0 < self.cfg.stop_after <= step - self.first

    def save(self, step: int, model, optimizers, data_rng, **more):
        """Write checkpoint.pt: all that sampling and an exact resume need, and what else the script gives."""
        if self.rank == 0:
            cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            rng = {"data": data_rng.get_state(), "cpu": torch.get_rng_state(), "cuda": cuda}
            state = {"name": self.name, "config": dataclasses.asdict(self.cfg), "step": step,
                     "seconds": self.seconds, "model": model.state_dict(),
                     "optimizers": [o.state_dict() for o in optimizers], "rng": rng}
            try:
                with atomic_open(self.folder / "checkpoint.pt") as file:
                    torch.save({**state, **more}, file)
            except RuntimeError as error:   # torch's writer stumbles over a full disk in words of its own
                raise OSError(f"could not write the checkpoint; is the disk full? ({error})") from None

    def leave(self, step: int) -> dict:
        """Say how to go on, after the loop stopped early and saved; returns what `train` returns then."""
        self.say(f"stopped after step {step} and saved; go on with --resume --out_dir={self.cfg.out_dir}")
        return {"model": self.name, "steps": step, "interrupted": self.signal}

    def write_sample(self, step: int, suffix: str, data: bytes):
        if self.rank == 0:
            (self.folder / "samples" / f"step_{step:06d}{suffix}").write_bytes(data)

    def finish(self, **scores) -> dict:
        """Write result.json and return its content."""
        result = {"model": self.name, "steps": self.cfg.steps, "seconds": round(self.seconds, 2),
                  "parameters": self.parameters, "device": str(self.device), **scores}
        self.say(f"look in {self.folder}: log.csv, samples/, result.json")
        if self.rank == 0:
            write_json(self.folder / "result.json", result)
        return result
