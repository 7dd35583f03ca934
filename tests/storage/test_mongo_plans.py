"""Every query is a search in an index made for it: none walks a collection, or sorts what it has found.

The queries are taken down as the driver sends them, and the server is asked for its plans. (In all other
tests, too, the test server refuses to walk a collection; but it would sort.)
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring

from storage.log import Kind, Log, ShardMap
from storage.mongo import MongoStore, connection, open_store
from storage.search import SearchDocument, SearchIndex, SearchQuery
from tests.real_parts import mongodb
from tests.storage.entries import ALICE, ROOM, append, event_id, member, message
from tests.storage.records import KEYS, PEOPLE, SPECS, Key, Person
from tests.stores import MongoDatabase

QUERIES = frozenset({"find", "aggregate", "delete", "update", "findAndModify"})
OF_THE_DRIVER = ("lsid", "$db", "$clusterTime", "txnNumber", "writeConcern", "readConcern", "maxTimeMS")
TWO = [("m.room.member", ALICE), ("m.room.topic", "")]
EVENT = Kind.EVENT

READS: dict[str, Callable[[Log], Awaitable[object]]] = {
    "append_several": lambda log: log.append(1, 0, [message("a", txn=b"a" * 16), message("b")]),
    "tail": lambda log: log.tail(0),
    "read": lambda log: log.read(0, 3, 10),
    "entry": lambda log: log.entry(0, 3),
    "entries": lambda log: log.entries(0, [1, 2, 9]),
    "by_event_id": lambda log: log.by_event_id(0, [event_id(1), event_id(2)]),
    "find_event": lambda log: log.find_event(event_id(1)),
    "by_txn": lambda log: log.by_txn(0, b"x" * 16),
    "page": lambda log: log.page(0, ROOM, kind=EVENT, after=1, before=9, limit=5),
    "page_back": lambda log: log.page(0, ROOM, kind=EVENT, newest_first=True, limit=5),
    "keyed": lambda log: log.keyed(
        0, ROOM, kind=EVENT, type="m.room.member", key=ALICE, newest_first=True, limit=5
    ),
    "current": lambda log: log.current(0, ROOM, EVENT),
    "current_at": lambda log: log.current_at(0, ROOM, EVENT, 9),
    "keys_at": lambda log: log.current_at(0, ROOM, EVENT, 9, TWO),
    "streams_keyed": lambda log: log.streams_keyed(range(1), EVENT, "m.room.member", ALICE),
    "streams_keyed_of_shards": lambda log: log.streams_keyed(range(3), EVENT, "m.room.member", ALICE),
    "related": lambda log: log.related(0, ROOM, event_id(1), rel_type="m.thread", limit=5),
    "related_of_type": lambda log: log.related(0, ROOM, event_id(1), type="x", newest_first=False, limit=5),
    "with_relations": lambda log: log.with_relations(0, ROOM, [event_id(1), event_id(2)]),
    "with_relations_of_type": lambda log: log.with_relations(
        0, ROOM, [event_id(1), event_id(2)], rel_type="m.thread"
    ),
    "by_rel_type": lambda log: log.by_rel_type(0, ROOM, "m.thread", before=9, limit=5),
    "near_time": lambda log: log.near_time(0, ROOM, 5, forwards=True),
    "near_time_back": lambda log: log.near_time(0, ROOM, 5, forwards=False),
    "streams": lambda log: log.streams(0, limit=5),
    "rewrite": lambda log: log.rewrite(0, 3, b"{}", b""),
    "remove": lambda log: log.remove(0, [4]),
}


async def file_again(index: SearchIndex) -> None:
    for word in ("tea", "coffee"):
        await index.add([SearchDocument("$x", ROOM, ALICE, "content.body", 5, [word])])


SEARCHES: dict[str, Callable[[SearchIndex], Awaitable[object]]] = {
    "add": file_again,
    "search": lambda index: index.search(SearchQuery(["tea", "cup"], [ROOM, "!o:x"]), limit=5, ranked=True),
    "narrowed": lambda index: index.search(
        SearchQuery(["tea"], [ROOM], ["content.body"], [ALICE]), below=1 << 60, limit=5, ranked=False
    ),
    "remove": lambda index: index.remove(["$x"]),
    "remove_room": lambda index: index.remove_room(ROOM),
}
RECORDS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "get": lambda people, keys: keys.get("u", "d", "1"),
    "get_many": lambda people, keys: keys.get_many([("u", "d", "1"), ("u", "d", "2")]),
    "put": lambda people, keys: people.put(Person(user_id="a", age=2)),
    "put_many": lambda people, keys: people.put_many([Person(user_id="a"), Person(user_id="b", age=1)]),
    "replace_if": lambda people, keys: people.replace_if(Person(user_id="a"), Person(user_id="a", age=1)),
    "take": lambda people, keys: keys.take("by_order", [("u", "d")], "parts"),
    "delete": lambda people, keys: people.delete("a"),
    "delete_where": lambda people, keys: keys.delete_where("by_order", ("u", "e")),
    "find": lambda people, keys: people.find("by_city", ("x",), after=1, newest_first=True, limit=5),
    "find_all": lambda people, keys: people.find("by_city", limit=5),
    "find_prefix": lambda people, keys: keys.find_prefix("key", ("u",), "d", limit=5),
    "count": lambda people, keys: people.count("by_city", ("x",)),
    "count_all": lambda people, keys: people.count("key"),
}


class Sent(monitoring.CommandListener):
    """Takes down what is sent to the server."""

    def __init__(self) -> None:
        self.queries: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in QUERIES:
            self.queries.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        return

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        return


@pytest.fixture(scope="module")
def data() -> Iterator[MongoDatabase]:
    data = MongoDatabase()
    yield data
    data.destroy()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr(connection, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[sent]))
    return sent


@pytest.fixture
async def store(data: MongoDatabase, sent: Sent) -> AsyncIterator[MongoStore]:
    """With enough in it that the indexes differ."""
    data.empty()
    store = await open_store(data.uri, server_name="example.org", shards=ShardMap(3, 1), specs=SPECS)
    rooms = (ROOM, "!other:example.org")
    await append(store.log, 0, *(message(n, rooms[n % 2], ts=n) for n in range(20)))
    await append(store.log, 0, *(member(f"m{n}", ALICE, rooms[n % 2]) for n in range(20)))
    related = {"target": event_id(1), "rel_type": "m.thread", "txn": b"x" * 16}
    await append(store.log, 0, message("related", **related))
    await store.collection(PEOPLE).put_many([Person(user_id=str(n), city="x", age=n) for n in range(9)])
    await store.collection(KEYS).put_many(
        [Key(user_id="u", device_id=d, key_id=str(n), order=n) for n in range(9) for d in "de"]
    )
    sent.queries.clear()
    yield store
    await store.close()


def one_by_one(query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the server can explain: of several writes in one command, each for itself."""
    asked = {name: value for name, value in query.items() if name not in OF_THE_DRIVER}
    batch = next((name for name in ("updates", "deletes") if name in asked), None)
    if batch is None:
        yield asked
    else:
        yield from ({**asked, batch: [write]} for write in asked[batch])


