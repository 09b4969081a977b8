"""Test ``--worker greenlet``: a greenlet for each request, in a process that gevent has patched.

The process of the tests is not patched, so the command serves.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.gates import Gate
from support.processes import Process, ProcessGroup, wait_until
from support.server import TESTS, hello, run_script

from vsgi_fcgi import Server
from vsgi_fcgi.exceptions import UsageError

pytestmark = pytest.mark.process

APP = "apps.cooperative:app"

CUT_OFF = ("--graceful-timeout", "0")


class Served:
    """The app under the command.

    Attributes:
        process: the process.
    """

    def __init__(self, group: ProcessGroup, *options: str, app: str = APP) -> None:
        self._socket = group.folder / "app.sock"
        argv = [sys.executable, "-W", "error", "-m", "vsgi_fcgi", "--worker", "greenlet"]
        argv += ["--socket", str(self._socket), *options, app]
        self.process: Process = group.start(argv, name="server", cwd=TESTS)
        self.process.wait_for_log("listening on")

    def connect(self) -> Client:
        return Client(str(self._socket))

    def ask(self, path: str) -> object:
        """Return what the app answers, on a connection of its own."""
        with self.connect() as client:
            answer = client.get(path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def wait_for_count(self, count: int) -> None:
        """Wait until as many requests wait in the app."""
        wait_until(lambda: self.ask("/count") == count, f"{count} requests in the app")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    with ProcessGroup(tmp_path_factory.mktemp("served")) as group:
        served = Served(group, "--block-warning", "0.2")
        yield served
        assert served.process.stop() == 0
        log = served.process.log()
    assert "a bug in the server" not in log
    assert "ContractBroken" not in log
    assert "MonkeyPatchWarning" not in log


def test_the_log_says_that_the_library_is_patched(served: Served) -> None:
    served.process.wait_for_log("gevent has patched the standard library")


def test_no_module_has_kept_what_gevent_replaces(served: Served) -> None:
    """The command had imported them before it patched the standard library."""
    kept = served.ask("/kept")
    assert isinstance(kept, list)
    # Locks for moments in which nothing waits, the thread in which repr() recurses, and modules of
    # which gevent replaces all that uses these functions.
    harmless = {"functools", "reprlib", "subprocess", "tempfile", "threading"}
    assert [item for item in kept if item.partition(":")[0] not in harmless] == []
    assert "functools: threading._CRLock" in kept


def test_the_thread_of_the_log_shares_no_lock_of_gevent(served: Served) -> None:
    """A native thread and a greenlet that wait for one may fail: see `vsgi_fcgi.log.log`."""
    assert served.ask("/locks") == ["_thread"]


def test_the_app_is_told_that_others_run_at_the_same_time(served: Served) -> None:
    assert served.ask("/environment") == [True, False]


def test_many_requests_wait_at_the_same_time(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(4)]
        for number, client in enumerate(clients):
            for id in range(1, 51):
                client.ask(id, f"/hold?{number}-{id}")
        served.wait_for_count(200)
        assert served.ask("/release") is True
        for client in clients:
            for id in range(1, 51):
                assert client.answer(id).body == b"true"


def test_what_the_app_uses_is_patched(served: Served) -> None:
    assert served.ask("/library") == {"thread": True, "dns": True, "child": True, "handlers": True}


def test_an_app_may_start_greenlets(served: Served) -> None:
    assert served.ask("/spawn") == [number * number for number in range(20)]


def test_each_request_has_its_own_locals_and_context(served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            assert json.loads(client.get("/remember").body) == [None, "nobody"]


@pytest.mark.parametrize("path", ["/leave?exit", "/leave?killed", "/time_out"])
def test_no_exception_is_without_an_answer(path: str, served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            assert client.get(path).status == 500
            assert client.get("/count").body == b"0"


def test_a_killed_greenlet_is_answered(served: Served) -> None:
    with served.connect() as client:
        client.ask(1, "/hold?me")
        served.wait_for_count(1)
        assert served.ask("/kill?me") is True
        assert client.answer(1).status == 500
    assert served.ask("/count") == 0


def test_a_timeout_that_an_app_forgot_ends_no_other_request(served: Served) -> None:
    with served.connect() as client:
        client.ask(1, "/hold?me")
        served.wait_for_count(1)
        for _ in range(10):
            assert served.ask("/forget") is True
        assert served.ask("/spawn")
        assert served.ask("/release") is True
        assert client.answer(1).body == b"true"


def test_a_forked_child_that_returns_ends(served: Served) -> None:
    assert served.ask("/fork") == 0


def test_an_app_that_streams_learns_that_its_client_has_gone(served: Served) -> None:
    with served.connect() as client:
        client.ask(1, "/endless")
        served.wait_for_count(1)
    served.wait_for_count(0)


def test_an_app_that_blocks_the_hub_is_named_once(tmp_path: Path, served: Served) -> None:
    with Gate(tmp_path) as gate, served.connect() as client:
        path = tmp_path / "gate"
        client.ask(1, f"/block?{path}")
        gate.wait_for_app()
        log = served.process.wait_for_log(f"GET /block?{path} has blocked the hub for more than")
        assert "    file.read()" in log
        gate.open()
        assert client.answer(1).body == b"true"
    assert served.process.log().count(f"{path} has blocked the hub") == 1


def test_requests_beyond_the_limit_wait(processes: ProcessGroup) -> None:
    served = Served(processes, "--greenlets", "3", "--max-queued", "2", *CUT_OFF)
    with served.connect() as client:
        for id in range(1, 6):
            client.ask(id, f"/hold?{id}")
        client.ask(6, "/hold?6")
        # Three run, and two are in the queue.
        assert client.answer(6).status == 503
        client.abort(1)
        with served.connect() as other:
            other.ask(1, "/release")
            # It waits as well. The request that was aborted has left no greenlet free.
            assert other.answer(1).status == 503
        assert served.process.stop() == 1


def test_the_request_timeout_is_raised_where_the_app_waits(processes: ProcessGroup) -> None:
    served = Served(processes, "--request-timeout", "0.2")
    with served.connect() as client:
        client.ask(1, "/hold?me")
        client.ask(2, "/hold?you")
        for id in (1, 2):
            assert client.answer(id).status == 504
        served.wait_for_count(0)
        assert client.get("/count").status == 200
    log = served.process.wait_for_log("GET /hold?me was answered 504")
    assert "released.wait(20)" in log
    assert served.process.stop() == 0


def test_the_queue_timeout(processes: ProcessGroup) -> None:
    served = Served(processes, "--queue-timeout", "0.2", "--greenlets", "1", *CUT_OFF)
    with served.connect() as client:
        client.ask(1, "/hold?me")
        client.ask(2, "/count")
        assert client.answer(2).status == 503
        assert served.process.stop() == 1


def test_slow_requests_and_the_status_show_where_each_greenlet_is(processes: ProcessGroup) -> None:
    served = Served(processes, "--slow-request", "0.1", "--status-path", "/_status")
    with served.connect() as client:
        client.ask(1, "/hold?me")
        log = served.process.wait_for_log("GET /hold?me has run for")
        assert "released.wait(20)" in log
        client.ask(2, "/_status/stacks", more={"REMOTE_ADDR": "127.0.0.1"})
        stacks = client.answer(2).body.decode()
        assert "GET /hold?me has run for" in stacks
        assert "released.wait(20)" in stacks
        client.ask(3, "/_status/json", more={"REMOTE_ADDR": "127.0.0.1"})
        status = json.loads(client.answer(3).body)
        (process,) = status["processes"]
        assert (process["busy"], process["threads"]) == (1, 10000)
        assert served.ask("/release") is True
        assert client.answer(1).status == 200


def test_a_stop_waits_for_requests(processes: ProcessGroup) -> None:
    served = Served(processes)
    with served.connect() as client:
        client.ask(1, "/hold?me")
        served.wait_for_count(1)
        client.ask(2, "/release")
        served.process.send_signal(15)
        assert client.answer(1).body == b"true"
        assert client.answer(2).body == b"true"
    assert served.process.wait() == 0


def test_a_stop_waits_for_threads_of_the_app(tmp_path: Path, processes: ProcessGroup) -> None:
    served = Served(processes)
    assert served.ask(f"/linger?{tmp_path}") is True
    served.process.send_signal(15)
    served.process.wait_for_log("SIGTERM: stopping")
    paths = [tmp_path / name for name in ("thread", "job")]
    for path in paths:
        path.touch()
    assert served.process.wait() == 0
    assert not any(path.exists() for path in paths)


def test_a_stop_does_not_wait_for_ever(tmp_path: Path, processes: ProcessGroup) -> None:
    served = Served(processes, "--graceful-timeout", "1")
    assert served.ask(f"/linger?{tmp_path}") is True
    assert served.process.stop() == 1
    assert "threads of the app that still ran are cut off: lingering" in served.process.log()


def test_a_template_is_patched_before_it_forks(processes: ProcessGroup) -> None:
    served = Served(processes, "--processes", "2", "--preload")
    with served.connect() as client:
        client.ask(1, "/hold?me")
        client.ask(2, "/library")
        assert client.answer(2).status == 200
        client.ask(2, "/fork")
        assert client.answer(2).body == b"0"
        client.ask(2, "/release")
        assert client.answer(1).body == b"true"
    assert served.process.stop() == 0


EMBEDDED = """
from gevent import monkey; monkey.patch_all()
import gevent, tempfile, time
from support.fcgi.peer import Client
from vsgi_fcgi import Server

