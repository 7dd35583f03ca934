"""Messages waiting for a device: delivered in order, dropped once the device has acknowledged them.

A sync whose since-token is past a message acknowledges it: from then on it is shown no more. It
leaves the log some time later, for as long as it is there its sender's transaction is known, and a
request repeated after a lost answer or a crash stores nothing twice. What a device has acknowledged is
stored some seconds later, for its first sync after a restart or at another replica.

The replica that stores messages for a device need not be the one with which it syncs. Before it takes a
queue for full it asks the others, and is told when the device acknowledges something there.

spec: client-server "Send-to-Device messaging"
"""

import asyncio
from collections import OrderedDict

import orjson
import structlog

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.users.users import User
from homeserver.write_behind import WriteBehind
from storage.collection import Collection
from storage.errors import StoreError
from storage.log import Kind, Log
from storage.records.accounts import DeviceReceived

log = structlog.get_logger(__name__)

PAGE = 100
TYPE = "to_device"
KEPT_MS = 10 * 60_000
"""How long a message stays in the log at least, counted from its arrival."""
MAX_WAITING = 10_000
"""For one device that fetches none; more are not stored."""
QUEUES_KEPT = 100_000

ASK = "to_device_ask"
"""Kind of message: [user, device, seq]; has the device acknowledged more than up to there?"""
ACKNOWLEDGED = "to_device_acknowledged"
"""Kind of message: [user, device, seq]; the device has everything up to there."""


class _Queue:
    """What is remembered of one device's queue."""

    __slots__ = ("acknowledged", "asked", "drop_from_ts", "dropped", "refused", "waiting")

    def __init__(self) -> None:
        self.acknowledged = 0
        """The device has everything up to here."""
        self.dropped = 0
        """Everything up to here has left the log."""
        self.drop_from_ts = 0
        """When to look again for what may leave it (ms)."""
        self.waiting = 0
        """Messages stored here since the device last acknowledged any, as far as this replica knows."""
        self.refused = 0
        """Messages for which there was no room."""
        self.asked = False
        """Whether another replica wants to know when the device next acknowledges any."""


