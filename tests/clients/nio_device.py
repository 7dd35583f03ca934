"""A matrix-nio client as one device of one person: it syncs on its own and keeps what it was shown.

matrix-nio is an independent reading of the client-server API, with its own Olm and Megolm machine. The
tests act through it and look only at what it would show to the person who holds the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from nio import (  # type: ignore[import-untyped]
    AsyncClient,
    AsyncClientConfig,
    EnableEncryptionBuilder,
    Event,
    MegolmEvent,
    RoomMessageText,
)
from nio.responses import (  # type: ignore[import-untyped]
    DevicesResponse,
    ErrorResponse,
    JoinResponse,
    KeysUploadResponse,
    LoginResponse,
    RegisterResponse,
    RoomCreateResponse,
    RoomSendResponse,
    SyncResponse,
)

PASSWORD = "a horse, a battery & a stäple"
PATIENCE = 20.0
"""Seconds until something that a user waits for counts as never shown."""

LONG_POLL = 30_000
"""Milliseconds of a long poll, as in real clients; longer than PATIENCE, so that a lost wake-up fails."""

Response = TypeVar("Response")
Seen = TypeVar("Seen")


def answered(response: object, kind: type[Response]) -> Response:
    """The response, if it is of the kind that means success; else AssertionError with the server's words."""
    if isinstance(response, kind):
        return response
    transport = getattr(response, "transport_response", None)
    where = f"{transport.method} {transport.url.path} -> {transport.status}" if transport is not None else ""
    raise AssertionError(f"{where} {response}, wanted {kind.__name__}")


def refused(response: object) -> str:
    """The errcode of a request that had to fail; AssertionError if it went through."""
    assert isinstance(response, ErrorResponse), f"was not refused: {response}"
    return str(response.status_code)


