"""A user of another server who is in no room of this one, and comes in as the specification has it."""

from typing import Any
from urllib.parse import quote

from homeserver.protocol.events import parse_pdu
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, content_hash, event_id_of, sign_event
from tests.client_api.conftest import Reply
from tests.federation.servers import V1, V2, OtherServer

VERSIONS = [("ver", version) for version in ROOM_VERSIONS]


def signed(version: str, template: Any, name: str, key: SigningKey, **changes: Any) -> Any:
    """The event of a template, changed, hashed and signed."""
    known = ROOM_VERSIONS[version]
    pdu = {key: value for key, value in {**template, **changes}.items() if key != "origin"}
    if not known.event_ids_are_hashes:
        pdu.setdefault("event_id", f"$of_a_template:{name}")
    pdu["hashes"] = {"sha256": content_hash(known, pdu)}
    return sign_event(known, pdu, name, key)


class Newcomer:
    def __init__(self, other: OtherServer, localpart: str = "newcomer") -> None:
        self.other = other
        self.user_id = f"@{localpart}:{other.name}"

    async def make(self, room_id: str, membership: str = "join", **how: Any) -> Reply:
        """Ask for a template."""
        query = how.pop("query", VERSIONS)
        path = f"{V1}/make_{membership}/{quote(room_id)}/{quote(how.pop('user_id', self.user_id))}"
        return await self.other.call("GET", path, query=query, **how)

    async def event(self, room_id: str, membership: str = "join", **changes: Any) -> tuple[str, Any]:
        """A room's version, and the event that it takes to come in."""
        answer = (await self.make(room_id, membership)).body
        version = answer["room_version"]
        return version, signed(version, answer["event"], self.other.name, self.other.peer.key, **changes)

    async def send(self, room_id: str, version: str, pdu: Any, membership: str = "join", **how: Any) -> Reply:
        """Hand in the event."""
        event_id = how.pop("event_id", None) or event_id_of(ROOM_VERSIONS[version], pdu)
        path = f"{V1 if membership == 'knock' else V2}/send_{membership}"
        return await self.other.call("PUT", f"{path}/{quote(room_id)}/{quote(event_id, safe='')}", pdu, **how)

    async def join(self, room_id: str, **how: Any) -> Any:
        """Join; what the server answers."""
        return (await self.send(room_id, *await self.event(room_id), **how)).body


def ids_of(version: str, pdus: list[Any]) -> set[str]:
    return {parse_pdu(ROOM_VERSIONS[version], pdu).event_id for pdu in pdus}
