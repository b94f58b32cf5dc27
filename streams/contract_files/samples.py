"""Records for whoever wants to see some: the contracts' own examples, varied, of now, and in the territory if there is
one."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import fastavro
import polars as pl

from processors.territory import Territory
from schemas.contracts import Contract, Domain, Field, contract_of, examples
from schemas.field_rules import INSTANT
from schemas.framing import encode
from streams.clock import instant
from streams.contract_files.judge import Basis, judge
from streams.contract_files.lines import Line
from streams.contract_files.source import Format

#: Stands for an authority where no territory says which; so do the examples of the contracts.
PLACEHOLDER: Final = "999999999"

_MINUTE_MS: Final = 60_000
#: However many there are, they lie within so long.
_SPAN_MS: Final = 30 * 86_400_000
#: How far measures are from those of the example, and reports from an asset in degrees (some ten metres).
_VARIATION: Final = 0.1
_NEAR: Final = 0.0002


def samples(
    domain: Domain, count: int, seed: int, now_ms: int, basis: Basis, territory: Territory | None
) -> Iterator[dict[str, Any]]:
    """That many records, the last a minute before `now_ms`, that nothing can be said against.

    The same seed gives the same values; times, and identifiers with them, are those of now, so that samples published
    twice are different events. `basis` judges the examples: only those without a fault are varied.
    """
    contract = contract_of(domain)
    chance = random.Random(seed)
    makers = [_Maker(contract, domain, example, territory) for example in _clean(contract, basis, now_ms)]
    makers = [maker for maker in makers if maker.is_at_home] or makers
    step_ms = max(1, min(_MINUTE_MS, _SPAN_MS // count))
    for number in range(count):
        at_ms = now_ms - _MINUTE_MS - (count - 1 - number) * step_ms
        yield chance.choice(makers).make(number, at_ms, chance)


def _clean(contract: Contract, basis: Basis, now_ms: int) -> list[dict[str, Any]]:
    found = [_moved(contract, example["value"], now_ms - _MINUTE_MS) for example in examples(contract.name, "good")]
    told = judge([Line(number, value) for number, value in enumerate(found, 1)], basis, now_ms)
    measured = [f.name for f in contract.measures]
    return [
        value
        for value, line in zip(found, told, strict=True)
        if not line.problems
        and (not measured or any(value.get(name) is not None for name in measured))
        and max(len(text) for text in value.values() if isinstance(text, str)) <= 64
    ]


def _moved(contract: Contract, value: Mapping[str, Any], at_ms: int) -> dict[str, Any]:
    """The value as if it had been observed then; other instants keep their distance."""
    shift = at_ms - value["observed_at"]
    instants = {f.name for f in contract.fields if f.dtype == INSTANT}
    return {name: given + shift if name in instants and given is not None else given for name, given in value.items()}


@dataclass(frozen=True)
class _Maker:
    """One example, and where in the territory its like is."""

    contract: Contract
    domain: Domain
    example: Mapping[str, Any]
    territory: Territory | None

    @property
    def _assets(self) -> pl.DataFrame | None:
        """The assets that could say this; None without a territory."""
        if self.territory is None:
            return None
        if self.domain == "report":
            return self.territory.assets
        kind = self.example.get("sensor_type") or self.example.get("observation_type") or "lamp"
        return self.territory.assets.filter(domain=self.domain, kind=kind)

    @property
    def is_at_home(self) -> bool:
        assets = self._assets
        return assets is None or len(assets) > 0

    def make(self, number: int, at_ms: int, chance: random.Random) -> dict[str, Any]:
        value = _moved(self.contract, self.example, at_ms)
        value["event_id"] = f"sample-{at_ms}-{number}"
        for f in self.contract.metrics:
            if value.get(f.name):
                value[f.name] = _varied(f, value[f.name], chance)
        if self.domain == "report":
            value["service_request_id"] = f"sample-{number}"
            if value.get("reporter_pseudonym"):
                value["reporter_pseudonym"] = f"{chance.getrandbits(256):064x}"
        if self.territory is not None:
            value |= self._placed(self.territory, bool(value["asset_id"]), chance)
        return {f.name: value[f.name] for f in self.contract.fields if f.name in value}

    def _placed(self, territory: Territory, names_asset: bool, chance: random.Random) -> dict[str, Any]:
        """Authority, asset and position."""
        assets = self._assets
        longitude, latitude = territory.centre
        asset_id = self.example["asset_id"]
        if assets is not None and len(assets):
            row = assets.row(chance.randrange(len(assets)), named=True)
            asset_id, longitude, latitude = row["asset_id"], row["longitude"], row["latitude"]
        if self.domain == "report":
            west, south, east, north = territory.area
            longitude = min(max(longitude + chance.uniform(-_NEAR, _NEAR), west), east)
            latitude = min(max(latitude + chance.uniform(-_NEAR, _NEAR), south), north)
        return {
            "jurisdiction_id": territory.jurisdiction_id,
            "asset_id": asset_id if names_asset else "",
            "longitude": round(longitude, 7),
            "latitude": round(latitude, 7),
        }


def _varied(field: Field, value: float, chance: random.Random) -> float:
    assert field.minimum is not None
    assert field.maximum is not None
    assert field.resolution is not None
    near = value * chance.uniform(1 - _VARIATION, 1 + _VARIATION)
    steps = round(min(max(near, field.minimum), field.maximum) / field.resolution)
    if field.dtype == pl.Int64():
        return round(steps * field.resolution)
    return float(f"{steps * field.resolution:.10g}")


def write(contract: Contract, records: Iterator[dict[str, Any]], form: Format, out: BinaryIO) -> None:
    """Write records as a file of that format. In CSV instants are RFC 3339, elsewhere milliseconds."""
    match form:
        case "jsonl":
            for record in records:
                out.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        case "hex":
            for record in records:
                key = f"{record['jurisdiction_id']}|{record['asset_id']}"
                out.write(f"{key}\t{encode(contract, record).hex()}\n".encode())
        case "avro":
            fastavro.writer(out, dict(contract.schema), records)
        case "csv":
            text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(f.name for f in contract.fields)
            for record in records:
                rows.writerow(_cell(f, record.get(f.name)) for f in contract.fields)
            text.detach()


def _cell(field: Field, value: Any) -> str:
    if value is None:
        return ""
    if field.dtype == INSTANT:
        return instant(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value).lower() if isinstance(value, bool) else str(value)
