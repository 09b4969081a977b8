"""What an app may ask for, and what is published: each scenario returns what its client gets.

All scenarios run at the same time, so each uses its own name for its channel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from support.grip.site import PROBE, Answer, Refused, Shown, Site, target_of
from support.processes import wait_until

Pair = list[str]
Items = list[dict[str, Any]]
Scenario = Callable[[Site, str], Any]

TEXT = ["Content-Type", "text/plain"]
END: Answer = ["200 OK", [TEXT], "the end"]


def stream(channel: str, *headers: Pair, body: str = "begun\n", status: str = "200 OK") -> Answer:
    """A response that is held as a stream."""
    return [status, [TEXT, ["Grip-Hold", "stream"], ["Grip-Channel", channel], *headers], body]


def poll(channel: str, *headers: Pair, body: str = "nothing\n", status: str = "200 OK") -> Answer:
    """A response that is held as a long poll."""
    return [status, [TEXT, ["Grip-Hold", "response"], ["Grip-Channel", channel], *headers], body]


def instruct(document: Any, status: str = "200 OK") -> Answer:
    """A body that is an instruction."""
    return [status, [["Content-Type", "application/grip-instruct"]], json.dumps(document)]


def link(name: str, *answers: Answer, timeout: int = 120) -> Pair:
    """A Grip-Link to a request that gets these answers."""
    return ["Grip-Link", f"<{target_of(name, *answers)}>; rel=next; timeout={timeout}"]


def sent(channel: str, content: str, **more: Any) -> dict[str, Any]:
    """An item for streams."""
    return {"channel": channel, "formats": {"http-stream": {"content": content}}, **more}


def response(channel: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An item for long polls."""
    return {"channel": channel, "formats": {"http-response": values}, **more}


def close(channel: str) -> dict[str, Any]:
    """An item that ends streams."""
    return {"channel": channel, "formats": {"http-stream": {"action": "close"}}}


def _asked(answer: Callable[[str], Answer], site: Site, name: str, method: str = "GET") -> Shown:
    """A request whose response ends without an item."""
    exchange = site.ask(name, answer(name), method=method)
    exchange.ends()
    return exchange.shown()


def _streamed(
    answer: Callable[[str], Answer], items: Callable[[str], Items], site: Site, name: str
) -> Shown:
    """A stream that gets items, and a close."""
    exchange = site.hold(name, answer(name))
    site.publish(*items(name), close(name))
    exchange.ends()
    shown = exchange.shown()
    if len(shown) > 2:
        shown[2] = shown[2].replace(PROBE, "")
    return shown


def _polled(
    answer: Callable[[str], Answer], item: Callable[[str], dict[str, Any]], site: Site, name: str
) -> Shown:
    """A long poll that is answered with an item."""
    exchange = site.ask(name, answer(name))
    try:
        site.publish_until_it_ends(exchange, item(name))
    except Refused:
        exchange.close()
        return ["not published"]
    return exchange.shown()


def _kept_alive(keep_alive: str, expected: str, site: Site, name: str) -> Shown:
    """A stream that gets keep-alives."""
    exchange = site.ask(name, stream(name, ["Grip-Keep-Alive", keep_alive]))
    exchange.has(expected, 20)
    return exchange.shown(until=expected)


SCENARIOS: dict[str, Scenario] = {}


def _scenario(run: Scenario) -> Scenario:
    SCENARIOS[run.__name__.replace("_", "-")] = run
    return run


