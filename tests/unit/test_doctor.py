"""`weft doctor`: what it finds, what it advises, and its exit codes, on servers and stores that are real."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from pymongo import MongoClient

from homeserver.cli import main
from homeserver.doctor.findings import Finding, Level
from homeserver.doctor.health import Health
from homeserver.doctor.replicas import replica_findings
from tests.real_parts import mongodb
from tests.server_process import ServerProcess, free_port

NOW = 1_700_000_000_000
NOBODY = 65534


@pytest.fixture(autouse=True)
def _environment_without_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("WEFT_"):
            monkeypatch.delenv(name)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    monkeypatch.setenv("WEFT_DATA_DIR", str(data))
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{free_port()}")


class Verdict(NamedTuple):
    code: int
    findings: list[dict[str, str]]

    def of(self, subject: str, level: str) -> str:
        """All that was found there of that level, remedies included."""
        return "\n".join(
            f"{finding['text']}; {finding['remedy']}"
            for finding in self.findings
            if (finding["subject"], finding["level"]) == (subject, level)
        )


def doctor(capsys: pytest.CaptureFixture[str]) -> Verdict:
    code = main(["doctor", "--dev", "--json"])
    return Verdict(code, json.loads(capsys.readouterr().out))


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data")
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{server.port}")
    server.start()
    yield server
    server.stop()


def test_a_server_that_runs_well_is_told_so(
    running: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = doctor(capsys)
    assert {finding["level"] for finding in verdict.findings} == {"OK"}, verdict.findings
    assert verdict.code == 0
    assert "is the one that the store knows" in verdict.of("signing key", "OK")
    assert verdict.of("shards", "OK") == "each of 2 has one owner; "


def test_a_server_that_was_stopped_is_looked_at_all_the_same(
    running: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    running.stop()
    verdict = doctor(capsys)
    assert verdict.code == 1
    assert "weft serve" in verdict.of("listen", "WARN")
    assert "format 1" in verdict.of("store", "OK")


def test_before_the_first_start_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = doctor(capsys)
    assert verdict.code == 1
    assert "the first start makes it" in verdict.of("store", "WARN")
    assert list((tmp_path / "data").iterdir()) == []


def test_another_key_than_the_server_has_is_found(
    running: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "data" / "signing.key"
    running.stop()
    key.write_text("ed25519 a_other " + "A" * 43)
    verdict = doctor(capsys)
    assert verdict.code == 2
    told = verdict.of("signing key", "FAIL")
    assert str(key) in told
    assert "copy signing.key of another replica" in told


def test_a_key_and_a_folder_open_to_everybody_are_found(
    running: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.stop()
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "signing.key").chmod(0o644)
    verdict = doctor(capsys)
    assert verdict.code == 2
    assert "chmod 600" in verdict.of("signing key", "FAIL")
    assert "chmod 700" in verdict.of("data_dir", "WARN")


def test_a_media_folder_that_cannot_be_made_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WEFT_MEDIA_PATH", str(tmp_path / "file" / "media"))
    verdict = doctor(capsys)
    assert verdict.code == 2
    assert "cannot be written by this user" in verdict.of("media.path", "FAIL")


def test_whoever_may_not_look_into_the_data_folder_is_told_so(
    running: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.stop()
    doctor(capsys)  # What it imports is there from now on, also for a user who may not read it.
    user = os.getuid()
    somebody = user or NOBODY
    (tmp_path / "data").chmod(0)
    os.setresuid(somebody, somebody, user)
    try:
        verdict = doctor(capsys)
    finally:
        os.setresuid(user, user, user)
    assert verdict.code == 2
    for subject in ("data_dir", "media.path"):
        assert "run this as the server's user" in verdict.of(subject, "FAIL")
    assert "belong to the server's user" in verdict.of("signing key", "FAIL")
    assert "the server's user" in verdict.of("store", "FAIL")


def test_another_program_at_the_address_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr("homeserver.doctor.diagnosis.ANSWER_SECONDS", 1.0)
        verdict = doctor(capsys)
    assert verdict.code == 2
    assert "stop that program" in verdict.of("listen", "FAIL")


def test_a_listener_for_other_servers_that_does_not_answer_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    server = ServerProcess(tmp_path / "data", WEFT_FEDERATION_LISTEN=listen)
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{server.port}")
    monkeypatch.setenv("WEFT_FEDERATION_LISTEN", listen)
    server.start()
    try:
        assert doctor(capsys).of("federation.listen", "OK") == f"{listen} answers other servers; "
        monkeypatch.setenv("WEFT_FEDERATION_LISTEN", f"127.0.0.1:{free_port()}")
        assert "change federation.listen" in doctor(capsys).of("federation.listen", "FAIL")
    finally:
        server.stop()


def test_a_store_that_another_process_has_open_is_told(
    running: ServerProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{free_port()}")
    assert "Another process has" in doctor(capsys).of("store", "FAIL")


def test_a_wrong_configuration_is_a_finding_for_each_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_LOG_LEVEL", "loud")
    monkeypatch.setenv("WEFT_LIMITS_MAX_BODY_SIZE", "2")
    verdict = doctor(capsys)
    assert verdict.code == 2
    assert len(verdict.of("configuration", "FAIL").splitlines()) == 2


def test_people_get_a_line_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--dev"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("OK   ", "WARN ", "FAIL ")) for line in lines)
    assert any(line.startswith("WARN store: there is no ") and " → " in line for line in lines)


# MongoDB


@pytest.fixture
def mongo_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"doctor_{uuid4().hex[:12]}"
    uri = mongodb.uri().replace("/?", f"/{name}?")
    monkeypatch.setenv("WEFT_STORAGE_URI", uri)
    yield uri
    with MongoClient[dict[str, object]](uri) as client:
        client.drop_database(name)


def test_an_index_that_went_missing_beneath_a_server_is_found_with_the_command_that_makes_it(
    mongo_uri: str, running: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is missing when no server runs is made at the next opening, the doctor's own too."""
    before = doctor(capsys)
    assert before.of("store", "FAIL") == ""
    assert "ms apart" in before.of("clock", "OK")
    with MongoClient[dict[str, object]](mongo_uri) as client:
        client.get_default_database()["log"].drop_index("by_position")
    after = doctor(capsys)
    assert after.code == 2
    told = after.of("store", "FAIL")
    assert "the index by_position of log is missing" in told
    assert 'db.log.createIndex({"shard": 1, "stream": 1, "kind": 1, "pos": 1}' in told


