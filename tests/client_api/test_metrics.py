"""What a server tells Prometheus of itself, on a listener of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from homeserver import __version__
from tests.server_process import ServerProcess, free_port

PATIENCE_S = 30.0


class Observed:
    """A server with metrics, and one user of it."""

    def __init__(self, data_dir: Path) -> None:
        metrics = f"127.0.0.1:{free_port()}"
        self.process = ServerProcess(data_dir, WEFT_METRICS_LISTEN=metrics)
        self._metrics = f"http://{metrics}/metrics"
        self._token: str | None = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.process.url}/_matrix/client{path}", data, headers, method=method)
        with urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)

    def register(self) -> None:
        body = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        self._token = self.call("POST", "/v3/register", body)["access_token"]

    def told(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        with urlopen(self._metrics, timeout=PATIENCE_S) as response:
            assert response.headers["Content-Type"].startswith("text/plain")
            text = response.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        found = [
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} with {labels} in:\n{text}"
        return sum(found)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    server = Observed(tmp_path_factory.mktemp("observed"))
    server.process.start()
    server.register()
    yield server
    server.process.stop()


def test_requests_are_counted_by_route_method_and_status(observed: Observed) -> None:
    room_id = observed.call("POST", "/v3/createRoom", {})["room_id"]
    path = "/rooms/{room_id}/send/{event_type}/{txn_id}"
    for n in range(3):
        observed.call(
            "PUT", f"/v3/rooms/{room_id}/send/m.room.message/{n}", {"msgtype": "m.text", "body": "x"}
        )
    observed.call("PUT", f"/r0/rooms/{room_id}/send/m.room.message/3", {"msgtype": "m.text", "body": "x"})
    for _ in range(2):
        with pytest.raises(HTTPError, match="403"):
            observed.call(
                "PUT", "/v3/rooms/!other:localhost/send/m.room.message/0", {"msgtype": "m.text", "body": "x"}
            )
    assert observed.told("weft_requests_total", route=path, method="PUT", status="200") == 4
    assert observed.told("weft_requests_total", route=path, method="PUT", status="403") == 2
    assert observed.told("weft_request_seconds_count", route=path, method="PUT") == 6
    assert observed.told("weft_request_seconds_bucket", route=path, method="PUT", le="+Inf") == 6
    assert 0 < observed.told("weft_request_seconds_sum", route=path, method="PUT") < 6 * PATIENCE_S


def test_paths_that_nobody_knows_are_one_route(observed: Observed) -> None:
    for path in ("/v3/nothing", "/v3/nothing/else"):
        with pytest.raises(HTTPError, match="404"):
            observed.call("GET", path)
    with pytest.raises(HTTPError, match="405"):
        observed.call("DELETE", "/v3/sync")
    assert observed.told("weft_requests_total", route="unknown", status="404") >= 2
    assert observed.told("weft_requests_total", route="unknown", status="405") == 1


def test_the_log_the_memory_and_the_consumers_are_told_of(observed: Observed) -> None:
    tail = observed.told("weft_log_tail", shard="0")
    rooms = observed.told("weft_rooms_in_memory")
    room_id = observed.call("POST", "/v3/createRoom", {})["room_id"]
    observed.call("PUT", f"/v3/rooms/{room_id}/send/m.room.message/t", {"msgtype": "m.text", "body": "x"})
    assert observed.told("weft_log_tail", shard="0") >= tail + 7
    assert observed.told("weft_rooms_in_memory") == rooms + 1
    assert 0 < observed.told("weft_room_memory_bytes") < observed.told("weft_room_memory_limit_bytes")
    assert observed.told("weft_users_in_memory") <= observed.told("weft_users_in_memory_limit")
    appended = observed.told("weft_append_entries_sum", family="rooms")
    assert appended == observed.told("weft_log_tail", shard="0")
    assert observed.told("weft_append_entries_count", family="rooms") <= appended
    assert observed.told("weft_consumer_lag", consumer="directory", shard="0") >= 0
    assert observed.told("weft_consumer_set_aside_total") == 0
    assert observed.told("weft_store_errors_total") == 0


def test_the_replica_and_its_process_are_told_of(observed: Observed) -> None:
    assert observed.told("weft_build", version=__version__) == 1
    assert observed.told("weft_shards_owned") == 2
    assert observed.told("weft_bus_connected") == 1
    assert observed.told("weft_long_polls") == 0
    assert observed.told("weft_gc_pause_seconds_count") >= 0
    assert observed.told("process_resident_memory_bytes") > 10_000_000
    assert observed.told("process_cpu_seconds_total") > 0


def test_clients_do_not_see_them(observed: Observed) -> None:
    with (
        pytest.raises(HTTPError, match="404"),
        urlopen(f"{observed.process.url}/metrics", timeout=PATIENCE_S),
    ):
        pass
