"""The page about web servers says what the tests of them have found."""

from __future__ import annotations

from support.matrix_exceptions import TOPICS
from support.pages import DOCS


def test_each_exception_is_a_row_and_each_row_an_exception() -> None:
    page = (DOCS / "topics" / "web-servers.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 4 for row in rows)
    assert len(rows) == 1 + len(TOPICS)
    found = {row[0]: row[1].split(", ") for row in rows[1:]}
    assert found == {topic.name: list(topic.seen) for topic in TOPICS}
