"""Entries for the tests, small and told apart by their ids."""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from storage.log import Entry, Kind, Log

ROOM = "!room:example.org"
ALICE = "@alice:example.org"


def event_id(name: object) -> str:
    """An id as rooms of version 4 and later have them; the same for the same name."""
    return "$" + urlsafe_b64encode(sha256(str(name).encode()).digest()).decode().rstrip("=")


def message(name: object, stream: str = ROOM, **fields: Any) -> Entry:
    """A message event; `name` tells it apart."""
    body = b'{"content":{"body":"%s"},"type":"m.room.message"}' % str(name).encode()
    defaults = {"body": body, "event_id": event_id(name), "type": "m.room.message", "sender": ALICE}
    return Entry(Kind.EVENT, stream, **(defaults | fields))


def state(name: object, type: str, key: str, stream: str = ROOM, **fields: Any) -> Entry:
    """A state event."""
    return message(name, stream, **({"type": type, "key": key} | fields))


def member(name: object, user_id: str, stream: str = ROOM, **fields: Any) -> Entry:
    return state(name, "m.room.member", user_id, stream, **({"sender": user_id} | fields))


def resolved(type: str, key: str, target: str | None, stream: str = ROOM) -> Entry:
    """State resolution made `target` current."""
    return Entry(Kind.STATE, stream, type=type, key=key, target=target)


def account_data(user_id: str, type: str, room_id: str = "", body: bytes = b"{}") -> Entry:
    return Entry(Kind.ACCOUNT_DATA, user_id, body, type=type, key=room_id)


def to_device(user_id: str, device_id: str, body: bytes) -> Entry:
    return Entry(Kind.TO_DEVICE, user_id, body, type="m.to_device", key=device_id)


def numbered(entries: Sequence[Entry], after: int = 0) -> list[Entry]:
    """The entries as the log gives them back when they were appended behind `after`."""
    return [replace(entry, seq=after + 1 + i) for i, entry in enumerate(entries)]


async def append(log: Log, shard: int, *entries: Entry) -> list[Entry]:
    """Append at the tail; the entries with their numbers."""
    tail = await log.tail(shard)
    assert await log.append(shard, tail, entries) == tail + len(entries)
    return numbered(entries, tail)


def seqs(entries: Sequence[Entry]) -> list[int]:
    return [entry.seq for entry in entries]
