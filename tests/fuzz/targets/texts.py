"""Fuzz what an administrator writes: access log formats, configuration files and addresses."""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from functools import cache
from types import SimpleNamespace
from typing import Any

from fuzz.driver import Target
from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    UnixAddress,
    addresses_from_options,
    parse_bind,
)
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.settings.command import Command, key_name
from vsgi_fcgi.cli.settings.resolve import Configuration, from_environment, from_file
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.access_format import ATOMS, PRESETS
from vsgi_fcgi.log.access_log import AccessFormat, encoded

_PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": '/a"\\\n\xe9?b',
    "REMOTE_ADDR": "\ud800",
    "HTTP_USER_AGENT": "x" * 5000,
}
_EXCHANGE: Any = SimpleNamespace(
    connection=SimpleNamespace(
        last_active=1e9, peer="connection 1", protocol=SimpleNamespace(requests={})
    ),
    request=SimpleNamespace(id=1, role=1, params=_PARAMS),
    body=None,
    head=b"Status: 200 OK\r\nX-A: b\r\n\r\n",
    final=b"body",
    more=b"",
    begun=False,
    broken=False,
    run_began=1,
    run_ended=2,
    ended=3,
    count_sent=lambda: 30,
)
MAX_LINE = 100_000
"""Maximum bytes of a line whose format has at most the size of an input."""


def check_sentence(error: UsageError) -> None:
    """Check that a message can be printed, and is one line."""
    assert "\n" not in str(error), error
    str(error).encode("utf-8", "surrogateescape")


def access_format(data: bytes) -> object:
    """Parse a format of the access log, and make a line with it.

    - Only UsageError leaves it, and not when a line is made.
    - A line is one line of printable text, and not much longer than the format and its values.
    """
    text = data.decode("utf-8", "replace")
    try:
        format = AccessFormat(text, deque(), 1000, lambda: None)
    except UsageError as error:
        return str(error)[:14]
    format.take_notes(_EXCHANGE)
    made = format.lines([_EXCHANGE]).decode()
    notes = format.note(_EXCHANGE, {}, False)
    absent = encoded(format.line(notes, b"", 0, "aborted", 0, 0, 9)).decode()
    for line in (made, absent):
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert len(line) <= MAX_LINE + 20 * len(text), len(line)
    if PRESETS.get(text) == PRESETS["json"]:
        json.loads(made)
    return text.count("%"), format.times_ends, format.times_runs, len(absent) // 8


@cache
def _file(name: str) -> tuple[str, int]:
    """Return the path of a file in memory that has this name, and its descriptor."""
    folder = tempfile.TemporaryDirectory(prefix="vsgi-fcgi-fuzz-")
    _folders.append(folder)
    descriptor = os.memfd_create(name)
    path = os.path.join(folder.name, name)
    os.symlink(f"/proc/self/fd/{descriptor}", path)
    return path, descriptor


_folders: list[Any] = []
"""The folders, which are removed when the process ends."""


def memory_file(name: str, data: bytes) -> str:
    """Return the path of a file in memory that has this name and content."""
    path, descriptor = _file(name)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)
    return path


def _read(command: Command, data: bytes, name: str) -> Any:
    return command.make_options(from_file(command, memory_file(name, data)), {})


def _again(command: Command, options: Any) -> Any:
    """Print settings, and read what was printed."""
    printed = Configuration(command, options, dict.fromkeys(command.fields, "x")).as_toml()
    return _read(command, printed.encode(), "printed.toml")


def config_file(data: bytes) -> object:
    """Read a configuration file for several commands, and a variable of the environment.

    - Only UsageError leaves it: a sentence in one line that can be printed.
    - What `--print-config` prints of accepted settings gives the same settings.
    """
    shape: list[object] = []
    for name in ("", "relay", "status"):
        for file in ("site.toml", "pyproject.toml"):
            command = COMMANDS[name]
            try:
                options = _read(command, data, file)
            except UsageError as error:
                check_sentence(error)
                shape.append(str(error).replace(_file(file)[0], "")[-14:])
                continue
            again = _again(command, options)
            assert again == options, (again, options)
            shape.append(options != command.make_options({}, {}))
    variable, _, value = data.partition(b"=")
    try:
        text = value.decode("utf-8", "surrogateescape").replace("\0", "").strip(" \"'\n")
        key = variable.decode("latin-1").strip().upper().replace("-", "_")
        serve = COMMANDS[""]
        if key_name(key.lower()).replace("-", "_") in serve.fields:
            options = serve.make_options(from_environment(serve, {f"VSGI_FCGI_{key}": text}), {})
            assert _again(serve, options) == options
            shape.append(key)
    except UsageError as error:
        check_sentence(error)
    return tuple(shape)


def _as_bind(address: Address) -> str:
    if isinstance(address, UnixAddress):
        return f"unix://{address}"
    if isinstance(address, AbstractAddress):
        return f"unix:{address}"
    return f"fd://{address.fd}" if isinstance(address, DescriptorAddress) else str(address)


