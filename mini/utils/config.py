"""The command line of every script: a dataclass `Config` becomes flags, their help and their
checks.

A script declares its settings as fields of a dataclass derived from `RunConfig`, each with a
default and a comment, and hands the class to `command_line`. The comments are the text of --help
and nothing more: a Config whose source is not at hand, pasted into a notebook for instance, works
the same without them.
"""
import argparse
import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import re
import sys
import typing
from pathlib import Path
from typing import ClassVar, Literal

from mini.utils.output import guarded_output


# Control characters, ends of lines, marks that turn the direction of writing, and what stands for
# bytes that are not UTF-8.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text) -> str:
    """The text, or path, as a single line that does nothing to the terminal: a file's name can hold
    any character, and those in UNPRINTABLE are written as \\n, \\x1b, \\udce9."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], str(text))


class UserError(Exception):
    """A mistake that the user can correct. Its message, a single line, is printed, and the exit
    status is 2: see `errors_in_a_line`."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def require(condition, message: str):
    """Raise UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_file(path, missing: str = ""):
    """Raise UserError unless path is a file, or a link to one. Reading a named pipe waits until
    somebody writes into it, and reading /dev/zero never ends. missing: what to say if no file
    is there."""
    path = Path(path)
    missing = missing or f"{path}: no such file"
    require(path.exists(), missing)
    require(not path.is_dir(), missing.replace("no such file", "a folder, where a file belongs"))
    require(path.is_file(), f"{path}: a pipe or a device, where a file belongs; copy what comes "
                            "out of it to a file first")


def require_positive(cfg, *names: str):
    """Raise UserError, naming the field, if the value of one of these fields is not above 0."""
    for name in names:
        value = getattr(cfg, name)
        require(value > 0, f"--{name}={value} must be at least 1" if isinstance(value, int) else
                f"--{name}={value} must be above 0")


# What a value may be, for fields that mean the same in every script that has them.
NOT_NEGATIVE = {"steps", "eval_every", "sample_every", "log_every", "stop_after", "warmup",
                "text_wait", "temperature", "top_k", "weight_decay", "grad_clip", "n_test"}
FRACTIONS = {"beta1", "beta2", "momentum", "ema", "weight_drop", "stable_frac"}
MAY_BE_ONE = {"label_dropout", "prompt_dropout"}
PROBABILITIES = {"top_p"}                   # above 0 (see require_positive), and at most 1
MAY_BE_INFINITE = {"max_weight"}
TEXTS = {"prompt", "text", "question"}      # what begins with ~/ in all others is a path

# How far from 0 a number may be: more than anybody needs, and so little that nothing overflows, and
# that no slip of the finger fills the memory or works for days before the first step.
LIMITS = {
    "seed": 2**32 - 1,
    **dict.fromkeys(["levels", "stages", "halvings", "d_halvings"], 20),        # each divides by 2
    **dict.fromkeys(["size", "n_layer", "blocks"], 10**4),
    **dict.fromkeys(["n", "num_samples", "samples", "beam"], 10**4),            # drawn at once
    **dict.fromkeys(["n_images", "n_pairs", "n_dialogues", "pieces"], 10**6),   # made at the start
    **dict.fromkeys(["max_new_tokens", "tokens"], 10**6),                       # one by one
}
LIMIT = 10**7                   # of all other whole numbers
LIMIT_OF_STEPS = 10**12         # large, since it may mean: until Ctrl-C, or never
LIMIT_OF_FRACTIONS = 10**9      # of numbers that need not be whole
SMALLEST = 1e-30                # of these, if it is not 0: float32 has no room for much less


@dataclasses.dataclass
class RunConfig:
    """The fields that mean the same in every script; a script's Config adds its own.

    Raises UserError if a field declared as Literal[...] is given a value that is not among its
    choices.
    """
    # run
    preset: str = ""            # a named set of other defaults
    out_dir: str = "runs/run"   # folder of the run
    steps: int = 1000           # optimiser steps
    eval_every: int = 200       # steps between evaluations; each saves a checkpoint (0: at the end)
    sample_every: int = 500     # steps between samples (0: only at the end)
    log_every: int = 50         # steps between lines of progress (0: at the end)
    seed: int = 1               # seed of all random numbers: weights, batches, dropout, samples
    device: str = "auto"        # auto, cpu, cuda or mps
    # how float32 matrices are multiplied; medium: with bfloat16 inputs where the processor has them
    matmul: Literal["medium", "high", "highest"] = "medium"
    compile: bool = False       # torch.compile the model
    resume: bool = False        # go on from the checkpoint in out_dir
    stop_after: int = 0         # leave after so many steps, saved, as if interrupted (0: never)

    # Fields that a resumed run must keep as they were, since the saved weights depend on them.
    fixed: ClassVar[tuple] = ()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name = field.name
            value = getattr(self, name)
            choices = choices_of(field)
            known = ", ".join(map(str, choices))
            require(not choices or value in choices,
                    f"--{name}={value}: invalid choice (choose from {known})")
            if isinstance(value, str) and value.startswith("~/") and name not in TEXTS:
                setattr(self, name, os.path.expanduser(value))
            if isinstance(value, float):
                usable = math.isfinite(value) or value == math.inf and name in MAY_BE_INFINITE
                require(usable, f"--{name}={value} is not a number to work with")
            if name in NOT_NEGATIVE or name == "lr" or name.endswith("_lr"):
                require(value >= 0, f"--{name}={value} must not be negative")
            if name in FRACTIONS or name.endswith("dropout") and name not in MAY_BE_ONE:
                require(0 <= value < 1, f"--{name}={value} must be from 0 to below 1")
            if name in PROBABILITIES:       # 90, for 90 %, would cut off nothing
                require(value <= 1, f"--{name}={value} must be at most 1: it is a probability")
            if isinstance(value, (int, float)) and value != math.inf:
                check_size(name, value)
        require(self.out_dir.strip(), "--out_dir is empty; name a folder, like runs/mine")
        for name in ("data", "data_a", "data_b"):
            require(getattr(self, name, "x"), f"--{name} is empty; leave it out, or name a file")


def check_size(name: str, value):
    """Raise UserError if the number in a field is larger than its limit, or too close to 0."""
    limit = LIMITS.get(name, LIMIT)
    if isinstance(value, float):
        limit = LIMIT_OF_FRACTIONS
        require(value == 0 or abs(value) >= SMALLEST,
                f"--{name}={value} is too close to 0; the limit is {SMALLEST}")
    elif name.endswith(("steps", "_every")) or name in ("warmup", "stop_after", "text_wait"):
        limit = LIMIT_OF_STEPS
    require(abs(value) <= limit, f"--{name}={value} is too much; the limit is {limit:,}")


def choices_of(field) -> tuple:
    """The values that a field declared as Literal["a", "b"] may have; () for all other fields."""
    if typing.get_origin(field.type) is Literal:
        return typing.get_args(field.type)
    return ()


def field_notes(Config) -> dict:
    """{field: (group, help)}, read from the comments in the source of Config and of the classes it
    is derived from.

    A field's comment stands behind it, or on the lines above it. A single word alone on its line
    ("# model") is the heading of the group of fields below it. Without source the dict is empty.
    """
    notes = {}
    for cls in reversed(Config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):        # pasted into a notebook, or made by exec
            continue
        group = "options"
        above = []                          # comment lines seen since the last field
        for line in source.splitlines():
            comment = re.match(r"    # (.+)", line)
            field = re.match(r"    (\w+)\s*:[^#]*(?:#\s*(.*))?$", line)
            if comment and re.fullmatch(r"\w+", comment[1]):
                group = comment[1]
                above = []
            elif comment:
                above.append(comment[1])
            elif field:
                notes[field[1]] = (group, field[2] or " ".join(above))
                above = []
            else:
                above = []
    return notes


class Parser(argparse.ArgumentParser):
    """Raises UserError for words that it does not understand."""

    def error(self, message):
        raise UserError(f"{message}; see --help")


def boolean(text: str) -> bool:
    """true, false, 1 or 0 as a bool."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError        # argparse says which flag it was
    return text.lower() in ("true", "1")


