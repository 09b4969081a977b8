"""A response sink that keeps its data, and a function that runs an app for one request."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from wsgiref.validate import validator

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.wsgi.environ import ErrorStream, base_environ, make_environ
from vsgi_fcgi.wsgi.response import run_app

PARAMS = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "REQUEST_URI": "/",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


class FakeSink:
    """Keeps the written data, and checks that nothing is written after the end.

    Args:
        cancel_after: how many writes there are until the web server gives the request up.
    """

    def __init__(self, cancel_after: int | None = None) -> None:
        self.cancelled = cancel_after == 0
        self.writes: list[bytes] = []
        self.ended = ""
        self.app_status = 0
        self.reports: list[tuple[str, BaseException | None]] = []
        self.errors: list[str] = []
        self._cancel_after = cancel_after

    @property
    def closed(self) -> bool:
        return bool(self.ended)

    def write(self, data: bytes, last: bool = False) -> None:
        assert not self.ended, f"{data!r} was written after the end"
        if self.cancelled:
            raise ClientDisconnected("gone")
        self.writes.append(bytes(data))
        if len(self.writes) == self._cancel_after:
            self.cancelled = True

    def finish(self, data: bytes = b"", app_status: int = 0, more: bytes = b"") -> None:
        # A request that is given up just as it ends may be finished twice.
        if self.cancelled:
            self.ended = "cancelled"
            return
        assert not self.ended, "it was ended twice"
        if data:
            self.writes.append(bytes(data) + more)
        self.ended = "finished"
        self.app_status = app_status

    def break_off(self) -> None:
        assert not self.ended
        self.ended = "broken off"

    def report(self, message: str, error: BaseException | None = None) -> None:
        self.reports.append((message, error))

    def write_error(self, text: str) -> None:
        self.errors.append(text)

    @property
    def output(self) -> bytes:
        return b"".join(self.writes)

    @property
    def status(self) -> str:
        return self._head[0].removeprefix("Status: ")

    @property
    def headers(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self._head[1:])

    @property
    def body(self) -> bytes:
        return self.output.partition(b"\r\n\r\n")[2]

    @property
    def _head(self) -> list[str]:
        head, end, _ = self.output.partition(b"\r\n\r\n")
        assert end, f"{self.output!r} has no header block"
        return head.decode("latin-1").split("\r\n")

    @property
    def error(self) -> BaseException | None:
        """The one error that was reported."""
        ((_, error),) = self.reports
        return error


def environ(method: str = "GET", body: bytes = b"", *, sink: FakeSink, **params: str) -> Any:
    values = {**PARAMS, "REQUEST_METHOD": method, **params}
    base = base_environ(multithread=True)
    return make_environ(values, (), base, BytesIO(body), len(body), ErrorStream(sink))


def run(
    app: Any, method: str = "GET", body: bytes = b"", *, sink: FakeSink | None = None, **params: str
) -> FakeSink:
    """Run an app for one request, without a validator."""
    sink = sink or FakeSink()
    run_app(app, environ(method, body, sink=sink, **params), sink)
    assert sink.ended
    return sink


def run_validated(app: Any, method: str = "GET", body: bytes = b"", **params: Any) -> FakeSink:
    """Run an app behind the validator of PEP 3333, which checks the server too."""
    sink = run(validator(app), method, body, **params)
    broken = [error for _, error in sink.reports if isinstance(error, AssertionError)]
    assert not broken, f"the validator says: {broken[0]}"
    return sink
