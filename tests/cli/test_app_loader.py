from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import need_module, unmeasured

import vsgi_fcgi
from vsgi_fcgi.cli.app_loader import load_app, parse_app_name
from vsgi_fcgi.exceptions import AppLoadError
from vsgi_fcgi.transport.monkey_patching import check_patching

Write = Callable[[str, str], Path]

APP = """\
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]
"""


@pytest.fixture(autouse=True)
def fresh_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working directory is first on the path, as `main` sets it, and no import stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path_importer_cache.clear()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def failure(spec: str) -> AppLoadError:
    """The error with which an app's name is refused; its message is one sentence."""
    with pytest.raises(AppLoadError) as caught:
        load_app(spec)
    assert "\n" not in str(caught.value)
    return caught.value


# Where an app is found


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("site_app:app", "app"),
        ("site_app:other", "other"),
        ("site_app", "app"),
        ("site_app.py:app", "app"),
        ("./site_app.py", "app"),
        ("site_app:holder.inner.app", "app"),
        ("site_app:make()", "made None None"),
        ("site_app:make(1)", "made 1 None"),
        ("site_app:make('a:b', two={'x': [True]})", "made a:b {'x': [True]}"),
        ("site_app:holder.make()", "made None None"),
    ],
)
def test_forms_of_a_name(spec: str, name: str, write: Write) -> None:
    write(
        "site_app.py",
        """\
def app(environ, start_response): ...
def other(environ, start_response): ...
def make(one=None, two=None):
    def made(environ, start_response): ...
    made.__name__ = f"made {one} {two}"
    return made
class holder:
    class inner:
        app = app
    make = make
holder.inner.app = app
holder.make = make
""",
    )
    assert load_app(spec).__name__ == name


def test_application_goes_before_app(write: Write) -> None:
    write("site_app.py", "application = len\napp = print\n")
    assert load_app("site_app") is len


def test_a_file_elsewhere_finds_its_neighbours(write: Write) -> None:
    write("deep/er/main_app.py", "from neighbour import app\n")
    write("deep/er/neighbour.py", APP)
    assert load_app("deep/er/main_app.py:app").__name__ == "app"


def test_an_absolute_path(write: Write) -> None:
    assert load_app(f"{write('deep/solo_app.py', APP)}:app").__name__ == "app"


def test_a_file_in_a_package_is_imported_as_its_part(write: Write) -> None:
    write("src/pkg/__init__.py", "")
    write("src/pkg/sub/__init__.py", "")
    write("src/pkg/sub/wsgi.py", "from ..core import app\n")
    write("src/pkg/core.py", APP)
    assert load_app("src/pkg/sub/wsgi.py").__module__ == "pkg.core"


def test_a_package_named_by_its_init_file(write: Write) -> None:
    write("pkg/__init__.py", APP)
    assert load_app("pkg/__init__.py").__module__ == "pkg"


@pytest.mark.parametrize("name", ["my-app.py", "json.py", "signal.py"])
def test_a_file_whose_name_no_import_statement_would_find(name: str, write: Write) -> None:
    write(f"there/{name}", APP)
    modules = {name: sys.modules.get(name) for name in ("json", "signal")}
    assert load_app(f"there/{name}:app").__name__ == "app"
    assert {name: sys.modules.get(name) for name in modules} == modules


def test_what_is_defined_in_a_file_can_be_pickled(write: Write) -> None:
    write("solo_app.py", f"{APP}class Thing: ...\n")
    app = load_app("./solo_app.py")
    assert sys.modules[app.__module__].Thing.__module__ == "solo_app"


# Wrong names


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "'' is not a module; name the app as MODULE:NAME or FILE.py:NAME"),
        (":app", "'' is not a module"),
        ("my-app:app", "'my-app' is not a module"),
        ("a..b", "'a..b' is not a module"),
        ("m:", "'' does not name an app; write m:NAME or m:FACTORY() with literal arguments"),
        ("m:a b", "'a b' does not name an app"),
        ("m:a()()", "'a()()' does not name an app"),
        ("m:a().b", "'a().b' does not name an app"),
        ("m:a[0]", "'a[0]' does not name an app"),
        ("m:a(open('x'))", "does not name an app"),
        ("m:a(**{})", "does not name an app"),
        ("m:a(*[])", "does not name an app"),
    ],
)
def test_a_name_that_is_written_wrongly(spec: str, sentence: str) -> None:
    with pytest.raises(AppLoadError) as caught:
        parse_app_name(spec)
    assert sentence in str(caught.value)
    assert caught.value.traceback == ""


