"""Real Apache Kafka for tests and benchmarks: one JVM, broker and controller in one, from Maven Central.

`tests.support.kafka_cluster` makes several of them one cluster.

The jars that `deploy/kafka/pom.xml` pins are copied once into `.cache/kafka/<hash of the pom>`, together with a
formatted (empty) storage folder and an archive of loaded classes, so that a broker answers about 0.6 s after its
start. Needs Java 17 and, for the first run, Maven and the network. Each broker has its own ports and temporary
folder; it is ended by its process id, and its folder removed when the context ends unless it is told to stay.

Not guaranteed: a broker outlives a test process that is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.kafka_node import Node, copy_storage, nodes, properties

ROOT: Final = Path(__file__).resolve().parents[2]
POM: Final = ROOT / "deploy" / "kafka" / "pom.xml"
_PREFIX: Final = "vigie-kafka-"
CACHE: Final = ROOT / ".cache" / "kafka"

MIN_JAVA: Final = 17
START_TIMEOUT_S: Final = 60.0
#: Kafka's controlled shutdown takes 0.1 to 0.3 s; beyond this it is stuck.
STOP_TIMEOUT_S: Final = 15.0
#: Every broker starts from one formatted folder, so every cluster has the same id.
CLUSTER_ID: Final = "dmlnaWUtdGVzdHMtMDAwMQ"
#: C1 only, serial collector: the JVM lives for seconds and shares two cores with what is tested.
JVM_FLAGS: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


class KafkaError(Exception):
    """Kafka could not be fetched, started or stopped; the message ends with what the tool or the broker printed."""


@dataclass(frozen=True)
class Installation:
    """What the cache holds: the class path, a formatted storage folder, and the class archive (which may be absent)."""

    java: str
    class_path: str
    storage: Path
    archive: Path

    def command(self, main: str, *args: str, jvm: tuple[str, ...] = ()) -> list[str]:
        return [self.java, *JVM_FLAGS, *jvm, "-cp", self.class_path, main, *args]


def kafka_available() -> str | None:
    """Why real Kafka cannot be started here, or None if it can (the network is not tried)."""
    java = _java()
    if java is None:
        return f"no java on PATH or in JAVA_HOME: install a JDK or JRE of version {MIN_JAVA} or newer"
    major = (java_version() or "?").partition(".")[0]
    if not major.isdigit() or int(major) < MIN_JAVA:
        return f"Kafka needs Java {MIN_JAVA} or newer, and {java} is {java_version() or 'of no version known'}"
    if shutil.which("mvn") is None and not _home().is_dir():
        return "no mvn on PATH: install Maven, it fetches Kafka from Maven Central once"
    return None


def java_version() -> str | None:
    """The version of the Java found on PATH or in JAVA_HOME, e.g. 17.0.15; None without one."""
    java = _java()
    found = re.search(r'version "([^"]+)"', _java_banner(java)) if java else None
    return found[1] if found else None


class Kafka:
    """A running (or killed, or stopped) one-node cluster, or one node of several. Made by `real_kafka`.

    `bootstrap` is host:port and stays the same over restarts, as do the data.
    """

    def __init__(
        self,
        installation: Installation,
        folder: Path,
        output: Path,
        partitions: int,
        cores: Collection[int] | None,
        node: Node | None = None,
        jvm: tuple[str, ...] = (),
    ) -> None:
        node = node or nodes(1)[0]
        self.bootstrap = f"127.0.0.1:{node.port}"
        self.output = output
        self._port = node.port
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None
        data = folder / "data"
        copy_storage(installation.storage, node, data)
        settings = folder / "server.properties"
        settings.write_text(properties(node, data, partitions), "utf-8")
        if installation.archive.exists():
            jvm = (*jvm, f"-XX:SharedArchiveFile={installation.archive}")
        self._command = installation.command("kafka.Kafka", str(settings), jvm=jvm)

    @property
    def pid(self) -> int | None:
        """Process id of the JVM; None when it is not running."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self) -> None:
        """Start it and return once it answers. Raises KafkaError with the end of its output if it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process; `wait` tells when it answers."""
        if self.pid is not None:
            raise KafkaError(f"the broker on {self.bootstrap} is already running")
        with self.output.open("ab") as output, pinned(self._cores):
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def wait(self) -> None:
        """Return once it answers. Raises KafkaError with the end of its output, and kills it, if it does not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            self._wait_until_answering(deadline)
        except BaseException:
            self.kill()
            raise

    def _wait_until_answering(self, deadline: float) -> None:
        while not _listening(self._port):
            self._check(deadline)
            time.sleep(0.02)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        while True:
            self._check(deadline)
            # A timeout: the broker listens before it is registered with its controller.
            with contextlib.suppress(KafkaException):
                if admin.list_topics(timeout=5).brokers:
                    return
            time.sleep(0.05)

    def _check(self, deadline: float) -> None:
        if self.pid is None:
            raise KafkaError(f"the broker ended while starting:\n{self.tail()}")
        if time.monotonic() > deadline:
            raise KafkaError(f"the broker did not answer within {START_TIMEOUT_S:.0f} s:\n{self.tail()}")

    def stop(self) -> None:
        """End it as an operator would (SIGTERM); after 15 s kill it and raise KafkaError. Nothing if not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise KafkaError(f"the broker did not stop within {STOP_TIMEOUT_S:.0f} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """End it at once (SIGKILL). Nothing if it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same ports and data, and return once it answers."""
        self.stop()
        self.start()

    def create_topic(
        self, name: str, *, partitions: int | None = None, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic; raises confluent_kafka.KafkaException if it exists already."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        count = -1 if partitions is None else partitions
        topic = NewTopic(name, num_partitions=count, replication_factor=1, config=dict(config or {}))
        admin.create_topics([topic])[name].result(timeout=30)

    def tail(self, lines: int = 40) -> str:
        """The last lines of the broker's output."""
        return "\n".join(self.output.read_text("utf-8", "replace").splitlines()[-lines:])


def _removed() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)


