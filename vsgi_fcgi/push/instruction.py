"""What an app wants done with a request: the instruction in its response.

An app answers as usual, and adds headers that begin with ``Grip-``, or sends a body of the type
``application/grip-instruct``. Both become a `Hold`. docs/topics/push.md describes the headers, and
where this server is stricter than Pushpin.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from vsgi_fcgi.push.config import RESPONSE_TIMEOUT
from vsgi_fcgi.push.filters import NAMES
from vsgi_fcgi.wsgi.response import TOKEN, Headers

_MIN_TIMEOUT: Final = 5
_KEEP_ALIVE_TIMEOUT: Final = 55
_NEXT_TIMEOUT: Final = 120
_MAX_SECONDS: Final = 2**31 - 1

INSTRUCT_TYPE: Final = "application/grip-instruct"


class InstructionError(ValueError):
    """The instruction of an app is wrong. Its client gets the status 502."""


@dataclass(slots=True)
class HeldChannel:
    """A channel on which a request is held.

    Attributes:
        name: the name.
        prev_id: the identifier of the last item that the client has got, if the app has named one.
            An item that does not follow it is a sign that others were missed.
        filters: names of filters that each item for this channel passes.
        last_id: the identifier of the last item that was sent to the client, so that it does not
            get that item twice.
    """

    name: str
    prev_id: str | None = None
    filters: tuple[str, ...] = ()
    last_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Bytes that keep a silent stream from looking like a dead connection.

    Attributes:
        content: the bytes.
        timeout: seconds between two of them.
        interval: send it after each interval, and not only after a pause of that length.
    """

    content: bytes
    timeout: int
    interval: bool = False


@dataclass(slots=True)
class Hold:
    """How a request is held.

    Attributes:
        stream: the response continues with published items; otherwise the first published item
            is the response (long polling).
        channels: the channels.
        timeout: seconds after which a long poll is answered with the app's own response.
        keep_alive: bytes that a stream gets in pauses; None for none.
        next_uri: what to request from the app when items were missed, as a reference relative to
            the URI of the request; None for nothing.
        next_timeout: seconds after which ``next_uri`` is requested without a reason.
        follow: do not hold; request ``next_uri`` as soon as the body is sent, and continue the
            response with that body. This is a Grip-Link without a Grip-Hold.
        gone_uri: what to request from the app when the client has gone; None for nothing.
        meta: values for filters, by name.
    """

    stream: bool
    channels: list[HeldChannel] = field(default_factory=list)
    timeout: float = RESPONSE_TIMEOUT
    keep_alive: KeepAlive | None = None
    next_uri: str | None = None
    next_timeout: int = _NEXT_TIMEOUT
    follow: bool = False
    gone_uri: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


def wants_instruction(headers: Headers) -> bool:
    """Return whether a response has an instruction. This is called for each response."""
    for name, value in headers:
        # Most names are neither Grip-… nor Content-…, and this comparison is the cheapest one.
        if name[:1] in "GgCc":
            lower = name.lower()
            if lower[:5] == "grip-" or (lower == "content-type" and is_instruct(value)):
                return True
    return False


def is_instruct(content_type: str) -> bool:
    """Return whether a body of this type is an instruction."""
    lower = content_type.lower()
    return "grip" in lower and lower.partition(";")[0].strip() == INSTRUCT_TYPE


def read_headers(
    status: str, headers: Headers, max_channels: int
) -> tuple[str, Headers, Hold | None]:
    """Read the instruction in the headers of a response.

    Args:
        status: the status line of the app, such as "200 OK".
        headers: the headers of the app.
        max_channels: the maximum number of channels.

    Returns:
        The status and the headers to send, and how to hold the request. None does not hold it.
        Headers that begin with ``Grip-`` are removed. Content-Length is also removed if the
        response continues after the body.

    Raises:
        InstructionError: the instruction is wrong.
    """
    status, kept, read, mode = _read(status, headers)
    hold = _finish(read, mode, max_channels)
    return status, _without_length(kept, hold), hold