def test_a_missing_module_lists_near_ones(write: Write, tmp_path: Path) -> None:
    write("mysite_app.py", APP)
    write("mysite/wsgi.py", APP)
    write("unrelated.py", APP)
    error = failure("mysite_ap:app")
    assert str(error) == (
        f"there is no module mysite_ap in {tmp_path} or elsewhere on Python's path;"
        " did you mean mysite_app or mysite?"
    )
    assert error.traceback == ""


def test_a_missing_submodule_lists_near_ones(write: Write) -> None:
    write("mysite/__init__.py", "")
    write("mysite/wsgi.py", APP)
    error = failure("mysite.wsgy:application")
    assert "there is no module mysite.wsgy in" in str(error)
    assert str(error).endswith("; did you mean mysite.wsgi?")
    assert error.traceback == ""


def test_a_missing_module_with_nothing_near() -> None:
    assert "; check the spelling, or set its folder with --chdir" in str(failure("zzqx:app"))


def test_a_submodule_of_what_is_no_package() -> None:
    assert "there is no module json.decoder.x" in str(failure("json.decoder.x"))


def test_a_missing_file_lists_near_ones(write: Write) -> None:
    write("there/wsgi.py", APP)
    assert str(failure("there/wsgy.py:app")) == (
        "there is no file there/wsgy.py; did you mean wsgi.py?"
    )
    assert "; check the path, or set its folder with --chdir" in str(failure("nowhere/zzqx.py"))


def test_a_file_that_is_no_python(write: Write) -> None:
    write("there/app", APP)
    assert "its name must end in .py" in str(failure("there/app"))


def test_a_missing_attribute_lists_near_ones(write: Write) -> None:
    write("site_app.py", "application = len\n")
    error = failure("site_app:aplication")
    assert str(error) == "site_app has no attribute aplication; did you mean application?"
    assert error.traceback == ""
    assert "; name one of its attributes" in str(failure("site_app:zzqx"))


def test_without_a_default_attribute(write: Write) -> None:
    write("site_app.py", "my_app = len\n")
    assert str(failure("site_app")) == (
        "site_app has neither application nor app; name its app, as in site_app:my_app"
    )


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("site_app:number", "site_app:number"),
        ("site_app:number()", "site_app:number"),
        ("site_app:make()", "what make() of site_app returned"),
        ("site_app", "site_app"),
    ],
)
def test_what_cannot_be_called_is_no_app(spec: str, what: str, write: Write) -> None:
    write("site_app.py", "number = app = 1\ndef make(): return 1\n")
    assert str(failure(spec)) == (
        f"{what} is of type int, which is not callable;"
        " name a WSGI app or a function that returns one"
    )


# An app whose code fails


def test_a_failing_import_shows_the_apps_own_traceback_alone(write: Write) -> None:
    write("site_app.py", "import deeper_app\n")
    path = write("deeper_app.py", "def fail():\n    raise ValueError('no\\nluck')\nfail()\n")
    for spec in ("site_app:app", "./site_app.py:app"):
        error = failure(spec)
        assert "failed with ValueError: no" in str(error)
        assert error.traceback.startswith("Traceback (most recent call last):\n")
        assert error.traceback.count(f'File "{path}"') == 2
        assert "importlib" not in error.traceback
        assert vsgi_fcgi.__path__[0] not in error.traceback


def test_the_causes_of_a_failure_are_stripped_too(write: Write) -> None:
    write(
        "site_app.py",
        """\
import importlib
try:
    importlib.import_module("broken_app")
except ValueError as error:
    raise RuntimeError("no settings") from error
""",
    )
    write("broken_app.py", "raise ValueError('deep')\n")
    error = failure("site_app")
    assert "The above exception was the direct cause" in error.traceback
    assert "ValueError: deep" in error.traceback
    assert "importlib/__init__.py" not in error.traceback
    assert "<frozen" not in error.traceback


def test_a_module_that_the_app_misses_is_not_taken_for_the_app(write: Write) -> None:
    path = write("site_app.py", "import zzqx_missing\n")
    error = failure("site_app:app")
    assert str(error) == (
        "importing site_app failed with ModuleNotFoundError: No module named 'zzqx_missing'"
    )
    assert f'File "{path}", line 1' in error.traceback


def test_an_app_that_misses_a_module_of_its_own_name_keeps_its_traceback(write: Write) -> None:
    write("pkg/__init__.py", "import pkg.wsgi\n")
    error = failure("pkg.wsgi:app")
    assert "failed with ModuleNotFoundError: No module named 'pkg.wsgi'" in str(error)
    assert "pkg/__init__.py" in error.traceback


