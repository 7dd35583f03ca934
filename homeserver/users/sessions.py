"""Sessions: access tokens, refresh tokens, and the devices that they belong to.

Tokens are random and stored as digests. The sessions in use are cached. Whatever ends a session or
changes an account says so in the user's log (`tell_changed`), which all replicas follow: each drops
what it has cached of that user, so that the next request reads what is true now.

spec: client-server "Client Authentication", "Refreshing access tokens", "Soft logout"
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec
import orjson

from homeserver.clock import Clock
from homeserver.errors import MatrixError, forbidden, invalid_param
from homeserver.users.accounts import Accounts, check_unlocked, password_changed
from homeserver.users.last_seen import LastSeen
from homeserver.users.tokens import digest_of, new_device_id, new_token
from storage.collection import Collection
from storage.errors import StoreError
from storage.log import Entry, Kind
from storage.records.accounts import AccessToken, Account, Device, RefreshToken

CACHED_SESSIONS = 50_000
CACHED_FOR_MS = 10 * 60_000
"""A net beneath `tell_changed`: after a crash at the wrong moment a replica may not have been told."""
SEEN_EVERY_MS = 60_000
MAX_DEVICES = 500
MAX_DEVICE_ID_BYTES = 255
MAX_NAME = 100
MAX_ACCESS_TOKENS = 5
"""Of one device at a time; several live while a refresh is under way."""

SESSIONS_CHANGED = "sessions_changed"
"""Notice type in a user's log: sessions of the user ended, or the account changed."""

Confirm = Callable[[], Awaitable[None]]
"""Raises MatrixError unless it still is as it was when somebody proved who they are."""
OnDevice = Callable[[str, str], Awaitable[None]]
"""Called with a user id and a device id."""
AppendNotice = Callable[[str, Sequence[Entry]], Awaitable[int]]
"""Appends to the user's log (`Users.append`)."""


class Session(msgspec.Struct):
    """Who asks: one device of one user."""

    user_id: str
    device_id: str
    account: Account
    digest: str
    expires_ts: int | None
    check_ts: int
    """From when on the cached session is not to be trusted: it expires, or should be read again."""
    unseen_from: int = 0
    """When to note again that the device is here."""


class NewSession(NamedTuple):
    access_token: str
    device_id: str
    expires_in_ms: int | None
    refresh_token: str | None


