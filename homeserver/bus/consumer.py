"""A consumer of the log: handles each entry of some shards in order, at least once, and remembers how far.

The log is the outbox. Entries arrive as they are appended; whatever a consumer was not there for
(it was down, it lagged behind) is read from the log, from its stored cursor on. The cursor is stored
after what was handled, so after a crash some entries are handled again: handlers are idempotent.

A replica handles only the shards that it owns. A cursor moves by compare-and-set alone: of two replicas
that take themselves for the owner, one loses, and goes on from where the other one has come to.

Entries that `wants` turns down cost a comparison. One of which it cannot tell, or that fails again and again,
is set aside with an error in the log, and blocks nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from homeserver.errors import MatrixError
from homeserver.shard_writer import Appended
from homeserver.tasks import end
from storage.collection import Collection
from storage.errors import StoreDamaged, StoreError
from storage.log import Entry, Log
from storage.records.cursors import Cursor

log = structlog.get_logger(__name__)

MAX_QUEUED = 5_000
PAGE = 500
ATTEMPTS = 3
RETRY_SECONDS = 0.5
CLOSE_SECONDS = 10.0
SAVE_EVERY_SECONDS = 5.0
SAVE_EVERY_ENTRIES = 2_000
GATHERED = 50
GATHERING_SECONDS = 0.2

Handle = Callable[[int, Entry], Awaitable[None]]
"""Handles an entry of a shard."""
HandleBatch = Callable[[int, Sequence[Entry]], Awaitable[None]]
"""Handles entries of a shard, in order; one or many of them perhaps again."""
AskOwner = Callable[[str, int, int], Awaitable[None]]
"""Waits until the owner of a shard says that its consumer of this name has handled a seq; not for long."""


class Progress(Protocol):
    """Whoever goes on with work after entries are handled, and so has to note what is left in time."""

    async def begin(self, shard: int) -> None:
        """A shard is begun, be it that another replica had it before. Raises StoreError."""
        ...

    async def reached(self, shard: int, seq: int) -> None:
        """After this the entries up to `seq` do not come again. Raises StoreError."""
        ...


class Consumer:
    """Follows shards on behalf of one purpose, named `name`."""

    def __init__(
        self,
        name: str,
        log_port: Log,
        cursors: Collection[Cursor],
        *,
        wants: Callable[[Entry], bool],
        handle: Handle | None = None,
        handle_batch: HandleBatch | None = None,
        ask_owner: AskOwner | None = None,
        progress: Progress | None = None,
        gathers: bool = False,
    ) -> None:
        """Entries go to `handle` one by one, or to `handle_batch` as many as have gathered.

        With `gathers`, for work that nobody waits for: up to 50 of those that are wanted, and after
        fewer a pause, so that more gather for the next commit.
        """
        self.name = name
        self._log = log_port
        self._cursors = cursors
        self._wants = wants
        assert (handle is None) != (handle_batch is None)
        self._handle = handle
        self._handle_batch = handle_batch
        self._ask_owner = ask_owner
        self._progress = progress
        self._gathers = gathers
        self._shards: dict[int, _Shard] = {}
        self._closing = False
        self.set_aside = 0
        """Entries that could not be handled, and were gone past."""
        self.failures = 0
        """How often the store could not do what was asked."""

    def start(self, tails: Mapping[int, int]) -> None:
        """Follow these shards, whose followers are at these tails now; owning them comes apart."""
        self._shards = {shard: _Shard(shard, tail) for shard, tail in tails.items()}

    def own(self, shards: Container[int]) -> None:
        """Handle these of the shards that are followed, from the stored cursors on, and no others."""
        for state in self._shards.values():
            owned = state.shard in shards
            if owned and not state.owned:
                state.owned, state.begun = True, False
                self._run(state)
            elif state.owned and not owned:
                state.owned = False
                state.queue.clear()

    def on_entries(self, shard: int, appended: Sequence[Appended]) -> None:
        """New entries of a shard, in log order."""
        state = self._shards.get(shard)
        if state is None or self._closing:
            return
        if not state.owned or not state.begun:
            state.tail = appended[-1].entry.seq
            return
        for item in appended:
            entry = item.entry
            state.tail = entry.seq
            if state.task is None and state.seq == entry.seq - 1 and not self._wanted(shard, entry):
                state.seq = entry.seq
            elif len(state.queue) < MAX_QUEUED:
                state.queue.append(entry)
        if state.seq < state.tail and state.task is None:
            self._run(state)
        elif state.seq - state.saved() >= SAVE_EVERY_ENTRIES or state.timer is None:
            self._save_soon(state)

    async def settled(self, shard: int) -> None:
        """Wait until everything that is in the shard now has been handled, by whoever owns it."""
        state = self._shards[shard]
        if state.owned:
            await self.handled(shard, state.tail)
        elif self._ask_owner is not None:
            await self._ask_owner(self.name, shard, state.tail)

    async def handled(self, shard: int, seq: int) -> None:
        """Wait until this entry has been handled here, as long as the shard is owned and work goes on."""
        state = self._shards[shard]
        while state.owned and (state.seq < seq or not state.begun) and state.task is not None:
            await asyncio.wait([state.task])

    def lag(self) -> dict[int, int]:
        """Entries that wait to be handled, by owned shard."""
        return {
            state.shard: state.tail - state.seq
            for state in self._shards.values()
            if state.owned and state.begun
        }

    async def close(self) -> None:
        """Finish what was handed over, and store the cursors.

        What comes meanwhile is for whoever goes on from there: others may write without an end.
        """
        self._closing = True
        await asyncio.gather(*map(self._close, self._shards.values()))

    async def _close(self, state: "_Shard") -> None:
        if (task := state.task) is not None:
            await asyncio.wait([task], timeout=CLOSE_SECONDS)
            await end((task,))
        if state.timer is not None:
            state.timer.cancel()
        if state.owned and state.begun:
            await self._save(state)

    def _run(self, state: "_Shard") -> None:
        if state.task is None and not self._closing:
            state.task = asyncio.create_task(self._consume(state), name=f"consumer-{self.name}")

    async def _consume(self, state: "_Shard") -> None:
        try:
            while state.owned and (not state.begun or state.seq < state.tail):
                if not state.begun:
                    await self._begin(state)
                    continue
                handled = False
                for entries in self._batches(await self._next(state)):
                    if wanted := [entry for entry in entries if self._wanted(state.shard, entry)]:
                        await self._attempt(state.shard, wanted)
                        handled = True
                    state.seq = entries[-1].seq
                    if not state.owned:
                        break
                    if self._gathers:
                        # A long way to catch up must leave others their turns.
                        await asyncio.sleep(0)
                # Not waited for: what arrives meanwhile would find nobody to handle it.
                self._save_soon(state)
                if self._gathers and handled and state.tail - state.seq < GATHERED and not self._closing:
                    await asyncio.sleep(GATHERING_SECONDS)
            state.failed = False
        except (StoreError, MatrixError) as error:
            self.failures += 1
            if not state.failed:
                # Said once, however long it lasts.
                log.error("consumer stopped for now", consumer=self.name, shard=state.shard, error=str(error))
            state.failed = True
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._resume, state)
        finally:
            state.task = None

    async def _begin(self, state: "_Shard") -> None:
        """Go on from the stored cursor."""
        async with state.cursor_lock:
            state.stored = await self._cursors.get(self.name, state.shard)
            if self._progress is not None:
                await self._progress.begin(state.shard)
            state.seq = state.saved()
            state.begun = True

    def _resume(self, state: "_Shard") -> None:
        if state.owned and (not state.begun or state.seq < state.tail):
            self._run(state)

    async def _next(self, state: "_Shard") -> Sequence[Entry]:
        while state.queue and state.queue[0].seq <= state.seq:
            state.queue.popleft()
        if state.queue and state.queue[0].seq == state.seq + 1:
            ready = [state.queue.popleft()]
            while state.queue and state.queue[0].seq == ready[-1].seq + 1 and len(ready) < PAGE:
                ready.append(state.queue.popleft())
            return ready
        tail = state.tail
        try:
            page = await self._log.read(state.shard, state.seq, PAGE)
        except StoreDamaged:
            return await self._next_alone(state)
        # What lies beyond the tail has not been applied to the rooms and users in memory yet.
        page = [entry for entry in page if entry.seq <= state.tail]
        if not page:
            # Everything up to what was the tail was removed from the log meanwhile.
            state.seq = tail
        return page

    async def _next_alone(self, state: "_Shard") -> Sequence[Entry]:
        """The next entry by itself, since one of the next page cannot be read; none if it is that one."""
        seq = state.seq + 1
        try:
            entry = await self._log.entry(state.shard, seq)
        except StoreDamaged:
            entry = None
            self._set_aside(state.shard, seq)
        if entry is not None:
            return (entry,)
        state.seq = seq
        return ()

    def _batches(self, entries: Sequence[Entry]) -> Iterable[Sequence[Entry]]:
        """The entries in the portions in which they are handled."""
        size = 1 if self._handle_batch is None else GATHERED if self._gathers else PAGE
        return (entries[first : first + size] for first in range(0, len(entries), size))

    def _wanted(self, shard: int, entry: Entry) -> bool:
        try:
            return self._wants(entry)
        except Exception:
            self._set_aside(shard, entry.seq)
            return False

    def _set_aside(self, shard: int, seq: int) -> None:
        """Go past an entry, and say what is wrong with it."""
        self.set_aside += 1
        log.exception("entry set aside", consumer=self.name, shard=shard, seq=seq)

    async def _attempt(self, shard: int, entries: Sequence[Entry]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                if self._handle_batch is not None:
                    await self._handle_batch(shard, entries)
                elif self._handle is not None:
                    for entry in entries:
                        await self._handle(shard, entry)
                return
            except Exception as error:
                if _may_pass(error):
                    raise
                if attempt < ATTEMPTS - 1:
                    await asyncio.sleep(RETRY_SECONDS * attempt)
                elif len(entries) == 1:
                    self._set_aside(shard, entries[0].seq)
        if len(entries) > 1:
            # One of them is at fault: the others are not set aside with it.
            for entry in entries:
                await self._attempt(shard, [entry])

    def _save_soon(self, state: "_Shard") -> None:
        if state.timer is None:
            loop = asyncio.get_running_loop()
            state.timer = loop.call_later(SAVE_EVERY_SECONDS, self._save_now, state)

    def _save_now(self, state: "_Shard") -> None:
        state.timer = None
        state.saving = asyncio.create_task(self._save(state), name=f"cursor-{self.name}")

    async def _save(self, state: "_Shard") -> None:
        async with state.cursor_lock:
            cursor = Cursor(consumer=self.name, shard=state.shard, seq=state.seq)
            if not state.owned or not state.begun or cursor.seq == state.saved():
                return
            try:
                if self._progress is not None:
                    await self._progress.reached(state.shard, cursor.seq)
                if await self._cursors.replace_if(state.stored, cursor):
                    state.stored = cursor
                    return
            except StoreError as error:
                log.warning("cursor not stored", consumer=self.name, error=str(error))
                return
        log.warning("another replica handles this shard", consumer=self.name, shard=state.shard)
        state.begun = False
        self._run(state)


def _may_pass(error: Exception) -> bool:
    """Whether the store cannot do it now, which is no fault of the entry's."""
    if isinstance(error, MatrixError):
        return error.status == 503
    return isinstance(error, StoreError) and not isinstance(error, StoreDamaged)


class _Shard:
    """How a consumer stands in one shard: handled up to `seq`, entries known up to `tail`."""

    __slots__ = (
        "begun",
        "cursor_lock",
        "failed",
        "owned",
        "queue",
        "saving",
        "seq",
        "shard",
        "stored",
        "tail",
        "task",
        "timer",
    )

    def __init__(self, shard: int, tail: int) -> None:
        self.shard = shard
        self.seq = 0
        self.tail = tail
        self.owned = False
        self.begun = False
        """Whether `seq` goes on from the stored cursor."""
        self.failed = False
        """Whether what was tried last could not be done."""
        self.stored: Cursor | None = None
        self.cursor_lock = asyncio.Lock()
        self.queue: deque[Entry] = deque()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.saving: asyncio.Task[None] | None = None

    def saved(self) -> int:
        return self.stored.seq if self.stored is not None else 0
