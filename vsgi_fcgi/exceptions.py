"""Exceptions of the package, from the lowest layer to the highest."""

from __future__ import annotations


class VsgiFcgiError(Exception):
    """Base class of this package's exceptions."""


class ProtocolError(VsgiFcgiError):
    """Violation of the FastCGI specification."""


class RemoteProtocolError(ProtocolError):
    """Violation by the peer, whose connection cannot continue."""


class LocalProtocolError(ProtocolError):
    """Violation by the caller, which tried to send something invalid; a bug in the caller."""


class ParamsError(ProtocolError):
    """Block of name-value pairs that cannot be decoded or exceeds a limit.

    Attributes:
        status: HTTP status of the response, 400 or 431.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ResponseError(VsgiFcgiError):
    """Violation of PEP 3333 by an app, such as invalid headers, or str instead of bytes."""


class ClientDisconnected(VsgiFcgiError, OSError):
    """The client has gone: the response is not wanted any more, and further output is discarded.

    A read of the body or a write of the response raises it. The server does not log it.
    """


class RequestTimeout(BaseException):
    """The request ran longer than ``--request-timeout``, so it must end now.

    The server raises this in the app's thread, at any place of the app's code. It is not an
    `Exception`, so that an app that catches all exceptions and tries again ends as well. The client
    has already got a 504, or a broken response. What the app still returns is discarded.
    """

    def __str__(self) -> str:
        return "the request ran longer than request_timeout"


class MainContextClosed(VsgiFcgiError):
    """The main context has ended, so a function that was passed to it did not run."""


class PublishError(VsgiFcgiError):
    """An item was not published: it is too large, or the queue of items is full."""


class UsageError(VsgiFcgiError):
    """Invalid setting or argument of the user; the message names the problem and its remedy."""


class ListenError(UsageError):
    """The server cannot listen on an address or a descriptor."""


class AppLoadError(UsageError):
    """The app cannot be found or imported.

    Attributes:
        traceback: traceback of the app if its code failed, else "".
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class UpstreamError(VsgiFcgiError):
    """A request to a FastCGI application server did not get a complete response.

    Attributes:
        status: HTTP status for the client.
        begun: True if a part of the response had arrived.
        unsent: True if so little of the request was sent that no application can have begun
            to process it.
    """

    status = 502
    unsent = False

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class UpstreamUnreachable(UpstreamError):
    """No connection to the application server could be opened; nothing was sent."""


class UpstreamBroken(UpstreamError):
    """The connection ended early, or the application server sent invalid data."""


class UpstreamTimeout(UpstreamError):
    """No response, or no further part of it, arrived within the timeout."""

    status = 504


class UpstreamOverloaded(UpstreamError):
    """The application server is overloaded, or the queue of requests for it is full."""

    status = 503


class ReaderStalled(UpstreamError):
    """The client does not read the response; the rest of it was discarded."""
