"""pytest, and once more for a few tests that failed: ``python .ci/once_more.py`` takes the arguments of ``pytest``.

A test that fails now and then is to be mended, but must not keep others from landing. If at most `MOST` tests failed,
and nothing else did, they run again in another process, one after another. The exit code is 0 if each of them passes
then, and otherwise that of the first time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

MOST = 5


class Failures:
    """A plugin that notes what fails.

    Attributes:
        tests: their names.
        others: number of files that cannot be collected, and of workers that crashed outside of a test.
    """

    def __init__(self) -> None:
        self.tests: set[str] = set()
        self.others = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.others += report.failed

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object) -> None:
        self.others += error is not None

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self) -> None:
        self.others -= 1  # the worker crashed in a test, which counts as failed


def all_pass(tests: list[str]) -> bool:
    """Whether each of the tests passes in a process of their own; one that is skipped does not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", f"--junitxml={file}", *tests]
        if subprocess.call(command) != 0 or not file.exists():
            return False
        (suite,) = ElementTree.parse(file).getroot().iter("testsuite")
    counts = [int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")]
    return counts == [len(tests), 0, 0, 0]


def main(arguments: list[str]) -> int:
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it
    failures = Failures()
    status = int(pytest.main(arguments, plugins=[failures]))
    tests = sorted(failures.tests)
    if status != pytest.ExitCode.TESTS_FAILED or failures.others or not 0 < len(tests) <= MOST:
        return status
    print(f"\nonce more, alone: {', '.join(tests)}", flush=True)
    if not all_pass(tests):
        print(f"failed twice, or did not run again, one at least of: {', '.join(tests)}")
        return status
    print(f"failed once and passed alone: {', '.join(tests)}; mend them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
