"""What is found, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How sure a finding is, and how bad; the value is a heading."""

    WRONG = "Wrong"
    MENDED = "Put right here, and better put right in the web server"
    MAYBE = "Cannot be told from this request"
    NOTE = "Good to know"


@dataclass(frozen=True, slots=True)
class Remedy:
    """Lines that help.

    Attributes:
        where: where they belong, as a heading.
        lines: the lines.
    """

    where: str
    lines: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found.

    Attributes:
        code: its name for programs.
        level: how sure it is, and how bad.
        seen: what was seen, a sentence.
        matters: what comes of it, a sentence or more.
        remedies: what helps; several are alternatives.
    """

    code: str
    level: Level
    seen: str
    matters: str
    remedies: tuple[Remedy, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether something is to be changed for certain."""
        return self.level in (Level.WRONG, Level.MENDED)
