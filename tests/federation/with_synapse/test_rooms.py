"""Rooms that both servers are in (spec: server-server "Joining Rooms", "Server Access Control Lists")."""

import asyncio
import os
import time
from urllib.parse import quote

import pytest

from tests.federation.rooms import texts
from tests.federation.with_synapse.sides import Sides, agree, join, talk, until
from tests.real_parts.synapse import Synapse

VERSIONS = os.environ.get("TEST_ROOM_VERSIONS", "1 2 3 4 5 6 7 8 9 10 11 12").split()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_public_room_of_each_version(sides: Sides, version: str) -> None:
    room_id = await sides.host.create_room(preset="public_chat", room_version=version, name="Meeting")
    assert await join(sides.guest, room_id, sides.host_name) == room_id
    await talk(sides, room_id)
    await sides.host.set_state(room_id, "m.room.topic", {"topic": "Both"})
    await agree(sides, room_id)
    topic = await sides.guest.get(f"/rooms/{quote(room_id)}/state/m.room.topic")
    assert topic == {"topic": "Both"}


async def test_a_room_is_joined_by_its_alias(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat", room_alias_name=f"m{id(sides)}")
    alias = f"#m{id(sides)}:{sides.host_name}"
    assert await join(sides.guest, alias, sides.host_name) == room_id
    await talk(sides, room_id)


async def test_a_room_of_many_members_is_joined(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat")
    for number in range(200):
        await (await sides.host.stranger().register(f"m{number}-{time.monotonic_ns()}")).join(room_id)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)
    joined = await sides.guest.get(f"/rooms/{quote(room_id)}/joined_members")
    assert len(joined["joined"]) == 202


async def test_an_upgraded_room_is_followed(sides: Sides, room_id: str) -> None:
    reply = await sides.host.post(f"/rooms/{quote(room_id)}/upgrade", {"new_version": "11"})
    successor = reply["replacement_room"]

    async def told() -> bool:
        path = f"/rooms/{quote(room_id)}/state/m.room.tombstone"
        return (await sides.guest.call("GET", path, expect=None)).status == 200

    await until(told, "the guest sees the tombstone")
    assert await join(sides.guest, successor, sides.host_name) == successor
    await talk(sides, successor)


async def test_a_space_reaches_into_rooms_of_the_other_server(sides: Sides) -> None:
    space = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}
    inner = await sides.host.create_room(name="Inner", **space)
    leaf = await sides.host.create_room(name="Leaf", preset="public_chat")
    await sides.host.set_state(inner, "m.space.child", {"via": [sides.host_name]}, leaf)
    top = await sides.guest.create_room(name="Top", **space)
    await sides.guest.set_state(top, "m.space.child", {"via": [sides.host_name]}, inner)
    tree = await sides.guest.get(f"/_matrix/client/v1/rooms/{quote(top)}/hierarchy")
    assert [room["name"] for room in tree["rooms"]] == ["Top", "Inner", "Leaf"]


async def test_servers_that_a_room_shuts_out_hear_and_say_nothing_more(
    sides: Sides, room_id: str, synapse: Synapse
) -> None:
    await talk(sides, room_id)
    acl = {"allow": ["*"], "deny": [sides.guest_name], "allow_ip_literals": True}
    await sides.host.set_state(room_id, "m.room.server_acl", acl)
    await sides.host.send(room_id, "among us")
    path = f"/rooms/{quote(room_id)}/send/m.room.message/x"
    await sides.guest.call("PUT", path, {"msgtype": "m.text", "body": "said"}, expect=None)
    await asyncio.sleep(2)
    assert "said" not in await texts(sides.host, room_id)
    if sides.host_name != synapse.name:
        # Synapse does tell those whom it does not hear.
        assert "among us" not in await texts(sides.guest, room_id)
