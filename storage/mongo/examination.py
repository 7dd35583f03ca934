"""Looks at the database for what may lose or slow things down, and changes nothing."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from pymongo import IndexModel
from pymongo.errors import OperationFailure

from storage.mongo.connection import Connection
from storage.mongo.faults import reading
from storage.mongo.lease import occupants
from storage.store import Examination, Remark

ENOUGH_MEMBERS = 3


async def examine(connection: Connection, wanted: Mapping[str, Sequence[IndexModel]]) -> Examination:
    """`wanted`: the indexes by collection. Raises StoreUnavailable."""
    with reading():
        admin = connection.database.client.admin
        hello = await admin.command("hello")
        remarks = [remark async for remark in _indexes(connection, wanted)]
        if "setName" in hello:
            try:
                members = (await admin.command("replSetGetStatus"))["members"]
            except OperationFailure:  # Not every user may ask.
                members = []
            remarks += _members(connection.where, hello, members)
        elif hello.get("msg") != "isdbgrid":
            text = f"MongoDB at {connection.where} is a server by itself: what its disk loses is lost"
            remarks.append(Remark(False, text, "make it a replica set of three members (--replSet)"))
    server_time = int(hello["localTime"].timestamp() * 1000)
    return Examination(remarks, server_time, await occupants(connection))


def _members(where: str, hello: Mapping[str, Any], members: Iterable[Mapping[str, Any]]) -> list[Remark]:
    hosts = len(hello.get("hosts", ()))
    remarks = []
    if hosts < ENOUGH_MEMBERS:
        text = f"the replica set at {where} has {hosts} member{'s' if hosts > 1 else ''} with data"
        remarks.append(Remark(False, text, "have three, so that one may fail"))
    for member in members:
        if not member["health"]:
            text = f"member {member['name']} of the replica set is down"
            remarks.append(Remark(False, text, "bring it back: with one more down nothing is written"))
    return remarks


async def _indexes(
    connection: Connection, wanted: Mapping[str, Sequence[IndexModel]]
) -> AsyncIterator[Remark]:
    for collection, models in wanted.items():
        stored = await connection.database[collection].index_information()
        for model in models:
            document = dict(model.document)
            if document["name"] not in stored:
                keys = json.dumps(dict(document.pop("key")))
                options = json.dumps({name: value for name, value in document.items() if value is not False})
                yield Remark(
                    True,
                    f"the index {document['name']} of {collection} is missing",
                    f"in mongosh: db.{collection}.createIndex({keys}, {options})",
                )
