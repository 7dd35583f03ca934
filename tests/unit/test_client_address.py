"""Which address a request is taken to come from."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from homeserver.config.units import Network
from rest.client_address import ClientAddresses, parse_address, subscriber

PROXIES = ClientAddresses([Network.parse("127.0.0.0/8"), Network.parse("10.0.0.0/8"), Network.parse("::1")])


def address(remote: str, *forwarded: str) -> str:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    return PROXIES.of(make_mocked_request("GET", "/", headers=headers).clone(remote=remote))


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("192.0.2.1",), "192.0.2.1"),
        ("::1", ("2001:db8::1",), "2001:db8::1"),
        ("::ffff:127.0.0.1", ("192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("192.0.2.1, 10.1.2.3",), "192.0.2.1"),
        ("127.0.0.1", ("192.0.2.1", "10.1.2.3"), "192.0.2.1"),
        ("127.0.0.1", ("192.0.2.1:4711",), "192.0.2.1"),
        ("127.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("127.0.0.1", ("10.0.0.1, 10.0.0.2",), "10.0.0.1"),
        ("", ("192.0.2.1",), ""),
    ],
)
def test_proxies_of_ours_say_whom_they_heard_from(
    remote: str, forwarded: tuple[str, ...], client: str
) -> None:
    assert address(remote, *forwarded) == client


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("192.0.2.1", ("198.51.100.1",), "192.0.2.1"),
        ("127.0.0.1", ("198.51.100.1, 192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("127.0.0.1, 192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("nonsense, 192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("198.51.100.1, nonsense",), "127.0.0.1"),
        ("127.0.0.1", ("198.51.100.1, , 10.0.0.1",), "10.0.0.1"),
        ("127.0.0.1", (", ".join(["198.51.100.1"] + ["10.0.0.1"] * 100_000),), "10.0.0.1"),
    ],
)
def test_hardening_38_what_a_client_says_of_itself_is_not_believed(
    remote: str, forwarded: tuple[str, ...], client: str
) -> None:
    assert address(remote, *forwarded) == client


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1.2.3.4.5", "[::1", "1.2.3.4:x:y", "999.1.1.1", "a" * 10_000]
)
def test_what_is_no_address_is_none(text: str) -> None:
    found = parse_address(text)
    assert found is None or str(found) == "::1"


def test_ipv6_subscriber_is_one_client_whatever_the_address_within_its_network() -> None:
    assert subscriber("2001:db8:1:2::1") == subscriber("2001:db8:1:2:ffff::9")
    assert subscriber("2001:db8:1:2::1") != subscriber("2001:db8:1:3::1")
    assert subscriber("192.0.2.1") == "192.0.2.1"
    assert subscriber("") == ""
    assert subscriber("fe80::1%eth0") == subscriber("fe80::2")
