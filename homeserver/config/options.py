"""Every option of Weft, each documented where it is declared.

`Config` is a tree of frozen sections. The sample file, `docs/reference/configuration.md`,
`schemas/config.json` and the names of the environment variables are all made from these declarations:
a new option is one field here, and `make reference`.

Two placeholders may stand in paths and URLs: `{data_dir}` and `{server_name}`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from homeserver.config.units import Address, Duration, Network, Secret, SecretUri, Size
from homeserver.protocol.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS

PUBLIC_URL = "https://{server_name}"
DEVELOPMENT_SECRET = "weft-dev-secret"


def doc(
    text: str, *, ge: float | None = None, le: float | None = None, least: str | None = None
) -> msgspec.Meta:
    """What an option means, and within what bounds; `least` is for durations and sizes."""
    return msgspec.Meta(description=text, ge=ge, le=le, extra=None if least is None else {"least": least})


def matching(pattern: str, kind: str) -> msgspec.Meta:
    """Text that matches as a whole; `kind` says the form in words. Python and JavaScript read it alike."""
    return msgspec.Meta(pattern=rf"^(?:{pattern})$(?!\n)", extra={"kind": kind})


ServerName = Annotated[
    str,
    matching(
        r"(?=.{1,230}$)([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?",
        "a host name such as example.org, without https:// and without a path",
    ),
]
HttpUrl = Annotated[str, matching(r"https?://[^/\s]+\S*", "a URL such as https://matrix.example.org")]
Email = Annotated[str, matching(r"[^@\s]+@[^@\s]+", "an e-mail address")]
MatrixId = Annotated[str, matching(r"@[^:\s]+:\S+", "a Matrix id such as @alice:example.org")]
PolicyId = Annotated[str, matching(r"[a-z0-9_.-]{1,64}", "a short name such as privacy_policy")]
RoomVersion = Annotated[
    str, matching("|".join(ROOM_VERSIONS), f"one of the room versions {', '.join(ROOM_VERSIONS)}")
]
BusUri = Annotated[
    str,
    matching(
        r"in-process:|kafka://[^\s/?#@,]+:[0-9]{1,5}(,[^\s/?#@,]+:[0-9]{1,5})*",
        "in-process: or kafka://host:port[,host:port…]",
    ),
]
TopicPrefix = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a name of letters, digits, dots, dashes")
]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all groups of options; the docstring of a section is its introduction in the reference."""


class Storage(Section, frozen=True):
    """Where rooms, users and everything else but media files are kept."""

    uri: Annotated[
        SecretUri,
        doc(
            "`sqlite:///<path>` (an absolute path makes four slashes) for a server that is one process, "
            "`mongodb://[<user>:<password>@]<host>[:<port>][,<host>…]/<database>[?<options>]` for several. "
            "That one should be a replica set (`?replicaSet=<name>`); the database is to be Weft's alone."
        ),
    ] = SecretUri("sqlite:///{data_dir}/weft.db")
    room_shards: Annotated[
        int,
        doc(
            "Into how many sequences rooms are divided. More of them let more replicas write side by side. "
            "Fixed when the store is created.",
            ge=1,
            le=1024,
        ),
    ] = 1
    user_shards: Annotated[
        int,
        doc("The same for what happens to users. Fixed when the store is created.", ge=1, le=1024),
    ] = 1


class BusTls(Section, frozen=True):
    """Encrypted connections to the brokers."""

    enabled: Annotated[bool, doc("Whether the brokers are talked to over TLS.")] = False
    ca: Annotated[
        str | None,
        doc("A file of certificates (PEM) that vouch for the brokers; null for those of the system."),
    ] = None
    certificate: Annotated[
        str | None, doc("This server's own certificate (a PEM file), where the brokers want one.")
    ] = None
    key: Annotated[str | None, doc("The private key that goes with it (a PEM file, not encrypted).")] = None


