"""Keys of end-to-end encryption that are counted and handed out, and backups of message keys.

Identity keys, which others must be told of when they change, are entries of their owner's log instead.
"""

from storage.collection import CollectionSpec, Record


class OneTimeSupply(Record, frozen=True):
    """How many one-time keys of an algorithm a device ever uploaded, and how many of them were claimed.

    Keys are numbered in the order of their upload, from 0, and claimed in this order. `batches` are those
    which may have unclaimed keys: the id, and the number after the last key. `recent` has eight bytes for
    each of the last keys, claimed or not, oldest first: checksums of its id and of its JSON. A client that
    repeats an upload must not bring back what was claimed meanwhile.
    """

    user_id: str
    device_id: str
    algorithm: str
    uploaded: int
    claimed: int
    batches: tuple[tuple[int, int], ...] = ()
    recent: bytes = b""


class OneTimeBatch(Record, frozen=True):
    """Keys that came in one upload, id and JSON of each; never changed.

    A record for each key would cost more than all else in an upload, and so would it in a claim to write
    anew what has several. Which keys are claimed the supply says. `batch` is a digest of the keys: an upload
    that is tried again writes the same record.
    """

    user_id: str
    device_id: str
    algorithm: str
    batch: int
    keys: tuple[tuple[str, str], ...]


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

ONE_TIME_SUPPLIES = CollectionSpec("one_time_supplies", OneTimeSupply, (*_DEVICE, "algorithm"))
ONE_TIME_BATCHES = CollectionSpec("one_time_batches", OneTimeBatch, (*_DEVICE, "algorithm", "batch"))
FALLBACK_KEYS = CollectionSpec("fallback_keys", FallbackKey, (*_DEVICE, "algorithm"))
ONE_TIME_EPOCH = CollectionSpec("one_time_epoch", OneTimeEpoch, ("name",))
BACKUP_VERSIONS = CollectionSpec("backup_versions", BackupVersions, ("user_id",))
BACKUPS = CollectionSpec("backups", BackupVersion, ("user_id", "version"))
BACKUP_KEYS = CollectionSpec("backup_keys", BackupKey, ("user_id", "version", "room_id", "session_id"))
DEHYDRATED_DEVICES = CollectionSpec("dehydrated_devices", DehydratedDevice, ("user_id",))

SPECS = (
    ONE_TIME_SUPPLIES,
    ONE_TIME_BATCHES,
    FALLBACK_KEYS,
    ONE_TIME_EPOCH,
    BACKUP_VERSIONS,
    BACKUPS,
    BACKUP_KEYS,
    DEHYDRATED_DEVICES,
)
