"""The generic collection on MongoDB: documents with the record's fields, and the indexes of its spec.

Texts, numbers, truth values, bytes and lists of these are fields of the document, so that a new index
finds what older releases have written; whatever else a record has lies in `_rest` as JSON, out of reach
of the rules that MongoDB has for names and numbers. Defaults are left out, except in index fields; None
always is. The primary key is the unique index `key`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
from bson import Int64
from msgspec.structs import fields as fields_of
from msgspec.structs import replace
from pymongo import IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.operations import DeleteOne, ReplaceOne

from storage.collection import CollectionSpec, Index, Puts, Record, Scalar, after_all_that_start_with
from storage.errors import AlreadyExists, StoreRefused
from storage.mongo.connection import Connection, Document, whole
from storage.mongo.faults import duplicate, writing
from storage.mongo.schema import BY_ID, has, index

T = TypeVar("T", bound=Record)
R = TypeVar("R")

KEY = "key"
"""The name by which `find` knows the primary key."""

ASKED_AT_ONCE = 500
DELETED_AT_ONCE = 500

INDEX_NOT_FOUND = 27

_REST = "_rest"
_LARGEST = 1 << 63


class Shape(Generic[T]):
    """What the documents of one collection look like, and how they are asked for."""

    def __init__(self, spec: CollectionSpec[T]) -> None:
        self.spec = spec
        self._indexes = {KEY: Index(KEY, spec.key, unique=True)} | {by.name: by for by in spec.indexes}
        self._indexed = dict.fromkeys(field for by in self._indexes.values() for field in by.fields)
        self._by_fields = {by.fields: by.name for by in self._indexes.values()}

    def index(self, name: str) -> Index:
        """An index by name, the primary key being one. Raises KeyError."""
        return self._indexes[name]

    def to_document(self, record: T) -> Document:
        fields = msgspec.to_builtins(record, builtin_types=(bytes,))
        fields |= {field: getattr(record, field) for field in self._indexed}
        document = {name: value for name, value in fields.items() if _is_plain(value)}
        rest = {name: value for name, value in fields.items() if not _is_plain(value) and value is not None}
        if rest:
            document[_REST] = msgspec.json.encode(rest)
        return document

    def to_record(self, document: Mapping[str, Any]) -> T:
        # Large numbers come as a class of their own.
        fields: Document = {
            name: int(value) if type(value) is Int64 else value for name, value in document.items()
        }
        rest = fields.pop(_REST, None)
        if rest is not None:
            fields |= msgspec.json.decode(rest)
        # What a later release has added is passed over, `_id` too.
        return msgspec.convert(fields, self.spec.record, builtin_types=(bytes,), str_keys=True)

    def key_of(self, record: T) -> tuple[Scalar, ...]:
        return tuple(getattr(record, field) for field in self.spec.key)

    def with_key(self, key: Sequence[Scalar]) -> Document:
        return dict(zip(self.spec.key, key, strict=True))

    def under(self, by: Index, prefix: Sequence[Scalar]) -> Document:
        """The condition of being in an index, under a prefix of its fields."""
        if len(prefix) > len(by.fields):
            raise ValueError(f"{self.spec.name}.{by.name} has {len(by.fields)} fields, not {len(prefix)}")
        optional = () if by.name == KEY else by.fields[len(prefix) :]
        return {**dict(zip(by.fields, prefix, strict=False)), **has(*optional)}

    def next_field(self, by: Index, prefix: Sequence[Scalar]) -> str:
        """The field that follows a prefix."""
        if len(prefix) >= len(by.fields):
            raise ValueError(f"{self.spec.name}.{by.name} has no field behind {len(prefix)}")
        return by.fields[len(prefix)]

    def taken(self, error: Mapping[str, Any]) -> AlreadyExists:
        """Which unique value another record holds, by the details of the server's refusal."""
        return AlreadyExists(self.spec.name, self._by_fields[tuple(error["keyPattern"])])

    # -- the indexes themselves --

    def models(self) -> list[IndexModel]:
        """The indexes as they must be."""
        return [_model(by) for by in self._indexes.values()]

    async def prepare(self, connection: Connection) -> None:
        """Make the collection as the spec says. Raises StoreRefused if the key has changed.

        An index that no spec declares any more is left alone unless it is unique: a replica of the
        release before may lean on it.
        """
        collection = connection.database[self.spec.name]
        stored = await collection.index_information()
        if KEY in stored and _fields(stored[KEY]) != self.spec.key:
            raise StoreRefused(
                f"The key of {self.spec.name} is {_fields(stored[KEY])} in this store, not {self.spec.key}: "
                "run the release that wrote it"
            )
        for name in [name for name in stored if name != BY_ID and self._is_stale(name, stored[name])]:
            await _drop(collection, stored.pop(name))
        missing = [by for name, by in self._indexes.items() if name not in stored]
        if missing and stored:
            await self._fill(collection, missing)
        if missing:
            await collection.create_indexes([_model(by) for by in missing])

    def _is_stale(self, name: str, stored: Mapping[str, Any]) -> bool:
        unique = stored.get("unique", False)
        by = self._indexes.get(name)
        return unique if by is None else (_fields(stored), unique) != (by.fields, by.unique)

    async def _fill(self, collection: AsyncCollection[Document], indexes: Sequence[Index]) -> None:
        """Write down defaults that were left out as long as their fields were in no index."""
        indexed = {field for by in indexes for field in by.fields}
        defaults = {
            field.name: {"$ifNull": [f"${field.name}", {"$literal": field.default}]}
            for field in fields_of(self.spec.record)
            if field.name in indexed and field.default not in (None, msgspec.NODEFAULT)
        }
        if defaults:
            await collection.update_many({}, [{"$set": defaults}], hint=KEY)


