"""From a name to a server, step by step, against a real name server and real TLS.

spec: server-server#resolving-server-names
"""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from federation.discovery import MAX_TARGETS, Discovery, Route
from federation.errors import Unreachable
from federation.transport import Transport
from federation.well_known import MAX_BYTES, WellKnown
from homeserver.config.units import Network
from homeserver.egress.client import Answer
from homeserver.egress.names import Names, NoSuchHost
from tests.federation_transport.network import Internet, Site, Time, certificate

PATH = "/.well-known/matrix/server"
FAR_MS = 49 * 3_600_000


class Finder:
    """What a server uses to reach others."""

    def __init__(self, internet: Internet, time: Time, seconds: float = 5.0) -> None:
        names = internet.names()
        egress = internet.egress(names)
        self.well_known = WellKnown(egress, time, seconds=seconds)
        rng = random.Random(3)
        self.discovery = Discovery(names, self.well_known, time, seconds=seconds, rng=rng)
        self.transport = Transport(self.discovery, egress)

    async def route(self, name: str) -> Route:
        return await self.discovery.find(name)

    async def ask(self, name: str) -> Answer:
        return await self.transport.exchange(name, "GET", "/_matrix/x?y=z", seconds=10, max_bytes=1000)


@pytest.fixture
async def finder(internet: Internet, time: Time) -> Finder:
    return Finder(internet, time)


def delegate(site: Site, to: object, **headers: str) -> None:
    site.answer(PATH, json.dumps({"m.server": to}), **headers)


# --- The steps


async def test_step_1_an_address_with_a_port(internet: Internet, finder: Finder) -> None:
    site = await internet.site(port=0)
    name = f"{site.address}:{site.port}"
    assert (await finder.ask(name)).status == 404
    assert [(seen.host, seen.target, seen.sni) for seen in site.seen] == [(name, "/_matrix/x?y=z", None)]
    assert not internet.name_server.asked


async def test_step_1_an_address_alone(internet: Internet, finder: Finder) -> None:
    site = await internet.site()
    await finder.ask(site.address)
    assert [(seen.host, seen.sni) for seen in site.seen] == [(site.address, None)]


