"""Keys of other servers: what is believed, for how long, and how often they are asked."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from federation import key_ring
from federation.key_ring import LEAST_BETWEEN_MS, UnknownKey
from federation.own_keys import OwnKeys
from federation.published_keys import MAX_KEYS, read_keys
from homeserver.protocol.canonical_json import encode
from homeserver.protocol.events import build_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import InvalidSignature, SigningKey, sign_json
from homeserver.server_key import establish, replace
from storage.records.server_key import SERVER_KEY
from tests.federation_transport.conftest import Start
from tests.federation_transport.network import Internet, Time
from tests.federation_transport.peers import DAY, KEYS_PATH, Peer, Server, key_of, new_store, published

NAME = "peer.example.org"
V11, V4 = ROOM_VERSIONS["11"], ROOM_VERSIONS["4"]
WEEK = 7 * DAY


@pytest.fixture
async def peer(internet: Internet, time: Time) -> Peer:
    return await Peer.at(internet, NAME, time)


def event(
    server: str, key: SigningKey, ts: int, version: RoomVersion = V11
) -> tuple[RoomVersion, JsonObject]:
    made, _ = build_event(
        version,
        room_id="!room:example.org",
        type="m.room.message",
        sender=f"@alice:{server}",
        state_key=None,
        content={"body": "hello"},
        prev_events=["$" + "a" * 43],
        auth_events=["$" + "b" * 43],
        depth=5,
        origin_server_ts=ts,
        server_name=server,
        key=key,
    )
    return version, made.pdu


async def holds(server: Server, *events: tuple[RoomVersion, JsonObject]) -> list[bool]:
    return [problem is None for problem in await server.ring.verify(events)]


# --- What is believed


async def test_a_server_is_asked_for_its_key_once(peer: Peer, start: Start) -> None:
    server = start()
    for _ in range(3):
        assert await server.ring.request_key(NAME, peer.key.key_id) == peer.key.verify_key_base64
    assert peer.asked == 1
    (seen,) = peer.site.seen
    assert "Authorization" not in seen.headers


async def test_keys_outlive_a_restart(peer: Peer, start: Start) -> None:
    await start().ring.request_key(NAME, peer.key.key_id)
    peer.fail()
    assert await start().ring.request_key(NAME, peer.key.key_id) == peer.key.verify_key_base64
    assert peer.asked == 1


OTHER = key_of("other.example.org")
MINE = key_of(NAME)
ANOTHER = key_of(NAME, "a_2")
WEAK = "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"
NOW = Time().now


def without(said: JsonObject, *names: str) -> JsonObject:
    return {key: value for key, value in said.items() if key not in names}


LIES: dict[str, Any] = {
    "another server's": published("other.example.org", [MINE], NOW + DAY),
    "for another server, signed as this one": published(NAME, [MINE], NOW + DAY, server_name="x.example.org"),
    "no server_name": without(published(NAME, [MINE], NOW + DAY), "server_name"),
    "not signed": published(NAME, [MINE], NOW + DAY, signers=[]),
    "signed by a key that is not in it": published(NAME, [MINE], NOW + DAY, signers=[ANOTHER]),
    "signed by another key of that name": published(NAME, [MINE], NOW + DAY, signers=[OTHER]),
    "altered": {**published(NAME, [MINE], NOW + DAY), "valid_until_ts": NOW + 2 * DAY},
    "signed by its old key alone": published(NAME, [MINE], NOW + DAY, old={MINE: NOW}),
    "signatures as a list": {**published(NAME, [MINE], NOW + DAY), "signatures": [1]},
    "a signature that is none": {
        **published(NAME, [MINE], NOW + DAY),
        "signatures": {NAME: {MINE.key_id: "AAAA"}},
    },
    "no validity": published(NAME, [MINE], NOW + DAY, valid_until_ts=None),
    "validity as text": published(NAME, [MINE], NOW + DAY, valid_until_ts=str(NOW + DAY)),
    "validity as a fraction": published(NAME, [MINE], NOW + DAY, valid_until_ts=NOW + 0.5),
    "validity as true": published(NAME, [MINE], NOW + DAY, valid_until_ts=True),
    "over": published(NAME, [MINE], NOW - 1),
    "no keys": published(NAME, [MINE], NOW + DAY, verify_keys={}),
    "keys as a list": published(NAME, [MINE], NOW + DAY, verify_keys=[MINE.verify_key_base64]),
    "a key as text": published(NAME, [MINE], NOW + DAY, verify_keys={MINE.key_id: MINE.verify_key_base64}),
    "a key that is too short": published(NAME, [MINE], NOW + DAY, verify_keys={MINE.key_id: {"key": "AAAA"}}),
    "a key that is no Base64": published(NAME, [MINE], NOW + DAY, verify_keys={MINE.key_id: {"key": "é"}}),
    "a key of no order": published(NAME, [MINE], NOW + DAY, verify_keys={MINE.key_id: {"key": "A" * 43}}),
    "another algorithm": published(
        NAME, [MINE], NOW + DAY, verify_keys={"rsa:a_1": {"key": MINE.verify_key_base64}}
    ),
    "not an object": [published(NAME, [MINE], NOW + DAY)],
    "too large": published(NAME, [MINE], NOW + DAY, padding="x" * 65_536),
    "too deep": published(NAME, [MINE], NOW + DAY, padding=json.loads("[" * 20 + "]" * 20)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_an_answer_that_does_not_prove_the_key_gives_none(
    peer: Peer, start: Start, lie: JsonObject
) -> None:
    """HARDENING 6."""
    peer.say(lie)
    server = start()
    with pytest.raises(UnknownKey):
        await server.ring.request_key(NAME, MINE.key_id)
    assert await holds(server, event(NAME, MINE, NOW)) == [False]


async def test_a_key_whose_secret_is_out_is_refused(peer: Peer, start: Start, time: Time) -> None:
    """HARDENING 6: beside a sound one, too."""
    said = published(NAME, [MINE], time() + DAY)
    both = {**said["verify_keys"], "ed25519:weak": {"key": WEAK}}
    peer.say(published(NAME, [MINE], time() + DAY, verify_keys=both))
    ring = start().ring
    await ring.request_key(NAME, MINE.key_id)
    with pytest.raises(UnknownKey):
        await ring.request_key(NAME, "ed25519:weak")


@pytest.mark.parametrize("expired", [None, str(NOW), 1.5, True])
async def test_an_old_key_that_does_not_say_when_it_expired_is_none(
    peer: Peer, start: Start, expired: Any
) -> None:
    old = {ANOTHER.key_id: {"key": ANOTHER.verify_key_base64, "expired_ts": expired}}
    peer.say(published(NAME, [MINE], NOW + DAY, old_verify_keys=old))
    assert await holds(start(), event(NAME, MINE, NOW), event(NAME, ANOTHER, NOW - DAY)) == [True, False]


async def test_a_bad_signature_beside_a_good_one_spoils_the_answer(peer: Peer, start: Start) -> None:
    said = published(NAME, [MINE, ANOTHER], NOW + DAY, signers=[MINE])
    said["signatures"][NAME][ANOTHER.key_id] = said["signatures"][NAME][MINE.key_id]
    peer.say(said)
    with pytest.raises(UnknownKey):
        await start().ring.request_key(NAME, MINE.key_id)


async def test_a_key_may_be_named_by_its_bytes(peer: Peer, start: Start) -> None:
    named = key_of(NAME, "bytes_" + "0123456789abcdef" * 4)
    peer.say(published(NAME, [named], NOW + DAY))
    assert await start().ring.request_key(NAME, named.key_id) == named.verify_key_base64


async def test_keys_are_bounded(peer: Peer, start: Start, time: Time) -> None:
    """HARDENING 14: in one answer, and over many."""
    server = start()
    for round_number in range(4):
        keys = [key_of(NAME, f"r{round_number}_{number}") for number in range(20)]
        peer.say(published(NAME, keys, time() + DAY))
        await server.ring.request_key(NAME, keys[0].key_id)
        time.pass_ms(DAY)
    record = await server.keys.get(NAME)
    assert record is not None
    assert len(record.keys) == MAX_KEYS
    assert sum(key.current for key in record.keys) == 20


# --- Time


async def test_a_key_holds_for_a_week_at_most_whatever_its_server_says(
    peer: Peer, start: Start, time: Time
) -> None:
    peer.say(published(NAME, [MINE], time() + 1000 * DAY))
    server = start()
    made = time()
    assert await holds(server, event(NAME, MINE, made + WEEK)) == [True]
    assert await holds(server, event(NAME, MINE, made + WEEK + 1)) == [False]
    peer.fail()
    time.pass_ms(WEEK)
    await server.ring.request_key(NAME, MINE.key_id)
    time.pass_ms(1)
    with pytest.raises(UnknownKey):
        await server.ring.request_key(NAME, MINE.key_id)


async def test_when_a_key_is_over_its_server_is_asked_again(peer: Peer, start: Start, time: Time) -> None:
    server = start()
    await server.ring.request_key(NAME, MINE.key_id)
    time.pass_ms(DAY + 1)
    peer.say(published(NAME, [MINE], time() + DAY))
    await server.ring.request_key(NAME, MINE.key_id)
    assert peer.asked == 2


async def test_events_are_checked_by_the_key_of_their_time(peer: Peer, start: Start, time: Time) -> None:
    """spec: rooms/v5#signing-key-validity-period"""
    expired = time() - 10 * DAY
    peer.say(published(NAME, [ANOTHER], time() + DAY, old={MINE: expired}))
    server = start()
    events = [
        event(NAME, MINE, expired),
        event(NAME, MINE, expired + 1),
        event(NAME, ANOTHER, time()),
        event(NAME, ANOTHER, time() + DAY + 1),
        event(NAME, MINE, expired + 1, V4),
        event(NAME, ANOTHER, time() + DAY + 1, V4),
    ]
    assert await holds(server, *events) == [True, False, True, False, True, True]
    with pytest.raises(UnknownKey):
        await server.ring.request_key(NAME, MINE.key_id)


