"""What one replica knows of presence before the others: the devices that sync with it, and what users say.

Arrivals are told in a batch a moment later. That a device is here still is told every `BEAT_SECONDS`, well
within the time for which it counts as here; that it has left shows in that nobody tells of it any more.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.presence.user_presence import HERE_FOR_MS, DevicePresence, UserPresence
from homeserver.protocol.json_types import JsonObject

KIND = "presence_report"
REPORT_SECONDS = 0.2
BEAT_SECONDS = 15.0
DEVICES_AT_ONCE = 1000


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A device is here for `here_ms` at least, with this state. `active`: by what its user has just done."""

    user_id: str
    device_id: str
    state: str
    here_ms: int
    active: bool
    last_active: int


class Said(msgspec.Struct, frozen=True, array_like=True):
    """A user's status message and the profile that goes with it."""

    user_id: str
    status_msg: str | None
    profile: JsonObject


class Report(msgspec.Struct, frozen=True, array_like=True):
    """`forgotten` are users who are no more."""

    seen: Sequence[Seen] = ()
    said: Sequence[Said] = ()
    forgotten: Sequence[str] = ()


_encode = msgspec.json.Encoder().encode
decode_report = msgspec.json.Decoder(Report).decode


class PresenceReports:
    """Gathers and sends them."""

    def __init__(self, to_others: ToOthers, now: Clock) -> None:
        self._to_others = to_others
        self._now = now
        self._syncing: dict[tuple[str, str], tuple[UserPresence, DevicePresence]] = {}
        """The devices that sync with this replica."""
        self._arrived: dict[tuple[str, str], bool] = {}
        """Those of them to be told of, and whether their users have done something."""
        self._said: dict[str, UserPresence] = {}
        self._forgotten: list[str] = []

    def syncs(self, user: UserPresence, device_id: str, device: DevicePresence) -> None:
        """A device that others may know syncs with this replica."""
        device.mine = True
        if self._to_others.shared:
            self._syncing[user.user_id, device_id] = user, device

    def arrived(self, user: UserPresence, device_id: str, device: DevicePresence, *, active: bool) -> None:
        """A device has come, or has another state."""
        self.syncs(user, device_id, device)
        if self._to_others.shared:
            key = (user.user_id, device_id)
            self._arrived[key] = active or self._arrived.get(key, False)

    def said(self, user: UserPresence) -> None:
        if self._to_others.shared:
            self._said[user.user_id] = user

    def forgotten(self, user_id: str) -> None:
        if self._to_others.shared:
            self._forgotten.append(user_id)

    async def keep_reporting(self) -> None:
        """Tell the others, where there are any, until cancelled."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + BEAT_SECONDS
        while self._to_others.shared:
            await asyncio.sleep(REPORT_SECONDS)
            self.report()
            if loop.time() >= beat_at:
                beat_at = loop.time() + BEAT_SECONDS
                self.beat()

    def report(self) -> None:
        """Tell what is new."""
        arrived, self._arrived = self._arrived, {}
        said, self._said = self._said, {}
        forgotten, self._forgotten = self._forgotten, []
        if arrived or said or forgotten:
            seen = [self._seen(key[1], *self._syncing[key], active) for key, active in arrived.items()]
            self._send(
                Report(seen, [Said(u.user_id, u.status_msg, u.profile) for u in said.values()], forgotten)
            )

    def beat(self) -> None:
        """Tell of all devices that sync here."""
        seen = [self._seen(key[1], *syncing, active=False) for key, syncing in self._syncing.items()]
        for first in range(0, len(seen), DEVICES_AT_ONCE):
            self._send(Report(seen[first : first + DEVICES_AT_ONCE]))
        for key, (_, device) in list(self._syncing.items()):
            if not device.in_flight and key not in self._arrived:
                # For how long it will be here still has just been told.
                device.mine = False
                del self._syncing[key]

    def _seen(self, device_id: str, user: UserPresence, device: DevicePresence, active: bool) -> Seen:
        here_ms = HERE_FOR_MS if device.in_flight else max(0, device.here_until - self._now())
        return Seen(user.user_id, device_id, device.state, here_ms, active, user.last_active)

    def _send(self, report: Report) -> None:
        self._to_others.tell(KIND, _encode(report))
