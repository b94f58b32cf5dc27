"""Asset detectors: thresholds, lamps against the sun, and silence, over the rows of one partition in order of time.

State is one row per series (one asset of one authority) in arrays. A batch in which no condition changes costs a few
vectorised operations; only series whose condition changes are walked row by row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

import numpy as np
import polars as pl

from processors.detect.findings import Finding, findings
from processors.detect.rows import NEVER, NO_END, READ, Ints, Rows, Series, identified
from processors.detect.signals import READERS, Parameters, Reader, columns_of
from processors.detect.silence import Silence, Spoken
from processors.detect.switch import Change, Signals, Switch
from processors.territory import Territory
from schemas.contracts import DOMAINS, Domain

_VERSION: Final = 2
#: Domains whose rows are the asset's own words. A citizen's report about a lamp is not the lamp speaking.
_SPEAKING: Final = frozenset({"sensor", "lighting", "roadway"})


class AssetDetectors:
    """The asset rules of one partition: bin_full, bin_fire, lamp_defective, lamp_dark, lamp_lit_by_day, silent.

    `territories` is keyed by jurisdiction. An authority that is not in it has no rules; an asset that is not in the
    registry has every rule but silence. Memory grows with the assets seen, by about 200 bytes each.
    """

    def __init__(self, territories: Mapping[str, Territory]) -> None:
        self._parameters = Parameters(list(territories.values()))
        self._territory_number = {jurisdiction: number for number, jurisdiction in enumerate(territories)}
        self._domain: Domain | None = None
        self._readers: Mapping[str, Reader] = {}
        self._read_by_rules: Mapping[str, pl.Expr] = {}
        self._raising: Mapping[str, pl.Expr] = {}
        self._intervals: Mapping[str, Mapping[str, float]] = {}
        self._series = Series()
        self._territory: list[int] = []
        self._territory_of: Ints = np.zeros(0, np.int64)
        self._switches: dict[str, Switch] = {}
        self._silence = Silence()
        self._watermark = NEVER
        self._withdrawn = True

    def step(self, frame: pl.DataFrame | None, watermark_ms: int) -> pl.DataFrame:
        """Findings (FINDING_SCHEMA) of one batch; those of one condition in the order in which it changed.

        `frame`: rows of this partition in the order of `processors.order`, with `domain`, `watermark` (Datetime ms UTC,
        how far event time has come with each row) and what `signals.COLUMNS` names for the domain; None or empty where
        only time has passed. Rows without an asset or an instant are passed over. `watermark_ms`: how far event time
        has come after the batch, milliseconds since 1970, UTC; one that went back is ignored. The findings follow from
        the sequence of the rows and from the last `watermark_ms`, whatever the cut of the batches.

        Raises ValueError for a frame of another domain than before.
        """
        self._watermark = max(self._watermark, watermark_ms)
        found: list[Finding] = [] if self._withdrawn else list(self._withdraw())
        if frame is not None and frame.height and (read := self._read(frame)).height:
            rows = self._rows(read)
            found += self._switch(read, rows)
            if self._domain not in _SPEAKING:
                return findings(found)
        else:
            nothing = np.zeros(0, np.int64)
            rows = Rows(nothing, nothing, nothing, np.zeros(0, np.bool_), nothing)
        steps = self._silence.apply(rows, self._watermark)
        found += (self._spoken(step, rows) for step in steps)
        return findings(found)

    def foresee(self, frame: pl.DataFrame, clock_ms: int) -> set[int]:
        """When rows that time has not passed will raise an alert at once, in milliseconds since 1970.

        `frame`: rows as `step` takes them, in any order; those of `clock_ms` and later wait. A guess for whoever
        decides how soon to look again: no finding follows from it, and no state. Of a partition whose first rows still
        wait nothing is foreseen.
        """
        if not self._raising:
            return set()
        waits = pl.col("observed_at").dt.epoch("ms") >= clock_ms
        frame = frame.filter(waits & pl.any_horizontal(self._raising.values()))
        if frame.is_empty():
            return set()
        read = self._read(frame)
        keys = read["key"].to_list()
        unknown = len(self._territory_number)
        territory = [self._territory_number.get(key.partition("|")[0], unknown) for key in keys]
        at, good, nothing = read["at_ms"].to_numpy(), read["good"].to_numpy(), np.zeros(len(read), np.int64)
        rows = Rows(series=nothing, territory=np.asarray(territory, np.int64), at=at, good=good, watermark=at)
        columns = {name: read[name].to_numpy() for name in self._read_by_rules}
        found = set()
        for rule in self._raising:
            signals = self._readers[rule].judge(columns, rows, self._parameters)
            raising = np.flatnonzero(signals.says & good & (signals.sign > 0)).tolist()
            found |= {int(at[row]) for row in raising if not self._is_raised(rule, keys[row])}
        return found

    def _is_raised(self, rule: str, key: str) -> bool:
        series = self._series.known(key)
        return series is not None and bool(self._switches[rule].raised[series])

    def _read(self, frame: pl.DataFrame) -> pl.DataFrame:
        self._open(frame["domain"][0])
        return identified(frame.select(*READ, *self._read_by_rules.values()))

    def _open(self, domain: str) -> None:
        if domain == self._domain:
            return
        if self._domain is not None:
            raise ValueError(
                f"these detectors hold the state of a {self._domain} partition and were given {domain} rows: "
                "keep one AssetDetectors per topic and partition"
            )
        if domain not in DOMAINS:
            raise ValueError(f"{domain!r} is no domain; domains are {', '.join(get_args(Domain))}")
        self._domain = domain
        self._readers = READERS.get(domain, {})
        self._read_by_rules = columns_of(self._readers.values())
        self._raising = {rule: one.raises(self._parameters) for rule, one in self._readers.items() if one.raises}
        self._switches = {rule: Switch() for rule in self._readers}
        if domain in _SPEAKING:
            territories = self._parameters.territories
            self._intervals = {one.jurisdiction_id: one.report_intervals.get(domain, {}) for one in territories}

    def _rows(self, read: pl.DataFrame) -> Rows:
        known = len(self._series)
        numbers = self._series.numbers(read["key"].to_list())
        if len(self._series) > known:
            self._meet(known)
        return Rows(
            series=numbers,
            territory=self._territory_of[numbers],
            at=read["at_ms"].to_numpy(),
            good=read["good"].to_numpy(),
            watermark=read["watermark_ms"].to_numpy(),
        )

    def _meet(self, known: int) -> None:
        """Make room for the series from number `known` on, and look up their territory and reporting interval."""
        new = self._series.keys[known:]
        unknown = len(self._territory_number)
        self._territory += (self._territory_number.get(key.partition("|")[0], unknown) for key in new)
        self._territory_of = np.asarray(self._territory, np.int64)
        for switch in self._switches.values():
            switch.reserve(len(self._series))
        self._silence.reserve(len(self._series))
        territory = self._territory_of[known:]
        parts = (key.partition("|") for key in new)
        found = [self._intervals.get(jurisdiction, {}).get(asset, np.nan) for jurisdiction, _, asset in parts]
        intervals = np.asarray(found, np.float64)
        limit_s = intervals * self._parameters.numbers("silent", "intervals")[territory]
        dead_s = np.where(np.isnan(limit_s), np.nan, self._parameters.numbers("silent", "dead_after_s")[territory])
        self._silence.expect(np.arange(known, len(self._series)), _milliseconds(limit_s), _milliseconds(dead_s))

    def _switch(self, read: pl.DataFrame, rows: Rows) -> Iterator[Finding]:
        columns = {name: read[name].to_numpy() for name in self._read_by_rules}
        for rule, reader in self._readers.items():
            signals = reader.judge(columns, rows, self._parameters)
            for change in self._switches[rule].apply(rows, signals):
                yield self._changed(rule, change, rows, signals)

    def _changed(self, rule: str, change: Change, rows: Rows, signals: Signals) -> Finding:
        row = change.row
        return self._finding(
            rule,
            change.series,
            at=int(rows.at[row]),
            raised=change.raised,
            value=_number(signals.value[row]),
            threshold=_number((signals.raise_at if change.raised else signals.clear_at)[row]),
            watermark=int(rows.watermark[row]),
        )

    def _spoken(self, step: Spoken, rows: Rows) -> Finding:
        limit_ms = int((self._silence.dead_ms if step.step == "dead" else self._silence.limit_ms)[step.series])
        return self._finding(
            "silent",
            step.series,
            at=step.at,
            raised=step.step != "heard",
            value=step.unheard_ms / 1_000,
            threshold=limit_ms / 1_000,
            watermark=None if step.row is None else int(rows.watermark[step.row]),
        )

    def _finding(
        self,
        rule: str,
        series: int,
        *,
        at: int,
        raised: bool,
        value: float | None = None,
        threshold: float | None = None,
        watermark: int | None = None,
    ) -> Finding:
        jurisdiction, _, asset = self._series.keys[series].partition("|")
        number = self._territory[series]
        return Finding(
            rule=rule,
            jurisdiction_id=jurisdiction,
            domain=str(self._domain),
            asset_id=asset,
            zone_layer=None,
            zone_code=None,
            category=None,
            at=at,
            raised=raised,
            value=value,
            threshold=threshold,
            severity=self._parameters.severity(rule, number),
            hold_s=self._parameters.hold_s(rule, number),
            watermark=watermark,
        )

    def _withdraw(self) -> Iterator[Finding]:
        """End what was raised by a rule that the territory has since turned off: nothing else ever would."""
        self._withdrawn = True
        size = len(self._series)
        for rule, switch in self._switches.items():
            off = ~self._parameters.enabled(rule)[self._territory_of]
            for series in np.flatnonzero(switch.raised[:size] & off).tolist():
                switch.raised[series] = False
                yield self._finding(rule, series, at=max(self._watermark, int(switch.last_at[series])), raised=False)
        silence = self._silence
        for series in np.flatnonzero(silence.silent[:size] & (silence.limit_ms[:size] == NO_END)).tolist():
            silence.silent[series] = silence.dead[series] = False
            at = max(self._watermark, int(silence.silent_from[series]))
            yield self._finding("silent", series, at=at, raised=False)

    def snapshot(self) -> bytes:
        """The state, for `restore`: one line of JSON, then an Arrow file with a row per series."""
        size = len(self._series)
        columns: dict[str, Iterable[object]] = {"key": self._series.keys}
        columns |= {name: getattr(self._silence, name)[:size] for name in _SILENCE_COLUMNS}
        for rule, switch in self._switches.items():
            columns |= {f"{rule}.last_at": switch.last_at[:size], f"{rule}.raised": switch.raised[:size]}
        table = io.BytesIO()
        pl.DataFrame(columns, schema_overrides={"key": pl.String()}).write_ipc(table, compression="zstd")
        head = {"version": _VERSION, "domain": self._domain, "watermark_ms": self._watermark}
        return json.dumps(head).encode() + b"\n" + table.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot, made with these territories or an earlier version of them.

        What a rule had raised that is now off is withdrawn at the next step. Raises ValueError for bytes that are no
        snapshot of this version, or when these detectors have already seen rows.
        """
        self._refuse_unless_new("restore")
        head, table = _parts(snapshot)
        self._watermark = int(head["watermark_ms"])
        if head["domain"] is None:
            return
        self._open(str(head["domain"]))
        self._series.numbers(table["key"].to_list())
        self._meet(0)
        size = len(self._series)
        for name in _SILENCE_COLUMNS:
            getattr(self._silence, name)[:size] = table[name].to_numpy()
        for rule, switch in self._switches.items():
            # A rule that is newer than the snapshot starts from nothing.
            if f"{rule}.raised" in table.columns:
                switch.last_at[:size] = table[f"{rule}.last_at"].to_numpy()
                switch.raised[:size] = table[f"{rule}.raised"].to_numpy()
        self._withdrawn = False

    def adopt(self, newest: Iterable[Mapping[str, Any]]) -> None:
        """Take over what was told of the assets, where their state is lost: everything else begins in learning.

        `newest`: of each alert of this partition the newest transition (values of the Alert contract, instants in
        milliseconds). What lasts stays raised; rows from before a transition, read again, do not bring it about a
        second time. Raises ValueError when these detectors have already seen rows, or for alerts of two domains.
        """
        self._refuse_unless_new("adopt")
        told = [record for record in newest if record["asset_id"] is not None]
        for record in told:
            self._open(record["domain"])
        numbers = self._series.numbers([f"{record['jurisdiction_id']}|{record['asset_id']}" for record in told])
        self._meet(0)
        for record, series in zip(told, numbers.tolist(), strict=True):
            rule, lasts = record["alertname"], record["ends_at"] is None
            if rule in self._switches:
                self._switches[rule].adopt(series, lasts, record["starts_at" if lasts else "at"])
            elif rule == "silent":
                self._silence.adopt(series, lasts, _heard_at(record), record["starts_at"], record["at"])
        self._withdrawn = not told

    def _refuse_unless_new(self, doing: str) -> None:
        if len(self._series) or self._domain is not None:
            raise ValueError(f"{doing} into a new AssetDetectors: this one has already seen rows")

    def hold_s(self, rule: str, jurisdiction_id: str) -> float:
        """How long a condition must last before anybody is told, in seconds; 0 for a rule that is off or unknown."""
        unknown = len(self._territory_number)
        return self._parameters.hold_s(rule, self._territory_number.get(jurisdiction_id, unknown))


_SILENCE_COLUMNS: Final = ("heard_at", "silent_from", "silent", "dead")


def _parts(snapshot: bytes) -> tuple[dict[str, Any], pl.DataFrame]:
    head_line, _, body = snapshot.partition(b"\n")
    try:
        head = json.loads(head_line)
        if head["version"] != _VERSION:
            raise ValueError(f"version {head['version']}, this code reads {_VERSION}")
        return head, pl.read_ipc(io.BytesIO(body), use_pyarrow=False)
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"not a snapshot of asset detectors ({error}): rebuild the partition's state") from error


def _heard_at(record: Mapping[str, Any]) -> int:
    """When an asset was heard last, as a transition of its silence shows it, in milliseconds since 1970."""
    at: int = record["at"]
    starts_at: int = record["starts_at"]
    value: float | None = record["value"]
    threshold: float | None = record["threshold"]
    if threshold is None or value is None:
        return at
    if record["ends_at"] is None:
        return at - round(threshold * 1_000)
    return starts_at + round((value - threshold) * 1_000)


def _milliseconds(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ints:
    return np.where(np.isnan(seconds), float(NO_END), np.nan_to_num(seconds) * 1_000).astype(np.int64)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
