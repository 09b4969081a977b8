"""Test the page in a real browser, behind real web servers: its script and its buttons."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from support.chrome import Chrome, chrome
from support.front_ends.places import Place
from support.front_ends.servers import command
from support.http import connect, read_until, request
from support.processes import ProcessGroup, free_port, wait_until

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("fronts")]

COLOUR = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with ProcessGroup(tmp_path_factory.mktemp("chromium")) as group, chrome(group) as browser:
        yield browser


@pytest.fixture
def page(browser: Chrome, place: Place) -> Iterator[Chrome]:
    """The freshly loaded page; at the end the browser must have reported no error."""
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{place.web.port}{place.prefix}/")
    yield browser
    assert browser.complaints == []


def fill_in(page: Chrome, field: str, value: str) -> None:
    page.evaluate(f"document.getElementById('{field}').value = '{value}'")


def click(page: Chrome, selector: str) -> None:
    page.evaluate(f"document.querySelector('{selector}').click()")


def text(page: Chrome, selector: str) -> str:
    found: str = page.evaluate(f"document.querySelector('{selector}').innerText")
    return found


def result(page: Chrome, form: str) -> list[str]:
    """Wait for what a form says in the end."""
    wait_until(lambda: text(page, f"#{form} .result"), f"the result of {form}")
    assert text(page, f"#{form} button") != "Stop"
    return text(page, f"#{form} .result").splitlines()


def failed(page: Chrome, form: str) -> bool:
    return bool(page.evaluate(f"!!document.querySelector('#{form} .result.failed')"))


def test_an_upload(page: Chrome) -> None:
    click(page, "[data-random]")
    lines = result(page, "upload")
    assert lines[0] == "5,000,000 bytes"
    assert lines[-1] == "The browser computed the same digest."
    assert not failed(page, "upload")


def test_an_upload_of_a_file_that_was_chosen(page: Chrome) -> None:
    page.evaluate(
        "{ const chosen = new DataTransfer(); chosen.items.add(new File(['abc'], 'a.txt'));"
        "document.getElementById('file').files = chosen.files }"
    )
    click(page, "#upload button")
    lines = result(page, "upload")
    assert lines[0] == "3 bytes"
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in "".join(lines)


def test_a_slow_answer(page: Chrome) -> None:
    fill_in(page, "seconds", "0.2")
    click(page, "#slow button")
    assert result(page, "slow")[0].startswith("Response after ")
    assert not failed(page, "slow")


def test_what_is_stopped(page: Chrome) -> None:
    # Not for long: lighttpd says nothing of a client that left while it had nothing to send, and
    # with --worker main the next request waits.
    fill_in(page, "seconds", "3")
    click(page, "#slow button")
    assert text(page, "#slow button") == "Stop"
    click(page, "#slow button")
    assert result(page, "slow") == ["Stopped."]
    click(page, "#events button")
    assert text(page, "#events button") == "Stop"
    click(page, "#events button")
    assert result(page, "events") == ["Stopped."]


def test_a_stream_of_events(page: Chrome) -> None:
    fill_in(page, "ticks", "2")
    click(page, "#events button")
    lines = result(page, "events")
    assert lines[0].startswith("2 ticks in ")
    assert lines[1].endswith(" apart, without buffering.")
    assert page.evaluate("document.querySelectorAll('#events .here').length") == 2


def test_an_error(page: Chrome) -> None:
    click(page, "#error button")
    assert result(page, "error")[0].startswith("500")
    # The browser notes each answer that is an error; this one was asked for.
    assert len(page.complaints) == 1
    assert "/error" in page.complaints.pop()


def test_numbers_that_are_too_large_are_not_sent(page: Chrome) -> None:
    fill_in(page, "seconds", "31")
    click(page, "#slow button")
    assert text(page, "#slow button") == "Send"
    assert not page.evaluate("document.getElementById('slow').checkValidity()")


def test_it_fits_a_phone_and_both_colour_schemes(page: Chrome) -> None:
    colours = set()
    try:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.call("Emulation.setEmulatedMedia", features=features)
            colours.add(page.evaluate(COLOUR))
        assert len(colours) == 2
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=320,
            height=640,
            deviceScaleFactor=1,
            mobile=True,
        )
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.evaluate("getComputedStyle(document.querySelector('th')).display") == "block"
    finally:
        page.call("Emulation.setEmulatedMedia", features=[])
        page.call("Emulation.clearDeviceMetricsOverride")


def test_everything_that_is_filled_in_has_a_label(page: Chrome) -> None:
    nameless = "[...document.querySelectorAll('input')].filter(each => !each.labels.length).length"
    assert page.evaluate("document.querySelectorAll('input').length") == 3
    assert page.evaluate(nameless) == 0
    assert page.evaluate("document.querySelectorAll('[role=status]').length") == 4


def test_it_is_what_the_command_serves_by_itself(browser: Chrome, processes: ProcessGroup) -> None:
    """Without an app and without a web server, as one who has just installed it begins."""
    port = free_port()
    argv = [sys.executable, "-m", "vsgi_fcgi", "--http", f"127.0.0.1:{port}"]
    server = processes.start(argv, name="server")
    server.wait_for_log("serving HTTP on")
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{port}/")
    assert text(browser, "h1") == "It works: this page came through FastCGI."
    fill_in(browser, "seconds", "0.1")
    fill_in(browser, "ticks", "2")
    for button in ("[data-random]", "#slow button", "#events button"):
        click(browser, button)
    for form, expected in (("upload", "5,000,000 bytes"), ("slow", "Response"), ("events", "2 t")):
        assert result(browser, form)[0].startswith(expected)
        assert not failed(browser, form)
    assert browser.complaints == []
    # What the browser has kept open must not hold up the end.
    browser.open("about:blank")
    assert server.stop() == 0


def test_two_tabs(browser: Chrome, processes: ProcessGroup) -> None:
    port = free_port()
    server = processes.start([str(command(processes)), "--http", f"127.0.0.1:{port}"])
    server.wait_for_log("serving HTTP on")
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{port}/")
    with connect(port) as other:
        other.sendall(b"GET /talk HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        read_until(other, b"retry: 1000")
        fill_in(browser, "text", "from the page")
        click(browser, "#talk button")
        read_until(other, b'event: talk\ndata: "from the page"\n\n')
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"text=%3Cb%3Efrom another"
    assert request(port, "/talk", method="POST", body=body, headers=form).status == 204
    wait_until(
        lambda: text(browser, "#talk .result") == "from the page\n<b>from another", "both texts"
    )
    assert browser.complaints == []
