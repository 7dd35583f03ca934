"""Device lists of other servers' users, as their servers told them.

A list is asked for when somebody wants to encrypt for its user, and kept for as long as the user shares a
room with anybody here: so long their server tells of each change (EDUs `m.device_list_update` and
`m.signing_key_update`). A change that does not follow upon what is kept makes the list one that is asked
for again, at once, and whenever the server shows a sign of life, until it was told.

What is kept is a copy in the log, as one entry (`identities.Copy`), so whoever shares rooms with the user
hears of changes as of those of local users. Before a list is asked for, the log has a mark that it will be.
A change that comes meanwhile, to whichever replica, puts another one in its place: then the answer may be
from before that change, and is not kept.

spec: server-server "Device Management"; client-server "Tracking the device list for a user"
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
import orjson

from homeserver.bus.replica import Replica
from homeserver.e2ee.identities import COPY, Copy, Draft, Identities, Identity
from homeserver.e2ee.key_answers import (
    copies_of_query,
    copy_of_list,
    cross_signing_keys,
    keep_device,
    keep_name,
)
from homeserver.e2ee.key_objects import MASTER
from homeserver.e2ee.key_servers import KeyServers, NoAnswer, answers_within
from homeserver.errors import MatrixError
from homeserver.protocol.canonical_json import MAX_INT
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.rooms import Rooms
from homeserver.tasks import end
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import Users
from storage.errors import StoreError
from storage.log import Entry, ShardMap

MAX_COPY_BYTES = 128 * 1024
"""Of a list that is kept. Each change writes all of it; some 100 devices go in, and few users have ten."""
USERS_AT_ONCE = 250
"""In one question to a server."""
ATTEMPTS = 3
AGAIN_SECONDS = 1.0
"""Before a list is asked for again that changed while it was asked for."""
MAX_SILENT = 1_000
"""Servers that are known to be asked again when they are back, and users of each of them."""
RENEWED_AT_ONCE = 50
"""Lists asked for at one sign of life."""


class DeviceUpdate(msgspec.Struct):
    """Content of m.device_list_update."""

    user_id: str
    device_id: str
    stream_id: Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)]
    prev_id: list[int] = []
    deleted: bool = False
    keys: JsonObject | None = None
    device_display_name: str | None = None


class SigningKeyUpdate(msgspec.Struct):
    """Content of m.signing_key_update."""

    user_id: str
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None


class RemoteLists:
    """Asks for lists, keeps them, and follows what changes them."""

    def __init__(
        self,
        servers: KeyServers,
        identities: Identities,
        shared_rooms: SharedRooms,
        rooms: Rooms,
        users: Users,
        replica: Replica,
        shards: ShardMap,
    ) -> None:
        self._servers = servers
        self._identities = identities
        self._shared_rooms = shared_rooms
        self._rooms = rooms
        self._users = users
        self._replica = replica
        self._shards = shards
        self._asking: dict[str, asyncio.Task[Mapping[str, Identity]]] = {}
        """User → the question about them that is under way."""
        self._renewing: dict[str, asyncio.Task[None]] = {}
        """User → what gets their list anew."""
        self._waiting: OrderedDict[str, dict[str, None]] = OrderedDict()
        """Server → its users whose lists could not be had."""

    async def close(self) -> None:
        """End what is being asked."""
        await end((*self._renewing.values(), *self._asking.values()))

    # Being wanted

    async def get_many(
        self, user_ids: Sequence[str], seconds: float
    ) -> tuple[dict[str, Identity], dict[str, str]]:
        """(what is known of each of the users, why the servers of the others are not), after so long at most.

        Raises 503.
        """
        await self._replica.refresh({self._shards.of_user(user_id) for user_id in user_ids})
        kept = {
            user_id: identity
            for user_id, identity in (await self._identities.get_many(user_ids)).items()
            if identity.copied is not None and identity.copied.told
        }
        # Of who has just left the last room, nothing more is told, and what is kept is yet to be forgotten.
        met = await asyncio.gather(*map(self._shared_rooms.met_in, kept))
        found = {id: kept[id] for id, room in zip(kept, met, strict=True) if room is not None}
        asked = self._ask([user_id for user_id in user_ids if user_id not in found])
        answers, failures = await answers_within(seconds, asked)
        wanted = set(user_ids)
        for answer in answers:
            found.update((user_id, identity) for user_id, identity in answer.items() if user_id in wanted)
        return found, failures

    def _ask(self, user_ids: Sequence[str]) -> list[tuple[str, asyncio.Task[Mapping[str, Identity]]]]:
        """The questions, by server, whose answers tell of these users; each is asked about once at a time."""
        by_server: dict[str, list[str]] = {}
        asked: dict[asyncio.Task[Mapping[str, Identity]], str] = {}
        for user_id in user_ids:
            server = server_name_of(user_id)
            under_way = self._asking.get(user_id)
            if under_way is not None:
                asked[under_way] = server
            else:
                by_server.setdefault(server, []).append(user_id)
        for server, of_server in by_server.items():
            for first in range(0, len(of_server), USERS_AT_ONCE):
                asked[self._begin(server, of_server[first : first + USERS_AT_ONCE])] = server
        return [(server, task) for task, server in asked.items()]

    def _begin(self, server: str, user_ids: Sequence[str]) -> asyncio.Task[Mapping[str, Identity]]:
        task = asyncio.create_task(self._fetch(server, user_ids), name=f"device-lists of {server}")

        def ended(_: asyncio.Task[Mapping[str, Identity]]) -> None:
            for user_id in user_ids:
                self._asking.pop(user_id, None)
            if not task.cancelled() and task.exception() is not None:
                self._wait_for(server, user_ids)

        self._asking.update(dict.fromkeys(user_ids, task))
        task.add_done_callback(ended)
        return task

    async def _fetch(self, server: str, user_ids: Sequence[str]) -> dict[str, Identity]:
        """Ask a server, and keep what is to be kept. Raises NoAnswer."""
        marks = dict(zip(user_ids, await asyncio.gather(*map(self._mark, user_ids)), strict=True))
        (user_id, *others) = user_ids
        if marks[user_id] is not None and not others:
            # Only this answer has a number, upon which changes may follow.
            copies = {user_id: copy_of_list(user_id, await self._servers.devices(server, user_id))}
        else:
            copies = copies_of_query(user_ids, await self._servers.query(server, user_ids))
        kept = (self._settle(id, copies[id], mark) for id, mark in marks.items() if mark is not None)
        await asyncio.gather(*kept)
        return {user_id: Identity.of_copy(user_id, copy) for user_id, copy in copies.items()}

    async def _mark(self, user_id: str) -> int | None:
        """Have a mark in the log that the list is asked for; its number, None if it is not to be kept."""
        if await self._shared_rooms.met_in(user_id) is None:
            return None

        def change(identity: Identity) -> Sequence[Draft]:
            return () if identity.copied is not None else (_draft(Copy(), quiet=True),)

        await self._identities.change(user_id, change)
        copied = (await self._identities.get(user_id)).copied
        return copied.seq if copied is not None else None

    async def _settle(self, user_id: str, copy: Copy, mark: int) -> None:
        """Keep a list, unless something happened since the mark."""
        draft = _draft(copy)

        def change(identity: Identity) -> Sequence[Draft]:
            copied = identity.copied
            if copied is None or copied.seq != mark:
                return ()
            # Who asked for the first time has the answer; after a change others may have had none.
            return (draft._replace(quiet=copied.quiet),)

        await self._identities.change(user_id, change)

    # Changes

    async def update(self, update: DeviceUpdate) -> None:
        """A server tells of a device of one of its users, and that it told of others before. Raises 503."""

        def change(copy: Copy) -> Copy | None:
            if update.stream_id == copy.stream_id:
                return copy
            if update.prev_id != [copy.stream_id]:
                return None
            devices, names = dict(copy.devices), dict(copy.names)
            keys = None if update.deleted else update.keys
            keep_device(devices, names, update.user_id, update.device_id, keys)
            keep_name(devices, names, update.device_id, update.device_display_name)
            return msgspec.structs.replace(copy, stream_id=update.stream_id, devices=devices, names=names)

        await self._change(update.user_id, change, concerns_keys=update.deleted or update.keys is not None)

    async def update_keys(self, update: SigningKeyUpdate) -> None:
        """A server tells that a user of its own has other cross-signing keys. Raises 503."""
        keys = cross_signing_keys(update.user_id, update.master_key, update.self_signing_key)

        def change(copy: Copy) -> Copy:
            # What another master key has signed is worth nothing.
            same = MASTER not in keys or copy.keys.get(MASTER, {}).get("keys") == keys[MASTER]["keys"]
            return msgspec.structs.replace(copy, keys={**(copy.keys if same else {}), **keys})

        await self._change(update.user_id, change, concerns_keys=True)

    async def _change(
        self, user_id: str, change: Callable[[Copy], Copy | None], *, concerns_keys: bool
    ) -> None:
        """Change the list that is kept; with None it is no longer true, and asked for again.

        That it changed is news to those who meet the user, also where none is kept; but not that there is a
        device without keys.
        """
        # Another replica may just have begun to ask for it.
        await self._replica.refresh([self._shards.of_user(user_id)])
        identity = await self._identities.get(user_id)
        if identity.copied is None and await self._shared_rooms.met_in(user_id) is None:
            return

        def drafts(identity: Identity) -> Sequence[Draft]:
            copied = identity.copied
            if not concerns_keys and (copied is None or not copied.told):
                return ()
            if copied is None:
                return (_draft(None),)
            before = identity.as_copy()
            after = change(before) if copied.told else None
            if after is None:
                return (_draft(Copy()),)
            is_same = after == msgspec.structs.replace(before, stream_id=after.stream_id)
            return () if after == before else (_draft(after, quiet=is_same and not concerns_keys),)

        await self._identities.change(user_id, drafts)
        if not await self._is_settled(user_id):
            self._renew(user_id)

    # Asking again

    def alive(self, server: str) -> None:
        """A server shows a sign of life: what it could not be asked for, it is asked for now."""
        waiting = self._waiting.pop(server, {})
        for user_id in list(waiting)[:RENEWED_AT_ONCE]:
            del waiting[user_id]
            self._renew(user_id)
        if waiting:
            self._waiting[server] = waiting

    def _wait_for(self, server: str, user_ids: Sequence[str]) -> None:
        waiting = self._waiting.setdefault(server, {})
        for user_id in user_ids[: MAX_SILENT - len(waiting)]:
            waiting[user_id] = None
        if len(self._waiting) > MAX_SILENT:
            self._waiting.popitem(last=False)

    def _renew(self, user_id: str) -> None:
        """Get a list anew, if that is not under way."""
        if user_id not in self._renewing:
            task = asyncio.create_task(self._until_told(user_id), name=f"device-list of {user_id}")
            self._renewing[user_id] = task
            task.add_done_callback(lambda _: self._renewing.pop(user_id, None))

    async def _until_told(self, user_id: str) -> None:
        try:
            for attempt in range(ATTEMPTS):
                await asyncio.sleep(attempt * AGAIN_SECONDS)
                if await self._is_settled(user_id):
                    return
                await self._identities.change(user_id, _as_news)
                await asyncio.gather(*(task for _, task in self._ask([user_id])))
        except (NoAnswer, StoreError, MatrixError):
            pass
        else:
            if await self._is_settled(user_id):
                return
        self._wait_for(server_name_of(user_id), [user_id])

    async def _is_settled(self, user_id: str) -> bool:
        """Whether nothing is kept of a user, or what is kept is true."""
        copied = (await self._identities.get(user_id)).copied
        return copied is None or copied.told

    # No longer being of interest

    @staticmethod
    def wants(entry: Entry) -> bool:
        """Follows the room shards, as the consumer "remote_lists"."""
        return entry.type == "m.room.member" and entry.key is not None

    async def handle(self, shard: int, entry: Entry) -> None:
        """Whoever has left may have been the last to share a room with somebody."""
        room, who = await self._rooms.get(entry.stream), entry.key or ""
        if room is None or who in room.joined:
            return
        if not self._users.is_local(who):
            await self._forget_unless_met(who)
        elif self._users.server_name not in room.servers:
            for user_id in list(room.joined):
                await self._forget_unless_met(user_id)

    async def _forget_unless_met(self, user_id: str) -> None:
        identity = await self._identities.get(user_id)
        if identity.copied is not None and await self._shared_rooms.met_in(user_id) is None:
            await self._identities.change(
                user_id, lambda identity: () if identity.copied is None else (_draft(None, quiet=True),)
            )


def _as_news(identity: Identity) -> Sequence[Draft]:
    """Have those hear who may have asked for a list, and had no answer."""
    return (_draft(Copy()),) if identity.copied is not None and identity.copied.quiet else ()


def _draft(copy: Copy | None, *, quiet: bool = False) -> Draft:
    """The entry of a copy, of none if it is too large to be kept."""
    content = msgspec.to_builtins(copy) if copy is not None else None
    if content is not None and len(orjson.dumps(content)) > MAX_COPY_BYTES:
        content = None
    return Draft(COPY, "", content, quiet)
