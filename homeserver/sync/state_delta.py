"""Which state events a sync shows beside the timeline (spec: client-server "Syncing", lazy loading)."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import count

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.since_tokens import SyncToken

KNOWN_MEMBERS_CACHES = 20_000
KNOWN_MEMBERS = 1_000


def is_in_force(room: Room, event: RoomEvent) -> bool:
    """Whether it is part of the current state."""
    if event.state_key is None:
        return False
    current = room.head.state.get((event.type, event.state_key))
    return current is not None and current.event_id == event.event_id


def state_since(room: Room, after: int, upto: int) -> list[RoomEvent]:
    """Current state events that were set after a position."""
    state = room.head.state
    if after < room.timeline_after or after < room.resolved_at:
        return [event for event in state.values() if after < event.position <= upto]
    recent = room.timeline[room.first_after(after) : room.first_after(upto)]
    keys = dict.fromkeys((event.type, event.state_key) for event in recent if event.state_key is not None)
    return [event for key in keys if (event := state.get(key)) and after < event.position <= upto]


def with_unshown(
    below: Iterable[RoomEvent], room: Room, timeline: Iterable[RoomEvent], start: int, upto: int
) -> list[RoomEvent]:
    """State below a timeline, and what was set within it by events that are not in it.

    Its filter holds them back, or they have no place there; a client would know nothing of them otherwise.
    """
    shown = {event.event_id for event in timeline}
    unshown = [event for event in state_since(room, start, upto) if event.event_id not in shown]
    return list({(event.type, event.state_key): event for event in (*below, *unshown)}.values())


class _Sent:
    """Member events that a device was sent of one room, by user, in one unbroken chain of answers."""

    __slots__ = ("chain", "events")

    def __init__(self, chain: int) -> None:
        self.chain = chain
        self.events: OrderedDict[str, str] = OrderedDict()


class KnownMembers:
    """Which member events a device was sent already, per room, so that lazy loading repeats none.

    That is known for certain as long as each request goes on where the last answer ended. When one does
    not (the device began anew, an answer was lost, another replica gave the last one), the device is taken
    to know nothing.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, str, str], _Sent] = OrderedDict()
        self._chains: OrderedDict[tuple[str, str], tuple[int, SyncToken]] = OrderedDict()
        """Device → the number of its chain of answers, and where the last one ended."""
        self._numbers = count()

    def follow(self, user_id: str, device_id: str, since: SyncToken | None, upto: SyncToken) -> int:
        """A device is about to be answered what lies between two positions; the chain of that answer.

        `since` is None where the device is to be sent everything.
        """
        device = (user_id, device_id)
        known = self._chains.get(device)
        chain = known[0] if known is not None and known[1] == since else next(self._numbers)
        self._chains[device] = (chain, upto)
        self._chains.move_to_end(device)
        if len(self._chains) > KNOWN_MEMBERS_CACHES:
            self._chains.popitem(last=False)
        return chain

    def new_to(
        self, user_id: str, device_id: str, chain: int, room_id: str, members: Iterable[RoomEvent]
    ) -> list[RoomEvent]:
        """Those of `members` that the device has not been sent; notes that it is sent them in this chain."""
        key = (user_id, device_id, room_id)
        sent = self._sent.get(key)
        if sent is None or sent.chain != chain:
            sent = self._sent[key] = _Sent(chain)
        self._sent.move_to_end(key)
        new: list[RoomEvent] = []
        for member in members:
            state_key = member.state_key or ""
            if sent.events.get(state_key) != member.event_id:
                sent.events[state_key] = member.event_id
                new.append(member)
        while len(sent.events) > KNOWN_MEMBERS:
            sent.events.popitem(last=False)
        while len(self._sent) > KNOWN_MEMBERS_CACHES:
            self._sent.popitem(last=False)
        return new


def lazy_members(
    room: Room,
    state: Sequence[RoomEvent],
    timeline: Sequence[RoomEvent],
    needed: Iterable[str],
    after: int | None,
) -> tuple[list[RoomEvent], list[RoomEvent]]:
    """(state other than members, members) for lazy loading.

    Those are the timeline's senders, and others who are `needed`. Who has been in the room `after` some
    position is told of everyone who changed since: clients keep their lists of members by that. Nobody has a
    list of those who were learnt late.
    """
    others: list[RoomEvent] = []
    by_user: dict[str | None, RoomEvent] = {}
    for event in state:
        if event.type == "m.room.member":
            by_user[event.state_key] = event
        else:
            others.append(event)
    in_timeline = {event.state_key for event in timeline if event.type == "m.room.member"}
    members: dict[str | None, RoomEvent] = {}
    if after is not None:
        members = {
            member: event
            for member, event in by_user.items()
            if event.position > after and event.position not in room.learnt
        }
    for who in {*needed, *(event.sender for event in timeline)}:
        member = by_user.get(who) or room.head.state.get(("m.room.member", who))
        if member is not None and (who not in in_timeline or who in by_user):
            members[who] = member
    return others, list(members.values())
