"""What clients say in rooms, and are shown of them."""

from typing import Any
from urllib.parse import quote

from homeserver.protocol.json_types import JsonObject
from tests.client_api.conftest import Client

MESSAGE = "m.room.message"


def text(body: str) -> JsonObject:
    """The content of a message."""
    return {"msgtype": "m.text", "body": body}


async def events(client: Client, room_id: str) -> list[Any]:
    """The newest hundred events of a room, the oldest first."""
    page = await client.get(f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "100"})
    return list(page["chunk"][::-1])


async def texts(client: Client, room_id: str) -> list[str | None]:
    """What the messages say; None where that was redacted."""
    shown = await events(client, room_id)
    return [event["content"].get("body") for event in shown if event["type"] == MESSAGE]


async def state_of(client: Client, room_id: str) -> dict[tuple[str, str], str]:
    """The whole state of a room by event ids."""
    state = await client.get(f"/rooms/{quote(room_id)}/state")
    return {(event["type"], event["state_key"]): event["event_id"] for event in state}


async def members(client: Client, room_id: str) -> dict[str, str]:
    """The membership of everybody."""
    state = await client.get(f"/rooms/{quote(room_id)}/state")
    return {
        event["state_key"]: event["content"]["membership"]
        for event in state
        if event["type"] == "m.room.member"
    }
