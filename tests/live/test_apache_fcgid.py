"""Test Apache with mod_fcgid, which starts the processes: ``examples/apache-fcgid.conf``.

test_roles.py tests it with an authorizer, and test_shared_host.py with ``.htaccess``.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead

import pytest
from support.front_ends.apache import ApacheFcgid
from support.front_ends.servers import EXAMPLES
from support.gates import Gate, check_stream
from support.http import request
from support.processes import ProcessGroup, wait_until

APP = "--threads 1 apps.routes:app"


@pytest.fixture(scope="module")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheFcgid]:
    with ProcessGroup(tmp_path_factory.mktemp("fcgid")) as group:
        yield ApacheFcgid(group, APP)


def test_the_example(processes: ProcessGroup) -> None:
    apache = ApacheFcgid(processes, "hello:app", folder=EXAMPLES)
    for path in ("/", "/some/p%20ath"):
        answer = request(apache.port, path)
        assert answer.status == 200
        assert f"You asked for: GET {path}\n" in answer.text
    assert len(apache.pids()) == 1
    assert apache.process.stop() == 0
    # The process got SIGTERM and exited.
    assert not apache.pids()
    assert "INFO stopped\n" in apache.server_log()
    assert "terminated by calling exit(), return code: 0" in apache.error_log()


def test_what_arrives(apache: ApacheFcgid) -> None:
    headers = {"Authorization": "Basic YTpi", "Cookie": "c=" + "x" * 12000}
    answer = request(apache.port, "/echo/a%2Fb//%C3%A9?x=y", headers=headers)
    environ = answer.json()["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/echo/a/b/\xc3\xa9")
    assert environ["QUERY_STRING"] == "x=y"
    assert environ["HTTP_AUTHORIZATION"] == "Basic YTpi"
    assert environ["HTTP_COOKIE"] == headers["Cookie"]
    # Nothing of how the process was started.
    assert "APP" not in environ


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_arrive_whole(apache: ApacheFcgid, chunked: bool) -> None:
    piece = bytes(range(256)) * 400
    body = iter([piece] * 30) if chunked else piece * 30
    answer = request(apache.port, "/upload", method="PUT", body=body)
    assert answer.text == f"{30 * len(piece)} {hashlib.sha256(piece * 30).hexdigest()}\n"


def test_a_length_stays(apache: ApacheFcgid) -> None:
    """Where mod_proxy_fcgi takes it away."""
    for method in ("GET", "HEAD"):
        answer = request(apache.port, "/file", method=method)
        assert int(answer.headers["Content-Length"]) == 5 * 65536


def test_a_process_has_one_request_at_a_time(apache: ApacheFcgid) -> None:
    """A second one gets a process of its own, although the first has a connection to spare."""
    request(apache.port, "/")
    before = apache.pids()
    with Gate(apache.group.folder) as gate, ThreadPoolExecutor(1) as pool:
        held = pool.submit(request, apache.port, gate.url)
        gate.wait_for_app()
        assert request(apache.port, "/echo").status == 200
        assert len(apache.pids() | before) == 2
        gate.open()
        assert held.result(20).text == "before\nafter\n"
    # Both are kept, and the next request takes one of them.
    both = apache.pids()
    assert request(apache.port, "/echo").status == 200
    assert apache.pids() == both


def test_a_request_has_a_connection_of_its_own(apache: ApacheFcgid) -> None:
    names = ("connections_accepted", "requests_in_flight")
    first = request(apache.port, "/stats").json()
    second = request(apache.port, "/stats").json()
    assert [second[name] - first[name] for name in names] == [1, 0]


def test_a_stream_comes_as_it_is_made(apache: ApacheFcgid) -> None:
    check_stream(apache.port, apache.group.folder)


def test_wsgi_errors_are_in_the_error_log_twice(apache: ApacheFcgid) -> None:
    """Once from the server's own log, which is there too, and once from the STDERR stream."""
    assert request(apache.port, "/errors").text == "complained\n"
    wait_until(lambda: apache.error_log().count("a complaint: ") == 2, "the error log")
    assert f"{apache.STDERR_SIGN} a complaint: " in apache.error_log()


