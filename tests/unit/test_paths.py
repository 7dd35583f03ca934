"""Paths of requests are found among the declared ones."""

import pytest

from rest.paths import Paths

DECLARED = (
    "/rooms/{room_id}/send/{type}/{txn_id}",
    "/rooms/{room_id}/state/{type}",
    "/rooms/{room_id}/state/{type}/",
    "/rooms/{room_id}/state/{type}/{state_key}",
    "/devices/{device_id}",
    "/devices/all",
    "/devices/{device_id}/keys",
)


@pytest.fixture(scope="module")
def paths() -> Paths[str]:
    paths: Paths[str] = Paths()
    for path in DECLARED:
        assert paths.at(path, path) == path
    return paths


@pytest.mark.parametrize(
    ("path", "declared", "parameters"),
    [
        ("/rooms/!a:b/send/m.text/1", 0, {"room_id": "!a:b", "type": "m.text", "txn_id": "1"}),
        ("/rooms/!a:b/state/x", 1, {"room_id": "!a:b", "type": "x"}),
        ("/rooms/!a:b/state/x/", 2, {"room_id": "!a:b", "type": "x"}),
        ("/rooms/!a:b/state/x/{y}", 3, {"room_id": "!a:b", "type": "x", "state_key": "{y}"}),
        ("/rooms/a%2Fb/state/50%25/x", 3, {"room_id": "a/b", "type": "50%", "state_key": "x"}),
        ("/devices/one", 4, {"device_id": "one"}),
        ("/devices/all", 5, {}),
        ("/devices/all/keys", 6, {"device_id": "all"}),
    ],
)
def test_path_with_its_parameters(
    paths: Paths[str], path: str, declared: int, parameters: dict[str, str]
) -> None:
    assert paths.find(path) == (DECLARED[declared], parameters)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/rooms",
        "/rooms//state/x",
        "/devices/",
        "/devices/one/two",
        "/devices/one/keys/",
        "devices/one",
    ],
)
def test_other_paths_are_not_found(paths: Paths[str], path: str) -> None:
    assert paths.find(path) is None


def test_a_declared_path_has_one_value(paths: Paths[str]) -> None:
    assert paths.at("/devices/{device_id}", "another") == "/devices/{device_id}"


def test_an_endless_path_is_given_up_at_once(paths: Paths[str]) -> None:
    assert paths.find("/rooms" + "/x" * 1_000_000) is None
