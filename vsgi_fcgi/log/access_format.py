"""Formats of the access log: the values that they name, their syntax, and the generated code.

A format is parsed with the settings, before sockets are opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from vsgi_fcgi.exceptions import UsageError

# Values that an access log format can name, and the expressions that compute them.
#
# Each value is a Python expression. `AccessCode` compiles the expressions of a format into a
# function, which is called when the request has ended. Some data is no longer available then. It
# is noted when the request is submitted to the workers: each ``get('NAME')`` of a param and each
# of `NOTES` that the format uses.

NOTES: Final = {
    "moment": "wall_clock() if body is None else wall_clock() - (clock() - body.began) / 1e9",
    "noted": "clock()",
    "body_began": "0 if body is None else body.began",
    "submitted": "submitted",
    "target": "get('REQUEST_URI') or rebuild_target(get)",
    "request_id": "request.id",
    "peer": "connection.peer",
    "requests": "len(connection.protocol.requests)",
    "received": "0 if body is None else body.size",
    "role": "request.role",
}
"""Expressions for data that is noted early, by the names that other expressions use for it.

`moment` is the arrival of the params in seconds since 1970. It is noted just after the read that
brought the end of the request. All other times come from time.monotonic_ns, and 0 stands for
an event that did not happen. They are ints because Python formats a float much more slowly.
"""

# Other names that expressions may use:
#
# * `head`: the beginning of STDOUT, with the complete header block;
# * `body_size`, `sent` and `outcome`;
# * the times `run_began`, `run_ended` and `now`;
# * `none` for an absent text, and `missing` for an absent number;
# * `apache`, `iso` and `zone`: texts for the second of `moment`;
# * `statuses`, `status_of`, `milliseconds`, `roles`, `header`, `pid` and `pid_of_gunicorn`.


class Atom(NamedTuple):
    """One value of an access log line.

    Attributes:
        expression: Python expression that computes the value.
        text: True if the value comes from outside and must be escaped.
        fixed: True if the expression is a name whose value is the same in all lines.
    """

    expression: str
    text: bool = False
    fixed: bool = False


def _param(name: str, default: str = "none") -> Atom:
    return Atom(f"get({name!r}) or {default}", text=True)


ATOMS: Final[dict[str, Atom]] = {
    # Names that gunicorn also has.
    "h": _param("REMOTE_ADDR"),
    "l": Atom("none", fixed=True),
    "u": _param("REMOTE_USER"),
    "t": Atom("apache"),
    "r": Atom(
        "f\"{get('REQUEST_METHOD') or '-'} {target} {get('SERVER_PROTOCOL') or '-'}\""
        " if target else none",
        text=True,
    ),
    "m": _param("REQUEST_METHOD"),
    "U": Atom("target.partition('?')[0] or none", text=True),
    "q": _param("QUERY_STRING", "''"),
    "H": _param("SERVER_PROTOCOL"),
    # Most header blocks begin with the status; `status_of` searches the others.
    "s": Atom("statuses[head[8:11] if head[:8] == b'Status: ' else status_of(head)]"),
    "B": Atom("body_size"),
    "b": Atom("body_size or missing"),
    "f": _param("HTTP_REFERER"),
    "a": _param("HTTP_USER_AGENT"),
    "T": Atom("(now - (body_began or noted)) // 1000000000"),
    "M": Atom("(now - (body_began or noted)) // 1000000"),
    "D": Atom("(now - (body_began or noted)) // 1000"),
    "L": Atom("f'{(now - (body_began or noted)) / 1e9:.6f}'"),
    "p": Atom("pid_of_gunicorn", fixed=True),
    # Names that only vsgi_fcgi has.
    "time": Atom("f'{iso}{milliseconds[int(moment * 1000) % 1000]}{zone}'"),
    "uri": Atom("target or none", text=True),
    "queue": Atom("((run_began or now) - noted) // 1000 if submitted else missing"),
    "run": Atom("((run_ended or now) - run_began) // 1000 if run_began else missing"),
    "id": Atom("request_id"),
    "connection": Atom("peer", text=True),
    "neighbours": Atom("requests - 1 if submitted else missing"),
    "received": Atom("received"),
    "role": Atom("roles[role]"),
    "sent": Atom("sent"),
    "end": Atom("outcome"),
    "pid": Atom("pid", fixed=True),
}
"""All values, by their names in a format."""

_STATUS: Final = b"Status: "

_CGI: Final = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
"""Request headers whose CGI names have no ``HTTP_`` prefix (RFC 3875, section 4.1)."""


def request_header(name: str) -> Atom:
    """Return the atom of a request header, ``%({name}i)s``."""
    name = name.lower()
    return _param(_CGI.get(name) or "HTTP_" + name.upper().replace("-", "_"))


def response_header(name: str) -> Atom:
    """Return the atom of a response header, ``%({name}o)s``."""
    wanted = name.lower().encode("latin-1", "replace")
    return Atom(f"header(head, {wanted!r}) or none", text=True)


def variable(name: str) -> Atom:
    """Return the atom of a param from the web server, ``%({name}e)s``."""
    return _param(name)


def rebuild_target(get: Callable[[str], str | None]) -> str:
    """Return the request target for a web server that sends no REQUEST_URI."""
    path = (get("SCRIPT_NAME") or "") + (get("PATH_INFO") or "")
    query = get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def header(head: bytes, name: bytes) -> str:
    """Return the value of a response header.

    Args:
        head: STDOUT, which begins with the header block.
        name: name of the header in lower case.

    Returns:
        The value; several values are joined with commas; empty if the header is absent.
    """
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines if not line.startswith(_STATUS))
    return ", ".join(value.decode("latin-1") for key, _, value in pairs if key.lower() == name)


def status_of(head: bytes) -> bytes:
    """Return the status digits of a response whose first header is not Status.

    Args:
        head: STDOUT, which begins with the header block; may be empty.
    """
    _, found, status = head.partition(b"\r\n\r\n")[0].rpartition(b"\r\n" + _STATUS)
    return status[:3] if found else b""


Parts = list[str | tuple[Atom, str]]
"""A parsed format: literal texts, and atoms with their widths."""

_COMMON: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'

PRESETS: Final = {
    "combined": f'{_COMMON} "%(f)s" "%(a)s"',
    "common": _COMMON,
    "json": '{"time":"%(time)s","remote_addr":"%(h)s","user":"%(u)s","method":"%(m)s",'
    '"uri":"%(uri)s","protocol":"%(H)s","status":%(s)s,"bytes":%(B)s,"referer":"%(f)s",'
    '"user_agent":"%(a)s","duration_us":%(D)s,"queue_us":%(queue)s,"run_us":%(run)s,'
    '"received":%(received)s,"sent":%(sent)s,"end":"%(end)s","connection":"%(connection)s",'
    '"id":%(id)s,"neighbours":%(neighbours)s}',
}
"""Formats that have names."""

_PART: Final = re.compile(
    r"%(?:\((?P<name>(?:\{[^{}]*\}.|[^(){}]*))\)(?P<width>-?[0-9]{0,3}(?:\.[0-9]{1,4})?)[sd]|(?P<sign>%))"
)
"""Matches ``%(name)s``, optionally with a width as in Python's % operator, or ``%%``.

