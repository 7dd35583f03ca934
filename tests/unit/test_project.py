"""The project's own settings: nothing that is in the tree escapes the checks."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHECKED_OTHERWISE = {"tests", "bench"}


def test_every_package_is_type_checked_measured_and_held_to_the_import_rules() -> None:
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - CHECKED_OTHERWISE
    assert set(tools["mypy"]["packages"]) == packages
    assert set(tools["coverage"]["run"]["source"]) == packages
    assert set(tools["importlinter"]["root_packages"]) == packages


def test_lock_files_name_no_registry_and_hash_every_package() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (REPOSITORY / name).read_text("utf-8")
        assert "://" not in text
        pinned = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
        assert pinned
        assert all(line.endswith(" \\") for line in pinned)


def test_development_runs_on_the_versions_that_servers_run_on() -> None:
    def pins(name: str) -> set[str]:
        lines = (REPOSITORY / name).read_text("utf-8").splitlines()
        return {line.split(" ")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}

    assert pins("requirements.lock") <= pins("requirements-dev.lock")


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/security.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (REPOSITORY / page).read_text("utf-8"))
    assert [name for name in named if not _is_there(name)] == []


PARTS = (
    "bus",
    "consumers",
    "e2ee",
    "graph",
    "media",
    "presence",
    "protocol",
    "push",
    "rooms",
    "sync",
    "users",
)
MAPPED = ("federation", "homeserver", "rest", "storage", "storage/mongo", "storage/sqlite")


@pytest.mark.parametrize("folder", [*MAPPED, *(f"homeserver/{name}" for name in PARTS)])
def test_a_folder_with_a_map_names_all_of_its_modules(folder: str) -> None:
    text = (REPOSITORY / folder / "__init__.py").read_text("utf-8")
    modules = {path.stem for path in (REPOSITORY / folder).glob("*.py")} - {"__init__", "__main__"}
    assert modules - set(re.findall(r"\w+", text)) == set()


def _is_there(name: str) -> bool:
    """Pages leave out what begins all the names of a table."""
    return any((REPOSITORY / parent / name).exists() for parent in ("", "homeserver", "tests"))


def test_the_security_page_names_the_tests_of_each_fault() -> None:
    page = (REPOSITORY / "docs/security.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", page, re.MULTILINE)
    tests = REPOSITORY / "tests"
    named = {
        (number, str(file.relative_to(tests)))
        for file in tests.rglob("test_*.py")
        for numbers in re.findall(
            r"HARDENING (\d+(?:(?:, | and )\d+)*)|hardening_(\d+)_", file.read_text("utf-8")
        )
        for number in re.findall(r"\d+", " ".join(numbers))
    }
    assert {(number, file) for number, files in rows for file in re.findall(r"`([^`]+)`", files)} == named
