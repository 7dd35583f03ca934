"""One room of a sliding-sync answer (MSC4186 "Room results"), as JSON bytes."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from homeserver.clock import Clock
from homeserver.push.unread import Unread
from homeserver.rooms.bundling import Bundling
from homeserver.rooms.event_filter import RoomEventFilter
from homeserver.rooms.heroes import heroes
from homeserver.rooms.outline import Outline
from homeserver.rooms.rendering import Reader, render_events
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.stripped import stripped_state
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.since_tokens import encode_position
from homeserver.sync.sliding.lists import bump_stamp
from homeserver.sync.sliding.request import MAX_TIMELINE, RoomConfig, StatePatterns
from homeserver.sync.timeline import TimelineSlice, newest_events
from homeserver.users.users import MembershipRef, User
from storage.records.sliding_sync import SentRoom

EVERYTHING = RoomEventFilter()
SHOWN_TYPES = frozenset({"m.room.name", "m.room.avatar", "m.room.member", "m.room.canonical_alias"})


class Wish:
    """What all lists and subscriptions that show a room want of it; the same for all rooms that they show."""

    def __init__(self, user_id: str, configs: Sequence[RoomConfig]) -> None:
        self.patterns = StatePatterns(user_id)
        for config in configs:
            self.patterns.add(config.required_state)
        self.signature = self.patterns.signature()
        self.timeline_limit = min(max(config.timeline_limit for config in configs), MAX_TIMELINE)
        self.include_heroes = any(config.include_heroes for config in configs)


class Had(NamedTuple):
    """What the client has of a room that it follows."""

    sent: SentRoom
    upto: int
    members: frozenset[str]
    """Users whose member events were sent because of lazy loading."""

    def is_all(self, room: Room | Outline, wish: Wish, upto: int, *, direct: bool) -> bool:
        """Whether that is all that is wanted of the room as it is at `upto`."""
        return (
            self.upto >= min(room.last_seq, upto)
            and self.sent.timeline_limit >= wish.timeline_limit
            and self.sent.state == wish.signature
            and self.sent.direct == direct
        )


class RoomSections:
    """Makes room results."""

    def __init__(
        self,
        rooms: Rooms,
        visibility: Visibility,
        bundling: Bundling,
        unread: Unread,
        now: Clock,
    ) -> None:
        self._rooms = rooms
        self._visibility = visibility
        self._bundling = bundling
        self._unread = unread
        self._now = now

    async def joined(
        self,
        user: User,
        reader: Reader,
        room: Room,
        ref: MembershipRef,
        wish: Wish,
        had: Had | None,
        upto: int,
        *,
        direct: bool,
    ) -> tuple[bytes | None, SentRoom, frozenset[str]]:
        """(the result or None when there is nothing new, what the client has of the room then, members).

        With events up to `upto`. Of state the newest is shown: it may be shown again. `direct`: whether it is
        a direct chat to the user.
        """
        initial = had is None
        after = 0 if had is None else had.upto
        more_timeline = had is not None and had.sent.timeline_limit < wish.timeline_limit
        other_state = had is not None and had.sent.state != wish.signature
        limit = max(wish.timeline_limit, had.sent.timeline_limit if had else 0)
        sent = SentRoom(limit, wish.signature, direct=direct)
        direct_is_news = direct != (had is not None and had.sent.direct)
        known = frozenset() if had is None else had.members
        grown = more_timeline or other_state
        timeline = await self._timeline(room, 0 if more_timeline else after, upto, wish, initial=initial)
        events = timeline.events
        line: SightLine | None = None
        is_newcomer = any(user.user_id in event.newcomers for event in events)
        if events and (events[0].position < ref.since or is_newcomer):
            # From when the user was not, or not for certain, in the room.
            line = await self._visibility.sight_line(room, user.user_id)
            events = await self._visibility.shown(room, line, events)
        events = [e for e in events if e.sender not in reader.ignored or e.state_key is not None]
        state, members = self._state(room, wish.patterns, events, known, 0 if other_state else after)
        changed = [event for event in room.head.state.values() if event.position > after] if after else None
        parts = self._face(user, room, wish, changed)
        if direct_is_news:
            parts.append(b'"is_dm":' + orjson.dumps(direct))
        own_receipt = room.receipt_seqs.get(user.user_id, 0) > after
        if not (initial or grown or events or timeline.limited or state or parts or own_receipt):
            return None, sent, members
        if initial:
            parts.append(b'"initial":true')
        if more_timeline:
            parts.append(b'"unstable_expanded_timeline":true')
        if state:
            parts.append(b'"required_state":[' + b",".join(e.render(self._now()) for e in state) + b"]")
        if events:
            live = sum(event.position > after for event in events) if after else 0
            parts.append(await self._timeline_json(user, reader, room, timeline, events, line))
            parts.append(b'"num_live":%d' % live)
        elif timeline.limited:
            # There is something below what the user is not shown, or was not asked for.
            parts.append(b'"limited":true,"prev_batch":"%b"' % encode_position(timeline.start).encode())
        unread = (await self._unread.counts(user, room)).total()
        parts.append(
            b'"notification_count":%d,"highlight_count":%d,"joined_count":%d,"invited_count":%d,"bump_stamp":%d'
            % (
                unread.notifications,
                unread.highlights,
                len(room.joined),
                len(room.invited),
                bump_stamp((room, ref)),
            )
        )
        return b"{" + b",".join(parts) + b"}", sent, members

    def invited(self, user: User, room: Room, ref: MembershipRef, *, direct: bool) -> bytes:
        """An invite or a knock: stripped state only."""
        events = b",".join(stripped_state(room, user.user_id))
        parts = [
            b'"initial":true',
            b'"invite_state":[' + events + b"]",
            b'"stripped_state":[' + events + b"]",
            b'"membership":' + orjson.dumps(ref.membership),
            b'"joined_count":%d,"invited_count":%d,"bump_stamp":%d'
            % (len(room.joined), len(room.invited), bump_stamp((room, ref))),
            *self._face(user, room, None, None),
        ]
        if direct:
            parts.append(b'"is_dm":true')
        return b"{" + b",".join(parts) + b"}"

    def left(self, user: User, room: Room, ref: MembershipRef, *, live: bool) -> bytes:
        """A room that the user is out of: the member event that says so, which is `live` when it is news."""
        own = room.head.lookup("m.room.member", user.user_id)
        body = own.render(self._now(), membership=ref.membership) if own is not None else b""
        return b'{"required_state":[%b],"timeline":[%b],"num_live":%d,"membership":%b,"bump_stamp":%d}' % (
            body,
            body,
            live,
            orjson.dumps(ref.membership),
            bump_stamp((room, ref)),
        )

    async def _timeline(
        self, room: Room, after: int, upto: int, wish: Wish, *, initial: bool
    ) -> TimelineSlice:
        limit = wish.timeline_limit
        if limit == 0 and initial:
            return TimelineSlice([], True, upto)
        return await newest_events(
            self._rooms.stored, room, after=after, upto=upto, limit=max(limit, 1), wanted=EVERYTHING
        )

    async def _timeline_json(
        self,
        user: User,
        reader: Reader,
        room: Room,
        timeline: TimelineSlice,
        events: list[RoomEvent],
        line: SightLine | None,
    ) -> bytes:
        bundles = {}
        if timeline.limited:
            bundles = dict(
                await self._bundling.bundles(room, events, user.user_id, reader.ignored, line=line)
            )
        rendered = render_events(events, reader, self._now(), bundles, line)
        return b'"timeline":[%b],"limited":%b,"prev_batch":"%b"' % (
            b",".join(rendered),
            b"true" if timeline.limited else b"false",
            encode_position(timeline.start).encode(),
        )

    def _state(
        self,
        room: Room,
        patterns: StatePatterns,
        events: Sequence[RoomEvent],
        known: frozenset[str],
        after: int,
    ) -> tuple[list[RoomEvent], frozenset[str]]:
        """(wanted state set after a position, users whose member events the client has by lazy loading)."""
        current = room.head.state
        if patterns.only_exact:
            wanted = [event for key in patterns.exact if (event := current.get(key)) is not None]
        else:
            wanted = [event for (type, key), event in current.items() if patterns.wants(type, key)]
        state = [event for event in wanted if event.position > after]
        if not patterns.lazy:
            return state, known
        needed = {event.sender for event in events} | {
            event.state_key or "" for event in events if event.type == "m.room.member"
        }
        members = known | needed
        have = {event.state_key for event in state if event.type == "m.room.member"}
        for user_id in members:
            event = current.get(("m.room.member", user_id))
            if event is None or user_id in have:
                continue
            if user_id not in known or event.position > after:
                state.append(event)
        return state, members

    def _face(
        self, user: User, room: Room, wish: Wish | None, changed: Sequence[RoomEvent] | None
    ) -> list[bytes]:
        """Name, avatar, heroes: all at first, later only when something of it changed; null: taken away."""
        types = {event.type for event in changed} if changed is not None else SHOWN_TYPES
        if types.isdisjoint(SHOWN_TYPES):
            return []
        shown: dict[str, object] = {}
        for field, type, key in (("name", "m.room.name", "name"), ("avatar", "m.room.avatar", "url")):
            value = room.state_content(type).get(key)
            if isinstance(value, str) and value:
                shown[field] = value
            elif changed is not None and type in types:
                shown[field] = None
        if shown.get("name") is None or (wish is not None and wish.include_heroes):
            shown["heroes"] = [_hero(room, user_id) for user_id in heroes(room, user.user_id)]
        return [orjson.dumps(shown)[1:-1]] if shown else []


def _hero(room: Room, user_id: str) -> dict[str, str]:
    content = room.state_content("m.room.member", user_id)
    shown = {
        "user_id": user_id,
        "displayname": content.get("displayname"),
        "avatar_url": content.get("avatar_url"),
    }
    return {key: value for key, value in shown.items() if isinstance(value, str)}
