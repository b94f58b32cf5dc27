"""Every kind of mistake, told by line and field; mended, nothing is left to tell."""

from __future__ import annotations

import json
from typing import Any, Final

import polars as pl
import pytest

from processors.pipeline import Limits
from processors.validate import REMARK_SCHEMA
from schemas.problems import Problem, Rule
from streams.contract_files import judge as judge_module
from streams.contract_files.source import Format
from tests.streams.contract_files.judging import basis, judged, triples, words
from tests.streams.contract_files.mistakes import (
    CSV_MISTAKES,
    JSON_MISTAKES,
    VENDOR,
    avro_file,
    csv_expected,
    csv_file,
    csv_row,
    hex_lines,
    json_expected,
    json_file,
    mended,
    value,
    vendor_value,
)
from tests.support.batches import RECEIVED_MS

NOW: Final = RECEIVED_MS
#: What only a file as a whole can be: shown in test_source.
_WHOLE_FILES: Final = {Rule.EMPTY_FILE}


def values_file(values: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in values)


def test_each_mistake_in_json_lines_is_told_by_line_and_field() -> None:
    """Nothing else is told, all that is wrong with a line is told, and only what a worker stores is good."""
    found = judged(json_file(NOW), "jsonl")
    assert sorted(triples(found), key=str) == sorted(json_expected(), key=str)
    stored = {1} | {n for n, mistake in enumerate(JSON_MISTAKES, 2) if mistake.stored and mistake.name != "blank line"}
    assert {line.number for line in found if line.payload is not None} == stored
    assert all((line.key is None) == (line.payload is None) for line in found)


def test_the_mended_file_has_nothing_wrong() -> None:
    """Each line mended as it says, and no word is left."""
    found = judged(values_file(mended(NOW)), "jsonl")
    assert triples(found) == []
    assert len(found) == len(JSON_MISTAKES)
    assert all(line.payload is not None for line in found)


def test_each_mistake_in_csv_is_told_by_line_and_field() -> None:
    """A cell that cannot be read costs its own field; its line goes on being judged."""
    found = judged(csv_file(NOW), "csv")
    assert sorted(triples(found), key=str) == sorted(csv_expected(), key=str)
    bad = {n for n, (_, expected, _) in enumerate(CSV_MISTAKES, 3) if expected}
    good = {n for n, (name, _, _) in enumerate(CSV_MISTAKES, 3) if name in ("percent", "NaN", "RFC 3339")} | {2}
    assert {line.number for line in found if line.payload is not None} == good
    assert good & bad


def test_a_header_is_told_once_and_refuses_every_line() -> None:
    """What is wrong with a column is wrong in all rows: it is told on line 1, and no row is good."""
    content = b"event_id,source,jurisdiction_id,asset_id,Fill_Level,sensor_type,sensor_type,nom,\n"
    content += b"1,s,999999999,bin-00017,0.5,bin,bin,x,\n" * 3
    found = judged(content, "csv")
    expected = [
        (None, Rule.UNKNOWN_FIELD), ("Fill_Level", Rule.UNKNOWN_FIELD), ("nom", Rule.PERSON),
        ("observed_at", Rule.MISSING), ("sensor_type", Rule.REPEATED_FIELD),
    ]  # fmt: skip
    assert sorted(triples(found), key=str) == [(1, *one) for one in sorted(expected, key=str)]
    assert [line.is_record for line in found] == [False, True, True, True]
    assert all(line.payload is None for line in found)


def test_a_file_without_a_header_is_not_read() -> None:
    """Its first line is data, and data is not repeated."""
    found = judged(b"Camille Exemple;06 00 00 00 00\nanother;line\n", "csv")
    assert triples(found) == [(1, None, Rule.HEADER)]
    assert "Camille" not in words(found)


@pytest.mark.parametrize("position", range(len(hex_lines(NOW))), ids=[name for name, _, _ in hex_lines(NOW)])
def test_each_mistake_in_bytes_is_told(position: int) -> None:
    """Whoever writes an encoder learns at which field it goes wrong."""
    lines = hex_lines(NOW)
    _, expected, line = lines[position]
    found = judged(lines[0][2] + b"\n" + line + b"\n" if position else line, "hex")
    last = 2 if position else 1
    assert sorted(triples(found)) == sorted((last, name, rule) for name, rule in expected)


