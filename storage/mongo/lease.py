"""Which servers have the store open, as far as the store can say: each renews its lease while it runs.

A log takes entries from several servers at once, but each learns of the others' only over a bus. So those
that would not hear of each other are not let in together. The leases lie in the one document that says
whose store it is, and all that happens to them is one compare-and-set there, by the database's clock.

A server that crashed is out of the way when its lease has ended. One that slept for longer keeps its
place, unless another has taken it meanwhile: then it neither reads nor writes any more.
"""

import asyncio
import secrets
from typing import Any

from pymongo import ReturnDocument, timeout

from storage.errors import StoreRefused, StoreUnavailable
from storage.mongo.connection import AWAY_TIMEOUT_S, Connection, Document, whole
from storage.mongo.faults import reading
from storage.mongo.schema import BY_ID, STORE
from storage.store import Occupant

LEASE_S = 10
RENEWED_EVERY_S = 2.0
LOOK_AGAIN_S = 0.5

LIVING = {
    "$filter": {
        "input": {"$ifNull": ["$servers", []]},
        "as": "server",
        "cond": {"$gt": ["$$server.until", "$$NOW"]},
    }
}
"""The leases of a store's document that have not ended."""


class Lease:
    """This server's own. Nothing is in the store before `take`."""

    def __init__(self, connection: Connection, epoch: str) -> None:
        self._connection = connection
        self._where = {"_id": STORE, "epoch": epoch}
        self._id = secrets.token_hex(8)
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, occupant: Occupant) -> None:
        """Take it once the leases in the way have ended, and renew it from then on.

        Raises StoreRefused when one of those is renewed, and StoreUnavailable.
        """
        seen: dict[str, Any] = {}
        while not self._is_among(servers := await self._join(occupant)):
            for server in servers:
                if seen and seen.get(server["id"]) != server["until"]:
                    raise StoreRefused(
                        f"The server at {server['address']} has this store open, and would not hear of this "
                        "one: give both the same bus.uri and bus.topic_prefix, or stop that server first"
                    )
            seen = seen or {server["id"]: server["until"] for server in servers}
            await asyncio.sleep(LOOK_AGAIN_S)
        self._renewing = asyncio.create_task(self._keep_renewing(occupant), name="renew-lease")

    async def release(self) -> None:
        """Make room at once."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        # What is under way would put it back.
        await asyncio.wait((self._renewing,), timeout=AWAY_TIMEOUT_S)
        out = {"$pull": {"servers": {"id": self._id}}}
        try:
            # A server that is away is not waited for.
            with reading(), timeout(AWAY_TIMEOUT_S):
                async with self._connection.session() as session:
                    await self._connection.collection(STORE).update_one(
                        self._where, out, hint=BY_ID, session=session
                    )
        except StoreUnavailable:
            return  # It ends by itself.

    async def _keep_renewing(self, occupant: Occupant) -> None:
        while True:
            await asyncio.sleep(RENEWED_EVERY_S)
            try:
                servers = await self._join(occupant)
            except StoreUnavailable:
                continue  # Whoever wants something of the store says so.
            if servers and not self._is_among(servers):
                self._connection.give_up(
                    f"The server at {servers[0]['address']} has taken the store while this one was not heard "
                    f"of for {LEASE_S} s, and would not hear of it (bus.uri)"
                )
                return

    def _is_among(self, servers: list[Document]) -> bool:
        return any(server["id"] == self._id for server in servers)

    async def _join(self, occupant: Occupant) -> list[Document]:
        """Put this server among those that have the store open, unless one of them would not hear of it.

        All of them then; none if the store is not there any more.
        """
        others = {"$filter": {"input": LIVING, "as": "other", "cond": {"$ne": ["$$other.id", self._id]}}}
        # A release that knew of no clusters, or a server that did not ask, has none here.
        clusters = [{"$ifNull": ["$$other.cluster", ""]}, ["", {"$literal": occupant.cluster}]]
        strangers: Any = True
        if occupant.bus:
            other_bus = {"$ne": ["$$other.bus", {"$literal": occupant.bus}]}
            other_cluster = {"$not": [{"$in": clusters}]} if occupant.cluster else False
            strangers = {"$or": [other_bus, other_cluster]}
        own = {
            "id": self._id,
            "address": {"$literal": occupant.address},
            "bus": {"$literal": occupant.bus},
            "cluster": {"$literal": occupant.cluster},
            "until": {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": LEASE_S}},
        }
        in_the_way = {"$filter": {"input": others, "as": "other", "cond": strangers}}
        servers = {
            "$cond": [{"$eq": [in_the_way, []]}, {"$concatArrays": [others, [own]]}, others],
        }

        async def write() -> Document | None:
            async with self._connection.session() as session:
                return await self._connection.collection(STORE).find_one_and_update(
                    self._where,
                    [{"$set": {"servers": servers}}],
                    projection={"servers": 1},
                    return_document=ReturnDocument.AFTER,
                    hint=BY_ID,
                    session=session,
                )

        with reading():
            store = await whole(write())
        return [] if store is None else list(store["servers"])


async def occupants(connection: Connection) -> list[Occupant]:
    """The servers that have the store open now. Raises StoreUnavailable."""
    pipeline: list[Document] = [{"$match": {"_id": STORE}}, {"$project": {"servers": LIVING}}]
    (store,) = await connection.aggregate(STORE, pipeline, hint=BY_ID) or [{"servers": []}]
    return [
        Occupant(server["address"], server["bus"], server.get("cluster", "")) for server in store["servers"]
    ]
