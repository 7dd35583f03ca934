"""How long a server with many stored events takes to start: python -m bench.startup [EVENTS]

The events are messages of usual size in a thousand rooms, put into the store through its port: to send a
million would take an hour. The consumers of the log have handled them, as when a server was stopped.
"""

import os
import sys
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median

import orjson
import uvloop
from msgspec.structs import replace

from bench.weft import Weft
from storage.log import Entry, Kind, ShardMap
from storage.records.cursors import CURSORS
from storage.sqlite import open_store

EVENTS = 1_000_000
ROOMS = 1_000
AT_ONCE = 250
STARTS = 5
SHARD = 0


def _hash(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()).decode().rstrip("=")


def _message(number: int) -> Entry:
    room_id = "!" + _hash(f"room {number % ROOMS}")
    sender = f"@user{number % 97}:weft.test"
    pdu = {
        "auth_events": ["$" + _hash(f"{rule} of {room_id}") for rule in ("create", "levels", "member")],
        "content": {"body": f"Message {number}: see you at nine, and bring the tea", "msgtype": "m.text"},
        "depth": number // ROOMS,
        "hashes": {"sha256": _hash(f"content {number}")},
        "origin_server_ts": 1_700_000_000_000 + number,
        "prev_events": ["$" + _hash(f"event {number - ROOMS}")],
        "room_id": room_id,
        "sender": sender,
        "signatures": {"weft.test": {"ed25519:a_bench": 2 * _hash(f"signature {number}")}},
        "type": "m.room.message",
    }
    return Entry(
        kind=Kind.EVENT,
        stream=room_id,
        body=orjson.dumps(pdu),
        event_id="$" + _hash(f"event {number}"),
        type="m.room.message",
        sender=sender,
        ts=1_700_000_000_000 + number,
    )


def runs(count: int) -> Iterator[list[Entry]]:
    """Messages, so many at once as go into the store together."""
    for first in range(0, count, AT_ONCE):
        yield [_message(number) for number in range(first, min(first + AT_ONCE, count))]


async def fill(path: Path, count: int) -> None:
    """Puts messages into the store of a server that is down."""
    store = await open_store(str(path), server_name="weft.test", shards=ShardMap(1, 1), specs=[CURSORS])
    tail = await store.log.tail(SHARD)
    for entries in runs(count):
        tail = await store.log.append(SHARD, tail, entries)
    cursors = store.collection(CURSORS)
    await cursors.put_many([replace(c, seq=tail) for c in await cursors.find("key") if c.shard == SHARD])
    await store.close()


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="weft-startup-") as folder:
        server = Weft(Path(folder), os.sched_getaffinity(0))
        empty = await server.start()
        await server.stop()
        await fill(Path(folder) / "data" / "weft.db", count)
        starts = []
        for _ in range(STARTS):
            starts.append(await server.start())
            size = server.disk_bytes()
            await server.stop()
    print(f"start of an empty server: {empty.seconds:.2f} s, {empty.rss_mib:.0f} MiB")
    print(
        f"start with {count} events: {median(s.seconds for s in starts):.2f} s on the clock,"
        f" {median(s.cpu_seconds for s in starts):.2f} s of CPU, {median(s.rss_mib for s in starts):.0f} MiB"
        f" (medians of {STARTS}); {(size - empty.disk_bytes) / count:.0f} bytes on disk for each"
    )


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))
