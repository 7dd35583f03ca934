"""The contract with other programs: schemas, samples that hold for ever, the AsyncAPI document, the example.

A sample is the value of a record as some release wrote it. Never change one; add one for what is new.
"""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from homeserver.bus.kafka.records import SCHEMA, Records
from homeserver.bus.kafka.topics import MAX_RECORD_BYTES
from homeserver.config.options import Bus as BusOptions
from storage.log import Entry, Kind, ShardMap
from tests.bus.conftest import Join
from tests.storage.entries import ALICE, ROOM, message

REPOSITORY = Path(__file__).parents[2]
SCHEMAS = REPOSITORY / "schemas" / "kafka"
SAMPLES = Path(__file__).parent / "samples"
RECORDS = Records("epoch")
USERS = ShardMap.USER_BASE

BOB = "@bob:example.org"
KEYS = b'{"algorithms":["m.megolm.v1.aes-sha2"],"device_id":"PHONE","keys":{},"user_id":"@alice:example.org"}'
SENT = b'{"content":{"ciphertext":{}},"sender":"@bob:example.org","type":"m.room.encrypted"}'
COPY = b'{"told":true,"stream_id":3,"devices":{"PHONE":{"keys":{}}}}'
EDU = b'{"content":{"messages":{}},"edu_type":"m.direct_to_device"}'
TEXT = b'{"content":{"body":"hello","msgtype":"m.text"},"depth":7,"type":"m.room.message"}'
REPLY = (
    b'{"content":{"body":"hi","m.relates_to":{"event_id":"$root","rel_type":"m.thread"},"msgtype":"m.text"},'
    b'"type":"m.room.message"}'
)
TOPIC = b'{"content":{"topic":"tea"},"state_key":"","type":"m.room.topic"}'

ENTRIES = {
    "room-log/message": (
        3,
        Entry(Kind.EVENT, ROOM, TEXT, "$a", "m.room.message", sender=ALICE, ts=1, seq=12),
    ),
    "room-log/reply": (
        0,
        Entry(Kind.EVENT, ROOM, REPLY, "$b", "m.room.message", None, BOB, "$root", "m.thread", ts=1, seq=13),
    ),
    "room-log/state-event": (
        0,
        Entry(Kind.EVENT, ROOM, TOPIC, "$c", "m.room.topic", "", ALICE, ts=1, meta=b'{"r":4}', seq=14),
    ),
    "room-log/backfilled": (
        0,
        Entry(Kind.EVENT, ROOM, TEXT, "$d", "m.room.message", sender=BOB, ts=1, pos=-40, seq=15),
    ),
    "room-log/state": (0, Entry(Kind.STATE, ROOM, type="m.room.topic", key="", target="$c", ts=1, seq=16)),
    "room-log/state-none": (0, Entry(Kind.STATE, ROOM, type="m.room.topic", key="", ts=1, seq=17)),
    "room-log/state-resolved": (
        0,
        Entry(Kind.STATE, ROOM, TOPIC, type="m.room.topic", key="", sender=ALICE, target="$c", ts=1, seq=17),
    ),
    "room-log/state-late": (
        0,
        Entry(Kind.STATE, ROOM, TOPIC, None, "m.room.topic", "", ALICE, "$c", ts=1, pos=4, seq=25),
    ),
    "room-log/partial": (
        0,
        Entry(Kind.PARTIAL, ROOM, b'{"join":"$a","servers":["there.example"]}', type="state", key="", seq=23),
    ),
    "room-log/whole": (0, Entry(Kind.PARTIAL, ROOM, type="state", key="", seq=24)),
    "room-log/gap": (0, Entry(Kind.GAP, ROOM, seq=21)),
    "room-log/gap-state": (
        0,
        Entry(
            Kind.GAP_STATE,
            ROOM,
            TOPIC,
            type="m.room.topic",
            key="",
            sender=ALICE,
            target="$c",
            ts=1,
            pos=-352321540,
            seq=22,
        ),
    ),
    "room-log/receipt": (
        0,
        Entry(Kind.RECEIPT, ROOM, type="m.read $root", key=BOB, target="$b", ts=1, meta=b"13", seq=18),
    ),
    "room-log/rewritten": (0, Entry(Kind.REWRITTEN, ROOM, target="$a", ts=1, seq=19)),
    "room-log/device-list": (
        0,
        Entry(Kind.DEVICE_LIST, "device_lists", type="", key=ALICE, ts=1, seq=20),
    ),
    "user-log/account-data": (
        USERS,
        Entry(Kind.ACCOUNT_DATA, ALICE, b'{"tags":{}}', type="m.tag", key=ROOM, ts=1, seq=1),
    ),
    "user-log/account-data-deleted": (
        USERS + 2,
        Entry(Kind.ACCOUNT_DATA, ALICE, type="m.direct", key="", ts=1, seq=2),
    ),
    "user-log/to-device": (
        USERS,
        Entry(Kind.TO_DEVICE, ALICE, SENT, type="to_device", key="PHONE", ts=1, seq=3),
    ),
    "user-log/device": (USERS, Entry(Kind.DEVICE_LIST, ALICE, KEYS, type="device", key="PHONE", ts=1, seq=4)),
    "user-log/copy": (USERS, Entry(Kind.DEVICE_LIST, BOB, COPY, type="copy", key="", ts=1, seq=7)),
    "user-log/notice": (USERS, Entry(Kind.NOTICE, ALICE, type="forgotten", key=ROOM, ts=1, seq=5)),
    "user-log/forgotten": (USERS, Entry(Kind.NOTICE, ALICE, b"41", type="forgotten", key=ROOM, ts=1, seq=6)),
    "user-log/outgoing": (USERS, Entry(Kind.OUTGOING, "there.example", EDU, ts=1, seq=8)),
}


