"""Accounts, their devices and the tokens by which they are reached."""

from storage.collection import CollectionSpec, Index, Record


class Account(Record, frozen=True):
    """One local user. `password` is an argon2id hash, None when there is no password to log in with."""

    user_id: str
    created_ts: int
    password: str | None = None
    is_admin: bool = False
    is_guest: bool = False
    deactivated: bool = False
    erased: bool = False
    locked: bool = False
    suspended: bool = False
    appservice: str | None = None


class Device(Record, frozen=True):
    """One session of a user. `last_seen_ts` is ms, written at most once a minute."""

    user_id: str
    device_id: str
    display_name: str | None = None
    created_ts: int = 0
    last_seen_ts: int | None = None
    last_seen_ip: str | None = None
    last_seen_user_agent: str | None = None


class AccessToken(Record, frozen=True):
    """`digest` is the hex SHA-256 of the token: a copy of the store logs nobody in."""

    digest: str
    user_id: str
    device_id: str
    created_ts: int
    expires_ts: int | None = None
    refresh_digest: str | None = None
    """The refresh token that was issued with it."""


class RefreshToken(Record, frozen=True):
    """Used once: `next_digest` is the one that replaced it (spec: client-server "Refreshing access tokens")."""

    digest: str
    user_id: str
    device_id: str
    created_ts: int
    next_digest: str | None = None


class LoginToken(Record, frozen=True):
    """A short-lived token for `m.login.token`, used once."""

    digest: str
    user_id: str
    expires_ts: int


ACCOUNTS = CollectionSpec("accounts", Account, ("user_id",))
DEVICES = CollectionSpec("devices", Device, ("user_id", "device_id"))
ACCESS_TOKENS = CollectionSpec(
    "access_tokens", AccessToken, ("digest",), (Index("by_device", ("user_id", "device_id")),)
)
REFRESH_TOKENS = CollectionSpec(
    "refresh_tokens", RefreshToken, ("digest",), (Index("by_device", ("user_id", "device_id")),)
)
LOGIN_TOKENS = CollectionSpec("login_tokens", LoginToken, ("digest",))

SPECS = (ACCOUNTS, DEVICES, ACCESS_TOKENS, REFRESH_TOKENS, LOGIN_TOKENS)
