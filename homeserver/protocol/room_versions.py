"""Room versions as a table of features (spec: rooms).

A room's version says which rules hold in it. Each entry is made from the one before by naming what
changed; nobody compares version numbers, code asks for the feature it is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType


class EventIdFormat(Enum):
    """What an event's id is."""

    CHOSEN = "chosen"
    """`$opaque:domain`, chosen by the origin and part of the event."""
    HASH = "hash"
    """`$` and the reference hash in standard Base64; not part of the event."""
    URL_SAFE_HASH = "url_safe_hash"
    """`$` and the reference hash in URL-safe Base64; not part of the event."""


class StateResolution(Enum):
    """Which algorithm makes one state out of several."""

    V1 = "v1"
    V2 = "v2"
    V2_1 = "v2.1"
    """v2 that starts from nothing and replays the conflicted state subgraph."""


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """What an event keeps when it is redacted."""

    top_level: frozenset[str]
    content: Mapping[str, frozenset[str]]
    """Event type → the keys of content that stay; no other content does."""
    whole_content: frozenset[str] = frozenset()
    """Event types whose content stays as it is."""
    nested: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """Event type → key of content that stays an object → the keys within it that stay."""

    def with_content(self, event_type: str, *keys: str) -> "RedactionRules":
        """These rules, with more keys kept in events of one type."""
        kept = self.content.get(event_type, frozenset()) | frozenset(keys)
        return replace(self, content=MappingProxyType({**self.content, event_type: kept}))


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """The features of one room version."""

    identifier: str
    event_id_format: EventIdFormat
    state_resolution: StateResolution
    redaction: RedactionRules
    max_depth: int
    """The greatest `depth` an event may have."""

    strict_canonical_json: bool = False
    """Events with floats or integers beyond 53 bits are invalid."""
    enforce_key_validity: bool = False
    """A signing key must be valid at the event's timestamp."""
    field_limits_in_bytes: bool = False
    """Type and state key have 255 bytes at most. In earlier versions other servers make events in which those
    have 255 characters, and all that follow upon such an event need it."""

    special_aliases_auth: bool = False
    """`m.room.aliases` events are allowed by domain, not by power."""
    redaction_auth: bool = False
    """Whether a redaction may be is an authorisation rule, not a matter of applying it."""
    notifications_power_check: bool = False
    """Changes of `notifications` levels need the power to make them."""
    integer_power_levels: bool = False
    """Power levels are integers, and not strings or floats that may be read as such."""
    knocking: bool = False
    restricted_joins: bool = False
    knock_restricted: bool = False
    implicit_room_creator: bool = False
    """The creator is the create event's sender, with no `creator` in its content."""
    redacts_in_content: bool = False
    """What a redaction redacts stands in its content."""
    room_id_is_create_hash: bool = False
    """The room id is the create event's id under another sigil. The create event has no `room_id`,
    and no event names it among its `auth_events`."""
    privileged_creators: bool = False
    """The creators stand above every power level; there may be additional ones."""

    @property
    def event_ids_are_hashes(self) -> bool:
        """If not, `event_id` is part of the event, and references to events carry hashes."""
        return self.event_id_format is not EventIdFormat.CHOSEN


_V1_REDACTION = RedactionRules(
    top_level=frozenset(
        {
            "event_id",
            "type",
            "room_id",
            "sender",
            "state_key",
            "content",
            "hashes",
            "signatures",
            "depth",
            "prev_events",
            "prev_state",
            "auth_events",
            "origin",
            "origin_server_ts",
            "membership",
        }
    ),
    content=MappingProxyType(
        {
            "m.room.member": frozenset({"membership"}),
            "m.room.create": frozenset({"creator"}),
            "m.room.join_rules": frozenset({"join_rule"}),
            "m.room.power_levels": frozenset(
                {
                    "ban",
                    "events",
                    "events_default",
                    "kick",
                    "redact",
                    "state_default",
                    "users",
                    "users_default",
                }
            ),
            "m.room.aliases": frozenset({"aliases"}),
            "m.room.history_visibility": frozenset({"history_visibility"}),
        }
    ),
)
_V6_REDACTION = replace(
    _V1_REDACTION,
    content=MappingProxyType({t: keys for t, keys in _V1_REDACTION.content.items() if t != "m.room.aliases"}),
)
_V8_REDACTION = _V6_REDACTION.with_content("m.room.join_rules", "allow")
_V9_REDACTION = _V8_REDACTION.with_content("m.room.member", "join_authorised_via_users_server")
_V11_REDACTION = replace(
    _V9_REDACTION.with_content("m.room.power_levels", "invite").with_content("m.room.redaction", "redacts"),
    top_level=_V9_REDACTION.top_level - {"origin", "membership", "prev_state"},
    whole_content=frozenset({"m.room.create"}),
    nested=MappingProxyType({"m.room.member": {"third_party_invite": frozenset({"signed"})}}),
)

_V1 = RoomVersion(
    identifier="1",
    event_id_format=EventIdFormat.CHOSEN,
    state_resolution=StateResolution.V1,
    redaction=_V1_REDACTION,
    max_depth=2**63 - 1,
    special_aliases_auth=True,
    redaction_auth=True,
)
_V2 = replace(_V1, identifier="2", state_resolution=StateResolution.V2)
_V3 = replace(_V2, identifier="3", event_id_format=EventIdFormat.HASH, redaction_auth=False)
_V4 = replace(_V3, identifier="4", event_id_format=EventIdFormat.URL_SAFE_HASH)
_V5 = replace(_V4, identifier="5", enforce_key_validity=True)
_V6 = replace(
    _V5,
    identifier="6",
    strict_canonical_json=True,
    max_depth=2**53 - 1,
    redaction=_V6_REDACTION,
    special_aliases_auth=False,
    notifications_power_check=True,
)
_V7 = replace(_V6, identifier="7", knocking=True)
_V8 = replace(_V7, identifier="8", restricted_joins=True, redaction=_V8_REDACTION)
_V9 = replace(_V8, identifier="9", redaction=_V9_REDACTION)
_V10 = replace(_V9, identifier="10", knock_restricted=True, integer_power_levels=True)
_V11 = replace(
    _V10,
    identifier="11",
    field_limits_in_bytes=True,
    redaction=_V11_REDACTION,
    implicit_room_creator=True,
    redacts_in_content=True,
)
_V12 = replace(
    _V11,
    identifier="12",
    state_resolution=StateResolution.V2_1,
    room_id_is_create_hash=True,
    privileged_creators=True,
)

ROOM_VERSIONS: Mapping[str, RoomVersion] = MappingProxyType(
    {
        version.identifier: version
        for version in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)
    }
)
"""Room version identifier → its features; all of them are stable."""

DEFAULT_ROOM_VERSION = "12"
"""The version of a room when its creator names none."""
