"""What to listen on: the words of the person who starts the server, made into addresses.

Nothing is opened or resolved here; `vsgi_fcgi.server.listeners` does that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vsgi_fcgi.exceptions import UsageError

IPVersion = Literal[4, 6]

_FORMS = "HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N or systemd:NAME"


@dataclass(frozen=True, slots=True)
class DescriptorAddress:
    """A listening socket that the process was started with.

    Attributes:
        fd: its number; 0 is where FastCGI puts it (section 2.2 of the specification).
    """

    fd: int

    def __str__(self) -> str:
        return f"fd {self.fd}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """Listening sockets that systemd passes to the process.

    Attributes:
        name: those with this FileDescriptorName, which may be several; empty for all.
    """

    name: str = ""

    def __str__(self) -> str:
        return f"systemd:{self.name}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A UNIX socket in the file system.

    Attributes:
        path: the path as it was typed, relative or not.
    """

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class AbstractAddress:
    """A Linux abstract socket, which has a name but no file.

    Attributes:
        name: the name without its leading NUL byte, which people write as ``@``.
    """

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, slots=True)
class InetAddress:
    """A TCP address.

    Attributes:
        host: an IP address without brackets, or a host name, resolved when it is opened.
        port: 0 for any port that is free.
        optional: the second family of a ``--port``: it is no error if this machine lacks the
            family, and a random port is, where possible, that of the address before.
        version: the only IP version that a host name may resolve to; None for both.
    """

    host: str
    port: int
    optional: bool = False
    version: IPVersion | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = DescriptorAddress | SystemdAddress | UnixAddress | AbstractAddress | InetAddress


def parse_bind(text: str) -> Address:
    """Read an address in the forms that other WSGI servers take for ``--bind``.

    Args:
        text: ``127.0.0.1:9000``, ``[::1]:9000``, ``localhost:9000``, ``unix:/run/app.sock``,
            ``unix:///run/app.sock``, ``unix:@name``, ``fd://0``, ``fd:0``, ``systemd:``,
            ``systemd:name``, or a path that starts with ``/``, ``./`` or ``../``.

    Returns:
        The address; a host name in it is not resolved yet.

    Raises:
        UsageError: the text is none of these; the message says what to write instead.
    """
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "unix":
        return _parse_unix(rest.removeprefix("//"))
    if colon and scheme == "fd":
        number = rest.removeprefix("//")
        if not _is_number(number):
            raise _refusal(text, "write the descriptor's number, as in fd://0")
        return DescriptorAddress(int(number))
    if colon and scheme == "systemd":
        return _parse_systemd(text, rest)
    if text.startswith(("/", "./", "../")):
        return _parse_unix(text)
    if "://" in text:
        raise _refusal(text, f"write {_FORMS}")
    if "/" in text or text.endswith(".sock"):
        raise _refusal(text, f"write unix:{text} if it is the path of a socket")
    if _is_number(text.removeprefix(":")):
        digits = text.removeprefix(":")
        raise _refusal(text, f"write 127.0.0.1:{digits}, or 0.0.0.0:{digits} for every interface")
    host, port = _split_host(text)
    if port is None:
        raise _refusal(text, f"write {_FORMS}; a port is missing here")
    return InetAddress(host, port)


def addresses_from_options(
    *,
    address: Sequence[str] = (),
    port: Sequence[int] = (),
    socket: Sequence[str] = (),
    file_descriptor: Sequence[int] = (),
    any: bool = False,
    ipv4_only: bool = False,
    ipv6_only: bool = False,
    bind: Sequence[str] = (),
) -> list[Address]:
    """Read VSGI's own options, and ``--bind`` beside them, into one list.

    Args:
        address: HOST:PORT, or a HOST that is combined with every port.
        port: ports on loopback, or on the hosts of `address` that have no port; 0 is random.
        socket: paths of UNIX sockets; ``@name`` is an abstract one.
        file_descriptor: descriptors of listening sockets that the process was started with.
        any: ports are opened on every interface and not on loopback.
        ipv4_only: IPv6 is left alone.
        ipv6_only: IPv4 is left alone.
        bind: addresses in the forms of `parse_bind`.

    Returns:
        Addresses, ports, sockets, descriptors, then `bind`, each in the order given; the
        descriptor 0 if nothing was asked for.

    Raises:
        UsageError: something cannot be read, or two options contradict each other.
    """
    if ipv4_only and ipv6_only:
        raise UsageError("--ipv4-only and --ipv6-only exclude each other; give one of them or none")
    version: IPVersion | None = 4 if ipv4_only else 6 if ipv6_only else None
    for number in port:
        _check_port(number, f"--port {number}")

    found: list[Address] = []
    bare_hosts = False
    for text in address:
        host, own_port = _split_address(text)
        bare_hosts = bare_hosts or own_port is None
        if own_port is None and not port:
            raise UsageError(f"--address {text} has no port; write HOST:PORT or add --port")
        found += [InetAddress(host, p) for p in (port if own_port is None else [own_port])]
    if any and (bare_hosts or not port):
        raise UsageError(
            "--any says where --port listens, so it needs a --port and no --address without a port"
        )
    if not bare_hosts:
        for number in port:
            found += _both_families(number, any, version)
    found += [_parse_unix(path) for path in socket]
    for fd in file_descriptor:
        if fd < 0:
            raise UsageError(f"--file-descriptor {fd} is no descriptor; they count from 0")
        found.append(DescriptorAddress(fd))
    found += [parse_bind(text) for text in bind]

    if version is not None:
        found = [_restricted(item, version) for item in found]
    _refuse_repeats(found)
    return found or [DescriptorAddress(0)]


