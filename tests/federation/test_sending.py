"""What happens here is sent to the servers that it concerns (server-server "Transactions").

HARDENING 9: what one server cannot take holds up nothing else.
"""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from federation import destination
from federation.sender import Sender
from homeserver.outbox import Message
from homeserver.protocol.events import parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from storage.records.destinations import DEPARTURES, Departure
from tests.client_api.conftest import STORES, Client
from tests.federation.host import Host
from tests.federation.receiving import Receiving, away, taken
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation_transport.network import Internet
from tests.waiting import until


def sender_of(server: Homeserver) -> Sender:
    assert server.app.ground.outbound is not None
    return server.app.ground.outbound.sender


async def test_servers_in_a_room_are_sent_its_events(
    alice: Client, server: Homeserver, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    sent = [await alice.send(room_id, str(number)) for number in range(3)]
    await until(lambda: receiving.texts == ["0", "1", "2"])
    assert [parse_pdu(ROOM_VERSIONS["12"], pdu).event_id for pdu in receiving.pdus] == sent
    assert {transaction["origin"] for transaction in receiving.transactions} == {server.name}
    # Nobody is told what their own users do.
    await Visitor(server, other).send(room_id, "m.room.message", {"msgtype": "m.text", "body": "mine"})
    await alice.send(room_id, "end")
    await until(lambda: receiving.texts == ["0", "1", "2", "end"])


async def test_how_a_user_came_in_is_told_by_the_server_that_let_them_in(
    alice: Client, other: OtherServer, receiving: Receiving
) -> None:
    """It has the join already, and it knows who is in the room."""
    host = Host(other.peer)
    host.open_to(alice.user_id)
    await alice.post(f"/join/{host.room_id}?via={other.name}")
    await alice.send(host.room_id, "end")
    await until(lambda: receiving.texts == ["end"])
    assert [pdu["type"] for pdu in receiving.pdus] == ["m.room.message"]


async def test_servers_that_are_not_in_a_room_are_sent_nothing_of_it(
    alice: Client, server: Homeserver, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    elsewhere = await alice.create_room()
    await alice.send(elsewhere, "secret")
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": f"@visitor:{other.name}"})
    await alice.send(room_id, "among us")
    again = await alice.create_room(preset="public_chat")
    await Visitor(server, other).member(again, "join")
    await alice.send(again, "end")
    await until(lambda: "end" in receiving.texts)
    assert receiving.texts == ["end"]
    # Of the kick the server has to learn.
    assert "leave" in [pdu["content"].get("membership") for pdu in receiving.pdus]


async def test_servers_that_a_room_shuts_out_are_sent_nothing_more(
    alice: Client, server: Homeserver, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 15."""
    acl = {"allow": ["*"], "deny": [other.name], "allow_ip_literals": True}
    open_room = await alice.create_room(preset="public_chat")
    await Visitor(server, other).member(open_room, "join")
    await alice.put(f"/rooms/{room_id}/state/m.room.server_acl", acl)
    await alice.send(room_id, "among us")
    await alice.send(open_room, "end")
    await until(lambda: "end" in receiving.texts)
    assert receiving.texts == ["end"]
    # Of the rule the server has to learn.
    assert "m.room.server_acl" in [pdu["type"] for pdu in receiving.pdus]


async def test_many_events_go_in_few_transactions(alice: Client, receiving: Receiving, room_id: str) -> None:
    await asyncio.gather(*(alice.send(room_id, str(number)) for number in range(120)))
    await until(lambda: len(receiving.texts) == 120)
    assert max(len(transaction["pdus"]) for transaction in receiving.transactions) <= 50
    assert len(receiving.transactions) < 100


async def test_a_server_that_was_away_catches_up_when_it_is_heard_of_again(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    receiving.answer = away
    for number in range(3):
        await alice.send(room_id, str(number))
    await asyncio.sleep(0.3)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.texts == ["0", "1", "2"])
    await alice.send(room_id, "live")
    await until(lambda: receiving.texts == ["0", "1", "2", "live"])


async def test_what_is_not_sent_yet_is_sent_after_a_restart(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    receiving.answer = away
    for number in range(3):
        await alice.send(room_id, str(number))
    await asyncio.sleep(0.2)
    await server.stop()
    receiving.answer = taken
    await server.start()
    await other.show_life()
    await until(lambda: set(receiving.texts) == {"0", "1", "2"})


JOINED_ONLY = [
    {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
]


async def test_a_server_that_catches_up_is_not_sent_what_was_said_before_it_came_in(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 35."""
    receiving.answer = away
    await alice.send(room_id, "this does not arrive")
    secret = await alice.create_room(preset="public_chat", initial_state=JOINED_ONLY)
    await alice.send(secret, "before")
    visitor = Visitor(server, other)
    await visitor.member(secret, "join")
    await alice.send(secret, "welcome")
    await visitor.member(secret, "leave")
    await alice.send(secret, "between")
    await visitor.member(secret, "join")
    await alice.send(secret, "welcome again")
    receiving.answer = taken
    await other.show_life()
    await until(lambda: "welcome again" in receiving.texts)
    await alice.send(room_id, "end")
    await until(lambda: "end" in receiving.texts)
    assert sorted(receiving.texts) == ["end", "this does not arrive", "welcome", "welcome again"]


async def test_what_is_sent_late_is_not_sent_to_those_who_came_in_since(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving
) -> None:
    """HARDENING 35: after a crash, for one, the log is read again from where it was sent."""
    secret = await alice.create_room(preset="public_chat", initial_state=JOINED_ONLY)
    before = await alice.send(secret, "before")
    await Visitor(server, other).member(secret, "join")
    entry = await server.app.store.log.find_event(before)
    assert entry is not None
    await sender_of(server).handle(0, [entry])
    await alice.send(secret, "end")
    await until(lambda: receiving.texts[-1:] == ["end"])
    assert receiving.texts == ["end"]


@pytest.mark.parametrize("data", STORES, indirect=True)
async def test_a_server_that_catches_up_learns_that_its_users_were_put_out(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    receiving.answer = away
    await alice.send(room_id, "before")
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": f"@visitor:{other.name}"})
    await alice.send(room_id, "among us")
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: "leave" in [pdu["content"].get("membership") for pdu in receiving.pdus])
    assert "among us" not in receiving.texts


@pytest.mark.parametrize("data", STORES, indirect=True)
async def test_who_was_put_out_long_ago_is_forgotten(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """Servers that are gone for good would be remembered for ever."""
    departures = server.app.store.collection(DEPARTURES)
    at = {"shard": 0, "seq": 1}
    for room in ("!first", "!second"):
        await departures.put(Departure(server_name="gone.test", room_id=room, expires_ts=1, **at))
    kept = Departure(server_name="gone.test", room_id="!third", expires_ts=1 << 50, **at)
    await departures.put(kept)
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": visitor.user_id})

    async def is_forgotten() -> bool:
        return await departures.find("key", ("gone.test",)) == [kept]

    await until(is_forgotten)
    assert await departures.find("key", (other.name,))


async def test_who_is_put_out_again_while_their_server_catches_up_is_told_of_that_too(
    alice: Client, other: OtherServer, visitor: Visitor, receiving: Receiving, room_id: str
) -> None:
    async def kick() -> None:
        await alice.post(f"/rooms/{room_id}/kick", {"user_id": visitor.user_id})

    def kicks() -> int:
        return [pdu["content"].get("membership") for pdu in receiving.pdus].count("leave")

    receiving.answer = away
    await kick()
    await asyncio.sleep(0.2)
    hears, goes_on = asyncio.Event(), asyncio.Event()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        hears.set()
        await goes_on.wait()
        return await receiving.take(request)

    receiving.answer = taken
    other.peer.site.below[f"{V1}/send/"] = take
    await other.show_life()
    await hears.wait()
    await visitor.member(room_id, "join")
    await kick()
    await asyncio.sleep(0.2)
    goes_on.set()
    await until(lambda: kicks() == 2)


async def test_a_server_that_catches_up_is_sent_nothing_of_rooms_that_shut_it_out(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 15."""
    receiving.answer = away
    open_room = await alice.create_room(preset="public_chat")
    await Visitor(server, other).member(open_room, "join")
    await alice.send(room_id, "among us")
    rule = {"allow": ["*"], "deny": [other.name], "allow_ip_literals": True}
    await alice.set_state(room_id, "m.room.server_acl", rule)
    await alice.send(room_id, "among us still")
    await alice.send(open_room, "end")
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: "end" in receiving.texts)
    await alice.send(open_room, "live")
    await until(lambda: "live" in receiving.texts)
    assert receiving.texts == ["end", "live"]
    # Of the rule the server has to learn.
    assert "m.room.server_acl" in [pdu["type"] for pdu in receiving.pdus]


async def test_after_long_absence_a_server_gets_the_newest_event_of_each_room(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """What lies before it the server asks for by itself."""
    receiving.answer = away
    for first in range(0, 80, 20):
        await asyncio.gather(*(alice.send(room_id, str(first + n)) for n in range(20)))
    last = await alice.send(room_id, "last")
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.texts == ["last"])
    fetched = await other.get(f"/_matrix/federation/v1/backfill/{room_id}", query={"v": last, "limit": "100"})
    bodies = {pdu["content"].get("body") for pdu in fetched["pdus"]}
    assert bodies >= {str(number) for number in range(80)}


async def test_after_long_absence_a_server_gets_what_lies_behind_many_events_of_others(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """It could be heard, and not be reached: what it does not know of it would never ask for."""
    visitor = Visitor(server, other)
    room = await visitor.room(room_id)
    head = room.head
    receiving.answer = away
    await alice.send(room_id, "missed")
    said = []
    for number in range(60):
        content = {"msgtype": "m.text", "body": str(number)}
        event, head = visitor.drafted(room, head, "m.room.message", content)
        said.append(event.pdu)
    await other.send(*said[:30])
    await other.send(*said[30:])
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.texts == ["missed"])


async def test_a_room_that_cannot_be_read_keeps_no_server_from_the_others(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 42."""
    broken = await alice.create_room(preset="public_chat")
    await Visitor(server, other).member(broken, "join")
    topic = await alice.set_state(broken, "m.room.topic", {"topic": "unread"})
    await alice.send(broken, "known")
    await until(lambda: receiving.texts == ["known"])
    receiving.answer = away
    await alice.send(broken, "cannot be read")
    await alice.send(room_id, "missed")
    await asyncio.sleep(0.2)
    await server.stop()
    server.data.damage(topic)
    receiving.answer = taken
    await server.start()
    await other.show_life()
    await until(lambda: "missed" in receiving.texts)
    await alice.send(room_id, "live")
    await until(lambda: "live" in receiving.texts)


async def test_one_event_that_a_server_cannot_take_holds_up_no_other(
    alice: Client, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 9."""

    def choosy(transaction: JsonObject) -> web.Response:
        bad = any(pdu["content"].get("body") == "bad" for pdu in transaction["pdus"])
        return web.json_response({"pdus": {}}, status=400 if bad else 200)

    receiving.answer = choosy
    await asyncio.gather(*(alice.send(room_id, "bad" if n == 7 else str(n)) for n in range(20)))
    await until(lambda: len(receiving.texts) == 19)
    assert "bad" not in receiving.texts
    await alice.send(room_id, "end")
    await until(lambda: receiving.texts[-1] == "end")


async def test_what_is_too_much_to_wait_for_a_slow_server_arrives_all_the_same(
    server: Homeserver,
    alice: Client,
    other: OtherServer,
    receiving: Receiving,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the message that was one too many behind events, with none of its own shard before it."""
    monkeypatch.setattr(destination, "MAX_WAITING", 2)
    hears, goes_on = asyncio.Event(), asyncio.Event()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        hears.set()
        await goes_on.wait()
        return await receiving.take(request)

    other.peer.site.below[f"{V1}/send/"] = take
    await alice.send(room_id, "under way")
    await hears.wait()
    await alice.send(room_id, "one")
    await alice.send(room_id, "two")
    edu = {"edu_type": "m.direct_to_device", "content": {"message_id": "key"}}
    await sender_of(server).send({other.name: [Message(b"k" * 16, edu)]})
    await asyncio.sleep(0.2)
    goes_on.set()
    await until(lambda: edu in receiving.edus)
    await until(lambda: set(receiving.texts) == {"under way", "one", "two"})


async def test_messages_arrive_though_the_server_was_away_and_this_one_stopped(
    server: Homeserver, other: OtherServer, receiving: Receiving
) -> None:
    receiving.answer = away
    edus = [{"edu_type": "m.direct_to_device", "content": {"message_id": str(number)}} for number in range(3)]
    messages = [Message(str(number).encode() * 16, edu) for number, edu in enumerate(edus)]
    await sender_of(server).send({other.name: messages})
    await sender_of(server).send({other.name: messages})
    await asyncio.sleep(0.2)
    await server.stop()
    receiving.answer = taken
    await server.start()
    await other.show_life()
    await until(lambda: len(receiving.edus) >= 3)
    assert receiving.edus == edus


async def test_of_passing_news_the_newest_counts(
    server: Homeserver, other: OtherServer, receiving: Receiving
) -> None:
    sender = sender_of(server)
    for number in range(5):
        sender.tell([other.name], "m.presence", "@a:b", {"push": [number]})
    await until(lambda: receiving.edus)
    assert receiving.edus == [{"edu_type": "m.presence", "content": {"push": [4]}}]


DESTINATIONS = "/_synapse/admin/v1/federation/destinations"


@pytest.mark.parametrize(("told_ms", "told"), [(60_000, True), (100, False)])
async def test_passing_news_outlives_a_short_failure(
    server: Homeserver,
    alice: Client,
    other: OtherServer,
    receiving: Receiving,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
    told_ms: int,
    told: bool,
) -> None:
    """A transaction that failed takes no receipt with it; what is stale by then is not sent any more."""
    monkeypatch.setattr(destination, "TOLD_MS", told_ms)
    receiving.answer = away
    sender_of(server).tell([other.name], "m.receipt", room_id, {"n": 1})
    await asyncio.sleep(0.3)
    await alice.send(room_id, "meanwhile")
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.texts == ["meanwhile"])
    await alice.send(room_id, "end")
    await until(lambda: receiving.texts[-1] == "end")
    assert receiving.contents("m.receipt") == ([{"n": 1}] if told else [])


async def test_administrators_see_who_does_not_answer_and_try_again(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    root = await server.register("root")
    await server.app.people.accounts.update(root.user_id, is_admin=True)
    receiving.answer = away
    await alice.send(room_id, "hello")

    async def shown() -> Any:
        (destination,) = (await root.get(DESTINATIONS))["destinations"]
        assert destination["destination"] == other.name
        return destination

    while not (await shown())["failure_ts"]:
        await asyncio.sleep(0.02)
    assert (await shown())["lag"] >= 1
    # That a server does not answer is known after a restart.
    failing_since = (await shown())["failure_ts"]
    await server.stop()
    await server.start()
    assert (await shown())["failure_ts"] == failing_since
    rooms = await root.get(f"{DESTINATIONS}/{other.name}/rooms")
    assert [each["room_id"] for each in rooms["rooms"]] == [room_id]
    receiving.answer = taken
    await root.post(f"{DESTINATIONS}/{other.name}/reset_connection")
    await until(lambda: receiving.texts == ["hello"])
    assert (await shown())["failure_ts"] is None
    assert await root.get(f"{DESTINATIONS}/{other.name}") == await shown()
    await alice.call("GET", DESTINATIONS, expect=403)
    assert (await root.call("GET", f"{DESTINATIONS}/nobody.example", expect=404)).errcode == "M_NOT_FOUND"


async def test_administrators_page_through_servers_and_their_rooms(
    server: Homeserver,
    alice: Client,
    other: OtherServer,
    visitor: Visitor,
    room_id: str,
    internet: Internet,
) -> None:
    root = await server.register("root")
    await server.app.people.accounts.update(root.user_id, is_admin=True)
    others = [await another(internet, server, server.http) for _ in range(2)]
    for each in others:
        await Visitor(server, each).member(room_id, "join")
    rooms = [room_id, *[await alice.create_room(preset="public_chat") for _ in range(2)]]
    for more in rooms[1:]:
        await visitor.member(more, "join")
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)

    async def paged(path: str, of: str, key: str) -> tuple[list[str], set[int]]:
        found: list[str] = []
        totals: set[int] = set()
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = await root.get(path, query=query)
            found += [each[key] for each in page[of]]
            totals.add(page["total"])
            if "next_token" not in page:
                return found, totals
            query["from"] = page["next_token"]

    names = sorted(each.name for each in (other, *others))
    assert await paged(DESTINATIONS, "destinations", "destination") == (names, {3})
    path = f"{DESTINATIONS}/{other.name}/rooms"
    assert await paged(path, "rooms", "room_id") == (sorted(rooms), {3})
