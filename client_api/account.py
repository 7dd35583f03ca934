"""One's own account: who am I, password, deactivation (spec: client-server "Account management")."""

import msgspec

from client_api.contacts import unbind_result
from client_api.http import Auth, Call, get, post
from client_api.uia import InteractiveAuth
from homeserver.identity.bindings import Bindings
from homeserver.protocol.json_types import JsonObject
from homeserver.users.accounts import Accounts
from homeserver.users.deactivation import Deactivation
from homeserver.users.sessions import Sessions
from rest.answers import Result
from rest.bodies import converted
from rest.routes import Routes


class PasswordBody(msgspec.Struct):
    new_password: str
    logout_devices: bool = True


class DeactivateBody(msgspec.Struct):
    erase: bool = False
    id_server: str | None = None


class AccountRoutes(Routes):
    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        deactivation: Deactivation,
        bindings: Bindings,
        interactive: InteractiveAuth,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._deactivation = deactivation
        self._bindings = bindings
        self._interactive = interactive

    @get("/account/whoami", auth=Auth.GUEST, limit="request")
    async def whoami(self, call: Call) -> Result:
        session = call.session
        return {
            "user_id": session.user_id,
            "device_id": session.device_id,
            "is_guest": session.account.is_guest,
        }

    @post("/account/password", limit="request")
    async def change_password(self, call: Call) -> Result:
        body = await self._interactive.confirm_checked(call, self._check_password)
        await self._sessions.change_password(call.session, body.new_password, end_others=body.logout_devices)
        return {}

    async def _check_password(self, parameters: JsonObject) -> PasswordBody:
        body = converted(parameters, PasswordBody)
        self._accounts.check_new_password(body.new_password)
        return body

    @post("/account/deactivate", limit="request")
    async def deactivate(self, call: Call) -> Result:
        body = await self._interactive.confirm(call, DeactivateBody)
        unbound = await self._bindings.unbind_all(call.user_id, body.id_server)
        await self._deactivation.deactivate(call.user_id, erase=body.erase)
        return unbind_result(unbound)
