"""The storage port on one SQLite file: the embedded default.

How to think about it: one thread writes, everybody reads. Requests of all shards and collections
gather on the event loop and become one transaction (`writer`); readers have connections of their own
and see whatever is committed (`readers`). What lies in the file is declared in `schema`.

the file        store (opens it), identity (whose it is), locking (one process at a time), schema
connections     writer, readers, statements, faults (what errors mean)
the log         log: appending, doubles, log_reads, removal; in short: names, event_ids, bodies (with
                train_dictionary)
beside it       collection, search
"""

from storage.sqlite.store import SqliteStore, open_store

__all__ = ["SqliteStore", "open_store"]