began, ends = [], []

def app(environ, start_response):
    began.append(1)
    try:
        time.sleep(20)
    except BaseException as error:
        ends.append(isinstance(error, gevent.GreenletExit))
        raise
    finally:
        time.sleep(0.01)
        ends.append("cleaned up")

with tempfile.TemporaryDirectory() as folder:
    server = Server(app, worker="greenlet")
    server.listen(f"unix:{folder}/app.sock")
    server.start()
    client = Client(f"{folder}/app.sock")
    client.ask(1)
    while not began:
        time.sleep(0.001)
    print(server.stop(0.05), ends)
    client.close()
"""


def test_requests_that_are_cut_off_can_clean_up() -> None:
    """As in gevent's own server, they get GreenletExit."""
    output = run_script(EMBEDDED, PYTHONPATH=str(TESTS))
    assert output == "False [True, 'cleaned up']\n"


def test_plugins_of_gevent_are_found_by_reading_all_metadata_once(tmp_path: Path) -> None:
    """gevent itself reads the metadata of all installed packages for each of its events."""
    (tmp_path / "plugin-1.dist-info").mkdir()
    groups = [f"gevent.plugins.monkey.{name}" for name in ("will_patch_module", "did_patch_all")]
    entries = "".join(f"[{group}]\nplugin = plugin:note\n" for group in groups)
    (tmp_path / "plugin-1.dist-info" / "entry_points.txt").write_text(entries)
    (tmp_path / "plugin.py").write_text(
        "noted = []\ndef note(event): noted.append(getattr(event, 'module_name', 'the end'))\n"
    )
    script = """
from importlib import metadata
from vsgi_fcgi.transport.monkey_patching import patch_for_greenlets
reads, distributions, entry_points = [], metadata.distributions, metadata.entry_points
metadata.distributions = lambda **more: reads.append(1) or distributions(**more)
patch_for_greenlets()
import plugin
print(len(reads), metadata.entry_points is entry_points, "queue" in plugin.noted, plugin.noted[-1])
"""
    assert run_script(script, PYTHONPATH=str(tmp_path)) == "1 True True the end\n"