class BusSasl(Section, frozen=True):
    """How the server proves to the brokers who it is, where they want a name and a password."""

    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        doc("What the brokers' listener is set up for. `PLAIN` shows them the password: use TLS with it."),
    ] = "SCRAM-SHA-512"
    user: Annotated[str | None, doc("User name. Null: the brokers want none.")] = None
    password: Annotated[Secret | None, doc("The password that goes with it.")] = None


class Bus(Section, frozen=True):
    """How several replicas hear of each other, and other programs of what happens; see `docs/kafka.md`."""

    uri: Annotated[
        BusUri,
        doc(
            "`in-process:` for a server that is one process, `kafka://<host>:<port>[,<host>:<port>…]` "
            "(some of the brokers) for several of them, or to have events on Kafka."
        ),
    ] = "in-process:"
    address: Annotated[
        Address | None,
        doc(
            "Where the other replicas reach this one; null for the first of `listen`, with the name of this "
            "machine if that is all addresses."
        ),
    ] = None
    topic_prefix: Annotated[
        TopicPrefix,
        doc(
            "What the names of this server's topics begin with (`weft.room-log`); two servers on one "
            "cluster need different ones."
        ),
    ] = "weft"
    replication_factor: Annotated[
        int,
        doc(
            "On how many brokers new topics are kept; 0 for the brokers' `default.replication.factor`. "
            "Where brokers may fail: 3, with `min.insync.replicas=2` on the brokers.",
            ge=0,
            le=32,
        ),
    ] = 0
    retention: Annotated[
        Duration,
        doc(
            "How long new topics keep what happened, for other programs to read; the server itself needs "
            "minutes. Nothing is lost from the server when it has passed.",
            least="1h",
        ),
    ] = Duration.parse("7d")
    tls: BusTls = BusTls()
    sasl: BusSasl = BusSasl()


class PolicyText(Section, frozen=True):
    """A policy in one language."""

    name: Annotated[str, doc("The title to show.")]
    url: Annotated[HttpUrl, doc("Where the text can be read.")]


class Policy(Section, frozen=True):
    """A document that people agree to when they register."""

    id: Annotated[PolicyId, doc("A short name, such as `privacy_policy`.")]
    version: Annotated[str, doc("Shown to clients with the policy.")]
    texts: Annotated[dict[str, PolicyText], doc("The policy by language code, e.g. `en`.")]


class Registration(Section, frozen=True):
    """Who may create accounts."""

    enabled: Annotated[
        bool,
        doc("Whether people can register by themselves. The shared secret works either way."),
    ] = False
    requires_token: Annotated[
        bool,
        doc("Whether they need a registration token from an administrator. If not, anyone can register."),
    ] = True
    shared_secret: Annotated[
        Secret | None,
        doc(
            "Lets `weft register-user` and other tools that hold it create accounts, administrators too. "
            "At least 12 characters; without it that way is closed."
        ),
    ] = None
    terms: Annotated[tuple[Policy, ...], doc("Policies to agree to when registering.")] = ()
    guests: Annotated[bool, doc("Whether guests may look into rooms that let them in.")] = False


class Auth(Section, frozen=True):
    """Passwords, logins and tokens."""

    password_login: Annotated[bool, doc("Whether users log in with a password.")] = True
    password_min_length: Annotated[
        int, doc("Shortest password that users may choose. The shared secret takes any.", ge=1, le=128)
    ] = 8
    login_tokens: Annotated[
        bool, doc("Whether a logged-in client may get a short-lived token to log another one in (QR login).")
    ] = True
    access_token_lifetime: Annotated[
        Duration,
        doc("How long an access token of a client that can refresh it is good for.", least="10s"),
    ] = Duration.parse("5m")
    refresh_token_lifetime: Annotated[
        Duration | None,
        doc("After how long without use a refresh token ends; null for never."),
    ] = None
    argon2_memory: Annotated[Size, doc("Memory that hashing one password takes.", least="8K")] = Size.parse(
        "19M"
    )
    argon2_time_cost: Annotated[int, doc("Passes over that memory.", ge=1, le=64)] = 2


