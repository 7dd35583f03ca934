"""What a running server tells another replica, or the doctor, of itself."""

from collections.abc import Mapping, Sequence

import msgspec

from homeserver import __version__
from homeserver.bus.consumer import Consumer
from homeserver.bus.replica import Replica
from homeserver.doctor.findings import Finding

PATH = "/_weft/internal/health"


class Health(msgspec.Struct, frozen=True):
    """One replica."""

    version: str
    server_name: str
    now: int
    """By its clock, ms."""
    shared: bool
    """Whether there may be other replicas."""
    connected: bool
    """Whether the bus is there."""
    own: frozenset[int]
    owners: Mapping[int, str]
    """The owner's address of each shard, as this replica believes."""
    lags: Mapping[str, Mapping[int, int]]
    """Entries that wait, by consumer and owned shard."""
    set_aside: Mapping[str, int]
    """Entries that could not be handled and were gone past since the start, by consumer."""
    store: list[Finding]


def health_of(
    replica: Replica, consumers: Sequence[Consumer], *, server_name: str, now: int, store: list[Finding]
) -> Health:
    lags: dict[str, dict[int, int]] = {}
    set_aside: dict[str, int] = {}
    for consumer in consumers:
        lags.setdefault(consumer.name, {}).update(consumer.lag())
        set_aside[consumer.name] = set_aside.get(consumer.name, 0) + consumer.set_aside
    return Health(
        version=__version__,
        server_name=server_name,
        now=now,
        shared=replica.shared,
        connected=replica.connected,
        own=replica.ownership.own,
        owners=replica.ownership.addresses,
        lags=lags,
        set_aside=set_aside,
        store=store,
    )
