"""What the real `weft serve` will not start with: one clear line each, which names the remedy.

What else openings refuse, and what they leave behind, is in `tests/storage` and `tests/bus`.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.real_parts import mongodb
from tests.real_parts.kafka import SASL_USER, Kafka
from tests.replicas.cluster import ROOM_SHARDS, USER_SHARDS, Cluster, Replica
from tests.server_process import free_port


class Ready(NamedTuple):
    """A replica that starts as it is configured."""

    replica: Replica
    cluster: Cluster
    kafka: Kafka

    def refused(self, **environment: str) -> str:
        """The one line with which it ends, so configured."""
        before = dict(self.replica.environment)
        self.replica.environment.update(environment)
        try:
            (line,) = [
                line
                for line in self.replica.refused()
                # That a server by itself will do for trials is said, too.
                if line.startswith("weft: ")
            ]
        finally:
            self.replica.environment = before
        return line


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, own_kafka: Kafka) -> Iterator[Ready]:
    own_kafka.ensure_running()
    name = f"refused{random.randrange(1 << 30)}"
    storage = mongodb.uri().replace("/?", f"/{name}?")
    folder = tmp_path_factory.mktemp("refused")
    cluster = Cluster(folder, 1, storage=storage, bus=f"kafka://{own_kafka.bootstrap}", prefix=name)
    cluster.start()
    cluster.stop()
    yield Ready(cluster.replicas[0], cluster, own_kafka)
    mongodb.drop(storage)


def test_another_kind_of_store(ready: Ready) -> None:
    line = ready.refused(WEFT_STORAGE_URI="postgresql://localhost/weft")
    assert "storage.uri" in line and "mongodb://" in line


def test_a_database_that_cannot_be_reached(ready: Ready) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    line = ready.refused(WEFT_STORAGE_URI=f"mongodb://weft:hunter2@{nobody}/weft")
    assert f"MongoDB at {nobody} cannot be reached: start it, or correct storage.uri" in line
    assert "hunter2" not in line


def test_a_name_and_a_password_that_the_database_does_not_know(ready: Ready) -> None:
    uri = ready.cluster.storage.replace("mongodb://", "mongodb://weft:hunter2@")
    line = ready.refused(WEFT_STORAGE_URI=uri)
    assert "does not let Weft in: storage.uri must name a user, a password" in line
    assert "hunter2" not in line


def test_a_store_of_another_server(ready: Ready) -> None:
    line = ready.refused(WEFT_SERVER_NAME="other.localhost")
    assert "belongs to the server localhost, not other.localhost" in line
    assert "give this one a store of its own" in line


def test_a_store_of_another_number_of_shards(ready: Ready) -> None:
    line = ready.refused(WEFT_STORAGE_ROOM_SHARDS=str(ROOM_SHARDS + 1))
    assert f"has {ROOM_SHARDS} room shards" in line and "set them as they were" in line


def test_a_store_of_a_newer_release(ready: Ready) -> None:
    stores = mongodb.database(ready.cluster.storage)["store"]
    stores.update_one({"_id": "store"}, {"$inc": {"format": 1}})
    try:
        line = ready.refused()
    finally:
        stores.update_one({"_id": "store"}, {"$inc": {"format": -1}})
    assert "written by a newer release: run that one, or restore a backup" in line


def test_another_kind_of_bus(ready: Ready) -> None:
    line = ready.refused(WEFT_BUS_URI="nats://localhost")
    assert "bus.uri" in line and "kafka://" in line


def test_a_broker_that_cannot_be_reached(ready: Ready) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    line = ready.refused(WEFT_BUS_URI=f"kafka://{nobody}")
    assert f"bus.uri: {nobody}: no broker can be reached" in line and "is Kafka running" in line


def test_other_brokers_than_those_of_a_server_that_runs(ready: Ready, tmp_path: Path) -> None:
    others = Kafka(tmp_path)
    others.start()
    ready.cluster.start()
    try:
        line = ready.refused(
            WEFT_BUS_URI=f"kafka://{others.bootstrap}", WEFT_LISTEN=f"127.0.0.1:{free_port()}"
        )
    finally:
        ready.cluster.stop()
        others.kill()
    assert "has this store open, and would not hear of this one: give both the same bus.uri" in line


def test_a_name_and_a_password_that_the_broker_does_not_know(ready: Ready) -> None:
    line = ready.refused(
        WEFT_BUS_URI=f"kafka://{ready.kafka.sasl}",
        WEFT_BUS_SASL_MECHANISM="PLAIN",
        WEFT_BUS_SASL_USER=SASL_USER,
        WEFT_BUS_SASL_PASSWORD="hunter2",
    )
    assert "refuses the name or the password; look at bus.sasl.user and bus.sasl.password" in line
    assert "hunter2" not in line


def test_too_few_partitions(ready: Ready) -> None:
    prefix = f"{ready.cluster.prefix}-few"
    asyncio.run(_create(ready.kafka, NewTopic(f"{prefix}.user-log", USER_SHARDS - 1, 1)))
    line = ready.refused(WEFT_BUS_TOPIC_PREFIX=prefix)
    assert f"topic {prefix}.user-log has {USER_SHARDS - 1} partitions, and the store needs" in line
    assert "Delete the topic" in line and "bus.topic_prefix" in line


def test_a_topic_with_records_of_another_schema(ready: Ready) -> None:
    prefix = f"{ready.cluster.prefix}-newer"
    topic = f"{prefix}.room-log"
    asyncio.run(_create(ready.kafka, NewTopic(topic, ROOM_SHARDS, 1)))
    asyncio.run(_write(ready.kafka, topic, [("schema", b"9"), ("store", b"epoch")]))
    line = ready.refused(WEFT_BUS_TOPIC_PREFIX=prefix)
    assert f"topic {topic} holds a record of schema 9, which a newer release wrote" in line
    assert "bus.topic_prefix" in line


def test_a_missing_index_is_made(ready: Ready) -> None:
    """It is nothing to be refused for: what is missing is made before anybody is served."""
    log = mongodb.database(ready.cluster.storage)["log"]
    log.drop_index("by_slot")
    ready.cluster.start()
    ready.cluster.stop()
    assert "by_slot" in log.index_information()


async def _create(kafka: Kafka, topic: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([topic])
    await admin.close()


async def _write(kafka: Kafka, topic: str, headers: list[tuple[str, bytes]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(topic, b"{}", key=b"k", partition=0, headers=headers)