async def test_an_old_key_cannot_hold_into_the_future(peer: Peer, start: Start, time: Time) -> None:
    peer.say(published(NAME, [ANOTHER], time() + DAY, old={MINE: time() + 1000 * DAY}))
    assert await holds(start(), event(NAME, MINE, time()), event(NAME, MINE, time() + 1)) == [True, False]


async def test_a_key_that_was_dropped_is_good_for_what_it_signed(
    peer: Peer, start: Start, time: Time
) -> None:
    server = start()
    began = time()
    await server.ring.request_key(NAME, MINE.key_id)
    time.pass_ms(3 * DAY)
    peer.say(published(NAME, [ANOTHER], time() + DAY))
    await server.ring.request_key(NAME, ANOTHER.key_id)
    again = start()
    assert await holds(again, event(NAME, MINE, began + DAY), event(NAME, MINE, time())) == [True, False]
    with pytest.raises(UnknownKey):
        await again.ring.request_key(NAME, MINE.key_id)


async def test_a_key_that_was_dropped_signs_no_more_requests(peer: Peer, start: Start, time: Time) -> None:
    server = start()
    await server.ring.request_key(NAME, MINE.key_id)
    time.pass_ms(LEAST_BETWEEN_MS)
    peer.say(published(NAME, [ANOTHER], time() + DAY))
    await server.ring.request_key(NAME, ANOTHER.key_id)
    with pytest.raises(UnknownKey):
        await server.ring.request_key(NAME, MINE.key_id)


