"""Parse the addresses that a user gives on the command line.

This module opens no sockets and resolves no host names; `vsgi_fcgi.listen.listeners` does that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from vsgi_fcgi.exceptions import UsageError

IPVersion = Literal[4, 6]

_FORMS = "HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N or systemd:NAME"


EVERY_IPV4: Final = "0.0.0.0"  # nosec B104 # only what a user asks for listens there

# sockaddr_un.sun_path has 108 bytes, including a NUL at the end of a path or at the beginning of
# an abstract name.
MAX_NAME: Final = 107


@dataclass(frozen=True, slots=True)
class DescriptorAddress:
    """Listening socket that the process was started with.

    Attributes:
        fd: number of the descriptor; FastCGI passes the socket as 0 (specification, section 2.2).
    """

    fd: int

    def __str__(self) -> str:
        return f"fd {self.fd}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """Listening sockets that systemd passes to the process.

    Attributes:
        name: FileDescriptorName of the sockets, which several may share; empty for all sockets.
    """

    name: str = ""

    def __str__(self) -> str:
        return f"systemd:{self.name}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """UNIX socket in the file system.

    Attributes:
        path: absolute or relative path.
    """

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class AbstractAddress:
    """Abstract UNIX socket of Linux, which has a name but no file.

    Attributes:
        name: the name without the leading NUL byte, which is written as ``@``.
    """

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, slots=True)
class InetAddress:
    """TCP address.

    Attributes:
        host: an IP address without brackets, or a host name, which is resolved on opening.
        port: port number; 0 for any free port.
        optional: True for the second IP version of a ``--port``. The address is skipped if this
            machine does not support the version. A random port is, if possible, the same as that
            of the preceding address.
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
    """Parse an address in the forms that other WSGI servers accept for ``--bind``.

    Args:
        text: ``127.0.0.1:9000``, ``[::1]:9000``, ``localhost:9000``, ``unix:/run/app.sock``,
            ``unix:///run/app.sock``, ``unix:@name``, ``fd://0``, ``fd:0``, ``systemd:``,
            ``systemd:name``, a path that starts with ``/``, ``./`` or ``../``, or a URI as in
            `Server.uris`: ``fcgi://127.0.0.1:9000/``, ``fcgi+unix:///run/app.sock``.

    Returns:
        The address; a host name in it is not resolved yet.

    Raises:
        UsageError: the text has none of these forms; the message says what to write instead.
    """
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("unix", "fcgi+unix"):
        return _parse_unix(rest.removeprefix("//"))
    if scheme == "fcgi" and rest.startswith("//"):
        return parse_bind(rest.removeprefix("//").removesuffix("/"))
    if colon and scheme == "fd":
        number = rest.removeprefix("//")
        if not _is_number(number):
            raise _refusal(text, "write the number of the descriptor, as in fd://0")
        return DescriptorAddress(int(number))
    if colon and scheme == "systemd":
        return _parse_systemd(text, rest)
    if text.startswith(("/", "./", "../")):
        return _parse_unix(text)
    if "://" in text:
        raise _refusal(text, f"write {_FORMS}")
    if "/" in text or text.endswith(".sock"):
        raise _refusal(text, f"for the path of a socket, write unix:{text}")
    if _is_number(text.removeprefix(":")):
        digits = text.removeprefix(":")
        raise _refusal(text, f"write 127.0.0.1:{digits}, or 0.0.0.0:{digits} for every interface")
    host, port = _split_host(text)
    if port is None:
        raise _refusal(text, f"the port is missing; write {_FORMS}")
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
    """Combine VSGI's listening options and ``--bind`` into one list of addresses.

    Args:
        address: HOST:PORT, or a HOST that is combined with every port.
        port: ports on loopback, or on the hosts of `address` that have no port; 0 is random.
        socket: paths of UNIX sockets; ``@name`` is an abstract name.
        file_descriptor: descriptors of listening sockets that the process was started with.
        any: open the ports on every interface instead of loopback.
        ipv4_only: do not use IPv6.
        ipv6_only: do not use IPv4.
        bind: addresses in the forms of `parse_bind`.

    Returns:
        Addresses, ports, sockets, descriptors, then `bind`, each in the order given; descriptor 0
        if all options are empty.

    Raises:
        UsageError: a value is invalid, or two options contradict each other.
    """
    if ipv4_only and ipv6_only:
        raise UsageError("--ipv4-only and --ipv6-only exclude each other; remove one of them")
    version: IPVersion | None = 4 if ipv4_only else 6 if ipv6_only else None
    for number in port:
        _check_port(number, f"--port {number}")

    found: list[Address] = []
    bare_hosts = False
    for text in address:
        host, own_port = _split_address(text)
        bare_hosts = bare_hosts or own_port is None
        if own_port is None and not port:
            raise UsageError(
                f"--address {text}: the port is missing; write HOST:PORT or add --port"
            )
        found += [InetAddress(host, p) for p in (port if own_port is None else [own_port])]
    if any and (bare_hosts or not port):
        raise UsageError(
            "--any: the option changes where --port listens; add --port, and remove any --address"
            " without a port"
        )
    if not bare_hosts:
        for number in port:
            found += _both_families(number, any, version)
    for path in socket:
        # Without this check, the path would be relative, in a folder or a file "unix:...".
        if path.startswith("unix:"):
            plain = path.removeprefix("unix:").removeprefix("//")
            raise UsageError(
                f"--socket {path}: the option needs only the path; write --socket {plain}, or"
                f" --bind {path}"
            )
        found.append(_parse_unix(path))
    for fd in file_descriptor:
        if fd < 0:
            raise UsageError(f"--file-descriptor {fd}: a descriptor cannot be negative")
        found.append(DescriptorAddress(fd))
    found += [parse_bind(text) for text in bind]

    if version is not None:
        found = [_restricted(item, version) for item in found]
    _refuse_repeats(found)
    return found or [DescriptorAddress(0)]