def stages(plan: object) -> Iterator[str]:
    """The names of all stages of an explanation."""
    if isinstance(plan, Mapping):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        yield from (name for name in plan if name in ("$sort", "$group"))
        for key, inner in plan.items():
            if key not in ("rejectedPlans", "command"):
                yield from stages(inner)
    elif isinstance(plan, list):
        for inner in plan:
            yield from stages(inner)


def check(data: MongoDatabase, sent: Sent, *, groups_first: bool = False) -> None:
    assert sent.queries
    for asked in (asked for query in sent.queries for asked in one_by_one(query)):
        plan = mongodb.database(data.uri).command("explain", asked, verbosity="queryPlanner")
        found = list(stages(plan))
        searches = [stage for stage in found if stage in ("IXSCAN", "IDHACK", "DISTINCT_SCAN", "COUNT_SCAN")]
        assert searches, (asked, found)
        assert "COLLSCAN" not in found, asked
        assert "SORT" not in found, (asked, plan)
        if groups_first:
            assert "DISTINCT_SCAN" in found, (asked, found)


@pytest.mark.parametrize("name", READS)
async def test_queries_of_the_log(store: MongoStore, data: MongoDatabase, sent: Sent, name: str) -> None:
    await READS[name](store.log)
    check(
        data, sent, groups_first="current" in name or name in ("keys_at", "streams_keyed", "with_relations")
    )


@pytest.mark.parametrize("name", SEARCHES)
async def test_queries_of_the_search_index(
    store: MongoStore, data: MongoDatabase, sent: Sent, name: str
) -> None:
    await SEARCHES[name](store.search)
    check(data, sent)


@pytest.mark.parametrize("name", RECORDS)
async def test_queries_of_records(store: MongoStore, data: MongoDatabase, sent: Sent, name: str) -> None:
    await RECORDS[name](store.collection(PEOPLE), store.collection(KEYS))
    check(data, sent)


def test_all_methods_are_called() -> None:
    methods = {name for name in vars(Log) if not name.startswith("_")}
    assert methods - {"append"} <= READS.keys()
