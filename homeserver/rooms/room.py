"""A room in use, in memory: what it is now, and its last events already serialized for clients.

Nothing here reads a database or decides anything. `RoomHead` is the part that the next event is
built on and checked against; it is an immutable value, so a batch of events can be drafted on it
and thrown away. `Room.apply` takes what was appended to the log, in order, and is the only way in
which a room changes.

spec: client-server "Events", "Types of room events"; DESIGN of state as a timeline: docs/architecture.md
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import immutables
import msgspec
import orjson

from homeserver.clock import Clock, credible
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.event_meta import EventMeta, decode_meta
from homeserver.rooms.fragments import Fragments
from homeserver.rooms.reading_order import gap_of, in_gap
from homeserver.rooms.redaction import after_redaction
from homeserver.rooms.room_event import RoomEvent, make_room_event
from storage.log import Entry, Kind

StateKey = tuple[str, str]
StateMap = immutables.Map[StateKey, RoomEvent]

CREATE = ("m.room.create", "")
VISIBILITY = ("m.room.history_visibility", "")
PAST_DECIDING = frozenset({CREATE, VISIBILITY})
"""Where these came without an event of the timeline, who might see what of the past is not known from now."""

NO_HASHES: Mapping[str, str] = {}
EMPTY_STATE: StateMap = immutables.Map()
BUMPING = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "m.beacon_info",
    }
)
TIMELINE_KEPT = 100
PAST_KEPT = 4000
"""Events of a timeline together with what was read of the past, while nothing is sent."""
RECEIPTS_KEPT = 200
GAPS_KEPT = 100
"""Gaps of a timeline that are still filled; the newest ones of more."""


class RoomHead(NamedTuple):
    """What the next event follows: current state, forward extremities, greatest depth."""

    state: StateMap = EMPTY_STATE
    tips: tuple[str, ...] = ()
    depth: int = 0
    tip_hashes: Mapping[str, str] = NO_HASHES
    """Reference hashes of the tips, in the room versions that name them (1 and 2)."""

    def lookup(self, type: str, state_key: str) -> RoomEvent | None:
        """The current state event of a key; the `StateLookup` of the auth rules."""
        return self.state.get((type, state_key))

    def advance(self, event: RoomEvent, tips: tuple[str, ...], *, current: bool = True) -> "RoomHead":
        """The head after an event; `tips` are then the extremities if it is not the only one.

        A state event that is not `current` forked the room, and what it would set is set otherwise.
        """
        state = self.state
        if event.state_key is not None and current:
            state = state.set((event.type, event.state_key), event)
        hashes = {event.event_id: event.reference_hash} if event.reference_hash is not None else NO_HASHES
        if tips and self.tip_hashes:
            hashes = {tip: hash for tip, hash in {**self.tip_hashes, **hashes}.items() if tip in tips}
        return RoomHead(state, tips or (event.event_id,), max(self.depth, event.depth), hashes)

    def without(self, key: StateKey) -> "RoomHead":
        """The head in which nothing stands under `key`."""
        return self if key not in self.state else self._replace(state=self.state.delete(key))

    def redacted(
        self, version: RoomVersion, redaction: RoomEvent, key: StateKey, room_id_json: bytes
    ) -> "RoomHead":
        """The head after the redaction of an event that is or was current under `key`."""
        current = self.state.get(key)
        if current is None:
            return self
        left = after_redaction(version, self.lookup, current, redaction, room_id_json)
        return self._replace(state=self.state.set(key, left))


class Receipt(NamedTuple):
    """A read receipt as the room knows it. `kind` is the receipt type, `thread_id` None when unthreaded."""

    seq: int
    user_id: str
    kind: str
    thread_id: str | None
    event_id: str
    ts: int
    position: int
    """Of the event that was read."""


class Activity(NamedTuple):
    """When something happened; what orders rooms. Positions alone say nothing across shards."""

    ts: int
    """Never beyond this server's clock: who lies about the time keeps no room at the top."""
    position: int


