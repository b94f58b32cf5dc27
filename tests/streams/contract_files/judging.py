"""Judges by the small city of the tests, or without any territory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from processors.locate import Locator
from processors.pipeline import Limits
from schemas.contracts import Domain, contract_of
from schemas.problems import Rule
from schemas.writers import own_writers
from streams.contract_files import avro_file, csv_lines, hexadecimal, json_lines
from streams.contract_files.judge import Basis, judge
from streams.contract_files.lines import Judged, Line
from streams.contract_files.source import Format
from tests.support.batches import RECEIVED_MS
from tests.support.city import CITY, city

LOCATOR: Final = Locator({CITY: city()})
MOST: Final = 8_388_608

Triples = list[tuple[int, str | None, Rule]]


def basis(domain: Domain = "sensor", *, located: bool = True, limits: Limits | None = None) -> Basis:
    contract = contract_of(domain)
    return Basis(contract, domain, limits or Limits(), own_writers(contract), LOCATOR if located else None)


def lines_of(content: bytes, form: Format, domain: Domain = "sensor") -> list[Line]:
    """The lines of a file of that format."""
    stream: BinaryIO = io.BytesIO(content)
    match form:
        case "jsonl":
            return list(json_lines.read(stream, MOST))
        case "csv":
            return list(csv_lines.read(stream, contract_of(domain), MOST))
        case "hex":
            return list(hexadecimal.read(stream, MOST))
        case "avro":
            return list(avro_file.read(stream, contract_of(domain), avro_file.header(stream)))


def judged(content: bytes, form: Format, on: Basis | None = None, now_ms: int = RECEIVED_MS) -> list[Judged]:
    """A file's lines, judged together."""
    on = on or basis()
    return judge(lines_of(content, form, on.domain), on, now_ms)


def triples(found: Iterable[Judged]) -> Triples:
    """Line, field and rule of all that is told."""
    return [(line.number, problem.field, problem.rule) for line in found for problem in line.problems]


def words(found: Sequence[Judged]) -> str:
    """All that is told, as one text."""
    return "\n".join(f"{p.field} {p.found} {p.mend}" for line in found for p in line.problems)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
