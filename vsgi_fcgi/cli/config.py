"""``vsgi-fcgi config``: what a web server, or systemd, is to be told of an app."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Final

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    InetAddress,
    UnixAddress,
    parse_bind,
)
from vsgi_fcgi.cli.arguments import PROGRAM, CommandLine
from vsgi_fcgi.cli.command import nearest, option_name
from vsgi_fcgi.cli.command_words import command_words, is_said, program_words
from vsgi_fcgi.cli.config_options import ConfigOptions
from vsgi_fcgi.cli.configuration import DEFAULT, Configuration, configure
from vsgi_fcgi.cli.loading import parse_app_name
from vsgi_fcgi.cli.options import LISTENING
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers import systemd
from vsgi_fcgi.web_servers.programs import NAMES, PROGRAMS, SYSTEMD, Program
from vsgi_fcgi.web_servers.site import File, Site

_OWNERSHIP: Final = ("socket_mode", "socket_user", "socket_group")
_FAMILIES: Final = ("any", "ipv4_only", "ipv6_only")
_OF_UNITS: Final = (*LISTENING, *_FAMILIES, "backlog", *_OWNERSHIP, "umask")


def config(line: CommandLine) -> int:
    """Write the configuration that the command line asks for.

    Args:
        line: the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: something that was asked for cannot be configured.
    """
    configuration = configure(line, os.environ)
    if line.action is not None:
        raise UsageError(
            f"{option_name(line.action)} is about the server; leave config and the word behind it"
            " out"
        )
    files = make_files(configuration)
    folder = configuration.options.output
    if folder is None:
        _print(files)
    else:
        _save(files, folder)
    return 0


def make_files(configuration: Configuration) -> list[File]:
    """The files of the configuration that is asked for.

    Args:
        configuration: all settings, of the command `CONFIG`.

    Raises:
        UsageError: something that was asked for cannot be configured.
    """
    options: ConfigOptions = configuration.options
    if options.program not in NAMES:
        raise UsageError(_which(options.program))
    if options.app is None:
        raise UsageError(f"no app is named; {PROGRAM} config --help says how")
    if options.program == SYSTEMD:
        return systemd.units(_service(configuration))
    return PROGRAMS[options.program].files(_site(configuration))


def _which(program: str | None) -> str:
    """What to write instead of a program that is not known, or not named."""
    if program is None:
        return (
            f"which program is to be configured? {_advice('mysite.wsgi')} (an app whose module is"
            " called config is named as config:app)"
        )
    known = {**dict(zip(NAMES, NAMES, strict=True)), "apache2": "apache", "httpd": "apache"}
    name = program.lower()
    near = f"; did you mean {known[name]}?" if name in known else nearest(name, NAMES)
    app = program if re.search("[.:/]", program) else "mysite.wsgi"
    return f"{program!r} is no program that can be configured{near or '; ' + _advice(app)}"


def _advice(app: str) -> str:
    return (
        f"write {', '.join(NAMES[:-1])} or {NAMES[-1]} before the app: {PROGRAM} config nginx {app}"
    )


def _print(files: list[File]) -> None:
    """Write the files to standard output.

    Raises:
        UsageError: it cannot be written.
    """
    text = files[0].text
    if len(files) > 1:
        text = "\n".join(f"# {file.path}\n{file.text}" for file in files)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise UsageError(f"standard output cannot be written: {error.strerror}") from None


def _save(files: list[File], folder: str) -> None:
    """Write the files into a folder, over none that is there.

    Raises:
        UsageError: one is there, or cannot be written.
    """
    if not os.path.isdir(folder):
        raise UsageError(
            f"there is no folder {folder} for --output; make it first: mkdir -p"
            f" {shlex.quote(folder)}"
        )
    texts = {os.path.join(folder, os.path.basename(file.path)): file.text for file in files}
    for path in texts:
        if os.path.lexists(path):
            raise UsageError(f"{path} is there already; remove it first")
    for path, text in texts.items():
        try:
            with open(path, "x", encoding="utf-8") as output:
                output.write(text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        sys.stdout.write(f"{path}\n")


def _site(configuration: Configuration) -> Site:
    """What a web server is told.

    Raises:
        UsageError: it cannot be.
    """
    options: ConfigOptions = configuration.options
    program = PROGRAMS[str(options.program)]
    if options.static:
        raise UsageError(
            f"--static is for --http of {PROGRAM} itself; have {options.program} serve the files"
        )
    name, folder = _name(options), _folder(options)
    standalone = None if options.standalone is None else os.path.abspath(options.standalone)
    address = _address(options, folder)
    added: list[str] = []
    if address is None and program.default_socket is not None:
        address = program.default_socket(name)
        if standalone is not None:
            address = UnixAddress(f"{standalone}/{name}.sock")
        added += ["--bind", f"unix:{address.path}"]
    if isinstance(address, UnixAddress) and standalone is None:
        added += _access(configuration, program)
    without = ("http", *(LISTENING if address is None else ()))
    words = command_words(configuration, folder, without)
    return Site(
        name=name,
        app=str(options.app),
        command=(*program_words(), *added, *words),
        address=address,
        mount=(options.script_name or "").rstrip("/"),
        http=_http(configuration),
        server_name=options.server_name,
        folder=standalone,
        sendfile=options.sendfile,
        sendfile_folders=tuple(
            (url, path) for url, _, path in (i.rpartition("=") for i in options.sendfile_folder)
        ),
    )


def _access(configuration: Configuration, program: Program) -> list[str]:
    """What lets the web server connect to the server's socket, if nothing was said of that."""
    origins = configuration.origins
    if any(origins[name] != DEFAULT for name in _OWNERSHIP):
        return []
    return ["--socket-group", program.group]


