"""The bus port: what replicas tell each other and the installation's other programs, and who owns what.

Three things go over the bus:

- *Entries* of the log, published in order, shard by shard, by the shard's owner. The log remains the truth:
  a bus may repeat entries or begin anywhere, and whoever misses some reads them from the log.
- *Messages* of a moment that are kept nowhere (typing, presence, …). All replicas get them in one order,
  the sender included, each with a position that only grows: positions are a part of since-tokens.
- *Ownership*: each shard belongs to one of the replicas that are alive. It is what spreads work, never what
  makes it correct: two replicas may take themselves for the owner of a shard for a while.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from storage.log import Entry

POSITIONS_PER_MS = 1 << 10
"""The position of a message is the time when the bus took it, and below that something to tell messages
of one millisecond apart; so positions go on growing when a bus is begun anew."""

OnMessage = Callable[[int, bytes], None]
"""Called with a message's position and body."""


class BusUnavailable(Exception):
    """The bus cannot take it now; the message says why."""


class Ownership(msgspec.Struct, frozen=True):
    """Which shards belong to this replica, and at which address (host:port) the owner of each one is."""

    own: frozenset[int]
    addresses: Mapping[int, str] = {}


class BusListener(Protocol):
    """A replica, as the bus sees it. Nothing here may block or raise."""

    def on_entries(self, shard: int, entries: Sequence[Entry]) -> None:
        """Entries of a shard as they were published: in order, perhaps again, perhaps not all."""
        ...

    def on_ownership(self, ownership: Ownership) -> None:
        """Shards were divided anew."""
        ...

    def on_connection(self, connected: bool) -> None:
        """The bus went away or came back. While it is away, the last ownership holds."""
        ...


class Bus(Protocol):
    """Carries entries and messages. Other replicas are there only if `shared`."""

    @property
    def shared(self) -> bool: ...

    def subscribe(self, kind: str, on_message: OnMessage) -> None:
        """Have messages of this kind handed over, from the start on; one subscriber for each kind."""
        ...

    def tell(self, kind: str, body: bytes) -> None:
        """Send a message to all replicas, this one included; lost when the bus is away for long.

        While the bus is away this replica gets its own messages all the same.
        """
        ...

    async def start(self, listener: BusListener) -> None:
        """Connect, and begin to call the listener. Raises BusUnavailable with what to do about it."""
        ...

    async def publish(self, shard: int, entries: Sequence[Entry]) -> None:
        """Publish entries of a shard in order; returns once the bus has them. Raises BusUnavailable."""
        ...

    async def close(self) -> None:
        """Hand over what was taken, leave the group of replicas, and disconnect."""
        ...
