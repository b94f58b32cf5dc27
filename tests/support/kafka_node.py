"""One Kafka broker's place in its cluster: ports, storage folder and settings. `tests.support.kafka` runs it."""

from __future__ import annotations

import base64
import contextlib
import errno
import random
import re
import shutil
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Below the range from which Linux picks source ports (32 768 and up): otherwise a client that keeps trying to reach
#: a broker which is down can be given the broker's own port, and the broker can no longer bind it.
PORTS: Final = range(20_000, 32_000)


@dataclass(frozen=True)
class Node:
    """One broker's place in its cluster: its number, from 1, and the ports of every node in the order of numbers."""

    number: int
    brokers: tuple[int, ...]
    controllers: tuple[int, ...]

    @property
    def port(self) -> int:
        return self.brokers[self.number - 1]

    @property
    def voters(self) -> str:
        return ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(self.controllers, start=1))


def nodes(count: int) -> list[Node]:
    """The nodes of a cluster, on ports that are free now."""
    ports = _free_ports(2 * count)
    return [Node(number, tuple(ports[:count]), tuple(ports[count:])) for number in range(1, count + 1)]


def copy_storage(formatted: Path, node: Node, data: Path) -> None:
    """Make `data` a copy of the formatted storage that is this node's own: each has its number and its folder's id."""
    shutil.copytree(formatted, data)
    about = data / "meta.properties"
    text = re.sub(r"^node\.id=.*$", f"node.id={node.number}", about.read_text("utf-8"), flags=re.M)
    if node.number > 1:
        # As Kafka writes a UUID: base64 without padding, and never a dash in front.
        folder = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        text = re.sub(r"^directory\.id=.*$", f"directory.id={folder}", text, flags=re.M)
    about.write_text(text, "utf-8")


def properties(node: Node, data: Path, partitions: int) -> str:
    """`server.properties`. Up to three copies of everything, of which one may be away; no waiting for members, small
    buffers, one offsets partition."""
    copies = min(3, len(node.brokers))
    in_sync = max(1, copies - 1)
    settings = {
        "process.roles": "broker,controller",
        "node.id": node.number,
        "controller.quorum.voters": node.voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controllers[node.number - 1]}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.port}",
        "log.dirs": data,
        "num.partitions": partitions,
        "num.network.threads": 2,
        "num.io.threads": 2,
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "true",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        # Tests of rebalances wait for a dead member's session to end: let it be short.
        "group.min.session.timeout.ms": 500,
        # After SIGKILL the controller refuses the new broker until the old one's session ends (9 s by default).
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 300,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on. Drawn at random, so that processes that start at the same time seldom meet."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(errno.EADDRINUSE, f"no {count} free ports between {PORTS.start} and {PORTS.stop}")
