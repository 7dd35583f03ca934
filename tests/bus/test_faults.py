"""The broker killed, frozen, robbed of a topic: the members go on, and all that was published arrives
(HARDENING 41)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka import bus as module
from homeserver.config.options import Bus as BusOptions
from tests.bus.conftest import Join
from tests.bus.members import ALL_SHARDS, Member, options, prefix, until
from tests.real_parts.kafka import Kafka

AWAY_SECONDS = 5.0


@pytest.fixture
def bus_options(own_kafka: Kafka) -> BusOptions:
    return options(own_kafka.bootstrap, prefix())


@pytest.fixture
async def kafka(own_kafka: Kafka) -> AsyncIterator[Kafka]:
    """The broker, running again when the test is over."""
    yield own_kafka
    await asyncio.to_thread(own_kafka.ensure_running)


@pytest.fixture
async def members(kafka: Kafka, join: Join) -> tuple[Member, Member]:
    """Two members that share the shards."""
    a, b = await join("a"), await join("b")
    await until(
        lambda: a.ownership.own and b.ownership.own and a.ownership.own | b.ownership.own == ALL_SHARDS
    )
    return a, b


class Relay:
    """Publishes a shard from a cursor on, as the server does: what fails is tried again."""

    def __init__(self, member: Member, shard: int) -> None:
        self.cursor = 0
        self._member = member
        self._shard = shard

    async def run(self, last: int) -> None:
        while self.cursor < last:
            upto = min(self.cursor + 5, last)
            try:
                await self._member.publish(self._shard, self.cursor + 1, upto)
            except BusUnavailable:
                await asyncio.sleep(0.2)
            else:
                self.cursor = upto
                await asyncio.sleep(0.01)


async def in_topic(bus_options: BusOptions, last: int) -> dict[int, list[int]]:
    """The numbers that the topic has of shards 0 and 1 up to the last, without those that came again."""
    found: dict[int, list[int]] = {0: [0], 1: [0]}
    consumer = AIOKafkaConsumer(
        f"{bus_options.topic_prefix}.room-log",
        bootstrap_servers=bus_options.uri.removeprefix("kafka://"),
        auto_offset_reset="earliest",
    )
    async with consumer, asyncio.timeout(30):
        while any(numbers[-1] < last for numbers in found.values()):
            record = await consumer.getone()
            numbers, seq = found[record.partition], json.loads(record.value)["seq"]
            if seq > numbers[-1]:
                numbers.append(seq)
    return found


async def test_nothing_published_is_lost_or_out_of_order_when_the_broker_is_killed(
    kafka: Kafka, members: tuple[Member, Member], bus_options: BusOptions
) -> None:
    last = 400
    relays = [Relay(members[shard % 2], shard) for shard in (0, 1)]
    tasks = [asyncio.create_task(relay.run(last)) for relay in relays]
    await until(lambda: all(relay.cursor > 50 for relay in relays))
    kafka.kill()
    await until(lambda: all(member.connected == [False] for member in members), AWAY_SECONDS)
    reached = [relay.cursor for relay in relays]
    await asyncio.to_thread(kafka.start)
    await until(lambda: all(member.connected[-1] for member in members), 30)
    await asyncio.gather(*tasks)
    assert all(cursor < last for cursor in reached), "the broker was killed too late to matter"
    for member in members:
        for shard in (0, 1):
            await until(lambda member=member, shard=shard: member.seqs(shard)[-1] == last)
            # Who has to begin anew begins at the end, once; what it missed is read from the log.
            missed = sorted({*range(1, last + 1)} - {*member.seqs(shard)})
            assert not missed or len(missed) == missed[-1] - missed[0] + 1
    assert await in_topic(bus_options, last) == {0: [*range(last + 1)], 1: [*range(last + 1)]}


async def test_the_last_ownership_holds_while_the_broker_is_away_and_is_agreed_upon_afterwards(
    kafka: Kafka, members: tuple[Member, Member]
) -> None:
    a, b = members
    before = a.ownership, b.ownership
    await asyncio.to_thread(kafka.stop)
    await until(lambda: a.connected == b.connected == [False], AWAY_SECONDS)
    await asyncio.sleep(module.BEAT_SECONDS)
    assert (a.ownership, b.ownership) == before
    await asyncio.to_thread(kafka.start)
    await until(lambda: a.connected == b.connected == [False, True], 30)
    await until(
        lambda: (
            a.ownership.own | b.ownership.own == ALL_SHARDS
            and not a.ownership.own & b.ownership.own
            and a.ownership.addresses == b.ownership.addresses
        )
    )


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_the_broker_is_away_nobody_waits_for_it(
    kafka: Kafka, members: tuple[Member, Member], how: str
) -> None:
    a, b = members
    a.tell(b"before")
    await until(lambda: a.bodies() == b.bodies() == [b"before"])
    if how == "killed":
        kafka.kill()
    else:
        kafka.pause()
    a.tell(b"into the void")
    with pytest.raises(BusUnavailable):
        await asyncio.wait_for(a.publish(0, 1, 1), AWAY_SECONDS)
    await until(lambda: a.connected == b.connected == [False], AWAY_SECONDS)
    # The own message comes though the broker could not carry it; so do later ones, at once.
    assert a.bodies() == [b"before", b"into the void"]
    a.tell(b"to myself")
    assert a.bodies()[-1] == b"to myself"
    started = time.monotonic()
    with pytest.raises(BusUnavailable, match="Kafka is away"):
        await a.publish(0, 1, 1)
    assert time.monotonic() - started < 0.5
    if how == "killed":
        await asyncio.to_thread(kafka.start)
    else:
        kafka.resume()
    await until(lambda: a.connected[-1] and b.connected[-1], 40)
    a.tell(b"after")
    await until(lambda: a.bodies()[-1] == b.bodies()[-1] == b"after")
    assert a.bodies() == [b"before", b"into the void", b"to myself", b"after"]
    positions = [position for position, _ in a.messages]
    assert positions == sorted(set(positions))
    await a.publish(0, 1, 2)
    await until(lambda: b.seqs(0) == [1, 2])


async def test_a_deleted_topic_is_made_anew(
    kafka: Kafka, members: tuple[Member, Member], bus_options: BusOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = members
    await a.publish(0, 1, 3)
    await until(lambda: b.seqs(0) == [1, 2, 3])
    for name in ("room-log", "messages"):
        await delete(kafka, [f"{bus_options.topic_prefix}.{name}"])
        relay = Relay(a, 0)
        relay.cursor = b.seqs(0)[-1]
        last = relay.cursor + 50
        await relay.run(last)
        a.tell(name.encode())
        await until(lambda last=last: b.seqs(0)[-1:] == [last], 30)
        await until(lambda: b.connected[-1:] != [False], 30)
        a.tell(b"again")
        await until(lambda: b.bodies()[-1:] == [b"again"])


async def delete(kafka: Kafka, topics: Sequence[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_topics(list(topics))
    await admin.close()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_member_closes_without_the_broker(kafka: Kafka, join: Join, how: str) -> None:
    member = await join()
    await until(lambda: member.ownership.own)
    if how == "killed":
        kafka.kill()
    else:
        kafka.pause()
    member.tell(b"last words")
    published = asyncio.create_task(member.publish(0, 1, 1))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(member.bus.close(), 30)
    with pytest.raises(BusUnavailable):
        await published
    assert member.bodies() == [b"last words"]
