"""Devices and keys of this server's users.

spec: server-server "Device Management", "End-to-End Encryption"
"""

import msgspec

from federation.http import Call, get, post
from homeserver.e2ee.told_keys import ToldKeys
from rest.answers import Result
from rest.routes import Routes

USER = "/_matrix/federation/v1/user"


class Query(msgspec.Struct):
    device_keys: dict[str, list[str]]


class Claim(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]


class UserKeyRoutes(Routes):
    def __init__(self, keys: ToldKeys) -> None:
        self._keys = keys

    @get(f"{USER}/devices/{{user_id}}")
    async def devices(self, call: Call) -> Result:
        return await self._keys.devices(call.path("user_id"))

    @post(f"{USER}/keys/query")
    async def query(self, call: Call) -> Result:
        return await self._keys.query(call.json(Query).device_keys)

    @post(f"{USER}/keys/claim")
    async def claim(self, call: Call) -> Result:
        return await self._keys.claim(call.json(Claim).one_time_keys)
