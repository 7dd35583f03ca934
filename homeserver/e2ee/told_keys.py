"""What other servers are told of the devices and keys of this server's users.

It is what anybody is told, without the names that people gave their devices: those are for themselves and
for the users of their own server. Users of other servers are passed over; their own servers know.

spec: server-server "Device Management", "End-to-End Encryption"
"""

from collections.abc import Mapping, Sequence

import orjson

from homeserver.e2ee.identities import Identities, json_object
from homeserver.e2ee.key_objects import MASTER, SELF_SIGNING, too_many
from homeserver.e2ee.one_time_keys import OneTimeKeys, claimed_json
from homeserver.errors import not_found
from homeserver.protocol.identifiers import check_user_id
from homeserver.users.users import Users

MAX_USERS = 1000
"""In one query; servers ask for the members of a room that are here, some at a time."""


class ToldKeys:
    """Answers about keys for other servers, as JSON."""

    def __init__(
        self,
        identities: Identities,
        one_time_keys: OneTimeKeys,
        users: Users,
    ) -> None:
        self._identities = identities
        self._one_time_keys = one_time_keys
        self._users = users

    async def devices(self, user_id: str) -> bytes:
        """The devices of a user that have keys, and at which point of their changes. Raises 400 and 404."""
        if not self._users.is_local(check_user_id(user_id)):
            raise not_found("This is not a user of this server")
        identity = (await self._identities.newest([user_id]))[user_id]
        devices = (
            json_object((("device_id", orjson.dumps(device_id)), ("keys", keys)))
            for device_id, keys in identity.devices.items()
        )
        return json_object(
            (
                ("user_id", orjson.dumps(user_id)),
                ("stream_id", orjson.dumps(identity.devices_at)),
                ("devices", b"[" + b",".join(devices) + b"]"),
                ("master_key", identity.shown_key(MASTER)),
                ("self_signing_key", identity.shown_key(SELF_SIGNING)),
            )
        )

    async def query(self, wanted: Mapping[str, Sequence[str]]) -> bytes:
        """Keys of users, of the devices listed or of all. Raises 400 for too many users."""
        if len(wanted) > MAX_USERS:
            raise too_many(f"At most {MAX_USERS} users at once")
        found = await self._identities.newest(self._local(wanted))
        return json_object(
            (
                ("device_keys", json_object((id, i.told_devices(wanted[id])) for id, i in found.items())),
                ("master_keys", json_object((id, i.shown_key(MASTER)) for id, i in found.items())),
                (
                    "self_signing_keys",
                    json_object((id, i.shown_key(SELF_SIGNING)) for id, i in found.items()),
                ),
            )
        )

    async def claim(self, wanted: Mapping[str, Mapping[str, str]]) -> bytes:
        """One key for each device. Raises 400 for too many devices."""
        claimed = await self._one_time_keys.claim({id: wanted[id] for id in self._local(wanted)})
        return json_object([("one_time_keys", claimed_json(claimed))])

    def _local(self, user_ids: Mapping[str, object]) -> list[str]:
        return [user_id for user_id in user_ids if self._users.is_local(user_id)]