_COMPLETE: dict[str, Callable[[str], Answer]] = {
    "no-instruction": lambda name: ["200 OK", [TEXT, ["X-A", "b"], ["Content-Length", "2"]], "ok"],
    "grip-headers-without-hold": lambda name: ["200 OK", [TEXT, ["Grip-Channel", name]], "ok"],
    "expose-headers": lambda name: [
        "200 OK",
        [TEXT, ["X-A", "1"], ["X-B", "2"], ["Grip-Expose-Headers", "x-a"]],
        "ok",
    ],
    "status": lambda name: ["200 OK", [["Grip-Status", "404"], TEXT], "ok"],
    "status-with-reason": lambda name: ["200 OK", [["Grip-Status", "404 Nope"], TEXT], "ok"],
    "status-without-reason": lambda name: ["200 OK", [["Grip-Status", "299"], TEXT], "ok"],
    "status-304": lambda name: ["200 OK", [["Grip-Status", "304"], ["ETag", '"x"'], TEXT], ""],
    "timeout": lambda name: poll(
        name, ["Grip-Timeout", "1"], ["X-A", "b"], ["Content-Length", "8"]
    ),
    "timeout-404": lambda name: poll(name, ["Grip-Timeout", "5"], status="404 Not Found"),
    "timeout-304": lambda name: poll(
        name, ["Grip-Timeout", "0"], ["Grip-Status", "304"], ["ETag", '"x"'], body=""
    ),
    "timeout-without-channel": lambda name: [
        "200 OK",
        [["Grip-Hold", "response"], ["Grip-Timeout", "1"], TEXT],
        "ok",
    ],
    "pages": lambda name: [
        "200 OK",
        [
            TEXT,
            ["Content-Length", "4"],
            link(f"{name}-2", ["200 OK", [link(f"{name}-3", END)], "2"]),
        ],
        "one ",
    ],
    "next-after-timeout": lambda name: stream(name, link(f"{name}-2", END, timeout=1)),
    "next-fails-once": lambda name: stream(
        name, link(f"{name}-2", ["500 Oops", [TEXT], "error"], END, timeout=1)
    ),
    "unknown-hold": lambda name: ["200 OK", [["Grip-Hold", "maybe"], TEXT], "ok"],
    "bad-timeout": lambda name: poll(name, ["Grip-Timeout", "soon"]),
    "bad-status": lambda name: ["200 OK", [["Grip-Status", "fine"], TEXT], "ok"],
    "bad-keep-alive-mode": lambda name: stream(name, ["Grip-Keep-Alive", "x; mode=maybe"]),
    "bad-keep-alive-format": lambda name: stream(name, ["Grip-Keep-Alive", "x; format=maybe"]),
    "bad-keep-alive-timeout": lambda name: stream(name, ["Grip-Keep-Alive", "x; timeout=soon"]),
    "bad-link-timeout": lambda name: stream(name, ["Grip-Link", "<x>; rel=next; timeout=soon"]),
    "prev-id-without-link": lambda name: stream(f"{name}; prev-id=1"),
    "build-id-without-format": lambda name: stream(f"{name}; filter=build-id", body="%I"),
    "instruct-no-hold": lambda name: instruct(
        {"response": {"code": 404, "headers": {"X-A": "b"}, "body": "ok"}}
    ),
    "instruct-binary": lambda name: instruct({"response": {"body-bin": "AP8="}}),
    "instruct-timeout": lambda name: instruct(
        {
            "hold": {"channels": [{"name": name}], "timeout": 1},
            "response": {"code": 203, "reason": "Maybe", "headers": [["X-A", "b"]], "body": "ok"},
        }
    ),
    "instruct-nothing": lambda name: instruct({}),
    "instruct-hold-without-channels": lambda name: instruct({"hold": {}}),
    "instruct-status-404": lambda name: instruct({}, status="404 Not Found"),
    "instruct-not-json": lambda name: [
        "200 OK",
        [["Content-Type", "application/grip-instruct"]],
        "{",
    ],
}
for _name, _answer in _COMPLETE.items():
    SCENARIOS[_name] = partial(_asked, _answer)

SCENARIOS["head"] = partial(_asked, lambda name: ["200 OK", [TEXT], ""], method="HEAD")

