"""Records of Kafka: whatever the log holds comes back from them as it was, and strangers are turned away."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from homeserver.bus.kafka.records import HEADERS_SIZE, ForeignRecord, Records
from storage.log import Entry, Kind, ShardMap
from tests.storage.entries import message

RECORDS = Records("epoch")
LARGEST = 1 << 20

names = st.text(st.characters(codec="utf-8"), max_size=20)
maybe = st.none() | names
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.just(b"") | st.builds(
    lambda value, spaces: json.dumps(value, separators=(",", ": ") if spaces else (",", ":")).encode(),
    st.dictionaries(names, json_values, max_size=4),
    st.booleans(),
)
shards = st.integers(0, 1023) | st.integers(ShardMap.USER_BASE, ShardMap.USER_BASE + 1023)

KINDS = [kind for kind in Kind if kind is not Kind.UNKNOWN]
"""Of entries that can be told."""


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    seq = draw(st.integers(1, 2**40))
    return Entry(
        kind=draw(st.sampled_from(KINDS)),
        stream=draw(names),
        body=draw(bodies),
        event_id=draw(maybe),
        type=draw(maybe),
        key=draw(maybe),
        sender=draw(maybe),
        target=draw(maybe),
        rel_type=draw(maybe),
        ts=draw(st.integers(0, 2**53)),
        meta=draw(st.binary(max_size=20)),
        pos=draw(st.none() | st.integers(-(2**40), 0)),
        seq=seq,
    )


@given(shards, entries(), st.none() | st.binary(min_size=16, max_size=16))
def test_an_entry_comes_back_as_it_was(shard: int, entry: Entry, txn: bytes | None) -> None:
    record = RECORDS.of(shard, replace(entry, txn=txn), largest=LARGEST)
    assert RECORDS.entry(*record) == entry
    value = json.loads(record.value)
    assert (value["shard"], value["seq"], value["position"]) == (shard, entry.seq, entry.position)


def test_the_bytes_of_an_event_are_in_the_record_as_they_were_signed() -> None:
    body = b'{"b":1e3, "a":"\\u00fc","a":"\xc3\xbc"}'
    record = RECORDS.of(0, message("x", body=body, seq=1), largest=LARGEST)
    assert body in record.value
    read = RECORDS.entry(*record)
    assert read is not None and read.body == body


def test_the_headers_say_what_a_record_is() -> None:
    entry = message("x", seq=7, meta=b"{}")
    record = RECORDS.of(3, entry, largest=LARGEST, traceparent=b"00-aa-bb-01")
    assert entry.event_id is not None
    assert dict(record.headers) == {
        "schema": b"1",
        "store": b"epoch",
        "shard": b"3",
        "seq": b"7",
        "event_id": entry.event_id.encode(),
        "traceparent": b"00-aa-bb-01",
        "meta": b"{}",
    }
    assert record.key == entry.stream.encode()


def test_a_client_s_transaction_stays_with_the_server() -> None:
    record = RECORDS.of(0, message("x", seq=1, txn=b"0123456789abcdef"), largest=LARGEST)
    assert b"0123456789abcdef" not in b"".join((record.key, record.value, *(b for _, b in record.headers)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_large_for_the_topic_is_named_and_left_in_the_log(kind: Kind) -> None:
    body = json.dumps({"body": "x" * 100_000}).encode()
    entry = Entry(kind, "!room:example.org", body, event_id="$x", seq=1)
    record = RECORDS.of(0, entry, largest=100_000)
    assert sum(map(len, (record.key, record.value))) < HEADERS_SIZE
    assert RECORDS.entry(*record) is None
    assert json.loads(record.value)["omitted"] is True
    whole = RECORDS.of(0, entry, largest=len(body) + HEADERS_SIZE)
    assert RECORDS.entry(*whole) == entry


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"headers": []}, "Weft did not write"),
        ({"headers": [("schema", b"x"), ("store", b"epoch")]}, "Weft did not write"),
        ({"headers": [("schema", b"2"), ("store", b"epoch")]}, "schema 2, which a newer release wrote"),
        ({"headers": [("schema", b"1"), ("store", b"another")]}, "another store"),
        ({"value": b"{}"}, "not a record of the log"),
        ({"value": None}, "not a record of the log"),
        ({"value": b'{"schema":1,"kind":"event"'}, "not a record of the log"),
        ({"key": b"\xff"}, "not a record of the log"),
    ],
)
def test_other_records_are_told_apart(change: dict[str, Any], reason: str) -> None:
    record = RECORDS.of(0, message("x", seq=1), largest=LARGEST)
    with pytest.raises(ForeignRecord, match=reason):
        RECORDS.entry(*record._replace(**change))


def test_a_kind_of_a_later_release_is_told_apart() -> None:
    record = RECORDS.of(0, message("x", seq=1), largest=LARGEST)
    later = record._replace(value=record.value.replace(b'"kind":"event"', b'"kind":"poem"'))
    with pytest.raises(ForeignRecord, match="not a record of the log"):
        RECORDS.entry(*later)


def test_fields_of_a_later_release_are_passed_over() -> None:
    entry = message("x", seq=1)
    record = RECORDS.of(0, entry, largest=LARGEST)
    assert RECORDS.entry(*record._replace(value=record.value[:-1] + b',"later":{"a":[1]}}')) == entry
