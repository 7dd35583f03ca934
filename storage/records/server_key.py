"""Which key signs in the server's name. The secret itself is in a file of each replica, not in the store."""

import msgspec

from storage.collection import CollectionSpec, Record


class RetiredKey(msgspec.Struct, frozen=True):
    """A key that signed once: what it signed stays valid if it is from before `expired` (ms)."""

    key_id: str
    verify_key: str
    expired: int


class ServerKey(Record, frozen=True):
    """The present key (`ed25519:…`, public half in unpadded base64) and those before it.

    There is one record, named "".
    """

    name: str
    key_id: str
    verify_key: str
    retired: tuple[RetiredKey, ...] = ()


SERVER_KEY = CollectionSpec("server_key", ServerKey, ("name",))

SPECS = (SERVER_KEY,)
