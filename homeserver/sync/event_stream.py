"""What clients did before /sync: snapshots of rooms, and the stream of events after them (spec:
client-server "Syncing", deprecated `/events` and `/initialSync`; "Room Previews").

Its tokens are since-tokens. Someone who is not in a room sees of it what is world-readable.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

import orjson

from homeserver.clock import Clock
from homeserver.errors import not_found
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.directory import Directory
from homeserver.rooms.history import History
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.state_reader import StateReader
from homeserver.rooms.visibility import SightLine, Visibility
from homeserver.since_tokens import SyncToken, encode_position
from homeserver.sync.engine import MAX_TIMEOUT_MS, PresenceUpdates, SyncEngine
from homeserver.sync.long_polls import LongPolls
from homeserver.users.account_data import AccountData
from homeserver.users.ignoring import ignored_by
from homeserver.users.invite_permission import blocks_invites
from homeserver.users.sessions import Session
from homeserver.users.users import User, Users
from storage.log import Entry

MAX_EVENTS = 100
"""Of one room shard, in one answer of the stream."""
SHOWN_MEMBERSHIPS = ("invite", "join", "leave", "ban")


class EventStream:
    """Snapshots and streams for local users and guests."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        access: RoomAccess,
        state: StateReader,
        history: History,
        visibility: Visibility,
        directory: Directory,
        account_data: AccountData,
        presence: PresenceUpdates,
        engine: SyncEngine,
        long_polls: LongPolls,
        *,
        epoch: str,
        now: Clock,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._access = access
        self._state = state
        self._history = history
        self._visibility = visibility
        self._directory = directory
        self._account_data = account_data
        self._presence = presence
        self._engine = engine
        self._long_polls = long_polls
        self._looking_in: dict[str, Counter[str]] = {}
        """Who polls one room, and how many times: they need not be members, whom a room wakes anyway."""
        self._epoch = epoch
        self._now = now

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Follows the room shards."""
        for user_id in self._looking_in.get(entry.stream, ()):
            self._long_polls.wake_user(user_id)

    # Snapshots

    async def snapshot(self, session: Session, *, limit: int, archived: bool) -> bytes:
        """All rooms of a user, up to `limit` events of each; those they left only if `archived`."""
        user = await self._users.get(session.user_id)
        at = self._engine.position(user)
        ignored, hides_invites = ignored_by(user), blocks_invites(user)
        rooms: list[bytes] = []
        for room_id, ref in list(user.memberships.items()):
            # Of many rooms in memory nothing need be waited for.
            await asyncio.sleep(0)
            with LeftOutIfBroken(room_id):
                if ref.membership == "invite":
                    if not hides_invites and ref.sender not in ignored:
                        rooms.append(await self._invite(room_id, user))
                elif ref.membership == "join" or (archived and not user.has_forgotten(room_id)):
                    rooms.append(await self._room(room_id, user, session, at, limit))
        presence = self._presence.events(user, 0, lambda user_id: user_id not in ignored)
        return (
            b'{"end":' + self._token(at)
            + b',"presence":' + _array(presence)
            + b',"account_data":' + self._account_data_json(user, "", at)
            + b',"rooms":' + _array(rooms)
            + b"}"
        )  # fmt: skip

    async def room_snapshot(self, room_id: str, session: Session, *, limit: int) -> bytes:
        """One room, as far as the user may see it. Raises 403."""
        user = await self._users.get(session.user_id)
        return await self._room(room_id, user, session, self._engine.position(user), limit)

    async def _invite(self, room_id: str, user: User) -> bytes:
        room = await self._rooms.get(room_id)
        event = room.head.state.get(("m.room.member", user.user_id)) if room is not None else None
        shown: dict[str, object] = {"room_id": room_id, "membership": "invite"}
        if event is not None:
            shown["invite"] = orjson.Fragment(event.render(self._now(), room_id=orjson.dumps(room_id)))
        return orjson.dumps(shown)

    async def _room(self, room_id: str, user: User, session: Session, at: SyncToken, limit: int) -> bytes:
        access = await self._access.of(room_id, user.user_id)
        room = access.room
        newest = at.rooms[room.shard] if access.upto is None else access.upto
        events: list[RoomEvent] = []
        if limit:
            events = await self._rooms.stored.page(room_id, before=newest + 1, newest_first=True, limit=limit)
        start = events[-1].position - 1 if events else newest
        line = await self._visibility.sight_line(room, user.user_id)
        visible = await self._history.shown(room, events[::-1], user.user_id, line)
        shown = await self._history.render(room, visible, session, line)
        parts = [
            b'"room_id":' + room.room_id_json,
            b'"messages":{"start":' + orjson.dumps(encode_position(start)),
            b'"end":' + self._token(at),
            b'"chunk":' + _array(shown) + b"}",
            b'"state":' + await self._state.state(room_id, user.user_id),
            b'"visibility":' + (b'"public"' if await self._directory.is_published(room_id) else b'"private"'),
            b'"account_data":' + self._account_data_json(user, room_id, at),
        ]
        ref = user.memberships.get(room_id)
        if ref is not None and ref.membership in SHOWN_MEMBERSHIPS:
            parts.append(b'"membership":' + orjson.dumps(ref.membership))
        return b"{" + b",".join(parts) + b"}"

    async def _view(self, room_id: str, session: Session) -> tuple[Room, SightLine]:
        room = (await self._access.of(room_id, session.user_id)).room
        return room, await self._visibility.sight_line(room, session.user_id)

    def _account_data_json(self, user: User, room_id: str, at: SyncToken) -> bytes:
        return _array(
            b'{"type":' + orjson.dumps(type) + b',"content":' + content + b"}"
            for type, content in self._account_data.changes(user, room_id, None, at.user)
        )

    def _token(self, at: SyncToken) -> bytes:
        return orjson.dumps(at.encode(self._epoch))

    # The stream

    async def event(self, session: Session, event_id: str) -> bytes:
        """One event, wherever it is. Raises 404 when it is not for the user to see."""
        entry = await self._rooms.log.find_event(event_id)
        if entry is None:
            raise not_found("There is no such event")
        return await self._history.event(entry.stream, session, event_id)

    async def after(
        self, session: Session, start: str | None, *, room_id: str | None, timeout_ms: int
    ) -> bytes:
        """Events after a token, of all joined rooms or of one that the user may look into.

        Waits up to `timeout_ms` for the first of them. Raises 400 for the token, 403 for the room.
        """
        token = self._engine.decode(start) if start else None
        await self._engine.follow(session.user_id, token)
        user = await self._users.get(session.user_id)
        since = first = token or self._engine.position(user)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        while True:
            user = await self._users.get(session.user_id)
            upto = self._engine.position(user)
            if room_id is not None:
                await self._access.of(room_id, session.user_id)
            room_ids = [room_id] if room_id is not None else user.rooms("join")
            events, since = await self._between(session, room_ids, since, upto)
            if events or loop.time() >= deadline:
                break
            if self._engine.position(user) == upto and not await self._wait(
                session, room_id, deadline - loop.time()
            ):
                deadline = loop.time()
        return (
            b'{"start":' + self._token(first)
            + b',"end":' + self._token(since)
            + b',"chunk":' + _array(events)
            + b"}"
        )  # fmt: skip

    async def _wait(self, session: Session, room_id: str | None, seconds: float) -> bool:
        """See `LongPolls.wait`."""
        user_id, slot = session.user_id, f"events {session.device_id}"
        if room_id is None:
            return await self._long_polls.wait(user_id, slot, seconds)
        looking_in = self._looking_in.setdefault(room_id, Counter())
        looking_in[user_id] += 1
        try:
            return await self._long_polls.wait(user_id, f"{slot} {room_id}", seconds)
        finally:
            looking_in[user_id] -= 1
            if not looking_in[user_id]:
                del looking_in[user_id]
            if not looking_in:
                del self._looking_in[room_id]

    async def _between(
        self, session: Session, room_ids: Sequence[str], since: SyncToken, upto: SyncToken
    ) -> tuple[list[bytes], SyncToken]:
        """The first events of some rooms between two tokens, and how far they go."""
        found: dict[int, list[tuple[int, str, RoomEvent]]] = {}
        for room_id in room_ids:
            shard = self._rooms.shards.of_room(room_id)
            last = self._rooms.activity.get(room_id, self._rooms.started_at[shard])
            if last <= since.rooms[shard]:
                continue
            with LeftOutIfBroken(room_id):
                page = await self._rooms.stored.page(
                    room_id,
                    after=since.rooms[shard],
                    before=upto.rooms[shard] + 1,
                    newest_first=False,
                    limit=MAX_EVENTS,
                )
                found.setdefault(shard, []).extend((event.position, room_id, event) for event in page)
        reached = list(upto.rooms)
        shown: list[bytes] = []
        for shard, events in found.items():
            events.sort(key=lambda item: item[0])
            if len(events) >= MAX_EVENTS:
                # Whatever lies below the last of these is among them.
                del events[MAX_EVENTS:]
                reached[shard] = events[-1][0]
            views: dict[str, tuple[Room, SightLine]] = {}
            for room_id in {room_id for _, room_id, _ in events}:
                with LeftOutIfBroken(room_id):
                    views[room_id] = await self._view(room_id, session)
            for _, room_id, event in events:
                if room_id in views:
                    room, line = views[room_id]
                    visible = await self._history.shown(room, [event], session.user_id, line)
                    shown += await self._history.render(room, visible, session, line)
        return shown, upto._replace(rooms=tuple(reached))


def _array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
