"""Locking and suspending accounts (spec: client-server "Account moderation", "Server Administration").

A locked account can do nothing but log out; a suspended one can read and look after itself, but not
act in rooms. Routes say which of them they let through (`client_api.http.Options`); here is what
administrators do.
"""

from homeserver.errors import forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import check_user_id
from homeserver.users.accounts import Accounts, check_admin
from storage.records.accounts import Account


class Moderation:
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def known_to(self, admin: Account, user_id: str) -> Account:
        """An account that an administrator asks about.

        Who asks is checked before anything is looked up, or answers would tell who exists. Raises 403 for
        one who is no administrator, 400 for a user of another server, 404.
        """
        check_admin(admin)
        if not self._accounts.is_local(check_user_id(user_id)):
            raise invalid_param("The user does not belong to this server")
        account = await self._accounts.get(user_id)
        if account is None:
            raise not_found("There is no such user")
        return account

    async def subject(self, admin: Account, user_id: str) -> Account:
        """An account that may be moderated. Raises like `known_to`, and 403 for another administrator."""
        account = await self.known_to(admin, user_id)
        if account.is_admin:
            raise forbidden("Administrators cannot be moderated")
        if account.deactivated:
            raise not_found("There is no such user")
        return account

    async def restrict(self, subject: Account, **restrictions: bool) -> None:
        """Set `locked` or `suspended`."""
        await self._accounts.update(subject.user_id, **restrictions)
