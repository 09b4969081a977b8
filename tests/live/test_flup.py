"""Test scripts that were written for flup, behind web servers."""

from __future__ import annotations

import hashlib

from support.flup import FlupScript, LighttpdWithScript, install_example, write_script
from support.front_ends.servers import EXAMPLES, Nginx
from support.gates import Gate
from support.http import Client, request
from support.processes import ProcessGroup, wait_until


def test_the_example(processes: ProcessGroup) -> None:
    changes = {"str(Path(__file__).resolve().parent.parent)": repr(str(EXAMPLES))}
    script = install_example(processes.folder, "flup/app.fcgi", changes)
    lighttpd = LighttpdWithScript(processes, script)
    answer = request(lighttpd.port, "/some/p%20ath")
    assert answer.status == 200
    assert "You asked for: GET /some/p%20ath\n" in answer.text


def test_lighttpd_starts_the_script(processes: ProcessGroup) -> None:
    script = write_script(processes.folder, "multiplexed=True, maxThreads=4, maxSpare=2")
    lighttpd = LighttpdWithScript(processes, script)
    environ = request(lighttpd.port, "/echo/a%20b?c=d").json()["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/echo/a b")
    assert environ["wsgi.multithread"] is True
    body = bytes(range(256)) * 1000
    expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"
    assert request(lighttpd.port, "/upload", method="POST", body=body).text == expected
    # The web server's log names ignored arguments, with the line of the script.
    assert "script.fcgi:9: UserWarning: maxSpare=2 is ignored" in lighttpd.error_log()
    lighttpd.process.stop(within=5)
    wait_until(lambda: not processes.pids(), "the script's end", 5)
    assert "the end of the script" in lighttpd.error_log()


def test_a_script_that_listens_for_nginx(processes: ProcessGroup) -> None:
    script = FlupScript(processes, "umask=0, maxThreads=2")
    nginx = Nginx(processes, script)
    with Client(nginx.port) as client:
        assert client.request("GET", "/echo").json()["environ"]["wsgi.multithread"] is True
        body = bytes(300_000)
        expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"
        assert client.request("POST", "/upload", body).text == expected
        # One thread waits, and another one answers.
        with Gate(processes.folder) as gate, Client(nginx.port) as other:
            # The client of the tests, whose get() would wait for the answer.
            other._connection.request("GET", gate.url)
            gate.wait_for_app()
            assert client.request("GET", "/echo").status == 200
            gate.open()
            assert other._connection.getresponse().read() == b"before\nafter\n"
    assert script.process.stop() == 0
