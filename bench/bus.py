"""What the bus over Kafka costs: python -m bench.bus HOST:PORT (a broker that may be filled with topics).

One replica publishes to four shards, a second one (a process of its own) only follows. CPU is that of each
process, per entry; the publisher follows too, as replicas do. With one entry at a time, it is also said how
long it took to reach the other replica.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from statistics import median

import orjson
import uvloop

from homeserver.bus.bus import Ownership
from homeserver.bus.kafka.bus import KafkaBus
from homeserver.bus.kafka.records import Records
from homeserver.clock import system_clock
from homeserver.config.options import Bus as BusOptions
from storage.log import Entry, Kind, ShardMap
from storage.store import StoreInfo

SHARDS = ShardMap(rooms=4, users=4)
STORE = StoreInfo(epoch="bench", server_name="weft.test", shards=SHARDS, format=1)
SENDER = "@alice:weft.test"
BODY = orjson.dumps(
    {
        "auth_events": ["$" + letter * 43 for letter in "abc"],
        "content": {
            "body": "A message of usual length: see you at nine, and bring the tea",
            "msgtype": "m.text",
        },
        "depth": 1234,
        "hashes": {"sha256": "h" * 43},
        "origin_server_ts": 1_700_000_000_000,
        "prev_events": ["$" + "p" * 43],
        "room_id": "!" + "r" * 43,
        "sender": SENDER,
        "signatures": {"weft.test": {"ed25519:abcdef": "s" * 86}},
        "type": "m.room.message",
    }
)
META = b'{"d":"ABCDEFGHIJ","t":"m1700000000000.1"}'
ENTRIES = 20_000
SINGLE = 400


def entry(seq: int) -> Entry:
    room = "!" + "r" * 43
    return Entry(
        Kind.EVENT, room, BODY, f"${seq:043}", "m.room.message", sender=SENDER, ts=1, meta=META, seq=seq
    )


class Replica:
    """Counts what it is given."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.count = 0
        options = BusOptions(uri=f"kafka://{bootstrap}", topic_prefix=prefix)
        self.bus = KafkaBus(options, STORE, "bench:80", system_clock)
        self.got = asyncio.Event()
        self.announce = False

    def on_entries(self, shard: int, entries: Sequence[Entry]) -> None:
        self.count += len(entries)
        if self.announce:
            self.got.set()

    def on_ownership(self, ownership: Ownership) -> None: ...

    def on_connection(self, connected: bool) -> None:
        print("the bus is", "back" if connected else "away", file=sys.stderr)


async def follow(bootstrap: str, prefix: str, expected: int) -> None:
    """The second replica: says its CPU per entry in µs, and when each single one came."""
    replica = Replica(bootstrap, prefix)
    await replica.bus.start(replica)
    print("ready", flush=True)
    replica.announce = expected == SINGLE
    begun = time.process_time()
    while replica.count < expected:
        if replica.announce:
            await replica.got.wait()
            replica.got.clear()
            print(time.time(), flush=True)
        else:
            await asyncio.sleep(0.02)
    print((time.process_time() - begun) / expected * 1e6, flush=True)
    await replica.bus.close()


async def measure(bootstrap: str, batch: int) -> None:
    """Publish in batches of this size, side by side in all shards; 0: one entry at a time in all."""
    prefix = f"bench-{secrets.token_hex(6)}"
    replica = Replica(bootstrap, prefix)
    await replica.bus.start(replica)
    expected = ENTRIES if batch else SINGLE
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.bus", bootstrap, prefix, str(expected)), stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    await other.stdout.readline()
    entries = [entry(seq) for seq in range(1, ENTRIES // SHARDS.rooms + 1)]
    cpu, clock = time.process_time(), time.monotonic()
    if batch:

        async def fill(shard: int) -> None:
            for i in range(0, len(entries), batch):
                await replica.bus.publish(shard, entries[i : i + batch])

        await asyncio.gather(*map(fill, SHARDS.room_shards()))
    else:
        delays = []
        for i in range(SINGLE):
            sent = time.time()
            await replica.bus.publish(i % SHARDS.rooms, entries[i // SHARDS.rooms : i // SHARDS.rooms + 1])
            delays.append(float(await other.stdout.readline()) - sent)
            await asyncio.sleep(0.02)
    while replica.count < expected:
        await asyncio.sleep(0.005)
    seconds = time.monotonic() - clock
    own = (time.process_time() - cpu) / expected * 1e6
    follows = float(await other.stdout.readline())
    if batch:
        how = f"batches of {batch}: {expected / seconds:.0f}/s"
    else:
        how = f"one at a time: at the other replica after {median(delays) * 1e3:.1f} ms (p50)"
    print(f"{how}; CPU µs per entry: publisher {own:.0f}, follower {follows:.0f}", flush=True)
    await replica.bus.close()
    await other.wait()


def records() -> None:
    """Making and reading records alone."""
    made, one, times = Records("bench"), entry(1), 50_000
    record = made.of(0, one, largest=1 << 20)
    begun = time.process_time()
    for _ in range(times):
        made.of(0, one, largest=1 << 20)
    between = time.process_time()
    for _ in range(times):
        made.entry(*record)
    encode, decode = between - begun, time.process_time() - between
    print(
        f"CPU µs: record of an entry {encode / times * 1e6:.1f}, entry of a record {decode / times * 1e6:.1f}"
    )


async def main(bootstrap: str) -> None:
    records()
    for batch in (0, 1, 5, 20, 100):
        await measure(bootstrap, batch)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) == 3:
        uvloop.run(follow(arguments[0], arguments[1], int(arguments[2])))
    else:
        uvloop.run(main(*arguments))
