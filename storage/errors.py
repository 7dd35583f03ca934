"""What may go wrong in a store.

StoreError
├── Conflict              another writer extended the shard first: read on, check again, append behind
├── Duplicate             an entry that is already in the log (by event id or by client transaction)
├── AlreadyExists         a record with this key or this unique index value is there
├── StoreUnavailable      the store cannot take it now (disk full, no primary, timeout): nothing is known
│   ├── OutcomeUnknown    … and it may or may not have been stored
│   └── StoreReplaced     … and never will: it is not the store any more that was opened, or not this server's
├── StoreDamaged          a part of what is stored cannot be read, the rest can
└── StoreRefused          the store must not be opened (newer format, other shard count, damaged)
"""


class StoreError(Exception):
    """Base of everything a store raises on purpose."""


class Conflict(StoreError):
    """`expected` was not the shard's tail any more; nothing of the append is stored."""

    def __init__(self, shard: int, tail: int) -> None:
        super().__init__(f"shard {shard} is at {tail}")
        self.shard = shard
        self.tail = tail


class Duplicate(StoreError):
    """Entry number `index` of the append is in the log already, at `seq`; nothing of the append is stored.

    `seq` is 0 when the other one comes earlier in the same append. `by` is "event_id" or "txn".
    """

    def __init__(self, index: int, seq: int, by: str) -> None:
        super().__init__(f"entry {index} is already at {seq} (same {by})")
        self.index = index
        self.seq = seq
        self.by = by


class AlreadyExists(StoreError):
    """A record with the same value under `index` ("key" for the primary key) is there."""

    def __init__(self, collection: str, index: str) -> None:
        super().__init__(f"{collection}: same {index} is there already")
        self.collection = collection
        self.index = index


class StoreUnavailable(StoreError):
    """The store cannot do it now; the message says why. Nothing was stored."""


class OutcomeUnknown(StoreUnavailable):
    """The store did not say whether it was stored; look before writing again."""


class StoreReplaced(StoreUnavailable):
    """Another store lies where this one was opened, or it lost what it had, or another server has taken it:
    whoever has it open must end."""


class StoreDamaged(StoreError):
    """What was asked for is there, and cannot be read any more; asking again is of no use."""


class StoreRefused(StoreError):
    """The store must not be opened by this release; the message says why and what to do."""
