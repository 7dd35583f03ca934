"""One-time and fallback keys: uploaded by devices, handed out to whoever opens a channel to them.

A one-time key leaves the store in the act that hands it out, so nobody gets it twice. A client that
has not heard the answer to an upload repeats it; what was claimed in between must not come back, so
the newest uploads of a device are remembered beyond the keys themselves.

How many keys a device has left is told in each of its syncs, from memory; whatever changes that
calls `recount`. That there are none left of the algorithm that clients use is told as 0: the specification
lets servers leave it out, but clients then believe that nothing changed, and never upload new ones.

spec: client-server "One-time and fallback keys", POST /keys/upload, POST /keys/claim
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
import orjson
import structlog

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.e2ee.identities import json_object
from homeserver.e2ee.key_objects import MAX_ONE_TIME_KEYS, NamedKey, ShortKey, long_key, too_many
from homeserver.errors import MatrixError
from homeserver.remembered import Remembered
from homeserver.sync.engine import KeyCounts
from storage.collection import Collection, Puts
from storage.errors import StoreError
from storage.records.keys import FallbackKey, OneTimeEpoch, OneTimeKey, OneTimeUploads

log = structlog.get_logger(__name__)

RECOUNT = "one_time_keys"
"""Kind of message: [user, device], whose keys are others now: counts and notes of them are of no use."""
COUNTED_FOR_MS = 5 * 60_000
"""A net beneath `recount`, for changes by a replica that died before it told of them."""
CACHED_COUNTS = 50_000
CACHED_UPLOADS = 200
"""Notes of what devices uploaded: who is new, and much talked to, uploads again and again."""
ALGORITHM = "signed_curve25519"
"""Of the one-time keys of all clients."""
NONE_LEFT = {ALGORITHM: 0}
MAX_ALGORITHMS = 10
"""That a device ever uses one-time keys of, and fallback keys."""
MAX_RECORDS = MAX_ONE_TIME_KEYS * MAX_ALGORITHMS
MAX_CLAIMS = 20_000
CLAIMS_AT_ONCE = 500
KEYS_PER_RECORD = 25
"""Some 3,900 bytes, a page of SQLite; with more, each claim would give pages back and take others."""

ShortKeys = Mapping[str, Mapping[str, ShortKey]]
"""By algorithm and key id."""
Upload = tuple[int, dict[str, str]]
"""Number of an upload, and by key id what tells its keys from others: the beginning of the signature."""
MARK_LENGTH = 4
"""Characters of Base64: of 16 million keys, one is taken for another that had its name."""
Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""
Claimed = dict[str, dict[str, dict[str, bytes]]]
"""User → device → `algorithm:key_id` → the key's JSON."""


class _Counted(NamedTuple):
    counts: KeyCounts
    until: int


