"""Events that are sent later (MSC4140), as tests see them."""

from typing import Any
from urllib.parse import quote

from tests.client_api.conftest import Client
from tests.waiting import until

DELAYED = "/_matrix/client/unstable/org.matrix.msc4140"
EVENTS = f"{DELAYED}/delayed_events"


async def outcome(client: Client, delay_id: str) -> Any:
    """What became of an event, once it has ended."""

    async def ended() -> Any:
        event = await client.get(f"{EVENTS}/{delay_id}")
        return event if "finalised_ts" in event else None

    return await until(ended, "the delayed event ended")


async def messages(client: Client, room_id: str) -> list[str]:
    page = await client.get(f"/rooms/{quote(room_id)}/messages", query={"dir": "f", "limit": 100})
    return [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
