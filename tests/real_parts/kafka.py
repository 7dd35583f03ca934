"""A real Apache Kafka (KRaft, one broker on the loopback interface) for the tests, or the one that is given.

`KAFKA_BOOTSTRAP=host:port` names a broker to use instead; tests that stop the broker start one all the same.
Java 17 and Maven install it once, under `~/.cache/weft`.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.real_parts.cache import CACHE
from tests.server_process import free_port

HERE = Path(__file__).parent
POM = HERE / "kafka_pom.xml"
LOGGING = HERE / "kafka_log4j2.properties"
STARTUP_SECONDS = 120.0
SHUTDOWN_SECONDS = 30.0

SASL_USER, SASL_PASSWORD = "weft", "correct horse"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},\
CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{advertised},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location={directory}/tls.pem
log.dirs={directory}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=4194304
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""


class Kafka:
    """A broker that listens at `bootstrap` (no encryption), `sasl` (PLAIN) and `tls`.

    Killed and started again, it keeps its data and its ports.
    """

    def __init__(self, directory: Path, *, advertised: str | None = None) -> None:
        """`advertised`: where clients are told to go instead of `bootstrap`."""
        self.directory = directory
        ports = {name: free_port() for name in ("plain", "sasl", "tls", "controller")}
        self.bootstrap = f"127.0.0.1:{ports['plain']}"
        self.sasl = f"127.0.0.1:{ports['sasl']}"
        self.tls = f"127.0.0.1:{ports['tls']}"
        self.certificate = directory / "certificate.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = directory / "server.properties"
        self._make_certificate()
        self._properties.write_text(
            PROPERTIES.format(
                directory=directory,
                user=SASL_USER,
                password=SASL_PASSWORD,
                advertised=advertised or self.bootstrap,
                **ports,
            )
        )
        self._format()

    @property
    def log(self) -> str:
        """What the broker said since it was started last."""
        return (self.directory / "kafka.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return once it takes requests."""
        assert self._process is None
        with (self.directory / "kafka.log").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *_java("-Xms96m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                    "kafka.Kafka",
                    str(self._properties),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        while "Kafka Server started" not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"Kafka did not start:\n{self.log[-4000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Keep it from running: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def ensure_running(self) -> None:
        """As it should be for whoever comes next."""
        if self._process is None:
            self.start()
        self.resume()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _make_certificate(self) -> None:
        """A certificate that signs itself, for 127.0.0.1."""
        key = self.directory / "key.pem"
        _run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(self.certificate)),
        )
        (self.directory / "tls.pem").write_text(key.read_text() + self.certificate.read_text())

    def _format(self) -> None:
        storage = [*_java("-Xmx96m"), "kafka.tools.StorageTool"]
        cluster = _run(*storage, "random-uuid").split()[-1]
        _run(*storage, "format", "-t", cluster, "-c", str(self._properties))


def _java(*options: str) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={LOGGING}"
    return ["java", *options, logging, "-Djava.awt.headless=true", "-cp", f"{installed()}/*"]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:3])} … failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


@cache
def installed() -> Path:
    """The folder of Kafka's libraries, filled by Maven the first time and when the versions change."""
    version = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    home = CACHE / f"kafka-{version}"
    if home.exists():
        return home
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.fail(f"The tests with Kafka need Java 17 and Maven: there is no {tool} here")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                libraries = Path(scratch) / "libraries"
                goal = ("dependency:copy-dependencies", "-DincludeScope=runtime")
                _run("mvn", "-B", "-q", "-f", str(POM), *goal, f"-DoutputDirectory={libraries}")
                libraries.rename(home)
    return home


@pytest.fixture(scope="session")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of this run alone; a test that ends it starts it again."""
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> str:
    """Where a broker listens that stays as it is."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        return given
    broker: Kafka = request.getfixturevalue("own_kafka")
    return broker.bootstrap
