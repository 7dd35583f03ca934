"""Other servers asked for the keys of their users.

spec: server-server "Device Management", "End-to-End Encryption"
"""

import asyncio
from collections.abc import Awaitable, Sequence

from federation.client import FederationClient, request_target
from federation.errors import FederationError
from homeserver.e2ee.key_servers import NoAnswer, Wanted
from homeserver.protocol.json_types import JsonObject

USER = "/_matrix/federation/v1/user"
ANSWER_SECONDS = 30.0
ASKED_AT_ONCE = 100


class RemoteKeyServers:
    """Implements `homeserver.e2ee.key_servers.KeyServers`."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)

    async def devices(self, server: str, user_id: str) -> JsonObject:
        target = request_target(f"{USER}/devices", user_id)
        return await self._answer(self._client.get(server, target, seconds=ANSWER_SECONDS))

    async def query(self, server: str, user_ids: Sequence[str]) -> JsonObject:
        return await self._ask(server, "query", {"device_keys": {user_id: [] for user_id in user_ids}})

    async def claim(self, server: str, wanted: Wanted) -> JsonObject:
        return await self._ask(server, "claim", {"one_time_keys": wanted})

    async def _ask(self, server: str, what: str, content: JsonObject) -> JsonObject:
        target = f"{USER}/keys/{what}"
        return await self._answer(self._client.post(server, target, content, seconds=ANSWER_SECONDS))

    async def _answer(self, asking: Awaitable[JsonObject]) -> JsonObject:
        async with self._slots:
            try:
                return await asking
            except FederationError as error:
                raise NoAnswer(error.reason) from None
