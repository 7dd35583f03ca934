"""Profiles of other servers' users, asked for and remembered for a moment.

spec: client-server "Profiles"; server-server "Querying for information"
"""

from collections import OrderedDict
from typing import NamedTuple, Protocol

import orjson

from homeserver.clock import Clock
from homeserver.errors import MatrixError, not_found
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.single_flight import SingleFlight
from homeserver.users.profiles import MAX_PROFILE_BYTES, check_field

KEPT_MS = 60_000
MAX_KEPT = 1_000
MAX_FIELDS = 100


class ProfileServers(Protocol):
    """Asks servers for the profiles of their users."""

    async def profile(self, server: str, user_id: str) -> JsonObject:
        """Raises MatrixError 404, and 502 for a server that does not answer."""
        ...


class NoProfileServers:
    """Of a server that has nothing to do with others."""

    async def profile(self, server: str, user_id: str) -> JsonObject:
        raise not_found("This server does not talk to others")


class _Kept(NamedTuple):
    fields: JsonObject
    until: int


class RemoteProfiles:
    """The profiles that were asked for lately."""

    def __init__(self, servers: ProfileServers, now: Clock) -> None:
        self._servers = servers
        self._now = now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asking: SingleFlight[str, JsonObject] = SingleFlight()

    async def get(self, user_id: str) -> JsonObject:
        """What fits in a profile of what the user's server says. Raises 404, 502."""
        kept = self._kept.get(user_id)
        if kept is not None and kept.until > self._now():
            return kept.fields
        return await self._asking.run(user_id, lambda: self._ask(user_id))

    async def close(self) -> None:
        """End what is being asked."""
        await self._asking.close()

    async def _ask(self, user_id: str) -> JsonObject:
        told = await self._servers.profile(server_name_of(user_id), user_id)
        fields = {key: value for key, value in list(told.items())[:MAX_FIELDS] if _fits(key, value)}
        if len(orjson.dumps(fields)) > MAX_PROFILE_BYTES:
            raise MatrixError(502, "M_UNKNOWN", "The user's server tells of too large a profile")
        self._kept[user_id] = _Kept(fields, self._now() + KEPT_MS)
        self._kept.move_to_end(user_id)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return fields


def _fits(key: str, value: object) -> bool:
    try:
        check_field(key, value)
    except MatrixError:
        return False
    return True