@contextlib.contextmanager
def real_kafka(
    *,
    partitions_default: int = 4,
    log_dir: Path | None = None,
    cores: Collection[int] | None = None,
    within: Path | None = None,
) -> Iterator[Kafka]:
    """Start a broker, yield it, end it and remove its data. `within` a folder, which must be there, the data stay.

    `partitions_default` is what a topic made without a number of partitions gets; topics are never made by use.
    `log_dir` is where the broker's output file is kept (by default it goes with the data). `cores` pins the JVM to
    those cores. Raises KafkaError; ask `kafka_available` first. What the block raises carries the end of the
    broker's output as a note.
    """
    installation = install()
    with _removed() if within is None else contextlib.nullcontext(tempfile.mkdtemp("", _PREFIX, within)) as name:
        folder = Path(name)
        if log_dir is not None:
            log_dir.mkdir(parents=True, exist_ok=True)
        output = (log_dir or folder) / f"kafka-{folder.name.removeprefix(_PREFIX)}.log"
        kafka = Kafka(installation, folder, output, partitions_default, cores)
        try:
            kafka.start()
            yield kafka
        except Exception as error:
            if not isinstance(error, KafkaError) and output.exists() and (printed := kafka.tail()):
                error.add_note(f"output of Kafka on {kafka.bootstrap}:\n{printed}")
            raise
        finally:
            # The data is thrown away: a clean shutdown would only cost time.
            kafka.kill()


def install() -> Installation:
    """Fetch, format and archive once, under a lock that other processes respect. Raises KafkaError."""
    reason = kafka_available()
    java = _java()
    if reason is not None or java is None:
        raise KafkaError(f"real Kafka is not available: {reason}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = _home()
        if not home.is_dir():
            _fetch(java, home)
        installation = _installation(java, home)
        if not installation.archive.exists():
            _archive_classes(installation)
    return installation


def _installation(java: str, home: Path) -> Installation:
    jars = sorted(str(jar) for jar in (home / "jars").glob("*.jar"))
    # An archive is valid for one JVM only.
    jvm = hashlib.sha256(_java_banner(java).encode()).hexdigest()[:12]
    return Installation(java, os.pathsep.join(jars), home / "storage", home / f"classes-{jvm}.jsa")


def _home() -> Path:
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]


def _fetch(java: str, home: Path) -> None:
    """Copy the pinned jars and format an empty storage folder; `home` appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetching-") as name:
        draft = Path(name) / "home"
        (draft / "jars").mkdir(parents=True)
        output = f"-DoutputDirectory={draft / 'jars'}"
        _run(["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", output])
        settings = Path(name) / "server.properties"
        # The ports are not stored: each broker gets its own.
        settings.write_text(properties(Node(1, (1,), (2,)), draft / "storage", 1), "utf-8")
        tool = _installation(java, draft).command("kafka.tools.StorageTool")
        _run([*tool, "format", "--cluster-id", CLUSTER_ID, "--config", str(settings)])
        draft.rename(home)


def _archive_classes(installation: Installation) -> None:
    """Run a broker once and let the JVM write down the classes it loaded: it halves the time to the first answer.

    Without the archive a broker starts all the same, so a JVM that writes none is not an error.
    """
    with tempfile.TemporaryDirectory(prefix="vigie-kafka-") as name:
        folder = Path(name)
        draft = installation.archive.with_suffix(".draft")
        kafka = Kafka(installation, folder, folder / "kafka.log", 1, None)
        kafka._command[1:1] = [f"-XX:ArchiveClassesAtExit={draft}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
        kafka.start()
        try:
            kafka.create_topic("archive")
            kafka.stop()
        finally:
            kafka.kill()
        if draft.exists():
            draft.rename(installation.archive)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        printed = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise KafkaError(f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{printed}")


@contextlib.contextmanager
def pinned(cores: Collection[int] | None) -> Iterator[None]:
    """Processes started in the block run on those cores only (a child inherits the cores of the thread that starts it).

    None changes nothing. A JVM counts its cores when it starts, so it must be pinned before, not after.
    """
    if cores is None:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")


@cache
def _java_banner(java: str) -> str:
    """What `java -version` prints (on standard error)."""
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
