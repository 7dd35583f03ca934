"""The one place in a process that extends shards: all appends that wait become one commit.

A commit is one ordered insert over all shards, sorted by shard, and only one is in flight. Each entry
takes the number behind its shard's tail, so where another process was first, the unique index over the
numbers refuses the entry and the insert ends there. What it stored is a prefix of what it was given, and
so of each shard: a valid log. What is left is judged anew, with tails read anew.

Tails are cached, which is safe since a number once given is never free again (`removal`), not even if its
entry was removed. After any failure, and after a while (`TRUSTED_S`), they are read again.

An append is stored whole or not at all as far as can be helped: it is looked up beforehand whether one of
its entries is double, and up to some size the server stores it in one step. Should an append be stored
in part nevertheless, its caller is told that the outcome is unknown.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pymongo.errors import BulkWriteError, PyMongoError

from storage.errors import Conflict, OutcomeUnknown, StoreError, StoreUnavailable
from storage.log import Entry
from storage.mongo import log_reads
from storage.mongo.connection import Connection, Document
from storage.mongo.documents import to_document
from storage.mongo.doubles import Doubles, Unique, unique_values
from storage.mongo.faults import duplicate, outcome_unknown, unavailable, was_not_sent
from storage.mongo.schema import BY_ID, LOG, MAX_SEQ

MAX_PENDING = 20_000
MAX_ENTRIES = 100
MAX_BYTES = 100_000
"""Of a commit, unless one append alone is larger. So much at once the server shows whole or not at all."""
TRUSTED_S = 3600.0
"""How long a cached tail is believed; much less than the numbers of removed entries stay taken."""

Outcome = int | Exception
"""The new tail, or why there is none."""


class _Append:
    """A request to extend `shard`, whose tail must be `expected`."""

    __slots__ = ("after", "end", "entries", "expected", "future", "is_refused", "shard")

    def __init__(
        self,
        shard: int,
        expected: int,
        entries: Sequence[Entry],
        future: asyncio.Future[int],
        after: "_Append | None",
    ) -> None:
        """`after`: the one under way that it builds upon."""
        self.after = after
        self.is_refused = False
        self.shard = shard
        self.expected = expected
        self.entries = entries
        self.future = future
        self.end = expected + len(entries)

    def documents(self) -> Iterator[Document]:
        for seq, entry in enumerate(self.entries, start=self.expected + 1):
            yield to_document(self.shard, seq, entry)

    def in_doubt(self) -> Iterator[Unique]:
        """What may be in the log already: an event of a client's transaction is made for it, and is new."""
        for entry in self.entries:
            yield from unique_values(self.shard, entry)[-1:]

    def settle(self, outcome: Outcome) -> None:
        """Tell the caller, unless that one has left."""
        self.is_refused |= isinstance(outcome, Exception)
        self.after = None
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Commits:
    """Appends on behalf of everybody in this process. Must be closed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[_Append] = deque()
        self._task: asyncio.Task[None] | None = None
        self._tails: dict[int, tuple[int, float]] = {}
        """Shard → its tail as this process knows it, and since when."""
        self._last: dict[int, _Append] = {}
        """Shard → the append that was asked for last."""
        self._closed = False

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        """See `storage.log.Log.append`. It goes on when its caller is cancelled."""
        if self._closed:
            raise StoreUnavailable("The store is closed")
        if len(self._waiting) >= MAX_PENDING:
            raise StoreUnavailable("Too many appends are waiting")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        last = self._last.get(shard)
        after = last if last is not None and last.end == expected and not last.future.done() else None
        self._last[shard] = append = _Append(shard, expected, entries, future, after)
        self._waiting.append(append)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log-commits")
        return await future

    def tails(self) -> dict[int, int]:
        """Where the shards ended when this process looked last, of those where that is still believed."""
        trusted = time.monotonic() - TRUSTED_S
        return {shard: tail for shard, (tail, since) in self._tails.items() if since > trusted}

    async def close(self) -> None:
        """Finish what waits."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._attempt(self._next_batch())
        finally:
            self._task = None

    def _next_batch(self) -> list[_Append]:
        batch: list[_Append] = []
        count = size = 0
        while self._waiting and count < MAX_ENTRIES and size < MAX_BYTES:
            append = self._waiting.popleft()
            batch.append(append)
            count += len(append.entries)
            size += sum(len(entry.body) for entry in append.entries)
        return batch

    async def _attempt(self, batch: list[_Append]) -> None:
        try:
            await self._commit(batch)
        except Exception as error:
            self._tails.clear()
            if isinstance(error, StoreError) or len(batch) == 1:
                for append in batch:
                    append.settle(error)
                return
            # One of them cannot be written down: each by itself, so that only that one is told.
            for append in batch:
                await self._attempt([append])

    async def _commit(self, batch: list[_Append]) -> None:
        """Settle all of a batch, by as many inserts as the appends of others make necessary."""
        first = True
        while batch:
            await self._know_tails(batch)
            doubles = Doubles()
            # Of one entry nothing is stored if the index refuses it, so that it need not be looked up.
            asked = [append for append in batch if len(append.entries) > 1 or not first]
            await doubles.look_up(
                self._connection, [unique for append in asked for unique in append.in_doubt()]
            )
            outcomes = self._judge(batch, doubles)
            accepted = [append for append in batch if isinstance(outcomes[append], int)]
            accepted.sort(key=lambda append: append.shard)
            documents = [document for append in accepted for document in append.documents()]
            try:
                stored = await self._insert(documents)
            except PyMongoError as error:
                await self._after_failure(batch, accepted, documents, error)
                return
            if stored == len(documents):
                self._learn(accepted)
                for append, outcome in outcomes.items():
                    append.settle(outcome)
                return
            self._tails.clear()
            settled = _settle_stored(accepted, stored)
            batch = [append for append in batch if append not in settled]
            first = False

    async def _know_tails(self, batch: Sequence[_Append]) -> None:
        """Read the tails that are not known, or seem to be behind what their writers know."""
        reached = self.tails()
        behind: set[int] = set()
        for append in batch:
            at = reached.get(append.shard, -1)
            if append.expected > at:
                behind.add(append.shard)
            elif append.expected == at:
                reached[append.shard] = append.end
        shards = list(behind)
        tails = await asyncio.gather(*(log_reads.tail(self._connection, shard) for shard in shards))
        now = time.monotonic()
        self._tails.update((shard, (tail, now)) for shard, tail in zip(shards, tails, strict=True))

    def _judge(self, batch: Sequence[_Append], doubles: Doubles) -> dict[_Append, Outcome]:
        """What becomes of each if those are stored that can be."""
        reached: dict[int, int] = {}
        outcomes: dict[_Append, Outcome] = {}
        for append in batch:
            tail = reached.get(append.shard, self._tails[append.shard][0])
            refusal = _refusal(append, tail) or doubles.among(append.shard, append.entries)
            if refusal is not None:
                # At once: those that build upon it are judged next.
                append.is_refused = True
                outcomes[append] = refusal
                continue
            for seq, entry in enumerate(append.entries, start=tail + 1):
                doubles.add(append.shard, seq, entry)
            outcomes[append] = reached[append.shard] = append.end
        return outcomes

    async def _insert(self, documents: Sequence[Document]) -> int:
        """How many of the documents are stored; the one behind them is there already. Raises PyMongoError."""
        if not documents:
            return 0
        try:
            async with self._connection.session() as session:
                await self._connection.collection(LOG).insert_many(documents, session=session)
        except BulkWriteError as error:
            refused = duplicate(error)
            if refused is None:
                raise
            return int(refused["index"])
        return len(documents)

    def _learn(self, appended: Sequence[_Append]) -> None:
        now = time.monotonic()
        self._tails.update((append.shard, (append.end, now)) for append in appended)

    async def _after_failure(
        self,
        batch: Sequence[_Append],
        accepted: Sequence[_Append],
        documents: Sequence[Document],
        error: PyMongoError,
    ) -> None:
        """Settle a batch whose insert failed: what is in the log by now counts."""
        self._tails.clear()
        if was_not_sent(error):
            for append in batch:
                append.settle(unavailable(error))
            return
        with suppress(StoreUnavailable):
            ids = {"_id": {"$in": [document["_id"] for document in documents]}}
            found = await self._connection.find(LOG, ids, hint=BY_ID)
            present = {document["_id"]: document for document in found}
            for append in accepted:
                if all(present.get(document["_id"]) == document for document in append.documents()):
                    append.settle(append.end)
        for append in accepted:
            append.settle(outcome_unknown(error))
        for append in batch:
            append.settle(unavailable(error))


def _refusal(append: _Append, tail: int) -> StoreError | None:
    # Others may have written as much as one that was refused had: what built upon that must not pass.
    upon_refused = append.after is not None and append.after.is_refused
    if append.expected != tail or upon_refused:
        return Conflict(append.shard, tail)
    if append.end > MAX_SEQ:
        return StoreUnavailable(f"Shard {append.shard} is full")
    return None


def _settle_stored(appends: Sequence[_Append], stored: int) -> set[_Append]:
    """Settle those appends to which the first `stored` documents belong."""
    settled: set[_Append] = set()
    for append in appends:
        if stored <= 0 and append.entries:
            break
        stored -= len(append.entries)
        in_part = OutcomeUnknown("Somebody else extended the shard in the middle of the append")
        append.settle(append.end if stored >= 0 else in_part)
        settled.add(append)
    return settled
