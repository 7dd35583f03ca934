"""Sessions: access tokens, refresh tokens, and the devices that they belong to.

Tokens are random and stored as SHA-256 digests. The sessions in use are cached; whatever ends one
(logout, deactivation, password change) goes through here, so the cache never outlives it.

spec: client-server "Client Authentication", "Refreshing access tokens", "Soft logout"
"""

import hashlib
import secrets
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from homeserver.clock import Clock
from homeserver.errors import MatrixError
from homeserver.users.accounts import Accounts
from storage.collection import Collection
from storage.records.accounts import AccessToken, Account, Device, RefreshToken

CACHED_SESSIONS = 50_000
SEEN_EVERY_MS = 60_000
MAX_DEVICES = 500
MAX_NAME = 100


class Session(msgspec.Struct):
    """Who asks: one device of one user."""

    user_id: str
    device_id: str
    account: Account
    digest: str
    expires_ts: int | None
    seen_ts: int = 0
    """When the device's last-seen was written."""


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
        *,
        now: Clock,
        access_lifetime_ms: int,
    ) -> None:
        self._accounts = accounts
        self.devices = devices
        self._access = access_tokens
        self._refresh = refresh_tokens
        self._now = now
        self._access_lifetime_ms = access_lifetime_ms
        self._cache: OrderedDict[str, Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        """Tokens that ended lately: a look-up that began before must not bring one back."""

    async def authenticate(self, token: str) -> Session:
        """The session of an access token.

        Raises 401 M_UNKNOWN_TOKEN (soft logout when it only expired) or M_USER_LOCKED.
        """
        digest = digest_of(token)
        session = self._cache.get(digest)
        if session is None:
            session = await self._load(digest)
        if session.expires_ts is not None and session.expires_ts <= self._now():
            raise unknown_token("The access token has expired", soft_logout=True)
        return session

    async def _load(self, digest: str) -> Session:
        record = await self._access.get(digest)
        account = await self._accounts.get(record.user_id) if record is not None else None
        if record is None or account is None or account.deactivated or digest in self._ended:
            raise unknown_token("Unknown access token", soft_logout=False)
        session = Session(record.user_id, record.device_id, account, digest, record.expires_ts)
        self._cache[digest] = session
        if len(self._cache) > CACHED_SESSIONS:
            self._cache.popitem(last=False)
        return session

    async def seen(self, session: Session, ip: str | None, user_agent: str | None) -> None:
        """Note that the device was here, at most once a minute."""
        now = self._now()
        if now - session.seen_ts < SEEN_EVERY_MS:
            return
        session.seen_ts = now
        device = await self.devices.get(session.user_id, session.device_id)
        if device is not None:
            changed = msgspec.structs.replace(
                device,
                last_seen_ts=now,
                last_seen_ip=ip,
                last_seen_user_agent=user_agent[:200] if user_agent else None,
            )
            await self.devices.replace_if(device, changed)

    async def open(
        self,
        user_id: str,
        *,
        device_id: str | None,
        display_name: str | None,
        with_refresh_token: bool,
    ) -> NewSession:
        """Log in: a new device, or a new token for one that is there (its old tokens end)."""
        now = self._now()
        if device_id is None:
            device_id = new_device_id()
        elif not 1 <= len(device_id.encode()) <= 255:
            raise MatrixError(400, "M_INVALID_PARAM", "device_id: 1 to 255 bytes")
        device = await self.devices.get(user_id, device_id)
        if device is None:
            if await self.devices.count("key", (user_id,)) >= MAX_DEVICES:
                raise MatrixError(403, "M_FORBIDDEN", f"An account may have {MAX_DEVICES} devices at most")
            name = display_name[:MAX_NAME] if display_name is not None else None
            await self.devices.put(
                Device(user_id=user_id, device_id=device_id, display_name=name, created_ts=now)
            )
        else:
            await self._end_tokens(user_id, device_id)
        return await self._issue(user_id, device_id, with_refresh_token=with_refresh_token)

    async def _issue(self, user_id: str, device_id: str, *, with_refresh_token: bool) -> NewSession:
        now = self._now()
        access = new_token()
        refresh: str | None = None
        lifetime: int | None = None
        if with_refresh_token:
            refresh = new_token()
            lifetime = self._access_lifetime_ms
            await self._refresh.insert(
                RefreshToken(digest=digest_of(refresh), user_id=user_id, device_id=device_id, created_ts=now)
            )
        await self._access.insert(
            AccessToken(
                digest=digest_of(access),
                user_id=user_id,
                device_id=device_id,
                created_ts=now,
                expires_ts=now + lifetime if lifetime is not None else None,
                refresh_digest=digest_of(refresh) if refresh is not None else None,
            )
        )
        return NewSession(access, device_id, lifetime, refresh)

    async def refresh(self, token: str) -> NewSession:
        """New tokens for a refresh token. Raises 401 M_UNKNOWN_TOKEN.

        The old refresh token stays good until one of the new ones is used, so that an answer lost
        on the way costs no session (spec: "the old refresh token remains valid until …").
        """
        digest = digest_of(token)
        record = await self._refresh.get(digest)
        if record is None:
            raise unknown_token("Unknown refresh token", soft_logout=False)
        for old in await self._refresh.find("by_device", (record.user_id, record.device_id)):
            if old.next_digest == digest:
                await self._refresh.delete(old.digest)
        if record.next_digest is not None:
            await self._refresh.delete(record.next_digest)
        for access in await self._access.find("by_device", (record.user_id, record.device_id)):
            await self._forget(access.digest)
        session = await self._issue(record.user_id, record.device_id, with_refresh_token=True)
        assert session.refresh_token is not None
        changed = msgspec.structs.replace(record, next_digest=digest_of(session.refresh_token))
        await self._refresh.replace_if(record, changed)
        return session

    async def end_device(self, user_id: str, device_id: str) -> bool:
        """Log one device out and delete it. False if there was none."""
        await self._end_tokens(user_id, device_id)
        return await self.devices.delete(user_id, device_id)

    async def end_all(self, user_id: str, *, but_device: str | None = None) -> list[str]:
        """Log all devices out (but one); their ids."""
        ended = [d.device_id for d in await self.devices.find("key", (user_id,)) if d.device_id != but_device]
        for device_id in ended:
            await self.end_device(user_id, device_id)
        return ended

    def account_changed(self, account: Account) -> None:
        """Let cached sessions of an account see its new state; none when it is deactivated."""
        for digest, session in list(self._cache.items()):
            if session.user_id == account.user_id:
                if account.deactivated:
                    del self._cache[digest]
                else:
                    session.account = account

    async def _end_tokens(self, user_id: str, device_id: str) -> None:
        for access in await self._access.find("by_device", (user_id, device_id)):
            await self._forget(access.digest)
        await self._refresh.delete_where("by_device", (user_id, device_id))

    async def _forget(self, digest: str) -> None:
        self._ended[digest] = None
        if len(self._ended) > CACHED_SESSIONS:
            self._ended.popitem(last=False)
        self._cache.pop(digest, None)
        await self._access.delete(digest)


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    return "weft_" + secrets.token_urlsafe(32)


def new_device_id() -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(10))


def unknown_token(error: str, *, soft_logout: bool) -> MatrixError:
    return MatrixError(401, "M_UNKNOWN_TOKEN", error, soft_logout=soft_logout)
