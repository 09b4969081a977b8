"""A format of the access log as Python code.

A loop over the values of a format takes three times as long as the one expression that is made
here, and this runs for every request.
"""

from __future__ import annotations

import re
from typing import Final

from vsgi_fcgi.server.access_atoms import NOTES, Atom
from vsgi_fcgi.server.access_syntax import Parts

_GET: Final = re.compile(r"""get\((?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\)""")
"""A param in an expression; the name is written as `repr` does."""

_INLINE: Final = re.compile(r"[^'\"{}\\!]*")
"""What may stand in an f-string; in Python 3.11, no quotes and no backslashes may."""


class AccessCode:
    """Writes the functions of a format; `vsgi_fcgi.server.access_format` runs them.

    Args:
        parts: the format.
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
            # The header block counts as sent, too; of an answer that was cut off, not all is.
            self._first.append("body_size = sent - head.find(b'\\r\\n\\r\\n') - 4")
            self._first.append("if body_size < 0: body_size = 0")
        noted = {value: name for name, value in NOTES.items() if self.uses(name)}
        self._notes = params | noted

    def _name(self, atom: Atom, width: str) -> str:
        """Name the variable that holds a value."""
        fresh = atom.expression if atom.fixed else f"value{len(self._values)}"
        name = self._values.setdefault(atom, fresh)
        if not width:
            return name
        wide = f"wide{len(self._widths)}"
        self._widths.append(f"{wide} = '%{width}s' % ({name},)")
        return wide

    def uses(self, name: str) -> bool:
        """Whether the code needs a name."""
        pattern = re.compile(rf"\b{name}\b")
        return any(pattern.search(each) for each in [*self._first, *self._expressions.values()])

    def source(self) -> str:
        """All functions that `AccessFormat` names."""
        return "\n\n".join([self._note(), self._make_reply(), self._line(), self._lines()])

    def _note(self) -> str:
        head = "note(channel, request, params, body, handed_over)"
        return _function(head, ["get = params.get", f"return ({self._noted()})"])

    def _make_reply(self) -> str:
        body = [
            # Looked at here, and not where a reply ends, which is then noted by C alone.
            "if len(ended) >= batch: make_lines()",
            "reply = LoggedReply(channel, request, body)",
            "handed_over = True",
            "get = request.params.get",
            f"reply.notes = ({self._noted()})",
            "reply.head = b''",
        ]
        if self.uses("run_began"):
            # It may end before a worker begins.
            body.append("reply.run_began = reply.run_ended = 0")
        return _function("make_reply(channel, request, body)", [*body, "return reply"])

    def _line(self) -> str:
        """One line, of which all texts are escaped."""
        head = "line(notes, head, sent, ending, run_began, run_ended, now)"
        values = [f"{name} = {expression}" for name, expression in self._expressions.items()]
        texts = [name for atom, name in self._values.items() if atom.text]
        escaped = [f"{name} = escape({name})" for name in texts]
        # Widths come last, so that none cuts an escape.
        body = [self._unpack(), *self._before, *self._first, *values, *escaped, *self._widths]
        return _function(head, [*body, f"return {_text(self._shown)}"])

    def _lines(self) -> str:
        """The lines of many replies, of which nothing is escaped."""
        loop = [
            self._unpack("reply.notes"),
            "final = reply.final",
            "head = reply.head or final",
            "sent = len(final)",
            "if reply.begun and reply.output is not None: sent += reply.output.sent",
        ]
        attributes = {"run_began": "run_began", "run_ended": "run_ended", "now": "ended"}
        for name, attribute in attributes.items():
            if self.uses(name):
                loop.append(f"{name} = reply.{attribute}")
        if self.uses("ending"):
            loop.append("ending = broken if reply.broken else complete")
        loop += self._first
        # A variable less for each expression that may stand in the f-string itself.
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
        body = ["lines = []", "append = lines.append", *self._before, "for reply in replies:"]
        body += [f"    {statement}" for statement in loop]
        return _function("_lines(replies)", [*body, "return lines"])

    def _noted(self) -> str:
        return "".join(f"{expression}, " for expression in self._notes)

    def _unpack(self, notes: str = "notes") -> str:
        names = "".join(f"{name}, " for name in self._notes.values())
        return f"{names}= {notes}" if names else "pass"


def _text(pieces: list[str]) -> str:
    """Write what joins pieces of f-strings.

    In one of more than 30 pieces, Python gathers them in a list, which takes longer.
    """
    parts = (pieces[at : at + 30] for at in range(0, len(pieces), 30))
    return " + ".join(f"f{''.join(part)!r}" for part in parts)


def _function(head: str, body: list[str]) -> str:
    return "\n    ".join([f"def {head}:", *body]) + "\n"
