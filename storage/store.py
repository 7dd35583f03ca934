"""What a backend gives to the composition root: the log, the collections, the search index, and who the
store is."""

import secrets
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from storage.collection import Collection, CollectionSpec, Record
from storage.log import Log, ShardMap
from storage.search import SearchIndex

T = TypeVar("T", bound=Record)

FORMAT = 1
"""The store format this release writes. A store of a higher format is refused."""


class StoreInfo(msgspec.Struct, frozen=True):
    """Fixed when the store is created, but for the `epoch`, which is random: by it, what is said of this
    store is told apart from what was said of another one, or of this one before a backup was restored."""

    epoch: str
    server_name: str
    shards: ShardMap
    format: int


def new_epoch() -> str:
    return secrets.token_hex(8)


def is_epoch(text: str) -> bool:
    """Whether a store may have called its epoch so."""
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


class Remark(msgspec.Struct, frozen=True):
    """Something about a store that its administrator should know."""

    serious: bool
    """Whether it may lose something, or does not work; the rest is a warning."""
    text: str
    remedy: str


class Occupant(msgspec.Struct, frozen=True):
    """A server that has a store open."""

    address: str
    """Where it is reached, for messages."""
    bus: str
    """Names that by which it hears of other servers; "" if it does not."""
    cluster: str = ""
    """Names the brokers of that; "" if nobody knows."""

    def hears_of(self, other: "Occupant") -> bool:
        one_cluster = self.cluster in ("", other.cluster) or other.cluster == ""
        return self.bus == other.bus != "" and one_cluster


class Examination(msgspec.Struct, frozen=True):
    """What a backend sees when it looks at its store."""

    remarks: Sequence[Remark] = ()
    server_time: int | None = None
    """Milliseconds since 1970 by the clock of the database, where it is a server of its own."""
    occupants: Sequence[Occupant] = ()
    """Who has claimed the store and runs, where the store may be open more than once."""


class Store(Protocol):
    """An open store."""

    @property
    def info(self) -> StoreInfo: ...

    @property
    def log(self) -> Log: ...

    @property
    def search(self) -> SearchIndex: ...

    def collection(self, spec: CollectionSpec[T]) -> Collection[T]:
        """The collection of a spec that was given at opening."""
        ...

    async def claim(self, occupant: Occupant) -> None:
        """Keep servers out that would not hear of this one, from now until `close`.

        One that died is waited for, some seconds. Raises StoreRefused when one of them runs, with what to do.
        """
        ...

    async def begin_epoch(self) -> None:
        """Have it count as another store from now on. Whoever has it open must close it."""
        ...

    async def size_bytes(self) -> int:
        """What the store takes on disk."""
        ...

    async def examine(self) -> Examination:
        """Look for what the backend wants otherwise; changes nothing. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Finish what is in flight, then close."""
        ...


class OpenStore(Protocol):
    """How the composition root opens a backend: runs migrations, checks the format, creates if absent.

    Raises StoreRefused (with what to do) and StoreUnavailable.
    """

    async def __call__(
        self, uri: str, *, server_name: str, shards: ShardMap, specs: Sequence[CollectionSpec[Any]]
    ) -> Store: ...