@dataclass(eq=False)
class Device:
    """One logged-in client with its sync loop. `timeline` holds the events of each room in order of arrival.

    `opened` collects all devices of a test, so that they can be stopped at its end.
    """

    homeserver: str
    store: Path
    opened: list[Device]
    client: AsyncClient = None
    timeline: dict[str, list[Event]] = field(default_factory=dict)
    _syncing: asyncio.Task[None] | None = None

    @classmethod
    async def register(cls, homeserver: str, store: Path, name: str, opened: list[Device]) -> Device:
        """A new account `name` (made unique) and its first device, syncing."""
        device = cls(homeserver, store, opened)
        device._connect("")
        local_part = f"{name}-{uuid4().hex[:8]}"
        answered(await device.client.register(local_part, PASSWORD, "phone"), RegisterResponse)
        device.client.user = device.user_id
        await device._announce()
        return device

    async def another(self, device_name: str) -> Device:
        """The same person logs in with the password on one more device."""
        device = Device(self.homeserver, self.store, self.opened)
        device._connect(self.user_id)
        answered(await device.client.login(PASSWORD, device_name), LoginResponse)
        await device._announce()
        return device

    async def restarted(self) -> Device:
        """The application started again on the same disk: same device, same token, last since-token."""
        device = Device(self.homeserver, self.store, self.opened)
        device._connect(self.user_id)
        device.client.restore_login(self.user_id, self.device_id, self.client.access_token)
        device._start()
        return device

    def _connect(self, user: str) -> None:
        self.store.mkdir(parents=True, exist_ok=True)
        config = AsyncClientConfig(store_sync_tokens=True, max_limit_exceeded=0, max_timeouts=0)
        self.client = AsyncClient(self.homeserver, user, store_path=str(self.store), config=config)
        self.client.add_event_callback(self._on_event, Event)
        self.opened.append(self)

    async def _on_event(self, room: object, event: Event) -> None:
        self.timeline.setdefault(room.room_id, []).append(event)  # type: ignore[attr-defined]

    async def _announce(self) -> None:
        """Publishes the device's keys before anyone can want to write to it."""
        answered(await self.client.sync(), SyncResponse)
        answered(await self.client.keys_upload(), KeysUploadResponse)
        self._start()

    def _start(self) -> None:
        self._syncing = asyncio.create_task(self.client.sync_forever(timeout=LONG_POLL, full_state=True))

    async def pause(self) -> None:
        """Ends the sync loop; the session stays."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
            self._syncing = None

    async def stop(self) -> None:
        """Ends the sync loop and the connections, as closing the application does; the session stays."""
        await self.pause()
        await self.client.close()

    @property
    def user_id(self) -> str:
        return str(self.client.user_id)

    @property
    def device_id(self) -> str:
        return str(self.client.device_id)

    async def until(self, what: str, probe: Callable[[], Seen | None]) -> Seen:
        """Waits until `probe` gives something true and returns it; else AssertionError names `what`."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not (seen := probe()):
            if self._syncing is not None and self._syncing.done():
                raise AssertionError(f"{self.user_id} stopped syncing") from self._syncing.exception()
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{self.user_id} ({self.device_id}) never saw: {what}")
            await asyncio.sleep(0.02)
        return seen

    def texts(self, room_id: str) -> list[str]:
        """The texts shown in the room, oldest first; what could not be decrypted shows as a lock."""
        return [
            event.body if isinstance(event, RoomMessageText) else "🔒"
            for event in self.timeline.get(room_id, [])
            if isinstance(event, RoomMessageText | MegolmEvent)
        ]

    async def sees_text(self, room_id: str, text: str) -> RoomMessageText:
        """Waits for a message with exactly this text."""
        return await self.until(f"text {text!r}", lambda: self._message(room_id, text))

    def _message(self, room_id: str, text: str) -> RoomMessageText | None:
        shown = (event for event in self.timeline.get(room_id, []) if isinstance(event, RoomMessageText))
        return next((event for event in shown if event.body == text), None)

    async def sees_event(self, room_id: str, kind: type[Seen]) -> Seen:
        """Waits for the first event of this class in the room."""
        return await self.until(
            kind.__name__,
            lambda: next((e for e in self.timeline.get(room_id, []) if isinstance(e, kind)), None),
        )

    async def create_room(self, **settings: object) -> str:
        """Creates a room and waits until this device shows it; returns its id."""
        room_id = str(answered(await self.client.room_create(**settings), RoomCreateResponse).room_id)
        await self.until("its new room", lambda: self.client.rooms.get(room_id))
        return room_id

    async def create_encrypted_room(self, **settings: object) -> str:
        """A private room with Megolm switched on from its first moment."""
        return await self.create_room(initial_state=[EnableEncryptionBuilder().as_dict()], **settings)

    async def accept_invite(self, room_id: str) -> None:
        """Waits for the invite, joins, and waits until the room is shown as joined."""
        await self.until("an invite", lambda: self.client.invited_rooms.get(room_id))
        answered(await self.client.join(room_id), JoinResponse)
        await self.until("the joined room", lambda: self.client.rooms.get(room_id))

    async def sees_member(self, room_id: str, user_id: str) -> None:
        """Waits until this user is shown as joined and the keys of their devices are here."""

        def present() -> bool:
            member = self.client.rooms[room_id].users.get(user_id)
            known = user_id in self.client.device_store.users and not self.client.should_query_keys
            return member is not None and not member.invited and known

        await self.until(f"{user_id} in the room", present)

    async def knows_devices(self, *others: Device) -> None:
        """Waits until this client has the keys of the others' devices and has none left to ask for."""

        def known() -> bool:
            store = self.client.device_store
            return not self.client.should_query_keys and all(d.device_id in store[d.user_id] for d in others)

        await self.until("the others' device keys", known)

    async def send(
        self, room_id: str, content: Mapping[str, object], event_type: str = "m.room.message"
    ) -> str:
        """Sends an event (encrypted where the room is) to verified and unverified devices; returns its id."""
        sent = await self.client.room_send(room_id, event_type, content, ignore_unverified_devices=True)
        return str(answered(sent, RoomSendResponse).event_id)

    async def say(self, room_id: str, text: str) -> str:
        """Sends a text message; returns its event id."""
        return await self.send(room_id, {"msgtype": "m.text", "body": text})

    async def device_names(self) -> dict[str, str]:
        """What the "your sessions" page lists: display names by device id."""
        listed = answered(await self.client.devices(), DevicesResponse).devices
        return {device.id: device.display_name for device in listed}
