"""`/live`, `/ready` and `/metrics` of a real worker, while ClickHouse and Kafka come and go."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.telemetry.metrics import CONTENT_TYPE, DECLARED
from tests.support.gateway import free_port, gateway
from tests.support.kafka import Kafka
from tests.support.load import Load
from tests.support.pipeline import failed, send
from tests.support.world import stopped, wait_for, world

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

#: What makes a worker notice soon.
_SOON: Final = {"clickhouse_timeout_s": 2, "sample_interval_s": 0.2, "flush_interval_s": 0.2}


def asked(port: int, page: str) -> tuple[int, str, str]:
    """Status, content type and body of a page; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()
    except OSError:
        return 0, "", ""


def is_ready(port: int) -> bool:
    return asked(port, "/ready")[0] == 200


def reasons(port: int) -> list[str]:
    """Why the worker says that it is not ready."""
    status, _, body = asked(port, "/ready")
    told: list[str] = json.loads(body)["reasons"] if body else []
    assert status == (503 if told else 200) or not body
    return told


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """A process that says nothing during the block, and keeps its connections."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_is_away_is_told_and_what_is_back_too(kafka: Kafka, load_folder: Path, tmp_path: Path) -> None:
    """A worker without a single event notices that ClickHouse or Kafka is away, says which, and is ready again by
    itself. `/metrics` shows declared metrics only, and ClickHouse keeps the same."""
    port = free_port()
    with (
        gateway(tmp_path / "gateway") as server,
        world("pages", kafka.bootstrap, server.url, load_folder, tmp_path, {**_SOON, "web_port": port}) as made,
        made.worker() as worker,
    ):
        worker.wait_for(lambda: is_ready(port), "it was ready")
        assert asked(port, "/live")[::2] == (200, '{"live":true}')
        with made.worker() as second:
            failed(second.wait(), f"127.0.0.1:{port}", "VIGIE_WEB_PORT")
        server.kill()
        worker.wait_for(lambda: any("ClickHouse is away" in told for told in reasons(port)), "ClickHouse was missed")
        assert all(server.url in told for told in reasons(port))
        assert asked(port, "/live")[0] == 200, "who waits is alive"
        server.start()
        worker.wait_for(lambda: is_ready(port), "it was ready with ClickHouse back")
        with frozen(kafka.pid):
            worker.wait_for(lambda: any("Kafka is away" in told for told in reasons(port)), "Kafka was missed", 40)
            assert all(kafka.bootstrap in told for told in reasons(port))
        worker.wait_for(lambda: is_ready(port), "it was ready with Kafka back")

        produced = send(Load(47).draw(int(time.time() * 1_000)), kafka.bootstrap)
        made.wait_until_caught_up(worker)
        status, kind, body = asked(port, "/metrics")
        assert (status, kind) == (200, CONTENT_TYPE)
        samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
        assert {sample.name for sample in samples} <= DECLARED.keys()
        assert all(set(sample.labels) == set(DECLARED[sample.name].labels) for sample in samples)
        assert sum(s.value for s in samples if s.name == "vigie_records_total") == produced
        assert sum(s.value for s in samples if s.name == "vigie_unaccounted_records") == 0
        kept = (
            "SELECT sum(n) FROM (SELECT argMax(value, at) AS n FROM worker_samples "
            "WHERE metric = 'vigie_records_total' GROUP BY worker, labels)"
        )
        wait_for(lambda: made.rows(kept) == [(float(produced),)], "ClickHouse had the same")
        assert {name for (name,) in made.rows("SELECT DISTINCT metric FROM worker_samples")} <= DECLARED.keys()
        assert {asked(port, page)[0] for page in ("/", "/graph", "/router/", "/table/", "/metrics/x")} == {404}
        stopped(worker)
        assert asked(port, "/live")[0] == 0
