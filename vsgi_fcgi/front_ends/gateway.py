"""vsgi-fcgi as a web server: ``vsgi-fcgi gateway``, and the library's client."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.front_ends.base import FrontEnd, Notes

GATEWAY: Final = FrontEnd(
    key="gateway",
    name="vsgi-fcgi gateway",
    software="vsgi_fcgi",
    keeps=True,
    multiplexes=True,
    notes=Notes(upload_held=" The gateway passes a body on in pieces of 64 KiB."),
)

FRONT_ENDS: Final = (GATEWAY,)
