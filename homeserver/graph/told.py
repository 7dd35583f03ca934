"""What other servers are told of a room's graph.

A server is told of rooms that its users are in, or were; of the events since or before, by the rule about
history, which holds for a server as for the users that it has. What it may not see is part of the graph all
the same: it is handed over as a redaction would leave it. Rejected events are shown to nobody.

spec: server-server "Backfilling and retrieving missing events", "Retrieving events", "PDUs"
"""

from collections.abc import Collection as Items
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import orjson

from homeserver.errors import MatrixError, forbidden, not_found
from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.states import States, UnknownState
from homeserver.protocol.event_auth import create_event_id
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.protocol.signing import encode_event
from homeserver.protocol.state_resolution import StateKey
from homeserver.protocol.visibility import View, may_see, parse_visibility, strongest_membership
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.heroes import heroes, is_nameless
from homeserver.rooms.room import VISIBILITY, Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import members_from, server_acl
from homeserver.rooms.stripped import STRIPPED_TYPES
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.users.accounts import Accounts
from storage.collection import Collection
from storage.log import Kind
from storage.records.side_events import OUTLIER, REJECTED, SideEvent

MEMBER = "m.room.member"
MAX_BACKFILLED = 100
MAX_MISSING = 20
AT_ONCE = 500
"""Events read in one go."""

Differing = Mapping[StateKey, JsonObject]
"""Keys under which a state is not what another one is, and the content that is there."""


class ToldEvent(NamedTuple):
    """An event as it is stored now, and where."""

    event_id: str
    pdu: JsonObject
    body: bytes
    position: int | None
    """In the room's timeline; None beside it."""
    setting: str | None = None
    """See `EventMeta`."""
    newcomers: Sequence[str] = ()
    """See `EventMeta`."""


class _Sight(NamedTuple):
    """What a server sees of a room."""

    room: Room
    lines: Sequence[SightLine] | None
    """Of its users; None: everything."""
    is_in: bool

    def sees(self, event: ToldEvent) -> bool:
        """Of events beside the timeline see `ToldGraph._seen_beside`."""
        if self.lines is None:
            return True
        position = event.position
        return position is not None and any(
            line.sees_position(position, event.setting, event.newcomers) for line in self.lines
        )