class OneTimeKeys:
    """The keys of all local devices."""

    def __init__(
        self,
        keys: Collection[OneTimeKey],
        uploads: Collection[OneTimeUploads],
        fallback: Collection[FallbackKey],
        epochs: Collection[OneTimeEpoch],
        to_others: ToOthers,
        now: Clock,
    ) -> None:
        self._keys = keys
        self._uploads = uploads
        self._fallback = fallback
        self._epochs = epochs
        self._to_others = to_others
        self._now = now
        self._recent: OrderedDict[tuple[str, str], OneTimeUploads | None] = OrderedDict()
        """What devices uploaded last; None for those that have uploaded nothing."""
        self._counted: Remembered[tuple[str, str], _Counted] = Remembered(CACHED_COUNTS)
        to_others.subscribe(RECOUNT, self._on_recount)

    async def start(self, epoch: str) -> None:
        """Drop all one-time keys when the store is another one than they were uploaded to.

        A restored store has keys that were handed out since it was copied (HARDENING 33); devices
        see that they have none left and upload new ones.
        """
        known = await self._epochs.get("")
        if known is None or known.epoch != epoch:
            dropped = await self._keys.delete_where("key", ())
            await self._epochs.put(OneTimeEpoch(name="", epoch=epoch))
            if dropped:
                log.warning("one-time keys of another epoch of the store were dropped", count=dropped)

    def begin(self, user_id: str, device_id: str) -> None:
        """A device is new: it has no keys, so nobody has to look for any. Another replica may know better."""
        self._keep_recent((user_id, device_id), None)
        self._counted.keep((user_id, device_id), self._now_counted(KeyCounts(NONE_LEFT, ())))

    # Uploading

    async def upload(
        self, user_id: str, device_id: str, one_time: ShortKeys, fallback: Sequence[NamedKey]
    ) -> None:
        """Store keys; those that are there already stay as they are.

        Raises 400 when there is another key under the same name, or too many keys; nothing is stored then.
        """
        device = (user_id, device_id)
        new_fallback = await self._new_fallback(user_id, device_id, fallback)
        stored = False
        while not stored:
            known = await self._known_uploads(device) if one_time else None
            noted = _noted(known.uploads if known is not None else {}, one_time)
            if new := noted.new:
                await self._check_new(user_id, device_id, noted)
            counted = self._counted.get(device)
            stored = not new
            try:
                if new:
                    uploads = OneTimeUploads(user_id=user_id, device_id=device_id, uploads=noted.uploads)
                    keys = _records(user_id, device_id, new, noted.number)
                    puts = Puts(self._keys, keys), Puts(self._fallback, new_fallback)
                    stored = await self._uploads.replace_if(known, uploads, then=puts)
                    if stored:
                        self._keep_recent(device, uploads)
                elif new_fallback:
                    await self._fallback.put_many(new_fallback)
            except StoreError:
                self.recount(user_id, device_id)  # Some of it may be there all the same.
                raise
        if new or new_fallback:
            self._count_up(device, counted, new, new_fallback)

    async def _known_uploads(self, device: tuple[str, str]) -> OneTimeUploads | None:
        """The note of a device's uploads, from memory once: one that is out of date is not replaced, and the
        next attempt reads what is stored."""
        if device in self._recent:
            return self._recent.pop(device)
        return await self._uploads.get(*device)

    def _keep_recent(self, device: tuple[str, str], uploads: OneTimeUploads | None) -> None:
        self._recent[device] = uploads
        if len(self._recent) > CACHED_UPLOADS:
            self._recent.popitem(last=False)

    async def _check_new(self, user_id: str, device_id: str, noted: "_Noted") -> None:
        """Raises 400 when one is there already with another value, and for too many."""
        if len(noted.uploads) > MAX_ALGORITHMS:
            raise too_many(f"A device may use {MAX_ALGORITHMS} algorithms at most")
        for algorithm, key_id, uploaded in noted.other:
            records = await self._keys.find("key", (user_id, device_id, algorithm, uploaded))
            if any(key_id == present for record in records for present, *_ in record.keys):
                raise MatrixError(
                    400, "M_UNKNOWN", f"One-time key {algorithm}:{key_id} already exists with another value"
                )
        counted = await self.counts(user_id, device_id)
        counts = _added(counted.one_time, noted.new)
        if max(counts.values()) > MAX_ONE_TIME_KEYS:
            raise too_many(f"A device may have {MAX_ONE_TIME_KEYS} unclaimed one-time keys at most")

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
                taken = await self._keys.take("key", some, "before")
                fallback = await self._fall_back(
                    [target for target, record in zip(some, taken, strict=True) if record is None]
                )
            finally:
                for user_id, device_id, _ in some:
                    self.recount(user_id, device_id)
            found: list[tuple[OneTimeKey | FallbackKey, str, bytes]] = [
                *((record, *_first(record)) for record in taken if record is not None),
                *((record, record.key_id, record.key.encode()) for record in fallback),
            ]
            for record, key_id, key in found:
                name = f"{record.algorithm}:{key_id}"
                claimed.setdefault(record.user_id, {})[record.device_id] = {name: key}
        return claimed

    async def _fall_back(self, targets: Sequence[tuple[str, str, str]]) -> list[FallbackKey]:
        """The fallback keys of devices that have one; they count as used from now on."""
        if not targets:
            return []
        found = await self._fallback.get_many(targets)
        used = [(key, msgspec.structs.replace(key, used=True)) for key in found if not key.used]
        # Should one be replaced at this moment, the new one is unused still, and that is right.
        await asyncio.gather(*(self._fallback.replace_if(key, as_used) for key, as_used in used))
        return found

    # Counting

    async def counts(self, user_id: str, device_id: str) -> KeyCounts:
        """What a device has left; from memory as long as nothing happens to it."""
        device = (user_id, device_id)
        counted = self._counted.get(device)
        if counted is not None and counted.until > self._now():
            return counted.counts
        with self._counted.looking_up((device,)) as keep:
            one_time = await self._count(user_id, device_id)
            fallback = await self._fallback.find("key", (user_id, device_id), limit=MAX_ALGORITHMS)
            counts = KeyCounts(one_time, tuple(key.algorithm for key in fallback if not key.used))
            keep(device, self._now_counted(counts))
        return counts

    def _now_counted(self, counts: KeyCounts) -> "_Counted":
        return _Counted(counts, self._now() + COUNTED_FOR_MS)

    async def _count(self, user_id: str, device_id: str) -> dict[str, int]:
        one_time: Counter[str] = Counter(NONE_LEFT)
        for record in await self._keys.find("key", (user_id, device_id), limit=MAX_RECORDS):
            one_time[record.algorithm] += len(record.keys)
        return dict(one_time)

    def _count_up(
        self,
        device: tuple[str, str],
        counted: "_Counted | None",
        new: ShortKeys,
        new_fallback: Sequence[FallbackKey],
    ) -> None:
        """Keys were added to those that were counted before."""
        # Had anybody else changed anything meanwhile, what was counted would be gone.
        still_right = counted is not None and self._counted.get(device) is counted
        self.recount(*device)
        if counted is not None and still_right:
            unused = counted.counts.unused_fallback
            if new_fallback:
                unused = sorted({*unused, *(key.algorithm for key in new_fallback)})
            counts = KeyCounts(_added(counted.counts.one_time, new), unused)
            self._counted.keep(device, _Counted(counts, counted.until))

    def recount(self, user_id: str, device_id: str) -> None:
        """Something changed: what was counted, here or at another replica, is of no use any more."""
        self._counted.forget((user_id, device_id))
        self._to_others.tell(RECOUNT, orjson.dumps((user_id, device_id)))

    def _on_recount(self, body: bytes) -> None:
        user_id, device_id = orjson.loads(body)
        self._recent.pop((user_id, device_id), None)
        self._counted.forget((user_id, device_id))

    # The end

    async def forget(self, user_id: str, device_id: str) -> None:
        """Drop all keys of a device that is gone, or that has other identity keys now."""
        await self._keys.delete_where("key", (user_id, device_id))
        await self._fallback.delete_where("key", (user_id, device_id))
        await self._uploads.delete(user_id, device_id)
        self._recent.pop((user_id, device_id), None)
        self.recount(user_id, device_id)


