"""Build hooks: compile the hot modules, add the manual page, make the README for the package index.

The modules that ``compiled`` in pyproject.toml lists are the path of a request. mypyc compiles them
as they are, with one change: it would call a method with a decorator slowly, so the marks
``@main_only`` and ``@worker_only`` become a test of a constant in the body (`inline_marks`).

``VSGI_FCGI_PURE`` chooses the build:

- ``1``: pure Python. Neither mypy nor a C compiler is needed.
- ``0``: compiled. The build fails if that is not possible.
- not set: compiled if there is a C compiler and it succeeds, otherwise pure Python. An editable
  installation is pure Python, because an extension module would hide changes of its source.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^()\s]+)(?=\))")

_PACKAGE = "vsgi_fcgi"
_CHECKS = {"main_only": "check_main", "worker_only": "check_worker"}
_IMPORT = re.compile(r"^from vsgi_fcgi\.transport\.thread_affinity import .*$", re.MULTILINE)


class Wheel(BuildHookInterface):  # type: ignore[type-arg]
    """Hook that compiles modules, and adds ``share/man/man1/vsgi-fcgi.1``.

    `man` finds the page next to ``bin``.
    """

    def dependencies(self) -> list[str]:
        """Return what the build needs in addition to hatchling: nothing, if it is pure."""
        return [] if self._why_pure() else list(self.config["compiler"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the manual page and the extension modules before the wheel is built."""
        self._folder = tempfile.TemporaryDirectory()
        work = Path(self._folder.name)
        self._add_manual(work, build_data)
        pure = os.environ.get("VSGI_FCGI_PURE")
        reason = self._why_pure()
        if version == "editable" and pure != "0":
            reason = "an editable installation"
        if reason:
            self.app.display_info(f"Pure Python: {reason}")
            return
        if missing := self._missing():
            raise SystemExit(
                f"VSGI_FCGI_PURE=0: {missing}; install a C compiler and the headers of Python"
                " (Debian: apt-get install gcc python3-dev), or unset VSGI_FCGI_PURE"
            )
        try:
            extensions = compile_modules(Path(self.root), self.config["compiled"], work)
        except (Exception, SystemExit) as error:
            if pure == "0":
                raise
            self.app.display_warning(f"Pure Python, because compiling failed: {error}")
            return
        if version == "editable":
            for name, file in extensions.items():
                shutil.copy(file, Path(self.root, name))
            return
        build_data["force_include"].update((str(file), name) for name, file in extensions.items())
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary files after the wheel is built."""
        self._folder.cleanup()

    def _add_manual(self, work: Path, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        try:
            from vsgi_fcgi.cli.settings.man_page import manual
        finally:
            sys.path.remove(self.root)
        page = work / "vsgi-fcgi.1"
        page.write_text(manual(), encoding="utf-8")
        build_data["shared_data"][str(page)] = "share/man/man1/vsgi-fcgi.1"

    @staticmethod
    def _why_pure() -> str:
        """Return why the build is pure Python; an empty string if it is compiled."""
        pure = os.environ.get("VSGI_FCGI_PURE")
        if pure == "1":
            return "VSGI_FCGI_PURE=1"
        if pure == "0":
            return ""
        if sys.implementation.name != "cpython":
            return "this is not CPython"
        return Wheel._missing()

    @staticmethod
    def _missing() -> str:
        """Return what is missing to compile; an empty string if nothing is."""
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        if shutil.which(compiler) is None:
            return f"there is no C compiler {compiler}"
        header = Path(sysconfig.get_path("include"), "Python.h")
        return "" if header.exists() else f"there is no {header}"


def compile_modules(root: Path, modules: Sequence[str], work: Path) -> dict[str, Path]:
    """Compile modules to extension modules.

    Args:
        root: the folder of the project.
        modules: the files, relative to ``root``.
        work: a folder for temporary files.

    Returns:
        The extension modules: the path in the wheel, and the file.
    """
    # Before distutils, which it provides.
    from mypyc.build import mypycify
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    source = work / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(root / _PACKAGE, source / _PACKAGE, ignore=ignored)
    for name in modules:
        file = source / name
        file.write_text(inline_marks(file.read_text("utf-8"), name), "utf-8")
    # The same types wherever it is built: no other installed package is looked at.
    options = ["--no-site-packages", "--ignore-missing-imports"]
    options += ["--config-file=", "--no-incremental"]
    with contextlib.chdir(source):
        found = mypycify(
            [*options, *modules],
            opt_level="3",
            debug_level="0",
            multi_file=True,
            group_name=_PACKAGE,
            target_dir=str(work / "c"),
        )
    compiler = new_compiler()
    customize_compiler(compiler)
    include = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]

    def compile_one(task: tuple[Any, str]) -> tuple[Any, str]:
        extension, file = task
        (made,) = compiler.compile(
            [file],
            output_dir=str(work / "objects"),
            include_dirs=[*include, *extension.include_dirs],
            extra_postargs=extension.extra_compile_args,
            depends=extension.depends,
        )
        return extension, made

    tasks = [(extension, file) for extension in found for file in extension.sources]
    # The largest first, so that no core has to wait for a large one at the end.
    tasks.sort(key=lambda task: os.path.getsize(task[1]), reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, tasks))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    result: dict[str, Path] = {}
    for extension in found:
        name = extension.name.replace(".", "/") + suffix
        result[name] = work / "built" / name
        parts = [made for of, made in objects if of is extension]
        compiler.link_shared_object(parts, str(result[name]))
    return result


def inline_marks(source: str, name: str) -> str:
    """Replace the marks of `vsgi_fcgi.transport.thread_affinity` by checks in the bodies.

    Lines keep their numbers, so that tracebacks show the right ones.

    Args:
        source: the text of a module.
        name: its name, for error messages.

    Returns:
        The changed text.
    """
    lines = source.splitlines(keepends=True)
    found = False
    for node in ast.walk(ast.parse(source)):
        for mark in getattr(node, "decorator_list", ()):
            check = _CHECKS.get(getattr(mark, "id", ""))
            if check is None:
                continue
            assert isinstance(node, ast.FunctionDef)
            if ast.get_docstring(node) is None:
                raise SyntaxError(f"{name}: {node.name} has a mark, so it needs a docstring")
            found = True
            lines[mark.lineno - 1] = "\n"
            end = (node.body[0].end_lineno or 0) - 1
            lines[end] = f"{lines[end].rstrip()}; _CHECKED and {check}({node.name!r})\n"
    text = "".join(lines)
    if not found:
        return text
    # A constant of the module itself, because mypyc looks up one of another module by its name.
    added = (
        "from vsgi_fcgi.transport.thread_affinity import CHECKED, check_main, check_worker; "
        "import typing as _typing; _CHECKED: _typing.Final = CHECKED"
    )
    return _IMPORT.sub(added, text, count=1)


class Readme(MetadataHookInterface):
    """Hook that makes the links of the README absolute, because a package index has no other files.

    In the repository the links are relative, so that they lead to the same branch or release. The
    base URL is ``Source`` in ``[project.urls]``.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme`` in the metadata of the package."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        files = f"{metadata['urls']['Source']}/blob/main/"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": _RELATIVE_LINK.sub(lambda link: files + link[1], text),
        }
