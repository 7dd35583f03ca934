"""Presence between servers: who is told of whom (HARDENING 5 and 38)."""

import asyncio
from typing import Any

import pytest

from homeserver.presence import presence as presence_module
from homeserver.presence.presence import ELSEWHERE_FOR_MS, MAX_STATUS_BYTES
from homeserver.presence.told_presence import AGAIN_AFTER_MS
from homeserver.tasks import end
from storage.errors import StoreUnavailable
from tests.client_api.conftest import Client
from tests.client_api.test_presence import path, settle, told
from tests.federation.receiving import Receiving
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor
from tests.waiting import until


async def push(server: Homeserver, other: OtherServer, *said: Any) -> None:
    federation = server.app.federation
    assert federation is not None
    await federation.edus.receive(other.name, {"edu_type": "m.presence", "content": {"push": said}})
    await settle(server)


def state(user_id: str, presence: str = "online", **more: Any) -> Any:
    return {"user_id": user_id, "presence": presence, "last_active_ago": 5_000, **more}


async def test_another_servers_user_is_shown_as_their_server_says(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, room_id: str
) -> None:
    await push(server, other, state(visitor.user_id, status_msg="on my way", currently_active=True))
    shown = (await told(alice))[visitor.user_id]
    assert shown["presence"] == "online"
    assert shown["status_msg"] == "on my way"
    assert 5_000 <= shown["last_active_ago"] < 60_000
    status = await alice.get(f"/presence/{visitor.user_id}/status")
    assert status["presence"] == "online"
    await push(server, other, state(visitor.user_id, "unavailable"))
    assert (await told(alice))[visitor.user_id]["presence"] == "unavailable"
    await push(server, other, state(visitor.user_id, "unavailable"))
    assert await told(alice) == {}
    await push(server, other, state(visitor.user_id, "offline"))
    assert (await told(alice))[visitor.user_id]["presence"] == "offline"


async def test_who_is_not_heard_of_for_long_is_gone(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, room_id: str
) -> None:
    await push(server, other, state(visitor.user_id))
    assert (await told(alice))[visitor.user_id]["presence"] == "online"
    await settle(server, ELSEWHERE_FOR_MS)
    assert (await told(alice))[visitor.user_id]["presence"] == "offline"


async def test_a_room_that_cannot_be_read_silences_nobody(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client, visitor: Visitor, room_id: str
) -> None:
    sound = await alice.create_room(preset="public_chat")
    await bob.join(sound)
    await push(server, other, state(visitor.user_id))
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "unread"})
    await server.stop()
    server.data.damage(topic)
    await server.start()
    alice._base = bob._base = server.base
    await alice.put(path(alice), {"presence": "online", "status_msg": "here"})
    await settle(server)
    assert (await told(bob))[alice.user_id]["status_msg"] == "here"


async def test_who_was_here_is_so_after_a_restart_until_their_server_is_silent_for_long(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, room_id: str
) -> None:
    gone = Visitor(server, other, "gone")
    await gone.member(room_id, "join")
    await push(server, other, state(visitor.user_id, status_msg="on my way"), state(gone.user_id))
    await push(server, other, state(gone.user_id, "offline"))
    await server.restart()
    alice._base, alice.next_batch = server.base, None
    await settle(server)
    shown = await told(alice)
    assert shown[visitor.user_id]["presence"] == "online"
    assert shown[visitor.user_id]["status_msg"] == "on my way"
    assert gone.user_id not in shown
    await settle(server, ELSEWHERE_FOR_MS)
    assert (await told(alice))[visitor.user_id]["presence"] == "offline"


