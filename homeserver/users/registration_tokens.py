"""Registration tokens: who has one may register (spec: client-server "Token-authenticated registration").

Administrators make and change them. A use is taken when the account is made, not before.
"""

import secrets
import string

import msgspec

from homeserver.clock import Clock
from homeserver.errors import invalid_param, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_opaque_id
from storage.collection import Collection
from storage.errors import AlreadyExists
from storage.records.accounts import RegistrationToken

MAX_LENGTH = 64
DEFAULT_LENGTH = 16
CHARACTERS = string.ascii_letters + string.digits + "._~-"
ATTEMPTS = 20
"""At a random token that is not there yet: short ones are soon used up."""
MAX_NUMBER = 2**53 - 1
PAGE = 500


class RegistrationTokens:
    def __init__(self, tokens: Collection[RegistrationToken], now: Clock) -> None:
        self._tokens = tokens
        self._now = now

    async def create(
        self, token: str, *, uses_allowed: int | None = None, expires_ts: int | None = None
    ) -> RegistrationToken:
        """A new token. Raises 400 for one that can be none or is there already, or that has ended."""
        try:
            check_opaque_id(token)
        except InvalidIdentifier as error:
            raise invalid_param(f"token: {error}") from error
        if len(token) > MAX_LENGTH:
            raise invalid_param(f"A registration token may have {MAX_LENGTH} characters at most")
        self._check(uses_allowed, expires_ts)
        record = RegistrationToken(
            token=token, created_ts=self._now(), uses_allowed=uses_allowed, expires_ts=expires_ts
        )
        try:
            await self._tokens.insert(record)
        except AlreadyExists as error:
            raise invalid_param("There is such a token already") from error
        return record

    async def new_token(self, length: int = DEFAULT_LENGTH) -> str:
        """A random token that is not there yet. Raises 400 for a length that no token has."""
        if not 1 <= length <= MAX_LENGTH:
            raise invalid_param(f"length: 1 to {MAX_LENGTH}")
        for _ in range(ATTEMPTS):
            token = "".join(secrets.choice(CHARACTERS) for _ in range(length))
            if await self._tokens.get(token) is None:
                return token
        raise invalid_param("length: hardly any tokens as short as this are left")

    async def all(self) -> list[RegistrationToken]:
        """Every token, valid or not, in the order of their names."""
        found = page = await self._tokens.find("key", limit=PAGE)
        while len(page) == PAGE:
            page = await self._tokens.find("key", after=page[-1].token, limit=PAGE)
            found += page
        return found

    async def get(self, token: str) -> RegistrationToken:
        """Raises 404 when there is no such token."""
        record = await self._tokens.get(token) if len(token) <= MAX_LENGTH else None
        if record is None:
            raise not_found("There is no such registration token")
        return record

    async def change(self, token: str, **changes: int | None) -> RegistrationToken:
        """Set `uses_allowed` or `expires_ts`. Raises 404, and 400 for what they cannot be."""
        self._check(changes.get("uses_allowed"), changes.get("expires_ts"))
        while True:
            record = await self.get(token)
            changed = msgspec.structs.replace(record, **changes)
            if await self._tokens.replace_if(record, changed):
                return changed

    async def delete(self, token: str) -> None:
        """Nobody registers with it any more. Raises 404 when there is no such token."""
        if not await self._tokens.delete(token):
            raise not_found("There is no such registration token")

    async def is_valid(self, token: str) -> bool:
        """Whether somebody could register with it now."""
        record = await self._tokens.get(token) if len(token) <= MAX_LENGTH else None
        return record is not None and self.is_good(record)

    async def use(self, token: str) -> bool:
        """Take one of its uses; False when none is left."""
        while (record := await self._tokens.get(token)) is not None and self.is_good(record):
            if await self._tokens.replace_if(record, msgspec.structs.replace(record, used=record.used + 1)):
                return True
        return False

    async def give_back(self, token: str) -> None:
        """What it was used for did not happen."""
        while (record := await self._tokens.get(token)) is not None:
            if await self._tokens.replace_if(record, msgspec.structs.replace(record, used=record.used - 1)):
                return

    def is_good(self, record: RegistrationToken) -> bool:
        """Whether it has a use left, and its time has not come."""
        unexpired = record.expires_ts is None or record.expires_ts > self._now()
        return unexpired and (record.uses_allowed is None or record.used < record.uses_allowed)

    def _check(self, uses_allowed: int | None, expires_ts: int | None) -> None:
        if uses_allowed is not None and not 0 <= uses_allowed <= MAX_NUMBER:
            raise invalid_param("A registration token may be used 0 times or more")
        if expires_ts is not None and not self._now() <= expires_ts <= MAX_NUMBER:
            raise invalid_param("A registration token cannot end in the past")
