"""The generic collection on SQLite: a table with the key and the index fields as columns, and the record.

A record lies in `body` as JSON, defaults left out; the columns repeat what it can be found by, and the key
has an index beside the rows: of a table that is itself ordered by its key, few records would fit into one
page. A spec that gained a field or an index since the store was last opened gets it then, filled from the
bodies.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec.structs import replace

from storage.collection import CollectionSpec, Index, Puts, Record, Scalar, after_all_that_start_with
from storage.errors import AlreadyExists, StoreRefused
from storage.sqlite.readers import INLINE_ROWS, Reader, Readers
from storage.sqlite.statements import halving, values_list
from storage.sqlite.writer import Writer

T = TypeVar("T", bound=Record)

KEY = "key"
"""The name by which `find` knows the primary key."""

DELETED_AT_ONCE = 500
ROWS_PER_PUT = 32

_encoder = msgspec.json.Encoder()


class Table(Generic[T]):
    """The SQL of one collection."""

    def __init__(self, spec: CollectionSpec[T]) -> None:
        self.spec = spec
        self.name = f"c_{spec.name}"
        fields = dict.fromkeys(spec.key)
        for index in spec.indexes:
            fields |= dict.fromkeys(index.fields)
        self.fields = tuple(fields)
        self.decode = msgspec.json.Decoder(spec.record).decode
        self.encode: Callable[[T], bytes] = _encoder.encode
        self._indexes = {index.name: index for index in spec.indexes}
        pick = attrgetter(*self.fields)
        self._picked = pick if len(self.fields) > 1 else lambda record: (pick(record),)
        self.key_is = _equal(spec.key)
        self.get = f"SELECT body FROM {_quoted(self.name)} WHERE {self.key_is}"
        self.rewrite = f"UPDATE {_quoted(self.name)} SET body = ? WHERE {self.key_is}"
        """Of a record that stays where it is in all indexes."""
        self.delete = f"DELETE FROM {_quoted(self.name)} WHERE {self.key_is}"
        # To make a statement anew takes longer than to carry it out.
        self.insert = cache(self._insert)
        self.put = cache(self._put)
        self.found = cache(self._found)

    def index(self, name: str) -> Index:
        """An index by name, the primary key being one. Raises KeyError."""
        return Index(KEY, self.spec.key, unique=True) if name == KEY else self._indexes[name]

    def key_of(self, record: T) -> tuple[Scalar, ...]:
        return tuple(getattr(record, field) for field in self.spec.key)

    def values(self, record: T) -> tuple[Any, ...]:
        return (*self._picked(record), self.encode(record))

    def holds(self, body: bytes, record: T) -> bool:
        """Whether a body is of this record; a release with other defaults may have written other bytes."""
        return body == self.encode(record) or self.decode(body) == record

    def _insert(self, rows: int) -> str:
        columns = [*self.fields, "body"]
        return (
            f"INSERT INTO {_quoted(self.name)} ({_columns(columns)}) VALUES {values_list(len(columns), rows)}"
        )

    def _put(self, rows: int) -> str:
        columns = [*self.fields, "body"]
        changes = (f"{_quoted(c)} = excluded.{_quoted(c)}" for c in columns if c not in self.spec.key)
        return (
            f"{self._insert(rows)} ON CONFLICT ({_columns(self.spec.key)}) DO UPDATE SET {', '.join(changes)}"
        )

    def _found(self, index: str, prefix: int, signs: tuple[str, ...], newest_first: bool) -> str:
        """A query for records under `prefix` fields whose next field compares by these signs."""
        by = self.index(index)
        bounds = [f"{self.next_field(by, prefix)} {sign} ?" for sign in signs]
        under = " AND ".join(filter(None, (self.prefix(by, prefix), *bounds)))
        return self.select("body", by, under, newest_first=newest_first)

    def select(self, what: str, index: Index, under: str, *, newest_first: bool = False) -> str:
        """A query on `index` for the records where `under` holds, in index order, up to a limit."""
        ordered = dict.fromkeys((*index.fields, *self.spec.key))
        direction = " DESC" if newest_first else ""
        order = ", ".join(_quoted(field) + direction for field in ordered)
        conditions = " AND ".join(filter(None, (self.present(index), under))) or "TRUE"
        return f"SELECT {what} FROM {_quoted(self.name)} WHERE {conditions} ORDER BY {order} LIMIT ?"

    def present(self, index: Index) -> str:
        """The condition of being in an index: no field is None."""
        if index.name == KEY:
            return ""
        return " AND ".join(f"{_quoted(field)} IS NOT NULL" for field in index.fields)

    def prefix(self, index: Index, count: int) -> str:
        if count > len(index.fields):
            raise ValueError(f"{self.spec.name}.{index.name} has {len(index.fields)} fields, not {count}")
        return _equal(index.fields[:count])

    def next_field(self, index: Index, count: int) -> str:
        """The field that follows a prefix of `count` fields."""
        if count >= len(index.fields):
            raise ValueError(f"{self.spec.name}.{index.name} has no field behind {count}")
        return _quoted(index.fields[count])

    # -- the table itself --

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the table as the spec says, inside a transaction. Raises StoreRefused if the key changed."""
        columns = {row[1]: row[5] for row in db.execute(f"PRAGMA table_info({_quoted(self.name)})")}
        if not columns:
            definitions = (_quoted(f) + (" NOT NULL" if f in self.spec.key else "") for f in self.fields)
            db.execute(
                f"CREATE TABLE {_quoted(self.name)} ({', '.join(definitions)}, body BLOB NOT NULL,"
                f" PRIMARY KEY ({_columns(self.spec.key)}))"
            )
        else:
            stored_key = tuple(sorted((c for c, n in columns.items() if n), key=columns.__getitem__))
            if stored_key != self.spec.key:
                raise StoreRefused(
                    f"The key of {self.spec.name} is {stored_key} in this store, not {self.spec.key}: "
                    "run the release that wrote it"
                )
        self._prepare_indexes(db, set(columns))

    def _prepare_indexes(self, db: sqlite3.Connection, columns: set[str]) -> None:
        wanted = {f"{self.name}__{index.name}": self._create_index(index) for index in self.spec.indexes}
        stored = dict(
            db.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?", (self.name,)
            )
        )
        for name, sql in stored.items():
            if sql is not None and wanted.get(name) != sql:
                db.execute(f"DROP INDEX {_quoted(name)}")
        if columns:
            self._prepare_columns(db, columns - {"body"})
        for name, sql in wanted.items():
            if stored.get(name) != sql:
                db.execute(sql)

    def _prepare_columns(self, db: sqlite3.Connection, columns: set[str]) -> None:
        for stale in columns - set(self.fields):
            db.execute(f"ALTER TABLE {_quoted(self.name)} DROP COLUMN {_quoted(stale)}")
        missing = [field for field in self.fields if field not in columns]
        if not missing:
            return
        for field in missing:
            db.execute(f"ALTER TABLE {_quoted(self.name)} ADD COLUMN {_quoted(field)}")
        update = f"UPDATE {_quoted(self.name)} SET " + ", ".join(f"{_quoted(f)} = ?" for f in missing)
        update += f" WHERE {self.key_is}"
        for record in self._all(db):
            db.execute(update, (*(getattr(record, field) for field in missing), *self.key_of(record)))

    def _all(self, db: sqlite3.Connection) -> Iterator[T]:
        """Every record, page by page, so that rows may be changed meanwhile."""
        key = self.index(KEY)
        rows = db.execute(self.select("body", key, ""), (1000,)).fetchall()
        after = f"({_columns(self.spec.key)}) > ({','.join('?' * len(self.spec.key))})"
        while rows:
            for (body,) in rows:
                record = self.decode(body)
                yield record
            rows = db.execute(self.select("body", key, after), (*self.key_of(record), 1000)).fetchall()

    def _create_index(self, index: Index) -> str:
        unique = "UNIQUE " if index.unique else ""
        return (
            f"CREATE {unique}INDEX {_quoted(f'{self.name}__{index.name}')} ON {_quoted(self.name)}"
            f" ({_columns(index.fields)}) WHERE {self.present(index)}"
        )

    def taken(self, db: sqlite3.Connection, record: T, *, key_too: bool) -> AlreadyExists | None:
        """Which unique value of `record` another one holds."""
        key = self.key_of(record)
        if key_too and db.execute(self.get, key).fetchone():
            return AlreadyExists(self.spec.name, KEY)
        for index in self.spec.indexes:
            values = [getattr(record, field) for field in index.fields]
            if index.unique and None not in values:
                under = f"{self.prefix(index, len(values))} AND NOT ({self.key_is})"
                if db.execute(self.select("1", index, under), (*values, *key, 1)).fetchone():
                    return AlreadyExists(self.spec.name, index.name)
        return None


