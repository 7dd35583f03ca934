"""The one gate for events of other servers, whichever way they come: format, signatures, hash.

What does not pass is dropped. An event whose content is not the one that was hashed goes on as a redaction
leaves it. What the rules of the room make of an event is for `homeserver.graph`.

spec: server-server#checks-performed-on-receipt-of-a-pdu, 1 to 3
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from federation.key_ring import KeyRing
from homeserver.errors import MatrixError, bad_json, invalid_param
from homeserver.protocol.canonical_json import InvalidJson
from homeserver.protocol.events import BadJson, Event, InvalidEvent, parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import InvalidSignature, check_content_hash, event_id_of

AT_ONCE = 50
"""Read in one go in a thread, which is worth it for more than a few."""
FEW = 8
MAX_FACE = 100
"""Events by which a room is shown to those outside."""


class Dropped(NamedTuple):
    """An event that is none, or that its servers did not sign."""

    event_id: str | None
    """None where it cannot be told."""
    reason: str


class Gate:
    """Lets events in that are what their servers signed."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def admit(
        self, version: RoomVersion, room_id: str, pdus: Sequence[JsonObject]
    ) -> list[Event | Dropped]:
        """For each PDU its event, or why it is none of this room's. Raises StoreError."""
        read: list[Event | Dropped] = []
        for first in range(0, len(pdus), AT_ONCE):
            some = pdus[first : first + AT_ONCE]
            if len(pdus) <= FEW:
                read += _read(version, room_id, some)
            else:
                read += await asyncio.to_thread(_read, version, room_id, some)
        events = [event for event in read if isinstance(event, Event)]
        problems = iter(await self._ring.verify([(version, event.pdu) for event in events]))
        return [_verified(each, next(problems)) if isinstance(each, Event) else each for each in read]

    async def check_signed(self, server: str, event: Event) -> None:
        """Raises InvalidSignature unless a server has signed an event that passed, and StoreError."""
        await self._ring.check_signed(server, event.version, event.pdu)

    async def admitted(self, version: RoomVersion, room_id: str, pdus: Sequence[JsonObject]) -> list[Event]:
        """The events of those PDUs that pass. Raises StoreError."""
        return [each for each in await self.admit(version, room_id, pdus) if isinstance(each, Event)]

    async def face(self, version: RoomVersion, room_id: str, told: Sequence[Any]) -> Sequence[Any]:
        """What is believed of what a server tells those outside of its room. Raises StoreError.

        In versions before those whose rooms are named by the create event servers send stripped events,
        which nobody signed.
        """
        if not version.room_id_is_create_hash:
            return told[:MAX_FACE]
        return [event.pdu for event in await self.admitted(version, room_id, told[:MAX_FACE])]


def _verified(event: Event, problem: InvalidSignature | None) -> Event | Dropped:
    return event if problem is None else Dropped(event.event_id, str(problem))


def _read(version: RoomVersion, room_id: str, pdus: Sequence[JsonObject]) -> list[Event | Dropped]:
    read: list[Event | Dropped] = []
    for pdu in pdus:
        try:
            read.append(_event(version, room_id, pdu))
        except InvalidEvent as error:
            read.append(Dropped(claimed_id(version, pdu), str(error)))
    return read


def unchecked_event(version: RoomVersion, pdu: JsonObject) -> Event:
    """What a PDU says of itself, for those who want to know it before they look closely.

    Raises InvalidEvent for what is none.
    """
    if isinstance(pdu, dict) and "unsigned" in pdu:
        # Nobody signed it.
        pdu = {key: value for key, value in pdu.items() if key != "unsigned"}
    return parse_pdu(version, pdu)


def no_event(error: InvalidEvent) -> MatrixError:
    """What a server is told that hands in a single event which is none (spec: rooms/v6 "Canonical JSON")."""
    return bad_json(str(error)) if isinstance(error, BadJson) else invalid_param(str(error))


def _event(version: RoomVersion, room_id: str, pdu: JsonObject) -> Event:
    event = unchecked_event(version, pdu)
    if event.room_id != room_id:
        raise InvalidEvent(f"it is an event of {event.room_id}")
    if check_content_hash(version, event.pdu):
        return event
    return parse_pdu(version, redact(version, event.pdu))


def claimed_id(version: RoomVersion, pdu: JsonObject) -> str | None:
    """By which its sender knows a PDU, be it an event or not."""
    try:
        event_id = event_id_of(version, pdu)
    except (InvalidJson, KeyError, TypeError, AttributeError):
        return None
    return event_id if isinstance(event_id, str) else None
