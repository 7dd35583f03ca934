"""The bus between replicas on a real Kafka, as long as all goes well; and what it refuses to start with."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.admin import CreateAclsRequest
from msgspec.structs import replace

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.in_process import InProcessBus
from homeserver.bus.kafka.bus import KafkaBus, check
from homeserver.bus.opening import make_bus
from homeserver.clock import system_clock
from homeserver.config.options import Bus as BusOptions
from homeserver.config.options import BusSasl, BusTls
from homeserver.config.units import Secret
from storage.log import Entry, Kind, ShardMap
from storage.store import StoreInfo
from tests.bus.conftest import Join
from tests.bus.members import ALL_SHARDS, SHARDS, Member, options, prefix, until
from tests.real_parts.kafka import SASL_PASSWORD, SASL_USER, Kafka
from tests.real_parts.wire import Wire
from tests.server_process import free_port
from tests.storage.entries import ALICE, ROOM, account_data, message

REPOSITORY = Path(__file__).parents[2]
USER_SHARD = ShardMap.USER_BASE + 1


@pytest.fixture
async def admin(bus_options: BusOptions) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=bus_options.uri.removeprefix("kafka://"))
    await client.start()
    yield client
    await client.close()


# Entries


async def test_entries_of_all_kinds_reach_every_member_in_order(join: Join) -> None:
    a, b = await join("a"), await join("b")
    in_rooms = [
        message("backfilled", pos=-5),
        message("state", type="m.room.topic", key="", meta=b'{"r":1}', ts=5),
        Entry(Kind.STATE, ROOM, type="m.room.topic", key="", target="$x", ts=7),
        Entry(Kind.PARTIAL, ROOM, b'{"join":"$x","servers":["b"]}', type="state", key=""),
        Entry(Kind.STATE, ROOM, type="m.room.topic", key="", target="$x", pos=1, ts=7),
        Entry(Kind.PARTIAL, ROOM, type="state", key=""),
        Entry(Kind.GAP, ROOM),
        Entry(Kind.GAP_STATE, ROOM, type="m.room.topic", key="", target="$x", pos=-50331652, ts=7),
        Entry(Kind.RECEIPT, ROOM, type="m.read main", key=ALICE, target="$x", meta=b"12", ts=8),
        Entry(Kind.REWRITTEN, ROOM, target="$x", ts=9),
        Entry(Kind.DEVICE_LIST, "device_lists", type="", key=ALICE, ts=10),
    ]
    of_users = [
        account_data(ALICE, "m.direct", body=b'{"@bob:example.org": ["!a"]}'),
        Entry(Kind.ACCOUNT_DATA, ALICE, type="m.tag", key=ROOM, ts=1),
        Entry(Kind.TO_DEVICE, ALICE, b'{"content":{}}', type="to_device", key="PHONE", ts=2),
        Entry(Kind.NOTICE, ALICE, type="forgotten", key=ROOM, ts=3),
    ]
    for shard, entries in ((2, in_rooms), (USER_SHARD, of_users)):
        numbered = [replace(entry, seq=i + 1) for i, entry in enumerate(entries)]
        await a.bus.publish(shard, numbered)
        for member in (a, b):
            await until(lambda shard=shard, n=len(entries), m=member: len(m.entries[shard]) == n)
            assert member.entries[shard] == numbered


async def test_each_shard_keeps_its_order_however_it_is_published(join: Join) -> None:
    a, b = await join("a"), await join("b")
    random = Random(4)

    async def fill(shard: int) -> None:
        seq = 0
        while seq < 300:
            size = random.randint(1, 40)
            await random.choice((a, b)).publish(shard, seq + 1, seq + size)
            seq += size

    await asyncio.gather(*map(fill, ALL_SHARDS))
    for member in (a, b):
        for shard in ALL_SHARDS:
            await until(lambda shard=shard, member=member: len(member.entries[shard]) >= 300)
            got = [entry.seq for entry in member.entries[shard]]
            assert got == list(range(1, len(got) + 1))


async def test_large_entries_pass_and_too_large_ones_hold_nothing_up(join: Join) -> None:
    member = await join()
    bodies = [
        json.dumps({"body": "x" * size}).encode() for size in (65_000, 600_000, 3_000_000, 9_000_000, 10)
    ]
    entries = [message(i, body=body, seq=i + 1) for i, body in enumerate(bodies)]
    await member.bus.publish(0, entries)
    await until(lambda: member.entries[0] and member.entries[0][-1].seq == 5)
    assert member.entries[0] == [*entries[:3], entries[4]]


async def test_a_member_that_comes_later_hears_what_is_published_from_then_on(join: Join) -> None:
    a = await join("a")
    await a.publish(0, 1, 50)
    b = await join("b")
    await a.publish(0, 51, 52)
    await until(lambda: b.seqs(0)[-2:] == [51, 52])
    assert set(b.seqs(0)) <= {50, 51, 52}


async def test_other_programs_read_the_log_by_any_client(join: Join, bus_options: BusOptions) -> None:
    member = await join()
    (entry,) = await member.publish(3, 1, 1)
    consumer = AIOKafkaConsumer(
        f"{bus_options.topic_prefix}.room-log",
        bootstrap_servers=bus_options.uri.removeprefix("kafka://"),
        auto_offset_reset="earliest",
    )
    async with consumer:
        record = await asyncio.wait_for(consumer.getone(), 10)
    assert (record.partition, record.key) == (3, entry.stream.encode())
    assert json.loads(record.value)["event"] == json.loads(entry.body)


# Messages


async def test_messages_reach_all_members_once_in_one_order_at_positions_that_grow(join: Join) -> None:
    members = [await join(name) for name in "abc"]
    sent = []
    for i in range(700):
        members[i % 3].tell(b"%d" % i)
        sent.append(b"%d" % i)
        if i % 50 == 0:
            await asyncio.sleep(0.01)
    for member in members:
        await until(lambda member=member: len(member.messages) >= 700)
        assert sorted(member.bodies()) == sorted(sent)
        assert member.messages == members[0].messages
    positions = [position for position, _ in members[0].messages]
    assert all(a < b for a, b in pairwise(positions))


async def test_positions_go_on_growing_when_the_bus_is_begun_anew(
    join: Join, bus_options: BusOptions
) -> None:
    first = await join("a")
    first.tell(b"one")
    await until(lambda: first.messages)
    second = await join("b")
    second.tell(b"two")
    await until(lambda: second.messages)
    local = Member(bus_options, "c")
    local.tell(b"three")
    (one, _), (two, _), (three, _) = first.messages[0], second.messages[0], local.messages[0]
    assert one < two < three


async def test_a_member_that_closes_hands_over_what_was_told(join: Join) -> None:
    a, b = await join("a"), await join("b")
    a.tell(b"last words")
    await a.bus.close()
    await until(lambda: b.bodies() == [b"last words"])


# Ownership


def shared_out(*members: Member) -> bool:
    """Whether each shard has one owner, and all know them all."""
    owned = [shard for member in members for shard in member.ownership.own]
    known = {shard: f"{member.name}:80" for member in members for shard in member.ownership.own}
    return (
        sorted(owned) == sorted(ALL_SHARDS)
        and len(known) == len(ALL_SHARDS)
        and all(dict(member.ownership.addresses) == known for member in members)
    )


async def test_shards_are_divided_as_members_come_and_go(join: Join) -> None:
    a = await join("a")
    await until(lambda: shared_out(a))
    b = await join("b")
    await until(lambda: shared_out(a, b))
    of_two = a.ownership.own
    assert len(of_two) in (3, 4)
    c = await join("c")
    await until(lambda: shared_out(a, b, c))
    assert a.ownership.own < of_two
    of_three = a.ownership.own
    await b.bus.close()
    await until(lambda: shared_out(a, c), seconds=5)
    assert a.ownership.own >= of_three


async def test_the_shards_of_a_killed_member_go_to_the_others_within_seconds(
    join: Join, bus_options: BusOptions
) -> None:
    a = await join("a")
    bootstrap = bus_options.uri.removeprefix("kafka://")
    command = [sys.executable, "-m", "tests.bus.process", bootstrap, bus_options.topic_prefix, "b"]
    process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY)
    try:
        await until(lambda: 0 < len(a.ownership.own) < len(ALL_SHARDS))
        assert set(a.ownership.addresses.values()) == {"a:80", "b:80"}
    finally:
        process.kill()
        await process.wait()
    await until(lambda: shared_out(a), seconds=12)


# Starting


async def test_a_bus_without_kafka_says_where_it_looked() -> None:
    port = free_port()
    member = Member(options(f"127.0.0.1:{port}", prefix()))
    with pytest.raises(
        BusUnavailable, match=rf"^bus.uri: 127.0.0.1:{port}: no broker can be reached .* running"
    ):
        await member.bus.start(member)


async def test_a_broker_may_be_named_by_an_address_of_ipv6(join: Join, bus_options: BusOptions) -> None:
    wire = Wire(bus_options.uri.removeprefix("kafka://"))
    member = await join(bus_options=replace(bus_options, uri=f"kafka://{await wire.start(host='::1')}"))
    member.tell(b"hello")
    await until(lambda: member.bodies() == [b"hello"])
    await wire.close()


async def test_a_name_that_no_broker_can_have_is_told() -> None:
    member = Member(options("weft..example:9092", prefix()))
    with pytest.raises(BusUnavailable, match=r"^bus.uri: weft..example:9092: "):
        await member.bus.start(member)


@pytest.mark.parametrize("found", [2, 6])
async def test_another_number_of_partitions_is_refused(
    admin: Any, bus_options: BusOptions, found: int
) -> None:
    topic = f"{bus_options.topic_prefix}.room-log"
    await admin.create_topics([NewTopic(topic, found, 1)])
    member = Member(bus_options)
    with pytest.raises(BusUnavailable) as refused:
        await member.bus.start(member)
    text = str(refused.value)
    assert f"topic {topic} has {found} partitions, and the store needs {SHARDS.rooms}" in text
    assert "Delete the topic" in text and "bus.topic_prefix" in text and "\n" not in text


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("user-log", {"cleanup.policy": "compact"}, "cleanup.policy=compact, and needs delete"),
        ("messages", {}, "message.timestamp.type=CreateTime, and needs LogAppendTime"),
    ],
)
async def test_topics_made_otherwise_are_refused(
    admin: Any, bus_options: BusOptions, name: str, settings: dict[str, str], problem: str
) -> None:
    topic = f"{bus_options.topic_prefix}.{name}"
    partitions = {"user-log": SHARDS.users, "messages": 1}[name]
    await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])
    member = Member(bus_options)
    with pytest.raises(BusUnavailable, match=f"topic {topic} has {problem}"):
        await member.bus.start(member)


async def make_topics(admin: Any, bus_options: BusOptions, settings: dict[str, str]) -> None:
    """As somebody may make them by hand."""
    stamps = {"message.timestamp.type": "LogAppendTime"}
    names = {"room-log": (SHARDS.rooms, {}), "user-log": (SHARDS.users, {}), "messages": (1, stamps)}
    await admin.create_topics(
        [
            NewTopic(f"{bus_options.topic_prefix}.{name}", count, 1, topic_configs=settings | needed)
            for name, (count, needed) in names.items()
        ]
    )


async def test_topics_made_by_hand_as_they_must_be_are_taken(
    admin: Any, join: Join, bus_options: BusOptions
) -> None:
    await make_topics(admin, bus_options, {})
    member = await join()
    # These topics take no more than the brokers' default of 1 MiB.
    body = json.dumps({"body": "x" * 3_000_000}).encode()
    await member.bus.publish(0, [message(1, body=body, seq=1), message(2, seq=2)])
    await until(lambda: [entry.seq for entry in member.entries[0]] == [2])


async def test_topics_that_take_little_at_once_get_it_in_portions(
    admin: Any, join: Join, bus_options: BusOptions
) -> None:
    await make_topics(admin, bus_options, {"max.message.bytes": "100000"})
    member = await join()
    await member.publish(0, 1, 400)
    for number in range(400):
        member.tell(b"%03d" % number * 250)
    await until(lambda: member.seqs(0) == [*range(1, 401)] and len(member.messages) == 400)
    assert member.connected == []


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([], "a record that Weft did not write"),
        ([("schema", b"9"), ("store", b"epoch")], "a record of schema 9, which a newer release wrote"),
    ],
)
async def test_a_topic_with_other_records_is_refused(
    join: Join, bus_options: BusOptions, headers: list[tuple[str, bytes]], problem: str
) -> None:
    await join("a")
    topic = f"{bus_options.topic_prefix}.user-log"
    async with AIOKafkaProducer(bootstrap_servers=bus_options.uri.removeprefix("kafka://")) as producer:
        await producer.send_and_wait(topic, b"{}", key=b"k", partition=1, headers=headers)
    with pytest.raises(BusUnavailable, match=rf"topic {topic} holds {problem}.*bus.topic_prefix"):
        await join("b")


async def test_topics_of_another_store_are_refused(join: Join) -> None:
    a = await join("a")
    await a.publish(1, 1, 2)
    with pytest.raises(BusUnavailable, match=r"holds a record of another store \(epoch\)"):
        await join("b", epoch="begun anew")


async def test_topics_of_another_store_are_refused_before_anything_has_happened_in_it(join: Join) -> None:
    """Else the shards of each store would be divided among the servers of both."""
    await join("a")
    with pytest.raises(BusUnavailable, match=r"\.messages holds a record of another store \(epoch\)"):
        await join("b", epoch="begun anew")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"nonsense", []),
        (None, []),
        (b"nonsense", [("schema", None), ("store", None)]),
        (b"nonsense", [("schema", b"9" * 5000)]),
    ],
    ids=["nonsense", "nothing", "headers of nothing", "a number beyond all bounds"],
)
async def test_what_strangers_write_later_is_passed_over(
    join: Join, bus_options: BusOptions, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    member = await join("a")
    await member.publish(1, 1, 2)
    topics = [
        TopicPartition(f"{bus_options.topic_prefix}.{name}", n)
        for name, n in (("room-log", 1), ("messages", 0))
    ]
    async with AIOKafkaProducer(bootstrap_servers=bus_options.uri.removeprefix("kafka://")) as producer:
        for topic, partition in topics:
            await producer.send_and_wait(topic, value, key=b"k", partition=partition, headers=headers)
    member.tell(b"hello")
    await member.publish(1, 3, 3)
    await until(lambda: member.seqs(1) == [1, 2, 3] and member.bodies() == [b"hello"])


async def test_a_message_that_cannot_be_taken_keeps_no_other_away(join: Join) -> None:
    a, b = await join("a"), await join("b")
    b.bus.subscribe("number", lambda position, body: int(body))
    a.bus.tell("number", b"of a release that writes numbers otherwise")
    a.tell(b"hello")
    await until(lambda: b.bodies() == [b"hello"])


# TLS and SASL


async def exchanged(bus_options: BusOptions) -> list[bytes]:
    """What a member hears of itself."""
    member = Member(bus_options)
    await member.bus.start(member)
    member.tell(b"hello")
    await member.publish(0, 1, 1)
    await until(lambda: member.messages and member.entries[0] and member.ownership.own)
    await member.bus.close()
    return member.bodies()


async def test_a_name_and_a_password_let_in_and_wrong_ones_do_not(own_kafka: Kafka) -> None:
    sasl = BusSasl(mechanism="PLAIN", user=SASL_USER, password=Secret(SASL_PASSWORD))
    right = replace(options(own_kafka.sasl, prefix()), sasl=sasl)
    assert await exchanged(right) == [b"hello"]
    with pytest.raises(BusUnavailable, match=r"refuses the name or the password; look at bus\.sasl\.user"):
        await exchanged(replace(right, sasl=replace(sasl, password=Secret("wrong"))))
    with pytest.raises(BusUnavailable, match=r"another way to log in; look at bus\.sasl\.mechanism"):
        await exchanged(replace(right, sasl=replace(sasl, mechanism="SCRAM-SHA-256")))
    with pytest.raises(BusUnavailable, match=r"bus\.sasl"):
        await exchanged(replace(right, sasl=BusSasl()))


async def test_who_may_not_be_in_the_group_of_replicas_is_told_so_at_the_start(own_kafka: Kafka) -> None:
    """Alone it would own no shard: nothing would be published, found or sent to other servers."""
    sasl = BusSasl(mechanism="PLAIN", user=SASL_USER, password=Secret(SASL_PASSWORD))
    shut_out = replace(options(own_kafka.sasl, prefix()), sasl=sasl)
    await deny_group(own_kafka, f"{shut_out.topic_prefix}-replicas")
    told = r"let the user in bus\.sasl\.user join the group"
    with pytest.raises(BusUnavailable, match=told):
        await exchanged(shut_out)
    with pytest.raises(BusUnavailable, match=told):
        await check(shut_out, SHARDS)


async def deny_group(kafka: Kafka, group: str) -> None:
    """Let all but the superuser do nothing with a consumer group."""
    of_group, literal, everything, deny = 3, 3, 2, 2
    denial = CreateAclsRequest(of_group, group, literal, f"User:{SASL_USER}", "*", everything, deny)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        response = await admin._send_request(denial)
        assert [code for code, _ in response.creation_responses] == [0]
    finally:
        await admin.close()


async def test_tls_is_spoken_with_brokers_that_are_vouched_for(own_kafka: Kafka, tmp_path: Path) -> None:
    tls = BusTls(enabled=True, ca=str(own_kafka.certificate))
    right = replace(options(own_kafka.tls, prefix()), tls=tls)
    assert await exchanged(right) == [b"hello"]
    with pytest.raises(BusUnavailable, match=r"certificate is not trusted .* look at bus\.tls\.ca"):
        await exchanged(replace(right, tls=BusTls(enabled=True)))
    with pytest.raises(BusUnavailable, match=r"bus\.tls"):
        await exchanged(replace(right, tls=BusTls()))
    with pytest.raises(BusUnavailable, match=r"bus\.tls\.ca: no certificates can be read from .*missing"):
        await exchanged(replace(right, tls=BusTls(enabled=True, ca=str(tmp_path / "missing"))))


# Which bus


def test_the_uri_says_which_bus_it_is() -> None:
    store = StoreInfo(epoch="e", server_name="example.org", shards=SHARDS, format=1)
    assert isinstance(make_bus(BusOptions(), store, "a:80", system_clock), InProcessBus)


async def test_kafka_in_the_uri_makes_it_kafka() -> None:
    store = StoreInfo(epoch="e", server_name="example.org", shards=SHARDS, format=1)
    assert isinstance(make_bus(options("a:1,b:2", prefix()), store, "a:80", system_clock), KafkaBus)
