"""Where users want to be notified, and how much they have not read."""

from typing import Any

from storage.collection import CollectionSpec, Index, Record


class Pusher(Record, frozen=True):
    """One app's wish to be told of a user's notifications; `device_id` is the device that asked for it."""

    user_id: str
    app_id: str
    pushkey: str
    kind: str
    app_display_name: str
    device_display_name: str
    lang: str
    data: dict[str, Any]
    device_id: str
    created_ts: int
    profile_tag: str | None = None


class UnreadTally(Record, frozen=True):
    """Unread counts of a user who has long not read a room: of the events up to position `upto`.

    They hold for one set of receipts and of push rules only, each named by the number of its newest entry.
    """

    user_id: str
    room_id: str
    upto: int
    receipts: int
    rules: int
    threads: dict[str, tuple[int, int]] = {}
    """Thread root, or "main" → notifying and highlighting events."""


PUSHERS = CollectionSpec(
    "pushers",
    Pusher,
    ("user_id", "app_id", "pushkey"),
    (Index("by_target", ("app_id", "pushkey")), Index("by_device", ("user_id", "device_id"))),
)

UNREAD_TALLIES = CollectionSpec("unread_tallies", UnreadTally, ("user_id", "room_id"))

SPECS = (PUSHERS, UNREAD_TALLIES)
