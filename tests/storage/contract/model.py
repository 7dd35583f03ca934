"""The log as plainly as it can be said: lists that are searched from end to end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from storage.log import Entry, KeyedRef, Kind

Key = tuple[str, str]


def line(kind: Kind) -> Kind:
    return Kind.EVENT if kind is Kind.STATE else kind


@dataclass
class ModelShard:
    tail: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tail += 1
            self.entries[self.tail] = replace(entry, seq=self.tail)

    def remove(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self.entries.pop(seq, None)

    def rewrite(self, seq: int, body: bytes, meta: bytes) -> None:
        if seq in self.entries:
            self.entries[seq] = replace(self.entries[seq], body=body, meta=meta)

    def read(self, after: int, limit: int) -> list[Entry]:
        return [entry for seq, entry in sorted(self.entries.items()) if seq > after][:limit]

    def stream(self, name: str) -> list[Entry]:
        """The entries of a stream by position."""
        mine = (entry for entry in self.entries.values() if entry.stream == name)
        return sorted(mine, key=lambda entry: entry.position)

    def page(
        self,
        entries: Iterable[Entry],
        after: int | None,
        before: int | None,
        newest_first: bool,
        limit: int,
    ) -> list[Entry]:
        between = [
            entry
            for entry in entries
            if (after is None or entry.position > after) and (before is None or entry.position < before)
        ]
        return (between[::-1] if newest_first else between)[:limit]

    def keyed(self, stream: str, kind: Kind, type: str, key: str) -> list[Entry]:
        return [
            entry
            for entry in self.stream(stream)
            if (line(entry.kind), entry.type, entry.key) == (line(kind), type, key)
        ]

    def state(self, stream: str, kind: Kind, position: int | None = None) -> dict[Key, KeyedRef]:
        refs: dict[Key, KeyedRef] = {}
        for entry in self.stream(stream):
            if line(entry.kind) is not line(kind) or entry.type is None or entry.key is None:
                continue
            if position is None or entry.position <= position:
                refs[entry.type, entry.key] = KeyedRef(
                    entry.type,
                    entry.key,
                    entry.seq,
                    entry.position,
                    entry.event_id or entry.target,
                    entry.sender,
                    entry.kind,
                )
        return refs

    def streams(self) -> list[str]:
        return sorted({entry.stream for entry in self.entries.values()})

    def streams_keyed(self, kind: Kind, type: str, key: str) -> dict[str, Entry]:
        states = {stream: self.state(stream, kind) for stream in self.streams()}
        return {
            stream: self.entries[refs[type, key].seq]
            for stream, refs in states.items()
            if (type, key) in refs
        }

    def related(
        self, stream: str, target: str, rel_type: str | None, type: str | None, sender: str | None
    ) -> list[Entry]:
        return [
            entry
            for entry in self.stream(stream)
            if entry.kind is Kind.EVENT
            and entry.rel_type is not None
            and entry.target == target
            and rel_type in (None, entry.rel_type)
            and type in (None, entry.type)
            and sender in (None, entry.sender)
        ]

    def with_rel_type(self, stream: str, rel_type: str) -> list[Entry]:
        return [e for e in self.stream(stream) if e.kind is Kind.EVENT and e.rel_type == rel_type]

    def by_event_id(self, event_ids: Sequence[str]) -> dict[str, Entry]:
        return {e.event_id: e for e in self.entries.values() if e.event_id in event_ids and e.event_id}

    def nearest(self, stream: str, ts: int, forwards: bool) -> int | None:
        """The time of the nearest event."""
        times = [entry.ts for entry in self.stream(stream) if entry.kind is Kind.EVENT]
        if forwards:
            return min((time for time in times if time >= ts), default=None)
        return max((time for time in times if time <= ts), default=None)
