"""Registration tokens by the admin API of Synapse, which tools for administrators know already."""

import msgspec
from msgspec import UNSET, UnsetType

from client_api.http import Auth, Call, delete, get, post, put
from homeserver.protocol.json_types import JsonObject
from homeserver.users.registration_tokens import DEFAULT_LENGTH, RegistrationTokens
from rest.answers import Result
from rest.routes import Routes
from storage.records.accounts import RegistrationToken

TOKENS = "/_synapse/admin/v1/registration_tokens"


class NewToken(msgspec.Struct):
    """`expiry_time` in ms since 1970; `length` of a token that is made up here."""

    token: str | None = None
    length: int = DEFAULT_LENGTH
    uses_allowed: int | None = None
    expiry_time: int | None = None


class TokenChanges(msgspec.Struct):
    """What is not named stays; None is no limit."""

    uses_allowed: int | UnsetType | None = UNSET
    expiry_time: int | UnsetType | None = UNSET


class RegistrationTokenRoutes(Routes):
    def __init__(self, tokens: RegistrationTokens) -> None:
        self._tokens = tokens

    @get(TOKENS, auth=Auth.ADMIN)
    async def tokens(self, call: Call) -> Result:
        found = await self._tokens.all()
        if call.query("valid") is not None:
            valid = call.bool_query("valid")
            found = [record for record in found if self._tokens.is_good(record) is valid]
        return {"registration_tokens": [shown(record) for record in found]}

    @post(f"{TOKENS}/new", auth=Auth.ADMIN)
    async def create(self, call: Call) -> Result:
        body = call.json(NewToken)
        token = body.token if body.token is not None else await self._tokens.new_token(body.length)
        return shown(
            await self._tokens.create(token, uses_allowed=body.uses_allowed, expires_ts=body.expiry_time)
        )

    @get(f"{TOKENS}/{{token}}", auth=Auth.ADMIN)
    async def token(self, call: Call) -> Result:
        return shown(await self._tokens.get(call.path("token")))

    @put(f"{TOKENS}/{{token}}", auth=Auth.ADMIN)
    async def change(self, call: Call) -> Result:
        body = call.json(TokenChanges)
        changes: dict[str, int | None] = {}
        if body.uses_allowed is not UNSET:
            changes["uses_allowed"] = body.uses_allowed
        if body.expiry_time is not UNSET:
            changes["expires_ts"] = body.expiry_time
        return shown(await self._tokens.change(call.path("token"), **changes))

    @delete(f"{TOKENS}/{{token}}", auth=Auth.ADMIN)
    async def delete(self, call: Call) -> Result:
        await self._tokens.delete(call.path("token"))
        return {}


def shown(record: RegistrationToken) -> JsonObject:
    """A token as administrators see it. A use is taken at once when the account is made: none are pending."""
    return {
        "token": record.token,
        "uses_allowed": record.uses_allowed,
        "pending": 0,
        "completed": record.used,
        "expiry_time": record.expires_ts,
    }