class ToldGraph:
    """Answers about events for other servers, as JSON."""

    def __init__(
        self,
        rooms: Rooms,
        events: GraphEvents,
        states: States,
        side_events: Collection[SideEvent],
        visibility: Visibility,
        accounts: Accounts,
    ) -> None:
        self._rooms = rooms
        self._events = events
        self._states = states
        self._side = side_events
        self._visibility = visibility
        self._accounts = accounts

    async def event(self, event_id: str, server: str) -> bytes:
        """An event of whichever room. Raises 404, and 403 if the server is told nothing of that room."""
        entry = await self._rooms.log.find_event(event_id)
        if entry is None or entry.kind is not Kind.EVENT:
            return await self._event_beside(event_id, server)
        sight = await self._sight(entry.stream, server)
        return (await self._shown(sight, await self._read(sight.room, [event_id])))[0]

    async def _event_beside(self, event_id: str, server: str) -> bytes:
        """A state event that has no place in the timeline of its room: states and auth chains name them."""
        for side in await self._side.find("by_event", (event_id,), limit=1):
            sight = await self._sight(side.room_id, server)
            found = await self._read(sight.room, [event_id])
            if sight.is_in and found and "state_key" in found[0].pdu:
                return found[0].body
        raise not_found("There is no such event")

    async def state(self, room_id: str, event_id: str, server: str) -> tuple[list[bytes], list[bytes]]:
        """The state before an event and its auth chain. Raises 403, 404."""
        sight, state, chain = await self._state(room_id, event_id, server)
        return [event.body for event in await self._read(sight.room, state)], [event.body for event in chain]

    async def state_ids(self, room_id: str, event_id: str, server: str) -> tuple[list[str], list[str]]:
        """The same, by ids."""
        _, state, chain = await self._state(room_id, event_id, server)
        return state, [event.event_id for event in chain]

    async def joined(
        self, room: Room, event_id: str, *, omit_members: bool
    ) -> tuple[list[bytes], list[bytes]]:
        """For the server whose user joined by this event: the state before it, and what both rest on.

        With `omit_members` the state is without its members, but for those after whom the room is called, and
        what is in the state is not told again.
        """
        known = (await self._events.get_many(room, [event_id]))[event_id]
        before = await self._states.before(room, known)
        if omit_members:
            naming = heroes(room, known.event.sender) if is_nameless(room) else ()
            wanted = [each for (type, key), each in before.items() if type != MEMBER or key in naming]
        else:
            wanted = list(before.values())
        state = await self._read(room, wanted)
        chain = await self._chain(room, [*state, *(await self._read(room, [event_id]))])
        if omit_members:
            told = set(wanted)
            chain = [event for event in chain if event.event_id not in told]
        return [event.body for event in state], [event.body for event in chain]

    async def face(self, room: Room, *members: str) -> list[bytes]:
        """For a server outside: what the room looks like from there, and some of its members."""
        keys = [*((type, "") for type in STRIPPED_TYPES), *((MEMBER, user_id) for user_id in members)]
        shown = [event.event_id for key in keys if (event := room.head.state.get(key)) is not None]
        return [event.body for event in await self._read(room, shown)]

    async def auth_chain(self, room_id: str, event_id: str, server: str) -> list[bytes]:
        """What an event rests on, by way of `auth_events`. Raises 403, 404."""
        sight, event = await self._told_of(room_id, event_id, server)
        return [each.body for each in await self._chain(sight.room, [event])]

    async def backfill(
        self, room_id: str, event_ids: Sequence[str], server: str, *, limit: int
    ) -> list[bytes]:
        """Events and those before them, the newest first. Raises 403; unknown events are passed over."""
        sight = await self._sight(room_id, server)
        start = await self._read(sight.room, event_ids[:MAX_BACKFILLED])
        found = await self._behind(sight.room, start, limit=min(limit, MAX_BACKFILLED))
        return await self._shown(sight, found)

    async def missing(
        self,
        room_id: str,
        server: str,
        *,
        latest: Sequence[str],
        earliest: Sequence[str],
        min_depth: int,
        limit: int,
    ) -> list[bytes]:
        """Events before the latest that are not the earliest, the oldest first. Raises 403."""
        sight = await self._sight(room_id, server)
        start = await self._read(sight.room, latest[:MAX_MISSING])
        known = {*earliest, *latest}
        limit = min(limit, MAX_MISSING)
        # Who asks wants to know the state before each, which of outliers nobody is told here.
        found = await self._behind(
            sight.room, start, limit=limit + len(start), stop=known, withheld=(OUTLIER, REJECTED)
        )
        between = [event for event in found if event.event_id not in known and _depth(event.pdu) >= min_depth]
        return await self._shown(sight, between[:limit][::-1])

    async def near_time(self, room_id: str, server: str, *, ts: int, forwards: bool) -> JsonObject:
        """The id and time of the event closest to a time, on one side of it. Raises 403, 404."""
        sight = await self._sight(room_id, server)
        room = sight.room
        entry = await self._rooms.log.near_time(room.shard, room_id, ts, forwards=forwards)
        found = await self._read(room, [entry.event_id or ""]) if entry is not None else []
        if not found or not (sight.is_in or sight.sees(found[0])):
            raise not_found("There is no event on that side of that time")
        (event,) = found
        return {"event_id": event.event_id, "origin_server_ts": event.pdu["origin_server_ts"]}

    # Who is told

    async def _sight(self, room_id: str, server: str) -> _Sight:
        """Raises 403 for a server that no user is in the room from, and none has been."""
        room = await self._rooms.get(room_id)
        if room is not None and server not in room.servers:
            # It may have come in by way of another replica just now.
            await self._rooms.catch_up(room)
        if room is None or not server_acl(room).allows(server):
            raise _not_in_room()
        is_in = server in room.servers
        if is_in and (room.always_shared or room.partial is not None):
            return _Sight(room, None, is_in)
        lines = [await self._visibility.sight_line(room, each) for each in members_from(server, room)]
        if not any(line.ever_joined for line in lines):
            raise _not_in_room()
        return _Sight(room, lines, is_in)

    async def _told_of(self, room_id: str, event_id: str, server: str) -> tuple[_Sight, ToldEvent]:
        """An event of which the server is told what lies behind it. Raises 403, 404."""
        sight = await self._sight(room_id, server)
        found = await self._read(sight.room, [event_id])
        if not found:
            raise not_found("There is no such event")
        if not (sight.is_in or sight.sees(found[0])):
            raise _not_in_room()
        return sight, found[0]

    async def _shown(self, sight: _Sight, events: Sequence[ToldEvent]) -> list[bytes]:
        """The events as the server is to have them: some redacted."""
        senders = {event.pdu["sender"] for event in events}
        erased = await self._accounts.erased(filter(self._accounts.is_local, senders))
        version = sight.room.version
        seen = {event.event_id for event in events if sight.sees(event)}
        seen |= await self._seen_beside(sight, [event for event in events if event.event_id not in seen])
        return [
            event.body
            if event.event_id in seen and event.pdu["sender"] not in erased
            else encode_event(version, redact(version, event.pdu))
            for event in events
        ]

    async def _seen_beside(self, sight: _Sight, events: Sequence[ToldEvent]) -> set[str]:
        """Those of the events beside the timeline that are seen by the states before and after them."""
        lines = sight.lines or ()
        deciding = {VISIBILITY, *((MEMBER, line.user_id) for line in lines)}
        beside = [event.event_id for event in events if event.position is None]
        known = await self._events.get_many(sight.room, beside)
        differing = {
            event_id: {(type, key): other for type, key, other in event.delta if (type, key) in deciding}
            for event_id, event in known.items()
        }
        named = {other for delta in differing.values() for other in delta.values() if other is not None}
        others = await self._events.get_many(sight.room, named)
        seen = set()
        for event_id, delta in differing.items():
            before = {
                key: others[other].event.content if other in others else {} for key, other in delta.items()
            }
            if _is_seen_beside(lines, known[event_id], before):
                seen.add(event_id)
        return seen

    # The graph

    async def _state(
        self, room_id: str, event_id: str, server: str
    ) -> tuple[_Sight, list[str], list[ToldEvent]]:
        sight, _ = await self._told_of(room_id, event_id, server)
        if sight.room.partial is not None:
            raise not_found("The state of the room is not known here as a whole")
        known = (await self._events.get_many(sight.room, [event_id]))[event_id]
        try:
            state = list((await self._states.before(sight.room, known)).values())
        except UnknownState:
            raise not_found("The state at this event is not known here") from None
        return sight, state, await self._chain(sight.room, await self._read(sight.room, state))

    async def _chain(self, room: Room, events: Iterable[ToldEvent]) -> list[ToldEvent]:
        """What some events rest on, recursively."""
        chain: dict[str, ToldEvent] = {}
        wanted = {auth_id for event in events for auth_id in _auth_ids(room, event)}
        while wanted:
            found = await self._read(room, wanted)
            chain.update((event.event_id, event) for event in found)
            wanted = {auth_id for event in found for auth_id in _auth_ids(room, event)} - chain.keys()
        return list(chain.values())

    async def _behind(
        self,
        room: Room,
        start: Sequence[ToldEvent],
        *,
        limit: int,
        stop: Items[str] = (),
        withheld: Items[str] = (REJECTED,),
    ) -> list[ToldEvent]:
        """Events and those that they follow upon, the deepest first; nothing behind those in `stop`.

        `withheld`: see `_read`.
        """
        seen = {event.event_id: event for event in start}
        nearby = await self._before(room, start, limit)
        queue = [(-_depth(event.pdu), event.event_id) for event in start]
        heapify(queue)
        found: list[ToldEvent] = []
        while queue and len(found) < limit:
            _, event_id = heappop(queue)
            event = seen[event_id]
            found.append(event)
            behind = [each for each in _prev_ids(event) if each not in seen and each not in stop]
            known = [nearby[each] for each in behind if each in nearby]
            elsewhere = [each for each in behind if each not in nearby]
            read = await self._read(room, elsewhere, withheld=withheld) if elsewhere else ()
            for previous in (*known, *read):
                seen[previous.event_id] = previous
                heappush(queue, (-_depth(previous.pdu), previous.event_id))
        return found

    async def _before(self, room: Room, events: Sequence[ToldEvent], limit: int) -> dict[str, ToldEvent]:
        """The events next below some in the timeline: those behind them, where the room has no forks."""
        highest = max((event.position for event in events if event.position is not None), default=None)
        if highest is None:
            return {}
        page = await self._rooms.log.page(
            room.shard, room.room_id, kind=Kind.EVENT, before=highest, newest_first=True, limit=limit
        )
        return {
            entry.event_id: ToldEvent(entry.event_id, orjson.loads(entry.body), entry.body, entry.position)
            for entry in page
            if entry.event_id is not None
        }

    async def _read(
        self, room: Room, event_ids: Iterable[str], *, withheld: Items[str] = (REJECTED,)
    ) -> list[ToldEvent]:
        """Those of the events that are there, as they are stored now: with redactions.

        `withheld`: those beside the timeline that are left out.
        """
        wanted = list(dict.fromkeys(event_ids))
        found: dict[str, ToldEvent] = {}
        for first in range(0, len(wanted), AT_ONCE):
            some = wanted[first : first + AT_ONCE]
            for event_id, entry in (await self._rooms.log.by_event_id(room.shard, some)).items():
                if entry.stream == room.room_id:
                    meta = decode_meta(entry.meta)
                    found[event_id] = ToldEvent(
                        event_id,
                        orjson.loads(entry.body),
                        entry.body,
                        entry.position,
                        meta.setting,
                        meta.newcomers,
                    )
            beside = [(room.room_id, event_id) for event_id in some if event_id not in found]
            for side in await self._side.get_many(beside) if beside else ():
                if side.standing not in withheld:
                    found[side.event_id] = ToldEvent(side.event_id, orjson.loads(side.body), side.body, None)
        return [found[event_id] for event_id in wanted if event_id in found]


