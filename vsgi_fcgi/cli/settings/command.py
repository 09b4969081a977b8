"""A subcommand as a value: its name, its options (a frozen dataclass) and the function it runs."""

from __future__ import annotations

import importlib
import json
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cached_property
from typing import Any, NamedTuple

from vsgi_fcgi.cli import importing
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.settings import Count, Octal, Size

GROUPS = {
    "roles": "apps for the other FastCGI roles",
    "http": "HTTP",
    "push": "held requests",
    "status": "status",
    "configuration": "configuration",
    "upstream": "FastCGI application servers",
    "listening": "where to listen (options may be repeated and combined)",
    "server": "server",
    "process": "process",
    "processes": "several processes",
    "logging": "logging",
    "development": "development (never in production)",
    "timeouts": "timeouts",
    "limits": "limits",
}
"""The headings of ``--help``, in its order."""


ARGUMENTS = {"app": "APP", "program": "PROGRAM", "status_address": "ADDRESS", "recording": "FILE"}
"""The positional arguments of the command line, by the names of the fields."""


class Example(NamedTuple):
    """A command line for the manual page, with its purpose."""

    text: str
    words: str


class SubjectHelp(NamedTuple):
    """What ``--help`` shows of a command with one subject, as in ``config nginx --help``.

    Attributes:
        description: what the command does with this subject.
        fields: names of the fields to show. The command accepts the others without showing them.
        epilog: further explanations.
    """

    description: str
    fields: Collection[str]
    epilog: str = ""


