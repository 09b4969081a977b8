"""lighttpd, which starts the server by itself unless it is told where one listens."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "lighttpd"

_STANDALONE: Final = """\
{{heading}}

server.modules = ( "mod_fastcgi" )
{{listen}}
server.document-root = "{{folder}}"
server.upload-dirs = ( "{{folder}}" )
# Many cookies, or one large header: lighttpd's own limit for all headers is 8 KiB.
server.max-request-field-size = 32768

{{site}}
"""

_PART: Final = """\
# -*- depends: fastcgi -*-
{{heading}}

# Many cookies, or one large header: lighttpd's own limit for all headers is 8 KiB.
server.max-request-field-size := 32768

{{site}}
"""

_SITE: Final = """\
$HTTP["url"] =~ "{{url}}" {
    # Answers pass as they come. Without it lighttpd gathers the whole of each,
    # and passes one that broke off as a complete one.
    server.stream-response-body = 1

    fastcgi.server = (
        "{{root}}" => ((
            {{server}}
            # No file is looked for first.
            "check-local" => "disable",
            {{script_name}}
            {{sendfile}}
        )),
    )
}
"""

_SPAWNED: Final = """\
# lighttpd starts it, in the program's own folder, and ends it.
"bin-path" => "{{command}}",
# One process: its threads are what serves requests side by side.
"max-procs" => 1,
"socket" => "{{socket}}",
"""

_AT_ROOT: Final = """\
# SCRIPT_NAME is "" and not the first folder of the path.
"fix-root-scriptname" => "enable",
"""


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE, "x-sendfile")
    text = location(site)
    if site.server_name is not None:
        text = _block(f'$HTTP["host"] == "{site.server_name}"', text)
    if site.folder is not None:
        first, *others = site.listens
        listen = f'server.bind = "{_host(first)}"\nserver.port = {first.port}\n'
        listen += "".join(f'$SERVER["socket"] == "{item}" {{ }}\n' for item in others)
        path = f"{site.folder}/lighttpd.conf"
        heading = site.heading(
            TITLE, steps("It runs in place, without root:", f"lighttpd -D -f {path}")
        )
        text = fill(_STANDALONE, heading=heading, listen=listen, folder=site.folder, site=text)
        return [File(path, text)]
    if site.http:
        text = "\n".join(_block(f'$SERVER["socket"] == "{item}"', text) for item in site.http)
    name = f"50-{site.name}.conf"
    heading = site.heading(
        TITLE,
        steps(
            f"As /etc/lighttpd/conf-available/{name}, where Debian looks, then",
            f"lighttpd-enable-mod {site.name}",
            "systemctl restart lighttpd",
        ),
    )
    text = fill(_PART, heading=heading, site=text)
    return [File(f"/etc/lighttpd/conf-available/{name}", text)]


def location(site: Site) -> str:
    """What is about the app alone.

    Raises:
        UsageError: something in it cannot be configured.
    """
    url = f"^{site.pattern}(/|$)" if site.mount else "^/"
    script_name = "" if site.mount else _AT_ROOT
    sendfile = ""
    if site.sendfile != "off":
        sendfile = '# The header X-Sendfile is obeyed.\n"x-sendfile" => "enable",\n'
        folders = ", ".join(f'"{folder}"' for _, folder in site.sendfile_folders)
        if folders:
            sendfile += f'"x-sendfile-docroot" => ( {folders} ),\n'
    return fill(
        _SITE,
        url=url,
        root=site.root,
        server=_server(site),
        script_name=script_name,
        sendfile=sendfile,
    )


def _server(site: Site) -> str:
    if site.address is None:
        folder = site.folder or "/run/lighttpd"
        return fill(_SPAWNED, command=_bin_path(site), socket=f"{folder}/{site.name}.sock")
    server = site.server
    if isinstance(server, UnixAddress):
        return f'"socket" => "{server.path}",\n'
    return f'"host" => "{server.host}",\n"port" => {server.port},\n'


def _bin_path(site: Site) -> str:
    """The command, which lighttpd parts at each blank, whatever is around it."""
    for word in site.command:
        if not word or any(character in ' "\\' for character in word):
            raise UsageError(
                f"lighttpd has no way to say {word!r} in a bin-path: write it into a file that"
                " --config names"
            )
    return " ".join(site.command)


def _host(address: InetAddress) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host


def _block(condition: str, text: str) -> str:
    return fill("{{condition}} {\n    {{text}}\n}\n", condition=condition, text=text)