def test_a_syntax_error_names_its_line(write: Write) -> None:
    path = write("site_app.py", "x = 1\ndef (:\n")
    error = failure("site_app:app")
    assert f'File "{path}", line 2' in error.traceback
    assert "<frozen" not in error.traceback


def test_an_app_that_exits_while_it_is_imported(write: Write) -> None:
    write("site_app.py", "import sys\nsys.exit('set SECRET_KEY')\n")
    error = failure("site_app")
    assert str(error) == "importing site_app failed with SystemExit: set SECRET_KEY"
    assert "sys.exit(" in error.traceback


def test_a_failing_factory(write: Write) -> None:
    path = write("site_app.py", "def make():\n    raise KeyError('DATABASE')\n")
    error = failure("site_app:make()")
    assert str(error) == "make() of site_app failed with KeyError: 'DATABASE'"
    assert f'File "{path}", line 2' in error.traceback
    assert "loading.py" not in error.traceback


def test_a_factory_called_with_wrong_arguments_has_no_traceback(write: Write) -> None:
    write("site_app.py", "def make(): ...\n")
    error = failure("site_app:make(1)")
    assert "make() of site_app failed with TypeError: make() takes 0" in str(error)
    assert error.traceback == ""


def test_a_failing_attribute(write: Write) -> None:
    write("site_app.py", "def __getattr__(name):\n    raise RuntimeError(name)\n")
    error = failure("site_app:lazy")
    assert str(error) == "reading lazy of site_app failed with RuntimeError: lazy"
    assert "site_app.py" in error.traceback


def test_a_file_that_failed_is_not_left_half_imported(write: Write) -> None:
    write("there/solo_app.py", "1 / 0\n")
    failure("there/solo_app.py")
    assert "solo_app" not in sys.modules


# Patched apps


def patching_verdict(code: str) -> str:
    """What `check_patching` says in a fresh interpreter after some code."""
    script = f"""
import sys
from vsgi_fcgi.transport.monkey_patching import check_patching
from vsgi_fcgi.exceptions import UsageError
{code}
try:
    check_patching("main")
    check_patching("thread")
except UsageError as error:
    print(error)
else:
    print("fine", "gevent" in sys.modules)
"""
    root = str(Path(vsgi_fcgi.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=unmeasured(),
    )
    return run.stdout.strip()


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("", "fine False"),
        ("import gevent.monkey", "fine True"),
        # As PySocks does: its sockets block their thread, as those of Python do.
        ("import socket; socket.socket = type('S', (socket.socket,), {})", "fine False"),
    ],
)
def test_unpatched_threading_is_fine(code: str, verdict: str) -> None:
    assert patching_verdict(code) == verdict


@pytest.mark.process
@pytest.mark.parametrize(
    ("patch", "what"),
    [
        ("patch_all()", "threading, socket and select"),
        ("patch_thread()", "threading"),
        ("patch_socket()", "socket"),
        ("patch_select()", "select"),
    ],
)
def test_what_gevent_has_patched_names_the_way_out(patch: str, what: str) -> None:
    assert patching_verdict(f"import gevent.monkey; gevent.monkey.{patch}") == (
        f"gevent has monkey-patched {what}, on which worker threads hang;"
        " remove monkey.patch_all() or use --worker greenlet"
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("patch", "what"), [("", "threading, socket and select"), ("socket=True", "socket")]
)
def test_eventlet_is_refused_with_either_worker(patch: str, what: str) -> None:
    need_module("eventlet")
    assert patching_verdict(f"import eventlet; eventlet.monkey_patch({patch})") == (
        f"eventlet has monkey-patched {what}, on which this server hangs;"
        " remove eventlet.monkey_patch()"
    )


def replaced_start(module: str) -> tuple[str, str]:
    """Code by which a module replaces what starts threads, and the name of that."""
    # The latter is in Python 3.13 and newer, which has no other.
    names = ("_start_new_thread", "_start_joinable_thread")
    name = next(name for name in names if hasattr(threading, name))
    code = f"""
import threading
def start(*args): pass
start.__module__ = {module!r}
threading.{name} = start
"""
    return code, f"threading.{name}"


@pytest.mark.process
def test_any_other_patch_of_threading_is_recognised() -> None:
    code, name = replaced_start("green.threads")
    assert patching_verdict(code) == (
        "green has monkey-patched threading, on which this server hangs;"
        f" remove the patch of {name}"
    )


@pytest.mark.process
def test_a_debugger_may_replace_what_starts_threads() -> None:
    code, _ = replaced_start("_pydev_bundle.pydev_monkey")
    assert patching_verdict(code) == "fine False"


def test_patching_is_of_no_concern_here() -> None:
    check_patching("thread")
