"""Configurations as they will be, with places for what differs."""

from __future__ import annotations

import re
from typing import Final

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_BLOCK: Final = re.compile(r"([ \t]*)\{\{(\w+)\}\}")


def fill(template: str, **values: str) -> str:
    """Put values into the places of a template, which are written ``{{name}}``.

    A place that is alone on its line takes lines, which are indented as it is, and goes with its
    line if there are none.

    Args:
        template: the text.
        **values: what goes where.
    """
    lines: list[str] = []
    for line in template.splitlines():
        block = _BLOCK.fullmatch(line)
        if block:
            indent = block[1]
            lines += [f"{indent}{item}".rstrip() for item in values[block[2]].splitlines()]
        else:
            lines.append(_PLACE.sub(lambda place: values[place[1]], line))
    return "\n".join(lines) + "\n"


def comment(*paragraphs: str) -> str:
    """Paragraphs as lines of a comment, with an empty one between two."""
    lines = "\n\n".join(filter(None, paragraphs)).splitlines()
    return "\n".join(f"# {line}".rstrip() for line in lines)


def steps(what: str, *commands: str) -> str:
    """What is to be done, with commands for it, for a comment."""
    return "\n".join([what, "", *(f"    {command}" for command in commands)])