class Sessions:
    """All sessions of this server's users."""

    def __init__(
        self,
        accounts: Accounts,
        devices: Collection[Device],
        access_tokens: Collection[AccessToken],
        refresh_tokens: Collection[RefreshToken],
        last_seen: LastSeen,
        append_notice: AppendNotice,
        *,
        shared: bool,
        now: Clock,
        access_lifetime_ms: int,
        refresh_lifetime_ms: int | None,
    ) -> None:
        self._accounts = accounts
        self._devices = devices
        self._access = access_tokens
        self._refresh = refresh_tokens
        self._last_seen = last_seen
        self._append_notice = append_notice
        self._shared = shared
        """Whether sessions are ended at other replicas, too."""
        self._now = now
        self._access_lifetime_ms = int(access_lifetime_ms)
        self._refresh_lifetime_ms = refresh_lifetime_ms
        self._cache: OrderedDict[str, Session] = OrderedDict()
        self._of_user: dict[str, set[str]] = {}
        self._changes = 0
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """User → who deletes devices, one after the other."""
        self._password_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        accounts.on_change.append(self.tell_changed)
        self.on_device_added: list[OnDevice] = []
        self.on_device_gone: list[OnDevice] = []
        """Called after a device's tokens have ended and before it is deleted itself, for what goes with it
        (keys, messages, pushers). May be called for a device of which some of that is gone already."""
        self.check_device_id: list[OnDevice] = []
        """Called before a device is made; raises 403 when its id may not be used."""

    # Being authenticated

    async def authenticate(self, token: str) -> Session:
        """The session of an access token. Raises 401 M_UNKNOWN_TOKEN, a soft logout when it only expired."""
        digest = digest_of(token)
        session = self._cache.get(digest)
        if session is None or session.check_ts <= self._now():
            session = await self._load(digest)
        return session

    async def confirm(self, session: Session) -> Session:
        """The session as it is now. Raises 401 M_UNKNOWN_TOKEN when it has ended meanwhile."""
        if self._cache.get(session.digest) is session:
            return session
        return await self._load(session.digest)

    async def _load(self, digest: str) -> Session:
        changes = self._changes
        record = await self._access.get(digest)
        account = await self._accounts.get(record.user_id) if record is not None else None
        if record is None or account is None or account.deactivated:
            raise unknown_token("Unknown access token", soft_logout=False)
        now = self._now()
        if record.expires_ts is not None and record.expires_ts <= now:
            raise unknown_token("The access token has expired", soft_logout=True)
        if record.replaces is not None:
            # The client has the new tokens: the old refresh token has done its duty.
            await self._refresh.delete(record.replaces)
            await self._access.replace_if(record, msgspec.structs.replace(record, replaces=None))
        check_ts = min(now + CACHED_FOR_MS, record.expires_ts or now + CACHED_FOR_MS)
        session = Session(record.user_id, record.device_id, account, digest, record.expires_ts, check_ts)
        # Who may not do everything is looked up each time: another replica may let them again.
        if changes == self._changes and not (account.locked or account.suspended):
            self._cache_session(session)
        return session

    def _cache_session(self, session: Session) -> None:
        self._cache[session.digest] = session
        self._of_user.setdefault(session.user_id, set()).add(session.digest)
        if len(self._cache) > CACHED_SESSIONS:
            self._uncache(next(iter(self._cache.values())))

    def _uncache(self, session: Session) -> None:
        del self._cache[session.digest]
        digests = self._of_user[session.user_id]
        digests.discard(session.digest)
        if not digests:
            del self._of_user[session.user_id]

    async def tell_changed(self, user_id: str, going: Sequence[Device] = ()) -> None:
        """Let all replicas read the user's sessions and account anew, and have devices deleted that go."""
        body = orjson.dumps([(d.device_id, d.created_ts, d.logins) for d in going]) if going else b""
        notice = Entry(
            kind=Kind.NOTICE, stream=user_id, type=SESSIONS_CHANGED, key="", body=body, ts=self._now()
        )
        await self._append_notice(user_id, [notice])

    def on_user_entry(self, entry: Entry) -> None:
        """Follows the users' logs."""
        if entry.kind is not Kind.NOTICE or entry.type != SESSIONS_CHANGED:
            return
        # A look-up that began before must not be cached: what it read may be from before the change.
        self._changes += 1
        for digest in list(self._of_user.get(entry.stream, ())):
            session = self._cache[digest]
            self._uncache(session)
            self._last_seen.drop(session.user_id, session.device_id)

    def unseen(self, session: Session) -> bool:
        """Whether it is time to note that the session's device is here; not once the session has ended."""
        return session.unseen_from <= self._now() and self._cache.get(session.digest) is session

    def seen(self, session: Session, address: str, user_agent: str | None) -> None:
        now = self._now()
        session.unseen_from = now + SEEN_EVERY_MS
        self._last_seen.note(session.user_id, session.device_id, now, address, user_agent or "")

    # Beginning

    async def open(
        self,
        user_id: str,
        *,
        device_id: str | None,
        display_name: str | None,
        with_refresh_token: bool,
        confirm: Confirm | None = None,
    ) -> NewSession:
        """Log in: a new device, or a new token for one that is there (its old tokens end).

        `confirm` is asked once the session is there. Raises what that raises, 400 for a device id that is
        none, 403 for one too many devices, for an id that may not be, or when it was deleted meanwhile.
        """
        if device_id is None:
            device_id = new_device_id()
        else:
            check_device_id(device_id)
        login, is_new = await self._log_in(user_id, device_id, display_name)
        try:
            if is_new:
                for on_device_added in self.on_device_added:
                    await on_device_added(user_id, device_id)
            session = await self._issue(user_id, device_id, login, with_refresh_token=with_refresh_token)
            device = await self._devices.get(user_id, device_id)
            if device is None:
                # Tokens without a device would be in nobody's list, and no logout would end them.
                raise forbidden("The device was deleted while it logged in")
            if device.logins != login:
                # Another login was later, and did not find these tokens yet.
                await self._withdraw(session)
            if confirm is not None:
                await confirm()
        except (MatrixError, StoreError) as error:
            refused = isinstance(error, MatrixError) and error.status < 500
            # Nobody gets to know the tokens. Who has been here before can try again with the keys of then.
            with suppress(MatrixError, StoreError):
                if is_new or refused:
                    await self.end_device(user_id, device_id)
                else:
                    await self._end_tokens(user_id, device_id)
            raise
        return session

    async def _log_in(self, user_id: str, device_id: str, display_name: str | None) -> tuple[int, bool]:
        """Make the device, or end the logins to it; the number of the new one, and whether it is the first.

        Raises as `open` does.
        """
        while True:
            device = await self._devices.get(user_id, device_id)
            if device is not None:
                again = msgspec.structs.replace(device, logins=device.logins + 1)
                if not await self._devices.replace_if(device, again):
                    continue
                if await self._end_tokens(user_id, device_id, before=again.logins):
                    await self.tell_changed(user_id)
                return again.logins, False
            for check in self.check_device_id:
                await check(user_id, device_id)
            if await self._devices.count("key", (user_id,)) >= MAX_DEVICES:
                raise MatrixError(403, "M_FORBIDDEN", f"An account may have {MAX_DEVICES} devices at most")
            new = Device(
                user_id=user_id,
                device_id=device_id,
                display_name=display_name[:MAX_NAME] if display_name else None,
                created_ts=self._now(),
            )
            if await self._devices.replace_if(None, new):
                return new.logins, True

    async def _issue(
        self,
        user_id: str,
        device_id: str,
        login: int,
        *,
        with_refresh_token: bool,
        replaces: str | None = None,
    ) -> NewSession:
        now = self._now()
        access = new_token()
        refresh: str | None = None
        lifetime: int | None = None
        if with_refresh_token:
            refresh = new_token()
            lifetime = self._access_lifetime_ms
            await self._refresh.insert(
                RefreshToken(
                    digest=digest_of(refresh),
                    user_id=user_id,
                    device_id=device_id,
                    created_ts=now,
                    login=login,
                )
            )
        await self._access.insert(
            AccessToken(
                digest=digest_of(access),
                user_id=user_id,
                device_id=device_id,
                created_ts=now,
                login=login,
                expires_ts=now + lifetime if lifetime is not None else None,
                replaces=replaces,
            )
        )
        return NewSession(access, device_id, lifetime, refresh)

    # Going on

    async def refresh(self, token: str) -> NewSession:
        """New tokens for a refresh token.

        The old refresh token stays good until one of the new tokens is used, so that an answer lost on
        the way costs no session. Old access tokens are left to expire: other requests may be under way.

        Raises 401 M_UNKNOWN_TOKEN or M_USER_LOCKED.
        """
        digest = digest_of(token)
        while True:
            record = await self._refresh.get(digest)
            account = await self._accounts.get(record.user_id) if record is not None else None
            if record is None or account is None or account.deactivated:
                raise unknown_token("Unknown refresh token", soft_logout=False)
            check_unlocked(account)
            if (
                self._refresh_lifetime_ms is not None
                and record.created_ts + self._refresh_lifetime_ms <= self._now()
            ):
                raise unknown_token("The refresh token has expired", soft_logout=True)
            user_id, device_id = record.user_id, record.device_id
            await self._end_predecessors(record)
            session = await self._issue(
                user_id, device_id, record.login, with_refresh_token=True, replaces=digest
            )
            assert session.refresh_token is not None
            next_digest = digest_of(session.refresh_token)
            if await self._refresh.replace_if(
                record, msgspec.structs.replace(record, next_digest=next_digest)
            ):
                if record.next_digest is not None:
                    await self._refresh.delete(record.next_digest)
                await self._drop_old_access_tokens(user_id, device_id)
                return session
            # Used twice at the same moment: the tokens just made are nobody's.
            await self._withdraw(session)

    async def _withdraw(self, session: NewSession) -> None:
        if session.refresh_token is not None:
            await self._refresh.delete(digest_of(session.refresh_token))
        await self._access.delete(digest_of(session.access_token))

    async def _end_predecessors(self, record: RefreshToken) -> None:
        for old in await self._refresh.find("by_device", (record.user_id, record.device_id)):
            if old.next_digest == record.digest:
                await self._refresh.delete(old.digest)

    async def _drop_old_access_tokens(self, user_id: str, device_id: str) -> None:
        tokens = await self._access.find("by_device", (user_id, device_id))
        tokens.sort(key=lambda access: access.created_ts)
        now = self._now()
        for access in tokens[:-MAX_ACCESS_TOKENS]:
            await self._access.delete(access.digest)
        for access in tokens[-MAX_ACCESS_TOKENS:]:
            if access.expires_ts is not None and access.expires_ts <= now:
                await self._access.delete(access.digest)

    # Ending

    async def end_device(self, user_id: str, *device_ids: str) -> None:
        """Log devices out and delete them with all that is their own; nothing for one that is not there."""
        async with self._turn(user_id):
            going = await self._devices.get_many([(user_id, device_id) for device_id in device_ids])
            for device_id in device_ids:
                await self._end_tokens(user_id, device_id)
            await self.tell_changed(user_id, going)
            for device_id in device_ids:
                await self._delete(user_id, device_id)

    def _turn(self, user_id: str) -> asyncio.Lock:
        """Spares doing the same twice; nothing rests upon it."""
        return self._turns.setdefault(user_id, asyncio.Lock())

    async def _delete(self, user_id: str, device_id: str) -> None:
        for on_device_gone in self.on_device_gone:
            await on_device_gone(user_id, device_id)
        await self._last_seen.forget(user_id, device_id)
        # The device goes last: until then it is still listed, and can be deleted again.
        await self._devices.delete(user_id, device_id)
        # Whoever logged in meanwhile has still seen the device.
        if await self._end_tokens(user_id, device_id):
            await self.tell_changed(user_id)

    def wants(self, entry: Entry) -> bool:
        return entry.kind is Kind.NOTICE and entry.type == SESSIONS_CHANGED and bool(entry.body)

    async def handle(self, shard: int, entry: Entry) -> None:
        """Delete the devices that the log says are going, where whoever logged them out was cut short."""
        user_id = entry.stream
        async with self._turn(user_id):
            for device_id, created_ts, logins in orjson.loads(entry.body):
                device = await self._devices.get(user_id, device_id)
                # Somebody may use the id again.
                if device is not None and (device.created_ts, device.logins) == (created_ts, logins):
                    await self._delete(user_id, device_id)

    async def forget_if_ended(self, session: Session) -> None:
        """After something was made that goes with the session's device: forget it if that was logged out.

        Whoever did that while it was being made did not find it.
        """
        of_device = (session.user_id, session.device_id)
        if not self._shared and self._cache.get(session.digest) is session:
            return
        if await self._access.get(session.digest) is not None:
            return
        # The tokens go first of a device, so one that has any was not logged out, or has been used again.
        if await self._access.find("by_device", of_device, limit=1):
            return
        for on_device_gone in self.on_device_gone:
            await on_device_gone(*of_device)

    async def end_all(self, user_id: str, *, but_device: str | None = None) -> None:
        """Log all devices out (but one) and delete them, and those that logged in meanwhile.

        A login token lets in for as long as the device that got it is there; nobody is let in by one then.
        """
        while going := await self._all_but(user_id, but_device):
            await self.end_device(user_id, *going)

    async def _all_but(self, user_id: str, device_id: str | None) -> list[str]:
        devices = await self._devices.find("key", (user_id,))
        return [device.device_id for device in devices if device.device_id != device_id]

    async def change_password(self, session: Session, password: str, *, end_others: bool) -> None:
        """Set a new password; with `end_others` log all devices out but the session's own.

        They go first: whoever is cut short half-way can begin anew with the old password, and is rid of those
        who came in by it in any case. Raises 401 when somebody was faster, who ended this session, and 403.
        """
        proved = (await self.confirm(session)).account
        # First, as it may be refused where many log in.
        hashed = await self._accounts.hashed(password)
        # In turn: of two, the one that will be refused logs nobody out.
        async with self._password_turns.setdefault(session.user_id, asyncio.Lock()):
            session = await self.confirm(session)
            if session.account.password != proved.password:
                raise password_changed()
            if end_others:
                await self.end_all(session.user_id, but_device=session.device_id)
            await self._accounts.change_password(proved, hashed)
            if end_others:
                # Somebody may have logged in meanwhile.
                await self.end_all(session.user_id, but_device=session.device_id)

    async def _end_tokens(self, user_id: str, device_id: str, *, before: int | None = None) -> int:
        """End those of a device, or of its logins before one; how many there were."""
        of_device, ended = (user_id, device_id), 0
        for tokens in (self._refresh, self._access):
            if before is None:
                ended += await tokens.delete_where("by_device", of_device)
                continue
            for token in await tokens.find("by_device", of_device):
                if token.login < before:
                    ended += await tokens.delete(token.digest)
        return ended


def check_device_id(device_id: str) -> None:
    """Raises 400 for a device id that is none."""
    if not 1 <= len(device_id.encode("utf-8", "surrogatepass")) <= MAX_DEVICE_ID_BYTES:
        raise invalid_param(f"device_id: 1 to {MAX_DEVICE_ID_BYTES} bytes")


def unknown_token(error: str, *, soft_logout: bool) -> MatrixError:
    return MatrixError(401, "M_UNKNOWN_TOKEN", error, soft_logout=soft_logout)