def _address(options: ConfigOptions, folder: str) -> Address | None:
    """Where the web server connects to; None if nothing is said, or if lighttpd starts the server.

    Raises:
        UsageError: nobody can connect to what it is told.
    """
    if not options.names_an_address:
        return None
    addresses = options.addresses()
    for kind in (UnixAddress, InetAddress, AbstractAddress):
        for item in addresses:
            if isinstance(item, kind):
                return _absolute(item, folder)
    first = addresses[0]
    spawned = PROGRAMS[str(options.program)].default_socket is None
    if isinstance(first, DescriptorAddress) and first.fd == 0 and spawned:
        return None
    raise UsageError(
        f"{options.program} cannot connect to {first}, which is no address; write the address"
        " of that socket, as in --bind unix:/run/app.sock or --bind 127.0.0.1:9000"
    )


def _absolute(address: Address, folder: str) -> Address:
    if isinstance(address, UnixAddress):
        return UnixAddress(os.path.normpath(os.path.join(folder, address.path)))
    return address


def _http(configuration: Configuration) -> tuple[InetAddress, ...]:
    """Where the web server listens; what a file says is for the server itself.

    Raises:
        UsageError: one is no TCP address.
    """
    if not is_said(configuration, "http"):
        return ()
    found = []
    for text in configuration.options.http:
        address = parse_bind(text)
        if not isinstance(address, InetAddress) or not address.port:
            raise UsageError(f"--http {text} is no TCP address with a port; write HOST:PORT")
        found.append(address)
    return tuple(found)


def _service(configuration: Configuration) -> systemd.Service:
    """What systemd is told.

    Raises:
        UsageError: it cannot be.
    """
    options: ConfigOptions = configuration.options
    for name in ("standalone", "server_name"):
        if getattr(options, name) is not None:
            option = option_name(name)
            raise UsageError(f"{option} is for web servers, and systemd is none; leave it out")
    folder = _folder(options)
    addresses = options.addresses() if options.names_an_address else ()
    words = command_words(configuration, folder, (*_OF_UNITS, "user", "group"))
    if options.any and not is_said(configuration, "any"):
        # A file has it, for a port which is systemd's now.
        words.insert(0, "--no-any")
    return systemd.Service(
        name=_name(options),
        app=str(options.app),
        # It is said where the sockets are, so that no file can say otherwise.
        command=(*program_words(), "--bind", "systemd:", *words),
        addresses=tuple(_absolute(item, folder) for item in addresses),
        user=options.user,
        group=options.group,
        umask=0o077 if options.umask is None else options.umask,
        grace=options.graceful_timeout,
        folder=folder,
        backlog=options.backlog,
        socket_mode=options.socket_mode,
        socket_user=options.socket_user,
        socket_group=options.socket_group or "www-data",
    )


def _folder(options: ConfigOptions) -> str:
    """Where the server works: where this command does, if nothing is said.

    Raises:
        UsageError: that is nowhere.
    """
    try:
        return os.path.abspath(options.chdir or "")
    except FileNotFoundError:
        raise UsageError(
            "the folder that this was started in is gone; name the app's by --chdir"
        ) from None


def _name(options: ConfigOptions) -> str:
    """What files and sockets are called.

    Raises:
        UsageError: the app has no name that is known.
    """
    if options.name is not None:
        return options.name
    app = str(options.app)
    parse_app_name(app)
    module = app.partition(":")[0]
    if "/" in module or module.endswith(".py"):
        name = os.path.basename(module).removesuffix(".py")
    else:
        name = module.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "_", name).strip("_-") or "app"