def schema(topic: str) -> Any:
    return json.loads((SCHEMAS / f"{topic}.v{SCHEMA}.json").read_text())


FILES = [pytest.param(path, id=str(path.relative_to(SAMPLES))) for path in sorted(SAMPLES.glob("*/*.json"))]


def written(name: str) -> Any:
    """The value of a record as this release writes it."""
    return json.loads(RECORDS.of(*ENTRIES[name], largest=MAX_RECORD_BYTES).value)


@pytest.mark.parametrize("topic", ["room-log", "user-log"])
def test_the_schemas_are_schemas(topic: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(topic))


@pytest.mark.parametrize("path", FILES)
def test_what_any_release_wrote_is_valid_for_ever(path: Path) -> None:
    version = path.parent.name.rpartition(".")[2]
    topic = path.parent.name.removesuffix(f".{version}")
    of_version = json.loads((SCHEMAS / f"{topic}.{version}.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), of_version, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", FILES)
def test_what_any_release_wrote_can_be_read(path: Path) -> None:
    name = f"{path.parent.name.rpartition('.v')[0]}/{path.stem}"
    _, entry = ENTRIES[name]
    version = path.parent.name.rpartition(".v")[2].encode()
    headers = [("schema", version), ("store", b"epoch"), ("meta", entry.meta)]
    assert RECORDS.entry(entry.stream.encode(), path.read_bytes(), headers) == entry


@pytest.mark.parametrize("name", ENTRIES)
def test_what_this_release_writes_is_valid_and_holds_all_that_consumers_know(name: str) -> None:
    topic, _, sample = name.partition("/")
    value = written(name)
    jsonschema.validate(value, schema(topic), cls=jsonschema.Draft202012Validator)
    known = json.loads((SAMPLES / f"{topic}.v{SCHEMA}" / f"{sample}.json").read_text())
    assert {field: value.get(field) for field in known} == known


@pytest.mark.parametrize("name", ENTRIES)
def test_every_field_is_described(name: str) -> None:
    document = schema(name.partition("/")[0])
    value = written(name)
    assert value.keys() <= {*document["properties"], *document["$defs"][value["kind"]]["properties"]}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_record_that_lacks_something_is_not_valid(name: str) -> None:
    topic = name.partition("/")[0]
    document = schema(topic)
    value = written(name)
    for field in (*document["required"], *document["$defs"][value["kind"]]["required"]):
        broken = {key: item for key, item in value.items() if key != field}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, document, cls=jsonschema.Draft202012Validator)


def test_the_asyncapi_document_says_what_the_schemas_and_the_headers_are() -> None:
    path = REPOSITORY / "docs" / "reference" / "asyncapi.yaml"
    document = yaml.safe_load(path.read_text())
    assert (
        re.fullmatch(r"3\.\d+\.\d+", document["asyncapi"]) and {"title", "version"} <= document["info"].keys()
    )
    references = list(_references(document))
    for reference in references:
        file, _, pointer = reference.partition("#")
        target = json.loads((path.parent / file).read_text()) if file else document
        for part in filter(None, pointer.split("/")):
            target = target[part]
    assert {(path.parent / name).resolve() for name in references if not name.startswith("#")} == set(
        SCHEMAS.glob(f"*.v{SCHEMA}.json")
    )
    assert {channel["address"] for channel in document["channels"].values()} == {
        "weft.room-log",
        "weft.user-log",
    }
    headers = document["components"]["schemas"]["headers"]
    record = RECORDS.of(0, message("x", seq=1), largest=MAX_RECORD_BYTES, traceparent=b"00-a-b-01")
    jsonschema.validate({name: value.decode() for name, value in record.headers}, headers)
    assert {name for name, _ in record.headers} == headers["properties"].keys()


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)


async def test_the_example_prints_the_messages_of_a_room(join: Join, bus_options: BusOptions) -> None:
    member = await join()
    other = "!other:example.org"

    def text(seq: int, stream: str, body: str) -> Entry:
        content = json.dumps({"type": "m.room.message", "content": {"body": body}}).encode()
        return message(seq, stream, body=content, seq=seq)

    redaction = message(
        4, type="m.room.redaction", body=json.dumps({"content": {"redacts": "$1"}}).encode(), seq=4
    )
    first = Entry(Kind.EVENT, ROOM, text(1, ROOM, "one").body, "$1", "m.room.message", sender=ALICE, seq=1)
    entries = [first, text(2, other, "elsewhere"), text(3, ROOM, "two"), redaction]
    await member.bus.publish(0, entries)
    await member.bus.publish(0, entries)
    await member.bus.publish(0, [text(5, ROOM, "three")])
    command = [sys.executable, "examples/room_messages.py", bus_options.uri.removeprefix("kafka://"), ROOM]
    process = await asyncio.create_subprocess_exec(
        *command, bus_options.topic_prefix, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        lines = [await asyncio.wait_for(process.stdout.readline(), 30) for _ in range(4)]
    finally:
        process.kill()
        await process.wait()
    assert [line.decode().rstrip() for line in lines] == [
        f"{ALICE}: one",
        f"{ALICE}: two",
        f"(a message of {ALICE} is gone)",
        f"{ALICE}: three",
    ]
