"""Test the way from an environ back to params, without the values of this side."""

from __future__ import annotations

from io import BytesIO

from support.sinks import PARAMS, FakeSink

from vsgi_fcgi.wsgi.environ import ErrorStream, base_environ, environ_to_params, make_environ


def test_the_role_of_this_side_is_no_matter_of_the_other() -> None:
    base = base_environ(multithread=True, role="AUTHORIZER")
    environ = make_environ({**PARAMS}, (), base, BytesIO(), 0, ErrorStream(FakeSink()))
    assert environ["FCGI_ROLE"] == "AUTHORIZER"
    params = dict(environ_to_params(environ))
    assert params.items() >= PARAMS.items()
    assert not [name for name in params if name == "FCGI_ROLE" or "." in name]
