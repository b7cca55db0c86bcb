"""Many tests are run by two processes at once, since each uses one core: pytest, and a helper, a second pytest that it
starts with the same arguments.

The tests are parted into units, mostly a file each. Each process takes the next unit that the other has not taken, by
making a file with its name, which only one of them can. The helper writes what comes of its tests to a file; pytest
reads it there, and reports it as if the tests were its own. Should the helper die, pytest says so, and runs what is
left.

`--processes=1` runs all tests in one. (Packages such as pytest-xdist do this for any number of processes; but the
tests should need no package more than pytest.)
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

FEWEST = 400                    # tests; fewer are not worth a second start
NAME = "TESTS_SHARED_FOLDER"    # the environment variable that tells the helper where the two meet
# That folder, in the helper. It is taken out of the environment: programs that the tests start are no helpers.
SHARED = os.environ.pop(NAME, "")
# With these options of pytest, and of pytest-xdist, there is no helper.
ALONE = ("usepdb", "trace", "basetemp", "lf", "failedfirst", "newfirst", "cacheclear", "stepwise", "collectonly",
         "numprocesses")


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


def units_of(items) -> dict:
    """{name: tests}. Units come in the order of their first tests, and the tests of a unit in theirs."""
    units = {}
    for item in items:
        units.setdefault(unit_of(item), []).append(item)
    return units


def take(folder: Path, unit: str) -> bool:
    """Whether this process is the first that takes the unit."""
    try:
        (folder / re.sub(r"\W", "_", unit)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def run_items(session, items, before_each=lambda: None):
    """Run tests as pytest itself does it. At the end of the list all fixtures are torn down."""
    for item, following in zip(items, [*items[1:], None]):
        before_each()
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
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
    parent = os.getppid()

    def end_with_parent():
        if os.getppid() != parent:
            raise session.Interrupted("pytest has ended")

    for unit, items in units_of(session.items).items():
        if take(folder, unit):
            run_items(session, items, end_with_parent)


# ---- in pytest

class Helper:
    """The second process, and its reports as they come."""

    def __init__(self, session, folder: Path):
        self.session = session
        self.expected = {item.nodeid for item in session.items}
        self.output = folder / "output"
        self.reports = folder / "reports"
        self.file = None
        self.line = ""
        self.of_test = []               # reports of the test that it runs now
        self.finished = set()           # tests that came to their end
        arguments = [str(argument) for argument in session.config.invocation_params.args]
        command = [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", "--maxfail=0"]
        # in a session of its own, so that it can be ended with all programs that its tests have started
        with self.output.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, cwd=session.config.invocation_params.dir, stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                            env={**os.environ, NAME: str(folder)})

    def pass_on(self):
        """Report what has been written since the last call: all of a test, when it has come to its end."""
        hook = self.session.config.hook
        if self.file is None:
            if not self.reports.exists():
                return
            self.file = self.reports.open(encoding="utf-8")
        for part in self.file:
            self.line += part
            if not self.line.endswith("\n"):            # the rest of it is not written yet
                return
            report = hook.pytest_report_from_serializable(config=self.session.config, data=json.loads(self.line))
            self.line = ""
            if isinstance(report.longrepr, list):       # JSON knows no tuples; of a skipped test it is one
                report.longrepr = tuple(report.longrepr)
            self.of_test.append(report)
            if report.when == "teardown" and report.nodeid in self.expected:
                for of_test in self.of_test:
                    hook.pytest_runtest_logreport(report=of_test)
                self.finished.add(report.nodeid)
            if report.when == "teardown":
                self.of_test = []

    def wait(self):
        """Until it has ended. 0, 1 and 5 mean: all passed, some failed, there was nothing left to run."""
        while self.process.poll() is None:
            self.pass_on()
            if self.session.shouldfail:
                raise self.session.Failed(self.session.shouldfail)
            time.sleep(0.1)
        self.pass_on()
        if self.process.returncode not in (0, 1, 5):
            end = self.output.read_text("utf-8", errors="replace")[-2000:]
            printed = self.session.config.pluginmanager.get_plugin("terminalreporter")
            printed.write_line(f"\nThe second process ended with status {self.process.returncode}; its unfinished "
                               f"tests are run here. It printed last:\n{end}")

    def end(self):
        if self.file is not None:
            self.file.close()
        if self.process.poll() is not None:
            return
        if hasattr(os, "killpg"):
            os.killpg(self.process.pid, signal.SIGKILL)         # runs catch gentler signals
        else:
            self.process.kill()                                 # Windows
        self.process.wait()


def share(session, folder: Path):
    """Run what the helper has not taken; then what it took but did not finish, should it have died."""
    helper = Helper(session, folder)
    try:
        mine = set()
        for unit, items in units_of(session.items).items():
            if take(folder, unit):
                run_items(session, items, helper.pass_on)
                mine |= {item.nodeid for item in items}
        helper.wait()
        run_items(session, [item for item in session.items if item.nodeid not in mine | helper.finished])
    finally:
        helper.end()


def may_share(session) -> bool:
    option = session.config.option
    if any(getattr(option, name, None) for name in ALONE) or option.capture == "no":
        return False
    if hasattr(session.config, "workerinput") or "--" in session.config.invocation_params.args:
        return False
    return option.processes == 2 and len(session.items) >= FEWEST and not session.testsfailed


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """The hook that runs all tests. None means: let pytest do it as usual."""
    if SHARED:
        help_with(session, Path(SHARED))
        return True
    if not may_share(session):
        return None
    with tempfile.TemporaryDirectory() as folder:
        share(session, Path(folder))
    return True
