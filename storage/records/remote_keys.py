"""Which keys other servers sign with, as they said themselves (see `federation.key_ring`)."""

import msgspec

from storage.collection import CollectionSpec, Record


class RemoteKey(msgspec.Struct, frozen=True):
    """One key of a server. What it signed counts if it is from before `valid_until` (ms)."""

    key_id: str
    verify_key: str
    valid_until: int
    current: bool
    """Whether the server signs with it now: others are good for old events only, not for requests."""


class RemoteKeys(Record, frozen=True):
    """The keys of one server, and its own words about them.

    Keys of earlier answers, too, for what they signed.
    """

    server_name: str
    keys: tuple[RemoteKey, ...]
    fetched_ts: int
    valid_until: int
    """Until when the newest answer holds (ms)."""
    answer: bytes
    """The newest answer: JSON signed by the server, to be passed on to whoever asks this one about it."""


REMOTE_KEYS = CollectionSpec("remote_keys", RemoteKeys, ("server_name",))

SPECS = (REMOTE_KEYS,)
