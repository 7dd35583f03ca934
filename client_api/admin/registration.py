"""Accounts by the shared secret, as `weft register-user` and tools for other homeservers ask for them.

The protocol is the one that those tools know: GET for a nonce, then POST with a proof over it.
"""

from client_api.http import Auth, Call, get, post
from client_api.registration import DeviceWishes, registration_answer
from homeserver.errors import invalid_param
from homeserver.users.registration import Registration
from homeserver.users.sessions import check_device_id
from rest.answers import Result
from rest.routes import Routes

PATH = "/_synapse/admin/v1/register"
MAX_FIELD = 512


class SecretBody(DeviceWishes, kw_only=True):
    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    user_type: str | None = None
    displayname: str | None = None


class SecretRegistrationRoutes(Routes):
    def __init__(self, registration: Registration, server_name: str) -> None:
        self._registration = registration
        self._server_name = server_name

    @get(PATH, auth=Auth.NONE, limit="registration_check")
    async def nonce(self, call: Call) -> Result:
        return {"nonce": await self._registration.new_nonce()}

    @post(PATH, auth=Auth.NONE, limit="registration_check")
    async def register(self, call: Call) -> Result:
        body = call.json(SecretBody)
        for name in ("username", "password"):
            value: str = getattr(body, name)
            # A zero byte parts the fields in what the proof is over.
            if not 1 <= len(value) <= MAX_FIELD or "\0" in value:
                raise invalid_param(f"Invalid {name}")
        if body.device_id is not None:
            check_device_id(body.device_id)
        registered = await self._registration.register_by_secret(
            nonce=body.nonce,
            mac=body.mac,
            username=body.username,
            password=body.password,
            admin=body.admin,
            user_type=body.user_type,
            displayname=body.displayname,
            device=body.first_device(),
        )
        return {**registration_answer(registered), "home_server": self._server_name}