class Command:
    """A subcommand, with an option for each field of a dataclass.

    The dataclass and the function are given as ``"module:name"`` and imported when they are
    needed, so that one command can start without importing anything of another.

    Args:
        name: the first word of the command line; empty for the server itself.
        options: the dataclass, or ``"module:name"`` of it.
        run: ``"module:name"`` of the function that takes the `CommandLine`, runs the command and
            returns the exit status. Empty for settings that no command line has.
        summary: what the command does, for the list of commands in the main ``--help``.
        description: what the command does, in one or more sentences.
        argument: field of the positional argument at the end; None if there is none.
        subject: field of the argument that follows the command's name; None if there is none.
        subject_help: ``"module:name"`` of a function from a subject to its `SubjectHelp`, or to
            None for a subject that does not exist.
        base: command whose settings this command has too. Only its own ones may stand in its
            table of the configuration file.
        validates: whether ``--check-config`` and ``--print-config`` make sense for the command.
        epilog: further explanations.
        examples: command lines for the manual page.
    """

    def __init__(
        self,
        name: str,
        options: str | type[Any],
        *,
        run: str = "",
        summary: str = "",
        description: str = "",
        argument: str | None = None,
        subject: str | None = None,
        subject_help: str = "",
        base: Command | None = None,
        validates: bool = True,
        epilog: str = "",
        examples: Iterable[Example] = (),
    ) -> None:
        self.name = name
        self.summary = summary
        self.description = description
        self.argument = argument
        self.subject = subject
        self.base = base
        self.validates = validates
        self.epilog = epilog
        self.examples = tuple(examples)
        self._options = options
        self._run = run
        self._subject_help = subject_help

    def run(self, line: Any) -> int:
        """Run the command, and return its exit status.

        Args:
            line: the `CommandLine`.

        Raises:
            UsageError: the command cannot do what the command line asks for.
        """
        status: int = _load(self._run)(line)
        return status

    def help_for(self, subject: str | None) -> SubjectHelp | None:
        """Return what ``--help`` shows of one subject, or None to show the whole command."""
        if subject is None or not self._subject_help:
            return None
        found: SubjectHelp | None = _load(self._subject_help)(subject)
        return found

    @cached_property
    def options(self) -> type[Any]:
        """The dataclass of the options."""
        found: type[Any] = _load(self._options) if isinstance(self._options, str) else self._options
        return found

    @cached_property
    def fields(self) -> dict[str, Field[Any]]:
        """All fields by their names, in the order of ``--help``.

        In each group, the options of the process come before those that it shares with classes
        outside of the command line, such as `Config`.
        """
        shared = {
            item.name
            for base in self.options.__mro__
            if is_dataclass(base) and not base.__module__.startswith("vsgi_fcgi.cli.")
            if base is not self.options
            for item in fields(base)
        }
        return {
            item.name: item
            for group in ("app", *GROUPS)
            for item in sorted(fields(self.options), key=lambda item: item.name in shared)
            if item.metadata["group"] == group
        }

    @cached_property
    def own(self) -> dict[str, Field[Any]]:
        """The fields that are options, without those of the base."""
        inherited = self.base.fields if self.base is not None else {}
        return {
            name: item
            for name, item in self.fields.items()
            if name not in ARGUMENTS and name not in inherited
        }

    @cached_property
    def _types(self) -> dict[str, Any]:
        return typing.get_type_hints(self.options, include_extras=True)

    def converter(self, field_name: str) -> Converter:
        """Return the converter of a field."""
        return converter_for(self._types[field_name])

    def make_options(self, given: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
        """Return the options with the given values, and defaults for the others.

        Args:
            given: values by the names of the fields.
            labels: for each of them its name in error messages, such as ``--threads``.

        Raises:
            UsageError: a value is out of its bounds.
        """
        try:
            return self.options(**given)
        except UsageError as error:
            # The messages of the dataclass begin with the field's name.
            name, space, rest = str(error).partition(" ")
            raise UsageError(f"{labels.get(name, name)}{space}{rest}") from error


def _load(place: str) -> Any:
    """Import what ``"module:name"`` names."""
    module, _, name = place.partition(":")
    with importing():
        return getattr(importlib.import_module(module), name)


def option_name(field_name: str) -> str:
    """Return the command line option of a field."""
    return ARGUMENTS.get(field_name) or f"--{key_name(field_name)}"


def key_name(field_name: str) -> str:
    """Return the configuration file key of a field."""
    return field_name.replace("_", "-")


def variable_name(field_name: str) -> str:
    """Return the environment variable of a field."""
    return f"VSGI_FCGI_{field_name.upper()}"


# How a setting of each type is written: as text (options, variables) and in TOML.


class Converter(NamedTuple):
    """Converts the values of a setting from text and TOML, and back to TOML.

    Attributes:
        metavar: name of a value in ``--help``.
        parse: converts text to a value. It raises ValueError with a sentence if it cannot.
        from_toml: checks and converts a value that TOML gave. It raises ValueError likewise.
        to_toml: writes a value in TOML.
        repeated: True if the setting is a tuple. `parse`, `from_toml` and `to_toml` are then for
            one item of it.
    """

    metavar: str
    parse: Callable[[str], Any]
    from_toml: Callable[[object], Any]
    to_toml: Callable[[Any], str]
    repeated: bool = False

    def parse_all(self, text: str) -> Any:
        """Convert the text of an environment variable. Commas separate the items of a list.

        Raises:
            ValueError: the text is not a value of this type; the message says why.
        """
        if not self.repeated:
            return self.parse(text)
        return tuple(self.parse(item.strip()) for item in text.split(",") if item.strip())

    def all_from_toml(self, value: object) -> Any:
        """Convert a value that TOML gave. A single item may stand for a list of one.

        Raises:
            ValueError: the value has the wrong type; the message says why.
        """
        if not self.repeated:
            return self.from_toml(value)
        items = value if isinstance(value, list) else [value]
        return tuple(self.from_toml(item) for item in items)

    def all_to_toml(self, value: Any) -> str:
        """Write a value, or all items of a list, in TOML."""
        if not self.repeated:
            return self.to_toml(value)
        return f"[{', '.join(self.to_toml(item) for item in value)}]"


def converter_for(annotation: Any) -> Converter:
    """Return the converter for a field with this annotation."""
    return _CONVERTERS[annotation]


# Text


def _fitting(number: int) -> int:
    """Return a number that has at most 64 bits, as TOML requires."""
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("the number does not fit into 64 bits")
    return number


def _parse_int(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    return _fitting(number)


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _parse_octal(text: str) -> int:
    try:
        number = int(text, 8)
    except ValueError:
        raise ValueError(f"{text!r} is not an octal number such as 0660") from None
    return _fitting(number)


def _parse_count(text: str) -> int:
    return 0 if text == "auto" else _parse_int(text)


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _parse_size(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper())
    try:
        number = int(text) if unit is None else int(text[:-1]) * unit
    except ValueError:
        raise ValueError(f"{text!r} is not a size such as 300M") from None
    return _fitting(number)


_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _parse_bool(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


# TOML


def _int_from_toml(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return _fitting(value)
    raise ValueError(f"{value!r} is not a whole number")


def _float_from_toml(value: object) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(_fitting(value))
    raise ValueError(f"{value!r} is not a number")


def _octal_from_toml(value: object) -> int:
    return _parse_octal(value) if isinstance(value, str) else _int_from_toml(value)


def _count_from_toml(value: object) -> int:
    return 0 if value == "auto" else _int_from_toml(value)


def _size_from_toml(value: object) -> int:
    return _parse_size(value) if isinstance(value, str) else _int_from_toml(value)


def _bool_from_toml(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is neither true nor false")


def _str_from_toml(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not text; write it in quotes")


def _octal_to_toml(value: int) -> str:
    return f'"{value:04o}"'


def _count_to_toml(value: int) -> str:
    return str(value) if value else '"auto"'


def _float_to_toml(value: float) -> str:
    # 30 rather than 30.0, but every digit that a user has given.
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _str_to_toml(value: str) -> str:
    # A JSON string is also a TOML string, except for the character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


_TEXT = Converter("TEXT", str, _str_from_toml, _str_to_toml)
_OCTAL = Converter("MODE", _parse_octal, _octal_from_toml, _octal_to_toml)

_FLOAT = Converter("SECONDS", _parse_float, _float_from_toml, _float_to_toml)
_COUNT = Converter("N", _parse_count, _count_from_toml, _count_to_toml)
_SIZE = Converter("SIZE", _parse_size, _size_from_toml, str)

_CONVERTERS: dict[object, Converter] = {
    bool: Converter("", _parse_bool, _bool_from_toml, lambda value: "true" if value else "false"),
    int: Converter("N", _parse_int, _int_from_toml, str),
    float: _FLOAT,
    float | None: _FLOAT,
    int | None: Converter("N", _parse_int, _int_from_toml, str),
    str: _TEXT,
    str | None: _TEXT,
    Octal: _OCTAL,
    Octal | None: _OCTAL,
    Size: _SIZE,
    Size | None: _SIZE,
    Count: _COUNT,
    Count | None: _COUNT,
    tuple[str, ...]: Converter("TEXT", str, _str_from_toml, _str_to_toml, repeated=True),
    tuple[int, ...]: Converter("N", _parse_int, _int_from_toml, str, repeated=True),
}
