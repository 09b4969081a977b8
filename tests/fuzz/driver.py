"""Run a target with many inputs: coverage-guided with atheris, or with plain random mutations.

The plain driver needs nothing but the standard library, and also drives the compiled build. Its
guide is what a target returns: an input with a new result joins the pool that is mutated.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

MAX_SIZE = 4096
"""Maximum bytes of an input."""

_MAX_POOL = 2000
"""Maximum inputs that the plain driver mutates."""

_MAX_CPU_SECONDS = 20
"""CPU seconds after which an execution counts as endless."""

_NUMBERS = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\x80\0\0\0", b"\0\0\0\x80")


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        name: the name on the command line.
        run: processes an input. It raises an exception if an invariant is broken, and returns a
            hashable value that tells different paths through the code apart.
        seeds: valid inputs.
        tokens: pieces of inputs.
        regressions: inputs that broke an invariant once, by a name that says what they are.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()
    regressions: dict[str, bytes] = field(default_factory=dict)


class BrokenInvariant(Exception):
    """A target failed; the cause is the exception that it raised.

    Attributes:
        data: the input.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(f"input: {data!r}")
        self.data = data


@dataclass
class Figures:
    """What a run did.

    Attributes:
        executions: how many inputs were processed.
        slowest: seconds of the slowest of them.
        began: when the run began (`time.monotonic`).
        cpu_began: the same in CPU time (`time.process_time`).
    """

    executions: int = 0
    slowest: float = 0.0
    began: float = field(default_factory=time.monotonic)
    cpu_began: float = field(default_factory=time.process_time)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        cpu = max(time.process_time() - self.cpu_began, 1e-3)
        return (
            f"{self.executions} executions in {seconds:.0f} s and {cpu:.0f} s of CPU time"
            f" ({self.executions / cpu:.0f}/s), slowest {self.slowest * 1000:.0f} ms"
        )

    def execute(self, target: Target, data: bytes) -> object:
        """Process one input.

        Raises:
            BrokenInvariant: an invariant is broken.
        """
        begin = time.perf_counter()
        try:
            return target.run(data)
        except Exception as error:
            raise BrokenInvariant(data) from error
        finally:
            self.executions += 1
            self.slowest = max(self.slowest, time.perf_counter() - begin)


def mutated(chance: random.Random, pool: list[bytes], tokens: tuple[bytes, ...]) -> bytes:
    """Return an input of the pool, changed in a few places."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        at = chance.randint(0, len(data))
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 8, 30, 200)))
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at:end] = chance.randbytes(chance.choice((1, 1, 2, 4, 8)))
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * chance.choice((1, 1, 2, 20))
        elif kind == 4:
            number = chance.choice(_NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 5:
            other = chance.choice(pool)
            start = chance.randint(0, len(other))
            data[at:] = other[start:]
        elif tokens:
            data[at : end if kind == 6 else at] = chance.choice(tokens)
    return bytes(data[:MAX_SIZE])


def run_plain(target: Target, seed: int, figures: Figures, wanted: Callable[[], bool]) -> None:
    """Run a target with its own inputs, and then with mutations of them.

    Args:
        target: the target.
        seed: the seed of the mutations; the same seed gives the same inputs.
        figures: counts the executions.
        wanted: returns whether to process one more input.

    Raises:
        BrokenInvariant: an invariant is broken.
    """
    chance = random.Random(seed)
    pool = [*target.seeds, *target.regressions.values()]
    known = {figures.execute(target, data) for data in pool}
    while wanted():
        data = mutated(chance, pool, target.tokens)
        result = figures.execute(target, data)
        if result not in known and len(pool) < _MAX_POOL:
            known.add(result)
            pool.append(data)


def run_atheris(
    target: Target,
    seed: int,
    figures: Figures,
    wanted: Callable[[], bool],
    folder: Path,
    end: Callable[[BrokenInvariant | None], NoReturn],
) -> None:
    """Run a target with atheris, which must have instrumented the imports of the package.

    Args:
        target: the target.
        seed: the seed of the mutations.
        figures: counts the executions.
        wanted: returns whether to process one more input.
        folder: a folder of the target for its corpus, which is kept for the next run.
        end: ends the process, because libFuzzer does not return.
    """
    import atheris

    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*target.seeds, *target.regressions.values()]):
        (folder / f"seed-{number}").write_bytes(data)
    options = [f"-seed={seed}", f"-max_len={MAX_SIZE}", "-verbosity=0"]
    if target.tokens:
        words = folder.parent / f"{target.name}.dict"
        # libFuzzer reads no words of more than 64 bytes.
        escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.tokens)
        words.write_text("".join(f'"{word}"\n' for word in escaped if len(word) <= 4 * 64))
        options.append(f"-dict={words}")

    def run(data: bytes) -> None:
        try:
            if wanted():
                figures.execute(target, data)
                return
        except BrokenInvariant as error:
            end(error)
        end(None)

    atheris.Setup([sys.argv[0], str(folder), *options], run)
    atheris.Fuzz()


@contextmanager
def endless_is_an_error(figures: Figures) -> Iterator[None]:
    """Raise a TimeoutError in an execution that takes too much CPU time."""
    last = -1

    def check(*_: Any) -> None:
        nonlocal last
        if last == figures.executions:
            raise TimeoutError(f"an execution takes more than {_MAX_CPU_SECONDS} CPU seconds")
        last = figures.executions

    signal.signal(signal.SIGVTALRM, check)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_CPU_SECONDS, _MAX_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
