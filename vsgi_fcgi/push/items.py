"""Published items: each is for a channel, in one or more formats.

Items arrive as the JSON of ``POST /publish/``, and travel in the same form between processes and
hosts.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from vsgi_fcgi.push.instruction import CONTROL, status_line, typed
from vsgi_fcgi.push.json_patch import PatchError, apply_patch, check_patch
from vsgi_fcgi.wsgi.response import TOKEN, Headers


class ItemError(ValueError):
    """A published item is malformed or too large. The text is for its publisher."""


@dataclass(frozen=True, slots=True)
class StreamPart:
    """The format ``http-stream``: content for streams.

    Attributes:
        content: the bytes.
        action: "send"; or "close", which ends the streams; or "hint", which makes streams request
            their Grip-Link.
        filters: the filters of the channel that are expected to change the content; None for any.
    """

    content: bytes = b""
    action: str = "send"
    filters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ResponsePart:
    """The format ``http-response``: the answer to long polls.

    Attributes:
        code: the HTTP status.
        reason: the reason phrase; "" for the standard one.
        headers: headers, which replace those of the same name in the app's response.
        body: the body.
        body_patch: a JSON patch (RFC 6902) for the app's body, instead of `body`; None for none.
        action: "send"; or "hint", which repeats the requests; or "close", which does nothing.
        filters: the filters of the channel that are expected to change the body; None for any.
    """

    code: int = 200
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    body_patch: Any = None
    action: str = "send"
    filters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A published item.

    Attributes:
        channel: the name of the channel.
        id: the identifier; None for none.
        prev_id: the identifier of the item before it; None if unknown.
        stream: what streams get; None for nothing.
        response: what long polls get; None for nothing.
        meta: values for filters, by name.
        size: the number of bytes of its contents.
    """

    channel: str
    id: str | None = None
    prev_id: str | None = None
    stream: StreamPart | None = None
    response: ResponsePart | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    size: int = 0


def make_item(
    channel: str,
    *,
    http_stream: bytes | str | StreamPart | None = None,
    http_response: bytes | str | ResponsePart | None = None,
    id: str | None = None,
    prev_id: str | None = None,
    meta: Mapping[str, str] | None = None,
) -> Item:
    """Return an item.

    Args:
        channel: the name of the channel.
        http_stream: what streams get.
        http_response: what long polls get: a body, or a complete response.
        id: the identifier.
        prev_id: the identifier of the item before it.
        meta: values for filters, by name.

    Raises:
        ItemError: an argument is wrong.
    """
    stream = (
        StreamPart(_bytes(http_stream)) if isinstance(http_stream, (bytes, str)) else http_stream
    )
    response = http_response
    if isinstance(response, (bytes, str)):
        response = ResponsePart(body=_bytes(response))
    item = Item(channel, id, prev_id, stream, response, dict(meta or {}), _size(stream, response))
    if stream is None and response is None:
        raise ItemError("an item needs http_stream or http_response")
    # Reading it again checks the types, and finds characters that headers must not have.
    return _item(_item_values(item), item.size)


