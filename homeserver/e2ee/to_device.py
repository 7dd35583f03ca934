"""Sending messages to devices (spec: client-server "Send-to-Device messaging").

A message is an entry of its recipient's log under the device's id. It carries the transaction it was
sent in, so a request that is repeated adds only what an earlier attempt did not get to.
"""

from collections.abc import Iterator, Mapping, Sequence

import structlog
from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.e2ee.device_messages import (
    MAX_MESSAGES,
    MAX_REQUEST_BYTES,
    Messages,
    Sender,
    check_names,
    edus_of,
    event_of,
)
from homeserver.e2ee.identities import Identities
from homeserver.e2ee.key_objects import too_many
from homeserver.outbox import Outbox
from homeserver.protocol.json_types import JsonObject
from homeserver.shard_writer import Appended, Drafts
from homeserver.sync.to_device import TYPE, ToDeviceQueue
from homeserver.tasks import all_of
from homeserver.users.users import Users
from storage.collection import Collection
from storage.log import Entry, Kind, Log, ShardMap, transaction_digest
from storage.records.accounts import Device

log = structlog.get_logger(__name__)

ALL_DEVICES = "*"
ENTRIES_AT_ONCE = 500


class ToDevice:
    """Stores messages for the devices of local users, and has those for others sent to their servers."""

    def __init__(
        self,
        users: Users,
        log_port: Log,
        shards: ShardMap,
        devices: Collection[Device],
        identities: Identities,
        queue: ToDeviceQueue,
        outbox: Outbox,
        now: Clock,
    ) -> None:
        self._users = users
        self._log = log_port
        self._shards = shards
        self._devices = devices
        self._identities = identities
        self._queue = queue
        self._outbox = outbox
        self._now = now

    async def send(self, sender: Sender, type: str, messages: Messages) -> None:
        """Deliver, once per transaction, to those of the devices that exist.

        Raises 400 or 413 beyond the limits, and for what is no user id; nothing is sent then.
        """
        others = {user: of_user for user, of_user in messages.items() if not self._users.is_local(user)}
        edus = edus_of(sender, type, others) if others else {}
        await self.deliver(sender, type, messages)
        if edus:
            await self._outbox.send(edus)

    async def deliver(self, sender: Sender, type: str, messages: Messages) -> bool:
        """The same for local devices only, if there are any of these; messages for others are passed over."""
        check_names(sender, type)
        local = {user: of_user for user, of_user in messages.items() if self._users.is_local(user)}
        if sum(map(len, local.values())) > MAX_MESSAGES:
            raise too_many(f"At most {MAX_MESSAGES} messages at once")
        targets = await self._targets(local)
        by_shard: dict[int, list[Entry]] = {}
        now, size = self._now(), 0
        made: dict[int, bytes] = {}
        for (user_id, device_id), content in targets.items():
            body = made.get(id(content))
            if body is None:
                body = made[id(content)] = event_of(sender.user_id, type, content)
            size += len(body)
            txn = _transaction(sender, type, user_id, device_id)
            by_shard.setdefault(self._shards.of_user(user_id), []).append(
                Entry(
                    kind=Kind.TO_DEVICE, stream=user_id, body=body, type=TYPE, key=device_id, txn=txn, ts=now
                )
            )
        if len(targets) > MAX_MESSAGES or size > MAX_REQUEST_BYTES:
            raise too_many("Too many or too large messages at once")
        await self._deliver(by_shard)
        return bool(targets)

    async def _targets(self, messages: Messages) -> dict[tuple[str, str], JsonObject]:
        """(user, device) → content, for each device that exists."""
        named = [
            (user_id, device_id)
            for user_id, of_user in messages.items()
            for device_id in of_user
            if device_id != ALL_DEVICES
        ]
        known = await self._existing(named)
        # One message for each device: the one that names it, whatever the wildcard says.
        targets: dict[tuple[str, str], JsonObject] = {}
        for user_id, of_user in messages.items():
            if ALL_DEVICES in of_user:
                for device in await self._devices.find("key", (user_id,)):
                    targets[user_id, device.device_id] = of_user[ALL_DEVICES]
            for device_id, content in of_user.items():
                if (user_id, device_id) in known:
                    targets[user_id, device_id] = content
        return targets

    async def _existing(self, devices: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the devices that there are. Nearly all have keys, and what has keys is there."""
        identities = await self._identities.get_many([*dict.fromkeys(user_id for user_id, _ in devices)])
        with_keys = {of for of in devices if of[1] in identities[of[0]].devices}
        others = [of for of in devices if of not in with_keys]
        found = await self._devices.get_many(others) if others else ()
        return with_keys | {(device.user_id, device.device_id) for device in found}

    async def _deliver(self, by_shard: Mapping[int, Sequence[Entry]]) -> None:
        """Append to all the shards at once; what was there before is left out in another attempt."""
        waiting = [
            (shard, entries) for shard, of_shard in by_shard.items() for entries in self._runs(of_shard)
        ]
        while waiting:
            submitted = [
                self._users.submit(entries[0].stream, _Delivery(entries, self._queue))
                for _, entries in waiting
            ]
            stored = await all_of(submitted)
            doubled = [run for run, is_stored in zip(waiting, stored, strict=True) if not is_stored]
            waiting = [
                (shard, new) for shard, run in doubled if (new := await self._without_doubles(shard, run))
            ]

    def _runs(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """The entries whose devices' queues have room, as many together as go into one proposal."""
        admitted = [e for e in entries if self._queue.has_room(e.stream, e.key or "")]
        if len(admitted) < len(entries):
            log.warning("to-device queues are full", dropped=len(entries) - len(admitted))
        for i in range(0, len(admitted), ENTRIES_AT_ONCE):
            yield admitted[i : i + ENTRIES_AT_ONCE]

    async def _without_doubles(self, shard: int, entries: Sequence[Entry]) -> Sequence[Entry]:
        return [entry for entry in entries if await self._log.by_txn(shard, entry.txn or b"") is None]


class _Delivery:
    """A proposal of messages; its result is whether they are stored, False when some were there before."""

    def __init__(self, entries: Sequence[Entry], queue: ToDeviceQueue) -> None:
        self._entries = entries
        self._queue = queue

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        return [Appended(replace(entry, seq=next_seq + i)) for i, entry in enumerate(self._entries)]

    def result(self) -> bool:
        for entry in self._entries:
            self._queue.stored(entry.stream, entry.key or "")
        return True

    def duplicate(self, existing: Entry) -> bool:
        return False


def _transaction(sender: Sender, type: str, user_id: str, device_id: str) -> bytes:
    endpoint = f"sendToDevice\0{type}\0{user_id}\0{device_id}"
    return transaction_digest(sender.user_id, sender.device_id, endpoint, sender.txn_id)
