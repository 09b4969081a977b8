"""Correct SCRIPT_NAME and PATH_INFO where a web server is known to send them wrong.

SCRIPT_NAME is the mount point of the app and PATH_INFO the path below it. Many configurations of
web servers send the whole path in one of them, or a part of it in both.

REQUEST_URI may decide where a path is split, but the path is never taken from it. Web servers apply
their access rules to the decoded and normalised path, so that ``/admin/../public`` passes as
``/public``. An app that got its path from REQUEST_URI would receive a path that was never checked.
The path comes only from SCRIPT_NAME, PATH_INFO and DOCUMENT_URI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from vsgi_fcgi.front_ends.base import Params, PathCorrection, PathSplit, decoded_paths
from vsgi_fcgi.front_ends.registry import find_front_end

_SLASHES: Final = re.compile("(/|%2F)+", re.IGNORECASE)


def mount_point(script_name: str) -> str:
    """Return a mount point in the form of an environ's SCRIPT_NAME.

    It has no slash at its end and, as PEP 3333 requires, one character for each byte.

    Args:
        script_name: the mount point in Unicode, from a setting.

    Raises:
        ValueError: the mount point does not begin with a slash.
    """
    mount = script_name.rstrip("/")
    if mount and not mount.startswith("/"):
        raise ValueError(f"{script_name!r}, but must be empty or begin with a slash")
    return mount.encode("utf-8", "surrogateescape").decode("latin-1")


def find_path(params: Params, mount: str | None = None) -> PathSplit:
    """Return the correct SCRIPT_NAME and PATH_INFO of a request.

    Args:
        params: the params of the request.
        mount: the mount point, from `mount_point`; None to derive it from the params.

    Returns:
        SCRIPT_NAME, PATH_INFO, and the correction. Joined, the first two are the received
        SCRIPT_NAME + PATH_INFO, or the received DOCUMENT_URI. With a mount point they can also be
        the received PATH_INFO, or the mount point + PATH_INFO, if REQUEST_URI asks for that path.
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
    return _with_slash_moved(script, "") or (script, "", PathCorrection.UNCHANGED)


def _of_both(params: Params, script: str, path: str) -> PathSplit:
    """Correct a request with a PATH_INFO."""
    if path[0] == "/":
        # This is nginx with its fastcgi_params and `PATH_INFO $uri`. There is an exception: if a
        # rewrite has removed SCRIPT_NAME and the rest of the path begins with the same name,
        # REQUEST_URI contains both.
        if script and params.get("DOCUMENT_URI") == path and _asks_for(params, path):
            clear, mount = _is_clear(params), script.rstrip("/")
            if path == script and (clear or not _asks_for(params, script + path)):
                return "", path, PathCorrection.TWICE
            if path.startswith(mount + "/") and (clear or not mount):
                return mount, path[len(mount) :], PathCorrection.TWICE
        return _with_slash_moved(script, path) or (script, path, PathCorrection.UNCHANGED)
    if script[:1] != "/":
        return script, path, PathCorrection.UNCHANGED
    return _with_slash_moved(script, path) or ("", script + path, PathCorrection.SEGMENT)


def _with_slash_moved(script: str, path: str) -> PathSplit | None:
    """Move the slash at the end of SCRIPT_NAME to PATH_INFO; return None if there is none."""
    if script[-1:] != "/":
        return None
    mount = script.rstrip("/")
    return mount, script[len(mount) :] + path, PathCorrection.SLASH


def _of_one(params: Params, script: str) -> PathSplit | None:
    """Correct a request whose PATH_INFO is missing, or is empty although SCRIPT_NAME is not."""
    if "DOCUMENT_URI" in params:
        return _of_document(script, params["DOCUMENT_URI"])
    split = find_front_end(params.get("SERVER_SOFTWARE", "")).split_path
    return None if split is None else split(script, params)


