"""The second process that takes half of the tests: none is lost, none comes twice, and what fails is said."""
import os
import re
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

CONFTEST = """
from tests import two_processes
from tests.two_processes import pytest_addoption, pytest_runtestloop
two_processes.FEWEST = 2
"""
# Each test notes that it ran, and in which process; then it waits until as many processes as expected have begun.
TESTS = """
import os, time
import pytest

@pytest.mark.parametrize("n", range(3))
def test_passes(n):
    with open("ran", "a") as file:
        file.write(f"{__name__} {n} {os.getpid()}\\n")
    for _ in range(600):
        if len({line.split()[-1] for line in open("ran").read().splitlines()}) >= int(os.environ["EXPECTED"]):
            break
        time.sleep(0.1)
"""


@pytest.fixture
def run(tmp_path):
    """run(files, *arguments): (exit status, what is printed, the lines of `ran`) of pytest on files {name: source}."""
    def go(files, *arguments, expected=2):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        for name, source in files.items():
            (tmp_path / f"test_{name}.py").write_text(source)
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "EXPECTED": str(expected)},
                              capture_output=True, text=True, timeout=300)
        ran = tmp_path / "ran"
        return done.returncode, done.stdout, ran.read_text().splitlines() if ran.exists() else []
    return go


def pids(ran) -> set:
    return {line.split()[-1] for line in ran}


FILES = {f"part_{i}": TESTS for i in range(12)}


def test_each_test_runs_once_in_one_of_two_processes(run):
    status, printed, ran = run(FILES)
    assert status == 0 and "36 passed" in printed
    assert len(ran) == 36 and len({line.rsplit(" ", 1)[0] for line in ran}) == 36
    assert len(pids(ran)) == 2


def test_the_tests_of_a_file_stay_together(run):
    ran = run(FILES)[2]
    for name in FILES:
        assert len(pids(line for line in ran if line.startswith(f"test_{name} "))) == 1


def test_with_one_process_there_is_no_second(run):
    status, printed, ran = run(FILES, "--processes=1", expected=1)
    assert status == 0 and "36 passed" in printed and len(pids(ran)) == 1


def test_what_fails_in_either_is_reported(run):
    failing = TESTS + "\n\ndef test_fails():\n    assert 1 + 1 == 3, __name__\n"
    status, printed, ran = run({**FILES, "bad_1": failing, "bad_2": failing, "bad_3": failing, "bad_4": failing})
    assert status == 1 and "4 failed, 48 passed" in printed
    assert len(pids(ran)) == 2
    for i in range(1, 5):
        assert f"AssertionError: test_bad_{i}" in printed and f"FAILED test_bad_{i}.py::test_fails" in printed


def test_skipped_and_expected_failures_are_counted(run):
    other = ("\n\ndef test_skips():\n    pytest.skip('no card')\n\n"
             "@pytest.mark.xfail\ndef test_known():\n    assert False\n")
    status, printed, _ = run({name: source + other for name, source in FILES.items()}, "-rs")
    assert status == 0 and re.search("36 passed, 12 skipped, 12 xfailed", printed)
    assert len(re.findall(r"test_part_\d+\.py:\d+: no card", printed)) == 12


def test_the_first_failure_can_end_both(run):
    status, printed, ran = run({"a_bad": "def test_fails():\n    assert False\n", **FILES}, "-x", expected=1)
    assert status == 1 and "1 failed" in printed and "stopping after 1 failures" in printed
    assert len(ran) < 36


def test_if_the_helper_dies_pytest_takes_its_tests(run):
    """It dies in the middle of a file: what it had not reported is run again."""
    deadly = TESTS + ("\n\ndef test_dies():\n    from tests import two_processes\n"
                      "    if two_processes.SHARED:\n        os._exit(3)\n")
    files = {f"deadly_{i}": deadly for i in range(6)}
    status, printed, ran = run(files)
    assert status == 0 and "24 passed" in printed and len(pids(ran)) == 2
    assert "The second process ended with status 3" in printed


def test_if_pytest_is_killed_the_helper_ends_too(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    slow = TESTS.replace("time.sleep(0.1)", "time.sleep(0.1)\n    time.sleep(0.5)")
    for i in range(40):
        (tmp_path / f"test_slow_{i}.py").write_text(slow)
    process = subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "EXPECTED": "2"}, stdout=subprocess.DEVNULL)
    ran = tmp_path / "ran"
    while not ran.exists() or len(pids(ran.read_text().splitlines())) < 2:
        time.sleep(0.1)
    process.kill()
    process.wait()
    time.sleep(5)
    before = ran.read_text()
    time.sleep(2)
    assert ran.read_text() == before
