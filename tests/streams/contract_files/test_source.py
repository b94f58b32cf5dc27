"""Which format a file has, which contract it is meant for, and files that are something else."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import pytest

from schemas.contracts import DOMAINS, Domain, contract_of
from schemas.framing import encode
from schemas.problems import Rule
from streams.contract_files import json_lines
from streams.contract_files.checking import Account, Told, checked
from streams.contract_files.identities import Identities
from streams.contract_files.lines import text_lines
from streams.contract_files.source import Format, Source, UnclearError, named, opened
from tests.streams.contract_files.judging import basis, written
from tests.streams.contract_files.mistakes import COLUMNS, VENDOR, avro_file, value, vendor_value
from tests.support.batches import RECEIVED_MS, event

_MOST: Final = 1_048_576


def rules(file: Path, domain: Domain = "sensor", form: Format | None = None) -> list[tuple[int, Rule]]:
    """What is told of a file from its first line to its last."""
    told: list[Told] = []
    with opened(file, form, contract_of(domain), _MOST) as source:
        for _ in checked(source, basis(domain), Account(), lambda: RECEIVED_MS, told.append):
            pass
    return [(one.number, one.problem.rule) for one in told]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_fields_tell_the_contract(domain: Domain, tmp_path: Path) -> None:
    """The first object, the header, the schema or the fingerprint: each says which contract is meant."""
    contract = contract_of(domain)
    good = event(domain)
    own_schema = {**contract.schema, "name": "Reading"}
    files: dict[str, bytes] = {
        "a.jsonl": b"\xef\xbb\xbf" + json.dumps(good).encode(),
        "a.csv": ";".join(good).encode(),
        "a.avro": avro_file([good], contract.schema),
        "b.avro": avro_file([good], own_schema),
        "a.hex": encode(contract, good).hex().encode(),
    }
    for name, content in files.items():
        with opened(written(tmp_path, name, content), None, None, _MOST) as source:
            assert (source.contract, source.domain) == (contract, domain), name
            assert source.unit == ("record" if name.endswith("avro") else "line")


@pytest.mark.parametrize("domain", DOMAINS)
def test_blank_lines_before_the_first_tell_nothing(domain: Domain, tmp_path: Path) -> None:
    """They are warned of, and what comes behind them tells the contract."""
    good = event(domain)
    for name, content in (("a.jsonl", json.dumps(good)), ("a.csv", ";".join(good)), ("a.hex", "")):
        whole = content.encode() or encode(contract_of(domain), good).hex().encode()
        with opened(written(tmp_path, name, b"\n \n" + whole + b"\n"), None, None, _MOST) as source:
            assert source.domain == domain, name


def test_a_line_that_is_too_long_ends_where_it_ends() -> None:
    """However much too long it is, the next one is whole, and has its number."""
    for extra in range(1, 30):
        content = b"a" * (10 + extra) + b"\r\n"[extra % 2 :] + b"bb\ncc"
        assert list(text_lines(io.BytesIO(content), 10)) == [(1, None), (2, b"bb"), (3, b"cc")], extra


def test_names_of_files_tell_the_format(tmp_path: Path) -> None:
    """Of the usual ones; else the content, where it can."""
    line = json.dumps(value(1, RECEIVED_MS)).encode()
    for name, content, form in (
        ("a.ndjson", line, "jsonl"), ("a.JSON", line, "jsonl"), ("a.tsv", "\t".join(COLUMNS).encode(), "csv"),
        ("a.out", line, "jsonl"), ("a.bin", avro_file([value(1, RECEIVED_MS)]), "avro"),
    ):  # fmt: skip
        with opened(written(tmp_path, name, content), None, None, _MOST) as source:
            assert source.format == form


@pytest.mark.parametrize("content", [b"{}\n", b'{"event_id": 1}', b"\xff", b'{"count": 1, "fill_level": 1}'])
def test_what_does_not_tell_is_asked_for(content: bytes, tmp_path: Path) -> None:
    """No contract is invented for a file that shows none."""
    with (
        pytest.raises(UnclearError, match="--contract"),
        opened(written(tmp_path, "a.jsonl", content), None, None, _MOST),
    ):
        pass


def test_a_first_line_that_is_broken_does_not_hide_the_contract(tmp_path: Path) -> None:
    """The next that can be read tells it, and the broken one is judged with the others."""
    good = json.dumps(value(1, RECEIVED_MS)).encode()
    with opened(written(tmp_path, "a.jsonl", b"\n{broken\n" + good + b"\n"), None, None, _MOST) as source:
        assert source.contract is contract_of("sensor")
        assert [line.number for line in source.lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "rule"),
    [(b"", Rule.EMPTY_FILE), (b"\n\n", Rule.EMPTY_FILE), (b"[1]\n", Rule.JSON), (b"{\n" * 300, Rule.JSON)],
)
def test_a_file_that_has_no_record_needs_no_contract(content: bytes, rule: Rule, tmp_path: Path) -> None:
    """An export that failed is a problem of the file, not of the command line."""
    told: list[Told] = []
    with opened(written(tmp_path, "a.jsonl", content), None, None, _MOST) as source:
        for _ in checked(source, basis(), Account(), lambda: RECEIVED_MS, told.append):
            pass
    assert rule in [one.problem.rule for one in told]


def test_contracts_are_found_by_name_or_domain() -> None:
    """In any case; others are named, and the one that nobody sends is told apart."""
    assert named("citizenreport") is named("report") is contract_of("report")
    with pytest.raises(UnclearError, match="there are SensorObservation"):
        named("bins")
    with pytest.raises(UnclearError, match="nobody sends it"):
        named("Alert")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x", mtime=0), "gunzip"),
        (b"PK\x03\x04x", "CSV"),
        ("é".encode("utf-16"), "UTF-8"),
        (b"PAR1x", "Parquet"),
    ],
)
def test_files_that_are_something_else_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    """A packed file, a workbook, UTF-16: one problem, with what to do, and not a thousand broken lines."""
    file = written(tmp_path, "a.csv", content)
    with opened(file, None, None, _MOST) as source:
        (line,) = source.lines
    (problem,) = line.problems
    assert problem.rule is Rule.ENCODING
    assert words in problem.found + problem.mend


def test_a_file_that_is_no_container_is_told(tmp_path: Path) -> None:
    """Neither text under the wrong name nor a container of numbers is read."""
    for content in (b"", b"Obj\x01", b"event_id,source\n", avro_of_numbers()):
        assert rules(written(tmp_path, "a.avro", content)) == [(1, Rule.AVRO)]


def avro_of_numbers() -> bytes:
    import fastavro

    out = io.BytesIO()
    fastavro.writer(out, "long", [1, 2])
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", b"", 1),
        ("a.csv", b"", 1),
        ("a.csv", ",".join(COLUMNS).encode() + b"\n", 1),
        ("a.avro", avro_file([]), 1),
        ("a.jsonl", b"\n\n", 2),
    ],
)
def test_a_file_without_a_record_is_told(name: str, content: bytes, line: int, tmp_path: Path) -> None:
    """An export that failed is no file that is all good."""
    assert (line, Rule.EMPTY_FILE) in rules(written(tmp_path, name, content))


@pytest.mark.parametrize("content", [b'[\n{"event_id": "1"}\n]\n', b'{\n"event_id": "1"\n}\n'])
def test_a_json_document_is_told_once(content: bytes, tmp_path: Path) -> None:
    """Printed over several lines it is no JSON Lines, and not each of its lines needs to be told."""
    assert rules(written(tmp_path, "a.jsonl", content)) == [(1, Rule.JSON)]


def test_a_vendors_schema_is_chosen_by_its_name(tmp_path: Path) -> None:
    """The namespace is his; the record's name is the contract's."""
    file = written(tmp_path, "a.avro", avro_file([vendor_value(1, RECEIVED_MS)], VENDOR))
    with opened(file, None, None, _MOST) as source:
        assert source.contract is contract_of("sensor")


class Endless(io.RawIOBase):
    """A file of good lines that never ends, and how much of it was read."""

    def __init__(self) -> None:
        self.lines = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        line = json.dumps(value(self.lines, RECEIVED_MS)).encode() + b"\n"
        self.lines += 1
        into[: len(line)] = line
        return len(line)


def test_a_file_without_end_is_judged_as_it_is_read() -> None:
    """No more of it is in memory than is judged together, so that a file of any length can be."""
    endless = Endless()
    lines = json_lines.read(cast(BinaryIO, io.BufferedReader(endless)), _MOST)
    account = Account()
    parts = checked(Source("-", "jsonl", contract_of("sensor"), "sensor", lines), basis(), account, lambda: RECEIVED_MS,
                    lambda told: None)  # fmt: skip
    for number in range(1, 4):
        assert len(next(parts)) == 4_096
        assert endless.lines <= number * 4_096 + 200
    assert account.accepted == 3 * 4_096


# --- which event came before


def test_events_are_found_again_wherever_they_were() -> None:
    """Whatever the parts a file is read in, the line of the first of each is what is answered; new ones have none."""
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, 5_000, 20_000, dtype=np.uint64)
    lines = np.arange(1, 20_001)
    first: dict[int, int] = {}
    expected = []
    for line, one in zip(lines.tolist(), hashes.tolist(), strict=True):
        expected.append(first.get(one, 0))
        first.setdefault(one, line)
    for size in (1, 64, 4_096, 20_000):
        seen = Identities()
        found = [seen.first_lines(hashes[at : at + size], lines[at : at + size]) for at in range(0, 20_000, size)]
        assert np.concatenate(found).tolist() == expected
        assert not seen.forgot


def test_memory_of_events_is_bounded() -> None:
    """Of a longer file the oldest are forgotten, and that is known; the newest three quarters are not."""
    seen = Identities(most=4_000)
    for at in range(0, 20_000, 500):
        seen.first_lines(np.arange(at, at + 500, dtype=np.uint64), np.arange(at, at + 500) + 1)
    assert seen.forgot
    assert seen.size <= 4_000
    newest = np.arange(17_500, 20_000, dtype=np.uint64)
    assert (seen.first_lines(newest, newest.astype(np.int64)) == np.arange(17_501, 20_001)).all()
    assert seen.first_lines(np.zeros(1, np.uint64), np.ones(1, np.int64)).tolist() == [0]
