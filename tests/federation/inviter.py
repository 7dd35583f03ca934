"""A user of another server who invites people of this one; it can lie about all of it."""

from typing import Any
from urllib.parse import quote

from homeserver.protocol.events import Event, event_template, load_event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import content_hash, event_id_of, sign_event
from tests.client_api.conftest import Reply
from tests.federation.servers import V1, V2, OtherServer


class Inviter:
    """Invites into a room that nobody else has seen."""

    def __init__(self, other: OtherServer, version: str) -> None:
        self.other = other
        self.version = ROOM_VERSIONS[version]
        self.user_id = f"@inviter:{other.name}"
        create = self.event("m.room.create", "", {"room_version": version, "creator": self.user_id}, None)
        self.create = create.pdu
        self.room_id = create.room_id

    def event(self, type: str, state_key: str, content: Any, room_id: str | None, **changes: Any) -> Event:
        if type == "m.room.create" and not self.version.room_id_is_create_hash:
            room_id = f"!room:{self.other.name}"
        fields: Any = {
            "room_id": room_id,
            "type": type,
            "sender": self.user_id,
            "state_key": state_key,
            "content": content,
            "prev_events": [],
            "auth_events": [],
            "depth": 1,
            "origin_server_ts": 1_700_000_000_000,
            **changes,
        }
        pdu = {**event_template(self.version, **fields), "origin": self.other.name}
        if not self.version.event_ids_are_hashes:
            pdu["event_id"] = f"$event:{self.other.name}"
        pdu["hashes"] = {"sha256": content_hash(self.version, pdu)}
        pdu = sign_event(self.version, pdu, self.other.name, self.other.peer.key)
        return load_event(self.version, pdu, event_id_of(self.version, pdu))

    async def invite(self, user_id: str, told: Any, *, api: str = V2, expect: int = 200, **how: Any) -> Reply:
        content = how.pop("content", {"membership": "invite"})
        type, room_id = how.pop("type", "m.room.member"), how.pop("room_id", self.room_id)
        event = self.event(type, user_id, content, room_id, **how.pop("changes", {}))
        body: Any = {"room_version": self.version.identifier, "event": event.pdu, "invite_room_state": told}
        body |= how.pop("body", {})
        if api == V1:
            body = {**event.pdu, "unsigned": {"invite_room_state": told}}
        path = f"{api}/invite/{quote(self.room_id)}/{quote(event.event_id, safe='')}"
        return await self.other.call("PUT", path, body, expect=expect, **how)
