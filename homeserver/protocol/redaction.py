"""The redaction algorithm: an event without all that its room does not depend on (spec: rooms, "Redactions").

Signatures and event ids are taken over the redacted form, so that they stay valid when an event is
redacted. What may redact what is for the authorisation rules and for whoever applies redactions.
"""

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion


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
