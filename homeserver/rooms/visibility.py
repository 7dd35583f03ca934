"""What a user may see of a room, by position (spec: client-server "Room history visibility").

The rule itself is in `protocol.visibility`; here the room's visibility setting and the user's
membership are laid out over the room's positions, so that whole pages are decided at once. In the gaps of a
timeline they are those that were noted there, and say nothing of what is outside.

What a user sees of an event is nothing, all of it, or what a redaction would leave: that is all that
later comers get of those who had themselves erased (spec: client-server "Account deactivation").
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeVar

import orjson

from homeserver.protocol.visibility import HistoryVisibility, View, may_see, parse_visibility
from homeserver.rooms.reading_order import gap_of, is_between
from homeserver.rooms.redaction import pruned_view
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.users.accounts import Accounts
from homeserver.users.users import User, Users
from storage.log import Entry, Kind, Log

MAX_CHANGES = 1000
LINES_KEPT = 10_000
CHANGES_KEPT = 40
"""In a line that is kept; longer ones are made anew, so that all together stay within tens of megabytes."""

BEFORE_ALL = -(1 << 62)

Basis = tuple[str | None, str | None, int, int]
"""What a sight line was made from: the current setting and member event, up to where was forgotten, and
`Room.fetched`."""

V = TypeVar("V")
Settings = Sequence[tuple[int, HistoryVisibility]]
Memberships = Sequence[tuple[int, str]]


class InGaps(NamedTuple):
    """Setting and membership as far as they were noted in the gaps of a timeline, by position."""

    settings: Settings = ()
    memberships: Memberships = ()

    def at(self, position: int) -> View:
        """What they were after the entry at a position of a gap."""
        setting = _newest(self.settings, position)
        return View(setting or HistoryVisibility.SHARED, _newest(self.memberships, position) or "leave")


NOTHING_IN_GAPS = InGaps()


def _newest(changes: Sequence[tuple[int, V]], position: int) -> V | None:
    """What was noted last in the same gap."""
    i = bisect_right(changes, position, key=itemgetter(0))
    return changes[i - 1][1] if i and gap_of(changes[i - 1][0]) == gap_of(position) else None


class SightLine:
    """One user's view of one room: setting and membership as step functions of the position."""

    def __init__(
        self,
        user_id: str,
        settings: Settings,
        memberships: Memberships,
        gaps: Mapping[int, int],
        in_gaps: InGaps = NOTHING_IN_GAPS,
    ) -> None:
        """`gaps`: how far down each of the room's was known. Of what is below that nothing is seen."""
        self.user_id = user_id
        self._gaps = gaps
        self._in_gaps = in_gaps
        self._setting_at = [position for position, _ in settings]
        self._settings = [value for _, value in settings]
        self._member_at = [position for position, _ in memberships]
        self._memberships = [value for _, value in memberships]
        self._joins = [position for position, value in memberships if value == "join"]
        self.now = self._memberships[-1] if memberships else "leave"
        self._changes = sorted({*self._setting_at, *self._member_at})
        self._verdicts: dict[int, bool] = {}
        """By the stretch between two changes: one for all events in it."""

    def membership_at(self, position: int) -> str:
        """The membership after the entry at `position`."""
        if is_between(position):
            return self._in_gaps.at(position).membership
        i = bisect_right(self._member_at, position)
        return self._memberships[i - 1] if i else "leave"

    @property
    def last_left(self) -> int | None:
        """Where a former member left (the last entry seen), None for somebody who never was joined."""
        if not self._joins:
            return None
        after_join = bisect_right(self._member_at, self._joins[-1])
        return self._member_at[after_join] if after_join < len(self._member_at) else None

    def left_between(self, after: int, upto: int) -> bool:
        """Whether the user was out of the room at some time after one position, up to another."""
        first, last = bisect_right(self._member_at, after), bisect_right(self._member_at, upto)
        return any(membership != "join" for membership in self._memberships[first:last])

    def setting_at(self, position: int) -> HistoryVisibility:
        i = bisect_right(self._setting_at, position)
        return self._settings[i - 1] if i else HistoryVisibility.SHARED

    @property
    def ever_joined(self) -> bool:
        return bool(self._joins)

    @property
    def joined_since(self) -> int:
        """Where a member came in last, whatever member events came since."""
        since = 0
        for position, membership in zip(reversed(self._member_at), reversed(self._memberships), strict=True):
            if membership != "join":
                break
            since = position
        return since

    def joined_after(self, position: int) -> bool:
        return bool(self._joins) and self._joins[-1] > position

    @property
    def changes(self) -> int:
        return len(self._changes) + len(self._in_gaps.settings) + len(self._in_gaps.memberships)

    def sees(self, event: RoomEvent) -> bool:
        """Whether the user may see an event of this room."""
        return self.sees_position(event.position, event.setting, event.newcomers)

    def sees_position(self, at: int, forked: str | None = None, newcomers: Sequence[str] = ()) -> bool:
        """Whether the user may see what is at a position of the room.

        `forked` is the room's setting before it, if it forks the room and that is another one there;
        `newcomers` are those who may not see it then, though they were in the room when it came.
        """
        if self.user_id in newcomers:
            return False
        if forked is not None:
            return self._judge(at, parse_visibility(forked))
        if at < 0 and at < self._gaps.get(gap_of(at), 0):
            return False
        if is_between(at):
            later = self.joined_after(gap_of(at))
            return may_see(self._in_gaps.at(at - 1), self._in_gaps.at(at), joins_later=later)
        stretch = bisect_right(self._changes, at)
        if stretch and self._changes[stretch - 1] == at:
            return self._judge(at)
        verdict = self._verdicts.get(stretch)
        if verdict is None:
            verdict = self._verdicts[stretch] = self._judge(at)
        return verdict

    def nearest_seen(self, at: int, *, forwards: bool) -> int | None:
        """The position next to one, in a direction, at which the user would see an event."""
        ends = sorted({position + step for position in self._changes for step in (-1, 0, 1)})
        there = ends[bisect_right(ends, at) :] if forwards else ends[: bisect_left(ends, at)][::-1]
        return next((position for position in there if self.sees_position(position)), None)

    def _judge(self, at: int, forked: HistoryVisibility | None = None) -> bool:
        below = at - 1
        before = View(forked or self.setting_at(below), self.membership_at(below))
        after = View(forked or self.setting_at(at), self.membership_at(at))
        return may_see(before, after, joins_later=self.joined_after(at))


