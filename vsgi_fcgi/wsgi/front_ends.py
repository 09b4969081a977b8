"""What web servers do that is not in any specification, told by SERVER_SOFTWARE."""

from __future__ import annotations

import re
from typing import Final

_DIES_OF_STDERR: Final = re.compile(r"HAProxy (1|2\.[0-5]|2\.6\.([0-9]|1[0-3])|2\.7)\b")

_FAILS_AT_ONCE: Final = re.compile(r"HAProxy 2\.[0-9]\b")


def dies_of_stderr(software: str | None) -> bool:
    """Whether a STDERR record may kill this web server as a process (HAProxy's issue 2150).

    It depends on where one of its reads ends, which no order of the records and no size decides.

    Args:
        software: SERVER_SOFTWARE, if there is one.
    """
    return software is not None and _DIES_OF_STDERR.match(software) is not None


def fails_at_once(software: str | None) -> bool:
    """Whether this web server may answer 500 by itself where requests share a connection.

    Some of many that begin at the same time (HAProxy's issue 2568). It was seen with 2.6.12 and
    reported of 2.9.7; which later releases of these branches are mended is not known here.

    Args:
        software: SERVER_SOFTWARE, if there is one.
    """
    return software is not None and _FAILS_AT_ONCE.match(software) is not None


def forgets_end(software: str | None) -> bool:
    """Whether this web server may never end a STDIN of which CONTENT_LENGTH says that it is empty.

    HAProxy does not where the client has sent an empty body in chunks, or by HTTP/2 without a
    length (its issue 2499). Of no version is there anything to wait for.

    Args:
        software: SERVER_SOFTWARE, if there is one.
    """
    return software is not None and software.startswith("HAProxy")
