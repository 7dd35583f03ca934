"""Stores as the tests see them from outside: where one is, what lies in it, and how to be rid of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from homeserver.app.stores import SPECS
from storage.sqlite.event_ids import pack
from tests.real_parts import mongodb

UNREADABLE = b"\0\x11\x22\x33"


class StoredData(Protocol):
    uri: str

    def kept(self) -> bytes:
        """All that is stored, as it is stored."""
        ...

    def copy(self) -> Any:
        """A backup. The store must not be open."""
        ...

    def put_back(self, copy: Any) -> None:
        """Have in it what the backup has, and nothing else. The store must not be open."""
        ...

    def damage(self, event_id: str) -> None:
        """Have what is stored of an event be nothing that anybody could read. The store must not be open."""
        ...

    def destroy(self) -> None:
        """Leave nothing behind that the test's folder does not hold."""
        ...


class SqliteFile:
    """A store in a file of a test's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "weft.db"
        self.uri = f"sqlite:///{self._path}"

    def kept(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._path.parent.glob(f"{self._path.name}*"))

    def copy(self) -> Any:
        return self._path.read_bytes()

    def put_back(self, copy: Any) -> None:
        self._path.write_bytes(copy)

    def damage(self, event_id: str) -> None:
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute("UPDATE entry SET content = ? WHERE event_id = ?", (UNREADABLE, pack(event_id)))

    def destroy(self) -> None:
        return


class MongoDatabase:
    """A database of its own on the shared server."""

    def __init__(self) -> None:
        self.uri = mongodb.new_database_uri()

    def kept(self) -> bytes:
        return mongodb.dump(self.uri)

    def copy(self) -> Any:
        stored = mongodb.database(self.uri)
        return {name: list(stored[name].find({}, hint="_id_")) for name in stored.list_collection_names()}

    def put_back(self, copy: Any) -> None:
        stored = mongodb.database(self.uri)
        for name, documents in copy.items():
            stored[name].delete_many({}, hint="_id_")
            if documents:
                stored[name].insert_many(documents)

    def damage(self, event_id: str) -> None:
        log = mongodb.database(self.uri)["log"]
        log.update_one({"event_id": event_id}, {"$set": {"body": UNREADABLE}}, hint="_id_")

    def destroy(self) -> None:
        mongodb.drop(self.uri)

    def has_indexes(self) -> bool:
        """Whether a server has made all of them."""
        made = mongodb.database(self.uri).list_collection_names()
        return {spec.name for spec in SPECS} <= set(made)

    def empty(self) -> None:
        """For the next test: to make the indexes anew takes longer than a test."""
        mongodb.empty(self.uri)
