"""docs/data-model.md names every collection with its key, its indexes and its shard key, as they are."""

import re
from collections.abc import Iterator
from pathlib import Path

from homeserver.app.stores import SPECS, mongo_shard_plan
from storage.mongo.schema import LOG_INDEXES, SEARCH_INDEXES

PAGE = (Path(__file__).parents[2] / "docs/data-model.md").read_text("utf-8")


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of a table, by how its first column is called."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def fields(cell: str) -> tuple[str, ...]:
    return tuple(cell.replace("*", "").split(", ")) if cell else ()


def test_every_collection_is_described_as_it_is() -> None:
    plan = dict(mongo_shard_plan())
    described = {
        name.strip("`"): (
            fields(key),
            {fields(index) for index in indexes.split("; ")} - {()},
            fields(key.split("**")[1]),
        )
        for name, key, indexes, _ in rows("Collection")
    }
    assert described == {
        spec.name: (spec.key, {index.fields for index in spec.indexes}, plan[spec.name]) for spec in SPECS
    }


def test_every_index_of_the_log_is_described_as_it_is() -> None:
    described = {name.strip("`"): fields(keys) for name, keys, _ in rows("Index of `log`")}
    indexes = {model.document["name"]: tuple(model.document["key"]) for model in LOG_INDEXES}
    assert described == {"_id_": ("_id",), **indexes}


def test_search_and_its_shard_key_are_described_as_they_are() -> None:
    section = PAGE.partition("**`search`**")[2].partition("\n\n")[0]
    described = {name: fields(keys) for name, keys in re.findall(r"`(\w+)`\s+\(([^)]*)\)", section)}
    assert described == {
        model.document["name"]: tuple(
            f"-{field}" if direction < 0 else field for field, direction in model.document["key"].items()
        )
        for model in SEARCH_INDEXES
    }
    assert fields(section.split("**")[1]) == dict(mongo_shard_plan())["search"]
