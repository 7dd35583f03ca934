"""What the routes of `federation.events` and `federation.handshakes` answer."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from federation.resident import Resident
from homeserver.graph.told import ToldGraph
from homeserver.protocol.json_types import JsonObject

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"

Query = Mapping[str, Sequence[str]]


async def answer_to(
    told: ToldGraph, resident: Resident, origin: str, target: str, content: JsonObject
) -> JsonObject:
    """Raises MatrixError."""
    parts = urlsplit(target)
    path = parts.path.removeprefix(V1).removeprefix(V2)
    what, *names = [unquote(part) for part in path.removeprefix("/").split("/")]
    query = parse_qs(parts.query)
    if what == "make_join":
        return await resident.template(origin, names[0], names[1], "join", query["ver"])
    if what == "send_join":
        omit_members = query.get("omit_members") == ["true"]
        return await _let_in(told, resident, origin, names, content, omit_members=omit_members)
    return await _told_by(told, origin, what, names, query, content)


async def _let_in(
    told: ToldGraph,
    resident: Resident,
    origin: str,
    names: Sequence[str],
    content: JsonObject,
    *,
    omit_members: bool,
) -> JsonObject:
    room = await resident.room(names[0], origin)
    servers = sorted(room.servers)
    event = await resident.take(origin, room, names[1], "join", content)
    state, chain = await told.joined(room, event.event_id, omit_members=omit_members)
    return {
        "members_omitted": omit_members,
        "servers_in_room": servers,
        "state": _events(state),
        "auth_chain": _events(chain),
    }


async def _told_by(
    told: ToldGraph, origin: str, what: str, names: Sequence[str], query: Query, content: JsonObject
) -> JsonObject:
    if what == "event":
        return {"pdus": _events([await told.event(names[0], origin)])}
    if what == "state_ids":
        state_ids, chain_ids = await told.state_ids(names[0], query["event_id"][0], origin)
        return {"pdu_ids": state_ids, "auth_chain_ids": chain_ids}
    if what == "state":
        state, chain = await told.state(names[0], query["event_id"][0], origin)
        return {"pdus": _events(state), "auth_chain": _events(chain)}
    if what == "event_auth":
        return {"auth_chain": _events(await told.auth_chain(names[0], names[1], origin))}
    if what == "backfill":
        limit = int(query["limit"][0])
        return {"pdus": _events(await told.backfill(names[0], query["v"], origin, limit=limit))}
    assert what == "get_missing_events", what
    found = await told.missing(
        names[0],
        origin,
        latest=content["latest_events"],
        earliest=content["earliest_events"],
        min_depth=content["min_depth"],
        limit=content["limit"],
    )
    return {"events": _events(found)}


def _events(bodies: Sequence[bytes]) -> list[Any]:
    return [orjson.loads(body) for body in bodies]
