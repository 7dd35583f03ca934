"""Making this server's own events: build on the head, check against it, hash, sign.

A `RoomProposal` is what a request wants to put into a room. It is drafted on the room as it is when
its batch is committed, so what the auth rules say is said about the state the event really follows
(spec: server-server "Authorization rules"; client-server "Sending events to a room").
"""

from collections.abc import Callable, Mapping, Sequence
from secrets import token_urlsafe

import msgspec

from homeserver.clock import Clock
from homeserver.errors import bad_json, forbidden, too_large
from homeserver.protocol.canonical_json import InvalidJson, check_value
from homeserver.protocol.event_auth import AuthError, MalformedLevels, auth_event_keys, check_auth
from homeserver.protocol.events import (
    MAX_PREV_EVENTS,
    Event,
    EventFields,
    EventTooLarge,
    InvalidEvent,
    build_event,
    event_template,
    load_event,
)
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import SigningKey, encode_event
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.policy import Policy, is_recommended, policy_server
from homeserver.rooms.room import Room, RoomHead, StateKey
from homeserver.rooms.room_event import RoomEvent
from homeserver.shard_writer import Appended, Drafts
from storage.log import Entry

MAX_DEPTH = (1 << 53) - 1
NONE_SIGNED: Mapping[str, Event] = {}


class EventTemplate(msgspec.Struct, frozen=True):
    """An event that a local user wants to send."""

    type: str
    sender: str
    content: JsonObject
    state_key: str | None = None
    redacts: str | None = None
    redacts_key: StateKey | None = None
    """The state key of the redacted event, when that is one of state."""
    ts: int | None = None
    """origin_server_ts in ms; the time of building when None."""


class Transaction(msgspec.Struct, frozen=True):
    """The client's request behind an event: the same digest never makes a second event.

    Of an event that was delayed there is a `delay_id` in place of the rest.
    """

    digest: bytes
    device_id: str | None = None
    txn_id: str | None = None
    delay_id: str | None = None


class Unsigned(Exception):
    """The room's policy server has to sign an event first."""

    def __init__(self, event: Event) -> None:
        super().__init__(event.event_id)
        self.event = event


class Author:
    """Signs events in the name of this server."""

    def __init__(self, server_name: str, key: SigningKey, now: Clock, policy: Policy) -> None:
        self.server_name = server_name
        self.key = key
        self.now = now
        self.policy = policy

    def new_room_id(self, version: RoomVersion, create: EventTemplate) -> str:
        """The id of a room that begins with `create`: its hash, or a random one before version 12.

        Raises MatrixError 413 or 400, as `draft`.
        """
        if not version.room_id_is_create_hash:
            return f"!{token_urlsafe(14)}:{self.server_name}"
        event, _ = self._build(version, self._fields(version, None, RoomHead(), create))
        return event.room_id

    def _fields(
        self, version: RoomVersion, room_id: str | None, head: RoomHead, template: EventTemplate
    ) -> EventFields:
        """What the event is when it follows upon `head`."""
        keys = auth_event_keys(version, template.type, template.sender, template.state_key, template.content)
        auth_events = {
            known.event_id: known.reference_hash for key in keys if (known := head.lookup(*key)) is not None
        }
        hashes = None
        if not version.event_ids_are_hashes:
            hashes = {event_id: hash for event_id, hash in auth_events.items() if hash is not None}
            hashes.update(head.tip_hashes)
        return EventFields(
            room_id=room_id,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
            prev_events=head.tips[-MAX_PREV_EVENTS:],
            auth_events=list(auth_events),
            depth=min(head.depth + 1, MAX_DEPTH),
            origin_server_ts=self.now() if template.ts is None else template.ts,
            redacts=template.redacts,
            reference_hashes=hashes,
        )

    def _build(self, version: RoomVersion, fields: EventFields) -> tuple[Event, bytes]:
        try:
            return build_event(version, server_name=self.server_name, key=self.key, **fields)
        except EventTooLarge as error:
            raise too_large(str(error)) from error
        except (InvalidEvent, InvalidJson) as error:
            raise bad_json(str(error)) from error

    async def event(self, room: Room, template: EventTemplate) -> Event:
        """The event upon all that the room has, not to be there before another server has agreed.

        Raises what `draft` does, and what the room's policy server says.
        """
        head = room.head
        event, _ = self._build(room.version, self._fields(room.version, room.room_id, head, template))
        _check_allowed(event, head)
        return await self.policy.signed(room, head, event)

    def for_another(self, room: Room, template: EventTemplate) -> JsonObject:
        """The event upon all that the room has, for a user of another server, who has to sign it.

        Raises MatrixError 403 by the auth rules.
        """
        pdu = event_template(room.version, **self._fields(room.version, room.room_id, room.head, template))
        _check_allowed(load_event(room.version, pdu, ""), room.head)
        return pdu

    def check(self, room: Room, template: EventTemplate) -> None:
        """Raises MatrixError 403 unless the auth rules allow the event upon all that the room has."""
        self.for_another(room, template)

    def draft(
        self,
        room: Room,
        head: RoomHead,
        template: EventTemplate,
        seq: int,
        transaction: Transaction | None,
        signed: Mapping[str, Event] = NONE_SIGNED,
    ) -> tuple[Appended, RoomHead]:
        """The event as the log entry `seq`, and the head after it.

        `signed` has events that the room's policy server has signed. Raises Unsigned for one that it has yet
        to sign, MatrixError: 403 by the auth rules, 413 too large, 400 for content no event may hold.
        """
        version = room.version
        is_create = template.type == "m.room.create" and not head.tips
        room_id = None if is_create and version.room_id_is_create_hash else room.room_id
        event, body = self._build(version, self._fields(version, room_id, head, template))
        if event.event_id in signed:
            event = signed[event.event_id]
            body = encode_event(version, event.pdu)
        _check_allowed(event, head)
        if not is_recommended(policy_server(room, head), event):
            raise Unsigned(event)
        meta = EventMeta(
            device_id=transaction.device_id if transaction else None,
            txn_id=transaction.txn_id if transaction else None,
            delay_id=transaction.delay_id if transaction else None,
            redacts_key=template.redacts_key,
            # In the name of another server's user only what a third party vouches for is sent.
            relay=server_name_of(template.sender) != self.server_name,
            tips=(*beyond, event.event_id) if (beyond := head.tips[:-MAX_PREV_EVENTS]) else (),
        )
        return event_entry(event, body, head, seq, meta, txn=transaction.digest if transaction else None)


