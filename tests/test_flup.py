"""Test scripts that were written for flup: the names, their effects, and the warnings."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fcgi import records
from support.fcgi.peer import Client, request_params
from support.flup import FlupScript, connects, listens, write_script
from support.processes import ProcessGroup, unmeasured, wait_until

import vsgi_fcgi.flup
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.flup import fcgi, fcgi_fork, fcgi_single
from vsgi_fcgi.protocol import ProtocolStatus, Role

SERVERS: list[Any] = [fcgi.WSGIServer, fcgi_fork.WSGIServer, fcgi_single.WSGIServer]


def app(environ: Any, start_response: Any) -> Any:
    raise NotImplementedError


def environ_of(address: Any) -> dict[str, Any]:
    with Client(address) as client:
        found: dict[str, Any] = json.loads(client.get("/echo").body)["environ"]
        return found


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """What a web server puts on descriptor 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


@pytest.mark.parametrize("module", ["fcgi", "fcgi_fork", "fcgi_single"])
def test_the_modules_of_flup(module: str) -> None:
    assert importlib.import_module(f"vsgi_fcgi.flup.{module}").WSGIServer in SERVERS


def test_the_names_of_the_package() -> None:
    assert vsgi_fcgi.flup.WSGIServer is fcgi.WSGIServer
    roles = (
        vsgi_fcgi.flup.FCGI_RESPONDER,
        vsgi_fcgi.flup.FCGI_AUTHORIZER,
        vsgi_fcgi.flup.FCGI_FILTER,
    )
    assert roles == (1, 2, 3)


