"""Making accounts: open or by token, for guests, and by the shared secret.

spec: client-server "Account registration", "Guest Access"; the shared secret is `homeserver.shared_secret`.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

import orjson

from homeserver.clock import Clock
from homeserver.config.options import Registration as Options
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.identifiers import localpart_of
from homeserver.shared_secret import registration_mac
from homeserver.users.accounts import Accounts
from homeserver.users.application_services import ApplicationService, ApplicationServices, exclusive
from homeserver.users.profiles import Profiles, check_field
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.sessions import NewSession, Sessions
from homeserver.users.tokens import keep_until_expiry
from homeserver.users.uia import Flow
from homeserver.users.uia_stages import DUMMY, REGISTRATION_TOKEN, TERMS
from storage.collection import Collection
from storage.records.accounts import Account, RegistrationNonce

NONCE_LIFETIME_MS = 60_000
GUEST_DIGITS = 12
NEW_NAME_LETTERS = 10


Finish = Callable[[], Awaitable[object]]
"""Makes of an account that was begun one that is there. Raises MatrixError when it has become another's."""


class FirstDevice(NamedTuple):
    """Where somebody who registers is to be logged in."""

    device_id: str | None = None
    display_name: str | None = None
    with_refresh_token: bool = False


class Registered(NamedTuple):
    user_id: str
    session: NewSession | None