def test_a_vendors_own_schema_is_read_field_by_field() -> None:
    """Microseconds become milliseconds, a whole number a number, a strange symbol unknown; a field more is told."""
    plain = {**VENDOR, "fields": [f for f in VENDOR["fields"] if f["name"] != "firmware"]}
    values = [vendor_value(1, NOW), vendor_value(2, NOW, sensor_type="tank", fill_level=None)]
    found = judged(avro_file(values, plain), "avro")
    assert triples(found) == [(2, "sensor_type", Rule.SYMBOL)]
    assert [line.payload is not None for line in found] == [True, True]
    with_more = judged(avro_file(values, VENDOR), "avro")
    assert triples(with_more)[0] == (1, "firmware", Rule.UNKNOWN_FIELD)
    assert all(line.payload is None for line in with_more)


def test_instants_of_avro_without_a_zone_are_refused() -> None:
    """local-timestamp-millis is a wall clock somewhere."""
    schema = {**VENDOR, "fields": [f for f in VENDOR["fields"] if f["name"] not in ("observed_at", "firmware")]}
    local = {"name": "observed_at", "type": {"type": "long", "logicalType": "local-timestamp-millis"}}
    schema["fields"].append(local)
    found = judged(avro_file([value(1, NOW, fill_level=1)], schema), "avro")
    assert triples(found) == [(1, "observed_at", Rule.TIME_ZONE)]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_truncated_container_says_after_which_record(codec: str) -> None:
    """Wherever it is cut, the records of whole blocks are judged and the rest is told as one problem."""
    values = [value(n, NOW) for n in range(1, 301)]
    whole = avro_file(values, codec=codec, sync_interval=2_000)
    header = len(avro_file([], codec=codec)) - 16
    assert triples(judged(whole, "avro")) == []
    for cut in range(len(whole) - 1, header + 40, -max(1, len(whole) // 11)):
        found = judged(whole[:cut], "avro")
        told = triples(found)
        assert told in ([], [(len(found), None, Rule.AVRO)])
        good = sum(line.payload is not None for line in found)
        assert good < 300
        # Only a cut between two blocks leaves a whole file.
        assert told or whole[cut - 16 : cut] == whole[-16:]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
@pytest.mark.parametrize("place", [-1, -300])
def test_a_damaged_block_is_told(codec: str, place: int) -> None:
    """A bit that is not what it was, in a marker or in a block, ends the reading; what was before it is judged."""
    whole = bytearray(avro_file([value(n, NOW) for n in range(1, 301)], codec=codec, sync_interval=4_000))
    whole[place] ^= 0x7F
    found = judged(bytes(whole), "avro")
    assert sum(line.payload is not None for line in found) < 300
    assert triples(found)
    if codec != "null":
        assert [rule for _, _, rule in triples(found)] == [Rule.AVRO]


def test_a_codec_that_is_not_here_is_named() -> None:
    """The file is not damaged: its packing is not known."""
    body = avro_file([value(1, NOW)]).replace(b"avro.codec\x08null", b"avro.codec\x08zork")
    (line,) = judged(body, "avro")
    assert line.problems[0].rule is Rule.AVRO
    assert "zork" in line.problems[0].found


def test_every_rule_has_an_example_here() -> None:
    """The list of rules is closed, and each is shown being broken."""
    shown = {rule for _, _, rule in (*json_expected(), *csv_expected())}
    shown |= {rule for _, expected, _ in hex_lines(NOW) for _, rule in expected}
    assert shown | {Rule.HEADER, Rule.REFUSED} | _WHOLE_FILES == set(Rule)


def test_a_stage_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stage refuses is refused here, also when nothing knows how to tell why."""
    monkeypatch.setattr(judge_module, "remarks", lambda *arguments: pl.DataFrame(schema=REMARK_SCHEMA))
    found = judged(values_file([value(1, NOW, event_id=""), value(2, NOW)]), "jsonl")
    assert triples(found) == [(1, None, Rule.REFUSED)]
    assert "event_id is empty" in words(found)
    assert [line.payload is not None for line in found] == [False, True]


@pytest.mark.parametrize("located", [True, False])
def test_nothing_that_could_be_somebodys_is_repeated(located: bool) -> None:
    """Wherever a text, a long number or a position stands, no word of it comes back."""
    secret, phone = "Camille-Exemple", 612345678
    texts = ("event_id", "source", "jurisdiction_id", "asset_id", "sensor_type", "observed_at", "fill_level",
             "lid_open", "motion_count", "key", secret, f"{secret} {secret}", "reporter_name")  # fmt: skip
    values: list[dict[str, Any]] = [value(n, NOW, **{name: secret}) for n, name in enumerate(texts, 1)]
    values += [value(50 + n, NOW, **{name: phone}) for n, name in enumerate((*texts, "longitude", "temperature_c"))]
    values += [value(90 + n, NOW, **{name: f"0{phone}"}) for n, name in enumerate(texts)]
    values += [value(120, NOW, longitude=3.141592, latitude=48.271828, asset_id="new")]
    found = judged(values_file(values), "jsonl", basis(located=located))
    told = words(found)
    assert str(phone) not in told
    assert "3.14" not in told
    assert "48.27" not in told
    # A name of a field is told where it looks like one, or nobody could find it.
    assert [line for line in told.splitlines() if secret in line and not line.startswith(f"{secret} ")] == []
    assert f"{secret} {secret}" not in told
    rows = judged(csv_file(NOW) + csv_row(value(99, NOW), asset_id=f'"{secret}').encode() + b"\n", "csv")
    assert secret not in words(rows)


def test_the_clock_and_size_of_the_installation_are_used() -> None:
    """What one installation allows another may refuse: limits are settings."""
    tight = Limits(max_record_bytes=60)
    found = judged(values_file([value(1, NOW)]), "jsonl", basis(limits=tight))
    assert triples(found) == [(1, None, Rule.TOO_LARGE)]


def test_without_a_territory_authority_and_area_are_not_judged() -> None:
    """Any SIREN and any place pass; metres do not, and what makes sense swapped is told."""
    values = [
        value(1, NOW, jurisdiction_id="123456789", longitude=-140.0, latitude=-24.0),
        value(2, NOW, longitude=770123.4, latitude=6279500.8),
        value(3, NOW, longitude=43.6112, latitude=3.8772),
    ]
    found = judged(values_file(values), "jsonl", basis(located=False))
    assert triples(found) == [(2, "longitude", Rule.METRES), (3, "longitude", Rule.SWAPPED)]
    assert [line.payload is not None for line in found] == [True, False, True]


@pytest.mark.parametrize("form", ["jsonl", "csv", "hex"])
def test_a_line_without_end_is_passed_over(form: Format) -> None:
    """A file that is one enormous line, or has one, costs neither memory nor its neighbours."""
    good: dict[Format, bytes] = {
        "jsonl": values_file([value(1, NOW)]),
        "csv": b"event_id,source,jurisdiction_id,asset_id,observed_at\n1,s,999999999,bin-00017,2026-09-14T08:00:00Z\n",
        "hex": hex_lines(NOW)[0][2] + b"\n",
    }
    lines = good[form].count(b"\n")
    found = judged(good[form] + b"x" * 9_000_000 + b"\n", form)
    assert triples(found) == [(lines + 1, None, Rule.TOO_LARGE)]
    assert found[lines - 1].payload is not None


def test_problems_are_said_in_whole_words() -> None:
    """Each says what was found and what to do about it."""
    problems: list[Problem] = [
        problem
        for found in (judged(json_file(NOW), "jsonl"), judged(csv_file(NOW), "csv"))
        for line in found
        for problem in line.problems
    ]
    assert all(problem.found and problem.mend and not problem.mend.endswith(".") for problem in problems)


def test_a_container_of_another_record_is_told_in_words() -> None:
    """A file with values that no contract takes: each is told, none is guessed at."""
    schema = {"type": "record", "name": "SensorObservation", "fields": [{"name": "event_id", "type": "bytes"}]}
    found = judged(avro_file([{"event_id": b"x"}], schema), "avro")
    assert (1, "event_id", Rule.TYPE) in triples(found)
