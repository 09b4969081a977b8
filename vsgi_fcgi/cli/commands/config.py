"""``vsgi-fcgi config``: print the configuration of a web server, or of systemd, for an app."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    InetAddress,
    UnixAddress,
    parse_bind,
)
from vsgi_fcgi.cli.app_loader import parse_app_name
from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.settings.command import SubjectHelp, option_name, variable_name
from vsgi_fcgi.cli.settings.command_line import PROGRAM, CommandLine
from vsgi_fcgi.cli.settings.options import LISTENING, Options
from vsgi_fcgi.cli.settings.resolve import DEFAULT, Configuration, resolve
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.front_ends import systemd
from vsgi_fcgi.front_ends.base import Printed
from vsgi_fcgi.front_ends.registry import NAMES, PROGRAMS, SYSTEMD
from vsgi_fcgi.front_ends.site import File, Site
from vsgi_fcgi.settings import nearest, setting

# The options.


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ConfigOptions(Options):
    """Options of the command.

    Raises:
        UsageError: a value is not valid. The message begins with the field's name.
    """

    program: str | None = setting(
        None, f"{', '.join(NAMES[:-1])} or {NAMES[-1]}", group="app", metavar="PROGRAM"
    )
    server_name: str | None = setting(
        None,
        "host name of the site",
        group="configuration",
        metavar="HOST",
        default_text="every host name",
    )
    name: str | None = setting(
        None,
        "name of the files, sections and sockets",
        group="configuration",
        metavar="NAME",
        default_text="the app's module",
    )
    standalone: str | None = setting(
        None,
        "print a complete configuration, with which the web server runs without root and writes to"
        " this folder, instead of a part for Debian's configuration",
        group="configuration",
        metavar="DIR",
    )
    writable: tuple[str, ...] = setting(
        (),
        "folder that the app may write to, such as for an SQLite database or for uploads; the unit"
        " then has a lasting user instead of a dynamic one",
        group="configuration",
        metavar="DIR",
    )
    output: str | None = setting(
        None,
        "write files to this folder instead of standard output",
        group="configuration",
        metavar="DIR",
    )


_SOCKETS = {"any", "ipv4_only", "ipv6_only", "socket_mode", "socket_user", "socket_group"}
_FOR_ALL = {"name", "output", "chdir", "script_name", "bind", "address", "port", "socket"}
_FOR_WEB_SERVERS = {"server_name", "standalone", "http"}
_FOR_SYSTEMD = {
    *("user", "group", "umask", "writable", "graceful_timeout", "backlog", "file_descriptor"),
}


def program_help(program: str) -> SubjectHelp | None:
    """Return what ``vsgi-fcgi config PROGRAM --help`` shows; None if there is no such program."""
    if program not in NAMES:
        return None
    fields = {*_FOR_ALL, *_SOCKETS, *(_FOR_SYSTEMD if program == SYSTEMD else _FOR_WEB_SERVERS)}
    if program in PROGRAMS:
        if PROGRAMS[program].sendfile:
            fields |= {"sendfile", "sendfile_folder"}
        if PROGRAMS[program].static:
            fields.add("static")
    return SubjectHelp(
        f"Print the configuration of {program} for an app that is served with these options.",
        fields,
        "All other options of the server may be given too; they go into the command line that"
        " serves the app. vsgi-fcgi --help describes them.",
    )


# The command line that starts the server, from any folder.


def program_words() -> list[str]:
    """Return the words that start this very command from any folder."""
    started_as = sys.argv[0]
    if os.path.basename(started_as) == PROGRAM and os.path.isfile(started_as):
        return [os.path.abspath(started_as)]
    installed = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    if os.path.isfile(installed):
        return [installed]
    return [sys.executable, "-m", "vsgi_fcgi"]


def command_words(
    configuration: Configuration, folder: str, without: Container[str] = ()
) -> list[str]:
    """Return the arguments of the command that starts the server.

    Settings of the command line and of the environment become options. A configuration file is
    named by its path, because the server may work in another folder.

    Args:
        configuration: all settings.
        folder: working directory of the server.
        without: fields to leave out.
    """
    given = {DEFAULT, *map(option_name, SERVE.fields), *map(variable_name, SERVE.fields)}
    files = {origin for name, origin in configuration.origins.items() if name in SERVE.fields}
    words = [word for file in files - given for word in ("--config", os.path.abspath(file))]
    words += ["--chdir", folder]
    for name in SERVE.fields:
        if name not in ("app", "chdir") and name not in without and is_given(configuration, name):
            value = getattr(configuration.options, name)
            for item in value if isinstance(value, tuple) else [value]:
                words += _option(name, item, folder)
    return [*words, configuration.options.app] if is_given(configuration, "app") else words


def is_given(configuration: Configuration, name: str) -> bool:
    """Return whether the command line or the environment gives a setting, and not a file."""
    return configuration.origins[name] in (option_name(name), variable_name(name))


def _option(name: str, value: Any, folder: str) -> list[str]:
    option = option_name(name)
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    text = _text(name, value, folder)
    # A value that begins with a dash is taken for an option, except a dash alone.
    return [f"{option}={text}"] if text.startswith("-") and text != "-" else [option, text]


def _text(name: str, value: Any, folder: str) -> str:
    if isinstance(value, float):
        return f"{value:.15g}"
    if SERVE.converter(name).metavar == "MODE":
        return f"{value:04o}"
    if name == "socket" and not value.startswith("@"):
        return os.path.join(folder, value)
    if name == "bind":
        address = parse_bind(value)
        if isinstance(address, UnixAddress):
            return f"unix:{os.path.join(folder, address.path)}"
    if name == "script_name":
        # Where words are separated by spaces, an empty word is lost.
        return value or "/"
    return str(value)


_OWNERSHIP: Final = ("socket_mode", "socket_user", "socket_group")
_FAMILIES: Final = ("any", "ipv4_only", "ipv6_only")
_OF_UNITS: Final = (*LISTENING, *_FAMILIES, "backlog", *_OWNERSHIP, "umask")


def config(line: CommandLine) -> int:
    """Run the command.

    Args:
        line: the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: an option cannot be configured.
    """
    configuration = resolve(line, os.environ)
    if line.action is not None:
        raise UsageError(
            f"{option_name(line.action)} concerns the server; leave out config and the word after"
            " it"
        )
    files = make_files(configuration)
    folder = configuration.options.output
    if folder is None:
        _print(files)
    else:
        _save(files, folder)
    return 0


def make_files(configuration: Configuration) -> list[File]:
    """Return the files of the configuration.

    Args:
        configuration: all settings of the command `CONFIG`.

    Raises:
        UsageError: an option cannot be configured.
    """
    options: ConfigOptions = configuration.options
    if options.program not in NAMES:
        raise UsageError(_unknown_program(options.program))
    if options.app is None:
        raise UsageError(f"the app is missing; see {PROGRAM} config --help")
    if options.program == SYSTEMD:
        return systemd.units(_service(configuration))
    return PROGRAMS[options.program].files(_site(configuration))


def _unknown_program(program: str | None) -> str:
    """Return the error message for a program that is unknown or missing."""
    if program is None:
        return (
            f"the program to configure is missing: {_advice('mysite.wsgi')} (if your app is called"
            " config, write config:app)"
        )
    known = {name: name for name in NAMES}
    known.update((alias, item.program) for item in PROGRAMS.values() for alias in item.aliases)
    name = program.lower()
    near = f"; did you mean {known[name]}?" if name in known else nearest(name, NAMES)
    app = program if re.search("[.:/]", program) else "mysite.wsgi"
    return f"{program!r} is not a program that can be configured{near or '; ' + _advice(app)}"


def _advice(app: str) -> str:
    return (
        f"write {', '.join(NAMES[:-1])} or {NAMES[-1]} before the app: {PROGRAM} config nginx {app}"
    )


def _print(files: list[File]) -> None:
    """Write the files to standard output.

    Raises:
        UsageError: standard output cannot be written.
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
    """Write the files to a folder, without overwriting any.

    Raises:
        UsageError: a file exists, or cannot be written.
    """
    if not os.path.isdir(folder):
        raise UsageError(
            f"--output: the folder {folder} does not exist; create it with mkdir -p"
            f" {shlex.quote(folder)}"
        )
    texts = {os.path.join(folder, os.path.basename(file.path)): file.text for file in files}
    for path in texts:
        if os.path.lexists(path):
            raise UsageError(f"{path} already exists; remove it first")
    for path, text in texts.items():
        try:
            with open(path, "x", encoding="utf-8") as output:
                output.write(text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        sys.stdout.write(f"{path}\n")


def _site(configuration: Configuration) -> Site:
    """Return the site of a web server.

    Raises:
        UsageError: an option cannot be configured.
    """
    options: ConfigOptions = configuration.options
    program = PROGRAMS[str(options.program)]
    _refuse_what_is_not_for(program, options)
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
    without = ("http", "static", *(LISTENING if address is None else ()))
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
        static=_static(configuration, folder),
    )


