"""Rooms that only other servers know: their directories, the trees of spaces, summaries."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.client_api.conftest import Client
from tests.federation.inviter import Inviter
from tests.federation.servers import V1, Homeserver, OtherServer
from tests.federation.test_remote_rooms import join


@pytest.fixture
async def dora(second: Homeserver) -> Client:
    return await second.register("dora")


def described(room_id: str, **fields: Any) -> Any:
    return {
        "room_id": room_id,
        "num_joined_members": 3,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        **fields,
    }


def child_of(room_id: str, *via: str, **content: Any) -> Any:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": "@a:b",
        "origin_server_ts": 1,
        "content": {"via": via, **content},
    }


async def show_directory(server: Homeserver) -> None:
    await server.restart(
        replace(server.config, rooms=replace(server.config.rooms, directory_for_servers=True))
    )


async def test_the_directory_of_another_server_is_read(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    asked = {"server": server.name}
    assert (await dora.call("GET", "/publicRooms", query=asked, expect=403)).errcode == "M_FORBIDDEN"
    await show_directory(server)
    alice._base = server.base
    for n in range(3):
        await alice.create_room(preset="public_chat", visibility="public", name=f"Room {n}", topic="x")
    first = await dora.get("/publicRooms", query={**asked, "limit": 2})
    rest = await dora.get("/publicRooms", query={**asked, "since": first["next_batch"]})
    names = [room["name"] for room in (*first["chunk"], *rest["chunk"])]
    assert sorted(names) == ["Room 0", "Room 1", "Room 2"]
    body = {"filter": {"generic_search_term": "room 1"}}
    found = await dora.post("/publicRooms", body, query=asked)
    assert [room["name"] for room in found["chunk"]] == ["Room 1"]
    assert (await dora.get("/publicRooms"))["chunk"] == []


async def test_another_server_is_asked_for_the_network_that_is_wanted(
    other: OtherServer, alice: Client
) -> None:
    bodies: list[Any] = []

    async def bridged(request: web.BaseRequest) -> web.Response:
        bodies.append(json.loads(await request.read() or "{}") or dict(request.query))
        return web.json_response({"chunk": []})

    other.peer.site.pages[f"{V1}/publicRooms"] = bridged
    for wanted in ({"third_party_instance_id": "irc"}, {"include_all_networks": True}):
        for filter in ({}, {"filter": {"generic_search_term": "x"}}):
            await alice.post("/publicRooms", {**wanted, **filter}, query={"server": other.name})
    assert bodies[0] == {"third_party_instance_id": "irc"}
    assert bodies[1] == {"third_party_instance_id": "irc", "filter": {"generic_search_term": "x"}}
    assert bodies[2] == {"include_all_networks": "true"}
    assert bodies[3] == {"include_all_networks": True, "filter": {"generic_search_term": "x"}}


async def test_strangers_have_no_directory_asked(server: Homeserver, other: OtherServer) -> None:
    await server.restart(
        replace(server.config, rooms=replace(server.config.rooms, directory_without_login=True))
    )
    stranger = server.client()
    assert (await stranger.get("/publicRooms"))["chunk"] == []
    await stranger.call("GET", "/publicRooms", query={"server": other.name}, expect=401)
    assert other.peer.site.seen == []


async def test_of_a_directory_only_what_is_right_is_shown(other: OtherServer, alice: Client) -> None:
    right = described("!right:example.org", name="Right", room_type=None, more="x")
    chunk = [
        right,
        None,
        {},
        described("no room id"),
        described("!a:b", num_joined_members=-1),
        described("!a:b", name={}),
        described("!a:b", avatar_url="javascript:x"),
    ]
    answer = {"chunk": chunk, "next_batch": {}, "prev_batch": "p", "total_room_count_estimate": "many"}
    other.peer.site.answer(f"{V1}/publicRooms", json.dumps(answer), Content_Type="application/json")
    shown = await alice.get("/publicRooms", query={"server": other.name})
    assert shown == {"chunk": [described("!right:example.org", name="Right")], "prev_batch": "p"}
    away = await alice.call("GET", "/publicRooms", query={"server": "127.1.255.254:1"}, expect=502)
    assert away.errcode == "M_UNKNOWN"
    await alice.call("GET", "/publicRooms", query={"server": "no name"}, expect=404)


async def hierarchy(client: Client, room_id: str, **query: Any) -> list[Any]:
    rooms: list[Any] = []
    while True:
        page = await client.get(f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", query=query)
        rooms += page["rooms"]
        if "next_batch" not in page:
            return rooms
        query["from"] = page["next_batch"]


async def space(client: Client, **how: Any) -> str:
    return await client.create_room(preset="public_chat", creation_content={"type": "m.space"}, **how)


async def test_a_tree_reaches_into_rooms_of_other_servers(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    top, inner = await space(alice, name="Top"), await space(alice, name="Inner")
    leaf = await alice.create_room(preset="public_chat", name="Leaf")
    hidden = await alice.create_room(preset="private_chat", name="Hidden")
    for parent, child, suggested in (
        (top, inner, True),
        (inner, leaf, False),
        (top, hidden, True),
        (inner, top, False),
    ):
        content = {"via": [server.name], "suggested": suggested}
        await alice.set_state(parent, "m.space.child", content, child)
    own = await space(dora, name="Own")
    await dora.set_state(own, "m.space.child", {"via": [server.name]}, top)
    rooms = await hierarchy(dora, own, limit=1)
    assert [room["name"] for room in rooms] == ["Own", "Top", "Inner", "Leaf"]
    assert {child["state_key"] for child in rooms[1]["children_state"]} == {inner, hidden}
    assert [room["name"] for room in await hierarchy(dora, own, max_depth=1)] == ["Own", "Top"]
    await dora.set_state(own, "m.space.child", {"via": [server.name], "suggested": True}, top)
    names = [room["name"] for room in await hierarchy(dora, own, suggested_only="true")]
    assert names == ["Own", "Top", "Inner"]
    await join(dora, leaf, server)
    await dora.leave(leaf)
    await alice.set_state(leaf, "m.room.name", {"name": "Renamed"})
    path = f"/_matrix/client/v1/room_summary/{quote(leaf)}"
    summary = await dora.get(path, query={"via": server.name})
    assert (summary["name"], summary["membership"]) == ("Renamed", "leave")


async def test_who_may_not_see_a_room_is_not_shown_it(
    other: OtherServer, server: Homeserver, alice: Client, bob: Client
) -> None:
    allowing = await alice.create_room()
    rules = {
        "!invite:example.org": {"join_rule": "invite"},
        "!restricted:example.org": {"join_rule": "restricted", "allowed_room_ids": ["!none:example.org"]},
        "!allowed:example.org": {"join_rule": "restricted", "allowed_room_ids": [allowing]},
        "!knock:example.org": {"join_rule": "knock"},
    }
    root = f"!root:{other.name}"
    answer = {
        "room": {
            **described(root, room_type="m.space"),
            "children_state": [child_of(room_id, other.name) for room_id in rules],
        },
        "children": [described(room_id, **rule) for room_id, rule in rules.items()],
        "inaccessible_children": [],
    }
    other.peer.site.answer(f"{V1}/hierarchy/{root}", json.dumps(answer), Content_Type="application/json")
    shown = [room["room_id"] for room in await hierarchy(alice, root)]
    assert shown == [root, "!allowed:example.org", "!knock:example.org"]
    shown = [room["room_id"] for room in await hierarchy(bob, root)]
    assert shown == [root, "!knock:example.org"]
    stranger = server.client()
    await stranger.call("GET", f"/_matrix/client/v1/room_summary/{quote(root)}", expect=404)


async def test_of_a_tree_only_what_is_suggested_is_shown_though_more_is_told(
    other: OtherServer, alice: Client
) -> None:
    rooms = {"!wanted:example.org": True, "!other:example.org": False}
    root = f"!root:{other.name}"
    answer = {
        "room": {
            **described(root, room_type="m.space"),
            "children_state": [
                child_of(room_id, other.name, suggested=is_so) for room_id, is_so in rooms.items()
            ],
        },
        "children": [described(room_id) for room_id in rooms],
        "inaccessible_children": [],
    }
    other.peer.site.answer(f"{V1}/hierarchy/{root}", json.dumps(answer), Content_Type="application/json")
    shown = await hierarchy(alice, root, suggested_only="true")
    assert [room["room_id"] for room in shown] == [root, "!wanted:example.org"]
    assert [child["state_key"] for child in shown[0]["children_state"]] == ["!wanted:example.org"]


async def test_a_private_room_of_another_server_is_shown_to_those_who_are_invited_to_it(
    other: OtherServer, alice: Client, bob: Client
) -> None:
    """However much that server tells of it."""
    inviter = Inviter(other, "11")
    room_id = inviter.room_id
    await inviter.invite(alice.user_id, [inviter.create])
    answer = {
        "room": {**described(room_id, room_type="m.space", join_rule="invite"), "children_state": []},
        "children": [],
        "inaccessible_children": [],
    }
    other.peer.site.answer(f"{V1}/hierarchy/{room_id}", json.dumps(answer), Content_Type="application/json")
    assert [room["room_id"] for room in await hierarchy(alice, room_id)] == [room_id]
    await bob.call("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", expect=403)


async def test_a_room_is_shown_as_soon_as_its_server_knows_who_may_see_it(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    top = await space(alice, name="Top")
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": top}]}
    inner = await dora.create_room(
        preset="public_chat",
        name="Inner",
        initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": rule}],
    )
    await alice.set_state(top, "m.space.child", {"via": [second.name]}, inner)
    assert [room["name"] for room in await hierarchy(alice, top)] == ["Top"]
    await join(dora, top, server)
    assert [room["name"] for room in await hierarchy(alice, top)] == ["Top", "Inner"]


async def test_an_endless_tree_ends(other: OtherServer, alice: Client) -> None:
    asked: list[str] = []

    async def endless(request: web.BaseRequest) -> web.Response:
        room_id = request.path.rpartition("/")[2]
        asked.append(room_id)
        children = [f"!{len(asked)}x{n}:{other.name}" for n in range(40)]
        return web.json_response(
            {
                "room": {
                    **described(room_id, room_type="m.space"),
                    "children_state": [child_of(child, other.name) for child in children] + [None, {}],
                },
                "children": [described(child, room_type="m.space") for child in children] + [None, 1],
                "inaccessible_children": [None],
            }
        )

    other.peer.site.below[f"{V1}/hierarchy/"] = endless
    root = f"!root:{other.name}"
    page = await alice.get(f"/_matrix/client/v1/rooms/{quote(root)}/hierarchy", query={"limit": 50})
    assert len(page["rooms"]) == 50
    assert len(asked) <= 30
