"""Opens the database, checks that it is ours to open, and puts the parts together."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pymongo import timeout
from pymongo.errors import PyMongoError

from storage.collection import Collection, CollectionSpec, Record
from storage.log import ShardMap
from storage.mongo.collection import MongoCollection, Shape
from storage.mongo.connection import Connection, connect
from storage.mongo.examination import examine
from storage.mongo.faults import opening_error
from storage.mongo.identity import begin_epoch, confirm, establish
from storage.mongo.lease import Lease
from storage.mongo.log import MongoLog
from storage.mongo.schema import LOG, LOG_INDEXES, SEARCH, SEARCH_INDEXES, migrate, prepare
from storage.mongo.search import MongoSearch
from storage.mongo.watch import watch
from storage.store import Examination, Occupant, StoreInfo

T = TypeVar("T", bound=Record)


async def open_store(
    uri: str, *, server_name: str, shards: ShardMap, specs: Sequence[CollectionSpec[Any]]
) -> "MongoStore":
    """Open or create the store in the database that a `mongodb://` URI names.

    Raises StoreRefused and StoreUnavailable.
    """
    connection = await connect(uri)
    shapes = [Shape(spec) for spec in specs]
    try:
        await establish(connection, server_name, shards)
        # However long it takes: an index that is given up half-made is begun anew at the next start.
        with timeout(0):
            await prepare(connection)
            await migrate(connection)
            for shape in shapes:
                await shape.prepare(connection)
        info = await confirm(connection, shards)
    except PyMongoError as error:
        await connection.close()
        raise opening_error(error, connection.where) from error
    except BaseException:
        await connection.close()
        raise
    return MongoStore(connection, info, shapes)


class MongoStore:
    """Implements `storage.store.Store`."""

    def __init__(self, connection: Connection, info: StoreInfo, shapes: Sequence[Shape[Any]]) -> None:
        self._connection = connection
        self._info = info
        self._shapes = shapes
        self._log = MongoLog(connection, info.shards)
        self._search = MongoSearch(connection)
        self._collections = {shape.spec.name: MongoCollection(shape, connection) for shape in shapes}
        self._lease = Lease(connection, info.epoch)
        self._watch = asyncio.create_task(
            watch(connection, info.epoch, self._log.known_tails), name="watch-store"
        )

    @property
    def info(self) -> StoreInfo:
        return self._info

    @property
    def log(self) -> MongoLog:
        return self._log

    @property
    def search(self) -> MongoSearch:
        return self._search

    def collection(self, spec: CollectionSpec[T]) -> Collection[T]:
        return cast(Collection[T], self._collections[spec.name])

    async def claim(self, occupant: Occupant) -> None:
        await self._lease.take(occupant)

    async def begin_epoch(self) -> None:
        self._watch.cancel()
        await begin_epoch(self._connection)

    async def size_bytes(self) -> int:
        """What documents and indexes take; on disk the server compresses them, as it gets round to it."""
        database = self._connection.database
        stats = await self._connection.read(lambda session: database.command("dbStats", session=session))
        return int(stats["dataSize"] + stats["indexSize"])

    async def examine(self) -> Examination:
        of_records = {shape.spec.name: shape.models() for shape in self._shapes}
        return await examine(self._connection, {LOG: LOG_INDEXES, SEARCH: SEARCH_INDEXES, **of_records})

    async def close(self) -> None:
        self._watch.cancel()
        await self._log.close()
        await self._lease.release()
        await self._connection.close()