def test_the_order_of_the_arguments() -> None:
    """As in flup 1.0.3, where some scripts give them without their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fcgi.WSGIServer(app, {}, True, False, ("", 9000), 0, True, False, (1,), False)
        fcgi_single.WSGIServer(app, {}, "app.sock", 0, True, False, (1,), False)
    with pytest.warns(UserWarning, match="^timeout=9 is ignored: "):
        fcgi_fork.WSGIServer(
            app, {}, "app.sock", 0, True, False, (1,), False, 9, maxChildren=1, maxRequests=0
        )


@pytest.mark.parametrize(
    ("server", "arguments", "sentence"),
    [
        (fcgi, {"minSpare": 1}, "minSpare=1 is ignored: all threads start"),
        (fcgi, {"maxSpare": 5}, "maxSpare=5 is ignored: all threads start"),
        (fcgi, {"debug": True}, "debug=True is ignored: tracebacks are written to the log"),
        (fcgi_single, {"debug": True}, "debug=True is ignored: tracebacks are written to the log"),
        (fcgi_fork, {}, "maxChildren=50 is ignored: there is one process"),
        (fcgi_fork, {"maxChildren": 1, "minSpare": 2}, "minSpare=2 is ignored: there is one"),
        (fcgi_fork, {"maxChildren": 1, "maxSpare": 2}, "maxSpare=2 is ignored: there is one"),
        (
            fcgi_fork,
            {"maxChildren": 1, "maxRequests": 100},
            "maxRequests=100 is ignored: the process is not replaced",
        ),
        (
            fcgi_fork,
            {"maxChildren": 1, "sockTimeout": 3},
            "sockTimeout=3 is ignored: set receive_timeout",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_honoured(server: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}") as warned:
        server.WSGIServer(app, **arguments)
    # One sentence for one argument, and it names the line of the script.
    assert [item.filename for item in warned] == [__file__]


def test_methods_that_are_not_called() -> None:
    class Server(fcgi.WSGIServer):
        def error(self, request: object) -> None:
            raise NotImplementedError

    with pytest.warns(UserWarning, match=r"^the method error\(\) is not called: "):
        Server(app)


@pytest.mark.parametrize("server", SERVERS)
def test_an_argument_that_flup_does_not_have_either(server: Any) -> None:
    with pytest.raises(TypeError, match="maxThread'"):
        server(app, maxThread=5)


@pytest.mark.parametrize("address", ["", 9000, ("127.0.0.1",), ("::1", "9000"), ("", 70000)])
def test_no_address(address: Any) -> None:
    with pytest.raises(UsageError, match=r"^bindAddress is .*, but must be the path of a UNIX"):
        fcgi.WSGIServer(app, bindAddress=address)


@pytest.mark.parametrize("roles", [(), (4,), (1, 0)])
def test_no_roles(roles: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"^roles is \(.*\), but must be some of FCGI_RESPONDER"):
        fcgi.WSGIServer(app, roles=roles)


@pytest.mark.process
@pytest.mark.parametrize("roles", [(1,), (2,), (3,), (1, 2), (3, 1, 2)])
def test_roles(processes: ProcessGroup, roles: tuple[int, ...]) -> None:
    script = FlupScript(processes, f"roles={roles}")
    values = request_params("/echo", more={"FCGI_DATA_LENGTH": "0", "FCGI_DATA_LAST_MOD": "0"})
    for role in Role:
        with Client(str(script.socket)) as client:
            request = records.begin(1, role) + records.params(1, values)
            request += b"" if role is Role.AUTHORIZER else records.stdin(1)
            request += records.data(1) if role is Role.FILTER and role in roles else b""
            client.send(request)
            answer = client.answer(1)
        if role in roles:
            assert json.loads(answer.body)["environ"]["PATH_INFO"] == "/echo"
        else:
            assert answer.protocol_status == ProtocolStatus.UNKNOWN_ROLE


def test_no_threads() -> None:
    with pytest.raises(UsageError, match=r"^threads is 0, but must be at least 1"):
        fcgi.WSGIServer(app, maxThreads=0)


@pytest.mark.process
def test_what_an_app_finds(processes: ProcessGroup) -> None:
    more = "environ={'mysite.settings': 'live', 'wsgi.multithread': 'no'}, multiprocess=True"
    script = FlupScript(processes, more)
    environ = environ_of(str(script.socket))
    assert environ["mysite.settings"] == "live"
    assert environ["wsgi.multithread"] == "no"
    assert environ["wsgi.multiprocess"] is True
    assert script.process.stop() == 0
    # The script goes on after run(), and the socket's file is gone.
    assert script.process.log() == "the end of the script\n"
    assert not script.socket.exists()


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "arguments", "flags"),
    [
        ("fcgi", "maxThreads=3", (True, False)),
        ("fcgi", "multithreaded=False, maxThreads=3", (False, False)),
        ("fcgi_single", "", (False, False)),
        ("fcgi_fork", "maxChildren=1", (False, True)),
    ],
)
def test_threads(
    processes: ProcessGroup, module: str, arguments: str, flags: tuple[bool, bool]
) -> None:
    script = FlupScript(processes, arguments, module)
    environ = environ_of(str(script.socket))
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"]) == flags
    journal = processes.folder / "journal"

    def ask(number: int) -> None:
        with Client(str(script.socket)) as client:
            assert client.get(f"/work?journal={journal}&id={number}").status == 200

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    lines = journal.read_text().split("\n")[:-1]
    running = most = 0
    for line in lines:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert len(lines) == 24
    assert most <= (3 if flags[0] else 1)


@pytest.mark.process
@pytest.mark.parametrize(
    ("umask", "arguments", "mode"),
    [(0o022, "umask=0", 0o777), (0o022, "umask=0o117", 0o660), (0o027, "", 0o750)],
)
def test_who_may_connect(processes: ProcessGroup, umask: int, arguments: str, mode: int) -> None:
    """What flup's users know it by: ``umask=0`` lets the web server in."""
    before = write_script(processes.folder, arguments)
    text = before.read_text().replace("(app, ", "(app, bindAddress='app.sock', ")
    before.write_text(text.replace("import sys\n", f"import os, sys\nos.umask({umask})\n", 1))
    processes.start([str(before)])
    path = processes.folder / "app.sock"
    # It gets its mode after it is bound, and before anybody can connect.
    wait_until(lambda: path.exists() and stat.S_IMODE(path.stat().st_mode) == mode, "the mode")


@pytest.mark.process
def test_a_port(processes: ProcessGroup) -> None:
    with listening() as taken:
        port = taken.getsockname()[1]
    process = processes.start([str(write_script(processes.folder, f"bindAddress=('', {port})"))])
    # It says who may now send requests.
    process.wait_for_log(f"fcgi://0.0.0.0:{port}/ is open to other machines")
    assert environ_of(("127.0.0.1", port))["REQUEST_METHOD"] == "GET"


@pytest.mark.process
def test_a_hangup_ends_a_run_and_the_script_decides(processes: ProcessGroup) -> None:
    script = FlupScript(processes)
    for times in (1, 2):
        assert environ_of(str(script.socket))["REQUEST_METHOD"] == "GET"
        script.process.send_signal(signal.SIGHUP)
        wait_until(lambda n=times: script.process.log().count("again") == n, "the next run")  # type: ignore[misc]
        wait_until(script.listens, "the script to listen")
    assert environ_of(str(script.socket))["REQUEST_METHOD"] == "GET"
    assert script.process.stop() == 0


