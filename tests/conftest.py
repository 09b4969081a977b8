from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.accounts import PublicPython, need_root
from support.accounts import public_python as make_public_python
from support.processes import ProcessGroup

# Before anything of vsgi_fcgi is imported: who calls what from which context is checked in all
# tests, and in the processes that they start.
os.environ["VSGI_FCGI_CHECK_CONTRACT"] = "1"

# nohup ignores SIGHUP, and a shell ignores SIGINT and SIGQUIT in background jobs. Programs that the
# tests start would inherit this. They do not inherit a handler, and this process still ignores it.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


# Both are timings, which depend on the machine. The first random text of a process takes seconds,
# because Hypothesis reads the source of all local modules for it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


# There are half a million objects when all tests are collected. The garbage collector would look at
# them again and again, also during the tests, but they stay until the end.
gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run more tests than cores: they also wait, for timeouts and for each other's processes."""
    return len(os.sched_getaffinity(0)) * 3 // 2


_marks_of_test: set[str] | None = None


def _refuse_unmarked(event: str, _: object) -> None:
    """Fail a test that starts a process without a mark, so that the unit tests stay fast."""
    if event == "subprocess.Popen" and _marks_of_test is not None:
        assert _marks_of_test & {"process", "live"}, "a test that starts a process has a mark"


sys.addaudithook(_refuse_unmarked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note the marks of the test that runs."""
    global _marks_of_test
    _marks_of_test = {mark.name for mark in item.iter_markers()}
    try:
        return (yield)
    finally:
        _marks_of_test = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in what a test has logged.

    The workers of a parallel run send their reports as UTF-8, and end where that is not possible.
    """
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def root() -> None:
    """Skips the test, visibly, where it cannot become another user."""
    need_root()


@pytest.fixture(scope="session")
def public_python() -> Iterator[PublicPython]:
    """A Python, with the server, that other users may run."""
    with make_public_python() as python:
        yield python


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessGroup]:
    """What a test starts for itself."""
    with ProcessGroup(tmp_path) as group:
        yield group
