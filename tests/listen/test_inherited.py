"""Test the environment variables in which systemd announces sockets."""

from __future__ import annotations

import os

import pytest

from vsgi_fcgi.addresses import SystemdAddress, addresses_from_options, parse_bind
from vsgi_fcgi.exceptions import ListenError, UsageError
from vsgi_fcgi.listen.listeners import (
    PassedSocket,
    choose_sockets,
    default_address,
    forget_sockets,
    has_passed_sockets,
    passed_sockets,
)
from vsgi_fcgi.service_manager import notify_address, watchdog_interval

ME = str(os.getpid())
NOBODY = "1"


def environ(count: str = "2", pid: str = ME, **more: str) -> dict[str, str]:
    return {"LISTEN_FDS": count, "LISTEN_PID": pid, **more}


def test_sockets_begin_at_descriptor_3_and_have_names() -> None:
    assert passed_sockets(environ(LISTEN_FDNAMES="web:admin")) == [
        PassedSocket(3, "web"),
        PassedSocket(4, "admin"),
    ]
    assert passed_sockets(environ("1")) == [PassedSocket(3, "unknown")]


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "systemd passed no sockets"),
        (environ(pid=""), "systemd passed no sockets"),
        pytest.param(
            environ(pid=NOBODY),
            f"belong to process 1, but this is process {ME}; .*with exec",
            id="other",
        ),
        (environ("many"), "LISTEN_FDS is 'many'"),
        (environ(LISTEN_FDNAMES="web"), "LISTEN_FDNAMES is 'web', but must contain 2 names"),
    ],
)
def test_there_are_none(variables: dict[str, str], why: str) -> None:
    with pytest.raises(ListenError, match=why) as caught:
        passed_sockets(variables)
    assert "\n" not in str(caught.value)


def test_sockets_are_chosen_by_their_name() -> None:
    passed = [PassedSocket(3, "web"), PassedSocket(4, "admin"), PassedSocket(5, "web")]
    assert choose_sockets(passed, "") == passed
    assert choose_sockets(passed, "web") == [passed[0], passed[2]]
    with pytest.raises(
        ListenError, match=r"systemd:wbe: no socket .* \(names: web, admin\); set File"
    ):
        choose_sockets(passed, "wbe")


@pytest.mark.parametrize(
    ("variables", "has"),
    [
        (environ("1"), True),
        (environ("0"), False),
        (environ(""), False),
        (environ(pid=NOBODY), False),
        ({"LISTEN_PID": ME}, False),
        ({}, False),
    ],
)
def test_the_default_is_what_systemd_passes_else_descriptor_0(
    variables: dict[str, str], has: bool
) -> None:
    assert has_passed_sockets(variables) == has
    assert str(default_address(variables)) == ("systemd:" if has else "fd 0")


def test_the_variables_are_taken_away() -> None:
    variables = environ(LISTEN_FDNAMES="a:b", LISTEN_PIDFDID="1234", NOTIFY_SOCKET="/run/notify")
    forget_sockets(variables)
    forget_sockets(variables)
    assert variables == {"NOTIFY_SOCKET": "/run/notify"}


def test_addresses() -> None:
    assert parse_bind("systemd:") == SystemdAddress("")
    assert parse_bind(" systemd:web.socket") == SystemdAddress("web.socket")
    both = addresses_from_options(bind=["systemd:web", "systemd:admin"])
    assert [str(item) for item in both] == ["systemd:web", "systemd:admin"]
    for text in ("systemd://web", "systemd:a:b"):
        with pytest.raises(UsageError, match=r"write systemd:NAME with the FileDescriptorName"):
            parse_bind(text)
    with pytest.raises(UsageError, match="systemd:web: the address is given twice"):
        addresses_from_options(bind=["systemd:web", "systemd:web"])
    with pytest.raises(UsageError, match="systemd:web: systemd: already includes this socket"):
        addresses_from_options(bind=["systemd:web", "systemd:"])


def test_the_address_to_notify() -> None:
    assert notify_address({}) is None
    assert notify_address({"NOTIFY_SOCKET": ""}) is None
    assert notify_address({"NOTIFY_SOCKET": "/run/notify"}) == "/run/notify"
    assert notify_address({"NOTIFY_SOCKET": "@notify"}) == "\0notify"
    assert notify_address({"NOTIFY_SOCKET": "vsock:2:1234"}) is None


def test_the_interval_of_the_watchdog() -> None:
    assert watchdog_interval({}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_interval({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": ME}) == 0.5
    assert watchdog_interval({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": NOBODY}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "soon"}) is None
