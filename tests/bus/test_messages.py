"""Messages of a moment on a bus that falters (HARDENING 41)."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka.messages import Messages
from homeserver.bus.kafka.records import Record
from homeserver.clock import system_clock
from homeserver.tasks import end

PLACE = TopicPartition("messages", 0)


class Faltering:
    """Refuses what it is given first; what became of that nobody knows."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()

    async def publish(self, place: TopicPartition, records: Iterable[Record]) -> None:
        if not self.refused.is_set():
            self.refused.set()
            raise BusUnavailable("another broker leads the partition by now")


async def test_who_told_what_the_bus_refused_hears_it_all_the_same() -> None:
    heard: list[bytes] = []
    messages = Messages("store", PLACE, system_clock)
    messages.subscribe("kind", lambda position, body: heard.append(body))
    messages.set_connected(True)
    publisher: Any = Faltering()
    sending = asyncio.create_task(messages.send(publisher))
    messages.tell("kind", b"refused")
    await publisher.refused.wait()
    await messages.settle(1)
    assert heard == [b"refused"]
    await end([sending])
