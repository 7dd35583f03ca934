"""Full text search through the events that a user may see (spec: client-server "Server Side Search").

The index gives the newest matches in the rooms that the user has been in; which of them the user may
see is decided event by event, as everywhere. One request takes `MAX_MATCHES` matches from the index,
and looks at `MAX_EXAMINED` of them; its token goes on from there.
"""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import msgspec
import orjson

from homeserver.bus.consumer import Consumer
from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.event_filter import RoomEventFilter
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.history import History
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.state_reader import StateReader
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.search.documents import KEYS, is_searched, text_of
from homeserver.search.words import highlights, wanted_words
from homeserver.since_tokens import encode_position
from homeserver.users.ignoring import ignored_by
from homeserver.users.sessions import Session
from homeserver.users.users import User, Users
from storage.log import Entry, Kind
from storage.search import SearchHit, SearchIndex, SearchQuery

DEFAULT_LIMIT = 10
MAX_LIMIT = 50
MAX_CONTEXT = 50
MAX_MATCHES = 1_000
MAX_EXAMINED = 500
EXAMINED_AT_ONCE = 50
MAX_ROOMS = 500
"""How many of a user's rooms are searched: those in which something happened last."""
MAX_TOKEN = 1_000
CATCH_UP_SECONDS = 1.0
SEARCHED_MEMBERSHIPS = ("join", "leave", "ban")


class EventContext(msgspec.Struct, frozen=True):
    before_limit: int = 5
    after_limit: int = 5
    include_profile: bool = False


class Group(msgspec.Struct, frozen=True):
    key: Literal["room_id", "sender"]


class Groupings(msgspec.Struct, frozen=True):
    group_by: Sequence[Group] = ()


