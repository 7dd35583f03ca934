"""/sync: everything that a device has not seen yet (spec: client-server "Syncing").

An answer covers what lies between two vectors of positions: the client's since-token and where this
process is now. Rooms in memory answer without a read; a poll with nothing to show waits as one
future in `LongPolls`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import msgspec
import orjson

from homeserver.bus.bus import POSITIONS_PER_MS
from homeserver.bus.replica import Replica
from homeserver.clock import Clock
from homeserver.push.unread import Counts, Unread
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.bundling import Bundling
from homeserver.rooms.ephemeral import EphemeralClock, Typing
from homeserver.rooms.heroes import heroes, is_nameless
from homeserver.rooms.past_state import state_at
from homeserver.rooms.rendering import Reader, render_events
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.stripped import stripped_state
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.since_tokens import SyncToken, decode_since, decode_sync_token
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.filter import EVERYTHING, Filter
from homeserver.sync.long_polls import LongPolls
from homeserver.sync.room_section import (
    NOTHING_ELSE,
    NewMessages,
    Shared,
    Timeline,
    events_object,
    is_only_messages,
    receipts_event,
    senders_of,
    timeline_json,
)
from homeserver.sync.state_delta import (
    KnownMembers,
    is_in_force,
    lazy_members,
    state_since,
    with_unshown,
)
from homeserver.sync.timeline import TimelineSlice, newest_events
from homeserver.sync.to_device import ToDeviceQueue
from homeserver.users.account_data import AccountData
from homeserver.users.ignoring import ignored_by
from homeserver.users.invite_permission import blocks_invites
from homeserver.users.users import MembershipRef, User, Users

DEFAULT_LIMIT = 10
ROOMS_AT_ONCE = 50
"""How many rooms of an answer are written before others have their turn."""
MAX_TIMEOUT_MS = 10 * 60 * 1000
AHEAD_MS = 60_000
"""How far ahead of this one the clocks of other replicas and of the broker may be."""


class SyncRequest(msgspec.Struct, frozen=True):
    """A parsed /sync request; times in ms."""

    since: str | None = None
    timeout: int = 0
    full_state: bool = False
    use_state_after: bool = False
    filter: Filter = EVERYTHING


class KeyCounts(msgspec.Struct, frozen=True):
    """One-time keys left by algorithm, and algorithms with an unused fallback key."""

    one_time: dict[str, int] = {}
    unused_fallback: Sequence[str] = ()


class DeviceKeyCounts(Protocol):
    async def counts(self, user_id: str, device_id: str) -> KeyCounts: ...


class PresenceUpdates(Protocol):
    def events(
        self, user: User, after: int, wanted: "Wanted", *, joined: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """`m.presence` events of users who share a room with `user`, changed after an ephemeral number.

        With `after` 0, all who are not offline; `wanted` is asked about user ids. Of rooms that the user has
        `joined` since, all who are known.
        """
        ...


class SyncEngine:
    """Answers /sync for all devices of all local users."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        users: Users,
        long_polls: LongPolls,
        visibility: Visibility,
        typing: Typing,
        ephemeral: EphemeralClock,
        to_device: ToDeviceQueue,
        device_lists: DeviceLists,
        key_counts: DeviceKeyCounts,
        unread: Unread,
        presence: PresenceUpdates,
        account_data: AccountData,
        bundling: Bundling,
        replica: Replica,
        epoch: str,
        now: Clock,
        max_timeline: int,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._long_polls = long_polls
        self._visibility = visibility
        self._typing = typing
        self._ephemeral = ephemeral
        self._device_lists = device_lists
        self._key_counts = key_counts
        self._unread = unread
        self._presence = presence
        self._account_data = account_data
        self._bundling = bundling
        self._replica = replica
        self._epoch = epoch
        self._now = now
        self._max_timeline = max_timeline
        self.to_device = to_device
        self.known_members = KnownMembers()

    # Tokens

    def position(self, user: User, since: SyncToken | None = None) -> SyncToken:
        """Where this process is now, for a user.

        What another replica has told the client of everything ephemeral up to `since` is not told again.
        """
        ephemeral = self._ephemeral.now
        if since is not None and since.ephemeral > ephemeral:
            ephemeral = since.ephemeral
        return SyncToken(self._users.writers[user.shard].tail, ephemeral, self._rooms.tails())

    def decode(self, token: str) -> SyncToken:
        return self.in_time(decode_sync_token(token, self._epoch, self._rooms.shards.rooms))

    def _since(self, token: str) -> SyncToken:
        return self.in_time(decode_since(token, self._epoch, self._rooms.shards.rooms))

    def in_time(self, since: SyncToken) -> SyncToken:
        """The token, beginning anew with everything ephemeral where it is ahead of all clocks."""
        ephemeral = since.ephemeral
        if ephemeral > self._ephemeral.now and ephemeral > (self._now() + AHEAD_MS) * POSITIONS_PER_MS:
            # By a clock that was wrong: it would hide what happens until that time has come.
            since = since._replace(ephemeral=0)
        return since

    async def follow(self, user_id: str, since: SyncToken | None) -> None:
        """Have this replica know what the client has seen, or all that there is before a first sync."""
        if not self._replica.shared:
            return
        shards = self._rooms.shards
        if since is None:
            await self._replica.refresh((*shards.room_shards(), shards.of_user(user_id)))
        else:
            tails = dict(zip(shards.room_shards(), since.rooms, strict=True))
            await self._replica.reach({**tails, shards.of_user(user_id): since.user})

    # The poll

    async def sync(self, user_id: str, device_id: str, request: SyncRequest) -> bytes:
        """The answer as JSON bytes; waits up to the request's timeout for something to show."""
        since = self._since(request.since) if request.since else None
        await self.follow(user_id, since)
        user = await self._users.get(user_id)
        if since is not None:
            self.to_device.acknowledge(user, device_id, since.user)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(request.timeout, 0), MAX_TIMEOUT_MS) / 1000
        while True:
            upto = self.position(user, since)
            if since != upto or request.full_state:
                answer, something = await self._answer(user, device_id, since, upto, request)
                if something or since is None or request.full_state or loop.time() >= deadline:
                    return answer
                since = upto
            elif loop.time() >= deadline:
                return await self._nothing_new(user_id, device_id, upto)
            else:
                del user
                if not await self._long_polls.wait(user_id, device_id, deadline - loop.time()):
                    deadline = loop.time()
            user = await self._users.get(user_id)

    async def _nothing_new(self, user_id: str, device_id: str, upto: SyncToken) -> bytes:
        """The answer to a client that has everything up to where this process is now."""
        return b"{%b,%b}" % (self._next_batch(upto), await self._keys_left(user_id, device_id))

    def _next_batch(self, upto: SyncToken) -> bytes:
        return b'"next_batch":"%b"' % upto.encode(self._epoch).encode()

    async def _keys_left(self, user_id: str, device_id: str) -> bytes:
        keys = await self._key_counts.counts(user_id, device_id)
        return b'"device_one_time_keys_count":%b,"device_unused_fallback_key_types":%b' % (
            orjson.dumps(keys.one_time),
            orjson.dumps(keys.unused_fallback),
        )

    async def _answer(
        self, user: User, device_id: str, since: SyncToken | None, upto: SyncToken, request: SyncRequest
    ) -> tuple[bytes, bool]:
        """(answer, whether it shows anything new)."""
        messages, reached = await self.to_device.waiting(
            user, device_id, since.user if since else 0, upto.user
        )
        if reached != upto.user:
            upto = upto._replace(user=reached)
        builder = _Answer(self, user, device_id, since, upto, request)
        sections = await builder.room_sections()
        account_data = builder.account_data("", request.filter.account_data.matches)
        parts = [self._next_batch(upto)]
        if sections:
            parts.append(b'"rooms":{' + b",".join(sections) + b"}")
        if account_data:
            parts.append(b'"account_data":' + events_object(account_data))
        presence = self._presence.events(
            user, since.ephemeral if since else 0, builder.wants_presence_of, joined=builder.joined
        )
        if presence:
            parts.append(b'"presence":' + events_object(presence))
        if messages:
            parts.append(b'"to_device":' + events_object(messages))
        lists = None
        if since is not None:
            lists = await self._device_lists.since(user, since, upto)
            if lists:
                shown = {"changed": sorted(lists.changed), "left": sorted(lists.left)}
                parts.append(b'"device_lists":' + orjson.dumps(shown))
        parts.append(await self._keys_left(user.user_id, device_id))
        something = bool(sections or account_data or presence or messages or lists)
        return b"{" + b",".join(parts) + b"}", something