_META = ["Grip-Set-Meta", 'user="u", color=red']
_STREAMS: dict[str, tuple[Callable[[str], Answer], Callable[[str], Items]]] = {
    "stream": (
        lambda name: stream(name, ["Content-Length", "6"], ["ETag", '"x"']),
        lambda name: [sent(name, "one\n"), sent(f"{name}-other", "no\n"), sent(name, "é\n")],
    ),
    "stream-500": (lambda name: stream(name, status="500 Oops"), lambda name: [sent(name, "one")]),
    "stream-binary": (
        lambda name: stream(name),
        lambda name: [{"channel": name, "formats": {"http-stream": {"content-bin": "AP8="}}}],
    ),
    "stream-of-two-channels": (
        lambda name: stream(f"{name}, {name}-b", ["Grip-Channel", f"{name}-c"]),
        lambda name: [sent(f"{name}-b", "b\n"), sent(f"{name}-c", "c\n")],
    ),
    "stream-old-form": (
        lambda name: stream(name),
        lambda name: [{"channel": name, "http-stream": {"content": "old\n"}}],
    ),
    "hint-without-link": (
        lambda name: stream(name),
        lambda name: [{"channel": name, "formats": {"http-stream": {"action": "hint"}}}],
    ),
    "ids-without-prev-id": (
        lambda name: stream(name),
        lambda name: [sent(name, "1\n", id="1"), sent(name, "2\n", id="2", **{"prev-id": "1"})],
    ),
    "same-id-twice": (
        lambda name: stream(name),
        lambda name: [sent(name, "1\n", id="1"), sent(name, "again\n", id="1")],
    ),
    "skip-self": (
        lambda name: stream(f"{name}; filter=skip-self", _META),
        lambda name: [
            sent(name, "no\n", meta={"sender": "u"}),
            sent(name, "x\n", meta={"sender": "v"}),
        ],
    ),
    "skip-users": (
        lambda name: stream(f"{name}; filter=skip-users", _META),
        lambda name: [
            sent(name, "no\n", meta={"skip_users": "v, u"}),
            sent(name, "x\n", meta={"skip_users": "v,uu"}),
        ],
    ),
    "require-sub": (
        lambda name: stream(f"{name}; filter=require-sub, {name}-b"),
        lambda name: [
            sent(name, "no\n", meta={"require_sub": f"{name}-c"}),
            sent(name, "x\n", meta={"require_sub": f"{name}-b"}),
        ],
    ),
    "var-subst": (
        lambda name: stream(f"{name}; filter=var-subst", _META, body="%(user)s\n"),
        lambda name: [sent(name, "%(user)s likes %(color)s 100 %%\n")],
    ),
    "var-subst-fails": (
        lambda name: stream(f"{name}; filter=var-subst", _META),
        lambda name: [sent(name, "%(size)s\n"), sent(name, "no\n")],
    ),
    "content-filters": (
        lambda name: stream(f"{name}; filter=var-subst; filter=skip-self", _META),
        lambda name: [
            {
                "channel": name,
                "formats": {
                    "http-stream": {"content": "%(user)s\n", "content-filters": ["var-subst"]}
                },
            },
            {
                "channel": name,
                "formats": {"http-stream": {"content": "%(user)s\n", "content-filters": []}},
            },
            sent(name, "no\n"),
        ],
    ),
    "21-channels": (
        lambda name: stream(", ".join([name, *(f"{name}-{n}" for n in range(20))])),
        lambda name: [sent(f"{name}-18", "18\n"), sent(f"{name}-19", "19\n")],
    ),
    "unknown-filter": (
        lambda name: stream(f"{name}; filter=colour"),
        lambda name: [sent(name, "x\n")],
    ),
    "instruct-stream": (
        lambda name: instruct(
            {
                "hold": {
                    "mode": "stream",
                    "channels": [{"name": name, "filters": ["var-subst"]}],
                    "meta": {"user": "u"},
                },
                "response": {"headers": {"X-A": "b"}, "body": "begun\n"},
            }
        ),
        lambda name: [sent(name, "%(user)s\n")],
    ),
}
for _name, (_answer, _items) in _STREAMS.items():
    SCENARIOS[_name] = partial(_streamed, _answer, _items)

