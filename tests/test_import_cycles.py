"""No module of the package is in an import cycle, imports for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import vsgi_fcgi

PACKAGE = Path(vsgi_fcgi.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(body: list[ast.stmt]) -> Iterator[str]:
    """The modules that these statements import, but for those that functions import later."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "the package imports by absolute names"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if (name := full if full in MODULES else node.module) in MODULES:
                    yield name or ""
        elif isinstance(node, (ast.If, ast.Try)):
            yield from imports_of(node.body + node.orelse)


def cycles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        found: set[str] = set()
        ahead = list(edges[start])
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead += edges[name]
        reached[start] = found
    groups = [{other for other in reached[name] if name in reached[other]} for name in edges]
    return [group for index, group in enumerate(groups) if group and group not in groups[:index]]


def test_no_module_is_in_an_import_cycle() -> None:
    """Where two modules need each other, one of them uses a small Protocol or a plain value."""
    edges = {
        name: set(imports_of(ast.parse(path.read_text()).body)) for name, path in MODULES.items()
    }
    assert cycles(edges) == []


def test_a_cycle_would_be_seen() -> None:
    """The test above can fail."""
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vsgi_fcgi import cli"
    assert list(imports_of(ast.parse(source).body)) == ["vsgi_fcgi.cli"]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [{"b", "c"}, {"d"}]
