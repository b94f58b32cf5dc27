"""An integrator's way: a file with every kind of mistake, mended as told, published, stored to the last record."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.contracts import DOMAINS, RAW_TOPICS, contract_of
from schemas.framing import encode
from tests.streams.contract_files.mistakes import avro_file, json_expected, json_file, mended, value
from tests.streams.contract_files.test_cli import run
from tests.support.kafka import Kafka
from tests.support.pipeline import Command, broker_in_process, everything, failed, rows, succeeded, vigie

pytestmark = pytest.mark.integration

_SENSOR: Final = contract_of("sensor")


def now_ms() -> int:
    return int(time.time() * 1_000)


def written(folder: Path, name: str, values: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in values))
    return path


def test_a_file_of_mistakes_is_mended_and_stored_to_the_last_record(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake is named by line and field and nothing is published; the mended file is, and so are samples of every
    contract in every format; a worker then stores each of these records, once, and refuses none."""
    bad = tmp_path / "readings.jsonl"
    bad.write_bytes(json_file(now_ms()))
    good = mended(now_ms())
    mended_file = written(tmp_path, "mended.jsonl", good)
    as_avro = tmp_path / "more.avro"
    as_avro.write_bytes(avro_file([value(n, now_ms()) for n in range(1_000, 1_300)]))
    as_hex = tmp_path / "device.hex"
    as_hex.write_text("\n".join(encode(_SENSOR, value(n, now_ms())).hex() for n in range(2_000, 2_050)))
    with broker_in_process() as bootstrap:
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
            "territories": small_folder,
        }

        told = vigie("contract", "validate", "--json", bad, folder=tmp_path, settings=settings)
        assert told.code == 1
        found = [(p["line"], p["field"], p["rule"]) for p in map(json.loads, told.out.splitlines())]
        assert sorted(found, key=str) == sorted(((n, f, rule.value) for n, f, rule in json_expected()), key=str)
        failed(vigie("contract", "publish", bad, folder=tmp_path, settings=settings), "nothing was published")
        assert everything(bootstrap, list(RAW_TOPICS.values())) == []

        done = succeeded(vigie("contract", "publish", mended_file, folder=tmp_path, settings=settings))
        assert f"city.raw.sensor: {len(good)} records, each confirmed" in done.out
        monkeypatch.setenv("VIGIE_KAFKA_BOOTSTRAP", bootstrap)
        monkeypatch.setenv("VIGIE_TERRITORIES", str(small_folder))
        for file, count in ((as_avro, 300), (as_hex, 50)):
            assert f": {count} records, each confirmed" in run("publish", file).stdout
        for domain, form in zip(DOMAINS, ("csv", "jsonl", "avro", "csv"), strict=True):
            made = tmp_path / f"{domain}.{form}"
            made.write_bytes(run("sample", domain, "--count", 50, "--format", form).stdout_bytes)
            assert run("publish", made, "--strict").exit_code == 0

        succeeded(vigie("worker", "--until-caught-up", folder=tmp_path, settings=settings))
    counts, identities, rejects = rows(
        tmp_path / "clickhouse",
        "SELECT " + ", ".join(f"(SELECT count() FROM events_{domain} FINAL)" for domain in DOMAINS),
        "SELECT event_id FROM events_sensor FINAL WHERE startsWith(event_id, 'm-')",
        "SELECT reason FROM rejects",
    )
    assert rejects == []
    assert counts == [(len(good) + 300 + 50 + 50, 50, 50, 50)]
    expected = {one["event_id"] for one in good} | {f"m-{n}" for n in (*range(1_000, 1_300), *range(2_000, 2_050))}
    assert {identity for (identity,) in identities} == expected


@pytest.mark.kafka
def test_an_interrupted_publication_goes_on_where_it_says(kafka: Kafka, small_folder: Path, tmp_path: Path) -> None:
    """On real Kafka: Ctrl-C confirms what is under way, says how much that was and which line comes next; from there on
    the rest is published, and every record of the file is in the topic once, under its key."""
    values = [value(n, now_ms(), asset_id=f"bin-{n % 5}") for n in range(1, 401)]
    file = written(tmp_path, "readings.jsonl", values)
    settings = {
        "kafka_bootstrap": kafka.bootstrap,
        "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
        "territories": small_folder,
    }
    told = failed(vigie("contract", "publish", file, folder=tmp_path, settings=settings), "no topic", "vigie init")
    assert "city.raw.sensor" in told
    kafka.create_topic("city.raw.sensor", partitions=4)
    with Command("contract", "publish", file, "--rate", 100, folder=tmp_path, settings=settings) as publishing:
        publishing.wait_for(lambda: len(everything(kafka.bootstrap, ["city.raw.sensor"])) > 20, "20 were there")
        publishing.interrupt()
        text = failed(publishing.wait(30), "interrupted", "--from-line")
    counted = re.search(r"(\d+) of 400 records were confirmed: go on with --from-line (\d+)", text)
    assert counted is not None
    confirmed, line = int(counted[1]), int(counted[2])
    assert 20 < confirmed < 400
    assert line == confirmed + 1
    assert len(everything(kafka.bootstrap, ["city.raw.sensor"])) == confirmed
    done = succeeded(vigie("contract", "publish", file, "--from-line", line, folder=tmp_path, settings=settings))
    assert f"{400 - confirmed} records, each confirmed" in done.out
    found = [(m.key(), m.value()) for m in everything(kafka.bootstrap, ["city.raw.sensor"])]
    assert sorted(found, key=str) == sorted(
        ((f"{v['jurisdiction_id']}|{v['asset_id']}".encode(), encode(_SENSOR, v)) for v in values), key=str
    )