def _refuse_what_is_not_for(program: Printed, options: ConfigOptions) -> None:
    """Refuse options that a web server's configuration cannot express.

    Raises:
        UsageError: one is given.
    """
    if options.writable:
        raise UsageError("--writable is for systemd; leave it out")
    if options.sendfile not in ("off", program.sendfile):
        advice = "leave --sendfile out"
        if program.sendfile:
            advice = f"write --sendfile {program.sendfile}"
        raise UsageError(
            f"--sendfile {options.sendfile} is not available for {program.title}; {advice}"
        )
    if options.static and not program.static:
        known = " and ".join(item.title for item in PROGRAMS.values() if item.static)
        raise UsageError(
            f"--static is available for {known}, but not for {program.title}; leave --static out"
        )


def _static(configuration: Configuration, folder: str) -> tuple[tuple[str, str], ...]:
    """Return the URLs and folders of ``--static``. Those of a file are for the server itself.

    Raises:
        UsageError: a value is not a URL and a folder.
    """
    if not is_given(configuration, "static"):
        return ()
    found = []
    for text in configuration.options.static:
        url, _, path = text.partition("=")
        if not url.startswith("/") or not path:
            raise UsageError(f"--static {text}: write /URL=DIR, as in /static=site/static")
        found.append((url.rstrip("/"), os.path.normpath(os.path.join(folder, path))))
    return tuple(found)


