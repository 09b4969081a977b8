"""Test ``--user``, ``--group``, ``--umask`` and ``--proc-name`` in processes that root starts."""

from __future__ import annotations

import grp
import itertools
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.accounts import NOBODY, WEB, PublicPython, public_folder
from support.commands import complaints
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup

pytestmark = pytest.mark.process

APP = """
import json, os

def can_become(uid):
    try:
        os.setresuid(uid, uid, uid)
    except PermissionError:
        return False
    return True

def made(path):
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o777))
    mode = os.stat(path).st_mode & 0o777
    os.unlink(path)
    return mode

# When the app is loaded, not when it is called.
FACTS = {
    "uids": os.getresuid(),
    "gids": os.getresgid(),
    "groups": os.getgroups(),
    "environ": {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")},
    "mode": made(f"/tmp/vsgi-fcgi-test-{os.getpid()}"),
}
if os.getuid() != 0:
    FACTS["can become root"] = can_become(0)

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(FACTS).encode()]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as folder:
        (folder / "facts.py").write_text(APP)
        yield folder


needs_root = pytest.mark.usefixtures("root")

Start = Callable[..., Process]


@pytest.fixture
def start(public_python: PublicPython, folder: Path) -> Iterator[Start]:
    """Start the command, as root unless told otherwise, and wait until it serves."""
    with ProcessGroup(folder) as group:
        names = (f"server{number}" for number in itertools.count())

        def start(*options: str, prefix: tuple[str, ...] = ()) -> Process:
            argv = [*prefix, public_python.executable, "-m", "vsgi_fcgi"]
            argv += ["--socket", str(folder / "a.sock"), *options, "facts:app"]
            process = group.start(argv, name=next(names), env=public_python.environ)
            process.wait_for_log("listening on")
            return process

        yield start


@pytest.fixture
def refuse(public_python: PublicPython, folder: Path) -> Callable[..., str]:
    """Start a command that must fail, and return its error message."""

    def refuse(*options: str, app: str = "facts:app", prefix: tuple[str, ...] = ()) -> str:
        command = [public_python.executable, "-m", "vsgi_fcgi"]
        command += ["--socket", str(folder / "a.sock")]
        run = subprocess.run(
            [*prefix, *command, *options, app],
            cwd=folder,
            env={**os.environ, **public_python.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert run.returncode == 2, run.stderr
        assert run.stderr.startswith("vsgi-fcgi: ")
        assert run.stderr.count("\n") == 1
        assert not (folder / "a.sock").exists()
        assert not (folder / "a.pid").exists()
        return run.stderr.removeprefix("vsgi-fcgi: ").rstrip("\n")

    return refuse


def facts(folder: Path) -> dict[str, Any]:
    """What the app saw when it was loaded."""
    with Client(str(folder / "a.sock")) as client:
        found = json.loads(client.get("/").body)
    assert isinstance(found, dict)
    return found


def as_user(name: str, *groups: str) -> tuple[str, ...]:
    """What starts a command as another user."""
    path = shutil.which("setpriv")
    if path is None:
        pytest.skip("setpriv is not installed")
    extra = ("--groups", ",".join(groups)) if groups else ("--clear-groups",)
    entry = pwd.getpwnam(name)
    return (path, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", *extra)


# --user and --group


@needs_root
def test_it_becomes_the_user_before_the_app_is_loaded(start: Start, folder: Path) -> None:
    nobody = pwd.getpwnam(NOBODY)
    # root's own groups, as a login has them, must not stay.
    process = start("--user", NOBODY, prefix=("setpriv", "--groups", "0,4"))
    seen = facts(folder)
    assert seen["uids"] == [nobody.pw_uid] * 3
    assert seen["gids"] == [nobody.pw_gid] * 3
    assert set(seen["groups"]) == set(os.getgrouplist(NOBODY, nobody.pw_gid))
    assert seen["can become root"] is False
    assert seen["environ"] == {"HOME": nobody.pw_dir, "USER": NOBODY, "LOGNAME": NOBODY}
    # Of all its threads.
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        assert f"Uid:\t{nobody.pw_uid}\t" in (task / "status").read_text()
    assert process.stop() == 0


@needs_root
def test_numbers_without_an_entry(start: Start, folder: Path) -> None:
    process = start("--user", "54321", "--group", "54322", prefix=("setpriv", "--groups", "0,4"))
    seen = facts(folder)
    assert seen["uids"] == [54321] * 3
    assert seen["gids"] == [54322] * 3
    assert seen["groups"] == []
    assert seen["environ"] == {"HOME": "/", "USER": None, "LOGNAME": None}
    assert process.stop() == 0


@needs_root
def test_a_group_beside_the_user(start: Start, folder: Path) -> None:
    process = start("--user", NOBODY, "--group", WEB)
    seen = facts(folder)
    assert seen["uids"] == [pwd.getpwnam(NOBODY).pw_uid] * 3
    assert seen["gids"] == [grp.getgrnam(WEB).gr_gid] * 3
    assert process.stop() == 0


@needs_root
def test_a_group_alone(start: Start, folder: Path) -> None:
    process = start("--group", WEB)
    seen = facts(folder)
    assert seen["uids"] == [0] * 3
    assert seen["gids"] == [grp.getgrnam(WEB).gr_gid] * 3
    assert seen["environ"]["HOME"] == os.environ.get("HOME")
    assert process.stop() == 0


@needs_root
def test_the_socket_belongs_to_the_user(start: Start, folder: Path) -> None:
    # Where the user may write, the socket is removed at the end.
    folder.chmod(0o777)
    process = start("--user", NOBODY)
    nobody = pwd.getpwnam(NOBODY)
    status = (folder / "a.sock").lstat()
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert process.stop() == 0
    assert not (folder / "a.sock").exists()


@needs_root
def test_the_socket_may_belong_to_another_group(start: Start, folder: Path) -> None:
    """What stays behind in a folder that is closed to the user is replaced at the next start."""
    for _ in range(2):
        process = start("--user", NOBODY, "--socket-group", WEB, "--socket-mode", "0620")
        status = (folder / "a.sock").lstat()
        assert status.st_uid == pwd.getpwnam(NOBODY).pw_uid
        assert status.st_gid == grp.getgrnam(WEB).gr_gid
        assert stat.S_IMODE(status.st_mode) == 0o620
        assert facts(folder)["uids"] == [pwd.getpwnam(NOBODY).pw_uid] * 3
        assert process.stop() == 0
        assert (folder / "a.sock").exists()


@needs_root
def test_who_it_is_already_needs_no_root(start: Start, folder: Path) -> None:
    folder.chmod(0o777)
    process = start("--user", NOBODY, prefix=as_user(NOBODY, WEB))
    seen = facts(folder)
    assert seen["uids"] == [pwd.getpwnam(NOBODY).pw_uid] * 3
    # Nothing was to change, so nothing did.
    assert seen["groups"] == [grp.getgrnam(WEB).gr_gid]
    assert seen["environ"]["HOME"] == os.environ.get("HOME")
    assert process.stop() == 0


@needs_root
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--user", WEB], f"--user {WEB}"),
        (["--user", "root"], "--user root"),
        (["--group", WEB], f"--group {WEB}"),
        (["--user", NOBODY, "--group", WEB], f"--user {NOBODY} --group {WEB}"),
    ],
)
def test_becoming_somebody_else_needs_root(
    refuse: Callable[..., str], folder: Path, options: list[str], named: str
) -> None:
    folder.chmod(0o777)
    assert refuse("--pid-file", "a.pid", *options, prefix=as_user(NOBODY)) == (
        f"{named} needs root, and this process runs as {NOBODY}; start it as root, or start it as"
        " the user that serves, without --user and --group"
    )


@needs_root
def test_a_root_without_its_rights(refuse: Callable[..., str]) -> None:
    """As in a container from which they were taken."""
    prefix = ("setpriv", "--bounding-set", "-setuid,-setgid", "--inh-caps", "-setuid,-setgid")
    assert refuse("--user", NOBODY, "--pid-file", "a.pid", prefix=prefix) == (
        f"--user {NOBODY}: Operation not permitted; give this process the capabilities"
        " CAP_SETUID and CAP_SETGID, or start it as the user that serves, without --user and"
        " --group"
    )


@needs_root
def test_a_system_that_gives_root_back(refuse: Callable[..., str]) -> None:
    prefix = ("setpriv", "--securebits", "+no_setuid_fixup")
    assert refuse("--user", NOBODY, prefix=prefix).startswith(
        f"--user {NOBODY}: the system would let this process become root again;"
    )


UNKNOWN = [
    (["--user", "nobodyy"], "there is no user 'nobodyy' for --user; did you mean nobody?"),
    (["--group", "www-dat"], "there is no group 'www-dat' for --group; did you mean www-data?"),
    (["--user", "zzzzzzzz"], "for --user; create the user or choose another"),
    (
        ["--user", "54321"],
        "--user 54321: the user database has no such user, and so no group for it; name a group"
        " with --group",
    ),
    (["--socket-group", "www-dat"], "there is no group 'www-dat' for the UNIX sockets"),
]


@pytest.mark.parametrize("action", [(), ("--check-config",)])
def test_nobody_of_that_name(action: tuple[str, ...], folder: Path) -> None:
    always = ("--socket", "a.sock", "--pid-file", "a.pid", "facts:app", *action)
    lines = [[*always, *options] for options, _ in UNKNOWN]
    for (_, sentence), said in zip(UNKNOWN, complaints(folder, lines), strict=True):
        assert sentence in said
    assert not (folder / "a.sock").exists()
    assert not (folder / "a.pid").exists()


def test_checking_changes_nothing(public_python: PublicPython, folder: Path) -> None:
    (folder / "who.py").write_text(f"import os\nassert os.getuid() == {os.getuid()}\napp = print\n")
    options = ["--check-config", "--socket", "a.sock", "--pid-file", "a.pid", "--user", NOBODY]
    run = subprocess.run(
        [public_python.executable, "-m", "vsgi_fcgi", *options, "who:app"],
        cwd=folder,
        env={**os.environ, **public_python.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 0, run.stderr
    assert {item.name for item in folder.iterdir()} - {"__pycache__"} == {"facts.py", "who.py"}


@needs_root
@pytest.mark.parametrize(
    ("app", "what"),
    [("shop:app", "the module shop"), ("shop.py:app", "shop.py")],
)
def test_a_folder_that_the_user_may_not_read(
    refuse: Callable[..., str], folder: Path, app: str, what: str
) -> None:
    folder.chmod(0o777)
    (folder / "site").mkdir(0o700)
    (folder / "site" / "shop.py").write_text(APP)
    assert refuse("--user", NOBODY, "--chdir", str(folder / "site"), app=app) == (
        f"{folder}/site: the user {NOBODY} may not read this folder, in which {what} is expected;"
        " allow it, or set another folder with --chdir"
    )


# --umask


def test_the_umask_is_that_of_the_app_and_not_that_of_the_socket(
    start: Start, folder: Path
) -> None:
    process = start("--umask", "027", "--socket-mode", "0666", "--pid-file", "a.pid")
    assert facts(folder)["mode"] == 0o750
    assert stat.S_IMODE((folder / "a.sock").lstat().st_mode) == 0o666
    assert stat.S_IMODE((folder / "a.pid").lstat().st_mode) == 0o644
    assert process.stop() == 0


# --proc-name


def test_the_name_of_the_process(start: Start) -> None:
    process = start("--proc-name", "my site")
    folder = Path(f"/proc/{process.pid}")
    assert (folder / "cmdline").read_bytes().rstrip(b"\0") == b"my site"
    assert (folder / "comm").read_text() == "my site\n"
    assert process.stop() == 0


def test_the_package_that_names_processes_is_missing(tmp_path: Path) -> None:
    # As it is where it was never installed: Python's own way to say so.
    code = (
        "import sys; sys.modules['setproctitle'] = None\n"
        "from vsgi_fcgi.cli import main\n"
        "sys.exit(main(['--socket', 'a.sock', '--proc-name', 'site', 'no:app']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 2
    assert run.stderr == (
        "vsgi-fcgi: --proc-name: setproctitle is missing; run pip install 'vsgi-fcgi[proc-name]'\n"
    )
    assert not (tmp_path / "a.sock").exists()
