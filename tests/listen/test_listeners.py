from __future__ import annotations

import _socket
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vsgi_fcgi
from vsgi_fcgi.addresses import (
    Address,
    DescriptorAddress,
    InetAddress,
    UnixAddress,
    addresses_from_options,
    parse_bind,
)
from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.listen.listeners import Listener, open_listener, open_listeners
from vsgi_fcgi.listen.tcp import listen_tcp

Listen = Callable[..., list[Listener]]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens addresses, given as text or objects, and closes the listeners at the end."""
    opened: list[Listener] = []

    def listen(*addresses: str | Address) -> list[Listener]:
        parsed = [parse_bind(a) if isinstance(a, str) else a for a in addresses]
        found = open_listeners(parsed, 16)
        opened.extend(found)
        return found

    yield listen
    for listener in opened:
        listener.close()


def refusal(address: str | Address) -> str:
    """The one sentence with which an address is refused."""
    parsed = parse_bind(address) if isinstance(address, str) else address
    with pytest.raises(ListenError) as caught:
        open_listener(parsed, 16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accept(listener: Listener) -> int:
    """The descriptor of a connection that waits."""
    # typeshed leaves the C class's method out.
    fd: int = listener.sock._accept()[0]  # type: ignore[attr-defined]
    return fd


def can_connect(listener: Listener) -> bool:
    with socket.socket(listener.sock.family, socket.SOCK_STREAM) as client:
        client.connect(listener.sock.getsockname())
        os.close(accept(listener))
    return True


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's rights, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# All kinds


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix:@vsgi-fcgi-test-kinds", "./x.sock"])
def test_a_listener_is_native_nonblocking_and_not_inherited_by_children(
    address: str, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (listener,) = listen(address)
    assert type(listener.sock) is _socket.socket
    assert not os.get_blocking(listener.sock.fileno())
    assert not os.get_inheritable(listener.sock.fileno())
    assert not listener.inherited
    with pytest.raises(BlockingIOError):
        accept(listener)
    assert can_connect(listener)


@pytest.mark.process
def test_gevent_patching_does_not_reach_the_sockets() -> None:
    facts = in_child(
        """
        from gevent import monkey
        monkey.patch_all()
        import _socket
        (listener,) = open_listener(InetAddress("localhost", 0, version=4), 5)
        facts["native"] = type(listener.sock) is _socket.socket
        """
    )
    assert facts == {"native": True}


def test_listeners_keep_the_order_of_the_addresses(listen: Listen, tmp_path: Path) -> None:
    listeners = listen(
        f"{tmp_path}/b", "127.0.0.1:0", f"unix:{tmp_path}/a", "unix:@vsgi-fcgi-order"
    )
    port = listeners[1].sock.getsockname()[1]
    assert [listener.uri for listener in listeners] == [
        f"fcgi+unix://{tmp_path}/b",
        f"fcgi://127.0.0.1:{port}/",
        f"fcgi+unix://{tmp_path}/a",
        "fcgi+unix:@vsgi-fcgi-order",
    ]
    assert [listener.is_tcp for listener in listeners] == [False, True, False, False]


def test_if_one_cannot_be_opened_none_is(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "missing" / "bad"
    with pytest.raises(ListenError):
        open_listeners([UnixAddress(str(good)), UnixAddress(str(bad))], 16)
    assert not good.exists()


def test_closing_twice_is_harmless(listen: Listen, tmp_path: Path) -> None:
    (listener,) = listen(f"{tmp_path}/a")
    listener.close()
    listener.close()


# UNIX sockets


def test_the_file_goes_with_the_listener(listen: Listen, tmp_path: Path) -> None:
    (listener,) = listen(f"{tmp_path}/a")
    assert (tmp_path / "a").is_socket()
    listener.close()
    assert not (tmp_path / "a").exists()


def test_unlink_alone_leaves_the_socket_open(listen: Listen, tmp_path: Path) -> None:
    (listener,) = listen(f"{tmp_path}/a")
    listener.unlink()
    assert not (tmp_path / "a").exists()
    assert listener.sock.fileno() >= 0


def test_a_relative_path_is_found_again_after_a_change_of_directory(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    (listener,) = listen("./a.sock")
    assert listener.uri == f"fcgi+unix://{tmp_path}/a.sock"
    monkeypatch.chdir(tmp_path / "elsewhere")
    listener.close()
    assert not (tmp_path / "a.sock").exists()


def test_another_servers_socket_at_our_path_is_left_alone(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "a"
    (ours,) = listen(str(path))
    path.unlink()
    (theirs,) = listen(str(path))
    ours.close()
    assert path.is_socket()
    assert can_connect(theirs)


def test_a_path_that_is_gone_already_is_no_error(listen: Listen, tmp_path: Path) -> None:
    (listener,) = listen(f"{tmp_path}/a")
    (tmp_path / "a").unlink()
    listener.close()


def test_a_stale_socket_is_replaced(listen: Listen, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a"))
        dead.listen()
    assert (tmp_path / "a").is_socket()
    (listener,) = listen(f"{tmp_path}/a")
    assert can_connect(listener)


def test_a_live_socket_is_refused_and_left_alone(listen: Listen, tmp_path: Path) -> None:
    (live,) = listen(f"{tmp_path}/a")
    assert refusal(f"{tmp_path}/a") == (
        f"{tmp_path}/a: another server listens here; stop that server or choose another path"
    )
    os.close(accept(live))  # Our question whether somebody answers.
    assert can_connect(live)


def test_a_live_socket_whose_backlog_is_full_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(socket.socket(socket.AF_UNIX))
        live.bind(path)
        live.listen(0)
        for _ in range(10):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path) != 0:
                break
        else:
            pytest.fail("the backlog does not fill")
        assert "another server listens here" in refusal(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link to a socket"])
def test_what_is_no_socket_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert refusal(str(path)).startswith(f"{path}: the file exists and is not a socket; remove it")
    assert os.path.lexists(path)


def test_a_path_may_have_107_bytes_and_no_more(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    longest = "./" + "ä" * 52 + "x"
    assert len(os.fsencode(longest)) == 107
    listen(longest)
    assert (tmp_path / longest).is_socket()
    assert "the name has 108 bytes, but a UNIX socket allows only 107" in refusal(longest + "y")


def test_a_missing_folder(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/run/a.sock") == (
        f"{tmp_path}/run/a.sock: the folder {tmp_path}/run does not exist;"
        " create it or choose another path"
    )


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert f"{tmp_path}/run is not a folder" in refusal(f"{tmp_path}/run/a.sock")


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o500)
    with unprivileged():
        assert f"this user may not create files in {folder}" in refusal(f"{folder}/a.sock")


def test_a_socket_that_we_may_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("a.sock")
        os.chmod("a.sock", 0)
        with unprivileged():
            assert "this user may not connect to check" in refusal("./a.sock")


def test_an_abstract_name_in_use(listen: Listen) -> None:
    listen("unix:@vsgi-fcgi-test-in-use")
    assert refusal("unix:@vsgi-fcgi-test-in-use") == (
        "@vsgi-fcgi-test-in-use: another server listens here; stop that server or"
        " choose another name"
    )


def test_an_abstract_name_that_is_too_long() -> None:
    assert "the name has 108 bytes" in refusal("unix:@" + "x" * 108)


# TCP


@needs_ipv6
def test_a_random_port_is_the_same_in_both_families(listen: Listen) -> None:
    four, six = listen(*addresses_from_options(port=[0]))
    port = four.sock.getsockname()[1]
    assert port != 0
    assert (four.uri, six.uri) == (f"fcgi://127.0.0.1:{port}/", f"fcgi://[::1]:{port}/")
    assert can_connect(four)
    assert can_connect(six)


@needs_ipv6
def test_every_interface_in_both_families_on_one_port(listen: Listen) -> None:
    four, six = listen(*addresses_from_options(port=[0], any=True))
    assert four.sock.getsockname()[1] == six.sock.getsockname()[1]
    assert six.sock.getsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY) == 1


def test_a_random_port_is_another_one_where_the_same_is_taken(listen: Listen) -> None:
    (taken,) = listen("127.0.0.1:0")
    port = taken.sock.getsockname()[1]
    (sock,) = listen_tcp(InetAddress("127.0.0.1", 0), 16, preferred_port=port)
    with contextlib.closing(sock):
        assert sock.getsockname()[1] not in (0, port)


def test_a_missing_family_is_no_error_where_it_is_optional() -> None:
    # No machine has an address of the documentation's network (RFC 3849), with IPv6 or without.
    assert open_listener(InetAddress("2001:db8::1", 9000, optional=True), 16) == []
    assert "[2001:db8::1]:9000: this machine does not" in refusal("[2001:db8::1]:9000")


def test_a_host_name_is_resolved_and_held_to_its_family(listen: Listen) -> None:
    (listener,) = listen(InetAddress("localhost", 0, version=4))
    assert listener.uri.startswith("fcgi://127.0.0.1:")


def test_all_addresses_of_a_host_name_get_one_port(listen: Listen) -> None:
    listeners = listen("localhost:0")
    assert len({listener.sock.getsockname()[1] for listener in listeners}) == 1


@pytest.mark.parametrize("host", ["x" * 64, "a..b"])
def test_an_unknown_host(host: str) -> None:
    assert refusal(InetAddress(host, 9000)) == (
        f"{host}:9000: no host of that name is known; check the spelling or write an IP address"
    )


def test_a_host_without_the_family_that_was_asked_for() -> None:
    assert "no host with IPv6 of that name" in refusal(InetAddress("127.0.0.1", 9000, version=6))


def test_an_address_in_use(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    port = listener.sock.getsockname()[1]
    assert refusal(f"127.0.0.1:{port}") == (
        f"127.0.0.1:{port}: the address is in use; stop the other server or choose another port"
    )


def test_an_address_of_another_machine() -> None:
    assert "this machine does not have the address" in refusal("192.0.2.1:9000")


def test_a_port_for_the_administrator() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("every port is open to everybody here")
    with unprivileged():
        assert "only root may use port 1; choose a port from 1024 up" in refusal("127.0.0.1:1")


def test_a_port_is_free_again_at_once(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    address = listener.sock.getsockname()
    with socket.create_connection(address) as client:
        os.close(accept(listener))  # The side that closes first stays in TIME_WAIT.
        assert client.recv(1) == b""
    listener.close()
    (again,) = listen(f"127.0.0.1:{address[1]}")
    assert can_connect(again)


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("127.0.0.1:0", False),
        ("127.3.2.1:0", False),
        ("0.0.0.0:0", True),
        pytest.param("[::1]:0", False, marks=needs_ipv6),
        pytest.param("[::]:0", True, marks=needs_ipv6),
        ("unix:@vsgi-fcgi-test-open", False),
    ],
)
def test_who_can_reach_it(address: str, is_open: bool, listen: Listen) -> None:
    (listener,) = listen(address)
    assert listener.open_to_others is is_open


# Inherited descriptors


def in_child(code: str, stdin: int = subprocess.DEVNULL) -> dict[str, object]:
    """Run code in a fresh interpreter and return the ``facts`` that it gathers."""
    script = "\n".join(
        [
            "import fcntl, json, os",
            "from vsgi_fcgi.addresses import *",
            "from vsgi_fcgi.listen.listeners import open_listener",
            "facts = {}",
            textwrap.dedent(code),
            "print(json.dumps(facts))",
        ]
    )
    root = str(Path(vsgi_fcgi.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", script],
        stdin=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
        timeout=30,
    )
    assert run.returncode == 0, run.stderr.decode()
    facts = json.loads(run.stdout)
    assert isinstance(facts, dict)
    return facts


@pytest.mark.process
def test_fd_0_moves_up_and_dev_null_takes_its_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        facts = in_child(
            """
            (listener,) = open_listener(DescriptorAddress(0), 5)
            fd = listener.sock.fileno()
            facts["uri"] = listener.uri
            facts["inherited"] = listener.inherited
            facts["tcp"] = listener.is_tcp
            facts["open"] = listener.open_to_others
            facts["moved up"] = fd >= 3
            facts["cloexec"] = bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
            facts["nonblocking"] = not os.get_blocking(fd)
            facts["0 is /dev/null"] = os.stat(0).st_rdev == os.stat(os.devnull).st_rdev
            facts["children get 0"] = os.get_inheritable(0)
            sockets = [n for n in range(64) if n != fd and os.path.exists(f"/proc/self/fd/{n}")
                       and os.readlink(f"/proc/self/fd/{n}").startswith("socket:")]
            facts["other sockets"] = sockets
            listener.close()
            """,
            stdin=parent.fileno(),
        )
        assert facts == {
            "uri": "fcgi+fd://0/",
            "inherited": True,
            "tcp": True,
            "open": False,
            "moved up": True,
            "cloexec": True,
            "nonblocking": True,
            "0 is /dev/null": True,
            "children get 0": True,
            "other sockets": [],
        }
        # It is a property of the shared socket, which the server does not change.
        assert not os.get_blocking(parent.fileno())


def test_an_inherited_unix_socket_keeps_its_file(listen: Listen, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(tmp_path / "a"))
        parent.listen()
        fd = os.dup(parent.fileno())
        (listener,) = listen(DescriptorAddress(fd))
        assert listener.uri == f"fcgi+fd://{fd}/"
        assert not listener.is_tcp
        assert can_connect(listener)
        # The old number is given up, or children of the app would inherit it.
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        listener.close()
        assert (tmp_path / "a").is_socket()


@pytest.mark.parametrize("kind", ["file", "pipe", "connected", "bound", "datagram"])
def test_a_descriptor_that_is_no_listening_socket(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "file":
            fd = stack.enter_context((tmp_path / "file").open("w")).fileno()
        elif kind == "pipe":
            fd, other = os.pipe()
            stack.callback(os.close, fd)
            stack.callback(os.close, other)
        elif kind == "connected":
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            fd = stack.enter_context(ours).fileno()
        else:
            sort = socket.SOCK_STREAM if kind == "bound" else socket.SOCK_DGRAM
            sock = stack.enter_context(socket.socket(socket.AF_INET, sort))
            sock.bind(("127.0.0.1", 0))
            fd = sock.fileno()
        assert refusal(DescriptorAddress(fd)) == (
            f"fd {fd} is not a listening socket; start the server from a web server or"
            " spawn-fcgi, or set an address with --bind"
        )
        os.fstat(fd)  # It is somebody else's, and still open.


def test_a_descriptor_that_is_not_open() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    assert refusal(DescriptorAddress(reader)).startswith(
        f"fd {reader} is not open; start the server from"
    )


def test_a_refused_descriptor_leaves_no_copy_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with (Path(__file__)).open() as file:
        refusal(DescriptorAddress(file.fileno()))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refused_socket_stays_as_blocking_as_it_was() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        refusal(DescriptorAddress(ours.fileno()))
        assert not fcntl.fcntl(ours.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
