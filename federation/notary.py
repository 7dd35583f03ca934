"""What this server tells of other servers' keys.

spec: server-server#querying-keys-through-another-server
"""

from collections.abc import Mapping

from federation.key_ring import BeforeAsking, KeyRing
from federation.own_keys import OwnKeys
from homeserver.clock import Clock
from homeserver.errors import bad_json, too_large
from homeserver.protocol.json_types import JsonObject

MAX_SERVERS = 100
"""Asked about in one request."""


class Notary:
    """Passes on what servers said, with a signature of this one."""

    def __init__(self, own: OwnKeys, ring: KeyRing, now: Clock) -> None:
        self._own = own
        self._ring = ring
        self._now = now

    async def query(self, request: JsonObject, before_asking: BeforeAsking) -> JsonObject:
        """The answer to POST /_matrix/key/v2/query.

        Raises MatrixError 400 and 413, StoreError, and what `before_asking` does.
        """
        wanted = request.get("server_keys")
        if not isinstance(wanted, dict):
            raise bad_json("server_keys must be an object")
        if len(wanted) > MAX_SERVERS:
            raise too_large(f"at most {MAX_SERVERS} servers can be asked about at once")
        return await self._keys_of({server: _least(keys) for server, keys in wanted.items()}, before_asking)

    async def query_one(
        self, server_name: str, valid_until: int | None, before_asking: BeforeAsking
    ) -> JsonObject:
        """The answer to GET /_matrix/key/v2/query/{serverName}; `valid_until`: `minimum_valid_until_ts`."""
        return await self._keys_of({server_name: valid_until}, before_asking)

    async def _keys_of(self, servers: Mapping[str, int | None], before_asking: BeforeAsking) -> JsonObject:
        now = self._now()
        others = {
            server: now if least is None else least
            for server, least in servers.items()
            if server != self._own.server_name
        }
        found = [self._own.signed(answer) for answer in await self._ring.published(others, before_asking)]
        return {"server_keys": found if len(others) == len(servers) else [self._own.answer(), *found]}


def _least(keys: object) -> int | None:
    """Until when one server's keys are to be valid: the latest of what is said for each of them."""
    if not isinstance(keys, dict):
        raise bad_json("server_keys: each server must have an object of key ids")
    times = []
    for criteria in keys.values():
        least = criteria.get("minimum_valid_until_ts") if isinstance(criteria, dict) else None
        if least is not None:
            if type(least) is not int:
                raise bad_json("minimum_valid_until_ts must be an integer")
            times.append(least)
    return max(times, default=None)
