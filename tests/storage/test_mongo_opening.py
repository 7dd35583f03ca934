"""Which databases are opened, and what an opening leaves behind (HARDENING 45)."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from storage.collection import CollectionSpec, Index
from storage.errors import StoreError, StoreRefused, StoreUnavailable
from storage.log import ShardMap
from storage.mongo import MongoStore, connection, open_store
from storage.mongo.connection import Connection
from storage.mongo.schema import MIGRATIONS, migrate
from storage.store import FORMAT
from tests.real_parts import mongodb
from tests.real_parts.mongodb import ReplicaSet
from tests.storage.entries import append, message
from tests.storage.records import PEOPLE, SPECS, Person
from tests.stores import MongoDatabase

SHARDS = ShardMap(1, 1)
NOWHERE = "mongodb://user:hunter2@127.0.0.1:9/weft"


async def opened(uri: str, specs: Sequence[CollectionSpec[Any]] = SPECS) -> MongoStore:
    return await open_store(uri, server_name="example.org", shards=SHARDS, specs=specs)


@pytest.fixture
def data() -> Iterator[MongoDatabase]:
    data = MongoDatabase()
    yield data
    data.destroy()


@pytest.fixture(scope="module")
def alone() -> Iterator[ReplicaSet]:
    """A server that is no replica set, and asks who one is."""
    server = ReplicaSet(1, standalone=True, arguments=("--auth",))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def uninitiated() -> Iterator[ReplicaSet]:
    """A server that waits to be told which replica set it belongs to."""
    server = ReplicaSet(1, standalone=True, arguments=("--replSet", "rs0"))
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("mongodb://localhost:27017", r"names no database: write mongodb://localhost:27017/weft"),
        ("mongodb://a@b@c/weft", r"no URI of MongoDB.*escaped"),
        ("mongodb://localhost:99999/weft", r"no URI of MongoDB.*Port"),
        ("mongodb:///weft", r"no URI of MongoDB"),
        ("mongodb://localhost/weft.example.org", r"the database weft\.example\.org.*dots"),
        ("mongodb://localhost/weft?tls=true&tlsCAFile=/nowhere.pem", r"storage\.uri has.*/nowhere\.pem"),
        ("mongodb://localhost/weft?authMechanism=GSSAPI", r"storage\.uri has options.*username"),
        ("mongodb://localhost/weft?w=1", r"w=1.*leave that option out"),
        ("mongodb://localhost/weft?journal=false", r"journal=False"),
        ("mongodb://localhost/weft?readConcernLevel=local", r"readConcernLevel=local"),
        ("mongodb://localhost/weft?readPreference=secondary", r"readPreference=secondary"),
        ("mongodb://localhost/weft?retryWrites=false", r"retryWrites=False"),
    ],
)
async def test_a_uri_that_will_not_do_is_refused_with_the_remedy(uri: str, told: str) -> None:
    with pytest.raises(StoreRefused, match=told):
        await opened(uri)


async def test_a_uri_may_say_what_is_demanded_anyway(data: MongoDatabase) -> None:
    sign = "&" if "?" in data.uri else "?"
    store = await opened(f"{data.uri}{sign}w=majority&retryWrites=true&journal=true&timeoutMS=20000")
    await store.close()


async def test_a_server_that_cannot_be_reached_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPENING_TIMEOUT_S", 0.5)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9 cannot be reached.*storage\.uri") as caught:
        await opened(NOWHERE)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", ["", "?replicaSet=rs0", "?directConnection=true"])
async def test_a_replica_set_that_was_never_initiated_is_told_so(
    uninitiated: ReplicaSet, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPENING_TIMEOUT_S", 1.0)
    with pytest.raises(StoreUnavailable, match=r"answers, and has no primary: .*rs\.initiate\(\)"):
        await opened(f"{uninitiated.uri}weft{options}")


@pytest.mark.parametrize("user", ["", "weft:hunter2@"], ids=["nobody", "a stranger"])
async def test_a_server_that_lets_us_not_in_is_told_apart(alone: ReplicaSet, user: str) -> None:
    with pytest.raises(StoreRefused, match=r"does not let Weft in: storage\.uri must name a user") as caught:
        await opened(alone.uri.replace("//", f"//{user}") + "weft")
    assert "hunter2" not in str(caught.value)


async def test_a_server_by_itself_will_do_with_a_warning(
    alone: ReplicaSet, caplog: pytest.LogCaptureFixture
) -> None:
    alone.nodes[0].admin("createUser", "admin", pwd="secret", roles=["root"])
    uri = f"{alone.uri.replace('//', '//admin:secret@')}weft?authSource=admin"
    with caplog.at_level(logging.WARNING):
        store = await opened(uri)
    await append(store.log, 0, message("a"))
    assert await store.log.append(0, 1, [message("b")]) == 2
    await store.collection(PEOPLE).put(Person(user_id="a"))
    await store.close()
    warnings = [record.getMessage() for record in caplog.records]
    (warning,) = [warning for warning in warnings if "by itself" in warning]
    assert "--replSet" in warning
    assert "secret" not in warning


@pytest.mark.parametrize("change", [{"format": FORMAT + 1}, {"steps": len(MIGRATIONS) + 1}], ids=str)
async def test_a_newer_store_is_refused_and_not_touched(data: MongoDatabase, change: dict[str, int]) -> None:
    await (await opened(data.uri)).close()
    mongodb.database(data.uri)["store"].update_one({"_id": "store"}, {"$set": change})
    before = data.kept()
    with pytest.raises(StoreRefused, match=r"newer release.*restore a backup"):
        await opened(data.uri)
    assert data.kept() == before


async def test_a_database_of_another_program_is_refused_and_not_touched(data: MongoDatabase) -> None:
    photos = mongodb.database(data.uri)
    photos["photos"].insert_one({"_id": 1})
    with pytest.raises(StoreRefused, match=r"holds something else.*storage\.uri"):
        await opened(data.uri)
    assert photos.list_collection_names() == ["photos"]


async def test_a_first_start_that_was_cut_short_is_no_other_program(data: MongoDatabase) -> None:
    """The server makes a collection before it stores the first document in it."""
    mongodb.database(data.uri).create_collection("store")
    store = await opened(data.uri)
    assert await store.log.append(0, 0, [message("a")]) == 1
    await store.close()


async def test_migrations_are_taken_once_each_and_in_order(data: MongoDatabase) -> None:
    store = await opened(data.uri)
    taken: list[int] = []

    def step(number: int) -> Any:
        async def take(_: Connection) -> None:
            taken.append(number)

        return take

    more = (*MIGRATIONS, step(1), step(2))
    await migrate(store._connection, more)
    await migrate(store._connection, (*more, step(3)))
    assert taken == [1, 2, 3]
    await store.close()


async def test_an_interrupted_migration_is_taken_again(data: MongoDatabase) -> None:
    store = await opened(data.uri)
    taken: list[str] = []

    async def interrupted(_: Connection) -> None:
        taken.append("begun")
        raise asyncio.CancelledError

    async def whole(_: Connection) -> None:
        taken.append("done")

    with pytest.raises(asyncio.CancelledError):
        await migrate(store._connection, (*MIGRATIONS, interrupted))
    await store.close()
    store = await opened(data.uri)
    await migrate(store._connection, (*MIGRATIONS, whole))
    assert taken == ["begun", "done"]
    await store.close()


async def test_a_store_whose_creation_was_interrupted_is_finished(data: MongoDatabase) -> None:
    await (await opened(data.uri)).close()
    for name in ("log", "search", "people"):
        mongodb.database(data.uri).drop_collection(name)
    store = await opened(data.uri)
    await append(store.log, 0, message("a"))
    assert await store.log.find_event(str(message("a").event_id)) is not None
    await store.close()


@pytest.mark.parametrize(("collection", "index"), [("log", "by_slot"), ("people", "by_email")])
async def test_a_missing_index_is_made_at_the_next_start(
    data: MongoDatabase, collection: str, index: str
) -> None:
    await (await opened(data.uri)).close()
    stored = mongodb.database(data.uri)[collection]
    stored.drop_index(index)
    await (await opened(data.uri)).close()
    assert index in stored.index_information()


async def test_a_collection_whose_key_changed_is_refused(data: MongoDatabase) -> None:
    await (await opened(data.uri)).close()
    with pytest.raises(StoreRefused, match="key of people"):
        await opened(data.uri, (CollectionSpec("people", Person, ("user_id", "city")),))


async def test_what_cannot_be_unique_is_told_and_the_store_opens_as_before(data: MongoDatabase) -> None:
    store = await opened(data.uri)
    await store.collection(PEOPLE).put_many([Person(user_id=u, city="x", age=1) for u in "ab"])
    await store.close()
    unique = CollectionSpec("people", Person, ("user_id",), (Index("one_a_city", ("city",), unique=True),))
    with pytest.raises(StoreError, match="one_a_city"):
        await opened(data.uri, (unique,))
    store = await opened(data.uri)
    assert await store.collection(PEOPLE).count("by_age", (1,)) == 2
    await store.close()


async def test_replicas_that_start_at_once_change_indexes_together(data: MongoDatabase) -> None:
    others = (
        Index("by_city", ("city",)),
        Index("by_age", ("age", "city")),
        Index("alone", ("email",), unique=True),
    )
    await (await opened(data.uri, (CollectionSpec("people", Person, ("user_id",), others),))).close()
    for replica in await asyncio.gather(*(opened(data.uri) for _ in range(4))):
        await replica.close()
    stored = mongodb.database(data.uri)["people"].index_information()
    fields = {name: tuple(field for field, _ in each["key"]) for name, each in stored.items()}
    assert fields == {
        "_id_": ("_id",),
        "key": ("user_id",),
        **{by.name: by.fields for by in PEOPLE.indexes},
    }


async def test_an_index_is_made_while_the_store_is_in_use(data: MongoDatabase) -> None:
    """A release that declares one more starts beside one that serves."""
    serving = await opened(data.uri, (CollectionSpec("people", Person, ("user_id",)),))
    people = serving.collection(CollectionSpec("people", Person, ("user_id",)))
    await people.put_many([Person(user_id=f"{n}", city="x", age=n) for n in range(3000)])

    async def write() -> None:
        for n in range(3000, 3100):
            await people.put(Person(user_id=f"{n}", city="x", age=n))

    writing = asyncio.create_task(write())
    newer = await opened(data.uri)
    await writing
    assert await newer.collection(PEOPLE).count("by_city", ("x",)) == 3100
    await newer.close()
    await serving.close()
