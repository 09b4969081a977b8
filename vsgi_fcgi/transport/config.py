"""The settings that the server and the relay share: connections of web servers."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.settings import KIB, MIB, GracefulConfig, setting


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class TransportConfig(GracefulConfig):
    """Timeouts and limits of the connections of web servers, in seconds and bytes."""

    record: str | None = setting(
        None,
        "folder for recordings of connections on which a request or the protocol has failed",
        group="logging",
        metavar="DIR",
        default_text="no recordings",
    )
    record_records: int = setting(
        256,
        "maximum records in a recording; the last ones of a connection, as far as 512 bytes of"
        " memory for each of them suffice",
        group="logging",
        minimum=16,
        maximum=65536,
    )
    record_body_bytes: int = setting(
        0,
        "bytes of each record of a body that a recording shows; bodies may contain passwords",
        group="logging",
        minimum=0,
        maximum=4096,
    )
    record_files: int = setting(
        100,
        "maximum recordings in the folder; the oldest are removed",
        group="logging",
        minimum=1,
    )
    record_total_bytes: int = setting(
        64 * MIB,
        "maximum bytes of recordings in the folder; the oldest are removed",
        group="logging",
        minimum=64 * KIB,
    )

    receive_timeout: float = setting(
        60.0,
        "seconds without data from an incomplete request, then 408",
        group="timeouts",
        minimum=0.001,
    )
    send_timeout: float = setting(
        60.0,
        "seconds without progress in sending to a web server, then the connection is closed",
        group="timeouts",
        minimum=0.001,
    )
    linger_timeout: float = setting(
        5.0,
        "seconds to read and discard the rest of a request that was answered early",
        group="timeouts",
        minimum=0.001,
    )
    accept_backoff: float = setting(
        0.5,
        "seconds before accepting again when the process is out of descriptors",
        group="timeouts",
        minimum=0.001,
    )

    max_params_bytes: int = setting(
        128 * KIB,
        "maximum bytes of params per request, then 431",
        group="limits",
        minimum=256,
    )
    total_params_bytes: int = setting(
        64 * MIB,
        "maximum bytes of all incomplete requests with their params, then 503",
        group="limits",
        minimum=64 * KIB,
    )
