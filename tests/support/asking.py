"""A `FastCGIClient` for tests, which must leave nothing behind, and greenlets that use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import gevent

from support.fcgi.peer import DEADLINE
from support.server import Running, count_descriptors, open_files, wait_until
from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.client.client import Response
from vsgi_fcgi.client.exchange import Exchange
from vsgi_fcgi.client.upstream import Upstream

T = TypeVar("T")


@contextlib.contextmanager
def asking(*addresses: str, **settings: Any) -> Iterator[FastCGIClient]:
    """A client; when it is closed, no descriptor and no byte of its budget may be left."""
    gevent.get_hub()
    gevent.sleep(0)
    descriptors = count_descriptors()
    with FastCGIClient(*addresses, **settings) as client:
        yield client
    for upstream in client.upstreams.all:
        assert not upstream.connections
        # These must be empty at the end; users have no view of them.
        assert not upstream._waiting
        assert not upstream._opening
        assert not spooled(upstream)
    assert not client.upstreams.memory.used
    wait_until(lambda: count_descriptors() <= descriptors, open_files)


def uri_of(server: Running) -> str:
    """Where a server listens, as `FastCGIClient` takes it."""
    address = server.address
    return f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"


def only(client: FastCGIClient) -> Upstream:
    """The one application server of a client."""
    (upstream,) = client.upstreams.all
    return upstream


def exchange_of(response: Response) -> Exchange:
    """What a client knows of a response that is still coming, such as how much of it waits."""
    return response._response.call.exchange  # users have no figure of it, and need none


def spooled(upstream: Upstream) -> int:
    """The bytes that an upstream has in temporary files."""
    return upstream._spool.used  # users have no figure of it, and the files have no names


def together(functions: Iterable[Callable[[], T]], seconds: float = DEADLINE) -> list[T]:
    """Do all of it at the same time, each in a greenlet, and return what they return."""
    greenlets = [gevent.spawn(function) for function in functions]
    return finish(greenlets, seconds)


def finish(greenlets: list[gevent.Greenlet[..., T]], seconds: float = DEADLINE) -> list[T]:
    """Wait for greenlets, of which none may hang, and return what they return."""
    gevent.joinall(greenlets, timeout=seconds)
    hanging = [greenlet for greenlet in greenlets if not greenlet.ready()]
    gevent.killall(hanging)
    assert not hanging, f"{len(hanging)} of {len(greenlets)} hang"
    return [greenlet.get() for greenlet in greenlets]


def wait_here(done: Callable[[], object], what: str = "it never came about") -> None:
    """Wait for what happens in this thread's loop."""
    with gevent.Timeout(DEADLINE, AssertionError(what)):
        while not done():
            gevent.sleep(0.001)


def drain(response: Response) -> int:
    """Read a body, and return how long it was."""
    return sum(len(piece) for piece in response)
