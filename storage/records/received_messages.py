"""Messages for devices that other servers sent (see `federation.received_messages`)."""

from storage.collection import CollectionSpec, Index, Record


class ReceivedMessage(Record, frozen=True):
    """One that was delivered: the SHA-256 of its sender and id."""

    digest: str
    expires_ts: int
    server_name: str | None = None
    """Whose user sent it."""


RECEIVED_MESSAGES = CollectionSpec(
    "received_messages",
    ReceivedMessage,
    ("digest",),
    (Index("by_expiry", ("expires_ts",)), Index("by_server", ("server_name", "expires_ts"))),
)

SPECS = (RECEIVED_MESSAGES,)