def read_instruct(
    status: str, headers: Headers, body: bytes, max_channels: int
) -> tuple[str, Headers, bytes, Hold | None]:
    """Read a body of the type ``application/grip-instruct``.

    Headers that begin with ``Grip-`` also count. The body takes precedence.

    Args:
        status: the status line of the app, such as "200 OK".
        headers: the headers of the app.
        body: the complete body.
        max_channels: the maximum number of channels.

    Returns:
        The status, headers and body to send, and how to hold the request.

    Raises:
        InstructionError: the instruction is wrong.
    """
    if status[:3] != "200":
        raise InstructionError(f"{INSTRUCT_TYPE}: the status is {status!r}, but must be 200")
    status, _, read, mode = _read(status, headers)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InstructionError(f"{INSTRUCT_TYPE}: the body is not JSON: {error}") from None
    document = _typed(document, dict, "the body")
    if "hold" not in document and "response" not in document:
        raise InstructionError(f"{INSTRUCT_TYPE}: the body has neither 'hold' nor 'response'")
    if "hold" in document:
        mode = _read_hold(_typed(document["hold"], dict, "'hold'"), read)
    response = _typed(document.get("response", {}), dict, "'response'")
    status, kept, body = _read_response(response, status)
    hold = _finish(read, mode, max_channels)
    return status, _without_length(kept, hold), body, hold


def _finish(hold: Hold, mode: str | None, max_channels: int) -> Hold | None:
    """Check an instruction. Return None if nothing follows the response."""
    if mode is None:
        if hold.next_uri is None:
            return None
        hold.stream = hold.follow = True
        hold.channels = []
        return hold
    hold.stream = mode == "stream"
    if len(hold.channels) > max_channels:
        raise InstructionError(
            f"Grip-Channel: {len(hold.channels)} channels are more than --max-channels"
            f" ({max_channels})"
        )
    if hold.stream and hold.next_uri is None:
        for channel in hold.channels:
            if channel.prev_id is not None:
                raise InstructionError(
                    f"Grip-Channel: {channel.name!r} has a prev-id, so a stream needs a Grip-Link"
                    " with rel=next, from which missed items are requested"
                )
    return hold


def _without_length(headers: Headers, hold: Hold | None) -> Headers:
    if hold is None or not hold.stream:
        return headers
    return [header for header in headers if header[0].lower() != "content-length"]


def _read(status: str, headers: Headers) -> tuple[str, Headers, Hold, str | None]:
    """Return the status, the headers to send, what the Grip- headers say, and the kind of hold."""
    kept: Headers = []
    exposed: set[str] = set()
    hold = Hold(stream=False)
    mode: str | None = None
    channels: dict[str, HeldChannel] = {}
    meta: dict[str, str] = {}
    seen: set[str] = set()
    for header in headers:
        name, value = header[0].lower(), header[1]
        if not name.startswith("grip-"):
            kept.append(header)
            continue
        value = _text(value).strip()
        first = name not in seen  # Of a header that is not a list, the first one counts.
        seen.add(name)
        if name == "grip-channel":
            for element in filter(None, _split("Grip-Channel", value, _COMMA)):
                channel = _channel(element)
                channels[channel.name] = channel
        elif name == "grip-set-meta":
            for element in filter(None, _split("Grip-Set-Meta", value, _COMMA)):
                meta.update(_parameters("Grip-Set-Meta", element)[:1])
        elif name == "grip-link":
            _read_links(value, hold)
        elif name == "grip-expose-headers":
            exposed.update(part.strip().lower() for part in value.split(","))
        elif first and name == "grip-hold":
            mode = _mode("Grip-Hold", value)
        elif first and name == "grip-timeout":
            hold.timeout = max(_seconds("Grip-Timeout", value), _MIN_TIMEOUT)
        elif first and name == "grip-keep-alive":
            hold.keep_alive = _keep_alive(value)
        elif first and name == "grip-status":
            status = _status(header[1].strip())
    hold.channels = list(channels.values())
    hold.meta = meta
    if exposed:
        kept = [header for header in kept if header[0].lower() in exposed]
    return status, kept, hold, mode