class Limits(Section, frozen=True):
    """Upper bounds of what one request may bring or ask for, and of memory."""

    max_upload_size: Annotated[Size, doc("Largest file that users may upload.")] = Size.parse("50M")
    max_body_size: Annotated[
        Size,
        doc("Largest JSON body of a request; key uploads and key backups need the most.", least="128K"),
    ] = Size.parse("2M")
    max_event_page: Annotated[
        int, doc("Most events in one page of /messages and the like.", ge=10, le=10_000)
    ] = 500
    max_sync_timeline: Annotated[
        int, doc("Most events of one room in one /sync answer.", ge=10, le=10_000)
    ] = 100
    max_event_delay: Annotated[
        Duration, doc("How long an event may be delayed that a client wants sent later.", least="1s")
    ] = Duration.parse("24h")
    max_delayed_events: Annotated[
        int, doc("How many events of one user may wait to be sent later.", ge=1, le=1000)
    ] = 100
    room_cache: Annotated[Size, doc("Memory for rooms in use.", least="1M")] = Size.parse("256M")
    user_cache: Annotated[Size, doc("Memory for users in use.", least="1M")] = Size.parse("64M")


class Rate(Section, frozen=True):
    """So many per second in the long run, and so many at once."""

    per_second: Annotated[float, doc("Long-run rate.", ge=0.0001)]
    burst: Annotated[int, doc("How many may come at once.", ge=1)]


class RateLimits(Section, frozen=True):
    """How often one may do something. Above it the answer is 429 `M_LIMIT_EXCEEDED`, saying when to retry."""

    enabled: Annotated[bool, doc("Whether any of these limits holds.")] = True
    message: Annotated[Rate, doc("Events sent, per user.")] = Rate(5.0, 50)
    ephemeral: Annotated[Rate, doc("Typing, receipts, read markers, presence, per user.")] = Rate(10.0, 50)
    join: Annotated[Rate, doc("Joins and knocks, per user.")] = Rate(0.5, 20)
    invite: Annotated[Rate, doc("Invitations, per user who sends them, or gets them from other servers.")] = (
        Rate(0.5, 20)
    )
    room_creation: Annotated[Rate, doc("Rooms created or upgraded, per user.")] = Rate(0.2, 10)
    profile: Annotated[Rate, doc("Profile changes, per user: each one goes to all rooms.")] = Rate(0.2, 10)
    report: Annotated[Rate, doc("Reports of events, rooms and users, per user.")] = Rate(0.1, 10)
    search: Annotated[Rate, doc("Searches, directories, spaces and URL previews, per user.")] = Rate(2.0, 20)
    media_create: Annotated[Rate, doc("Uploads begun, per user.")] = Rate(2.0, 20)
    remote_media: Annotated[
        Rate,
        doc("KiB of other servers' files that are fetched because a user asks for them first, per user."),
    ] = Rate(256.0, 1024 * 1024)
    registration: Annotated[Rate, doc("Accounts registered, per client address.")] = Rate(0.1, 5)
    registration_check: Annotated[
        Rate, doc("Questions whether a name is free or a registration token good, per client address.")
    ] = Rate(0.5, 10)
    login_address: Annotated[Rate, doc("Logins, per client address.")] = Rate(1.0, 30)
    login_account: Annotated[Rate, doc("Logins, per account.")] = Rate(0.2, 10)
    login_failed: Annotated[Rate, doc("Wrong passwords, per account, wherever a password is asked for.")] = (
        Rate(0.1, 5)
    )
    unproven_server: Annotated[
        Rate,
        doc(
            "Requests in the name of other servers that are not signed as they have to be, and servers that "
            "are asked for keys because anybody wants them, per address."
        ),
    ] = Rate(2.0, 100)
    request: Annotated[
        Rate, doc("Every other kind of request that the specification marks as limited, per user.")
    ] = Rate(20.0, 100)


class Presence(Section, frozen=True):
    """Who is online."""

    enabled: Annotated[bool, doc("Whether presence is tracked and shown.")] = True


