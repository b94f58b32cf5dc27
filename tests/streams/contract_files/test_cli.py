"""`vigie contract` as scripts and people use it: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from schemas.contracts import DOMAINS, contract, contract_of
from schemas.framing import single_object_prefix
from streams.cli.contract import contract as command
from streams.clock import WallClock
from streams.contract_files.source import FORMATS, Format
from tests.streams.contract_files.judging import written
from tests.streams.contract_files.mistakes import (
    avro_file,
    csv_expected,
    csv_file,
    hex_lines,
    json_expected,
    json_file,
    mended,
    value,
)
from tests.support.city import CITY
from tests.support.pipeline import ROOT

_SENSOR: Final = contract_of("sensor")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIGIE_TERRITORIES", "VIGIE_SETTINGS", "VIGIE_KAFKA_BOOTSTRAP", "VIGIE_MAX_RECORD_BYTES"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "bug of vigie" not in result.stderr, result.stderr
    return result


def values_file(values: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in values)


def now() -> int:
    return WallClock().now_ms()


# --- list and show


def test_every_contract_is_listed_with_its_topic() -> None:
    """Those that are sent and the one that is received, with the number of their fields."""
    listed = json.loads(run("list", "--json").stdout)
    assert [(e["name"], e["topic"], e["direction"], e["fields"]) for e in listed] == [
        ("SensorObservation", "city.raw.sensor", "in", 25),
        ("LightingObservation", "city.raw.lighting", "in", 14),
        ("RoadwayObservation", "city.raw.roadway", "in", 21),
        ("CitizenReport", "city.raw.report", "in", 13),
        ("Alert", "city.alerts", "out", 18),
    ]
    shown = run("list").stdout
    assert all(e["name"] in shown and e["topic"] in shown for e in listed)


@pytest.mark.parametrize("name", [*(contract_of(d).name for d in DOMAINS), "Alert"])
def test_show_says_everything_of_every_field(name: str) -> None:
    """Name, unit, bounds, step, symbols and documentation, for people and for programs."""
    found = contract(name)
    described = json.loads(run("show", name, "--json").stdout)
    assert [f["name"] for f in described["fields"]] == [f.name for f in found.fields]
    for told, field in zip(described["fields"], found.fields, strict=True):
        assert (told["doc"], told["unit"], told["pattern"]) == (field.doc, field.unit, field.pattern)
        assert (told["minimum"], told["maximum"], told["resolution"]) == (
            field.minimum,
            field.maximum,
            field.resolution,
        )
        assert told["symbols"] == (list(field.symbols) or None)
        assert told["required"] == (not field.nullable and not field.symbols)
    shown = " ".join(run("show", name.lower()).stdout.split())
    assert all(f.name in shown for f in found.fields)
    assert described["single_object_prefix"] == single_object_prefix(found.schema).hex()


def test_show_gives_the_schema_as_it_is() -> None:
    """What --avsc prints is a file for an Avro library: ours, byte for byte."""
    assert run("show", "sensor", "--avsc").stdout == (ROOT / "schemas/avro/SensorObservation.avsc").read_text("utf-8")
    assert json.loads(run("show", "sensor", "--avsc").stdout) == _SENSOR.schema


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "Nothing"),
        ("show", "sensor", "--json", "--avsc"),
        ("sample", "Alert"),
        ("sample", "sensor", "--count", "0"),
        ("validate", "/nowhere/at/all.jsonl"),
        ("validate", "-", "--contract", "Alert"),
        ("publish", "/nowhere/at/all.jsonl"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    """What is wrong with the command line is told as that, and nothing is on standard output."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""


# --- validate


def test_a_good_file_is_0_and_silent(tmp_path: Path) -> None:
    """Nothing on standard output; the account on standard error says what was not judged."""
    file = written(tmp_path, "readings.jsonl", values_file([value(n, now()) for n in range(1, 4)]))
    done = run("validate", file)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "readings.jsonl: 3 records of SensorObservation: 3 good, 0 refused" in done.stderr
    assert "VIGIE_TERRITORIES" in done.stderr