@pytest.mark.process
def test_a_hangup_gives_descriptor_0_back(processes: ProcessGroup) -> None:
    with listening() as sock:
        script = FlupScript(processes, stdin=sock)
        assert environ_of(sock.getsockname())["REQUEST_METHOD"] == "GET"
        script.process.send_signal(signal.SIGHUP)
        script.process.wait_for_log("again")
        assert environ_of(sock.getsockname())["REQUEST_METHOD"] == "GET"
        assert script.process.stop() == 0


@pytest.mark.process
def test_nohup(processes: ProcessGroup) -> None:
    script = write_script(processes.folder, "bindAddress='app.sock'")
    argv = ["nohup", str(script)]
    process = processes.start(argv)
    path = processes.folder / "app.sock"
    wait_until(lambda: listens(process, path), "the socket")
    environ_of(str(path))
    process.send_signal(signal.SIGHUP)
    assert environ_of(str(path))["REQUEST_METHOD"] == "GET"
    assert process.stop() == 0
    assert "again" not in process.log()


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "variable"), [("", ""), ("forceCGI=True", ""), ("", "Y"), ("", "yes")]
)
def test_cgi(tmp_path: Path, arguments: str, variable: str) -> None:
    script = write_script(tmp_path, arguments)
    env = {"REQUEST_METHOD": "GET", "PATH_INFO": "/echo", "FCGI_FORCE_CGI": variable}
    with listening() as sock:
        run = subprocess.run(
            [str(script)],
            # Only where that is asked for, a listening socket does not matter.
            stdin=sock.fileno() if arguments or variable else subprocess.DEVNULL,
            env={**unmeasured(), **env},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Status: 200 OK\n")
    assert '"wsgi.run_once": true' in run.stdout


@pytest.mark.process
def test_a_script_that_makes_a_daemon_of_itself(
    processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many do, between the import and run()."""
    # What coverage holds of a process does not survive its forks.
    for name in os.environ.keys() - unmeasured().keys():
        monkeypatch.delenv(name)
    script = write_script(processes.folder, "bindAddress='app.sock'")
    forks = (
        "import os\n\nfor _ in range(2):\n    if os.fork():\n        os._exit(0)\n    os.setsid()\n"
    )
    text = script.read_text()
    script.write_text(text.replace("while server.run():", f"{forks}while server.run():"))
    process = processes.start([str(script)])
    assert process.wait() == 0
    path = processes.folder / "app.sock"
    wait_until(lambda: connects(path), "the socket")
    assert environ_of(str(path))["wsgi.multithread"] is True
    (pid,) = processes.pids()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not processes.pids(), "the daemon's end")


@pytest.mark.process
def test_outside_of_the_main_thread(processes: ProcessGroup) -> None:
    script = processes.folder / "script.py"
    script.write_text(
        "import threading\n"
        "from vsgi_fcgi.demo import app\n"
        "from vsgi_fcgi.flup import WSGIServer\n"
        "threading.Thread(target=WSGIServer(app, bindAddress='app.sock').run).start()\n"
    )
    process = processes.start([sys.executable, "-W", "error", str(script)], name="script")
    path = processes.folder / "app.sock"
    wait_until(lambda: listens(process, path), "the socket")
    with Client(str(path)) as client:
        assert client.get("/").status == 200
    assert process.stop() == -signal.SIGTERM


# Modules that are not here.


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("scgi", "does not support SCGI; use vsgi_fcgi.flup.fcgi"),
        ("scgi_fork", "does not support SCGI; use vsgi_fcgi.flup.fcgi"),
        ("ajp", "does not support AJP; use vsgi_fcgi.flup.fcgi"),
        ("cgi", "use vsgi_fcgi.flup.fcgi, whose WSGIServer answers"),
        ("fcgi_base", "has WSGIServer in fcgi, fcgi_single and fcgi_fork"),
        ("gateway", "has WSGIServer in fcgi, fcgi_single and fcgi_fork"),
    ],
)
def test_other_modules_of_flup_say_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(ImportError, match=re.escape(advice)) as caught:
        importlib.import_module(f"vsgi_fcgi.flup.{name}")
    assert caught.value.name == f"vsgi_fcgi.flup.{name}"
    assert "\n" not in str(caught.value)


def test_what_flup_never_had_is_not_found_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("vsgi_fcgi.flup.nothing")
