"""The rules of the house that a test can see: what may import what, what stands where, how wide a line is.

They hold a fork together, too. Whoever breaks one on purpose finds in the message which list here to change.
"""
import ast
import re
import sys

import pytest

from tests.helpers import ROOT, processes

MODELS = [*ROOT.glob("train_*.py"), *(path for path in (ROOT / "mini").glob("*.py")
                                      if path.stem not in ("__init__", "mini", "primitives"))]
HELPERS = [*(ROOT / "mini/utils").rglob("*.py"), *(ROOT / "mini/data").rglob("*.py")]
SOURCES = [*ROOT.glob("*.py"), *(ROOT / "mini").rglob("*.py")]

# Files whose subject is building on another model, and that model.
BUILDS_ON = {"mini.finetune": ["train_gpt"], "mini.assistant": ["train_gpt", "mini.llama"],
             "mini.utils.judge": ["mini.classifier"], "mini.utils.compiled_llama": ["mini.llama"]}

# What stands at the top, and in mini/: files of Python or of settings, and folders that hold some.
TOP = {"train_gan.py", "train_gpt.py", "train_diffusion.py", "mini", "tests", "pyproject.toml"}
FOLDERS_OF_MINI = {"utils", "data", "studies", "gallery"}

WIDEST = 100                    # characters in a line


def name_of(path) -> str:
    """mini/utils/run.py -> mini.utils.run"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree) -> set:
    """The modules that the code imports, as `import a.b` and `from a.b import c` name them, and a.b.c besides."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def of_project(names) -> set:
    """Those of the names that are files of this project."""
    return names & {name_of(path) for path in SOURCES} - {"mini", "mini.utils", "mini.data", "mini.studies"}


def parse(path):
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_a_model_stands_alone(path):
    """All of a model is in one file: it is read, and taken away, without any other."""
    tree, allowed = parse(path), BUILDS_ON.get(name_of(path), [])
    for name in imported(tree):
        assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "torch", "mini", *allowed}, (
            f"{path.name} imports {name}: models use the standard library, numpy and torch; a file that builds on "
            f"another model is named in BUILDS_ON in tests/test_house.py")
    inside = [node for node in tree.body if getattr(node, "name", "") == "evaluate"]
    in_evaluate = set().union(*(imported(node) for node in inside))
    for name in of_project(imported(tree)) - set(allowed):
        in_study = name.startswith("mini.studies.") and name in in_evaluate
        assert name.startswith(("mini.utils.", "mini.data.")) or in_study, (
            f"{path.name} imports {name}: copy what it needs, or move what no paper is about to mini/utils. A study "
            "is imported inside evaluate(), and other functions that need it; what builds on another model is named in BUILDS_ON in "
            "tests/test_house.py")


@pytest.mark.parametrize("path", HELPERS, ids=name_of)
def test_utils_and_data_know_no_model(path):
    """Otherwise a change of one model is felt in all."""
    for name in of_project(imported(parse(path))) - set(BUILDS_ON.get(name_of(path), [])):
        assert name.startswith(("mini.utils.", "mini.data.")), (
            f"{name_of(path)} imports {name}: what belongs to one model stands in its file; see BUILDS_ON in "
            "tests/test_house.py")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_importing_a_file_runs_nothing(path):
    """Imports, definitions and constants; and the guard at the end of a script, which calls main() and no more."""
    if name_of(path) == "mini.mini":                # it makes `python mini/cgan.py` work: that is all it does
        return
    tree = parse(path)
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in tree.body[1:]:
        guard = isinstance(node, ast.If) and ast.unparse(node) == "if __name__ == '__main__':\n    main()"
        assert isinstance(node, allowed) or guard, (
            f"{path.name}:{node.lineno} runs whenever the file is imported: move it into a function")


def test_no_circle_of_imports():
    """A module that is imported while it imports is half empty; and what depends on itself has no first thing to read.
    An import inside a function is none: it happens later."""
    needs = {}
    for path in SOURCES:
        tree = parse(path)
        outside = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        needs[name_of(path)] = of_project(imported(outside)) - {name_of(path)}
    while needs:
        ready = {name for name, others in needs.items() if not others & needs.keys()}
        assert ready, f"a circle of imports among {', '.join(sorted(needs))}: move what they share to a file below"
        for name in ready:
            del needs[name]


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_layers_are_written_out(path):
    """What a file is there to show must not be a call of torch's."""
    ready_made = re.compile(r"(MultiheadAttention|Transformer\w*|LSTM|GRU|RNN|DataLoader)$")
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn":
            assert not ready_made.match(node.attr), (
                f"{path.name}:{node.lineno} uses nn.{node.attr}: here it is written out by hand. In a fork that wants "
                "torch's own, take it from the list in this test")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_lines_are_not_too_wide(path):
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        assert len(line) <= WIDEST, f"{path.name}:{number} has {len(line)} characters: break it; {WIDEST} fit"


def test_everything_has_its_place():
    """So that it can be guessed."""
    def code(path):
        return path.suffix in (".py", ".toml") or path.is_dir() and any(path.glob("*.py"))
    found = {path.name for path in ROOT.iterdir() if code(path) and not path.name.startswith(".")}
    assert found <= TOP, f"{found - TOP}: models go to mini/, tests to tests/; or add it to TOP in tests/test_house.py"
    folders = {path.name for path in (ROOT / "mini").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders <= FOLDERS_OF_MINI, (
        f"{folders - FOLDERS_OF_MINI}: what no paper is about goes to mini/utils or mini/data; or add it to "
        "FOLDERS_OF_MINI in tests/test_house.py")


def test_scripts_run_by_their_path_too(tmp_path):
    """`python mini/cgan.py` finds the package, from any folder."""
    with processes(tmp_path) as start:
        helps = [start(ROOT / "mini" / script, "--help", PYTHONPATH="") for script in ("classifier.py", "cgan.py")]
        for process in helps:
            out = process.communicate(timeout=60)[0]
            assert process.returncode == 0 and "--out_dir" in out, out
