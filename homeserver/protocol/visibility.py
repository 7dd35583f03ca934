"""History visibility: may this user or server see that event? (client-server, "Room history visibility")

Decided by the state *at the event*, never by today's setting. The rule speaks of an event's two sides, the
state just before it and the state just after it, and allows what either side allows. For almost every event
the sides are equal. They differ in what counts only for a change of `m.room.history_visibility` and for the
user's own `m.room.member` events, and these are the two that the specification grants from either side.

What a caller brings, for an event at a position of the room's history:

* `View(visibility, membership)` of each side: the content of (`m.room.history_visibility`, "") through
  `parse_visibility`, and `membership` of (`m.room.member`, user) or "leave" if there is none, in the state
  before and after the event. On the linear history that is the latest change below the position and the
  latest at or below it. For an event beside it (a fork) it is that event's own state.
* `joins_later`: did the user join at any later position, a join that has since ended included?

A server may see what any of its users may see, so it is asked about with the same function: the membership
is then the `strongest_membership` among its users, and `joins_later` holds if it does for one of them. An
event that a server may not see is still part of the graph: it is handed over redacted, not left out.

Who has no business in the room at all (never joined, not world-readable) is turned away by the route before;
rejected and soft-failed events are shown to nobody, which is settled elsewhere too.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class HistoryVisibility(StrEnum):
    """The setting of a room, from the most open to the most closed."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


class View(NamedTuple):
    """What of one side of an event decides: the room's setting and the membership of who asks."""

    visibility: HistoryVisibility
    membership: str


def parse_visibility(value: object) -> HistoryVisibility:
    """The setting in `content.history_visibility`; absent or not understood, it is `shared`."""
    return next((known for known in HistoryVisibility if known == value), HistoryVisibility.SHARED)


def strongest_membership(memberships: Iterable[str]) -> str:
    """The membership of a server: `join` if one of its users has joined, else `invite`, else `leave`."""
    found = set(memberships)
    return next((membership for membership in ("join", "invite") if membership in found), "leave")


def may_see(before: View, after: View, *, joins_later: bool) -> bool:
    """Whether a user, or a server through its users, may see the event between these two sides."""
    return _allows(before, joins_later) or _allows(after, joins_later)


def _allows(view: View, joins_later: bool) -> bool:
    # spec: client-server#room-history-visibility, server behaviour 1 to 5
    visibility, membership = view
    return (
        visibility is HistoryVisibility.WORLD_READABLE
        or membership == "join"
        or (visibility is HistoryVisibility.SHARED and joins_later)
        or (visibility is HistoryVisibility.INVITED and membership == "invite")
    )
