"""Every read of the log is a search in an index: none walks a table or sorts."""

import sqlite3
from collections.abc import Iterator

import pytest

from storage.sqlite import log_reads
from storage.sqlite.schema import migrate


def statements() -> Iterator[tuple[str, str]]:
    for name, value in vars(log_reads).items():
        for sql in value if isinstance(value, tuple) else (value,):
            if isinstance(sql, str) and sql.startswith("SELECT") and " WHERE " in sql and "{" not in sql:
                yield name, sql


@pytest.mark.parametrize(("name", "sql"), list(statements()))
def test_reads_of_the_log_search_an_index(name: str, sql: str) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    values = [1] * 9
    while True:
        try:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            break
        except sqlite3.ProgrammingError:
            values.pop()
    assert plan
    for step in plan:
        assert "SCAN" not in step, plan
        assert "TEMP B-TREE" not in step, plan


def test_all_kinds_of_reads_are_looked_at() -> None:
    assert len(list(statements())) >= 16
