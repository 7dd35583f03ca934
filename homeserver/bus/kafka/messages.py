"""Messages of a moment between the replicas: one topic, one order, positions that only grow.

A replica's own messages come back to it like those of the others, at the same position for all. Those that
have not come back when the bus goes away are handed over here all the same, and so are those that are sent
until it is back.

A *beat* is a message that says nothing: that it comes back shows that the broker takes records, keeps
them, and gives them out.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from aiokafka import TopicPartition

from homeserver.bus.bus import POSITIONS_PER_MS, BusUnavailable, OnMessage
from homeserver.bus.kafka.publisher import Publisher
from homeserver.bus.kafka.records import ForeignRecord, Record
from homeserver.clock import Clock

log = structlog.get_logger(__name__)

MAX_WAITING = 10_000
"""Messages that have not come back; those beyond are handed over here alone."""
MAX_BATCH = 500
BEAT = ""
"""The kind of beats."""


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A message on its way. New fields come at the end, with a default."""

    store: str
    origin: str
    number: int
    kind: str
    body: bytes


class Messages:
    """The messages of this replica and of the others."""

    def __init__(self, store: str, place: TopicPartition, now: Clock) -> None:
        """`store` is the store's epoch: what comes from replicas of another store is passed over."""
        self._store = store
        self._place = place
        self._now = now
        self._origin = secrets.token_urlsafe(9)
        self._subscribers: dict[str, OnMessage] = {}
        self._number = 0
        self._position = 0
        self._waiting: dict[int, Message] = {}
        self._queue: list[Message] = []
        self._queued = asyncio.Event()
        self._connected = False
        self._returned = 0
        self._decode = msgspec.msgpack.Decoder(Message).decode
        self.problem = ""
        """Why messages could not be sent the last time, "" if they could."""

    def subscribe(self, kind: str, on_message: OnMessage) -> None:
        self._subscribers[kind] = on_message

    def tell(self, kind: str, body: bytes) -> None:
        """Send to all replicas; while the bus is away, or has too many to carry, to this one alone."""
        message = self._message(kind, body)
        if self._connected and len(self._waiting) < MAX_WAITING:
            self._waiting[message.number] = message
            self._queue.append(message)
            self._queued.set()
        else:
            self._hand_over_here(message)

    def beat(self) -> int:
        """Send a beat; `has_returned` says of its number whether it has come back."""
        message = self._message(BEAT, b"")
        self._queue = [queued for queued in self._queue if queued.kind != BEAT]
        self._queue.append(message)
        self._queued.set()
        return message.number

    def has_returned(self, number: int) -> bool:
        return self._returned >= number

    def set_connected(self, connected: bool) -> None:
        """The bus went away or came back."""
        self._connected = connected
        if not connected:
            waiting, self._waiting = self._waiting, {}
            self._queue = []
            for message in waiting.values():
                self._hand_over_here(message)

    async def send(self, publisher: Publisher) -> None:
        """Send what is told, for ever: while one batch is under way the next one gathers."""
        while True:
            await self._queued.wait()
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            if not self._queue:
                self._queued.clear()
            if batch:
                await self._publish(publisher, batch)

    async def settle(self, seconds: float) -> None:
        """Wait until what was told has come back, but not for long."""
        async with asyncio.timeout(seconds):
            while self._waiting:
                await asyncio.sleep(0.01)

    def check(self, value: bytes | None) -> None:
        """Raises ForeignRecord for what a replica of another store has sent."""
        try:
            message = self._decode(value or b"")
        except msgspec.DecodeError:
            return
        if message.store != self._store:
            raise ForeignRecord(f"a record of another store ({message.store})")

    def on_records(self, records: Sequence[Any]) -> None:
        """What the topic gives: this replica's messages and those of the others."""
        for record in records:
            try:
                message = self._decode(record.value or b"")
            except msgspec.DecodeError as error:
                log.warning("a message that no replica sent", topic=self._place.topic, error=str(error))
                continue
            if message.store != self._store:
                continue
            if message.origin == self._origin:
                if message.kind == BEAT:
                    self._returned = message.number
                elif self._waiting.pop(message.number, None) is None:
                    continue
            self._hand_over(record.timestamp * POSITIONS_PER_MS + record.offset % POSITIONS_PER_MS, message)

    async def _publish(self, publisher: Publisher, messages: Sequence[Message]) -> None:
        records = [Record(b"", msgspec.msgpack.encode(message), []) for message in messages]
        try:
            await publisher.publish(self._place, records)
        except BusUnavailable as error:
            self.problem = str(error)
            # Should they come back nevertheless, they are not waited for any more.
            for message in messages:
                if self._waiting.pop(message.number, None) is not None:
                    self._hand_over_here(message)
        else:
            self.problem = ""

    def _message(self, kind: str, body: bytes) -> Message:
        self._number += 1
        return Message(self._store, self._origin, self._number, kind, body)

    def _hand_over_here(self, message: Message) -> None:
        self._hand_over(self._now() * POSITIONS_PER_MS, message)

    def _hand_over(self, position: int, message: Message) -> None:
        subscriber = self._subscribers.get(message.kind)
        if subscriber is None:
            return
        self._position = max(self._position + 1, position)
        try:
            subscriber(self._position, message.body)
        except Exception:
            # Another release may mean something else by it; what comes next is read all the same.
            log.exception("a message set aside", kind=message.kind)
