"""Whether the store is still the one that was opened.

A backup may be restored into the database, or the database dropped, while servers run. What they hold in
memory is then of a log that is no more, and what they append would leave a hole in the one that is there.
So each looks again and again whether the store has the same epoch, and the log its newest entries that
this process knows of; once it has not, nothing more is read or written until the server is started anew.
"""

import asyncio
from collections.abc import Callable, Mapping

from storage.errors import StoreUnavailable
from storage.mongo.connection import Connection
from storage.mongo.schema import BY_ID, LOG, STORE, row_id

LOOK_EVERY_S = 1.0

Tails = Callable[[], Mapping[int, int]]
"""Numbers that were given in shards, of which the newest is never swept out (`removal`)."""


async def watch(connection: Connection, epoch: str, tails: Tails) -> None:
    """Look until another store is found, and have the connection give up then."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            same = await _is_same(connection, epoch, tails())
        except StoreUnavailable:
            continue  # Whoever wants something of it says so.
        if not same:
            connection.give_up(
                f"The database {connection.database.name} at {connection.where} is not the store that was "
                "opened: it was replaced, or lost entries"
            )
            return


async def _is_same(connection: Connection, epoch: str, tails: Mapping[int, int]) -> bool:
    """Raises StoreUnavailable."""
    if not await connection.find(STORE, {"_id": STORE, "epoch": epoch}, hint=BY_ID, limit=1):
        return False
    ids = [row_id(shard, tail) for shard, tail in tails.items() if tail]
    there = await connection.find(LOG, {"_id": {"$in": ids}}, hint=BY_ID, fields={"_id": 1}) if ids else []
    return len(there) == len(ids)
