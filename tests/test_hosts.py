"""Test the command on hosts that are small, old or strict, as a user without rights."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.accounts import PublicPython, public_folder
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("root")]

APP = """
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]
"""

# The packages are in a folder of /tmp, which some hosts do not have.
BOX = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/site /mnt/lib
mount --bind "$1" /mnt/site
mount --bind "$2" /mnt/lib
cd /mnt/site
eval "$3"
shift 3
exec "$@"
"""

UID = random.randrange(100_000, 1_000_000)
"""A user without a name, of whom no other process runs: RLIMIT_NPROC counts those of a user.

Namespaces do not separate users, so it also differs from that of another run on this machine.
"""

FULL = "mount -t tmpfs -o size=64k,mode=1777 tmpfs /tmp; dd if=/dev/zero of=/tmp/x || true"
READ_ONLY = "for each in /tmp /var/tmp; do mount -t tmpfs -o ro tmpfs $each; done"
NO_PROC = "mount -t tmpfs tmpfs /proc"

NO_TMP = """
mkdir /mnt/root
for each in /* /tmp; do
    if [ -L $each ]; then
        cp -P $each /mnt/root
    elif [ -d $each ] && [ $each != /tmp ] && [ $each != /mnt ]; then
        mkdir /mnt/root$each
        mount --rbind $each /mnt/root$each
    fi
done
mkdir -p /mnt/root/mnt/site /mnt/root/mnt/lib
mount --rbind /mnt/site /mnt/root/mnt/site
mount --rbind /mnt/lib /mnt/root/mnt/lib
site=$1 lib=$2 setup=$3
shift 3
set -- $site $lib "$setup" chroot /mnt/root "$@"
"""
"""A file system in which nothing is called /tmp."""

REMOVED = """
import _socket, os, resource, socket
for module, names in (
    (os, ("O_PATH", "getresuid", "getresgid", "memfd_create", "sched_getaffinity")),
    (socket, ("SO_ACCEPTCONN", "SOCK_SEQPACKET")),
    (_socket, ("SO_ACCEPTCONN", "SOCK_SEQPACKET")),
):
    for name in names:
        delattr(module, name)
socket.__all__ = [name for name in socket.__all__ if hasattr(socket, name)]
getrlimit = resource.getrlimit
def unlimited(which):
    return (256, resource.RLIM_INFINITY) if which == resource.RLIMIT_NOFILE else getrlimit(which)
def refuse(which, limits):
    raise ValueError("not allowed to raise maximum limit")
resource.getrlimit, resource.setrlimit = unlimited, refuse
"""
"""What other systems than Linux do not have, or have in another form."""

