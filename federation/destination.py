"""Another server as one to whom things are sent: one transaction after the other.

What waits lies in memory. When the server does not answer, it is dropped but for how far the server has come:
from there it catches up by what the log has (`federation.catching_up`). So an outage takes no memory however
long it lasts.

spec: server-server "Transactions"
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import structlog

from federation.backoff import Backoff
from federation.catching_up import CatchingUp
from federation.client import FederationClient, request_target
from federation.errors import FederationError, RemoteError
from federation.outgoing import Outgoing, told
from federation.transactions import MAX_EDUS, MAX_PDUS
from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject
from storage.errors import StoreError

log = structlog.get_logger(__name__)

SEND_SECONDS = 60.0
MAX_WAITING = 2_000
"""Of a server that takes longer than things come; then it catches up by the log."""
MAX_TOLD = 1_000
TOLD_MS = 60_000
"""How long what nothing in the log stands for is tried to be sent; who is away for longer is not told."""
AWAY = (401, 403, 404, 429)
"""With these a server refuses us, and not what was sent; as with those from 500 up."""
RETRY_SECONDS = 1.0


NewTransaction = Callable[[], str]
"""A transaction id that this server has never used."""
Delivered = Callable[[Sequence[Outgoing]], Awaitable[None]]
"""Hears what a server has taken."""
CaughtUp = Callable[[str, int], Awaitable[None]]
"""Hears that a server has everything of a shard again."""


class _News(NamedTuple):
    """Content of an EDU, and until when it is worth to be sent (ms)."""

    content: JsonObject
    until: int


class Destination:
    """The queue to one server, and who works on it."""

    def __init__(
        self,
        name: str,
        origin: str,
        client: FederationClient,
        backoff: Backoff,
        catching_up: CatchingUp,
        new_transaction: NewTransaction,
        delivered: Delivered,
        caught_up: CaughtUp,
        owns: Callable[[int], bool],
        now: Callable[[], int],
    ) -> None:
        self.name = name
        self.behind: dict[int, int] = {}
        """Shard → the entry up to which the server has what concerns it, where that is not all."""
        self.last_success = 0
        """When the server took something last (ms)."""
        self._origin = origin
        self._client = client
        self._backoff = backoff
        self._catching_up = catching_up
        self._new_transaction = new_transaction
        self._delivered = delivered
        self._caught_up = caught_up
        self._owns = owns
        self._now = now
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: Sequence[Outgoing] = ()
        self._told: OrderedDict[tuple[str, str], _News] = OrderedDict()
        self._being_told: dict[tuple[str, str], _News] = {}
        self._heads: dict[int, int] = {}
        """Shard → the newest entry handed over, sent or not."""
        self._awake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How much waits in memory."""
        return len(self._waiting) + len(self._in_flight) + len(self._told)

    def add(self, item: Outgoing) -> None:
        """Send this after what waits already."""
        self._heads[item.shard] = item.seq
        if item.shard in self.behind:
            # It comes with the rest.
            return
        self._waiting.append(item)
        if len(self._waiting) > MAX_WAITING:
            self._fall_behind()
        self.work()

    def tell(self, edu_type: str, key: str, content: JsonObject) -> None:
        """Send this soon or never, unless there is something newer of this type and key by then."""
        if self._backoff.wait_ms(self.name) > TOLD_MS:
            return
        self._told[edu_type, key] = _News(content, self._now() + TOLD_MS)
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        self.work()

    def undelivered(self, shard: int) -> int | None:
        """Up to which entry of a shard the server has all that concerns it; None where it has everything."""
        if shard in self.behind:
            return self.behind[shard]
        for items in (self._in_flight, self._waiting):
            for item in items:
                if item.shard == shard:
                    return item.seq - 1
        return None

    def work(self) -> None:
        """See to it that somebody works on the queue."""
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._work(), name=f"send-to {self.name}")

    def wake(self) -> None:
        """The server is alive, or is to be tried at once."""
        self._awake.set()

    # Sending

    async def _work(self) -> None:
        while self._waiting or self._told or self.behind:
            if wait := self._backoff.wait_ms(self.name):
                await self._pause(wait / 1000)
                continue
            try:
                if self.behind and not self._waiting:
                    await self._catch_up()
                else:
                    await self._send_next()
            except FederationError as error:
                log.info("a server does not take what is sent", server=self.name, reason=str(error))
                self._fall_behind()
                if not self._backoff.wait_ms(self.name):
                    self._backoff.failed(self.name)
            except (StoreError, MatrixError) as error:
                log.warning("what was missed cannot be read", server=self.name, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _pause(self, seconds: float) -> None:
        self._awake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()

    def _fall_behind(self) -> None:
        """Drop what waits, and remember from where on it is missed."""
        for item in (*self._in_flight, *self._waiting):
            if item.seq:
                self.behind.setdefault(item.shard, item.seq - 1)
        self._waiting.clear()
        self._in_flight = ()
        self._told = OrderedDict(self._being_told | self._told)
        self._being_told = {}

    async def _send_next(self) -> None:
        batch: list[Outgoing] = []
        room = {True: MAX_PDUS, False: MAX_EDUS}
        while self._waiting and room[self._waiting[0].is_event]:
            item = self._waiting.popleft()
            room[item.is_event] -= 1
            batch.append(item)
        while self._told and len(self._being_told) < room[False]:
            what, news = self._told.popitem(last=False)
            if news.until > self._now():
                self._being_told[what] = news
        batch += [told(edu_type, news.content) for (edu_type, _), news in self._being_told.items()]
        self._in_flight = batch
        if batch:
            await self._send(batch)
            await self._delivered(batch)
        self._in_flight = ()
        self._being_told = {}

    async def _catch_up(self) -> None:
        """Send what was missed in one of the shards, and then be up to date in it."""
        shard, after = next(iter(self.behind.items()))
        upto = self._heads.get(shard, 0)
        async for batch in self._catching_up.missed(self.name, shard, after):
            if not self._owns(shard):
                break
            await self._send(batch)
            await self._delivered(batch)
        if not self._owns(shard) or self._heads.get(shard, 0) == upto:
            del self.behind[shard]
            await self._caught_up(self.name, shard)
        else:
            # More has come meanwhile.
            self.behind[shard] = max(upto, after)

    async def _send(self, items: Sequence[Outgoing]) -> None:
        """One transaction; halves of it, if the server says that something is wrong with it.

        So one thing that a server cannot take does not keep the others from it. Raises FederationError.
        """
        try:
            answer = await self._client.put(
                self.name,
                request_target("/_matrix/federation/v1/send", self._new_transaction()),
                {
                    "origin": self._origin,
                    "origin_server_ts": self._now(),
                    "pdus": [item.content for item in items if item.is_event],
                    "edus": [item.content for item in items if not item.is_event],
                },
                seconds=SEND_SECONDS,
            )
        except RemoteError as error:
            if error.status in AWAY or error.status >= 500:
                raise
            if len(items) == 1:
                log.warning("a server does not take it, dropped", server=self.name, reason=str(error))
            else:
                middle = len(items) // 2
                await self._send(items[:middle])
                await self._send(items[middle:])
        else:
            self.last_success = self._now()
            self._note_refused(answer)

    def _note_refused(self, answer: JsonObject) -> None:
        results = answer.get("pdus")
        for event_id, result in results.items() if isinstance(results, Mapping) else ():
            if isinstance(result, Mapping) and "error" in result:
                log.info("a server refuses an event", server=self.name, event_id=event_id[:255])
