"""State that changes with no event in the timeline, as resolution and joins by federation bring it about."""

from typing import Any

import orjson

from homeserver.clock import system_clock
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.policy import NoPolicyServers, Policy
from homeserver.rooms.room import Room
from homeserver.shard_writer import Append
from storage.log import Entry, Kind
from tests.client_api.conftest import Client, Server


async def room_of(server: Server, room_id: str) -> Room:
    room = await server.app.rooms.get(room_id)
    assert room is not None
    return room


async def change(server: Server, room_id: str, sender: str, type: str, key: str, content: Any) -> str:
    """Have the room's state say this, by an event that is in nobody's timeline; its id."""
    room = await room_of(server, room_id)
    author = Author(
        "localhost", SigningKey.generate("x"), system_clock, Policy(NoPolicyServers(), system_clock)
    )
    template = EventTemplate(type, sender, content, state_key=key)
    item, _ = author.draft(room, room.head, template, 1, None)
    made = item.entry
    entry = Entry(
        Kind.STATE, room_id, made.body, type=type, key=key, sender=sender, target=made.event_id, ts=made.ts
    )
    await server.app.rooms.submit(room, Append([entry]))
    assert made.event_id is not None
    return made.event_id


async def test_topic_that_resolution_chose_is_the_topic(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", topic="before")
    await bob.join(room_id)
    await bob.sync()
    event_id = await change(server, room_id, alice.user_id, "m.room.topic", "", {"topic": "after"})
    section = (await bob.sync(timeout=5000))["rooms"]["join"][room_id]
    assert section["timeline"]["events"] == []
    assert [(e["event_id"], e["content"]) for e in section["state"]["events"]] == [
        (event_id, {"topic": "after"})
    ]
    for restarted in (False, True):
        if restarted:
            await server.restart()
        assert await bob.get(f"/rooms/{room_id}/state/m.room.topic") == {"topic": "after"}
        state = {e["type"]: e for e in await bob.get(f"/rooms/{room_id}/state")}
        assert state["m.room.topic"]["event_id"] == event_id
        assert (await bob.sync(full=True))["rooms"]["join"][room_id]["state"]["events"]
    assert await alice.send(room_id, "goes on")


async def test_member_whom_resolution_removed_is_out(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync()
    kicked = {"membership": "leave"}
    await change(server, room_id, alice.user_id, "m.room.member", bob.user_id, kicked)
    assert room_id in (await bob.sync(timeout=5000))["rooms"]["leave"]
    for restarted in (False, True):
        if restarted:
            await server.restart()
        assert (await bob.get("/joined_rooms"))["joined_rooms"] == []
        assert list((await alice.get(f"/rooms/{room_id}/joined_members"))["joined"]) == [alice.user_id]
        await bob.call("PUT", f"/rooms/{room_id}/send/org.example.said/x", {}, expect=403)
    await bob.join(room_id)
    assert (await bob.get("/joined_rooms"))["joined_rooms"] == [room_id]


async def test_state_that_resolution_took_away_is_gone(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(topic="before")
    room = await room_of(server, room_id)
    gone = Entry(Kind.STATE, room_id, type="m.room.topic", key="")
    await server.app.rooms.submit(room, Append([gone]))
    for restarted in (False, True):
        if restarted:
            await server.restart()
        await alice.call("GET", f"/rooms/{room_id}/state/m.room.topic", expect=404)
    at = orjson.dumps({"not_types": ["x"]}).decode()
    assert await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "filter": at})


async def test_directory_follows_what_resolution_chose(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(visibility="public", topic="before")
    await change(server, room_id, alice.user_id, "m.room.topic", "", {"topic": "after"})
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    assert (await alice.get("/publicRooms"))["chunk"][0]["topic"] == "after"
