"""What other servers are told when devices and keys of this server's users change.

Each change of a device is an entry of its user's log (`homeserver.e2ee.identities`), and that entry's number
is the number of the change; it follows upon the one before it. So a server that was told all of them has the
list, and one that has missed some sees that, and asks for it (`ToldKeys.devices`). Devices without keys are
told as they come and go, which is no news to users here. Names of devices are not told, nor that they change.

spec: server-server "Device Management", "End-to-End Encryption"
"""

import orjson

from homeserver.e2ee.identities import CROSS_SIGNING, DEVICE, NO_KEYS
from homeserver.e2ee.key_objects import MASTER, SELF_SIGNING
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.rooms import Rooms
from homeserver.sync.device_lists import announced_changes
from homeserver.users.users import Users
from storage.log import Entry, Kind, Log, ShardMap

PAGE = 50


class ToldDevices:
    """Makes the EDUs of an announcement; see `DeviceNews`."""

    def __init__(self, server_name: str, log: Log, shards: ShardMap, rooms: Rooms, users: Users) -> None:
        self._server_name = server_name
        self._log = log
        self._shards = shards
        self._rooms = rooms
        self._users = users

    async def servers(self, user_id: str) -> set[str]:
        found: set[str] = set()
        for room_id in (await self._users.get(user_id)).rooms("join"):
            with LeftOutIfBroken(room_id):
                room = await self._rooms.get(room_id)
                found.update(room.servers if room is not None else ())
        return found - {self._server_name}

    async def updates(self, announcement: Entry) -> list[JsonObject]:
        user_id = announcement.key or ""
        changes = await self._log.entries(self._shards.of_user(user_id), announced_changes(announcement))
        edus = [await self._device_update(entry) for entry in changes if entry.type == DEVICE]
        keys = [entry for entry in changes if entry.type == CROSS_SIGNING]
        return edus + [_signing_key_update(entry) for entry in keys[-1:]]

    async def newest(self, user_id: str) -> list[JsonObject]:
        found = await self._last_before(user_id, None)
        return [] if found is None else [await self._device_update(found)]

    async def _device_update(self, entry: Entry) -> JsonObject:
        previous = await self._last_before(entry.stream, entry.seq)
        content: JsonObject = {
            "user_id": entry.stream,
            "device_id": entry.key,
            "stream_id": entry.seq,
            "prev_id": [] if previous is None else [previous.seq],
        }
        if not entry.body:
            content["deleted"] = True
        elif entry.body != NO_KEYS:
            content["keys"] = orjson.loads(entry.body)
        return {"edu_type": "m.device_list_update", "content": content}

    async def _last_before(self, user_id: str, before: int | None) -> Entry | None:
        """The last change of a device before an entry, or of all."""
        shard = self._shards.of_user(user_id)
        while True:
            page = await self._log.page(
                shard, user_id, kind=Kind.DEVICE_LIST, before=before, newest_first=True, limit=PAGE
            )
            for earlier in page:
                if earlier.type == DEVICE:
                    return earlier
            if len(page) < PAGE:
                return None
            before = page[-1].seq


def _signing_key_update(entry: Entry) -> JsonObject:
    keys = orjson.loads(entry.body) if entry.body else {}
    told = {f"{usage}_key": keys[usage] for usage in (MASTER, SELF_SIGNING) if usage in keys}
    return {"edu_type": "m.signing_key_update", "content": {"user_id": entry.stream, **told}}
