"""Test the shared memory in which processes say what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from vsgi_fcgi.server.services import Counts
from vsgi_fcgi.status.counting import BUCKETS, quantile
from vsgi_fcgi.status.scoreboard import (
    COUNTERS,
    GAUGES,
    SERVING,
    Histogram,
    Period,
    Process,
    Running,
    Scoreboard,
)


def example(number: int) -> Process:
    return Process(
        pid=number,
        state=SERVING,
        started=1.5,
        updated=2.5,
        cpu=0.25,
        counters=[number] * len(COUNTERS),
        gauges=[number] * len(GAUGES),
        queue_wait=Histogram([number] * BUCKETS, 1.0),
        run_time=Histogram([number] * BUCKETS, 2.0),
        periods=[Period(9, number, 2, 3, 4, [number] * BUCKETS)],
        requests=[Running(1, 2, 3, 0, "GET", f"/ä{number}", "::1", "stack")],
    )


def new_board(processes: int = 1) -> Scoreboard:
    return Scoreboard(Scoreboard.create(processes, requests=2))


def test_a_reader_gets_what_a_process_wrote() -> None:
    board = new_board(2)
    assert board.read() == []
    board.write(1, example(7))
    assert board.read() == [(1, example(7))]


def test_the_supervisor_keeps_the_figures_of_a_process_that_has_ended() -> None:
    board = new_board(3)
    board.write(1, example(7))
    board.write(2, example(8))
    board.take_over(7)
    board.take_over(8)
    board.count("reloads")
    ((index, past),) = board.read()
    assert (index, past.counters[0], past.run_time.counts[0]) == (0, 15, 15)
    assert past.counters[COUNTERS.index("reloads")] == 16
    assert [(each.begin, each.requests) for each in past.periods] == [(9, 15)]


def test_the_block_of_a_process_that_has_ended_is_free_when_its_figures_are_kept() -> None:
    board = new_board(2)
    board.write(1, example(7))
    assert board.claim() is None
    board.take_over(7)
    assert board.claim() == 1


@pytest.mark.process
def test_a_block_belongs_to_one_process_until_it_ends() -> None:
    fd = Scoreboard.create(processes=3, requests=2)
    claim = (
        "from vsgi_fcgi.status.scoreboard import Scoreboard; import sys\n"
        f"board = Scoreboard({fd}); print(board.claim(), flush=True); sys.stdin.read()"
    )

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", claim],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    processes = [start() for _ in range(3)]
    assert [number for _, number in processes] == ["1", "2", "None"]
    processes[0][0].kill()
    processes[0][0].wait(20)
    processes.append(start())
    assert processes[-1][1] == "1"
    for process, _ in processes:
        process.kill()
        process.communicate(timeout=20)
    os.close(fd)


def test_long_texts_are_cut_and_further_requests_omitted() -> None:
    board = new_board()
    process = example(1)
    process.requests = [Running(1, 2, 3, 0, "GET", "/" + "é" * 500, "::1", "x" * 5000 + "end")] * 3
    board.write(0, process)
    ((_, found),) = board.read()
    assert len(found.requests) == 2
    assert found.requests[0].target.endswith("...")
    assert found.requests[0].stack.endswith("end")


def test_a_reader_never_gets_half_of_two_states() -> None:
    board = new_board()
    board.write(0, example(0))
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number = (number + 1) % 100
            board.write(0, example(number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            ((_, found),) = board.read()
            assert found == example(found.pid)
    finally:
        done.set()
        thread.join()


@pytest.mark.process
def test_the_block_of_a_killed_process_can_be_read_and_used_again() -> None:
    fd = Scoreboard.create(processes=2, requests=2)
    board = Scoreboard(fd)
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from status.test_scoreboard import example, Scoreboard\n"
        f"board = Scoreboard({fd}); board.write(1, example(2)); board.write(1, example(3))\n"
        # As if it was killed while it wrote.
        "at = board._half_at(1, 1); board._memory[at : at + 100] = bytes(100)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", script], pass_fds=[fd], check=False, timeout=30)
    assert run.returncode == -signal.SIGKILL
    os.close(fd)
    assert board.read() == [(1, example(3))]
    board.write(1, example(4))
    assert board.read() == [(1, example(4))]


def test_quantiles() -> None:
    assert quantile(Histogram().counts, 0.5) is None
    counts = Counts()
    for milliseconds in range(1, 1001):
        counts.add(2, 0, milliseconds * 1_000_000, 10)
    assert (counts.queue_wait[0], counts.responses[2], counts.sent_bytes) == (1000, 1000, 10_000)
    median, last = quantile(counts.run_time, 0.5), quantile(counts.run_time, 0.99)
    assert median is not None
    assert last is not None
    # Each bucket is twice as wide as the one before, and a quantile is interpolated in it.
    assert 0.4 < median < 0.6
    assert 0.9 < last < 1.1
    counts.add(2, 1 << 62, 0, 0)
    assert counts.queue_wait[-1] == 1
