"""Where users want to be notified."""

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


PUSHERS = CollectionSpec(
    "pushers",
    Pusher,
    ("user_id", "app_id", "pushkey"),
    (Index("by_target", ("app_id", "pushkey")), Index("by_device", ("user_id", "device_id"))),
)

SPECS = (PUSHERS,)