def add_flag(group, field, help_text: str, presets: dict):
    """Add the flag of one dataclass field to an argparse group. Its type is the type of the field's
    default."""
    kind = type(field.default)
    choices = choices_of(field)
    if field.name == "preset":
        choices = ("", *presets)
        help_text = f"a set of other defaults: {', '.join(presets)}"
    options = {"type": kind, "metavar": kind.__name__.upper()}
    if choices:
        options["choices"] = list(choices)
        if field.name != "preset":
            help_text = f"{' | '.join(map(str, choices))}: {help_text}"
    if kind is bool:                        # --resume alone means --resume=true
        options.update(type=boolean, nargs="?", const=True)
    help_text = f"{help_text} (default: {field.default!r})"
    group.add_argument(f"--{field.name}", help=help_text.replace("%", "%%"), **options)


def parse(Config, presets: dict, commands: list, argv: list, doc: str = ""):
    """(command, Config) of the words `[command] --key=value …`. Flags win over the preset, and the
    preset wins over the defaults. The attribute `given` of the config is the set of flags that were
    typed. Raises UserError for anything unknown."""
    parser = Parser(allow_abbrev=False, description=doc, argument_default=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default=commands[0], help=" | ".join(commands))
    notes = field_notes(Config)
    groups = {}
    for field in dataclasses.fields(Config):
        title, help_text = notes.get(field.name, ("options", ""))
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_flag(groups[title], field, help_text, presets)

    typed, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        names = [field.name for field in dataclasses.fields(Config)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean --{near[0]}?)" if near else ""
        raise UserError(f"unknown: {unknown[0]}{hint}; see --help")
    typed = vars(typed)
    command = typed.pop("command")
    require(command in commands, f"unknown command {command!r}: choose from {', '.join(commands)}")
    preset = presets.get(typed.get("preset"), {})
    cfg = Config(**{**preset, **typed})
    cfg.given = set(typed)
    return command, cfg


