"""Run one script as FastCGI and as plain CGI, as on a web host: ``examples/shared-host/``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
from support.fcgi.peer import Client
from support.front_ends.hosts import Apache, ApacheCgi, Host, LighttpdCgi, LighttpdFastCgi
from support.front_ends.servers import command
from support.http import connect, receive, request
from support.processes import ProcessGroup, wait_until

HOSTS: dict[str, Callable[[ProcessGroup], Host]] = {
    "lighttpd-cgi": LighttpdCgi,
    "lighttpd-cgi-command": lambda group: LighttpdCgi(group, "/app.cgi"),
    "lighttpd-fastcgi": LighttpdFastCgi,
    "apache-fcgid": Apache,
    "apache-cgi": ApacheCgi,
}

PLAIN_CGI = {name for name in HOSTS if "-cgi" in name}


@pytest.fixture(scope="module", params=HOSTS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with ProcessGroup(tmp_path_factory.mktemp(request.param)) as group:
        yield HOSTS[request.param](group)


@pytest.fixture
def is_cgi(request: pytest.FixtureRequest) -> bool:
    return request.node.callspec.params["host"] in PLAIN_CGI


def test_get(host: Host, is_cgi: bool) -> None:
    answer = host.request("/echo/some/p%20ath/%C3%A4?a=b&c=%20", X_Test="value")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    environ = answer.json()["environ"]
    # The bytes of the path, each as a character of its own.
    assert environ["PATH_INFO"] == "/echo/some/p ath/" + "ä".encode().decode("latin-1")
    assert environ["SCRIPT_NAME"] == (host.base or "/app.fcgi")
    assert environ["QUERY_STRING"] == "a=b&c=%20"
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["HTTP_X_TEST"] == "value"
    assert environ["SERVER_PORT"] == str(host.port)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.run_once"] == is_cgi
    # The web server starts each process, and may start more of them.
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.multithread"] != is_cgi
    assert answer.json()["length"] == 0


@pytest.mark.parametrize("size", [3, 100_000])
def test_post(host: Host, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    answer = host.request("/upload", method="POST", body=body)
    assert answer.text == f"{size} {hashlib.sha256(body).hexdigest()}\n"


def test_head(host: Host) -> None:
    answer = host.request("/echo", method="HEAD")
    assert answer.status == 200
    assert answer.body == b""


def test_a_redirect_is_the_clients_to_follow(host: Host) -> None:
    answer = host.request("/redirect?to=/echo")
    assert answer.status == 302
    assert answer.headers["Location"].endswith("/echo")


@pytest.mark.parametrize("code", ["404 Not Found", "204 No Content"])
def test_a_status(host: Host, code: str) -> None:
    # Without a Content-Type, as none would be allowed with 204.
    answer = host.request(f"/body?code={code.replace(' ', '%20')}")
    assert answer.status == int(code[:3])
    assert answer.body == (b"" if code.startswith("204") else b"a body")


def test_an_app_that_fails(host: Host) -> None:
    answer = host.request("/fail")
    assert answer.status == 500
    assert b"Internal Server Error" in answer.body
    assert b"secret" not in answer.body
    wait_until(lambda: "RuntimeError: a secret of the app" in host.error_log(), "the log")
    assert "the app failed on GET " in host.error_log()


def test_wsgi_errors_are_in_the_error_log(host: Host) -> None:
    assert host.request("/errors").text == "complained\n"
    wait_until(lambda: "a complaint: " in host.error_log(), "the log")


def test_a_large_answer(host: Host) -> None:
    answer = host.request("/file")
    assert len(answer.body) == 5 * 65536


def test_what_the_app_prints_is_not_its_answer(host: Host) -> None:
    assert host.request("/chatter").body == b"quiet\n"


def test_a_client_cannot_set_a_proxy(host: Host) -> None:
    environ = host.request("/echo", Proxy="http://evil.example/").json()["environ"]
    assert "HTTP_PROXY" not in environ


def test_a_file_beside_the_script_is_not_the_apps(processes: ProcessGroup) -> None:
    """The conditions of ``.htaccess``."""
    host = Apache(processes)
    (host.folder / "style.css").write_text("a file")
    assert host.request("/style.css").text == "a file"
    assert host.request("/style").json()["environ"]["PATH_INFO"] == "/style"
    assert host.request("/").json()["environ"]["PATH_INFO"] == "/"


def test_mod_fcgid_keeps_the_process(processes: ProcessGroup) -> None:
    host = Apache(processes)
    for _ in range(5):
        assert host.request("/echo").status == 200
    assert host.error_log().count("app.fcgi(") == 1


def test_an_answer_that_breaks_off_under_cgi(processes: ProcessGroup) -> None:
    host = LighttpdCgi(processes)
    with connect(host.port) as sock:
        sock.sendall(b"GET /app.fcgi/short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b"".join(receive(sock))
    assert b"Content-Length: 1000\r\n" in received
    assert received.endswith(b"\r\n\r\nless")


def test_a_query_gives_the_command_no_options(processes: ProcessGroup) -> None:
    """Apache appends a query without = to the command line (RFC 3875, section 4.4)."""
    alias = f'ScriptAlias "/direct" "{command(processes)}"\n'
    alias += "SetEnv VSGI_FCGI_APP apps.routes:app\n"
    alias += f"SetEnv VSGI_FCGI_CHDIR {processes.folder}\n"
    alias += f"SetEnv PYTHONPATH {__file__.rpartition('/live/')[0]}\n"
    alias += '<Location "/direct">\nRequire all granted\n</Location>\n'
    host = ApacheCgi(processes, more=alias)
    evil = processes.folder / "evil.py"
    evil.write_text("def app(environ, start_response):\n    start_response('299 Evil', [])\n")
    queries = ["", "--help", f"{evil}:app", "%2D-help", "evil", "--help%00x", "a+--version+b"]
    queries += ["%zz", "x%26--help", "a%5Cb", "%FF", "a++b", "+".join("a" * 4060)]
    for query in queries:
        answer = request(host.port, f"/direct/echo?{query}")
        assert answer.status == 200, query[:40]
        assert answer.json()["environ"]["QUERY_STRING"] == query


def test_the_script_listens_where_spawn_fcgi_puts_it(processes: ProcessGroup) -> None:
    """A variable that is left over in a shell makes no CGI program of a server."""
    import socket

    from support.front_ends.hosts import install

    install(processes, processes.folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        script = str(processes.folder / "app.fcgi")
        env = {"REQUEST_METHOD": "GET"}
        server = processes.start([script], env=env, stdin=listener)
        with Client(listener.getsockname()) as client:
            assert client.get("/echo").status == 200
        assert server.stop() == 0
