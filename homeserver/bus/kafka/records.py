"""Entries of the log as records of Kafka, and back: the public contract of `docs/kafka.md`.

The value of a record is JSON (`schemas/kafka/`); the body of an entry stands in it byte for byte, so that
signed events stay what they are. `meta`, the server's own notes, travels in a header that nobody else may
rely on. The client's transaction (`Entry.txn`) does not leave the server.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from storage.log import Entry, Kind, ShardMap

SCHEMA = 1
"""Version of the records. Optional fields come without a new one; a higher one cannot be read here."""

HEADERS_SIZE = 16 * 1024
"""More than the key, the headers and all fields but the body take, except for `meta`."""

OF_STATE = frozenset({Kind.EVENT, Kind.STATE, Kind.GAP_STATE})
"""What is keyed by a state key, and has an event for a body."""

KEYED_BY_STATE = OF_STATE | {Kind.PARTIAL}

Headers = list[tuple[str, bytes]]

_VERSION = re.compile(rb"[0-9]{1,9}")
_WORDS: dict[Kind, str] = {kind: kind.name.lower() for kind in Kind if kind is not Kind.UNKNOWN}
_KINDS = {word: kind for kind, word in _WORDS.items()}


class ForeignRecord(Exception):
    """A record that this server cannot take for one of its own; the message says why."""


class Record(NamedTuple):
    """What is given to Kafka."""

    key: bytes
    value: bytes
    headers: Headers


class Value(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The value of a record; `schemas/kafka/` says what each field means for each kind."""

    schema: int
    kind: str
    shard: int
    seq: int
    position: int
    origin_server_ts: int
    room_id: str | None = None
    user_id: str | None = None
    event_id: str | None = None
    type: str | None = None
    state_key: str | None = None
    key: str | None = None
    sender: str | None = None
    target: str | None = None
    rel_type: str | None = None
    event: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    omitted: bool = False
    """The body is larger than the topic takes; it is in the log alone."""


class Records:
    """Makes the records of one store, and takes no others."""

    def __init__(self, store: str) -> None:
        """`store` is the store's epoch: the numbers of another one mean something else."""
        self._store = store.encode()
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Value).decode

    def of(self, shard: int, entry: Entry, *, largest: int, traceparent: bytes | None = None) -> Record:
        """The record of an entry, of at most `largest` bytes."""
        kind, key = entry.kind, entry.key
        body: Raw | UnsetType = Raw(entry.body) if entry.body else UNSET
        omitted = len(entry.body) + len(entry.meta) > largest - HEADERS_SIZE
        if omitted:
            body = UNSET
        of_user = shard >= ShardMap.USER_BASE
        of_server = kind is Kind.OUTGOING
        of_state = kind in OF_STATE
        keyed_by_state = kind in KEYED_BY_STATE
        value = Value(
            schema=SCHEMA,
            kind=_WORDS[kind],
            shard=shard,
            seq=entry.seq,
            position=entry.position,
            origin_server_ts=entry.ts,
            room_id=None if of_user or kind is Kind.DEVICE_LIST else entry.stream,
            user_id=None if keyed_by_state else key if not of_user else None if of_server else entry.stream,
            event_id=entry.event_id,
            type=entry.type,
            state_key=key if keyed_by_state else None,
            key=key if of_user else None,
            sender=entry.sender,
            target=entry.target,
            rel_type=entry.rel_type,
            event=body if of_state else UNSET,
            content=body if not of_state else UNSET,
            omitted=omitted,
        )
        headers = [
            ("schema", b"%d" % SCHEMA),
            ("store", self._store),
            ("shard", b"%d" % shard),
            ("seq", b"%d" % entry.seq),
        ]
        if entry.event_id is not None:
            headers.append(("event_id", entry.event_id.encode()))
        if traceparent is not None:
            headers.append(("traceparent", traceparent))
        if entry.meta and not omitted:
            headers.append(("meta", entry.meta))
        return Record(entry.stream.encode(), self._encode(value), headers)

    def entry(
        self, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
    ) -> Entry | None:
        """The entry, equal to the log's but for `txn`; None if only the log has it. Raises ForeignRecord."""
        named = dict(headers)
        self.check(named)
        try:
            read = self._decode(value or b"")
            kind = _KINDS[read.kind]
            stream = (key or b"").decode()
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise ForeignRecord(f"not a record of the log: {error}") from error
        if read.omitted:
            return None
        of_state = kind in OF_STATE
        body = read.event if of_state else read.content
        of_user = read.shard >= ShardMap.USER_BASE
        return Entry(
            kind,
            stream,
            b"" if body is UNSET else bytes(body),
            read.event_id,
            read.type,
            read.key if of_user else read.state_key if kind in KEYED_BY_STATE else read.user_id,
            read.sender,
            read.target,
            read.rel_type,
            None,
            read.origin_server_ts,
            named.get("meta") or b"",
            None if read.position == read.seq else read.position,
            read.seq,
        )

    def check(self, headers: Mapping[str, bytes | None]) -> None:
        """Raises ForeignRecord unless the headers are those of a record of this store, in a known version."""
        schema, store = headers.get("schema") or b"", headers.get("store") or b""
        if _VERSION.fullmatch(schema) is None:
            raise ForeignRecord("a record that Weft did not write")
        if int(schema) > SCHEMA:
            raise ForeignRecord(f"a record of schema {int(schema)}, which a newer release wrote")
        if store != self._store:
            raise ForeignRecord(f"a record of another store ({store.decode('utf-8', 'replace')})")
