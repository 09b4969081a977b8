"""Every setting of the client: one frozen dataclass, from which options are derived."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.settings import GIB, KIB, check_settings, setting


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """What a client is told. Sizes are in bytes and times in seconds.

    Raises:
        UsageError: a value is out of its bounds; the message names it.
    """

    connections: int = setting(
        1,
        "connections to an application server that multiplexes; several are used evenly",
        group="upstream",
        least=1,
    )
    max_connections: int = setting(
        256,
        "connections to an application server that serves one request at a time on each",
        group="upstream",
        least=1,
    )
    requests_per_connection: int = setting(
        1024,
        "requests in flight on one connection; less if the application server says so",
        group="upstream",
        least=1,
        most=65535,
    )
    max_waiting: int = setting(
        4096,
        "requests that wait until an application server has room, then 503",
        group="limits",
        least=0,
    )

    connect_timeout: float = setting(
        5.0, "seconds in which a connection must be made, then 502", group="timeouts", least=0.001
    )
    values_timeout: float = setting(
        1.0,
        "seconds in which an application server must say what it can do; else it gets a"
        " connection for each request",
        group="timeouts",
        least=0.001,
    )
    wait_timeout: float = setting(
        30.0,
        "seconds that a request waits until there is room, then 503",
        group="timeouts",
        least=0.001,
    )
    response_timeout: float = setting(
        60.0,
        "seconds without a byte of an answer that is due, then 504",
        group="timeouts",
        least=0.001,
    )
    stall_timeout: float = setting(
        60.0,
        "seconds in which nobody reads an answer that fills its memory; then it is given up",
        group="timeouts",
        least=0.001,
    )
    upstream_idle_timeout: float = setting(
        60.0,
        "seconds for which a connection without requests is kept",
        group="timeouts",
        least=0.001,
    )
    first_pause: float = setting(
        0.1,
        "seconds for which an application server that cannot be reached is left alone; twice as"
        " long each time",
        group="timeouts",
        least=0.001,
    )
    last_pause: float = setting(
        10.0,
        "seconds for which it is left alone at the most",
        group="timeouts",
        least=0.001,
    )

    input_memory_bytes: int = setting(
        128 * KIB,
        "bytes of a request body that wait to be sent; then its sender waits",
        group="limits",
        least=4 * KIB,
    )
    response_memory_bytes: int = setting(
        256 * KIB,
        "bytes of an answer in memory that nobody has read yet; more goes to a temporary file,"
        " or waits where it has the connection for itself",
        group="limits",
        least=4 * KIB,
    )
    response_spool_bytes: int = setting(
        GIB,
        "bytes of an answer in its temporary file; then the request is given up",
        group="limits",
        least=0,
    )
    total_response_spool_bytes: int = setting(
        4 * GIB,
        "bytes of temporary files over all answers; then the request is given up",
        group="limits",
        least=0,
    )
    max_response_head_bytes: int = setting(
        64 * KIB, "bytes of the headers of an answer, then 502", group="limits", least=KIB
    )
    max_upstream_stderr_bytes: int = setting(
        64 * KIB, "bytes of STDERR of an answer that are kept", group="limits", least=0
    )

    def __post_init__(self) -> None:
        check_settings(self)
