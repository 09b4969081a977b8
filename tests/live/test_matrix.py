"""Send the same requests to the same app behind each web server.

The expected values follow PEP 3333 and CGI/1.1. support/matrix/exceptions.py has the exceptions.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest
from apps.echo import MOMENTS, content, digest
from support.front_ends.printed import PROGRAMS
from support.front_ends.servers import WebServer
from support.http import Answer, Client, connect, receive
from support.matrix.answers import HEADERS_OUT, HEADS, REDIRECTS, STATUSES
from support.matrix.exceptions import exceptions, seen_instead
from support.matrix.matrix import Ask, Case, Seen, answering, check, exchange, parse, wire
from support.matrix.requests import BODIES, HEADERS, METHODS, PATHS, QUERIES
from support.matrix.servers import APP, MOUNT, ROWS
from support.processes import ProcessGroup, wait_until

from vsgi_fcgi.cli import main

NEVER_LOGGED = ("a bug in the server", "ContractBroken", "AssertionError", "WSGIWarning")
ALL = [*METHODS, *PATHS, *QUERIES, *HEADERS, *BODIES, *STATUSES, *REDIRECTS, *HEADS, *HEADERS_OUT]
MB = 1_000_000

HAPROXY_GIVES_UP = b"An internal server error occurred."
"""HAProxy sends this itself if many requests begin at once on a connection (its issue 2568)."""


@dataclass(frozen=True)
class Behind:
    """The app behind a web server."""

    name: str
    mount: str
    web: WebServer

    def check(self, cases: Iterable[Case]) -> None:
        """Send all requests of this group, and compare the results with the expected ones."""
        here = [case for case in cases if not (case.ask.whole if self.mount else case.mounted)]
        check(self.web.port, self.mount, [(case, self.expect(case)) for case in here])

    def expect(self, case: Case) -> Seen:
        instead = seen_instead(self.name, case.name, mounted=bool(self.mount))
        return instead if "status" in instead else {**case.expect, **instead}

    def ask(self, ask: Ask) -> Answer | None:
        data = ask.encoded(self.mount, self.web.port)
        return exchange(self.web.port, data, ask.method)


@pytest.fixture(
    scope="module",
    params=[(name, mount) for name, mounts in ROWS.items() for mount in mounts],
    ids=lambda param: "".join(param).replace("/", "-"),
)
def behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    name, mount = request.param
    with ProcessGroup(tmp_path_factory.mktemp("matrix")) as group:
        web = ROWS[name][mount](group)
        yield Behind(name, mount, web)
        log = web.server_log()
    assert not any(text in log for text in NEVER_LOGGED), log


def test_the_exceptions_are_of_cases_and_differ_from_what_is_right() -> None:
    cases = {case.name: case for case in ALL}
    assert len(cases) == len(ALL)
    found = list(exceptions())
    assert len({(server, case) for server, case, _ in found}) == len(found)
    for server, case, seen in found:
        assert server in ROWS
        assert not seen.items() <= cases[case].expect.items(), (server, case)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_slash_behind_the_mount_point_changes_nothing(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output for /app/ is the one that is run for /app."""
    texts = []
    for mount in (MOUNT, f"{MOUNT}/"):
        assert main(["config", program, "--script-name", mount, APP]) == 0
        texts.append(capsys.readouterr().out.replace(f"--script-name {mount} ", ""))
    assert texts[0] == texts[1]
    assert MOUNT in texts[0]


def test_methods(behind: Behind) -> None:
    behind.check(METHODS)


def test_paths(behind: Behind) -> None:
    behind.check(PATHS)


def test_queries(behind: Behind) -> None:
    behind.check(QUERIES)


def test_headers(behind: Behind) -> None:
    behind.check(HEADERS)


def test_bodies(behind: Behind) -> None:
    behind.check(BODIES)


def test_statuses(behind: Behind) -> None:
    behind.check(STATUSES)


def test_redirects(behind: Behind) -> None:
    """None of them is followed by the web server itself."""
    behind.check(REDIRECTS)


def test_head(behind: Behind) -> None:
    behind.check(HEADS)


def test_headers_of_answers(behind: Behind) -> None:
    behind.check(HEADERS_OUT)


