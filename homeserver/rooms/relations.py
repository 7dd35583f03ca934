"""Children of an event, the threads of a room, and what may relate to what (spec: client-server
"Relationships API", "Threading", "Event annotations")."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import orjson

from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.bundling import THREAD
from homeserver.rooms.history import History
from homeserver.rooms.redaction import pruned_view
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent, relation_of
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import Visibility
from homeserver.since_tokens import encode_position
from homeserver.users.sessions import Session

ANNOTATION = "m.annotation"
MAX_ANNOTATIONS = 1000
MAX_RECURSION = 3
MAX_CHILDREN = 1000
THREAD_SCAN = 200
MAX_SCANS = 25
REPLIES = 20
"""Replies read at a time in search of one that was not redacted."""


class Relations:
    """Reads relations for local users, and checks those of events they send."""

    def __init__(self, rooms: Rooms, access: RoomAccess, history: History, visibility: Visibility) -> None:
        self._rooms = rooms
        self._access = access
        self._history = history
        self._visibility = visibility
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Of those who annotate an event."""

    @asynccontextmanager
    async def checked(self, room: Room, sender: str, type: str, content: JsonObject) -> AsyncIterator[None]:
        """Stands around the sending of an event: raises what speaks against how it relates to others.

        That is 400 M_DUPLICATE_ANNOTATION for a second equal annotation, and 400 for a thread off a child.
        """
        parent_id, rel_type = relation_of(content)
        if parent_id is not None and rel_type == THREAD:
            await self._check_thread(room, parent_id)
        if parent_id is None or rel_type != ANNOTATION:
            yield
            return
        # Who sends the like of it at the same time waits, and is checked when it is there.
        async with self._turns.setdefault((sender, parent_id), asyncio.Lock()):
            await self._check_annotation(room, sender, type, parent_id, content["m.relates_to"].get("key"))
            yield

    async def _check_thread(self, room: Room, root_id: str) -> None:
        root = await self._event(room, root_id)
        if root is not None and root.rel_type is not None:
            raise MatrixError(400, "M_UNKNOWN", "A thread cannot start from an event with a relation")

    async def _check_annotation(
        self, room: Room, sender: str, type: str, parent_id: str, key: object
    ) -> None:
        children, _ = await self._rooms.stored.children(
            room.room_id, parent_id, rel_type=ANNOTATION, type=type, sender=sender, limit=MAX_ANNOTATIONS
        )
        if any(child.content["m.relates_to"].get("key") == key for child in children):
            raise MatrixError(400, "M_DUPLICATE_ANNOTATION", "You have reacted so already")

    async def _event(self, room: Room, event_id: str) -> RoomEvent | None:
        return (await self._events(room, [event_id])).get(event_id)

    async def _events(self, room: Room, event_ids: Sequence[str]) -> dict[str, RoomEvent]:
        found = {event_id: event for event_id in event_ids if (event := room.find(event_id)) is not None}
        older = [event_id for event_id in event_ids if event_id not in found]
        return found | (await self._rooms.stored.by_id(room.room_id, older) if older else {})

    async def children(
        self,
        room_id: str,
        session: Session,
        parent_id: str,
        *,
        rel_type: str | None,
        type: str | None,
        backwards: bool,
        start: str | None,
        end: str | None,
        limit: int,
        recurse: bool,
    ) -> bytes:
        """A page of the events that relate to one, newest first unless `backwards` is False.

        Raises 404 for a parent that the reader may not see.
        """
        room, _, line = await self._history.visible_event(room_id, session.user_id, parent_id)
        low = high = None
        if start:
            boundary = self._history.position(room, start)
            low, high = (low, boundary + 1) if backwards else (boundary, high)
        if end:
            boundary = self._history.position(room, end)
            low, high = (boundary, high) if backwards else (low, boundary + 1)
        if recurse:
            related, last = await self._recursive(room, parent_id, low, high, backwards)
            wanted = [
                event
                for event in related
                if (rel_type is None or event.rel_type == rel_type) and (type is None or event.type == type)
            ]
            found = wanted[:limit]
            more = found[-1].position if len(wanted) > limit else last
        else:
            found, more = await self._rooms.stored.children(
                room_id,
                parent_id,
                rel_type=rel_type,
                type=type,
                after=low,
                before=high,
                newest_first=backwards,
                limit=limit,
            )
        shown = await self._history.shown(room, found, session.user_id, line)
        # What was erased relates to nothing for those who get to see what is left of it.
        visible = [e for e in shown if e.relates_to is not None]
        rendered = await self._history.render(room, visible, session, line)
        parts = [b'"chunk":[' + b",".join(rendered) + b"]"]
        if more is not None:
            token = encode_position(more - 1 if backwards else more)
            parts.append(b'"next_batch":' + orjson.dumps(token))
        if start:
            parts.append(b'"prev_batch":' + orjson.dumps(start))
        if recurse:
            parts.append(b'"recursion_depth":%d' % MAX_RECURSION)
        return b"{" + b",".join(parts) + b"}"

    async def _recursive(
        self, room: Room, parent_id: str, low: int | None, high: int | None, backwards: bool
    ) -> tuple[list[RoomEvent], int | None]:
        """Children, their children and so on, to a bounded depth and number, between two positions.

        With them where reading goes on when there are more children than one page may look at, else None.
        """
        stored = self._rooms.stored
        children, last = await stored.children(
            room.room_id, parent_id, after=low, before=high, newest_first=backwards, limit=MAX_CHILDREN
        )
        if low is not None:
            # What relates to earlier ones may be later.
            earlier, _ = await stored.children(room.room_id, parent_id, before=low + 1, limit=MAX_CHILDREN)
            children += earlier
        found = {child.event_id: child for child in children}
        most = len(found) + MAX_CHILDREN
        parents = list(found)
        for _ in range(MAX_RECURSION - 1):
            known = await self._rooms.log.with_relations(room.shard, room.room_id, parents)
            below: dict[str, RoomEvent] = {}
            for parent in parents:
                if parent in known and len(found) < most:
                    children, _ = await stored.children(room.room_id, parent, limit=most - len(found))
                    below |= {child.event_id: child for child in children if child.event_id not in found}
                    found |= below
            parents = list(below)
        if last is not None:
            low, high = (last - 1, high) if backwards else (low, last + 1)
        between = [
            event
            for event in found.values()
            if (low is None or event.position > low) and (high is None or event.position < high)
        ]
        return sorted(between, key=lambda event: event.position, reverse=backwards), last

    async def threads(
        self, room_id: str, session: Session, *, participated: bool, start: str | None, limit: int
    ) -> bytes:
        """Thread roots of a room, those with the newest replies first. Raises 403 for outsiders.

        Of the roots of those whom the reader ignores, they get what a redaction would leave.
        """
        room = (await self._access.of(room_id, session.user_id)).room
        before = self._history.position(room, start) + 1 if start else None
        line = await self._visibility.sight_line(room, session.user_id)
        ignored = await self._history.ignored(session.user_id)
        roots: dict[str, RoomEvent] = {}
        looked_at: set[str] = set()
        more: int | None = None
        for _ in range(MAX_SCANS):
            entries = await self._rooms.log.by_rel_type(
                room.shard, room_id, THREAD, before=before, limit=THREAD_SCAN
            )
            newest: dict[str, RoomEvent] = {}
            fresh = [entry for entry in entries if entry.target not in looked_at]
            for view in await self._rooms.stored.views(room_id, fresh):
                if view.relates_to is not None and view.relates_to not in looked_at:
                    looked_at.add(view.relates_to)
                    newest[view.relates_to] = view
            begun = await self._events(room, list(newest))
            if participated:
                begun = await self._with_part_of(room, begun, session.user_id)
            shown = {
                root.event_id: root for root in await self._visibility.shown(room, line, list(begun.values()))
            }
            for root_id, view in newest.items():
                if root_id not in shown:
                    continue
                # From the end of the room on, the first reply that is met is the last of its thread.
                if start and not await self._is_newest(room, root_id, view):
                    continue
                root = begun[root_id]
                if participated and not await self._took_part(room, root, session.user_id):
                    continue
                is_ignored = root.sender in ignored
                roots[root_id] = pruned_view(room.version, root, {}) if is_ignored else shown[root_id]
                if len(roots) == limit:
                    more = view.position
                    break
            if more is not None or len(entries) < THREAD_SCAN:
                break
            before = entries[-1].position
        else:
            more = before
        rendered = await self._history.render(room, list(roots.values()), session, line)
        parts = [b'"chunk":[' + b",".join(rendered) + b"]"]
        if more is not None:
            parts.append(b'"next_batch":' + orjson.dumps(encode_position(more - 1)))
        return b"{" + b",".join(parts) + b"}"

    async def _is_newest(self, room: Room, root_id: str, reply: RoomEvent) -> bool:
        """Whether a reply is its thread's last: only then is the thread listed at this place."""
        before: int | None = None
        while True:
            newer, before = await self._rooms.stored.children(
                room.room_id, root_id, rel_type=THREAD, after=reply.position, before=before, limit=REPLIES
            )
            if newer:
                return False
            if before is None:
                return True

    async def _with_part_of(
        self, room: Room, roots: Mapping[str, RoomEvent], user_id: str
    ) -> dict[str, RoomEvent]:
        """Those of some threads that a user began or ever replied in."""
        replied = await self._rooms.log.with_relations(
            room.shard, room.room_id, list(roots), rel_type=THREAD, sender=user_id
        )
        return {id: root for id, root in roots.items() if root.sender == user_id or id in replied}

    async def _took_part(self, room: Room, root: RoomEvent, user_id: str) -> bool:
        """Whether a thread was begun by a user, or has a reply of theirs that was not redacted."""
        if root.sender == user_id:
            return True
        before: int | None = None
        while True:
            own, before = await self._rooms.stored.children(
                room.room_id, root.event_id, rel_type=THREAD, sender=user_id, before=before, limit=REPLIES
            )
            if own:
                return True
            if before is None:
                return False