_DOCUMENT = '{"b": 1, "a": [1, 2]}\r\n'
_POLLS: dict[str, tuple[Callable[[str], Answer], Callable[[str], dict[str, Any]]]] = {
    "poll": (
        lambda name: poll(name, ["ETag", '"x"'], ["X-A", "1"], ["Content-Length", "8"]),
        lambda name: response(
            name, {"headers": {"X-A": "2", "X-B": "3", "Grip-X": "4"}, "body": "something\n"}
        ),
    ),
    "poll-404-inherits-no-status": (
        lambda name: poll(name, status="404 Not Found"),
        lambda name: response(name, {"body": "something"}),
    ),
    "poll-with-status": (
        lambda name: poll(name, ["Set-Cookie", "a=1"], ["Vary", "x"]),
        lambda name: response(
            name,
            {
                "code": 201,
                "reason": "Done",
                "headers": [["Set-Cookie", "b=2"], ["Set-Cookie", "c=3"]],
                "body-bin": "AP8=",
            },
        ),
    ),
    "poll-without-reason": (
        lambda name: poll(name),
        lambda name: response(name, {"code": 299, "body": ""}),
    ),
    "poll-204": (lambda name: poll(name), lambda name: response(name, {"code": 204, "body": ""})),
    "poll-exposes-headers": (
        lambda name: poll(name, ["X-A", "1"]),
        lambda name: response(name, {"headers": {"Grip-Expose-Headers": "X-A"}, "body": "x"}),
    ),
    "poll-filtered": (
        lambda name: poll(f"{name}; filter=var-subst", _META),
        lambda name: response(name, {"body": "%(user)s"}),
    ),
    "poll-filter-fails": (
        lambda name: poll(f"{name}; filter=var-subst"),
        lambda name: response(name, {"body": "%(user)s"}),
    ),
    "poll-other-content-filters": (
        lambda name: poll(name),
        lambda name: response(name, {"body": "x", "content-filters": ["var-subst"]}),
    ),
    "patch": (
        lambda name: poll(name, body=_DOCUMENT),
        lambda name: response(
            name,
            {
                "body-patch": [
                    {"op": "test", "path": "/b", "value": 1},
                    {"op": "replace", "path": "/b", "value": "é"},
                    {"op": "add", "path": "/a/-", "value": 3},
                    {"op": "move", "from": "/a/0", "path": "/c"},
                    {"op": "remove", "path": "/a/0"},
                ]
            },
        ),
    ),
    "patch-copies": (
        lambda name: poll(name, body=_DOCUMENT),
        lambda name: response(name, {"body-patch": [{"op": "copy", "from": "/a", "path": "/c"}]}),
    ),
    "patch-of-text": (lambda name: poll(name), lambda name: response(name, {"body-patch": []})),
    "patch-fails": (
        lambda name: poll(name, body=_DOCUMENT),
        lambda name: response(name, {"body-patch": [{"op": "remove", "path": "/x"}]}),
    ),
}
for _name, (_answer, _item) in _POLLS.items():
    SCENARIOS[_name] = partial(_polled, _answer, _item)

for _name, _keep_alive, _expected in (
    ("keep-alive-raw", 'a, b "c"; timeout=1', 'begun\na, b "c"a, b "c"'),
    ("keep-alive-cstring", "\\x3a\\\\\\r\\n; format=cstring; timeout=2", "begun\n:\\\r\n:\\\r\n"),
    ("keep-alive-base64", "OgoK; format=base64; timeout=1; mode=interval", "begun\n:\n\n:\n\n"),
    ("keep-alive-unknown-escape", "x\\ty; format=cstring; timeout=1", "begun\nxy"),
    ("keep-alive-of-no-seconds", "x; timeout=0", "begun\nx"),
):
    SCENARIOS[_name] = partial(_kept_alive, _keep_alive, _expected)


@_scenario
def what_the_app_gets(site: Site, name: str) -> Any:
    headers = {"Grip_Sig": "forged", "Grip_Last": "a; last-id=1", "Grip_X": "y", "X_A": "b"}
    exchange = site.ask(name, END, method="POST", body=b"body", **headers)
    exchange.ends()
    return [exchange.shown(), site.asked(name)]


@_scenario
def poll_with_matching_prev_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    last = "1"
    for attempt in range(5):
        asked = f"{name}-{attempt}"
        exchange = site.ask(asked, poll(f"{name}; prev-id={last}"), END)
        wait_until(partial(site.asked, asked), "the app to be asked")
        item = response(name, {"body": "something"}, id=f"{last}-2", **{"prev-id": last})
        last = site.publish_until_it_ends(exchange, item)["id"]
        shown = [exchange.shown(), site.asked(asked)]
        if "something" in shown[0]:
            break
        # The item came before the request was held, so the app was asked again.
    keeper.close()
    return shown


@_scenario
def poll_with_other_prev_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    exchange = site.ask(name, poll(f"{name}; prev-id=1"), END, X_A="b")
    site.publish_until_it_ends(exchange, response(name, {"body": "no"}, id="3", **{"prev-id": "2"}))
    keeper.close()
    return [exchange.shown(), site.asked(name)]


@_scenario
def posted_poll_with_other_prev_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    exchange = site.ask(name, poll(f"{name}; prev-id=1"), END, method="POST", body=b"body")
    site.publish_until_it_ends(exchange, response(name, {"body": "no"}, id="3", **{"prev-id": "2"}))
    keeper.close()
    return [exchange.shown(), site.asked(name)]