async def test_step_1_ipv6(internet: Internet, finder: Finder) -> None:
    assert await finder.route("[2001:db8::1]") == Route(
        "[2001:db8::1]", "2001:db8::1", (("2001:db8::1", 8448),)
    )
    try:
        site = await internet.site(port=0, address="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    await finder.ask(f"[::1]:{site.port}")
    assert [(seen.host, seen.sni) for seen in site.seen] == [(f"[::1]:{site.port}", None)]


async def test_step_1_an_address_needs_a_certificate_of_its_own(internet: Internet, finder: Finder) -> None:
    site = await internet.site(tls=certificate("a.example.org"))
    with pytest.raises(Unreachable, match="certificate"):
        await finder.ask(site.address)


async def test_step_2_a_name_with_a_port(internet: Internet, finder: Finder) -> None:
    site = await internet.host("a.example.org", 0)
    web = await internet.web("a.example.org")
    internet.name_server.add("a.example.org", "A", [site.address])
    name = f"a.example.org:{site.port}"
    await finder.ask(name)
    assert [(seen.host, seen.sni) for seen in site.seen] == [(name, "a.example.org")]
    assert not web.seen
    assert {kind for _, kind in internet.name_server.asked} == {"A", "AAAA"}


async def test_step_3_1_delegated_to_an_address(internet: Internet, finder: Finder) -> None:
    site = await internet.site(port=0)
    alone = await internet.site()
    for name, to in (("a.example.org", f"{site.address}:{site.port}"), ("b.example.org", alone.address)):
        delegate(await internet.web(name), to)
        await finder.ask(name)
    assert [(seen.host, seen.sni) for seen in site.seen] == [(f"{site.address}:{site.port}", None)]
    assert [(seen.host, seen.sni) for seen in alone.seen] == [(alone.address, None)]


async def test_step_3_2_delegated_to_a_name_with_a_port(internet: Internet, finder: Finder) -> None:
    web = await internet.web("example.org")
    site = await internet.host("matrix.example.org", 0)
    delegate(web, f"matrix.example.org:{site.port}")
    internet.name_server.add("_matrix-fed._tcp.matrix.example.org", "SRV", ["0 0 1 nowhere.example.org."])
    await finder.ask("example.org")
    assert [(seen.host, seen.sni) for seen in site.seen] == [
        (f"matrix.example.org:{site.port}", "matrix.example.org")
    ]
    assert [(seen.host, seen.sni, seen.target) for seen in web.seen] == [("example.org", "example.org", PATH)]


@pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
async def test_steps_3_3_and_3_4_delegated_to_a_name_with_srv(
    internet: Internet, finder: Finder, service: str
) -> None:
    delegate(await internet.web("example.org"), "matrix.example.org")
    site = await internet.site("matrix.example.org", port=0)
    internet.name_server.add("host7.example.net", "A", [site.address])
    internet.name_server.add(f"{service}.matrix.example.org", "SRV", [f"10 5 {site.port} host7.example.net."])
    await finder.ask("example.org")
    assert [(seen.host, seen.sni) for seen in site.seen] == [("matrix.example.org", "matrix.example.org")]


async def test_step_3_5_delegated_to_a_name_alone(internet: Internet, finder: Finder) -> None:
    delegate(await internet.web("example.org"), "matrix.example.org")
    site = await internet.host("matrix.example.org")
    await finder.ask("example.org")
    assert [(seen.host, seen.sni) for seen in site.seen] == [("matrix.example.org", "matrix.example.org")]


@pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
async def test_steps_4_and_5_srv_without_delegation(internet: Internet, finder: Finder, service: str) -> None:
    site = await internet.site("example.org", port=0)
    internet.name_server.add("host7.example.net", "A", [site.address])
    internet.name_server.add(f"{service}.example.org", "SRV", [f"10 5 {site.port} host7.example.net."])
    await finder.ask("example.org")
    assert [(seen.host, seen.sni) for seen in site.seen] == [("example.org", "example.org")]


async def test_step_5_the_old_service_is_asked_about_only_when_there_is_no_new_one(
    internet: Internet, finder: Finder
) -> None:
    internet.name_server.add("_matrix-fed._tcp.example.org", "SRV", ["0 0 1 new.example.org."])
    internet.name_server.add("_matrix._tcp.example.org", "SRV", ["0 0 1 old.example.org."])
    assert (await finder.route("example.org")).targets == (("new.example.org", 1),)
    assert ("_matrix._tcp.example.org", "SRV") not in internet.name_server.asked


async def test_step_6_the_name_alone(internet: Internet, finder: Finder) -> None:
    site = await internet.host("example.org")
    await finder.ask("example.org")
    assert [(seen.host, seen.sni) for seen in site.seen] == [("example.org", "example.org")]


async def test_srv_does_not_stand_in_for_the_certificate(internet: Internet, finder: Finder) -> None:
    """The target of an SRV record proves nothing by its own name: the DNS is not to be trusted."""
    site = await internet.host("thief.example.net")
    internet.name_server.add("_matrix-fed._tcp.example.org", "SRV", ["0 0 8448 thief.example.net."])
    with pytest.raises(Unreachable, match="certificate"):
        await finder.ask("example.org")
    assert not site.seen


# --- SRV


async def test_a_target_that_is_away_gives_way_to_the_next(internet: Internet, finder: Finder) -> None:
    site = await internet.site("example.org", port=0)
    internet.name_server.add("up.example.org", "A", [site.address])
    internet.name_server.add("down.example.org", "A", [site.address])
    internet.name_server.add(
        "_matrix-fed._tcp.example.org",
        "SRV",
        [f"20 0 {site.port} up.example.org.", "10 0 1 down.example.org.", "5 0 1 nowhere.example.org."],
    )
    assert (await finder.ask("example.org")).status == 404


async def test_priorities_come_first_and_weights_share(internet: Internet, finder: Finder) -> None:
    internet.name_server.ttl = 300
    internet.name_server.add(
        "_matrix-fed._tcp.example.org",
        "SRV",
        ["20 9 1 c.example.org.", "10 3 1 a.example.org.", "10 1 1 b.example.org.", "10 0 1 d.example.org."],
    )
    first: Counter[str] = Counter()
    for _ in range(400):
        finder.discovery.forget("example.org")
        order = [host for host, _ in (await finder.route("example.org")).targets]
        assert order[-1] == "c.example.org"
        first[order[0]] += 1
    assert 2 < first["a.example.org"] / first["b.example.org"] < 4.5
    assert first["d.example.org"] < 40


async def test_a_server_that_says_that_there_is_none_is_not_sought(
    internet: Internet, finder: Finder
) -> None:
    """RFC 2782: the target "."."""
    site = await internet.host("example.org")
    internet.name_server.add("_matrix-fed._tcp.example.org", "SRV", ["0 0 0 ."])
    with pytest.raises(Unreachable, match="leads nowhere"):
        await finder.ask("example.org")
    assert not site.handshakes


async def test_srv_records_are_bounded_and_looked_at(internet: Internet, finder: Finder) -> None:
    records = [f"1 1 1 h{number}.example.org." for number in range(15)]
    internet.name_server.add("_matrix-fed._tcp.example.org", "SRV", records)
    assert len((await finder.route("example.org")).targets) == MAX_TARGETS
    internet.name_server.add(
        "_matrix-fed._tcp.example.net", "SRV", [r"1 1 1 a\032b.", r"1 1 2 a\047b.", "1 1 3 good.example.net."]
    )
    assert (await finder.route("example.net")).targets == (("good.example.net", 3),)


async def test_a_name_server_that_fails_or_is_silent_leaves_the_rest_of_the_steps(
    internet: Internet, time: Time
) -> None:
    finder = Finder(internet, time, seconds=0.3)
    internet.name_server.failing.add("_matrix-fed._tcp.a.example.org")
    internet.name_server.silent.add("_matrix-fed._tcp.b.example.org")
    for name in ("a.example.org", "b.example.org"):
        site = await internet.host(name)
        await finder.ask(name)
        assert site.seen


# --- .well-known


async def test_redirects_are_followed_within_tls(internet: Internet, finder: Finder) -> None:
    first, second = await internet.web("example.org"), await internet.web("www.example.org")
    first.redirect(PATH, "https://www.example.org/there")
    second.redirect("/there", "/here")
    second.answer("/here", json.dumps({"m.server": "matrix.example.org:1"}))
    assert await finder.well_known.delegated("example.org") == "matrix.example.org:1"


@pytest.mark.parametrize(
    "location",
    ["", "http://www.example.org/here", "ftp://www.example.org/", "https://", "//[", "javascript:1"],
)
async def test_redirects_out_of_tls_are_not(internet: Internet, finder: Finder, location: str) -> None:
    first, second = await internet.web("example.org"), await internet.web("www.example.org")
    first.redirect(PATH, location)
    second.answer("/here", json.dumps({"m.server": "matrix.example.org:1"}))
    assert await finder.well_known.delegated("example.org") is None
    assert not second.seen


async def test_a_redirect_to_plain_http_is_not_followed(internet: Internet, finder: Finder) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"m.server": "thief.example.net"})

    site = await internet.web("example.org")
    plain = await asyncio.get_running_loop().create_server(web.Server(answer), site.address, 0)
    port = plain.sockets[0].getsockname()[1]
    site.redirect(PATH, f"http://example.org:{port}{PATH}")
    assert await finder.well_known.delegated("example.org") is None
    plain.close()


