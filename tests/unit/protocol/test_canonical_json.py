"""Canonical JSON: the specification's examples, the reference encoder, and abuse."""

import json
import time
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.canonical_json import (
    MAX_DEPTH,
    InvalidJson,
    check_value,
    encode,
    encode_lenient,
    loads_strict,
)

from .json_values import any_values, canonical_scalars, canonical_values, nested

SPEC_EXAMPLES = [
    ("{}", "{}"),
    ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
    ('{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
    ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
    (
        '{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe",'
        '"three_pids": [{"medium": "email", "address": "john.doe@example.org"},'
        '{"medium": "msisdn", "address": "123456789"}]}}}',
        '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
        '[{"address":"john.doe@example.org","medium":"email"},'
        '{"address":"123456789","medium":"msisdn"}]},"success":true}}',
    ),
    ('{"a": "日本語"}', '{"a":"日本語"}'),
    ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
    ('{"a": "\\u65E5"}', '{"a":"日"}'),
    ('{"a": null}', '{"a":null}'),
    ('{"a": -0, "b": 10000000000}', '{"a":0,"b":10000000000}'),
]


@pytest.mark.parametrize(("source", "canonical"), SPEC_EXAMPLES)
def test_specification_examples_encode_as_printed(source: str, canonical: str) -> None:
    assert encode(loads_strict(source.encode())) == canonical.encode()


@given(canonical_values)
def test_every_valid_value_has_the_bytes_of_the_reference_encoder(value: Any) -> None:
    check_value(value)
    assert encode(value) == canonicaljson.encode_canonical_json(value)


@given(any_values)
def test_lenient_encoding_has_the_bytes_of_the_reference_encoder(value: Any) -> None:
    try:
        expected = canonicaljson.encode_canonical_json(value)
    except UnicodeEncodeError:
        with pytest.raises(InvalidJson):
            encode_lenient(value)
    else:
        assert encode_lenient(value) == expected


@given(any_values)
def test_a_value_is_refused_or_encoded_right(value: Any) -> None:
    try:
        check_value(value)
    except InvalidJson:
        return
    assert encode(value) == canonicaljson.encode_canonical_json(value)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        {"a": 0.5},
        {"a": float("nan")},
        [float("inf")],
        2**53,
        -(2**53),
        {"a": [{"b": 2**70}]},
        "\ud800",
        {"\udfff": 1},
        {1: "a"},
        {"a": {None: 1}},
        {"a": b"bytes"},
        {"a": {1, 2}},
        (1, 2),
    ],
)
def test_what_canonical_json_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises(InvalidJson):
        check_value(value)


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, True, None, "", [], {}, {"": {"": ""}}])
def test_the_edges_of_canonical_json_are_accepted(value: Any) -> None:
    check_value(value)


def nested_lists(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_nesting_is_bounded_at_the_limit_that_is_asked_for() -> None:
    check_value(nested_lists(10), max_depth=10)
    with pytest.raises(InvalidJson, match="nested"):
        check_value(nested_lists(11), max_depth=10)
    check_value({"a": nested_lists(MAX_DEPTH - 1)})
    with pytest.raises(InvalidJson, match="nested"):
        check_value({"a": nested_lists(MAX_DEPTH)})


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 1_000, 5_000, 30_000])
@pytest.mark.parametrize("limit", [MAX_DEPTH, 100_000])
def test_deeply_nested_text_is_refused_and_not_fatal(depth: int, limit: int) -> None:
    data = b'{"a":' * depth + b"1" + b"}" * depth
    with pytest.raises(InvalidJson):
        loads_strict(data, max_depth=limit)
    with pytest.raises(InvalidJson):
        loads_strict(b'{"\\u003a":' + b"[" * depth + b"]" * depth + b"}", max_depth=limit)


def test_many_brackets_side_by_side_are_not_depth() -> None:
    assert len(loads_strict(b'{"a":[' + b"[]," * 2000 + b"[]]}")["a"]) == 2001


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{",
        b"{}x",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":01}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"{'a':1}",
        b'{"a":1,}',
        b'\xef\xbb\xbf{"a":1}',
    ],
)
def test_text_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidJson):
        loads_strict(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"b":{"c":1,"d":2,"c":3}}',
        b'{"a":[{"x":":"},{"x":1,"x":2}]}',
        b'{"a":1,"\\u0061":2}',
        # An escaped colon in the text must not make up for the one that goes missing with the key.
        b'{"a":"\\u003a","a":"\\u003a"}',
        b'{"x":"\\u003A","a":1,"a":2}',
        b'{"a":"::::","a":""}',
    ],
)
def test_the_same_key_twice_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidJson, match="twice"):
        loads_strict(data)


tricky_keys = st.text(':a\\u03 "', max_size=6)


@given(
    st.dictionaries(
        tricky_keys, nested(canonical_scalars | st.floats(allow_nan=False, allow_infinity=False))
    ),
    st.booleans(),
)
def test_text_without_repeated_keys_is_read_as_the_standard_parser_reads_it(
    value: Any, ascii_only: bool
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert loads_strict(data) == json.loads(data)


@st.composite
def objects_with_a_key_twice(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.tuples(tricky_keys, canonical_values), min_size=1, max_size=4))
    pairs.append((draw(st.sampled_from(pairs))[0], draw(canonical_values)))
    colon = draw(st.sampled_from([":", " : "]))
    members = [json.dumps(key) + colon + json.dumps(value) for key, value in draw(st.permutations(pairs))]
    return ("{" + ",".join(members) + "}").encode()


@given(objects_with_a_key_twice())
def test_a_repeated_key_is_found_whatever_surrounds_it(data: bytes) -> None:
    with pytest.raises(InvalidJson):
        loads_strict(data)


def test_checking_a_large_value_takes_linear_time() -> None:
    wide = {"a": [{"k": i} for i in range(100_000)]}
    started = time.process_time()
    check_value(wide)
    assert time.process_time() - started < 2
