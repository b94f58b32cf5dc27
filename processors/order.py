"""Rows wait until the watermark has passed them, then go on in the order of event time.

A log that is shuffled within the allowed disorder gives the same sequence, and so does one that is cut into other
batches. The price: what detectors say of a row waits for the allowed disorder (or until time passes in a partition that
is read to its end). With a disorder of 0 a row waits for a later instant.

The place of a row in the sequence is k, the later of its event time and of how far time had come before it; rows that
came behind the time stand first at their k, in offset order, the others by the hash of their identity. At any moment
the rows before one place have gone on and no row that is still to come belongs before it: a row that comes next has a k
of at least the clock, and at k = clock only rows behind the time have gone on, which keep their order.
"""

from __future__ import annotations

import io
from typing import Final

import polars as pl

from processors.detect.signals import COLUMNS
from processors.duplicates import IDENTITY
from schemas.contracts import Domain, contract_of

#: Beyond this many sorted runs, the shorter half becomes one: few runs to look at for each batch, and each row is
#: merged about once for a factor of 32 in the number of rows that wait.
_MOST_RUNS: Final = 64

# 2k for a row behind the time, 2k + 1 for the others: one integer says which of two rows of different place is first.
_PLACE: Final = "_place"
_TIE: Final = "_tie"
_ADDED: Final[dict[str, pl.DataType]] = {"kind": pl.String(), "quality": pl.UInt8(), "failed": pl.UInt64()}


class Held:
    """The rows of one partition that wait, with the columns that detectors read: of reports there are none.

    Memory: about 100 bytes for each event that may still have to change places, so the events of `disorder_ms`.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._columns = COLUMNS[domain]
        types = contract_of(domain).frame_schema() | _ADDED
        self._schema = {name: types[name] for name in self._columns} | {_PLACE: pl.Int64(), _TIE: pl.UInt64()}
        self._runs: list[pl.DataFrame] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def step(self, frame: pl.DataFrame | None, *, passed_ms: int, clock_ms: int) -> pl.DataFrame | None:
        """Take rows in; give those that time has passed, in their order, or None.

        `frame`: stored events in offset order as `lateness` leaves them, None where only time passes. `passed_ms`: how
        far time had been lifted without records before the frame; `clock_ms`: how far it has come after it. Both in
        milliseconds since 1970; neither ever goes back. What is given has `watermark` (Datetime ms UTC): k.
        """
        if not self._columns:
            return None
        limit = 2 * clock_ms
        ready = [] if frame is None or frame.is_empty() else self._take(frame, passed_ms, limit)
        ready += self._passed(limit)
        return self._in_order(ready) if ready else None

    def _take(self, frame: pl.DataFrame, passed_ms: int, limit: int) -> list[pl.DataFrame]:
        """Hold what must wait; what need not."""
        observed = pl.col("observed_at").cast(pl.Int64)
        before = pl.max_horizontal(pl.col("watermark").cast(pl.Int64), pl.lit(passed_ms, dtype=pl.Int64))
        behind = observed < before
        # Of rows behind the time the offset decides; of the others nothing that depends on their arrival may.
        tie = pl.when(behind).then(pl.col("offset").cast(pl.UInt64)).otherwise(IDENTITY)
        placed = frame.select(
            *self._columns,
            (2 * pl.max_horizontal(observed, before) + (~behind).cast(pl.Int64)).alias(_PLACE),
            tie.alias(_TIE),
        )
        goes = placed[_PLACE].to_numpy() <= limit
        if goes.all():
            return [placed]
        some = goes.any()
        waiting = placed.filter(~goes) if some else placed
        self._runs.append(waiting.sort(_PLACE))
        if len(self._runs) > _MOST_RUNS:
            self._runs.sort(key=len)
            half = len(self._runs) // 2
            self._runs[:half] = [pl.concat(self._runs[:half], rechunk=True).sort(_PLACE)]
        return [placed.filter(goes)] if some else []

    def _passed(self, limit: int) -> list[pl.DataFrame]:
        ready, kept = [], []
        for run in self._runs:
            count = int(run[_PLACE].to_numpy().searchsorted(limit, side="right"))
            if count:
                ready.append(run.head(count))
            if count < len(run):
                kept.append(run.slice(count))
        self._runs = kept
        return ready

    def _in_order(self, parts: list[pl.DataFrame]) -> pl.DataFrame:
        rows = (parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=True)).sort(_PLACE, _TIE)
        instant = (pl.col(_PLACE) // 2).cast(pl.Datetime("ms", "UTC")).alias("watermark")
        return rows.select(*self._columns, pl.lit(self._domain).alias("domain"), instant)

    def snapshot(self) -> bytes:
        """The rows that wait, for `restore`, as an Arrow file."""
        file = io.BytesIO()
        pl.concat([pl.DataFrame(schema=self._schema), *self._runs]).write_ipc(file, compression="zstd")
        return file.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Take the rows of a snapshot in place of one's own; a column it does not have yet is null.

        Raises ValueError for bytes that are no snapshot of this domain.
        """
        try:
            rows = pl.read_ipc(io.BytesIO(snapshot), use_pyarrow=False)
            rows = rows.match_to_schema(pl.Schema(self._schema), missing_columns="insert", extra_columns="ignore")
        except (ValueError, OSError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"not a snapshot of rows that wait ({error}): rebuild the partition's state") from error
        self._runs = [rows.sort(_PLACE)] if len(rows) else []
