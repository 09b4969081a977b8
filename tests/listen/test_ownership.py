"""Test mode, owner and group of UNIX sockets, and servers that start at the same time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.accounts import NOBODY, WEB, PublicPython, need_root, public_folder

from vsgi_fcgi import Server
from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.exceptions import ListenError, UsageError
from vsgi_fcgi.listen import unix as unix_sockets
from vsgi_fcgi.listen.listeners import Listener, open_listener
from vsgi_fcgi.listen.ownership import SocketOwnership
from vsgi_fcgi.server.config import Config


@contextlib.contextmanager
def opened(path: Path, ownership: SocketOwnership) -> Iterator[Listener]:
    (listener,) = open_listener(UnixAddress(str(path)), 16, ownership)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def refusal(path: Path, ownership: SocketOwnership) -> str:
    with pytest.raises(ListenError) as caught:
        open_listener(UnixAddress(str(path)), 16, ownership)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The mode


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666, 0o777, 0o000])
@pytest.mark.parametrize("bits", [0o000, 0o022, 0o777])
def test_the_mode_is_what_was_asked_for_whatever_the_umask(
    mode: int, bits: int, tmp_path: Path
) -> None:
    with umask(bits), opened(tmp_path / "a", SocketOwnership(mode)):
        assert mode_of(tmp_path / "a") == mode


def test_others_are_kept_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    with umask(0):
        server = Server(lambda environ, start_response: [], socket_mode=0o666)
        other = Server(lambda environ, start_response: [])
        server.listen(f"unix:{tmp_path}/open")
        other.listen(f"unix:{tmp_path}/default")
    try:
        assert mode_of(tmp_path / "open") == 0o666
        assert mode_of(tmp_path / "default") == 0o660
    finally:
        server.close()
        other.close()


class Intervening(SocketOwnership):
    """Lets a test act when the socket has its file, and before its mode and owner are set."""

    act: Callable[[str], object] = staticmethod(os.lstat)

    def apply(self, path: str) -> None:
        type(self).act(path)
        super().apply(path)


def test_nobody_connects_before_the_mode_is_set(tmp_path: Path) -> None:
    codes: list[int] = []

    def connect(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            codes.append(client.connect_ex(path))

    class Connecting(Intervening):
        act = staticmethod(connect)

    with umask(0), opened(tmp_path / "a", Connecting(0o600)):
        assert codes == [errno.ECONNREFUSED]
        connect(str(tmp_path / "a"))
    assert codes[1] == 0


@pytest.mark.parametrize("what", ["a link", "nothing"])
def test_what_was_put_in_its_place_is_left_alone(what: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(precious))
    precious.chmod(0o600)

    def replace(path: str) -> None:
        os.unlink(path)
        if what == "a link":
            os.symlink(precious, path)

    class Replaced(Intervening):
        act = staticmethod(replace)

    assert "another process replaced the socket" in refusal(tmp_path / "a", Replaced(0o666))
    assert mode_of(precious) == 0o600
    assert (tmp_path / "a").is_symlink() == (what == "a link")


# Owner and group


def test_the_owner_and_the_group(tmp_path: Path) -> None:
    need_root()
    config = Config(socket_user=NOBODY, socket_group=WEB, socket_mode=0o640)
    with opened(tmp_path / "a", SocketOwnership.of(config)):
        status = (tmp_path / "a").lstat()
        assert status.st_uid == pwd.getpwnam(NOBODY).pw_uid
        assert status.st_gid == grp.getgrnam(WEB).gr_gid
        assert mode_of(tmp_path / "a") == 0o640


def test_numbers_need_no_entry(tmp_path: Path) -> None:
    need_root()
    config = Config(socket_user="54321", socket_group="54322")
    with opened(tmp_path / "a", SocketOwnership.of(config)):
        status = (tmp_path / "a").lstat()
        assert (status.st_uid, status.st_gid) == (54321, 54322)


def test_what_is_named_goes_before_the_servers_own() -> None:
    own = pwd.getpwuid(os.getuid())
    assert SocketOwnership.of(Config(), uid=7, gid=8) == SocketOwnership(0o660, 7, 8)
    config = Config(socket_user=own.pw_name, socket_group=grp.getgrgid(own.pw_gid).gr_name)
    assert SocketOwnership.of(config, uid=7, gid=8) == SocketOwnership(
        0o660, own.pw_uid, own.pw_gid
    )


@pytest.mark.parametrize(
    ("setting", "name", "sentence"),
    [
        ("socket_user", "nobodyy", "there is no user 'nobodyy' to own the UNIX sockets"),
        ("socket_group", "www-dat", "there is no group 'www-dat' for the UNIX sockets"),
        # One more than the last number means "leave it" to the kernel.
        ("socket_user", "4294967295", "there is no user '4294967295'"),
        ("socket_group", "-1", "there is no group '-1'"),
        ("socket_group", "", "there is no group ''"),
        ("socket_user", "a\0b", r"there is no user 'a\x00b'"),
    ],
)
def test_names_that_nobody_has(setting: str, name: str, sentence: str, tmp_path: Path) -> None:
    config = Config(**{setting: name})  # type: ignore[arg-type]
    server = Server(lambda environ, start_response: [], config=config)
    with pytest.raises(UsageError) as caught:
        server.listen(f"unix:{tmp_path}/a")
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "a").exists()


def test_the_nearest_name_is_proposed() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    with pytest.raises(UsageError, match=f"; did you mean {name}\\?"):
        SocketOwnership.of(Config(socket_user=f"{name}x"))


def test_what_only_root_may_do() -> None:
    """It is said in a sentence, and no socket stays behind."""
    need_root()
    with public_folder() as folder:
        folder.chmod(0o777)
        path = folder / "a"
        os.seteuid(pwd.getpwnam(NOBODY).pw_uid)
        try:
            messages = [
                refusal(path, SocketOwnership.of(Config(socket_user=WEB))),
                refusal(path, SocketOwnership.of(Config(socket_group=WEB))),
            ]
        finally:
            os.seteuid(0)
        assert messages == [
            f"{path}: the owner cannot be changed to {WEB}, because the server runs as"
            f" {NOBODY} and not as root; start it as root, or set a group of {NOBODY} instead",
            f"{path}: the group cannot be changed to {WEB}, because {NOBODY} is not a member;"
            f" add {NOBODY} to the group, choose another group, or start the server as root",
        ]
        assert not path.exists()


@pytest.mark.process
@pytest.mark.usefixtures("root")
def test_a_group_of_ones_own_needs_no_root(public_python: PublicPython) -> None:
    code = (
        "import os, sys; from vsgi_fcgi import Server\n"
        f"server = Server(print, socket_group={WEB!r})\n"
        "server.listen('./a'); print(os.lstat('a').st_gid); server.close()"
    )
    with public_folder() as folder:
        folder.chmod(0o777)
        run = subprocess.run(
            [public_python.executable, "-c", code],
            cwd=folder,
            env={**os.environ, **public_python.environ},
            user=NOBODY,
            group=pwd.getpwnam(NOBODY).pw_gid,
            extra_groups=[WEB],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert run.stdout == f"{grp.getgrnam(WEB).gr_gid}\n", run.stderr


# Side by side


def test_two_that_start_at_once_do_not_take_each_others_socket(tmp_path: Path) -> None:
    """The second comes while the first is bound and does not listen, as one that is dead."""
    path = tmp_path / "a"
    results: list[object] = []

    def open_too() -> None:
        try:
            results.extend(open_listener(UnixAddress(str(path)), 16))
        except ListenError as error:
            results.append(str(error))

    second = threading.Thread(target=open_too)

    def start_second(path: str) -> None:
        second.start()
        # It must not come to an end now; without turns it has taken the path by then.
        second.join(0.2)

    class Raced(Intervening):
        act = staticmethod(start_second)

    with opened(path, Raced()) as first:
        second.join(10)
        assert results == [
            f"{path}: another server listens here; stop that server or choose another path"
        ]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert first.sock.getsockname() == str(path)


def test_somebody_elses_lock_on_the_folder_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time is not a setting, and the test must not wait for all of it.
    monkeypatch.setattr(unix_sockets, "_LOCK_WAIT", 0.05)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with opened(tmp_path / "a", SocketOwnership()):
            assert (tmp_path / "a").is_socket()
    finally:
        os.close(fd)


def test_a_folder_that_may_not_be_read_will_do() -> None:
    need_root()
    with public_folder() as folder:
        folder.chmod(0o333)
        os.seteuid(pwd.getpwnam(NOBODY).pw_uid)
        try:
            with opened(folder / "a", SocketOwnership()):
                assert (folder / "a").is_socket()
        finally:
            os.seteuid(0)