def _text(value: str) -> str:
    """Return what an app has put into a header as UTF-8; WSGI has its bytes as Latin-1."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


_COMMA: Final = re.compile(r'[^",]*(?:"(?:[^"\\]|\\.)*"[^",]*)*')
_SEMICOLON: Final = re.compile(r'[^";]*(?:"(?:[^"\\]|\\.)*"[^";]*)*')
_LINK: Final = re.compile(r'\s*<([^>]+)>([^",]*(?:"(?:[^"\\]|\\.)*"[^",]*)*)(?:,|\Z)')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def _split(header: str, value: str, pattern: re.Pattern[str]) -> list[str]:
    """Split at commas or semicolons that are not in quotes."""
    parts = []
    position = 0
    while position <= len(value):
        match = pattern.match(value, position)
        assert match is not None  # It also matches nothing.
        if match.end() < len(value) and value[match.end()] == '"':
            raise InstructionError(f'{header}: {value!r} has an opening " without a closing one')
        parts.append(match[0].strip())
        position = match.end() + 1
    return parts


def _parameters(header: str, text: str) -> list[tuple[str, str]]:
    """Return the parts ``NAME=VALUE`` of a text; a part without ``=`` has the value ""."""
    pairs = []
    for part in _split(header, text, _SEMICOLON):
        name, _, value = part.partition("=")
        quoted = _QUOTED.match(value.strip())
        pairs.append((name.strip(), _ESCAPED.sub(r"\1", quoted[1]) if quoted else value.strip()))
    return pairs


def _channel(element: str) -> HeldChannel:
    name, _, rest = element.partition(";")
    channel = HeldChannel(name.strip())
    filters = []
    for key, value in _parameters("Grip-Channel", rest):
        if key.lower() == "prev-id":
            channel.prev_id = value
        elif key.lower() == "filter":
            filters.append(value)
    channel.filters = _filters(channel.name, filters)
    return channel


def _filters(channel: str, filters: list[str]) -> tuple[str, ...]:
    for name in filters:
        if name not in NAMES:
            raise InstructionError(
                f"Grip-Channel: {channel!r} has the filter {name!r}; filters are {', '.join(NAMES)}"
            )
    return tuple(filters)


def _mode(where: str, value: str) -> str:
    if value not in ("response", "stream"):
        raise InstructionError(f"{where}: {value!r} must be 'response' or 'stream'")
    return value


def _seconds(where: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > _MAX_SECONDS:
        raise InstructionError(f"{where}: {value!r} is not a number of seconds")
    return int(value)


def _status(value: str) -> str:
    code, _, reason = value.partition(" ")
    if len(code) != 3 or not (code.isascii() and code.isdigit()) or code < "200":
        raise InstructionError(f"Grip-Status: {value!r} does not begin with a status of 200 to 999")
    return status_line(int(code), reason)


def status_line(code: int, reason: str) -> str:
    """Return the status line for a code. Without a reason, use the standard one."""
    if not reason:
        try:
            reason = HTTPStatus(code).phrase
        except ValueError:
            reason = "Undefined Reason"
    return f"{code} {reason}"


def _keep_alive(value: str) -> KeepAlive:
    # The content is everything before the first semicolon, with its quotes.
    content, _, rest = value.partition(";")
    content = content.strip()
    where = "Grip-Keep-Alive"
    if not content:
        raise InstructionError(f"{where}: the content is empty; use format=cstring for '\\n'")
    parameters = {name.lower(): text for name, text in _parameters(where, rest)}
    kind = parameters.get("format") or "raw"
    mode = parameters.get("mode") or "idle"
    if mode not in ("idle", "interval"):
        raise InstructionError(f"{where}: mode={mode!r} must be idle or interval")
    if kind == "raw":
        data = content.encode()
    elif kind == "cstring":
        data = _cstring(content)
    elif kind == "base64":
        data = _base64(where, content)
    else:
        raise InstructionError(f"{where}: format={kind!r} must be raw, cstring or base64")
    seconds = _KEEP_ALIVE_TIMEOUT
    if "timeout" in parameters:
        seconds = max(_seconds(f"{where}; timeout", parameters["timeout"]), 1)
    return KeepAlive(data, seconds, mode == "interval")


_CSTRING: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_CSTRING_ESCAPES: Final = {b"\\": b"\\", b"r": b"\r", b"n": b"\n"}


def _cstring(text: str) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes((int(match[1], 16),))
        if match[2] not in _CSTRING_ESCAPES:
            raise InstructionError(
                f"Grip-Keep-Alive: {text!r} has an unknown escape; format=cstring has \\\\,"
                " \\r, \\n and \\xHH"
            )
        return _CSTRING_ESCAPES[match[2]]

    return _CSTRING.sub(replace, text.encode())


def _base64(where: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        raise InstructionError(f"{where}: {text!r} is not base64") from None


def _read_links(value: str, hold: Hold) -> None:
    position = 0
    while position < len(value):
        match = _LINK.match(value, position)
        if match is None:
            raise InstructionError(f"Grip-Link: {value!r} is not of the form <URI>; rel=next")
        position = match.end()
        parameters = {name.lower(): text for name, text in _parameters("Grip-Link", match[2])}
        rel = parameters.get("rel")
        if rel == "next":
            hold.next_uri = match[1].strip()
            hold.next_timeout = _NEXT_TIMEOUT
            if "timeout" in parameters:
                hold.next_timeout = _seconds("Grip-Link; timeout", parameters["timeout"])
        elif rel == "gone":
            hold.gone_uri = match[1].strip()


_KINDS: Final = {dict: "an object", list: "a list", str: "a string", int: "a number"}


def typed(wrong: Callable[[str], ValueError], value: Any, kind: type, what: str) -> Any:
    """Return a value of a JSON document if it has this type.

    Args:
        wrong: makes the exception if it has another one.
        value: the value.
        kind: the type.
        what: the name of the value, for the message.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise wrong(f"{what} must be {_KINDS[kind]}")
    return value


