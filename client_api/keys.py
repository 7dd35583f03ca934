"""Keys of devices and cross-signing keys (spec: client-server "End-to-End Encryption")."""

from typing import Any

import msgspec

from client_api.http import Auth, Call, get, post
from client_api.uia import InteractiveAuth
from homeserver.e2ee.cross_signing import CrossSigning
from homeserver.e2ee.device_keys import DeviceKeys, KeyUpload
from homeserver.e2ee.key_objects import MASTER, SELF_SIGNING, USER_SIGNING
from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.engine import SyncEngine
from homeserver.users.sessions import Sessions
from homeserver.users.users import Users
from rest.answers import Result
from rest.routes import Routes

TIMEOUT_MS = 10_000
LONGEST_TIMEOUT_MS = 60_000


class Query(msgspec.Struct):
    device_keys: dict[str, list[str]]
    timeout: int | None = None


class Claim(msgspec.Struct):
    one_time_keys: dict[str, dict[str, str]]
    timeout: int | None = None


def seconds_of(body: Query | Claim) -> float:
    """How long other servers have to answer."""
    timeout = TIMEOUT_MS if body.timeout is None else body.timeout
    return min(max(timeout, 0), LONGEST_TIMEOUT_MS) / 1000


class CrossSigningKeys(msgspec.Struct):
    master_key: JsonObject | None = None
    self_signing_key: JsonObject | None = None
    user_signing_key: JsonObject | None = None
    auth: JsonObject | None = None

    def by_usage(self) -> dict[str, JsonObject]:
        keys = {
            MASTER: self.master_key,
            SELF_SIGNING: self.self_signing_key,
            USER_SIGNING: self.user_signing_key,
        }
        return {usage: key for usage, key in keys.items() if key is not None}


class KeyRoutes(Routes):
    def __init__(
        self,
        device_keys: DeviceKeys,
        cross_signing: CrossSigning,
        device_lists: DeviceLists,
        engine: SyncEngine,
        users: Users,
        sessions: Sessions,
        interactive: InteractiveAuth,
    ) -> None:
        self._device_keys = device_keys
        self._cross_signing = cross_signing
        self._device_lists = device_lists
        self._engine = engine
        self._users = users
        self._sessions = sessions
        self._interactive = interactive

    @post("/keys/upload/{device_id}", auth=Auth.GUEST)
    async def upload_of_device(self, call: Call) -> Result:
        """What the endpoint was before the specification had it; Element for iOS calls it still."""
        if call.path("device_id") != call.session.device_id:
            raise invalid_param("device_id: must be the device that calls")
        return await self.upload(call)

    @post("/keys/upload", auth=Auth.GUEST)
    async def upload(self, call: Call) -> Result:
        session = call.session
        keys = call.struct(KeyUpload)
        try:
            counts = await self._device_keys.upload(session.user_id, session.device_id, keys)
        finally:
            await self._sessions.forget_if_ended(session)
        return {"one_time_key_counts": counts}

    @post("/keys/query", auth=Auth.GUEST, quick=True)
    async def query(self, call: Call) -> Result:
        body = call.struct(Query)
        return await self._device_keys.query(call.user_id, body.device_keys, seconds=seconds_of(body))

    @post("/keys/claim", auth=Auth.GUEST, quick=True)
    async def claim(self, call: Call) -> Result:
        body = call.struct(Claim)
        return await self._device_keys.claim(body.one_time_keys, seconds=seconds_of(body))

    @get("/keys/changes")
    async def changes(self, call: Call) -> Result:
        after = self._engine.decode(call.required_query("from"))
        upto = self._engine.decode(call.required_query("to"))
        await self._engine.follow(call.user_id, upto)
        user = await self._users.get(call.user_id)
        changes = await self._device_lists.since(user, after, upto)
        return {"changed": sorted(changes.changed), "left": sorted(changes.left)}

    @post("/keys/device_signing/upload")
    async def upload_cross_signing_keys(self, call: Call) -> Result:
        keys = call.json(CrossSigningKeys)
        uploaded = keys.by_usage()
        must_ask = (
            await self._cross_signing.needs_authorisation(call.user_id, uploaded)
            # Who comes back from a stage in a browser may bring nothing but the session.
            or (not uploaded and keys.auth is not None)
        )
        if must_ask:
            uploaded = (await self._interactive.confirm(call, CrossSigningKeys)).by_usage()
        await self._cross_signing.upload(call.user_id, uploaded, authorised=must_ask)
        return {}

    @post("/keys/signatures/upload")
    async def upload_signatures(self, call: Call) -> Result:
        signed = call.json(dict[str, dict[str, dict[str, Any]]])
        return {"failures": await self._cross_signing.sign(call.user_id, signed)}