class ThumbnailSize(Section, frozen=True):
    """A thumbnail made when an image is uploaded."""

    width: Annotated[int, doc("In pixels.", ge=1, le=4096)]
    height: Annotated[int, doc("In pixels.", ge=1, le=4096)]
    method: Annotated[Literal["crop", "scale"], doc("Fill the box and cut off the rest, or fit into it.")]


class Media(Section, frozen=True):
    """Files that users share."""

    path: Annotated[str, doc("The folder they are kept in.")] = "{data_dir}/media"
    remote_cache: Annotated[
        Size,
        doc(
            "Disk for copies of other servers' files, each as large as `limits.max_upload_size` at most. "
            "When it is used up, those go that nobody asked for longest.",
            least="1M",
        ),
    ] = Size.parse("10G")
    max_pixels: Annotated[int, doc("Larger images are stored but get no thumbnail.", ge=1_000_000)] = (
        32_000_000
    )
    thumbnail_sizes: Annotated[
        tuple[ThumbnailSize, ...],
        doc(
            "Sizes that thumbnails have, by default those the spec asks for. Who wants a larger one gets a "
            "square with a power of two as its side."
        ),
    ] = (
        ThumbnailSize(32, 32, "crop"),
        ThumbnailSize(96, 96, "crop"),
        ThumbnailSize(320, 240, "scale"),
        ThumbnailSize(640, 480, "scale"),
        ThumbnailSize(800, 600, "scale"),
    )
    dynamic_thumbnails: Annotated[
        bool, doc("Whether to make exactly the size that a client asks for instead of the nearest of those.")
    ] = False
    unused_expires_after: Annotated[
        Duration, doc("When a media id that was reserved and never filled is given up.", least="1m")
    ] = Duration.parse("24h")
    max_pending_uploads: Annotated[int, doc("Reserved media ids that one user may hold.", ge=1)] = 5


class Rooms(Section, frozen=True):
    """New rooms and the room directory."""

    default_version: Annotated[RoomVersion, doc("Room version of new rooms.")] = DEFAULT_ROOM_VERSION
    allow_publishing: Annotated[
        bool, doc("Whether users may list their rooms in the public directory (administrators always may).")
    ] = True
    directory_without_login: Annotated[
        bool, doc("Whether the public directory can be read without an account.")
    ] = False
    directory_for_servers: Annotated[
        bool, doc("Whether other servers, and through them their users, can read the public directory.")
    ] = False


class Contact(Section, frozen=True):
    """Someone to turn to; an e-mail address, a Matrix id or both."""

    role: Annotated[
        Literal["m.role.admin", "m.role.security", "m.role.dpo"],
        doc("What for: everything, security reports, or data protection."),
    ]
    email_address: Annotated[Email | None, doc("E-mail address.")] = None
    matrix_id: Annotated[MatrixId | None, doc("Matrix id.")] = None


class WellKnown(Section, frozen=True):
    """What the server says of itself under `/.well-known/matrix/`."""

    identity_server: Annotated[
        HttpUrl | None,
        doc("Base URL of an identity server to suggest to clients. See also `identity.trusted_servers`."),
    ] = None
    server: Annotated[
        ServerName | None,
        doc(
            "Where other servers reach this one, if not at `server_name` on port 8448: a host name and a "
            "port, such as `matrix.example.org:443`. Null: nothing is said of it."
        ),
    ] = None
    support_contacts: Annotated[tuple[Contact, ...], doc("Whom users and other servers can turn to.")] = ()
    support_page: Annotated[HttpUrl | None, doc("A page with help.")] = None


class Identity(Section, frozen=True):
    """Identity servers, which know people by their e-mail addresses and telephone numbers."""

    trusted_servers: Annotated[
        tuple[ServerName, ...],
        doc(
            "Identity servers that this server asks where its users want it to: to invite somebody by an "
            "address, or to publish their own. Host names, perhaps with ports; they are asked over HTTPS. "
            "They learn the addresses, and are believed who has them. Empty: nobody can be invited so."
        ),
    ] = ()


