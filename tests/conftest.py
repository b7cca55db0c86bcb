"""Which tests are quick, and what pytest adds to the report of a failed test of the paper's architecture."""
import signal

import pytest
import torch

from tests.two_processes import pytest_addoption, pytest_runtestloop        # noqa: F401  pytest finds them here

# Programs that a shell starts in the background ignore Ctrl-C, and what they start does, too. Some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tensors of the tests are small: a second thread brings nothing there, and where other programs are busy the
# threads of an operation wait for each other many times as long as it takes.
torch.set_num_threads(1)

# `python -m pytest -m quick` runs these files, chosen by what they find and the time they take, and of test_scripts.py
# what concerns these scripts. Two tests in them start processes, and take long.
QUICK_FILES = ("classifier", "config", "encoder_decoder", "gpt", "house", "image_sets", "lstm", "metrics_images", "midi",
               "primitives", "tokenizers", "tools", "translator", "tunes", "wordpiece")
QUICK_SCRIPTS = ("train_gan", "train_gpt", "mini.classifier", "mini.lstm", "mini.translator", "mini.vae")
LONG_TESTS = ("test_two_processes_take_the_steps_of_one", "test_scripts_run_by_their_path_too")

PAPER = """This test states the architecture, or the numbers, of the paper. If you changed them on purpose, it has to
fail: change it with them, or leave such tests out by `python -m pytest -m "not paper"`. All others must go on passing."""


@pytest.fixture
def float64(monkeypatch):
    """Everything in float64: Adam makes much of little."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_collection_modifyitems(items):
    for item in items:
        file = item.path.stem.removeprefix("test_")
        is_quick = file in QUICK_FILES
        if file == "scripts":
            is_quick = any(f"[{script}" in item.name for script in QUICK_SCRIPTS)
        if is_quick and not item.name.startswith(LONG_TESTS):
            item.add_marker(pytest.mark.quick)


@pytest.fixture
def double(monkeypatch):
    """Everything in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and item.get_closest_marker("paper"):
        report.sections.append(("expected, if you changed the model", PAPER))
    return report
