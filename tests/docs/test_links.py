"""Test the links of the pages, and that the pages are complete."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import pytest
from support.pages import DOCS, PAGES, prose

from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.protocol import ProtocolStatus, RecordType, Role
from vsgi_fcgi.wsgi.environ import base_environ, make_environ

_LINK = re.compile(r"\]\(([^()\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    targets = [link.partition("#")[0] for link in _LINK.findall(prose(page)) if "://" not in link]
    missing = [item for item in targets if item and not (page.parent / item).exists()]
    assert not missing


def test_every_limit_is_explained() -> None:
    page = (DOCS / "topics" / "limits.md").read_text()
    limits = [item.name for item in SERVE.fields.values() if item.metadata["group"] == "limits"]
    limits += [item.name for item in SERVE.fields.values() if item.metadata["group"] == "timeouts"]
    assert len(limits) > 15
    assert [name for name in limits if f"`{name}`" not in page] == []


def test_every_part_of_the_protocol_is_explained() -> None:
    page = (DOCS / "topics" / "protocol.md").read_text()
    names = [item.name for kind in (RecordType, Role, ProtocolStatus) for item in kind]
    assert [name for name in names if f"| {name} |" not in page] == []


def test_every_key_of_the_environ_is_explained() -> None:
    page = (DOCS / "reference" / "environ.md").read_text()
    base = base_environ(multithread=True, vsgi_fcgi__main_context=None)
    environ = make_environ({"REQUEST_METHOD": "POST"}, (), base, BytesIO(b"x"), 1, None)
    assert [key for key in environ if f"`{key}`" not in page] == []