def test_a_second_server_without_a_bus_is_foreseen_and_does_not_start(
    mongo_uri: str,
    running: ServerProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{free_port()}")
    verdict = doctor(capsys)
    assert verdict.code == 2
    told = verdict.of("store", "FAIL")
    assert f"the server at 127.0.0.1:{running.port} has it open" in told and "bus.uri" in told
    assert main(["serve", "--dev"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weft: ")]
    assert f"The server at 127.0.0.1:{running.port} has this store open" in line and "bus.uri" in line
    running.stop()
    assert doctor(capsys).of("store", "FAIL") == ""


def test_a_replica_set_that_no_member_may_leave_is_a_warning(
    mongo_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "so that one may fail" in doctor(capsys).of("store", "WARN")


def test_a_database_that_is_away_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_STORAGE_URI", f"mongodb://127.0.0.1:{free_port()}/weft")
    monkeypatch.setattr("storage.mongo.connection.OPENING_TIMEOUT_S", 0.5)
    verdict = doctor(capsys)
    assert verdict.code == 2
    assert len(verdict.of("store", "FAIL").splitlines()) == 1


# Kafka


def test_missing_topics_are_found_and_not_made(
    kafka_bootstrap: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"doctor-{uuid4().hex[:12]}"
    monkeypatch.setenv("WEFT_BUS_URI", f"kafka://{kafka_bootstrap}")
    monkeypatch.setenv("WEFT_BUS_TOPIC_PREFIX", prefix)
    for _ in range(2):
        told = doctor(capsys).of("bus", "FAIL")
        assert f"{prefix}.room-log" in told
        assert "created when a server starts" in told


def test_a_broker_that_is_away_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_BUS_URI", f"kafka://127.0.0.1:{free_port()}")
    assert "no broker can be reached" in doctor(capsys).of("bus", "FAIL")


# Replicas


def health(*own: int, **more: object) -> Health:
    """A replica that owns these of the shards 0 to 3."""
    given: dict[str, object] = {
        "version": "1.0",
        "server_name": "example.org",
        "now": NOW,
        "shared": True,
        "connected": True,
        "own": frozenset(own),
        "owners": {0: "a:1", 1: "a:1", 2: "b:1", 3: "b:1"},
        "lags": {},
        "set_aside": {},
        "store": [],
    }
    return Health(**{**given, **more})  # type: ignore[arg-type]


def bad(a: Health, b: Health | None) -> list[Finding]:
    found = replica_findings("a:1", {"a:1": a, "b:1": b}, NOW)
    return [finding for finding in found if finding.level is not Level.OK]


def test_replicas_that_share_all_shards_are_well() -> None:
    assert bad(health(0, 1), health(2, 3)) == []


@pytest.mark.parametrize(
    ("a", "b", "subject", "text"),
    [
        (health(0, 1), health(3), "shards", "shard 2 has no owner"),
        (health(owners={}), health(owners={}), "shards", "none has an owner"),
        (health(0, 1), health(0, 2, 3), "shards", "shard 0 has 2 owners: a:1, b:1"),
        (health(0, 1), health(2, 3, connected=False), "bus", "b:1 has lost the bus"),
        (health(0, 1), health(2, 3, version="1.1"), "replicas", "of releases 1.0, 1.1"),
        (health(0, 1), health(2, 3, now=NOW + 60_000), "clock", "the clock of b:1 is 60000 ms"),
        (
            health(0, 1, lags={"search": {1: 5000}}),
            health(2, 3),
            "consumers",
            "search at a:1 is 5000 entries",
        ),
        (health(0, 1, set_aside={"search": 2}), health(2, 3), "consumers", "could not handle 2 entries"),
    ],
)
def test_what_is_wrong_with_replicas_is_found(a: Health, b: Health, subject: str, text: str) -> None:
    (finding,) = bad(a, b)
    assert finding.subject == subject
    assert text in finding.text
    assert finding.remedy


def test_an_owner_that_does_not_answer_is_found_and_its_shards_are_missed() -> None:
    subjects = [(finding.subject, finding.level) for finding in bad(health(0, 1), None)]
    assert subjects == [("replicas", Level.FAIL), ("shards", Level.FAIL), ("shards", Level.FAIL)]
