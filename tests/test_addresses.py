from __future__ import annotations

from typing import Any

import pytest

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    InetAddress,
    UnixAddress,
    addresses_from_options,
    parse_bind,
)
from vsgi_fcgi.exceptions import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:///run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:/run/a:b@c.sock", UnixAddress("/run/a:b@c.sock")),
        ("unix:@name", AbstractAddress("name")),
        ("unix://@name", AbstractAddress("name")),
        ("fcgi+unix:///run/app.sock", UnixAddress("/run/app.sock")),
        ("fcgi+unix://app.sock", UnixAddress("app.sock")),
        ("fcgi+unix:@name", AbstractAddress("name")),
        ("fcgi://127.0.0.1:9000/", InetAddress("127.0.0.1", 9000)),
        ("fcgi://[::1]:9000/", InetAddress("::1", 9000)),
        ("fcgi://localhost:9000", InetAddress("localhost", 9000)),
        ("/run/app.sock", UnixAddress("/run/app.sock")),
        ("./x.sock", UnixAddress("./x.sock")),
        ("../x", UnixAddress("../x")),
        ("127.0.0.1:9000", InetAddress("127.0.0.1", 9000)),
        ("[::1]:9000", InetAddress("::1", 9000)),
        ("[0:0::1]:9000", InetAddress("::1", 9000)),
        ("localhost:9000", InetAddress("localhost", 9000)),
        (" localhost:9000\n", InetAddress("localhost", 9000)),
        ("0.0.0.0:0", InetAddress("0.0.0.0", 0)),
        ("localhost:65535", InetAddress("localhost", 65535)),
        ("fd://0", DescriptorAddress(0)),
        ("fd:0", DescriptorAddress(0)),
        ("fd://17", DescriptorAddress(17)),
    ],
)
def test_bind_forms(text: str, address: Address) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("9000", "write 127.0.0.1:9000, or 0.0.0.0:9000 for every interface"),
        (":9000", "write 127.0.0.1:9000, or 0.0.0.0:9000 for every interface"),
        ("localhost", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("", "write HOST:PORT"),
        ("::1:9000", "in brackets, as in [::1]:9000"),
        ("[::1:9000", "write an IPv6 address as in [::1]:9000"),
        ("[::1]9000", "write an IPv6 address as in [::1]:9000"),
        ("[127.0.0.1]:9000", "'127.0.0.1' is not an IPv6 address"),
        ("localhost:http", "'http' is not a port"),
        ("localhost:", "'' is not a port"),
        ("localhost:-1", "'-1' is not a port"),
        ("localhost:65536", "the port must be a number from 0 to 65535"),
        ("localhost:\u0661", "is not a port"),
        ("my host:9000", "write HOST:PORT"),
        ("app.sock", "for the path of a socket, write unix:app.sock"),
        ("run/app.sock", "for the path of a socket, write unix:run/app.sock"),
        ("fd://", "write the number of the descriptor, as in fd://0"),
        ("fd://x", "write the number of the descriptor, as in fd://0"),
        ("fd://-1", "write the number of the descriptor, as in fd://0"),
        ("fd://99999999999", "write the number of the descriptor, as in fd://0"),
        ("http://127.0.0.1:9000", "write HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N"),
        ("unix:", "the name is empty"),
        ("unix:@", "the name is empty"),
        ("unix:/a\0b", "cannot contain a NUL"),
    ],
)
def test_what_is_no_address_says_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bind(text)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[::1]:9000", "127.0.0.1:9000", "localhost:0"])
def test_an_inet_address_reads_as_it_is_typed(text: str) -> None:
    assert str(parse_bind(text)) == text


def test_nothing_asked_for_is_descriptor_0() -> None:
    assert addresses_from_options() == [DescriptorAddress(0)]
    assert addresses_from_options(ipv4_only=True) == [DescriptorAddress(0)]


