"""Several brokers of real Kafka as one cluster, each of which can be stopped, killed and started by its number.

    with kafka_cluster(brokers=3) as kafka:
        kafka.kill(2)
        kafka.start(2)
        kafka.wait_in_sync()

Each is broker and controller in one JVM. With three brokers every topic made without a number of copies has three, two
of which must have a record before it is confirmed: one broker may be away and nothing is lost. Numbers are from 1.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.kafka import START_TIMEOUT_S, Installation, Kafka, KafkaError, install
from tests.support.kafka_node import nodes

#: Several of them share a machine that is also to run what is tested.
_HEAP: Final = ("-Xmx256m",)
_POLL_S: Final = 0.2


class Cluster:
    """A running cluster. Made by `kafka_cluster`. `bootstrap` lists every broker and stays the same over restarts."""

    def __init__(
        self, installation: Installation, folder: Path, logs: Path, brokers: int, partitions: int,
        cores: Collection[int] | None,
    ) -> None:  # fmt: skip
        self._brokers: dict[int, Kafka] = {}
        for node in nodes(brokers):
            place = folder / f"broker-{node.number}"
            place.mkdir()
            output = logs / f"kafka-{folder.name.removeprefix('vigie-kafka-')}-{node.number}.log"
            self._brokers[node.number] = Kafka(installation, place, output, partitions, cores, node, _HEAP)
        self.bootstrap = ",".join(broker.bootstrap for broker in self._brokers.values())

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self._brokers)

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the brokers whose process lives."""
        return tuple(number for number, broker in self._brokers.items() if broker.pid is not None)

    def pid(self, number: int) -> int | None:
        """Process id of that broker's JVM; None when it is not running."""
        return self._brokers[number].pid

    def start_all(self) -> None:
        """Start every broker and return once each answers and knows the others. Raises KafkaError."""
        try:
            self.start(*self._brokers)
            self._wait_for_nothing(self._unknown, START_TIMEOUT_S)
        except BaseException:
            self.kill_all()
            raise

    def start(self, *numbers: int) -> None:
        """Start brokers that do not run, and return once each answers. Raises KafkaError.

        Without a majority none answers: those that make one are to be started by one call.
        """
        for number in numbers:
            self._brokers[number].launch()
        for number in numbers:
            self._brokers[number].wait()

    def stop(self, number: int) -> None:
        """End a broker as an operator would (SIGTERM). Nothing if it is not running."""
        self._brokers[number].stop()

    def kill(self, number: int) -> None:
        """End a broker at once (SIGKILL). Nothing if it is not running."""
        self._brokers[number].kill()

    def restart(self, number: int) -> None:
        """Stop it if it runs, start it again on the same ports and data, and return once it answers."""
        self._brokers[number].restart()

    def kill_all(self) -> None:
        for broker in self._brokers.values():
            broker.kill()

    def behind(self) -> list[str]:
        """Partitions (`topic/number`) of which a copy is away or behind. Raises KafkaException without an answer."""
        topics = self._admin().list_topics(timeout=10).topics
        return sorted(
            f"{name}/{number}"
            for name, topic in topics.items()
            for number, partition in topic.partitions.items()
            if len(partition.isrs) < len(partition.replicas)
        )

    def wait_in_sync(self, seconds: float = START_TIMEOUT_S) -> None:
        """Return once every broker has all of its copies; raise KafkaError, naming partitions, if that takes longer."""
        self._wait_for_nothing(self.behind, seconds)

    def _unknown(self) -> list[str]:
        """Brokers that the others do not know of yet."""
        known = self._admin().list_topics(timeout=10).brokers
        return [f"broker {number}" for number in self._brokers if number not in known]

    def _wait_for_nothing(self, missing: Callable[[], list[str]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            reason = "no broker answers"
            with contextlib.suppress(KafkaException):
                found = missing()
                if not found:
                    return
                reason = f"{len(found)} missing or behind: {', '.join(found)}"
            if time.monotonic() > deadline:
                raise KafkaError(f"the cluster is not whole after {seconds:.0f} s: {reason}\n{self.tail()}")
            time.sleep(_POLL_S)

    def _admin(self) -> AdminClient:
        # A new one each time: a client that lost a broker waits before it asks it again.
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def tail(self, lines: int = 40) -> str:
        """The last lines of every broker's output."""
        return "\n".join(f"broker {number}:\n{broker.tail(lines)}" for number, broker in self._brokers.items())


@contextlib.contextmanager
def kafka_cluster(
    brokers: int = 3,
    *,
    partitions_default: int = 4,
    log_dir: Path | None = None,
    cores: Collection[int] | None = None,
) -> Iterator[Cluster]:
    """Start a cluster, yield it, end it and remove its data. Arguments and errors as of `real_kafka`."""
    installation = install()
    with tempfile.TemporaryDirectory(prefix="vigie-kafka-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        logs = log_dir or folder
        logs.mkdir(parents=True, exist_ok=True)
        cluster = Cluster(installation, folder, logs, brokers, partitions_default, cores)
        try:
            cluster.start_all()
            yield cluster
        except Exception as error:
            if not isinstance(error, KafkaError):
                error.add_note(cluster.tail())
            raise
        finally:
            cluster.kill_all()
