"""Keys of end-to-end encryption that are counted and handed out, and backups of message keys.

Identity keys, which others must be told of when they change, are entries of their owner's log instead.
"""

from storage.collection import CollectionSpec, Record


class OneTimeKey(Record, frozen=True):
    """A key that nobody has claimed yet, and some that were uploaded with it and are claimed before it.

    `key` is the public key and `signature` that of the device, where there is nothing else to it; else `key`
    is its JSON. `uploaded` is the number of the device's upload, which orders claims. A record for each key
    would cost more than all else in an upload; one for all of an upload would have to be written anew, as a
    whole, with each claim.
    """

    user_id: str
    device_id: str
    algorithm: str
    uploaded: int
    key_id: str
    key: str
    signature: str = ""
    before: tuple[tuple[str, ...], ...] = ()
    """Of each the key id, the key and the signature; stores of earlier releases have the first two alone."""

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """The same of all of them, in the order in which they are claimed."""
        return (*self.before, (self.key_id, self.key, self.signature))


class OneTimeUploads(Record, frozen=True):
    """The one-time keys that a device uploaded last, claimed or not: by algorithm its uploads, oldest first.

    Of each upload there is its number, and by key id what tells each of its keys from others. A client that
    repeats an upload must not bring back what was claimed meanwhile.
    """

    user_id: str
    device_id: str
    uploads: dict[str, tuple[tuple[int, dict[str, str]], ...]] = {}


class FallbackKey(Record, frozen=True):
    """The key of an algorithm that is handed out when the one-time keys have run out."""

    user_id: str
    device_id: str
    algorithm: str
    key_id: str
    key: str
    used: bool = False


class OneTimeEpoch(Record, frozen=True):
    """The epoch of the store in which the one-time keys were uploaded; there is one record, named ""."""

    name: str
    epoch: str


class BackupVersions(Record, frozen=True):
    """The highest backup version that a user ever had; versions are not given twice."""

    user_id: str
    newest: int


class BackupVersion(Record, frozen=True):
    """A backup: how its keys are encrypted, how many there are, and a number that follows its content.

    While `changing_until` is set somebody is changing keys, and `etag` and `count` are those from
    before; when that time (ms) has passed, whoever it was has died and they must be made anew.
    """

    user_id: str
    version: int
    algorithm: str
    auth_data: str
    etag: int = 0
    count: int = 0
    changing_until: int | None = None


class BackupKey(Record, frozen=True):
    """A message key in a backup; `session_data` is encrypted JSON of the client's own making."""

    user_id: str
    version: int
    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: str


class DehydratedDevice(Record, frozen=True):
    """The device that receives message keys while no other one does; `device_data` is encrypted JSON.

    `replaced` are devices that were dehydrated before and are to be deleted.
    """

    user_id: str
    device_id: str
    device_data: str
    replaced: tuple[str, ...] = ()


_DEVICE = ("user_id", "device_id")

ONE_TIME_KEYS = CollectionSpec("one_time_keys", OneTimeKey, (*_DEVICE, "algorithm", "uploaded", "key_id"))
ONE_TIME_UPLOADS = CollectionSpec("one_time_uploads", OneTimeUploads, _DEVICE)
FALLBACK_KEYS = CollectionSpec("fallback_keys", FallbackKey, (*_DEVICE, "algorithm"))
ONE_TIME_EPOCH = CollectionSpec("one_time_epoch", OneTimeEpoch, ("name",))
BACKUP_VERSIONS = CollectionSpec("backup_versions", BackupVersions, ("user_id",))
BACKUPS = CollectionSpec("backups", BackupVersion, ("user_id", "version"))
BACKUP_KEYS = CollectionSpec("backup_keys", BackupKey, ("user_id", "version", "room_id", "session_id"))
DEHYDRATED_DEVICES = CollectionSpec("dehydrated_devices", DehydratedDevice, ("user_id",))

SPECS = (
    ONE_TIME_KEYS,
    ONE_TIME_UPLOADS,
    FALLBACK_KEYS,
    ONE_TIME_EPOCH,
    BACKUP_VERSIONS,
    BACKUPS,
    BACKUP_KEYS,
    DEHYDRATED_DEVICES,
)
