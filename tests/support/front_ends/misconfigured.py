"""Sites with one mistake each, and the place for the doctor's lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from support.doctor import Site
from support.front_ends.servers import find
from support.front_ends.sites import ApacheSites, HAProxySites, LighttpdSites, NginxSites, Sites
from support.processes import Process, ProcessGroup

Ask = Callable[[Site], Any]

AUTHORIZED = {"Authorization": "Basic YTpi"}
"""The header of a client with a password."""


@dataclass(frozen=True)
class Wrong:
    """A site on which something is wrong.

    Attributes:
        code: the expected finding.
        config: the site, with LINES where the doctor's lines belong.
        there: what stands there at first.
        ask: how it is found, and how it is looked whether it is gone.
        reaches: whether that still reaches the app when all is right.
        counts: whether the finding is a problem for certain.
        apply: makes the replacement for LINES from the doctor's lines.
    """

    code: str
    config: str
    ask: Ask = Site.ask
    there: str = ""
    reaches: bool = True
    counts: bool = True
    apply: Callable[[str], str] = str


def nginx_site(location: str, server: str = "") -> str:
    text = f"server {{ listen LISTEN; server_name HOST; {server}"
    return f"{text}location / {{ {location} }} }}"


_INCLUDE = "include fastcgi_params;"
NGINX_PARAMS = f'{_INCLUDE} fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $uri;'
NGINX_PASS = "fastcgi_pass 127.0.0.1:PORT;"
_MOUNTED = "server { listen LISTEN; server_name HOST; LINES }"
_SOME = "fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;"
_SOME += " fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;"
_SOME += ' fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $uri;'


def _mounted(params: str) -> str:
    return f"location /shop {{ {_INCLUDE} {params} {NGINX_PASS} }}"


def _two_blocks(text: str) -> str:
    """An upstream, and the location that uses it, where both belong."""
    upstream, lines = text.split("\n\n")
    location = f"location / {{ {lines} }}\n}}"
    return f"{location}\n{upstream}\nserver {{ listen LISTEN; server_name unused.HOST;"


NGINX = {
    "whole": Wrong("path-whole", nginx_site(f"LINES {NGINX_PASS}"), there=_INCLUDE),
    "slash": Wrong(
        "path-slash",
        nginx_site(f"LINES {NGINX_PASS}"),
        there=f"{_INCLUDE} fastcgi_param SCRIPT_NAME /; fastcgi_param PATH_INFO a$uri;",
    ),
    "missing": Wrong(
        "path-missing",
        _MOUNTED,
        lambda site: site.ask("/shop/a"),
        _mounted("fastcgi_param SCRIPT_NAME /shop;"),
    ),
    "twice": Wrong(
        "path-twice",
        _MOUNTED,
        lambda site: site.ask("/shop/a"),
        _mounted("fastcgi_param SCRIPT_NAME /shop; fastcgi_param PATH_INFO $uri;"),
    ),
    "segment": Wrong(
        "path-segment",
        _MOUNTED,
        lambda site: site.ask("/shopping"),
        _mounted(
            "fastcgi_split_path_info ^(/shop)(.*)$; fastcgi_param PATH_INFO $fastcgi_path_info;"
        ),
        reaches=False,
    ),
    "bare": Wrong("method-missing", nginx_site(f"LINES {NGINX_PASS}")),
    "type": Wrong(
        "type-missing",
        nginx_site(f"LINES {NGINX_PASS}"),
        lambda site: site.post("/a", b"x=1", Content_Type="text/x"),
        _SOME + " fastcgi_param CONTENT_LENGTH $content_length;",
    ),
    "length": Wrong(
        "length-missing",
        nginx_site(f"LINES {NGINX_PASS}"),
        lambda site: site.post("/a", b"x=1", Content_Type="text/x"),
        _SOME + " fastcgi_param CONTENT_TYPE $content_type;",
    ),
    "unsent": Wrong(
        "body-not-sent",
        nginx_site(f"{NGINX_PARAMS} LINES {NGINX_PASS}"),
        lambda site: site.post("/a", b"x=1", Content_Type="text/x"),
        "fastcgi_pass_request_body off;",
    ),
    "unsplit": Wrong(
        "path-split",
        nginx_site(f"LINES {NGINX_PASS}"),
        lambda site: site.ask("/doctor-trial/path"),
        f"{_INCLUDE} fastcgi_param PATH_INFO $fastcgi_path_info;",
    ),
    "query": Wrong(
        "query-missing", nginx_site(f"LINES {NGINX_PASS}"), lambda site: site.ask("/a?b=c"), _SOME
    ),
    "authorization": Wrong(
        "authorization-missing",
        nginx_site(
            f"{NGINX_PARAMS} fastcgi_pass_request_headers off;"
            f" fastcgi_param HTTP_ACCEPT $http_accept; LINES {NGINX_PASS}"
        ),
        lambda site: site.ask("/?doctor=authorization", **AUTHORIZED),
    ),
    "upload": Wrong(
        "upload-held",
        nginx_site(f"{NGINX_PARAMS} LINES {NGINX_PASS}"),
        lambda site: site.upload("/?doctor=upload"),
    ),
    "dropped": Wrong(
        "connections-dropped",
        f"server {{ listen LISTEN; server_name HOST; {NGINX_PARAMS} LINES }}",
        lambda site: site.several("/a"),
        f"location / {{ {NGINX_PASS} fastcgi_keep_conn on; }}",
        apply=lambda text: _two_blocks(text).replace("app", "kept"),
    ),
    "each": Wrong(
        "connection-each",
        f"server {{ listen LISTEN; server_name HOST; {NGINX_PARAMS} LINES }}",
        lambda site: site.several("/a?doctor=keep-alive"),
        f"location / {{ {NGINX_PASS} }}",
        apply=lambda text: _two_blocks(text).replace("app", "used"),
    ),
}

LIGHTTPD_SITE = '$HTTP["host"] == "HOST" { %s fastcgi.server = ( %s "host" => "127.0.0.1",'
LIGHTTPD_SITE += ' "port" => PORT, %s "check-local" => "disable" )) ) }'

LIGHTTPD = {
    "unfixed": Wrong(
        "path-split",
        LIGHTTPD_SITE % ("", '"/" => ((', "LINES"),
        lambda site: site.ask("/doctor-trial/path"),
    ),
    "mount-slash": Wrong(
        "path-split",
        LIGHTTPD_SITE % ("", "LINES", ""),
        lambda site: site.ask("/shop/doctor-trial/path"),
        '"/shop/" => ((',
    ),
}

APACHE_SITE = "<VirtualHost *:*>\nServerName HOST\nLINES\n%s\n</VirtualHost>"
_APACHE_HANDLER = '<Location />\nSetHandler "proxy:fcgi://127.0.0.1:PORT/"\n</Location>'
APACHE_PASS = "ProxyPass / fcgi://127.0.0.1:PORT/"

APACHE = {
    "handler": Wrong(
        "path-split",
        APACHE_SITE % "",
        lambda site: site.ask("/doctor-trial/path"),
        _APACHE_HANDLER,
    ),
    "authorization": Wrong(
        "authorization-missing",
        APACHE_SITE % APACHE_PASS,
        lambda site: site.ask("/?doctor=authorization", **AUTHORIZED),
    ),
    "each": Wrong(
        "connection-each",
        APACHE_SITE % "",
        lambda site: site.several("/a?doctor=keep-alive"),
        APACHE_PASS,
    ),
    "each-mount": Wrong(
        "connection-each",
        APACHE_SITE % "",
        lambda site: site.several("/shop/a?doctor=keep-alive"),
        "ProxyPass /shop fcgi://127.0.0.1:PORT",
    ),
}

_HAPROXY = "fcgi-app HOST\n    docroot /\n%s\nbackend HOST\n    use-fcgi-app HOST\n%s\n"
_HAPROXY += "    http-reuse always\n    server app 127.0.0.1:PORT proto fcgi"
_HAPROXY_ROOT = "    path-info ^()(.*)$\n"


def _two_sections(text: str) -> str:
    """The lines for the two sections, of which the test has both already."""
    app, backend = (part.splitlines()[1:] for part in text.split("\n\n"))
    return "\n".join([*app, "backend HOST", *backend]).replace("-app app", "-app HOST")


HAPROXY = {
    "alone": Wrong(
        "path-split",
        _HAPROXY % ("LINES", ""),
        lambda site: site.ask("/doctor-trial/path"),
    ),
    "segment": Wrong(
        "path-segment",
        _HAPROXY % ("LINES", ""),
        lambda site: site.ask("/shopping"),
        "path-info ^(/shop)(.*)$",
    ),
    "authorization": Wrong(
        "authorization-missing",
        _HAPROXY % (_HAPROXY_ROOT + "LINES", ""),
        lambda site: site.ask("/", **AUTHORIZED),
    ),
    "dropped": Wrong(
        "connections-dropped",
        "fcgi-app HOST\n    docroot /\n" + _HAPROXY_ROOT + "LINES"
        "\n    server app 127.0.0.1:PORT proto fcgi",
        lambda site: site.several("/a"),
        "backend HOST\n    use-fcgi-app HOST",
        apply=_two_sections,
    ),
    "shares": Wrong(
        "no-multiplexing",
        "fcgi-app HOST\n    docroot /\n" + _HAPROXY_ROOT + "LINES"
        "\n    server app 127.0.0.1:PORT proto fcgi",
        lambda site: site.together("/a?doctor=multiplexing"),
        "backend HOST\n    use-fcgi-app HOST",
        counts=False,
        apply=_two_sections,
    ),
}


class DoctorNginx(NginxSites):
    """nginx with a file fastcgi_params, which the doctor's lines include."""

    PARAMS = "include params;\n"

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (group.folder / "fastcgi_params").write_text(self.PARAMS)
        return super()._spawn(group, name)


