"""Test that the page about web servers agrees with the tests of web servers."""

from __future__ import annotations

import re

from support.matrix.exceptions import TOPICS, Topic
from support.pages import DOCS

from vsgi_fcgi.front_ends.registry import PROGRAMS


def test_each_exception_is_a_row_and_each_row_an_exception() -> None:
    page, _, _ = (DOCS / "topics" / "web-servers.md").read_text().partition("\n## ")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = [row for row in rows if len(row) == 5]
    assert table[0][1:3] == ["Debian 12", "Debian 13"]
    assert len(table) == 1 + len(TOPICS)
    found = {row[0]: (row[1].split(", "), row[2].split(", ")) for row in table[1:]}
    assert found == {topic.name: (list(topic.seen), in_debian_13(topic)) for topic in TOPICS}


def in_debian_13(topic: Topic) -> list[str]:
    return [name for name in topic.seen if name != "h2o" and name not in topic.gone] or ["none"]


def test_the_versions_are_those_that_the_configurations_name() -> None:
    page = (DOCS / "topics" / "web-servers.md").read_text()
    releases = [line for line in page.splitlines() if re.match(r"\* \*\*Debian 1[23]\*\*", line)]
    named: dict[str, list[str]] = {"Apache": ["2.4.71"]}
    assert "Apache is 2.4.71" in page.replace("\n", " ")
    for name, version in re.findall(
        r"(lighttpd|nginx|HAProxy|Caddy|h2o) ([\d.]*\d)", str(releases)
    ):
        if version not in named.setdefault(name, []):
            named[name].append(version)
    assert {name: " and ".join(versions) for name, versions in named.items()} == {
        item.title: item.tested for item in PROGRAMS.values()
    }
