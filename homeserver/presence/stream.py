"""What clients are told of presence: everybody whose presence was told of, in the order of their changes.

What is told is a message on the bus, numbered by its position. Every replica applies all of them, so a
since-token says at any replica what a client has been told.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from homeserver.bus.bus import Bus
from homeserver.presence.user_presence import OFFLINE, Shown, UserPresence
from homeserver.rooms.ephemeral import EphemeralClock
from homeserver.rooms.rooms import Rooms
from homeserver.sync.long_polls import LongPolls
from homeserver.users.users import User, Users

KIND = "presence"
PACE = 0.001
"""Seconds between two walks for each poll that waits: being woken costs about a tenth of that."""
MAX_GONE = 20_000
MAX_ROOMS = 100_000
WOKEN_AT_ONCE = 20
"""Each of their answers may tell of thousands, and nobody has their turn between answers of one turn."""

Wanted = Callable[[str], bool]
"""Whether the presence of this user id is wanted."""


class News(msgspec.Struct, frozen=True, array_like=True):
    """What is told of one user; `joined` are rooms whose members may not have been told before."""

    user_id: str
    shown: Shown
    last_active: int
    joined: Sequence[str] = ()


class Telling(msgspec.Struct, frozen=True, array_like=True):
    """News told together, and all rooms of those users.

    None is for what only a replica that has just begun has not heard: it takes all rooms to be concerned.
    """

    news: Sequence[News]
    rooms: Sequence[str] | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Telling).decode


class PresenceStream:
    """Who was told to be what. `here` may be looked at by whoever decides what is told next."""

    def __init__(
        self, rooms: Rooms, users: Users, long_polls: LongPolls, bus: Bus, clock: EphemeralClock
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._long_polls = long_polls
        self._bus = bus
        self._clock = clock
        self.here: dict[str, UserPresence] = {}
        """Those who have devices, or are shown as not offline, or are about to change."""
        self._gone: OrderedDict[str, UserPresence] = OrderedDict()
        """Others who are remembered, the first to go first."""
        self._by_number: OrderedDict[str, UserPresence] = OrderedDict()
        """Everybody of both who was told of, by the number of their last change."""
        self._room_numbers: OrderedDict[str, int] = OrderedDict()
        """Room → the last number under which its members were told something."""
        self._room_floor = self._last_number = 0
        """The same for rooms that are not in the table."""
        self._to_wake: set[str] = set()
        """Rooms whose members are to be woken, because of `_woken_for`."""
        self._woken_for: set[str] = set()
        self._has_news = asyncio.Event()
        bus.subscribe(KIND, self._on_telling)

    def get(self, user_id: str) -> UserPresence | None:
        return self.here.get(user_id) or self._gone.get(user_id)

    def known(self, user_id: str) -> UserPresence:
        """The user's presence in memory, among those who are here or about to change."""
        user = self.here.get(user_id)
        if user is None:
            user = self.here[user_id] = self._gone.get(user_id) or UserPresence(user_id)
            self._gone.pop(user_id, None)
        return user

    def settle(self, user: UserPresence) -> None:
        """Remember one who is neither here nor shown to be as gone."""
        if not user.devices and user.told.state == OFFLINE and user.user_id in self.here:
            self._gone[user.user_id] = self.here.pop(user.user_id)
            if len(self._gone) > MAX_GONE:
                user_id, _ = self._gone.popitem(last=False)
                self._by_number.pop(user_id, None)

    def forget(self, user_id: str) -> None:
        self.here.pop(user_id, None)
        self._gone.pop(user_id, None)
        self._by_number.pop(user_id, None)

    # Telling

    def tell(self, news: Sequence[News], rooms: Iterable[str] | None) -> None:
        """Let clients at all replicas be told; `rooms` as in `Telling`."""
        self._bus.tell(KIND, _encode(Telling(news, None if rooms is None else list(rooms))))

    def _on_telling(self, position: int, body: bytes) -> None:
        self._clock.advance(position)
        telling = _decode(body)
        # Two replicas that take themselves for the one to decide say the same.
        news = [one for one in telling.news if one.joined or self.known(one.user_id).told != one.shown]
        if not news:
            return
        self._last_number = position
        for one in news:
            self._apply(one, position)
        if telling.rooms is None:
            self._room_floor = position
            self._room_numbers.clear()
        else:
            self._note_rooms(telling.rooms, position)
            self._to_wake.update(telling.rooms)
            self._woken_for.update(one.user_id for one in news)
            self._has_news.set()

    def _apply(self, news: News, number: int) -> None:
        user = self.known(news.user_id)
        if not user.loaded:
            user.say(news.shown.status_msg, news.shown.profile)
        user.last_active = max(user.last_active, news.last_active)
        user.tell(news.shown, number)
        self._by_number[news.user_id] = user
        self._by_number.move_to_end(news.user_id)
        self.settle(user)

    def _note_rooms(self, rooms: Iterable[str], number: int) -> None:
        for room_id in rooms:
            self._room_numbers[room_id] = number
            self._room_numbers.move_to_end(room_id)
        while len(self._room_numbers) > MAX_ROOMS:
            self._room_floor = max(self._room_floor, self._room_numbers.popitem(last=False)[1])

    # Being told

    def events(
        self, user: User, after: int, wanted: Wanted, now: int, *, joined: AbstractSet[str] = frozenset()
    ) -> list[bytes]:
        """`m.presence` events of users who share a room with `user`, changed after an ephemeral number.

        With `after` 0, all who are not offline. Of rooms that the user has `joined` since, all who are known.
        """
        if self._last_number <= after and not joined:
            return []
        in_rooms = {room_id for room_id, ref in user.memberships.items() if ref.membership == "join"}
        rooms = [room for room in in_rooms if self._room_numbers.get(room, self._room_floor) > after]
        own = self.here.get(user.user_id)
        changed = {other.user_id: other for other in self._changed_after(after)}
        near = self._those_in(rooms, set(changed))
        found = {id: other for id, other in changed.items() if other is own or id in near}
        for room_id in joined:
            room = self._rooms.cached(room_id)
            for user_id in room.joined if room is not None else ():
                if user_id in self.here and self.here[user_id].number:
                    found[user_id] = self.here[user_id]
        return [
            other.event(now)
            for other in found.values()
            if wanted(other.user_id) and (after or other.told.state != OFFLINE)
        ]

    def _changed_after(self, number: int) -> Iterator[UserPresence]:
        if not number:
            yield from (user for user in self.here.values() if user.number)
            return
        for user in reversed(self._by_number.values()):
            if user.number <= number:
                return
            yield user

    def _those_in(self, room_ids: Iterable[str], user_ids: AbstractSet[str]) -> set[str]:
        """Those of some users who are in one of some rooms, as far as these or those are in memory.

        There may be thousands of both: no user is looked for in one room after the other.
        """
        found: set[str] = set()
        absent: set[str] = set()
        for room_id in room_ids:
            room = self._rooms.cached(room_id)
            if room is None:
                absent.add(room_id)
            else:
                found |= room.joined & user_ids
        if absent:
            for user_id in user_ids - found:
                user = self._users.cached(user_id)
                memberships = user.memberships if user is not None else {}
                if any(memberships[room_id].membership == "join" for room_id in memberships.keys() & absent):
                    found.add(user_id)
        return found

    async def keep_waking(self) -> None:
        """Wake the polls of those whom news concern, until cancelled."""
        while True:
            await self._has_news.wait()
            await self._wake()
            await asyncio.sleep(self._long_polls.count * PACE)

    async def _wake(self) -> None:
        """Wake who is in one of the rooms; not the only one there are news of, who knows."""
        self._has_news.clear()
        rooms, self._to_wake = self._to_wake, set()
        woken_for, self._woken_for = self._woken_for, set()
        alone = next(iter(woken_for)) if len(woken_for) == 1 else None
        for n, user_id in enumerate(list(self._long_polls.users()), 1):
            user = self._users.cached(user_id)
            if user is not None and user_id != alone and not user.memberships.keys().isdisjoint(rooms):
                self._long_polls.wake_user(user_id)
            if n % WOKEN_AT_ONCE == 0:
                await asyncio.sleep(0)
