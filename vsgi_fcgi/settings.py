"""Declare and check settings, which are fields of frozen dataclasses with help and bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from vsgi_fcgi.exceptions import UsageError

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Octal = Annotated[int, "octal"]
"""Mode bits of a file, which are written in octal."""

Count = Annotated[int, "count"]
"""A number that may also be ``auto``, which is stored as 0."""

Size = Annotated[int, "size"]
"""A number of bytes that may be written as ``300M``."""


def setting(
    default: Any,
    help: str,
    *,
    group: str = "server",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    default_text: str = "",
    aliases: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that declares a setting.

    Args:
        default: value of a setting that is not given.
        help: description for ``--help`` and the reference, with the unit.
        group: heading under which ``--help`` lists the setting.
        minimum: smallest allowed value.
        maximum: largest allowed value.
        choices: all allowed values.
        metavar: name of the value in ``--help``, if its type is not clear enough.
        default_text: description of the default, if its value is not clear enough.
        aliases: further names of the option, such as ``-b``.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "minimum": minimum,
            "maximum": maximum,
            "choices": choices,
            "metavar": metavar,
            "default_text": default_text,
            "aliases": aliases,
        },
    )


class SettingsBase:
    """Compare settings, and show them, by their fields.

    ``dataclass`` compiles ``__eq__``, ``__hash__`` and ``__repr__`` for each class from all of its
    fields, and ``__init__`` too. With a hundred settings, this took a tenth of the time that a
    process needs to start. The classes of settings use these methods instead. Those that are only
    bases of others have no ``__init__``.
    """

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SettingsBase) or type(self) is not type(other):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        values = (f"{item.name}={getattr(self, item.name)!r}" for item in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(values)})"


def check_settings(settings: Any) -> None:
    """Check all fields of a dataclass against their bounds.

    Raises:
        UsageError: a value is out of bounds; the message begins with the name of the field.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        minimum, choices = item.metadata["minimum"], item.metadata["choices"]
        if choices and value not in choices:
            raise UsageError(f"{item.name} is {value!r}, but must be one of {', '.join(choices)}")
        maximum = item.metadata["maximum"]
        shown = "{:04o}" if item.metadata["metavar"] == "MODE" else "{:.10g}"
        # `not value >= minimum` is also true for a NaN.
        if minimum is not None and value is not None and not value >= minimum:
            bound = f"at least {shown.format(minimum)}"
            raise UsageError(f"{item.name} is {value}, but must be {bound}")
        if maximum is not None and value is not None and not value <= maximum:
            value, bound = shown.format(value), f"at most {shown.format(maximum)}"
            raise UsageError(f"{item.name} is {value}, but must be {bound}")


def make_settings(kind: type[T], given: T | None, single: Mapping[str, Any], owner: str) -> T:
    """Return the settings of an object that accepts a config object or single settings.

    Args:
        kind: dataclass of the settings.
        given: config object, or None.
        single: single settings by name.
        owner: name of the object's class in error messages.

    Raises:
        UsageError: both were given, or a setting is unknown or out of bounds.
    """
    if given is not None:
        if single:
            raise UsageError("config and single settings exclude each other; give only one kind")
        return given
    try:
        return kind(**single)
    except TypeError as error:
        text = str(error).replace(f"{kind.__name__}.__init__()", owner)
        raise UsageError(text) from None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` with the most similar known name, or an empty string."""
    import difflib  # only for error messages

    # Higher than the default cutoff, because all names share a prefix such as VSGI_FCGI_.
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class GracefulConfig(SettingsBase):
    """The time for a graceful stop, of everything that serves requests."""

    graceful_timeout: float = setting(
        30.0,
        "seconds that running requests have to end after SIGTERM",
        group="timeouts",
        minimum=0,
    )