class DoctorHAProxy(HAProxySites):
    """HAProxy with one thread: each has connections of its own."""

    def _write(self, text: str) -> str:
        return super()._write(text.replace("defaults\n", "global\n    nbthread 1\ndefaults\n"))


class CaddySites(Sites):
    """Caddy."""

    SITES: ClassVar = {}

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = "{\n\tadmin off\n\tauto_https off\n}\n"
        text += self._render().replace("LISTEN", str(self.port))
        env = {"XDG_DATA_HOME": str(group.folder), "XDG_CONFIG_HOME": str(group.folder)}
        argv = [find("caddy"), "run", "--config", self._write(text), "--adapter", "caddyfile"]
        return group.start(argv, name=name, env=env)


CADDY_SITE = "http://HOST:LISTEN {\n\tbind 127.0.0.1\n\t%s\n}"
CADDY_PASS = "reverse_proxy 127.0.0.1:PORT {\n\ttransport fastcgi\n\tLINES\n}"


KINDS: dict[str, tuple[type[Sites], Mapping[str, Wrong]]] = {
    "nginx": (DoctorNginx, NGINX),
    "lighttpd": (LighttpdSites, LIGHTTPD),
    "apache": (ApacheSites, APACHE),
    "haproxy": (DoctorHAProxy, HAPROXY),
}
