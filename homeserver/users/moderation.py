"""Locked and suspended accounts (spec: client-server "Account moderation", "Server Administration").

A locked account can do nothing but log out; a suspended one can read and look after itself, but not
act in rooms. Routes say which of them they let through (`client_api.http.Options`); here is what
administrators do.
"""

from typing import Literal

from homeserver.errors import forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import check_user_id
from homeserver.users.accounts import Accounts
from homeserver.users.sessions import Sessions
from storage.records.accounts import Account

Restriction = Literal["locked", "suspended"]


class Moderation:
    """What administrators may do to the accounts of others."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._accounts = accounts
        self._sessions = sessions

    async def is_restricted(self, admin: Account, user_id: str, restriction: Restriction) -> bool:
        """Raises 403 unless an administrator asks about somebody who is none; 400, 404 for other ids."""
        account = await self._subject(admin, user_id)
        return account.locked if restriction == "locked" else account.suspended

    async def restrict(self, admin: Account, user_id: str, restriction: Restriction, on: bool) -> None:
        """Lock or unlock, suspend or release. Raises like `is_restricted`."""
        account = await self._subject(admin, user_id)
        await self._accounts.update(account.user_id, **{restriction: on})
        await self._sessions.tell_changed(account.user_id)

    async def _subject(self, admin: Account, user_id: str) -> Account:
        # Who asks is checked before anything is looked up, or answers would tell who exists.
        if not admin.is_admin:
            raise forbidden("Only server administrators may do this")
        if user_id == admin.user_id:
            raise forbidden("You cannot do this to yourself")
        if not self._accounts.is_local(check_user_id(user_id)):
            raise invalid_param("The user does not belong to this server")
        account = await self._accounts.get(user_id)
        if account is None or account.deactivated:
            raise not_found("There is no such user")
        if account.is_admin:
            raise forbidden("The user is an administrator too")
        return account
