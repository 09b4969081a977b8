"""Test ``examples/chat`` in a browser: two pages see each other, and no worker waits for them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.chrome import Chrome, chrome
from support.front_ends.servers import EXAMPLES, AppServer, Lighttpd, Nginx, WebServer
from support.http import request
from support.processes import ProcessGroup, wait_until

FOLDER = EXAMPLES / "chat"

SECOND_PAGE = """
    const second = document.createElement("iframe");
    second.id = "second";
    second.src = "?name=Ben";
    document.body.append(second);
    new Promise(done => second.addEventListener("load", () => done()))
"""


@pytest.fixture
def database(processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database of the chat, which the app finds by its environment variable."""
    path = processes.folder / "chat.db"
    monkeypatch.setenv("DATABASE", str(path))
    return path


def texts(page: Chrome, document: str = "document") -> list[str]:
    """The messages that a page shows."""
    found: list[str] = page.evaluate(
        f"[...{document}.querySelectorAll('li span')].map(each => each.textContent)"
    )
    return found


def presence(page: Chrome, document: str = "document") -> str:
    found: str = page.evaluate(f"{document}.getElementById('presence').textContent")
    return found


def write(page: Chrome, text: str, document: str = "document") -> None:
    """Send a message from a page."""
    page.evaluate(
        f"{document}.getElementById('text').value = {text!r};"
        f"{document}.getElementById('form').requestSubmit()"
    )


def check_two_pages(web: WebServer, browser: Chrome) -> None:
    """Open two pages, which see each other."""
    browser.open(f"http://127.0.0.1:{web.port}/?name=Ann")
    browser.evaluate(SECOND_PAGE)
    second = "document.getElementById('second').contentDocument"
    both = "Here: Ann, Ben"
    wait_until(lambda: presence(browser) == presence(browser, second) == both, "both names")
    write(browser, "Hello, <b>Ben</b>")
    wait_until(lambda: texts(browser, second) == ["Hello, <b>Ben</b>"], "the first message")
    write(browser, "Hello, Ann", second)
    wait_until(lambda: texts(browser) == ["Hello, <b>Ben</b>", "Hello, Ann"], "the second message")


def test_behind_nginx_and_during_a_reload(processes: ProcessGroup, database: Path) -> None:
    options = ("--push", "--threads", "1", "--processes", "1", "--push-stop-spread", "0.2")
    server = AppServer(processes, "chat:app", *options, folder=FOLDER)
    nginx = Nginx(processes, server)
    with chrome(processes) as browser:
        check_two_pages(nginx, browser)
        # nginx reports it at once. Behind lighttpd it takes until the next keep-alive.
        browser.evaluate("document.getElementById('second').remove()")
        wait_until(lambda: presence(browser) == "Here: Ann", "the second page to leave")
        os.kill(server.pid, signal.SIGHUP)
        # The old process ends the stream, and the browser connects again a second later.
        wait_until(lambda: browser.evaluate("source.readyState") == 0, "the end of the stream")
        body = b"name=Cleo&text=While you were away"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        sent = request(nginx.port, "/messages", method="POST", body=body, headers=form)
        assert sent.status == 204
        wait_until(lambda: texts(browser)[2:] == ["While you were away"], "the missed message")
    assert server.process.stop() == 0


def test_behind_lighttpd(processes: ProcessGroup, database: Path) -> None:
    lighttpd = Lighttpd(processes, "--push --threads 1 chat:app", folder=FOLDER)
    with chrome(processes) as browser:
        check_two_pages(lighttpd, browser)
        assert not browser.complaints
