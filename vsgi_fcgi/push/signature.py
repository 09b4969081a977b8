"""Grip-Sig and Grip-Feature, by which an app recognises a server that can hold requests.

Grip-Sig is a JSON Web Token (RFC 7519) with the algorithm HS256. Libraries for apps check it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Final

from vsgi_fcgi.push.filters import NAMES

FEATURES: Final = ", ".join(
    ("status", "link:next", "link:gone", *(f"filter:{name}" for name in NAMES))
)
"""The value of Grip-Feature."""

_LIFETIME: Final = 3600
_REUSE: Final = 60


class Signer:
    """Makes values of Grip-Sig.

    Args:
        key: the key, which the app knows, too.
        issuer: the claim ``iss``.
    """

    __slots__ = ("_issuer", "_key", "_made", "_token")

    def __init__(self, key: bytes, issuer: str) -> None:
        self._key = key
        self._issuer = issuer
        self._token = ""  # nosec B105 # none yet
        self._made = 0.0

    def token(self, now: float) -> str:
        """Return a token that is valid for almost an hour.

        It is the same one for a minute, because a signature takes longer than most requests wait.

        Args:
            now: seconds since the epoch.
        """
        if not self._token or not 0 <= now - self._made < _REUSE:
            self._made = now
            signed = b".".join(
                _encode(json.dumps(part, separators=(",", ":")).encode())
                for part in (
                    {"typ": "JWT", "alg": "HS256"},
                    {"iss": self._issuer, "exp": int(now) + _LIFETIME},
                )
            )
            mac = hmac.new(self._key, signed, hashlib.sha256).digest()
            self._token = b".".join((signed, _encode(mac))).decode()
        return self._token


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
