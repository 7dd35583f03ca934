"""The redaction algorithm: an event without all that its room does not depend on (spec: rooms, "Redactions").

Signatures and event ids are taken over the redacted form, so that they stay valid when an event is
redacted. That a redaction is accepted does not say that it takes effect: `redactor_suffices` does.
"""

from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import RoomVersion


def redactor_suffices(version: RoomVersion, redactor: str, target_sender: str, levels: PowerLevels) -> bool:
    """Whether an accepted redaction of this sender redacts an event of that one in the same room.

    What a server lets its own users do may be less: there the same server is not enough.
    """
    # In room versions 1 and 2 the authorisation rules have decided.
    # spec: rooms/v3#handling-redactions
    return (
        version.redaction_auth
        or levels.user_level(redactor) >= levels.redact
        or server_name_of(redactor) == server_name_of(target_sender)
    )


def redact(version: RoomVersion, pdu: JsonObject) -> JsonObject:
    """The redacted copy of an event in its federation format; shares the parts that stay."""
    rules = version.redaction
    kept = rules.top_level
    redacted = {key: value for key, value in pdu.items() if key in kept}
    event_type, content = pdu.get("type"), pdu.get("content")
    if not isinstance(event_type, str) or not isinstance(content, dict):
        redacted["content"] = {}
        return redacted
    if event_type in rules.whole_content:
        return redacted
    keys = rules.content.get(event_type)
    redacted["content"] = {k: value for k, value in content.items() if k in keys} if keys else {}
    for key, inner_keys in rules.nested.get(event_type, {}).items():
        inner = content.get(key)
        if isinstance(inner, dict):
            redacted["content"][key] = {k: value for k, value in inner.items() if k in inner_keys}
    return redacted
