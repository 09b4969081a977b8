"""SCRIPT_NAME and PATH_INFO: put right where a web server is known to send them wrong.

Where to split a path may be worked out from REQUEST_URI. Its bytes may not: web servers apply
their access rules to the path that they have decoded and normalised, so that
``/admin/../public`` passes as ``/public``, and whoever took the path from REQUEST_URI would hand
the app what was never checked. They come from SCRIPT_NAME, PATH_INFO and DOCUMENT_URI alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote

_SLASHES: Final = re.compile("(/|%2F)+", re.IGNORECASE)

Params = Mapping[str, Any]
"""The values that are looked up are strings; an environ has others beside them."""


class Finding(Enum):
    """What was found about the two, and done."""

    RIGHT = "nothing was changed"
    WHOLE = "SCRIPT_NAME was the whole path, and there was no PATH_INFO"
    TWICE = "SCRIPT_NAME was in PATH_INFO once more"
    MISSING = "PATH_INFO was missing, and came from DOCUMENT_URI"
    PROXIED = "SCRIPT_NAME was the whole path, and SCRIPT_FILENAME said where ProxyPass splits it"
    SLASH = "SCRIPT_NAME ended with the slash that PATH_INFO begins with"
    SEGMENT = "they were split inside a segment of the path"
    UNCLEAR = "SCRIPT_NAME is the whole path, or exactly where the app is mounted"
    NAMED = "they were split at the mount point that is named"
    HIDDEN = "SCRIPT_NAME was a script that is not in the address"
    OUTSIDE = "the path is not below the mount point that is named"


Found = tuple[str, str, Finding]
"""SCRIPT_NAME, PATH_INFO, and what was found."""


def mount_point(script_name: str) -> str:
    """The mount point as it is in an environ: without a slash at its end, a byte a character.

    Args:
        script_name: as a person writes it.

    Raises:
        ValueError: it does not begin with a slash.
    """
    mount = script_name.rstrip("/")
    if mount and not mount.startswith("/"):
        raise ValueError(f"{script_name!r}, but must be empty or begin with a slash")
    return mount.encode("utf-8", "surrogateescape").decode("latin-1")


def find_path(params: Params, mount: str | None = None) -> Found:
    """Find out what SCRIPT_NAME and PATH_INFO of a request are to be.

    Args:
        params: the params of the request.
        mount: where the app is mounted, as by `mount_point`; None to work it out.

    Returns:
        The two, and what was found. Together they are SCRIPT_NAME + PATH_INFO or DOCUMENT_URI as
        they came; with a mount point also PATH_INFO alone or behind it, if that is what
        REQUEST_URI asked for.
    """
    script: str = params.get("SCRIPT_NAME", "")
    path: str | None = params.get("PATH_INFO")
    if mount is not None:
        return _at(mount, params, script, path)
    if path:
        return _of_both(params, script, path)
    if path is None or not script:
        found = _of_one(params, script)
        if found is not None:
            return found
    return _with_slash_moved(script, "") or (script, "", Finding.RIGHT)


def _of_both(params: Params, script: str, path: str) -> Found:
    """Look at a request with a PATH_INFO."""
    if path[0] == "/":
        # nginx with its fastcgi_params and `PATH_INFO $uri`. Where a rewrite has taken SCRIPT_NAME
        # off, and the path goes on with the same name, REQUEST_URI asks for both.
        if script and params.get("DOCUMENT_URI") == path and _asks_for(params, path):
            clear, mount = _is_clear(params), script.rstrip("/")
            if path == script and (clear or not _asks_for(params, script + path)):
                return "", path, Finding.TWICE
            if path.startswith(mount + "/") and (clear or not mount):
                return mount, path[len(mount) :], Finding.TWICE
        return _with_slash_moved(script, path) or (script, path, Finding.RIGHT)
    if script[:1] != "/":
        return script, path, Finding.RIGHT
    return _with_slash_moved(script, path) or ("", script + path, Finding.SEGMENT)


def _with_slash_moved(script: str, path: str) -> Found | None:
    """The slash that ends SCRIPT_NAME belongs to PATH_INFO."""
    if script[-1:] != "/":
        return None
    mount = script.rstrip("/")
    return mount, script[len(mount) :] + path, Finding.SLASH


def _of_one(params: Params, script: str) -> Found | None:
    """Look at a request without any PATH_INFO: an empty one says that there is none."""
    if "DOCUMENT_URI" in params:
        return _of_document(script, params["DOCUMENT_URI"])
    software: str = params.get("SERVER_SOFTWARE", "")
    # An empty PATH_INFO is sent by nginx, so there is none in its configuration, and SCRIPT_NAME
    # is $fastcgi_script_name, which is all of the path.
    if script and software.startswith("nginx"):
        return "", script, Finding.WHOLE
    # HAProxy leaves out what is empty: the path, if no path-info is configured; else the app's
    # own address.
    if script and software.startswith("HAProxy"):
        if script[-1] == "/":
            return "", script, Finding.WHOLE
        return script, "", Finding.UNCLEAR
    if software.startswith("Apache"):
        return _of_proxy_pass(script, params.get("SCRIPT_FILENAME", ""))
    return None


def _of_document(script: str, document: str) -> Found | None:
    """DOCUMENT_URI is nginx's ``$uri``, the whole path."""
    if document[:1] != "/":
        return None
    if script == document:
        return "", document, Finding.WHOLE
    mount = script.rstrip("/")
    if not mount:
        return "", document, Finding.MISSING
    if document.startswith(mount + "/"):
        return mount, document[len(mount) :], Finding.MISSING
    # fastcgi_index: the name of a file that nobody asked for.
    if document[-1] == "/" and script.startswith(document):
        return "", document, Finding.MISSING
    return None


