"""From an environ back to params: what belongs to the app of this side stays here."""

from __future__ import annotations

from io import BytesIO

from support.sinks import PARAMS, FakeSink

from vsgi_fcgi.wsgi.environ import base_environ, make_environ
from vsgi_fcgi.wsgi.errors import ErrorStream
from vsgi_fcgi.wsgi.request_params import params_of


def test_the_role_of_this_side_is_no_matter_of_the_other() -> None:
    base = base_environ(multithread=True, role="AUTHORIZER")
    environ = make_environ({**PARAMS}, (), base, BytesIO(), 0, ErrorStream(FakeSink()))
    assert environ["FCGI_ROLE"] == "AUTHORIZER"
    params = dict(params_of(environ))
    assert params.items() >= PARAMS.items()
    assert not [name for name in params if name == "FCGI_ROLE" or "." in name]
