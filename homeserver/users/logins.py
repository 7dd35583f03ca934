"""How people prove who they are: passwords and login tokens (spec: client-server "Login").

Every way ends in `_let_in`: one place decides which accounts may log in.
"""

from typing import NamedTuple

from homeserver.clock import Clock
from homeserver.errors import MatrixError, forbidden, invalid_param, missing_param
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.users.accounts import Accounts, check_unlocked, password_changed
from homeserver.users.application_services import ApplicationService, ApplicationServices, exclusive
from homeserver.users.tokens import digest_of, keep_until_expiry, new_token
from storage.collection import Collection
from storage.records.accounts import Account, Device, LoginToken

LOGIN_TOKEN_LIFETIME_MS = 120_000


class Proved(NamedTuple):
    """Who may log in."""

    account: Account
    by_device: str | None = None
    """The device that got the login token which proves it."""


class Logins:
    def __init__(
        self,
        accounts: Accounts,
        tokens: Collection[LoginToken],
        devices: Collection[Device],
        services: ApplicationServices,
        limits: RateLimits,
        now: Clock,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._devices = devices
        self._services = services
        self._limits = limits
        self._now = now

    def identified_user(self, body: JsonObject) -> str:
        """The user id that a request names by `identifier`, or by the older `user`.

        Raises 403 for a third-party identifier, as none is known here; 400 for anything else.
        """
        identifier = body.get("identifier", body)
        if not isinstance(identifier, dict):
            raise invalid_param("identifier must be an object")
        kind: object = "m.id.user" if identifier is body else identifier.get("type")
        if kind in ("m.id.thirdparty", "m.id.phone") or "medium" in identifier:
            raise forbidden("Nobody here has this address or phone number")
        if kind != "m.id.user":
            raise invalid_param("This type of identifier is not known")
        user = identifier.get("user")
        if user is None:
            raise missing_param("Who logs in is missing: identifier.user")
        if not isinstance(user, str):
            raise invalid_param("user must be a string")
        return self._accounts.full_user_id(user)

    async def with_password(self, user_id: str, password: str) -> Proved:
        """One who knows the password of an account.

        Takes as long for an account that is not there. Raises 403 M_FORBIDDEN or M_USER_DEACTIVATED, 401
        M_USER_LOCKED, 429.
        """
        self._limits.charge("login_account", user_id)
        proved = await self.check_password(user_id, password)
        await self._let_in(user_id)
        return Proved(proved)

    async def with_service(self, service: ApplicationService, user_id: str) -> Proved:
        """One whom an application service logs in. Raises 400 M_EXCLUSIVE, 403, 401 M_USER_LOCKED."""
        if not self._services.may_be(service, user_id):
            raise exclusive()
        return Proved(await self._let_in(user_id))

    async def confirm(self, proved: Proved) -> None:
        """Raises 403 or 401 when the account may not log in any more as it did a moment ago.

        To be asked once the new session is there: who changes a password ends those that are there then.
        """
        account = await self._let_in(proved.account.user_id)
        if account.password != proved.account.password:
            raise password_changed()
        await self._check_device(proved)

    async def check_password(self, user_id: str, password: str) -> Account:
        """The account that the password is of.

        Raises 403 M_FORBIDDEN for a wrong password, M_USER_DEACTIVATED; 429 after too many wrong ones.
        """
        # Charged before it is known to be wrong: guesses side by side would all be tried otherwise.
        self._limits.charge("login_failed", user_id)
        proved = await self._accounts.by_password(user_id, password) if password else None
        if proved is None:
            account = await self._accounts.get(user_id)
            if account is not None and account.deactivated:
                raise deactivated()
            raise forbidden("Wrong user name or password")
        self._limits.refund("login_failed", user_id)
        return proved

    async def issue_token(self, user_id: str, device_id: str) -> str:
        """A token by which one other device can log in, for LOGIN_TOKEN_LIFETIME_MS, while this one is."""
        token, now = new_token(), self._now()
        record = LoginToken(
            digest=digest_of(token),
            user_id=user_id,
            device_id=device_id,
            expires_ts=now + LOGIN_TOKEN_LIFETIME_MS,
        )
        await keep_until_expiry(self._tokens, record, now)
        return token

    async def with_token(self, token: str) -> Proved:
        """One who has a login token. Raises like `with_password`."""
        digest = digest_of(token)
        record = await self._tokens.get(digest)
        # Whoever deletes it has used it.
        if record is None or record.expires_ts <= self._now() or not await self._tokens.delete(digest):
            raise forbidden("The login token is unknown, used or expired")
        proved = Proved(await self._let_in(record.user_id), by_device=record.device_id)
        await self._check_device(proved)
        return proved

    async def _check_device(self, proved: Proved) -> None:
        device_id = proved.by_device
        if device_id is not None and await self._devices.get(proved.account.user_id, device_id) is None:
            raise forbidden("The device that got the login token is logged out")

    async def _let_in(self, user_id: str) -> Account:
        account = await self._accounts.get(user_id)
        if account is None:
            raise forbidden("There is no such account any more")
        if account.deactivated:
            raise deactivated()
        check_unlocked(account)
        return account


def deactivated() -> MatrixError:
    return MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
