"""Run systemd, or do what it does for a service with its own tool and a socket of the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.accounts import need_root
from support.front_ends.servers import find, program_version
from support.processes import Process, ProcessGroup, wait_until

TIMEOUT = 10.0

NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child")

BOOT = """
set -e
root=$1 units=$2 site=$3 packages=$4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
for each in /*; do
    case $each in
    /dev | /etc | /proc | /run | /sys | /tmp | /var) mkdir ".$each" ;;
    *) if [ -L "$each" ]; then cp -P "$each" .; elif [ -d "$each" ]; then
        mkdir ".$each"
        mount --rbind "$each" ".$each"
    fi ;;
    esac
done
cp -a /etc .
rm -rf etc/systemd/system
cp -r "$units" etc/systemd/system
echo 0123456789abcdef0123456789abcdef >etc/machine-id
mkdir -p var/log var/lib var/tmp old
chmod 1777 tmp var/tmp
mount -t tmpfs -o mode=755 tmpfs srv
mkdir srv/site srv/packages
mount --bind "$site" srv/site
mount --bind "$packages" srv/packages
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
pivot_root . old
cd /
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=test.target --log-target=console --show-status=no
"""


def systemd_version() -> int:
    """The version of systemd that is installed."""
    (version, *_) = program_version("systemctl", "--version")
    return version


class Systemd:
    """A systemd that is process 1 of its own namespaces, with its own /etc, /run, /tmp and /var.

    Args:
        group: the group that it belongs to.
        units: a folder with its units; it starts ``test.target``.
        site: a folder that its services see as ``/srv/site``.
        packages: a folder that they see as ``/srv/packages``.
    """

    def __init__(self, group: ProcessGroup, units: Path, site: Path, packages: Path) -> None:
        need_root()
        for program in ("unshare", "nsenter", "pivot_root", "systemctl"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        can = ("sh", "-c", "mount -t tmpfs tmpfs /mnt && mount -t cgroup2 cgroup2 /mnt")
        if subprocess.run([*NAMESPACES, *can], capture_output=True, check=False).returncode:
            pytest.skip("no namespaces or control groups can be made here")
        root = group.folder / "root"
        root.mkdir()
        argv = [*NAMESPACES, "sh", "-c", BOOT, "sh", *map(str, (root, units, site, packages))]
        self._process = group.start(argv, name="systemd")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_until(lambda: children.read_text().split(), "the first process")
        self._pid = children.read_text().split()[0]
        self.root = Path(f"/proc/{self._pid}/root")
        """The root of its file system, seen from here."""
        wait_until(self._listens, "systemd", log=self._process.log)

    def _listens(self) -> bool:
        name = Path(f"/proc/{self._pid}/comm").read_text()
        return name == "systemd\n" and (self.root / "run/systemd/private").exists()

    def run(self, *argv: str) -> str:
        """Run a command next to it, which must succeed, and return its output."""
        enter = ["nsenter", "--target", self._pid, "--mount", "--pid", "--uts", "--ipc"]
        done = subprocess.run(
            [*enter, *argv], capture_output=True, text=True, timeout=40, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr, self._process.log())
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, such as ``ActiveState``."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def wait_for(self, unit: str, name: str, value: str) -> None:
        wait_until(lambda: self.property(unit, name) == value, f"{name} {value} of {unit}")

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The kernel ends everything in its namespace with it.
        os.kill(int(self._pid), signal.SIGKILL)
        self._process.wait()


def activate(
    group: ProcessGroup,
    argv: list[str],
    *sockets: str,
    names: str | None = None,
    options: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a program with sockets, by ``systemd-socket-activate``.

    It starts the program when somebody connects, in its own process.

    Args:
        group: the group that it belongs to.
        argv: the program and its arguments.
        *sockets: paths, or HOST:PORT.
        names: FileDescriptorNames of the sockets, with colons between them.
        options: further options of the tool.
        env: the program's environment; the tool passes only the variables that it is given.
    """
    env = env or {}
    tool = [find("systemd-socket-activate"), *options]
    tool += [f"--listen={item}" for item in sockets]
    if names is not None:
        tool.append(f"--fdname={names}")
    tool += [f"--setenv={item}" for item in {*env, *group.environ().keys()}]
    process = group.start([*tool, *argv], name="server", env=env)
    process.wait_for_log("Listening on ")
    return process


class Manager:
    """The service manager's end of the socket on which a service notifies it.

    Args:
        folder: where the socket is made.
        abstract: it has a name instead of a file.
    """

    def __init__(self, folder: Path, abstract: bool = False) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(TIMEOUT)
        path = f"{folder}/notify"
        self.address = f"@{path}" if abstract else path
        self._sock.bind("\0" + path if abstract else path)

    def receive(self) -> dict[str, str]:
        """The next message: its variables."""
        lines = self._sock.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str, value: str) -> dict[str, str]:
        """Receive until a message has this in it, and return it."""
        while value not in (message := self.receive()).get(name, ""):
            pass
        return message

    def is_silent(self, seconds: float) -> bool:
        """Return whether nothing more comes for this time."""
        self._sock.setblocking(False)
        try:
            while True:
                self._sock.recv(65536)
        except BlockingIOError:
            pass
        self._sock.settimeout(seconds)
        try:
            self._sock.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(TIMEOUT)
        return False

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()
