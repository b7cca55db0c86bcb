"""The run folder: config.json, log.csv, curves.png, samples/, checkpoint.pt and result.json; how a
run is saved, stopped, resumed.

A script's `train` opens a `Run`, which owns the folder `out_dir`. Files are written under a
temporary name and then renamed, so that whatever happens, a file has either its old content or its
new one.
"""
import contextlib
import csv
import ctypes
import dataclasses
import glob
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import torch

from mini.utils.config import UserError, printable, require, require_file
from mini.utils.device import matmul_precision
from mini.utils.folder import Lock, check_folder, is_empty, is_leftover, rename_aside

# ---- files

@contextlib.contextmanager
def naming(path):
    """An OSError raised inside names this file, if it names none: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, error.filename or str(path)) from None


@contextlib.contextmanager
def atomic_open(path):
    """Open path for binary writing, so that it ends up with the whole new content or keeps the old
    one."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Write a value as indented JSON, atomically. A name of a file may hold characters that are no
    Unicode: they are written as JSON writes them, \\udce9 or so."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_open(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


# ---- checkpoints

def stand_in(content: bytes) -> str:
    """What stands in place of a file that was to be fetched, by its first bytes; "" if it may be
    the file itself."""
    if content.startswith(b"version https://git-lfs"):
        return ("a pointer of Git LFS, which stands in place of the file itself; fetch that by "
                "`git lfs pull`, or by a browser")
    if content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page (HTML), not the file itself; fetch it again"
    return ""


def write_checkpoint(path, checkpoint: dict):
    """Write a dict of plain values and tensors, atomically, for load_checkpoint to read."""
    try:
        with atomic_open(path) as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:       # torch's own words for a full disk
        message = f"could not write the checkpoint; is the disk full? ({error})"
        raise OSError(None, message, str(path)) from None


def load_checkpoint(path, model: str) -> dict:
    """Read a checkpoint of the named model onto the CPU. Raises UserError if it is missing or
    broken."""
    require_file(path, f"{path}: no checkpoint there; train first, or name its folder by --out_dir")
    with open(path, "rb") as file:
        reason = stand_in(file.read(100))
    require(not reason, f"{path}: {reason}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # of zip, of pickle, an end of file: the same to the user
        kind = type(error).__name__
        raise UserError(f"{path}: not a checkpoint, or a truncated one ({kind})") from None
    if not isinstance(checkpoint, dict) or not {"name", "config"} <= set(checkpoint):
        raise UserError(f"{path}: not a checkpoint of ours")
    name = checkpoint["name"]
    if name != model:
        raise UserError(f"{path}: a checkpoint of the model {name!r}, not of {model!r}")
    return check_checkpoint(path, checkpoint)


class Checkpoint(dict):
    """What was read from a checkpoint, or a part of it. To ask for what it lacks is a UserError."""

    def __init__(self, path, parts: dict):
        super().__init__(parts)
        self.path = path

    def __missing__(self, name):
        raise UserError(f"{self.path}: a damaged checkpoint: there is no {name!r} in it; train "
                        "anew")


# The types of a checkpoint's parts; no script has all of them
PARTS = {"config": dict, "step": int, "seconds": float, "model": dict, "optimizers": list,
         "rng": dict, "tokenizer": dict, "shape": tuple, "words": list, "names": (list, tuple),
         "examples": list, "sizes": dict, "base": dict, "method": str, "first": int,
         "seconds_before": float}
PARTS_OF_TOKENIZER = {"kind": str, "characters": str, "vocab": dict, "merges": list,
                      "tokens": list, "lower": bool, "content": dict, "chat_format": str}


def check_checkpoint(path, parts: dict) -> Checkpoint:
    """The parts as a Checkpoint. Raises UserError, naming the part, if one is not what a run saves
    there."""
    def check(condition, name: str):
        require(condition, f"{path}: a damaged checkpoint: its {name!r} is not what a run saves "
                           "there; train anew")

    checkpoint = Checkpoint(path, parts)
    for name in PARTS.keys() & parts.keys():
        check(isinstance(parts[name], PARTS[name]), name)
    for name in {"config", "rng", "tokenizer", "sizes"} & parts.keys():
        checkpoint[name] = Checkpoint(path, parts[name])
    tokenizer = parts.get("tokenizer", {})
    for name in PARTS_OF_TOKENIZER.keys() & tokenizer.keys():
        check(isinstance(tokenizer[name], PARTS_OF_TOKENIZER[name]), name)
    for name in {"model", "base"} & parts.keys():
        check(all(isinstance(tensor, torch.Tensor) for tensor in parts[name].values()), name)
    if "step" in parts:
        steps = checkpoint["config"]["steps"]
        check(isinstance(steps, int), "steps")
        check(0 <= parts["step"] <= steps, "step")
    if "seconds" in parts:
        check(0 <= parts["seconds"] < math.inf, "seconds")
    for optimizer in parts.get("optimizers", []):
        check(isinstance(optimizer, dict), "optimizers")
        check(isinstance(optimizer.get("state"), dict), "optimizers")
        groups = optimizer.get("param_groups")
        check(isinstance(groups, list), "optimizers")
        check(all(isinstance(group, dict) and "params" in group for group in groups), "optimizers")
    if "rng" in parts:
        rng = checkpoint["rng"]
        check(is_random_state(rng["data"]), "rng")
        others = rng.get("others", [])                      # of the other processes
        check(isinstance(others, list), "rng")
        for states in [rng, *others]:
            check(isinstance(states, dict), "rng")
            check(is_random_state(states.get("cpu")), "rng")
            check(isinstance(states.get("cuda"), list), "rng")
    return checkpoint


def is_random_state(state) -> bool:
    """Can it be the state of random numbers on the CPU?"""
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError):
        return False
    return True


