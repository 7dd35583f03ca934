"""From the rounds of each server to medians, and from the medians to one table.

Ratios say how many times better the first server is: 2.0 is twice the throughput, or half the time,
CPU or memory; below 1 it is worse.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import msgspec

from bench.results import Figure, Outcome, Row

BUSY_DRIVER = 0.85

_COLUMNS: tuple[tuple[str, Callable[[Row], float], bool], ...] = (
    ("ops/s", lambda row: row.per_second, True),
    ("p50 ms", lambda row: row.p50_ms, False),
    ("p99 ms", lambda row: row.p99_ms, False),
    ("CPU ms/op", lambda row: row.cpu_ms, False),
    ("RSS MiB", lambda row: row.rss_mib, False),
)


class Summary(msgspec.Struct, frozen=True):
    """The medians of one server."""

    rows: dict[str, Row]
    figures: dict[str, Figure]
    mistakes: dict[str, int]


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Medians over the rounds, each value for itself; mistakes are summed."""
    rows: dict[str, list[Row]] = {}
    figures: dict[str, list[Figure]] = {}
    mistakes: Counter[str] = Counter()
    for outcome in outcomes:
        for row in outcome.rows:
            rows.setdefault(row.name, []).append(row)
        for figure in outcome.figures:
            figures.setdefault(figure.name, []).append(figure)
        mistakes.update({f"{outcome.scenario}: {what}": count for what, count in outcome.mistakes.items()})
    return Summary(
        rows={name: _median_row(several) for name, several in rows.items()},
        figures={
            name: msgspec.structs.replace(several[0], value=median(figure.value for figure in several))
            for name, several in figures.items()
        },
        mistakes=dict(mistakes),
    )


def _median_row(rows: Sequence[Row]) -> Row:
    fields = [field for field in Row.__struct_fields__ if field != "name"]
    values = {field: median(getattr(row, field) for row in rows) for field in fields}
    return msgspec.structs.replace(rows[0], **(values | {"ops": round(values["ops"])}))


def number(value: float) -> str:
    """Three digits that matter."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.9995 or value == 0 else f"{value:.3f}"


def ratio(ours: float, theirs: float, *, more_is_better: bool) -> str:
    """How many times better ours is; a dash where that means nothing."""
    if ours <= 0 or theirs <= 0:
        return "–"
    return number(ours / theirs if more_is_better else theirs / ours)


def table(summaries: Mapping[str, Summary]) -> str:
    """All rows, then all single figures: each server's values, and the first one's ratios to the others."""
    names = list(summaries)
    grid: list[list[str]] = []
    groups = [title for title, _, _ in _COLUMNS]
    for row_name in _in_order(summary.rows for summary in summaries.values()):
        cells = []
        for _, value, more_is_better in _COLUMNS:
            found = [summary.rows.get(row_name) for summary in summaries.values()]
            cells += _cells([None if row is None else value(row) for row in found], more_is_better)
        busy = any(
            row_name in summary.rows and summary.rows[row_name].driver_share > BUSY_DRIVER
            for summary in summaries.values()
        )
        grid.append([row_name + (" *" if busy else ""), *cells])
    heading = names + (["×"] if len(names) == 2 else [f"×{name}" for name in names[1:]])
    text = (
        _aligned(
            [
                ["", *(cell for title in groups for cell in [title, *[""] * (len(heading) - 1)])],
                ["operation", *heading * len(_COLUMNS)],
            ],
            grid,
        )
        if grid
        else ""
    )
    figures = []
    for figure_name in _in_order(summary.figures for summary in summaries.values()):
        found_figures = [summary.figures.get(figure_name) for summary in summaries.values()]
        unit = next(figure.unit for figure in found_figures if figure is not None)
        cells = _cells([None if figure is None else figure.value for figure in found_figures], False)
        figures.append([f"{figure_name}, {unit}", *cells])
    if figures:
        text += ("\n" if text else "") + _aligned([["figure", *heading]], figures)
    return text


def _cells(values: Sequence[float | None], more_is_better: bool) -> list[str]:
    cells = ["–" if value is None else number(value) for value in values]
    ours = values[0]
    for theirs in values[1:]:
        known = ours is not None and theirs is not None
        cells.append(ratio(ours or 0, theirs or 0, more_is_better=more_is_better) if known else "–")
    return cells


def _in_order(tables: Iterable[Mapping[str, object]]) -> list[str]:
    """The names of all tables, in the order of the first one that has most of them."""
    return list(dict.fromkeys(name for each in sorted(tables, key=len, reverse=True) for name in each))


def _aligned(head: Sequence[Sequence[str]], body: Sequence[Sequence[str]]) -> str:
    lines = [*head, *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ""
    for line in lines:
        first, *rest = line
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        text += "  ".join([first.ljust(widths[0]), *cells]).rstrip() + "\n"
        if line is lines[len(head) - 1]:
            text += "-" * (sum(widths) + 2 * (len(widths) - 1)) + "\n"
    return text
