"""The filters of channels: they drop items for some held requests, or change their content.

An app names the filters of a channel in Grip-Channel, and their values in Grip-Set-Meta. The
publisher adds values to the ``meta`` of an item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

NAMES: Final = ("skip-self", "skip-users", "require-sub", "build-id", "var-subst")
"""All filters."""

_CONTENT: Final = ("build-id", "var-subst")
"""Filters that change the content of an item."""


class FilterError(ValueError):
    """A filter cannot be applied. A long poll gets the status 502, and a stream ends."""


def apply(
    content: bytes,
    filters: tuple[str, ...],
    *,
    held_meta: Mapping[str, str],
    item_meta: Mapping[str, str],
    prev_ids: Mapping[str, str | None],
    content_filters: tuple[str, ...] | None = None,
) -> bytes | None:
    """Apply the filters of a channel to an item that was published on it.

    Args:
        content: what the item has for the held request.
        filters: the filters of the channel.
        held_meta: the values that the app has set for the request.
        item_meta: the values of the item.
        prev_ids: the names of the request's channels, each with its last identifier. If the channel
            of this item has one, it must already be that of the item.
        content_filters: the filters that the publisher expects to change the content; None if it
            does not say.

    Returns:
        The content to send, or None if the request does not get the item.

    Raises:
        FilterError: a value that a filter needs is missing, the content is malformed, or the
            publisher expects other filters.
    """
    if content_filters is not None:
        changing = tuple(name for name in filters if name in _CONTENT)
        if changing != content_filters:
            raise FilterError(
                f"the item expects the content filters {list(content_filters)}, but the held"
                f" request has {list(changing)}"
            )
    if any(_skips(name, held_meta, item_meta, prev_ids) for name in filters):
        return None
    for name in filters:
        if name == "build-id":
            content = _build_id(content, held_meta, prev_ids)
        elif name == "var-subst":
            content = _substitute(content, "s", held_meta.get)
    return content


def apply_to_body(body: bytes, filters: Iterable[str], held_meta: Mapping[str, str]) -> bytes:
    """Apply the filters of the channels to a body that the app itself sends to a stream.

    Only build-id changes it, and knows no identifiers there: ``%(ID)I`` is replaced.

    Raises:
        FilterError: as `apply`.
    """
    return _build_id(body, held_meta, {}) if "build-id" in filters else body


def _skips(
    name: str,
    held_meta: Mapping[str, str],
    item_meta: Mapping[str, str],
    prev_ids: Mapping[str, str | None],
) -> bool:
    user = held_meta.get("user", "")
    if name == "skip-self":
        return user != "" and item_meta.get("sender") == user
    if name == "skip-users":
        skipped = item_meta.get("skip_users", "").split(",")
        return user != "" and user in (part.strip() for part in skipped)
    if name == "require-sub":
        required = item_meta.get("require_sub", "")
        return required != "" and required not in prev_ids
    return False


def _build_id(
    content: bytes, held_meta: Mapping[str, str], prev_ids: Mapping[str, str | None]
) -> bytes:
    id_format = held_meta.get("id_format")
    if id_format is None:
        raise FilterError("build-id: Grip-Set-Meta does not set id_format")
    encoding = held_meta.get("id_encoding")
    if encoding not in (None, "hex"):
        raise FilterError(f"build-id: id_encoding is {encoding!r}, but only hex is known")
    default = _substitute(id_format.encode(), "s", prev_ids.get).decode() if prev_ids else None

    def encode(name: str) -> str | None:
        found = name or default
        return found.encode().hex() if found is not None and encoding else found

    return _substitute(content, "I", encode)


_DIRECTIVE: Final = re.compile(rb"%(?:\(((?:[^)\\]|\\.)*)\))?(.?)", re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


def _substitute(content: bytes, kind: str, value_of: Callable[[str], str | None]) -> bytes:
    """Replace ``%(NAME)s``, or ``%(ID)I`` and ``%I``; ``%%`` is a percent sign."""

    def replace(match: re.Match[bytes]) -> bytes:
        argument, directive = match[1], match[2]
        if argument is None and directive == b"%":
            return b"%"
        if directive != kind.encode() or (argument is None and kind == "s"):
            raise FilterError(
                f"{match[0]!r} is not %({'NAME' if kind == 's' else 'ID'}){kind} or %%"
            )
        name = _ESCAPED.sub(rb"\1", argument or b"").decode("utf-8", "replace")
        value = value_of(name)
        if value is None:
            raise FilterError(f"{match[0]!r} has no value")
        return value.encode()

    return _DIRECTIVE.sub(replace, content)
