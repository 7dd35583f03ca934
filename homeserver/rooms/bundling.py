"""Bundled aggregations: what `unsigned.m.relations` says of an event (spec: client-server
"Aggregations of child events", and the server-side aggregation of edits, threads and references).

An edit is a later event of the same sender and type with `m.new_content`; the newest by its own time
counts. A thread is summed up by its count, its newest event and whether the reader took part. What the
reader may not see is in none of it.
"""

from collections.abc import Mapping, Sequence, Set

import msgspec
import orjson

from homeserver.clock import Clock
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from homeserver.rooms.visibility import SightLine, Visibility
from storage.log import Log

MAX_EDITS = 200
MAX_REFERENCES = 100
THREAD_PAGE = 500
MAX_THREAD_PAGES = 20

REPLACE = "m.replace"
THREAD = "m.thread"
REFERENCE = "m.reference"
BUNDLED = (REPLACE, THREAD, REFERENCE)


class ThreadSummary(msgspec.Struct):
    """One thread as everybody sees it; `senders` counts the replies of each participant."""

    latest: RoomEvent
    senders: dict[str, int]

    @property
    def count(self) -> int:
        return sum(self.senders.values())


class Bundling:
    """Finds the bundles of events that are about to be shown."""

    def __init__(self, log: Log, stored: StoredEvents, visibility: Visibility, now: Clock) -> None:
        self._log = log
        self._stored = stored
        self._visibility = visibility
        self._now = now

    async def bundles(
        self,
        room: Room,
        events: Sequence[RoomEvent],
        user_id: str,
        ignored: frozenset[str] = frozenset(),
        *,
        line: SightLine | None,
    ) -> Mapping[str, bytes]:
        """Event id → JSON of its `m.relations`, for those events that have any.

        Without a sight line the reader has been joined since the first of the events.
        """
        candidates = {event.event_id: event for event in events if event.state_key is None}
        if not candidates:
            return {}
        related = await self._related(room, list(candidates.values()))
        threads: dict[str, ThreadSummary] = {}
        for event_id in related[THREAD]:
            thread = await self._thread(room, event_id, ignored, line)
            if thread is not None:
                threads[event_id] = thread
        latest = await self._related(room, [thread.latest for thread in threads.values()])
        edited = related[REPLACE] | latest[REPLACE]
        found: dict[str, bytes] = {}
        for event_id in set().union(*related.values()):
            parts: list[bytes] = []
            if edit := await self._edit_json(room, candidates[event_id], edited, ignored, line):
                parts.append(b'"m.replace":' + edit)
            if thread := threads.get(event_id):
                latest_edit = await self._edit_json(room, thread.latest, edited, ignored, line)
                json = self._thread_json(room, candidates[event_id], thread, latest_edit, user_id)
                parts.append(b'"m.thread":' + json)
            if event_id in related[REFERENCE] and (
                chunk := await self._references(room, event_id, ignored, line)
            ):
                parts.append(b'"m.reference":' + orjson.dumps({"chunk": chunk}))
            if parts:
                found[event_id] = b"{" + b",".join(parts) + b"}"
        return found

    async def _related(self, room: Room, events: Sequence[RoomEvent]) -> Mapping[str, set[str]]:
        """Relation type, of those that are bundled → those of the events that have such relations."""
        known = room.related_to()
        related = {
            rel_type: {event.event_id for event in events if rel_type in known.get(event.event_id, ())}
            for rel_type in BUNDLED
        }
        older = [event.event_id for event in events if event.position <= room.timeline_after]
        if older:
            older = list(await self._log.with_relations(room.shard, room.room_id, older))
        if older:
            for rel_type, ids in related.items():
                ids |= await self._log.with_relations(room.shard, room.room_id, older, rel_type=rel_type)
        return related

    async def _references(
        self, room: Room, event_id: str, ignored: frozenset[str], line: SightLine | None
    ) -> list[JsonObject]:
        references, _ = await self._stored.children(
            room.room_id, event_id, rel_type=REFERENCE, newest_first=False, limit=MAX_REFERENCES
        )
        seen = await self._seen(room, references, line)
        return [{"event_id": child.event_id} for child in seen if child.sender not in ignored]

    async def _seen(
        self, room: Room, children: Sequence[RoomEvent], line: SightLine | None
    ) -> Sequence[RoomEvent]:
        """Those that the reader sees; what is left of an erased event relates to nothing."""
        if line is None:
            return children
        return [e for e in await self._visibility.shown(room, line, children) if e.relates_to is not None]

    async def _edit_json(
        self,
        room: Room,
        event: RoomEvent,
        edited: Set[str],
        ignored: frozenset[str],
        line: SightLine | None,
    ) -> bytes | None:
        """The edit of an event that counts, if it is one of those that were edited."""
        if event.event_id not in edited or event.rel_type == REPLACE or event.is_redacted:
            return None
        edits, _ = await self._stored.children(
            room.room_id, event.event_id, rel_type=REPLACE, type=event.type, limit=MAX_EDITS
        )
        seen = await self._seen(room, edits, line)
        valid = [e for e in seen if is_valid_edit(event, e) and e.sender not in ignored]
        if not valid:
            return None
        newest = max(valid, key=lambda e: (e.ts, e.event_id))
        return newest.render(self._now(), room_id=room.room_id_json)

    def _thread_json(
        self, room: Room, root: RoomEvent, thread: ThreadSummary, latest_edit: bytes | None, user_id: str
    ) -> bytes:
        relations = b'{"m.replace":' + latest_edit + b"}" if latest_edit is not None else None
        took_part = user_id in thread.senders or root.sender == user_id
        return b'{"latest_event":%b,"count":%d,"current_user_participated":%b}' % (
            thread.latest.render(self._now(), room_id=room.room_id_json, relations=relations),
            thread.count,
            b"true" if took_part else b"false",
        )

    async def _thread(
        self, room: Room, root_id: str, ignored: frozenset[str], line: SightLine | None
    ) -> ThreadSummary | None:
        """The summary of the thread under a root; kept with the room while nothing happens in it."""
        key = ("thread", root_id, ignored)
        summary = room.fragments.get(key, ThreadSummary)
        if summary is None:
            seen = room.last_seq
            summary = await self._sum_up(room, root_id, ignored, None)
            if summary is None:
                return None
            if room.last_seq == seen:
                room.fragments.keep(key, summary, summary.latest.size())
        if await self._seen(room, [summary.latest], line):
            return summary
        return await self._sum_up(room, root_id, ignored, line)

    async def _sum_up(
        self, room: Room, root_id: str, ignored: frozenset[str], line: SightLine | None
    ) -> ThreadSummary | None:
        latest: RoomEvent | None = None
        senders: dict[str, int] = {}
        before: int | None = None
        for _ in range(MAX_THREAD_PAGES):
            replies, before = await self._stored.children(
                room.room_id, root_id, rel_type=THREAD, before=before, limit=THREAD_PAGE
            )
            for reply in await self._seen(room, replies, line):
                if reply.sender in ignored:
                    continue
                latest = latest or reply
                senders[reply.sender] = senders.get(reply.sender, 0) + 1
            if before is None:
                break
        return ThreadSummary(latest, senders) if latest is not None else None


def is_valid_edit(original: RoomEvent, edit: RoomEvent) -> bool:
    """spec: client-server "Validity of replacement events"."""
    if edit.sender != original.sender or edit.type != original.type or edit.state_key is not None:
        return False
    content: JsonObject = edit.content
    return edit.type == "m.room.encrypted" or isinstance(content.get("m.new_content"), dict)
