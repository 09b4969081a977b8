"""How a value of each type is written: as text, and in TOML."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vsgi_fcgi.settings import Octal


@dataclass(frozen=True, slots=True)
class Kind:
    """What a type of setting looks like.

    Attributes:
        metavar: what ``--help`` calls a value.
        read: from text to a value; ValueError with a sentence if it cannot.
        take: from what TOML gave to a value; ValueError with a sentence if it cannot.
        show: from a value to TOML.
        many: the value is a tuple; `read`, `take` and `show` are for one of its items.
    """

    metavar: str
    read: Callable[[str], Any]
    take: Callable[[object], Any]
    show: Callable[[Any], str]
    many: bool = False

    def read_all(self, text: str) -> Any:
        """Read the text of an environment variable, where commas part the items of a list.

        Raises:
            ValueError: with a sentence, if it cannot be read.
        """
        if not self.many:
            return self.read(text)
        return tuple(self.read(part.strip()) for part in text.split(",") if part.strip())

    def take_all(self, value: object) -> Any:
        """Take what TOML gave; a list may be given as its only item.

        Raises:
            ValueError: with a sentence, if it is of the wrong type.
        """
        if not self.many:
            return self.take(value)
        return tuple(self.take(item) for item in (value if isinstance(value, list) else [value]))

    def show_all(self, value: Any) -> str:
        """Write a value in TOML."""
        if not self.many:
            return self.show(value)
        return f"[{', '.join(self.show(item) for item in value)}]"


def kind_of_type(annotation: Any) -> Kind:
    """The kind of a field with this annotation."""
    return _KINDS[annotation]


# Text


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise ValueError(f"{text!r} is no octal number, such as 0660") from None


_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _truth(text: str) -> bool:
    try:
        return _WORDS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


# TOML


def _take_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is no whole number")


def _take_float(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{value!r} is no number")


def _take_octal(value: object) -> int:
    return _octal(value) if isinstance(value, str) else _take_int(value)


def _take_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is neither true nor false")


def _take_str(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is no text; write it in quotes")


def _show_octal(value: int) -> str:
    return f'"{value:04o}"'


def _show_str(value: str) -> str:
    # A string of JSON is one of TOML, but for the character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


_TEXT = Kind("TEXT", str, _take_str, _show_str)
_OCTAL = Kind("MODE", _octal, _take_octal, _show_octal)

_KINDS: dict[object, Kind] = {
    bool: Kind("", _truth, _take_bool, lambda value: "true" if value else "false"),
    int: Kind("N", _whole_number, _take_int, str),
    float: Kind("SECONDS", _number, _take_float, lambda value: f"{value:g}"),
    str: _TEXT,
    str | None: _TEXT,
    Octal: _OCTAL,
    Octal | None: _OCTAL,
    tuple[str, ...]: Kind("TEXT", str, _take_str, _show_str, many=True),
    tuple[int, ...]: Kind("N", _whole_number, _take_int, str, many=True),
}