class Criteria(msgspec.Struct, frozen=True):
    """What to look for among `room_events`."""

    search_term: str
    keys: Sequence[Literal["content.body", "content.name", "content.topic"]] | None = None
    filter: RoomEventFilter = RoomEventFilter()
    order_by: Literal["recent", "rank"] = "rank"
    event_context: EventContext | None = None
    include_state: bool = False
    groupings: Groupings = Groupings()


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far a search has come: what a token says."""

    count: int | None = None
    """How many results there were at first."""
    below: int | None = None
    """Matches of orders below this one count."""
    passed: int = 0
    """How many of those have been dealt with; only when they come by rank."""
    group: tuple[Literal["room_id", "sender"], str] | None = None
    """The matches of one group only."""


class Found(NamedTuple):
    hit: SearchHit
    room: Room
    line: SightLine
    event: RoomEvent


class Search:
    """Searches for local users."""

    def __init__(
        self,
        index: SearchIndex,
        filing: Consumer,
        rooms: Rooms,
        users: Users,
        visibility: Visibility,
        state: StateReader,
        history: History,
    ) -> None:
        self._index = index
        self._filing = filing
        self._rooms = rooms
        self._users = users
        self._visibility = visibility
        self._state = state
        self._history = history

    async def _catch_up(self) -> None:
        """Wait for what was sent a moment ago to be filed, but not for a long backlog."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                for shard in self._rooms.shards.room_shards():
                    await self._filing.settled(shard)

    async def room_events(self, session: Session, criteria: Criteria, token: str | None) -> JsonObject:
        """The results; events in it are `orjson.Fragment`s. Raises 400 for a token that is none."""
        cursor = _decode(token) if token else Cursor()
        if not token:
            await self._catch_up()
        user = await self._users.get(session.user_id)
        query = self._query(user, criteria, cursor)
        ranked = criteria.order_by == "rank"
        hits = await self._index.search(query, below=cursor.below, limit=MAX_MATCHES, ranked=ranked)
        walk = _Walk(self._rooms, self._visibility, user, criteria.filter, query)
        found, passed, visible = await walk.first(hits[cursor.passed :])
        # Matches that the user may not see are told neither by the count nor by a token for more.
        count = visible if cursor.count is None else cursor.count
        more = visible > len(found) or len(hits) - cursor.passed > MAX_EXAMINED
        texts = (text_of(each.event.type, each.event.content) for each in found)
        answer: JsonObject = {
            "count": count,
            "highlights": highlights(criteria.search_term, texts),
            "results": [await self._result(session, criteria, each) for each in found],
        }
        following: Cursor | None = None
        if ranked and more:
            bound = cursor.below or max(hit.order for hit in hits) + 1
            following = Cursor(count, bound, cursor.passed + passed, cursor.group)
        elif not ranked and (more or len(hits) == MAX_MATCHES):
            following = Cursor(count, hits[passed - 1].order, 0, cursor.group)
        if following is not None:
            answer["next_batch"] = _encode(following)
        if criteria.groupings.group_by:
            answer["groups"] = {
                group.key: _groups(group.key, found, following, walk) for group in criteria.groupings.group_by
            }
        if criteria.include_state:
            answer["state"] = {
                room_id: orjson.Fragment(await self._state.state(room_id, session.user_id))
                for room_id in {each.room.room_id for each in found}
            }
        return answer

    def _query(self, user: User, criteria: Criteria, cursor: Cursor) -> SearchQuery:
        wanted = criteria.filter
        rooms = [
            room_id
            for room_id, ref in user.memberships.items()
            if ref.membership in SEARCHED_MEMBERSHIPS
            and wanted.allows_room(room_id)
            and not user.has_forgotten(room_id)
        ]
        rooms.sort(key=lambda room_id: -self._rooms.activity.get(room_id, 0))
        senders = wanted.senders
        if cursor.group is not None:
            key, value = cursor.group
            if key == "room_id":
                rooms = [value] if value in rooms else []
            else:
                senders = [value] if senders is None or value in senders else []
        return SearchQuery(
            words=wanted_words(criteria.search_term),
            rooms=rooms[:MAX_ROOMS],
            keys=KEYS if criteria.keys is None else criteria.keys,
            senders=senders,
            not_senders=wanted.not_senders,
        )

    # One result

    async def _result(self, session: Session, criteria: Criteria, found: Found) -> JsonObject:
        rendered = await self._history.render(found.room, [found.event], session, found.line)
        result: JsonObject = {"rank": found.hit.score, "result": orjson.Fragment(rendered[0])}
        if criteria.event_context is not None:
            result["context"] = await self._context(session, criteria.event_context, found)
        return result

    async def _context(self, session: Session, wanted: EventContext, found: Found) -> JsonObject:
        """The events around a result that the user may see."""
        room, line, event = found.room, found.line, found.event
        before = await self._around(room, event.position, wanted.before_limit, newest_first=True)
        after = await self._around(room, event.position, wanted.after_limit, newest_first=False)
        context: JsonObject = {
            "start": encode_position((before[-1] if before else event).position - 1),
            "end": encode_position((after[-1] if after else event).position),
        }
        before = await self._history.shown(room, before, session.user_id, line)
        after = await self._history.shown(room, after, session.user_id, line)
        for name, events in (("events_before", before), ("events_after", after)):
            rendered = await self._history.render(room, events, session, line)
            context[name] = [orjson.Fragment(each) for each in rendered]
        if wanted.include_profile:
            senders = {each.sender for each in (event, *before, *after)}
            context["profile_info"] = await self._profiles(room, event, senders)
        return context

    async def _around(
        self, room: Room, position: int, limit: int, *, newest_first: bool
    ) -> Sequence[RoomEvent]:
        return await self._history.neighbours(room, position, min(limit, MAX_CONTEXT), backwards=newest_first)

    async def _profiles(self, room: Room, event: RoomEvent, senders: set[str]) -> JsonObject:
        """What the senders were called when the event was sent."""
        keys = [("m.room.member", sender) for sender in senders]
        refs = await self._rooms.log.current_at(room.shard, room.room_id, Kind.EVENT, event.position, keys)
        profiles: JsonObject = {sender: {} for sender in senders}
        for member in await self._rooms.stored.current(room.room_id, refs):
            content = member.content
            profiles[member.state_key or ""] = {
                key: content[key]
                for key in ("displayname", "avatar_url")
                if isinstance(content.get(key), str)
            }
        return profiles


