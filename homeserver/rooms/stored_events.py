"""From EVENT entries of the log to events in memory, with what clients see beside the body.

`unsigned.prev_content` and `redacted_because` refer to other events; they are fetched for a whole
page at once. What a room in memory knows to be redacted is shown so, though the log is not pruned yet.
"""

from collections.abc import Callable, Sequence

import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent, make_room_event
from storage.log import Entry, KeyedRef, Kind, Log, ShardMap


class StoredEvents:
    """Reads events of rooms from the log."""

    def __init__(self, log: Log, shards: ShardMap, cached: Callable[[str], Room | None]) -> None:
        """`cached` gives a room if it is in memory."""
        self._log = log
        self._shards = shards
        self._cached = cached

    async def by_id(self, room_id: str, event_ids: Sequence[str]) -> dict[str, RoomEvent]:
        """Those of the events that are in the log and in this room."""
        found = await self._log.by_event_id(self._shards.of_room(room_id), event_ids)
        mine = [entry for entry in found.values() if entry.stream == room_id]
        return {view.event_id: view for view in await self.views(room_id, mine)}

    async def current(self, room_id: str, refs: Sequence[KeyedRef]) -> list[RoomEvent]:
        """The state events that these keys of the room's state point to."""
        seqs = [ref.seq for ref in refs if ref.event_id is not None]
        if not seqs:
            return []
        return await self.views(room_id, await self._log.entries(self._shards.of_room(room_id), seqs))

    async def page(
        self,
        room_id: str,
        *,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool,
        limit: int,
    ) -> list[RoomEvent]:
        """Events by position, strictly between `after` and `before`."""
        entries = await self._log.page(
            self._shards.of_room(room_id),
            room_id,
            kind=Kind.EVENT,
            after=after,
            before=before,
            newest_first=newest_first,
            limit=limit,
        )
        return await self.views(room_id, entries)

    async def children(
        self,
        room_id: str,
        parent: str,
        *,
        rel_type: str | None = None,
        type: str | None = None,
        sender: str | None = None,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = True,
        limit: int,
    ) -> tuple[list[RoomEvent], int | None]:
        """Events that relate to `parent`, and the position of the last one read, redacted ones included.

        The position is None when there are no more.
        """
        entries = await self._log.related(
            self._shards.of_room(room_id),
            room_id,
            parent,
            rel_type=rel_type,
            type=type,
            sender=sender,
            after=after,
            before=before,
            newest_first=newest_first,
            limit=limit,
        )
        views = await self.views(room_id, entries)
        last = entries[-1].position if len(entries) == limit else None
        return [view for view in views if view.relates_to is not None], last

    async def views(self, room_id: str, entries: Sequence[Entry]) -> list[RoomEvent]:
        """The in-memory forms of EVENT entries (or STATE ones with an event) of one room, in order."""
        shard = self._shards.of_room(room_id)
        metas = [decode_meta(entry.meta) for entry in entries]
        seqs = [meta.replaces for meta in metas if meta.replaces]
        replaced = {e.seq: e for e in await self._log.entries(shard, seqs)} if seqs else {}
        redactions = [meta.redacted_by for meta in metas if meta.redacted_by]
        redacted_by = await self._log.by_event_id(shard, redactions) if redactions else {}
        room = self._cached(room_id)
        views: list[RoomEvent] = []
        for entry, meta in zip(entries, metas, strict=True):
            unsigned: JsonObject = {}
            if meta.redacted_by is not None and meta.redacted_by in redacted_by:
                unsigned["redacted_because"] = redaction_json(redacted_by[meta.redacted_by])
            elif meta.replaces in replaced:
                unsigned = _replaced(replaced[meta.replaces])
            view = make_room_event(entry, meta, unsigned)
            if meta.redacted_by is not None:
                # A redacted event relates to nothing any more, though the log's index still has it.
                view.relates_to = view.rel_type = None
            elif room is not None:
                view = room.after_redactions(view)
            views.append(view)
        return views


def _replaced(entry: Entry) -> JsonObject:
    return {
        "replaces_state": entry.event_id or entry.target,
        "prev_content": orjson.loads(entry.body)["content"],
        "prev_sender": entry.sender,
    }


def redaction_json(entry: Entry) -> JsonObject:
    """The client form of a redaction, for `unsigned.redacted_because`."""
    view = make_room_event(entry, decode_meta(entry.meta), {})
    shown: JsonObject = orjson.loads(view.render(entry.ts, room_id=orjson.dumps(entry.stream)))
    return shown