def _is_seen_beside(lines: Sequence[SightLine], known: KnownEvent, before: Differing) -> bool:
    """By the state before the event, which differs from that at its base in some keys, and that after it."""
    base = known.base
    if base is None:
        return False
    after = {**before, known.event.state_tuple: known.event.content} if known.adds_to_state else before
    later = any(line.joined_after(base) for line in lines)
    return may_see(_view(lines, base, before), _view(lines, base, after), joins_later=later)


def _view(lines: Sequence[SightLine], base: int, differing: Differing) -> View:
    """The setting and the strongest membership in the state at a position, but for some keys."""
    setting = lines[0].setting_at(base)
    if VISIBILITY in differing:
        setting = parse_visibility(differing[VISIBILITY].get("history_visibility"))
    memberships = [
        str(differing[key].get("membership"))
        if (key := (MEMBER, line.user_id)) in differing
        else line.membership_at(base)
        for line in lines
    ]
    return View(setting, strongest_membership(memberships))


def _prev_ids(event: ToldEvent) -> list[str]:
    return _ids(event.pdu["prev_events"])


def _auth_ids(room: Room, event: ToldEvent) -> list[str]:
    """What an event rests on, with the create event where that goes without saying."""
    named = _ids(event.pdu["auth_events"])
    if room.version.room_id_is_create_hash and event.pdu["type"] != "m.room.create":
        named.append(create_event_id(room.room_id))
    return named


def _ids(references: Sequence[str | Sequence[str]]) -> list[str]:
    """Event ids; the room versions that have no hashes for ids write the hash beside each."""
    return [reference if isinstance(reference, str) else reference[0] for reference in references]


def _depth(pdu: JsonObject) -> int:
    depth: int = pdu["depth"]
    return depth


def _not_in_room() -> MatrixError:
    return forbidden("Your server is not in this room")
