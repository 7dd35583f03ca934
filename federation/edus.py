"""Ephemeral data units of other servers: looked through, and handed to those whom they concern here.

A server speaks for its own users only. What is malformed, or not the origin's to say, is dropped and counted;
nobody is told, since there is nobody who could make it good. One that comes twice has no other effect than
one that came once.

spec: server-server "EDUs", "Typing Notifications", "Presence", "Receipts", "Send-to-device messaging",
"Device Management", "Server Access Control Lists (ACLs)"
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec

from federation.received_messages import ReceivedMessages
from homeserver.e2ee.device_messages import Sender
from homeserver.e2ee.remote_lists import DeviceUpdate, RemoteLists, SigningKeyUpdate
from homeserver.e2ee.to_device import ToDevice
from homeserver.errors import MatrixError, forbidden
from homeserver.presence.presence import Presence
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.rooms.ephemeral import Typing
from homeserver.rooms.receipts import Read, Receipts
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import server_acl

TO_DEVICE = "m.direct_to_device"
TYPING_MS = 60_000
"""How long somebody types of whom nothing more is heard; servers say it again while it goes on."""
MAX_PRESENCE = 500
"""Users in one EDU."""


class TypingNotice(msgspec.Struct):
    """Content of m.typing."""

    room_id: str
    user_id: str
    typing: bool


class ReadData(msgspec.Struct):
    ts: int
    thread_id: str | None = None


class UserReceipt(msgspec.Struct):
    event_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]
    data: ReadData


class RoomReceipts(msgspec.Struct):
    """Content of m.receipt for one room. Receipts of other types than this one are private."""

    read: dict[str, UserReceipt] = msgspec.field(name="m.read", default_factory=dict)


class DirectToDevice(msgspec.Struct):
    """Content of m.direct_to_device."""

    sender: str
    type: str
    message_id: str
    messages: dict[str, dict[str, JsonObject]]


class UserPresence(msgspec.Struct):
    user_id: str
    presence: Literal["online", "unavailable", "offline"]
    last_active_ago: int = 0
    status_msg: str | None = None


class PresencePush(msgspec.Struct):
    """Content of m.presence."""

    push: Annotated[list[Any], msgspec.Meta(max_length=MAX_PRESENCE)]
    """Each a `UserPresence`."""


class Edus:
    """Takes EDUs one by one, in the order in which their server sent them."""

    def __init__(
        self,
        limits: RateLimits,
        rooms: Rooms,
        typing: Typing,
        receipts: Receipts,
        presence: Presence,
        to_device: ToDevice,
        received: ReceivedMessages,
        remote_lists: RemoteLists,
    ) -> None:
        self._limits = limits
        self._rooms = rooms
        self._typing = typing
        self._receipts = receipts
        self._presence = presence
        self._to_device = to_device
        self._received = received
        self._remote_lists = remote_lists
        self._takers: dict[str, Callable[[str, Any], Awaitable[None]]] = {
            "m.typing": self._take_typing,
            "m.receipt": self._take_receipts,
            "m.presence": self._take_presence,
            TO_DEVICE: self._take_messages,
            "m.device_list_update": self._take_device_update,
            "m.signing_key_update": self._take_signing_keys,
        }
        self.dropped: Counter[str] = Counter()
        """How many of each type were of no use."""

    def alive(self, origin: str) -> None:
        """A server sends something, whatever it is."""
        self._remote_lists.alive(origin)

    async def receive(self, origin: str, edu: JsonObject) -> None:
        """Take one EDU of a server; types that are not known are passed over.

        Raises StoreError and MatrixError 503 when it should come again.
        """
        edu_type = edu.get("edu_type")
        taker = self._takers.get(edu_type) if isinstance(edu_type, str) else None
        if edu_type is None or taker is None:
            return
        with self._dropped_if_wrong(edu_type):
            await taker(origin, edu.get("content"))

    @contextmanager
    def _dropped_if_wrong(self, edu_type: str) -> Iterator[None]:
        """Go on behind what is malformed, or not the server's to say."""
        try:
            yield
        except (msgspec.ValidationError, InvalidIdentifier):
            self.dropped[edu_type] += 1
        except MatrixError as error:
            if error.status == 503:
                raise
            self.dropped[edu_type] += 1

    async def _take_typing(self, origin: str, content: Any) -> None:
        notice = msgspec.convert(content, TypingNotice)
        self._admit(origin, notice.user_id)
        room = await self._room(origin, notice.room_id)
        if notice.user_id not in room.joined:
            raise forbidden("The user is not in the room")
        if notice.typing or notice.user_id in self._typing.users(room.room_id):
            self._typing.set(room.room_id, notice.user_id, TYPING_MS if notice.typing else None)

    async def _take_receipts(self, origin: str, content: Any) -> None:
        for room_id, receipts in msgspec.convert(content, dict[str, RoomReceipts]).items():
            try:
                room = await self._room(origin, room_id)
            except MatrixError:
                self.dropped["m.receipt"] += 1
            else:
                await self._receipts.take(room, self._read(origin, receipts))

    def _read(self, origin: str, receipts: RoomReceipts) -> list[Read]:
        """What of it the server may say."""
        read: list[Read] = []
        for user_id, receipt in receipts.read.items():
            try:
                self._admit(origin, user_id)
            except (MatrixError, InvalidIdentifier):
                self.dropped["m.receipt"] += 1
            else:
                data = receipt.data
                read.append(Read(user_id, receipt.event_ids[0], data.thread_id, data.ts))
        return read

    async def _take_presence(self, origin: str, content: Any) -> None:
        for each in msgspec.convert(content, PresencePush).push:
            with self._dropped_if_wrong("m.presence"):
                said = msgspec.convert(each, UserPresence)
                self._admit(origin, said.user_id)
                await self._presence.said_elsewhere(
                    said.user_id, said.presence, said.status_msg, said.last_active_ago
                )

    async def _take_messages(self, origin: str, content: Any) -> None:
        message = msgspec.convert(content, DirectToDevice)
        _check_own(origin, message.sender)
        if await self._received.has(message.sender, message.message_id):
            return
        sender = Sender(message.sender, "", message.message_id)
        if await self._to_device.deliver(sender, message.type, message.messages):
            await self._received.note(message.sender, message.message_id)

    async def _take_device_update(self, origin: str, content: Any) -> None:
        update = msgspec.convert(content, DeviceUpdate)
        _check_own(origin, update.user_id)
        await self._remote_lists.update(update)

    async def _take_signing_keys(self, origin: str, content: Any) -> None:
        update = msgspec.convert(content, SigningKeyUpdate)
        _check_own(origin, update.user_id)
        await self._remote_lists.update_keys(update)

    def _admit(self, origin: str, user_id: str) -> None:
        """Let a server speak for a user of its own, as often as users of this server may do such things.

        Raises 403, 429 and InvalidIdentifier.
        """
        _check_own(origin, user_id)
        self._limits.charge("ephemeral", user_id)

    async def _room(self, origin: str, room_id: str) -> Room:
        """A room in which the server may speak. Raises 403."""
        room = await self._rooms.get(room_id)
        if room is None or not server_acl(room).allows(origin):
            raise forbidden("The server may not speak in this room")
        return room


def _check_own(origin: str, user_id: str) -> None:
    """Raises 403 for users of other servers than the one that speaks, InvalidIdentifier."""
    if server_name_of(check_user_id(user_id)) != origin:
        raise forbidden("A server may speak for its own users only")
