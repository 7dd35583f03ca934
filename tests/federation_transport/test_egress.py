"""The way out: where it may lead, whom it believes, and how much it takes."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from yarl import URL

from homeserver.config.options import Egress as EgressOptions
from homeserver.config.units import Network
from homeserver.egress import client
from homeserver.egress.addresses import AddressPolicy
from homeserver.egress.client import Answer, Egress, Interrupted, NotConnected, TooLarge
from tests.federation_transport.network import Internet, certificate


async def fetch(egress: Egress, host: str, port: int, path: str = "/", **how: object) -> Answer:
    limits = {"seconds": 5.0, "max_bytes": 1000, **how}
    return await egress.fetch("GET", URL(f"https://{host}:{port}{path}"), **limits)  # type: ignore[arg-type]


# --- Addresses

LOCAL = """
    127.0.0.1 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1
    192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255
    240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
    ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::127.0.0.1 100::1
    2001::1 2001:0:7f00:1:: 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a00:1::1 3fff::1 5f00::1
    fc00::1 fd12:3456:789a::1 fe80::1 fe80::1%eth0 fe80::5efe:127.0.0.1 fec0::1 ff01::1 ff02::1 ff0e::1
    0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:0000:0000:0001 0:0:0:0:0:ffff:127.0.0.1
"""
NO_ADDRESSES = (
    "127.1 0x7f.1 0x7f000001 2130706433 0177.0.0.1 127.0.0.01 017700000001 localhost ::1]  127。0。0。1"
)
PUBLIC = """
    1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255 172.32.0.0 192.0.1.1
    192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2606:4700:4700::1111 2a00:1450::1 2400::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", (LOCAL + NO_ADDRESSES).split())
