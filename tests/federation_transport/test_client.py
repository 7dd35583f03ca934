"""Requests from server to server: signed, answered or not, and to whom at all."""

import json
import random
from typing import Any

import pytest

from federation.backoff import MAX_SERVERS, Backoff
from federation.client import MAX_ERROR_BYTES, request_target
from federation.errors import BackingOff, InvalidAnswer, Refused, RemoteError, Unreachable
from federation.request_auth import authorization
from homeserver.errors import MatrixError
from tests.federation_transport.conftest import Start
from tests.federation_transport.network import Internet, Site, Time, new_address
from tests.federation_transport.peers import DAY, Server

WHO = "/_matrix/federation/v1/who"
PATH = "/_matrix/federation/v1/x"
PEER = "peer.example.org"


@pytest.fixture
async def site(internet: Internet) -> Site:
    return await internet.host(PEER)


@pytest.fixture
async def server(start: Start) -> Server:
    return start()


def test_targets_are_escaped() -> None:
    assert request_target("/a", "!r:é/x?y#z", "..") == "/a/%21r%3A%C3%A9%2Fx%3Fy%23z/.."
    assert request_target("/a", query={"v": ["1", "2"], "via": "a b&c"}) == "/a?v=1&v=2&via=a%20b%26c"


async def test_one_server_knows_the_other_by_its_request(internet: Internet, start: Start) -> None:
    one, two = start("one.example.org"), start("two.example.org")
    await one.listen(internet)
    await two.listen(internet)
    target = request_target(WHO, query={"a": "b/c d"})
    assert await one.client.get(two.name, target) == {"origin": one.name}
    content: dict[str, Any] = {"pdus": [], "é": [1.5, None, 2**60]}
    assert await one.client.put(two.name, WHO, content) == {"origin": one.name}
    assert await two.client.post(one.name, WHO, {}) == {"origin": two.name}


@pytest.mark.parametrize(
    "options", [{"deny": ("one.*",)}, {"allow": ("three.example.org",)}, {"enabled": False}]
)
async def test_servers_that_are_shut_out_are_neither_asked_nor_answered(
    internet: Internet, start: Start, options: dict[str, Any]
) -> None:
    one, strict = start("one.example.org"), start("two.example.org", **options)
    site = await one.listen(internet)
    with pytest.raises(Refused):
        await strict.client.get(one.name, WHO)
    headers = [f'X-Matrix origin="{one.name}",key="ed25519:a_1",sig="AAAA"']
    with pytest.raises(MatrixError) as refused:
        await strict.authenticator.origin("GET", WHO, headers, None)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    assert not site.seen


@pytest.mark.parametrize(
    "name", ["own.example.org", "", "a b", "a/b", "user@a.example.org", "a:99999", "[::x]"]
)
async def test_what_is_no_other_server_is_not_asked(server: Server, name: str) -> None:
    with pytest.raises(Refused):
        await server.client.get(name, PATH)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Bearer abc"],
        ["X-Matrix nonsense"],
        ['X-Matrix origin="one.example.org",key="ed25519:a_1",sig="AAAA"'],
        ['X-Matrix origin="one.example.org",key="ed25519:a_9",sig="AAAA"'],
        ['X-Matrix origin="away.example.org",key="ed25519:a_1",sig="AAAA"'],
        ['X-Matrix origin="own.example.org",key="ed25519:a_1",sig="AAAA"'],
        ['X-Matrix origin="one.example.org",destination="two.example.org",key="ed25519:a_1",sig="AAAA"'],
        ['X-Matrix origin="one.example.org",key="ed25519:a_1",sig="AAAA"'] * 2,
    ],
)
async def test_requests_that_are_not_signed_are_refused(
    internet: Internet, start: Start, headers: list[str]
) -> None:
    await start("one.example.org").listen(internet)
    server = start()
    server.backoff.failed("one.example.org")
    with pytest.raises(MatrixError) as refused:
        await server.authenticator.origin("GET", WHO, headers, None)
    assert (refused.value.status, refused.value.errcode) == (401, "M_UNAUTHORIZED")
    assert server.backoff.wait_ms("one.example.org"), "what is not proven is no sign of life"


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "{", '{"a":1,"a":2}', "x" * 100, "\ud800".encode("utf-8", "surrogatepass")]
)
async def test_an_answer_that_is_no_json_object_is_invalid(
    site: Site, server: Server, body: str | bytes
) -> None:
    site.answer(PATH, body)
    with pytest.raises(InvalidAnswer):
        await server.client.get(PEER, PATH)


async def test_a_request_that_was_signed_for_another_server_is_refused(
    internet: Internet, start: Start
) -> None:
    one, two, three = (start(f"{name}.example.org") for name in ("one", "two", "three"))
    await one.listen(internet)
    header = authorization("GET", WHO, one.name, two.name, one.key)
    assert await two.authenticator.origin("GET", WHO, [header], None) == one.name
    with pytest.raises(MatrixError, match="another destination") as refused:
        await three.authenticator.origin("GET", WHO, [header], None)
    assert refused.value.status == 401


async def test_an_answer_is_as_large_as_wanted_at_most(site: Site, server: Server) -> None:
    site.answer(PATH, json.dumps({"a": "x" * 1000}))
    assert await server.client.get(PEER, PATH)
    with pytest.raises(InvalidAnswer):
        await server.client.get(PEER, PATH, max_bytes=1000)


