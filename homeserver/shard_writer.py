"""Extends one shard of the log on behalf of many requests.

Requests submit *proposals*. While one commit is in flight further proposals gather; then all of
them are built, one after another, on top of each other's drafts, and appended as one batch: one
commit in flight per shard, the batch as large as the load. When somebody else extended the shard
first, what was missed is read and applied, and the proposals are built again on the new state:
each event is checked against the state that it really follows. Each proposal is an append of its own,
so that one whose entry was in the log already takes no other along.

What was appended, by this process or by another, goes through the same `on_entries` in log order.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from homeserver.errors import MatrixError, unavailable
from homeserver.histogram import Histogram
from homeserver.rooms.room_event import RoomEvent
from storage.errors import Conflict, Duplicate, StoreError, StoreUnavailable
from storage.log import Entry, Log

log = structlog.get_logger(__name__)

MAX_QUEUE = 20_000
MAX_BATCH_ENTRIES = 256
CATCH_UP_PAGE = 500
LOST_SECONDS = 5.0
"""How long the log may not show yet what others have told of."""
LOOK_AGAIN_SECONDS = 0.02
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

Drafts = dict[str, Any]
"""Stream name → what that stream will be once the batch under way is committed."""


class Appended:
    """An entry that is in the log, with its in-memory form if this process made it."""

    __slots__ = ("entry", "view")

    def __init__(self, entry: Entry, view: RoomEvent | None = None) -> None:
        self.entry = entry
        self.view = view


class Proposal(Protocol[R_co]):
    """Something to append, made anew on each attempt."""

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        """The entries, numbered from `next_seq`, given what the batch holds so far; may be none.

        Leaves `drafts` alone when it raises MatrixError, which ends this proposal only.
        """
        ...

    def result(self) -> R_co:
        """What the submitter gets, once the entries of the last `build` are durable."""
        ...

    def duplicate(self, existing: Entry) -> R_co:
        """What the submitter gets when an entry was in the log already (same transaction or event)."""
        ...


class _Pending(Generic[R]):
    __slots__ = ("built", "follows_all", "future", "proposal", "refusal")

    def __init__(self, proposal: Proposal[R], future: asyncio.Future[R]) -> None:
        self.proposal = proposal
        self.future = future
        self.built: list[Appended] = []
        self.refusal: MatrixError | None = None
        """Of the last build, upon what it would have followed: holds once that is in the log."""
        self.follows_all = False
        """Whether it is built upon all that was in the log at some moment since it was submitted."""


class ShardWriter:
    """The one place in a process where a shard grows or is followed."""

    def __init__(
        self,
        shard: int,
        log_port: Log,
        tail: int,
        on_entries: Callable[[int, Sequence[Appended]], None],
        on_appended: Callable[[int, int], None],
    ) -> None:
        """`on_appended` is told (shard, new tail) of what this process has appended itself."""
        self.shard = shard
        self.tail = tail
        """Everything up to here has gone through `on_entries`."""
        self.appended = Histogram(BATCH_SIZES)
        """Entries of each append made here."""
        self.conflicts = 0
        """Appends that somebody else was ahead of."""
        self.failures = 0
        """How often the store could not do what was asked."""
        self._log = log_port
        self._on_entries = on_entries
        self._on_appended = on_appended
        self._queue: deque[_Pending[Any]] = deque()
        self._task: asyncio.Task[None] | None = None

    def submit(self, proposal: Proposal[R]) -> asyncio.Future[R]:
        """Append a proposal; its result, once it is durable and applied.

        That is the MatrixError of the proposal, or 503 when the store cannot take it, where they are. Who
        waits no longer does not keep it from being appended. Raises 503 when too much is waiting.
        """
        if len(self._queue) >= MAX_QUEUE:
            raise unavailable("The server is overloaded")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(proposal, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"shard-writer-{self.shard}")
        return future

    def follow(self, entries: Sequence[Entry]) -> bool:
        """Apply entries as they were handed over, perhaps again; False when some among them are missing.

        Those behind what is missing are not applied.
        """
        following: list[Appended] = []
        next_seq = self.tail + 1
        for entry in entries:
            if entry.seq == next_seq:
                following.append(Appended(entry))
                next_seq += 1
        if following:
            self._apply(following)
        return max(entry.seq for entry in entries) < next_seq

    async def catch_up(self) -> None:
        """Apply what others have appended."""
        while entries := await self._log.read(self.shard, self.tail, CATCH_UP_PAGE):
            self._apply([Appended(entry) for entry in entries])

    async def drain(self) -> None:
        """Wait until nothing is queued or in flight."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _apply(self, appended: Sequence[Appended]) -> None:
        """Hand on what has not been handed on: the same entries may arrive in several ways."""
        if appended[0].entry.seq <= self.tail:
            appended = [item for item in appended if item.entry.seq > self.tail]
        if appended:
            self.tail = appended[-1].entry.seq
            self._on_entries(self.shard, appended)

    async def _run(self) -> None:
        try:
            while self._queue:
                try:
                    await self._commit()
                except StoreError as error:
                    self.failures += 1
                    log.error("cannot read the log", shard=self.shard, error=str(error))
                    while self._queue:
                        _fail(self._queue.popleft(), unavailable("The store cannot be read now"))
        finally:
            self._task = None

    async def _commit(self) -> None:
        """Build what waits, up to a batch's size, and append it; settle what is in the log then."""
        drafts: Drafts = {}
        batch: list[_Pending[Any]] = []
        next_seq = self.tail + 1
        limit = self.tail + MAX_BATCH_ENTRIES
        while self._queue and next_seq <= limit:
            pending = self._queue.popleft()
            pending.refusal = None
            try:
                pending.built = pending.proposal.build(drafts, next_seq)
            except MatrixError as error:
                pending.built, pending.refusal = [], error
            except Exception as error:
                log.exception("proposal failed", shard=self.shard)
                _fail(pending, error)
                continue
            next_seq += len(pending.built)
            batch.append(pending)
        # Not `self.tail` from here on: what is followed meanwhile moves it.
        expected = self.tail
        if any(not (pending.built or pending.follows_all) for pending in batch):
            tail = await self._tail_to_decide_upon(expected)
            for pending in batch:
                pending.follows_all = True
            if tail > expected:
                self._queue.extendleft(reversed(batch))
                await self._catch_up_to(tail)
                return
        outcomes = await self._append(batch, expected)
        stored = sum(1 for _ in takewhile(lambda outcome: isinstance(outcome, int), outcomes))
        appended = [item for pending in batch[:stored] for item in pending.built]
        for pending in batch[:stored]:
            if pending.refusal is not None:
                _fail(pending, pending.refusal)
            else:
                _settle(pending, pending.proposal.result())
        if appended:
            self.appended.observe(len(appended))
            self._apply(appended)
            self._on_appended(self.shard, appended[-1].entry.seq)
        if stored < len(batch):
            await self._go_on(batch[stored:], outcomes[stored:], expected + len(appended))

    async def _append(self, batch: Sequence[_Pending[Any]], expected: int) -> list[int | BaseException]:
        """Append each proposal whole, or not at all; what came of each.

        They are in flight at once, and make one commit. One that is refused takes none before it along, and
        lets none behind it pass.
        """
        appends = []
        for pending in batch:
            appends.append(self._append_one(expected, [item.entry for item in pending.built]))
            expected += len(pending.built)
        return await asyncio.gather(*appends, return_exceptions=True)

    async def _append_one(self, expected: int, entries: Sequence[Entry]) -> int:
        return await self._log.append(self.shard, expected, entries) if entries else expected

    async def _go_on(
        self, batch: Sequence[_Pending[Any]], outcomes: Sequence[int | BaseException], expected: int
    ) -> None:
        """After an append upon `expected` that failed, the batch's first; none of the others is in the log
        unless that one is."""
        match outcomes[0]:
            case Conflict(tail=tail):
                self.conflicts += 1
                self._queue.extendleft(reversed(batch))
                if tail < expected:
                    await self._until_seen(expected)
                await self._catch_up_to(tail)
            case Duplicate(seq=seq):
                self._queue.extendleft(reversed(batch))
                existing = await self._log.entry(self.shard, seq)
                doubled = self._queue.popleft()
                if existing is None:
                    _fail(doubled, unavailable("The event was removed meanwhile"))
                else:
                    _settle(doubled, doubled.proposal.duplicate(existing))
            case StoreError() as error:
                self.failures += 1
                log.error("append failed", shard=self.shard, error=str(error))
                for pending in batch:
                    _fail(pending, unavailable("The store cannot take it now"))
                await self._after_failure()
            case BaseException() as error:
                # It cannot be written down; the others can.
                self._queue.extendleft(reversed(batch[1:]))
                _fail(batch[0], error)

    async def _tail_to_decide_upon(self, expected: int) -> int:
        """Where the log ends: what is refused, or seems to be done already, may not be so by what another
        replica has appended just now."""
        try:
            return await self._log.tail(self.shard)
        except StoreError:
            return expected

    async def _catch_up_to(self, tail: int) -> None:
        await self.catch_up()
        # What is missing up to the tail was removed from the log meanwhile.
        self.tail = max(self.tail, tail)

    async def _until_seen(self, expected: int) -> None:
        """Wait until the log shows what others have told of.

        A store of several servers may confirm an entry a moment before it shows it to everybody, and a new
        primary may not know yet what it has. Raises StoreUnavailable when it does not: then it is lost.
        """
        try:
            async with asyncio.timeout(LOST_SECONDS):
                while await self._log.tail(self.shard) < expected:
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(f"the log does not reach to {expected}, which was there") from None

    async def _after_failure(self) -> None:
        """The outcome may be unknown: what is in the log counts, not what was thought to be."""
        try:
            await self.catch_up()
        except StoreError as error:
            log.error("cannot read the log", shard=self.shard, error=str(error))


def _settle(pending: _Pending[R], result: R) -> None:
    if not pending.future.done():
        pending.future.set_result(result)


def _fail(pending: _Pending[Any], error: BaseException) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)


class Append:
    """A proposal of ready entries of one user's or server's own making: nothing to check against."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.last_seq = 0

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        self.last_seq = next_seq + len(self._entries) - 1
        return [Appended(replace(entry, seq=next_seq + i)) for i, entry in enumerate(self._entries)]

    def result(self) -> int:
        return self.last_seq

    def duplicate(self, existing: Entry) -> int:
        return existing.seq
