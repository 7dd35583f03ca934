"""Which bus the configuration asks for."""

from homeserver.bus.bus import Bus
from homeserver.bus.in_process import InProcessBus
from homeserver.clock import Clock
from homeserver.config.options import Bus as BusOptions
from storage.log import ShardMap
from storage.store import StoreInfo


def make_bus(options: BusOptions, store: StoreInfo, address: str, now: Clock) -> Bus:
    """The bus, not yet started. `address`: host:port at which other replicas reach this one.

    Raises BusUnavailable when it cannot be used as configured.
    """
    if options.uri.startswith("kafka:"):
        # The library need not be there otherwise.
        from homeserver.bus.kafka.bus import KafkaBus

        return KafkaBus(options, store, address, now)
    return InProcessBus(store.shards, now)


def name_of(options: BusOptions) -> str:
    """What servers have in common that hear of each other; "" for one that hears of nobody."""
    return options.topic_prefix if options.uri.startswith("kafka:") else ""


async def check_bus(options: BusOptions, shards: ShardMap) -> None:
    """Look whether the bus is there and fit for these shards; changes nothing. Raises BusUnavailable."""
    if options.uri.startswith("kafka:"):
        from homeserver.bus.kafka.bus import check

        await check(options, shards)