LOOPBACK_4 = InetAddress("127.0.0.1", 9000)
LOOPBACK_6 = InetAddress("::1", 9000)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [LOOPBACK_4, InetAddress("::1", 9000, optional=True)]),
        ({"ipv4_only": True}, [InetAddress("127.0.0.1", 9000, version=4)]),
        ({"ipv6_only": True}, [InetAddress("::1", 9000, version=6)]),
        ({"any": True}, [InetAddress("0.0.0.0", 9000), InetAddress("::", 9000, optional=True)]),
        ({"any": True, "ipv4_only": True}, [InetAddress("0.0.0.0", 9000, version=4)]),
        ({"any": True, "ipv6_only": True}, [InetAddress("::", 9000, version=6)]),
    ],
)
def test_a_port_is_loopback_in_both_families(
    options: dict[str, Any], expected: list[Address]
) -> None:
    found = addresses_from_options(port=[9000], **options)
    # A literal address needs no version; one way or the other, only its family is opened.
    assert [(str(a), getattr(a, "optional", False)) for a in found] == [
        (str(a), getattr(a, "optional", False)) for a in expected
    ]


def test_an_address_without_a_port_is_combined_with_every_port() -> None:
    found = addresses_from_options(address=["10.0.0.1", "::1", "[::2]"], port=[1, 2])
    assert found == [
        InetAddress("10.0.0.1", 1),
        InetAddress("10.0.0.1", 2),
        InetAddress("::1", 1),
        InetAddress("::1", 2),
        InetAddress("::2", 1),
        InetAddress("::2", 2),
    ]


def test_an_address_with_a_port_leaves_the_ports_on_loopback() -> None:
    found = addresses_from_options(address=["10.0.0.1:80"], port=[9000], ipv4_only=True)
    assert [str(a) for a in found] == ["10.0.0.1:80", "127.0.0.1:9000"]


def test_the_order_is_that_of_the_options_and_then_bind() -> None:
    found = addresses_from_options(
        bind=["unix:/b", "fd:7"],
        file_descriptor=[5],
        socket=["/s", "@abstract"],
        port=[9000],
        address=["localhost:80"],
    )
    assert found == [
        InetAddress("localhost", 80),
        LOOPBACK_4,
        InetAddress("::1", 9000, optional=True),
        UnixAddress("/s"),
        AbstractAddress("abstract"),
        DescriptorAddress(5),
        UnixAddress("/b"),
        DescriptorAddress(7),
    ]


def test_one_family_holds_for_host_names_too() -> None:
    found = addresses_from_options(address=["localhost:80"], bind=["localhost:81"], ipv4_only=True)
    assert found == [
        InetAddress("localhost", 80, version=4),
        InetAddress("localhost", 81, version=4),
    ]


def test_random_ports_may_be_asked_for_repeatedly() -> None:
    assert len(addresses_from_options(port=[0, 0])) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ipv4_only": True, "ipv6_only": True}, "--ipv4-only and --ipv6-only exclude each other"),
        ({"address": ["localhost"]}, "--address localhost: the port is missing"),
        ({"address": ["9000"]}, "write --address with HOST:PORT or HOST, or --port with a port"),
        ({"address": [""]}, "write --address with HOST:PORT or HOST"),
        ({"address": ["unix:/x"]}, "write --bind unix:/x instead"),
        ({"address": ["/x"]}, "write --bind /x instead"),
        ({"port": [65536]}, "the port must be a number from 0 to 65535"),
        ({"port": [-1]}, "the port must be a number from 0 to 65535"),
        ({"any": True}, "--any: the option changes where --port listens"),
        (
            {"any": True, "port": [1], "address": ["localhost"]},
            "--any: the option changes where --port listens",
        ),
        ({"socket": [""]}, "the name is empty"),
        ({"socket": ["unix:/x"]}, "write --socket /x, or --bind unix:/x"),
        ({"file_descriptor": [-1]}, "--file-descriptor -1: a descriptor cannot be"),
        ({"bind": ["[::1]:80"], "ipv4_only": True}, "--ipv4-only excludes this IPv6 address"),
        (
            {"address": ["127.0.0.1:80"], "ipv6_only": True},
            "--ipv6-only excludes this IPv4 address",
        ),
        ({"port": [80], "bind": ["[::1]:80"]}, "[::1]:80: the address is given twice"),
        ({"file_descriptor": [0], "bind": ["fd://0"]}, "fd 0: the address is given twice"),
        ({"socket": ["/x", "/x"]}, "/x: the address is given twice"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        addresses_from_options(**options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
