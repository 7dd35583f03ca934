"""Accounts, their devices and the tokens by which they are reached.

Whatever grants access is kept as the hex SHA-256 of the secret: a copy of the store logs nobody in.
"""

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
    agreed_to: dict[str, str] = {}
    """Policies accepted at registration, by their id: the version that was shown."""
    unfinished: bool = False
    """Its registration is under way, or was cut short: nobody has it, and the name is free."""


class Device(Record, frozen=True):
    """One session of a user."""

    user_id: str
    device_id: str
    display_name: str | None = None
    created_ts: int = 0
    logins: int = 0
    """How often somebody has logged in to it since it was made: only the newest of these logins holds."""


class DeviceSeen(Record, frozen=True):
    """When and from where a device was last here. Apart from the device, because it changes all the time."""

    user_id: str
    device_id: str
    ts: int
    address: str = ""
    user_agent: str = ""


class DeviceReceived(Record, frozen=True):
    """Up to where in its user's log a device has its messages; in another epoch it was another log."""

    user_id: str
    device_id: str
    epoch: str
    upto: int


class AccessToken(Record, frozen=True):
    digest: str
    user_id: str
    device_id: str
    created_ts: int
    login: int = 0
    """Which login to the device it comes from."""
    expires_ts: int | None = None
    replaces: str | None = None
    """The refresh token that ends when this access token is first used."""


class RefreshToken(Record, frozen=True):
    """Used once; `next_digest` is the one that replaced it (spec: "Refreshing access tokens")."""

    digest: str
    user_id: str
    device_id: str
    created_ts: int
    login: int = 0
    next_digest: str | None = None


class Binding(Record, frozen=True):
    """Under which address a user was published at an identity server, by way of this one."""

    user_id: str
    id_server: str
    medium: str
    address: str


class Expiring(Record, frozen=True):
    """Base of what is good until a certain time, and may be deleted after it."""

    expires_ts: int


class LoginToken(Expiring, frozen=True):
    """For `m.login.token`, used once."""

    digest: str
    user_id: str
    device_id: str = ""
    """Where somebody is logged in who got it; it ends with that."""


class OpenIdToken(Expiring, frozen=True):
    """By which another service may learn who a user is (spec: client-server "OpenID")."""

    digest: str
    user_id: str


class RegistrationToken(Record, frozen=True):
    """Lets people register (spec: client-server "Token-authenticated registration").

    `uses_allowed` and `expires_ts` None: without limit. Kept as it is: who may read it may make new ones.
    """

    token: str
    created_ts: int
    uses_allowed: int | None = None
    used: int = 0
    expires_ts: int | None = None


class RegistrationNonce(Expiring, frozen=True):
    """Handed out to those who will prove that they know the shared secret, used once."""

    nonce: str


class UiaSession(Expiring, frozen=True):
    """A request under way through user-interactive authentication.

    `parameters` is the request's body, enciphered by the session's id, of which only the digest is kept.
    """

    digest: str
    operation: str
    """Method and path of the request."""
    owner: str
    """Whose sessions are counted together: a user's, or those of one address."""
    created_ts: int
    flows: tuple[tuple[str, ...], ...]
    user_id: str | None = None
    device_id: str | None = None
    parameters: bytes = b""
    completed: dict[str, str] = {}
    """Stage → what it proved (the registration token, the policies' versions), in the order of completion."""


_BY_EXPIRY = Index("by_expiry", ("expires_ts",))

ACCOUNTS = CollectionSpec("accounts", Account, ("user_id",))
DEVICES = CollectionSpec("devices", Device, ("user_id", "device_id"))
DEVICES_SEEN = CollectionSpec("devices_seen", DeviceSeen, ("user_id", "device_id"))
DEVICES_RECEIVED = CollectionSpec("devices_received", DeviceReceived, ("user_id", "device_id"))
ACCESS_TOKENS = CollectionSpec(
    "access_tokens", AccessToken, ("digest",), (Index("by_device", ("user_id", "device_id")),)
)
REFRESH_TOKENS = CollectionSpec(
    "refresh_tokens", RefreshToken, ("digest",), (Index("by_device", ("user_id", "device_id")),)
)
BINDINGS = CollectionSpec("bindings", Binding, ("user_id", "id_server", "medium", "address"))
LOGIN_TOKENS = CollectionSpec("login_tokens", LoginToken, ("digest",), (_BY_EXPIRY,))
OPENID_TOKENS = CollectionSpec("openid_tokens", OpenIdToken, ("digest",), (_BY_EXPIRY,))
REGISTRATION_TOKENS = CollectionSpec("registration_tokens", RegistrationToken, ("token",))
REGISTRATION_NONCES = CollectionSpec("registration_nonces", RegistrationNonce, ("nonce",), (_BY_EXPIRY,))
UIA_SESSIONS = CollectionSpec(
    "uia_sessions", UiaSession, ("digest",), (_BY_EXPIRY, Index("by_owner", ("owner", "created_ts")))
)

SPECS = (
    ACCOUNTS,
    DEVICES,
    DEVICES_SEEN,
    DEVICES_RECEIVED,
    ACCESS_TOKENS,
    REFRESH_TOKENS,
    BINDINGS,
    LOGIN_TOKENS,
    OPENID_TOKENS,
    REGISTRATION_TOKENS,
    REGISTRATION_NONCES,
    UIA_SESSIONS,
)
