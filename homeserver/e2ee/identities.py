"""Identity keys: what every user publishes of devices and cross-signing keys.

They lie in the log of the user who made them, each under a key of its own, so that publishing a key
and saying that it changed are one act. The consumer of `device_announcements` follows these entries
and passes the word on to those who share rooms with the user; after a crash it goes on where it was.

    type            key             body
    device          device id       device keys with all signatures that others may see, {}: it has none;
                                    empty: gone
    device_name     device id       {"display_name": …}; empty: none
    cross_signing   ""              {"master": …, "self_signing": …, "user_signing": …}
    signature       another user    {"key_id": their master key, "signatures": {own key: signature}}
    copy            ""              of another server's user: what that server told of them; empty: none

The users asked for lately are in memory in the form in which they are shown, so that /keys/query
joins bytes.

spec: client-server "Device keys", "Cross-signing"
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec
import orjson

from homeserver.bus.replica import Replica
from homeserver.clock import Clock
from homeserver.e2ee.key_objects import MASTER, CrossSigningKey
from homeserver.protocol.json_types import JsonObject
from homeserver.shard_writer import Appended, Drafts
from homeserver.tasks import all_of
from homeserver.users.users import Users
from storage.log import Entry, Kind, Log, ShardMap

DEVICE = "device"
DEVICE_NAME = "device_name"
CROSS_SIGNING = "cross_signing"
SIGNATURE = "signature"
COPY = "copy"

QUIET = b"quiet"
"""`meta` of an entry that is no news to anybody here: what was found out on being asked, or a device without
keys that comes or goes."""

NO_KEYS = b"{}"
"""The body of the entry of a device that has none."""

LOAD_ATTEMPTS = 20
LOADED_AT_ONCE = 100
ENTRIES_AT_ONCE = 500
IDENTITY_SIZE = 3_000
"""Bytes of memory for an identity besides its devices, roughly."""
PARSED = 100
"""Keys of devices: an upload compares them three times."""


@lru_cache(PARSED)
def _parsed(body: bytes) -> JsonObject:
    keys: JsonObject = orjson.loads(body)
    return keys


class Draft(NamedTuple):
    """An entry to be: its type, key and content; None deletes. Nobody is told of a quiet one."""

    type: str
    key: str
    content: JsonObject | None
    quiet: bool = False


class Copy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another server told of one of its users. Without `told` it is not known, or no longer true."""

    told: bool = False
    stream_id: int | None = None
    """That server's number of the newest change which is in here, if it gave one."""
    devices: dict[str, JsonObject] = {}
    """Device id → its keys."""
    names: dict[str, str] = {}
    """Device id → display name."""
    keys: dict[str, JsonObject] = {}
    """Cross-signing keys by usage."""


class Copied(NamedTuple):
    """Where a copy is from: the first two as in `Copy`, its entry's number, whether that is quiet."""

    told: bool
    stream_id: int | None
    seq: int
    quiet: bool