def test_every_mistake_is_named_by_line_and_field(
    tmp_path: Path, small_city: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command tells of each file what its judge does, as words and as objects, and ends with 1."""
    monkeypatch.setenv("VIGIE_TERRITORIES", str(small_city))
    for name, content, expected in (
        ("sensor.jsonl", json_file(now()), json_expected()),
        ("sensor.csv", csv_file(now()), csv_expected()),
    ):
        file = written(tmp_path, name, content)
        done = run("validate", file, "--json")
        assert done.exit_code == 1
        told = [json.loads(line) for line in done.stdout.splitlines()]
        found = [(one["line"], one["field"], one["rule"]) for one in told]
        assert sorted(found, key=str) == sorted(((n, f, rule.value) for n, f, rule in expected), key=str)
        assert {one["severity"] for one in told} == {"error", "warning"}
        shown = run("validate", file).stdout.splitlines()
        assert len(shown) == len(told)
        for line, one in zip(shown, told, strict=True):
            place = f"line {one['line']}" + (f", {one['field']}" if one["field"] else "")
            assert line.startswith(f"{place}: [")
            assert f"{one['rule']}] {one['found']}. " in line


def test_warnings_are_0_and_1_when_strict(tmp_path: Path) -> None:
    """Stored all the same is good enough, unless it is not."""
    file = written(tmp_path, "percent.jsonl", values_file([value(1, now(), fill_level=62)]))
    lax, strict = run("validate", file), run("validate", file, "--strict")
    assert (lax.exit_code, strict.exit_code) == (0, 1)
    assert "[warning, percent]" in lax.stdout
    assert "[percent]" in strict.stdout
    assert "1 good, 1 of them with warnings" in lax.stderr
    assert "0 good, 1 refused" in strict.stderr


def test_it_stops_after_so_many_errors(tmp_path: Path) -> None:
    """A file that is all wrong is not read to its end: as many as asked for are told, the rest of what was read is
    counted, and warnings stop nothing."""
    bad = values_file([value(n, now(), asset_id="") for n in range(9_000)])
    done = run("validate", written(tmp_path, "bad.jsonl", bad), "--max-problems", 7)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 7
    assert "stopped after line 4,096: at least 4,089 more errors" in done.stderr
    warned = values_file([value(n, now(), fill_level=62) for n in range(5_000)])
    done = run("validate", written(tmp_path, "warned.jsonl", warned), "--max-problems", 7)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 7
    assert "0 more errors and 4,993 more warnings" in done.stderr
    assert "5,000 good" in done.stderr


def test_the_end_of_a_file_is_no_stop(tmp_path: Path) -> None:
    """As many errors as are told, and the file at its end: nothing is left to say."""
    file = written(tmp_path, "bad.jsonl", values_file([value(n, now(), asset_id="") for n in range(3)]))
    done = run("validate", file, "--max-problems", 3)
    assert "stopped" not in done.stderr
    assert done.exit_code == 1


@pytest.mark.parametrize("form", FORMATS)
def test_standard_input_is_a_file_too(form: Format) -> None:
    """With its format named, or told by its first bytes; of which nothing is lost."""
    values = [value(n, now(), longitude=None) for n in range(1, 4)]
    head = b"event_id,source,jurisdiction_id,asset_id,observed_at,sensor_type\n"
    contents: dict[Format, bytes] = {
        "jsonl": values_file(values),
        "csv": head + b"".join(f"{n},s,{CITY},b,{now()},bin\n".encode() for n in range(3)),
        "avro": avro_file(values),
        "hex": b"\n".join([hex_lines(now())[0][2]] * 1) + b"\n",
    }
    done = run("validate", "-", "--format", form, stdin=contents[form])
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert f"standard input: {1 if form == 'hex' else 3} records of SensorObservation" in done.stderr
    guessed = run("validate", "-", stdin=contents[form])
    assert guessed.exit_code == (0 if form in ("jsonl", "avro") else 2)


def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    """Neither the format nor the contract is invented."""
    head = {k: v for k, v in value(1, now()).items() if k not in ("sensor_type", "fill_level")}
    file = written(tmp_path, "readings.jsonl", values_file([head]))
    asked = run("validate", file)
    assert asked.exit_code == 2
    assert "--contract SensorObservation|LightingObservation|" in asked.stderr
    assert run("validate", file, "--contract", "lighting").exit_code == 0
    strange = written(tmp_path, "readings.dat", b"?")
    asked = run("validate", strange)
    assert asked.exit_code == 2
    assert "--format" in asked.stderr


def test_a_folder_that_is_no_territory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong settings are told as everywhere."""
    monkeypatch.setenv("VIGIE_TERRITORIES", str(tmp_path))
    file = written(tmp_path, "readings.jsonl", values_file([value(1, now())]))
    done = run("validate", file)
    assert done.exit_code == 1
    assert "territory.yaml" in done.stderr


# --- sample


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_samples_are_valid(domain: str, form: Format) -> None:
    """What `sample` writes `validate` has no word against, in each format; without a territory it says what is made
    up."""
    made = run("sample", domain, "--count", 20, "--format", form)
    assert made.exit_code == 0
    assert CITY in made.stderr
    done = run("validate", "-", "--format", form, "--strict", stdin=made.stdout_bytes)
    assert (done.exit_code, done.stdout) == (0, ""), done.stdout
    assert "20 good" in done.stderr


def test_samples_of_a_territory_are_its_own(small_city: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its authority, its assets, positions inside it: nothing is made up, and nothing is said so."""
    monkeypatch.setenv("VIGIE_TERRITORIES", str(small_city))
    for domain in DOMAINS:
        made = run("sample", domain, "--count", 40)
        assert made.stderr == ""
        done = run("validate", "-", "--format", "jsonl", "--strict", stdin=made.stdout_bytes)
        assert (done.exit_code, done.stdout) == (0, ""), done.stdout
    assets = {json.loads(line)["asset_id"] for line in run("sample", "lighting", "--count", 40).stdout.splitlines()}
    assert assets == {"lamp-00001", "lamp-00002"}


def test_the_seed_decides_the_values() -> None:
    """The same seed the same measures, another seed others; identifiers are always new, times those of now."""

    def measures(seed: int) -> list[dict[str, Any]]:
        lines = io.StringIO(run("sample", "sensor", "--seed", seed).stdout)
        moving = ("event_id", "observed_at")
        return [{k: v for k, v in json.loads(line).items() if k not in moving} for line in lines]

    assert measures(3) == measures(3)
    assert measures(3) != measures(4)


# --- publish, without a broker


def test_nothing_is_published_of_a_file_with_an_error(tmp_path: Path) -> None:
    """All or nothing: the command ends before it looks for a broker."""
    file = written(tmp_path, "bad.jsonl", values_file([value(1, now()), value(2, now(), asset_id="")]))
    done = run("publish", file)
    assert done.exit_code == 1
    assert "line 2, asset_id: [empty]" in done.stdout
    assert "nothing was published" in done.stderr
    assert "--skip-errors" in done.stderr


def test_a_dry_run_says_what_would_go_where(tmp_path: Path) -> None:
    """Counts and topic, and no broker is looked for; lines left out and bad ones do not count."""
    values = mended(now())
    file = written(tmp_path, "good.jsonl", values_file(values))
    done = run("publish", file, "--dry-run")
    assert (done.exit_code, done.stdout[: done.stdout.index(" (")]) == (0, f"would publish {len(values)} records")
    assert done.stdout.endswith("to city.raw.sensor\n")
    done = run("publish", file, "--dry-run", "--from-line", 11)
    assert f"would publish {len(values) - 10} records" in done.stdout
    bad = written(tmp_path, "bad.jsonl", values_file([value(1, now()), value(2, now(), asset_id="")]))
    done = run("publish", bad, "--dry-run", "--skip-errors")
    assert done.exit_code == 1
    assert "would publish 1 records" in done.stdout


def test_strict_keeps_warned_records_back(tmp_path: Path) -> None:
    """With --strict a warning is an error, for publishing too."""
    file = written(tmp_path, "warned.jsonl", values_file([value(1, now()), value(2, now(), fill_level=62)]))
    assert run("publish", file, "--dry-run", "--strict").exit_code == 1
    assert "would publish 1 records" in run("publish", file, "--dry-run", "--strict", "--skip-errors").stdout
    assert "would publish 2 records" in run("publish", file, "--dry-run").stdout
