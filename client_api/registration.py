"""Registration (spec: client-server "Account registration", "Token-authenticated registration")."""

import msgspec

from client_api.http import Auth, Call, get, post
from client_api.login import APPSERVICE, service_of, session_answer
from client_api.uia import InteractiveAuth
from homeserver.errors import missing_param
from homeserver.protocol.json_types import JsonObject
from homeserver.users.accounts import Accounts
from homeserver.users.application_services import ApplicationServices
from homeserver.users.registration import FirstDevice, Registered, Registration
from homeserver.users.sessions import check_device_id
from rest.answers import Result
from rest.bodies import converted
from rest.routes import Routes


class DeviceWishes(msgspec.Struct):
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False

    def first_device(self) -> FirstDevice | None:
        if self.inhibit_login:
            return None
        return FirstDevice(self.device_id, self.initial_device_display_name, self.refresh_token)


class GuestBody(msgspec.Struct):
    initial_device_display_name: str | None = None


class ServiceBody(DeviceWishes):
    username: str | None = None


class RegisterBody(DeviceWishes):
    username: str | None = None
    password: str | None = None
    guest_access_token: str | None = None


class RegistrationRoutes(Routes):
    def __init__(
        self,
        registration: Registration,
        accounts: Accounts,
        services: ApplicationServices,
        interactive: InteractiveAuth,
    ) -> None:
        self._registration = registration
        self._accounts = accounts
        self._services = services
        self._interactive = interactive

    @post("/register", auth=Auth.NONE, limit="registration_check")
    async def register(self, call: Call) -> Result:
        if call.choice_query("kind", "user", "guest") == "guest":
            return await self._register_guest(call)
        if call.json(JsonObject).get("type") == APPSERVICE:
            return await self._register_for_service(call)
        self._registration.check_open()

        def admit(body: RegisterBody) -> None:
            if body.password is None:
                raise missing_param("The password is missing")
            call.charge("registration")

        passed = await self._interactive.stranger(call, self._registration.flows, self._check, admit)
        body = passed.parameters
        assert body.password is not None, "checked by `admit`"
        registered = await self._registration.register(
            body.username,
            body.password,
            passed.proofs,
            body.first_device(),
            guest_access_token=body.guest_access_token,
        )
        return registration_answer(registered)

    async def _register_for_service(self, call: Call) -> Result:
        """A user of an application service (spec: application-service "Server admin style permissions")."""
        service, body = service_of(call, self._services), call.json(ServiceBody)
        if body.username is None:
            raise missing_param("The username is missing")
        return registration_answer(
            await self._registration.register_by_service(service, body.username, body.first_device())
        )

    async def _register_guest(self, call: Call) -> Result:
        name = call.json(GuestBody).initial_device_display_name
        call.charge("registration")
        return registration_answer(await self._registration.register_guest(FirstDevice(display_name=name)))

    async def _check(self, parameters: JsonObject) -> RegisterBody:
        body = converted(parameters, RegisterBody)
        if body.username is not None:
            await self._registration.check_name(body.username, body.guest_access_token)
        if body.password is not None:
            self._accounts.check_new_password(body.password)
        if body.device_id is not None:
            check_device_id(body.device_id)
        return body

    @get("/register/available", auth=Auth.NONE, limit="registration_check")
    async def available(self, call: Call) -> Result:
        self._registration.check_open()
        await self._accounts.available(call.required_query("username"))
        return {"available": True}

    @get(
        "/_matrix/client/v1/register/m.login.registration_token/validity",
        auth=Auth.NONE,
        limit="registration_check",
    )
    async def token_validity(self, call: Call) -> Result:
        return {"valid": await self._registration.token_is_valid(call.required_query("token"))}


def registration_answer(registered: Registered) -> JsonObject:
    """What one gets who has registered: the account, and a session unless that was not wanted."""
    if registered.session is None:
        return {"user_id": registered.user_id}
    return session_answer(registered.user_id, registered.session)
