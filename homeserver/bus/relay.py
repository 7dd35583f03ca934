"""Puts the log on the bus: a consumer like others, so that after a crash it goes on from its cursor.

Only the owner of a shard publishes it, in order. Should two replicas take themselves for the owner, both
publish without a gap from where they stand, so whoever passes over the numbers already seen still reads
each entry once and in order.
"""

from collections.abc import Sequence

from homeserver.bus.bus import Bus, BusUnavailable
from homeserver.bus.consumer import HandleBatch
from homeserver.errors import unavailable
from storage.log import Entry, Kind


def wants(entry: Entry) -> bool:
    """The relay takes all that can be told."""
    return entry.kind is not Kind.UNKNOWN


def publishing(bus: Bus) -> HandleBatch:
    """How its consumer handles entries."""

    async def publish(shard: int, entries: Sequence[Entry]) -> None:
        try:
            await bus.publish(shard, entries)
        except BusUnavailable as error:
            raise unavailable(f"The bus is away: {error}") from error

    return publish