@_scenario
def poll_after_a_missed_item(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    site.publish(response(name, {"body": "missed"}, id="2"), sent(name, "missed", id="3"))
    keeper.has("missed", 20)
    exchange = site.ask(name, poll(f"{name}; prev-id=1"), END)
    exchange.ends()
    keeper.close()
    return [exchange.shown(), site.asked(name)]


@_scenario
def hint_for_a_poll(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    exchange = site.ask(name, poll(name), END)
    site.publish_until_it_ends(exchange, response(name, {"action": "hint"}))
    keeper.close()
    return [exchange.shown(), site.asked(name)]


@_scenario
def stream_with_matching_prev_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    answer = stream(f"{name}; prev-id=1", link(f"{name}-2", END))
    exchange = site.ask(name, answer)
    exchange.has("begun", 20)
    for number in range(20):
        site.publish(sent(name, "one\n", id=f"2-{number}", **{"prev-id": "1", "no-seq": True}))
        if exchange.has("one", 2):
            break
    keeper.close()
    return [exchange.shown(), site.asked(f"{name}-2")]


def _recovers(site: Site, name: str, *items: dict[str, Any]) -> Any:
    """A stream that asks the app for what it has missed, and goes on."""
    keeper = site.settle(name)
    # The second request has all items up to 9.
    recovered = stream(f"{name}; prev-id=9", link(f"{name}-3", END), body="recovered\n")
    exchange = site.ask(name, stream(f"{name}; prev-id=1", link(f"{name}-2", recovered)))
    exchange.has("begun", 20)
    for number in range(20):
        site.publish(*({**item, "id": f"{item['id']}-{number}", "no-seq": True} for item in items))
        if exchange.has("recovered", 1):
            break
    for number in range(20):
        site.publish(sent(name, "ten\n", id=f"10-{number}", **{"prev-id": "9", "no-seq": True}))
        if exchange.has("ten", 2):
            break
    keeper.close()
    return [exchange.shown(), site.asked(f"{name}-2"), site.asked(f"{name}-3")]


@_scenario
def stream_with_other_prev_id(site: Site, name: str) -> Any:
    return _recovers(site, name, sent(name, "no", id="3", **{"prev-id": "2"}))


@_scenario
def stream_with_prev_id_and_item_without(site: Site, name: str) -> Any:
    return _recovers(site, name, sent(name, "no", id="3"))


@_scenario
def stream_after_a_missed_item(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    site.publish(sent(name, "missed", id="3"))
    keeper.has("missed", 20)
    exchange = site.ask(name, stream(f"{name}; prev-id=1", link(f"{name}-2", END)))
    exchange.ends()
    keeper.close()
    return [exchange.shown(), site.asked(f"{name}-2")]


@_scenario
def hint_for_a_stream(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    exchange = site.ask(name, stream(name, link(f"{name}-2", END)), X_A="b")
    hint = {"channel": name, "formats": {"http-stream": {"action": "hint"}}}
    for _ in range(20):
        site.publish(hint)
        if exchange.ends(1):
            break
    keeper.close()
    return [exchange.shown(), site.asked(f"{name}-2")]


@_scenario
def close_of_a_stream_with_prev_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    exchange = site.ask(name, stream(f"{name}; prev-id=1", link(f"{name}-2", END)))
    for _ in range(20):
        site.publish(close(name))
        if exchange.ends(1):
            break
    keeper.close()
    return [exchange.shown(), site.asked(f"{name}-2")]


@_scenario
def build_id(site: Site, name: str) -> Any:
    keeper = site.settle(name)
    meta = ["Grip-Set-Meta", f'id_format="%({name})s:x", id_encoding=hex']
    answer = stream(
        f"{name}; prev-id=1; filter=build-id", meta, link(f"{name}-2", END), body="%(1:x)I\n"
    )
    exchange = site.ask(name, answer)
    exchange.has("\n", 20)
    number = 0
    while True:
        item = sent(name, "%I %(y)I %%\n", id=f"2-{number}", **{"prev-id": "1", "no-seq": True})
        site.publish(item)
        if exchange.has(" %\n", 2) or number == 20:
            break
        number += 1
    keeper.close()
    shown = exchange.shown()
    shown[2] = shown[2].replace(f"2-{number}:x".encode().hex(), "(2:x in hex)")
    return [shown, site.asked(f"{name}-2")]


def run_all(site: Site) -> dict[str, Any]:
    """Run all scenarios, and return what the clients have got."""
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        running = {name: pool.submit(run, site, name) for name, run in SCENARIOS.items()}
        return {name: future.result() for name, future in running.items()}
