"""What the server remembers of a sliding-sync connection: which rooms the client has, and up to where.

A client's `pos` is `NUMBER/NAME/TOKEN`: the answer's number, the name of the `SentRooms` that it ends with,
and the since-token up to which the client has each of these rooms, unless it is written there otherwise. So
what a message changes is kept by the client itself. What is stored changes when a room comes, goes, leaves
the window or is looked at differently; then it is stored before the answer goes out, and any replica can go
on from it. The two last ones are kept, since a client whose answer was lost asks again with the pos before.

Who was sent by lazy loading is in memory only: a replica that does not know it sends members again.
"""

from collections import OrderedDict
from collections.abc import Mapping
from secrets import token_hex
from typing import NamedTuple

import msgspec
import structlog

from homeserver.clock import Clock
from homeserver.errors import MatrixError
from homeserver.since_tokens import SyncToken, decode_sync_token
from storage.collection import Collection
from storage.errors import StoreError
from storage.records.sliding_sync import SentRooms, SlidingConnection

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 20_000
"""In memory."""
MAX_OF_DEVICE = 20
"""Stored; beyond it the one that began first goes."""
MAX_STORED_ROOMS = 10_000
"""Of whoever has more, nothing is stored."""

Key = tuple[str, str, str]
"""User, device, and the client's own name for the connection."""


class Snapshot(msgspec.Struct, frozen=True):
    """What the client has once it has a certain answer."""

    number: int
    name: str
    position: SyncToken
    sent: SentRooms
    members: Mapping[str, frozenset[str]]
    """Room → users whose member events were sent because of lazy loading."""


class Connections:
    """All connections: in memory those in use, the others in the store."""

    def __init__(
        self, records: Collection[SlidingConnection], *, epoch: str, room_shards: int, now: Clock
    ) -> None:
        self._records = records
        self._epoch = epoch
        self._room_shards = room_shards
        self._now = now
        self._known: OrderedDict[Key, OrderedDict[str, Snapshot]] = OrderedDict()

    async def snapshot(self, key: Key, pos: str) -> Snapshot:
        """What the client has. Raises 400 M_UNKNOWN_POS: it must begin anew, without pos."""
        last_two = self._known.get(key)
        if last_two is not None and pos in last_two:
            return last_two[pos]
        said = self._parse(pos)
        record = await self._records.get(*key)
        if record is None or said.name not in record.sent:
            raise unknown_pos()
        return Snapshot(said.number, said.name, said.position, record.sent[said.name], {})

    async def remember(
        self,
        key: Key,
        before: Snapshot | None,
        position: SyncToken,
        sent: SentRooms,
        members: Mapping[str, frozenset[str]],
    ) -> str:
        """What the client has after the next answer; the `pos` that stands for it.

        Without `before` the connection is a new one.
        """
        if before is not None and before.sent == sent:
            sent, name = before.sent, before.name
        else:
            name = token_hex(4)
            await self._store(key, before, name, sent)
        number = 1 if before is None else before.number + 1
        pos = f"{number}/{name}/{position.encode(self._epoch)}"
        last_two = OrderedDict() if before is None else self._known.get(key, OrderedDict())
        last_two[pos] = Snapshot(number, name, position, sent, members)
        last_two.move_to_end(pos)
        while len(last_two) > 2:
            last_two.popitem(last=False)
        self._known[key] = last_two
        self._known.move_to_end(key)
        while len(self._known) > MAX_CONNECTIONS:
            self._known.popitem(last=False)
        return pos

    async def forget_device(self, user_id: str, device_id: str) -> None:
        """The device is gone."""
        for key in [key for key in self._known if key[:2] == (user_id, device_id)]:
            del self._known[key]
        await self._records.delete_where("key", (user_id, device_id))

    async def _store(self, key: Key, before: Snapshot | None, name: str, sent: SentRooms) -> None:
        user_id, device_id, conn_id = key
        if len(sent.rooms) > MAX_STORED_ROOMS:
            return
        record = SlidingConnection(
            user_id=user_id,
            device_id=device_id,
            conn_id=conn_id,
            begun_ts=self._now(),
            sent={name: sent} if before is None else {before.name: before.sent, name: sent},
        )
        try:
            if before is None:
                await self._make_place(user_id, device_id, conn_id)
            await self._records.put(record)
        except StoreError as error:
            # It is in memory; should this replica end before the store is back, the client begins anew.
            log.warning("what a sliding-sync client has is not stored", error=str(error))

    async def _make_place(self, user_id: str, device_id: str, conn_id: str) -> None:
        of_device = await self._records.find("key", (user_id, device_id))
        others = sorted((c for c in of_device if c.conn_id != conn_id), key=lambda c: c.begun_ts)
        for oldest in others[: max(0, len(others) - MAX_OF_DEVICE + 1)]:
            await self._records.delete(user_id, device_id, oldest.conn_id)

    def _parse(self, pos: str) -> "_Said":
        parts = pos.split("/")
        if len(parts) != 3 or not (parts[0].isascii() and parts[0].isdigit() and len(parts[0]) < 18):
            raise unknown_pos()
        try:
            position = decode_sync_token(parts[2], self._epoch, self._room_shards)
        except MatrixError:
            raise unknown_pos() from None
        return _Said(int(parts[0]), parts[1], position)


class _Said(NamedTuple):
    """A pos in its parts."""

    number: int
    name: str
    position: SyncToken


def unknown_pos() -> MatrixError:
    return MatrixError(400, "M_UNKNOWN_POS", "Unknown position; start again without pos")