class ToDeviceQueue:
    """Reads and empties the queues in the users' logs."""

    def __init__(
        self,
        log_port: Log,
        received: Collection[DeviceReceived],
        to_others: ToOthers,
        epoch: str,
        now: Clock,
    ) -> None:
        self._log = log_port
        self._received = received
        self._behind = WriteBehind(received)
        self._to_others = to_others
        self._epoch = epoch
        self._now = now
        self._queues: OrderedDict[tuple[str, str], _Queue] = OrderedDict()
        self._cleaning: set[asyncio.Task[None]] = set()
        to_others.subscribe(ASK, self._on_ask)
        to_others.subscribe(ACKNOWLEDGED, self._on_acknowledged)

    def has_room(self, user_id: str, device_id: str) -> bool:
        """Whether another message for a device may be stored."""
        queue = self._queue(user_id, device_id)
        if queue.waiting < MAX_WAITING:
            return True
        queue.refused += 1
        self._ask_now_and_then(user_id, device_id, queue, queue.refused)
        return False

    def stored(self, user_id: str, device_id: str) -> None:
        """Count a message that is in the log."""
        queue = self._queue(user_id, device_id)
        queue.waiting += 1
        self._ask_now_and_then(user_id, device_id, queue, queue.waiting)

    def _ask_now_and_then(self, user_id: str, device_id: str, queue: _Queue, count: int) -> None:
        """Ask the others whether the device has acknowledged anything there."""
        if count % (MAX_WAITING // 4) == 0:
            self._to_others.tell(ASK, orjson.dumps((user_id, device_id, queue.acknowledged)))

    def _on_ask(self, body: bytes) -> None:
        user_id, device_id, known = orjson.loads(body)
        queue = self._queues.get((user_id, device_id))
        if queue is not None:
            queue.asked = True
            if queue.acknowledged > known:
                self._tell_acknowledged(user_id, device_id, queue)

    def _tell_acknowledged(self, user_id: str, device_id: str, queue: _Queue) -> None:
        queue.asked = False
        self._to_others.tell(ACKNOWLEDGED, orjson.dumps((user_id, device_id, queue.acknowledged)))

    def _on_acknowledged(self, body: bytes) -> None:
        user_id, device_id, upto = orjson.loads(body)
        queue = self._queues.get((user_id, device_id))
        if queue is not None and upto > queue.acknowledged:
            queue.acknowledged = upto
            queue.waiting = 0

    async def waiting(
        self, user: User, device_id: str, after: int, upto: int, limit: int = PAGE
    ) -> tuple[list[bytes], int]:
        """Messages (event JSON) with after < seq ≤ upto, and how far the answer reaches.

        It reaches to `upto` unless there are more messages than one answer holds.
        """
        newest = user.last_to_device.get(device_id, 0)
        if newest <= after:
            return [], upto
        queue = self._queue(user.user_id, device_id)
        if after == 0:
            stored = await self._received.get(user.user_id, device_id)
            if stored is not None and stored.epoch == self._epoch:
                queue.acknowledged = max(queue.acknowledged, stored.upto)
        after = max(after, queue.acknowledged)
        if newest <= after:
            return [], upto
        entries = await self._log.keyed(
            user.shard,
            user.user_id,
            kind=Kind.TO_DEVICE,
            type=TYPE,
            key=device_id,
            after=after,
            before=upto + 1,
            limit=limit,
        )
        reached = entries[-1].seq if len(entries) == limit else upto
        return [entry.body for entry in entries], reached

    def acknowledge(self, user: User, device_id: str, upto: int) -> None:
        """The device has everything up to `upto`: show it no more, and drop it in good time."""
        newest = user.last_to_device.get(device_id)
        if newest is None:
            return
        queue = self._queue(user.user_id, device_id)
        acknowledged = max(queue.acknowledged, min(upto, newest))
        if acknowledged > queue.acknowledged:
            queue.acknowledged = acknowledged
            queue.waiting = 0
            self._behind.noted[user.user_id, device_id] = DeviceReceived(
                user_id=user.user_id, device_id=device_id, epoch=self._epoch, upto=acknowledged
            )
            if queue.asked:
                self._tell_acknowledged(user.user_id, device_id, queue)
        if acknowledged <= queue.dropped:
            return
        now = self._now()
        if queue.drop_from_ts == 0:
            queue.drop_from_ts = now + KEPT_MS
        elif queue.drop_from_ts <= now:
            queue.drop_from_ts = 0
            task = asyncio.create_task(
                self._drop(user, device_id, queue, now - KEPT_MS), name="drop-to-device"
            )
            self._cleaning.add(task)
            task.add_done_callback(self._cleaning.discard)

    async def _drop(self, user: User, device_id: str, queue: _Queue, arrived_before: int) -> None:
        upto = queue.acknowledged
        try:
            if await self._remove(user, device_id, upto, arrived_before):
                queue.dropped = upto
        except StoreError as error:
            log.warning("acknowledged messages stay for now", error=str(error))

    async def _remove(self, user: User, device_id: str, upto: int, arrived_before: int | None) -> bool:
        """Remove messages with seq ≤ upto, the old ones or all; False when some are left."""
        while True:
            entries = await self._log.keyed(
                user.shard,
                user.user_id,
                kind=Kind.TO_DEVICE,
                type=TYPE,
                key=device_id,
                before=upto + 1,
                limit=PAGE,
            )
            old = [e.seq for e in entries if arrived_before is None or e.ts <= arrived_before]
            if old:
                await self._log.remove(user.shard, old)
            if len(old) < len(entries):
                return False
            if len(entries) < PAGE:
                return True

    async def forget(self, user: User, device_id: str) -> None:
        """Drop everything that waits for a device that is gone."""
        gone = (user.user_id, device_id)
        self._queues.pop(gone, None)
        await self._behind.delete(lambda key: key == gone, lambda: self._received.delete(*gone))
        newest = user.last_to_device.get(device_id)
        if newest is not None:
            await self._remove(user, device_id, newest, None)

    async def write(self) -> None:
        """Store what devices have acknowledged of late."""
        await self._behind.write()

    async def keep_writing(self) -> None:
        """Write every few seconds, until cancelled."""
        await self._behind.keep_writing("what devices have received is not written")

    async def settle(self) -> None:
        """Wait for what is being dropped (shutdown)."""
        if self._cleaning:
            await asyncio.wait(self._cleaning)

    def _queue(self, user_id: str, device_id: str) -> _Queue:
        key = (user_id, device_id)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
            if len(self._queues) > QUEUES_KEPT:
                self._queues.popitem(last=False)
        else:
            self._queues.move_to_end(key)
        return queue