def merge_config(cfg, checkpoint: dict):
    """The checkpoint's config, with the flags given in cfg put over it.

    Given are the flags that were typed, or for a Config made in Python the fields that differ from
    their defaults. Raises UserError for a new value of a field that the saved weights depend on
    (`Config.fixed`).
    """
    old = checkpoint["config"]
    fields = dataclasses.fields(cfg)
    names = [field.name for field in fields]
    changed = {field.name for field in fields if getattr(cfg, field.name) != field.default}
    given = getattr(cfg, "given", changed)
    place = getattr(checkpoint, "path", "the checkpoint")
    for field in fields:
        value = old.get(field.name, field.default)
        kinds = (int, float) if isinstance(field.default, float) else type(field.default)
        require(isinstance(value, kinds), f"{place}: a damaged checkpoint: in its config, "
                                          f"{field.name} is {str(value)[:60]!r}; train anew")
    require("preset" not in given or cfg.preset == old.get("preset", ""),
            f"--preset={cfg.preset}: this run was made with "
            f"{'--preset=' + old['preset'] if old.get('preset') else 'no preset'}, and keeps its "
            "settings; leave the flag out, or give the settings one by one")
    for name in given & set(cfg.fixed):
        value = getattr(cfg, name)
        if value != old.get(name, value):
            raise UserError(f"--{name}={value}: the weights were made with {old[name]!r}; "
                            "leave the flag out")
    from_cfg = given | {"resume", "stop_after", "out_dir"}
    kept = {name: value for name, value in old.items() if name in names and name not in from_cfg}
    return dataclasses.replace(cfg, **kept)


def own_checkpoint(cfg, model: str, wanted: bool = True):
    """(config, checkpoint) of the run in cfg.out_dir, with the flags given in cfg put over its
    config; or (cfg, None) if none is wanted. If it is to be used, not trained on, a run of few
    steps is remarked on."""
    if not wanted:
        return cfg, None
    checkpoint = load_checkpoint(Path(cfg.out_dir) / "checkpoint.pt", model)
    if not cfg.resume:
        remark_on_short_run(cfg.out_dir, checkpoint["step"])
    return merge_config(cfg, checkpoint), checkpoint


