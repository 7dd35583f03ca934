"""Somebody on either side, and what both servers are to show."""

import time
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from tests import waiting
from tests.client_api.conftest import Client
from tests.federation.rooms import state_of, texts
from tests.federation.servers import Homeserver
from tests.real_parts.synapse import Synapse

until = partial(waiting.until, seconds=30.0)
"""Until what happens on one server is shown on the other."""


class Sides(NamedTuple):
    """Somebody at home where the room is made, and somebody on the other server."""

    host: Client
    guest: Client
    host_name: str
    guest_name: str

    def of(self, server: Homeserver | Synapse) -> Client:
        """Who is at home there."""
        return self.host if self.host_name == server.name else self.guest


async def join(guest: Client, room: str, via: str) -> str:
    room_id: str = (await guest.post(f"/join/{quote(room)}", query={"via": via, "server_name": via}))[
        "room_id"
    ]
    return room_id


async def shows(client: Client, room_id: str, text: str) -> None:
    async def look() -> bool:
        return text in await texts(client, room_id)

    await until(look, f"{client.user_id} sees {text!r}")


async def agree(sides: Sides, room_id: str) -> None:
    """Both servers have the same state."""

    async def look() -> bool:
        return await state_of(sides.host, room_id) == await state_of(sides.guest, room_id)

    await until(look, "both servers have the same state")


async def talk(sides: Sides, room_id: str) -> None:
    """Each side is shown what the other says now."""
    for speaker, other in ((sides.guest, sides.host), (sides.host, sides.guest)):
        said = f"from {speaker.user_id}, {time.monotonic_ns()}"
        await speaker.send(room_id, said)
        await shows(other, room_id, said)


async def membership(client: Client, room_id: str, user_id: str) -> str | None:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
    reply = await client.call("GET", path, expect=None)
    return reply.body["membership"] if reply.status == 200 else None


async def becomes(client: Client, room_id: str, user_id: str, wanted: str) -> None:
    async def look() -> bool:
        return await membership(client, room_id, user_id) == wanted

    await until(look, f"{client.user_id} sees that {user_id} is {wanted!r}")


async def is_shown(client: Client, room_id: str, section: str) -> None:
    """Sync until a room comes as invited or left."""

    async def look() -> bool:
        return room_id in (await client.sync(timeout=1000)).get("rooms", {}).get(section, {})

    await until(look, f"{client.user_id} is shown the room under {section!r}")


async def read_back(client: Client, room_id: str, *, limit: int) -> list[str]:
    """The ids of all events that a client reads backwards from the newest one."""
    found: list[str] = []
    start = ""
    while True:
        query = {"dir": "b", "limit": str(limit), **({"from": start} if start else {})}
        page = await client.get(f"/rooms/{quote(room_id)}/messages", query=query)
        found += [event["event_id"] for event in page["chunk"]]
        start = page.get("end", "")
        if not start:
            return found
