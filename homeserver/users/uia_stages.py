"""The stages of user-interactive authentication that this server offers (spec: "Authentication types")."""

from collections.abc import Sequence

import orjson

from homeserver.config.options import Policy
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.json_types import JsonObject
from homeserver.users.logins import Logins
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.uia import StageFailed

DUMMY = "m.login.dummy"
PASSWORD = "m.login.password"
REGISTRATION_TOKEN = "m.login.registration_token"
TERMS = "m.login.terms"


class DummyStage:
    """Nothing to prove."""

    def params(self) -> JsonObject | None:
        return None

    async def attempt(self, user_id: str | None, auth: JsonObject) -> str:
        return ""


class PasswordStage:
    """The one whose request it is knows the account's password."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins

    def params(self) -> JsonObject | None:
        return None

    async def attempt(self, user_id: str | None, auth: JsonObject) -> str:
        assert user_id is not None, "offered to users only"
        password = auth.get("password")
        if not isinstance(password, str):
            raise StageFailed("M_MISSING_PARAM", "The password is missing")
        try:
            named = "identifier" in auth or "user" in auth
            mine = not named or self._logins.identified_user(auth) == user_id
            if mine:
                await self._logins.check_password(user_id, password)
        except MatrixError as error:
            if error.status == 429 or error.status >= 500:
                raise
            raise StageFailed(error.errcode, error.error) from error
        if not mine:
            # Not a failed attempt that another could make good: this is somebody else's request.
            raise forbidden("This is another user's request")
        return user_id


class RegistrationTokenStage:
    """Proves a registration token; it is used up when the account is made."""

    def __init__(self, tokens: RegistrationTokens) -> None:
        self._tokens = tokens

    def params(self) -> JsonObject | None:
        return None

    async def attempt(self, user_id: str | None, auth: JsonObject) -> str:
        token = auth.get("token")
        if not isinstance(token, str):
            raise StageFailed("M_MISSING_PARAM", "The registration token is missing")
        if not await self._tokens.is_valid(token):
            raise StageFailed("M_UNAUTHORIZED", "The registration token is not valid")
        return token


class TermsStage:
    """Agreement to the server's policies; proves which versions were shown, as JSON by policy id."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = policies
        self._params: JsonObject = {
            "policies": {
                policy.id: {
                    "version": policy.version,
                    **{lang: {"name": text.name, "url": text.url} for lang, text in policy.texts.items()},
                }
                for policy in policies
            }
        }
        self._versions = orjson.dumps({policy.id: policy.version for policy in policies}).decode()

    def params(self) -> JsonObject | None:
        return self._params

    async def attempt(self, user_id: str | None, auth: JsonObject) -> str:
        return self._versions
