"""Simplified sliding sync (MSC4186) as Element X uses it."""

import asyncio
from typing import Any

import msgspec
import orjson
import pytest

from homeserver.rooms.loading import Loading
from storage.records.sliding_sync import SLIDING_CONNECTIONS
from tests.client_api.conftest import Client, Server
from tests.client_api.sliding import PATH, Sliding, messages_in, whole_list


async def test_rooms_come_with_the_newest_activity_first(alice: Client) -> None:
    first = await alice.create_room(name="first")
    second = await alice.create_room(name="second")
    await alice.send(first, "bump")
    body = await Sliding(alice, lists={"all": whole_list()}).poll()
    assert body["lists"]["all"]["count"] == 2
    stamps = {room_id: room["bump_stamp"] for room_id, room in body["rooms"].items()}
    assert stamps[first] > stamps[second]
    assert body["rooms"][first]["name"] == "first"
    assert body["rooms"][first]["initial"] is True


@pytest.mark.parametrize(("data", "room_shards"), [("sqlite", 4)], indirect=["data"])
async def test_order_holds_across_shards_and_restarts(server: Server, alice: Client) -> None:
    """Positions of different shards say nothing about each other: one shard is far ahead here."""
    rooms: dict[int, str] = {}
    while len(rooms) < 4:
        room_id = await alice.create_room()
        if rooms.setdefault(server.app.rooms.shards.of_room(room_id), room_id) != room_id:
            await alice.leave(room_id)
    for _ in range(30):
        await alice.send(rooms[0])
    for shard in (2, 0, 3, 1, 3, 0, 2):
        await asyncio.sleep(0.002)
        await alice.send(rooms[shard], f"in {shard}")
    # No activity, however much of it there is.
    for number in range(40):
        await alice.send(rooms[1], {"n": number}, type="x.quiet")
    expected = [rooms[shard] for shard in (2, 0, 3, 1)]
    shown = (await Sliding(alice, lists={"all": whole_list()}).poll())["rooms"]
    assert list(shown) == expected
    stamps = [room["bump_stamp"] for room in shown.values()]
    assert stamps == sorted(stamps, reverse=True)
    assert len(set(stamps)) == 4
    await server.restart()
    shown = (await Sliding(alice, lists={"all": whole_list()}).poll())["rooms"]
    assert list(shown) == expected
    assert [room["bump_stamp"] for room in shown.values()] == stamps