class Identity:
    """What one user has published, as the log has it."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.last_seq = 0
        self.devices: dict[str, bytes] = {}
        """Device id → the JSON of its keys."""
        self.keyless: set[str] = set()
        """Devices that have none."""
        self.devices_at = 0
        """Number of the newest entry about a device."""
        self.names: dict[str, str] = {}
        """Device id → display name."""
        self.keys: dict[str, CrossSigningKey] = {}
        """Cross-signing keys by usage."""
        self.signed: dict[str, JsonObject] = {}
        """Another user → this user's signatures on that one's master key."""
        self.copied: Copied | None = None
        """Of another server's user: how all of this came here. None while nothing is kept of them."""
        self._shown_devices: bytes | None = None
        self._shown_keys: dict[str, bytes] = {}

    @classmethod
    def of_copy(cls, user_id: str, copy: Copy) -> "Identity":
        """Another server's user, of whom nothing is kept, by what that server just told."""
        identity = cls(user_id)
        identity._take_copy(copy)
        return identity

    def copy(self) -> "Identity":
        copy = Identity(self.user_id)
        copy.last_seq = self.last_seq
        copy.devices = dict(self.devices)
        copy.keyless = set(self.keyless)
        copy.devices_at = self.devices_at
        copy.names = dict(self.names)
        copy.keys = self.keys
        copy.signed = dict(self.signed)
        copy.copied = self.copied
        return copy

    def apply(self, entry: Entry) -> None:
        """Take one entry of the user's log; seen ones are passed over."""
        if entry.seq <= self.last_seq:
            return
        self.last_seq = entry.seq
        type, key = entry.type or "", entry.key or ""
        content = orjson.loads(entry.body) if entry.body and type != DEVICE else {}
        if type == DEVICE:
            self.devices_at = entry.seq
            self._shown_devices = None
            self.devices.pop(key, None)
            self.keyless.discard(key)
            if entry.body == NO_KEYS:
                self.keyless.add(key)
            elif entry.body:
                self.devices[key] = entry.body
        elif type == DEVICE_NAME:
            self._shown_devices = None
            if content:
                self.names[key] = content["display_name"]
            else:
                self.names.pop(key, None)
        elif type == CROSS_SIGNING:
            self._take_keys(content)
        elif type == SIGNATURE:
            self.signed[key] = content
        elif type == COPY:
            copy = msgspec.convert(content, Copy)
            self.copied = (
                Copied(copy.told, copy.stream_id, entry.seq, entry.meta == QUIET) if entry.body else None
            )
            self._take_copy(copy)

    def _take_keys(self, keys: Mapping[str, JsonObject]) -> None:
        self._shown_keys = {}
        self.keys = {
            usage: CrossSigningKey(json, next(iter(json["keys"].values()))) for usage, json in keys.items()
        }

    def _take_copy(self, copy: Copy) -> None:
        self._shown_devices = None
        self.devices = {id: orjson.dumps(keys) for id, keys in copy.devices.items()}
        self.names = dict(copy.names)
        self._take_keys(copy.keys)

    def size(self) -> int:
        """Bytes of memory, roughly; devices are there as stored and as shown."""
        return IDENTITY_SIZE + 2 * sum(map(len, self.devices.values())) + 500 * len(self.signed)

    def device(self, device_id: str) -> JsonObject | None:
        """A device's keys, not to be changed; None when it has none."""
        body = self.devices.get(device_id)
        return _parsed(body) if body is not None else None

    def knows(self, device_id: str) -> bool:
        """Whether there is such a device, with keys or without."""
        return device_id in self.devices or device_id in self.keyless

    def as_copy(self) -> Copy:
        """What is kept of another server's user, to be changed and kept again."""
        assert self.copied is not None
        devices = {id: orjson.loads(keys) for id, keys in self.devices.items()}
        keys = {usage: key.json for usage, key in self.keys.items()}
        return Copy(self.copied.told, self.copied.stream_id, devices, dict(self.names), keys)

    # As others see it

    def shown_device(self, device_id: str) -> bytes | None:
        """The JSON of a device's keys with its display name; None for a device that has none."""
        return self._with_name(device_id, self.names.get(device_id))

    def _with_name(self, device_id: str, name: str | None) -> bytes | None:
        body = self.devices.get(device_id)
        if body is None:
            return None
        unsigned = b"{}" if name is None else b'{"device_display_name":' + orjson.dumps(name) + b"}"
        return body[:-1] + b',"unsigned":' + unsigned + b"}"

    def shown_devices(self, wanted: Sequence[str] = ()) -> bytes:
        """The JSON object of all devices, or of those wanted that there are."""
        if wanted:
            return json_object((id, self.shown_device(id)) for id in dict.fromkeys(wanted))
        if self._shown_devices is None:
            self._shown_devices = json_object((id, self.shown_device(id)) for id in self.devices)
        return self._shown_devices

    def told_devices(self, wanted: Sequence[str] = ()) -> bytes:
        """The same for other servers, which are not told the names of devices.

        Where there is no `unsigned` at all, Dendrite tells its clients null, which some do not survive.
        """
        return json_object((id, self._with_name(id, None)) for id in dict.fromkeys(wanted or self.devices))

    def shown_key(self, usage: str) -> bytes | None:
        """The JSON of a cross-signing key, None when there is none."""
        found = self._shown_keys.get(usage)
        if found is None and usage in self.keys:
            found = self._shown_keys[usage] = orjson.dumps(self.keys[usage].json)
        return found

    def shown_master(self, viewer: "Identity | None") -> bytes | None:
        """The master key, with the viewer's own signature on it: nobody else is shown that one."""
        key = self.keys.get(MASTER)
        signed = viewer.signed.get(self.user_id) if viewer is not None else None
        if key is None or viewer is None or signed is None or signed["key_id"] != key.key_id:
            return self.shown_key(MASTER)
        signatures = {**key.json.get("signatures", {}), viewer.user_id: signed["signatures"]}
        return orjson.dumps({**key.json, "signatures": signatures})


def json_object(members: Iterable[tuple[str, bytes | None]]) -> bytes:
    """A JSON object of members that are JSON already; None leaves one out."""
    return orjson.dumps({name: orjson.Fragment(value) for name, value in members if value is not None})


Change = Callable[[Identity], Sequence[Draft]]
"""What to publish, given what is published when it is committed. May raise MatrixError."""


