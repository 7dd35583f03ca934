"""Profiles (spec: client-server "Profiles")."""

from client_api.http import Auth, Call, delete, get, put
from homeserver.errors import MatrixError, forbidden, missing_param, not_found
from homeserver.protocol.identifiers import check_user_id
from homeserver.protocol.json_types import JsonObject
from homeserver.users.accounts import Accounts
from homeserver.users.profiles import Profiles
from homeserver.users.remote_profiles import RemoteProfiles
from rest.answers import Result
from rest.routes import Routes


class ProfileRoutes(Routes):
    def __init__(self, profiles: Profiles, remote: RemoteProfiles, accounts: Accounts) -> None:
        self._profiles = profiles
        self._remote = remote
        self._accounts = accounts

    @get("/profile/{user_id}", auth=Auth.OPTIONAL)
    async def profile(self, call: Call) -> Result:
        return await self._fields(call)

    @get(
        "/profile/{user_id}/{key}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key}",
        auth=Auth.OPTIONAL,
    )
    async def field(self, call: Call) -> Result:
        key, fields = call.path("key"), await self._fields(call)
        if key not in fields:
            raise not_found("The profile has no such field")
        return {key: fields[key]}

    @put(
        "/profile/{user_id}/{key}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key}",
        auth=Auth.GUEST,
        limit="profile",
        good_standing=True,
    )
    async def set_field(self, call: Call) -> Result:
        self._check_own(call)
        key, body = call.path("key"), call.content()
        if key not in body:
            raise missing_param(f"The body has no {key}")
        await self._profiles.set(call.user_id, key, body[key])
        return {}

    @delete(
        "/profile/{user_id}/{key}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key}",
        auth=Auth.GUEST,
        limit="profile",
        good_standing=True,
    )
    async def delete_field(self, call: Call) -> Result:
        self._check_own(call)
        await self._profiles.delete(call.user_id, call.path("key"))
        return {}

    async def _fields(self, call: Call) -> JsonObject:
        """The profile of whoever the path names. Raises 403, 404 and 502."""
        user_id = check_user_id(call.path("user_id"))
        if self._accounts.is_local(user_id):
            return await self._profiles.get(await self._accounts.check_shown(user_id))
        if call.optional_session is None:
            # Strangers do not make this server knock at others.
            raise forbidden("Log in to see the profiles of other servers' users")
        return await self._remote.get(user_id)

    def _check_own(self, call: Call) -> None:
        call.check_own()
        if call.session.account.is_guest and call.path("key") != "displayname":
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may only have a display name")
