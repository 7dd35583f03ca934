"""Accounts: who exists here, and how they prove it (spec: client-server "Legacy API")."""

import msgspec

from homeserver.errors import MatrixError, invalid_param
from homeserver.protocol.identifiers import InvalidIdentifier, check_new_localpart, check_user_id
from homeserver.users.passwords import Passwords
from storage.collection import Collection
from storage.errors import AlreadyExists
from storage.records.accounts import Account

MAX_PASSWORD = 512


class Accounts:
    """The accounts of this server."""

    def __init__(self, accounts: Collection[Account], passwords: Passwords, *, server_name: str) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self.server_name = server_name

    async def get(self, user_id: str) -> Account | None:
        return await self._accounts.get(user_id)

    def user_id(self, localpart: str) -> str:
        return f"@{localpart}:{self.server_name}"

    def full_user_id(self, user: str) -> str:
        """A user id from what a person types at login: the id itself or its localpart."""
        return user if user.startswith("@") else self.user_id(user.lower() if user.isascii() else user)

    def check_localpart(self, localpart: str) -> str:
        """The user id of a new account. Raises 400 M_INVALID_USERNAME."""
        try:
            return check_user_id(self.user_id(check_new_localpart(localpart)))
        except InvalidIdentifier as error:
            raise MatrixError(400, "M_INVALID_USERNAME", str(error)) from error

    async def available(self, localpart: str) -> str:
        """The user id, free to register. Raises 400 M_INVALID_USERNAME or M_USER_IN_USE."""
        user_id = self.check_localpart(localpart)
        if await self._accounts.get(user_id) is not None:
            raise user_in_use()
        return user_id

    async def create(
        self,
        user_id: str,
        password: str | None,
        *,
        now: int,
        is_admin: bool = False,
        is_guest: bool = False,
        appservice: str | None = None,
    ) -> Account:
        """Raises 400 M_USER_IN_USE, M_INVALID_PARAM for an over-long password."""
        hashed = None
        if password is not None:
            check_password(password)
            hashed = await self._passwords.hash(password)
        account = Account(
            user_id=user_id,
            created_ts=now,
            password=hashed,
            is_admin=is_admin,
            is_guest=is_guest,
            appservice=appservice,
        )
        try:
            await self._accounts.insert(account)
        except AlreadyExists as error:
            raise user_in_use() from error
        return account

    async def password_matches(self, user_id: str, password: str) -> bool:
        """Takes equally long whether or not the account is there."""
        account = await self._accounts.get(user_id)
        stored = account.password if account is not None and not account.deactivated else None
        return await self._passwords.verify(stored, password[:MAX_PASSWORD])

    async def set_password(self, user_id: str, password: str) -> None:
        check_password(password)
        hashed = await self._passwords.hash(password)
        await self.update(user_id, password=hashed)

    async def update(self, user_id: str, **changes: object) -> Account:
        """Change fields of an account by compare-and-set. Raises KeyError for an unknown one."""
        while True:
            account = await self._accounts.get(user_id)
            if account is None:
                raise KeyError(user_id)
            changed = msgspec.structs.replace(account, **changes)
            if await self._accounts.replace_if(account, changed):
                return changed


def check_password(password: str) -> None:
    if not password:
        raise invalid_param("The password is empty")
    if len(password) > MAX_PASSWORD:
        raise invalid_param(f"A password may have {MAX_PASSWORD} characters at most")


def user_in_use() -> MatrixError:
    return MatrixError(400, "M_USER_IN_USE", "This user name is taken")