class Turn(Section, frozen=True):
    """A TURN server for voice and video calls. Give a shared secret, or a user name with a password."""

    uris: Annotated[tuple[str, ...], doc("E.g. `turn:turn.example.org?transport=udp`. Empty: no TURN.")] = ()
    shared_secret: Annotated[
        Secret | None, doc("The TURN server's `static-auth-secret`: users get credentials made from it.")
    ] = None
    username: Annotated[str | None, doc("Fixed user name, for a TURN server without such a secret.")] = None
    password: Annotated[Secret | None, doc("The password that goes with it.")] = None
    lifetime: Annotated[Duration, doc("How long credentials are good for.", least="1m")] = Duration.parse(
        "1h"
    )


class Calls(Section, frozen=True):
    """Group calls, as Element Call and Element X make them (MatrixRTC); see `docs/admin-guide.md`."""

    livekit: Annotated[
        tuple[HttpUrl, ...],
        doc(
            "Where clients find the MatrixRTC authorization service (lk-jwt-service) of a LiveKit server, "
            "such as `https://rtc.example.org/livekit/jwt`; of several the first is preferred. Empty: none."
        ),
    ] = ()


class Egress(Section, frozen=True):
    """What the server connects to by itself: other homeservers, and whatever else its users point it to."""

    allow_networks: Annotated[
        tuple[Network, ...],
        doc(
            "Networks (`10.0.0.0/8`) and addresses that may be connected to though they are not public. "
            "By default only public addresses are, as others choose the names that lead there."
        ),
    ] = ()
    deny_networks: Annotated[
        tuple[Network, ...],
        doc("Networks and addresses not to be connected to though they are public. `allow_networks` wins."),
    ] = ()
    ca: Annotated[
        str | None,
        doc("A file of certificates (PEM) that vouch for others, besides those that the system trusts."),
    ] = None
    verify_certificates: Annotated[
        bool,
        doc("Whether others have to prove their names. Only a network that is all your own may do without."),
    ] = True


class FederationTls(Section, frozen=True):
    """Encrypted connections from other servers, where no reverse proxy sees to that."""

    certificate: Annotated[
        str | None,
        doc("The certificate of `federation.listen` and those between it and its authority (a PEM file)."),
    ] = None
    key: Annotated[str | None, doc("The private key that goes with it (a PEM file, not encrypted).")] = None


class Federation(Section, frozen=True):
    """Other homeservers."""

    enabled: Annotated[bool, doc("Whether the server talks to any of them.")] = True
    listen: Annotated[
        tuple[Address, ...],
        doc(
            "Addresses to serve other homeservers on, such as `[::]:8448`, and only them. Empty: they are "
            "served where clients are."
        ),
    ] = ()
    tls: FederationTls = FederationTls()
    allow: Annotated[
        tuple[str, ...],
        doc("Host names of the servers to talk to; `*` stands for any characters, `?` for one."),
    ] = ("*",)
    deny: Annotated[
        tuple[str, ...], doc("Servers not to talk to, written alike. They are not talked to even if allowed.")
    ] = ()
    notaries: Annotated[
        tuple[ServerName, ...],
        doc(
            "Servers to ask for the signing keys of those that do not answer themselves. What they say is "
            "believed, so name only servers that you trust."
        ),
    ] = ()
    discovery_timeout: Annotated[
        Duration,
        doc(
            "How long one step of finding a server may take (its `.well-known` file, its SRV records) before "
            "the next is tried.",
            least="100ms",
        ),
    ] = Duration.parse("10s")


class Log(Section, frozen=True):
    """What the server says of its work, on standard error. Never holds message content, tokens or keys."""

    level: Annotated[Literal["debug", "info", "warning", "error"], doc("The least that is logged.")] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], doc("`auto` is `console` on a terminal, `json` elsewhere.")
    ] = "auto"


