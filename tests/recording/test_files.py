"""Test the files of recordings: what is read, what is refused, and what is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.commands import complaint
from support.fcgi.records import BEGIN_REQUEST, END_REQUEST, PARAMS, STDOUT
from support.recording_sample import ABOUT, RECORDS, begin, end, params, record

from vsgi_fcgi.cli import main
from vsgi_fcgi.recording import IN, NOTE, OUT
from vsgi_fcgi.recording.file import encode, read_recording
from vsgi_fcgi.recording.records import Record
from vsgi_fcgi.recording.timeline import make_page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.recording"
    path.write_text(encode(ABOUT, RECORDS))
    return path


def test_a_file_has_what_was_written(path: Path) -> None:
    assert read_recording(str(path)) == (ABOUT, RECORDS)


def test_a_replay_prints_the_events(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("connection 1 on fcgi+unix:///app.sock, recorded by vsgi_fcgi 0")
    assert lines[1] == "reason: request 2: the web server has aborted it"
    assert [line.split("->")[1].strip() for line in lines if "->" in line] == [
        "id 1 RequestStarted: GET /one, 2 params",
        "id 1 StdinReceived: 100 bytes",
        "id 1 StdinEnded",
        "id 2 RequestStarted: GET /<script>alert(1)</script>, 2 params",
        "id 2 StdinEnded",
        "id 2 RequestAborted",
    ]
    assert "had not ended" not in lines[-1]


def test_a_replay_shows_where_the_protocol_was_violated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.recording"
    again = [begin(0.0, 1), begin(1.0, 1), begin(2.0, 2)]
    path.write_text(encode(ABOUT, again))
    assert main(["replay", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "error: BEGIN_REQUEST record (id 1, 8 bytes): a request with this id has not" in lines[5]
    # What follows was not processed.
    assert "BEGIN_REQUEST" in lines[6]
    assert "id 1 had not ended" in lines[7]


def test_a_replay_escapes_what_would_control_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.recording"
    found = [begin(0.0, 1), params(0.0, 1, "/\x1b[2J"), record(0.0, IN, PARAMS, 1)]
    path.write_text(encode(ABOUT, found))
    assert main(["replay", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


def test_a_timeline_is_one_page_that_shows_who_waited_for_whom(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["timeline", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    addresses = [
        found[key] or "" for _, found in page.tags for key in ("href", "src") if key in found
    ]
    assert addresses == ["#broke-0"]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "color-scheme: light dark" in text
    assert {"id 1", "id 2"} <= set(page.words.splitlines())
    # Two lanes, and in each row what the requests waited for before it.
    lanes = [found["class"] for name, found in page.tags if name == "td" and "class" in found]
    waits = [tuple(lanes[at : at + 2]) for at in range(0, len(lanes), 2)]
    read = [*[("data", "")] * 4, *[("app", "")] * 2, ("read", ""), *[("app", "")] * 2]
    assert waits == [("", ""), *read, ("", ""), *[("", "data")] * 3, ("", "app"), *[("", "")] * 2]
    assert [found["id"] for _, found in page.tags if "id" in found] == ["broke-0"]
    sums = [each for each in page.words.splitlines() if "in all" in each]
    assert sums == [
        "id 1, in all: the server waits for the web server's data: 3.00 s; the app runs, or waits"
        " for a worker: 4.50 s; the web server does not read the response: 10.00 s",
        "id 2, in all: the app runs, or waits for a worker: 1.00 s",
    ]
    assert "REQUEST_METHOD=GET; REQUEST_URI=/<script>alert(1)</script>" in page.words


def test_a_timeline_shows_what_has_not_ended() -> None:
    note = Record(60.0, NOTE, text="the server got SIGUSR2")
    words = Page(make_page(ABOUT, [begin(0.0, 1), note])).words
    assert "id 1, in all: the server waits for the web server's data: 60.00 s" in words


def test_a_timeline_has_few_lanes() -> None:
    page = make_page(ABOUT, [begin(0.0, id) for id in range(1, 100)])
    lanes = re.findall("<th>(id .*?)</th>", page)
    assert lanes == [f"id {id}" for id in range(68, 100)]


@pytest.mark.parametrize(
    "found",
    [
        [],
        [Record(0.0, NOTE, text="only a note")],
        [record(0.0, OUT, STDOUT, 5, b"x"), end(0.0, 5)],
        [Record(0.0, IN, -1, 0, 8, 8, b"GET / HT")],
        [Record(0.0, IN, 77, 0, 9, 4)],
        [begin(0.0, 1), Record(0.0, NOTE, text="\ud800")],
        [record(0.0, IN, BEGIN_REQUEST, 1, b""), end(0.0, 1), record(0.0, OUT, END_REQUEST, 1)],
    ],
)
def test_odd_recordings_are_shown(found: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "a.recording"
    path.write_text(encode(ABOUT, found))
    assert main(["replay", str(path)]) == 0
    assert main(["timeline", str(path)]) == 0


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(encode(ABOUT, [])), **values})


def line(values: object) -> Callable[[], str]:
    return lambda: encode(ABOUT, []) + json.dumps(values)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (lambda: "", "line 1: vsgi_fcgi_recording is missing"),
        (lambda: "[]", "line 1: vsgi_fcgi_recording is missing"),
        (lambda: "\x7fELF", "line 1: it is not valid JSON"),
        (lambda: changed(vsgi_fcgi_recording=2), "does not know its format"),
        (lambda: changed(roles=["1"]), "line 1: roles is missing or wrong"),
        (lambda: changed(reasons=None), "line 1: reasons is missing or wrong"),
        (lambda: changed(max_requests=True), "line 1: max_requests is missing or wrong"),
        (lambda: encode(ABOUT, RECORDS)[:-20], "line 18: it is not valid JSON"),
        (lambda: encode(ABOUT, []) + "[" * 100000, "line 2: it is not valid JSON"),
        (line({}), "line 2: it is neither a record nor a note"),
        (line([float("nan"), "note", "x"]), "line 2: it is neither a record nor a note"),
        *(
            (line(values), "line 2: it is neither a record nor a note")
            for values in (
                [0, "up", 1, 1, 8, 8, ""],
                [-1, "in", 1, 1, 8, 8, ""],
                [0, "in", 300, 1, 8, 8, ""],
                [0, "in", 1, 1, 65536, 8, ""],
                [0, "in", 1, 1, 8, 9, ""],
                [0, "in", 1, -1, 8, 8, ""],
                [0, "in", 1, 1.0, 8, 8, ""],
                [0, "in", 1, 1, 8, 8, "123456789"],
                [0, "in", 1, 1, 8, 8, "a\u0100"],
                [0, "in", 1, 1, 8, 8, 5],
            )
        ),
    ],
)
def test_a_malformed_file_is_refused_in_a_line(
    text: Callable[[], str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.recording"
    path.write_text(text())
    for command in ("replay", "timeline"):
        assert main([command, str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"vsgi-fcgi: {path} is no recording: ")
        assert err.endswith(problem + "\n")
        assert err.count("\n") == 1


@pytest.mark.process
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert complaint(tmp_path, "replay", "/nowhere") == (
        "/nowhere cannot be read: No such file or directory"
    )
    assert complaint(tmp_path, "replay").startswith("FILE is missing")
