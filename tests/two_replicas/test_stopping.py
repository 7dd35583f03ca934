"""A replica stops in good order while people write: at the other one nobody notices."""

import asyncio
from typing import Any

from homeserver.bus.consumer import CLOSE_SECONDS
from tests.client_api.conftest import Client
from tests.two_replicas.conftest import Replicas

SENDERS = 4


async def messages(client: Client, room_id: str) -> list[str]:
    """All of a room's messages."""
    found: list[str] = []
    query: dict[str, Any] = {"dir": "b", "limit": 500}
    while True:
        page = await client.get(f"/rooms/{room_id}/messages", query=query)
        found += [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if "end" not in page:
            return found
        query["from"] = page["end"]


async def test_what_is_passed_on_to_an_owner_that_stops_is_done(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    """Each send of B's is either finished by the owner, or done by B itself."""
    rooms: list[str] = []
    while len(rooms) < 2:
        room_id = await bob.create_room()
        if replicas.b.app.ground.others.elsewhere(room_id) is not None:
            rooms.append(room_id)
    sent: dict[str, list[str]] = {room_id: [] for room_id in rooms}
    over = asyncio.Event()

    async def talk(number: int) -> None:
        room_id, count = rooms[number % 2], 0
        while not over.is_set():
            sent[room_id].append(await bob.send(room_id, f"{number} {count}", txn=f"{number} {count}"))
            count += 1

    async with asyncio.TaskGroup() as talking:
        for number in range(SENDERS):
            talking.create_task(talk(number))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(CLOSE_SECONDS):
            await replicas.a.stop()
        assert all(replicas.b.app.ground.others.elsewhere(room_id) is None for room_id in rooms)
        await asyncio.sleep(0.2)
        over.set()
    for room_id in rooms:
        assert sorted(await messages(bob, room_id)) == sorted(sent[room_id])