class _Answer:
    """One answer in the making: what all its room sections have in common."""

    def __init__(
        self,
        engine: SyncEngine,
        user: User,
        device_id: str,
        since: SyncToken | None,
        upto: SyncToken,
        request: SyncRequest,
    ) -> None:
        self._engine = engine
        self._rooms = engine._rooms
        self._user = user
        self._device_id = device_id
        self._since = since
        self._upto = upto
        self._request = request
        self._filter = request.filter.room
        self._now = engine._now()
        self._reader = Reader(user.user_id, device_id, ignored_by(user))
        limit = self._filter.timeline.limit
        self._limit = DEFAULT_LIMIT if limit is None else max(0, min(limit, engine._max_timeline))
        self._chain = 0
        if self._filter.state.lazy_load_members:
            began = None if request.full_state else since
            self._chain = engine.known_members.follow(user.user_id, device_id, began, upto)
        self._changed_account_data = self._rooms_with_account_data()
        self.joined: set[str] = set()
        """Rooms told of that the user has joined since."""

    async def room_sections(self) -> list[bytes]:
        """The members of `rooms`: join, invite, knock, leave, each only when not empty."""
        by_kind: dict[str, list[bytes]] = {}
        looked_at = 0
        for room_id, ref in list(self._user.memberships.items()):
            if self._is_quiet(room_id) or not self._filter.allows_room(room_id):
                continue
            with LeftOutIfBroken(room_id):
                kind = await self._kind(room_id, ref)
                section = await self._section(room_id, ref, kind)
                if section is not None:
                    by_kind.setdefault(kind, []).append(orjson.dumps(room_id) + b":" + section)
            looked_at += 1
            if looked_at % ROOMS_AT_ONCE == 0:
                # Of rooms in memory nothing need be waited for, and others would wait for all of them.
                await asyncio.sleep(0)
        return [b'"%b":{%b}' % (kind.encode(), b",".join(sections)) for kind, sections in by_kind.items()]

    async def _kind(self, room_id: str, ref: MembershipRef) -> str:
        """Which member of `rooms` a room comes under: join as well where the user left later than is told."""
        if ref.membership in ("join", "invite", "knock"):
            return ref.membership
        upto = self._upto.rooms[self._rooms.shards.of_room(room_id)]
        if ref.position > upto and (room := await self._rooms.get(room_id)) is not None:
            sight = await self._engine._visibility.sight_line(room, self._user.user_id)
            if sight.membership_at(upto) == "join":
                return "join"
        return "leave"

    async def _section(self, room_id: str, ref: MembershipRef, kind: str) -> bytes | None:
        if kind == "join":
            return await self._joined(room_id, ref)
        if kind == "leave":
            return await self._left(room_id, ref)
        return await self._invited(room_id, ref, kind)

    def wants_presence_of(self, user_id: str) -> bool:
        wanted = self._request.filter.presence
        return user_id not in self._reader.ignored and wanted.matches("m.presence", user_id)

    # Account data

    def _rooms_with_account_data(self) -> set[str]:
        after = self._since.user if self._since else 0
        # At first there is some global data for everyone.
        changed = {""} if self._since is None else set()
        if self._user.account_data_seq > after:
            changed.update(
                room_id
                for (room_id, _), datum in self._user.account_data.items()
                if after < datum.seq <= self._upto.user
            )
        return changed

    def account_data(self, room_id: str, wanted: "Wanted", *, whole: bool = False) -> list[bytes]:
        """Account data events of a room ("": global): those that changed, or the `whole` of them."""
        if not whole and room_id not in self._changed_account_data:
            return []
        after = None if self._since is None else 0 if whole else self._since.user
        changes = self._engine._account_data.changes(self._user, room_id, after, self._upto.user)
        return [
            b'{"type":' + orjson.dumps(type) + b',"content":' + content + b"}"
            for type, content in changes
            if wanted(type)
        ]

    def _room_account_data(self, room_id: str, *, whole: bool = False) -> list[bytes]:
        wanted = self._filter.account_data
        if not wanted.allows_room(room_id):
            return []
        return self.account_data(room_id, wanted.matches, whole=whole)

    # Joined rooms

    def _is_quiet(self, room_id: str) -> bool:
        """Whether it is known, without loading the room, that there is nothing new of it."""
        since = self._since
        if since is None or self._request.full_state or room_id in self._changed_account_data:
            return False
        if self._engine._typing.changed.get(room_id, 0) > since.ephemeral:
            return False
        shard = self._rooms.shards.of_room(room_id)
        last = self._rooms.activity.get(room_id, self._rooms.started_at[shard])
        return last <= since.rooms[shard]

    async def _joined(self, room_id: str, ref: MembershipRef) -> bytes | None:
        shard = self._rooms.shards.of_room(room_id)
        since, upto = self._since, self._upto.rooms[shard]
        after = since.rooms[shard] if since is not None else 0
        full = since is None or self._request.full_state
        typing = since is not None and self._engine._typing.changed.get(room_id, 0) > since.ephemeral
        quiet = not full and not typing and room_id not in self._changed_account_data
        room = await self._rooms.get(room_id)
        if room is None or (quiet and room.last_seq <= after):
            return None
        if quiet and ref.since <= after and (messages := await self._new_messages(room, after, upto)):
            wanted = self._filter.state
            are_told = wanted.lazy_load_members and wanted.allows_room(room_id)
            return b"{%b,%b,%b,%b}" % (
                messages.shared.json,
                self._state_json(self._told_state(room, (), messages.senders if are_told else ())),
                NOTHING_ELSE,
                await self._unread_json(room),
            )
        new = since is None
        known = after if since is not None else None
        sight: SightLine | None = None
        if since is not None and ref.since > after:
            # Joined since then; or was joined all along, and has only changed the profile.
            sight = await self._engine._visibility.sight_line(room, self._user.user_id)
            known = after if sight.membership_at(after) == "join" else None
            new = known is None or sight.left_between(after, upto)
            if new:
                self.joined.add(room_id)
        timeline = await self._timeline(room, 0 if new else after, upto)
        if new and since is not None:
            # What the client may have from an earlier membership does not join on to this.
            timeline = Timeline(timeline.slice._replace(limited=True))
        is_newcomer = self._user.user_id in timeline.newcomers
        if not timeline.events or (timeline.events[0].position >= ref.since and not is_newcomer):
            sight = None
        elif sight is None:
            # From when the user was not, or not for certain, in the room.
            sight = await self._engine._visibility.sight_line(room, self._user.user_id)
        events, rendered = await self._render_timeline(room, timeline, sight)
        # Where state has changed with no event that is shown, the summary may be another.
        unseen = timeline.slice.limited or after < room.resolved_at <= upto
        with_summary = new or full or timeline.names or unseen or not self._filter.timeline.is_open
        named_after = heroes(room, self._user.user_id) if with_summary and is_nameless(room) else None
        state = await self._state(
            room, timeline.slice, events, after, upto, known, whole=new or full, named_after=named_after or ()
        )
        ephemeral = self._ephemeral(room, 0 if new else after, upto, new=new, typing=typing)
        account_data = self._room_account_data(room_id, whole=new)
        if not (events or state or ephemeral or account_data or new or full or unseen):
            return None
        parts = [
            rendered,
            self._state_json(state),
            b'"ephemeral":' + events_object(ephemeral),
            b'"account_data":' + events_object(account_data),
            await self._unread_json(room),
        ]
        if with_summary:
            parts.append(b'"summary":' + orjson.dumps(room_summary(room, named_after)))
        return b"{" + b",".join(parts) + b"}"

    def _state_json(self, state: Iterable[bytes]) -> bytes:
        return (b'"state_after":' if self._request.use_state_after else b'"state":') + events_object(state)

    async def _unread_json(self, room: Room) -> bytes:
        unread = await self._engine._unread.counts(self._user, room)
        by_thread = self._filter.timeline.unread_thread_notifications
        json = b'"unread_notifications":' + counts_json(unread.main() if by_thread else unread.total())
        threads = unread.apart() if by_thread else {}
        if threads:
            shown = (orjson.dumps(root) + b":" + counts_json(counts) for root, counts in threads.items())
            json += b',"unread_thread_notifications":{' + b",".join(shown) + b"}"
        return json

    async def _new_messages(self, room: Room, after: int, upto: int) -> NewMessages | None:
        """What is new since `after`, the same for all who were in the room; None if there is more to it."""
        wanted = self._filter.timeline
        if not wanted.is_open or not wanted.allows_room(room.room_id) or room.last_seq > upto:
            return None
        key = ("messages", after, self._limit)
        found = room.fragments.get(key, NewMessages)
        if found is not None and found.shared.is_told_at(self._now):
            return found if not found.timeline.is_special_to(self._reader) else None
        timeline = await self._timeline(room, after, upto)
        if timeline.is_special_to(self._reader) or not is_only_messages(room, timeline, after):
            return None
        _, rendered = await self._render_timeline(room, timeline, None)
        found = NewMessages(timeline, Shared(rendered, self._now), senders_of(room, timeline))
        if room.last_seq <= upto:
            room.fragments.keep(key, found, len(rendered))
        return found

    async def _timeline(self, room: Room, after: int, upto: int) -> Timeline:
        wanted = self._filter.timeline
        if not wanted.allows_room(room.room_id):
            return Timeline(TimelineSlice([], False, upto))
        if not wanted.is_open or room.last_seq > upto:
            return await self._own_timeline(room, after, upto)
        key = ("timeline", after, self._limit)
        found = room.fragments.get(key, Timeline)
        if found is None:
            # Whatever happened in other rooms, those who have the same of this one go on from the same event.
            boundary = room.boundary(after)
            found = room.fragments.get(("timeline", boundary, self._limit), Timeline)
            if found is None:
                found = await self._own_timeline(room, boundary, upto)
            if room.last_seq <= upto:
                size = sum(event.size() for event in found.events)
                room.fragments.keep(("timeline", boundary, self._limit), found, size)
                room.fragments.keep(key, found)
        return found

    async def _own_timeline(self, room: Room, after: int, upto: int) -> Timeline:
        return Timeline(
            await newest_events(
                self._rooms.stored,
                room,
                after=after,
                upto=upto,
                limit=self._limit,
                wanted=self._filter.timeline,
            )
        )

    async def _render_timeline(
        self, room: Room, timeline: Timeline, sight: SightLine | None
    ) -> tuple[list[RoomEvent], bytes]:
        """(events shown, `timeline` as JSON)."""
        events, ignored = timeline.events, self._reader.ignored
        plain = sight is None and not timeline.is_special_to(self._reader)
        if plain and (shared := timeline.shared(self._now)) is not None:
            return events, shared
        if sight is not None:
            seen = {e.event_id: e for e in await self._engine._visibility.shown(room, sight, events)}
            # What is in force is for members to know, whenever it was set.
            events = [seen.get(e.event_id, e) for e in events if e.event_id in seen or is_in_force(room, e)]
        if ignored:
            events = [e for e in events if e.sender not in ignored or e.state_key is not None]
        bundles: Mapping[str, bytes] = {}
        if timeline.slice.limited or self._since is None:
            bundles = await self._engine._bundling.bundles(
                room, events, self._user.user_id, ignored, line=sight
            )
        rendered = timeline_json(
            timeline.slice, render_events(events, self._reader, self._now, bundles, sight)
        )
        if plain and not bundles and not ignored:
            timeline.share(rendered, self._now)
        return events, rendered

    async def _state(
        self,
        room: Room,
        timeline: TimelineSlice,
        events: list[RoomEvent],
        after: int,
        upto: int,
        known: int | None,
        *,
        whole: bool,
        named_after: Sequence[str],
    ) -> list[bytes]:
        """State events; `known` is up to where the client has been told of the room, None for not at all."""
        wanted = self._filter.state
        if not wanted.allows_room(room.room_id):
            return []
        lazy = wanted.lazy_load_members
        state: Sequence[RoomEvent] = ()
        if self._request.use_state_after:
            state = list(room.head.state.values()) if whole else state_since(room, after, upto)
        else:
            start = timeline.start
            complete = self._filter.timeline.is_open and room.resolved_at <= start
            if whole and complete and not lazy and wanted.is_open and start < upto:
                return await self._shared_state(room, start)
            if whole or start > after:
                state = await state_at(
                    self._rooms.log, self._rooms.stored, room, start, after=None if whole else after
                )
            if not complete:
                state = with_unshown(state, room, events, start, upto)
        if lazy:
            needed = (*named_after, self._user.user_id) if whole else named_after
            others, members = lazy_members(room, state, events, needed, known)
            return self._told_state(room, others, members)
        return self._told_state(room, state, ())

    def _told_state(self, room: Room, state: Sequence[RoomEvent], lazily: Sequence[RoomEvent]) -> list[bytes]:
        """State events, and members that are told of once, as far as the filter lets them through."""
        wanted = self._filter.state
        told = [*state, *self._not_told_yet(room, lazily)]
        if not wanted.is_open:
            told = [event for event in told if wanted.matches_event(event)]
        return [event.render(self._now) for event in told]

    async def _shared_state(self, room: Room, start: int) -> list[bytes]:
        """All state below the timeline, the same for everyone who begins there."""
        key = ("state", start)
        shared = room.fragments.get(key, Shared)
        if shared is None or not shared.is_told_at(self._now):
            seen = room.last_seq
            state = await state_at(self._rooms.log, self._rooms.stored, room, start)
            shared = Shared(b",".join(event.render(self._now) for event in state), self._now)
            if room.last_seq == seen:
                room.fragments.keep(key, shared, len(shared.json))
        return [shared.json] if shared.json else []

    def _ephemeral(self, room: Room, after: int, upto: int, *, new: bool, typing: bool) -> list[bytes]:
        wanted = self._filter.ephemeral
        if not wanted.allows_room(room.room_id):
            return []
        events: list[bytes] = []
        receipts = receipts_event(room, after, upto, self._user.user_id)
        if receipts is not None and wanted.matches("m.receipt"):
            events.append(receipts)
        if wanted.matches("m.typing") and (typing or (new and self._engine._typing.users(room.room_id))):
            events.append(self._engine._typing.event(room.room_id))
        return events

    # Other rooms

    async def _invited(self, room_id: str, ref: MembershipRef, kind: str) -> bytes | None:
        shard = self._rooms.shards.of_room(room_id)
        after = self._since.rooms[shard] if self._since is not None else 0
        if not after < ref.position <= self._upto.rooms[shard] and not self._request.full_state:
            return None
        if kind == "invite" and (ref.sender in self._reader.ignored or blocks_invites(self._user)):
            return None
        room = await self._rooms.get(room_id)
        if room is None:
            return None
        events = stripped_state(room, self._user.user_id)
        return b'{"' + kind.encode() + b'_state":' + events_object(events) + b"}"

    async def _left(self, room_id: str, ref: MembershipRef) -> bytes | None:
        shard = self._rooms.shards.of_room(room_id)
        after, upto = self._since.rooms[shard] if self._since is not None else 0, self._upto.rooms[shard]
        if self._since is None or not after < ref.position <= upto:
            full = self._since is None or self._request.full_state
            if not full or not self._filter.include_leave or self._user.has_forgotten(room_id):
                return None
            after = 0
        room = await self._rooms.get(room_id)
        if room is None:
            return None
        sight = await self._engine._visibility.sight_line(room, self._user.user_id)
        state_after = self._request.use_state_after
        timeline = (await self._timeline(room, after, min(ref.position, upto))).slice
        events = await self._engine._visibility.shown(room, sight, timeline.events)
        # The leave itself is told even to one who was never in the room (a rejected invite), or who has
        # forgotten it since: other devices learn of it from nothing else.
        events += [e for e in timeline.events if e.position == ref.position and not sight.sees(e)]
        rendered = render_events(events, self._reader, self._now, {}, sight)
        state: Sequence[RoomEvent] = ()
        known = sight.membership_at(after) == "join"
        wanted = self._filter.state
        beside = () if state_after else events
        if sight.membership_at(ref.position - 1) == "join" and wanted.allows_room(room_id):
            complete = self._filter.timeline.is_open and len(events) == len(timeline.events)
            boundary = timeline.start if complete and not state_after else ref.position
            if timeline.limited or not known or state_after:
                state = await state_at(
                    self._rooms.log, self._rooms.stored, room, boundary, after=after if known else None
                )
            if wanted.lazy_load_members:
                state = [*state, *await self._senders(room, events, boundary, told=(*state, *beside))]
            shown = {event.event_id for event in beside}
            state = [e for e in state if wanted.matches_event(e) and e.event_id not in shown]
        own = room.head.lookup("m.room.member", self._user.user_id)
        told = {event.position for event in (*beside, *state)}
        is_untold = own is not None and own.position == ref.position and ref.position not in told
        if own is not None and is_untold and wanted.allows_room(room_id) and wanted.matches_event(own):
            # The leave has no place in the timeline, or clients take no state from there.
            state = [*state, own]
        return b"{%b,%b,%b}" % (
            timeline_json(timeline, rendered),
            self._state_json(event.render(self._now) for event in state),
            b'"account_data":' + events_object(self._room_account_data(room_id)),
        )

    async def _senders(
        self, room: Room, events: Iterable[RoomEvent], boundary: int, *, told: Iterable[RoomEvent]
    ) -> Sequence[RoomEvent]:
        """Members who sent the events, as they were at a boundary, for lazy loading: those not told yet."""
        wanted = {e.sender for e in events} - {e.state_key for e in told if e.type == "m.room.member"}
        if not wanted:
            return []
        state = await state_at(self._rooms.log, self._rooms.stored, room, boundary)
        members = [e for e in state if e.type == "m.room.member" and e.state_key in wanted]
        return self._not_told_yet(room, members)

    def _not_told_yet(self, room: Room, members: Sequence[RoomEvent]) -> Sequence[RoomEvent]:
        """Those of the members whom the device has yet to be told of; all if it wants them again."""
        if not members or self._filter.state.include_redundant_members:
            return members
        return self._engine.known_members.new_to(
            self._user.user_id, self._device_id, self._chain, room.room_id, members
        )


def counts_json(counts: Counts) -> bytes:
    return b'{"highlight_count":%d,"notification_count":%d}' % (counts.highlights, counts.notifications)


class Wanted(Protocol):
    """A question about a type of event or a user."""

    def __call__(self, name: str, /) -> bool: ...


def room_summary(room: Room, named_after: Sequence[str] | None) -> dict[str, object]:
    """Member counts, and the heroes of a room without a name (spec: RoomSummary)."""
    summary: dict[str, object] = {
        "m.joined_member_count": len(room.joined),
        "m.invited_member_count": len(room.invited),
    }
    if named_after is not None:
        summary["m.heroes"] = named_after
    return summary
