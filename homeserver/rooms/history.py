"""Reading a room's events, as far as the reader may see (spec: client-server "Getting events for a room",
"Event context"). Who may read at all is in `access`, the room's state in `state_reader`.

Nobody reads the messages of those they ignore, unless they ask for one by its id (spec: "Ignoring Users").
"""

from collections.abc import Sequence

import msgspec
import orjson

from homeserver.clock import Clock
from homeserver.errors import not_found
from homeserver.rooms.access import Access, RoomAccess
from homeserver.rooms.bundling import Bundling
from homeserver.rooms.earlier import EarlierEvents, NoEarlierEvents
from homeserver.rooms.event_filter import RoomEventFilter, read_filter
from homeserver.rooms.past_state import state_at
from homeserver.rooms.reading_order import (
    NEWEST,
    Stretch,
    above,
    backwards_from,
    below,
    bottom_of,
    in_gap,
    next_stretch,
    token_position,
)
from homeserver.rooms.rendering import Reader, events_array, render_events
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.since_tokens import decode_position, encode_position
from homeserver.users.ignoring import ignored_by
from homeserver.users.sessions import Session
from homeserver.users.users import Users

MAX_PAGES = 20
MAX_FETCHES = 5
"""How often other servers are asked for what came before, for one answer."""


class History:
    """Reads events of rooms for local users."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        access: RoomAccess,
        visibility: Visibility,
        bundling: Bundling,
        *,
        epoch: str,
        now: Clock,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._access = access
        self._visibility = visibility
        self._bundling = bundling
        self.earlier: EarlierEvents = NoEarlierEvents()
        self._epoch = epoch
        self._now = now

    def position(self, room: Room, token: str) -> int:
        """The boundary that a pagination token (or since-token) means in a room. Raises 400."""
        return decode_position(token, room.shard, self._epoch, self._rooms.shards.rooms)

    async def messages(
        self,
        room_id: str,
        session: Session,
        *,
        backwards: bool,
        start: str | None,
        end: str | None,
        limit: int,
        filter_json: str | None,
    ) -> bytes:
        """A page of the timeline. The end token always moves, whatever the reader may not see.

        Who reads forwards gets one with the newest events too, and none with an empty page.
        """
        access = await self._access.of(room_id, session.user_id)
        room = access.room
        wanted = parse_filter(filter_json)
        if not wanted.allows_room(room_id):
            limit = 0
        newest = self._rooms.writers[room.shard].tail if access.upto is None else access.upto
        at, stop = self._bounds(room, access.upto, start, end, newest, backwards=backwards)
        line = await self._line(room, session.user_id)
        events: list[RoomEvent] = []
        fetches = MAX_FETCHES
        for _ in range(MAX_PAGES if limit else 0):
            stretch = next_stretch(room.gaps, at, stop, backwards=backwards)
            if stretch is None:
                break
            page = await self._page(room, stretch, backwards=backwards, limit=limit)
            shown = await self.shown(room, page, session.user_id, line)
            if not wanted.is_open:
                shown = [event for event in shown if wanted.matches_event(event)]
            events += shown[: limit - len(events)]
            if page:
                last = events[-1] if len(events) == limit else page[-1]
                at = below(last.position) if backwards else above(last.position)
            if len(events) == limit:
                break
            if len(page) < limit:
                gap = _incomplete(room, stretch) if backwards else None
                if gap is not None:
                    if not fetches or (events and not room.begins_in(gap)):
                        # Who has something to read need not wait for others: the rest comes next time. With
                        # the room's beginning none comes.
                        break
                    fetches -= 1
                    if await self.earlier.fetch(room, gap):
                        line = await self._line(room, session.user_id)
                        continue
                at = stretch.low if backwards else stretch.high
        if line is None and events:
            joined = room.head.state["m.room.member", session.user_id].position
            if min(events[0].position, events[-1].position) < joined:
                # All of it may be seen, but it depends on what the reader was at the time in which form.
                line = await self._visibility.sight_line(room, session.user_id)
                events = await self._visibility.shown(room, line, events)
        parts = [
            b'"start":' + orjson.dumps(start or encode_position(newest if backwards else 0)),
            b'"chunk":[' + b",".join(await self.render(room, events, session, line)) + b"]",
        ]
        to_be_continued = bool(events) and not backwards and end is None and access.upto is None
        if limit and (to_be_continued or next_stretch(room.gaps, at, stop, backwards=backwards) is not None):
            token = encode_position(token_position(at, backwards=backwards))
            parts.append(b'"end":' + orjson.dumps(token))
        if wanted.lazy_load_members and events:
            parts.append(b'"state":' + events_array(await self._senders(access, events), self._now(), room))
        return b"{" + b",".join(parts) + b"}"

    async def _senders(self, access: Access, events: Sequence[RoomEvent]) -> Sequence[RoomEvent]:
        """The member events of those who sent events."""
        senders = {event.sender for event in events}
        if access.upto is None:
            state = access.room.head.state
            return [m for sender in senders if (m := state.get(("m.room.member", sender))) is not None]
        state_then = await self._access.state(access)
        return [e for e in state_then if e.type == "m.room.member" and e.state_key in senders]

    def _bounds(
        self,
        room: Room,
        upto: int | None,
        start: str | None,
        end: str | None,
        newest: int,
        *,
        backwards: bool,
    ) -> tuple[int, int]:
        """The boundaries from and to which somebody reads who sees the room up to a position. Raises 400."""
        if backwards:
            first = min(self.position(room, start), newest) if start else newest
            return backwards_from(first), above(self.position(room, end)) if end else 0
        last = newest if upto is None else upto
        return (
            above(self.position(room, start)) if start else 0,
            min(above(self.position(room, end)), above(last)) if end else above(last),
        )

    async def _line(self, room: Room, user_id: str) -> SightLine | None:
        """What a user sees of a room, None for all of it."""
        if room.always_shared and user_id in room.joined:
            return None
        return await self._visibility.sight_line(room, user_id)

    async def _page(
        self, room: Room, stretch: Stretch, *, backwards: bool, limit: int
    ) -> Sequence[RoomEvent]:
        """The first events of a stretch, in reading order."""
        after, upto = stretch.after, stretch.upto
        if stretch.gap is not None and room.gaps[stretch.gap] == in_gap(stretch.gap, 0):
            return ()
        if stretch.gap is None:
            in_memory = room.timeline[room.first_after(after) : room.first_after(upto)]
            if after >= room.timeline_after:
                return in_memory[: -limit - 1 : -1] if backwards else in_memory[:limit]
            if backwards and (
                len(in_memory) >= limit or (in_memory and in_memory[0].type == "m.room.create")
            ):
                return in_memory[: -limit - 1 : -1]
        seen = room.last_seq
        page = await self._rooms.stored.page(
            room.room_id, after=after, before=upto + 1, newest_first=backwards, limit=limit
        )
        if backwards and upto >= room.timeline_after and room.last_seq == seen:
            self._rooms.keep_past(room, page)
        return page

    async def neighbours(
        self, room: Room, position: int, limit: int, *, backwards: bool, fetching: bool = False
    ) -> list[RoomEvent]:
        """The events next to a position, in reading order; `fetching`: be they got from other servers."""
        events: list[RoomEvent] = []
        at, stop = (below(position), 0) if backwards else (above(position), above(NEWEST))
        while len(events) < limit and (stretch := next_stretch(room.gaps, at, stop, backwards=backwards)):
            page = await self._page(room, stretch, backwards=backwards, limit=limit - len(events))
            events += page
            if page:
                at = below(page[-1].position) if backwards else above(page[-1].position)
            if len(events) < limit:
                gap = _incomplete(room, stretch) if backwards and fetching else None
                if gap is not None:
                    fetching = False
                    if await self.earlier.fetch(room, gap):
                        continue
                at = stretch.low if backwards else stretch.high
        return events

    async def ignored(self, user_id: str) -> frozenset[str]:
        """Whose messages a user does not read."""
        return ignored_by(await self._users.get(user_id))

    async def shown(
        self, room: Room, events: Sequence[RoomEvent], user_id: str, line: SightLine | None
    ) -> Sequence[RoomEvent]:
        """What a user is to read of the events; without a sight line all of them may be seen."""
        ignored = await self.ignored(user_id)
        if line is not None:
            events = await self._visibility.shown(room, line, events)
        if not ignored:
            return events
        return [event for event in events if event.sender not in ignored or event.state_key is not None]

    async def render(
        self, room: Room, events: Sequence[RoomEvent], session: Session, line: SightLine | None
    ) -> list[bytes]:
        """Client forms with room id and bundles."""
        ignored = await self.ignored(session.user_id)
        reader = Reader(session.user_id, session.device_id, ignored)
        bundles = await self._bundling.bundles(room, events, session.user_id, ignored, line=line)
        return render_events(events, reader, self._now(), bundles, line, room_id=room.room_id_json)

    async def visible_event(
        self, room_id: str, user_id: str, event_id: str
    ) -> tuple[Room, RoomEvent, SightLine]:
        """An event of the room as the user may see it, and what else that is. Raises 404 for any other."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("There is no such event")
        event = room.find(event_id) or (await self._rooms.stored.by_id(room_id, [event_id])).get(event_id)
        if event is None:
            raise not_found("There is no such event")
        line = await self._visibility.sight_line(room, user_id)
        for view in await self._visibility.shown(room, line, [event]):
            return room, view, line
        raise not_found("There is no such event")

    async def event(self, room_id: str, session: Session, event_id: str) -> bytes:
        room, event, line = await self.visible_event(room_id, session.user_id, event_id)
        return (await self.render(room, [event], session, line))[0]

    async def context(
        self, room_id: str, session: Session, event_id: str, *, limit: int, filter_json: str | None
    ) -> bytes:
        """Events around one, with the state at the last of them that is shown. Raises 404."""
        room, event, _ = await self.visible_event(room_id, session.user_id, event_id)
        wanted = parse_filter(filter_json)
        if not wanted.allows_room(room_id):
            limit = 0
        half = limit // 2
        before = await self.neighbours(room, event.position, half, backwards=True, fetching=True)
        line = await self._visibility.sight_line(room, session.user_id)
        after = await self.neighbours(room, event.position, limit - half, backwards=False)
        start = (before[-1] if before else event).position - 1
        end = (after[-1] if after else event).position
        around = [
            [e for e in await self.shown(room, events, session.user_id, line) if wanted.matches_event(e)]
            for events in (before, after)
        ]
        before, after = around
        last = after[-1] if after else event
        state = await state_at(self._rooms.log, self._rooms.stored, room, last.position)
        state = [e for e in state if wanted.matches_event(e)] if wanted.allows_room(room_id) else []
        if wanted.lazy_load_members:
            senders = {e.sender for e in (*before, event, *after)}
            state = [e for e in state if e.type != "m.room.member" or e.state_key in senders]
        parts = [
            b'"start":' + orjson.dumps(encode_position(start)),
            b'"end":' + orjson.dumps(encode_position(end)),
            b'"event":' + (await self.render(room, [event], session, line))[0],
            b'"events_before":[' + b",".join(await self.render(room, before, session, line)) + b"]",
            b'"events_after":[' + b",".join(await self.render(room, after, session, line)) + b"]",
            b'"state":' + events_array(state, self._now(), room),
        ]
        return b"{" + b",".join(parts) + b"}"


def _incomplete(room: Room, stretch: Stretch) -> int | None:
    """The gap of which a stretch is the lower part, if more of it may be elsewhere."""
    gap = stretch.gap
    if gap is None or stretch.low != bottom_of(gap):
        return None
    # What others have that was said beside the room's first events may still be missing.
    return None if room.begins_in(gap) and room.gaps[gap] == in_gap(gap, 0) else gap


_filter_decoder = msgspec.json.Decoder(RoomEventFilter)


def parse_filter(filter_json: str | None) -> RoomEventFilter:
    """The RoomEventFilter of a query parameter. Raises 400."""
    return read_filter(_filter_decoder, filter_json) if filter_json else RoomEventFilter()