A width has at most three digits: each line of the log would have as many bytes.
"""

_APACHE: Final = re.compile(r"%[<>]?(\{[^{}]*\})?([A-Za-z])")


def parse_format(text: str) -> Parts:
    """Split a format into its parts.

    Raises:
        UsageError: the format cannot be used; the message continues after the setting's name.
    """
    text = PRESETS.get(text, text).rstrip("\n")
    parts: Parts = []
    at = 0
    while at < len(text):
        sign = text.find("%", at)
        if sign != at:
            parts.append(text[at:] if sign < 0 else text[at:sign])
            if sign < 0:
                break
        found = _PART.match(text, sign)
        if found is None:
            raise UsageError(_unreadable(text[sign:]))
        parts.append("%" if found["sign"] else (_atom(found["name"]), found["width"]))
        at = found.end()
    if not any(isinstance(part, tuple) for part in parts):
        names = ", ".join(PRESETS)
        near = _nearest(text, list(PRESETS))
        raise UsageError(f"is {text!r}, but must be {names} or contain a value{near}")
    if "\n" in text:
        raise UsageError("contains a line break, but each request is logged on one line")
    return parts


def _atom(name: str) -> Atom:
    """Return the atom for the text between the parentheses."""
    if name in ATOMS:
        return ATOMS[name]
    if name.startswith("{"):
        factories = {"i": request_header, "o": response_header, "e": variable}
        inner, letter = name[1:-2], name[-1]
        if letter in factories and inner:
            return factories[letter](inner)
        raise UsageError(
            f"contains %({name})s, which is unknown; use %({{NAME}}i)s for a request header,"
            " %({NAME}o)s for a response header or %({NAME}e)s for a param of the web server"
        )
    raise UsageError(f"contains %({name})s, which is unknown{_nearest(name, list(ATOMS))}")


def _nearest(name: str, names: list[str]) -> str:
    import difflib  # only for error messages

    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; the known values are {', '.join(names)}"


def _unreadable(rest: str) -> str:
    apache = _APACHE.match(rest)
    if apache is not None:
        meant = f"%({apache[1] or ''}{apache[2]})s"
        return f"contains {apache[0]}, which is Apache's syntax; write {meant}"
    return (
        f"contains {rest[:12]!r}, but a % must begin a value such as %(h)s;"
        " write %% for a literal %"
    )


# Generate Python code for an access log format.
#
# A loop over the values of a format takes three times as long as the single expression that is
# generated here, and this code runs for every request.

_GET: Final = re.compile(r"""get\((?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\)""")
"""Matches the lookup of a param in an expression; the name is written as `repr` does."""

_INLINE: Final = re.compile(r"[^'\"{}\\!]*")
"""Matches expressions without quotes and backslashes, which no f-string of Python 3.11 may have."""

_PARTS: Final = [
    "connection = exchange.connection",
    "request = exchange.request",
    "body = exchange.body",
]
"""Statements that define the names that `NOTES` use."""


class AccessCode:
    """Source code of the functions of a format, which `AccessFormat` executes.

    Args:
        parts: the parsed format.
    """

    def __init__(self, parts: Parts) -> None:
        self._values: dict[Atom, str] = {}
        self._widths: list[str] = []
        self._shown: list[str] = []
        for part in parts:
            if isinstance(part, str):
                self._shown.append(part.replace("{", "{{").replace("}", "}}"))
            else:
                self._shown.append("{" + self._name(*part) + "}")
        self._shown.append("\n")
        atoms = [atom for atom in self._values if not atom.fixed]
        gets: list[str] = _GET.findall("\n".join(atom.expression for atom in atoms))
        params = {get: f"param{number}" for number, get in enumerate(dict.fromkeys(gets))}
        self._expressions = {
            self._values[atom]: _GET.sub(lambda found: params[found[0]], atom.expression)
            for atom in atoms
        }
        self._before: list[str] = []
        self._first: list[str] = []
        if self.uses("apache") or self.uses("iso"):
            self._before = ["since = until = 0"]
            turn = "since, until, apache, iso, zone = second_of(moment)"
            self._first.append(f"if not since <= moment < until: {turn}")
        if self.uses("body_size"):
            # `sent` includes the header block. A response that was cut off may lack a part of
            # the header block, so the difference may be negative.
            self._first.append("body_size = sent - head.find(b'\\r\\n\\r\\n') - 4")
            self._first.append("if body_size < 0: body_size = 0")
        noted = {value: name for name, value in NOTES.items() if self.uses(name)}
        self._notes = params | noted

    def _name(self, atom: Atom, width: str) -> str:
        """Return the name of the variable that holds a value."""
        fresh = atom.expression if atom.fixed else f"value{len(self._values)}"
        name = self._values.setdefault(atom, fresh)
        if not width:
            return name
        wide = f"wide{len(self._widths)}"
        self._widths.append(f"{wide} = '%{width}s' % ({name},)")
        return wide

    def uses(self, name: str) -> bool:
        """Return True if the code uses a name."""
        pattern = re.compile(rf"\b{name}\b")
        return any(pattern.search(each) for each in [*self._first, *self._expressions.values()])

    def source(self) -> str:
        """Return the source of the functions that `AccessFormat` uses."""
        return "\n\n".join([self._note(), self._take_notes(), self._line(), self._lines()])

    def _note(self) -> str:
        head = "note(exchange, params, submitted)"
        return _function(head, [*_PARTS, "get = params.get", f"return ({self._noted()})"])

    def _take_notes(self) -> str:
        body = [
            # The batch is checked here and not at the end of an exchange, so that the end costs
            # only a call of deque.append, which is C code.
            "if len(ended) >= batch: make_lines()",
            *_PARTS,
            "submitted = True",
            "get = request.params.get",
            f"exchange.notes = ({self._noted()})",
            "exchange.head = b''",
        ]
        if self.uses("run_began"):
            # The exchange may end before a worker begins.
            body.append("exchange.run_began = exchange.run_ended = 0")
        return _function("take_notes(exchange)", body)

    def _line(self) -> str:
        """Return the source of the function that makes one line and escapes all texts."""
        head = "line(notes, head, sent, outcome, run_began, run_ended, now)"
        values = [f"{name} = {expression}" for name, expression in self._expressions.items()]
        texts = [name for atom, name in self._values.items() if atom.text]
        escaped = [f"{name} = escape({name})" for name in texts]
        # Widths are applied last, so that none cuts an escape sequence.
        body = [self._unpack(), *self._before, *self._first, *values, *escaped, *self._widths]
        return _function(head, [*body, f"return {_text(self._shown)}"])

    def _lines(self) -> str:
        """Return the source of the function that makes many lines and escapes nothing."""
        loop = [
            self._unpack("exchange.notes"),
            "final = exchange.final",
            "head = exchange.head or final",
            "sent = len(final) + len(exchange.more)",
            "if exchange.begun: sent = exchange.count_sent()",
        ]
        attributes = {"run_began": "run_began", "run_ended": "run_ended", "now": "ended"}
        for name, attribute in attributes.items():
            if self.uses(name):
                loop.append(f"{name} = exchange.{attribute}")
        if self.uses("outcome"):
            loop.append("outcome = broken if exchange.broken else complete")
        loop += self._first
        # An expression that an f-string may contain needs no variable.
        inline = {
            "{" + name + "}": "{(" + expression + ")}"
            for name, expression in self._expressions.items()
            if _INLINE.fullmatch(expression) and not self._widths
        }
        for name, expression in self._expressions.items():
            if "{" + name + "}" not in inline:
                loop.append(f"{name} = {expression}")
        shown = _text([inline.get(piece, piece) for piece in self._shown])
        loop += [*self._widths, f"append({shown})"]
        body = ["lines = []", "append = lines.append", *self._before, "for exchange in exchanges:"]
        body += [f"    {statement}" for statement in loop]
        return _function("_lines(exchanges)", [*body, "return lines"])

    def _noted(self) -> str:
        return "".join(f"{expression}, " for expression in self._notes)

    def _unpack(self, notes: str = "notes") -> str:
        names = "".join(f"{name}, " for name in self._notes.values())
        return f"{names}= {notes}" if names else "pass"


def _text(pieces: list[str]) -> str:
    """Return an expression that joins pieces of f-strings.

    Python joins an f-string of more than 30 pieces through a list, which takes longer.
    """
    parts = (pieces[at : at + 30] for at in range(0, len(pieces), 30))
    return " + ".join(f"f{''.join(part)!r}" for part in parts)


def _function(head: str, body: list[str]) -> str:
    return "\n    ".join([f"def {head}:", *body]) + "\n"