async def test_a_poll_reads_no_room_for_lists_alone(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms that memory has no place for are read when there is something to tell of them."""
    limits = msgspec.structs.replace(server.config.limits, room_cache=1)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    user = server.client()
    user.token = alice.token
    rooms = [await user.create_room(name=f"room {n}") for n in range(6)]
    filters = {"room_types": [None], "room_name_like": "room", "is_encrypted": False}
    extensions = {name: {"enabled": True} for name in ("receipts", "typing", "account_data")}
    sliding = Sliding(user, lists={"all": whole_list(filters=filters)}, extensions=extensions)
    assert list((await sliding.poll())["rooms"]) == rooms[::-1]
    was_read: list[str] = []
    read = Loading.read

    async def noted(self: Loading, room_id: str, shard: int, upto: int) -> Any:
        was_read.append(room_id)
        return await read(self, room_id, shard, upto)

    monkeypatch.setattr(Loading, "read", noted)
    body = await sliding.poll()
    assert (body["rooms"], body["lists"]["all"]["count"], was_read) == ({}, 6, [])
    event_id = await user.send(rooms[1])
    body = await sliding.poll()
    assert list(body["rooms"]) == [rooms[1]]
    assert messages_in(body, rooms[1]) == [event_id]
    assert set(was_read) == {rooms[1]}
    await user.post(f"/rooms/{rooms[2]}/receipt/m.read/{event_id}", {}, expect=404)
    newest = (await user.get(f"/rooms/{rooms[2]}/messages", query={"dir": "b", "limit": 1}))["chunk"][0]
    await user.post(f"/rooms/{rooms[2]}/receipt/m.read/{newest['event_id']}", {})
    assert list((await sliding.poll())["extensions"]["receipts"]["rooms"]) == [rooms[2]]
    await user.set_state(rooms[3], "m.room.name", {"name": "another"})
    assert (await sliding.poll())["lists"]["all"]["count"] == 5


async def test_only_the_window_is_sent_and_grows_on_demand(alice: Client) -> None:
    rooms = [await alice.create_room(name=str(n)) for n in range(3)]
    sliding = Sliding(alice, lists={"all": whole_list(ranges=[[0, 0]])})
    assert list((await sliding.poll())["rooms"]) == [rooms[2]]
    body = await sliding.poll(lists={"all": whole_list(ranges=[[0, 2]])})
    assert set(body["rooms"]) == {rooms[0], rooms[1]}


async def test_waiting_poll_returns_with_the_new_message_only(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    assert (await sliding.poll())["rooms"] == {}
    poll = asyncio.create_task(sliding.poll(timeout=20_000))
    await asyncio.sleep(0.05)
    event_id = await alice.send(room_id, "hi")
    body = await asyncio.wait_for(poll, 5)
    room = body["rooms"][room_id]
    assert [event["event_id"] for event in room["timeline"]] == [event_id]
    assert room["num_live"] == 1
    assert "initial" not in room
    assert room["notification_count"] == 1


async def test_lost_answer_is_given_again(alice: Client) -> None:
    room_id = await alice.create_room()
    sliding = Sliding(alice, lists={"all": whole_list()})
    await sliding.poll()
    pos = sliding.pos
    event_id = await alice.send(room_id)
    for _ in range(2):
        sliding.pos = pos
        body = await sliding.poll()
        assert [e["event_id"] for e in body["rooms"][room_id]["timeline"]] == [event_id]


async def test_connection_goes_on_after_a_restart(server: Server, alice: Client, bob: Client) -> None:
    """Also a room that has left the window meanwhile is known up to where it was sent."""
    first = await alice.create_room(preset="public_chat")
    second = await alice.create_room(preset="public_chat")
    for room_id in (first, second):
        await bob.join(room_id)
    sliding = Sliding(bob, lists={"all": whole_list(ranges=[[0, 0]])}, room_subscriptions={})
    assert list((await sliding.poll())["rooms"]) == [second]
    await alice.send(first, "bump")
    assert list((await sliding.poll())["rooms"]) == [first]
    missed = [await alice.send(second, "one"), await alice.send(first, "two")]
    await server.restart()
    body = await sliding.poll(lists={"all": whole_list(ranges=[[0, 1]])})
    assert messages_in(body, second) == missed[:1]
    assert messages_in(body, first) == missed[1:]
    assert not any("initial" in room for room in body["rooms"].values())
    assert (await sliding.poll())["rooms"] == {}


async def test_lost_answer_is_given_again_after_a_restart(server: Server, alice: Client) -> None:
    sliding = Sliding(alice, lists={"all": whole_list()})
    await sliding.poll()
    pos = sliding.pos
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    assert event_id in messages_in(await sliding.poll(), room_id)
    sliding.pos = pos
    await server.restart()
    room = (await sliding.poll())["rooms"][room_id]
    assert room["initial"] is True
    assert room["timeline"][-1]["event_id"] == event_id


async def test_unknown_position_asks_the_client_to_begin_anew(server: Server, alice: Client) -> None:
    sliding = Sliding(alice, lists={"all": whole_list()})
    await sliding.poll()
    assert sliding.pos is not None
    number, name, token = sliding.pos.split("/")
    unknown = ["x", "1/2", f"{number}/00000000/{token}", f"{number}/{name}/s1_x", f"-1/{name}/{token}"]
    await server.restart()
    for pos in unknown:
        reply = await alice.call("POST", PATH, sliding.request, query={"pos": pos}, expect=400)
        assert reply.errcode == "M_UNKNOWN_POS"
    reply = await alice.call("POST", PATH, {"conn_id": "other"}, query={"pos": sliding.pos}, expect=400)
    assert reply.errcode == "M_UNKNOWN_POS"


async def test_position_is_of_no_use_to_others_nor_after_logging_out(
    server: Server, alice: Client, bob: Client
) -> None:
    sliding = Sliding(alice, lists={"all": whole_list()})
    await sliding.poll()
    login = {"type": "m.login.password", "user": "alice", "password": "correct horse"}
    await alice.post("/logout")
    again = server.client()
    again.token = (await again.post("/login", login | {"device_id": alice.device_id}))["access_token"]
    for client in (bob, again):
        reply = await client.call("POST", PATH, sliding.request, query={"pos": sliding.pos}, expect=400)
        assert reply.errcode == "M_UNKNOWN_POS"


async def test_messages_store_nothing_of_a_connection(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    sliding = Sliding(alice, lists={"all": whole_list()})
    await sliding.poll()
    records = server.app.store.collection(SLIDING_CONNECTIONS)
    stored = await records.get(alice.user_id, alice.device_id, "")
    for _ in range(3):
        event_id = await alice.send(room_id)
        assert messages_in(await sliding.poll(), room_id) == [event_id]
    assert stored is not None
    assert await records.get(alice.user_id, alice.device_id, "") == stored


async def test_of_many_connections_of_a_device_the_first_ones_are_forgotten(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client
) -> None:
    monkeypatch.setattr("homeserver.sync.sliding.connection.MAX_OF_DEVICE", 3)
    for number in range(5):
        await Sliding(alice, conn_id=str(number)).poll()
    stored = await server.app.store.collection(SLIDING_CONNECTIONS).find("key", (alice.user_id,))
    assert [connection.conn_id for connection in stored] == ["2", "3", "4"]


async def test_lazy_members_are_those_who_spoke(alice: Client, bob: Client, carol: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    await bob.send(room_id, "hi")
    sliding = Sliding(alice, lists={"all": whole_list(limit=1)})
    room = (await sliding.poll())["rooms"][room_id]
    members = {e["state_key"] for e in room["required_state"] if e["type"] == "m.room.member"}
    assert members == {alice.user_id, bob.user_id}
    await carol.send(room_id, "me too")
    room = (await sliding.poll(timeout=1000))["rooms"][room_id]
    assert [e["state_key"] for e in room["required_state"]] == [carol.user_id]


async def test_invite_is_sent_stripped_and_once(alice: Client, bob: Client) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    room_id = await alice.create_room(name="Come in", invite=[bob.user_id])
    room = (await sliding.poll(timeout=1000))["rooms"][room_id]
    types = {event["type"] for event in room["invite_state"]}
    assert {"m.room.name", "m.room.create", "m.room.member"} <= types
    assert "timeline" not in room
    assert room_id not in (await sliding.poll())["rooms"]
    await bob.join(room_id)
    room = (await sliding.poll(timeout=1000))["rooms"][room_id]
    assert room["initial"] is True
    assert room["timeline"][-1]["state_key"] == bob.user_id


async def test_left_room_is_told_once(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    await alice.send(room_id, "secret")
    room = (await sliding.poll(timeout=1000))["rooms"][room_id]
    assert [e["content"]["membership"] for e in room["timeline"]] == ["leave"]
    assert room_id not in (await sliding.poll())["rooms"]


@pytest.mark.parametrize("act", ["kick", "ban"])
async def test_who_is_put_out_is_told_even_where_the_join_was_not(
    alice: Client, bob: Client, act: str
) -> None:
    """A client takes the answer to its join for its membership, and may be told of nothing before it ends."""
    sliding = Sliding(bob, lists={"all": whole_list()})
    await sliding.poll()
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.post(f"/rooms/{room_id}/{act}", {"user_id": bob.user_id})
    await alice.set_state(room_id, "m.room.name", {"name": "not for bob"})
    membership = "leave" if act == "kick" else "ban"
    for connection, live in ((sliding, 1), (Sliding(bob, lists={"all": whole_list()}), 0)):
        body = await connection.poll()
        room = body["rooms"][room_id]
        assert [e["content"]["membership"] for e in room["required_state"]] == [membership]
        assert (room["membership"], room["num_live"]) == (membership, live)
        assert body["lists"]["all"]["count"] == 1
        assert b"not for bob" not in orjson.dumps(body)
        assert room_id not in (await connection.poll())["rooms"]
    by_name = Sliding(bob, lists={"all": whole_list(filters={"room_name_like": "not for"})})
    assert (await by_name.poll())["rooms"] == {}


async def test_who_was_put_out_comes_back(alice: Client, bob: Client) -> None:
    sliding = Sliding(bob, lists={"all": whole_list()})
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await sliding.poll()
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    await sliding.poll()
    await bob.join(room_id)
    room = (await sliding.poll())["rooms"][room_id]
    assert room["initial"] is True
    assert room["timeline"][-1]["content"]["membership"] == "join"


async def test_rooms_never_joined_or_forgotten_are_not_listed(alice: Client, bob: Client) -> None:
    banned = await alice.create_room(preset="public_chat")
    await alice.post(f"/rooms/{banned}/ban", {"user_id": bob.user_id})
    withdrawn = await alice.create_room(invite=[bob.user_id])
    await alice.post(f"/rooms/{withdrawn}/kick", {"user_id": bob.user_id})
    forgotten = await alice.create_room(preset="public_chat")
    await bob.join(forgotten)
    await alice.post(f"/rooms/{forgotten}/kick", {"user_id": bob.user_id})
    await bob.post(f"/rooms/{forgotten}/forget")
    body = await Sliding(bob, lists={"all": whole_list()}).poll()
    assert body["rooms"] == {}
    assert body["lists"]["all"]["count"] == 0


async def test_filters_tell_direct_chats_and_spaces_apart(alice: Client, bob: Client) -> None:
    direct = await alice.create_room(is_direct=True, invite=[bob.user_id])
    group = await alice.create_room(name="group")
    space = await alice.create_room(name="space", creation_content={"type": "m.space"})
    await alice.put(f"/user/{alice.user_id}/account_data/m.direct", {bob.user_id: [direct]})
    await alice.set_state(space, "m.space.child", {"via": ["localhost"]}, group)

    async def found(**filters: Any) -> set[str]:
        body = await Sliding(alice, lists={"x": whole_list(filters=filters)}).poll()
        return set(body["rooms"])

    assert await found(is_dm=True) == {direct}
    assert await found(is_dm=False, not_room_types=["m.space"]) == {group}
    assert await found(room_types=["m.space"]) == {space}
    assert await found(spaces=[space]) == {group}
    assert await found(room_name_like="GRO") == {group}


async def test_name_and_picture_that_are_taken_away_are_told_as_null(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(name="n", invite=[bob.user_id])
    await alice.set_state(room_id, "m.room.avatar", {"url": "mxc://localhost/face"})
    sliding = Sliding(alice, lists={"all": whole_list()})
    shown = (await sliding.poll())["rooms"][room_id]
    assert (shown["name"], shown["avatar"]) == ("n", "mxc://localhost/face")
    await alice.set_state(room_id, "m.room.avatar", {})
    shown = (await sliding.poll())["rooms"][room_id]
    assert (shown["name"], shown["avatar"]) == ("n", None)
    await alice.set_state(room_id, "m.room.name", {"name": ""})
    shown = (await sliding.poll())["rooms"][room_id]
    assert shown["name"] is None
    assert [hero["user_id"] for hero in shown["heroes"]] == [bob.user_id]
    await alice.set_state(room_id, "m.room.topic", {"topic": "t"})
    assert not {"name", "avatar"} & (await sliding.poll())["rooms"][room_id].keys()
    at_first = (await Sliding(alice, lists={"all": whole_list()}).poll())["rooms"][room_id]
    assert not {"name", "avatar"} & at_first.keys()


async def test_room_that_becomes_a_direct_chat_or_ceases_to_be_one_is_told_so(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id, other = await alice.create_room(invite=[bob.user_id]), await alice.create_room()
    sliding = Sliding(alice, lists={"all": whole_list()})
    assert "is_dm" not in (await sliding.poll())["rooms"][room_id]
    path = f"/user/{alice.user_id}/account_data/m.direct"
    await alice.put(path, {bob.user_id: [room_id]})
    body = await sliding.poll(timeout=5000)
    assert {told: room.get("is_dm") for told, room in body["rooms"].items()} == {room_id: True}
    at_first = await Sliding(alice, conn_id="other", lists={"all": whole_list()}).poll()
    assert at_first["rooms"][room_id]["is_dm"] is True
    await server.restart()
    await alice.send(other)
    assert list((await sliding.poll())["rooms"]) == [other]
    await alice.put(path, {bob.user_id: [other]})
    body = await sliding.poll()
    told = {told: room.get("is_dm") for told, room in body["rooms"].items()}
    assert told == {room_id: False, other: True}
    assert (await sliding.poll())["rooms"] == {}


async def test_subscription_gives_more_of_one_room(alice: Client) -> None:
    room_id = await alice.create_room(name="n", topic="t")
    sent = [await alice.send(room_id, str(n)) for n in range(5)]
    sliding = Sliding(alice, lists={"all": whole_list(limit=1)})
    room = (await sliding.poll())["rooms"][room_id]
    assert [e["event_id"] for e in room["timeline"]] == sent[-1:]
    wanted = {"timeline_limit": 3, "required_state": [["m.room.topic", ""]]}
    room = (await sliding.poll(room_subscriptions={room_id: wanted}))["rooms"][room_id]
    assert [e["event_id"] for e in room["timeline"]] == sent[-3:]
    assert room["unstable_expanded_timeline"] is True
    assert "m.room.topic" in {e["type"] for e in room["required_state"]}


async def test_extensions_carry_account_data_receipts_and_typing(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id)
    enabled = {
        name: {"enabled": True} for name in ("account_data", "receipts", "typing", "e2ee", "to_device")
    }
    sliding = Sliding(alice, lists={"all": whole_list()}, extensions=enabled)
    body = await sliding.poll()
    types = {event["type"] for event in body["extensions"]["account_data"]["global"]}
    assert "m.push_rules" in types
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{event_id}")
    await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": True, "timeout": 5000})
    await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/tags/u.x", {})
    extensions = (await sliding.poll(timeout=1000))["extensions"]
    receipts = extensions["receipts"]["rooms"][room_id]["content"]
    assert bob.user_id in receipts[event_id]["m.read"]
    assert extensions["typing"]["rooms"][room_id]["content"]["user_ids"] == [bob.user_id]
    assert extensions["account_data"]["rooms"][room_id][0]["type"] == "m.tag"


async def test_extensions_carry_what_came_while_a_room_was_outside_of_the_window(
    alice: Client, bob: Client
) -> None:
    room_id, other = await alice.create_room(preset="public_chat"), await alice.create_room()
    await bob.join(room_id)
    event_id = await alice.send(room_id)
    enabled = {name: {"enabled": True} for name in ("account_data", "receipts", "typing")}
    sliding = Sliding(alice, lists={"all": whole_list(ranges=[[0, 0]])}, extensions=enabled)
    await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": True, "timeout": 60_000})
    assert list((await sliding.poll())["rooms"]) == [room_id]
    await alice.send(other)
    assert list((await sliding.poll())["rooms"]) == [other]
    await bob.put(f"/rooms/{room_id}/typing/{bob.user_id}", {"typing": False})
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{event_id}")
    await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/tags/u.x", {})
    assert (await sliding.poll())["extensions"] == {}
    await bob.send(room_id)
    body = await sliding.poll()
    assert list(body["rooms"]) == [room_id]
    extensions = body["extensions"]
    assert bob.user_id in extensions["receipts"]["rooms"][room_id]["content"][event_id]["m.read"]
    assert [event["type"] for event in extensions["account_data"]["rooms"][room_id]] == ["m.tag"]
    assert extensions["typing"]["rooms"][room_id]["content"]["user_ids"] == []
    await bob.send(room_id)
    assert (await sliding.poll())["extensions"] == {}


async def test_request_beyond_its_bounds_is_refused(alice: Client) -> None:
    for request in (
        {"lists": {"a": whole_list(ranges=[[5, 1]])}},
        {"lists": {str(n): whole_list() for n in range(101)}},
        {"lists": {"x" * 256: whole_list()}},
        {"lists": {"a": whole_list(limit=-1)}},
        {"conn_id": "x" * 65},
        {"lists": []},
    ):
        await alice.call("POST", PATH, request, expect=400)
