"""OpenID tokens: by one of them another service learns who a user is (spec: client-server "OpenID")."""

from homeserver.clock import Clock
from homeserver.users.accounts import Accounts
from homeserver.users.tokens import digest_of, keep_until_expiry, new_token
from storage.collection import Collection
from storage.records.accounts import OpenIdToken

LIFETIME_MS = 60 * 60_000


class OpenId:
    def __init__(self, tokens: Collection[OpenIdToken], accounts: Accounts, now: Clock) -> None:
        self._tokens = tokens
        self._accounts = accounts
        self._now = now

    async def issue(self, user_id: str) -> str:
        """A token that is good for LIFETIME_MS, and for nothing else."""
        token, now = new_token(), self._now()
        record = OpenIdToken(digest=digest_of(token), user_id=user_id, expires_ts=now + LIFETIME_MS)
        await keep_until_expiry(self._tokens, record, now)
        return token

    async def user_of(self, token: str) -> str | None:
        """Whose token it is; None when it is unknown or expired, or the account has ended.

        spec: server-server "OpenID"
        """
        record = await self._tokens.get(digest_of(token))
        if record is None or record.expires_ts <= self._now():
            return None
        account = await self._accounts.get(record.user_id)
        return None if account is None or account.deactivated else record.user_id
