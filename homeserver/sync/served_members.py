"""Who of those that this replica serves is in which room, for rooms that it does not have in memory.

Most events that a replica reads along are of rooms in which none of its users is: each must cost no more
than a look into a table, however many polls wait here. A user whom memory has no place for may wait all
the same, and is remembered as long as they do.
"""

from collections.abc import Collection

from homeserver.sync.long_polls import LongPolls
from homeserver.users.users import User, Users


class ServedMembers:
    """Told of users as they are loaded, and of their memberships as they change."""

    def __init__(self, users: Users, long_polls: LongPolls) -> None:
        self._users = users
        self._long_polls = long_polls
        self._by_room: dict[str, set[str]] = {}
        self._added = 0

    def of(self, room_id: str) -> Collection[str]:
        """Users with a membership of the room, even if it is that they left; some may be served no more."""
        return self._by_room.get(room_id, ())

    def loaded(self, user: User) -> None:
        """The user is in memory now, with all memberships."""
        for room_id in user.memberships:
            self._by_room.setdefault(room_id, set()).add(user.user_id)
        self._added += 1
        if self._added > self._users.max_users:
            self._added = 0
            self._forget()

    def changed(self, user_id: str, room_id: str) -> None:
        """Somebody's membership of a room is another one; who is not in memory is loaded when woken."""
        if self._users.cached(user_id) is not None:
            self._by_room.setdefault(room_id, set()).add(user_id)

    def _forget(self) -> None:
        """Leave out whoever is neither in memory nor waits."""
        waiting = set(self._long_polls.users())
        for room_id, members in list(self._by_room.items()):
            members -= {each for each in members if each not in waiting and self._users.cached(each) is None}
            if not members:
                del self._by_room[room_id]
