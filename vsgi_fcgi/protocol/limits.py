"""What one connection may hold."""

from __future__ import annotations


class Limits:
    """What one connection may hold.

    Attributes:
        requests: requests that have begun and not ended; a further one is rejected (503).
        params_bytes: content of one request's PARAMS stream; more is rejected (431).
        params_count: pairs in it; more are rejected (431).
    """

    __slots__ = ("params_bytes", "params_count", "requests")

    def __init__(
        self, requests: int = 1024, params_bytes: int = 131072, params_count: int = 1000
    ) -> None:
        self.requests = requests
        self.params_bytes = params_bytes
        self.params_count = params_count
