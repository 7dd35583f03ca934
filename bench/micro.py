"""Micro-benchmarks: what the parts of the core cost, each by itself, in microseconds per operation.

CPU is the process's, all threads; where a part waits for the disk, the time on the clock stands beside
it (the database lies in the folder for temporary files, $TMPDIR). The middle one of five runs counts.
Room version 12 throughout.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import nacl.signing
import orjson
from aiokafka.protocol.fetch import FetchRequest_v4, FetchResponse_v4

from homeserver.bus.kafka.records import Records
from homeserver.protocol import canonical_json, event_auth, push_evaluation, server_acl
from homeserver.protocol.events import Event, build_event, parse_pdu
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.push_rule_edits import add_rule
from homeserver.protocol.push_rules import PushRules, RuleKind
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, VerifyKey, encode_base64, verify_event_signatures
from homeserver.protocol.state_resolution import resolve
from homeserver.shard_writer import Append, ShardWriter
from homeserver.since_tokens import SyncToken, decode_sync_token
from storage.log import Entry, Kind, ShardMap
from storage.mongo.documents import to_document, to_entry
from storage.sqlite import open_store

_RUNS = 5
_RUN_SECONDS = 0.08
_APPENDS = 1500

_SERVER = "weft.test"
_VERSION = ROOM_VERSIONS["12"]
_KEY = SigningKey.from_seed("bench", bytes(32))
_NOW = 1_700_000_000_000


class Cost(NamedTuple):
    """Microseconds per operation."""

    name: str
    cpu: float
    clock: float | None = None


def _cost(name: str, operation: Callable[[], object]) -> Cost:
    """Runs the operation again and again."""
    started = time.process_time()
    operation()
    batch = max(1, int(_RUN_SECONDS / 10 / max(1e-7, time.process_time() - started)))
    batch = min(batch, 10_000)
    runs = []
    for _ in range(_RUNS):
        calls, begun = 0, time.process_time()
        while (spent := time.process_time() - begun) < _RUN_SECONDS:
            for _ in range(batch):
                operation()
            calls += batch
        runs.append(spent / calls)
    return Cost(name, median(runs) * 1e6)


class _Room:
    """A public room with a creator and members, as its events; every member joined by itself."""

    def __init__(self, members: int) -> None:
        self.creator = f"@creator:{_SERVER}"
        self.room_id: str | None = None
        self.events: dict[str, Event] = {}
        self.state: dict[tuple[str, str], Event] = {}
        self._last: tuple[str, ...] = ()
        create = self.add("m.room.create", self.creator, "", {"room_version": _VERSION.identifier})
        self.room_id = create.room_id
        self.add("m.room.member", self.creator, self.creator, {"membership": "join"})
        self.add("m.room.power_levels", self.creator, "", {"users": {}, "events": {"m.room.name": 50}})
        self.add("m.room.join_rules", self.creator, "", {"join_rule": "public"})
        self.members = [f"@member{number}:{_SERVER}" for number in range(members)]
        for member in self.members:
            self.add("m.room.member", member, member, {"membership": "join"})

    def build(
        self, type: str, sender: str, state_key: str | None, content: JsonObject
    ) -> tuple[Event, bytes]:
        """An event on top of the room, not put into it."""
        keys = event_auth.auth_event_keys(_VERSION, type, sender, state_key, content)
        return build_event(
            _VERSION,
            room_id=self.room_id,
            type=type,
            sender=sender,
            state_key=state_key,
            content=content,
            prev_events=self._last,
            auth_events=[self.state[key].event_id for key in keys if key in self.state],
            depth=len(self.events) + 1,
            origin_server_ts=_NOW + len(self.events),
            server_name=_SERVER,
            key=_KEY,
        )

    def add(self, type: str, sender: str, state_key: str, content: JsonObject) -> Event:
        event, _ = self.build(type, sender, state_key, content)
        self.events[event.event_id] = event
        self.state[event.state_tuple] = event
        self._last = (event.event_id,)
        return event

    def lookup(self, type: str, state_key: str) -> Event | None:
        return self.state.get((type, state_key))


_TEXT: JsonObject = {"msgtype": "m.text", "body": "the quick brown fox jumps over the lazy dog"}


def _events() -> Iterator[Cost]:
    room = _Room(20)
    sender = room.members[7]
    message, encoded = room.build("m.room.message", sender, None, _TEXT)
    keys = {_SERVER: {_KEY.key_id: VerifyKey(_public_key())}}
    yield _cost("canonical JSON of a message", lambda: canonical_json.encode(message.pdu))
    yield _cost("check the shape of a message", lambda: canonical_json.check_shape(message.pdu))
    yield _cost("read a message strictly", lambda: canonical_json.loads_strict(encoded))
    yield _cost("build_event: hash, sign, encode", lambda: room.build("m.room.message", sender, None, _TEXT))
    yield _cost("parse_pdu of a message", lambda: parse_pdu(_VERSION, message.pdu))
    yield _cost("check its signature", lambda: verify_event_signatures(_VERSION, message.pdu, keys))
    yield _cost("redact it", lambda: redact(_VERSION, message.pdu))


def _public_key() -> str:
    return encode_base64(bytes(nacl.signing.SigningKey(bytes(32)).verify_key))


def _auth() -> Iterator[Cost]:
    room = _Room(20)
    message, _ = room.build("m.room.message", room.members[7], None, _TEXT)
    newcomer = f"@newcomer:{_SERVER}"
    join, _ = room.build("m.room.member", newcomer, newcomer, {"membership": "join"})
    levels, _ = room.build(
        "m.room.power_levels", room.creator, "", {"users": dict.fromkeys(room.members, 50), "events": {}}
    )
    for what, event in (("a message", message), ("a join", join), ("power levels of 20 users", levels)):
        event_auth.check_auth(_VERSION, event, room.lookup)
        yield _cost(f"auth check of {what}", partial(event_auth.check_auth, _VERSION, event, room.lookup))


def _resolution() -> Iterator[Cost]:
    for members in (20, 1000):
        room = _Room(members)
        base = {key: event.event_id for key, event in room.state.items()}
        forks: list[Mapping[tuple[str, str], str]] = []
        for side in range(2):
            fork = dict(base)
            topic, _ = room.build("m.room.topic", room.creator, "", {"topic": f"side {side}"})
            changed = [topic]
            for member in room.members[side * 5 : side * 5 + 10]:
                content = {"membership": "leave", "reason": f"side {side}"}
                changed.append(room.build("m.room.member", member, member, content)[0])
            for event in changed:
                room.events[event.event_id] = event
                fork[event.state_tuple] = event.event_id
            forks.append(fork)
        yield _cost(
            f"resolve two states that differ in 16 keys, {members} members",
            partial(resolve, _VERSION, forks, room.events),
        )


def _push() -> Iterator[Cost]:
    event: JsonObject = {
        "content": _TEXT,
        "event_id": "$" + "a" * 43,
        "origin_server_ts": _NOW,
        "room_id": "!" + "b" * 43,
        "sender": f"@sender:{_SERVER}",
        "type": "m.room.message",
    }
    user = f"@member:{_SERVER}"

    def facts() -> push_evaluation.EventFacts:
        return push_evaluation.EventFacts(event, member_count=1000, sender_level=0, notification_levels={})

    rules = PushRules()
    for word in ("giraffe", "weft", "lazy cat"):
        rules = add_rule(rules, RuleKind.CONTENT, word, {"pattern": word, "actions": ["notify"]})
    compiled = push_evaluation.compile_rules(rules, user)
    shared = facts()
    yield _cost(
        "push: default rules, for all members at once", lambda: push_evaluation.evaluate_defaults(facts())
    )
    yield _cost(
        "push: one more user with 3 keywords", lambda: push_evaluation.evaluate(compiled, shared, "Member")
    )
    yield _cost("push: compile a user's rules", lambda: push_evaluation.compile_rules(rules, user))


def _small() -> Iterator[Cost]:
    token = SyncToken(1234, 56, (123456,))
    text = token.encode("0123456789abcdef")
    yield _cost("sync token, make", lambda: token.encode("0123456789abcdef"))
    yield _cost("sync token, read", lambda: decode_sync_token(text, "0123456789abcdef", 1))
    deny = [f"*.bad{number}.example" for number in range(100)]
    content = {"allow": ["*"], "deny": deny}
    yield _cost("server ACL with 100 denials, compile", lambda: server_acl.compile_acl(content))
    acl = server_acl.compile_acl(content)
    yield _cost("server ACL with 100 denials, ask", lambda: acl.allows("matrix.example.org"))


def _appends() -> Iterator[Cost]:
    for concurrency in (1, 10, 50):
        yield asyncio.run(_append(concurrency))


async def _append(concurrency: int) -> Cost:
    """Messages to one shard through its writer, which gathers what waits into one commit."""
    room = _Room(2)
    bodies = [
        room.build("m.room.message", room.creator, None, {**_TEXT, "number": number})
        for number in range(_APPENDS)
    ]
    ready = iter(
        [
            Entry(
                kind=Kind.EVENT,
                stream=event.room_id,
                body=encoded,
                event_id=event.event_id,
                type=event.type,
                sender=event.sender,
                ts=event.origin_server_ts,
                meta=orjson.dumps({}),
            )
            for event, encoded in bodies
        ]
    )
    with tempfile.TemporaryDirectory(prefix="weft-micro-") as folder:
        store = await open_store(
            str(Path(folder) / "weft.db"), server_name=_SERVER, shards=ShardMap(1, 1), specs=[]
        )
        writer = ShardWriter(0, store.log, 0, lambda shard, appended: None, lambda shard, tail: None)

        async def worker() -> None:
            for entry in ready:
                await writer.submit(Append([entry]))

        cpu, clock = time.process_time(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        await store.close()
    return Cost(f"SQLite append, {concurrency} at once", cpu / _APPENDS * 1e6, clock / _APPENDS * 1e6)


def _records() -> Iterator[Cost]:
    """What each entry costs its owner and whoever reads along, beside the client of Kafka."""
    room = _Room(2)
    message, encoded = room.build("m.room.message", room.creator, None, _TEXT)
    entry = Entry(
        kind=Kind.EVENT,
        stream=message.room_id,
        body=encoded,
        event_id=message.event_id,
        type=message.type,
        sender=message.sender,
        ts=message.origin_server_ts,
        meta=orjson.dumps({"d": "ABCDEFGHIJ", "t": "m1700000000000.1"}),
        seq=1,
    )
    records = Records("epoch")
    record = records.of(0, entry, largest=1 << 20)
    yield _cost("record of an entry", lambda: records.of(0, entry, largest=1 << 20))
    yield _cost("entry of a record", lambda: records.entry(*record))
    document = to_document(0, 1, entry)
    yield _cost("document of an entry", lambda: to_document(0, 1, entry))
    yield _cost("entry of a document", lambda: to_entry(document))
    for partitions in (2, 32):
        places = [(partition, 1000, 1 << 20) for partition in range(partitions)]
        request = FetchRequest_v4(-1, 500, 1, 8 << 20, 0, [("weft.room-log", places)])
        nothing: list[tuple[Any, ...]] = [
            (partition, 0, 1000, 1000, [], b"") for partition in range(partitions)
        ]
        answer = FetchResponse_v4(0, [("weft.room-log", nothing)]).encode()
        yield _cost(f"write a request to Kafka for {partitions} partitions", request.encode)
        yield _cost("read its answer", partial(_read_answer, answer))


def _read_answer(answer: bytes) -> object:
    return FetchResponse_v4.decode(BytesIO(answer))


_GROUPS: dict[str, Callable[[], Iterator[Cost]]] = {
    "events": _events,
    "auth": _auth,
    "resolution": _resolution,
    "push": _push,
    "small": _small,
    "append": _appends,
    "records": _records,
}


def run(names: Sequence[str]) -> int:
    """Prints the costs of the named groups, or of all. The exit status."""
    if unknown := [name for name in names if name not in _GROUPS]:
        print(f"no group {', '.join(unknown)}; there are {', '.join(_GROUPS)}")
        return 2
    print(f"{'':55} CPU µs  clock µs")
    for name in names or _GROUPS:
        for cost in _GROUPS[name]():
            clock = "" if cost.clock is None else f"{cost.clock:10.1f}"
            print(f"{cost.name:55}{cost.cpu:7.1f}{clock}", flush=True)
    return 0
