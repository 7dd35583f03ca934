"""User-interactive authentication for routes, and its fallback pages.

A handler that needs it makes one call and gets the body of the request:

    body = await self._interactive.confirm(call, DeactivateBody)

spec: client-server "User-Interactive Authentication API", "Fallback"
"""

from collections.abc import Mapping
from typing import ClassVar, TypeVar
from urllib.parse import parse_qs

from client_api.http import Auth, Call, get, post
from client_api.pages import page
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.json_types import JsonObject
from homeserver.users.uia import Admit, Attempt, Check, Flow, Passed, StageFailed, Uia, next_stages
from homeserver.users.uia_stages import DUMMY, PASSWORD, REGISTRATION_TOKEN, TERMS, TermsStage
from rest.answers import Answer, Result
from rest.bodies import converted
from rest.client_address import subscriber
from rest.routes import Routes
from web import render

T = TypeVar("T")

PASSWORD_FLOWS: tuple[Flow, ...] = ((PASSWORD,),)
MAX_FORM_FIELDS = 10


class InteractiveAuth:
    """What routes use."""

    def __init__(self, uia: Uia, *, password_login: bool) -> None:
        self._uia = uia
        self._password_login = password_login

    async def confirm(self, call: Call, kind: type[T]) -> T:
        """The body (without `auth`), once the user who calls has proved to be the account's owner.

        Raises 401 with the flows; 400 for a body that is no `kind`, before anything is to be proved; 403
        for an account without a password.
        """

        async def check(parameters: JsonObject) -> T:
            return converted(parameters, kind)

        return await self.confirm_checked(call, check)

    async def confirm_checked(self, call: Call, check: Check[T]) -> T:
        """The same, where more about the body is checked first.

        Users of application services have nothing to prove themselves with, and need not (spec:
        application-service "Cross-signing", "Device management").
        """
        if call.session.account.appservice is not None:
            return await check(call.json(JsonObject))
        if not self._password_login or call.session.account.password is None:
            raise forbidden("Your account has no password to confirm this with")
        passed = await self._uia.authenticate(
            _attempt(call, call.user_id, call.session.device_id), PASSWORD_FLOWS, check
        )
        return passed.parameters

    async def stranger(
        self, call: Call, flows: tuple[Flow, ...], check: Check[T], admit: Admit[T]
    ) -> Passed[T]:
        """For callers without an account."""
        return await self._uia.authenticate(_attempt(call, None, None), flows, check, admit)


def _attempt(call: Call, user_id: str | None, device_id: str | None) -> Attempt:
    operation = f"{call.request.method} {call.request.path}"
    return Attempt(operation, user_id, device_id, subscriber(call.address), call.json(JsonObject))


class FallbackRoutes(Routes):
    """Pages on which a stage can be completed in a browser, for clients that do not know it."""

    PAGES: ClassVar[Mapping[str, str]] = {
        PASSWORD: "stage_password",
        REGISTRATION_TOKEN: "stage_registration_token",
        TERMS: "stage_terms",
        DUMMY: "stage_dummy",
    }

    def __init__(self, uia: Uia, terms: TermsStage, server_name: str) -> None:
        self._uia = uia
        self._server_name = server_name
        texts = [policy.texts.get("en") or next(iter(policy.texts.values())) for policy in terms.policies]
        self._policies = b"".join(render("policy", name=text.name, url=text.url) for text in texts)

    @get("/auth/{stage}/fallback/web", auth=Auth.NONE)
    async def show(self, call: Call) -> Result:
        return await self._page(call)

    @post("/auth/{stage}/fallback/web", auth=Auth.NONE, limit="login_address")
    async def submit(self, call: Call) -> Result:
        stage = call.path("stage")
        try:
            form = parse_qs(call.raw.decode("utf-8", "replace"), max_num_fields=MAX_FORM_FIELDS)
        except ValueError:
            return page("stage_unknown", 400, error="The form is malformed.")
        auth = {"type": stage, **{name: values[0] for name, values in form.items() if name != "type"}}
        try:
            await self._uia.complete(call.query("session") or "", auth)
        except StageFailed as failure:
            return await self._page(call, failure.error, status=401)
        except MatrixError as error:
            return page("stage_unknown", error.status, error=error.error)
        return page("stage_done")

    async def _page(self, call: Call, error: str = "", status: int = 200) -> Answer:
        stage = call.path("stage")
        if stage not in self.PAGES:
            return page("stage_unknown", 404, error="This server has no such stage.")
        session = await self._uia.session(call.query("session") or "")
        if session is None:
            return page("stage_unknown", 400, error="The session has expired.")
        if stage in session.completed:
            return page("stage_done")
        if stage not in next_stages(session):
            return page("stage_unknown", 400, error="Another stage comes first.")
        return page(
            self.PAGES[stage],
            status,
            error=error,
            server_name=self._server_name,
            user_id=session.user_id or "",
            policies=self._policies,
        )