NO_SSL = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("ssl", "_ssl", "sqlite3", "_sqlite3"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name in ("_ssl", "_sqlite3") else find_spec(name, package)
)
"""

IN_1970 = """
import time
now, began = time.time, time.time()
time.time = lambda: now() - began + 5
"""

Start = Callable[..., Process]


@pytest.fixture
def folder() -> Iterator[Path]:
    for program in ("unshare", "prlimit", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    with public_folder() as folder:
        (folder / "lengths.py").write_text(APP)
        folder.chmod(0o755)
        (folder / "run").mkdir()
        shutil.chown(folder / "run", UID, UID)
        yield folder


@pytest.fixture
def start(public_python: PublicPython, folder: Path) -> Iterator[Start]:
    """Starts the server as another user, in namespaces of its own and without an environment."""
    with ProcessGroup(folder) as group:
        group.measured = False  # coverage could not write what it has measured

        def start(
            *options: str,
            limit: str = "--nofile",
            setup: str = "",
            site: str = "",
            name: str = "server",
        ) -> Process:
            if site:
                (folder / "sitecustomize.py").write_text(site)
            return group.start(
                [
                    *("unshare", "--mount", "sh", "-c", BOX, "sh"),
                    *(str(folder), public_python.environ["PYTHONPATH"], setup),
                    *(["prlimit", limit] if "=" in limit else []),
                    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
                    *("--no-new-privs", "env", "-i"),
                    *("{}={}".format(*item) for item in group.mark().items()),
                    *("PYTHONPATH=/mnt/site:/mnt/lib", "PYTHONDONTWRITEBYTECODE=1"),
                    *(public_python.executable, "-m", "vsgi_fcgi", "lengths:app"),
                    *("--socket", "/mnt/site/run/app.sock", "--socket-mode", "0666", *options),
                ],
                name=name,
            )

        yield start


def check_serves(server: Process, folder: Path) -> None:
    """Check that the server takes requests at the same time, an upload, and a stop."""
    path = str(folder / "run" / "app.sock")
    server.wait_for_log("listening on")
    with Client(path) as client:
        assert client.get("/", bytes(3 << 20)).body == b"3145728"
        for id in range(1, 20):
            client.ask(id, body=b"x" * id)
        for id in range(1, 20):
            assert client.answer(id).body == b"%d" % id
    assert server.stop() == 0, server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("options", "limit", "says"),
    [
        ((), "--nproc=1", "only 0 of 8 threads could be started"),
        ((), "--nproc=2", "only 0 of 8 threads could be started"),
        ((), "--nproc=5", "only 2 of 8 threads could be started"),
        ((), "--nproc=8", "only 5 of 8 threads could be started"),
        (("--worker", "main"), "--nproc=1", ""),
        (("--worker", "main", "--slow-request", "9"), "--nproc=1", "slow_request does not find"),
        (("--request-timeout", "9"), "--nproc=1", "only 0 of 8 threads could be started"),
        (("--worker", "greenlet"), "--nproc=1", ""),
        (("--processes", "2"), "--nproc=5", "only 0 of 8 threads could be started"),
        (("--threads", "2"), f"--as={1 << 29}", ""),
        (("--worker", "main"), f"--as={1 << 29}", ""),
        (("--worker", "greenlet"), f"--as={1 << 29}", ""),
        ((), "--nofile=32", ""),
        (("--processes", "2"), "--nofile=32", ""),
    ],
)
def test_small_limits(
    options: tuple[str, ...], limit: str, says: str, start: Start, folder: Path
) -> None:
    server = start(*options, limit=limit)
    if says:
        server.wait_for_log(says)
    check_serves(server, folder)


def test_a_status_without_threads(start: Start, folder: Path) -> None:
    server = start("--status-path", "/status", limit="--nproc=1")
    server.wait_for_log("listening on")
    with Client(str(folder / "run" / "app.sock")) as client:
        for path in ("/status", "/status/json", "/status/alive"):
            client.ask(1, path, more={"REQUEST_URI": path, "REMOTE_ADDR": "127.0.0.1"})
            answer = client.answer(1)
            assert (answer.status, bool(answer.body)) == (200, True), path
    check_serves(server, folder)


def test_a_recording_without_threads_is_lost_with_a_warning(start: Start, folder: Path) -> None:
    server = start("--record", "/mnt/site/run", limit="--nproc=1")
    server.wait_for_log("listening on")
    with Client(str(folder / "run" / "app.sock")) as client:
        client.send(b"no FastCGI")
        client.read_to_end()
    server.wait_for_log(
        "a recording cannot be written to /mnt/site/run: the host allows no more threads"
    )
    check_serves(server, folder)
    assert not list((folder / "run").glob("*.recording*"))


@pytest.mark.parametrize("worker", ["thread", "greenlet"])
@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(FULL, id="a full /tmp"),
        pytest.param(f"{READ_ONLY}; mount --bind /mnt/site/run /var/tmp", id="a read-only /tmp"),
        pytest.param(NO_TMP, id="no /tmp"),
        pytest.param(NO_PROC, id="no /proc"),
        pytest.param("mount -t tmpfs -o ro tmpfs /dev/shm", id="no /dev/shm"),
    ],
)
def test_folders_that_are_missing(setup: str, worker: str, start: Start, folder: Path) -> None:
    check_serves(start("--worker", worker, setup=setup), folder)


def test_without_proc_and_with_processes(start: Start, folder: Path) -> None:
    check_serves(start("--processes", "2", setup=NO_PROC), folder)


def test_no_folder_for_temporary_files(start: Start, folder: Path) -> None:
    """Only bodies that need one are refused, and the log says why."""
    server = start(setup=READ_ONLY)
    server.wait_for_log("listening on")
    with Client(str(folder / "run" / "app.sock")) as client:
        assert client.get("/", bytes(3 << 20)).status == 503
        assert client.get("/", bytes(1000)).body == b"1000"
    server.wait_for_log("cannot write a request body to a temporary file")
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_without_proc_in_a_folder_of_others(start: Start, folder: Path) -> None:
    """Another user could replace the socket by a link before its mode is set."""
    (folder / "run").chmod(0o777)
    server = start(setup=NO_PROC)
    assert server.wait() == 2
    assert "a folder in which no other user may write" in server.log()
    assert not (folder / "run" / "app.sock").exists()


@pytest.mark.parametrize("worker", ["thread", "main", "greenlet"])
def test_names_that_only_linux_has(worker: str, start: Start, folder: Path) -> None:
    check_serves(start("--worker", worker, setup=NO_PROC, site=REMOVED), folder)


@pytest.mark.parametrize("option", [("--processes", "2"), ("--reload",)])
def test_what_needs_seqpacket_says_so(option: tuple[str, ...], start: Start) -> None:
    server = start(*option, site=REMOVED)
    assert server.wait() == 2
    assert f"{option[0]} needs sockets of the type SOCK_SEQPACKET" in server.log()


def test_abstract_names_are_refused_elsewhere(start: Start) -> None:
    server = start("--bind", "unix:@test-hosts", site="import sys; sys.platform = 'freebsd14'")
    assert server.wait() == 2
    assert "only Linux has sockets with abstract names" in server.log()


@pytest.mark.parametrize("worker", ["thread", "greenlet"])
@pytest.mark.parametrize("site", [NO_SSL, IN_1970], ids=["no ssl and sqlite3", "in 1970"])
def test_an_odd_python(site: str, worker: str, start: Start, folder: Path) -> None:
    check_serves(start("--worker", worker, site=site), folder)


def test_a_host_that_kills_idle_processes(start: Start, folder: Path) -> None:
    """The next process takes the socket that the killed one has left."""
    server = start(name="killed")
    server.wait_for_log("listening on")
    server.send_signal(signal.SIGKILL)
    server.wait()
    assert (folder / "run" / "app.sock").is_socket()
    check_serves(start(), folder)


def test_a_home_folder_that_cannot_be_read(start: Start, folder: Path) -> None:
    setup = "mount -t tmpfs -o mode=700 tmpfs /root; export HOME=/root"
    check_serves(start(setup=setup), folder)