class SqliteCollection(Generic[T]):
    """Implements `storage.collection.Collection`."""

    def __init__(self, table: Table[T], writer: Writer, readers: Readers) -> None:
        self._table = table
        self._writer = writer
        self._readers = readers

    async def get(self, *key: Scalar) -> T | None:
        table = self._table
        row = await self._readers.run(lambda r: r.db.execute(table.get, key).fetchone(), rows=1)
        return None if row is None else table.decode(row[0])

    async def get_many(self, keys: Sequence[tuple[Scalar, ...]]) -> list[T]:
        table = self._table

        def read(reader: Reader) -> list[T]:
            rows = (reader.db.execute(table.get, key).fetchone() for key in keys)
            return [table.decode(row[0]) for row in rows if row is not None]

        return await self._readers.run(read, rows=len(keys))

    async def insert(self, record: T) -> None:
        table = self._table

        def work(db: sqlite3.Connection) -> None:
            try:
                db.execute(table.insert(1), table.values(record))
            except sqlite3.IntegrityError as error:
                raise table.taken(db, record, key_too=True) or error from error

        await self._writer.run(work)

    async def put(self, record: T) -> None:
        await self.put_many((record,))

    async def put_many(self, records: Sequence[T]) -> None:
        await self._writer.run(lambda db: self.put_in(db, records))

    def put_in(self, db: sqlite3.Connection, records: Sequence[T]) -> None:
        """What `put_many` does inside the writer's transaction."""
        table = self._table
        for run in halving(records, ROWS_PER_PUT):
            try:
                db.execute(table.put(len(run)), list(chain.from_iterable(map(table.values, run))))
            except sqlite3.IntegrityError as error:
                if len(run) == 1:
                    raise table.taken(db, run[0], key_too=False) or error from error
                for record in run:
                    self.put_in(db, (record,))

    async def replace_if(self, old: T | None, new: T, *, then: Sequence[Puts[Any]] = ()) -> bool:
        table = self._table
        key = table.key_of(new)
        if old is not None and table.key_of(old) != key:
            raise ValueError("a record cannot be replaced by one of another key")

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute(table.get, key).fetchone()
            if not (row is None if old is None else row is not None and table.holds(row[0], old)):
                return False
            self.put_in(db, (new,))
            for puts in then:
                cast(SqliteCollection[Any], puts.into).put_in(db, puts.records)
            return True

        return await self._writer.run(work)

    async def take(self, index: str, prefixes: Sequence[Sequence[Scalar]], items: str) -> list[T | None]:
        return await self._writer.run(lambda db: [self._take(db, index, of, items) for of in prefixes])

    def _take(self, db: sqlite3.Connection, index: str, prefix: Sequence[Scalar], items: str) -> T | None:
        table = self._table
        row = db.execute(table.found(index, len(prefix), (), False), (*prefix, 1)).fetchone()
        if row is None:
            return None
        record = table.decode(row[0])
        first, rest = getattr(record, items)[:1], getattr(record, items)[1:]
        if first:
            db.execute(table.rewrite, (table.encode(replace(record, **{items: rest})), *table.key_of(record)))
        else:
            db.execute(table.delete, table.key_of(record))
        return replace(record, **{items: first})

    async def delete(self, *key: Scalar) -> bool:
        return await self._writer.run(lambda db: db.execute(self._table.delete, key).rowcount > 0)

    async def delete_where(self, index: str, prefix: Sequence[Scalar]) -> int:
        table, by = self._table, self._table.index(index)
        key = _columns(table.spec.key)
        select = table.select(key, by, table.prefix(by, len(prefix)))
        sql = f"DELETE FROM {_quoted(table.name)} WHERE ({key}) IN ({select})"
        total = 0
        while True:
            deleted = await self._writer.run(lambda db: db.execute(sql, (*prefix, DELETED_AT_ONCE)).rowcount)
            total += deleted
            if deleted < DELETED_AT_ONCE:
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
        by = self._table.index(index)
        signs = tuple(sign for sign, bound in ((">", after), ("<", before)) if bound is not None)
        sql = self._table.found(index, len(prefix), signs, newest_first)
        if by.unique and len(prefix) == len(by.fields):
            limit = min(limit, 1)
        bounds = (bound for bound in (after, before) if bound is not None)
        return await self._find(sql, (*prefix, *bounds), limit)

    async def find_prefix(self, index: str, prefix: Sequence[Scalar], text: str, *, limit: int) -> list[T]:
        end = after_all_that_start_with(text)
        if end is None:
            sql = self._table.found(index, len(prefix), (">=",), False)
            return await self._find(sql, (*prefix, text), limit)
        sql = self._table.found(index, len(prefix), (">=", "<"), False)
        return await self._find(sql, (*prefix, text, end), limit)

    async def count(self, index: str, prefix: Sequence[Scalar] = ()) -> int:
        table, by = self._table, self._table.index(index)
        conditions = filter(None, (table.present(by), table.prefix(by, len(prefix))))
        sql = f"SELECT count(*) FROM {_quoted(table.name)} WHERE {' AND '.join(conditions) or 'TRUE'}"
        count: int = await self._readers.run(
            lambda r: r.db.execute(sql, tuple(prefix)).fetchone()[0], rows=INLINE_ROWS + 1
        )
        return count

    async def _find(self, sql: str, values: Sequence[Scalar], limit: int) -> list[T]:
        decode = self._table.decode

        def read(reader: Reader, most: int) -> list[T]:
            return [decode(body) for (body,) in reader.db.execute(sql, (*values, most))]

        return await self._readers.seldom_many(read, limit=limit)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(names: Sequence[str]) -> str:
    return ", ".join(map(_quoted, names))


def _equal(fields: Sequence[str]) -> str:
    return " AND ".join(f"{_quoted(field)} = ?" for field in fields)
