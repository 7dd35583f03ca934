"""What the server remembers of a sliding-sync connection: which rooms the client has, and up to where.

The last two positions are kept, since a client whose answer was lost asks again with the one before.
A connection that is not known (restart, too long ago) is answered M_UNKNOWN_POS: the client begins anew.
"""

from collections import OrderedDict
from secrets import token_hex

import msgspec

from homeserver.errors import MatrixError
from homeserver.tokens import SyncToken

MAX_CONNECTIONS = 20_000


class SentRoom(msgspec.Struct, frozen=True):
    """A room that the client has: up to which seq of its shard, and by which wishes."""

    upto: int
    timeline_limit: int
    state: tuple[object, ...]
    members: frozenset[str] = frozenset()
    """Users whose member events were sent because of lazy loading."""
    live: bool = True
    """Invites and left rooms are sent once, not followed."""


class Snapshot(msgspec.Struct, frozen=True):
    """What the client has once it has the answer that ends in `position`."""

    position: SyncToken
    rooms: dict[str, SentRoom]
    lists: dict[str, int]


class Connection:
    """One (user, device, conn_id)."""

    def __init__(self) -> None:
        self.token = token_hex(4)
        self.counter = 0
        self.snapshots: OrderedDict[int, Snapshot] = OrderedDict()

    def remember(self, snapshot: Snapshot) -> str:
        """Keep a snapshot; the `pos` that stands for it."""
        self.counter += 1
        self.snapshots[self.counter] = snapshot
        while len(self.snapshots) > 2:
            self.snapshots.popitem(last=False)
        return f"{self.counter}/{self.token}"

    def snapshot(self, pos: str) -> Snapshot:
        """Raises 400 M_UNKNOWN_POS."""
        counter, _, token = pos.partition("/")
        number = int(counter) if counter.isascii() and counter.isdigit() and len(counter) < 18 else -1
        if token != self.token or number not in self.snapshots:
            raise unknown_pos()
        for older in [known for known in self.snapshots if known < number]:
            del self.snapshots[older]
        return self.snapshots[number]


class Connections:
    """The connections in use, the least recently used first."""

    def __init__(self) -> None:
        self._connections: OrderedDict[tuple[str, str, str], Connection] = OrderedDict()

    def get(self, user_id: str, device_id: str, conn_id: str, pos: str | None) -> Connection:
        """The connection; a new one without `pos`. Raises 400 M_UNKNOWN_POS."""
        key = (user_id, device_id, conn_id)
        if pos is None:
            self._connections[key] = Connection()
        connection = self._connections.get(key)
        if connection is None:
            raise unknown_pos()
        self._connections.move_to_end(key)
        while len(self._connections) > MAX_CONNECTIONS:
            self._connections.popitem(last=False)
        return connection


def unknown_pos() -> MatrixError:
    return MatrixError(400, "M_UNKNOWN_POS", "Unknown position; start again without pos")
