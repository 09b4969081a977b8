"""Web servers with an app mounted in every possible way; each way has a host name.

Each site exists once for each value of ``--script-name``: no option, "" and "/app".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from support.front_ends.hosts import find_module, not_as_root
from support.front_ends.servers import AppServer, WebServer, command, find
from support.http import Answer, request
from support.processes import Process, ProcessGroup

APP = "apps.paths:app"

SETTINGS: dict[str, tuple[str, ...]] = {
    "auto": (),
    "root": ("--script-name", ""),
    "app": ("--script-name", "/app/"),
}


class Sites(WebServer):
    """A web server whose hosts are sites.

    Attributes:
        SITES: the configuration of each site by its name. In it HOST stands for the site's host
            name, PORT for the port of its app, and SCRIPTS for a folder with an ``app.fcgi``.

    Args:
        group: the group that it belongs to.
        servers: the app's servers, by setting.
    """

    SITES: ClassVar[Mapping[str, str]]

    def __init__(self, group: ProcessGroup, servers: Mapping[str, AppServer]) -> None:
        self._folder = group.folder
        self._servers = servers
        self._group = group
        self._start(group)

    def ask(self, site: str, setting: str, target: str) -> Answer:
        return request(self.port, target, headers={"Host": f"{site}.{setting}"})

    def path(self, site: str, setting: str, target: str) -> tuple[str, str]:
        """SCRIPT_NAME and PATH_INFO of a request."""
        answer = self.ask(site, setting, target)
        assert answer.status == 200, f"{answer.status}: {self.error_log()}"
        environ = answer.json()
        assert environ["REQUEST_URI"] == target
        return environ["SCRIPT_NAME"], environ["PATH_INFO"]

    def _render(self) -> str:
        text = ""
        for setting, server in self._servers.items():
            for site, lines in self.SITES.items():
                lines = lines.replace("HOST", f"{site}.{setting}")
                lines = lines.replace("PORT", str(server.port))
                text += lines.replace("SCRIPTS", f"{self._folder}/scripts-{setting}") + "\n"
        return text

    def _write(self, text: str) -> str:
        path = self._folder / f"{type(self).__name__.lower()}.conf"
        path.write_text(text)
        return str(path)


class LighttpdSites(Sites):
    """lighttpd."""

    _SITE = '$HTTP["host"] == "HOST" { %s fastcgi.server = ( "%s" => (( "host" => "127.0.0.1",'
    _SITE += ' "port" => PORT, "check-local" => "disable", "fix-root-scriptname" => "%s" )) ) }'
    SITES: ClassVar = {
        "root": _SITE % ("", "/", "enable"),
        "unfixed": _SITE % ("", "/", "disable"),
        "mount": _SITE % ("", "/app", "disable"),
        "mount-slash": _SITE % ("", "/app/", "disable"),
        "script": _SITE
        % ('url.rewrite-once = ( "^/(.*)$" => "/app.fcgi/$1" )', "/app.fcgi", "disable"),
    }

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = 'server.modules = ( "mod_access", "mod_rewrite", "mod_fastcgi" )\n'
        text += f'server.bind = "127.0.0.1"\nserver.port = {self.port}\n'
        text += f'server.document-root = "{self._folder}"\n'
        text += '$HTTP["url"] =~ "^/admin" { url.access-deny = ( "" ) }\n'
        argv = [find("lighttpd"), "-D", "-f", self._write(text + self._render())]
        return group.start(argv, name=name)


class NginxSites(Sites):
    """nginx, with Debian's ``fastcgi_params`` or what stands for them."""

    _SITE = "server { listen LISTEN; server_name HOST; location /admin { deny all; }"
    _SITE += " location / { include params; %s fastcgi_pass 127.0.0.1:PORT; } }"
    _MOUNT = "fastcgi_param SCRIPT_NAME /app; "
    _SPLIT = "fastcgi_split_path_info ^(/app)(.*)$; "
    _INFO = "fastcgi_param PATH_INFO $fastcgi_path_info;"
    SITES: ClassVar = {
        "alone": _SITE % "",
        "own": _SITE % 'fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $uri;',
        "twice": _SITE % "fastcgi_param PATH_INFO $uri;",
        "slash": _SITE % "fastcgi_param SCRIPT_NAME /; fastcgi_param PATH_INFO $uri;",
        "empty": _SITE % 'fastcgi_param SCRIPT_NAME "";',
        "index": _SITE % "fastcgi_index index.php;",
        "rewritten": _SITE % "rewrite ^/old(.*)$ /new$1 break;",
        "mount": _SITE % (_SPLIT + _INFO),
        "mount-half": _SITE % _SPLIT,
        "mount-param": _SITE % _MOUNT,
        "mount-twice": _SITE % (_MOUNT + "fastcgi_param PATH_INFO $uri;"),
        "mount-stripped": _SITE
        % (_MOUNT + "rewrite ^/app(/.*)$ $1 break; fastcgi_param PATH_INFO $uri;"),
    }

    _PARAMS: ClassVar = {
        **{"QUERY_STRING": "query_string", "REQUEST_METHOD": "request_method"},
        **{"CONTENT_TYPE": "content_type", "CONTENT_LENGTH": "content_length"},
        **{"SCRIPT_NAME": "fastcgi_script_name", "REQUEST_URI": "request_uri"},
        **{"DOCUMENT_URI": "document_uri", "DOCUMENT_ROOT": "document_root"},
        **{"SERVER_PROTOCOL": "server_protocol", "REQUEST_SCHEME": "scheme"},
        "SERVER_SOFTWARE": "nginx_version",
    }

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        listen = f"127.0.0.1:{self.port}"
        text = "daemon off; pid nginx.pid; error_log stderr; events { worker_connections 64; }\n"
        text += "http { access_log off; server_names_hash_bucket_size 64;\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            text += f"{kind}_temp_path {kind};\n"
        text += self._render().replace("LISTEN", listen) + "}\n"
        # As they are in /etc/nginx/fastcgi_params.
        params = [f"fastcgi_param {name} ${value};\n" for name, value in self._PARAMS.items()]
        (self._folder / "params").write_text("".join(params).replace("$nginx_v", "nginx/$nginx_v"))
        argv = [find("nginx"), "-p", str(self._folder), "-c", self._write(text), "-e", "stderr"]
        if os.geteuid() == 0:
            argv += ["-g", "user root;"]
        return group.start(argv, name=name)