class Metrics(Section, frozen=True):
    """What the server tells of itself in numbers, for Prometheus; see `docs/admin-guide.md`."""

    listen: Annotated[
        Address | None,
        doc(
            "Address to answer `GET /metrics` on, such as `127.0.0.1:9008`. Null: nothing is told. "
            "Whoever reaches it can read it."
        ),
    ] = None


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    server_name: Annotated[
        ServerName,
        doc(
            "The name after the colon in `@alice:example.org`. It can never change: it is part of every "
            "user id and is signed into every event."
        ),
    ]
    public_url: Annotated[HttpUrl, doc("Where clients reach the server from outside.")] = PUBLIC_URL
    listen: Annotated[
        tuple[Address, ...],
        doc("Addresses to serve plain HTTP on. Put a reverse proxy with TLS before it to open it up."),
    ] = (Address("127.0.0.1", 8008),)
    trusted_proxies: Annotated[
        tuple[Network, ...],
        doc(
            "Addresses or networks (`10.0.0.0/8`) of reverse proxies whose `X-Forwarded-For` is believed. "
            "Rate limits by client address lean on it."
        ),
    ] = (Network.parse("127.0.0.0/8"), Network.parse("::1"))
    data_dir: Annotated[str, doc("Folder of the signing key, the embedded database and media files.")] = (
        "data"
    )
    storage: Storage = Storage()
    bus: Bus = Bus()
    registration: Registration = Registration()
    application_services: Annotated[
        tuple[str, ...],
        doc(
            "Registration files (YAML) of application services. They may register users of theirs and log "
            "them in; events are not sent to them yet."
        ),
    ] = ()
    auth: Auth = Auth()
    limits: Limits = Limits()
    rate_limits: RateLimits = RateLimits()
    presence: Presence = Presence()
    media: Media = Media()
    rooms: Rooms = Rooms()
    well_known: WellKnown = WellKnown()
    identity: Identity = Identity()
    turn: Turn = Turn()
    calls: Calls = Calls()
    egress: Egress = Egress()
    federation: Federation = Federation()
    log: Log = Log()
    metrics: Metrics = Metrics()

    def __post_init__(self) -> None:
        def filled(text: str) -> str:
            return text.replace("{data_dir}", self.data_dir).replace("{server_name}", self.server_name)

        public_url = filled(self.public_url).rstrip("/")
        storage = msgspec.structs.replace(self.storage, uri=SecretUri(filled(self.storage.uri)))
        media = msgspec.structs.replace(self.media, path=filled(self.media.path))
        for name, value in (
            ("public_url", public_url),
            ("storage", storage),
            ("media", media),
            ("application_services", tuple(map(filled, self.application_services))),
        ):
            msgspec.structs.force_setattr(self, name, value)

    @property
    def signing_key_path(self) -> Path:
        """The file with the key that signs this server's events and requests."""
        return Path(self.data_dir) / "signing.key"

    @classmethod
    def for_development(cls, server_name: str, data_dir: str | Path, port: int) -> Self:
        """A server for one machine and for tests, on the loopback address; see `as_development`."""
        listen = (Address("127.0.0.1", port),)
        return cls(server_name=server_name, data_dir=str(data_dir), listen=listen).as_development()

    def as_development(self) -> Self:
        """The same, but anyone may register, no rate limits hold, hashes are cheap and the secret is known.

        Only the loopback address makes that acceptable: ValueError if it listens elsewhere too.
        """
        exposed = [str(address) for address in self.listen if not address.is_loopback]
        if exposed:
            raise ValueError(f"development mode lets anyone in, so it cannot listen on {', '.join(exposed)}")
        unsaid = self.public_url == PUBLIC_URL.replace("{server_name}", self.server_name)
        return msgspec.structs.replace(
            self,
            public_url=f"http://localhost:{self.listen[0].port}" if unsaid else self.public_url,
            registration=msgspec.structs.replace(
                self.registration,
                enabled=True,
                requires_token=False,
                shared_secret=Secret(DEVELOPMENT_SECRET),
                guests=True,
            ),
            auth=msgspec.structs.replace(self.auth, argon2_memory=Size.parse("64K"), argon2_time_cost=1),
            rate_limits=msgspec.structs.replace(self.rate_limits, enabled=False),
        )