class Partial(msgspec.Struct, frozen=True):
    """What is known of a room whose members are not, all of them: the body of a PARTIAL entry."""

    join: str
    """The event that brought the room here. The state before it is what is missing."""
    servers: tuple[str, ...]
    """Those in the room, as one of them said, which comes first."""


class Room:
    """The aggregate. Positions are sequence numbers of the room's shard."""

    def __init__(self, room_id: str, shard: int, version: RoomVersion, now: Clock) -> None:
        self.room_id = room_id
        self.room_id_json = orjson.dumps(room_id)
        self.shard = shard
        self.version = version
        self.head = RoomHead()
        self.last_seq = 0
        """The last entry of any kind that was applied."""
        self.timeline: list[RoomEvent] = []
        """The newest live events in order, all of them above `timeline_after`."""
        self.timeline_after = 0
        self.joined: set[str] = set()
        self.servers: Counter[str] = Counter()
        """How many of them are from which server."""
        self.present_since: dict[str, int] = {}
        """Server → a position since which it has been there all the time, and maybe longer."""
        self.invited: set[str] = set()
        self.receipts: dict[str, dict[tuple[str, str | None], Receipt]] = {}
        """User → (kind, thread) → newest receipt."""
        self.receipt_seqs: dict[str, int] = {}
        """User → seq of the newest of their receipts."""
        self.receipt_order: list[Receipt] = []
        """The newest receipts in order, all above `receipts_after`."""
        self.receipts_after = 0
        self.fragments = Fragments()
        self.size = 2000
        """Bytes of the state and the timeline, roughly."""
        self.created_ts = 0
        self.resolved_at = 0
        """The newest position at which state changed with no event of the timeline."""
        self.partial: Partial | None = None
        """None once all of the state is known."""
        self.learnt = range(0)
        """Among the sequence numbers of these is the state that was learnt late."""
        self.gaps = {0: in_gap(0, 0)}
        """Gap of the timeline → the lowest position of what was fetched into it; its upper end: nothing was.
        Gap 0 is what was before the first event."""
        self.fetched = 0
        """Another number whenever something is fetched."""
        self.is_whole = False
        """Whether the log has the room from its first event on."""
        self.was_told = False
        """Whether what the room is has been told, rather than seen: its past may have been another."""
        self.bumped = Activity(0, 0)
        """The newest event that people would call activity (MSC4186 "bump stamp")."""
        self._now = now

    # What the room is

    def state_content(self, type: str, state_key: str = "") -> JsonObject:
        """The content of a current state event, {} when there is none."""
        event = self.head.state.get((type, state_key))
        return event.content if event is not None else {}

    def membership_of(self, user_id: str) -> str | None:
        """The current membership, None for somebody who never was in the room."""
        if user_id in self.joined:
            return "join"
        event = self.head.state.get(("m.room.member", user_id))
        return event.membership if event is not None else None

    @property
    def is_encrypted(self) -> bool:
        return ("m.room.encryption", "") in self.head.state

    @property
    def name(self) -> object:
        return self.state_content("m.room.name").get("name")

    @property
    def room_type(self) -> object:
        return self.state_content("m.room.create").get("type")

    @property
    def history_visibility(self) -> str:
        value = self.state_content("m.room.history_visibility").get("history_visibility")
        return value if isinstance(value, str) else "shared"

    @property
    def always_shared(self) -> bool:
        """Whether members have always been allowed to see all of the room's history."""
        if self.was_told:
            return False
        event = self.head.state.get(VISIBILITY)
        if event is None:
            return True
        return self.history_visibility in ("shared", "world_readable") and not event.unsigned()

    @property
    def join_rule(self) -> str:
        value = self.state_content("m.room.join_rules").get("join_rule")
        return value if isinstance(value, str) else "invite"

    def first_after(self, position: int) -> int:
        """Index in `timeline` of the first event above `position`."""
        return bisect_right(self.timeline, position, key=_position)

    def boundary(self, position: int) -> int:
        """The position of the event after which `position` falls, if that event is in memory."""
        index = self.first_after(position)
        return self.timeline[index - 1].position if index else position

    def related_to(self) -> Mapping[str, set[str]]:
        """The events that those in `timeline` relate to, each with the types of these relations.

        An event comes after what it relates to: of events in `timeline`, these are all that have relations.
        """
        related = self.fragments.get("related to", dict)
        if related is None:
            related = {}
            for event in self.timeline:
                if event.rel_type is not None and event.relates_to:
                    related.setdefault(event.relates_to, set()).add(event.rel_type)
            self.fragments.keep("related to", related)
        return related

    def after_redactions(self, event: RoomEvent) -> RoomEvent:
        """What an event that was read is after the redactions in memory: the log may not be pruned yet."""
        redactions = self.fragments.get("redactions", dict)
        if redactions is None:
            # Of several the first is told of.
            redacting = [each for each in reversed(self.timeline) if each.redacts and each.state_key is None]
            redactions = self.fragments.keep("redactions", {each.redacts: each for each in redacting})
        if not redactions:
            return event
        redaction = redactions.get(event.event_id) or redactions.get(event.unsigned().get("replaces_state"))
        if redaction is None:
            return event
        return after_redaction(self.version, self.head.lookup, event, redaction, self.room_id_json)

    def memory(self) -> int:
        """Bytes of memory, roughly; for the budget."""
        return self.size + self.fragments.size

    # How it changes

    def apply(self, entry: Entry, view: RoomEvent | None = None) -> RoomEvent | None:
        """Take one entry of the log. `view` is its in-memory form if the caller has it. Returns that form.

        Entries that were seen are passed over, so applying is idempotent.
        """
        if entry.seq <= self.last_seq:
            return None
        self.last_seq = entry.seq
        self.fragments.clear()
        kind = entry.kind
        if entry.is_past:
            if kind is Kind.EVENT:
                self._note_past(entry)
            return None
        if kind is Kind.EVENT:
            return self._apply_event(entry, view)
        if kind is Kind.STATE:
            return self._apply_state(entry, view)
        if kind is Kind.RECEIPT:
            self.apply_receipt(receipt_of(entry))
        elif kind is Kind.GAP:
            self.note_gap(entry.seq)
        elif kind is Kind.PARTIAL:
            self.apply_partial(entry)
        return None

    def _apply_event(self, entry: Entry, view: RoomEvent | None) -> RoomEvent | None:
        meta = decode_meta(entry.meta)
        if view is None:
            view = view_of(entry, meta, self.head.state)
        current = meta.state_key is None
        if view.state_key is not None and current:
            self._weigh((view.type, view.state_key), view)
        self.head = self.head.advance(view, meta.tips, current=current)
        if view.state_key is not None and current:
            if view.type == "m.room.member":
                self.note_member(view)
            elif (view.type, view.state_key) == CREATE:
                self._note_create(view)
                self.is_whole = True
        elif view.redacts is not None and view.state_key is None:
            self.redact(view, meta.redacts_key)
        self.add_to_timeline(view)
        self.note_activity(view)
        if len(self.timeline) > 2 * TIMELINE_KEPT:
            self._trim()
        return view

    def _apply_state(self, entry: Entry, view: RoomEvent | None) -> RoomEvent | None:
        """Make another event current, or none."""
        self.resolved_at = entry.seq
        key = (entry.type or "", entry.key or "")
        self.was_told |= key in PAST_DECIDING
        if entry.pos is not None:
            self.learnt = range(self.learnt.start or entry.seq, entry.seq + 1)
            current = self.head.state.get(key)
            if current is not None and current.position > entry.pos:
                return None
        if entry.target is None:
            self._weigh(key, None)
            self.head = self.head.without(key)
            if entry.type == "m.room.member":
                self._part(key[1])
                self.invited.discard(key[1])
            return None
        if view is None:
            view = view_of(entry, decode_meta(entry.meta), self.head.state)
        self._weigh(key, view)
        self.head = self.head._replace(state=self.head.state.set(key, view))
        if view.type == "m.room.member":
            self.note_member(view)
        elif key == CREATE:
            self._note_create(view)
        return view

    def _weigh(self, key: StateKey, event: RoomEvent | None) -> None:
        """Keep `size` in step with the state, under a key of which there is about to be an event, or none."""
        current = self.head.state.get(key)
        if current is not None:
            self.size -= current.size()
        if event is not None:
            self.size += event.size()

    def apply_partial(self, entry: Entry) -> None:
        """Take it that members are missing, or are not any more. Till then those servers are in the room that
        are said to be."""
        for server in self.partial.servers if self.partial is not None else ():
            self._part_from(server)
        self.partial = _partial_of(entry.body) if entry.body else None
        for server in self.partial.servers if self.partial is not None else ():
            self._meet(server, entry.seq)

    def _meet(self, server: str, position: int) -> None:
        """Count a member of a server, who joined at a position or before."""
        self.servers[server] += 1
        self.present_since[server] = min(self.present_since.get(server, position), position)

    def _part_from(self, server: str) -> None:
        self.servers[server] -= 1
        if not self.servers[server]:
            del self.servers[server], self.present_since[server]

    def note_gap(self, gap: int, lowest: int | None = None) -> None:
        """Keep in mind that the timeline has a gap, filled down to a position."""
        self.gaps[gap] = in_gap(gap, 0) if lowest is None else lowest
        if len(self.gaps) > GAPS_KEPT:
            del self.gaps[min(gap for gap in self.gaps if gap)]
        self.fetched = sum(self.gaps.values())

    def _note_past(self, entry: Entry) -> None:
        """History has come from elsewhere: nothing that the room is now changes."""
        gap = gap_of(entry.position)
        if gap in self.gaps:
            self.note_gap(gap, min(self.gaps[gap], entry.position))
        self.is_whole |= entry.type == "m.room.create" and gap == 0

    def _note_create(self, create: RoomEvent) -> None:
        """Take from the create event what it says; before, this server may have been told otherwise."""
        self.created_ts = create.ts
        self.version = version_in(create.content)

    def add_to_timeline(self, event: RoomEvent) -> None:
        """Add the newest event."""
        self.timeline.append(event)
        self.size += event.size()

    def note_activity(self, event: RoomEvent | Entry) -> None:
        """Keep `bumped` in step with an event of the timeline. It never goes back, though clocks may."""
        if event.type in BUMPING and event.position > 0:
            activity = Activity(credible(event.ts, self._now()), event.position)
            self.bumped = max(self.bumped, activity)

    def begins_in(self, gap: int) -> bool:
        """Whether a gap has come down to the room's first event."""
        return gap == 0 and self.is_whole

    def keep_past(self, page: Sequence[RoomEvent]) -> int:
        """Put what was just read of the past, newest first, before `timeline`; how many events that were.

        `page` has no holes, and begins at or above the oldest event in memory.
        """
        older = [event for event in reversed(page) if 0 < event.position <= self.timeline_after]
        if not older or len(older) + len(self.timeline) > PAST_KEPT:
            return 0
        self.fragments.clear()
        self.timeline[:0] = older
        self.timeline_after = older[0].position - 1
        self.size += sum(event.size() for event in older)
        return len(older)

    def note_member(self, member: RoomEvent) -> None:
        """Keep `joined` and `invited` in step with a current member event."""
        user_id = member.state_key
        assert user_id is not None
        membership = member.membership
        if membership == "join":
            if user_id not in self.joined:
                self.joined.add(user_id)
                self._meet(server_name_of(user_id), member.position)
        else:
            self._part(user_id)
        if membership == "invite":
            self.invited.add(user_id)
        else:
            self.invited.discard(user_id)

    def _part(self, user_id: str) -> None:
        if user_id in self.joined:
            self.joined.discard(user_id)
            self._part_from(server_name_of(user_id))

    def apply_receipt(self, receipt: Receipt) -> None:
        self.receipts.setdefault(receipt.user_id, {})[receipt.kind, receipt.thread_id] = receipt
        self.receipt_seqs[receipt.user_id] = max(receipt.seq, self.receipt_seqs.get(receipt.user_id, 0))
        self.receipt_order.append(receipt)
        if len(self.receipt_order) > 2 * RECEIPTS_KEPT:
            self.receipts_after = self.receipt_order[RECEIPTS_KEPT - 1].seq
            del self.receipt_order[:RECEIPTS_KEPT]

    def find(self, event_id: str) -> RoomEvent | None:
        """An event among the newest ones in memory."""
        for event in reversed(self.timeline):
            if event.event_id == event_id:
                return event
        return None

    def redact(self, redaction: RoomEvent, key: StateKey | None) -> None:
        """Show what is left of the redacted event, whose state key is `key`, and of the copies of it."""
        lookup = self.head.lookup
        for i, event in enumerate(self.timeline):
            if event.event_id == redaction.redacts or (event.type, event.state_key) == key:
                left = after_redaction(self.version, lookup, event, redaction, self.room_id_json)
                self.size += left.size() - event.size()
                self.timeline[i] = left
        if key is not None:
            head = self.head.redacted(self.version, redaction, key, self.room_id_json)
            self._weigh(key, head.state.get(key))
            self.head = head

    def _trim(self) -> None:
        dropped = self.timeline[:-TIMELINE_KEPT]
        del self.timeline[:-TIMELINE_KEPT]
        self.timeline_after = dropped[-1].position
        self.size -= sum(event.size() for event in dropped)