class Registration:
    """Accounts are begun, logged in to, and then finished: one that was cut short is nobody's.

    So whoever was told of an error can try again with the same name, and with the same token.
    """

    def __init__(
        self,
        options: Options,
        accounts: Accounts,
        sessions: Sessions,
        profiles: Profiles,
        tokens: RegistrationTokens,
        nonces: Collection[RegistrationNonce],
        services: ApplicationServices,
        now: Clock,
    ) -> None:
        self._options = options
        self._accounts = accounts
        self._sessions = sessions
        self._profiles = profiles
        self._tokens = tokens
        self._nonces = nonces
        self._services = services
        self._now = now
        stages = (REGISTRATION_TOKEN,) * options.requires_token + (TERMS,) * bool(options.terms)
        self.flows: tuple[Flow, ...] = (stages or (DUMMY,),)

    def check_open(self) -> None:
        """Raises 403 M_FORBIDDEN unless people can register by themselves."""
        if not self._options.enabled:
            raise forbidden("Registration is closed on this server")

    async def token_is_valid(self, token: str) -> bool:
        """Raises 403 M_FORBIDDEN when registration is closed."""
        self.check_open()
        return await self._tokens.is_valid(token)

    async def check_name(self, username: str, guest_access_token: str | None = None) -> str:
        """The user id for a name that is free, or is the guest's own whose token this is.

        Raises 400 M_INVALID_USERNAME, M_EXCLUSIVE or M_USER_IN_USE, 403 for another's token.
        """
        if guest_access_token is None:
            return await self._accounts.available(username)
        session = await self._sessions.authenticate(guest_access_token)
        user_id = self._accounts.check_localpart(username)
        if not session.account.is_guest or session.user_id != user_id:
            raise forbidden("This is not the access token of that guest")
        return user_id

    async def register(
        self,
        username: str | None,
        password: str,
        proofs: Mapping[str, str],
        device: FirstDevice | None,
        *,
        guest_access_token: str | None = None,
    ) -> Registered:
        """The new account of one who passed `flows` with these proofs. Raises as `check_name` does."""
        localpart = username if username is not None else new_localpart()
        user_id = await self.check_name(localpart, guest_access_token)
        agreed_to: dict[str, str] = orjson.loads(proofs[TERMS]) if TERMS in proofs else {}
        finish: Finish
        if guest_access_token is not None:
            finish = partial(
                self._accounts.set_password, user_id, password, is_guest=False, agreed_to=agreed_to
            )
        else:
            account = await self._begin(user_id, password, agreed_to=agreed_to)
            finish = partial(self._accounts.finish, account)
        return await self._complete(user_id, device, finish, token=proofs.get(REGISTRATION_TOKEN))

    async def _begin(
        self,
        user_id: str,
        password: str | None,
        displayname: str | None = None,
        *,
        is_admin: bool = False,
        appservice: str | None = None,
        agreed_to: dict[str, str] | None = None,
    ) -> Account:
        """An account that is nobody's yet, with a name that people can read, at first that of its user id."""
        account, again = await self._accounts.begin(
            user_id,
            password,
            now=self._now(),
            is_admin=is_admin,
            appservice=appservice,
            agreed_to=agreed_to,
        )
        if again:
            await self._sessions.end_all(user_id)
        await self._profiles.begin(user_id, displayname or localpart_of(user_id))
        return account

    async def _complete(
        self, user_id: str, device: FirstDevice | None, finish: Finish, *, token: str | None = None
    ) -> Registered:
        """Log in, take a use of the token, then let the account be there."""
        session: NewSession | None = None
        if device is not None:
            session = await self._sessions.open(
                user_id,
                device_id=device.device_id,
                display_name=device.display_name,
                with_refresh_token=device.with_refresh_token,
            )
        try:
            await self._finish(finish, token)
        except MatrixError:
            if session is not None:
                await self._sessions.end_device(user_id, session.device_id)
            raise
        return Registered(user_id, session)

    async def _finish(self, finish: Finish, token: str | None) -> None:
        # A crash before the account is there loses a use of the token, never makes two accounts of one.
        if token is not None and not await self._tokens.use(token):
            raise MatrixError(401, "M_UNAUTHORIZED", "The registration token has been used up")
        try:
            await finish()
        except MatrixError:
            if token is not None:
                await self._tokens.give_back(token)
            raise

    async def register_by_service(
        self, service: ApplicationService, username: str, device: FirstDevice | None
    ) -> Registered:
        """A user of an application service, who has no password. Raises 400 as `check_name` does."""
        user_id = self._accounts.new_user_id(username)
        of_another = self._services.is_reserved(user_id, but_for=service)
        if of_another or not self._services.may_be(service, user_id):
            raise exclusive()
        account = await self._begin(user_id, None, appservice=service.id)
        return await self._complete(user_id, device, partial(self._accounts.finish, account))

    async def register_guest(self, device: FirstDevice) -> Registered:
        """Raises 403 M_GUEST_ACCESS_FORBIDDEN where guests are not let in."""
        if not self._options.guests:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "This server has no guests")
        localpart = "".join(secrets.choice("0123456789") for _ in range(GUEST_DIGITS))
        user_id = await self._accounts.available(localpart)
        account, _ = await self._accounts.begin(user_id, None, now=self._now(), is_guest=True)
        return await self._complete(user_id, device, partial(self._accounts.finish, account))

    # By the shared secret

    async def new_nonce(self) -> str:
        """Something to prove the knowledge of the shared secret on, once. Raises 400 where there is none."""
        self._shared_secret()
        nonce, now = secrets.token_hex(64), self._now()
        record = RegistrationNonce(nonce=nonce, expires_ts=now + NONCE_LIFETIME_MS)
        await keep_until_expiry(self._nonces, record, now)
        return nonce

    async def register_by_secret(
        self,
        *,
        nonce: str,
        mac: str,
        username: str,
        password: str,
        admin: bool,
        user_type: str | None,
        displayname: str | None = None,
        device: FirstDevice | None = None,
    ) -> Registered:
        """Raises 400 for a nonce that is not good any more, 403 for a wrong proof, 400 for a name."""
        secret = self._shared_secret()
        record = await self._nonces.get(nonce)
        if record is None or record.expires_ts <= self._now() or not await self._nonces.delete(nonce):
            raise MatrixError(400, "M_UNKNOWN", "unrecognised nonce")
        wanted = registration_mac(
            secret, nonce=nonce, username=username, password=password, admin=admin, user_type=user_type
        )
        if not hmac.compare_digest(wanted.encode(), mac.encode()):
            raise forbidden("HMAC incorrect")
        user_id = await self._accounts.available(username)
        if displayname is not None:
            check_field("displayname", displayname)
        account = await self._begin(user_id, password, displayname, is_admin=admin)
        return await self._complete(user_id, device, partial(self._accounts.finish, account))

    def _shared_secret(self) -> str:
        if self._options.shared_secret is None:
            raise MatrixError(400, "M_UNKNOWN", "Shared secret registration is not enabled")
        return self._options.shared_secret


def new_localpart() -> str:
    """A name for one who did not choose any."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(NEW_NAME_LETTERS))
