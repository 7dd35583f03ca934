"""A client of simplified sliding sync (MSC4186)."""

from typing import Any

from tests.client_api.conftest import Client

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


class Sliding:
    """A client's connection."""

    def __init__(self, client: Client, **request: Any) -> None:
        self.client = client
        self.request = request
        self.pos: str | None = None

    async def poll(self, timeout: int = 0, **changes: Any) -> Any:
        self.request.update(changes)
        query: dict[str, Any] = {"timeout": timeout}
        if self.pos is not None:
            query["pos"] = self.pos
        # The endpoint is not in the specification, so its answers are not checked against it.
        reply = await self.client.call("POST", PATH, self.request, query=query)
        self.pos = reply.body["pos"]
        return reply.body


def whole_list(limit: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "ranges": [[0, 19]],
        "timeline_limit": limit,
        "required_state": [["m.room.create", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]],
        **more,
    }


def messages_in(body: Any, room_id: str) -> list[str]:
    """The events that an answer shows in a room."""
    return [event["event_id"] for event in body["rooms"].get(room_id, {}).get("timeline", [])]
