"""The pages that people read: every command is understood as written, every link leads somewhere."""
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mini.utils.config import parse
from tests import numbers

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "mini/README.md", "mini/gallery/README.md", "mini/studies/README.md", "mini/data/README.md",
         "tests/README.md"]
NOT_OURS = ("pytest", "venv", "http.server", "pip")


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def commands_of(page: str) -> list:
    """The command lines in the page's code blocks, and those in its text between backticks."""
    text = text_of(page)
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", text, re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", outside)]
    return [line for line in lines if re.match(r"(pip .*&& )?(PYTHONPATH=. )?(python|torchrun) ", line)]


MORE_COMMANDS = {"chat": "chat", "ddpm": "draw_by_ddpm"}         # which some scripts have, and their functions
COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


def test_the_first_commands():
    commands = commands_of("README.md")
    assert "python train_gpt.py" in commands
    assert "pip install -r requirements.txt && python -m pytest" in commands
    assert all(len(commands_of(page)) >= (3 if page == "mini/studies/README.md" else 8) for page in PAGES)


@pytest.mark.parametrize("page, command", COMMANDS, ids=[" in ".join(c[::-1]) for c in COMMANDS])
def test_command_is_understood(page, command):
    words = shlex.split(command.split("&& ")[-1].replace("…", "x"))
    words = words[next(i for i, word in enumerate(words) if word.endswith(".py") or word == "-m"):]
    if words[0] == "-m":
        name, argv = words[1], words[2:]
    else:
        name, argv = words[0].removesuffix(".py").replace("/", "."), words[1:]
    if name in NOT_OURS:
        return
    if name.startswith(("tests.", "mini.studies.", "mini.utils.")):
        assert (ROOT / (name.replace(".", "/") + ".py")).exists()
        return
    module = importlib.import_module(name)
    if "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            module.main(argv)
        return
    commands = ["train", "sample", "evaluate"]
    commands += [extra for extra, function in MORE_COMMANDS.items() if hasattr(module, function)]
    parse(module.Config, module.PRESETS, commands, argv)


def anchors(path: Path) -> set:
    """The names by which the headings of a page can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_numbers_are_those_of_the_runs():
    """Each number in the list of tests/numbers.py stands on its page, and is the one in the kept result.json."""
    assert numbers.NUMBERS and numbers.main() == 0


def test_code_on_the_first_page_is_that_of_the_file():
    blocks = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.S)
    assert blocks and all(block in text_of("train_gpt.py") for block in blocks)