def _of_document(script: str, document: str) -> PathSplit | None:
    """Split DOCUMENT_URI, which is nginx's ``$uri`` and so the whole path."""
    if document[:1] != "/":
        return None
    if script == document:
        return "", document, PathCorrection.WHOLE
    mount = script.rstrip("/")
    if not mount:
        return "", document, PathCorrection.MISSING
    if document.startswith(mount + "/"):
        return mount, document[len(mount) :], PathCorrection.MISSING
    # fastcgi_index has appended the name of a file that is not in the request.
    if document[-1] == "/" and script.startswith(document):
        return "", document, PathCorrection.MISSING
    return None


def _at(mount: str, params: Params, script: str, path: str | None) -> PathSplit:
    """Split the path of a request at the configured mount point."""
    if path is None or not (script or path):
        known = _of_document(script, params.get("DOCUMENT_URI", ""))
        whole = known[0] + known[1] if known is not None else script
    else:
        whole = script + path
        right = script == mount and path[:1] in ("/", "")
        if right and not (script and _is_below(path, mount)):
            return script, path, PathCorrection.UNCHANGED
        known = _by_address(mount, params, script, path)
        if known is not None:
            return known
    if not _is_below(whole, mount):
        return "", whole, PathCorrection.OUTSIDE
    rest = whole[len(mount) :]
    same = script == mount and (path or "") == rest
    return mount, rest, PathCorrection.UNCHANGED if same else PathCorrection.NAMED


def _by_address(mount: str, params: Params, script: str, path: str) -> PathSplit | None:
    """Correct both params according to REQUEST_URI, with a configured mount point.

    PATH_INFO is shortened, and SCRIPT_NAME replaced, only if all web servers read REQUEST_URI in
    the same way.
    """
    clear, below = _is_clear(params), _is_below(path, mount)
    unasked = path != "" and not _asks_for(params, script + path)
    if not script:
        # The web server may have removed the mount point.
        doubtful = unasked or (below and not clear)
        asked = doubtful and _asks_for(params, mount + path)
        return (mount, path, PathCorrection.NAMED) if asked else None
    document = params.get("DOCUMENT_URI") == path
    # nginx's SCRIPT_NAME is the path as well, or a single slash.
    alike = script == path or script.rstrip("/") in ("", path)
    twice = document and script != mount and alike
    # A rule of the web server has put a script before the path, or both params contain the path.
    if path and (unasked or document) and (clear or twice) and _asks_for(params, path):
        found = PathCorrection.HIDDEN if script != mount else PathCorrection.TWICE
        return (mount, path[len(mount) :], found) if below else ("", path, PathCorrection.OUTSIDE)
    # A rule of the web server has replaced the mount point with a script.
    if unasked and clear and _asks_for(params, mount + path):
        return mount, path, PathCorrection.HIDDEN
    return None


def _is_below(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount + "/") or not mount


def _asks_for(params: Params, path: str) -> bool:
    """Return whether REQUEST_URI asks for exactly this path, without a rewrite in between."""
    asked = _asked(params)
    return asked == path or (asked[:1] == "/" and path in _readings(asked))


def _is_clear(params: Params) -> bool:
    """Return whether all web servers read REQUEST_URI in the same way, except for its slashes."""
    return _is_read_alike(_asked(params))


def _asked(params: Params) -> str:
    asked: str = params.get("REQUEST_URI", "")
    return asked.partition("?")[0]


def _readings(encoded: str) -> tuple[str, ...]:
    """Return all paths that web servers make of an encoded path."""
    literal = decoded_paths(encoded)
    if "/." not in literal[0] and "//" not in literal[0]:
        return literal
    return (*literal, *_all_normalised(literal))


def _is_read_alike(encoded: str) -> bool:
    """Return whether dot segments remove the same names for every reading of the slashes."""
    if "/." not in encoded and "%" not in encoded:
        return True
    literal = decoded_paths(encoded)
    if "/." not in literal[0]:
        return True
    return len({_SLASHES.sub("/", path) for path in _all_normalised(literal)}) == 1


def _all_normalised(paths: Iterable[str]) -> list[str]:
    return [_normalised(path, merged=merged) for path in paths for merged in (True, False)]


def _normalised(path: str, *, merged: bool) -> str:
    """Remove dot segments (RFC 3986, section 5.2.4), and optionally merge repeated slashes."""
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