async def test_presence_is_believed_of_own_users_only(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 5."""
    await bob.join(room_id)
    await settle(server)
    await told(alice)
    for user_id in (bob.user_id, "@carol:third.example.org", "nobody"):
        await push(server, other, state(user_id, status_msg="forged"))
    await push(server, other, state(visitor.user_id, status_msg="x" * (MAX_STATUS_BYTES + 1)))
    await push(server, other, state(visitor.user_id, "here"))
    await push(server, other, *[state(visitor.user_id)] * 501)
    assert await told(alice) == {}
    assert server.app.federation is not None
    assert server.app.federation.edus.dropped == {"m.presence": 6}


async def test_what_is_wrong_with_one_user_takes_no_other_along(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, room_id: str
) -> None:
    """A server says of many at once how they are; states of later releases come among them."""
    wrong = (
        state(f"@busy:{other.name}", "org.matrix.msc3026.busy"),
        state("@carol:third.example.org"),
        state("nobody"),
        {"user_id": 1},
        "nonsense",
    )
    await push(server, other, *wrong, state(visitor.user_id))
    assert (await told(alice))[visitor.user_id]["presence"] == "online"
    assert server.app.federation is not None
    assert server.app.federation.edus.dropped == {"m.presence": len(wrong)}


async def test_whom_nobody_here_meets_is_not_remembered(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 38: a flood of users costs no memory."""
    await push(server, other, *(state(f"@stranger{number}:{other.name}") for number in range(100)))
    assert not [
        user_id for user_id in server.app.people.presence_stream.here if user_id.startswith("@stranger")
    ]
    await push(server, other, state(visitor.user_id))
    assert visitor.user_id in await told(alice)


def pushed(receiving: Receiving) -> list[Any]:
    contents = receiving.contents("m.presence")
    return [said for content in contents for said in content["push"]]


async def test_servers_of_rooms_are_told_how_users_are(
    server: Homeserver, alice: Client, bob: Client, receiving: Receiving, room_id: str
) -> None:
    await bob.create_room()
    for client in (bob, alice):
        await client.put(path(client), {"presence": "online", "status_msg": "here"})
    await settle(server)
    await until(lambda: pushed(receiving))
    assert {said["user_id"] for said in pushed(receiving)} == {alice.user_id}
    last = pushed(receiving)[-1]
    assert last["presence"] == "online"
    assert last["status_msg"] == "here"
    assert last["currently_active"] is True
    assert 0 <= last["last_active_ago"] < 60_000


async def test_a_server_that_comes_into_a_room_is_told_who_is_there(
    server: Homeserver, alice: Client, bob: Client, receiving: Receiving, visitor: Visitor
) -> None:
    gone = await server.register("gone")
    room_id = await alice.create_room(preset="public_chat", invite=[bob.user_id])
    await gone.join(room_id)
    for client, presence in ((alice, "online"), (bob, "online"), (gone, "offline")):
        await client.put(path(client), {"presence": presence, "status_msg": "long since"})
    await settle(server)
    await visitor.member(room_id, "join")
    await settle(server)
    await until(lambda: pushed(receiving))
    (said,) = pushed(receiving)
    assert (said["user_id"], said["presence"], said["status_msg"]) == (alice.user_id, "online", "long since")


async def test_what_the_store_could_not_say_once_is_told_later(
    server: Homeserver, alice: Client, receiving: Receiving, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence, shared_rooms = server.app.people.presence, server.app.people.presence._shared_rooms
    device = presence.sync_begins(alice.user_id, alice.device_id, "unavailable")
    await settle(server)
    await until(lambda: pushed(receiving) and pushed(receiving)[-1]["presence"] == "unavailable")
    before = len(pushed(receiving))
    read, failures = shared_rooms.of, [True]

    async def fails_once(user_id: str) -> frozenset[str]:
        if failures:
            failures.pop()
            raise StoreUnavailable("for a moment")
        return await read(user_id)

    now = presence._now
    monkeypatch.setattr(shared_rooms, "of", fails_once)
    monkeypatch.setattr(presence._told_servers, "_now", lambda: now() + AGAIN_AFTER_MS)
    monkeypatch.setattr(presence_module, "LOOK_EVERY_SECONDS", 0.01)
    looking = asyncio.create_task(presence.keep_looking())
    await until(lambda: looking.done() or len(pushed(receiving)) > before)
    assert not looking.done()
    presence.sync_ends(device)
    await end([looking])


async def test_what_lasts_is_told_again_before_it_is_taken_for_over(
    server: Homeserver, alice: Client, receiving: Receiving, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = server.app.people.presence
    device = presence.sync_begins(alice.user_id, alice.device_id, "unavailable")
    await settle(server)
    await until(lambda: pushed(receiving) and pushed(receiving)[-1]["presence"] == "unavailable")
    before = len(pushed(receiving))
    now = presence._now
    monkeypatch.setattr(presence._told_servers, "_now", lambda: now() + AGAIN_AFTER_MS)
    await settle(server)
    await until(lambda: len(pushed(receiving)) == before + 1)
    assert pushed(receiving)[-1]["presence"] == "unavailable"
    presence.sync_ends(device)
