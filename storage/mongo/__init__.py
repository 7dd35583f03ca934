"""The storage port on MongoDB: what many replicas of the server share.

How to think about it: nothing leans on more than one document's atomicity. The unique index over the
numbers of entries settles who extends a shard (`commits`), unique indexes keep doubles out, records are
compared and replaced one by one (`collection`). So the same code is right on one server, on a replica
set and on a sharded cluster. What lies in the database, and by which indexes it is found, is declared in
`schema`; what is demanded of the server, so that nothing that was acknowledged is lost, in `connection`.

the database    store (opens it), identity (whose it is), lease (who has it open), watch (whether it is still
                the same), schema, shard_plan, examination (for `weft doctor`)
connection      connection, faults (what errors mean)
the log         log: commits, doubles, log_reads, removal; documents (what entries look like)
beside it       collection, search
"""

from storage.mongo.shard_plan import shard_plan
from storage.mongo.store import MongoStore, open_store

__all__ = ["MongoStore", "open_store", "shard_plan"]
