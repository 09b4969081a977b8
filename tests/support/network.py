"""Hosts of a test: network namespaces that a bridge connects. They need root and iproute2."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from support.front_ends.servers import find

_SUBNET = "198.18"
"""Addresses for tests of networks (RFC 2544)."""


class Host:
    """A host.

    Attributes:
        name: the name of its namespace.
        address: its address.
    """

    def __init__(self, network: Network, number: int) -> None:
        self._network = network
        self._link = f"{network.name}l{number}"
        self.name = f"{network.name}h{number}"
        self.address = f"{network.prefix}.{number}"

    def open(self) -> None:
        """Make the namespace, and connect it to the bridge."""
        ip = self._network.ip
        ip("netns", "add", self.name)
        ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._link, "master", self._network.name, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            ip("-n", self.name, *words)

    def command(self, *argv: str) -> list[str]:
        """Return a command line that runs a program on this host."""
        return [self._network.program, "netns", "exec", self.name, *argv]

    def unplug(self) -> None:
        """Cut the host off, so that it cannot even close its connections."""
        self._network.ip("link", "set", self._link, "down")

    def kill(self) -> None:
        """Kill all processes of this host."""
        argv = [self._network.program, "netns", "pids", self.name]
        for pid in subprocess.run(argv, check=True, capture_output=True).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Remove the link and the namespace."""
        for words in (("link", "del", self._link), ("netns", "del", self.name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._network.ip(*words)


class Network:
    """A bridge of this host, with others.

    Attributes:
        name: the name of the bridge.
        address: the address of this host.
    """

    def __init__(self) -> None:
        self.program = find("ip")
        # Other runs of the tests have other numbers, as far as process ids do not repeat.
        number = os.getpid() % 250
        self.name = f"vsgi{number}"
        self.prefix = f"{_SUBNET}.{number}"
        self.address = f"{self.prefix}.254"

    def ip(self, *words: str) -> None:
        """Run ``ip``."""
        subprocess.run([self.program, *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def network(count: int) -> Iterator[tuple[Network, Sequence[Host]]]:
    """Make a network with some hosts; skip the test where this is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    net = Network()
    hosts = [Host(net, number + 1) for number in range(count)]
    try:
        try:
            net.ip("link", "add", net.name, "type", "bridge")
            net.ip("addr", "add", f"{net.address}/24", "dev", net.name)
            net.ip("link", "set", net.name, "up")
            for host in hosts:
                host.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield net, hosts
    finally:
        for host in hosts:
            host.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            net.ip("link", "del", net.name)