def remark_on_short_run(folder, step: int, few: int = 100):
    """Say so if the run in this folder has only a few steps, and name an older, longer run beside
    it if there is one: a newcomer who tried three steps wonders why the samples are noise."""
    if step >= few:
        return
    folder = Path(folder)
    longest, longest_steps = None, step
    for path in folder.parent.glob(f"{glob.escape(folder.name)}.*/result.json"):
        try:
            require_file(path)
            steps = int(json.loads(path.read_text("utf-8"))["steps"])
        except (UserError, OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
        if steps > longest_steps:
            longest, longest_steps = path.parent, steps
    hint = f"; an older one of {longest_steps} steps: --out_dir={longest}" if longest else ""
    print(printable(f"note: the run in {folder} has only {step} steps{hint}"))


def check_shape(checkpoint, *shape):
    """Raise UserError if a run goes on from a checkpoint that was made with images of another
    shape, or other labels: `shape` is what was saved with it."""
    require(not checkpoint or checkpoint["shape"] == shape,
            "the checkpoint was made with images of another size, or with other labels; "
            "leave out --data, or --resume")


def restore(checkpoint: dict, optimizers, data_rng):
    """Put a checkpoint's optimisers and random states back, for a run that goes on."""
    require(len(optimizers) == len(checkpoint["optimizers"]),
            "the checkpoint has another --optimizer")
    for optimizer, saved in zip(optimizers, checkpoint["optimizers"]):
        for old, new in zip(saved["param_groups"], optimizer.param_groups):
            settings = {key: value for key, value in new.items() if key != "params"}
            old.update(settings)            # rates and the like: the flags may have changed
        try:
            optimizer.load_state_dict(saved)
            check_shapes_of_state(optimizer)
        except ValueError:      # another number of groups or parameters, or other shapes
            raise UserError("the checkpoint's optimisers trained another network than this file's; "
                            "undo the change of the network, or train anew") from None
    rng = checkpoint["rng"]
    data_rng.set_state(rng["data"])
    own = [rng, *rng.get("others", [])]             # of each process
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    if rank < len(own):
        set_random_states(own[rank])


def check_shapes_of_state(optimizer):
    """Raise ValueError if a moving average of gradients does not have the shape of its parameter.
    """
    for parameter, state in optimizer.state.items():
        for value in state.values():
            if torch.is_tensor(value) and value.dim() > 0 and value.shape != parameter.shape:
                raise ValueError(f"{tuple(value.shape)} for {tuple(parameter.shape)}")


def random_states() -> dict:
    """The states of torch's random numbers in this process, on the CPU and on each GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict):
    """Put back what random_states returned."""
    torch.set_rng_state(states["cpu"])
    for i, state in enumerate(states["cuda"][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, i)


# ---- the run

def rows_up_to(log, last: int) -> list:
    """The rows of a log.csv, as dicts, up to a step. What is not a row of a log, in a file that was
    edited or damaged, is left out."""
    text = log.read_bytes().decode("utf-8", "replace").replace("\0", "")
    rows = []
    with contextlib.suppress(csv.Error):
        for row in csv.DictReader(text.splitlines()):
            step = row.get("step") or ""
            if step.isdecimal() and int(step[:18]) <= last:
                rows.append(row)
    return rows


class Run:
    """One training run and its folder: `with Run(cfg, "gpt", model, columns) as run:`, columns for
    log.csv.

    Opening it renames an older run aside (runs/gpt.1, …), unless the run goes on from a checkpoint,
    and locks the folder. Ctrl-C, SIGTERM and a closed terminal only raise a flag, so that no step
    is cut in two: after each one the loop asks `run.stopping(step)`. Of several processes only rank
    0 prints and writes. `first` is the step to begin with.
    """

    def __init__(self, cfg, name: str, model, columns, checkpoint=None, rank: int = 0):
        self.cfg = cfg
        self.name = name
        self.rank = rank
        self.folder = Path(cfg.out_dir)
        parameters = list(model.parameters())
        self.parameters = sum(p.numel() for p in parameters)
        self.device = parameters[0].device
        self.first = checkpoint["step"] if checkpoint else 0
        self.seconds = checkpoint["seconds"] if checkpoint else 0.0     # of training
        self.signal = 0                     # the number of the signal that asked it to stop
        self.all_saved = self.first >= cfg.steps        # only scores are missing
        self.handlers = {}
        self.live = sys.stdout.isatty()     # on a terminal one line of progress is written over
        if rank == 0:
            self._open_folder(["step", "seconds", *columns], checkpoint)

    def _open_folder(self, columns, checkpoint):
        if not checkpoint:
            check_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log.csv"
        if checkpoint and log.exists():
            require_file(log)
        self.lock = Lock(self.folder)
        rows = []
        if checkpoint and log.exists():
            rows = rows_up_to(log, self.first)      # later ones will come again
        elif not checkpoint and not is_empty(self.folder):
            self.lock.release()             # some systems rename no folder that holds an open file
            aside = rename_aside(self.folder)
            self.lock = Lock(self.folder)
            self.say(f"note: an older run was there; it is kept in {aside}")
        for path in filter(is_leftover, list(self.folder.iterdir())):   # of a save that was killed
            path.unlink()
        write_json(self.folder / "config.json", dataclasses.asdict(self.cfg))   # it marks a run
        (self.folder / "samples").mkdir(exist_ok=True)
        with atomic_open(log) as file:
            file.write((",".join(columns) + "\n").encode())
            for row in rows:
                values = [row.get(column) or "" for column in columns]
                file.write((",".join(values) + "\n").encode())
        self.file = open(log, "a", newline="")
        self.writer = csv.DictWriter(self.file, columns, lineterminator="\n")

    def __enter__(self):
        def note_signal(number, frame):
            closed = number == getattr(signal, "SIGHUP", None)
            if (self.signal or self.all_saved) and not closed:      # a second Ctrl-C does not wait
                raise KeyboardInterrupt
            self.signal = number
        with contextlib.suppress(ValueError):           # outside the main thread: left alone
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                s = getattr(signal, name, None)         # Windows has no SIGHUP
                if s is not None and signal.getsignal(s) is not signal.SIG_IGN:     # as nohup does
                    self.handlers[s] = signal.signal(s, note_signal)
        self.precision = matmul_precision(self.device, self.cfg.matmul)
        self.precision.__enter__()
        keep_freed_memory()
        self.mark = time.perf_counter()
        self.say(f"{self.parameters:,} parameters on {self.device}")
        if 0 < self.first < self.cfg.steps:
            self.say(f"going on after step {self.first} of {self.cfg.steps}")
        elif self.first > 0:
            self.say(f"all {self.first} steps are done; only the scores are computed again")
        return self

    def __exit__(self, kind, *error):
        if kind is KeyboardInterrupt and self.all_saved:
            self.say(f"stopped after the last step; what was learnt is saved. For the scores: "
                     f"--resume --out_dir={self.cfg.out_dir}")
        for s, handler in self.handlers.items():
            signal.signal(s, handler)
        self.precision.__exit__(None, None, None)
        if self.rank == 0:
            self.lock.release()
            with naming(self.file.name):
                self.file.close()           # on a full disk it tries again to write
        if torch.distributed.is_initialized():
            if kind is None:
                torch.distributed.barrier()     # if one process ends earlier, others may crash
            torch.distributed.destroy_process_group()

    # -- time
    def clock(self) -> float:
        """Seconds of training so far."""
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now
        return self.seconds

    @contextlib.contextmanager
    def untimed(self):
        """What happens inside does not count as training time."""
        self.clock()
        yield
        self.mark = time.perf_counter()

    # -- what is due after a step
    def due(self, step: int, every: int) -> bool:
        """True after every so many steps, and after the last one (0: only after the last one)."""
        return step == self.cfg.steps or every > 0 and step % every == 0

    def stopping(self, step: int) -> bool:
        """True if the loop should save and leave after this many steps: Ctrl-C, SIGTERM or
        --stop_after."""
        if torch.distributed.is_initialized():          # all must leave after the same step
            flag = torch.tensor(self.signal, device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.signal = int(flag)
        return bool(self.signal) or 0 < self.cfg.stop_after <= step - self.first

    def check_finite(self, step: int, **losses):
        """Raise UserError if a loss is NaN or infinite: before the step that would spoil the
        weights."""
        for name, value in losses.items():
            require(math.isfinite(value),
                    f"{name} is {value} at step {step}: lower the learning rate, or clip the "
                    f"gradient. Any checkpoint in {self.folder} is from before, and good")

    # -- what a run says and writes
    def say(self, text: str):
        """Print a line, on rank 0 alone."""
        if self.rank == 0:
            clear_line = "\r\x1b[K" if self.live else ""
            print(clear_line + text, flush=True)

    def log(self, step: int, **values):
        """A row of log.csv and a line of progress, of numbers and names; values of None are left
        out."""
        if self.rank > 0:
            return
        with naming(self.file.name):
            self.writer.writerow({"step": step, "seconds": f"{self.seconds:.2f}", **values})
            self.file.flush()
        seconds_per_step = self.seconds / max(step, 1)
        text = f"step {step}/{self.cfg.steps}"
        for key, value in values.items():
            if isinstance(value, str):
                text += f"  {key} {value}"
            elif value is not None:
                text += f"  {key} {value:.4g}"
        text += f"  {1000 * seconds_per_step:.0f} ms/step"
        text += f"  {seconds_per_step * (self.cfg.steps - step):.0f} s left"
        if self.live:
            stays = self.due(step, self.cfg.eval_every)         # the others are written over
            print(f"\r\x1b[K{text}", end="\n" if stays else "", flush=True)
        else:
            print(text, flush=True)

    def write_sample(self, step: int, suffix: str, data: bytes | str):
        """Write samples/step_000500.txt (or .png, …), named by the step and the suffix."""
        if self.rank == 0:
            if isinstance(data, str):
                data = data.encode()
            path = self.folder / "samples" / f"step_{step:06d}{suffix}"
            with naming(path):
                path.write_bytes(data)

    def save(self, step: int, model, optimizers, data_rng, **more):
        """Write checkpoint.pt: all that sampling and an exact resume need, and what else the script
        gives."""
        rng = {"data": data_rng.get_state(), **random_states()}
        if torch.distributed.is_initialized():          # dropout differs between the processes
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, random_states())
            rng["others"] = states[1:]
        if self.rank > 0:
            return
        checkpoint = {
            "name": self.name,
            "config": dataclasses.asdict(self.cfg),
            "step": step,
            "seconds": self.seconds,
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "rng": rng,
            **more,
        }
        write_checkpoint(self.folder / "checkpoint.pt", checkpoint)
        self.all_saved = step == self.cfg.steps

    def leave(self, step: int) -> dict:
        """Draw the curves and say how to go on, after the loop stopped early and saved; returns
        what `train` returns then."""
        self.draw_curves()
        self.say(f"stopped after step {step} and saved; "
                 f"go on with --resume --out_dir={self.cfg.out_dir}")
        return {"model": self.name, "steps": step, "interrupted": self.signal}

    def finish(self, **scores) -> dict:
        """Write result.json and curves.png, and return the content of the first."""
        steps = max(self.cfg.steps, self.first)         # --resume may come with fewer than are done
        result = {"model": self.name, "steps": steps, "seconds": round(self.seconds, 2),
                  "parameters": self.parameters, "device": str(self.device), **scores}
        if self.rank == 0:
            write_json(self.folder / "result.json", result)
        self.draw_curves()
        self.say(f"look in {self.folder}: curves.png, log.csv, samples/, result.json")
        return result

    def draw_curves(self):
        """Draw log.csv as curves.png. No run must fail because of that: an error becomes a line."""
        if self.rank > 0:
            return
        try:
            from mini.utils.curves import write_curves      # here, since it imports this file
            write_curves(self.folder)
        except Exception as error:
            self.say(f"note: curves.png could not be drawn ({type(error).__name__}: {error})")


def keep_freed_memory():
    """On Linux, tell the C library to keep the memory that tensors free, and not to give it back to
    the system after each step: fresh pages cost a tenth of a step."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 30)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