class Identities:
    """The identities asked for lately, kept up by the log, within a budget of bytes."""

    def __init__(
        self, users: Users, log: Log, shards: ShardMap, replica: Replica, now: Clock, *, budget: int
    ) -> None:
        self._users = users
        self._log = log
        self._shards = shards
        self._replica = replica
        self._now = now
        self._budget = budget
        self._size = 0
        self._kept: OrderedDict[str, tuple[Identity, int]] = OrderedDict()
        """User → identity and what size it was reckoned to have, least recently used first."""
        self._alive: WeakValueDictionary[str, Identity] = WeakValueDictionary()
        """One object per user: a proposal under way holds the very one that follows the log."""
        self._loading: dict[str, asyncio.Task[Identity]] = {}
        self._changed_while_loading: set[str] = set()
        self.on_published: Callable[[str], Awaitable[None]] | None = None
        """Called with the user id before `change` returns, to pass on the word of it."""
        users.follow(self._on_entry)

    async def get(self, user_id: str) -> Identity:
        """What a user has published; an empty identity for one who has published nothing."""
        kept = self._kept.get(user_id)
        if kept is not None:
            self._kept.move_to_end(user_id)
            return kept[0]
        identity = self._alive.get(user_id)
        if identity is not None:
            self._keep(identity)
            return identity
        task = self._loading.get(user_id)
        if task is None:
            task = asyncio.create_task(self._load(user_id), name="load-identity")
            self._loading[user_id] = task
            task.add_done_callback(lambda _: self._loading.pop(user_id, None))
        return await asyncio.shield(task)

    async def get_many(self, user_ids: Sequence[str]) -> dict[str, Identity]:
        """The same for several users, in their order."""
        found: dict[str, Identity] = {}
        for i in range(0, len(user_ids), LOADED_AT_ONCE):
            some = user_ids[i : i + LOADED_AT_ONCE]
            missing = [user_id for user_id in some if user_id not in self._kept]
            # Held here, so that none is evicted before it was used.
            loaded = dict(zip(missing, await all_of([*map(self.get, missing)]), strict=True))
            for user_id in some:
                found[user_id] = loaded.get(user_id) or await self.get(user_id)
        return found

    async def newest(self, user_ids: Sequence[str]) -> dict[str, Identity]:
        """The same with what was published at other replicas a moment ago. Raises 503.

        Clients and servers ask once for what they were told has changed, perhaps by a replica that knew it
        sooner.
        """
        await self._replica.refresh({self._shards.of_user(user_id) for user_id in user_ids})
        return await self.get_many(user_ids)

    async def change(self, user_id: str, change: Change) -> bool:
        """Publish what `change` says of the identity; False when that is nothing.

        Raises what `change` raises, and 503 when the log cannot take it.
        """
        # Most uploads of a device bring the keys that are there; of others another replica may have heard.
        await self._replica.refresh([self._shards.of_user(user_id)])
        identity = await self.get(user_id)
        published = bool(change(identity)) and await self._users.submit(
            user_id, _Publish(identity, change, self._now())
        )
        if self.on_published is not None:
            # Also when there was nothing new: an earlier attempt may have died before it told anyone.
            await self.on_published(user_id)
        return published

    # Memory

    def _on_entry(self, entry: Entry) -> None:
        if entry.kind is not Kind.DEVICE_LIST:
            return
        user_id = entry.stream
        if user_id in self._loading:
            self._changed_while_loading.add(user_id)
        identity = self._alive.get(user_id)
        if identity is not None:
            identity.apply(entry)
            if user_id in self._kept:
                self._keep(identity)

    def _keep(self, identity: Identity) -> None:
        before = self._kept.pop(identity.user_id, None)
        size = identity.size()
        self._size += size - (before[1] if before is not None else 0)
        self._kept[identity.user_id] = (identity, size)
        while self._size > self._budget and len(self._kept) > 1:
            _, (_, size) = self._kept.popitem(last=False)
            self._size -= size

    async def _load(self, user_id: str) -> Identity:
        for _ in range(LOAD_ATTEMPTS):
            self._changed_while_loading.discard(user_id)
            identity = await self._read(user_id)
            if user_id not in self._changed_while_loading:
                break
        self._changed_while_loading.discard(user_id)
        self._alive[user_id] = identity
        self._keep(identity)
        return identity

    async def _read(self, user_id: str) -> Identity:
        shard = self._shards.of_user(user_id)
        identity = Identity(user_id)
        refs = await self._log.current(shard, user_id, Kind.DEVICE_LIST)
        seqs = sorted(ref.seq for ref in refs)
        for i in range(0, len(seqs), ENTRIES_AT_ONCE):
            for entry in await self._log.entries(shard, seqs[i : i + ENTRIES_AT_ONCE]):
                identity.apply(entry)
        return identity


class _Publish:
    """The proposal behind `Identities.change`: made on the identity as it is when it is committed."""

    def __init__(self, identity: Identity, change: Change, now: int) -> None:
        self._identity = identity
        self._change = change
        self._now = now
        self._published = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        user_id = self._identity.user_id
        name = f"identity\0{user_id}"
        identity: Identity = drafts.get(name, self._identity)
        changes = self._change(identity)
        self._published = bool(changes)
        if not changes:
            return []
        entries = [
            Entry(
                kind=Kind.DEVICE_LIST,
                stream=user_id,
                type=draft.type,
                key=draft.key,
                body=orjson.dumps(draft.content) if draft.content is not None else b"",
                ts=self._now,
                meta=QUIET if draft.quiet else b"",
                seq=next_seq + i,
            )
            for i, draft in enumerate(changes)
        ]
        drafted = identity.copy()
        for entry in entries:
            drafted.apply(entry)
        drafts[name] = drafted
        return [Appended(entry) for entry in entries]

    def result(self) -> bool:
        return self._published

    def duplicate(self, existing: Entry) -> bool:
        return False
