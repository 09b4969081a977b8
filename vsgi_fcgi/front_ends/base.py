"""Everything that this package knows of a web server: a `FrontEnd` in a file of its own.

The server looks up the quirks, the doctor uses the notes and the remedies, and ``vsgi-fcgi config``
prints the configuration. A line that both of the last two show is one constant in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.front_ends.site import File, Place, Site, fill

Params = Mapping[str, Any]
"""The params of a request, or its environ. Only values that are strings are used here."""

Version = tuple[int, ...]
"""For example ``(2, 6, 12)``; empty if the web server does not send its version."""

_SOFTWARE: Final = re.compile(r"([A-Za-z_]\w*)[/ ]v?(\d{1,9}(?:\.\d{1,9})*)")


def parse_software(software: str | None) -> tuple[str, Version]:
    """Return the name of a web server in lower case, and its version.

    For example ``("haproxy", (2, 6, 12))`` for ``HAProxy 2.6.12-1+deb12u4``. Without a version the
    name is empty.

    Args:
        software: SERVER_SOFTWARE, if there is one.
    """
    found = _SOFTWARE.match(software or "")
    if found is None:
        return "", ()
    return found[1].lower(), tuple(map(int, found[2].split(".")))


# For the server.
#
# Every server imports this module when it starts. A NamedTuple takes a sixth of the time that a
# frozen dataclass takes.


class BrokenEnd(Enum):
    """How a broken response ends, on a connection that carries one request at a time."""

    END_REQUEST = "END_REQUEST"
    CLOSE = "close"
    INVALID_RECORD = "invalid record"


class Quirks(NamedTuple):
    """Behaviour of one version of a web server that the specifications do not describe.

    Attributes:
        repeats_headers: the web server sends a repeated request header as repeated params. All
            others join the values, so a second param is one that their configuration sets.
        configured_first: params of the configuration come before SERVER_SOFTWARE, and the client's
            headers come after it.
        crashes_on_stderr: a STDERR record may crash the web server.
        fails_when_shared: the web server may answer requests on a shared connection with a 500 of
            its own.
        omits_end_of_stdin: STDIN may have no end although CONTENT_LENGTH is 0.
        broken_end: the end of a broken response that tells the client that it is broken.
    """

    repeats_headers: bool = False
    configured_first: bool = False
    crashes_on_stderr: bool = False
    fails_when_shared: bool = False
    omits_end_of_stdin: bool = False
    broken_end: BrokenEnd = BrokenEnd.CLOSE


NO_QUIRKS: Final = Quirks()


class PathCorrection(Enum):
    """Result of checking SCRIPT_NAME and PATH_INFO: the mistake, and how it was corrected."""

    UNCHANGED = "nothing was changed"
    WHOLE = "SCRIPT_NAME was the whole path, and there was no PATH_INFO"
    TWICE = "PATH_INFO began with SCRIPT_NAME"
    MISSING = "PATH_INFO was missing, and came from DOCUMENT_URI"
    PROXIED = "SCRIPT_NAME was the whole path, and SCRIPT_FILENAME said where ProxyPass splits it"
    SLASH = "SCRIPT_NAME ended with the slash that PATH_INFO begins with"
    SEGMENT = "they were split inside a segment of the path"
    UNCLEAR = "SCRIPT_NAME is the whole path, or exactly where the app is mounted"
    NAMED = "they were split at the mount point that is named"
    HIDDEN = "SCRIPT_NAME was a script that is not in the address"
    OUTSIDE = "the path is not below the mount point that is named"


PathSplit = tuple[str, str, PathCorrection]
"""SCRIPT_NAME, PATH_INFO, and the result of checking them."""


def decoded_paths(encoded: str) -> tuple[str, str]:
    """Return a path decoded, and decoded except for its escaped slashes (``%2F``)."""
    kept = encoded.replace("%2F", "%252F").replace("%2f", "%252f")
    return unquote(encoded, "latin-1"), unquote(kept, "latin-1")


# For the doctor.


@dataclass(frozen=True, slots=True)
class Remedy:
    """Lines of a configuration that solve a problem.

    Attributes:
        where: where the lines belong, as a heading.
        lines: the lines. In a `FrontEnd` they are a template; see `FrontEnd.lines`.
    """

    where: str
    lines: str


class Notes(NamedTuple):
    """Checks of the doctor for one web server, and sentences that the doctor adds.

    Attributes:
        body_not_sent: why the web server announces a body and does not send it.
        sends_length_anyway: no configuration can remove CONTENT_LENGTH in that case.
        header_joined: advice about a header that the configuration sets, and that comes after the
            client's header as a second param of the same name. Empty if that cannot happen.
        loses_port: why HTTP_HOST may lack the port that the web server listens on.
        follows_path: results of checking the path with which SCRIPT_NAME may be a part of the
            requested path. One request does not show whether it is the mount point.
        whole_path: returns whether the web server sent the whole path as SCRIPT_NAME and an empty
            PATH_INFO. Then one request does not show the mount point either.
        whole_path_cause: why it sends that.
        authorization: sentence that the client has sent Authorization, if AUTH_TYPE shows it.
            Empty if AUTH_TYPE does not.
        upload_held: why the web server holds uploads back, if no line of a configuration helps.
        not_shared: explanation if requests did not share a connection.
        sharing_fails: warning about versions with `Quirks.fails_when_shared`.
        sharing_costs: disadvantages of shared connections with all other versions.
    """

    body_not_sent: str = ""
    sends_length_anyway: bool = False
    header_joined: str = ""
    loses_port: str = ""
    follows_path: frozenset[PathCorrection] = frozenset()
    whole_path: Callable[[Params], bool] | None = None
    whole_path_cause: str = ""
    authorization: str = ""
    upload_held: str = ""
    not_shared: str = ""
    sharing_fails: str = ""
    sharing_costs: str = ""


_NO_NOTES: Final = Notes()

# For ``vsgi-fcgi config``.


def _in_run(name: str) -> UnixAddress:
    return UnixAddress(f"/run/{name}.sock")


class Printed(NamedTuple):
    """A configuration that can be printed.

    Attributes:
        program: name of the web server on the command line.
        title: name of the web server in texts.
        tested: versions that the configuration is tested with.
        files: returns the files of the configuration.
        group: group of the web server on Debian. It must be able to connect to the app's server.
        aliases: other names that people may try.
        default_socket: returns the default address of the app's server by the name of the site.
            None if the web server starts the app's server.
        sendfile: value of ``--sendfile`` that works with this web server; empty for none.
        static: whether the configuration supports `Site.static`.
    """

    program: str
    title: str
    tested: str
    files: Callable[[Site], list[File]]
    group: str
    aliases: tuple[str, ...] = ()
    default_socket: Callable[[str], UnixAddress] | None = _in_run
    sendfile: str = ""
    static: bool = False


# All together.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontEnd:
    """A kind of web server.

    Attributes:
        key: name of the web server for programs.
        name: name of the web server in texts.
        software: how its SERVER_SOFTWARE begins, in lower case; empty if it sends none.
        owns_socket: returns whether the web server made the socket with this address (as
            ``getsockname`` returns it). None if the address shows nothing.
        recognised_by: returns the sign by which a request without SERVER_SOFTWARE is recognised as
            one of this web server, as the end of a sentence. It is empty for other requests.
        keeps: whether it can use a connection for several requests; None if that is not known.
        multiplexes: whether it can send several requests at once on a connection; None if that is
            not known.
        quirks: returns the quirks of a version.
        split_path: splits the path of a request without PATH_INFO and DOCUMENT_URI. Its arguments
            are SCRIPT_NAME and all params. It returns None if the two are correct.
        server: returns the address of an app's server in the syntax of the configuration.
        remedies: lines that solve problems, by subject. The suffix ``-mount`` is for an app below
            the root, and ``-anywhere`` for an app whose mount point is not known.
        notes: checks of the doctor, and its sentences.
        printed: the configuration to print; None if there is none.
    """

    key: str
    name: str
    software: str = ""
    owns_socket: Callable[[object], bool] | None = None
    recognised_by: Callable[[Params], str] | None = None
    keeps: bool | None = None
    multiplexes: bool | None = None
    quirks: Callable[[Version], Quirks] = lambda version: NO_QUIRKS
    split_path: Callable[[str, Params], PathSplit | None] | None = None
    server: Callable[[Place], str] = lambda place: str(place.server)
    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    notes: Notes = _NO_NOTES
    printed: Printed | None = None

    def lines(self, template: str, place: Place) -> str:
        """Return lines of the configuration for an app.

        Args:
            template: the lines, with the places ``{{name}}``, ``{{root}}``, ``{{pattern}}`` and
                ``{{server}}``.
            place: where the app is mounted, and where its server listens.
        """
        server = self.server(place)
        text = fill(
            template, name=place.name, root=place.root, pattern=place.pattern, server=server
        )
        return text.rstrip("\n")


UNKNOWN: Final = FrontEnd(key="unknown", name="a web server that is not known here")
