"""The settings of the client: a frozen dataclass, from which command-line options are derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from vsgi_fcgi.settings import GIB, KIB, MIB, SettingsBase, check_settings, setting


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ClientConfig(SettingsBase):
    """The settings of a client. Sizes are in bytes and times in seconds.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the setting's name.
    """

    connections: int = setting(
        1,
        "maximum connections to an application server that multiplexes; several are used evenly",
        group="upstream",
        minimum=1,
    )
    max_connections: int = setting(
        256,
        "maximum connections to an application server that does not multiplex",
        group="upstream",
        minimum=1,
    )
    requests_per_connection: int = setting(
        1024,
        "maximum requests in flight on one connection; fewer if the application server says so",
        group="upstream",
        minimum=1,
        maximum=65535,
    )
    max_queued: int = setting(
        4096,
        "maximum requests that wait for a free connection, then 503",
        group="limits",
        minimum=0,
    )

    connect_timeout: float = setting(
        5.0,
        "seconds for connecting to an application server, then 502",
        group="timeouts",
        minimum=0.001,
    )
    values_timeout: float = setting(
        1.0,
        "seconds for an application server to answer GET_VALUES; without an answer, it gets a"
        " connection for each request",
        group="timeouts",
        minimum=0.001,
    )
    wait_timeout: float = setting(
        30.0,
        "seconds that a request waits for a free connection, then 503",
        group="timeouts",
        minimum=0.001,
    )
    response_timeout: float = setting(
        60.0,
        "seconds without a byte from the application server while a response is due, then 504",
        group="timeouts",
        minimum=0.001,
    )
    stall_timeout: float = setting(
        60.0,
        "seconds without a read of a response that fills its memory; then the request is aborted",
        group="timeouts",
        minimum=0.001,
    )
    upstream_idle_timeout: float = setting(
        60.0,
        "seconds for which an idle connection is kept",
        group="timeouts",
        minimum=0.001,
    )
    backoff_min: float = setting(
        0.1,
        "seconds before trying again an application server that cannot be reached; doubled after"
        " each failure",
        group="timeouts",
        minimum=0.001,
    )
    backoff_max: float = setting(
        10.0,
        "maximum seconds before trying again an application server that cannot be reached",
        group="timeouts",
        minimum=0.001,
    )

    input_memory_bytes: int = setting(
        128 * KIB,
        "maximum unsent bytes of a request body in memory; then its sender waits",
        group="limits",
        minimum=4 * KIB,
    )
    response_memory_bytes: int = setting(
        256 * KIB,
        "maximum unread bytes of a response in memory; the rest goes to a temporary file, or waits"
        " in the socket if the connection has no other request",
        group="limits",
        minimum=4 * KIB,
    )
    total_memory_bytes: int = setting(
        256 * MIB,
        "maximum bytes in memory over all requests and responses; then bodies wait, and from half"
        " of it on, responses go to temporary files",
        group="limits",
        minimum=64 * KIB,
    )
    response_spool_bytes: int = setting(
        GIB,
        "maximum bytes of a response in its temporary file; then the request is aborted",
        group="limits",
        minimum=0,
    )
    total_response_spool_bytes: int = setting(
        4 * GIB,
        "maximum bytes of temporary files over all responses; then the request is aborted",
        group="limits",
        minimum=0,
    )
    max_response_head_bytes: int = setting(
        64 * KIB,
        "maximum bytes of the headers of a response, then 502",
        group="limits",
        minimum=KIB,
    )
    max_upstream_stderr_bytes: int = setting(
        64 * KIB, "maximum bytes of a response's STDERR that are kept", group="limits", minimum=0
    )

    def __post_init__(self) -> None:
        check_settings(self)


class ClientSettings(TypedDict, total=False):
    """The fields of `ClientConfig` as keyword arguments, for type checkers.

    Type checkers cannot derive them; a test compares them with the fields.
    """

    connections: int
    max_connections: int
    requests_per_connection: int
    max_queued: int
    connect_timeout: float
    values_timeout: float
    wait_timeout: float
    response_timeout: float
    stall_timeout: float
    upstream_idle_timeout: float
    backoff_min: float
    backoff_max: float
    input_memory_bytes: int
    response_memory_bytes: int
    total_memory_bytes: int
    response_spool_bytes: int
    total_response_spool_bytes: int
    max_response_head_bytes: int
    max_upstream_stderr_bytes: int
