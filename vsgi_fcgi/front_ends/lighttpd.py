"""lighttpd, which starts the app's server itself unless an address is named."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.front_ends.base import FrontEnd, Notes, PathCorrection, Printed, Remedy
from vsgi_fcgi.front_ends.site import File, Site, escaped, fill, steps

TITLE: Final = "lighttpd"

TESTED: Final = "1.4.69 and 1.4.79"

_STANDALONE: Final = """\
{{heading}}

server.modules = ( {{modules}} )
{{types}}
{{listen}}
server.document-root = "{{folder}}"
server.upload-dirs = ( "{{folder}}" )
# For many cookies, or one large header: lighttpd's default limit for all headers is 8 KiB.
server.max-request-field-size = 32768

{{site}}
"""

_PART: Final = """\
# -*- depends: fastcgi -*-
{{heading}}

# For many cookies, or one large header: lighttpd's default limit for all headers is 8 KiB.
server.max-request-field-size := 32768

{{site}}
"""

_AT_ONCE: Final = "server.stream-response-body = 1"

_MOUNT: Final = '"{{root}}" => (('

_WHOLE_PATH: Final = '"fix-root-scriptname" => "enable",'

_SITE: Final = """\
$HTTP["url"] =~ "{{url}}" {
    # lighttpd passes responses on as they arrive. Without this line it collects each response
    # first, and sends a response that broke off as if it were complete.
    {{at_once}}

    fastcgi.server = (
        {{mount}}
            {{server}}
            # Do not look for a file of that name.
            "check-local" => "disable",
            {{script_name}}
            {{sendfile}}
        )),
    )
}
"""

_STATIC: Final = """\
$HTTP["url"] =~ "^({{urls}})/" {
    # lighttpd sends these files without the app.
    alias.url = (
        {{folders}}
    )
}
"""

_TYPES: Final = 'include_shell "/usr/share/lighttpd/create-mime.conf.pl"\n'

_SPAWNED: Final = """\
# lighttpd starts this command in the folder of the program, and stops it.
"bin-path" => "{{command}}",
# One process: its threads serve requests at the same time.
"max-procs" => 1,
"socket" => "{{socket}}",
"""

_AT_ROOT: Final = f"""\
# SCRIPT_NAME is empty instead of the first segment of the path.
{_WHOLE_PATH}
"""


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
    text = location(site)
    if site.server_name is not None:
        text = _block(f'$HTTP["host"] == "{site.server_name}"', text)
    if site.folder is not None:
        first, *others = site.listens
        listen = f'server.bind = "{_host(first)}"\nserver.port = {first.port}\n'
        listen += "".join(f'$SERVER["socket"] == "{item}" {{ }}\n' for item in others)
        path = f"{site.folder}/lighttpd.conf"
        heading = site.heading(
            TITLE, TESTED, steps("Start it without root:", f"lighttpd -D -f {path}")
        )
        text = fill(
            _STANDALONE,
            heading=heading,
            modules='"mod_alias", "mod_fastcgi"' if site.static else '"mod_fastcgi"',
            types=_TYPES if site.static else "",
            listen=listen,
            folder=site.folder,
            site=text,
        )
        return [File(path, text)]
    if site.http:
        text = "\n".join(_block(f'$SERVER["socket"] == "{item}"', text) for item in site.http)
    name = f"50-{site.name}.conf"
    heading = site.heading(
        TITLE,
        TESTED,
        steps(
            f"Save it as /etc/lighttpd/conf-available/{name} on Debian, then run",
            f"lighttpd-enable-mod {site.name}",
            "systemctl restart lighttpd",
        ),
    )
    text = fill(_PART, heading=heading, site=text)
    return [File(f"/etc/lighttpd/conf-available/{name}", text)]


def location(site: Site) -> str:
    """Return the block of the app.

    Raises:
        UsageError: a value cannot be configured.
    """
    url = f"^{site.pattern}(/|$)" if site.mount else "^/"
    script_name = "" if site.mount else _AT_ROOT
    sendfile = ""
    if site.sendfile != "off":
        sendfile = '# The header X-Sendfile is obeyed.\n"x-sendfile" => "enable",\n'
        folders = ", ".join(f'"{folder}"' for _, folder in site.sendfile_folders)
        if folders:
            sendfile += f'"x-sendfile-docroot" => ( {folders} ),\n'
    text = fill(
        _SITE,
        url=url,
        at_once=_AT_ONCE,
        mount=LIGHTTPD.lines(_MOUNT, site),
        server=_server(site),
        script_name=script_name,
        sendfile=sendfile,
    )
    if not site.static:
        return text
    urls = "|".join(escaped(url) for url, _ in site.static)
    folders = "".join(f'"{url}/" => "{path.rstrip("/")}/",\n' for url, path in site.static)
    return f"{fill(_STATIC, urls=urls, folders=folders).rstrip()} else {text}"


def _server(site: Site) -> str:
    if site.address is None:
        folder = site.folder or "/run/lighttpd"
        return fill(_SPAWNED, command=_bin_path(site), socket=f"{folder}/{site.name}.sock")
    server = site.server
    if isinstance(server, UnixAddress):
        return f'"socket" => "{server.path}",\n'
    return f'"host" => "{server.host}",\n"port" => {server.port},\n'


def _bin_path(site: Site) -> str:
    """Return the command, which lighttpd splits at each space, also inside of quotes."""
    for word in site.command:
        if not word or any(character in ' "\\' for character in word):
            raise UsageError(
                f"lighttpd cannot have {word!r} in a bin-path: write it to a file and name the file"
                " with --config"
            )
    return " ".join(site.command)


def _host(address: InetAddress) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host


def _block(condition: str, text: str) -> str:
    return fill("{{condition}} {\n    {{text}}\n}\n", condition=condition, text=text)


REMEDIES: Final = {
    "path": Remedy('lighttpd, in fastcgi.server, next to "check-local"', _WHOLE_PATH),
    "path-mount": Remedy("lighttpd, in fastcgi.server: without a slash at the end", _MOUNT),
    "header": Remedy(
        "lighttpd with mod_setenv, where the site has TLS",
        'setenv.set-environment = ( "HTTP_X_FORWARDED_PROTO" => "https" )',
    ),
    "stream": Remedy("lighttpd", _AT_ONCE),
}

NOTES: Final = Notes(
    follows_path=frozenset(PathCorrection),
    upload_held=(
        " lighttpd 1.4.69 cannot do otherwise: with server.stream-request-body it answers 411 to a"
        " body that is still coming and has no length, and passes on piece by piece only those"
        " that have one."
    ),
)

LIGHTTPD: Final = FrontEnd(
    key="lighttpd",
    name="lighttpd",
    software="lighttpd",
    keeps=False,
    multiplexes=False,
    # Its address takes several lines: see _server.
    server=lambda place: "",
    remedies=REMEDIES,
    notes=NOTES,
    printed=Printed(
        program="lighttpd",
        title=TITLE,
        tested=TESTED,
        files=files,
        group="www-data",
        default_socket=None,
        sendfile="x-sendfile",
        static=True,
    ),
)

FRONT_ENDS: Final = (LIGHTTPD,)
