"""A file, or standard input, as lines of one contract: which format it has and which contract it is meant for."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from schemas.contracts import DOMAINS, HEAD, Contract, Domain, contract_of
from schemas.framing import single_object_prefix
from schemas.problems import Problem, Rule
from streams.contract_files import avro_file, csv_lines, hexadecimal, json_lines
from streams.contract_files.lines import BYTE_ORDER_MARK, Line

Format = Literal["jsonl", "csv", "avro", "hex"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv", "avro", "hex")

_BY_SUFFIX: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".avro": "avro",
    ".hex": "hex",
}
#: Beginnings of files that are something else, and what to do with them.
_FOREIGN: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"\x1f\x8b", "a gzip file", "unpack it first: gunzip -c FILE | vigie contract validate - --format …"),
    (b"PK\x03\x04", "a zip file, perhaps a workbook", "save the sheet as CSV in UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"PAR1", "a Parquet file", "write it as JSON Lines, CSV or Avro"),
)
#: A line may take so many times what a record may: names and signs around the values, and escapes in texts.
_LINE: Final = 8


class UnclearError(ValueError):
    """Neither the name nor the content says the format or the contract; the message says which option does."""


@dataclass(frozen=True)
class Source:
    """Lines of one contract. `unit` is what its numbers count."""

    name: str
    format: Format
    contract: Contract
    domain: Domain
    lines: Iterator[Line]

    @property
    def unit(self) -> str:
        return "record" if self.format == "avro" else "line"


def named(name: str) -> Contract:
    """The contract of a raw topic by its name or its domain, in any case. Raises UnclearError."""
    wanted = name.lower()
    for domain in DOMAINS:
        contract = contract_of(domain)
        if wanted in (domain, contract.name.lower()):
            return contract
    known = ", ".join(contract_of(domain).name for domain in DOMAINS)
    if wanted == "alert":
        raise UnclearError(f"Alert is what vigie publishes, and nobody sends it: there are {known}")
    raise UnclearError(f"{name} is no contract: there are {known}")


def domain_of(contract: Contract) -> Domain:
    return next(domain for domain in DOMAINS if contract_of(domain) is contract)


@contextmanager
def opened(path: Path | None, form: Format | None, contract: Contract | None, most_bytes: int) -> Iterator[Source]:
    """The lines of a file, None being standard input; `most_bytes`: what a record may take.

    Raises UnclearError when `form` or `contract` is not given and cannot be guessed, and OSError.
    """
    with ExitStack() as stack:
        given = cast(BinaryIO, sys.stdin.buffer) if path is None else stack.enter_context(path.open("rb"))
        # No file is read twice: standard input cannot be.
        first = given.readline(most_bytes)
        stream = cast(BinaryIO, io.BufferedReader(_Again(first, given), 262_144))
        yield _source(path, form, contract, first, stream, most_bytes)


class _Again(io.RawIOBase):
    """A stream of which the beginning has been read, from its beginning."""

    def __init__(self, first: bytes, rest: BinaryIO) -> None:
        self._first, self._rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found = self._first[: len(into)] or self._rest.read(len(into))
        self._first = self._first[len(into) :]
        into[: len(found)] = found
        return len(found)


def _source(
    path: Path | None, form: Format | None, contract: Contract | None, first: bytes, stream: BinaryIO, most_bytes: int
) -> Source:
    name = "standard input" if path is None else path.name
    chosen = form or _format(path, first)
    foreign = next(((is_, mend) for magic, is_, mend in _FOREIGN if first.startswith(magic)), None)
    if foreign is not None and chosen != "avro":
        problem = Problem(None, Rule.ENCODING, *foreign)
        found = contract or contract_of(DOMAINS[0])
        return Source(name, chosen, found, domain_of(found), iter([Line(1, problems=(problem,))]))
    if chosen == "avro":
        return _avro(name, contract, stream)
    longest = most_bytes * _LINE
    if chosen == "hex":
        found = contract or _by_fingerprint(hexadecimal.payload_of(first))
        return Source(name, chosen, found, domain_of(found), hexadecimal.read(stream, longest))
    fields = json_lines.fields if chosen == "jsonl" else csv_lines.fields
    found = contract or _by_fields(fields(first))
    lines = json_lines.read(stream, longest) if chosen == "jsonl" else csv_lines.read(stream, found, longest)
    return Source(name, chosen, found, domain_of(found), lines)


def _avro(name: str, contract: Contract | None, stream: BinaryIO) -> Source:
    try:
        head = avro_file.header(stream)
    except avro_file.NoAvroError as error:
        problem = Problem(None, Rule.AVRO, f"it {error}", "write an Avro object container file of records")
        found = contract or contract_of(DOMAINS[0])
        return Source(name, "avro", found, domain_of(found), iter([Line(1, problems=(problem,))]))
    by_name = next((contract_of(d) for d in DOMAINS if contract_of(d).name == head.name), None)
    found = contract or by_name or _by_fields(head.fields)
    return Source(name, "avro", found, domain_of(found), avro_file.read(stream, found, head))


def _format(path: Path | None, first: bytes) -> Format:
    if path is not None and (known := _BY_SUFFIX.get(path.suffix.lower())):
        return known
    if first.startswith(avro_file.MAGIC):
        return "avro"
    if first.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in (b"{", b"["):
        return "jsonl"
    raise UnclearError(f"neither name nor content tells the format: add --format {'|'.join(FORMATS)}")


def _by_fields(names: Sequence[str]) -> Contract:
    """The contract that has the most of these fields, those that all have apart."""
    own = {domain: {f.name for f in contract_of(domain).fields}.difference(HEAD) for domain in DOMAINS}
    counts = {domain: len(own[domain].intersection(names)) for domain in DOMAINS}
    best = max(DOMAINS, key=lambda domain: counts[domain])
    if not counts[best] or list(counts.values()).count(counts[best]) > 1:
        raise UnclearError(_WHICH)
    return contract_of(best)


def _by_fingerprint(payload: bytes) -> Contract:
    for domain in DOMAINS:
        if payload.startswith(single_object_prefix(contract_of(domain).schema)):
            return contract_of(domain)
    raise UnclearError(_WHICH)


_WHICH: Final = (
    f"the first record does not tell its contract: add --contract {'|'.join(contract_of(d).name for d in DOMAINS)}"
)
