"""Whether the key by which an identity server vouched for somebody still holds.

The server by way of which they come into the room asks for that, and nobody else: all have to come to the
same view of the room, whoever can reach the identity server.

spec: client-server "Third-party invites", server behaviour
"""

from yarl import URL

from homeserver.egress.client import Egress, EgressError
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.canonical_json import InvalidJson, loads_strict
from homeserver.protocol.event_auth import third_party_key
from homeserver.protocol.json_types import JsonObject

SECONDS = 15.0
MAX_BYTES = 4096


async def check_key(egress: Egress, waiting: JsonObject, signed: JsonObject) -> None:
    """Ask where the room says that its key can be asked for. `waiting` is the content of the state event.

    Raises 403 for a key that was withdrawn, 502 where there is no answer. A signature by no key of the event
    is left to the auth rules.
    """
    key = third_party_key(waiting, signed)
    url = None if key is None else key.get("key_validity_url")
    if key is None or url is None:
        return
    try:
        target = URL(url).update_query(public_key=key["public_key"])
        if target.scheme not in ("http", "https"):
            raise ValueError(f"{target.scheme} is not to be asked")
        answer = await egress.fetch("GET", target, seconds=SECONDS, max_bytes=MAX_BYTES)
        valid = loads_strict(answer.body).get("valid")
    except (EgressError, InvalidJson, ValueError, TypeError) as error:
        raise MatrixError(
            502, "M_UNKNOWN", "It cannot be asked whether the key of the invite is valid"
        ) from error
    if valid is not True:
        raise forbidden("The key of the invite is not valid any more")