def _added(counts: Mapping[str, int], new: ShortKeys) -> dict[str, int]:
    """How many there are of each algorithm with some more."""
    return {**counts, **{algorithm: counts.get(algorithm, 0) + len(keys) for algorithm, keys in new.items()}}


class _Noted(NamedTuple):
    number: int
    """Of this upload."""
    uploads: dict[str, tuple[Upload, ...]]
    """The recent uploads by algorithm, this one among them."""
    new: ShortKeys
    """Those of the keys that have not been uploaded before."""
    other: list[tuple[str, str, int]]
    """Algorithm and key id of the new ones whose name another key had, and in which upload that one came."""


def _noted(recent: Mapping[str, tuple[Upload, ...]], keys: ShortKeys) -> _Noted:
    """What an upload brings, in view of the recent ones.

    Of these only the last stay: keys are claimed in the order of uploads, so all unclaimed ones are among
    them.
    """
    number = max((uploads[-1][0] for uploads in recent.values()), default=0) + 1
    noted = dict(recent)
    new: dict[str, Mapping[str, ShortKey]] = {}
    other: list[tuple[str, str, int]] = []
    for algorithm, of_algorithm in keys.items():
        fresh = {id: sign[:MARK_LENGTH] or _mark(key) for id, key, sign in of_algorithm.values()}
        uploads: list[Upload] = []
        for upload, before in recent.get(algorithm, ()):
            if before.keys().isdisjoint(fresh):
                uploads.append((upload, before))
                continue
            for key_id in before.keys() & fresh.keys():
                if before[key_id] == fresh[key_id]:
                    del fresh[key_id]
                else:
                    other.append((algorithm, key_id, upload))
            if kept := {key_id: mark for key_id, mark in before.items() if key_id not in fresh}:
                uploads.append((upload, kept))
        if fresh:
            all_new = len(fresh) == len(of_algorithm)
            new[algorithm] = of_algorithm if all_new else {key_id: of_algorithm[key_id] for key_id in fresh}
            uploads.append((number, fresh))
            noted[algorithm] = _last(uploads)
    return _Noted(number, noted, new, other)


def _mark(json: str) -> str:
    """What a key that has more than a signature is told from others by."""
    return f"{crc32(json.encode()):x}"


def _last(uploads: Sequence[Upload]) -> tuple[Upload, ...]:
    """As many of the uploads as it takes to have the keys that a device may have at most."""
    count = 0
    for start in range(len(uploads) - 1, -1, -1):
        count += len(uploads[start][1])
        if count >= MAX_ONE_TIME_KEYS:
            return tuple(uploads[start:])
    return tuple(uploads)


def _records(user_id: str, device_id: str, new: ShortKeys, uploaded: int) -> list[OneTimeKey]:
    """New keys as they are stored, some of an algorithm together."""
    records = []
    for algorithm, keys in new.items():
        in_order = tuple(keys.values())
        for start in range(0, len(in_order), KEYS_PER_RECORD):
            together = in_order[start : start + KEYS_PER_RECORD]
            key_id, key, signature = together[-1]
            record = OneTimeKey(
                user_id=user_id,
                device_id=device_id,
                algorithm=algorithm,
                uploaded=uploaded,
                key_id=key_id,
                key=key,
                signature=signature,
                before=together[:-1],
            )
            records.append(record)
    return records


def _first(record: OneTimeKey) -> tuple[str, bytes]:
    """Key id and JSON of the key that a record has before all others."""
    key_id, key, signature = (*record.keys[0], "")[:3]
    return key_id, long_key(record.user_id, record.device_id, (key_id, key, signature))


def claimed_json(claimed: Claimed) -> bytes:
    """The JSON of claimed keys, by user and device."""
    return json_object(
        (user_id, json_object((device_id, json_object(keys.items())) for device_id, keys in devices.items()))
        for user_id, devices in claimed.items()
    )
