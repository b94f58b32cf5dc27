"""The Kafka service of deploy/compose.yaml, without its container: the class by which the image turns `KAFKA_…` into
its configuration and formats its storage is in Kafka's own jars. The broker that comes of it is asked for what vigie
needs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from schemas.contracts import RAW_TOPICS
from streams import broker, setup
from streams.broker import BrokerError
from streams.ledger import Place
from streams.settings import Settings, load
from tests.deploy import compose
from tests.support.kafka import Installation, install
from tests.support.kafka_node import nodes
from tests.support.required import require_kafka

_SERVICES: Final[dict[str, dict[str, Any]]] = compose.load()["services"]
#: The image has more in it; the class only needs something to add loggers to.
_LOGGING: Final = "Configuration: {Appenders: {}, Loggers: {Root: {level: WARN, AppenderRef: []}, Logger: []}}\n"


def command(installation: Installation, *words: str) -> list[str]:
    """A class of Kafka's, started with the archive of loaded classes that halves its start."""
    archive = (f"-XX:SharedArchiveFile={installation.archive}",) if installation.archive.exists() else ()
    return installation.command(*words, jvm=archive)


def prepared(installation: Installation, folder: Path, environment: dict[str, str]) -> Path:
    """server.properties, and storage formatted for it, as the image's start makes them of this environment."""
    for name in ("defaults", "mounted", "final"):
        (folder / name).mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (folder / "defaults" / name).write_text("" if name == "server.properties" else _LOGGING, "utf-8")
    folders = {"default": "defaults", "mounted": "mounted", "final": "final"}
    arguments = [word for kind, name in folders.items() for word in (f"--{kind}-configs-dir", str(folder / name))]
    path = {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ}
    done = subprocess.run(
        command(installation, "kafka.docker.KafkaDockerWrapper", "setup", *arguments),
        env={**path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    return folder / "final" / "server.properties"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Settings]:
    """The settings by which `vigie init` reaches the broker of the file. Ports and the data's folder are other ones."""
    require_kafka()
    installation = install()
    node = nodes(2)[0]
    places = {
        ":9092": f":{node.brokers[0]}",
        ":29092": f":{node.brokers[1]}",
        ":9093": f":{node.controllers[0]}",
        _SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]: str(tmp_path / "data"),
    }
    pattern = re.compile("|".join(rf"{re.escape(place)}\b" for place in places))
    given = _SERVICES["kafka"]["environment"].items()
    environment = {name: pattern.sub(lambda found: places[found[0]], value) for name, value in given}
    properties = prepared(installation, tmp_path, environment)
    with (tmp_path / "kafka.log").open("wb") as output:
        process = subprocess.Popen(
            command(installation, "kafka.Kafka", str(properties)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    asked = _SERVICES["init"]["environment"]
    try:
        yield load(
            kafka_bootstrap=f"127.0.0.1:{node.brokers[1]}",
            partitions=asked["VIGIE_PARTITIONS"],
            replication=asked["VIGIE_REPLICATION"],
            retention_days=asked["VIGIE_RETENTION_DAYS"],
        )
    finally:
        # The data is thrown away: a clean shutdown would only cost time.
        process.kill()
        process.wait()


@pytest.mark.integration
@pytest.mark.kafka
def test_the_kafka_of_the_file_serves_vigie(started: Settings) -> None:
    """It starts from the file's environment, reached from this machine; it makes the topics of `vigie init`, and one
    broker is enough for offsets and transactions; a topic of a misspelt name is not made by use."""
    setup.kafka(started, lambda _: None)
    assert broker.create_topics(started) == sorted(topic.topic for topic in broker.topics(started))
    assert broker.without_broker_time(started) == []
    there = AdminClient(broker.client_config(started)).list_topics("city.raw.senser", timeout=10)
    assert there.topics["city.raw.senser"].error is not None
    # The first question makes the topic of offsets, and is refused until all its partitions are loaded.
    place = Place(RAW_TOPICS["sensor"], 0)
    committed = partial(broker.committed_offset, started, place)
    assert broker.wait_for("offsets", committed, (BrokerError,), timeout_s=60, say=lambda _: None) is None
    transactions = Producer({**broker.client_config(started), "transactional.id": "try"})
    transactions.init_transactions(60)
    assert broker.reach(started) >= {"__consumer_offsets", "__transaction_state", *RAW_TOPICS.values()}