class HAProxySites(Sites):
    """HAProxy."""

    _SITE = "fcgi-app HOST\n    docroot /\n%s\nbackend HOST\n    use-fcgi-app HOST\n"
    _SITE += "    server app 127.0.0.1:PORT proto fcgi"
    SITES: ClassVar = {
        "alone": _SITE % "",
        "root": _SITE % "    path-info ^()(.*)$",
        "root-slash": _SITE % "    path-info ^(/)(.*)$",
        "mount": _SITE % "    path-info ^(/app)(.*)$",
        "mount-slash": _SITE % "    path-info ^(/app/)(.*)$",
    }

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n"
        text += f"    timeout server 30s\nfrontend web\n    bind 127.0.0.1:{self.port}\n"
        # Its "path" is not decoded: without url_dec, /%61dmin would pass.
        text += "    http-request deny if { path,url_dec -m beg /admin }\n"
        text += "    use_backend %[req.hdr(host),field(1,:)]\n"
        argv = [find("haproxy"), "-db", "-f", self._write(text + self._render())]
        return group.start(argv, name=name)


class H2OSites(Sites):
    """h2o."""

    _SITE = '  "HOST":\n    paths:\n'
    _SITE += '      "/admin":\n        mruby.handler: "Proc.new { [403, {}, []] }"\n'
    _SITE += '      "%s":\n        fastcgi.connect:\n          port: PORT\n          type: tcp'
    SITES: ClassVar = {"root": _SITE % "/", "mount": _SITE % "/app", "mount-slash": _SITE % "/app/"}

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = f"num-threads: 1\nlisten:\n  host: 127.0.0.1\n  port: {self.port}\nhosts:\n"
        argv = [find("h2o"), "-c", self._write(text + self._render())]
        return group.start(argv, name=name)


