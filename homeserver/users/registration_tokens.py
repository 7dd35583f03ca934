"""Registration tokens: who has one may register (spec: client-server "Token-authenticated registration")."""

import msgspec

from homeserver.clock import Clock
from homeserver.errors import invalid_param
from homeserver.protocol.identifiers import InvalidIdentifier, check_opaque_id
from storage.collection import Collection
from storage.errors import AlreadyExists
from storage.records.accounts import RegistrationToken

MAX_LENGTH = 64


class RegistrationTokens:
    def __init__(self, tokens: Collection[RegistrationToken], now: Clock) -> None:
        self._tokens = tokens
        self._now = now

    async def create(
        self, token: str, *, uses_allowed: int | None = None, expires_ts: int | None = None
    ) -> RegistrationToken:
        """A new token. Raises 400 for one that can be none or is there already."""
        try:
            check_opaque_id(token)
        except InvalidIdentifier as error:
            raise invalid_param(f"token: {error}") from error
        if len(token) > MAX_LENGTH:
            raise invalid_param(f"A registration token may have {MAX_LENGTH} characters at most")
        record = RegistrationToken(
            token=token, created_ts=self._now(), uses_allowed=uses_allowed, expires_ts=expires_ts
        )
        try:
            await self._tokens.insert(record)
        except AlreadyExists as error:
            raise invalid_param("There is such a token already") from error
        return record

    async def is_valid(self, token: str) -> bool:
        """Whether somebody could register with it now."""
        record = await self._tokens.get(token) if len(token) <= MAX_LENGTH else None
        return record is not None and self._is_good(record)

    async def use(self, token: str) -> bool:
        """Take one of its uses; False when none is left."""
        while (record := await self._tokens.get(token)) is not None and self._is_good(record):
            if await self._tokens.replace_if(record, msgspec.structs.replace(record, used=record.used + 1)):
                return True
        return False

    async def give_back(self, token: str) -> None:
        """What it was used for did not happen."""
        while (record := await self._tokens.get(token)) is not None:
            if await self._tokens.replace_if(record, msgspec.structs.replace(record, used=record.used - 1)):
                return

    def _is_good(self, record: RegistrationToken) -> bool:
        unexpired = record.expires_ts is None or record.expires_ts > self._now()
        return unexpired and (record.uses_allowed is None or record.used < record.uses_allowed)
