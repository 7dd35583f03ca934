"""Random appends, removals and rewrites: every read gives what a plain list would."""

import random

import pytest

from storage.log import Entry, KeyedRef, Kind, Log, ShardMap
from tests.storage.contract.model import ModelShard
from tests.storage.entries import event_id

SHARDS = (0, 1, ShardMap.USER_BASE)
STREAMS = ("!a:x", "!b:x", "@u:x")
TYPES = ("m.room.message", "m.room.member", "m.room.topic", "m.reaction")
KEYS = ("", "@u:x", "@v:x", "DEVICE")
REL_TYPES = ("m.annotation", "m.thread")
STEPS = 40


class World:
    """A log and its model, changed in the same random way."""

    def __init__(self, log: Log, seed: int) -> None:
        self.log = log
        self.rng = random.Random(seed)
        self.shards = {shard: ModelShard() for shard in SHARDS}
        self.made = 0

    def entry(self) -> Entry:
        rng = self.rng
        self.made += 1
        kind = rng.choice((Kind.EVENT, Kind.EVENT, Kind.EVENT, Kind.STATE, Kind.RECEIPT, Kind.ACCOUNT_DATA))
        keyed = kind is not Kind.EVENT or rng.random() < 0.5
        relates = rng.random() < 0.4
        return Entry(
            kind,
            rng.choice(STREAMS),
            rng.randbytes(rng.choice((0, 5, 40, 300))),
            event_id(self.made) if kind is Kind.EVENT else None,
            rng.choice(TYPES),
            rng.choice(KEYS) if keyed else None,
            rng.choice((None, "@u:x", "@v:x")),
            event_id(rng.randrange(1, 20)) if relates or kind is Kind.STATE else None,
            rng.choice(REL_TYPES) if relates and kind is Kind.EVENT else None,
            rng.randbytes(16) if rng.random() < 0.3 else None,
            rng.randrange(10**9),
            rng.randbytes(rng.choice((0, 10))),
            -self.made if kind is Kind.EVENT and rng.random() < 0.2 else None,
        )

    async def change(self) -> None:
        shard = self.rng.choice(SHARDS)
        model = self.shards[shard]
        roll = self.rng.random()
        if roll < 0.75 or not model.entries:
            entries = [self.entry() for _ in range(self.rng.randrange(1, 12))]
            assert await self.log.append(shard, model.tail, entries) == model.tail + len(entries)
            model.append(entries)
        elif roll < 0.9:
            seqs = self.rng.sample(range(1, model.tail + 1), min(5, model.tail))
            await self.log.remove(shard, seqs)
            model.remove(seqs)
        else:
            seq, body = self.rng.randrange(1, model.tail + 1), self.rng.randbytes(50)
            await self.log.rewrite(shard, seq, body, body[:3])
            model.rewrite(seq, body, body[:3])

    async def compare(self) -> None:
        for shard, model in self.shards.items():
            assert await self.log.tail(shard) == model.tail
            after, limit = self.rng.randrange(-1, model.tail + 2), self.rng.randrange(1, 60)
            assert await self.log.read(shard, max(after, 0), limit) == model.read(max(after, 0), limit)
            assert await self.log.streams(shard, limit=9) == model.streams()
            for stream in STREAMS:
                await self._compare_stream(shard, model, stream)
            kind, type, key = self.rng.choice(list(Kind)), self.rng.choice(TYPES), self.rng.choice(KEYS)
            found = await self.log.streams_keyed(range(shard, shard + 1), kind, type, key)
            assert found == model.streams_keyed(kind, type, key)
            ids = [event_id(self.rng.randrange(1, self.made + 1)) for _ in range(8)]
            assert await self.log.by_event_id(shard, ids) == model.by_event_id(ids)

    async def _compare_stream(self, shard: int, model: ModelShard, stream: str) -> None:
        rng, log = self.rng, self.log
        after = rng.choice((None, rng.randrange(-self.made, model.tail + 2)))
        before = rng.choice((None, rng.randrange(-self.made, model.tail + 2)))
        newest_first, limit = rng.random() < 0.5, rng.choice((1, 3, 10, 100))
        kind, type, key = rng.choice(list(Kind)), rng.choice(TYPES), rng.choice(KEYS)

        def paged(entries: list[Entry]) -> list[Entry]:
            return model.page(entries, after, before, newest_first, limit)

        page = await log.page(
            shard, stream, kind=kind, after=after, before=before, newest_first=newest_first, limit=limit
        )
        assert page == paged([entry for entry in model.stream(stream) if entry.kind is kind])
        history = await log.keyed(
            shard,
            stream,
            kind=kind,
            type=type,
            key=key,
            after=after,
            before=before,
            newest_first=newest_first,
            limit=limit,
        )
        assert history == paged(model.keyed(stream, kind, type, key))
        target = event_id(rng.randrange(1, 20))
        rel_type, of_type = rng.choice((None, *REL_TYPES)), rng.choice((None, *TYPES))
        sender = rng.choice((None, "@u:x"))
        related = await log.related(
            shard,
            stream,
            target,
            rel_type=rel_type,
            type=of_type,
            sender=sender,
            after=after,
            before=before,
            newest_first=newest_first,
            limit=limit,
        )
        assert related == paged(model.related(stream, target, rel_type, of_type, sender))
        by_rel_type = await log.by_rel_type(shard, stream, REL_TYPES[0], before=before, limit=limit)
        assert by_rel_type == model.page(model.with_rel_type(stream, REL_TYPES[0]), None, before, True, limit)
        assert keyed_by(await log.current(shard, stream, kind)) == model.state(stream, kind)
        position = rng.randrange(-self.made, model.tail + 2)
        state = model.state(stream, kind, position)
        assert keyed_by(await log.current_at(shard, stream, kind, position)) == state
        keys = [(rng.choice(TYPES), rng.choice(KEYS)) for _ in range(4)]
        some = keyed_by(await log.current_at(shard, stream, kind, position, keys))
        assert some == {at: ref for at, ref in state.items() if at in keys}
        for forwards in (True, False):
            ts = rng.randrange(10**9)
            nearest = await log.near_time(shard, stream, ts, forwards=forwards)
            assert (nearest and nearest.ts) == model.nearest(stream, ts, forwards)


def keyed_by(refs: list[KeyedRef]) -> dict[tuple[str, str], KeyedRef]:
    keyed = {(ref.type, ref.key): ref for ref in refs}
    assert len(keyed) == len(refs)
    return keyed


@pytest.mark.parametrize("seed", range(6))
async def test_log_answers_like_a_plain_list(log: Log, seed: int) -> None:
    world = World(log, seed)
    for _ in range(STEPS):
        await world.change()
        await world.compare()
