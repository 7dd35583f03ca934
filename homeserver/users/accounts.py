"""Accounts: who exists here, and how they prove it (spec: client-server "Legacy API")."""

from collections.abc import Awaitable, Callable, Iterable

import msgspec

from homeserver.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_new_localpart, check_user_id
from homeserver.remembered import Remembered
from homeserver.users.passwords import Passwords
from storage.collection import Collection
from storage.log import Entry
from storage.records.accounts import Account

MAX_PASSWORD = 512
MAX_KNOWN_ERASED = 50_000

OnChange = Callable[[str], Awaitable[None]]
"""Called with a user id."""
IsReserved = Callable[[str], bool]
"""Whether a user id lies where only an application service may make accounts."""


class Accounts:
    """The accounts of this server."""

    def __init__(
        self,
        accounts: Collection[Account],
        passwords: Passwords,
        *,
        server_name: str,
        password_min_length: int = 1,
    ) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._password_min_length = password_min_length
        self.server_name = server_name
        self.reserved: list[IsReserved] = []
        self.on_change: list[OnChange] = []
        """Called after an account was changed."""
        self._erased: Remembered[str, bool] = Remembered(MAX_KNOWN_ERASED)

    async def get(self, user_id: str) -> Account | None:
        account = await self._accounts.get(user_id)
        return None if account is None or account.unfinished else account

    async def check_shown(self, user_id: str) -> str:
        """The id of a user whose profile others may see. Raises 404, 400 for what is no user id."""
        account = await self.get(check_user_id(user_id))
        if account is None or account.erased:
            raise not_found("There is no such user")
        return user_id

    async def has_ended(self, user_id: str) -> bool:
        account = await self.get(user_id)
        return account is not None and account.deactivated

    async def erased(self, user_ids: Iterable[str]) -> set[str]:
        """Those of the users who have gone and asked for all of theirs to be erased."""
        erased: set[str] = set()
        asked: list[str] = []
        for user_id in user_ids:
            known = self._erased.get(user_id)
            if known is None:
                asked.append(user_id)
            elif known:
                erased.add(user_id)
        if asked:
            with self._erased.looking_up(asked) as keep:
                found = await self._accounts.get_many([(user_id,) for user_id in asked])
                erased.update(account.user_id for account in found if account.erased)
                for user_id in asked:
                    keep(user_id, user_id in erased)
        return erased

    def on_user_entry(self, entry: Entry) -> None:
        """Follows the users' logs: whatever changes an account says so there."""
        self._erased.forget(entry.stream)

    def user_id(self, localpart: str) -> str:
        return f"@{localpart}:{self.server_name}"

    def is_local(self, user_id: str) -> bool:
        return user_id.endswith(":" + self.server_name)

    def full_user_id(self, user: str) -> str:
        """A user id from what a person types at login: the id itself or its localpart, in any case."""
        user = user.lower() if user.isascii() else user
        return user if user.startswith("@") else self.user_id(user)

    def check_localpart(self, localpart: str) -> str:
        """The user id of a new account, in lower case. Raises 400 M_INVALID_USERNAME or M_EXCLUSIVE."""
        user_id = self.new_user_id(localpart)
        if any(reserved(user_id) for reserved in self.reserved):
            raise MatrixError(400, "M_EXCLUSIVE", "This user name is reserved for an application service")
        return user_id

    def new_user_id(self, localpart: str) -> str:
        """The same, whoever may have it."""
        try:
            return check_user_id(self.user_id(check_new_localpart(localpart.lower())))
        except InvalidIdentifier as error:
            raise MatrixError(400, "M_INVALID_USERNAME", str(error)) from error

    async def available(self, localpart: str) -> str:
        """The user id, free to register. Raises 400 M_INVALID_USERNAME, M_EXCLUSIVE or M_USER_IN_USE."""
        user_id = self.check_localpart(localpart)
        if await self.get(user_id) is not None:
            raise user_in_use()
        return user_id

    async def begin(
        self,
        user_id: str,
        password: str | None,
        *,
        now: int,
        is_admin: bool = False,
        is_guest: bool = False,
        appservice: str | None = None,
        agreed_to: dict[str, str] | None = None,
    ) -> tuple[Account, bool]:
        """An account that is there for others once it is finished; whether an attempt at it was cut short.

        Raises 400 M_USER_IN_USE, M_INVALID_PARAM for a password that can be none.
        """
        account = Account(
            user_id=user_id,
            created_ts=now,
            password=await self.hashed(password) if password is not None else None,
            is_admin=is_admin,
            is_guest=is_guest,
            appservice=appservice,
            agreed_to=agreed_to or {},
            unfinished=True,
        )
        before = await self._accounts.get(user_id)
        if before is not None and not before.unfinished:
            raise user_in_use()
        if not await self._accounts.replace_if(before, account):
            raise user_in_use()
        return account, before is not None

    async def finish(self, begun: Account) -> None:
        """Raises 400 M_USER_IN_USE when somebody else began with the same name meanwhile."""
        if not await self._accounts.replace_if(begun, msgspec.structs.replace(begun, unfinished=False)):
            raise user_in_use()

    def check_new_password(self, password: str) -> None:
        """Raises 400: M_WEAK_PASSWORD for one shorter than they have to be here, M_INVALID_PARAM for none."""
        if len(password) < self._password_min_length:
            raise MatrixError(
                400, "M_WEAK_PASSWORD", f"A password has at least {self._password_min_length} characters"
            )
        _check_password(password)

    async def by_password(self, user_id: str, password: str) -> Account | None:
        """The account if this is its password, as it was when that was found.

        Takes equally long whether or not there is such an account, and whatever its state.
        """
        account = await self.get(user_id)
        stored = account.password if account is not None else None
        matches = await self._passwords.verify(stored, password[:MAX_PASSWORD])
        return account if matches and len(password) <= MAX_PASSWORD else None

    async def change_password(self, proved: Account, hashed: str) -> None:
        """Set a new password in the place of the one that was proved. Raises 403 when that is it no more."""

        def change(account: Account | None) -> Account:
            if account is None or account.password != proved.password:
                raise password_changed()
            return msgspec.structs.replace(account, password=hashed)

        await self._change(proved.user_id, change)

    async def set_password(self, user_id: str, password: str, **changes: object) -> Account:
        """Set the password, and other fields with it. Raises 400 M_INVALID_PARAM for what is no password."""
        return await self.update(user_id, password=await self.hashed(password), **changes)

    async def hashed(self, password: str) -> str:
        """What is kept of a password. Raises 400 M_INVALID_PARAM for what is none, 503."""
        _check_password(password)
        return await self._passwords.hash(password)

    async def update(self, user_id: str, **changes: object) -> Account:
        """Change fields of an account. Raises KeyError for an unknown one."""

        def change(account: Account | None) -> Account:
            if account is None:
                raise KeyError(user_id)
            return msgspec.structs.replace(account, **changes)

        return await self._change(user_id, change)

    async def _change(self, user_id: str, change: Callable[[Account | None], Account]) -> Account:
        """Put what `change` makes of an account in its place by compare-and-set. Raises what that raises."""
        while True:
            account = await self.get(user_id)
            changed = change(account)
            if await self._accounts.replace_if(account, changed):
                break
        for on_change in self.on_change:
            await on_change(user_id)
        return changed


def _check_password(password: str) -> None:
    """Raises 400 M_INVALID_PARAM for what is no password."""
    if not 1 <= len(password) <= MAX_PASSWORD:
        raise invalid_param(f"A password has 1 to {MAX_PASSWORD} characters")


def check_admin(account: Account) -> None:
    """Raises 403 M_FORBIDDEN for all but the server's administrators."""
    if not account.is_admin:
        raise forbidden("Only server administrators may do this")


def check_unlocked(account: Account) -> None:
    """Raises 401 M_USER_LOCKED (spec: client-server "Account locking")."""
    if account.locked:
        raise MatrixError(401, "M_USER_LOCKED", "This account has been locked", soft_logout=True)


def check_not_suspended(account: Account) -> None:
    """Raises 403 M_USER_SUSPENDED (spec: client-server "Account suspension")."""
    if account.suspended:
        raise suspended()


def suspended() -> MatrixError:
    return MatrixError(403, "M_USER_SUSPENDED", "You cannot do this while your account is suspended")


def password_changed() -> MatrixError:
    return forbidden("The password was changed meanwhile")


def user_in_use() -> MatrixError:
    return MatrixError(400, "M_USER_IN_USE", "This user name is taken")
