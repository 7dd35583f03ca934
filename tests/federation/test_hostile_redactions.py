"""Redactions that other servers send and should not: they redact nothing, and leave the rest alone.

HARDENING 17: of other rooms, of the create event, without power, by somebody who is out, in cycles.
"""

import pytest

from homeserver.protocol.events import Event
from homeserver.rooms.room import RoomHead
from tests.client_api.conftest import Client
from tests.federation.rooms import MESSAGE, events, text, texts
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor
from tests.federation.withheld import Withheld

REDACTION = "m.room.redaction"
VERSIONS = ("1", "3", "11", "12")
"""Between which the rules about redactions changed."""


async def redaction(visitor: Visitor, room_id: str, event_id: str) -> Event:
    """The visitor's redaction of an event, whatever the room says to that."""
    in_content = (await visitor.room(room_id)).version.redacts_in_content
    content = {"redacts": event_id} if in_content else {}
    return await visitor.unchecked(room_id, REDACTION, content, redacts=event_id)


async def settle(server: Homeserver) -> None:
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)


async def open_room(alice: Client, visitor: Visitor, version: str) -> str:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await visitor.member(room_id, "join")
    return room_id


async def empower(alice: Client, visitor: Visitor, room_id: str) -> None:
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    users = {**levels["users"], visitor.user_id: 100}
    await alice.set_state(room_id, "m.room.power_levels", {**levels, "users": users})


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_has_no_power_redacts_nobody_elses(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    room_id = await open_room(alice, visitor, version)
    said = await alice.send(room_id, "stays")
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "stays"})
    for event_id in (said, topic):
        await other.send((await redaction(visitor, room_id, event_id)).pdu)
    for _ in range(2):
        await settle(server)
        assert await texts(alice, room_id) == ["stays"]
        assert await alice.get(f"/rooms/{room_id}/state/m.room.topic") == {"topic": "stays"}
        await server.restart()


async def redactions(client: Client, room_id: str) -> list[str]:
    shown = await events(client, room_id)
    return [event["event_id"] for event in shown if event["type"] == REDACTION]