def _access(configuration: Configuration, program: Printed) -> list[str]:
    """Return the option that lets the web server connect, unless permissions are given."""
    origins = configuration.origins
    if any(origins[name] != DEFAULT for name in _OWNERSHIP):
        return []
    return ["--socket-group", program.group]


def _address(options: ConfigOptions, folder: str) -> Address | None:
    """Return the address of the app's server; None if none is given, or if lighttpd starts it.

    Raises:
        UsageError: a web server cannot connect to any of the given addresses.
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
        f"{options.program} cannot connect to {first}, which is not an address; write the address"
        " of that socket, as in --bind unix:/run/app.sock or --bind 127.0.0.1:9000"
    )


def _absolute(address: Address, folder: str) -> Address:
    if isinstance(address, UnixAddress):
        return UnixAddress(os.path.normpath(os.path.join(folder, address.path)))
    return address


def _http(configuration: Configuration) -> tuple[InetAddress, ...]:
    """Return the addresses of ``--http``. Those of a file are for the server itself.

    Raises:
        UsageError: a value is not a TCP address with a port.
    """
    if not is_given(configuration, "http"):
        return ()
    found = []
    for text in configuration.options.http:
        address = parse_bind(text)
        if not isinstance(address, InetAddress) or not address.port:
            raise UsageError(f"--http {text} is not a TCP address with a port; write HOST:PORT")
        found.append(address)
    return tuple(found)


def _service(configuration: Configuration) -> systemd.Service:
    """Return the service of systemd.

    Raises:
        UsageError: an option cannot be configured.
    """
    options: ConfigOptions = configuration.options
    for name in ("standalone", "server_name"):
        if getattr(options, name) is not None:
            option = option_name(name)
            raise UsageError(f"{option} is for web servers and not for systemd; leave it out")
    if options.static and not options.http:
        # The server refuses to start with this, so the unit would fail.
        raise UsageError(
            "--static needs --http; without it, a web server must serve the files: give --static"
            f" to {PROGRAM} config nginx or config lighttpd instead"
        )
    folder = _folder(options)
    addresses = options.addresses() if options.names_an_address else ()
    words = command_words(configuration, folder, (*_OF_UNITS, "user", "group"))
    if options.any and not is_given(configuration, "any"):
        # It is in a file, and the port that it concerns is now one of systemd's.
        words.insert(0, "--no-any")
    return systemd.Service(
        name=_name(options),
        app=str(options.app),
        # The option overrides addresses in a configuration file.
        command=(*program_words(), "--bind", "systemd:", *words),
        addresses=tuple(_absolute(item, folder) for item in addresses),
        user=options.user,
        group=options.group,
        umask=_umask(options),
        grace=options.graceful_timeout,
        folder=folder,
        backlog=options.backlog,
        socket_mode=options.socket_mode,
        socket_user=options.socket_user,
        socket_group=options.socket_group or "www-data",
        writable=tuple(os.path.normpath(os.path.join(folder, i)) for i in options.writable),
        reloads=options.processes is not None,
    )


def _umask(options: ConfigOptions) -> int:
    """Return the umask of a service. If the app writes, the web server's group reads uploads."""
    if options.umask is not None:
        return options.umask
    return 0o027 if options.writable else 0o077


def _folder(options: ConfigOptions) -> str:
    """Return the working directory of the server; by default that of this command.

    Raises:
        UsageError: the current folder does not exist any more.
    """
    try:
        return os.path.abspath(options.chdir or "")
    except FileNotFoundError:
        raise UsageError(
            "the current folder does not exist any more; name the folder of the app with --chdir"
        ) from None


def _name(options: ConfigOptions) -> str:
    """Return the name of files and sockets.

    Raises:
        UsageError: the app is not named in a valid way.
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
