"""A whole installation on this machine: three brokers, ClickHouse behind the fault proxy, workers and a receiver."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from processors.territory import Territory
from streams.territory.files import write
from tests.chaos.records import MAX_RECORD_BYTES
from tests.chaos.slots import FaultError, Slot
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_cluster import Cluster, kafka_cluster
from tests.support.pipeline import GROUP, succeeded, vigie
from tests.support.proxy import FaultProxy
from tests.support.receiver import WebhookReceiver

PARTITIONS: Final = 3
#: A worker has so long to finish what is begun, and this much more to end.
DRAIN_S: Final = 8.0
END_S: Final = 6.0
#: A worker that is not heard of for so long has lost its partitions.
SESSION_S: Final = 6.0
_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_SUPERVISE_S: Final = 0.2
_MEMBERS_S: Final = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Installation:
    """What runs. `database` is ClickHouse's URL past the proxy, for who is not to be disturbed."""

    kafka: Cluster
    gateway: Gateway
    proxy: FaultProxy
    receiver: WebhookReceiver
    slots: Sequence[Slot]
    guest: Slot
    folder: Path
    settings: dict[str, object]
    say: Say
    halt: threading.Event = field(default_factory=threading.Event)

    @property
    def database(self) -> str:
        return self.gateway.url

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)

    def wait(self, seconds: float) -> None:
        """Let a fault last; it is cut short at the end of the run."""
        self.halt.wait(seconds)

    def command(self, *arguments: object) -> str:
        """Run `vigie ARGUMENTS` past the proxy; what it printed."""
        past = self.settings | {"clickhouse_url": self.database}
        return succeeded(vigie(*arguments, folder=self.folder / str(arguments[0]), settings=past)).out


@contextmanager
def installation(territory: Territory, folder: Path, *, workers: int, brokers: int, say: Say) -> Iterator[Installation]:
    """Everything running and every worker up, with all topics and tables; nothing of it is left after the block."""
    with ExitStack() as stack:
        kafka = stack.enter_context(kafka_cluster(brokers, partitions_default=PARTITIONS, log_dir=folder / "kafka"))
        say(f"{brokers} brokers at {kafka.bootstrap}")
        database = stack.enter_context(gateway(folder / "gateway"))
        proxy = stack.enter_context(FaultProxy(urlsplit(database.url).netloc))
        receiver = stack.enter_context(WebhookReceiver())
        town = folder / "territory"
        write(territory, town)
        settings = _settings(kafka, brokers, proxy, receiver, town)
        slots = [
            Slot(f"worker-{n}", folder / f"worker-{n}", settings | {"instance_id": f"worker-{n}"}, say)
            for n in range(1, workers + 1)
        ]
        guest = Slot("guest", folder / "guest", settings, say)
        running = Installation(kafka, database, proxy, receiver, slots, guest, folder, settings, say)
        running.command("init")
        kafka.wait_in_sync()
        for slot in (*slots, guest):
            stack.callback(slot.remove)
        stack.enter_context(_supervised([*slots, guest]))
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.wait_until_it_listens()
        _wait_for_members(kafka.bootstrap, workers)
        say(f"{workers} workers are up and have their partitions")
        yield running


def _wait_for_members(bootstrap: str, count: int) -> None:
    """Return once so many workers share the partitions: what comes before is no stall."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    until = time.monotonic() + _MEMBERS_S
    members = 0
    while time.monotonic() < until:
        # Without an answer: the group's coordinator is only now being found.
        with contextlib.suppress(KafkaException):
            found = admin.describe_consumer_groups([GROUP])[GROUP].result(timeout=30)
            members = len(found.members)
            if found.state == ConsumerGroupState.STABLE and members == count:
                return
        time.sleep(_SUPERVISE_S)
    raise FaultError(f"{members} of {count} workers share the partitions after {_MEMBERS_S:.0f} s")


@contextmanager
def _supervised(slots: Sequence[Slot]) -> Iterator[None]:
    """Workers that end by themselves are started again, as long as the block lasts."""
    over = threading.Event()

    def supervise() -> None:
        while not over.wait(_SUPERVISE_S):
            for slot in slots:
                slot.watch()

    thread = threading.Thread(target=supervise, name="supervisor")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _settings(
    kafka: Cluster, brokers: int, proxy: FaultProxy, receiver: WebhookReceiver, town: Path
) -> dict[str, object]:
    """Everything that takes minutes in a town takes seconds here; chunks close often, and duplicates stay within two
    of them (the simulation repeats a record within 1 500 of its own)."""
    return {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"http://{proxy.address}",
        "territories": town,
        "partitions": PARTITIONS,
        "replication": min(3, brokers),
        "webhook_url": receiver.url,
        "webhook_secrets": _SECRET,
        "chunk_records": 2_000,
        "batch_records": 1_000,
        "max_record_bytes": MAX_RECORD_BYTES,
        "flush_interval_s": 0.5,
        "snapshot_interval_s": 2,
        "session_timeout_s": SESSION_S,
        "rebalance_timeout_s": 12,
        "drain_timeout_s": DRAIN_S,
        "clickhouse_timeout_s": 4,
        "retry_budget_s": 60,
        "watchdog_s": 45,
        "zone_watch_interval_s": 5,
    }
