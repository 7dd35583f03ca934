"""The signing key's file: made once, for its owner alone, in the form that admins know."""

import os
import re
import stat
from pathlib import Path

import pytest
from signedjson.key import read_signing_keys

from homeserver.key_file import KeyFileError, load_or_create


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "signing.key"
    key = load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert re.fullmatch(r"ed25519 a_[A-Za-z]{4} [A-Za-z0-9+/]{43}\n", path.read_text())
    assert key.key_id == "ed25519:" + path.read_text().split()[1]
    assert list(path.parent.iterdir()) == [path]


def test_later_starts_use_the_same_key(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "signing.key")
    assert load_or_create(tmp_path / "signing.key") == first


def test_what_a_first_start_left_that_was_killed_is_in_no_ones_way(tmp_path: Path) -> None:
    """In a container each start has the same process id."""
    (tmp_path / f".signing.key.{os.getpid()}").touch()
    assert load_or_create(tmp_path / "signing.key") == load_or_create(tmp_path / "signing.key")


def test_two_servers_do_not_get_the_same_key(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "a").seed != load_or_create(tmp_path / "b").seed


def test_the_file_is_what_the_reference_library_reads(tmp_path: Path) -> None:
    key = load_or_create(tmp_path / "signing.key")
    with (tmp_path / "signing.key").open() as file:
        (theirs,) = read_signing_keys(file)
    assert f"{theirs.alg}:{theirs.version}" == key.key_id
    assert bytes(theirs) == key.seed


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666])
def test_a_key_open_to_everybody_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing.key"
    load_or_create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"run: chmod 600 {path}"):
        load_or_create(path)


def test_a_key_for_a_group_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    key = load_or_create(path)
    path.chmod(0o640)
    assert load_or_create(path) == key


@pytest.mark.parametrize(
    "text",
    ["", "ed25519 a_Xk3d", "ed25519 a_Xk3d AAAA", "rsa a_Xk3d " + "A" * 43, "ed25519 a_Xk3d ---", "é"],
)
def test_a_damaged_key_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "signing.key"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"signing\.key"):
        load_or_create(path)
    assert path.read_text("utf-8") == text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "signing.key"
    with pytest.raises(KeyFileError) as refused:
        load_or_create(path)
    assert str(refused.value) == (
        f"cannot use the signing key {path}: File exists; "
        "the file and its folder have to belong to the server's user"
    )