class Visibility:
    """Makes sight lines."""

    def __init__(self, log: Log, users: Users, accounts: Accounts) -> None:
        self._log = log
        self._users = users
        self._accounts = accounts
        self._lines: OrderedDict[tuple[str, str], tuple[Basis, SightLine]] = OrderedDict()
        """By room and user, least recently used first."""

    async def sight_line(self, room: Room, user_id: str) -> SightLine:
        """What the user sees; memberships up to a leave that the user forgot count no more."""
        forgotten = BEFORE_ALL
        if self._users.is_local(user_id):
            forgotten = (await self._users.get(user_id)).forgotten.get(room.room_id, BEFORE_ALL)
        setting = room.head.lookup("m.room.history_visibility", "")
        member = room.head.lookup("m.room.member", user_id)
        basis = (
            setting.event_id if setting else None,
            member.event_id if member else None,
            forgotten,
            room.fetched,
        )
        key = (room.room_id, user_id)
        known = self._lines.get(key)
        if known is not None and known[0] == basis:
            self._lines.move_to_end(key)
            return known[1]
        line = await self._make(room, user_id, forgotten)
        if line.changes <= CHANGES_KEPT:
            self._lines[key] = basis, line
            if len(self._lines) > LINES_KEPT:
                self._lines.popitem(last=False)
        return line

    async def joined_since(self, room: Room, user: User) -> int:
        """Where a local user who is in the room came in last.

        Of one who was loaded that is not known in memory, if there was another member event since.
        """
        ref = user.memberships[room.room_id]
        member = room.head.lookup("m.room.member", user.user_id)
        before = member.unsigned().get("prev_content", {}) if member is not None else {}
        if ref.since == ref.position and before.get("membership") != "join":
            return ref.since
        return min(ref.since, (await self.sight_line(room, user.user_id)).joined_since)

    async def _make(self, room: Room, user_id: str, forgotten: int) -> SightLine:
        gaps = dict(room.gaps)
        settings = await self._history(room, "m.room.history_visibility", "")
        memberships = await self._history(room, "m.room.member", user_id)
        return SightLine(
            user_id,
            _settings(settings),
            _memberships(entry for entry in memberships if entry.position > forgotten),
            gaps,
            await self._in_gaps(room, user_id) if len(gaps) > 1 else NOTHING_IN_GAPS,
        )

    async def _in_gaps(self, room: Room, user_id: str) -> InGaps:
        settings = await self._history(room, "m.room.history_visibility", "", Kind.GAP_STATE)
        memberships = await self._history(room, "m.room.member", user_id, Kind.GAP_STATE)
        return InGaps(_settings(settings), _memberships(memberships))

    async def shown(self, room: Room, line: SightLine, events: Sequence[RoomEvent]) -> list[RoomEvent]:
        """What the user may see of the events, in the same order."""
        seen = [event for event in events if line.sees(event)]
        # Who was joined keeps what was sent. The erased may still be in the room, which they leave later.
        senders = {
            event.sender
            for event in seen
            if line.membership_at(event.position) != "join" and self._users.is_local(event.sender)
        }
        erased = await self._accounts.erased(senders) if senders else senders
        if not erased:
            return seen
        return [
            pruned_view(room.version, event, {})
            if event.sender in erased and line.membership_at(event.position) != "join"
            else event
            for event in seen
        ]

    async def _history(self, room: Room, type: str, key: str, kind: Kind = Kind.EVENT) -> list[Entry]:
        """Changes of one state key, oldest first; only the newest of a very long history."""
        current = room.head.state.get((type, key))
        if current is None:
            return []
        entries = await self._log.keyed(
            room.shard,
            room.room_id,
            kind=kind,
            type=type,
            key=key,
            newest_first=True,
            limit=MAX_CHANGES,
        )
        entries.reverse()
        return entries


def _settings(entries: Iterable[Entry]) -> Settings:
    return [(entry.position, parse_visibility(_value(entry, "history_visibility"))) for entry in entries]


def _memberships(entries: Iterable[Entry]) -> Memberships:
    return [(entry.position, _membership(entry)) for entry in entries]


def _value(entry: Entry, field: str) -> object:
    if entry.kind is Kind.STATE and entry.target is None:
        # Where a fork was resolved nothing may have been left under the key.
        return None
    content = orjson.loads(entry.body).get("content")
    return content.get(field) if isinstance(content, dict) else None


def _membership(entry: Entry) -> str:
    membership = _value(entry, "membership")
    return membership if isinstance(membership, str) else "leave"