async def test_a_redirect_to_this_machine_leads_nowhere(internet: Internet, time: Time) -> None:
    """HARDENING 23."""
    first = await internet.web("example.org")
    inner = await internet.site(address="127.0.0.1", port=0)
    inner.answer("/", json.dumps({"m.server": "matrix.example.org:1"}))
    first.redirect(PATH, f"https://127.0.0.1:{inner.port}/")
    egress = internet.egress(allow_networks=(Network.parse(first.address),))
    assert await WellKnown(egress, time, seconds=5.0).delegated("example.org") is None
    assert first.seen
    assert not inner.handshakes


async def test_a_redirect_loop_ends(internet: Internet, finder: Finder) -> None:
    """HARDENING 7."""
    site = await internet.web("example.org")
    site.redirect(PATH, PATH)
    assert await finder.well_known.delegated("example.org") is None
    assert len(site.seen) == 6


NOT_DELEGATING = [
    b"",
    b"null",
    b"[]",
    b'"matrix.example.org"',
    b"{}",
    b'{"m.server": null}',
    b'{"m.server": 5}',
    b'{"m.server": ["matrix.example.org"]}',
    b'{"m.server": ""}',
    b'{"m.server": "matrix.example.org:99999"}',
    b'{"m.server": "https://matrix.example.org"}',
    b'{"m.server": "matrix.example.org/x"}',
    b'{"m.server": "user@matrix.example.org"}',
    b'{"m.server": "matrix.example.org\\u0000"}',
    b'{"m.server": "a.example.org", "m.server": "b.example.org"}',
    b'{"m.server": "matrix.example.org"',
    b'{"m.server": "matrix.example.org", "x": ' + b"[" * 50 + b"]" * 50 + b"}",
    b'{"m.server": "matrix.example.org", "x": "' + b"x" * MAX_BYTES + b'"}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", NOT_DELEGATING, ids=range(len(NOT_DELEGATING)))
async def test_a_file_that_says_nothing_sensible_is_none(
    internet: Internet, finder: Finder, body: bytes
) -> None:
    site = await internet.web("example.org")
    site.answer(PATH, body)
    assert (await finder.route("example.org")).targets == (("example.org", 8448),)


async def test_only_a_success_counts(internet: Internet, finder: Finder) -> None:
    site = await internet.web("example.org")
    site.answer(PATH, json.dumps({"m.server": "matrix.example.org"}), 404)
    assert await finder.well_known.delegated("example.org") is None


async def test_a_web_server_that_drips_is_given_up(internet: Internet, time: Time) -> None:
    """HARDENING 7."""

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    (await internet.web("example.org")).pages[PATH] = drip
    site = await internet.host("matrix.example.org")
    internet.name_server.add("_matrix._tcp.example.org", "SRV", ["0 0 8448 matrix.example.org."])
    finder = Finder(internet, time, seconds=0.3)
    route = await finder.route("example.org")
    assert route.targets == (("matrix.example.org", 8448),)
    assert site.address


async def asked_again_after(internet: Internet, finder: Finder, time: Time, site: Site) -> int:
    """In how many ms, to the minute, the domain is asked again."""
    before, began = len(site.seen), time.now
    while len(site.seen) == before and time.now - began < FAR_MS:
        time.pass_ms(60_000)
        await finder.well_known.delegated("example.org")
    return time.now - began


HOUR = 3_600_000


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ({}, 24 * HOUR),
        ({"Cache_Control": "max-age=3600"}, HOUR),
        ({"Cache_Control": "public, MAX-AGE = 7200, immutable"}, 2 * HOUR),
        ({"Cache_Control": "max-age=99999999"}, 48 * HOUR),
        ({"Cache_Control": "max-age=1"}, 5 * 60_000),
        ({"Cache_Control": "max-age=x"}, 24 * HOUR),
        ({"Cache_Control": "no-store"}, 5 * 60_000),
        ({"Expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, HOUR),
        ({"Expires": "Tue, 14 Nov 2023 23:13:20 GMT", "Cache_Control": "max-age=7200"}, 2 * HOUR),
        ({"Expires": "0"}, 5 * 60_000),
    ],
)
async def test_it_is_kept_as_its_headers_say_within_bounds(
    internet: Internet, finder: Finder, time: Time, headers: dict[str, str], lifetime: int
) -> None:
    site = await internet.web("example.org")
    delegate(site, "matrix.example.org:1", **headers)
    assert await finder.well_known.delegated("example.org") == "matrix.example.org:1"
    assert await asked_again_after(internet, finder, time, site) == lifetime


async def test_errors_are_kept_ever_longer_up_to_an_hour(
    internet: Internet, finder: Finder, time: Time
) -> None:
    site = await internet.web("example.org")
    await finder.well_known.delegated("example.org")
    waits = [await asked_again_after(internet, finder, time, site) // 60_000 for _ in range(7)]
    assert waits == [2, 4, 8, 16, 32, 60, 60]


async def test_a_domain_that_delegated_is_believed_on_while_it_fails_for_a_while(
    internet: Internet, finder: Finder, time: Time
) -> None:
    site = await internet.web("example.org")
    delegate(site, "matrix.example.org:1", Cache_Control="max-age=3600")
    await finder.well_known.delegated("example.org")
    site.answer(PATH, b"", 503)
    time.pass_ms(47 * HOUR)
    assert await finder.well_known.delegated("example.org") == "matrix.example.org:1"
    time.pass_ms(2 * HOUR)
    assert await finder.well_known.delegated("example.org") is None


async def test_who_asks_at_once_asks_once(internet: Internet, finder: Finder) -> None:
    site = await internet.web("example.org")
    delegate(site, "matrix.example.org:1")
    routes = await asyncio.gather(*(finder.route("example.org") for _ in range(20)))
    assert set(routes) == {Route("matrix.example.org:1", "matrix.example.org", (("matrix.example.org", 1),))}
    assert len(site.seen) == 1


async def test_who_gives_up_waiting_does_not_end_it_for_the_others(
    internet: Internet, finder: Finder
) -> None:
    delegate(await internet.web("example.org"), "matrix.example.org:1")
    first = asyncio.create_task(finder.route("example.org"))
    await asyncio.sleep(0)
    second = asyncio.create_task(finder.route("example.org"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).host_header == "matrix.example.org:1"


# --- Routes


async def test_a_route_is_kept_until_nobody_answers_there(internet: Internet, finder: Finder) -> None:
    site = await internet.site("example.org", port=0)
    internet.name_server.add("a.example.org", "A", [site.address])
    service = "_matrix-fed._tcp.example.org"
    internet.name_server.add(
        service,
        "SRV",
        [f"0 0 {site.port} a.example.org."],
        ["0 0 1 a.example.org."],
        [f"0 0 {site.port} a.example.org."],
    )
    await finder.ask("example.org")
    await finder.ask("example.org")
    assert internet.name_server.asked.count((service, "SRV")) == 1
    finder.discovery.forget("example.org")
    with pytest.raises(Unreachable):
        await finder.ask("example.org")
    await finder.ask("example.org")
    assert internet.name_server.asked.count((service, "SRV")) == 3


async def test_a_name_that_is_not_in_the_dns_is_unreachable(finder: Finder) -> None:
    with pytest.raises(Unreachable, match=r"nowhere\.example\.org"):
        await finder.ask("nowhere.example.org")
    with pytest.raises(Unreachable):
        await finder.ask("a..b")


# --- The machine's own names


async def test_the_hosts_file_comes_first_and_is_read_anew(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n::1\tlocalhost # both\n10.1.2.3 HS1 hs1.example.org\nnonsense x\n\n"
    )
    names = Names(hosts)
    assert await names.addresses("localhost") == ["127.0.0.1", "::1"]
    assert await names.addresses("hs1") == ["10.1.2.3"]
    assert await names.addresses("HS1.example.org.") == ["10.1.2.3"]
    hosts.write_text("10.9.9.9 hs1 longer.example.org\n")
    assert await names.addresses("hs1") == ["10.9.9.9"]


async def test_answers_of_the_dns_are_kept_for_as_long_as_they_say(internet: Internet) -> None:
    internet.name_server.ttl = 300
    internet.name_server.add("a.example.org", "A", ["192.0.2.1"], ["192.0.2.2"])
    names = internet.names()
    assert await names.addresses("a.example.org") == ["192.0.2.1"]
    assert await names.addresses("a.example.org") == ["192.0.2.1"]
    with pytest.raises(NoSuchHost):
        await names.addresses("b.example.org")


async def test_that_there_is_no_such_name_is_not_believed_for_ever(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name servers that do not say for how long would have it so."""
    monkeypatch.setattr("homeserver.egress.names.MAX_ABSENT_SECONDS", 0.0)
    names = internet.names()
    with pytest.raises(NoSuchHost):
        await names.addresses("a.example.org")
    internet.name_server.add("a.example.org", "A", ["192.0.2.1"])
    assert await names.addresses("a.example.org") == ["192.0.2.1"]


async def test_addresses_of_both_families_are_found(internet: Internet) -> None:
    internet.name_server.add("a.example.org", "A", ["192.0.2.1"])
    internet.name_server.add("a.example.org", "AAAA", ["2001:db8::1"])
    assert await internet.names().addresses("a.example.org") == ["2001:db8::1", "192.0.2.1"]
