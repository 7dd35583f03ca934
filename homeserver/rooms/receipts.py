"""Read receipts and markers (spec: client-server "Receipts", "Read and unread markers")."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from homeserver.clock import Clock, credible
from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room, receipt_of
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.threads import MAIN, belongs_to, thread_of
from homeserver.rooms.told_ephemeral import ToldEphemeral
from homeserver.shard_writer import Appended, Drafts
from homeserver.users.account_data import AccountData
from storage.log import Entry, Kind

READ = "m.read"
KINDS = (READ, "m.read.private")
FULLY_READ = "m.fully_read"


class Read(NamedTuple):
    """What a user has read, and when (ms); of other servers' users, by their servers' account."""

    user_id: str
    event_id: str
    thread_id: str | None
    ts: int


class Receipts:
    """Sets receipts and markers. Both only ever move forward."""

    def __init__(self, rooms: Rooms, told: ToldEphemeral, account_data: AccountData, now: Clock) -> None:
        self._rooms = rooms
        self._told = told
        self._account_data = account_data
        self._now = now

    async def mark(
        self, room_id: str, user_id: str, kind: str, event_id: str, thread_id: object = None
    ) -> None:
        """Set a receipt, or with kind m.fully_read the marker; a receipt may be for one thread.

        Raises 400 for an unknown kind or a thread that the event is not in, 403 for non-members,
        404 for an event that is not in the room.
        """
        room = await self._joined_room(room_id, user_id)
        if thread_id is not None and not (isinstance(thread_id, str) and thread_id):
            raise invalid_param("thread_id must be a non-empty string")
        if kind == FULLY_READ:
            if thread_id is not None:
                raise invalid_param("thread_id: the marker is for the whole room")
            await self._mark_fully_read(room, user_id, event_id)
            return
        if kind not in KINDS:
            raise invalid_param(f"Receipt type {kind!r} is not supported")
        entry = await self._receipt(room, kind, Read(user_id, event_id, thread_id, self._now()))
        if await self._rooms.submit(room, _Forward(room, [entry])) and kind == READ:
            self._told.read(room, user_id, event_id, thread_id, entry.ts)

    async def _mark_fully_read(self, room: Room, user_id: str, event_id: str) -> None:
        """Move the marker, unless it is there or ahead. Raises 404."""
        marked = await self._event(room, event_id)
        moved = False
        while not moved:
            seen = await self._account_data.get(user_id, FULLY_READ, room.room_id) or {}
            before = await self._known(room, str(seen.get("event_id")))
            if before is not None and before.position >= marked.position:
                return

            def forward(content: JsonObject, seen: JsonObject = seen) -> JsonObject:
                nonlocal moved
                # Another device may have moved it meanwhile.
                moved = content == seen
                return {"event_id": event_id} if moved else content

            await self._account_data.change(user_id, FULLY_READ, forward, room.room_id)

    async def take(self, room: Room, read: Sequence[Read]) -> None:
        """Set what members of the room have read by their own servers' account.

        What is not known here, and who is not in the room, is passed over.
        """
        entries: list[Entry] = []
        for each in read:
            if each.user_id in room.joined:
                with suppress(MatrixError):
                    entries.append(await self._receipt(room, READ, each))
        if entries:
            await self._rooms.submit(room, _Forward(room, entries))

    async def _receipt(self, room: Room, kind: str, read: Read) -> Entry:
        """The receipt to be. Raises 400 and 404."""
        user_id, event_id, thread_id, ts = read
        event = await self._event(room, event_id)
        if thread_id is not None:
            await self._check_thread(room, event, thread_id)
        return Entry(
            kind=Kind.RECEIPT,
            stream=room.room_id,
            type=kind if thread_id is None else f"{kind} {thread_id}",
            key=user_id,
            target=event_id,
            ts=credible(ts, self._now()),
            meta=str(event.position).encode(),
        )

    async def mark_all(self, room_id: str, user_id: str, markers: JsonObject) -> None:
        """Several at once, by kind; see `mark`."""
        room = await self._joined_room(room_id, user_id)
        wanted = {kind: markers[kind] for kind in (FULLY_READ, *KINDS) if markers.get(kind) is not None}
        if not all(isinstance(event_id, str) for event_id in wanted.values()):
            raise bad_json("Markers name events")
        for kind, event_id in wanted.items():
            await self.mark(room.room_id, user_id, kind, event_id)

    async def _joined_room(self, room_id: str, user_id: str) -> Room:
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined:
            raise forbidden("You are not in this room")
        return room

    async def _known(self, room: Room, event_id: str) -> RoomEvent | None:
        found = room.find(event_id)
        return found or (await self._rooms.stored.by_id(room.room_id, [event_id])).get(event_id)

    async def _event(self, room: Room, event_id: str) -> RoomEvent:
        event = await self._known(room, event_id)
        if event is None:
            raise not_found("There is no such event in this room")
        return event

    async def _check_thread(self, room: Room, event: RoomEvent, thread_id: str) -> None:
        stored = self._rooms.stored
        if thread_id == MAIN:
            if await thread_of(stored, room, event) != MAIN:
                raise invalid_param("thread_id: the event is not in the main timeline")
        elif not await belongs_to(stored, room, event, thread_id):
            raise invalid_param("thread_id: the event has nothing to do with that thread")


class _Forward:
    """The proposal of receipts: of each user those that are ahead of what is read when they are committed."""

    def __init__(self, room: Room, entries: Sequence[Entry]) -> None:
        self._room = room
        self._entries = entries
        self._moved = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        appended: list[Appended] = []
        for entry in self._entries:
            receipt = receipt_of(entry)
            key = f"{entry.stream}\0{entry.type}\0{entry.key}"
            before = self._room.receipts.get(receipt.user_id, {}).get((receipt.kind, receipt.thread_id))
            read: int | None = drafts.get(key, before.position if before is not None else None)
            if read is None or read < receipt.position:
                drafts[key] = receipt.position
                appended.append(Appended(replace(entry, seq=next_seq + len(appended))))
        self._moved = bool(appended)
        return appended

    def result(self) -> bool:
        """Whether any of them moved."""
        return self._moved

    def duplicate(self, existing: Entry) -> bool:
        return False
