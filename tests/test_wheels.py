"""The two builds of the wheel, and the rules that compiled modules follow."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import unmeasured

pytestmark = pytest.mark.process

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
COMPILED: list[str] = HOOK["wheel"]["hooks"]["custom"]["compiled"]
FEW = ["vsgi_fcgi/build.py", "vsgi_fcgi/transport/closing.py"]

needs_compiler = pytest.mark.skipif(
    shutil.which(sysconfig.get_config_var("CC").split()[0]) is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="there is no C compiler, or no Python.h",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project that compiles only two modules, which takes seconds."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "vsgi_fcgi", copy / "vsgi_fcgi")
    for name in ("hatch_build.py", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    text = (copy / "pyproject.toml").read_text()
    text = re.sub(r"(?ms)^compiled = \[.*?^\]", f"compiled = {FEW!r}", text)
    (copy / "pyproject.toml").write_text(text)
    # What the C compiler optimizes takes most of the time; `./check` builds the wheel as users do.
    hook = (copy / "hatch_build.py").read_text()
    assert hook.count('opt_level="3"') == 1
    (copy / "hatch_build.py").write_text(hook.replace('opt_level="3"', 'opt_level="0"'))
    return copy


def build(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    environ = {**unmeasured()}
    environ.pop("CC", None)
    environ.pop("VSGI_FCGI_PURE", None)
    return subprocess.run(
        [sys.executable, "-c", code, "dist"],
        cwd=project,
        env=environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(project: Path) -> tuple[str, set[str]]:
    (wheel,) = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, set(archive.namelist())


def test_a_pure_wheel(project: Path) -> None:
    run = build(project, VSGI_FCGI_PURE="1")
    assert run.returncode == 0, run.stderr
    name, files = contents(project)
    assert name.endswith("-py3-none-any.whl")
    assert not any(file.endswith(".so") for file in files)
    assert "vsgi_fcgi/py.typed" in files
    assert any(file.endswith("share/man/man1/vsgi-fcgi.1") for file in files)


@needs_compiler
@pytest.mark.timeout(300)
def test_a_compiled_wheel_has_the_sources_too(project: Path) -> None:
    run = build(project, VSGI_FCGI_PURE="0")
    assert run.returncode == 0, run.stderr
    name, files = contents(project)
    version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert re.search(rf"-{version}-{version}-linux_\w+\.whl$", name)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    extensions = {file for file in files if file.endswith(".so")}
    assert extensions == {
        f"vsgi_fcgi__mypyc{suffix}",
        *(file.removesuffix(".py") + suffix for file in FEW),
    }
    assert {*FEW, "vsgi_fcgi/py.typed"} <= files


def test_without_a_compiler_the_wheel_is_pure(project: Path) -> None:
    run = build(project, CC="/nonexistent/cc")
    assert run.returncode == 0, run.stderr
    assert contents(project)[0].endswith("-py3-none-any.whl")
    assert "there is no C compiler /nonexistent/cc" in run.stdout + run.stderr


def test_a_compiler_that_is_required_and_missing(project: Path) -> None:
    run = build(project, VSGI_FCGI_PURE="0", CC="/nonexistent/cc")
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "VSGI_FCGI_PURE=0: there is no C compiler /nonexistent/cc; install" in output
    assert "Traceback" not in output


def test_what_cannot_be_compiled_is_an_error_only_if_compiling_is_required(project: Path) -> None:
    (project / FEW[1]).write_text("this is no Python\n")
    assert build(project, VSGI_FCGI_PURE="0").returncode != 0
    run = build(project)
    assert run.returncode == 0, run.stderr
    assert contents(project)[0].endswith("-py3-none-any.whl")


# The rules of CONTRIBUTING.md for compiled modules, as far as they are visible in the source.


@pytest.mark.parametrize("name", COMPILED)
def test_marks_become_checks_on_the_same_lines(name: str) -> None:
    inline_marks: Any = runpy.run_path(str(ROOT / "hatch_build.py"))["inline_marks"]
    source = (ROOT / name).read_text()
    changed = inline_marks(source, name)
    before, after = ast.parse(source), ast.parse(changed)
    lines = [[line(node) for node in functions(tree)] for tree in (before, after)]
    assert lines[0] == lines[1]
    marks = len(re.findall(r"^ *@(?:main|worker)_only$", source, re.MULTILINE))
    assert (
        len(re.findall(r"; _CHECKED and check_(?:main|worker)\('\w+'\)$", changed, re.M)) == marks
    )
    assert not re.search(r"@(?:main|worker)_only", changed)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def line(function: ast.FunctionDef) -> tuple[str, int]:
    return function.name, function.body[-1].lineno


@pytest.mark.parametrize("name", COMPILED)
def test_no_break_and_no_continue_leave_a_with_or_a_try_with_finally(name: str) -> None:
    """Mypyc does not support them."""

    def look(node: ast.AST, *, guarded: bool) -> None:
        if isinstance(node, ast.Break | ast.Continue):
            assert not guarded, f"{name}:{node.lineno}"
        elif isinstance(node, ast.With) or (isinstance(node, ast.Try) and node.finalbody):
            guarded = True
        elif isinstance(node, ast.For | ast.While | ast.FunctionDef):
            guarded = False
        for child in ast.iter_child_nodes(node):
            look(child, guarded=guarded)

    look(ast.parse((ROOT / name).read_text()), guarded=False)


def test_what_derives_from_a_compiled_class_is_compiled() -> None:
    """An interpreted class cannot derive from a compiled one."""
    modules = {name.removesuffix(".py").replace("/", ".") for name in COMPILED}
    wrong: list[str] = []
    for file in (ROOT / "vsgi_fcgi").rglob("*.py"):
        name = str(file.relative_to(ROOT))
        if name in COMPILED:
            continue
        tree = ast.parse(file.read_text())
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and origin(node) & modules
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in map(plain, node.bases) if isinstance(base, ast.Name)}
                wrong += [f"{name}: {node.name}({base})" for base in bases & imported]
    assert wrong == []


def plain(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base


def origin(node: ast.ImportFrom) -> set[str]:
    """The module, and what the package ``protocol`` exports."""
    if node.module == "vsgi_fcgi.protocol":
        return {"vsgi_fcgi.protocol.server"}
    return {str(node.module)}


def test_every_listed_module_exists_and_is_listed_once() -> None:
    assert [name for name in COMPILED if not (ROOT / name).is_file()] == []
    assert sorted(set(COMPILED)) == COMPILED
