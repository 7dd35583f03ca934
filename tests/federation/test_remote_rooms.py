"""Two servers: users of the second one come into rooms of the first."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import check_content_hash, event_id_of
from tests.client_api.conftest import STORES, Client
from tests.federation.rooms import members, state_of
from tests.federation.servers import Homeserver
from tests.federation.test_resident import restricted_to


@pytest.fixture
async def dora(second: Homeserver) -> Client:
    return await second.register("dora")


async def join(client: Client, room: str, *via: Homeserver, **how: Any) -> Any:
    query = [("server_name", server.name) for server in via]
    return await client.post(f"/join/{quote(room, safe='')}", query=query, **how)


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_a_room_of_another_server_is_joined(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version, name="There", topic="x")
    await dora.sync()
    assert (await join(dora, room_id, server))["room_id"] == room_id
    assert await state_of(dora, room_id) == await state_of(alice, room_id)
    section = (await dora.sync())["rooms"]["join"][room_id]
    timeline = section["timeline"]["events"]
    assert [event["state_key"] for event in timeline] == [dora.user_id]
    shown = {event["type"] for event in section["state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.power_levels"} <= shown
    assert section["summary"]["m.joined_member_count"] == 2
    await dora.send(room_id, "hello")
    assert (await dora.get("/joined_rooms"))["joined_rooms"] == [room_id]


@pytest.mark.parametrize("version", ["1", "12"])
async def test_state_that_another_server_told_comes_in_its_own_format_where_a_filter_asks_for_it(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await join(dora, room_id, server)
    told = await dora.sync(full=True, filter={"event_format": "federation"})
    events = told["rooms"]["join"][room_id]["state"]["events"]
    assert {event["event_id"] for event in events} < set((await state_of(alice, room_id)).values())
    for event in events:
        signed = {key: value for key, value in event.items() if version == "1" or key != "event_id"}
        assert event_id_of(ROOM_VERSIONS[version], signed) == event["event_id"]
        assert list(event["signatures"]) == [server.name]
        assert check_content_hash(ROOM_VERSIONS[version], signed)


async def test_a_joined_room_is_there_after_a_restart(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", name="There")
    await join(dora, room_id, server)
    state = await state_of(dora, room_id)
    await second.restart()
    dora._base = second.base
    assert await state_of(dora, room_id) == state == await state_of(alice, room_id)


@pytest.mark.parametrize("guest_access", ["can_join", "forbidden"])
async def test_a_guest_comes_into_a_room_of_another_server_that_lets_guests_in(
    second: Homeserver, alice: Client, guest_access: str
) -> None:
    guest = second.client()
    answer = await guest.post("/register", {}, query={"kind": "guest"})
    guest.token, guest.user_id = answer["access_token"], answer["user_id"]
    rule = {"type": "m.room.guest_access", "content": {"guest_access": guest_access}}
    room_id = await alice.create_room(initial_state=[rule])
    await alice.invite(room_id, guest.user_id)
    if guest_access == "can_join":
        await guest.join(room_id)
        assert (await members(alice, room_id))[guest.user_id] == "join"
    else:
        reply = await guest.call("POST", f"/join/{quote(room_id)}", {}, expect=403)
        assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_name_that_is_changed_while_a_room_is_joined_is_the_one_there(
    server: Homeserver, second: Homeserver, monkeypatch: pytest.MonkeyPatch, alice: Client, dora: Client
) -> None:
    """To come into a large room takes a while."""
    room_id = await alice.create_room(preset="public_chat")
    assert second.app.federation is not None
    arrival = second.app.federation.arrival
    arrive = arrival.arrive

    async def overtaken(*args: Any, **options: Any) -> bool:
        await dora.put(f"/profile/{dora.user_id}/displayname", {"displayname": "Theodora"})
        return await arrive(*args, **options)

    monkeypatch.setattr(arrival, "arrive", overtaken)
    await join(dora, room_id, server)
    member = await dora.get(f"/rooms/{quote(room_id)}/state/m.room.member/{dora.user_id}")
    assert member["displayname"] == "Theodora"


async def test_an_alias_of_another_server_leads_into_its_room(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_alias_name="there")
    alias = f"#there:{server.name}"
    found = await dora.get(f"/directory/room/{quote(alias, safe='')}")
    assert found == {"room_id": room_id, "servers": [server.name]}
    assert (await join(dora, alias))["room_id"] == room_id
    assert dora.user_id in await members(alice, room_id)
    second_server = dora.user_id.partition(":")[2]
    found = await alice.get(f"/directory/room/{quote(alias, safe='')}")
    assert found == {"room_id": room_id, "servers": [server.name, second_server]}
    unknown = quote(f"#nothing:{server.name}", safe="")
    assert (await dora.call("GET", f"/directory/room/{unknown}", expect=404)).errcode == "M_NOT_FOUND"


async def test_what_the_other_server_refuses_is_refused_here(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="private_chat")
    assert (await dora.call("POST", f"/join/{quote(room_id)}?via={server.name}", {}, expect=403)).errcode
    assert (await dora.call("POST", f"/join/{quote(room_id)}", {}, expect=404)).errcode == "M_NOT_FOUND"
    await dora.call("GET", f"/rooms/{quote(room_id)}/state", expect=403)
    away = "127.0.0.1"
    await dora.call("POST", f"/join/{quote(room_id)}?via={away}", {}, expect=502)
    # A failed join stands in nobody's way.
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "public"})
    query = [("via", away), ("via", "not a name"), ("via", server.name)]
    await dora.post(f"/join/{quote(room_id)}", query=query)
    assert (await members(alice, room_id))[dora.user_id] == "join"


async def test_two_users_who_come_at_once_bring_the_room_in_once(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    ed = await second.register("ed")
    room_id = await alice.create_room(preset="public_chat")
    await asyncio.gather(join(dora, room_id, server), join(ed, room_id, server))
    here = await members(dora, room_id)
    assert (here[dora.user_id], here[ed.user_id]) == ("join", "join")
    timeline = (await dora.sync(full=True))["rooms"]["join"][room_id]["timeline"]["events"]
    assert sorted(event["state_key"] for event in timeline) == [dora.user_id, ed.user_id]


async def test_a_room_that_all_have_left_is_brought_in_anew(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", topic="before", name="gone later")
    await join(dora, room_id, server)
    await dora.sync()
    await dora.leave(room_id)
    await dora.sync()
    await alice.set_state(room_id, "m.room.topic", {"topic": "after"})
    await alice.set_state(room_id, "m.room.avatar", {"url": "mxc://a/b"})
    await join(dora, room_id, server)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)
    section = (await dora.sync())["rooms"]["join"][room_id]
    told = {
        event["type"]: event["content"]
        for event in (*section["state"]["events"], *section["timeline"]["events"])
    }
    assert told["m.room.topic"]["topic"] == "after"
    await second.restart()
    dora._base = second.base
    assert await state_of(dora, room_id) == await state_of(alice, room_id)


async def test_of_a_room_that_all_have_left_nobody_is_found_in_the_user_directory(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    ed = await second.register("ed")

    async def found() -> list[str]:
        for consumer in second.app.ground.consumers:
            await consumer.settled(0)
        answer = await ed.post("/user_directory/search", {"search_term": "alice"})
        return [user["user_id"] for user in answer["results"]]

    room_id, other = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for joined in (room_id, other):
        await join(dora, joined, server)
    await dora.leave(room_id)
    assert await found() == [alice.user_id]
    await dora.leave(other)
    assert await found() == []
    await join(dora, room_id, server)
    assert await found() == [alice.user_id]


@pytest.mark.parametrize("version", ["8", "12"])
async def test_a_restricted_room_is_joined_in_the_name_of_a_member_there(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    allowed = await alice.create_room(preset="public_chat", room_version=version)
    room_id = await alice.create_room(room_version=version, initial_state=[restricted_to(allowed)])
    reply = await dora.call("POST", f"/join/{quote(room_id)}?via={server.name}", {}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"
    await join(dora, allowed, server)
    await join(dora, room_id, server)
    state = await dora.get(f"/rooms/{quote(room_id)}/state/m.room.member/{quote(dora.user_id)}")
    assert state["join_authorised_via_users_server"] == alice.user_id


async def test_where_nobody_here_may_let_them_in_the_other_server_does(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    ed = await second.register("ed")
    allowed = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room(
        initial_state=[restricted_to(allowed)], power_level_content_override={"invite": 50}
    )
    for user in (dora, ed):
        await join(user, allowed, server)
        async with asyncio.timeout(10):
            while user.user_id not in await members(alice, allowed):
                await asyncio.sleep(0.05)
        await join(user, room_id, server)
    here = await members(ed, room_id)
    assert (here[dora.user_id], here[ed.user_id]) == ("join", "join")


@pytest.mark.parametrize("data", STORES, indirect=True)
async def test_state_of_before_the_join_stays_redacted(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await dora.create_room(preset="public_chat")
    event_id = await dora.set_state(room_id, "m.room.topic", {"topic": "regretted"})
    await join(alice, room_id, second)
    await dora.redact(room_id, event_id)
    path = f"/rooms/{quote(room_id)}/state/m.room.topic"
    async with asyncio.timeout(10):
        while await alice.get(path) != {}:
            await asyncio.sleep(0.02)
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    await server.restart()
    assert await alice.get(path) == {}
    assert "regretted" not in str(await alice.sync(full=True))


@pytest.mark.parametrize("data", STORES, indirect=True)
async def test_state_of_before_the_join_is_redacted_by_a_user_here(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    levels = {"users": {dora.user_id: 100, alice.user_id: 50}}
    room_id = await dora.create_room(
        preset="public_chat", room_version="10", power_level_content_override=levels
    )
    event_id = await dora.set_state(room_id, "m.room.topic", {"topic": "regretted"})
    await join(alice, room_id, second)
    await alice.redact(room_id, event_id)
    path = f"/rooms/{quote(room_id)}/state/m.room.topic"
    assert await alice.get(path) == {}
    await server.restart()
    assert await alice.get(path) == {}
