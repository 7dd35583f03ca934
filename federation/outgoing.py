"""Single things that are sent to other servers."""

from typing import NamedTuple, Protocol

import orjson

from homeserver.protocol.json_types import JsonObject
from storage.log import Entry


class Outgoing(NamedTuple):
    """An event or an EDU, and the entry of the log behind it."""

    shard: int
    seq: int
    """0: there is none, it may be lost."""
    content: JsonObject
    is_event: bool


class DeviceNews(Protocol):
    """What others are told of the devices of this server's users."""

    async def servers(self, user_id: str) -> set[str]:
        """Which other servers are told: those that users share rooms with the user from."""
        ...

    async def updates(self, announcement: Entry) -> list[JsonObject]:
        """The EDUs that say what an announcement of the log (DEVICE_LIST) is about. Raises StoreError."""
        ...

    async def newest(self, user_id: str) -> list[JsonObject]:
        """The EDU of the last change: who has another list than that sees it. Raises StoreError."""
        ...


def told(edu_type: str, content: JsonObject) -> Outgoing:
    """An EDU that nothing in the log stands for."""
    return Outgoing(0, 0, {"edu_type": edu_type, "content": content}, is_event=False)


def outgoing_event(shard: int, entry: Entry) -> Outgoing:
    """The event of an entry."""
    return Outgoing(shard, entry.seq, orjson.loads(entry.body), is_event=True)


def outgoing_edu(shard: int, entry: Entry) -> Outgoing:
    """The EDU that an entry holds."""
    return Outgoing(shard, entry.seq, orjson.loads(entry.body), is_event=False)
