"""Fuzz what apps and publishers write: GRIP instructions, items, filters and JSON patches."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

from fuzz.driver import Target
from fuzz.pieces import TEXTS, Choices
from vsgi_fcgi.push.filters import NAMES, FilterError, apply, apply_to_body
from vsgi_fcgi.push.instruction import (
    Hold,
    InstructionError,
    read_headers,
    read_instruct,
    wants_instruction,
)
from vsgi_fcgi.push.items import ItemError, answer_of, read_items, write_items
from vsgi_fcgi.push.json_patch import PatchError, apply_patch, check_patch
from vsgi_fcgi.push.signature import Signer

MAX_CHANNELS = 4
MAX_ITEM_BYTES = 1000
INSTRUCT = ("Content-Type", "application/grip-instruct")


def _lines(data: bytes) -> list[bytes]:
    """Return the parts of an input that has several."""
    return data.split(b"\n")


def _check_sentence(error: Exception) -> None:
    """Check that a text can be logged, and is one line of the log."""
    assert str(error).isprintable(), error
    str(error).encode()


_CHOICES = b"\0"
"""The first byte of an input that is read as choices."""

_PATHS = (
    "/a",
    "",
    "/a/0",
    "/a/-",
    "/b",
    "/0",
    "/-",
    "/a/b",
    "/a~1~0",
    "/",
    "a",
    "/\u00e9",
    "/x\ny",
)


def _operation(choices: Choices) -> dict[str, Any]:
    operation = choices.some(
        {
            "from": lambda: choices.pick(_PATHS),
            "value": choices.value,
            "path": lambda: choices.pick((*_PATHS, None)),
        }
    )
    kinds = ("add", "remove", "replace", "move", "test", "copy")
    return {"path": choices.pick(_PATHS), "op": choices.pick(kinds), **operation}


def _published(choices: Choices) -> bytes:
    def text() -> Any:
        return choices.value(0) if choices.number(8) == 1 else choices.pick(TEXTS)

    def part() -> Any:
        return choices.some(
            {
                "content": text,
                "body": text,
                "content-bin": text,
                "body-bin": text,
                "body-patch": lambda: [_operation(choices) for _ in range(choices.number(4))],
                "action": lambda: choices.pick(("send", "close", "hint", 1)),
                "code": lambda: choices.pick((200, 999, 100, 404, "200")),
                "reason": text,
                "headers": choices.value,
                "content-filters": lambda: [text() for _ in range(choices.number(3))],
            }
        )

    def item() -> dict[str, Any]:
        formats = choices.some(dict.fromkeys(("http-stream", "http-response", "ws-x"), part))
        more = choices.some(
            {"id": text, "prev-id": text, "meta": choices.value, "formats": choices.value}
        )
        return {"channel": text(), "formats": formats, **more}

    return json.dumps({"items": [item() for _ in range(choices.number(4))]}).encode()


def _instruction(choices: Choices) -> bytes:
    def text() -> Any:
        return choices.value(0) if choices.number(8) == 1 else choices.pick(TEXTS)

    def channel() -> dict[str, Any]:
        filters = [choices.pick((*NAMES, "x")) for _ in range(choices.number(3))]
        return {"name": text(), "filters": filters, **choices.some({"prev-id": text})}

    hold = {"channels": [channel() for _ in range(choices.number(MAX_CHANNELS + 2))]}
    hold |= choices.some(
        {
            "mode": lambda: choices.pick(("stream", "response", "x")),
            "timeout": choices.value,
            "keep-alive": lambda: choices.some(
                {"content": text, "content-bin": text, "timeout": lambda: choices.value(0)}
            ),
            "meta": choices.value,
        }
    )
    response = choices.some(
        {
            "code": lambda: choices.pick((200, 999, 100, "200")),
            "reason": text,
            "headers": choices.value,
            "body": text,
            "body-bin": text,
        }
    )
    return json.dumps({"hold": hold, "response": response}).encode()


def grip(data: bytes) -> object:
    """Read the instruction of an app: a line for each header, then perhaps a body or its choices.

    - Only InstructionError leaves it, and its text can be logged.
    - A response keeps no Grip- header, and has no more channels than allowed.
    - An accepted instruction is encoded as a body, which gives the same instruction.
    - All its texts can be encoded: they go to other processes and into bodies.
    """
    head, _, body = data.partition(b"\n\n")
    if body.startswith(_CHOICES):
        body = _instruction(Choices(body[1:]))
    headers = []
    for line in _lines(head):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value))
    found = []
    try:
        assert wants_instruction(headers) or not any(
            name.lower().startswith("grip-") for name, _ in headers
        )
        found.append(read_headers("200 OK", headers, MAX_CHANNELS))
    except InstructionError as error:
        _check_sentence(error)
    if body:
        try:
            status, kept, _, hold = read_instruct("200 OK", headers, body, MAX_CHANNELS)
            found.append((status, kept, hold))
        except InstructionError as error:
            _check_sentence(error)
    for status, _, hold in found:
        status.encode("latin-1")
        assert status[:3].isdecimal()
        if hold is not None:
            _check_hold(hold)
    if found and body == b"":
        assert not any(name.lower().startswith("grip-") for name, _ in found[0][1])
    return len(found), *(_shape(hold) for _, _, hold in found)


def _shape(hold: Hold | None) -> object:
    if hold is None:
        return None
    keep = hold.keep_alive and (hold.keep_alive.interval, hold.keep_alive.timeout == 55)
    return (
        hold.stream,
        len(hold.channels),
        keep,
        hold.follow,
        hold.next_uri is None,
        hold.gone_uri is None,
        len(hold.meta),
        *(len(each.filters) for each in hold.channels),
    )


def _check_hold(hold: Hold) -> None:
    assert len(hold.channels) <= MAX_CHANNELS
    assert len({channel.name for channel in hold.channels}) == len(hold.channels)
    for text in (hold.next_uri or "", hold.gone_uri or "", *hold.meta, *hold.meta.values()):
        text.encode()
    for channel in hold.channels:
        channel.name.encode()
        (channel.prev_id or "").encode()
        for name in channel.filters:
            assert name in NAMES
    if hold.follow:
        return
    values: dict[str, Any] = {
        "mode": "stream" if hold.stream else "response",
        "channels": [
            {"name": each.name, "prev-id": each.prev_id, "filters": list(each.filters)}
            for each in hold.channels
        ],
        "timeout": hold.timeout,
        "meta": dict(hold.meta),
    }
    keep_alive = hold.keep_alive
    if keep_alive is not None:
        content = base64.b64encode(keep_alive.content).decode()
        values["keep-alive"] = {"content-bin": content, "timeout": keep_alive.timeout}
        hold = replace(hold, keep_alive=replace(keep_alive, interval=False))
    links = [
        ("Grip-Link", f"<{uri.encode().decode('latin-1')}>; rel={rel}{more}")
        for uri, rel, more in (
            (hold.next_uri, "next", f"; timeout={hold.next_timeout}"),
            (hold.gone_uri, "gone", ""),
        )
        if uri is not None
    ]
    body = json.dumps({"hold": values}).encode()
    again = read_instruct("200 OK", [INSTRUCT, *links], body, MAX_CHANNELS)[3]
    assert again == hold, (again, hold)


def items(data: bytes) -> object:
    """Read published items, or those of some choices, and deliver them.

    - Only ItemError leaves `read_items` and `answer_of`, and its text can be logged.
    - No item is larger than allowed.
    - Accepted items can be encoded and read again, and are the same.
    - Items that answer one request answer the next one in the same way.
    """
    if data.startswith(_CHOICES):
        data = _published(Choices(data[1:]))
    try:
        found = read_items(data, MAX_ITEM_BYTES)
    except ItemError as error:
        _check_sentence(error)
        return str(error)[:9]
    encoded = write_items(found)
    known = [item for item in found if item.stream is not None or item.response is not None]
    again = read_items(encoded, MAX_ITEM_BYTES)
    # A patch may have a NaN, which is not equal to itself.
    assert repr(again) == repr(known), (again, known)
    shape = []
    for item in found:
        assert item.size <= MAX_ITEM_BYTES
        part = item.response
        shape.append((item.stream is None, part is None, item.id is None, len(item.meta)))
        if part is None or part.action != "send":
            continue
        headers = [("ETag", "x"), ("Content-Length", "9")]
        answers = []
        for body in (b'{"a":[1,{}],"":0}\n', b'{"a":[1,{}],"":0}\n', b"[[], 1]", b"x"):
            try:
                status, out, content = answer_of(part, headers, body)
            except ItemError as error:
                _check_sentence(error)
                answers.append(b"refused")
                continue
            status.encode("latin-1")
            for name, value in out:
                f"{name}: {value}".encode("latin-1")
                assert not {"\r", "\n", "\0"} & set(name + value)
                assert name.lower() != "content-length"
            answers.append(content)
        assert answers[0] == answers[1], answers
    assert write_items(found) == encoded
    return len(found), *shape[:5]


def json_patch(data: bytes) -> object:
    """Check a patch, and apply it to the document in the other line, or to those of some choices.

    - Only PatchError leaves it, and its text can be logged.
    - The result is JSON, and no longer than the document and the patch together.
    - A patch is not changed by its use.
    """
    text, _, body = data.partition(b"\n")
    if data.startswith(_CHOICES):
        choices = Choices(data[1:])
        body = json.dumps(choices.value()).encode()
        text = json.dumps([_operation(choices) for _ in range(choices.number(6))]).encode()
    try:
        patch = json.loads(text)
    except (ValueError, RecursionError):
        return None
    try:
        check_patch(patch)
    except PatchError as error:
        _check_sentence(error)
        return str(error)[:9]
    before = json.dumps(patch)
    try:
        result = apply_patch(body, patch)
    except PatchError as error:
        _check_sentence(error)
        result = b""
    assert json.dumps(patch) == before
    if not result:
        return "unfit"
    json.loads(result)
    # A character of the patch may be escaped there, or have six times its size here.
    assert len(result) <= 6 * (len(text) + len(body)), result
    return tuple(operation["op"] for operation in patch[:9])


def filters(data: bytes) -> object:
    """Apply the filters that the first line names to a content, with the values in other lines.

    - Only FilterError leaves them, and its text can be logged.
    - Filters that only decide do not change the content.
    - The same content, filters and values give the same result.
    """
    names, user, id_format, encoding, sender, *rest = [*_lines(data), b"", b"", b"", b"", b""]
    content = b"\n".join(rest)
    wanted = tuple(NAMES[byte % len(NAMES)] for byte in names[:6])
    texts = [part.decode("utf-8", "replace") for part in (user, id_format, encoding, sender)]
    held = {"user": texts[0], "id_format": texts[1], "a": "1", texts[0]: texts[1]}
    if texts[2]:
        held["id_encoding"] = texts[2]
    item = {"sender": texts[3], "skip_users": texts[3], "require_sub": texts[3]}
    shape: list[object] = list(wanted)
    for _ in range(2):
        try:
            result = apply(
                content, wanted, held_meta=held, item_meta=item, prev_ids={"a": "1", "b": None}
            )
            apply_to_body(content, wanted, held)
        except FilterError as error:
            _check_sentence(error)
            shape.append(str(error)[:9])
            continue
        if not set(wanted) & {"build-id", "var-subst"}:
            assert result is None or result == content
        shape.append((result is None, result == content))
    assert shape[-1] == shape[-2]
    return tuple(shape)


def signature(data: bytes) -> object:
    """Sign with a key and an issuer, which a JSON Web Token must give back to who has the key."""
    key, _, issuer = data.partition(b"\n")
    name = issuer.decode("utf-8", "surrogateescape")
    signer = Signer(key, name)
    token = signer.token(1e9)
    assert signer.token(1e9 + 59) == token
    signed, _, mac = token.rpartition(".")
    parts = [base64.urlsafe_b64decode(part + "===") for part in token.split(".")]
    assert parts[2] == hmac.new(key, signed.encode(), hashlib.sha256).digest()
    assert json.loads(parts[0]) == {"typ": "JWT", "alg": "HS256"}
    assert json.loads(parts[1]) == {"iss": name, "exp": 10**9 + 3600}
    assert "=" not in token
    assert mac
    return len(token) % 4


_WORDS = (
    b'"',
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"\xc3\xa9",
    b"1" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"[" * 970,
    b"]" * 970,
    b"\n",
)
_OPERATIONS = tuple(
    json.dumps(operation).encode()
    for operation in (
        {"op": "add", "path": "/a", "value": []},
        {"op": "add", "path": "/a/-", "value": 1},
        {"op": "add", "path": "", "value": {"a": [1]}},
        {"op": "remove", "path": "/a/0"},
        {"op": "replace", "path": "/a~1~0", "value": "\ud800"},
        {"op": "move", "path": "/b", "from": "/a"},
        {"op": "test", "path": "/a", "value": [1, {}]},
    )
)


def _item(**formats: Any) -> bytes:
    named = {name.replace("_", "-"): value for name, value in formats.items()}
    item = {"channel": "a", "id": "1", "prev-id": "0", "meta": {"sender": "u"}, "formats": named}
    return json.dumps({"items": [item]}).encode()


TARGETS = (
    Target(
        "grip",
        grip,
        (
            b"Grip-Hold: stream\nGrip-Channel: a; prev-id=1; filter=skip-self, b\n"
            b'Grip-Link: </n>; rel=next; timeout=3, </g>; rel=gone\nGrip-Set-Meta: user="x"',
            b"Grip-Hold: response\nGrip-Channel: \xc3\xa9\nGrip-Timeout: 20\nGrip-Status: 304\n"
            b"Grip-Expose-Headers: ETag\nETag: x\nContent-Length: 5",
            b"Grip-Keep-Alive: \\n\\x41; format=cstring; timeout=9; mode=interval\n"
            b"Grip-Hold: stream",
            b"Grip-Keep-Alive: OgoK; format=base64\nGrip-Hold: stream",
            b"Grip-Link: </next>; rel=next",
            b"Content-Type: application/grip-instruct\n\n"
            + json.dumps(
                {
                    "hold": {
                        "mode": "stream",
                        "channels": [{"name": "a", "filters": ["var-subst"]}, {"name": "b"}],
                        "keep-alive": {"content": "x", "timeout": 7},
                        "meta": {"id_format": "%(a)s"},
                    },
                    "response": {"code": 202, "reason": "Ok", "headers": {"X": "y"}, "body": "b"},
                }
            ).encode(),
            b"Grip-Link: </n>; rel=next\n\n\0" + bytes(range(1, 90)),
            b'Grip-Set-Meta: a=b\n\n{"response":{"headers":[["A","b"]],"body-bin":"/w=="}}',
        ),
        (
            b"Grip-Hold: stream\n",
            b"Grip-Channel: ",
            b"Grip-Link: ",
            b"; prev-id=",
            b"; filter=",
            b"</a>; rel=next",
            b"Grip-Timeout: 9\n",
            b"Grip-Status: 2\n",
            b'"prev-id":"1"',
            b"\n\n",
            b'"timeout":9',
            b'{"hold":{"channels":[]}}',
            b'"meta":{"a":"b"}',
            b'"content-bin":"/w=="',
            b'\\"',
            b'="',
            b";",
            *_WORDS,
        ),
        {
            "base64 that is not ASCII": (
                b"Grip-Hold: stream\nGrip-Keep-Alive: \xfc; format=base64"
            ),
            "half of a surrogate pair": b'\n\n{"hold":{"channels":[{"name":"\\ud800"}]}}',
        },
    ),
    Target(
        "items",
        items,
        (
            b"\0" + bytes(range(1, 90)),
            _item(http_stream={"content": "x\u00e9"}, ws_message={}),
            _item(http_stream={"content-bin": "/w==", "content-filters": []}),
            _item(http_stream={"action": "close"}, http_response={"action": "hint"}),
            _item(http_response={"code": 404, "headers": {"A": "b", "Grip-X": "c"}, "body": "y"}),
            _item(http_response={"body-patch": list(map(json.loads, _OPERATIONS[:2]))}),
            b'{"items":[{"channel":"a","http-stream":{"content":""}},{"channel":"b","ws":1,'
            b'"http-response":{"body-bin":"AA==","reason":"r","headers":[["x","y"]]}}]}',
        ),
        (
            b'"body-patch":[',
            b'"http-stream":',
            b'"content":',
            b'"headers":{"A":"b"}',
            b'"code":200',
            b'"content-filters":["var-subst"]',
            *_OPERATIONS,
            *_WORDS,
        ),
        {
            "a patch that changes its own value": _item(
                http_response={"body-patch": list(map(json.loads, _OPERATIONS[:2]))}
            ),
            "a format of another server only": _item(ws_message={}),
        },
    ),
    Target(
        "json-patch",
        json_patch,
        (
            *tuple(b"[" + each + b'] \n{"a":[1,{}],"a/~":2}\r\n' for each in _OPERATIONS),
            b"[" + b",".join(_OPERATIONS[:2]) + b"]\n[]",
            b"\0" + bytes(range(1, 90)),
        ),
        (b'"/-"', b'"path":""', b'"/a/0"', b'"op":"move"', *_OPERATIONS, *_WORDS),
        {
            "the whole document is removed": b'[{"op":"remove","path":""}]\n[]',
            "a line end in a path": b'[{"op":"remove","path":"/\\n"}]\n[]',
        },
    ),
    Target(
        "filters",
        filters,
        (
            b"\0\1\2\nu\nx\n\nu\ncontent",
            b"\3\nu\na:%(a)s\nhex\nv\nid: %I %% %(x\\))I",
            b"\4\nu\n%\n\nv\n%(user)s %% %(a)s",
            b"\4\3\nu\n%(a)s\n\nb\n%(id_format)s %%%% %%I",
        ),
        (b"%", b"%(", b")s", b")I", b"%I", b"\\", b"%(a)s", b"%(b)s", b"hex", b"\n", b"u", b"a"),
    ),
    Target("signature", signature, (b"key\nissuer", b"\nx", b"k" * 99 + b'\n\xc3\xa9"\xff')),
)
