"""Run the configurations of web servers on the pages, with other ports and paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.front_ends.hosts import APACHE_MODULES, find_module, not_as_root, replaced
from support.front_ends.servers import AppServer, WebServer, command, find
from support.http import request
from support.pages import TUTORIAL, Block, all_blocks
from support.processes import Process, ProcessGroup

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr((environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]
"""
LIGHTTPD = """
server.modules = ()
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}"
{text}
"""
NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body_temp;
    proxy_temp_path proxy_temp;
    fastcgi_temp_path fastcgi_temp;
    uwsgi_temp_path uwsgi_temp;
    scgi_temp_path scgi_temp;
{text}
}}
"""
NGINX_SERVER = """
    server {
        listen 80;
        TEXT
    }
"""

APACHE = """
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_fcgi_module {modules}/mod_proxy_fcgi.so
LoadModule fcgid_module {modules}/mod_fcgid.so
ServerName localhost
ServerRoot {folder}
PidFile apache.pid
ErrorLog error.log
Mutex file:{folder}
FcgidIPCDir {folder}/fcgid
FcgidProcessTableFile {folder}/fcgid-table
Listen 127.0.0.1:{port}
{text}
"""

H2O = """
num-threads: 1
listen:
  host: 127.0.0.1
  port: {port}
{text}
"""

pytestmark = pytest.mark.live


class FromPage(WebServer):
    """A web server with a configuration of a page inside another one.

    Args:
        group: the group that it belongs to.
        program: the web server with its options; the file is the last of them.
        frame: text around that of the page.
        text: the text.
    """

    def __init__(self, group: ProcessGroup, program: list[str], frame: str, text: str) -> None:
        self._program = [find(program[0]), *program[1:]]
        self._frame = frame
        self._text = text
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        config = group.folder / "web.conf"
        text = self._text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("<VirtualHost *:80>", f"<VirtualHost *:{self.port}>")
        values = {"port": self.port, "folder": group.folder, "text": text}
        values["modules"] = APACHE_MODULES
        config.write_text(self._frame.format(**values))
        return group.start([*self._program, str(config)], name=name)


def write_app(folder: Path) -> None:
    (folder / "mysite").mkdir()
    (folder / "mysite" / "wsgi.py").write_text(APP)


def blocks(language: str) -> list[Block]:
    return [block for block in all_blocks(language) if block.page != TUTORIAL]


def on_this_machine(block: Block, group: ProcessGroup) -> str:
    """A configuration of lighttpd with paths that exist here."""
    write_app(group.folder)
    text = block.text
    for written, real in (
        ("/srv/venv/bin/vsgi-fcgi", str(command(group))),
        ("/srv/mysite", str(group.folder)),
        ("/run/lighttpd", str(group.folder)),
    ):
        assert written in text
        text = text.replace(written, real)
    return text


LIGHTTPD_BLOCKS = blocks("lighttpd")
WITHOUT_COMMAND = [block for block in LIGHTTPD_BLOCKS if "bin-path" not in block.text]


@pytest.mark.parametrize("block", WITHOUT_COMMAND, ids=str)
def test_lighttpd_in_front_of_a_server(block: Block, processes: ProcessGroup) -> None:
    write_app(processes.folder)
    app = AppServer(processes, "mysite.wsgi", folder=processes.folder)
    text = replaced(block.text, "/run/mysite.sock", str(app.socket))
    server = FromPage(processes, ["lighttpd", "-D", "-f"], LIGHTTPD, text)
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


@pytest.mark.parametrize(
    "block", [block for block in LIGHTTPD_BLOCKS if block not in WITHOUT_COMMAND], ids=str
)
def test_lighttpd(block: Block, processes: ProcessGroup) -> None:
    text = on_this_machine(block, processes)
    server = FromPage(processes, ["lighttpd", "-D", "-f"], LIGHTTPD, text)
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


def test_lighttpd_with_an_app_that_is_part_of_a_site(processes: ProcessGroup) -> None:
    """The changes that the how-to guide describes."""
    text = on_this_machine(blocks("lighttpd")[0], processes)
    changed = text.replace('"/" =>', '"/shop" =>').replace('"fix-root', '# "fix-root')
    assert changed.count("shop") == changed.count('# "fix-root') == 1
    (processes.folder / "file.txt").write_text("a file")
    server = FromPage(processes, ["lighttpd", "-D", "-f"], LIGHTTPD, changed)
    assert request(server.port, "/shop/a%20path").text == "('/shop', '/a path')"
    assert request(server.port, "/file.txt").text == "a file"


def start_nginx(group: ProcessGroup, text: str) -> FromPage:
    params = Path("/etc/nginx/fastcgi_params")
    if not params.exists():
        find("the file fastcgi_params of nginx")
    (group.folder / "fastcgi_params").symlink_to(params)
    program = ["nginx", "-p", str(group.folder)]
    if os.geteuid() == 0:
        # Else root's workers become another user, who may not enter the test's folder.
        program += ["-g", "user root;"]
    return FromPage(group, [*program, "-c"], NGINX, text)


NGINX_BLOCKS = blocks("nginx")
WITH_TWO_SERVERS = [block for block in NGINX_BLOCKS if "upstream" in block.text]


@pytest.mark.parametrize(
    "block", [block for block in NGINX_BLOCKS if block not in WITH_TWO_SERVERS], ids=str
)
def test_nginx(block: Block, processes: ProcessGroup) -> None:
    write_app(processes.folder)
    app = AppServer(processes, "mysite.wsgi", folder=processes.folder)
    text = replaced(block.text, "/run/mysite.sock", str(app.socket))
    server = start_nginx(processes, NGINX_SERVER.replace("TEXT", text))
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


@pytest.mark.parametrize("block", WITH_TWO_SERVERS, ids=str)
def test_nginx_while_one_of_two_servers_restarts(block: Block, processes: ProcessGroup) -> None:
    write_app(processes.folder)
    app = AppServer(processes, "mysite.wsgi", folder=processes.folder)
    text = replaced(block.text, "/run/mysite/first.sock", str(processes.folder / "absent.sock"))
    text = replaced(text, "/run/mysite/second.sock", str(app.socket))
    server = start_nginx(processes, text)
    for _ in range(4):
        assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


def apache_block(text: str) -> Block:
    (found,) = (block for block in blocks("apache") if text in block.text)
    return found


def start_apache(group: ProcessGroup, text: str) -> FromPage:
    find_module("proxy_fcgi")
    find_module("fcgid")
    program = [*not_as_root(), find("apache2"), "-DFOREGROUND", "-f"]
    return FromPage(group, program, APACHE, text)


def test_apache_with_proxy_fcgi(processes: ProcessGroup) -> None:
    write_app(processes.folder)
    app = AppServer(processes, "mysite.wsgi", folder=processes.folder)
    text = replaced(apache_block("ProxyPass").text, "/run/mysite/app.sock", str(app.socket))
    server = start_apache(processes, text)
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


def test_apache_with_fcgid(processes: ProcessGroup) -> None:
    write_app(processes.folder)
    (script,) = (block.text for block in blocks("sh") if block.page.name == "apache.md")
    script = replaced(script, "/srv/mysite/venv/bin/vsgi-fcgi", str(command(processes)))
    file = processes.folder / "app.fcgi"
    file.write_text(replaced(script, "/srv/mysite", str(processes.folder)))
    file.chmod(0o755)
    text = replaced(apache_block("Alias").text, '"/srv/mysite/app.fcgi/"', f'"{file}/"')
    server = start_apache(processes, text)
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"


H2O_BLOCKS = [block for block in blocks("yaml") if block.page.name == "h2o.md"]


@pytest.mark.parametrize("block", H2O_BLOCKS, ids=str)
def test_h2o(block: Block, processes: ProcessGroup) -> None:
    write_app(processes.folder)
    app = AppServer(processes, "mysite.wsgi", folder=processes.folder)
    text = replaced(block.text, "/run/mysite/app.sock", str(app.socket))
    text = replaced(text, "    listen:\n      port: 80\n", "")
    # As root it becomes another user, who may not connect to the socket.
    server = FromPage(processes, [*not_as_root(), find("h2o"), "-c"], H2O, text)
    assert request(server.port, "/a%20path/x").text == "('', '/a path/x')"
