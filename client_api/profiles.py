"""Profiles (spec: client-server "Profiles")."""

from client_api.http import Auth, Call, delete, get, put
from homeserver.errors import MatrixError, forbidden, missing_param
from homeserver.users.accounts import Accounts
from homeserver.users.profiles import Profiles
from rest.answers import Result
from rest.routes import Routes


class ProfileRoutes(Routes):
    def __init__(self, profiles: Profiles, accounts: Accounts) -> None:
        self._profiles = profiles
        self._accounts = accounts

    @get("/profile/{user_id}", auth=Auth.OPTIONAL)
    async def profile(self, call: Call) -> Result:
        return await self._profiles.get(await self._accounts.check_shown(call.path("user_id")))

    @get(
        "/profile/{user_id}/{key}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key}",
        auth=Auth.OPTIONAL,
    )
    async def field(self, call: Call) -> Result:
        key = call.path("key")
        user_id = await self._accounts.check_shown(call.path("user_id"))
        return {key: await self._profiles.field(user_id, key)}

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
        await self._profiles.set(call.user_id, call.path("key"), None)
        return {}

    def _check_own(self, call: Call) -> None:
        if call.path("user_id") != call.user_id:
            raise forbidden("You may only change your own profile")
        if call.session.account.is_guest and call.path("key") != "displayname":
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may only have a display name")