def _both_families(port: int, any: bool, version: IPVersion | None) -> Iterable[InetAddress]:
    """A ``--port`` as VSGI means it: IPv4, and IPv6 where the machine has it."""
    if version != 6:
        yield InetAddress("0.0.0.0" if any else "127.0.0.1", port)
    if version != 4:
        yield InetAddress("::" if any else "::1", port, optional=version is None)


def _restricted(address: Address, version: IPVersion) -> Address:
    """The same address held to one IP version.

    Raises:
        UsageError: it is a literal address of the other version.
    """
    if not isinstance(address, InetAddress):
        return address
    try:
        literal = ipaddress.ip_address(address.host)
    except ValueError:
        return replace(address, version=version)
    if literal.version != version:
        raise UsageError(
            f"{address} is an IPv{literal.version} address, which --ipv{version}-only excludes"
        )
    return address


def _refuse_repeats(addresses: Iterable[Address]) -> None:
    """Say that an address is named twice, where opening it would only say that it is in use."""
    seen: set[str] = set()
    addresses = list(addresses)
    if str(SystemdAddress()) in map(str, addresses):
        for address in addresses:
            if isinstance(address, SystemdAddress) and address.name:
                raise UsageError(
                    f"systemd: is all sockets and {address} some of them; name one or the other"
                )
    for address in addresses:
        if isinstance(address, InetAddress) and address.port == 0:
            continue
        if str(address) in seen:
            raise UsageError(f"{address} is named twice; name it once")
        seen.add(str(address))


def _parse_unix(path: str) -> UnixAddress | AbstractAddress:
    """A path, or ``@name`` for an abstract socket.

    Raises:
        UsageError: it is empty or holds a NUL.
    """
    if path in ("", "@"):
        raise UsageError("a UNIX socket has no name here; write unix:/run/app.sock or unix:@name")
    if "\0" in path:
        raise UsageError(f"the name of the UNIX socket {path!r} holds a NUL; write it without")
    return AbstractAddress(path[1:]) if path.startswith("@") else UnixAddress(path)


def _parse_systemd(text: str, name: str) -> SystemdAddress:
    """The name of sockets that systemd passes; none for all of them.

    Raises:
        UsageError: no socket can have such a name.
    """
    if ":" in name or "/" in name:
        raise _refusal(text, "write systemd:NAME with the FileDescriptorName of a .socket unit")
    return SystemdAddress(name)


def _split_address(text: str) -> tuple[str, int | None]:
    """The host and, if it has one, the port of an ``--address``.

    Raises:
        UsageError: it is neither HOST:PORT nor HOST.
    """
    text = text.strip()
    try:
        # Without brackets an IPv6 address can only be one without a port.
        return str(ipaddress.IPv6Address(text)), None
    except ValueError:
        pass
    if "/" in text or text.startswith(("unix:", "fd:")):
        raise UsageError(f"--address takes HOST:PORT or HOST; write --bind {text} instead")
    if not text or _is_number(text.removeprefix(":")):
        raise _refusal(text, "--address takes HOST:PORT or HOST, and --port a port alone")
    return _split_host(text)


def _split_host(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``.

    Raises:
        UsageError: it is none of these.
    """
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _refusal(text, "write an IPv6 address as [::1]:9000")
        try:
            host = str(ipaddress.IPv6Address(inner))
        except ValueError:
            raise _refusal(text, f"{inner!r} is no IPv6 address; write one as [::1]:9000") from None
        port, colon = rest.removeprefix(":"), rest[:1]
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise _refusal(text, "write an IPv6 address in brackets, as in [::1]:9000")
        if not host or any(c.isspace() for c in host):
            raise _refusal(text, f"write {_FORMS}")
    if not colon:
        return host, None
    if not _is_number(port):
        raise _refusal(text, f"{port!r} is no port; write a number from 0 to 65535")
    return host, _check_port(int(port), text)


def _check_port(port: int, text: str) -> int:
    """Return the port.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= port <= 65535:
        raise _refusal(text, "a port is a number from 0 to 65535")
    return port


def _is_number(text: str) -> bool:
    """Whether it is ASCII digits only, which ``int`` does not ask for, and fits a C int."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def _refusal(text: str, advice: str) -> UsageError:
    """The error for a text that names no address."""
    return UsageError(f"cannot listen on {text!r}: {advice}")
