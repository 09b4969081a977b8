from __future__ import annotations

import pytest

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.tcp import allowed_peers, is_allowed


@pytest.mark.parametrize(
    "environ", [{}, {"FCGI_WEB_SERVER_ADDRS": ""}, {"FCGI_WEB_SERVER_ADDRS": " "}]
)
def test_without_the_variable_everybody_may_connect(environ: dict[str, str]) -> None:
    allowed = allowed_peers(environ)
    assert allowed is None
    assert is_allowed("192.0.2.7", allowed)


@pytest.mark.parametrize(
    ("listed", "peer", "verdict"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        (" 192.0.2.1 , ::1,", "::1", True),
        ("192.0.2.1,::1", "192.0.2.1", True),
        ("192.0.2.1,::1", "192.0.2.10", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::FFFF:192.0.2.1", "192.0.2.1", True),
        ("2001:DB8::1", "2001:db8::1", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "localhost", False),
    ],
)
def test_peers_are_compared_as_addresses(listed: str, peer: str, verdict: bool) -> None:
    allowed = allowed_peers({"FCGI_WEB_SERVER_ADDRS": listed})
    assert is_allowed(peer, allowed) is verdict


@pytest.mark.parametrize(
    "value", ["localhost", "127.0.0.1 ::1", "10.0.0.0/8", "127.0.0.1;::1", ","]
)
def test_a_list_that_cannot_be_read_lets_nobody_start(value: str) -> None:
    with pytest.raises(UsageError, match="FCGI_WEB_SERVER_ADDRS"):
        allowed_peers({"FCGI_WEB_SERVER_ADDRS": value})
