"""Registration (spec: client-server "Account registration")."""

import msgspec

from client_api.http import Auth, Call, Result, Routes, post
from homeserver.clock import Clock
from homeserver.users.accounts import Accounts
from homeserver.users.sessions import Sessions
from homeserver.users.tokens import new_device_id


class RegisterBody(msgspec.Struct):
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False


class RegistrationRoutes(Routes):
    def __init__(self, accounts: Accounts, sessions: Sessions, now: Clock) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._now = now

    @post("/register", auth=Auth.NONE)
    async def register(self, call: Call) -> Result:
        body = call.json(RegisterBody)
        user_id = await self._accounts.available(body.username or new_device_id().lower())
        await self._accounts.create(user_id, body.password, now=self._now())
        session = await self._sessions.open(
            user_id,
            device_id=body.device_id,
            display_name=body.initial_device_display_name,
            with_refresh_token=body.refresh_token,
        )
        return {"user_id": user_id, "access_token": session.access_token, "device_id": session.device_id}