def _wrong(text: str) -> InstructionError:
    return InstructionError(f"{INSTRUCT_TYPE}: {text}")


_typed = partial(typed, _wrong)


def _string(value: Any, what: str) -> str:
    text: str = _typed(value, str, what)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InstructionError(f"{INSTRUCT_TYPE}: {what} has half of a surrogate pair") from None
    return text


def _json_seconds(values: dict[str, Any], where: str) -> int:
    seconds = _typed(values["timeout"], int, f"'timeout' of {where}")
    if not 0 <= seconds <= _MAX_SECONDS:
        raise InstructionError(f"{INSTRUCT_TYPE}: 'timeout' of {where} must not be {seconds}")
    return int(seconds)


def _read_hold(values: dict[str, Any], hold: Hold) -> str:
    mode = _mode("'mode' of 'hold'", _typed(values.get("mode", "response"), str, "'mode'"))
    if "channels" not in values:
        raise InstructionError(f"{INSTRUCT_TYPE}: 'hold' must have 'channels'")
    channels = {channel.name: channel for channel in hold.channels}
    for entry in _typed(values["channels"], list, "'channels'"):
        entry = _typed(entry, dict, "an element of 'channels'")
        channel = HeldChannel(_string(entry.get("name"), "'name' of a channel"))
        if entry.get("prev-id") is not None:
            channel.prev_id = _string(entry["prev-id"], "'prev-id' of a channel")
        filters = _typed(entry.get("filters", []), list, "'filters' of a channel")
        channel.filters = _filters(
            channel.name, [_typed(name, str, "a filter") for name in filters]
        )
        channels[channel.name] = channel
    hold.channels = list(channels.values())
    if "timeout" in values:
        hold.timeout = max(_json_seconds(values, "'hold'"), _MIN_TIMEOUT)
    if "keep-alive" in values:
        keep_alive = _typed(values["keep-alive"], dict, "'keep-alive'")
        content = _json_bytes(keep_alive, "content", "'keep-alive'") or b""
        seconds = _KEEP_ALIVE_TIMEOUT
        if "timeout" in keep_alive:
            seconds = max(_json_seconds(keep_alive, "'keep-alive'"), 1)
        hold.keep_alive = KeepAlive(content, seconds)
    meta = _typed(values.get("meta", {}), dict, "'meta'")
    for name, value in meta.items():
        _string(name, "a name in 'meta'")
        _string(value, "'meta'")
    hold.meta = {**hold.meta, **meta}
    return mode


def _json_bytes(values: dict[str, Any], name: str, where: str) -> bytes | None:
    if f"{name}-bin" in values:
        what = f"'{name}-bin' of {where}"
        return _base64(what, _typed(values[f"{name}-bin"], str, what))
    if name in values:
        text: str = _typed(values[name], str, f"'{name}' of {where}")
        return text.encode("utf-8", "replace")
    return None


def _read_response(values: dict[str, Any], status: str) -> tuple[str, Headers, bytes]:
    if "code" in values:
        code = _typed(values["code"], int, "'code'")
        if not 200 <= code <= 999:
            raise InstructionError(f"{INSTRUCT_TYPE}: 'code' must be 200 to 999, not {code}")
        status = status_line(code, "")
    if values.get("reason"):
        status = f"{status[:3]} {_header_text(_typed(values['reason'], str, 'reason'))}"
    given = values.get("headers", [])
    pairs = list(given.items()) if isinstance(given, dict) else _typed(given, list, "'headers'")
    headers: Headers = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InstructionError(f"{INSTRUCT_TYPE}: 'headers' must be pairs of strings")
        name, value = (_typed(part, str, "a part of 'headers'") for part in pair)
        if not TOKEN.fullmatch(name):
            raise InstructionError(f"{INSTRUCT_TYPE}: {name!r} is not a name of a header")
        headers.append((name, _header_text(value)))
    return status, headers, _json_bytes(values, "body", "'response'") or b""


CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _header_text(text: str) -> str:
    """Return a text of a JSON document as WSGI has it in headers."""
    if CONTROL.search(text):
        raise InstructionError(f"{INSTRUCT_TYPE}: {text!r} has a control character")
    return text.encode("utf-8", "replace").decode("latin-1")