def _both_families(port: int, any: bool, version: IPVersion | None) -> Iterable[InetAddress]:
    """Return the addresses of a ``--port`` as VSGI defines it: IPv4, and IPv6 if supported."""
    if version != 6:
        yield InetAddress(EVERY_IPV4 if any else "127.0.0.1", port)
    if version != 4:
        yield InetAddress("::" if any else "::1", port, optional=version is None)


def _restricted(address: Address, version: IPVersion) -> Address:
    """Restrict an address to one IP version.

    Raises:
        UsageError: the address is an IP address of the other version.
    """
    if not isinstance(address, InetAddress):
        return address
    try:
        literal = ipaddress.ip_address(address.host)
    except ValueError:
        return replace(address, version=version)
    if literal.version != version:
        raise UsageError(
            f"{address}: --ipv{version}-only excludes this IPv{literal.version} address;"
            " remove the option or the address"
        )
    return address


def _refuse_repeats(addresses: Iterable[Address]) -> None:
    """Raise a UsageError for a repeated address; opening it would only report "in use"."""
    seen: set[str] = set()
    addresses = list(addresses)
    if str(SystemdAddress()) in map(str, addresses):
        for address in addresses:
            if isinstance(address, SystemdAddress) and address.name:
                raise UsageError(
                    f"{address}: systemd: already includes this socket; remove one of the two"
                )
    for address in addresses:
        if isinstance(address, InetAddress) and address.port == 0:
            continue
        if str(address) in seen:
            raise UsageError(f"{address}: the address is given twice; remove one")
        seen.add(str(address))


def _parse_unix(path: str) -> UnixAddress | AbstractAddress:
    """Parse a path, or ``@name`` for an abstract socket.

    Raises:
        UsageError: the text is empty or contains a NUL.
    """
    if path in ("", "@"):
        raise _refusal(f"unix:{path}", "the name is empty; write unix:/run/app.sock or unix:@name")
    if "\0" in path:
        raise _refusal(path, "a path cannot contain a NUL byte; remove it")
    return AbstractAddress(path[1:]) if path.startswith("@") else UnixAddress(path)


def _parse_systemd(text: str, name: str) -> SystemdAddress:
    """Parse the name of sockets that systemd passes; empty for all sockets.

    Raises:
        UsageError: the name is invalid.
    """
    if ":" in name or "/" in name:
        raise _refusal(text, "write systemd:NAME with the FileDescriptorName of a .socket unit")
    return SystemdAddress(name)


def _split_address(text: str) -> tuple[str, int | None]:
    """Split an ``--address`` into its host and its port, which may be None.

    Raises:
        UsageError: the text is neither HOST:PORT nor HOST.
    """
    text = text.strip()
    try:
        # An IPv6 address without brackets cannot have a port.
        return str(ipaddress.IPv6Address(text)), None
    except ValueError:
        pass
    if "/" in text or text.startswith(("unix:", "fd:")):
        raise UsageError(
            f"--address {text}: the value must be HOST:PORT or HOST; write --bind {text} instead"
        )
    if not text or _is_number(text.removeprefix(":")):
        raise _refusal(text, "write --address with HOST:PORT or HOST, or --port with a port")
    return _split_host(text)


def _split_host(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port`` into host and port.

    Raises:
        UsageError: the text has none of these forms.
    """
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _refusal(text, "write an IPv6 address as in [::1]:9000")
        try:
            host = str(ipaddress.IPv6Address(inner))
        except ValueError:
            raise _refusal(
                text, f"{inner!r} is not an IPv6 address; write one as in [::1]:9000"
            ) from None
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
        raise _refusal(text, f"{port!r} is not a port; write a number from 0 to 65535")
    return host, _check_port(int(port), text)


def _check_port(port: int, text: str) -> int:
    """Return the port unchanged.

    Raises:
        UsageError: the port is out of range.
    """
    if not 0 <= port <= 65535:
        raise _refusal(text, "the port must be a number from 0 to 65535")
    return port


def _is_number(text: str) -> bool:
    """Return True for ASCII digits that fit a C int; ``int`` would also accept other digits."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def _refusal(text: str, advice: str) -> UsageError:
    """Return the error for a text that is not an address."""
    return UsageError(f"{text!r} is not a usable address: {advice}")