def _of_proxy_pass(script: str, file: str) -> Found | None:
    """SCRIPT_FILENAME is what Apache's ProxyPass makes of the path, or a file's name.

    It reads ``proxy:fcgi://host/path``, or just ``/path`` with ProxyFCGIBackendType GENERIC.
    """
    if not script:
        return None
    if file.startswith("proxy:"):
        file = "/" + file.partition("://")[2].partition("/")[2]
    bare = "/" + file.lstrip("/")
    if bare == "/" and script[-1] != "/":
        return script, "", Finding.RIGHT
    # "ProxyPass /app fcgi://host/" puts one slash before the path, which may begin with two.
    shorter = file[1:] if file.startswith("//") else file
    for encoded in (file, shorter, bare):
        # Nothing is normalised: behind /x%2F..%2F../admin a client could hide all but /admin.
        for rest in _literal(encoded):
            if script.endswith(rest):
                mount = script[: len(script) - len(rest)]
                if mount[-1:] != "/":
                    return mount, rest, Finding.PROXIED
    return None


def _at(mount: str, params: Params, script: str, path: str | None) -> Found:
    """Split a request at the mount point that is named."""
    if path is None or not (script or path):
        known = _of_document(script, params.get("DOCUMENT_URI", ""))
        whole = known[0] + known[1] if known is not None else script
    else:
        whole = script + path
        right = script == mount and path[:1] in ("/", "")
        if right and not (script and _is_below(path, mount)):
            return script, path, Finding.RIGHT
        known = _by_address(mount, params, script, path)
        if known is not None:
            return known
    if not _is_below(whole, mount):
        return "", whole, Finding.OUTSIDE
    rest = whole[len(mount) :]
    same = script == mount and (path or "") == rest
    return mount, rest, Finding.RIGHT if same else Finding.NAMED


def _by_address(mount: str, params: Params, script: str, path: str) -> Found | None:
    """Look at what REQUEST_URI says of a SCRIPT_NAME and a PATH_INFO, with a named mount point.

    What makes PATH_INFO shorter, or SCRIPT_NAME go away, must be said beyond doubt.
    """
    clear, below = _is_clear(params), _is_below(path, mount)
    unasked = path != "" and not _asks_for(params, script + path)
    if not script:
        # The web server may have taken the mount point off.
        doubtful = unasked or (below and not clear)
        asked = doubtful and _asks_for(params, mount + path)
        return (mount, path, Finding.NAMED) if asked else None
    document = params.get("DOCUMENT_URI") == path
    # nginx's SCRIPT_NAME is the path too, or a slash alone.
    twice = document and script != mount and script.rstrip("/") in ("", path)
    # A rule of the web server has put a script before the path, or the path is in both.
    if path and (unasked or document) and (clear or twice) and _asks_for(params, path):
        found = Finding.HIDDEN if script != mount else Finding.TWICE
        return (mount, path[len(mount) :], found) if below else ("", path, Finding.OUTSIDE)
    # It has put a script in the place of the mount point.
    if unasked and clear and _asks_for(params, mount + path):
        return mount, path, Finding.HIDDEN
    return None


def _is_below(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount + "/") or not mount


def _asks_for(params: Params, path: str) -> bool:
    """Whether REQUEST_URI asks for this very path, so that no rewrite came between."""
    asked = _asked(params)
    return asked == path or (asked[:1] == "/" and path in _readings(asked))


def _is_clear(params: Params) -> bool:
    """Whether all web servers read REQUEST_URI alike, but for the slashes between two names."""
    return _is_read_alike(_asked(params))


def _asked(params: Params) -> str:
    asked: str = params.get("REQUEST_URI", "")
    return asked.partition("?")[0]


def _literal(encoded: str) -> tuple[str, str]:
    """A path decoded, and with %2F kept."""
    kept = encoded.replace("%2F", "%252F").replace("%2f", "%252f")
    return unquote(encoded, "latin-1"), unquote(kept, "latin-1")


def _readings(encoded: str) -> tuple[str, ...]:
    """What a web server may make of a path: decoded, normalised too, and with %2F kept."""
    literal = _literal(encoded)
    if "/." not in literal[0] and "//" not in literal[0]:
        return literal
    return (*literal, *_all_normalised(literal))


def _is_read_alike(encoded: str) -> bool:
    """Whether dot segments take away the same names, however slashes are read."""
    if "/." not in encoded and "%" not in encoded:
        return True
    literal = _literal(encoded)
    if "/." not in literal[0]:
        return True
    return len({_SLASHES.sub("/", path) for path in _all_normalised(literal)}) == 1


def _all_normalised(paths: Iterable[str]) -> list[str]:
    return [_normalised(path, merged=merged) for path in paths for merged in (True, False)]


def _normalised(path: str, *, merged: bool) -> str:
    """A path without dot segments (RFC 3986, section 5.2.4), and doubled slashes merged or not."""
    segments: list[str] = []
    *names, last = path[1:].split("/")
    for name in names:
        if name == "..":
            del segments[-1:]
        elif name != "." and (name or not merged):
            segments.append(name)
    if last == "..":
        del segments[-1:]
    return "/" + "/".join([*segments, "" if last in (".", "..") else last])
