"""Every statement on the log is a search in the index made for it: none walks a table, or sorts."""

import sqlite3

import pytest

from storage.sqlite import doubles, log_reads
from storage.sqlite.schema import EVENT_PREFIX, TXN_PREFIX, migrate

BY_KEY = "entry_by_key (stream=? AND <expr>=? AND type=? AND key=? AND pos"
CURRENT = "PRIMARY KEY (stream=? AND line=?)"
ROW = "INTEGER PRIMARY KEY (rowid"
ASKED = ("SCAN asked", "SCAN 2 CONSTANT ROWS")
"""The values of the question itself, where it is about several."""

EXPECTED: dict[str, tuple[str, ...]] = {
    log_reads._READ: (ROW,),
    log_reads._BY_ID: (ROW,),
    log_reads._by_ids(4): (ROW,),
    log_reads._by_event_ids(4): ("entry_by_event (<expr>=?",),
    log_reads._BY_TXN: ("entry_by_txn (<expr>=?",),
    log_reads._PAGE[False]: ("entry_by_position (stream=? AND kind=? AND pos>? AND pos<?)",),
    log_reads._PAGE[True]: ("entry_by_position (stream=? AND kind=? AND pos>? AND pos<?)",),
    log_reads._KEYED[False]: (BY_KEY,),
    log_reads._KEYED[True]: (BY_KEY,),
    log_reads._CURRENT: (CURRENT,),
    log_reads._CURRENT_AT: (CURRENT, CURRENT, ROW, BY_KEY),
    log_reads._keys_at(2): (ROW, BY_KEY),
    log_reads._STREAMS_KEYED: (ROW, "current_by_key (key=? AND type=? AND line=? AND id>? AND id<?)"),
    log_reads._RELATED[False]: ("entry_by_target (stream=? AND <expr>=? AND pos>? AND pos<?)",),
    log_reads._RELATED[True]: ("entry_by_target (stream=? AND <expr>=? AND pos>? AND pos<?)",),
    log_reads._HAS_RELATIONS: ("entry_by_rel_type (stream=? AND rel_type>?)",),
    log_reads._with_relations(2): ("entry_by_target (stream=? AND <expr>=?)",),
    log_reads._BY_REL_TYPE: ("entry_by_rel_type (stream=? AND rel_type=? AND pos<?)",),
    log_reads._NEAR_TIME[False]: ("entry_by_time (stream=? AND ts<?)",),
    log_reads._NEAR_TIME[True]: ("entry_by_time (stream=? AND ts>?)",),
    log_reads._STREAMS: ("sqlite_autoindex_name_1 (shard=? AND text>?)", "entry_by_position (stream=?)"),
    doubles._with_prefixes("event_id", EVENT_PREFIX, 4): ("entry_by_event (<expr>=?",),
    doubles._with_prefixes("txn", TXN_PREFIX, 4): ("entry_by_txn (<expr>=?",),
}


def plan(sql: str) -> list[str]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    values = [1] * 9
    while True:
        try:
            return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        except sqlite3.ProgrammingError:
            values.pop()


@pytest.mark.parametrize("sql", EXPECTED)
def test_statements_on_the_log_search_the_index_made_for_them(sql: str) -> None:
    steps = plan(sql)
    table_steps = [step for step in steps if step not in ASKED]
    assert not [step for step in table_steps if "SCAN" in step or "TEMP B-TREE" in step]
    searches = [step for step in steps if step.startswith("SEARCH")]
    assert len(searches) == len(EXPECTED[sql])
    for search, expected in zip(searches, EXPECTED[sql], strict=True):
        assert expected in search


def test_all_statements_of_the_reads_are_looked_at() -> None:
    constants = [value for name, value in vars(log_reads).items() if name.startswith("_") and name.isupper()]
    statements = [sql for value in constants for sql in (value if isinstance(value, tuple) else (value,))]
    whole = {sql for sql in statements if isinstance(sql, str) and " WHERE " in sql and "{" not in sql}
    assert whole <= EXPECTED.keys()
