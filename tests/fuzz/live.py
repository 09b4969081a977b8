"""Drive running servers with random traffic, and check that they are as before afterwards."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
from apps.fuzzed import Deliberate, app
from support.asking import uri_of
from support.fcgi.peer import Address, Client
from support.front_ends.servers import AppServer
from support.processes import ProcessGroup
from support.processes import wait_until as wait_until_it
from support.relay import relaying
from support.relay_server import RelayServer
from support.server import Messages, logged, running, wait_until

from fuzz.traffic import drive
from vsgi_fcgi.push.items import Item, ResponsePart, StreamPart

TRANSPORT: dict[str, Any] = {
    "receive_timeout": 0.5,
    "send_timeout": 0.5,
    "linger_timeout": 0.2,
    "max_params_bytes": 3000,
    "total_params_bytes": 64 * 1024,
}
SERVER: dict[str, Any] = TRANSPORT | {
    "threads": 2,
    "max_queued": 4,
    "max_connections": 8,
    "max_requests_per_connection": 4,
    "max_params_count": 16,
    "max_body_bytes": 30_000,
    "body_memory_bytes": 4096,
    "total_memory_bytes": 1 << 20,
    "output_memory_bytes": 16 * 1024,
    "output_spool_bytes": 64 * 1024,
    "total_spool_bytes": 256 * 1024,
    "max_stderr_bytes": 1000,
    "max_held": 5,
    "max_held_per_channel": 4,
    "max_held_bytes": 64 * 1024,
    "max_items_waiting": 2,
    "max_items_queued": 4,
}
RELAY: dict[str, Any] = TRANSPORT | {
    "max_front_connections": 8,
    "max_front_requests": 4,
    "max_connections": 3,
    "requests_per_connection": 3,
    "max_queued": 4,
    "wait_timeout": 0.5,
    "response_timeout": 2.0,
    "stall_timeout": 0.5,
    "input_memory_bytes": 16 * 1024,
    "response_memory_bytes": 16 * 1024,
    "response_spool_bytes": 64 * 1024,
    "total_response_spool_bytes": 256 * 1024,
}


class _Errors(Messages):
    """Keeps what nothing but a fault of the package logs."""

    def emit(self, record: Any) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, Deliberate):
            self.lines.append(f"{record.getMessage()}: {error!r}")


Wanted = Callable[[int], bool]


def _item(chance: random.Random) -> Item:
    content = b"x" * chance.choice((1, 5000))
    action = chance.choice(("send", "send", "close", "hint"))
    stream = StreamPart(content, action)
    return Item(chance.choice("ab"), None, None, stream, ResponsePart(body=content), {}, 5000)


def _ask(address: Address) -> None:
    """Check that a server answers, as soon as what was left behind is gone."""

    def answers() -> bool:
        with contextlib.suppress(OSError, AssertionError), Client(address) as client:
            return client.get("/echo?here").body == b"here 0"
        return False

    wait_until(answers)


def one_process(seed: int, wanted: Wanted) -> Counter[str]:
    """Drive a server and a relay before it, in this process.

    At the end, while they still run, no request, held object or byte of a quota is left.
    `running` and `relaying` then check threads and descriptors.
    """
    gevent.get_hub()  # its descriptors are not counted
    with (
        logged(_Errors()) as errors,
        running(app, push=True, **SERVER) as server,
        relaying(uri_of(server), **RELAY) as relay,
    ):
        services = server.context.services
        held = services.held
        assert held is not None
        counts = drive(
            [server.address, relay.address],
            seed,
            wanted,
            lambda chance: held.deliver([_item(chance)]),
        )
        for address in (server.address, relay.address):
            _ask(address)
        wait_until(lambda: not len(held), lambda: f"held: {len(held)}")
        for name, used in (
            ("memory", lambda: services.memory.used),
            ("spool", lambda: services.spool.used),
            ("params", lambda: server.context.connections.params.used),
            ("params of the relay", lambda: relay.relay.connections.params.used),
            ("queue of the relay", lambda: len(relay.relay.queue)),
        ):
            wait_until(lambda used=used: not used(), lambda name=name: name)  # type: ignore[misc]
        assert not errors.lines
    return counts


LIVE: dict[str, Callable[[Path, int, Wanted], Counter[str]]] = {
    "live-server": lambda _, seed, wanted: one_process(seed, wanted),
    "live-processes": lambda folder, seed, wanted: processes(folder, seed, wanted),
}
"""What `python -m fuzz` can run in addition to the targets, by name."""


def _options(settings: dict[str, Any]) -> list[str]:
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _open(pid: int) -> tuple[int, int]:
    """Return the numbers of descriptors and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


@contextlib.contextmanager
def _group(folder: Path) -> Iterator[ProcessGroup]:
    folder.mkdir()
    with ProcessGroup(folder) as group:
        yield group


def processes(folder: Path, seed: int, wanted: Wanted) -> Counter[str]:
    """Drive two processes of a supervisor, and the command of the relay before them.

    Afterwards each process has as many descriptors and threads as before, none was replaced, and
    no log has a traceback but those of the app.
    """
    with _group(folder / "server") as group, _group(folder / "relay") as front:
        server = AppServer(
            group, "apps.fuzzed:app", "--push", "--processes", "2", *_options(SERVER)
        )
        wait_until_it(
            lambda: server.process.log().count("listening on fcgi+unix") >= 2, "two processes"
        )
        relay = RelayServer(front, server, *_options(RELAY))
        addresses: list[Address] = [str(server.socket), str(relay.socket)]
        for address in addresses * 8:
            _ask(address)
        before = {pid: _open(pid) for pid in [*group.pids(), *front.pids()]}
        counts = drive(addresses, seed, wanted)
        for address in addresses:
            _ask(address)

        def left() -> dict[int, tuple[int, int]]:
            now = {pid: _open(pid) for pid in [*group.pids(), *front.pids()]}
            assert now.keys() == before.keys(), (server.process.log(), relay.process.log())
            return {
                pid: each
                for pid, each in now.items()
                # Two threads start when they are needed first: for temporary files, and for
                # the recordings that the tests keep of their servers.
                if each[0] > before[pid][0] or each[1] > before[pid][1] + 2
            }

        # The relay keeps a connection to the server for its next request.
        wait_until(lambda: not left(), lambda: f"{left()}, but before {before}")
        for process in (server.process, relay.process):
            log = process.log()
            failures = log.count("Traceback (most recent call last)")
            assert failures == log.count("apps.fuzzed.Deliberate:"), log
    return counts
