"""A command and everything that it can be told: one frozen dataclass, seen from outside."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from vsgi_fcgi.cli.kinds import Kind, kind_of_type
from vsgi_fcgi.exceptions import UsageError

GROUPS = {
    "roles": "apps for the other roles of FastCGI",
    "http": "HTTP",
    "configuration": "configuration",
    "upstream": "FastCGI application servers",
    "listening": "where to listen (options may be repeated and mixed)",
    "server": "server",
    "process": "process",
    "logging": "logging",
    "development": "development (never in production)",
    "timeouts": "timeouts",
    "limits": "limits",
}
"""The headings of ``--help``, in its order."""


ARGUMENTS = {"app": "APP", "program": "PROGRAM"}
"""What stands on the command line without an option, by the names of the fields."""


@dataclass(frozen=True, slots=True)
class Example:
    """A command line for the manual page, with what it is good for."""

    text: str
    words: str


class Command:
    """What can be said to a command, made from the fields of a dataclass.

    Args:
        name: the word that comes first on the command line; empty for the command itself.
        options: the dataclass.
        library: the dataclasses that it extends, for those who embed; the rest concerns a process
            of its own, and comes first.
        argument: what stands on the command line without an option; None if nothing does.
        subject: what stands right behind the command's name; None if nothing has to.
        base: the command whose settings it has too; those of its own may stand in its table.
        description: what it does, a sentence or several.
        epilog: what else is to be known.
        examples: for the manual page.

    Attributes:
        fields: all fields by their names, group by group as ``--help`` has them.
        own: those of them that are options, and not also those of its base.
    """

    def __init__(
        self,
        name: str,
        options: type[Any],
        *,
        library: tuple[type[Any], ...],
        argument: str | None = None,
        subject: str | None = None,
        base: Command | None = None,
        description: str,
        epilog: str = "",
        examples: Iterable[Example] = (),
    ) -> None:
        self.name = name
        self.options = options
        self.argument = argument
        self.subject = subject
        self.base = base
        self.description = description
        self.epilog = epilog
        self.examples = tuple(examples)
        of_the_library = {item.name for base in library for item in fields(base)}
        self.fields: dict[str, Field[Any]] = {
            item.name: item
            for group in ("app", *GROUPS)
            for item in sorted(fields(options), key=lambda item: item.name in of_the_library)
            if item.metadata["group"] == group
        }
        inherited = base.fields if base is not None else {}
        self.own: dict[str, Field[Any]] = {
            name: item
            for name, item in self.fields.items()
            if name not in ARGUMENTS and name not in inherited
        }
        self._types: dict[str, Any] = typing.get_type_hints(options, include_extras=True)

    def kind(self, field_name: str) -> Kind:
        """The kind of a field."""
        return kind_of_type(self._types[field_name])

    def make(self, given: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
        """The options with these values, and their defaults for the rest.

        Args:
            given: values by the names of the fields.
            labels: for each of them, what an error message calls it, such as ``--threads``.

        Raises:
            UsageError: a value is out of its bounds.
        """
        try:
            return self.options(**given)
        except UsageError as error:
            # The messages of the dataclass begin with the field's name.
            name, space, rest = str(error).partition(" ")
            raise UsageError(f"{labels.get(name, name)}{space}{rest}") from error


def option_name(field_name: str) -> str:
    """The option of the command line for a field."""
    return ARGUMENTS.get(field_name) or f"--{key_name(field_name)}"


def key_name(field_name: str) -> str:
    """The key of the configuration file for a field."""
    return field_name.replace("_", "-")


def variable_name(field_name: str) -> str:
    """The environment variable for a field."""
    return f"VSGI_FCGI_{field_name.upper()}"


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean ...?`` with the known name that is nearest, or nothing."""
    # Above the usual cutoff: what all names begin with (--, VSGI_FCGI_) is no likeness.
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""
