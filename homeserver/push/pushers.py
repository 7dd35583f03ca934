"""Pushers: which apps want to be told of a user's notifications, and by which push gateway (spec:
client-server "Push Notifications", `/pushers`).

They are kept here and belong to the device that set them: they end when it is logged out.
"""

import asyncio
from operator import attrgetter
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import msgspec
import orjson
from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.errors import invalid_param, missing_param
from homeserver.protocol.json_types import JsonObject
from storage.collection import Collection
from storage.records.push import Pusher

MAX_PUSHERS = 100
"""Of one user."""
MAX_PUSHKEY_BYTES = 512
MAX_APP_ID = 64
MAX_NAME = 255
MAX_DATA_BYTES = 8 * 1024
GATEWAY_PATH: Final = "/_matrix/push/v1/notify"
REQUIRED: Final = ("app_display_name", "device_display_name", "lang", "data")

_age = attrgetter("created_ts", "user_id")


class PusherRequest(msgspec.Struct, frozen=True):
    """What a client sends; `kind` None deletes."""

    app_id: str
    pushkey: str
    kind: str | None
    app_display_name: str | None = None
    device_display_name: str | None = None
    profile_tag: str | None = None
    lang: str | None = None
    data: JsonObject | None = None
    append: bool = False


class Pushers:
    """The pushers of local users."""

    def __init__(self, pushers: Collection[Pusher], now: Clock) -> None:
        self._pushers = pushers
        self._now = now
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """App and pushkey → who sets it, one after the other."""

    async def of_user(self, user_id: str) -> list[Pusher]:
        return await self._pushers.find("key", (user_id,), limit=MAX_PUSHERS)

    async def set(self, user_id: str, device_id: str, request: PusherRequest) -> None:
        """Make, change or (with `kind` None) delete a pusher. Raises 400 for what can be none."""
        if request.kind is None:
            await self._pushers.delete(user_id, request.app_id, request.pushkey)
            return
        pusher = self._checked(user_id, device_id, request)
        target = (pusher.app_id, pusher.pushkey)
        known = {(other.app_id, other.pushkey) for other in await self.of_user(user_id)}
        if target not in known and len(known) >= MAX_PUSHERS:
            raise invalid_param(f"A user may have {MAX_PUSHERS} pushers at most")
        async with self._turns.setdefault(target, asyncio.Lock()):
            await self._set(pusher, append=request.append)

    async def _set(self, pusher: Pusher, *, append: bool) -> None:
        target = (pusher.app_id, pusher.pushkey)
        there = await self._pushers.find("by_target", target)
        # Later than those that are there, whatever the clock of the replica that set them.
        created_ts = max([pusher.created_ts, *(other.created_ts + 1 for other in there)])
        await self._pushers.put(replace(pusher, created_ts=created_ts))
        if append:
            return
        # The app on that phone is somebody else's now. Of two who say so at once, at two replicas, it is the
        # later one's: whoever put theirs last sees the other's, and all judge alike.
        there = await self._pushers.find("by_target", target)
        for other in sorted(there, key=_age)[:-1]:
            await self._pushers.delete(other.user_id, *target)

    def _checked(self, user_id: str, device_id: str, request: PusherRequest) -> Pusher:
        missing = [name for name in REQUIRED if getattr(request, name) is None]
        if missing:
            raise missing_param(f"Missing parameters: {', '.join(missing)}")
        if request.kind != "http":
            raise invalid_param("kind: this server has http pushers only")
        if not request.app_id or len(request.app_id) > MAX_APP_ID:
            raise invalid_param(f"app_id: 1 to {MAX_APP_ID} characters")
        if not request.pushkey or len(request.pushkey.encode("utf-8", "surrogatepass")) > MAX_PUSHKEY_BYTES:
            raise invalid_param(f"pushkey: 1 to {MAX_PUSHKEY_BYTES} bytes")
        for name in ("app_display_name", "device_display_name", "profile_tag", "lang"):
            if len(getattr(request, name) or "") > MAX_NAME:
                raise invalid_param(f"{name}: {MAX_NAME} characters at most")
        assert request.data is not None
        _check_data(request.data)
        return Pusher(
            user_id=user_id,
            app_id=request.app_id,
            pushkey=request.pushkey,
            kind=request.kind,
            app_display_name=request.app_display_name or "",
            device_display_name=request.device_display_name or "",
            profile_tag=request.profile_tag,
            lang=request.lang or "",
            data=request.data,
            device_id=device_id,
            created_ts=self._now(),
        )

    async def forget_device(self, user_id: str, device_id: str) -> None:
        """The device is gone, and what it asked for."""
        await self._pushers.delete_where("by_device", (user_id, device_id))

    async def forget_user(self, user_id: str, erase: bool) -> None:
        """The account is no more."""
        await self._pushers.delete_where("key", (user_id,))


def pusher_json(pusher: Pusher) -> JsonObject:
    """A pusher as clients see it."""
    shown: JsonObject = {
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "kind": pusher.kind,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": pusher.data,
    }
    if pusher.profile_tag is not None:
        shown["profile_tag"] = pusher.profile_tag
    return shown


def _check_data(data: JsonObject) -> None:
    """Where to send to. Which hosts are reached from here is decided when something is sent."""
    url = data.get("url")
    if not isinstance(url, str):
        raise missing_param("data.url is missing")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise invalid_param("data.url: not a URL") from error
    if parts.scheme != "https" or not parts.hostname or parts.path != GATEWAY_PATH or port == 0:
        raise invalid_param(f"data.url: an https URL with the path {GATEWAY_PATH}")
    if parts.username is not None or parts.password is not None or not url.isprintable() or " " in url:
        raise invalid_param("data.url: no user name, password, blanks or control characters")
    if data.get("format", "event_id_only") != "event_id_only":
        raise invalid_param("data.format: event_id_only or nothing")
    if len(orjson.dumps(data)) > MAX_DATA_BYTES:
        raise invalid_param(f"data: {MAX_DATA_BYTES} bytes at most")
