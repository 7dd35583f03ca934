"""What is done to a room at one replica holds at the other: who may what, what is shown, what is unread."""

import asyncio
from enum import IntEnum
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.bus.bus import Ownership
from homeserver.push import unread as unread_module
from storage.log import Entry
from tests.client_api.conftest import Client
from tests.two_replicas.conftest import SHARDS, Replicas

PUBLIC_KEY = "A" * 43


def body_of_newest(body: Any, room_id: str) -> str:
    text: str = body["rooms"]["join"][room_id]["timeline"]["events"][-1]["content"]["body"]
    return text


def unread_in(body: Any, room_id: str) -> int:
    count: int = body["rooms"]["join"][room_id]["unread_notifications"]["notification_count"]
    return count


async def test_who_is_banned_at_one_sends_nothing_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.send(room, "before")
    await alice.post(f"/rooms/{room}/ban", {"user_id": bob.user_id})
    content = {"msgtype": "m.text", "body": "after"}
    await bob.call("PUT", f"/rooms/{room}/send/m.room.message/after", content, expect=403)


async def test_who_left_at_one_replica_comes_back_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    """Before the other one has heard that they left."""
    owner = replicas.owner(room)
    other = next(each for each in (replicas.a, replicas.b) if each is not owner)
    await replicas.at(other, bob).get(f"/rooms/{room}/messages", query={"dir": "b"})
    replicas.exchange.hold(True)
    await replicas.at(owner, bob).leave(room)
    held = other.app.rooms.cached(room)
    assert held is not None
    assert bob.user_id in held.joined
    await replicas.at(other, bob).post(f"/join/{room}")
    members = await replicas.at(owner, alice).get(f"/rooms/{room}/joined_members")
    assert bob.user_id in members["joined"]


