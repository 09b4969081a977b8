"""Find and import the app that the command line names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.listen.ownership import user_of

DEFAULT_NAMES = ("application", "app")


class AppName(NamedTuple):
    """The parsed name of an app.

    Attributes:
        where: a dotted module name, or the path of a file.
        is_file: True if `where` is the path of a file.
        attributes: the attribute names that lead from the module to the app or its factory;
            empty for one of `DEFAULT_NAMES`.
        call: the positional and keyword arguments of the factory; None for no call.
    """

    where: str
    is_file: bool
    attributes: tuple[str, ...] = ()
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None


def load_app(spec: str) -> Callable[..., Any]:
    """Import an app by its name.

    Args:
        spec: ``module:attr``, ``module:attr.sub``, ``module:factory()`` with literal arguments,
            or ``path/to/file.py:attr``. The default attribute is ``application`` or else
            ``app``.

    Returns:
        The app. It is callable; nothing else is checked.

    Raises:
        AppLoadError: there is no such app, or its code failed. In the second case the error has
            the traceback.
    """
    name = parse_app_name(spec)
    module = _import_file(name.where) if name.is_file else _import_module(name.where)
    if not name.attributes:
        return _checked(_default_app(module, name.where), name.where)
    path = ".".join(name.attributes)
    found: Any = module
    for attribute in name.attributes:
        found = _attribute(found, attribute, name.where)
    if name.call is None:
        return _checked(found, f"{name.where}:{path}")
    factory = _checked(found, f"{name.where}:{path}")
    positional, by_name = name.call
    try:
        app = factory(*positional, **by_name)
    except UsageError:
        # A factory such as that for Flask reports what the user has to fix.
        raise
    except (Exception, SystemExit) as error:
        raise _failure(f"{path}() of {name.where} failed", error) from error
    return _checked(app, f"what {path}() of {name.where} returned")


def parse_app_name(spec: str) -> AppName:
    """Parse the name of an app, without importing anything.

    Args:
        spec: as for `load_app`.

    Raises:
        AppLoadError: the name has the wrong form.
    """
    where, colon, expression = spec.partition(":")
    is_file = where.endswith(".py") or "/" in where
    if not where or not (is_file or all(part.isidentifier() for part in where.split("."))):
        raise AppLoadError(
            f"{where!r} is not a module; name the app as MODULE:NAME or FILE.py:NAME"
        )
    if not colon:
        return AppName(where, is_file)
    advice = f"write {where}:NAME or {where}:FACTORY() with literal arguments"
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        call = None
        if isinstance(node, ast.Call):
            call = _literal_arguments(node)
            node = node.func
        return AppName(where, is_file, _dotted(node), call)
    except (SyntaxError, ValueError) as error:
        raise AppLoadError(f"{expression!r} does not name an app; {advice}") from error


# The name


def _dotted(node: ast.expr) -> tuple[str, ...]:
    """Return the names in ``a.b.c``.

    Raises:
        ValueError: the expression is not a dotted name.
    """
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Attribute(value=value, attr=name):
            return (*_dotted(value), name)
        case _:
            raise ValueError("not a dotted name")


def _literal_arguments(node: ast.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a call.

    Raises:
        ValueError: an argument is not a literal.
    """
    by_name: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** in the call")
        by_name[keyword.arg] = ast.literal_eval(keyword.value)
    return tuple(ast.literal_eval(item) for item in node.args), by_name


# The module


def _import_module(name: str) -> ModuleType:
    """Import a module by its dotted name.

    Raises:
        AppLoadError: there is no such module, or its code failed.
    """
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # If the missing module is imported by the app, the traceback has frames of the app.
        if missing and f"{name}.".startswith(f"{missing}.") and not _own_frames(error):
            raise AppLoadError(_no_module(missing)) from None
        raise _failure(f"importing {name} failed", error) from error