@pytest.mark.parametrize("version", ["3", "11", "12"])
async def test_clients_are_not_shown_a_redaction_that_redacts_nothing(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    """They would take out what it names. In room versions 1 and 2 the room refuses it as a whole."""
    room_id = await open_room(alice, visitor, version)
    said = await alice.send(room_id, "stays")
    vain = await redaction(visitor, room_id, said)
    assert (await other.send(vain.pdu)).body == {"pdus": {vain.event_id: {}}}
    # To its own server it is one event like others.
    room = await visitor.room(room_id)
    after = RoomHead(room.head.state, (vain.event_id,), vain.depth)
    answer, _ = visitor.drafted(room, after, MESSAGE, text("there it is"))
    await other.send(answer.pdu)
    await empower(alice, visitor, room_id)
    allowed = await redaction(visitor, room_id, said)
    await other.send(allowed.pdu)
    for _ in range(2):
        await settle(server)
        assert await redactions(alice, room_id) == [allowed.event_id]
        assert await texts(alice, room_id) == [None, "there it is"]
        await alice.call("GET", f"/rooms/{room_id}/event/{vain.event_id}", expect=404)
        await server.restart()


async def test_a_redaction_is_judged_by_what_comes_before_it(
    alice: Client, other: OtherServer, visitor: Visitor, room_id: str
) -> None:
    """Not by the room as it was before all that comes together with it."""
    await empower(alice, visitor, room_id)
    first, second = [await alice.send(room_id, body) for body in ("goes", "stays")]
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    withheld = Withheld(visitor, other, await visitor.room(room_id))
    allowed = withheld.add(REDACTION, {"redacts": first})
    powerless = {**levels, "users": {**levels["users"], visitor.user_id: 0}}
    withheld.add("m.room.power_levels", powerless, "")
    withheld.add(REDACTION, {"redacts": second})
    reply = await other.send(*(event.pdu for event in withheld.events))
    assert reply.body == {"pdus": {event.event_id: {} for event in withheld.events}}
    assert await redactions(alice, room_id) == [allowed.event_id]
    assert await texts(alice, room_id) == [None, "stays"]


@pytest.mark.parametrize(("version", "is_allowed"), [("2", True), ("10", True), ("11", False)])
async def test_what_a_redaction_leaves_of_power_levels_counts_in_branches_too(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str, is_allowed: bool
) -> None:
    """Before version 11 they lose who may invite: whoever knows of the redaction lets everybody."""
    room_id = await open_room(alice, visitor, version)
    levels = await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    strict = await alice.set_state(room_id, "m.room.power_levels", {**levels, "invite": 50})
    room = await visitor.room(room_id)
    await visitor.fork(room_id, room.head, "a branch")
    await alice.send(room_id, "merged")
    await alice.redact(room_id, strict)
    before = room.head
    await alice.send(room_id, "meanwhile")
    guest = f"@guest:{other.name}"
    invite = await visitor.unchecked(
        room_id, "m.room.member", {"membership": "invite"}, guest, prev_events=before.tips
    )
    await other.send(invite.pdu)
    assert (("m.room.member", guest) in room.head.state) is is_allowed


@pytest.mark.parametrize(("version", "is_allowed"), [("10", True), ("11", False)])
async def test_what_was_redacted_before_it_came_counts_in_branches_as_it_is_stored(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str, is_allowed: bool
) -> None:
    room_id = await open_room(alice, visitor, version)
    inviter = Visitor(server, other, "inviter")
    await inviter.member(room_id, "join")
    await empower(alice, visitor, room_id)
    type, strict = "m.room.power_levels", await alice.get(f"/rooms/{room_id}/state/m.room.power_levels")
    await alice.set_state(room_id, type, {**strict, "invite": 0})
    room = await visitor.room(room_id)
    before = room.head
    to_be_redacted = await visitor.unchecked(room_id, type, strict, "", prev_events=before.tips)
    await other.send((await redaction(visitor, room_id, to_be_redacted.event_id)).pdu)
    guest = f"@guest:{other.name}"
    invite = await inviter.unchecked(
        room_id, "m.room.member", {"membership": "invite"}, guest, prev_events=before.tips
    )
    for event in (invite, to_be_redacted):
        await other.send(event.pdu)
    assert room.head.state[type, ""].event_id == to_be_redacted.event_id
    assert (("m.room.member", guest) in room.head.state) is is_allowed


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_no_redaction_redacts_nothing(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    room_id = await open_room(alice, visitor, version)
    await empower(alice, visitor, room_id)
    room = await visitor.room(room_id)
    rules, levels = (room.head.state[type, ""] for type in ("m.room.join_rules", "m.room.power_levels"))
    for event_id in (rules.event_id, levels.event_id, await alice.send(room_id, "stays")):
        message = await visitor.draft(room_id, MESSAGE, {**text("hello"), "redacts": event_id})
        if not room.version.redacts_in_content:
            message = visitor.changed(message, redacts=event_id)
        reply = await other.send(message.pdu)
        assert reply.body == {"pdus": {message.event_id: {}}}
    await settle(server)
    assert await texts(alice, room_id) == ["stays", "hello", "hello", "hello"]
    assert await alice.get(f"/rooms/{room_id}/state/m.room.join_rules") == {"join_rule": "public"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_event_of_another_room_stays(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    room_id = await open_room(alice, visitor, version)
    await empower(alice, visitor, room_id)
    elsewhere = await alice.create_room(room_version=version)
    secret = await alice.send(elsewhere, "stays")
    own = await alice.send(room_id, "goes")
    for event_id in (secret, own):
        allowed = await redaction(visitor, room_id, event_id)
        await other.send(allowed.pdu)
    for _ in range(2):
        await settle(server)
        assert await texts(alice, elsewhere) == ["stays"]
        assert await texts(alice, room_id) == [None]
        if version != "1":  # There two rooms may have an event of the same id.
            assert await redactions(alice, room_id) == [allowed.event_id]
        await server.restart()


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_create_event_keeps_what_it_says(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    room_id = await open_room(alice, visitor, version)
    await empower(alice, visitor, room_id)
    path = f"/rooms/{room_id}/state/m.room.create"
    create = await alice.get(path, query={"format": "event"})
    await other.send((await redaction(visitor, room_id, create["event_id"])).pdu)
    for _ in range(2):
        await settle(server)
        assert (await alice.get(path))["room_version"] == version
        await alice.send(room_id, "on we go")
        await server.restart()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("knows_of_the_ban", [True, False], ids=["rejected", "soft-failed"])
async def test_a_redaction_that_was_refused_does_not_wait_for_what_it_names(
    alice: Client, other: OtherServer, visitor: Visitor, version: str, *, knows_of_the_ban: bool
) -> None:
    """The other server knows of an event before this one does."""
    room_id = await open_room(alice, visitor, version)
    friend = Visitor(visitor.server, other, "friend")
    await friend.member(room_id, "join")
    before = (await visitor.room(room_id)).head
    honest, _ = friend.drafted(await visitor.room(room_id), before, MESSAGE, text("stays"))
    refused = await redaction(visitor, room_id, honest.event_id)
    await alice.post(f"/rooms/{room_id}/ban", {"user_id": visitor.user_id})
    if knows_of_the_ban:
        refused = await redaction(visitor, room_id, honest.event_id)
    await other.send(refused.pdu)
    assert (await other.send(honest.pdu)).body == {"pdus": {honest.event_id: {}}}
    assert await texts(alice, room_id) == ["stays"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_named_in_the_wrong_place_stays(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor, version: str
) -> None:
    """Before room version 11 what is redacted stands at the top, from then on in the content."""
    room_id = await open_room(alice, visitor, version)
    await empower(alice, visitor, room_id)
    goes, stays = [await visitor.send(room_id, MESSAGE, text(said)) for said in ("goes", "stays")]
    in_content = (await visitor.room(room_id)).version.redacts_in_content
    named: list[tuple[str | None, str]] = [(goes, stays), (None, stays)]
    for right, wrong in named:
        top, inner = (wrong, right) if in_content else (right, wrong)
        content = {"reason": "so", **({"redacts": inner} if inner else {})}
        drafted = await visitor.unchecked(room_id, REDACTION, content)
        await other.send((visitor.changed(drafted, redacts=top) if top else drafted).pdu)
    for _ in range(2):
        await settle(server)
        assert await texts(alice, room_id) == [None, "stays"]
        shown = [event for event in await events(alice, room_id) if event["type"] == REDACTION]
        places = [(event.get("redacts"), event["content"].get("redacts")) for event in shown]
        assert places == [(goes, goes), (None, None)]
        assert [event["content"]["reason"] for event in shown] == ["so", "so"]
        (because,) = (
            event["unsigned"]["redacted_because"]
            for event in await events(alice, room_id)
            if "redacted_because" in event["unsigned"]
        )
        assert (because["redacts"], because["content"]["redacts"]) == (goes, goes)
        await server.restart()


async def test_redactions_that_redact_one_another_end(
    server: Homeserver, alice: Client, other: OtherServer, visitor: Visitor
) -> None:
    """In version 1 servers choose the ids of events."""
    room_id = await open_room(alice, visitor, "1")
    said = await visitor.send(room_id, MESSAGE, text("goes"))
    first, second, itself = (f"${name}:{other.name}" for name in ("first", "second", "itself"))
    cycle = [
        visitor.changed(await redaction(visitor, room_id, redacted), event_id=event_id).pdu
        for event_id, redacted in ((first, second), (second, first), (itself, itself))
    ]
    assert (await other.send(*cycle)).body == {"pdus": {first: {}, second: {}, itself: {}}}
    await other.send((await redaction(visitor, room_id, said)).pdu)
    for _ in range(2):
        await settle(server)
        assert await texts(alice, room_id) == [None]
        shown = [event for event in await events(alice, room_id) if event["type"] == REDACTION]
        assert len(shown) == 4
        await server.restart()
    await alice.send(room_id, "on we go")


async def test_a_chain_of_redactions_redacts_each_what_it_names(
    server: Homeserver, alice: Client, other: OtherServer, room_id: str, visitor: Visitor
) -> None:
    """None undoes another: what was redacted stays so when its redaction is redacted."""
    withheld = Withheld(visitor, other, await visitor.room(room_id))
    withheld.add(MESSAGE, text("goes"))
    for _ in range(49):
        withheld.add(REDACTION, {"redacts": withheld.events[-1].event_id, "reason": "so"})
    reply = await other.send(*(event.pdu for event in withheld.events))
    assert reply.body == {"pdus": {event.event_id: {} for event in withheld.events}}
    for _ in range(2):
        await settle(server)
        shown = (await events(alice, room_id))[-50:]
        assert [event["event_id"] for event in shown] == [event.event_id for event in withheld.events]
        assert ["reason" in event["content"] for event in shown[1:]] == [False] * 48 + [True]
        assert await texts(alice, room_id) == [None]
        await server.restart()