def explain(error, out_of_memory: str) -> str:
    """One line for an error of torch's that users can do something about; '' for other errors."""
    text = str(error)
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        first = next(filter(None, map(str.strip, text.splitlines())), "")
        return ("--compile: torch could not compile the model on this machine; does it have a C++ "
                f"compiler? Leave --compile out ({first[:200]})")
    no_memory = "(out of|allocate|enough) memory|size calculation overflowed"
    if isinstance(error, MemoryError) or re.search(no_memory, text):
        return f"out of memory: {out_of_memory}"
    if "loading state_dict" in text:
        first = text.splitlines()[1].strip().rstrip(".")
        first, *others = first.split('", "')        # a key that is missing, and all others
        if others:
            first += f'" and {len(others)} more'
        return (f"the weights were made with another network than this file's ({first}); undo the "
                "change of the network, or train anew")
    return ""


def command_line(Config, presets: dict, commands: dict, argv=None, doc: str = "",
                 out_of_memory: str = "lower --batch_size", parallel: bool = False):
    """Parse the command line, call commands[name](cfg), return its result.

    Errors become one line, as `errors_in_a_line` says. out_of_memory: what the user should do when
    memory runs out. parallel: training works in several processes, started by torchrun.
    """
    argv = sys.argv[1:] if argv is None else argv
    with guarded_output():
        return call(Config, presets, commands, argv, doc, out_of_memory, parallel)


def number_of_processes() -> int:
    """What torchrun says in the variables WORLD_SIZE and RANK; 1 without it."""
    world = os.environ.get("WORLD_SIZE") or "1"
    rank = os.environ.get("RANK") or "0"
    require(world.isdecimal() and rank.isdecimal() and int(rank) < int(world),
            f"the environment has WORLD_SIZE={world} and RANK={rank}, which torchrun alone sets")
    require(world == "1" or "RANK" in os.environ,
            f"the environment has WORLD_SIZE={world}, but no RANK: use torchrun, or unset it")
    return int(world)


# OSErrors that are about the name of a file, and not about writing to it
WRONG_PATH = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def call(Config, presets: dict, commands: dict, argv, doc: str, out_of_memory: str, parallel: bool):
    """What `command_line` does, when nothing that is printed can stop it."""
    with errors_in_a_line(out_of_memory):
        command, cfg = parse(Config, presets, list(commands), argv, doc)
        processes = number_of_processes()
        require(processes == 1 or parallel and command == "train",
                f"torchrun started {processes} processes, but this works in a single one: start it "
                "with python")
        if command == "train" and not cfg.resume:
            from mini.utils.folder import check_folder      # here, since it imports this file
            check_folder(cfg.out_dir)       # before anything takes time
        result = commands[command](cfg)
        if isinstance(result, dict) and result.get("interrupted"):
            sys.exit(130)
        return result


@contextlib.contextmanager
def errors_in_a_line(out_of_memory: str):
    """Errors that can be foreseen become one line on stderr and exit status 2; Ctrl-C becomes exit
    status 130. out_of_memory: what the user should do when memory runs out."""
    try:
        yield
        return
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or 'while writing'})"
        if not isinstance(error, WRONG_PATH):
            message += "; what was saved is intact"
    except (RuntimeError, MemoryError) as error:
        message = explain(error, out_of_memory)
        if not message:
            raise
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(2)
