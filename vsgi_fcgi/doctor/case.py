"""One request that is looked into: what came, and what became of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from vsgi_fcgi.doctor.front_end import NGINX, Recognised, recognise
from vsgi_fcgi.doctor.values import MOST_CHARACTERS, brief, without_secrets
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.wsgi.environ import join_repeated, request_line
from vsgi_fcgi.wsgi.paths import Finding as PathFinding
from vsgi_fcgi.wsgi.paths import find_path
from vsgi_fcgi.wsgi.seen import SEEN, Seen

TRIAL_SEGMENT: Final = "doctor-trial"
"""A segment of a path where nobody has mounted anything."""

_OF_HOSTS: Final = "".join(map(chr, range(33, 127)))
"""What is left of a Host header as it came: a terminal shows the rest, or obeys it."""

_MOST_OF_HOSTS: Final = 300
"""Characters: names have 253 at most."""

_TRIAL: Final = re.compile(r"(?:^|&)doctor=([a-z-]{1,40})(?:&|$)")


@dataclass(frozen=True, slots=True)
class Case:
    """A request.

    Attributes:
        environ: what an app is given.
        seen: the request as it was on the line.
        params: its params by name, repeated ones joined as the server does it.
        mount: where the app is mounted, if that is named; None to work it out.
        script: SCRIPT_NAME as the app has it.
        path: PATH_INFO as the app has it.
        found: what was put right about the two.
        front: the web server.
        trial: the trial that it belongs to; empty for none.
    """

    environ: Mapping[str, Any]
    seen: Seen
    params: Mapping[str, str]
    mount: str | None
    script: str
    path: str
    found: PathFinding
    front: Recognised
    trial: str

    @classmethod
    def of(cls, environ: Mapping[str, Any], mount: str | None) -> Case:
        """Look at a request.

        Args:
            environ: the environ that the server has made.
            mount: where the app is mounted, as the server was told; None if it was not.
        """
        seen: Seen = environ[SEEN]
        params: dict[str, str] = {}
        for name, value in seen.pairs:
            if name in params:
                join_repeated(params, [(name, value)])
            else:
                params[name] = value
        script, path, found = find_path(params, mount)
        query = params.get("QUERY_STRING") or params.get("REQUEST_URI", "").partition("?")[2]
        trial = _TRIAL.search(query)
        return cls(
            environ=environ,
            seen=seen,
            params=params,
            mount=mount,
            script=script,
            path=path,
            found=found,
            front=recognise(params, seen),
            trial=trial[1] if trial else "",
        )

    @property
    def is_responder(self) -> bool:
        """Whether it is a request as web apps have them."""
        return self.seen.role == Role.RESPONDER

    @property
    def request(self) -> str:
        """The request by its method and URI, fit to be seen."""
        return brief(without_secrets(request_line(self.params)))

    @property
    def place(self) -> str | None:
        """Where the app is mounted, if that is known, and not what is asked for by chance."""
        if self.mount is not None:
            return self.mount
        return self.script if not self.script or self.found is PathFinding.PROXIED else None

    @property
    def asked(self) -> str:
        """The path that the client asked for, decoded; empty if that is not known."""
        return unquote(self.params.get("REQUEST_URI", "").partition("?")[0], "latin-1")

    def url(self, path: str, query: str = "") -> str:
        """An address on this site.

        Args:
            path: the path, decoded.
            query: what follows the question mark.
        """
        environ = self.environ
        host = environ.get("HTTP_HOST") or environ["SERVER_NAME"]
        if self.lost_port:
            host += f":{self.lost_port}"
        host = quote(host[:_MOST_OF_HOSTS], _OF_HOSTS, "latin-1")
        if len(path) > MOST_CHARACTERS:
            path = ""
        scheme = environ["wsgi.url_scheme"]
        quoted = quote(path or "/", "/;=,:@!$&'()*+", "latin-1")
        return f"{scheme}://{host}{quoted}" + (f"?{query}" if query else "")

    @property
    def lost_port(self) -> str:
        """The port that may be missing in HTTP_HOST, as with Debian's nginx; empty for none."""
        host, port = self.params.get("HTTP_HOST", ""), self.params.get("SERVER_PORT", "")
        whole = self.front.front_end is not NGINX or ":" in host.rpartition("]")[2]
        return "" if whole or not host or port in ("", "80", "443") else port

    def trial_url(self, name: str, more: str = "") -> str:
        """The address of a trial, quoted for a shell.

        Args:
            name: the trial.
            more: what else is in its query, with an ampersand in front.
        """
        return shlex.quote(self.url(self.script + self.path, f"doctor={name}{more}"))

    def path_trial_url(self) -> str:
        """The address that tells whether SCRIPT_NAME follows the path, quoted for a shell."""
        before = self.script.rpartition("/")[0] if self.mount is None else self.script
        return shlex.quote(self.url(f"{before}/{TRIAL_SEGMENT}/path"))
