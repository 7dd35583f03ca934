"""One-time and fallback keys: uploaded by devices, handed out to whoever opens a channel to them.

A one-time key leaves the store in the act that hands it out, so nobody gets it twice. A client that
has not heard the answer to an upload repeats it; what was claimed in between must not come back, so
the newest uploads of a device are remembered beyond the keys themselves.

How many keys a device has left is told in each of its syncs, from memory; whatever changes that
calls `recount`.

spec: client-server "One-time and fallback keys", POST /keys/upload, POST /keys/claim
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson
import structlog
from msgspec.structs import replace

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.e2ee.identities import json_object
from homeserver.e2ee.key_objects import NamedKey, too_many
from homeserver.e2ee.one_time_supply import Addition, addition, batch_with
from homeserver.errors import MatrixError
from homeserver.sync.engine import KeyCounts
from storage.collection import Collection, Puts
from storage.errors import StoreError
from storage.records.keys import FallbackKey, OneTimeBatch, OneTimeEpoch, OneTimeSupply

log = structlog.get_logger(__name__)

RECOUNT = "one_time_keys"
"""Kind of message: [user, device], whose keys are others now."""
COUNTED_FOR_MS = 5 * 60_000
"""A net beneath `recount`, for changes by a replica that died before it told of them."""
CACHED_COUNTS = 50_000
MAX_ALGORITHMS = 10
"""That a device ever uses one-time keys of, and fallback keys."""
MAX_CLAIMS = 20_000
CLAIMS_AT_ONCE = 500
Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""
_Target = tuple[str, str, str]
"""User, device and algorithm."""
Claimed = dict[str, dict[str, dict[str, bytes]]]
"""User → device → `algorithm:key_id` → the key's JSON."""


class _Counted(NamedTuple):
    counts: KeyCounts
    until: int


class _Planned(NamedTuple):
    """Keys that are to be added to a supply."""

    supply: OneTimeSupply
    keys: list[NamedKey]
    added: Addition