# --- How often others are asked


async def test_who_asks_at_once_asks_once(peer: Peer, start: Start) -> None:
    server = start()
    await asyncio.gather(*(server.ring.request_key(NAME, MINE.key_id) for _ in range(20)))
    assert peer.asked == 1


async def test_keys_that_a_server_does_not_have_are_asked_for_once_a_minute(
    peer: Peer, start: Start, time: Time
) -> None:
    """HARDENING 6: bounded key fetches."""
    server = start()
    for number in range(20):
        with pytest.raises(UnknownKey):
            await server.ring.request_key(NAME, f"ed25519:made_up_{number}")
    assert peer.asked == 1
    time.pass_ms(LEAST_BETWEEN_MS)
    peer.say(published(NAME, [ANOTHER], time() + DAY))
    await server.ring.request_key(NAME, ANOTHER.key_id)
    assert peer.asked == 2


async def test_new_keys_are_asked_for_after_the_clock_was_ahead(peer: Peer, start: Start, time: Time) -> None:
    server = start()
    time.pass_ms(10 * DAY)
    peer.say(published(NAME, [MINE], time() + DAY))
    await server.ring.request_key(NAME, MINE.key_id)
    time.pass_ms(-10 * DAY)
    peer.say(published(NAME, [ANOTHER], time() + DAY))
    assert await server.ring.request_key(NAME, ANOTHER.key_id)


