"""Which bus the configuration asks for."""

from homeserver.bus.bus import Bus, BusUnavailable
from homeserver.bus.in_process import InProcessBus
from homeserver.clock import Clock
from homeserver.config.options import Bus as BusOptions
from storage.log import ShardMap
from storage.store import Occupant, StoreInfo


def make_bus(options: BusOptions, store: StoreInfo, address: str, now: Clock) -> Bus:
    """The bus, not yet started. `address`: host:port at which other replicas reach this one.

    Raises BusUnavailable when it cannot be used as configured.
    """
    if options.uri.startswith("kafka:"):
        # The library need not be there otherwise.
        from homeserver.bus.kafka.bus import KafkaBus

        return KafkaBus(options, store, address, now)
    return InProcessBus(store.shards, now)


async def occupant_of(options: BusOptions, address: str) -> Occupant:
    """The server at an address, with what those who hear of each other have in common.

    Raises BusUnavailable.
    """
    if not options.uri.startswith("kafka:"):
        return Occupant(address, "")
    from homeserver.bus.kafka.connection import Connection

    try:
        return Occupant(address, options.topic_prefix, await Connection.of(options).cluster())
    except BusUnavailable as error:
        raise BusUnavailable(f"bus.uri: {error}") from error


async def check_bus(options: BusOptions, shards: ShardMap) -> None:
    """Look whether the bus is there and fit for these shards; changes nothing. Raises BusUnavailable."""
    if options.uri.startswith("kafka:"):
        from homeserver.bus.kafka.bus import check

        await check(options, shards)
