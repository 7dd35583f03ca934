"""Events that other servers send (server-server "Transactions", "PDUs"): which of them come into their rooms.

HARDENING 4, 8, 15, 19, 34, 36: one gate for every event, and what does not pass changes nothing.
"""

import asyncio
import json
from collections.abc import Callable
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from homeserver.metrics import GcPauses
from homeserver.protocol.events import Event, parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from tests.client_api.conftest import Client
from tests.federation.rooms import MESSAGE, text, texts
from tests.federation.servers import Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation.withheld import Withheld
from tests.federation_transport.network import Internet
from tests.federation_transport.peers import KEYS_PATH
from tests.waiting import until


@pytest.mark.parametrize("version", ["1", "2", "3", "6", "11", "12"])
async def test_a_message_of_another_server_is_in_the_room(
    alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await visitor.member(room_id, "join")
    await alice.sync()
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    reply = await other.send(event.pdu)
    assert reply.body == {"pdus": {event.event_id: {}}}
    news = (await alice.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    assert [(each["event_id"], each["sender"]) for each in news] == [(event.event_id, visitor.user_id)]


async def test_state_of_another_server_is_the_rooms_state(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    name = await visitor.draft(
        room_id, "m.room.member", {"membership": "join", "displayname": "V"}, visitor.user_id
    )
    await other.send(name.pdu)
    members = await alice.get(f"/rooms/{room_id}/joined_members")
    assert members["joined"][visitor.user_id]["display_name"] == "V"


async def test_the_keys_of_a_message_are_there_before_it(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """Both come in one transaction; some clients do not try again to read what they could not."""
    event = await visitor.draft(room_id, MESSAGE, text("enciphered"))
    content = {"sender": visitor.user_id, "type": "m.room_key", "message_id": "1"}
    messages = {alice.user_id: {alice.device_id: {"session_id": "s"}}}
    edu = {"edu_type": "m.direct_to_device", "content": {**content, "messages": messages}}
    came: list[str] = []
    sending = asyncio.create_task(other.send(event.pdu, edus=[edu]))
    while event.event_id not in came:
        news = await alice.sync(timeout=10_000)
        came += [each["type"] for each in news.get("to_device", {}).get("events", [])]
        joined = news.get("rooms", {}).get("join", {}).get(room_id, {})
        came += [each["event_id"] for each in joined.get("timeline", {}).get("events", [])]
    await sending
    assert came == ["m.room_key", event.event_id]


async def test_many_events_in_one_transaction_keep_their_order(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    head = (await visitor.room(room_id)).head
    sent = []
    for number in range(50):
        event, head = visitor.drafted(await visitor.room(room_id), head, MESSAGE, text(str(number)))
        sent.append(event)
    reply = await other.send(*(event.pdu for event in sent))
    assert reply.body == {"pdus": {event.event_id: {} for event in sent}}
    assert await texts(alice, room_id) == [str(number) for number in range(50)]


async def test_a_transaction_that_comes_again_has_no_other_effect(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 34."""
    event = await visitor.draft(room_id, MESSAGE, text("once"))
    replies = await asyncio.gather(*(other.send(event.pdu, txn_id="1") for _ in range(4)))
    replies.append(await other.send(event.pdu))
    assert all(reply.body == {"pdus": {event.event_id: {}}} for reply in replies)
    assert await texts(alice, room_id) == ["once"]


async def test_a_transaction_that_comes_again_is_answered_as_before(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 34: it is not looked at again, though by now it would be answered otherwise."""
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [other.name]})
    refused = await other.send(event.pdu, txn_id="1")
    assert "error" in refused.body["pdus"][event.event_id]
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"]})
    assert (await other.send(event.pdu, txn_id="1")).body == refused.body
    assert await texts(alice, room_id) == []
    assert (await other.send(event.pdu, txn_id="2")).body == {"pdus": {event.event_id: {}}}


async def test_a_transaction_that_comes_many_times_at_once_is_worked_on_once(
    server: Homeserver, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 34."""
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    malformed = {"edu_type": "m.typing", "content": {}}
    await asyncio.gather(*(other.send(event.pdu, edus=[malformed], txn_id="1") for _ in range(8)))
    assert server.app.federation is not None
    assert server.app.federation.edus.dropped == {"m.typing": 1}


async def test_transactions_have_bounds(other: OtherServer, visitor: Visitor, room_id: str) -> None:
    """HARDENING 34."""
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    assert (await other.send(*[event.pdu] * 51, expect=400)).errcode == "M_BAD_JSON"
    edu = {"edu_type": "m.unknown", "content": {}}
    assert (await other.send(edus=[edu] * 101, expect=400)).errcode == "M_BAD_JSON"
    await other.send(*[event.pdu] * 50, edus=[edu] * 100)


async def test_a_server_has_only_so_many_transactions_worked_on(
    internet: Internet, server: Homeserver, http: aiohttp.ClientSession, other: OtherServer, room_id: str
) -> None:
    """HARDENING 38: each waits for a key that is slow to come."""
    waiting = asyncio.Event()

    async def stall(request: web.BaseRequest) -> web.Response:
        await waiting.wait()
        return web.json_response({}, status=404)

    slow = await another(internet, server, http)
    slow.peer.site.pages[KEYS_PATH] = stall
    stranger = Visitor(server, slow)
    await stranger.member(room_id, "join")
    event = await stranger.draft(room_id, MESSAGE, text("hello"))
    working = [asyncio.create_task(other.send(event.pdu)) for _ in range(8)]
    await until(lambda: slow.peer.asked)
    await asyncio.sleep(0.1)
    assert (await other.send(expect=429)).errcode == "M_LIMIT_EXCEEDED"
    waiting.set()
    await asyncio.gather(*working)
    await other.send()


async def test_a_transaction_of_a_third_server_is_refused(
    server: Homeserver, other: OtherServer, visitor: Visitor, room_id: str, alice: Client
) -> None:
    """HARDENING 19."""
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    transaction = {"origin": server.name, "origin_server_ts": 1, "pdus": [event.pdu]}
    reply = await other.call("PUT", "/_matrix/federation/v1/send/1", transaction, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"
    assert await texts(alice, room_id) == []


def unsigned(event: Event) -> JsonObject:
    return {**event.pdu, "signatures": {}}


def signed_by_nobody_known(event: Event) -> JsonObject:
    (own,) = event.pdu["signatures"].values()
    return {**event.pdu, "signatures": {"elsewhere.example": own}}


def changed_after_signing(event: Event) -> JsonObject:
    return {**event.pdu, "depth": event.depth + 1}


def without_depth(event: Event) -> JsonObject:
    return {key: value for key, value in event.pdu.items() if key != "depth"}


def of_another_room(event: Event) -> JsonObject:
    return {**event.pdu, "room_id": "!" + "a" * 43}


def with_a_float(event: Event) -> JsonObject:
    return {**event.pdu, "content": {**event.content, "x": 1.5}}


def with_a_large_number(event: Event) -> JsonObject:
    return {**event.pdu, "content": {**event.content, "x": 2**60}}


def too_large(event: Event) -> JsonObject:
    return {**event.pdu, "content": {"body": "x" * 66_000}}


@pytest.mark.parametrize(
    "spoil",
    [
        unsigned, signed_by_nobody_known, changed_after_signing, without_depth, of_another_room,
        with_a_float, with_a_large_number, too_large,
    ],
)  # fmt: skip
async def test_what_is_not_the_event_that_its_server_signed_is_dropped(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str, spoil: Callable[[Event], JsonObject]
) -> None:
    """HARDENING 4, 8; the rest of the transaction is taken."""
    bad = await visitor.draft(room_id, MESSAGE, text("bad"))
    good = await visitor.draft(room_id, MESSAGE, text("good"))
    reply = await other.send(spoil(bad), good.pdu)
    results = dict(reply.body["pdus"])
    assert results.pop(good.event_id) == {}
    assert all("error" in result for result in results.values())
    assert await texts(alice, room_id) == ["good"]


async def test_content_that_does_not_fit_its_hash_is_redacted(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    event = await visitor.draft(room_id, MESSAGE, text("true"))
    await other.send({**event.pdu, "content": text("false")})
    shown = await alice.get(f"/rooms/{room_id}/event/{event.event_id}")
    assert shown["content"] == {}


async def test_what_the_room_does_not_allow_is_rejected(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """And so is what rests on it."""
    seized = await visitor.unchecked(room_id, "m.room.power_levels", {"users": {visitor.user_id: 100}}, "")
    reply = await other.send(seized.pdu)
    assert "error" in reply.body["pdus"][seized.event_id]
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    assert visitor.user_id not in levels["users"]


async def test_what_the_room_allows_no_more_is_soft_failed(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 36: it is shown to nobody, and is no extremity."""
    head = (await visitor.room(room_id)).head
    await alice.post(f"/rooms/{room_id}/ban", {"user_id": visitor.user_id})
    late, _ = visitor.drafted(await visitor.room(room_id), head, MESSAGE, text("banned"))
    # A server with nobody in the room is not heard at all, so somebody has to be.
    await Visitor(visitor.server, other, "friend").member(room_id, "join")
    reply = await other.send(late.pdu)
    assert reply.body == {"pdus": {late.event_id: {}}}
    assert await texts(alice, room_id) == []
    assert late.event_id not in (await visitor.room(room_id)).head.tips


async def test_servers_that_the_room_shuts_out_are_not_heard(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 15."""
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    await alice.put(
        f"/rooms/{room_id}/state/m.room.server_acl",
        {"allow": ["*"], "deny": [other.name], "allow_ip_literals": True},
    )
    reply = await other.send(event.pdu)
    assert "error" in reply.body["pdus"][event.event_id]
    assert await texts(alice, room_id) == []


async def test_rooms_that_nobody_here_is_in_get_nothing(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    event = await visitor.draft(room_id, MESSAGE, text("hello"))
    await alice.leave(room_id)
    assert "error" in (await other.send(event.pdu)).body["pdus"][event.event_id]
    unknown = {**event.pdu, "room_id": "!nobody:elsewhere.example"}
    assert (await other.send(unknown)).body == {"pdus": {}}


async def test_a_redaction_by_another_server_redacts_state(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    named = await visitor.draft(
        room_id, "m.room.member", {"membership": "join", "displayname": "Rude"}, visitor.user_id
    )
    await other.send(named.pdu)
    redaction = await visitor.draft(
        room_id, "m.room.redaction", {"redacts": named.event_id}, redacts=named.event_id
    )
    await other.send(redaction.pdu)
    members = await alice.get(f"/rooms/{room_id}/joined_members")
    assert "display_name" not in members["joined"][visitor.user_id]


async def test_a_redacted_name_finds_nobody_in_the_user_directory(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    named = await visitor.draft(
        room_id, "m.room.member", {"membership": "join", "displayname": "Rude"}, visitor.user_id
    )

    async def is_found() -> bool:
        answer = await alice.post("/user_directory/search", {"search_term": "Rude"})
        return bool(answer["results"])

    async def is_not_found() -> bool:
        return not await is_found()

    await other.send(named.pdu)
    await until(is_found)
    redaction = await visitor.draft(
        room_id, "m.room.redaction", {"redacts": named.event_id}, redacts=named.event_id
    )
    await other.send(redaction.pdu)
    await until(is_not_found)


@pytest.fixture
async def withheld(visitor: Visitor, other: OtherServer, room_id: str) -> Withheld:
    return Withheld(visitor, other, await visitor.room(room_id))


async def test_what_lies_between_is_fetched(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld
) -> None:
    for number in range(5):
        withheld.add(MESSAGE, text(str(number)))
    *between, last = withheld.events
    withheld.tell_missing(*(event.pdu for event in between))
    assert (await other.send(last.pdu)).body == {"pdus": {last.event_id: {}}}
    await until(lambda: has_texts(alice, room_id, "0", "1", "2", "3", "4"))
    assert (await withheld.room()).head.tips == (last.event_id,)


async def test_a_server_that_knows_of_nothing_in_between_is_asked_for_what_comes_before(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld
) -> None:
    """It may have been asked before it had the event itself."""
    one, two = (withheld.add(MESSAGE, text(each)) for each in ("one", "two"))
    withheld.tell_missing()
    withheld.tell_state(withheld.head)
    other.peer.site.answer(f"/_matrix/federation/v1/backfill/{room_id}", json.dumps({"pdus": [one.pdu]}))
    await other.send(two.pdu)
    await until(lambda: has_texts(alice, room_id, "one", "two"))


async def has_texts(client: Client, room_id: str, *wanted: str) -> bool:
    return await texts(client, room_id) == list(wanted)


async def test_forged_events_do_not_come_in_between(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld
) -> None:
    """HARDENING 4."""
    one, two, last = (withheld.add(MESSAGE, text(each)) for each in ("one", "two", "last"))
    head = withheld.head
    withheld.tell_missing(unsigned(one), changed_after_signing(two))
    withheld.tell_state(head)
    await other.send(last.pdu)
    await until(lambda: has_texts(alice, room_id, "last"))


async def test_an_event_comes_with_the_state_that_its_server_tells(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld, visitor: Visitor
) -> None:
    content = {"membership": "join", "displayname": "V"}
    named = withheld.add("m.room.member", content, visitor.user_id)
    lost = withheld.add(MESSAGE, text("lost"))
    head = withheld.head
    last = withheld.add(MESSAGE, text("last"))
    withheld.tell_missing()
    withheld.tell_state(head)
    withheld.tell_event(named)
    await other.send(last.pdu)
    await until(lambda: has_texts(alice, room_id, "last"))
    members = await alice.get(f"/rooms/{room_id}/joined_members")
    assert members["joined"][visitor.user_id]["display_name"] == "V"
    # What was missing then is no extremity when it comes after all.
    await other.send(named.pdu)
    await other.send(lost.pdu)
    assert await texts(alice, room_id) == ["last", "lost"]
    assert (await withheld.room()).head.tips == (last.event_id,)


async def test_an_event_comes_though_its_server_knows_no_state_of_what_lies_between(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld
) -> None:
    """It may have come into the room between two of them."""
    _, between, last = (withheld.add(MESSAGE, text(each)) for each in ("before", "between", "last"))
    withheld.tell_missing(between.pdu)
    withheld.tell_state(withheld.head, last)
    await other.send(last.pdu)
    await until(lambda: has_texts(alice, room_id, "last"))


async def test_an_acknowledged_event_waits_for_what_it_follows_upon_across_restarts(
    server: Homeserver, alice: Client, other: OtherServer, room_id: str, withheld: Withheld
) -> None:
    one, two = (withheld.add(MESSAGE, text(each)) for each in ("one", "two"))
    assert (await other.send(two.pdu)).body == {"pdus": {two.event_id: {}}}
    assert await texts(alice, room_id) == []
    assert staged(server)[0] == 1
    await server.stop()
    await server.start()
    await until(lambda: staged(server)[0] == 1)
    assert staged(server)[1] > 0
    withheld.tell_missing(one.pdu)
    await until(lambda: has_texts(alice, room_id, "one", "two"))
    await until(lambda: staged(server) == (0, 0))


def staged(server: Homeserver) -> tuple[float, float]:
    """What administrators are shown of events that wait: how many, and for how long."""
    shown = {
        family.name: family.samples[0].value
        for family in server.app.metrics(GcPauses()).collect()
        if family.name.startswith("weft_staged")
    }
    return shown["weft_staged_events"], shown["weft_staged_events_age_seconds"]


async def test_a_room_that_waits_holds_up_no_other(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str, withheld: Withheld
) -> None:
    waiting = asyncio.Event()

    async def stall(request: web.BaseRequest) -> web.Response:
        await waiting.wait()
        return web.json_response({"events": []})

    other.peer.site.pages[f"/_matrix/federation/v1/get_missing_events/{room_id}"] = stall
    elsewhere = await alice.create_room(preset="public_chat")
    await visitor.member(elsewhere, "join")
    withheld.add(MESSAGE, text("lost"))
    late = withheld.add(MESSAGE, text("late"))
    prompt = await visitor.draft(elsewhere, MESSAGE, text("prompt"))
    reply = await other.send(late.pdu, prompt.pdu)
    assert reply.body == {"pdus": {late.event_id: {}, prompt.event_id: {}}}
    assert await texts(alice, elsewhere) == ["prompt"]
    waiting.set()


async def test_a_room_with_very_many_ends_goes_on(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """An event may follow upon twenty others at most; this server joins ends that pile up."""
    room = await visitor.room(room_id)
    head = room.head
    forks = [visitor.drafted(room, head, MESSAGE, text(str(number)))[0] for number in range(45)]
    await other.send(*(event.pdu for event in forks))
    assert len(await texts(alice, room_id)) == 45
    assert len(room.head.tips) <= 10
    await alice.send(room_id, "on we go")
    assert len(room.head.tips) == 1


@pytest.mark.parametrize("version", ["1", "2", "11"])
async def test_a_room_with_several_ends_goes_on_after_a_restart(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    """Upon all of them, and deeper than any."""
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await visitor.member(room_id, "join")
    room = await visitor.room(room_id)
    deep, forks = room.head, []
    for number in range(3):
        event, deep = visitor.drafted(room, deep, MESSAGE, text(f"deep {number}"))
        forks.append(event)
    forks.append(visitor.drafted(room, room.head, MESSAGE, text("here"))[0])
    await other.send(*(event.pdu for event in forks))
    await server.restart()
    event_id = await alice.send(room_id, "on we go")
    told = await other.get(f"/_matrix/federation/v1/event/{quote(event_id, safe='')}")
    last = parse_pdu(ROOM_VERSIONS[version], told["pdus"][0])
    assert set(last.prev_events) == {forks[2].event_id, forks[3].event_id}
    assert last.depth == forks[2].depth + 1


async def test_a_redaction_may_come_before_what_it_redacts(
    alice: Client, other: OtherServer, room_id: str, withheld: Withheld, visitor: Visitor
) -> None:
    """HARDENING 17."""
    rude = withheld.add(MESSAGE, text("rude"))
    redaction = withheld.add("m.room.redaction", {"redacts": rude.event_id})
    withheld.tell_missing()
    withheld.tell_state(withheld.head)
    await other.send(redaction.pdu)

    async def has_come() -> bool:
        path = f"/rooms/{room_id}/event/{redaction.event_id}"
        return (await alice.call("GET", path, expect=None)).status == 200

    await until(has_come)
    await other.send(rude.pdu)
    shown = await alice.get(f"/rooms/{room_id}/event/{rude.event_id}")
    assert shown["content"] == {}
    assert (await withheld.room()).head.tips == (redaction.event_id,)


async def test_events_that_follow_upon_nothing_are_refused(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    room = await visitor.room(room_id)
    rootless, _ = visitor.drafted(room, room.head._replace(tips=()), MESSAGE, text("from nowhere"))
    good = await visitor.draft(room_id, MESSAGE, text("good"))
    reply = await other.send(rootless.pdu, good.pdu)
    assert "error" in reply.body["pdus"][rootless.event_id]
    assert reply.body["pdus"][good.event_id] == {}
    assert await texts(alice, room_id) == ["good"]
