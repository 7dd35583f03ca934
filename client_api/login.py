"""Logging in and out (spec: client-server "Login", "Refreshing access tokens")."""

from functools import partial

import msgspec

from client_api.http import Auth, Call, bearer_token, get, post
from client_api.pages import page
from client_api.uia import InteractiveAuth
from homeserver.errors import MatrixError, missing_param
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.users.application_services import ApplicationService, ApplicationServices
from homeserver.users.logins import LOGIN_TOKEN_LIFETIME_MS, Logins, Proved
from homeserver.users.sessions import NewSession, Sessions
from rest.answers import Result
from rest.routes import Routes

PASSWORD = "m.login.password"
TOKEN = "m.login.token"
APPSERVICE = "m.login.application_service"


class LoginBody(msgspec.Struct):
    type: str
    identifier: JsonObject | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool = False


class RefreshBody(msgspec.Struct):
    refresh_token: str


class LoginRoutes(Routes):
    def __init__(
        self,
        logins: Logins,
        sessions: Sessions,
        interactive: InteractiveAuth,
        services: ApplicationServices,
        *,
        server_name: str,
        password_login: bool,
        login_tokens: bool,
    ) -> None:
        self._logins = logins
        self._sessions = sessions
        self._interactive = interactive
        self._services = services
        self._server_name = server_name
        self._login_tokens = login_tokens
        self._flows: list[JsonObject] = []
        if password_login:
            self._flows.append({"type": PASSWORD})
        if login_tokens:
            self._flows.append({"type": TOKEN, "get_login_token": True})
        if services:
            self._flows.append({"type": APPSERVICE})

    @get("/login", auth=Auth.NONE, limit="login_address")
    async def flows(self, call: Call) -> Result:
        return {"flows": self._flows}

    @post("/login", auth=Auth.NONE, limit="login_address")
    async def login(self, call: Call) -> Result:
        body = call.json(LoginBody)
        proved = await self._proved(body, call)
        user_id = proved.account.user_id
        session = await self._sessions.open(
            user_id,
            device_id=body.device_id,
            display_name=body.initial_device_display_name,
            with_refresh_token=body.refresh_token,
            confirm=partial(self._logins.confirm, proved),
        )
        return session_answer(user_id, session)

    async def _proved(self, body: LoginBody, call: Call) -> Proved:
        given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
        if body.type == APPSERVICE:
            service = service_of(call, self._services)
            return await self._logins.with_service(service, self._logins.identified_user(given))
        if not any(flow["type"] == body.type for flow in self._flows):
            raise MatrixError(400, "M_UNKNOWN", "This login type is not known here")
        if body.type == TOKEN:
            if not body.token:
                raise missing_param("The login token is missing")
            return await self._logins.with_token(body.token)
        if body.password is None:
            raise missing_param("The password is missing")
        return await self._logins.with_password(self._logins.identified_user(given), body.password)

    @post("/_matrix/client/v1/login/get_token", limit="login_account")
    async def get_token(self, call: Call) -> Result:
        if not self._login_tokens:
            raise MatrixError(404, "M_UNRECOGNIZED", "This server gives no login tokens")
        await self._interactive.confirm(call, JsonObject)
        return {
            "login_token": await self._logins.issue_token(call.user_id, call.session.device_id),
            "expires_in_ms": LOGIN_TOKEN_LIFETIME_MS,
        }

    @post("/refresh", auth=Auth.NONE, limit="login_address")
    async def refresh(self, call: Call) -> Result:
        session = await self._sessions.refresh(call.json(RefreshBody).refresh_token)
        return token_answer(session)

    @post("/logout", auth=Auth.GUEST, while_locked=True)
    async def logout(self, call: Call) -> Result:
        await self._sessions.end_device(call.user_id, call.session.device_id)
        return {}

    @post("/logout/all", auth=Auth.GUEST, while_locked=True)
    async def logout_all(self, call: Call) -> Result:
        await self._sessions.end_all(call.user_id)
        return {}

    @get("/_matrix/static/client/login/", auth=Auth.NONE)
    async def fallback(self, call: Call) -> Result:
        return page("login", server_name=self._server_name)


def session_answer(user_id: str, session: NewSession) -> JsonObject:
    """What a client gets that has logged in. `home_server` is deprecated, but older clients need it."""
    named = {"user_id": user_id, "home_server": server_name_of(user_id), "device_id": session.device_id}
    return {**named, **token_answer(session)}


def token_answer(session: NewSession) -> JsonObject:
    answer: JsonObject = {"access_token": session.access_token}
    if session.refresh_token is not None:
        answer["refresh_token"] = session.refresh_token
    if session.expires_in_ms is not None:
        answer["expires_in_ms"] = session.expires_in_ms
    return answer


def service_of(call: Call, services: ApplicationServices) -> ApplicationService:
    """The application service that asks. Raises 401 for one who only claims to be one."""
    token = bearer_token(call.request)
    if not token:
        raise MatrixError(401, "M_MISSING_TOKEN", "The application service's token is missing")
    service = services.of_token(token)
    if service is None:
        raise MatrixError(401, "M_UNKNOWN_TOKEN", "This is no application service's token", soft_logout=False)
    return service