def address(data: bytes) -> object:
    """Parse the addresses of `--bind` and of the other options.

    - Only UsageError leaves it, with a message that can be printed.
    - An accepted address can be written and parsed again, and is the same.
    """
    text = data.decode("utf-8", "surrogateescape")
    shape: list[object] = []
    try:
        found = parse_bind(text)
        again = parse_bind(_as_bind(found))
        assert again == found, (again, found)
        shape.append(type(found).__name__)
    except UsageError as error:
        str(error).encode("utf-8", "surrogateescape")
        shape.append(str(error)[-14:])
    words = text.split("\n")
    for options in (
        {"address": words, "port": [80]},
        {"socket": words},
        {"bind": words},
        {"address": words[:1], "bind": words[1:], "ipv6_only": True},
    ):
        try:
            several: list[Any] = addresses_from_options(**options)
        except UsageError as error:
            str(error).encode("utf-8", "surrogateescape")
            shape.append(str(error)[:5])
            continue
        for each in several:
            str(each)
        shape.append(tuple(type(each).__name__ for each in several[:4]))
    return tuple(shape)


def _settings(command: Command) -> tuple[bytes, ...]:
    lines = Configuration(
        command, command.make_options({}, {}), dict.fromkeys(command.fields, "x")
    ).as_toml()
    return tuple(
        line.lstrip("# ").partition("  #")[0].replace("is not set", "= 9").encode()
        for line in lines.splitlines()
        if " = " in line or "is not set" in line
    )


TARGETS = (
    Target(
        "access-format",
        access_format,
        (
            *(name.encode() for name in PRESETS),
            *(text.encode() for text in PRESETS.values()),
            b"%(h)-10.3s %% {%({X-A}i)s} %({X-A}o)9s %({PATH_INFO}e)s %(D)d",
            b'{"a":"%(a)s"}',
        ),
        (
            *(f"%({name})s".encode() for name in ATOMS),
            b"%({",
            b"}i)s",
            b"}o)s",
            b"}e)s",
            b"'",
            b'"',
            b"\\",
            b"{",
            b"}",
            b"%%",
            b"!r",
            b"\r",
            b"%(h)99999999s",
            b"%(q)99999999999999999999s",
            b"9",
            b"-",
            b".5",
            b"\xe2\x80\xa8",
            b"\xc2\x85",
            b"\0",
        ),
        {"a width of 99 MB": b"%(h)99999999s"},
    ),
    Target(
        "config-file",
        config_file,
        (
            b'threads = 8\nbind = ["unix:/run/a.sock"]\nsocket-mode = "0660"\nmax-memory = "3M"\n',
            b'upstream = "unix:/a"\n[relay]\nupstream = ["127.0.0.1:9000"]\nconnections = 3\n',
            b'[tool.vsgi-fcgi]\nthreads = 8\n[tool.vsgi-fcgi.relay]\nupstream = "unix:/a"\n',
            b"graceful_timeout = 0.1234567\nlisten-backlog = 10\n",
            b"MAX_MEMORY=30M",
            b"GRACEFUL_TIMEOUT=1e3",
        ),
        (
            *_settings(COMMANDS[""]),
            *_settings(COMMANDS["relay"])[-9:],
            b"\n",
            b"= ",
            b"[relay]\n",
            b"[tool.vsgi-fcgi]\n",
            b'"""',
            b"'",
            b"\\u0000",
            b"\\n",
            b"inf",
            b"nan",
            b"-1",
            b"1979-05-27",
            b"9" * 30,
            b"9" * 400,
            b"1" * 5000,
            b"true",
            b"[]",
            b"[" * 900,
            b"{a=",
            b"0.1234567",
            b'"auto"',
            b'"9G"',
            b"\x7f",
            b"\xff",
            b"\0",
        ),
        {
            "arrays of many levels": b"threads = " + b"[" * 2000,
            "an integer that int() refuses": b"threads = " + b"9" * 5000,
            "a hexadecimal integer of many digits": b"send-timeout = 0x" + b"f" * 400,
            "a number with many decimals": b"send-timeout = 0.123456789",
            "a key that is not UTF-8": b"PUSH_KEY=\xff",
            "base64 that is not ASCII": b'push-key = "base64:\xc3\xbc"',
            "a table of the relay": b"[relay]\nupstream = 'unix:/a'\nconnections = 3",
        },
    ),
    Target(
        "address",
        address,
        (
            b"127.0.0.1:9000",
            b"[::1]:9000",
            b"localhost:0",
            b"unix:/run/a.sock",
            b"unix:@name",
            b"fd://0",
            b"systemd:",
            b"systemd:a",
            b"./a",
            b"fcgi://127.0.0.1:9000/",
            b"fcgi+unix:///run/a.sock",
            b"[fe80::1%eth0]:1",
            b"host\n127.0.0.1:1\n::1",
        ),
        (
            b"unix:",
            b"fcgi://",
            b"fcgi+unix:",
            b"fd:",
            b"systemd:",
            b"[",
            b"]",
            b":",
            b"//",
            b"@",
            b" ",
            b"\n",
            b"::",
            b"%",
            b"65536",
            b"\0",
            b"\xd9\xa3",
            b"\xff",
            b"fcgi://" * 500,
        ),
    ),
)