_partial_of = msgspec.json.Decoder(Partial).decode


def partial_entry(room_id: str, partial: Partial | None) -> Entry:
    """The entry by which a room becomes partial, or whole."""
    body = b"" if partial is None else msgspec.json.encode(partial)
    return Entry(Kind.PARTIAL, room_id, body, type="state", key="")


def _position(event: RoomEvent) -> int:
    return event.position


def version_in(content: JsonObject) -> RoomVersion:
    """The room version that the content of an accepted create event names."""
    return ROOM_VERSIONS[content.get("room_version", "1")]


def sets_state(entry: Entry) -> bool:
    """Whether the entry makes an event current under a state key."""
    if entry.kind is Kind.STATE:
        return entry.target is not None
    return entry.kind is Kind.EVENT and entry.key is not None


def view_of(entry: Entry, meta: EventMeta, state: StateMap) -> RoomEvent:
    """The in-memory form of an EVENT or STATE entry that follows `state`."""
    unsigned: JsonObject = {}
    if entry.key is not None and entry.type is not None:
        replaced = state.get((entry.type, entry.key))
        if replaced is not None:
            unsigned = replaced_state(replaced)
    return make_room_event(entry, meta, unsigned)


def replaced_state(replaced: RoomEvent) -> JsonObject:
    """What `unsigned` says of the state event that was current before (spec: client-server UnsignedData)."""
    return {
        "replaces_state": replaced.event_id,
        "prev_content": replaced.content,
        "prev_sender": replaced.sender,
    }


def receipt_of(entry: Entry) -> Receipt:
    """A RECEIPT entry as a value; its type is "kind" or "kind thread_id"."""
    assert entry.type is not None and entry.key is not None
    kind, _, thread_id = entry.type.partition(" ")
    position = int(entry.meta) if entry.meta else 0
    return Receipt(entry.seq, entry.key, kind, thread_id or None, entry.target or "", entry.ts, position)
