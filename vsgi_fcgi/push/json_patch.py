"""JSON patches (RFC 6902): how a published item changes the app's own response.

Everything but ``copy`` is there. A few copies of copies would make a document of any size.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_OPERATIONS: Final = ("add", "remove", "replace", "move", "test")
_MAX_OPERATIONS: Final = 1000
_MAX_DEPTH: Final = 100
"""Maximum depth of lists and objects in an operation, so that it can be copied and compared."""

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


class PatchError(ValueError):
    """A patch is malformed, or does not fit the document."""


def check_patch(patch: Any) -> None:
    """Check the form of a patch, before there is a document.

    Raises:
        PatchError: it is malformed.
    """
    if not isinstance(patch, list) or len(patch) > _MAX_OPERATIONS:
        raise PatchError(f"it must be a list of at most {_MAX_OPERATIONS} operations")
    for operation in patch:
        if not isinstance(operation, dict) or operation.get("op") not in _OPERATIONS:
            raise PatchError(f"'op' must be one of {', '.join(_OPERATIONS)}")
        paths = ("path", "from") if operation["op"] == "move" else ("path",)
        for name in paths:
            path = operation.get(name)
            if not isinstance(path, str) or (path and not path.startswith("/")):
                raise PatchError(f"{name!r} must be a JSON pointer, such as /items/0")
        if operation["op"] in ("add", "replace", "test") and "value" not in operation:
            raise PatchError(f"{operation['op']} needs a 'value'")
        if _is_deep(operation, _MAX_DEPTH):
            raise PatchError(f"an operation has more than {_MAX_DEPTH} levels")
        if operation["op"] in ("remove", "move") and not operation[paths[-1]]:
            raise PatchError(f"{operation['op']} cannot take the whole document away")


def _is_deep(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (
        not levels or any(_is_deep(each, levels - 1) for each in value)
    )


def apply_patch(body: bytes, patch: list[dict[str, Any]]) -> bytes:
    """Return a JSON document with a patch applied, in compact form, with sorted keys.

    A line end after the document stays.

    Raises:
        PatchError: the body is not an object or list in JSON, or the patch does not fit.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, (dict, list)):
        raise PatchError("the body of the app's response is not an object or a list in JSON")
    holder = [document]  # The whole document is a value of this list, so it can be replaced.
    try:
        for operation in patch:
            _apply(holder, operation)
        text = json.dumps(holder[0], separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    except RecursionError:
        raise PatchError("the patched document has too many levels") from None
    end = b"\r\n" if body.endswith(b"\r\n") else b"\n" if body.endswith(b"\n") else b""
    return text.encode("utf-8", "replace") + end


def _apply(holder: list[Any], operation: dict[str, Any]) -> None:
    kind, path = operation["op"], operation["path"]
    if kind == "move":
        if path.startswith(operation["from"] + "/"):
            raise PatchError(f"{operation['from']!r} cannot move into itself")
        _add(holder, path, _remove(holder, operation["from"]))
    elif kind == "add":
        _add(holder, path, _copy(operation["value"]))
    elif kind == "remove":
        _remove(holder, path)
    else:
        parent, key = _find(holder, path)
        if kind == "replace":
            parent[key] = _copy(operation["value"])
        elif parent[key] != operation["value"]:
            raise PatchError(f"test: {path!r} has another value")


def _copy(value: Any) -> Any:
    """Copy a value of a patch, which other responses use as well.

    A later operation may change a value that this one has put into the document.
    """
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _add(holder: list[Any], path: str, value: Any) -> None:
    parent, key = _parent(holder, path)
    if isinstance(parent, dict) or parent is holder:
        parent[key] = value
    else:
        parent.insert(len(parent) if key == "-" else _index(key, len(parent), path), value)


def _remove(holder: list[Any], path: str) -> Any:
    parent, key = _find(holder, path)
    return parent.pop(key)


def _find(holder: list[Any], path: str) -> tuple[Any, Any]:
    """Return what holds an existing value, and its key or index."""
    parent, key = _parent(holder, path)
    if isinstance(parent, dict):
        if key not in parent:
            raise PatchError(f"{path!r} is not in the document")
    elif parent is not holder:
        key = _index(key, len(parent) - 1, path)
    return parent, key


def _parent(holder: list[Any], path: str) -> tuple[Any, Any]:
    if not path:
        return holder, 0
    *steps, last = (step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/"))
    value = holder[0]
    for step in steps:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list):
            value = value[_index(step, len(value) - 1, path)]
        else:
            raise PatchError(f"{path!r} is not in the document")
    if not isinstance(value, (dict, list)):
        raise PatchError(f"{path!r} is not in the document")
    return value, last


def _index(step: str, highest: int, path: str) -> int:
    # RFC 6901 has no leading zeros.
    if not _INDEX.fullmatch(step) or int(step) > highest:
        raise PatchError(f"{path!r} is not in the document")
    return int(step)
