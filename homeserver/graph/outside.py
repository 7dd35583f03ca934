"""Memberships of rooms that this server is not in: its users are invited, or knock, and that comes to an end.

Such a member event is state of its room, as far as that is known here, without a place in its timeline, and
has with it what its user may be shown of the room.
"""

from collections.abc import Callable

from homeserver.graph.receiving import state_entry
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import server_name_of
from homeserver.rooms.event_meta import EventMeta, Preview, encode_meta
from homeserver.rooms.room import RoomHead, view_of
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.shard_writer import Appended, Drafts
from storage.log import Entry

Decide = Callable[[RoomEvent | None], Preview | None]
"""What the user may be shown with an event, given the one that stands in its place; None: it stays."""


class Outside:
    """Writes such memberships down."""

    def __init__(self, rooms: Rooms, server_name: str) -> None:
        self._rooms = rooms
        self._server_name = server_name

    async def note(self, event: Event, preview: Preview) -> None:
        """Make a member event current, unless this server is in the room by now. Raises MatrixError 503."""
        await self._submit(event, lambda current: preview)

    async def note_own(self, event: Event, preview: Preview, before: RoomEvent | None) -> None:
        """Make current what a user did by way of another server, which has answered. Raises MatrixError 503.

        `before` is what stood there when that began. What has come since and follows upon it stays: whoever
        knocks may be invited sooner than the answer is here.
        """

        def decide(current: RoomEvent | None) -> Preview | None:
            if current is None or (before is not None and current.event_id == before.event_id):
                return preview
            return preview if current.depth <= event.depth else None

        await self._submit(event, decide)

    async def end(self, event: Event) -> bool:
        """Whether an event of another server ends an invite or a knock; it does so by being current.

        What entitles somebody to that is not known outside. It is left to the server that told of the room,
        and to the inviter's. What came before the invite ends nothing, though it arrives later: an invite is
        told at once, a kick or the end of a ban when its turn comes. Raises MatrixError 503.
        """
        if event.type != "m.room.member" or event.content.get("membership") not in ("leave", "ban"):
            return False

        def decide(current: RoomEvent | None) -> Preview | None:
            if current is None or current.preview is None or current.membership not in ("invite", "knock"):
                return None
            entitled = {current.preview.server, server_name_of(current.sender)}
            if server_name_of(event.sender) not in entitled or event.depth < current.depth:
                return None
            return Preview(room_version=event.version.identifier, server=current.preview.server)

        return await self._submit(event, decide)

    async def _submit(self, event: Event, decide: Decide) -> bool:
        # In memory it is known what the room is when this is written.
        await self._rooms.get(event.room_id)
        shard = self._rooms.shards.of_room(event.room_id)
        return await self._rooms.writers[shard].submit(
            _Proposal(self._rooms, event, decide, self._server_name)
        )


class _Proposal:
    """Its result is whether the event has become current."""

    def __init__(self, rooms: Rooms, event: Event, decide: Decide, server_name: str) -> None:
        self._rooms = rooms
        self._event = event
        self._decide = decide
        self._server_name = server_name
        self._is_current = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        event = self._event
        self._is_current = False
        room = self._rooms.cached(event.room_id)
        if room is not None and takes_part(room, self._server_name):
            return []
        head: RoomHead = drafts.get(event.room_id) or (room.head if room is not None else RoomHead())
        current = head.state.get(event.state_tuple)
        preview = self._decide(current)
        if preview is None or (current is not None and current.event_id == event.event_id):
            return []
        meta = EventMeta(preview=preview)
        entry = state_entry(event.room_id, *event.state_tuple, event, next_seq, meta=encode_meta(meta))
        view = view_of(entry, meta, head.state)
        drafts[event.room_id] = head._replace(state=head.state.set(event.state_tuple, view))
        self._is_current = True
        return [Appended(entry, view)]

    def result(self) -> bool:
        return self._is_current

    def duplicate(self, existing: Entry) -> bool:
        return False
