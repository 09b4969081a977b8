from __future__ import annotations

import json
from typing import Any

import pytest

from vsgi_fcgi.push.json_patch import PatchError, apply_patch, check_patch


@pytest.mark.parametrize(
    ("document", "operation", "result"),
    [
        ({}, {"op": "add", "path": "/a", "value": 1}, {"a": 1}),
        ({"a": 1}, {"op": "add", "path": "/a", "value": [2]}, {"a": [2]}),
        ([1, 3], {"op": "add", "path": "/1", "value": 2}, [1, 2, 3]),
        ([1], {"op": "add", "path": "/-", "value": 2}, [1, 2]),
        ([1], {"op": "add", "path": "/1", "value": 2}, [1, 2]),
        ({"a": {"b": [1]}}, {"op": "remove", "path": "/a/b/0"}, {"a": {"b": []}}),
        ({"a/b": 1, "m~n": 2}, {"op": "remove", "path": "/a~1b"}, {"m~n": 2}),
        ({"~1": 1}, {"op": "remove", "path": "/~01"}, {}),
        ({"": 1}, {"op": "replace", "path": "/", "value": 2}, {"": 2}),
        ({"a": 1}, {"op": "replace", "path": "", "value": [2]}, [2]),
        ({"a": [1]}, {"op": "replace", "path": "/a/0", "value": 2}, {"a": [2]}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ([1, 2], {"op": "move", "from": "/0", "path": "/1"}, [2, 1]),
        ({"a": [1]}, {"op": "test", "path": "/a", "value": [1]}, {"a": [1]}),
    ],
)
def test_operations(document: Any, operation: dict[str, Any], result: Any) -> None:
    check_patch([operation])
    assert json.loads(apply_patch(json.dumps(document).encode(), [operation])) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "add", "path": "/b/2", "value": 1},
        {"op": "add", "path": "/b/01", "value": 1},
        {"op": "add", "path": "/b/x", "value": 1},
        {"op": "add", "path": "/s/0", "value": 1},
        {"op": "remove", "path": "/c"},
        {"op": "remove", "path": "/b/-"},
        {"op": "replace", "path": "/b/1", "value": 1},
        {"op": "move", "from": "/b", "path": "/b/0"},
        {"op": "test", "path": "/b", "value": 1},
    ],
)
def test_what_does_not_fit(operation: dict[str, Any]) -> None:
    check_patch([operation])
    with pytest.raises(PatchError):
        apply_patch(b'{"b": [1], "s": "text"}', [operation])


@pytest.mark.parametrize(
    "patch",
    [
        {},
        [1],
        [{"op": "copy", "from": "/a", "path": "/b"}],
        [{"op": ["add"], "path": "/b", "value": 1}],
        [{"op": "add", "path": "b", "value": 1}],
        [{"op": "add", "path": "/b"}],
        [{"op": "move", "path": "/b"}],
        [{"op": "remove", "path": ""}],
        [{"op": "move", "from": "", "path": ""}],
        [{"op": "add", "path": "/b", "value": json.loads("[" * 100 + "]" * 100)}],
        [{"op": "test", "path": "", "value": 1}] * 1001,
    ],
)
def test_malformed_patches(patch: Any) -> None:
    with pytest.raises(PatchError):
        check_patch(patch)


@pytest.mark.parametrize("body", [b"", b"1", b'"a"', b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_cannot_be_patched(body: bytes) -> None:
    with pytest.raises(PatchError, match="not an object or a list"):
        apply_patch(body, [])


def test_a_patch_is_not_changed_by_its_use() -> None:
    patch: list[dict[str, Any]] = [
        {"op": "add", "path": "/a", "value": []},
        {"op": "add", "path": "/a/-", "value": 1},
    ]
    for _ in range(2):
        assert apply_patch(b"{}", patch) == b'{"a":[1]}'


def test_a_document_that_gets_too_deep() -> None:
    """The version of Python decides how deep that is. Another exception would be a bug."""
    document = b"[" * 900 + b"]" * 900
    nest = [
        {"op": "add", "path": "/0", "value": json.loads("[" * 90 + "]" * 90)},
        {"op": "move", "from": "/1", "path": "/0" * 90},
    ]
    try:
        result = apply_patch(document, nest).decode()
    except PatchError as error:
        result = str(error)
    assert "too many levels" in result or result.count("[") == 990


def test_a_path_in_a_message_is_one_line() -> None:
    with pytest.raises(PatchError, match=r"'/a\\nb' is not in the document"):
        apply_patch(b"{}", [{"op": "remove", "path": "/a\nb"}])


def test_the_form_of_the_result() -> None:
    assert apply_patch('{"b": 1, "a": "é"}\n'.encode(), []) == '{"a":"é","b":1}\n'.encode()