def test_an_app_that_fails(apache: ApacheFcgid) -> None:
    answer = request(apache.port, "/fail")
    assert answer.status == 500
    assert b"secret" not in answer.body
    wait_until(lambda: "RuntimeError: a secret of the app" in apache.error_log(), "the log")


def test_apaches_own_limits(processes: ProcessGroup) -> None:
    """The configuration of a site that does not change them."""
    extra = ("FcgidOutputBufferSize 65536", "FcgidMaxRequestLen 131072")
    apache = ApacheFcgid(processes, APP, extra=extra)
    body = bytes(131072)
    assert request(apache.port, "/upload", method="PUT", body=body).status == 200
    assert request(apache.port, "/upload", method="PUT", body=body + b"x").status == 500


def test_a_request_while_apache_is_stopped(processes: ProcessGroup) -> None:
    """Its client is cut off, and the process told to stop."""
    apache = ApacheFcgid(processes, APP)
    connection = HTTPConnection("127.0.0.1", apache.port, timeout=20)
    with Gate(processes.folder) as gate, closing(connection):
        connection.request("GET", gate.url)
        response = connection.getresponse()
        assert response.read1() == b"before\n"
        gate.wait_for_app()
        apache.process.send_signal(signal.SIGTERM)
        with pytest.raises(IncompleteRead):
            response.read()
        wait_until(lambda: "INFO SIGTERM: stopping" in apache.server_log(), "the process's log")
        gate.open()
    assert apache.process.wait() == 0
    assert "INFO stopped\n" in apache.server_log()
    assert not apache.pids()


@pytest.mark.parametrize("number", [signal.SIGWINCH, signal.SIGUSR1], ids=["stop", "restart"])
def test_a_request_while_apache_stops_gracefully(
    processes: ProcessGroup, number: signal.Signals
) -> None:
    """It is completed, and only then the process gets SIGTERM."""
    apache = ApacheFcgid(processes, APP)
    with Gate(processes.folder) as gate, ThreadPoolExecutor(1) as pool:
        held = pool.submit(request, apache.port, gate.url)
        gate.wait_for_app()
        old = apache.pids()
        apache.process.send_signal(number)
        heard = {signal.SIGWINCH: "AH00492", signal.SIGUSR1: "AH00493"}[number]
        wait_until(lambda: heard in apache.error_log(), "Apache to hear of it")
        assert "INFO SIGTERM: stopping" not in apache.server_log()
        gate.open()
        assert held.result(20).text == "before\nafter\n"
    wait_until(lambda: not apache.pids() & old, "the end of the process")
    assert "INFO stopped\n" in apache.server_log()
    if number == signal.SIGWINCH:
        assert apache.process.wait() == 0
    else:
        assert request(apache.port, "/echo").status == 200
        assert len(apache.pids()) == 1


def test_processes_that_apache_ends(processes: ProcessGroup) -> None:
    """SIGTERM comes first: an idle process exits, one with a stuck request gets SIGKILL."""
    intervals = ("BusyScanInterval 1", "IdleScanInterval 1", "ErrorScanInterval 1")
    # The time for a busy process includes the start of the second one.
    limits = ("BusyTimeout 5", "IdleTimeout 1", "MinProcessesPerClass 0")
    extra = tuple(f"Fcgid{line}" for line in (*intervals, *limits))
    apache = ApacheFcgid(processes, APP, extra=extra)
    with Gate(processes.folder) as gate, ThreadPoolExecutor(1) as pool:
        held = pool.submit(request, apache.port, gate.url)
        gate.wait_for_app()
        (stuck,) = apache.pids()
        assert request(apache.port, "/echo").status == 200
        (idle,) = apache.pids() - {stuck}
        wait_until(lambda: not apache.pids(), "the end of both")
        assert b"<title>500 Internal Server Error</title>" in held.result(20).body
    log = apache.server_log()
    for pid in (stuck, idle):
        assert f" {pid} INFO SIGTERM: stopping\n" in log
    assert f" {idle} INFO stopped\n" in log
    assert f" {stuck} INFO stopped\n" not in log