class OneTimeKeys:
    """The keys of all local devices."""

    def __init__(
        self,
        supplies: Collection[OneTimeSupply],
        batches: Collection[OneTimeBatch],
        fallback: Collection[FallbackKey],
        epochs: Collection[OneTimeEpoch],
        to_others: ToOthers,
        now: Clock,
    ) -> None:
        self._supplies = supplies
        self._batches = batches
        self._fallback = fallback
        self._epochs = epochs
        self._to_others = to_others
        self._now = now
        self._counted: OrderedDict[tuple[str, str], _Counted] = OrderedDict()
        self._counting: dict[tuple[str, str], object] = {}
        """Counts under way that nothing has overtaken, by device."""
        to_others.subscribe(RECOUNT, self._on_recount)

    async def start(self, epoch: str) -> None:
        """Drop all one-time keys when the store is another one than they were uploaded to.

        A restored store has keys that were handed out since it was copied (HARDENING 33); devices
        see that they have none left and upload new ones.
        """
        known = await self._epochs.get("")
        if known is None or known.epoch != epoch:
            await self._batches.delete_where("key", ())
            dropped = await self._supplies.delete_where("key", ())
            await self._epochs.put(OneTimeEpoch(name="", epoch=epoch))
            if dropped:
                log.warning("one-time keys of another epoch of the store were dropped", count=dropped)

    # Uploading

    async def upload(
        self, user_id: str, device_id: str, one_time: Sequence[NamedKey], fallback: Sequence[NamedKey]
    ) -> None:
        """Store keys; those that are there already stay as they are.

        Raises 400 when there is another key under the same name, or too many keys; nothing is stored then.
        """
        device = (user_id, device_id)
        new_fallback = await self._new_fallback(user_id, device_id, fallback)
        planned = await self._plan(user_id, device_id, one_time)
        if not planned and not new_fallback:
            return
        counted = self._counted.get(device)
        writes = [self._add(*plan) for plan in planned]
        if new_fallback:
            writes.append(self._fallback.put_many(new_fallback))
        try:
            await asyncio.gather(*writes)
        except (StoreError, MatrixError):
            self.recount(user_id, device_id)  # Some of it may be there all the same.
            raise
        self._count_up(device, counted, planned, new_fallback)

    async def _plan(self, user_id: str, device_id: str, keys: Sequence[NamedKey]) -> "list[_Planned]":
        """What is to be added to which supply. Raises 400."""
        of_algorithms: dict[str, list[NamedKey]] = {}
        for key in keys:
            of_algorithms.setdefault(key.algorithm, []).append(key)
        if not of_algorithms:
            return []
        supplies = {
            algorithm: OneTimeSupply(
                user_id=user_id, device_id=device_id, algorithm=algorithm, uploaded=0, claimed=0
            )
            for algorithm in of_algorithms
        }
        stored = await self._supplies.find("key", (user_id, device_id), limit=MAX_ALGORITHMS)
        supplies |= {supply.algorithm: supply for supply in stored}
        if len(supplies) > MAX_ALGORITHMS:
            raise too_many(f"A device may use {MAX_ALGORITHMS} algorithms at most")
        planned = []
        for algorithm, of_algorithm in of_algorithms.items():
            added = await self._addition(supplies[algorithm], of_algorithm)
            if added is not None:
                planned.append(_Planned(supplies[algorithm], of_algorithm, added))
        return planned

    async def _addition(self, supply: OneTimeSupply, keys: Sequence[NamedKey]) -> Addition | None:
        """What keys add to a supply. Raises 400 for too many, and when one has another value already."""
        added = addition(supply, keys)
        for key, number in added.suspects if added is not None else ():
            batch, place = batch_with(supply, number)
            stored = await self._batches.get(*_key_of(supply), batch)
            if stored is not None and stored.keys[place][0] == key.key_id:
                raise MatrixError(
                    400, "M_UNKNOWN", f"One-time key {key.name} already exists with another value"
                )
        return added

    async def _add(self, supply: OneTimeSupply, keys: Sequence[NamedKey], added: Addition | None) -> None:
        """Store an addition; should somebody have changed the supply meanwhile, what it is by then."""
        while added is not None:
            replaced, *_ = await asyncio.gather(
                self._supplies.replace_if(
                    supply if supply.uploaded else None,
                    added.supply,
                    first=(Puts(self._batches, added.batches),),
                ),
                *(self._batches.delete(*_key_of(supply), batch) for batch in added.ended),
            )
            if replaced:
                return
            self._forget_count((supply.user_id, supply.device_id))
            found = await self._supplies.get(*_key_of(supply))
            supply = found or replace(supply, uploaded=0, claimed=0, batches=(), recent=b"")
            added = await self._addition(supply, keys)

    async def _new_fallback(
        self, user_id: str, device_id: str, keys: Sequence[NamedKey]
    ) -> list[FallbackKey]:
        """Those that are not there; the same key again stays marked as used, or nobody would replace it."""
        if not keys:
            return []
        stored = await self._fallback.find("key", (user_id, device_id), limit=MAX_ALGORITHMS)
        present = {key.algorithm: (key.key_id, key.key.encode()) for key in stored}
        if len({*present, *(key.algorithm for key in keys)}) > MAX_ALGORITHMS:
            raise too_many(f"A device may have fallback keys of {MAX_ALGORITHMS} algorithms at most")
        return [
            FallbackKey(
                user_id=user_id,
                device_id=device_id,
                algorithm=key.algorithm,
                key_id=key.key_id,
                key=key.json.decode(),
            )
            for key in keys
            if present.get(key.algorithm) != (key.key_id, key.json)
        ]

    # Claiming

    async def claim(self, wanted: Wanted) -> Claimed:
        """Hand out a key for each device that has one, the oldest first, a fallback key if need be.

        Raises 400 for too many.
        """
        targets = [(user, device, wanted[user][device]) for user in wanted for device in wanted[user]]
        if len(targets) > MAX_CLAIMS:
            raise too_many(f"At most {MAX_CLAIMS} keys at once")
        claimed: Claimed = {}
        for i in range(0, len(targets), CLAIMS_AT_ONCE):
            some = targets[i : i + CLAIMS_AT_ONCE]
            try:
                taken = await self._take(some)
                fallback = await self._fall_back([target for target in some if target not in taken])
            finally:
                for user_id, device_id, _ in some:
                    self.recount(user_id, device_id)
            for (user_id, device_id, algorithm), (key_id, key) in (taken | fallback).items():
                claimed.setdefault(user_id, {})[device_id] = {f"{algorithm}:{key_id}": key.encode()}
        return claimed

    async def _take(self, targets: Iterable[_Target]) -> dict[_Target, tuple[str, str]]:
        """The next one-time key of each device that has one: its id and JSON."""
        taken: dict[_Target, tuple[str, str]] = {}
        waiting = list(targets)
        while waiting:
            counted = await self._supplies.count_up(waiting, "claimed", "uploaded")
            supplies = [supply for supply in counted if supply is not None]
            places = {_key_of(supply): batch_with(supply, supply.claimed - 1) for supply in supplies}
            batches = await self._batches.get_many([(*key, batch) for key, (batch, _) in places.items()])
            found = {_key_of(batch): batch.keys for batch in batches}
            taken |= {key: found[key][place] for key, (_, place) in places.items() if key in found}
            # All of a batch may have been claimed, and the batch dropped, before this one was read: the next.
            waiting = [key for key in places if key not in found]
        return taken

    async def _fall_back(self, targets: Sequence[_Target]) -> dict[_Target, tuple[str, str]]:
        """The fallback keys of devices that have one; they count as used from now on."""
        if not targets:
            return {}
        found = await self._fallback.get_many(targets)
        used = [(key, replace(key, used=True)) for key in found if not key.used]
        # Should one be replaced at this moment, the new one is unused still, and that is right.
        await asyncio.gather(*(self._fallback.replace_if(key, as_used) for key, as_used in used))
        return {_key_of(key): (key.key_id, key.key) for key in found}

    # Counting

    async def counts(self, user_id: str, device_id: str) -> KeyCounts:
        """What a device has left; from memory as long as nothing happens to it."""
        device = (user_id, device_id)
        counted = self._counted.get(device)
        if counted is not None and counted.until > self._now():
            return counted.counts
        count = self._counting[device] = object()
        counts = await self._count(user_id, device_id)
        if self._counting.get(device) is count:
            del self._counting[device]
            self._counted[device] = _Counted(counts, self._now() + COUNTED_FOR_MS)
            self._counted.move_to_end(device)
            if len(self._counted) > CACHED_COUNTS:
                self._counted.popitem(last=False)
        return counts

    async def _count(self, user_id: str, device_id: str) -> KeyCounts:
        supplies = await self._supplies.find("key", (user_id, device_id), limit=MAX_ALGORITHMS)
        one_time = {supply.algorithm: supply.uploaded - supply.claimed for supply in supplies}
        fallback = await self._fallback.find("key", (user_id, device_id), limit=MAX_ALGORITHMS)
        unused = tuple(key.algorithm for key in fallback if not key.used)
        return KeyCounts({algorithm: count for algorithm, count in one_time.items() if count}, unused)

    def _count_up(
        self,
        device: tuple[str, str],
        counted: "_Counted | None",
        added: "Iterable[_Planned]",
        new_fallback: Iterable[FallbackKey],
    ) -> None:
        """Keys were added to those that were counted before."""
        # Had anybody else changed anything meanwhile, what was counted would be gone.
        still_right = counted is not None and self._counted.get(device) is counted
        self.recount(*device)
        if counted is not None and still_right:
            one_time = dict(counted.counts.one_time)
            for supply, _, addition in added:
                one_time[supply.algorithm] = addition.supply.uploaded - addition.supply.claimed
            unused = {*counted.counts.unused_fallback, *(key.algorithm for key in new_fallback)}
            counts = KeyCounts(one_time, tuple(sorted(unused)))
            self._counted[device] = counted._replace(counts=counts)

    def recount(self, user_id: str, device_id: str) -> None:
        """Something changed: what was counted, here or at another replica, is of no use any more."""
        self._forget_count((user_id, device_id))
        self._to_others.tell(RECOUNT, orjson.dumps((user_id, device_id)))

    def _on_recount(self, body: bytes) -> None:
        user_id, device_id = orjson.loads(body)
        self._forget_count((user_id, device_id))

    def _forget_count(self, device: tuple[str, str]) -> None:
        self._counted.pop(device, None)
        self._counting.pop(device, None)

    # The end

    async def forget(self, user_id: str, device_id: str) -> None:
        """Drop all keys of a device that is gone, or that has other identity keys now."""
        # What is uploaded in between loses its supply, not its batch: the device sees that it has no keys.
        await self._batches.delete_where("key", (user_id, device_id))
        await self._supplies.delete_where("key", (user_id, device_id))
        await self._fallback.delete_where("key", (user_id, device_id))
        self.recount(user_id, device_id)


def _key_of(record: OneTimeSupply | OneTimeBatch | FallbackKey) -> _Target:
    return record.user_id, record.device_id, record.algorithm


def claimed_json(claimed: Claimed) -> bytes:
    """The JSON of claimed keys, by user and device."""
    return json_object(
        (user_id, json_object((device_id, json_object(keys.items())) for device_id, keys in devices.items()))
        for user_id, devices in claimed.items()
    )