async def test_a_server_without_an_answer_is_left_alone_ever_longer(
    peer: Peer, start: Start, time: Time
) -> None:
    server = start()
    peer.fail()
    pauses = []
    for _ in range(10):
        began, before = time(), peer.asked
        while peer.asked == before:
            with pytest.raises(UnknownKey):
                await server.ring.request_key(NAME, MINE.key_id)
            time.pass_ms(1000)
        pauses.append((time() - began) / 1000)
    assert pauses[0] == 1
    assert all(5 * 2**n <= pause <= 1.3 * 5 * 2**n + 2 for n, pause in enumerate(pauses[1:7]))
    assert all(600 <= pause <= 730 for pause in pauses[8:])
    peer.say(published(NAME, [MINE], time() + DAY))
    time.pass_ms(730_000)
    assert await server.ring.request_key(NAME, MINE.key_id)


async def test_a_silent_server_holds_up_no_other(
    internet: Internet, peer: Peer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "FETCH_SECONDS", 2.0)

    async def hang(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(20)
        return web.Response()

    silent = await internet.host("silent.example.org")
    silent.pages[KEYS_PATH] = hang
    server = start()
    batch = asyncio.create_task(
        server.ring.verify([event("silent.example.org", OTHER, NOW), event(NAME, MINE, NOW)])
    )
    await asyncio.sleep(0)
    assert await holds(server, event(NAME, MINE, NOW)) == [True]
    assert not batch.done()
    problems = await batch
    assert isinstance(problems[0], InvalidSignature)
    assert problems[1] is None


async def test_names_that_are_none_and_servers_shut_out_are_not_asked(peer: Peer, start: Start) -> None:
    server = start(deny=("peer.*",))
    for name in (NAME, "a b", "", "own.example.org", "x" * 300):
        with pytest.raises(UnknownKey):
            await server.ring.request_key(name, MINE.key_id)
    assert not peer.site.seen


# --- Batches


async def test_many_events_of_many_servers(internet: Internet, time: Time, start: Start) -> None:
    peers = [await Peer.at(internet, f"p{number}.example.org", time) for number in range(4)]
    server = start()
    events = []
    for number in range(120):
        peer = peers[number % 4]
        events.append(event(peer.name, peer.key if number % 5 else OTHER, time()))
    assert await holds(server, *events) == [bool(number % 5) for number in range(120)]
    assert [peer.asked for peer in peers] == [1, 1, 1, 1]


async def test_what_is_wrong_with_one_event_is_no_matter_to_the_others(peer: Peer, start: Start) -> None:
    version, good = event(NAME, MINE, NOW)
    bad = [
        {**good, "sender": "nobody"},
        {**good, "signatures": {}},
        {**good, "signatures": {NAME: {"ed25519:other": good["signatures"][NAME][MINE.key_id]}}},
        {**good, "signatures": {NAME: {MINE.key_id: "AAAA"}}},
        {**good, "depth": 6},
        sign_json(without(good, "signatures"), "other.example.org", MINE),
    ]
    server = start()
    assert await holds(server, *((version, each) for each in (*bad, good))) == [False] * 6 + [True]
    # What is under no signature may differ: the content is covered by its hash.
    assert await holds(server, (version, {**good, "content": {}, "unsigned": {"age": 5}})) == [True]


async def test_own_events_are_checked_without_asking_anybody(start: Start, time: Time) -> None:
    server = start()
    retired = key_of(server.name, "a_0")
    events = [
        event(server.name, server.key, time() + 100 * DAY),
        event(server.name, retired, time() - DAY),
        event(server.name, retired, time()),
        event(server.name, OTHER, time()),
    ]
    assert await holds(server, *events) == [True, True, False, False]


# --- Notaries


@pytest.fixture
async def notary(internet: Internet, time: Time) -> Peer:
    return await Peer.at(internet, "notary.example.org", time)


def vouched(notary: Peer, said: JsonObject) -> JsonObject:
    return sign_json(said, notary.name, notary.key)


async def test_a_notary_is_asked_about_a_server_that_does_not_answer(
    peer: Peer, notary: Peer, start: Start, time: Time
) -> None:
    peer.fail()
    notary.say_as_notary(vouched(notary, published(NAME, [MINE], time() + DAY)))
    server = start(notaries=(notary.name,))
    assert await holds(server, event(NAME, MINE, time())) == [True]
    (query,) = (seen for seen in notary.site.seen if seen.method == "POST")
    criteria = {MINE.key_id: {"minimum_valid_until_ts": time()}}
    assert json.loads(query.body) == {"server_keys": {NAME: criteria}}


@pytest.mark.parametrize("made", [-(2**70), 2**70])
async def test_an_event_of_no_sensible_time_is_no_matter(
    peer: Peer, notary: Peer, start: Start, time: Time, made: int
) -> None:
    """Room version 5 lets in integers of any size."""
    peer.fail()
    notary.say_as_notary(vouched(notary, published(NAME, [MINE], time() + DAY)))
    server = start(notaries=(notary.name,))
    assert await holds(server, event(NAME, MINE, made, ROOM_VERSIONS["5"])) == [made < 0]


async def test_a_notary_is_not_asked_where_the_server_answers_or_none_is_configured(
    peer: Peer, notary: Peer, start: Start, time: Time
) -> None:
    assert await holds(start(notaries=(notary.name,)), event(NAME, MINE, time())) == [True]
    peer.fail()
    time.pass_ms(DAY)
    assert await holds(start(), event(NAME, MINE, time() + 1)) == [False]
    assert not notary.site.seen


NOTARY_LIES = {
    "about another server": published("other.example.org", [OTHER], NOW + DAY),
    "not signed by the server": published(NAME, [MINE], NOW + DAY, signers=[]),
    "with another key of the name": published(NAME, [MINE], NOW + DAY, signers=[OTHER]),
}


@pytest.mark.parametrize("lie", NOTARY_LIES.values(), ids=NOTARY_LIES.keys())
async def test_a_notary_that_lies_about_another_server_is_refused(
    peer: Peer, notary: Peer, start: Start, time: Time, lie: JsonObject
) -> None:
    """HARDENING 6."""
    peer.fail()
    notary.say_as_notary(vouched(notary, lie))
    assert await holds(start(notaries=(notary.name,)), event(NAME, MINE, time())) == [False]


async def test_an_answer_that_the_notary_did_not_sign_is_refused(
    peer: Peer, notary: Peer, start: Start, time: Time
) -> None:
    peer.fail()
    said = published(NAME, [MINE], time() + DAY)
    forged = sign_json(said, notary.name, SigningKey.from_seed("a_1", bytes(32)))
    for answer in (said, forged):
        notary.say_as_notary(answer)
        assert await holds(start(notaries=(notary.name,)), event(NAME, MINE, time())) == [False]


async def test_a_notary_cannot_change_what_the_server_said_itself(
    peer: Peer, notary: Peer, start: Start, time: Time
) -> None:
    server = start(notaries=(notary.name,))
    await server.ring.request_key(NAME, MINE.key_id)
    peer.fail()
    time.pass_ms(2 * DAY)
    false = SigningKey.from_seed("a_1", bytes(32))
    notary.say(published(notary.name, [notary.key], time() + DAY))
    notary.say_as_notary(vouched(notary, published(NAME, [false], time() + DAY)))
    assert await holds(server, event(NAME, false, time()), event(NAME, MINE, time() - DAY)) == [False, True]


@pytest.mark.parametrize("longer", [-1, 1])
async def test_of_what_a_notary_says_that_counts_which_is_newer_than_what_the_server_said(
    peer: Peer, notary: Peer, start: Start, time: Time, longer: int
) -> None:
    """A key that the server has given up since is not brought back by what a notary kept."""
    server = start(notaries=(notary.name,))
    peer.say(published(NAME, [MINE], time() + DAY))
    notary.say_as_notary(vouched(notary, published(NAME, [MINE, ANOTHER], time() + DAY + longer)))
    await server.ring.request_key(NAME, MINE.key_id)
    peer.fail()
    time.pass_ms(DAY // 2)
    assert await holds(server, event(NAME, ANOTHER, time())) == [longer > 0]
    assert await holds(server, event(NAME, MINE, time())) == [True]


async def test_notaries_that_are_away_do_not_wait_for_each_other(
    internet: Internet, time: Time, start: Start, peer: Peer
) -> None:
    peer.fail()
    notaries = [await Peer.at(internet, f"n{number}.example.org", time) for number in range(2)]
    said = [published(each.name, [each.key], time() + DAY) for each in (*notaries, peer)]
    for notary in notaries:
        notary.fail()
        notary.say_as_notary(*(vouched(notary, each) for each in said))
    server = start(notaries=tuple(notary.name for notary in notaries))
    async with asyncio.timeout(20):
        assert await holds(server, event(NAME, MINE, time())) == [False]


# --- This server's own answers


async def test_own_keys_are_published_with_the_retired_ones(start: Start, time: Time) -> None:
    server = start()
    answer = server.own.answer()
    retired = key_of(server.name, "a_0")
    assert answer["verify_keys"] == {server.key.key_id: {"key": server.key.verify_key_base64}}
    assert answer["old_verify_keys"] == {
        retired.key_id: {"key": retired.verify_key_base64, "expired_ts": time() - DAY}
    }
    for hours in range(30):
        answer = server.own.answer()
        assert answer["valid_until_ts"] - time() >= 12 * 3_600_000, hours
        time.pass_ms(3_600_000)


async def test_a_key_that_was_replaced_is_published_as_old(tmp_path: Path, time: Time) -> None:
    path, name = tmp_path / "signing.key", "own.example.org"
    store = await new_store(tmp_path, SERVER_KEY)
    known = store.collection(SERVER_KEY)
    old = await establish(path, known)
    path.rename(tmp_path / "old.key")
    new = await replace(path, known, time)
    record = await known.get("")
    assert record is not None
    answer = OwnKeys(name, new, record.retired, time).answer()
    await store.close()
    assert list(answer["verify_keys"]) == [new.key_id]
    assert answer["old_verify_keys"][old.key_id] == {"key": old.verify_key_base64, "expired_ts": time()}
    # What is signed is told as it was signed.
    unsigned = without(answer, "signatures")
    assert json.dumps(unsigned, separators=(",", ":")).encode() == encode(unsigned)
    read = read_keys(answer, name, time())
    assert {key.key_id: key.current for key in read.keys} == {new.key_id: True, old.key_id: False}


async def test_two_servers_believe_each_other(internet: Internet, start: Start, time: Time) -> None:
    one, two = start(), start("two.example.org")
    await one.listen(internet)
    assert await holds(two, event(one.name, one.key, time())) == [True]
    assert await holds(two, event(one.name, key_of(one.name, "a_0"), time() - DAY)) == [True]


def free(servers: int) -> None:
    """Nobody counts what is asked."""


async def test_as_a_notary_it_passes_on_what_servers_said(peer: Peer, start: Start, time: Time) -> None:
    server = start()
    query = {"server_keys": {NAME: {MINE.key_id: {}}, server.name: {}, "away.example.org": {}}}
    answers = {each["server_name"]: each for each in (await server.notary.query(query, free))["server_keys"]}
    assert set(answers) == {NAME, server.name}
    assert set(answers[NAME]["signatures"]) == {NAME, server.name}
    assert answers[NAME]["verify_keys"] == {MINE.key_id: {"key": MINE.verify_key_base64}}
    assert (await server.notary.query_one(NAME, None, free))["server_keys"] == [answers[NAME]]


async def test_as_a_notary_it_tells_of_servers_that_are_gone(peer: Peer, start: Start, time: Time) -> None:
    server = start()
    await server.notary.query_one(NAME, None, free)
    time.pass_ms(100 * DAY)
    peer.fail()
    (answer,) = (await server.notary.query_one(NAME, None, free))["server_keys"]
    assert answer["verify_keys"] == {MINE.key_id: {"key": MINE.verify_key_base64}}


async def test_as_a_notary_it_asks_anew_when_half_of_the_time_is_over(
    peer: Peer, start: Start, time: Time
) -> None:
    server = start()
    await server.notary.query_one(NAME, None, free)
    time.pass_ms(DAY // 2 - 1000)
    await server.notary.query_one(NAME, None, free)
    assert peer.asked == 1
    await server.notary.query_one(NAME, time() + DAY, free)
    assert peer.asked == 2
    time.pass_ms(DAY // 4 + 1000)
    await server.notary.query_one(NAME, None, free)
    assert peer.asked == 3


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 400),
        ({"server_keys": []}, 400),
        ({"server_keys": {NAME: []}}, 400),
        ({"server_keys": {NAME: {"ed25519:a": {"minimum_valid_until_ts": "x"}}}}, 400),
        ({"server_keys": {f"h{number}.example.org": {} for number in range(101)}}, 413),
    ],
)
async def test_other_queries_are_refused(start: Start, query: JsonObject, status: int) -> None:
    with pytest.raises(Exception, match=str(status)):
        await start().notary.query(query, free)


async def test_a_server_believes_another_one_as_its_notary(
    internet: Internet, peer: Peer, start: Start, time: Time
) -> None:
    """About a third one, that is away since."""
    notary = start("notary.example.org")
    (said,) = (await notary.notary.query_one(NAME, None, free))["server_keys"]
    await notary.keys.delete(NAME)
    peer.fail()
    site = await notary.listen(internet)
    site.answer("/_matrix/key/v2/query", json.dumps({"server_keys": [said]}))
    assert await holds(start(notaries=(notary.name,)), event(NAME, MINE, time())) == [True]
