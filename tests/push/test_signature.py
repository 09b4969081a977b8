from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from urllib.parse import quote

import gripcontrol
import pytest

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.push.signature import FEATURES, Signer
from vsgi_fcgi.server.config import Config

KEY = b"a key of at least thirty-two bytes"
NOW = 1_800_000_000.9


def test_the_claims() -> None:
    token = Signer(KEY, "vsgi-fcgi").token(NOW)
    head, claims, signature = token.split(".")

    def decode(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    assert json.loads(decode(head)) == {"typ": "JWT", "alg": "HS256"}
    assert json.loads(decode(claims)) == {"iss": "vsgi-fcgi", "exp": 1_800_003_600}
    assert decode(signature) == hmac.digest(KEY, f"{head}.{claims}".encode(), hashlib.sha256)


def test_a_token_is_used_for_a_minute() -> None:
    signer = Signer(KEY, "vsgi-fcgi")
    first = signer.token(NOW)
    assert signer.token(NOW + 59) == first
    second = signer.token(NOW + 61)
    assert second != first
    # The clock was set back.
    assert signer.token(NOW) == first


# It uses a function that Python 3.12 deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gripcontrol")
def test_libraries_accept_it() -> None:
    token = Signer(KEY, "vsgi-fcgi").token(time.time())
    assert gripcontrol.validate_sig(token, KEY)
    assert not gripcontrol.validate_sig(token, KEY + b"x")
    assert not gripcontrol.validate_sig(Signer(KEY, "vsgi-fcgi").token(time.time() - 3700), KEY)


def test_a_key_of_any_bytes() -> None:
    key = bytes(range(32))
    text = f"base64:{base64.b64encode(key).decode()}"
    assert Config(push_key=text).signing_key == key
    assert Config(push_key="plain").signing_key == b"plain"
    assert gripcontrol.parse_grip_uri(f"http://x?key={quote(text)}")["key"] == key
    with pytest.raises(UsageError, match="push_key"):
        Config(push_key="base64:?")


def test_the_features() -> None:
    assert FEATURES.split(", ")[:3] == ["status", "link:next", "link:gone"]
    assert "filter:var-subst" in FEATURES
