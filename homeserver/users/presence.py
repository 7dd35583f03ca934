"""Presence: who is online, and since when not (spec: client-server "Presence").

What one user's devices add up to is in `users.user_presence`; here are the users who are here, who is
told of their changes and what is stored.

Changes are gathered for a moment and told together under one number of the `EphemeralClock`, so that
coming and going within that moment is nobody's business, and a crowd costs one walk over the polls
that wait, not one per change. The more polls wait, the longer the moment (`PACE`): telling of presence
never takes more than a small part of the time.

Each replica knows the devices that sync with it. After a restart those who were here are taken to be
here still, until they do not come back.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import structlog

from homeserver.clock import Clock
from homeserver.errors import MatrixError, invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.ephemeral import EphemeralClock
from homeserver.rooms.membership import MemberProfiles
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.sync.wakeup import Wakeup
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.user_presence import (
    HERE_FOR_MS,
    OFFLINE,
    ONLINE,
    STATES,
    DevicePresence,
    Shown,
    UserPresence,
)
from homeserver.users.users import User, Users
from storage.collection import Collection
from storage.errors import StoreError
from storage.log import Entry, Kind
from storage.records.presence import StoredPresence

log = structlog.get_logger(__name__)

TELL_AFTER_SECONDS = 0.5
PACE = 0.001
"""Seconds between two tellings for each poll that waits: being woken costs about a tenth of that."""
LOOK_EVERY_SECONDS = 5.0
STORE_EVERY_MS = 60_000
MAX_STATUS_BYTES = 1024
MAX_DEVICES = 100
MAX_JOINED = 50
MAX_GONE = 20_000
MAX_ROOMS = 100_000
PAGE = 1000

BEFORE_RESTART = ""
"""In place of the devices that were here before a restart; no device has this id."""

Wanted = Callable[[str], bool]
"""Whether the presence of this user id is wanted."""


class Presence:
    """The presence of local users. With `enabled` False nobody ever is anything but offline."""

    def __init__(
        self,
        records: Collection[StoredPresence],
        rooms: Rooms,
        users: Users,
        profiles: MemberProfiles,
        wakeup: Wakeup,
        clock: EphemeralClock,
        now: Clock,
        *,
        enabled: bool,
    ) -> None:
        self._records = records
        self._rooms = rooms
        self._users = users
        self._shared_rooms = SharedRooms(rooms, users)
        self._profiles = profiles
        self._wakeup = wakeup
        self._clock = clock
        self._now = now
        self._enabled = enabled
        self._here: OrderedDict[str, UserPresence] = OrderedDict()
        """Those with devices here, and who is about to change; like `_gone` by the number of their change."""
        self._gone: OrderedDict[str, UserPresence] = OrderedDict()
        """Those who went offline."""
        self._changed: dict[str, set[str]] = {}
        """Users to tell of, with the rooms that they have joined."""
        self._has_changed = asyncio.Event()
        self._unwritten: dict[str, UserPresence] = {}
        self._room_numbers: OrderedDict[str, int] = OrderedDict()
        """Room → the last number under which its members were told something."""
        self._room_floor = self._last_number = clock.now
        """The same for rooms that are not in the table."""

    # Syncing

    def sync_begins(self, user_id: str, device_id: str, state: str) -> DevicePresence | None:
        """A device syncs and says so with `state`; hand the result to `sync_ends`. Raises 400."""
        if state == OFFLINE or not self._enabled:
            return None
        user = self._here.get(user_id)
        if user is not None:
            device = user.devices.get(device_id)
            if device is not None and device.state == state:
                device.in_flight += 1
                return device
        return self._arrive(user_id, device_id, state)

    def sync_ends(self, device: DevicePresence | None) -> None:
        if device is not None:
            device.in_flight -= 1
            device.here_until = self._now() + HERE_FOR_MS

    def _arrive(self, user_id: str, device_id: str, state: str) -> DevicePresence | None:
        if state not in STATES:
            raise invalid_param("set_presence: online, unavailable or offline")
        user = self._known(user_id)
        if device_id not in user.devices and len(user.devices) >= MAX_DEVICES:
            return None
        device = user.device(device_id)
        device.state = state
        device.in_flight += 1
        self._note(user, active=state == ONLINE)
        return device

    # Being asked

    async def set_status(self, user_id: str, device_id: str, state: str, status_msg: str | None) -> None:
        """What a user says of themselves. Raises 400 for a message that is too long."""
        if status_msg is not None and len(status_msg.encode("utf-8", "surrogatepass")) > MAX_STATUS_BYTES:
            raise invalid_param(f"status_msg may have {MAX_STATUS_BYTES} bytes at most")
        if not self._enabled:
            return
        user = await self._loaded(user_id)
        if len(user.devices) < MAX_DEVICES or device_id in user.devices:
            device = user.device(device_id)
            device.state = state
            device.here_until = self._now() + HERE_FOR_MS
        changed = status_msg != user.status_msg
        user.status_msg = status_msg
        self._note(user, active=state == ONLINE)
        if changed:
            # Who was active already has something new to tell all the same.
            self._note(user, active=False)
            await self._store([user])

    async def status(self, asker: str, user_id: str) -> JsonObject:
        """A user's status, for those who share a room with them. Raises 403 for all others."""
        if not await self._shared_rooms.share(asker, user_id):
            raise MatrixError(403, "M_FORBIDDEN", "You are not allowed to see their presence")
        if not self._enabled:
            return {"presence": OFFLINE}
        user = self._here.get(user_id) or self._gone.get(user_id) or UserPresence(user_id)
        await self._load(user)
        return user.status(self._now())

    # Being active

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Follows the room shards: who sends or reads is active, who joins is news to the room's members."""
        actor = entry.sender if entry.kind is Kind.EVENT else entry.key
        user = self._here.get(actor) if actor is not None else None
        if user is not None and entry.kind in (Kind.EVENT, Kind.RECEIPT):
            self._note(user, active=True)
        if entry.type == "m.room.member" and entry.key is not None and entry.key in self._here:
            member = self._users.cached(entry.key)
            ref = member.memberships.get(entry.stream) if member is not None else None
            if ref is not None and ref.membership == "join" and ref.since == entry.position:
                self._note(self._here[entry.key], active=False, joined=entry.stream)

    async def profile_changed(self, user_id: str) -> None:
        """Follows the profiles: name and picture are part of presence."""
        if self._enabled:
            profile = await self._profiles.member_profile(user_id)
            user = await self._loaded(user_id)
            user.profile = profile
            self._note(user, active=False)

    async def forget(self, user_id: str, erase: bool) -> None:
        """The account is no more."""
        self._here.pop(user_id, None)
        self._gone.pop(user_id, None)
        self._unwritten.pop(user_id, None)
        await self._records.delete(user_id)

    def _known(self, user_id: str) -> UserPresence:
        """The user's presence in memory, among those who are here or about to change."""
        user = self._here.get(user_id)
        if user is None:
            user = self._gone.pop(user_id, None) or UserPresence(user_id)
            self._here[user_id] = user
            # Its number is older than those of all others, or will be a new one in a moment.
            self._here.move_to_end(user_id, last=False)
        return user

    def _note(self, user: UserPresence, *, active: bool, joined: str | None = None) -> None:
        """Something about a user may have changed."""
        if active:
            self._unwritten[user.user_id] = user
            if not user.act(self._now()):
                return
        rooms = self._changed.setdefault(user.user_id, set())
        if joined is not None:
            rooms.add(joined)
        self._has_changed.set()

    # Telling others

    def events(self, user: User, after: int, wanted: Wanted) -> list[bytes]:
        """`m.presence` events of users who share a room with `user`, changed after an ephemeral number.

        With `after` 0, all who are not offline.
        """
        if self._last_number <= after or not self._enabled:
            return []
        in_rooms = {room_id for room_id, ref in user.memberships.items() if ref.membership == "join"}
        rooms = [room for room in in_rooms if self._room_numbers.get(room, self._room_floor) > after]
        own = self._here.get(user.user_id)
        joined = {room for room, n in own.joined.items() if n > after} if own is not None else set()
        found: dict[str, UserPresence] = {}
        for table in (self._here, self._gone) if after else (self._here,):
            for other in reversed(table.values()):
                if other.number <= after:
                    break
                if other is own or any(self._is_in(other.user_id, room_id) for room_id in rooms):
                    found[other.user_id] = other
        for room_id in joined & in_rooms:
            room = self._rooms.cached(room_id)
            for user_id in room.joined if room is not None else ():
                if user_id in self._here and self._here[user_id].number:
                    found[user_id] = self._here[user_id]
        now = self._now()
        return [
            other.event(now)
            for other in found.values()
            if wanted(other.user_id) and (after or other.told.state != OFFLINE)
        ]

    def _is_in(self, user_id: str, room_id: str) -> bool:
        room = self._rooms.cached(room_id)
        if room is not None:
            return user_id in room.joined
        user = self._users.cached(user_id)
        ref = user.memberships.get(room_id) if user is not None else None
        return ref is not None and ref.membership == "join"

    async def keep_telling(self) -> None:
        """Tell of changes, a moment after the first of them, until cancelled."""
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(max(TELL_AFTER_SECONDS, self._wakeup.count * PACE))
            try:
                await self.tell()
            except StoreError as error:
                log.warning("presence is not told for now", error=str(error))

    async def tell(self) -> None:
        """Number what has changed and wake those whom it concerns."""
        self._has_changed.clear()
        rooms_of: dict[str, list[str]] = {}
        for user_id in list(self._changed):
            await self._loaded(user_id)
            rooms_of[user_id] = (await self._users.get(user_id)).rooms("join")
        # From here on nothing else runs, so that no token falls between a number and its change.
        now = self._now()
        news: list[tuple[UserPresence, Shown, set[str]]] = []
        rooms: set[str] = set()
        for user_id, joined_rooms in rooms_of.items():
            joined = self._changed.pop(user_id, set())
            if user_id not in self._here:
                continue
            user = self._here[user_id]
            shown = user.shown(now)
            if shown != user.told or not user.devices:
                news.append((user, shown, joined))
                rooms.update(joined_rooms, joined)
            elif joined:
                news.append((user, shown, joined))
                rooms |= joined
        if news:
            number = self._last_number = self._clock.tick()
            for user, shown, joined in news:
                self._tell_of(user, shown, number, joined)
            self._note_rooms(rooms, number)
            await self._wake(rooms, news[0][0].user_id if len(news) == 1 and not news[0][2] else None)

    def _tell_of(self, user: UserPresence, shown: Shown, number: int, joined: set[str]) -> None:
        if (shown.state == OFFLINE) != (user.told.state == OFFLINE):
            self._unwritten[user.user_id] = user
        user.tell(shown, number)
        for room_id in joined:
            user.joined[room_id] = number
        while len(user.joined) > MAX_JOINED:
            del user.joined[next(iter(user.joined))]
        if user.devices:
            self._here.move_to_end(user.user_id)
            return
        self._gone[user.user_id] = self._here.pop(user.user_id)
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

    def _note_rooms(self, rooms: Iterable[str], number: int) -> None:
        for room_id in rooms:
            self._room_numbers[room_id] = number
            self._room_numbers.move_to_end(room_id)
        while len(self._room_numbers) > MAX_ROOMS:
            self._room_floor = self._room_numbers.popitem(last=False)[1]

    async def _wake(self, rooms: set[str], alone: str | None) -> None:
        """Wake the polls of who is in one of the rooms; not `alone`, whose own change is all there is."""
        for n, user_id in enumerate(list(self._wakeup.users()), 1):
            user = self._users.cached(user_id)
            if user is not None and user_id != alone and not user.memberships.keys().isdisjoint(rooms):
                self._wakeup.wake_user(user_id)
            if n % PAGE == 0:
                await asyncio.sleep(0)

    # Time passing

    async def keep_looking(self) -> None:
        """See who has become idle or gone, and store what is due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            await self.look()
            try:
                await self.write()
            except StoreError as error:
                log.warning("presence is not stored for now", error=str(error))

    async def look(self) -> None:
        """Note who has become idle or gone."""
        for n, user in enumerate(list(self._here.values()), 1):
            now = self._now()
            user.drop_absent(now)
            if not user.devices or user.shown(now) != user.told:
                self._note(user, active=False)
            if n % PAGE == 0:
                await asyncio.sleep(0)
        if self._changed:
            # Among them may be some that could not be told of before.
            self._has_changed.set()

    # What is stored

    async def start(self) -> None:
        """Take those who were here to be here still."""
        if not self._enabled:
            return
        here_until = self._now() + HERE_FOR_MS
        after: str | None = None
        while page := await self._records.find("by_online", (1,), after=after, limit=PAGE):
            for stored in page:
                user = UserPresence(stored.user_id)
                user.last_active = stored.last_active
                before = user.device(BEFORE_RESTART)
                before.state, before.here_until = ONLINE, here_until
                self._here[user.user_id] = user
            after = page[-1].user_id

    async def _loaded(self, user_id: str) -> UserPresence:
        while not (user := self._known(user_id)).loaded:
            await self._load(user)
        return user

    async def _load(self, user: UserPresence) -> None:
        """Read what is stored of a user, once."""
        if user.loaded:
            return
        stored = await self._records.get(user.user_id)
        profile = await self._profiles.member_profile(user.user_id)
        if not user.loaded:
            user.loaded = True
            user.profile = profile
            if stored is not None:
                user.status_msg = stored.status_msg
                user.last_active = max(user.last_active, stored.last_active)

    async def write(self, *, everything: bool = False) -> None:
        """Store what has changed, of each user once a minute at most."""
        due = [
            user
            for user in self._unwritten.values()
            if user.loaded and (everything or self._now() - user.stored_at >= STORE_EVERY_MS)
        ]
        for first in range(0, len(due), PAGE):
            await self._store(due[first : first + PAGE])

    async def _store(self, users: Sequence[UserPresence]) -> None:
        now = self._now()
        records = [
            StoredPresence(
                user_id=user.user_id,
                last_active=user.last_active,
                status_msg=user.status_msg,
                online=1 if user.told.state != OFFLINE else None,
            )
            for user in users
        ]
        for user in users:
            self._unwritten.pop(user.user_id, None)
        try:
            await self._records.put_many(records)
        except StoreError:
            self._unwritten.update((user.user_id, user) for user in users)
            raise
        for user in users:
            user.stored_at = now
