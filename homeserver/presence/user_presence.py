"""One user's presence: what their devices say, taken together (spec: client-server "Presence").

A device is here while it syncs and for a while after; meanwhile it counts with the state that it last
asked for. The user is what the most present device says. Who has not done anything for some time is
`unavailable`, however many devices are here; who does something is `online` again.

Pure values and functions of the time in ms; `presence` keeps one of these per user.
"""

from typing import Final, NamedTuple

import orjson

from homeserver.protocol.json_types import JsonObject

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
OFFLINE: Final = "offline"
STATES: Final = frozenset((ONLINE, UNAVAILABLE, OFFLINE))

HERE_FOR_MS: Final = 30_000
"""How long a device stays here after a sync; the next one normally follows at once."""
ACTIVE_FOR_MS: Final = 60_000
"""How long after doing something a user is `currently_active`."""
IDLE_AFTER_MS: Final = 5 * 60_000


class Shown(NamedTuple):
    """What others are told, but for the time since the user did something."""

    state: str
    active: bool
    status_msg: str | None
    profile: JsonObject


UNKNOWN: Final = Shown(OFFLINE, False, None, {})


class DevicePresence:
    """What one device says of its user."""

    __slots__ = ("here_until", "in_flight", "mine", "state")

    def __init__(self) -> None:
        self.state = OFFLINE
        self.in_flight = 0
        """Syncs under way at this replica."""
        self.here_until = 0
        self.mine = False
        """Whether this replica is among those that tell of it."""


class UserPresence:
    """The aggregate. `last_active` is 0 for somebody who never did anything."""

    __slots__ = (
        "_front",
        "devices",
        "last_active",
        "loaded",
        "number",
        "profile",
        "status_msg",
        "stored_at",
        "told",
        "user_id",
    )

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.devices: dict[str, DevicePresence] = {}
        self.last_active = 0
        self.status_msg: str | None = None
        self.profile: JsonObject = {}
        self.loaded = False
        """Whether what is stored of the user has been read."""
        self.stored_at = 0
        self.told = UNKNOWN
        """What others were told last."""
        self.number = 0
        """The ephemeral number under which they were told."""
        self._front = b""

    def device(self, device_id: str) -> DevicePresence:
        return self.devices.setdefault(device_id, DevicePresence())

    def say(self, status_msg: str | None, profile: JsonObject) -> None:
        """Take what the user says of themselves."""
        self.status_msg = status_msg
        self.profile = profile
        self.loaded = True

    def drop_absent(self, now: int) -> None:
        """Forget the devices that are not here any more."""
        absent = [name for name, d in self.devices.items() if not d.in_flight and d.here_until <= now]
        for name in absent:
            del self.devices[name]

    def act(self, now: int) -> bool:
        """The user does something. Whether that may change what is shown."""
        self.last_active = now
        for device in self.devices.values():
            if device.state == UNAVAILABLE:
                device.state = ONLINE
        return not self.told.active

    def state(self, now: int) -> str:
        best = OFFLINE
        for device in self.devices.values():
            if device.in_flight or device.here_until > now:
                if device.state == ONLINE:
                    return ONLINE if now - self.last_active < IDLE_AFTER_MS else UNAVAILABLE
                if device.state == UNAVAILABLE:
                    best = UNAVAILABLE
        return best

    def shown(self, now: int) -> Shown:
        state = self.state(now)
        active = state == ONLINE and now - self.last_active < ACTIVE_FOR_MS
        return Shown(state, active, self.status_msg, self.profile)

    def tell(self, shown: Shown, number: int) -> None:
        """Let this be what `event` says."""
        self.told = shown
        self.number = number
        content: JsonObject = {**shown.profile, "presence": shown.state}
        if shown.status_msg is not None:
            content["status_msg"] = shown.status_msg
        if shown.state == ONLINE:
            content["currently_active"] = shown.active
        shown_event = {"type": "m.presence", "sender": self.user_id, "content": content}
        self._front = orjson.dumps(shown_event)[:-2]

    def event(self, now: int) -> bytes:
        """The `m.presence` event of what was told last."""
        if not self.last_active:
            return self._front + b"}}"
        return b'%b,"last_active_ago":%d}}' % (self._front, max(0, now - self.last_active))

    def status(self, now: int) -> JsonObject:
        """What is true now, for those who ask."""
        shown = self.shown(now)
        status: JsonObject = {"presence": shown.state}
        if self.last_active:
            status["last_active_ago"] = max(0, now - self.last_active)
        if shown.status_msg is not None:
            status["status_msg"] = shown.status_msg
        if shown.state == ONLINE:
            status["currently_active"] = shown.active
        return status