def _check_allowed(event: Event, head: RoomHead) -> None:
    """Raises 403 unless the auth rules allow the event, 400 for power levels that are none."""
    try:
        check_auth(event.version, event, head.lookup)
    except MalformedLevels as error:
        raise bad_json(str(error)) from error
    except AuthError as error:
        raise forbidden(str(error)) from error


def check_content(content: JsonObject) -> None:
    """Refuse content that canonical JSON has no form for. Raises 400 M_BAD_JSON."""
    try:
        check_value(content)
    except InvalidJson as error:
        raise bad_json(str(error)) from error


Decide = Callable[[RoomHead], Sequence[EventTemplate]]
"""What to send, given the room as it will be; raises MatrixError to send nothing."""


class RoomProposal:
    """Events for one room, appended together. Its result is the events in memory form."""

    def __init__(
        self, author: Author, room: Room, decide: Decide, transaction: Transaction | None = None
    ) -> None:
        self._author = author
        self._room = room
        self._decide = decide
        self._transaction = transaction
        self._views: list[RoomEvent] = []
        self._ts: int | None = None
        """When the events were made that wait for a signature."""
        self.signed: dict[str, Event] = {}
        """Events by id, with the signature of the room's policy server."""
        self.unsigned: Event | None = None
        """What it has to sign before anything is appended."""

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        head: RoomHead = drafts.get(self._room.room_id) or self._room.head
        built: list[Appended] = []
        self._views, self.unsigned = [], None
        for template in self._decide(head):
            if template.ts is None and self._ts is not None:
                template = msgspec.structs.replace(template, ts=self._ts)
            seq = next_seq + len(built)
            try:
                item, head = self._author.draft(
                    self._room, head, template, seq, self._transaction, self.signed
                )
            except Unsigned as error:
                self.unsigned = error.event
                self._ts = error.event.origin_server_ts
                return []
            built.append(item)
        drafts[self._room.room_id] = head
        self._views = [item.view for item in built if item.view is not None]
        return built

    def result(self) -> list[str]:
        """Event ids, in order."""
        return [view.event_id for view in self._views]

    def duplicate(self, existing: Entry) -> list[str]:
        return [existing.event_id or ""]


def same_state(head: RoomHead, template: EventTemplate) -> bool:
    """Whether the template would set a state key to what it is already, by the same sender."""
    if template.state_key is None:
        return False
    current = head.state.get((template.type, template.state_key))
    return current is not None and current.sender == template.sender and current.content == template.content
