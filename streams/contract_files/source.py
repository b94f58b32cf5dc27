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
#: Lines looked at for one that tells its contract.
_LOOKED_AT: Final = 100
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
        given: Any = sys.stdin.buffer if path is None else stack.enter_context(path.open("rb"))
        # No file is read twice: standard input cannot be.
        head = given.readline(most_bytes)
        chosen = form or _format(path, head)
        if contract is None and chosen != "avro":
            contract, head = _guessed(chosen, head, given, most_bytes)
        stream = cast(BinaryIO, io.BufferedReader(_Again(head, given), 262_144))
        yield _source("standard input" if path is None else path.name, chosen, contract, head, stream, most_bytes)


class _Again(io.RawIOBase):
    """A stream of which the beginning has been read, from its beginning."""

    def __init__(self, head: bytes, rest: io.BufferedIOBase) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found = self._head[: len(into)] or self._rest.read1(len(into))
        self._head = self._head[len(into) :]
        into[: len(found)] = found
        return len(found)


def _guessed(form: Format, first: bytes, given: io.BufferedIOBase, most_bytes: int) -> tuple[Contract, bytes]:
    """The contract that one of the first lines tells, and all that was read to find it. Raises UnclearError."""
    head, line = first, first.removeprefix(BYTE_ORDER_MARK)
    for _ in range(_LOOKED_AT):
        if form == "hex":
            found = _by_fingerprint(hexadecimal.payload_of(line))
        else:
            found = _by_fields(json_lines.fields(line) if form == "jsonl" else csv_lines.fields(line))
        if found is not None:
            return found, head
        if not line or _foreign(head) or (form == "csv" and line.strip()):
            break
        line = given.readline(most_bytes)
        head += line
    if not head.strip() or _foreign(head) or first.strip() == b"{" or first.lstrip()[:1] == b"[":
        # No record of it will be read, whichever it is.
        return contract_of(DOMAINS[0]), head
    raise UnclearError(_WHICH)


def _foreign(head: bytes) -> Problem | None:
    """The file is something else than text, by its first bytes."""
    found = next(((what, mend) for magic, what, mend in _FOREIGN if head.startswith(magic)), None)
    return Problem(None, Rule.ENCODING, *found) if found else None


def _source(
    name: str, form: Format, contract: Contract | None, head: bytes, stream: BinaryIO, most_bytes: int
) -> Source:
    if form == "avro":
        return _avro(name, contract, stream)
    assert contract is not None
    longest = most_bytes * _LINE
    foreign = _foreign(head)
    if foreign is not None:
        lines = iter((Line(1, problems=(foreign,)),))
    elif form == "hex":
        lines = hexadecimal.read(stream, longest)
    elif form == "jsonl":
        lines = json_lines.read(stream, longest)
    else:
        lines = csv_lines.read(stream, contract, longest)
    return Source(name, form, contract, domain_of(contract), lines)


def _avro(name: str, contract: Contract | None, stream: BinaryIO) -> Source:
    try:
        head = avro_file.header(stream)
    except avro_file.NoAvroError as error:
        problem = Problem(None, Rule.AVRO, f"it {error}", "write an Avro object container file of records")
        any_will_do = contract or contract_of(DOMAINS[0])
        return Source(name, "avro", any_will_do, domain_of(any_will_do), iter((Line(1, problems=(problem,)),)))
    by_name = next((contract_of(d) for d in DOMAINS if contract_of(d).name == head.name), None)
    found = contract or by_name or _by_fields(head.fields)
    if found is None:
        raise UnclearError(_WHICH)
    return Source(name, "avro", found, domain_of(found), avro_file.read(stream, found, head))


def _format(path: Path | None, first: bytes) -> Format:
    if path is not None and (known := _BY_SUFFIX.get(path.suffix.lower())):
        return known
    if first.startswith(avro_file.MAGIC):
        return "avro"
    if first.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in (b"{", b"["):
        return "jsonl"
    raise UnclearError(f"neither name nor content tells the format: add --format {'|'.join(FORMATS)}")


def _by_fields(names: Sequence[str]) -> Contract | None:
    """The contract that has the most of these fields, those that all have apart."""
    own = {domain: {f.name for f in contract_of(domain).fields}.difference(HEAD) for domain in DOMAINS}
    counts = {domain: len(own[domain].intersection(names)) for domain in DOMAINS}
    best = max(DOMAINS, key=lambda domain: counts[domain])
    if not counts[best] or list(counts.values()).count(counts[best]) > 1:
        return None
    return contract_of(best)


def _by_fingerprint(payload: bytes) -> Contract | None:
    known = (contract_of(domain) for domain in DOMAINS)
    return next((each for each in known if payload.startswith(single_object_prefix(each.schema))), None)


_WHICH: Final = (
    f"the first records do not tell their contract: add --contract {'|'.join(contract_of(d).name for d in DOMAINS)}"
)
