"""Tests that a Flask app and a Django app must both pass, behind every web server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from support.front_ends.places import Place
from support.http import Browser


def described(name: str, data: bytes) -> dict[str, Any]:
    """Return the apps' response to an upload."""
    digest = hashlib.sha256(data).hexdigest()
    return {"filename": f"{name}.bin", "length": len(data), "sha256": digest}


def with_token(place: Place, token: Mapping[str, str]) -> Browser:
    """A browser that has the cookie which goes with Django's token in forms."""
    browser = place.browser()
    for value in token.values():
        browser.cookies["csrftoken"] = value
    return browser


def check_urls(place: Place) -> None:
    assert place.browser().get("/url").text == f"{place.prefix}/form"


def check_form(place: Place, **token: str) -> None:
    fields = {"name": "J\u00f6rg & S\u00f8n", "text": "two\r\nlines", "empty": ""}
    browser = with_token(place, token)
    assert browser.post("/form", **fields, **token).json() == fields


def check_uploads(place: Place, **token: str) -> None:
    browser = with_token(place, token)
    # The second is more than the server keeps in memory, and more than the frameworks do.
    files = {"small": b"\x00\r\n--\xff", "large": bytes(range(256)) * 12000}
    answer = browser.upload("/upload", files, note="\u00e4 note", **token).json()
    assert answer["files"] == {name: described(name, data) for name, data in files.items()}
    assert answer["fields"]["note"] == "\u00e4 note"


def check_cookies(place: Place) -> None:
    browser = place.browser()
    assert browser.get("/cookie").json() == {}
    assert len(browser.cookies) == 2
    assert browser.get("/cookie").json() == {"visited": "\u00e4; yes", "second": "2"}


def check_stream(place: Place) -> None:
    text = place.browser().get("/stream").text
    assert text == "".join(f"line {number}\n" for number in range(20000))


def check_login(place: Place, **token: str) -> None:
    browser = with_token(place, token)
    assert browser.get("/private").status == 401
    assert browser.post("/login", user="eve", password="wrong", **token).status == 403
    assert browser.get("/private").status == 401
    answer = browser.post("/login", user="alice", password="right", **token)
    assert answer.status == 302
    assert answer.headers["Location"] == f"{place.prefix}/private"
    assert browser.get("/private").text == "only for alice"
    assert place.browser().get("/private").status == 401
    assert browser.post("/logout", **token).text == "gone"
    assert browser.get("/private").status == 401


def check_errors(place: Place) -> None:
    answer = place.browser().get("/fail")
    assert answer.status == 500
    assert "the view failed" not in answer.text
    assert place.browser().get("/nowhere").status == 404
