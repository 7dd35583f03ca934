"""Collections: typed records beside the log, each operation atomic on one record, never on two.

A record type is a frozen `Record` struct; its `CollectionSpec` names the key, and the indexes by
which it can be found. A backend implements the generic collection once; a new record type needs no
line in a backend. Fields may be added with defaults at any time (defaults are not stored).
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of all record types. Key and index fields are `str` or `int` (index fields may be None)."""


T = TypeVar("T", bound=Record)

Scalar = str | int


class Index(msgspec.Struct, frozen=True):
    """Records ordered by these fields. A record with None in any of them is not in the index."""

    name: str
    fields: tuple[str, ...]
    unique: bool = False


class CollectionSpec(msgspec.Struct, Generic[T], frozen=True):
    """Declares a collection once: its stored name, record type, key fields and indexes."""

    name: str
    record: type[T]
    key: tuple[str, ...]
    indexes: tuple[Index, ...] = ()


class Collection(Protocol[T]):
    """Every write is durable when the call returns. A cancelled caller never half-writes."""

    async def get(self, *key: Scalar) -> T | None: ...

    async def get_many(self, keys: Sequence[tuple[Scalar, ...]]) -> list[T]:
        """The records that exist, in the order of `keys`."""
        ...

    async def insert(self, record: T) -> None:
        """Raises AlreadyExists when the key or a unique index value is taken."""
        ...

    async def put(self, record: T) -> None:
        """Insert or replace by key. Raises AlreadyExists when another record holds a unique value."""
        ...

    async def put_many(self, records: Sequence[T]) -> None:
        """Like `put` for each, in one commit where the backend can; not atomic as a whole."""
        ...

    async def replace_if(self, old: T | None, new: T, *, then: "Sequence[Puts[Any]]" = ()) -> bool:
        """Replace `old` by `new` (same key) if the stored record still equals `old`; else False.

        None stands for no record. If it was replaced, the records of `then` are put too: in one commit
        where the backend can, else afterwards, so that a failure may leave them out. No index of theirs
        is unique. Raises AlreadyExists when another record holds a unique value of `new`.
        """
        ...

    async def take(self, index: str, prefixes: Sequence[Sequence[Scalar]], items: str) -> list[T | None]:
        """Take one thing from the first record under each prefix, in index order; None if there is none.

        That is the first of those that its field `items`, a tuple, has: the record is given with only this
        one in it. If it has none, it is the record itself, which is then removed. Two callers never get
        the same. Not atomic as a whole.
        """
        ...

    async def delete(self, *key: Scalar) -> bool:
        """True if it was there."""
        ...

    async def delete_where(self, index: str, prefix: Sequence[Scalar]) -> int:
        """Delete all under `prefix` (in batches, not atomic as a whole); how many there were."""
        ...

    async def find(
        self,
        index: str,
        prefix: Sequence[Scalar] = (),
        *,
        after: Scalar | None = None,
        before: Scalar | None = None,
        newest_first: bool = False,
        limit: int = 1000,
    ) -> list[T]:
        """Records under `prefix` in index order; `after`/`before` bound the next field, exclusively.

        `index` may be "key" for the primary key. A prefix of all fields finds the exact matches.
        Text is ordered by code points; records alike in all fields of the index come in any order.
        """
        ...

    async def find_prefix(self, index: str, prefix: Sequence[Scalar], text: str, *, limit: int) -> list[T]:
        """Records whose next index field, a string, starts with `text`, in order."""
        ...

    async def count(self, index: str, prefix: Sequence[Scalar] = ()) -> int:
        """How many records lie under `prefix` (walks the index: not for hot paths)."""
        ...


class Puts(NamedTuple, Generic[T]):
    """Records that are to be put into a collection."""

    into: Collection[T]
    records: Sequence[T]


def after_all_that_start_with(text: str) -> str | None:
    """The least string above all that start with `text`, by code points; None if there is none."""
    stem = text.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)