class CaddySites(Sites):
    """Caddy."""

    _SITE = "http://HOST:LISTEN {\nbind 127.0.0.1\nroute {\nrespond /admin* 403\n%s\n}\n}"
    _APP = "reverse_proxy 127.0.0.1:PORT {\ntransport fastcgi%s\n}\n"
    _SAID = _APP % " {\nenv SCRIPT_NAME /app\n}"
    _BELOW = "@app path /app /app/*\n%s @app {\n%s}"
    _STRIPPED = "handle_path /app/* {\n%s}"
    SITES: ClassVar = {
        "root": _SITE % (_APP % ""),
        "mount": _SITE % (_BELOW % ("handle", _APP % "")),
        "mount-route": _SITE % (_BELOW % ("route", _APP % "")),
        "mount-path": _SITE % (_STRIPPED % (_APP % "",)),
        "mount-path-said": _SITE % (_STRIPPED % (_SAID,)),
    }

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = "{\nadmin off\nauto_https off\n}\n" + self._render()
        path = self._write(text.replace("LISTEN", str(self.port)))
        argv = [find("caddy"), "run", "--config", path, "--adapter", "caddyfile"]
        env = {"XDG_DATA_HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder)}
        return group.start(argv, name=name, env=env)


_APACHE = """
ServerRoot "{folder}"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile "{folder}/httpd.pid"
ErrorLog "{folder}/error.log"
TypesConfig /dev/null
Mutex file:{folder}
FcgidIPCDir {folder}/fcgid
FcgidProcessTableFile {folder}/fcgid/shm
DocumentRoot "{folder}"
<Directory "{folder}">
    Require all granted
    Options +ExecCGI
</Directory>
"""

_HTACCESS = """
AddHandler fcgid-script .fcgi
RewriteEngine On
RewriteRule ^(?!.*app\\.fcgi)(.*)$ app.fcgi/$1 [L]
"""


class ApacheSites(Sites):
    """Apache, with mod_proxy_fcgi and mod_fcgid."""

    ERROR_LOG = "error.log"
    _SITE = "<VirtualHost *:*>\nServerName HOST\nAllowEncodedSlashes NoDecode\n%s\n"
    _SITE += "<Location /admin>\nRequire all denied\n</Location>\n</VirtualHost>"
    _HANDLER = '<Location %s>\nSetHandler "proxy:fcgi://127.0.0.1:PORT/"\n</Location>'
    _PROGRAM = "Alias %s SCRIPTS/app.fcgi%s\n"
    _PROGRAM += "<Location %s>\nSetHandler fcgid-script\n</Location>"
    _FILES = f"<Directory SCRIPTS%s>\n{_HTACCESS}</Directory>\nDocumentRoot SCRIPTS"
    SITES: ClassVar = {
        "pass": _SITE % "ProxyPass / fcgi://127.0.0.1:PORT/",
        "pass-generic": _SITE % "ProxyFCGIBackendType GENERIC\nProxyPass / fcgi://127.0.0.1:PORT/",
        "pass-mount": _SITE % "ProxyPass /app fcgi://127.0.0.1:PORT",
        "pass-mount-slash": _SITE % "ProxyPass /app fcgi://127.0.0.1:PORT/",
        "pass-decoded": (_SITE % "ProxyPass / fcgi://127.0.0.1:PORT/").replace("NoDecode", "On"),
        "pass-mount-whole": _SITE % "ProxyPass /app fcgi://127.0.0.1:PORT/app",
        "handler": _SITE % (_HANDLER % "/"),
        "handler-mount": _SITE % (_HANDLER % "/app"),
        "fcgid": _SITE % (_PROGRAM % ("/", "/", "/")),
        "fcgid-decoded": (_SITE % (_PROGRAM % ("/", "/", "/"))).replace("NoDecode", "On"),
        "fcgid-mount": _SITE % (_PROGRAM % ("/app", "", "/app")),
        "script": _SITE % (_FILES % ""),
    }

    def __init__(self, group: ProcessGroup, servers: Mapping[str, AppServer]) -> None:
        names = ("mpm_prefork", "authz_core", "alias", "env", "mime", "rewrite", "fcgid")
        self._modules = {name: find_module(name) for name in (*names, "proxy", "proxy_fcgi")}
        (group.folder / "fcgid").mkdir()
        apps = __file__.rpartition("/support/")[0]
        for setting, options in SETTINGS.items():
            script = group.folder / f"scripts-{setting}" / "app.fcgi"
            script.parent.mkdir()
            words = " ".join(f"'{word}'" for word in options)
            script.write_text(
                f"#!/bin/sh\nexec {command(group)} --threads 2 --chdir {apps} {words} {APP}\n"
            )
            script.chmod(0o755)
        super().__init__(group, servers)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        loading = [f"LoadModule {name}_module {path}\n" for name, path in self._modules.items()]
        text = "".join(loading) + _APACHE.format(folder=self._folder, port=self.port)
        argv = [*not_as_root(), find("apache2"), "-DFOREGROUND", "-f"]
        return group.start([*argv, self._write(text + self._render())], name=name)