# What is refused.


def test_a_command_of_a_framework_comes_too_late(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import flask\napp = flask.Flask(__name__)\n")
    argv = [sys.executable, "-m", "flask", "fcgi", "--worker", "greenlet", "--socket", "app.sock"]
    run = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=40)
    assert run.returncode == 2
    assert "flask was imported before gevent could patch" in run.stderr


def test_a_process_that_is_not_patched(tmp_path: Path) -> None:
    with Server(hello, worker="greenlet") as server:
        server.listen(f"unix:{tmp_path}/app.sock")
        with pytest.raises(UsageError, match=r"begin the program with .*monkey\.patch_all\(\)"):
            server.start()


@pytest.mark.parametrize(
    ("patch", "missing"),
    [("thread=False", "threading"), ("socket=False, time=False", "socket, time")],
)
def test_a_process_that_is_patched_halfway(patch: str, missing: str) -> None:
    script = f"""
import warnings; warnings.simplefilter("ignore")
from gevent import monkey; monkey.patch_all({patch})
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.transport.monkey_patching import check_patching
try:
    check_patching("greenlet")
except UsageError as error:
    print(error)
"""
    output = run_script(script)
    assert output.startswith(f"gevent has not patched {missing}, so a request that waits there")
    assert "without arguments" in output
