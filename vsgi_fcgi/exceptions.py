"""Every error that the package raises on purpose, from the lowest storey up."""

from __future__ import annotations


class VsgiFcgiError(Exception):
    """The base of all errors that this package raises on purpose."""


class ProtocolError(VsgiFcgiError):
    """A rule of the FastCGI specification was broken."""


class RemoteProtocolError(ProtocolError):
    """The web server sent what the specification forbids; its connection cannot go on."""


class LocalProtocolError(ProtocolError):
    """Our own side tried to send what the specification forbids: a bug in the caller."""


class ParamsError(ProtocolError):
    """A block of name-value pairs that cannot be decoded or is over a limit.

    Attributes:
        status: the HTTP status that answers it, 400 or 431.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ResponseError(VsgiFcgiError):
    """An app broke PEP 3333: bad headers, a second start_response, str instead of bytes."""


class ClientDisconnected(VsgiFcgiError, OSError):
    """The web server gave the request up; what the app still writes goes nowhere."""


class MainContextClosed(VsgiFcgiError):
    """The main context has ended; the function that was handed to it did not run."""


class UsageError(VsgiFcgiError):
    """The person who starts the server asked for what cannot be done; one sentence says why."""


class ListenError(UsageError):
    """An address or descriptor that cannot be listened on."""


class AppLoadError(UsageError):
    """The app that was named cannot be found, or fails to import.

    Attributes:
        traceback: the app's own traceback where its code failed, else "".
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class UpstreamError(VsgiFcgiError):
    """A request that was sent on to a FastCGI application server, and got no whole answer.

    Attributes:
        status: the HTTP status that says so to a client.
        begun: whether a part of the answer had come before.
    """

    status = 502

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class UpstreamUnreachable(UpstreamError):
    """No connection could be made; nothing was sent."""


class UpstreamBroken(UpstreamError):
    """The connection ended, or what came on it made no sense."""


class UpstreamTimeout(UpstreamError):
    """No answer came, or no more of it, in the time that is allowed."""

    status = 504


class UpstreamOverloaded(UpstreamError):
    """The application server, or the queue before it, takes no more requests now."""

    status = 503


class ReaderStalled(UpstreamError):
    """Whoever asked does not read the answer; the rest of it was given up."""