def test_what_only_this_machine_could_reach_is_not_connected_to(address: str) -> None:
    """HARDENING 23."""
    assert not AddressPolicy(EgressOptions()).allows(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_connected_to(address: str) -> None:
    assert AddressPolicy(EgressOptions()).allows(address)


def test_networks_are_allowed_and_denied_by_the_configuration() -> None:
    policy = AddressPolicy(
        EgressOptions(
            allow_networks=(Network.parse("10.1.0.0/16"), Network.parse("8.8.8.8")),
            deny_networks=(Network.parse("8.8.0.0/16"),),
        )
    )
    asked = ("10.1.2.3", "::ffff:10.1.2.3", "10.2.0.1", "8.8.8.8", "8.8.4.4", "::ffff:8.8.4.4", "9.9.9.9")
    assert [policy.allows(address) for address in asked] == [True, True, False, True, False, False, True]


SPELLINGS = """
    127.0.0.1 localhost LOCALHOST localhost. 127.1 127.0.1 0x7f.0.0.1 0x7f000001 2130706433 0177.0.0.1 0
    0.0.0.0 [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:0:0:1] [64:ff9b::7f00:1] inner.example.org
"""


@pytest.mark.parametrize("host", SPELLINGS.split())
async def test_no_spelling_of_this_machine_leads_to_it(internet: Internet, host: str) -> None:
    """HARDENING 23."""
    site = await internet.site("localhost", "inner.example.org", address="127.0.0.1", port=0)
    internet.name_server.add("inner.example.org", "A", ["127.0.0.1"])
    for name in ("localhost", "127.1", "127.0.1", "2130706433"):
        internet.name_server.add(name, "A", ["127.0.0.1"])
    egress = internet.egress(allow_networks=())
    with pytest.raises(NotConnected):
        await fetch(egress, host, site.port)
    assert not site.handshakes


async def test_a_name_that_changes_its_address_is_judged_by_each(internet: Internet) -> None:
    """HARDENING 23: the resolver answers with an allowed address first, and with another one then."""
    good, inner = await internet.site("a.example.org"), await internet.site("a.example.org")
    internet.name_server.add("a.example.org", "A", [good.address], [inner.address])
    egress = internet.egress(allow_networks=(Network.parse(good.address),))
    await fetch(egress, "a.example.org", 8448)
    with pytest.raises(NotConnected, match="not an address that may be connected to"):
        await fetch(egress, "a.example.org.", 8448)
    assert good.seen
    assert not inner.handshakes


async def test_of_several_addresses_those_that_are_allowed_are_used(internet: Internet) -> None:
    good, inner = await internet.site("a.example.org"), await internet.site("a.example.org")
    internet.name_server.add("a.example.org", "A", [inner.address, good.address])
    egress = internet.egress(allow_networks=(Network.parse(good.address),))
    assert (await fetch(egress, "a.example.org", 8448)).status == 404
    assert not inner.handshakes


async def test_a_proxy_in_the_environment_is_not_used(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    await internet.host("a.example.org")
    assert (await fetch(internet.egress(), "a.example.org", 8448)).status == 404


# --- Certificates


async def test_a_certificate_for_another_name_is_refused(internet: Internet) -> None:
    site = await internet.site("b.example.org")
    internet.name_server.add("a.example.org", "A", [site.address])
    egress = internet.egress()
    with pytest.raises(NotConnected, match="certificate"):
        await fetch(egress, "a.example.org", 8448)
    assert (await fetch(egress, "a.example.org", 8448, tls_name="b.example.org")).status == 404
    assert site.handshakes == ["a.example.org", "b.example.org"]


async def test_a_connection_is_not_reused_for_another_name(internet: Internet) -> None:
    """What proved to be one server does not get what is meant for another one at the same address."""
    site = await internet.host("a.example.org")
    egress = internet.egress()
    await fetch(egress, site.address, 8448, tls_name="a.example.org")
    await fetch(egress, site.address, 8448, tls_name="a.example.org")
    with pytest.raises(NotConnected, match="certificate"):
        await fetch(egress, site.address, 8448, tls_name="b.example.org")
    assert len({seen.connection for seen in site.seen}) == 1
    assert len(site.seen) == 2


async def test_a_certificate_of_an_unknown_authority_is_refused_unless_it_is_configured(
    internet: Internet, tmp_path: Path
) -> None:
    authority = trustme.CA()
    tls = certificate("a.example.org", ca=authority)
    site = await internet.site(tls=tls)
    internet.name_server.add("a.example.org", "A", [site.address])
    with pytest.raises(NotConnected, match="certificate"):
        await fetch(internet.egress(), "a.example.org", 8448)
    with authority.cert_pem.tempfile(dir=str(tmp_path)) as path:
        trusting = internet.egress(ca=path)
    assert (await fetch(trusting, "a.example.org", 8448)).status == 404
    careless = internet.egress(verify_certificates=False)
    assert (await fetch(careless, "a.example.org", 8448)).status == 404


async def test_a_file_without_certificates_is_told(internet: Internet, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("none")
    for each in (path, tmp_path / "absent.pem"):
        with pytest.raises(OSError, match=rf"egress\.ca: .*{each}"):
            internet.egress(ca=str(each))


# --- Answers


async def test_redirects_are_not_followed(internet: Internet) -> None:
    site, other = await internet.host("a.example.org"), await internet.host("b.example.org")
    site.redirect("/", "https://b.example.org:8448/")
    answer = await fetch(internet.egress(), "a.example.org", 8448)
    assert (answer.status, answer.headers["Location"]) == (302, "https://b.example.org:8448/")
    assert not other.seen


async def test_cookies_are_not_kept(internet: Internet) -> None:
    site = await internet.host("a.example.org")
    site.answer("/", b"", Set_Cookie="a=b")
    egress = internet.egress()
    await fetch(egress, "a.example.org", 8448)
    await fetch(egress, "a.example.org", 8448)
    assert "Cookie" not in site.seen[1].headers


async def test_an_answer_may_be_as_long_as_asked_for_and_no_longer(internet: Internet) -> None:
    site = await internet.host("a.example.org")
    site.answer("/", b"x" * 1000)
    site.answer("/more", b"x" * 1001)
    egress = internet.egress()
    assert len((await fetch(egress, "a.example.org", 8448)).body) == 1000
    with pytest.raises(TooLarge):
        await fetch(egress, "a.example.org", 8448, "/more")


async def test_an_endless_answer_is_cut_off(internet: Internet) -> None:
    """HARDENING 7."""
    written = 0

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
        return response

    site = await internet.host("a.example.org")
    site.pages["/"] = flood
    with pytest.raises(TooLarge):
        await fetch(internet.egress(), "a.example.org", 8448, max_bytes=1_000_000)
    await asyncio.sleep(0.05)
    assert written < 20_000_000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_what_is_counted_is_the_unpacked_size(internet: Internet, coding: str) -> None:
    """HARDENING 12."""
    packed = (gzip if coding == "gzip" else zlib).compress(bytes(10_000_000))
    site = await internet.host("a.example.org")
    site.answer("/", packed, Content_Encoding=coding)
    with pytest.raises(TooLarge):
        await fetch(internet.egress(), "a.example.org", 8448, max_bytes=100_000)


async def test_a_dripping_answer_ends_with_the_time_for_the_whole(internet: Internet) -> None:
    """HARDENING 7."""

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x")
            await asyncio.sleep(0.02)
        return response

    site = await internet.host("a.example.org")
    site.pages["/"] = drip
    with pytest.raises(Interrupted):
        await fetch(internet.egress(), "a.example.org", 8448, seconds=0.3)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
    await writer.drain()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HELLO\r\n\r\n")
    await writer.drain()


async def long_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1000):
        writer.write(b"X-Y: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize("talk", [hang, half, garbage, long_headers])
async def test_what_is_no_answer_is_an_error_in_time(
    internet: Internet, talk: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 7."""
    monkeypatch.setattr(client, "SILENT_SECONDS", 0.3)
    site = await internet.raw("a.example.org", talk)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        await fetch(internet.egress(), "a.example.org", site.port)


async def test_a_host_that_does_not_finish_the_handshake_is_given_up(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.2)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    internet.name_server.add("a.example.org", "A", ["127.0.0.1"])
    with pytest.raises(NotConnected):
        await fetch(internet.egress(), "a.example.org", port)
    server.close()


async def test_silent_hosts_do_not_hold_up_others(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 7."""
    monkeypatch.setattr(client, "MAX_CONNECTIONS_PER_HOST", 3)
    silent = await internet.raw("silent.example.org", hang)
    await internet.host("a.example.org")
    egress = internet.egress()
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(fetch(egress, "silent.example.org", silent.port, seconds=60.0))
            for _ in range(10)
        ]
        async with asyncio.timeout(10):
            assert (await fetch(egress, "a.example.org", 8448)).status == 404
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
