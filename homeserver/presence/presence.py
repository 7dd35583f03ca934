"""Presence: who is online, and since when not (spec: client-server "Presence").

What one user's devices add up to is in `user_presence`, what clients are told in `stream`;
here are the users who are here, who decides what is told of them, and what is stored.

Changes are gathered for a moment and told together, so that coming and going within that moment is
nobody's business, and a crowd costs one walk over the polls that wait, not one per change. The more polls
wait, the longer the moment (`PACE`): telling of presence never takes more than a small part of the time.

All replicas know all devices (`reports`). What is told of a user is decided by one of them, which
owns the user's shard. After a restart those who were here are taken to be here still, until they do not
come back.
"""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import structlog

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.errors import MatrixError, invalid_param
from homeserver.presence.reports import KIND as REPORT
from homeserver.presence.reports import PresenceReports, Seen, decode_report
from homeserver.presence.stream import PACE, News, PresenceStream, Wanted
from homeserver.presence.told_presence import ToldPresence
from homeserver.presence.user_presence import (
    HERE_FOR_MS,
    OFFLINE,
    ONLINE,
    STATES,
    DevicePresence,
    UserPresence,
)
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.membership import MemberProfiles
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.sync.long_polls import LongPolls
from homeserver.users.profiles import IN_MEMBER_EVENTS
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import User, Users
from storage.collection import Collection
from storage.errors import StoreError
from storage.log import Entry, Kind
from storage.records.presence import StoredPresence

log = structlog.get_logger(__name__)

TELL_AFTER_SECONDS = 0.5
LOOK_EVERY_SECONDS = 5.0
STORE_EVERY_MS = 60_000
MAX_STATUS_BYTES = 1024
MAX_DEVICES = 100
PAGE = 1000

ASK = "presence_ask"
"""Kind of message: whoever sends it has just begun and knows nobody."""

BEFORE_RESTART = ""
"""In place of the devices that were here before a restart; no device has this id."""
ELSEWHERE = "elsewhere"
"""In place of the devices of another server's user."""
ELSEWHERE_FOR_MS = 30 * 60_000
"""How long another server's user is what their server said last; it says so again while it goes on."""
MAX_HERE = 50_000
"""Users who are here, with which no more of other servers are taken in."""

Owns = Callable[[str], bool]
"""Whether this replica is the one to decide about a user."""