def _import_file(text: str) -> ModuleType:
    """Import a file. If it is part of a package, import it as a module of that package.

    Raises:
        AppLoadError: there is no such file, or its code failed.
    """
    path = Path(text).resolve()
    try:
        # Not by `Path.is_file`, which hides this error since Python 3.14.
        exists = stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        raise AppLoadError(_forbidden(str(path.parent), text)) from None
    except OSError:
        exists = False
    if not exists:
        near = _near(path.name, (item.name for item in path.parent.glob("*.py")))
        raise AppLoadError(
            f"there is no file {text}{near or '; check the path, or set its folder with --chdir'}"
        )
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if len(parts) > 1:
        return _import_module(".".join(parts).removesuffix(".__init__"))
    # Loaded by its path, because its name may belong to another module (code.py, test.py) or may
    # not be importable (my-app.py).
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"{name}_app"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppLoadError(f"{text} is not a Python file; its name must end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failure(f"importing {text} failed", error) from error
    return module


def _no_module(name: str) -> str:
    """Return the error message for a module that does not exist, with similar names."""
    if not os.access(os.getcwd(), os.R_OK | os.X_OK):
        return _forbidden(os.getcwd(), f"the module {name}")
    parent, _, last = name.rpartition(".")
    folder = Path(*parent.split("."))
    names = {item.stem for item in folder.glob("*.py")}
    names |= {item.parent.name for item in folder.glob("*/*.py")}
    near = _near(last, names, f"{parent}." if parent else "")
    if not near and (commands := _close_matches(name, filter(None, COMMANDS))):
        near = f"; did you mean the command {commands[0]}?"
    return (
        f"there is no module {name} in {os.getcwd()} or elsewhere on Python's path"
        f"{near or '; check the spelling, or set its folder with --chdir'}"
    )


def _forbidden(folder: str, what: str) -> str:
    """Return the error message for a folder that this user, maybe that of --user, may not read."""
    name = user_of(os.geteuid())
    return (
        f"{folder}: the user {name} may not read this folder, in which {what} is expected; allow"
        " it, or set another folder with --chdir"
    )


# Its attributes


def _default_app(module: ModuleType, where: str) -> object:
    for name in DEFAULT_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    near = [item for name in DEFAULT_NAMES for item in _close_matches(name, vars(module))]
    example = near[0] if near else "NAME"
    raise AppLoadError(
        f"{where} has neither {' nor '.join(DEFAULT_NAMES)}; name its app, as in {where}:{example}"
    )


def _attribute(owner: object, name: str, where: str) -> Any:
    """Return an attribute of a module or of an object in it.

    Raises:
        AppLoadError: there is no such attribute, or computing it failed.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        public = (item for item in dir(owner) if not item.startswith("_"))
        near = _near(name, public) or "; name one of its attributes"
        raise AppLoadError(f"{where} has no attribute {name}{near}") from None
    except Exception as error:
        raise _failure(f"reading {name} of {where} failed", error) from error


def _checked(found: object, what: str) -> Callable[..., Any]:
    """Return the same object if it is callable.

    Raises:
        AppLoadError: it is not callable.
    """
    if not callable(found):
        raise AppLoadError(
            f"{what} is of type {type(found).__name__}, which is not callable;"
            " name a WSGI app or a function that returns one"
        )
    return found


# Error messages


def _near(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean ...?`` with similar names, or an empty string."""
    matches = _close_matches(name, names)
    return f"; did you mean {' or '.join(prefix + item for item in matches)}?" if matches else ""


def _close_matches(name: str, names: Iterable[str]) -> list[str]:
    import difflib  # only for error messages

    return difflib.get_close_matches(name, sorted(names))


def _failure(what: str, error: BaseException) -> AppLoadError:
    """Return the error for code of the app that failed, with the app's part of the traceback."""
    message = str(error).splitlines()
    detail = ": ".join([type(error).__name__, *message[:1]])
    own = ""
    # Without a frame of the app, as for a factory called with wrong arguments, the traceback says
    # nothing more. A SyntaxError names its line even then.
    if _own_frames(error) or isinstance(error, SyntaxError):
        report = traceback.TracebackException.from_exception(error)
        _strip(report)
        own = "".join(report.format())
    return AppLoadError(f"{what} with {detail}", traceback=own)


def _strip(report: traceback.TracebackException) -> None:
    """Remove our frames and those of the import system from a whole chain of errors."""
    report.stack = traceback.StackSummary.from_list(
        [frame for frame in report.stack if not _is_machinery(frame.filename)]
    )
    for other in (report.__cause__, report.__context__):
        if other is not None:
            _strip(other)


def _own_frames(error: BaseException) -> bool:
    """Return whether the traceback has a frame of the app."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(not _is_machinery(frame.filename) for frame in frames)


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")
