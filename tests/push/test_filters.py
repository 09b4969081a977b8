from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgi_fcgi.push.filters import NAMES, FilterError, apply, apply_to_body


def run(
    name: str,
    content: bytes = b"x",
    held: dict[str, str] | None = None,
    item: dict[str, str] | None = None,
    prev_ids: dict[str, str | None] | None = None,
) -> bytes | None:
    return apply(
        content, (name,), held_meta=held or {}, item_meta=item or {}, prev_ids=prev_ids or {}
    )


@pytest.mark.parametrize(
    ("name", "held", "item", "prev_ids", "sent"),
    [
        ("skip-self", {"user": "u"}, {"sender": "u"}, {}, False),
        ("skip-self", {"user": "u"}, {"sender": "v"}, {}, True),
        ("skip-self", {"user": ""}, {"sender": ""}, {}, True),
        ("skip-self", {}, {}, {}, True),
        ("skip-users", {"user": "u"}, {"skip_users": "t, u ,v"}, {}, False),
        ("skip-users", {"user": "u"}, {"skip_users": "uu"}, {}, True),
        ("skip-users", {}, {"skip_users": ""}, {}, True),
        ("require-sub", {}, {"require_sub": "b"}, {"a": None, "b": None}, True),
        ("require-sub", {}, {"require_sub": "b"}, {"a": None}, False),
        ("require-sub", {}, {}, {"a": None}, True),
    ],
)
def test_which_items_are_sent(
    name: str,
    held: dict[str, str],
    item: dict[str, str],
    prev_ids: dict[str, str | None],
    sent: bool,
) -> None:
    assert run(name, b"%", held, item, prev_ids) == (b"%" if sent else None)


def test_var_subst() -> None:
    held = {"user": "é", "a)b": "1"}
    assert run("var-subst", b"%(user)s %% %(a\\)b)s", held) == "é % 1".encode()


@pytest.mark.parametrize(
    "content", [b"%", b"%(user", b"%(user)", b"%(user)d", b"%s", b"%(other)s", b"%(user)%", b"%x"]
)
def test_var_subst_that_cannot_be_done(content: bytes) -> None:
    with pytest.raises(FilterError):
        run("var-subst", content, {"user": "u"})


def test_build_id() -> None:
    prev_ids: dict[str, str | None] = {"a": "1", "b": "2"}
    held = {"id_format": "a:%(a)s,b:%(b)s"}
    content = b"id: %I%%\ndata: %(x)I"
    assert run("build-id", content, held, {}, prev_ids) == b"id: a:1,b:2%\ndata: x"
    held["id_encoding"] = "hex"
    assert run("build-id", b"%I", held, {}, prev_ids) == b"a:1,b:2".hex().encode()


@pytest.mark.parametrize(
    ("held", "content"),
    [
        ({}, b"x"),
        ({"id_format": "%(b)s"}, b"%I"),
        ({"id_format": "%(a)s", "id_encoding": "rot13"}, b"x"),
        ({"id_format": "%(a)s"}, b"%s"),
    ],
)
def test_build_id_that_cannot_be_done(held: dict[str, str], content: bytes) -> None:
    with pytest.raises(FilterError):
        run("build-id", content, held, {}, {"a": "1", "b": None})


def test_the_body_of_the_app() -> None:
    held = {"id_format": "%(a)s", "id_encoding": "hex"}
    assert apply_to_body(b"%(a:1)I", ["skip-self", "build-id"], held) == b"a:1".hex().encode()
    assert apply_to_body(b"%(user)s", ["var-subst"], {}) == b"%(user)s"
    with pytest.raises(FilterError, match="has no value"):
        apply_to_body(b"%I", ["build-id"], held)


def test_filters_are_applied_in_their_order() -> None:
    held = {"id_format": "%(a)s", "x": "%I"}
    for filters, content, result in (
        (("var-subst", "build-id"), b"%(x)s", b"1"),
        (("build-id", "var-subst"), b"%I%%%%", b"1%"),
    ):
        assert apply(content, filters, held_meta=held, item_meta={}, prev_ids={"a": "1"}) == result


def test_the_publisher_may_say_which_filters_it_expects() -> None:
    kwargs = {"held_meta": {"user": "u"}, "item_meta": {}, "prev_ids": {}}
    filters = ("skip-self", "var-subst")
    assert apply(b"%(user)s", filters, content_filters=("var-subst",), **kwargs) == b"u"
    with pytest.raises(FilterError, match=r"expects the content filters \[\], but the held"):
        apply(b"%(user)s", filters, content_filters=(), **kwargs)


@given(st.binary(max_size=30), st.sampled_from(NAMES))
def test_any_content_is_sent_or_an_error(content: bytes, name: str) -> None:
    try:
        result = run(name, content, {"id_format": "x", "user": "u"}, {}, {"a": "1"})
    except FilterError:
        assert b"%" in content
        return
    if b"%" not in content:
        assert result == content