class Presence:
    """The presence of local users, and of those whom they meet of other servers.

    With `enabled` False nobody ever is anything but offline.
    """

    def __init__(
        self,
        records: Collection[StoredPresence],
        told: PresenceStream,
        told_servers: ToldPresence,
        reports: PresenceReports,
        users: Users,
        shared_rooms: SharedRooms,
        profiles: MemberProfiles,
        long_polls: LongPolls,
        to_others: ToOthers,
        owns: Owns,
        now: Clock,
        *,
        enabled: bool,
    ) -> None:
        self._records = records
        self._told = told
        self._told_servers = told_servers
        self._reports = reports
        self._users = users
        self._shared_rooms = shared_rooms
        self._profiles = profiles
        self._long_polls = long_polls
        self._to_others = to_others
        self._owns = owns
        self._now = now
        self._enabled = enabled
        self._changed: dict[str, set[str]] = {}
        """Users to tell of, with the rooms that they have joined."""
        self._has_changed = asyncio.Event()
        self._unwritten: dict[str, UserPresence] = {}
        self._answers: set[asyncio.Task[None]] = set()
        to_others.subscribe(REPORT, self._on_report)
        to_others.subscribe(ASK, self._on_ask)

    # Syncing

    def sync_begins(self, user_id: str, device_id: str, state: str) -> DevicePresence | None:
        """A device syncs and says so with `state`; hand the result to `sync_ends`. Raises 400."""
        if state == OFFLINE or not self._enabled:
            return None
        user = self._told.here.get(user_id)
        if user is not None:
            device = user.devices.get(device_id)
            if device is not None and device.state == state:
                device.in_flight += 1
                if not device.mine:
                    self._reports.syncs(user, device_id, device)
                return device
        return self._arrive(user_id, device_id, state)

    def sync_ends(self, device: DevicePresence | None) -> None:
        if device is not None:
            device.in_flight -= 1
            device.here_until = self._now() + HERE_FOR_MS

    def _arrive(self, user_id: str, device_id: str, state: str) -> DevicePresence | None:
        if state not in STATES:
            raise invalid_param("set_presence: online, unavailable or offline")
        user = self._told.known(user_id)
        if device_id not in user.devices and len(user.devices) >= MAX_DEVICES:
            return None
        device = user.device(device_id)
        device.state = state
        device.in_flight += 1
        self._note(user, active=state == ONLINE)
        self._reports.arrived(user, device_id, device, active=state == ONLINE)
        return device

    # Being asked

    async def set_status(self, user_id: str, device_id: str, state: str, status_msg: str | None) -> None:
        """What a user says of themselves. Raises 400 for a message that is too long."""
        _check_status(status_msg)
        if not self._enabled:
            return
        user = await self._loaded(user_id)
        if len(user.devices) < MAX_DEVICES or device_id in user.devices:
            device = user.device(device_id)
            device.state = state
            device.here_until = self._now() + HERE_FOR_MS
            self._reports.arrived(user, device_id, device, active=state == ONLINE)
        changed = status_msg != user.status_msg
        user.status_msg = status_msg
        self._note(user, active=state == ONLINE)
        if changed:
            # Who was active already has something new to tell all the same.
            self._note(user, active=False)
            await self._store([user])
            self._reports.said(user)

    async def status(self, asker: str, user_id: str) -> JsonObject:
        """A user's status, for those who share a room with them. Raises 403 for all others."""
        if not await self._shared_rooms.share(asker, user_id):
            raise MatrixError(403, "M_FORBIDDEN", "You are not allowed to see their presence")
        if not self._enabled:
            return {"presence": OFFLINE}
        user = self._told.get(user_id) or UserPresence(user_id)
        await self._load(user)
        return user.status(self._now())

    async def said_elsewhere(self, user_id: str, state: str, status_msg: str | None, ago_ms: int) -> None:
        """What another server says of a user of its own, last active so long ago.

        Passed over unless they share a room with somebody here. Raises 400 for a message that is too long.
        """
        _check_status(status_msg)
        here = self._told.here
        room = await self._shared_rooms.met_in(user_id) if self._enabled else None
        if room is None or (user_id not in here and len(here) >= MAX_HERE):
            return
        user, now = self._told.known(user_id), self._now()
        user.say(status_msg, _profile_in(room, user_id))
        user.last_active = max(user.last_active, now - max(ago_ms, 0))
        device = user.device(ELSEWHERE)
        device.state = state
        device.here_until = now + ELSEWHERE_FOR_MS
        self._note(user, active=False)
        self._reports.arrived(user, ELSEWHERE, device, active=False)
        self._reports.said(user)

    # Being active

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        """Follows the room shards: who sends or reads is active, who joins is news to the room's members, and
        they to a server that comes in."""
        if self._enabled and room is not None and self._told_servers.comes_in(entry, room):
            self._has_changed.set()
        actor = entry.sender if entry.kind is Kind.EVENT else entry.key
        user = self._told.here.get(actor) if actor is not None else None
        if (
            user is not None
            and entry.kind in (Kind.EVENT, Kind.RECEIPT)
            # Of others their own servers say.
            and self._users.is_local(user.user_id)
        ):
            self._note(user, active=True)
        if entry.type == "m.room.member" and entry.key is not None and entry.key in self._told.here:
            member = self._users.cached(entry.key)
            ref = member.memberships.get(entry.stream) if member is not None else None
            if ref is not None and ref.membership == "join" and ref.since == entry.position:
                self._note(self._told.here[entry.key], active=False, joined=entry.stream)

    async def profile_changed(self, user_id: str) -> None:
        """Follows the profiles: name and picture are part of presence."""
        if self._enabled:
            profile = await self._profiles.member_profile(user_id)
            user = await self._loaded(user_id)
            user.profile = profile
            self._note(user, active=False)
            self._reports.said(user)

    async def forget(self, user_id: str, erase: bool) -> None:
        """The account is no more."""
        self._forget(user_id)
        self._reports.forgotten(user_id)
        await self._records.delete(user_id)

    def _forget(self, user_id: str) -> None:
        self._told.forget(user_id)
        self._unwritten.pop(user_id, None)

    def _note(self, user: UserPresence, *, active: bool, joined: str | None = None) -> None:
        """Something about a user may have changed."""
        if active:
            told_already = not user.act(self._now())
            if self._owns(user.user_id):
                self._unwritten[user.user_id] = user
            if told_already:
                return
        if not self._owns(user.user_id):
            return
        rooms = self._changed.setdefault(user.user_id, set())
        if joined is not None:
            rooms.add(joined)
        self._has_changed.set()

    # What other replicas know

    def _on_report(self, body: bytes) -> None:
        if not self._enabled:
            return
        report = decode_report(body)
        for seen in report.seen:
            self._see(seen)
        for said in report.said:
            user = (
                self._told.known(said.user_id) if self._owns(said.user_id) else self._told.get(said.user_id)
            )
            if user is not None:
                user.say(said.status_msg, said.profile)
                self._note(user, active=False)
        for user_id in report.forgotten:
            self._forget(user_id)

    def _see(self, seen: Seen) -> None:
        user = self._told.known(seen.user_id)
        known = user.devices.get(seen.device_id)
        if known is None and len(user.devices) >= MAX_DEVICES:
            return
        device = user.device(seen.device_id)
        is_new = known is None or device.state != seen.state
        device.state = seen.state
        device.here_until = max(device.here_until, self._now() + seen.here_ms)
        user.last_active = max(user.last_active, seen.last_active)
        if is_new or seen.active:
            self._note(user, active=seen.active)

    def _on_ask(self, body: bytes) -> None:
        """Somebody has just begun."""
        if self._enabled:
            self._reports.beat()
            task = asyncio.create_task(self._tell_again(), name="presence-tell-again")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _tell_again(self) -> None:
        """Tell of everybody who is here; who knows it already is not told anything new."""
        here = [user for user in self._told.here.values() if user.loaded and self._owns(user.user_id)]
        for first in range(0, len(here), PAGE):
            now = self._now()
            news = [News(u.user_id, u.shown(now), u.last_active) for u in here[first : first + PAGE]]
            self._told.tell([one for one in news if one.shown.state != OFFLINE], None)
            await asyncio.sleep(0)

    # Telling others

    def events(
        self, user: User, after: int, wanted: Wanted, *, joined: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """See `PresenceStream.events`."""
        return self._told.events(user, after, wanted, self._now(), joined=joined) if self._enabled else []

    async def keep_telling(self) -> None:
        """Tell of changes, a moment after the first of them, until cancelled."""
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(max(TELL_AFTER_SECONDS, self._long_polls.count * PACE))
            try:
                await self.tell()
            except StoreError as error:
                log.warning("presence is not told for now", error=str(error))

    async def tell(self) -> None:
        """Tell what has changed of those whom this replica decides about."""
        self._has_changed.clear()
        rooms_of: dict[str, frozenset[str]] = {}
        for user_id in list(self._changed):
            if self._owns(user_id):
                await self._loaded(user_id)
                rooms_of[user_id] = await self._shared_rooms.of(user_id)
            else:
                del self._changed[user_id]
        # From here on nothing else runs: what is told is true.
        now = self._now()
        news: list[News] = []
        rooms: set[str] = set()
        for user_id, joined_rooms in rooms_of.items():
            joined = self._changed.pop(user_id, set())
            if user_id not in self._told.here:
                continue
            user = self._told.here[user_id]
            shown = user.shown(now)
            if shown != user.told:
                rooms.update(joined_rooms)
            elif not joined:
                self._told.settle(user)
                continue
            rooms |= joined
            news.append(News(user_id, shown, user.last_active, tuple(joined)))
            if self._users.is_local(user_id):
                self._told_servers.tell(user, shown, joined_rooms)
            if (shown.state == OFFLINE) != (user.told.state == OFFLINE):
                self._unwritten[user_id] = user
        if news:
            self._told.tell(news, rooms)
        self._told_servers.tell_newcomers(self._told.here, self._owns)

    # Time passing

    async def keep_looking(self) -> None:
        """See who has become idle or gone, and store what is due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            try:
                await self.look()
                await self.write()
            except StoreError as error:
                log.warning("presence is not looked after for now", error=str(error))

    async def look(self) -> None:
        """Note who has become idle or gone."""
        for n, user in enumerate(list(self._told.here.values()), 1):
            now = self._now()
            user.drop_absent(now)
            if user.shown(now) != user.told:
                self._note(user, active=False)
            else:
                self._told.settle(user)
            if self._told_servers.is_due(user.user_id) and self._owns(user.user_id):
                rooms = await self._shared_rooms.of(user.user_id)
                self._told_servers.tell(user, user.told, rooms)
            if n % PAGE == 0:
                await asyncio.sleep(0)
        if self._changed:
            # Among them may be some that could not be told of before.
            self._has_changed.set()

    # What is stored

    async def start(self) -> None:
        """Take those who were here to be here still, and ask the others who is."""
        if not self._enabled:
            return
        now = self._now()
        after: str | None = None
        while page := await self._records.find("by_online", (1,), after=after, limit=PAGE):
            for stored in page:
                user = self._told.known(stored.user_id)
                user.last_active = max(user.last_active, stored.last_active)
                if self._users.is_local(stored.user_id):
                    before, here_for_ms = user.device(BEFORE_RESTART), HERE_FOR_MS
                else:
                    before, here_for_ms = user.device(ELSEWHERE), ELSEWHERE_FOR_MS
                before.state, before.here_until = ONLINE, now + here_for_ms
            after = page[-1].user_id
        self._to_others.tell(ASK, b"")

    async def _loaded(self, user_id: str) -> UserPresence:
        while not (user := self._told.known(user_id)).loaded:
            await self._load(user)
        return user

    async def _load(self, user: UserPresence) -> None:
        """Read what is stored of a user, once."""
        if user.loaded:
            return
        stored = await self._records.get(user.user_id)
        profile = await self._profile(user.user_id)
        if not user.loaded:
            user.say(stored.status_msg if stored is not None else None, profile)
            if stored is not None:
                user.last_active = max(user.last_active, stored.last_active)

    async def _profile(self, user_id: str) -> JsonObject:
        """What member events say of a user."""
        if self._users.is_local(user_id):
            return await self._profiles.member_profile(user_id)
        room = await self._shared_rooms.met_in(user_id)
        return _profile_in(room, user_id) if room is not None else {}

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
        # Of other servers' users only those who are here are of interest: there may be very many others.
        gone = {
            each.user_id for each in records if each.online is None and not self._users.is_local(each.user_id)
        }
        try:
            await self._records.put_many([each for each in records if each.user_id not in gone])
            for user_id in gone:
                await self._records.delete(user_id)
        except StoreError:
            self._unwritten.update((user.user_id, user) for user in users)
            raise
        for user in users:
            user.stored_at = now


def _profile_in(room: Room, user_id: str) -> JsonObject:
    member = room.state_content("m.room.member", user_id)
    return {key: member[key] for key in IN_MEMBER_EVENTS if member.get(key)}


def _check_status(status_msg: str | None) -> None:
    """Raises 400."""
    if status_msg is not None and len(status_msg.encode("utf-8", "surrogatepass")) > MAX_STATUS_BYTES:
        raise invalid_param(f"status_msg may have {MAX_STATUS_BYTES} bytes at most")