class _Walk:
    """Goes through the hits of one request and keeps those that the user may see and wants."""

    def __init__(
        self, rooms: Rooms, visibility: Visibility, user: User, wanted: RoomEventFilter, query: SearchQuery
    ) -> None:
        self._rooms = rooms
        self._visibility = visibility
        self._user = user
        self._ignored = ignored_by(user)
        self._wanted = wanted
        self._query = query
        self._room_ids = frozenset(query.rooms)
        self._shards = sorted({rooms.shards.of_room(room_id) for room_id in query.rooms})
        self._views: dict[str, tuple[Room, SightLine]] = {}
        self.passed: dict[tuple[str, str], int] = {}
        """How many hits were dealt with of each (group key, group)."""

    async def first(self, hits: Sequence[SearchHit]) -> tuple[list[Found], int, int]:
        """The first visible ones, as many as the filter wants; how many hits that took; how many are
        visible in all, as far as was looked."""
        limit = self._wanted.limit if self._wanted.limit is not None else DEFAULT_LIMIT
        limit = max(1, min(limit, MAX_LIMIT))
        found: list[Found] = []
        passed = visible = 0
        examined = hits[:MAX_EXAMINED]
        for start in range(0, len(examined), EXAMINED_AT_ONCE):
            portion = examined[start : start + EXAMINED_AT_ONCE]
            entries = await self._entries(portion)
            for hit in portion:
                entry = entries.get(hit.event_id)
                wanted = len(found) < limit
                if wanted:
                    passed += 1
                    self._count(entry)
                if entry is None or (each := await self._visible(hit, entry)) is None:
                    continue
                visible += 1
                if wanted:
                    found.append(each)
        return found, passed, visible

    def _count(self, entry: Entry | None) -> None:
        if entry is not None:
            for group in (("room_id", entry.stream), ("sender", entry.sender or "")):
                self.passed[group] = self.passed.get(group, 0) + 1

    async def _entries(self, hits: Sequence[SearchHit]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for shard in self._shards:
            entries.update(await self._rooms.log.by_event_id(shard, [hit.event_id for hit in hits]))
        return entries

    async def _visible(self, hit: SearchHit, entry: Entry) -> Found | None:
        if entry.stream not in self._room_ids or entry.sender in self._ignored or not is_searched(entry):
            return None
        if not entry.body or decode_meta(entry.meta).redacted_by is not None:
            return None
        view = await self._view(entry.stream)
        if view is None:
            return None
        room, line = view
        (event,) = await self._rooms.stored.views(room.room_id, [entry])
        shown = await self._visibility.shown(room, line, [event])
        # Whoever sees only what is left of an erased event finds it by none of its words.
        wanted = shown == [event] and self._wanted.matches_event(event)
        return Found(hit, room, line, event) if wanted else None

    async def _view(self, room_id: str) -> tuple[Room, SightLine] | None:
        if room_id not in self._views:
            room = await self._rooms.get(room_id)
            if room is None:
                return None
            self._views[room_id] = room, await self._visibility.sight_line(room, self._user.user_id)
        return self._views[room_id]


def _groups(
    key: Literal["room_id", "sender"], found: Sequence[Found], following: Cursor | None, walk: _Walk
) -> JsonObject:
    """The results by room or by sender, each group with a token for more of its own."""
    groups: JsonObject = {}
    for each in found:
        value = each.room.room_id if key == "room_id" else each.event.sender
        group = groups.setdefault(value, {"order": len(groups) + 1, "results": []})
        group["results"].append(each.event.event_id)
        if following is not None:
            passed = walk.passed[key, value] if following.passed else 0
            group["next_batch"] = _encode(Cursor(following.count, following.below, passed, (key, value)))
    return groups


_decoder = msgspec.json.Decoder(Cursor)


def _encode(cursor: Cursor) -> str:
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _decode(token: str) -> Cursor:
    try:
        if len(token) <= MAX_TOKEN:
            cursor = _decoder.decode(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            if cursor.passed >= 0:
                return cursor
    except ValueError as error:
        raise invalid_param("next_batch: not a token of a search") from error
    raise invalid_param("next_batch: not a token of a search")
