"""Aliases, the public directory, summaries, spaces, upgrades (spec: the client-server modules)."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from tests.client_api.conftest import Client, Server


async def until(client: Client, there: Callable[[Any], bool]) -> Any:
    """The directory once it says so: it follows rooms a moment behind."""
    async with asyncio.timeout(5):
        while not there((body := await client.get("/publicRooms"))["chunk"]):
            await asyncio.sleep(0.01)
    return body


async def test_alias_resolves_joins_and_is_deleted(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", room_alias_name="home")
    alias = quote("#home:localhost")
    assert (await bob.get(f"/directory/room/{alias}"))["room_id"] == room_id
    assert (await bob.post(f"/join/{alias}"))["room_id"] == room_id
    # The second is where clients ask that look for the feature in /versions.
    for prefix in ("", "/_matrix/client/unstable/org.matrix.msc2432"):
        assert (await bob.get(f"{prefix}/rooms/{room_id}/aliases"))["aliases"] == ["#home:localhost"]
    await bob.call("DELETE", f"/directory/room/{alias}", expect=403)
    await alice.delete(f"/directory/room/{alias}")
    await bob.call("GET", f"/directory/room/{alias}", expect=404)


async def test_deleted_alias_is_no_rooms_canonical_alias_any_more(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", room_alias_name="home")
    home, casa = quote("#home:localhost"), quote("#casa:localhost")
    await bob.join(room_id)
    await bob.put(f"/directory/room/{casa}", {"room_id": room_id})
    named = {"alias": "#home:localhost", "alt_aliases": ["#casa:localhost"]}
    await alice.set_state(room_id, "m.room.canonical_alias", named)
    path = f"/rooms/{room_id}/state/m.room.canonical_alias"
    await bob.delete(f"/directory/room/{casa}")
    assert await alice.get(path) == named, "who may not rename the room deletes the alias only"
    await bob.put(f"/directory/room/{casa}", {"room_id": room_id})
    await alice.delete(f"/directory/room/{home}")
    assert await alice.get(path) == {"alt_aliases": ["#casa:localhost"]}
    await alice.delete(f"/directory/room/{casa}")
    assert await alice.get(path) == {"alt_aliases": []}


async def test_administrators_of_the_server_take_aliases_away(
    server: Server, alice: Client, bob: Client
) -> None:
    await alice.create_room(room_alias_name="rude")
    path = f"/directory/room/{quote('#rude:localhost')}"
    await bob.call("DELETE", path, expect=403)
    await server.app.people.accounts.update(bob.user_id, is_admin=True)
    await bob.delete(path)
    await alice.call("GET", path, expect=404)


async def test_alias_is_taken_once(alice: Client) -> None:
    room_id = await alice.create_room(room_alias_name="home")
    alias = quote("#home:localhost")
    await alice.call("PUT", f"/directory/room/{alias}", {"room_id": room_id}, expect=409)
    reply = await alice.call("POST", "/createRoom", {"room_alias_name": "home"}, expect=400)
    assert reply.errcode == "M_ROOM_IN_USE"


async def test_of_rooms_made_at_the_same_time_with_one_alias_one_is_there(alice: Client) -> None:
    wish = {"room_alias_name": "club"}
    replies = await asyncio.gather(*(alice.call("POST", "/createRoom", wish, expect=None) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    assert {reply.errcode for reply in replies} == {None, "M_ROOM_IN_USE"}
    assert len((await alice.get("/joined_rooms"))["joined_rooms"]) == 1


async def test_alias_of_a_room_that_cannot_be_made_is_free_again(alice: Client) -> None:
    wish = {"room_alias_name": "club", "power_level_content_override": {"users": {alice.user_id: 0}}}
    await alice.call("POST", "/createRoom", {**wish, "room_version": "11"}, expect=400)
    await alice.create_room(room_alias_name="club")


@pytest.mark.parametrize("taken_by", ["createRoom", "directory"])
async def test_alias_of_a_room_whose_making_was_cut_short_is_free_after_a_moment(
    server: Server, alice: Client, bob: Client, taken_by: str
) -> None:
    aliases, alias = server.app.conversations.aliases, quote("#club:localhost", safe="")
    # As a crash leaves it.
    await aliases.claimed("#club:localhost", "!never-made", alice.user_id).__aenter__()
    await bob.call("POST", "/createRoom", {"room_alias_name": "club"}, expect=400)
    assert (await bob.call("GET", f"/directory/room/{alias}", expect=404)).errcode == "M_NOT_FOUND"
    server.clock.ahead = 61_000
    if taken_by == "createRoom":
        room_id = await bob.create_room(room_alias_name="club")
    else:
        room_id = await bob.create_room()
        await bob.put(f"/directory/room/{alias}", {"room_id": room_id})
    assert (await bob.get(f"/directory/room/{alias}"))["room_id"] == room_id
    await alice.call("POST", "/createRoom", {"room_alias_name": "club"}, expect=400)


async def test_canonical_alias_must_point_to_the_room(alice: Client) -> None:
    await alice.create_room(room_alias_name="elsewhere")
    room_id = await alice.create_room()
    reply = await alice.call(
        "PUT",
        f"/rooms/{room_id}/state/m.room.canonical_alias",
        {"alias": "#elsewhere:localhost"},
        expect=400,
    )
    assert reply.errcode == "M_BAD_ALIAS"


async def test_canonical_alias_among_the_first_events_must_point_to_the_room(alice: Client) -> None:
    await alice.create_room(room_alias_name="elsewhere")

    def wish(**content: Any) -> dict[str, Any]:
        return {"initial_state": [{"type": "m.room.canonical_alias", "state_key": "", "content": content}]}

    for named, errcode in (
        (wish(alias="#elsewhere:localhost"), "M_BAD_ALIAS"),
        (wish(alias="#nowhere:localhost"), "M_BAD_ALIAS"),
        (wish(alias="#home:localhost", alt_aliases=["#elsewhere:localhost"]), "M_BAD_ALIAS"),
        (wish(alias="elsewhere"), "M_INVALID_PARAM"),
        (wish(alias=5), "M_BAD_JSON"),
    ):
        reply = await alice.call("POST", "/createRoom", {**named, "room_alias_name": "home"}, expect=400)
        assert reply.errcode == errcode
    assert len((await alice.get("/joined_rooms"))["joined_rooms"]) == 1
    room_id = await alice.create_room(room_alias_name="home", **wish(alt_aliases=["#home:localhost"]))
    content = await alice.get(f"/rooms/{room_id}/state/m.room.canonical_alias")
    assert content == {"alt_aliases": ["#home:localhost"]}
    await alice.create_room(**wish())


async def test_directory_lists_searches_and_pages(alice: Client, bob: Client) -> None:
    ids = [
        await alice.create_room(visibility="public", name=f"Room {n}", topic="cheese" if n == 1 else "wine")
        for n in range(3)
    ]
    await alice.create_room(name="hidden")
    await bob.join(ids[2])
    body = await until(bob, lambda rooms: rooms[0]["num_joined_members"] == 2)
    assert {room["room_id"] for room in body["chunk"]} == set(ids)
    assert body["chunk"][0]["room_id"] == ids[2]
    assert body["chunk"][0]["num_joined_members"] == 2
    found = await bob.post("/publicRooms", {"filter": {"generic_search_term": "CHEESE"}})
    assert [room["room_id"] for room in found["chunk"]] == [ids[1]]
    space = await alice.create_room(visibility="public", creation_content={"type": "m.space"})
    for room_types, shown in (([None], {*ids}), (["m.space"], {space}), (["m.space", None], {*ids, space})):
        found = await bob.post("/publicRooms", {"filter": {"room_types": room_types}})
        assert {room["room_id"] for room in found["chunk"]} == shown
    await alice.put(f"/directory/list/room/{space}", {"visibility": "private"})
    first = await bob.get("/publicRooms", query={"limit": 2})
    own = {"server": "localhost"}
    second = await bob.get("/publicRooms", query={"limit": 2, "since": first["next_batch"], **own})
    assert {room["room_id"] for room in first["chunk"] + second["chunk"]} == set(ids)
    assert "next_batch" not in second


async def test_directory_of_a_third_party_network_is_empty(alice: Client) -> None:
    room_id = await alice.create_room(visibility="public", preset="public_chat")
    assert (await alice.post("/publicRooms", {"third_party_instance_id": "irc-freenode"}))["chunk"] == []
    everywhere = await alice.post("/publicRooms", {"include_all_networks": True})
    assert [room["room_id"] for room in everywhere["chunk"]] == [room_id]
    both = {"third_party_instance_id": "irc-freenode", "include_all_networks": True}
    assert (await alice.call("POST", "/publicRooms", both, expect=400)).errcode == "M_INVALID_PARAM"


async def test_directory_follows_the_room(alice: Client) -> None:
    room_id = await alice.create_room(visibility="public", name="old")
    await alice.set_state(room_id, "m.room.name", {"name": "new"})
    await until(alice, lambda rooms: rooms[0]["name"] == "new")
    await alice.put(f"/directory/list/room/{room_id}", {"visibility": "private"})
    assert (await alice.get(f"/directory/list/room/{room_id}"))["visibility"] == "private"
    assert (await alice.get("/publicRooms"))["chunk"] == []


async def test_directory_drops_what_is_redacted(alice: Client) -> None:
    room_id = await alice.create_room(visibility="public")
    event_id = await alice.set_state(room_id, "m.room.topic", {"topic": "regretted"})
    await until(alice, lambda rooms: rooms[0].get("topic") == "regretted")
    await alice.redact(room_id, event_id)
    await until(alice, lambda rooms: "topic" not in rooms[0])


async def test_member_without_power_does_not_publish(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.call("PUT", f"/directory/list/room/{room_id}", {"visibility": "public"}, expect=403)


async def test_room_that_may_not_be_published_is_not_made(server: Server, alice: Client, bob: Client) -> None:
    await server.app.people.accounts.update(alice.user_id, is_admin=True)
    await server.restart(replace(server.config, rooms=replace(server.config.rooms, allow_publishing=False)))
    await bob.call("POST", "/createRoom", {"visibility": "public", "room_alias_name": "b"}, expect=403)
    assert (await bob.get("/joined_rooms"))["joined_rooms"] == []
    room_id = await alice.create_room(visibility="public")
    assert [room["room_id"] for room in (await bob.get("/publicRooms"))["chunk"]] == [room_id]


async def test_summary_is_for_those_who_may_join(alice: Client, bob: Client) -> None:
    open_room = await alice.create_room(preset="public_chat", name="open")
    closed = await alice.create_room(name="closed")
    summary = await bob.get(f"/_matrix/client/v1/room_summary/{open_room}")
    assert (summary["name"], summary["num_joined_members"]) == ("open", 1)
    await bob.call("GET", f"/_matrix/client/v1/room_summary/{closed}", expect=404)
    mine = await alice.get(f"/_matrix/client/v1/room_summary/{closed}")
    assert mine["membership"] == "join"
    assert mine.get("encryption") is None
    await alice.set_state(closed, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    mine = await alice.get(f"/_matrix/client/v1/room_summary/{closed}")
    assert (mine["encryption"], mine["room_version"]) == ("m.megolm.v1.aes-sha2", "12")


async def test_space_tree_is_walked_in_order_and_paged(alice: Client, bob: Client) -> None:
    space = {"type": "m.space"}
    root = await alice.create_room(preset="public_chat", name="root", creation_content=space)
    sub = await alice.create_room(preset="public_chat", name="sub", creation_content=space)
    leaf = await alice.create_room(preset="public_chat", name="leaf")
    hidden = await alice.create_room(name="hidden")
    other = await alice.create_room(preset="public_chat", name="other")
    for parent, child, order in ((root, other, "b"), (root, sub, "a"), (root, hidden, "c"), (sub, leaf, "a")):
        await alice.set_state(parent, "m.space.child", {"via": ["localhost"], "order": order}, child)
    await alice.set_state(leaf, "m.space.child", {"via": ["localhost"]}, root)
    for no_child in ({}, {"via": "localhost", "order": "a"}):
        await alice.set_state(root, "m.space.child", no_child, await alice.create_room(preset="public_chat"))
    path = f"/_matrix/client/v1/rooms/{root}/hierarchy"
    body = await bob.get(path)
    assert [room["room_id"] for room in body["rooms"]] == [root, sub, leaf, other]
    assert [child["state_key"] for child in body["rooms"][0]["children_state"]] == [sub, other, hidden]
    shallow = await bob.get(path, query={"max_depth": 1})
    assert [room["room_id"] for room in shallow["rooms"]] == [root, sub, other]
    first = await bob.get(path, query={"limit": 3})
    second = await bob.get(path, query={"limit": 3, "from": first["next_batch"]})
    assert [room["room_id"] for room in first["rooms"] + second["rooms"]] == [root, sub, leaf, other]
    token = first["next_batch"]
    await bob.call("GET", f"{path}?from={token}&suggested_only=true", expect=400)


async def test_children_whose_order_is_none_come_behind_the_others_by_age(alice: Client) -> None:
    """spec: client-server "Ordering of children within a space"."""
    root = await alice.create_room(creation_content={"type": "m.space"})
    orders = ("a" * 51, "a\n", "ä", 1, None, "~", " " * 50)
    rooms = [await alice.create_room() for _ in orders]
    for room_id, order in zip(rooms, orders, strict=True):
        await alice.set_state(root, "m.space.child", {"via": ["localhost"], "order": order}, room_id)
    shown = (await alice.get(f"/_matrix/client/v1/rooms/{root}/hierarchy"))["rooms"][0]["children_state"]
    aged = sorted(shown[2:], key=lambda child: (child["origin_server_ts"], child["state_key"]))
    assert [child["state_key"] for child in shown[:2]] == [rooms[6], rooms[5]]
    assert shown[2:] == aged


async def test_upgrade_moves_state_alias_and_tags(alice: Client, bob: Client) -> None:
    old = await alice.create_room(
        preset="public_chat", name="name", topic="topic", room_alias_name="home", room_version="10"
    )
    await bob.join(old)
    await alice.put(f"/user/{alice.user_id}/rooms/{old}/tags/m.favourite", {})
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": "12"}))["replacement_room"]
    tombstone = await bob.get(f"/rooms/{old}/state/m.room.tombstone")
    assert tombstone["replacement_room"] == new
    await bob.join(new)
    create = await bob.get(f"/rooms/{new}/state/m.room.create")
    assert create["predecessor"]["room_id"] == old
    assert (await bob.get(f"/rooms/{new}/state/m.room.name"))["name"] == "name"
    assert (await bob.get(f"/directory/room/{quote('#home:localhost')}"))["room_id"] == new
    assert (await alice.get(f"/user/{alice.user_id}/rooms/{new}/tags"))["tags"] == {"m.favourite": {}}
    await bob.call(
        "PUT", f"/rooms/{old}/send/m.room.message/1", {"msgtype": "m.text", "body": "late"}, expect=403
    )


@pytest.mark.parametrize("kept", [{"type": "m.space"}, {"m.federate": False}, {}])
async def test_upgraded_room_is_what_it_was_and_stands_in_the_directory_in_its_place(
    alice: Client, kept: dict[str, Any]
) -> None:
    old = await alice.create_room(creation_content=kept, visibility="public")
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": "12"}))["replacement_room"]
    create = await alice.get(f"/rooms/{new}/state/m.room.create")
    copied = ("type", "m.federate", "additional_creators")
    assert {key: create[key] for key in copied if key in create} == kept
    for room_id, visibility in ((old, "private"), (new, "public")):
        assert (await alice.get(f"/directory/list/room/{room_id}"))["visibility"] == visibility


async def test_additional_creators_of_an_upgraded_room_are_those_that_are_named(
    alice: Client, bob: Client, carol: Client
) -> None:
    """They are not taken over, and stand in no list of levels (spec: rooms/v12)."""
    old = await alice.create_room(creation_content={"additional_creators": [carol.user_id]})
    levels = await alice.get(f"/rooms/{old}/state/m.room.power_levels")
    levels["users"] = {bob.user_id: 60}
    await alice.set_state(old, "m.room.power_levels", levels)
    wish = {"new_version": "12", "additional_creators": [bob.user_id]}
    new = (await alice.post(f"/rooms/{old}/upgrade", wish))["replacement_room"]
    create = await alice.get(f"/rooms/{new}/state/m.room.create")
    assert create["additional_creators"] == [bob.user_id]
    assert (await alice.get(f"/rooms/{new}/state/m.room.power_levels"))["users"] == {}
    reply = await alice.call("POST", f"/rooms/{new}/upgrade", {**wish, "new_version": "11"}, expect=400)
    assert reply.errcode == "M_BAD_JSON"


async def test_who_upgrades_a_room_has_no_more_power_in_the_new_one(alice: Client, bob: Client) -> None:
    old = await alice.create_room(preset="public_chat", room_version="11")
    await bob.join(old)
    levels = await alice.get(f"/rooms/{old}/state/m.room.power_levels")
    levels |= {"users": {alice.user_id: 100, bob.user_id: 50}}
    levels["events"]["m.room.tombstone"] = 50
    await alice.set_state(old, "m.room.power_levels", levels)
    new = (await bob.post(f"/rooms/{old}/upgrade", {"new_version": "11"}))["replacement_room"]
    assert await bob.get(f"/rooms/{new}/state/m.room.power_levels") == levels
    await bob.call("POST", f"/rooms/{new}/upgrade", {"new_version": "12"})
    await bob.call("PUT", f"/rooms/{new}/state/m.room.server_acl", {"allow": ["*"]}, expect=403)


async def test_creator_is_an_administrator_where_creators_are_not_above_all(alice: Client) -> None:
    old = await alice.create_room(room_version="12")
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"}))["replacement_room"]
    assert (await alice.get(f"/rooms/{new}/state/m.room.power_levels"))["users"] == {alice.user_id: 100}


@pytest.mark.parametrize(("before", "after"), [("1", "10"), ("9", "12"), ("9", "9")])
async def test_levels_that_are_spelled_are_numbers_where_an_upgraded_room_wants_them(
    alice: Client, bob: Client, before: str, after: str
) -> None:
    old = await alice.create_room(preset="public_chat", room_version=before)
    levels = await alice.get(f"/rooms/{old}/state/m.room.power_levels")
    spelled = {
        **levels,
        "ban": "60",
        "users": {alice.user_id: "100", bob.user_id: " 50 "},
        "events": {**levels["events"], "m.room.name": "70"},
    }
    await alice.set_state(old, "m.room.power_levels", spelled)
    new = (await alice.post(f"/rooms/{old}/upgrade", {"new_version": after}))["replacement_room"]
    moved = await alice.get(f"/rooms/{new}/state/m.room.power_levels")
    shown = (moved["ban"], moved["users"][bob.user_id], moved["events"]["m.room.name"], moved["kick"])
    assert shown == (("60", " 50 ", "70", 50) if after == "9" else (60, 50, 70, 50))


async def test_upgrade_that_is_asked_for_twice_at_once_makes_one_room(alice: Client) -> None:
    """Somebody taps twice, or the client has no answer yet."""
    old = await alice.create_room(room_alias_name="home")
    answers = await asyncio.gather(
        *(alice.post(f"/rooms/{old}/upgrade", {"new_version": "12"}) for _ in range(3))
    )
    (new,) = {answer["replacement_room"] for answer in answers}
    assert set((await alice.get("/joined_rooms"))["joined_rooms"]) == {old, new}
    assert (await alice.get(f"/rooms/{old}/state/m.room.tombstone"))["replacement_room"] == new
    assert (await alice.get(f"/directory/room/{quote('#home:localhost')}"))["room_id"] == new


async def test_upgrade_needs_the_power_to_send_a_tombstone(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.call("POST", f"/rooms/{room_id}/upgrade", {"new_version": "12"}, expect=403)
    await alice.leave(room_id)
    await alice.call("POST", f"/rooms/{room_id}/upgrade", {"new_version": "12"}, expect=403)
    assert (await alice.get("/joined_rooms"))["joined_rooms"] == []
