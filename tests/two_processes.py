"""Many tests are run by two processes at once, which takes about half as long on two cores: pytest, and a helper, a
second pytest that it starts with the same arguments.

The tests are parted into units, mostly a file each. Each process takes the next unit that the other has not taken, by
making a file with its number, which only one of them can. The helper writes what comes of its tests to a file; pytest
reads it there, and reports it as if the tests were its own.

`--processes=1` runs all tests in one. (Packages such as pytest-xdist do this for any number of processes; but the
tests should need no package more than pytest.)
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

FEWEST = 400                    # tests; fewer are not worth a second start
NAME = "TESTS_SHARED_FOLDER"    # the environment variable that tells the helper where the two meet
SHARED = os.environ.pop(NAME, "")   # that folder, in the helper; programs that its tests start are none


def pytest_addoption(parser):
    parser.addoption("--processes", type=int, choices=(1, 2), default=2,
                     help="in how many processes to run the tests, if they are many")


def unit_of(item) -> str:
    """Which tests stay together: those of a file, since they share what its fixtures make. test_scripts.py takes a
    large part of the time, so of this file it is those of a script, whose name begins a test's parameters."""
    file, _, test = item.nodeid.partition("::")
    if file.endswith("test_scripts.py") and "[" in test:
        return f"{file} {test.partition('[')[2].partition('-')[0].rstrip(']')}"
    return file


def units_of(items) -> list:
    """Lists of tests; in which order they came, they stay."""
    units = {}
    for item in items:
        units.setdefault(unit_of(item), []).append(item)
    return list(units.values())


def take(folder: Path, number: int) -> bool:
    """Whether this process is the first that takes the unit."""
    try:
        (folder / f"unit_{number}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def run_items(session, items, after_each=lambda: None):
    """Run tests as pytest itself does it."""
    for item, following in zip(items, [*items[1:], None]):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        after_each()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)


# ---- in the helper

class Writer:
    """A plugin that writes each report as a line of a file."""

    def __init__(self, config, path: Path):
        self.config = config
        self.file = path.open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.file.write(json.dumps(data, default=str) + "\n")
        self.file.flush()


def help_with(session, folder: Path):
    """What the helper does: run what nobody has taken."""
    session.config.pluginmanager.register(Writer(session.config, folder / "reports"))
    for number, items in enumerate(units_of(session.items)):
        if take(folder, number):
            run_items(session, items)


# ---- in pytest

class Helper:
    """The second process, and its reports as they come."""

    def __init__(self, session, folder: Path):
        self.session = session
        self.output = (folder / "output").open("w+", encoding="utf-8")
        arguments = [str(argument) for argument in session.config.invocation_params.args]
        command = [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", "--maxfail=0"]
        self.process = subprocess.Popen(command, cwd=session.config.invocation_params.dir, stdout=self.output,
                                        stderr=subprocess.STDOUT, env={**os.environ, NAME: str(folder)})
        self.path = folder / "reports"
        self.file = None
        self.line = ""
        self.finished = set()           # the tests that came to their end

    def pass_on(self):
        """Report what has been written since the last call."""
        hook = self.session.config.hook
        if self.file is None:
            if not self.path.exists():
                return
            self.file = self.path.open(encoding="utf-8")
        for part in self.file:
            self.line += part
            if not self.line.endswith("\n"):            # the rest of it is not written yet
                return
            report = hook.pytest_report_from_serializable(config=self.session.config, data=json.loads(self.line))
            self.line = ""
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                self.finished.add(report.nodeid)

    def wait(self):
        while self.process.poll() is None:
            self.pass_on()
            if self.session.shouldfail:
                raise self.session.Failed(self.session.shouldfail)
            time.sleep(0.1)
        self.pass_on()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.output.close()
        if self.file is not None:
            self.file.close()


def share(session, folder: Path):
    """Run what the helper has not taken; then what it took but did not finish, should it have died."""
    helper = Helper(session, folder)
    try:
        mine = set()
        for number, items in enumerate(units_of(session.items)):
            if take(folder, number):
                run_items(session, items, helper.pass_on)
                mine |= {item.nodeid for item in items}
        helper.wait()
        left = [item for item in session.items if item.nodeid not in mine | helper.finished]
        run_items(session, left)
    finally:
        helper.end()


def may_share(session) -> bool:
    option = session.config.option
    one_at_a_time = option.usepdb or option.capture == "no" or getattr(option, "numprocesses", None)
    return (option.processes == 2 and len(session.items) >= FEWEST and not one_at_a_time
            and not option.collectonly and not session.testsfailed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """None leaves it to pytest."""
    if SHARED:
        help_with(session, Path(SHARED))
        return True
    if not may_share(session):
        return None
    with tempfile.TemporaryDirectory() as folder:
        share(session, Path(folder))
    return True
