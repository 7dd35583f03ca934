"""Which state events a sync shows beside the timeline (spec: client-server "Syncing", lazy loading)."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent

KNOWN_MEMBERS_CACHES = 20_000
KNOWN_MEMBERS = 1_000


def state_since(room: Room, after: int, upto: int) -> list[RoomEvent]:
    """Current state events that were set after a position (for `state_after`)."""
    return [event for event in room.head.state.values() if after < event.position <= upto]


class KnownMembers:
    """Which member events a device was sent already, per room, so that lazy loading repeats none."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, str, str], OrderedDict[str, str]] = OrderedDict()

    def new_to(
        self, user_id: str, device_id: str, room_id: str, members: Iterable[RoomEvent]
    ) -> list[RoomEvent]:
        """Those of `members` that the device has not been sent; notes that it is sent them now."""
        key = (user_id, device_id, room_id)
        sent = self._sent.get(key)
        if sent is None:
            sent = self._sent[key] = OrderedDict()
        else:
            self._sent.move_to_end(key)
        new: list[RoomEvent] = []
        for member in members:
            state_key = member.state_key or ""
            if sent.get(state_key) != member.event_id:
                sent[state_key] = member.event_id
                new.append(member)
        while len(sent) > KNOWN_MEMBERS:
            sent.popitem(last=False)
        while len(self._sent) > KNOWN_MEMBERS_CACHES:
            self._sent.popitem(last=False)
        return new

    def forget(self, user_id: str, device_id: str, room_id: str) -> None:
        """Begin anew: the device asks from the start."""
        self._sent.pop((user_id, device_id, room_id), None)


def lazy_members(
    room: Room, state: Sequence[RoomEvent], timeline: Sequence[RoomEvent], user_id: str
) -> tuple[list[RoomEvent], list[RoomEvent]]:
    """(state other than members, members of the timeline's senders and the reader) for lazy loading."""
    others: list[RoomEvent] = []
    by_user: dict[str | None, RoomEvent] = {}
    for event in state:
        if event.type == "m.room.member":
            by_user[event.state_key] = event
        else:
            others.append(event)
    in_timeline = {event.state_key for event in timeline if event.type == "m.room.member"}
    senders = {user_id, *(event.sender for event in timeline)}
    members: list[RoomEvent] = []
    for sender in senders:
        member = by_user.get(sender) or room.head.state.get(("m.room.member", sender))
        if member is not None and (sender not in in_timeline or sender in by_user):
            members.append(member)
    return others, members
