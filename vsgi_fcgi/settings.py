"""How a setting is declared: a field of a frozen dataclass, with its help and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, TypeVar

from vsgi_fcgi.exceptions import UsageError

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Octal = Annotated[int, "octal"]
"""The bits of a file's mode, which people write in octal."""


def setting(
    default: Any,
    help: str,
    *,
    group: str = "server",
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    default_text: str = "",
    aliases: tuple[str, ...] = (),
) -> Any:
    """One field of `Config`.

    Args:
        default: the value when nothing is said.
        help: a sentence for ``--help`` and the reference; it names the unit.
        group: the heading under which ``--help`` lists it.
        least: the smallest value that is allowed.
        most: the largest value that is allowed.
        choices: the only values that are allowed.
        metavar: what the value is called in ``--help``, if its type says too little.
        default_text: what the default comes to, where its value does not say it.
        aliases: further names of its option, such as ``-b``.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "least": least,
            "most": most,
            "choices": choices,
            "metavar": metavar,
            "default_text": default_text,
            "aliases": aliases,
        },
    )


def check_settings(settings: Any) -> None:
    """Check all fields of a dataclass against their bounds.

    Raises:
        UsageError: a value is out of them; the message begins with the field's name.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        least, choices = item.metadata["least"], item.metadata["choices"]
        if choices and value not in choices:
            raise UsageError(f"{item.name} is {value!r}, but must be one of {', '.join(choices)}")
        most = item.metadata["most"]
        shown = "{:04o}" if item.metadata["metavar"] == "MODE" else "{:g}"
        # `not (value >= least)` also refuses a NaN.
        if least is not None and value is not None and not value >= least:
            bound = f"at least {shown.format(least)}"
            raise UsageError(f"{item.name} is {value}, but must be {bound}")
        if most is not None and value is not None and not value <= most:
            value, bound = shown.format(value), f"at most {shown.format(most)}"
            raise UsageError(f"{item.name} is {value}, but must be {bound}")


def make_settings(kind: type[T], given: T | None, single: Mapping[str, Any], owner: str) -> T:
    """The settings of an object that takes them all at once, or single ones by their names.

    Args:
        kind: their dataclass.
        given: all of them, or None.
        single: single ones.
        owner: the object's class, as an error calls it.

    Raises:
        UsageError: both were given, or there is no such setting, or one is out of its bounds.
    """
    if given is not None:
        if single:
            raise UsageError("give either config or single settings, not both")
        return given
    try:
        return kind(**single)
    except TypeError as error:
        text = str(error).replace(f"{kind.__name__}.__init__()", owner)
        raise UsageError(text) from None