async def test_who_joined_a_room_at_one_replica_comes_into_a_restricted_one_at_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    """Before the other one has heard of the first join."""

    space = await alice.create_room(preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": space}]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    room_id = await alice.create_room(initial_state=[rule])
    while replicas.owner(room_id) is replicas.owner(space):
        room_id = await alice.create_room(initial_state=[rule])
    await replicas.at(replicas.owner(room_id), bob).call("POST", f"/join/{quote(room_id)}", {}, expect=403)
    replicas.exchange.hold(True)
    await replicas.at(replicas.owner(space), bob).join(space)
    await replicas.at(replicas.owner(room_id), bob).join(room_id)


async def test_name_changed_at_one_replica_comes_into_a_room_just_joined_at_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    owner = replicas.owner(room_id)
    other = next(each for each in (replicas.a, replicas.b) if each is not owner)
    await replicas.at(other, bob).sync()
    replicas.exchange.hold(True)
    await replicas.at(owner, bob).join(room_id)
    path = f"/profile/{bob.user_id}/displayname"
    await replicas.at(other, bob).put(path, {"displayname": "Robert"})
    members = await replicas.at(owner, alice).get(f"/rooms/{room_id}/joined_members")
    assert members["joined"][bob.user_id]["display_name"] == "Robert"


async def test_ban_that_landed_in_between_holds_for_a_replica_that_has_not_heard_of_it(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, room: str, alice: Client, bob: Client
) -> None:
    """HARDENING 47: its late append is refused, and the event is checked again where the room is now."""
    for replica in (replicas.a, replicas.b):
        monkeypatch.setattr(replica.app.ground.others, "elsewhere", lambda room_id: None)
    await bob.send(room, "before")
    replicas.exchange.hold(True)
    await alice.post(f"/rooms/{room}/ban", {"user_id": bob.user_id})
    held = replicas.b.app.rooms.cached(room)
    assert held is not None
    assert bob.user_id in held.joined
    content = {"msgtype": "m.text", "body": "after"}
    await bob.call("PUT", f"/rooms/{room}/send/m.room.message/after", content, expect=403)
    newest = await alice.get(f"/rooms/{room}/messages", query={"dir": "b", "limit": 1})
    assert newest["chunk"][0]["content"]["membership"] == "ban"


async def test_who_takes_itself_for_the_owner_shows_what_another_has_written(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    """Shards that are divided anew have two owners for a moment; who was frozen believes for longer."""
    every_shard = frozenset((*SHARDS.room_shards(), *SHARDS.user_shards()))
    for replica in (replicas.a, replicas.b):
        replica.app.ground.replica.on_ownership(Ownership(every_shard))
    replicas.exchange.hold(True)
    event_id = await alice.send(room, "is this my room?")
    newest = await bob.get(f"/rooms/{room}/messages", query={"dir": "b", "limit": 1})
    assert newest["chunk"][0]["event_id"] == event_id


class LaterKind(IntEnum):
    MOOD = 99


async def test_what_only_a_later_release_knows_is_passed_over_by_an_older_replica(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    """While a server is upgraded replicas of two releases run side by side."""
    log, shard = replicas.a.app.store.log, SHARDS.of_room(room)
    for body in ("first", "second"):
        later: Any = LaterKind.MOOD
        await log.append(shard, await log.tail(shard), [Entry(later, room, b"{}", type="m.mood")])
        event_id = await alice.send(room, body)
        newest = await bob.get(f"/rooms/{room}/messages", query={"dir": "b", "limit": 1})
        assert newest["chunk"][0]["event_id"] == event_id
    assert body_of_newest(await bob.sync(), room) == "second"


async def test_what_is_redacted_at_one_is_pruned_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    event_id = await bob.send(room, "secret")
    await bob.get(f"/rooms/{room}/event/{event_id}")
    await alice.redact(room, event_id)
    assert (await bob.get(f"/rooms/{room}/event/{event_id}"))["content"] == {}


async def test_alias_and_listing_made_at_one_are_known_to_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_alias_name="tea", visibility="public")
    assert (await bob.get("/directory/room/%23tea:localhost"))["room_id"] == room_id
    listed = await bob.get("/publicRooms")
    assert [room["room_id"] for room in listed["chunk"]] == [room_id]
    await bob.post("/join/%23tea:localhost")


async def test_who_names_and_lists_a_room_at_one_is_judged_by_what_they_are_at_the_other(
    replicas: Replicas, room: str, alice: Client
) -> None:
    """Before that one has heard that they came in, and what they may."""
    owner = replicas.owner(room)
    other = next(each for each in (replicas.a, replicas.b) if each is not owner)
    carol = replicas.at(other, await replicas.client().register("carol"))
    await replicas.at(other, alice).get(f"/rooms/{room}/state")
    replicas.exchange.hold(True)
    await replicas.at(owner, carol).join(room)
    await carol.put("/directory/room/%23tea:localhost", {"room_id": room})
    await alice.put("/directory/room/%23coffee:localhost", {"room_id": room})
    await replicas.at(owner, alice).set_state(room, "m.room.power_levels", {"users": {carol.user_id: 100}})
    await carol.put(f"/directory/list/room/{room}", {"visibility": "public"})
    await replicas.at(owner, carol).set_state(room, "m.room.power_levels", {"users": {}})
    await carol.call("DELETE", "/directory/room/%23coffee:localhost", expect=403)


async def test_room_upgraded_at_one_is_followed_at_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version="10", room_alias_name="tea")
    await bob.join(room_id)
    new = (await alice.post(f"/rooms/{room_id}/upgrade", {"new_version": "11"}))["replacement_room"]
    assert (await bob.get(f"/rooms/{room_id}/state/m.room.tombstone"))["replacement_room"] == new
    await bob.post("/join/%23tea:localhost")
    assert new in (await bob.get("/joined_rooms"))["joined_rooms"]


async def test_message_sent_at_one_is_found_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    event_id = await alice.send(room, "oolong")
    wanted = {"search_categories": {"room_events": {"search_term": "oolong"}}}
    found = (await bob.post("/search", wanted))["search_categories"]["room_events"]["results"]
    assert [result["result"]["event_id"] for result in found] == [event_id]


async def test_unread_messages_are_counted_alike_and_read_at_both(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    at_a = replicas.at(replicas.a, bob)
    senders = [replicas.at(replica, alice) for replica in (replicas.a, replicas.b)]
    sent = [await senders[number % 2].send(room, txn=f"u{number}") for number in range(4)]
    for client in (bob, at_a):
        assert unread_in(await client.sync(full=True), room) == 4
    await at_a.post(f"/rooms/{room}/receipt/m.read/{sent[2]}")
    assert unread_in(await bob.sync(), room) == 1
    await bob.post(f"/rooms/{room}/receipt/m.read.private/{sent[3]}")
    for client in (bob, at_a):
        assert unread_in(await client.sync(full=True), room) == 0


async def test_long_backlog_counted_at_one_is_counted_on_at_the_other(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, room: str, alice: Client, bob: Client
) -> None:
    """What is too far back to be counted anew goes over by the store."""
    monkeypatch.setattr(unread_module, "PAGE", 20)
    monkeypatch.setattr(unread_module, "MAX_COUNTED", 20)
    monkeypatch.setattr(unread_module, "STORED_EVERY", 30)
    await bob.sync()
    for _ in range(4):
        await asyncio.gather(*(alice.send(room) for _ in range(50)))
        await bob.sync(timeout=5_000)
    async with asyncio.timeout(5):
        while unread_in(await bob.sync(full=True), room) != 200:
            await asyncio.sleep(0.02)
    await replicas.b.app.syncing.unread_tallies.write()
    await alice.send(room, "one more")
    assert unread_in(await replicas.at(replicas.a, bob).sync(full=True), room) == 201


async def test_push_rules_set_at_one_hold_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    at_a = replicas.at(replicas.a, bob)
    await bob.sync()
    await at_a.put(f"/pushrules/global/room/{room}", {"actions": []})
    await alice.send(room)
    assert unread_in(await bob.sync(timeout=5_000), room) == 0


async def test_new_device_at_one_is_told_of_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    keys = {
        "user_id": alice.user_id,
        "device_id": alice.device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{alice.device_id}": PUBLIC_KEY},
        "signatures": {},
    }
    await alice.post("/keys/upload", {"device_keys": keys})
    assert (await bob.sync(timeout=5_000))["device_lists"]["changed"] == [alice.user_id]
    queried = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
    assert queried["device_keys"][alice.user_id][alice.device_id]["keys"] == keys["keys"]


async def test_user_who_joined_at_one_is_found_in_the_directory_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Zaphod"})

    async def found() -> list[str]:
        body = await bob.post("/user_directory/search", {"search_term": "zaphod"})
        return [user["user_id"] for user in body["results"]]

    async with asyncio.timeout(5):
        while await found() != [alice.user_id]:
            await asyncio.sleep(0.02)


async def test_user_who_goes_from_one_public_room_to_another_is_found_all_the_time(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    """The replica that has the first room in hand may not have heard of the second one yet."""

    async def settled() -> None:
        for replica in (replicas.a, replicas.b):
            for consumer in replica.app.ground.consumers:
                for shard in SHARDS.room_shards():
                    if replica.app.ground.replica.owns(shard):
                        await consumer.settled(shard)

    old = await alice.create_room(preset="public_chat")
    new = await alice.create_room(preset="public_chat")
    while replicas.owner(new) is replicas.owner(old):
        new = await alice.create_room(preset="public_chat")
    await replicas.at(replicas.owner(old), bob).join(old)
    await replicas.at(replicas.owner(old), bob).sync()
    await settled()
    replicas.exchange.hold(True)
    await replicas.at(replicas.owner(new), bob).join(new)
    await settled()
    await replicas.at(replicas.owner(old), bob).leave(old)
    await settled()
    found = await alice.post("/user_directory/search", {"search_term": "bob"})
    assert [user["user_id"] for user in found["results"]] == [bob.user_id]


async def test_relations_of_both_are_bundled_at_both(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    root = await alice.send(room, "root")
    for client in (alice, bob):
        relates = {"rel_type": "m.thread", "event_id": root}
        await client.send(room, {"msgtype": "m.text", "body": "reply", "m.relates_to": relates})
    for client in (alice, bob):
        event = await client.get(f"/rooms/{room}/event/{root}")
        assert event["unsigned"]["m.relations"]["m.thread"]["count"] == 2