class MongoCollection(Generic[T]):
    """Implements `storage.collection.Collection`."""

    def __init__(self, shape: Shape[T], connection: Connection) -> None:
        self._shape = shape
        self._connection = connection
        self._name = shape.spec.name
        self._collection = connection.database[shape.spec.name]

    async def get(self, *key: Scalar) -> T | None:
        found = await self._connection.find(self._name, self._shape.with_key(key), hint=KEY, limit=1)
        return self._shape.to_record(found[0]) if found else None

    async def get_many(self, keys: Sequence[tuple[Scalar, ...]]) -> list[T]:
        records: dict[tuple[Scalar, ...], T] = {}
        for start in range(0, len(keys), ASKED_AT_ONCE):
            of_keys = [self._shape.with_key(key) for key in keys[start : start + ASKED_AT_ONCE]]
            for document in await self._connection.find(self._name, {"$or": of_keys}, hint=KEY):
                record = self._shape.to_record(document)
                records[self._shape.key_of(record)] = record
        return [records[key] for key in map(tuple, keys) if key in records]

    async def insert(self, record: T) -> None:
        async def write(session: AsyncClientSession) -> None:
            await self._collection.insert_one(self._shape.to_document(record), session=session)

        await self._write(write)

    async def put(self, record: T) -> None:
        async def write(session: AsyncClientSession) -> None:
            where, document = (
                self._shape.with_key(self._shape.key_of(record)),
                self._shape.to_document(record),
            )
            await self._collection.replace_one(where, document, upsert=True, hint=KEY, session=session)

        await self._write(write)

    async def put_many(self, records: Sequence[T]) -> None:
        if records:
            await self._write(lambda session: self.put_in(session, records))

    async def put_in(self, session: AsyncClientSession, records: Sequence[T]) -> None:
        """What `put_many` does inside a session; raises the driver's errors."""
        shape = self._shape
        puts = [
            ReplaceOne(shape.with_key(shape.key_of(record)), shape.to_document(record), upsert=True, hint=KEY)
            for record in records
        ]
        if puts:
            await self._collection.bulk_write(puts, session=session)

    async def replace_if(self, old: T | None, new: T, *, then: Sequence[Puts[Any]] = ()) -> bool:
        shape = self._shape
        where = shape.with_key(shape.key_of(new))
        if old is not None and shape.with_key(shape.key_of(old)) != where:
            raise ValueError("a record cannot be replaced by one of another key")
        stored = await self._connection.find(self._name, where, hint=KEY, limit=1)
        # Records are compared and not documents: another release may leave out other defaults.
        if (shape.to_record(stored[0]) if stored else None) != old:
            return False

        async def write(session: AsyncClientSession) -> bool:
            document = shape.to_document(new)
            if stored:
                as_it_was = {**where, "$expr": {"$eq": ["$$ROOT", {"$literal": stored[0]}]}}
                result = await self._collection.replace_one(as_it_was, document, hint=KEY, session=session)
                if result.matched_count == 0:
                    return False
            else:
                await self._collection.insert_one(document, session=session)
            for puts in then:
                await cast(MongoCollection[Any], puts.into).put_in(session, puts.records)
            return True

        try:
            return await self._write(write)
        except AlreadyExists as taken:
            if old is None and taken.index == KEY:
                return False
            raise

    async def take(self, index: str, prefixes: Sequence[Sequence[Scalar]], items: str) -> list[T | None]:
        by = self._shape.index(index)
        return await asyncio.gather(*(self._take_one(by, prefix, items) for prefix in prefixes))

    async def _take_one(self, by: Index, prefix: Sequence[Scalar], items: str) -> T | None:
        shape = self._shape
        where, in_order = shape.under(by, prefix), _in_order(by, 1)

        async def write(session: AsyncClientSession) -> T | None:
            while True:
                # From a record without items nothing is taken yet, it is only found.
                found = await self._collection.find_one_and_update(
                    where, {"$pop": {items: -1}}, sort=in_order, hint=by.name, session=session
                )
                if found is None:
                    return None
                record = shape.to_record(found)
                if first := getattr(record, items)[:1]:
                    return replace(record, **{items: first})
                as_it_was = {**shape.with_key(shape.key_of(record)), f"{items}.0": {"$exists": False}}
                removed = await self._collection.delete_one(as_it_was, hint=KEY, session=session)
                if removed.deleted_count == 1:
                    return record

        return await self._write(write)

    async def delete(self, *key: Scalar) -> bool:
        async def write(session: AsyncClientSession) -> bool:
            result = await self._collection.delete_one(self._shape.with_key(key), hint=KEY, session=session)
            return result.deleted_count == 1

        return await self._write(write)

    async def delete_where(self, index: str, prefix: Sequence[Scalar]) -> int:
        shape, total = self._shape, 0
        by = shape.index(index)
        where = shape.under(by, prefix)
        while True:
            found = await self._find(by, where, 1, DELETED_AT_ONCE)
            # One by one: what deletes all that meets a condition is not repeated by the driver.
            deletions = [DeleteOne(where | shape.with_key(shape.key_of(each)), hint=KEY) for each in found]

            async def write(session: AsyncClientSession, deletions: list[DeleteOne] = deletions) -> int:
                return (await self._collection.bulk_write(deletions, session=session)).deleted_count

            if deletions:
                total += await self._write(write)
            if len(found) < DELETED_AT_ONCE:
                return total

    async def find(
        self,
        index: str,
        prefix: Sequence[Scalar] = (),
        *,
        after: Scalar | None = None,
        before: Scalar | None = None,
        newest_first: bool = False,
        limit: int = 1000,
    ) -> list[T]:
        by = self._shape.index(index)
        where = self._shape.under(by, prefix)
        bounds = {sign: bound for sign, bound in (("$gt", after), ("$lt", before)) if bound is not None}
        if bounds:
            where[self._shape.next_field(by, prefix)] = bounds
        return await self._find(by, where, -1 if newest_first else 1, limit)

    async def find_prefix(self, index: str, prefix: Sequence[Scalar], text: str, *, limit: int) -> list[T]:
        by = self._shape.index(index)
        end = after_all_that_start_with(text)
        bounds = {"$gte": text} if end is None else {"$gte": text, "$lt": end}
        where = self._shape.under(by, prefix) | {self._shape.next_field(by, prefix): bounds}
        return await self._find(by, where, 1, limit)

    async def count(self, index: str, prefix: Sequence[Scalar] = ()) -> int:
        by = self._shape.index(index)
        counting: list[Document] = [{"$match": self._shape.under(by, prefix)}, {"$count": "records"}]
        counted = await self._connection.aggregate(self._name, counting, hint=by.name)
        return int(counted[0]["records"]) if counted else 0

    async def _find(self, by: Index, where: Document, direction: int, limit: int) -> list[T]:
        sort = _in_order(by, direction)
        found = await self._connection.find(self._name, where, hint=by.name, sort=sort, limit=limit)
        return [self._shape.to_record(document) for document in found]

    async def _write(self, write: Callable[[AsyncClientSession], Awaitable[R]]) -> R:
        """Do a write, whatever becomes of the caller.

        Raises AlreadyExists, StoreUnavailable and OutcomeUnknown.
        """

        async def work() -> R:
            async with self._connection.session() as session:
                return await write(session)

        with writing():
            try:
                return await whole(work())
            except (DuplicateKeyError, BulkWriteError) as error:
                refusal = duplicate(error)
                if refusal is None:
                    raise
                raise self._shape.taken(refusal) from error


async def _drop(collection: AsyncCollection[Document], stored: Mapping[str, Any]) -> None:
    """Drop an index by what it was, not by its name: another replica may have made the new one by now."""
    try:
        await collection.database.command(
            "dropIndexes", collection.name, index=dict(stored["key"]), writeConcern={"w": "majority"}
        )
    except OperationFailure as error:
        if error.code != INDEX_NOT_FOUND:
            raise


def _model(by: Index) -> IndexModel:
    where = None if by.name == KEY else has(*by.fields)
    return index(by.name, *by.fields, unique=by.unique, where=where)


def _fields(information: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(field for field, _ in information["key"])


def _in_order(by: Index, direction: int) -> list[tuple[str, int]]:
    return [(field, direction) for field in by.fields]


def _is_plain(value: object) -> bool:
    """Whether a document can hold it as a field of its own; None is left out."""
    if isinstance(value, int):
        return -_LARGEST <= value < _LARGEST
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bytes))