@pytest.mark.parametrize(
    ("status", "body", "errcode"),
    [
        (403, '{"errcode":"M_FORBIDDEN","error":"no","room_version":"1"}', "M_FORBIDDEN"),
        (404, "<html>", "M_UNKNOWN"),
        (400, "[]", "M_UNKNOWN"),
        (400, '{"errcode":5,"error":[]}', "M_UNKNOWN"),
        (302, "", "M_UNKNOWN"),
        (500, '{"errcode":"M_X' + "X" * 1000 + '"}', "M_X" + "X" * 252),
        (400, '{"errcode":"M_X","error":"' + "x" * MAX_ERROR_BYTES + '"}', "M_UNKNOWN"),
    ],
)
async def test_errors_are_told_as_they_are(
    site: Site, server: Server, status: int, body: str, errcode: str
) -> None:
    site.answer(PATH, body, status)
    with pytest.raises(RemoteError) as told:
        await server.client.get(PEER, PATH)
    assert (told.value.status, told.value.errcode, told.value.destination) == (status, errcode, PEER)
    if status == 403:
        assert told.value.content["room_version"] == "1"


# --- Back-off


async def test_a_server_that_is_away_is_not_asked_for_a_while(
    internet: Internet, server: Server, time: Time
) -> None:
    internet.name_server.add(PEER, "A", [new_address()])
    with pytest.raises(Unreachable):
        await server.client.get(PEER, PATH)
    site = await internet.host(PEER)
    site.answer(PATH, "{}")
    with pytest.raises(BackingOff) as waiting:
        await server.client.get(PEER, PATH)
    assert 10_000 <= waiting.value.retry_after_ms <= 12_000
    assert not site.handshakes
    time.pass_ms(waiting.value.retry_after_ms)
    assert await server.client.get(PEER, PATH) == {}
    assert server.backoff.silence(PEER) is None


async def test_a_request_from_a_server_ends_its_back_off(internet: Internet, start: Start) -> None:
    one, two = start("one.example.org"), start("two.example.org")
    await one.listen(internet)
    await two.listen(internet)
    two.backoff.failed(one.name)
    await one.client.get(two.name, WHO)
    assert await two.client.get(one.name, WHO) == {"origin": two.name}


@pytest.mark.parametrize(
    ("status", "headers", "body", "pause"),
    [
        (502, {}, "", 10_000),
        (500, {}, '{"errcode":"M_UNKNOWN"}', 10_000),
        (429, {}, '{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":60000}', 60_000),
        (503, {"Retry_After": "120"}, "", 120_000),
        (429, {"Retry_After": "99999999999999"}, "", 3_600_000),
        (429, {"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT"}, "", 10_000),
        (429, {}, '{"retry_after_ms":"long"}', 10_000),
        (400, {}, "", 0),
        (404, {}, "", 0),
        (401, {}, '{"errcode":"M_UNAUTHORIZED"}', 0),
    ],
)
async def test_a_server_in_trouble_is_spared(
    site: Site, server: Server, status: int, headers: dict[str, str], body: str, pause: int
) -> None:
    site.answer(PATH, body, status, **headers)
    with pytest.raises(RemoteError):
        await server.client.get(PEER, PATH)
    assert pause <= server.backoff.wait_ms(PEER) <= pause * 1.2


def test_pauses_double_up_to_the_longest_and_differ(time: Time) -> None:
    backoffs = [Backoff(time, first_ms=1000, longest_ms=60_000, rng=random.Random(seed)) for seed in (1, 2)]
    waits: list[list[int]] = [[], []]
    for _ in range(10):
        for backoff, waited in zip(backoffs, waits, strict=True):
            backoff.failed("a")
            waited.append(backoff.wait_ms("a"))
        time.pass_ms(100_000)
    for waited in waits:
        expected = [min(1000 * 2**number, 60_000) for number in range(10)]
        assert all(most <= wait <= 1.2 * most for wait, most in zip(waited, expected, strict=True))
    assert waits[0] != waits[1]


def test_what_fails_together_counts_once(time: Time) -> None:
    backoff = Backoff(time, first_ms=1000, longest_ms=60_000)
    began = time()
    for _ in range(10):
        backoff.failed("a")
    assert backoff.wait_ms("a") <= 1200
    time.pass_ms(2000)
    backoff.failed("a")
    assert 2000 <= backoff.wait_ms("a") <= 2400
    silence = backoff.silence("a")
    assert silence is not None
    assert silence.since == began
    backoff.alive("a")
    backoff.failed("a")
    assert backoff.wait_ms("a") <= 1200


def test_a_clock_that_was_ahead_makes_no_pause_longer(time: Time) -> None:
    backoff = Backoff(time, first_ms=1000, longest_ms=60_000)
    time.pass_ms(10 * DAY)
    backoff.failed("a")
    assert backoff.wait_ms("a") > 0
    time.pass_ms(-10 * DAY)
    assert backoff.wait_ms("a") == 0
    backoff.failed("a")
    assert 2000 <= backoff.wait_ms("a") <= 2400


def test_what_is_remembered_is_bounded(time: Time) -> None:
    backoff = Backoff(time)
    for number in range(MAX_SERVERS + 10):
        backoff.failed(f"h{number}")
    assert backoff.wait_ms("h9") == 0
    assert backoff.wait_ms("h10") > 0
