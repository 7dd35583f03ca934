"""What people are shown of one another beside messages: typing, receipts, names, presence."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.client_api.conftest import Client
from tests.federation.with_synapse.sides import Sides, agree, shows, talk, until


async def ephemeral(client: Client, room_id: str, type: str, holds: Callable[[Any], bool]) -> None:
    """Sync until an ephemeral event of this type is as wanted."""

    async def look() -> bool:
        body = await client.sync(timeout=1000)
        joined = body.get("rooms", {}).get("join", {}).get(room_id, {})
        found = joined.get("ephemeral", {}).get("events", [])
        return any(event["type"] == type and holds(event["content"]) for event in found)

    await until(look, f"{client.user_id} is shown {type}")


async def test_typing_is_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for typist, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        path = f"/rooms/{quote(room_id)}/typing/{quote(typist.user_id)}"
        await typist.put(path, {"typing": True, "timeout": 20_000})
        await ephemeral(other, room_id, "m.typing", lambda c, t=typist: c["user_ids"] == [t.user_id])
        await typist.put(path, {"typing": False})
        await ephemeral(other, room_id, "m.typing", lambda c: c["user_ids"] == [])


async def test_receipts_are_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    async def in_the_room() -> bool:
        return room_id in (await sides.guest.sync(timeout=1000)).get("rooms", {}).get("join", {})

    # Synapse never shows a receipt that came while it had only part of the room's state: its /sync gives the
    # room later, but receipts only from the since-token on.
    await until(in_the_room, f"{sides.guest.user_id} is shown the room")
    for reader, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        said = await other.send(room_id, f"read me, {reader.user_id}")
        await shows(reader, room_id, f"read me, {reader.user_id}")
        await reader.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(said)}")
        await ephemeral(
            other,
            room_id,
            "m.receipt",
            lambda c, s=said, r=reader: r.user_id in c.get(s, {}).get("m.read", {}),
        )


async def test_names_are_changed_on_the_other_side(sides: Sides, room_id: str) -> None:
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        name = f"Name of {person.user_id}"
        await person.put(f"/profile/{quote(person.user_id)}/displayname", {"displayname": name})

        async def renamed(person: Client = person, other: Client = other, name: str = name) -> bool:
            members = await other.get(f"/rooms/{quote(room_id)}/joined_members")
            return members["joined"][person.user_id].get("display_name") == name

        await until(renamed, f"{other.user_id} sees {name}")
    await agree(sides, room_id)


async def test_profiles_are_shown_on_the_other_side(sides: Sides) -> None:
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await person.put(f"/profile/{quote(person.user_id)}/displayname", {"displayname": "A name"})
        assert (await other.get(f"/profile/{quote(person.user_id)}"))["displayname"] == "A name"


async def test_presence_is_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await other.sync()
        status = f"I am {person.user_id}"
        path = f"/presence/{quote(person.user_id)}/status"
        await person.put(path, {"presence": "online", "status_msg": status})

        async def look(person: Client = person, other: Client = other, status: str = status) -> bool:
            told = (await other.sync(timeout=500)).get("presence", {}).get("events", [])
            return any(
                event["sender"] == person.user_id and event["content"].get("status_msg") == status
                for event in told
            )

        await until(look, f"{other.user_id} is shown how {person.user_id} is")


async def test_people_are_seen_online_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        status = {"presence": "online", "status_msg": f"here is {person.user_id}"}
        await person.put(f"/presence/{quote(person.user_id)}/status", status)

        async def look(person: Client = person, other: Client = other, status: Any = status) -> bool:
            shown = await other.call("GET", f"/presence/{quote(person.user_id)}/status", expect=None)
            return shown.status == 200 and shown.body.get("status_msg") == status["status_msg"]

        await until(look, f"{other.user_id} sees that {person.user_id} is there")
