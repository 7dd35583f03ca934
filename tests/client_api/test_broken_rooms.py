"""A room that cannot be read any more keeps nobody from the others (HARDENING 10)."""

from typing import Any

import pytest

from tests.client_api.conftest import Client, Server
from tests.client_api.sliding import Sliding, messages_in, whole_list
from tests.client_api.test_account import deactivate

DAMAGED = ("state", "message")


async def event_of(client: Client, room_id: str, damaged: str) -> str:
    """An event of a room: one of its state, or its newest message."""
    if damaged == "message":
        return await client.send(room_id, "will not be read again")
    event_id = await client.set_state(room_id, "m.room.topic", {"topic": "unread"})
    for number in range(40):
        await client.send(room_id, f"later {number}")
    return event_id


async def beside_a_broken_room(server: Server, alice: Client, bob: Client, damaged: str) -> str:
    """A sound room of two who have a broken one together, too."""
    broken, sound = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in (broken, sound):
        await bob.join(room_id)
    event_id = await event_of(alice, broken, damaged)
    await server.stop()
    server.data.damage(event_id)
    await server.start()
    return sound


def shown_in(body: Any, room_id: str) -> list[str]:
    events = body["rooms"]["join"][room_id]["timeline"]["events"]
    return [event["event_id"] for event in events if event["type"] == "m.room.message"]


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_all_other_rooms_are_shown(server: Server, alice: Client, bob: Client, damaged: str) -> None:
    broken = await alice.create_room(preset="public_chat")
    sound = await alice.create_room(preset="public_chat")
    await bob.join(broken)
    await bob.join(sound)
    stream = (await bob.get("/events?timeout=0"))["end"]
    event_id = await event_of(alice, broken, damaged)
    before = await alice.send(sound, "before")
    await bob.sync()

    await server.stop()
    server.data.damage(event_id)
    await server.start()
    carol = await server.register("carol")
    await carol.join(sound)
    after = await alice.send(sound, "after")

    news = await bob.sync()
    assert shown_in(news, sound) == [after]
    assert carol.user_id in news["device_lists"]["changed"]
    first = await bob.sync(full=True)
    assert shown_in(first, sound) == [before, after]
    assert broken not in first["rooms"]["join"]
    sliding = await Sliding(bob, lists={"all": whole_list()}).poll()
    assert {before, after} <= set(messages_in(sliding, sound))
    assert broken not in sliding["rooms"]
    legacy = (await bob.get(f"/events?from={stream}&timeout=0"))["chunk"]
    assert [event["event_id"] for event in legacy if event["type"] == "m.room.message"] == [before, after]
    snapshot = await bob.get("/initialSync")
    assert [room["room_id"] for room in snapshot["rooms"]] == [sound]
    listed = (await bob.get("/notifications"))["notifications"]
    assert [each["event"]["event_id"] for each in listed if each["room_id"] == sound] == [after, before]
    await bob.call("GET", f"/rooms/{broken}/messages", query={"dir": "b"}, expect=500)


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_it_is_shown_when_it_can_be_read_again(server: Server, alice: Client, damaged: str) -> None:
    room = await alice.create_room()
    event_id = await event_of(alice, room, damaged)
    await server.stop()
    backup = server.data.copy()
    server.data.damage(event_id)
    await server.start()
    assert "rooms" not in await alice.sync(full=True)

    await server.stop()
    server.data.put_back(backup)
    await server.start()
    assert shown_in(await alice.sync(full=True), room)


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_a_new_name_reaches_the_others(
    server: Server, alice: Client, bob: Client, damaged: str
) -> None:
    sound = await beside_a_broken_room(server, alice, bob, damaged)
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
    member = await alice.get(f"/rooms/{sound}/state/m.room.member/{bob.user_id}")
    assert member["displayname"] == "Robert"


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_who_is_deactivated_leaves_all_the_others(
    server: Server, alice: Client, bob: Client, damaged: str
) -> None:
    await bob.put(f"/user/{bob.user_id}/account_data/org.x", {"a": "secret"})
    sound = await beside_a_broken_room(server, alice, bob, damaged)
    await deactivate(server, bob, erase=True)
    member = await alice.get(f"/rooms/{sound}/state/m.room.member/{bob.user_id}")
    assert member["membership"] == "leave"
    gone = await server.app.users.get(bob.user_id)
    assert not any(datum.content for datum in gone.account_data.values())
    assert await server.app.people.profiles.get(bob.user_id) == {}