def read_items(body: bytes, max_item_bytes: int) -> list[Item]:
    """Read the JSON of ``POST /publish/``.

    Args:
        body: ``{"items": [...]}``.
        max_item_bytes: the maximum number of bytes of the contents of an item.

    Raises:
        ItemError: the JSON is malformed, or an item is too large.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ItemError(f"the body is not JSON: {error}") from None
    values = _typed(document, dict, "the body").get("items")
    return [
        _item(_typed(value, dict, "an item"), max_item_bytes)
        for value in _typed(values, list, "'items'")
    ]


def write_items(items: list[Item]) -> bytes:
    """Return the JSON from which `read_items` reads these items.

    Items that have only formats that this server does not send, such as ws-message, are left out.
    """
    sent = [item for item in items if item.stream is not None or item.response is not None]
    values = {"items": [_item_values(item) for item in sent]}
    return json.dumps(values, separators=(",", ":")).encode()


def answer_of(part: ResponsePart, headers: Headers, body: bytes) -> tuple[str, Headers, bytes]:
    """Return the answer of a long poll that gets an item.

    Args:
        part: the item's response.
        headers: the headers of the app's response, which the answer inherits.
        body: the body of the app's response, to which a patch applies.

    Returns:
        The status, the headers without Content-Length, and the body. The filters of the channel
        are applied after this.

    Raises:
        ItemError: the patch cannot be applied.
    """
    replaced = {name.lower() for name, _ in part.headers}
    replaced.add("content-length")
    inherited = [header for header in headers if header[0].lower() not in replaced]
    own = [
        (name, value.encode().decode("latin-1"))
        for name, value in part.headers
        if name.lower() != "content-length"
    ]
    if part.body_patch is None:
        body = part.body
    else:
        try:
            body = apply_patch(body, part.body_patch)
        except PatchError as error:
            raise ItemError(f"'body-patch': {error}") from None
    reason = part.reason.encode().decode("latin-1")
    return status_line(part.code, reason), inherited + own, body


_typed = partial(typed, ItemError)


def _string(value: Any, what: str) -> str:
    text: str = _typed(value, str, what)
    _bytes(text)
    return text


def _line(value: Any, what: str) -> str:
    text = _string(value, what)
    if CONTROL.search(text):
        raise ItemError(f"{what} must not have control characters")
    return text


def _bytes(content: bytes | str) -> bytes:
    try:
        return content if isinstance(content, bytes) else content.encode()
    except UnicodeEncodeError:
        raise ItemError("a string has half of a surrogate pair") from None


def _item(values: dict[str, Any], max_item_bytes: int) -> Item:
    channel = _line(values.get("channel"), "'channel' of an item")
    # Older publishers write the formats into the item itself.
    formats = _typed(values.get("formats", values), dict, "'formats'")
    known = [name for name in ("http-stream", "http-response", "ws-message") if name in formats]
    if not known and (formats is values or not formats):
        raise ItemError(f"the item for {channel!r} has no format, such as http-stream")
    parts = {name: _typed(formats[name], dict, f"'{name}'") for name in known}
    stream = _stream(parts["http-stream"]) if "http-stream" in parts else None
    response = _response(parts["http-response"]) if "http-response" in parts else None
    size = _size(stream, response)
    if size > max_item_bytes:
        raise ItemError(
            f"the item for {channel!r} has {size} bytes, more than --max-item-bytes"
            f" ({max_item_bytes})"
        )
    meta = _typed(values.get("meta", {}), dict, "'meta'")
    return Item(
        channel,
        None if values.get("id") is None else _line(values["id"], "'id'"),
        None if values.get("prev-id") is None else _line(values["prev-id"], "'prev-id'"),
        stream,
        response,
        {name: _string(value, f"{name!r} of 'meta'") for name, value in meta.items()},
        size,
    )


def _size(stream: StreamPart | None, response: ResponsePart | None) -> int:
    size = 0 if stream is None else len(stream.content)
    if response is not None:
        size += len(response.body)
        size += sum(len(name) + len(value) for name, value in response.headers)
        if response.body_patch is not None:
            size += len(json.dumps(response.body_patch))
    return size


def _action(values: dict[str, Any], where: str) -> str:
    action: str = values.get("action", "send")
    if action not in ("send", "close", "hint"):
        raise ItemError(f"'action' of {where} must be send, close or hint")
    return action


def _content(values: dict[str, Any], name: str, where: str) -> bytes | None:
    if f"{name}-bin" in values:
        try:
            text = _typed(values[f"{name}-bin"], str, f"'{name}-bin' of {where}")
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ItemError(f"'{name}-bin' of {where} is not base64") from None
    if name in values:
        return _bytes(_typed(values[name], str, f"'{name}' of {where}"))
    return None


def _content_filters(values: dict[str, Any]) -> tuple[str, ...] | None:
    if "content-filters" not in values:
        return None
    names = _typed(values["content-filters"], list, "'content-filters'")
    return tuple(_string(name, "an element of 'content-filters'") for name in names)


def _stream(values: dict[str, Any]) -> StreamPart:
    where = "'http-stream'"
    action = _action(values, where)
    if action != "send":
        return StreamPart(action=action)
    content = _content(values, "content", where)
    if content is None:
        raise ItemError(f"{where} has neither 'content' nor 'content-bin'")
    return StreamPart(content, action, _content_filters(values))


def _response(values: dict[str, Any]) -> ResponsePart:
    where = "'http-response'"
    action = _action(values, where)
    if action != "send":
        return ResponsePart(action=action)
    code = _typed(values.get("code", 200), int, f"'code' of {where}")
    if not 200 <= code <= 999:
        raise ItemError(f"'code' of {where} must be 200 to 999, not {code}")
    body = _content(values, "body", where)
    patch = None
    if body is None:
        if "body-patch" not in values:
            raise ItemError(f"{where} has neither 'body', 'body-bin' nor 'body-patch'")
        patch = values["body-patch"]
        try:
            check_patch(patch)
        except PatchError as error:
            raise ItemError(f"'body-patch' of {where}: {error}") from None
    return ResponsePart(
        code,
        _line(values.get("reason") or "", f"'reason' of {where}"),
        _headers(values.get("headers", []), where),
        body or b"",
        patch,
        action,
        _content_filters(values),
    )


_OBEYED: Final = re.compile(r"(?i)grip-|x-accel-|x-sendfile|x-lighttpd-send-|x-reproxy-url\Z")
"""Headers that a proxy or a web server obeys, and does not pass on to clients.

With X-Sendfile, X-Accel-Redirect or X-Reproxy-URL, a web server sends a file or a page that clients
cannot request. The app may decide that, but not a publisher.
"""


def _headers(values: Any, where: str) -> tuple[tuple[str, str], ...]:
    pairs = list(values.items()) if isinstance(values, dict) else _typed(values, list, "'headers'")
    headers = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ItemError(f"'headers' of {where} must be pairs of strings")
        name = _string(pair[0], f"a name in 'headers' of {where}")
        if not TOKEN.fullmatch(name):
            raise ItemError(f"{name!r} in 'headers' of {where} is not a name of a header")
        if not _OBEYED.match(name):
            headers.append((name, _line(pair[1], f"{name!r} in 'headers' of {where}")))
    return tuple(headers)


def _item_values(item: Item) -> dict[str, Any]:
    values: dict[str, Any] = {"channel": item.channel, "formats": {}}
    if item.id is not None:
        values["id"] = item.id
    if item.prev_id is not None:
        values["prev-id"] = item.prev_id
    if item.meta:
        values["meta"] = dict(item.meta)
    if item.stream is not None:
        stream: dict[str, Any] = {"action": item.stream.action}
        if item.stream.action == "send":
            stream.update(_content_values("content", item.stream.content))
            if item.stream.filters is not None:
                stream["content-filters"] = list(item.stream.filters)
        values["formats"]["http-stream"] = stream
    if item.response is not None:
        part = item.response
        response: dict[str, Any] = {"action": part.action}
        if part.action == "send":
            response.update(code=part.code, reason=part.reason, headers=[*map(list, part.headers)])
            if part.body_patch is None:
                response.update(_content_values("body", part.body))
            else:
                response["body-patch"] = part.body_patch
            if part.filters is not None:
                response["content-filters"] = list(part.filters)
        values["formats"]["http-response"] = response
    return values


def _content_values(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}-bin": base64.b64encode(content).decode()}
