"""The README's commands, as written there: every flag exists, every file it names is there."""
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from mini.utils.config import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [line.split("#")[0].strip() for block in re.findall(r"```(?:\w*)\n(.*?)```", README, re.S)
            for line in block.splitlines() if re.search(r"\b(python|torchrun)\b", line)]


def test_there_are_commands():
    assert len(COMMANDS) >= 8
    assert "pip install -r requirements.txt && python train_gpt.py" in COMMANDS
    assert "pip install -r requirements.txt && python -m pytest" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    words = shlex.split(command.split("&& ")[-1])
    words = words[next(i for i, w in enumerate(words) if w.endswith(".py") or w == "-m"):]
    if words[0] == "-m":
        name, argv = words[1], words[2:]
    else:
        name, argv = words[0].removesuffix(".py").replace("/", "."), words[1:]
    if name in ("pytest", "http.server"):
        return
    if name.startswith(("tests.", "mini.studies.")):
        assert (ROOT / (name.replace(".", "/") + ".py")).exists()
        return
    module = importlib.import_module(name)
    if "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            module.main(argv)
        return
    parse(module.Config, module.PRESETS, ["train", "sample", "evaluate"], argv)


def test_files_are_there():
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    assert sys.version_info >= (3, 10)