def test_a_client_that_waits_for_100_continue(behind: Behind) -> None:
    ask = Ask(method="POST", headers=(("Expect", "100-continue"),), body=b"worth the wait")
    assert ask.body is not None
    head = ask.encoded(behind.mount, behind.web.port).removesuffix(ask.body)
    with connect(behind.web.port) as sock:
        sock.sendall(head)
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        sock.sendall(ask.body)
        answer = parse(b"".join(receive(sock)), "POST")
    assert answer is not None
    assert answer.json()["length"] == len(ask.body)


def test_100_mb_up(behind: Behind) -> None:
    with Client(behind.web.port) as client:
        length = {"Content-Length": str(100 * MB)}
        answer = client.request("PUT", f"{behind.mount}/", content(100 * MB), length)
    seen = answer.json()
    assert seen["length"] == 100 * MB
    assert seen["CONTENT_LENGTH"] == str(100 * MB)
    assert seen["sha256"] == digest(content(100 * MB))


def test_100_mb_down(behind: Behind) -> None:
    connection = HTTPConnection("127.0.0.1", behind.web.port, timeout=20)
    header = dict([answering(size=100 * MB)])
    connection.request("GET", f"{behind.mount}/", headers=header)
    response = connection.getresponse()
    length, found = 0, hashlib.sha256()
    while piece := response.read(1 << 18):
        length += len(piece)
        found.update(piece)
    connection.close()
    assert length == 100 * MB
    assert found.hexdigest() == digest(content(100 * MB))


@pytest.mark.parametrize("size", [None, 400_000], ids=["small", "large"])
def test_wsgi_errors_at_every_moment(behind: Behind, size: int | None) -> None:
    word = f"word-{uuid.uuid4().hex}"
    wanted: dict[str, object] = {"complain": word, "counted": False}
    if size:
        wanted["size"] = size
    answer = behind.ask(wire("GET", answering(**wanted)))
    assert answer is not None
    if size:
        assert answer.body == b"".join(content(size))
    else:
        assert answer.json()["length"] == 0
    web = behind.web

    def is_logged(log: str) -> bool:
        return all(f"{word} {moment}" in log for moment in MOMENTS)

    wait_until(lambda: is_logged(web.server_log()), "all of it in the server's log")
    sign = web.STDERR_SIGN
    if sign is not None:
        # lighttpd's own lines, and those that our server writes to the same file.
        own = re.compile(r"^\S+ \d+ ERROR .*\n", re.MULTILINE)
        wait_until(
            lambda: re.search(sign, web.error_log()) and is_logged(own.sub("", web.error_log())),
            "all of it in the web server's log",
        )
    else:
        assert word not in web.error_log()


def test_64_clients_at_once_of_2_threads(behind: Behind) -> None:
    crowd(behind.web.port, behind.mount, behind.name)
    if behind.name == "HAProxy" and not behind.mount:
        # Here every request has a connection of its own, and there is nothing to ask for again.
        crowd(behind.web.port, "/alone")


def crowd(port: int, prefix: str, forgiven: str = "") -> None:
    """Let 64 clients ask, and check every answer.

    Args:
        port: the web server's.
        prefix: where the app is.
        forgiven: the web server whose clients have to ask again now and then.
    """
    start = threading.Barrier(64)

    def request_of(number: int, turn: int) -> tuple[str, str, bytes | None, dict[str, str]]:
        word = f"{number}-{turn}"
        body = word.encode() * 1000 if turn % 2 else None
        return "POST" if body else "GET", f"{prefix}/{word}?{word}", body, {"X-Thing": word}

    def work(number: int) -> list[Answer]:
        start.wait(20)
        with Client(port) as client:
            return [ask(client, number, turn) for turn in range(4)]

    def ask(client: Client, number: int, turn: int) -> Answer:
        for _ in range(20):
            try:
                answer = client.request(*request_of(number, turn))
            except ConnectionError:
                # When its threads are all at work Apache closes connections that do not say
                # anything at the moment.
                if forgiven not in ("mod_fcgid", "mod_proxy_fcgi"):
                    raise
                client.close()  # half a request may be out; the next one connects again
            else:
                if forgiven != "HAProxy" or HAPROXY_GIVES_UP not in answer.body:
                    return answer
        raise AssertionError("none of 20 requests succeeded")

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(work, range(64)))
    for number, turns in enumerate(answers):
        for turn, answer in enumerate(turns):
            _, target, body, headers = request_of(number, turn)
            assert answer.status == 200, answer.text
            seen = answer.json()
            assert seen["REQUEST_URI"] == target
            assert seen["HTTP_X_THING"] == headers["X-Thing"]
            assert seen["sha256"] == digest([body or b""])
