"""Who comes, goes and is let in across servers."""

from urllib.parse import quote

from tests.federation.with_synapse.sides import (
    Sides,
    agree,
    becomes,
    is_shown,
    join,
    read_back,
    talk,
    until,
)


async def test_who_leaves_may_come_back(sides: Sides, room_id: str) -> None:
    await sides.guest.leave(room_id)
    await becomes(sides.host, room_id, sides.guest.user_id, "leave")
    await sides.host.send(room_id, "meanwhile")
    await sides.host.set_state(room_id, "m.room.topic", {"topic": "meanwhile"})
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)
    assert await sides.guest.get(f"/rooms/{quote(room_id)}/state/m.room.topic") == {"topic": "meanwhile"}
    assert await read_back(sides.guest, room_id, limit=3) == await read_back(sides.host, room_id, limit=100)


async def test_who_is_kicked_and_banned_learns_of_it(sides: Sides, room_id: str) -> None:
    await sides.guest.sync()
    await sides.host.post(f"/rooms/{quote(room_id)}/kick", {"user_id": sides.guest.user_id, "reason": "so"})

    async def gone() -> bool:
        return room_id in (await sides.guest.sync()).get("rooms", {}).get("leave", {})

    await until(gone, "the guest has left")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await sides.host.post(f"/rooms/{quote(room_id)}/ban", {"user_id": sides.guest.user_id})
    await until(gone, "the guest is banned")
    path = f"/join/{quote(room_id)}"
    reply = await sides.guest.call("POST", path, {}, query={"via": sides.host_name}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"


async def test_an_invite_is_accepted(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="private_chat", name="In private")
    await sides.host.invite(room_id, sides.guest.user_id)
    await is_shown(sides.guest, room_id, "invite")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)


async def test_an_invite_is_refused_or_withdrawn(sides: Sides) -> None:
    refused = await sides.host.create_room(preset="private_chat")
    await sides.host.invite(refused, sides.guest.user_id)
    await is_shown(sides.guest, refused, "invite")
    await sides.guest.leave(refused)
    await becomes(sides.host, refused, sides.guest.user_id, "leave")
    withdrawn = await sides.host.create_room(preset="private_chat")
    await sides.host.invite(withdrawn, sides.guest.user_id)
    await is_shown(sides.guest, withdrawn, "invite")
    await sides.host.post(f"/rooms/{quote(withdrawn)}/kick", {"user_id": sides.guest.user_id})

    await is_shown(sides.guest, withdrawn, "leave")


async def test_who_knocks_is_let_in(sides: Sides) -> None:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await sides.host.create_room(preset="private_chat", initial_state=[rules])
    via = {"via": sides.host_name, "server_name": sides.host_name}
    await sides.guest.post(f"/knock/{quote(room_id)}", {"reason": "please"}, query=via)
    await becomes(sides.host, room_id, sides.guest.user_id, "knock")
    await sides.host.invite(room_id, sides.guest.user_id)
    await is_shown(sides.guest, room_id, "invite")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)


async def test_members_of_one_room_may_join_another(sides: Sides) -> None:
    """By the authority of a member who may invite."""
    club = await sides.host.create_room(preset="public_chat")
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    rules = {"type": "m.room.join_rules", "state_key": "", "content": rule}
    room_id = await sides.host.create_room(preset="private_chat", initial_state=[rules])
    via = {"via": sides.host_name, "server_name": sides.host_name}
    reply = await sides.guest.call("POST", f"/join/{quote(room_id)}", {}, query=via, expect=None)
    assert reply.status == 403
    await join(sides.guest, club, sides.host_name)
    await talk(sides, club)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)
