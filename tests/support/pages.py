"""The pages of the documentation, and the code on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>.*)\n(?P<text>(?s:.*?))^(?P=fence)$", re.MULTILINE)
_NAMED = re.compile(r"\{code-block\} *(\w+)")
_OPTIONS = re.compile(r"(?:^:[\w-]+:.*\n)*\n*", re.MULTILINE)
_CAPTION = re.compile(r"^:caption: *(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A piece of code on a page.

    Attributes:
        page: the file.
        line: the line that it begins in.
        language: its language.
        caption: the name of the file for the code, if it has a caption.
        text: the code.
    """

    page: Path
    line: int
    language: str
    caption: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced code of a page, in its order; not what a directive includes or makes."""
    source = page.read_text()
    for match in _FENCE.finditer(source):
        language, text, caption = match["info"].strip(), match["text"], ""
        if named := _NAMED.fullmatch(language):
            language = named[1]
            options = _OPTIONS.match(text)
            assert options is not None
            found = _CAPTION.search(options[0])
            caption = found[1] if found else ""
            text = text[options.end() :]
        if not language.startswith("{"):
            yield Block(page, source.count("\n", 0, match.start()) + 1, language, caption, text)


def all_blocks(*languages: str) -> list[Block]:
    """Return the code blocks of all pages in one of the languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text()))
