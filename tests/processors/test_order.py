"""The stage `order`: detectors see rows in the order of event time, whatever their arrival and their cut."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.detect.signals import COLUMNS
from processors.duplicates import identities
from processors.lateness import mark_late
from processors.order import Held
from schemas.contracts import DOMAINS, Domain
from tests.support.batches import event, frame

DISORDER: Final = 50
_FUTURE: Final = 10**9

quick = settings(derandomize=True, deadline=None, max_examples=60)


@dataclass(frozen=True)
class Row:
    """One record: event time in milliseconds, and its identity, which is also its asset's name."""

    at: int
    name: str


def stored(rows: Sequence[Row], first_offset: int = 0, domain: Domain = "sensor") -> pl.DataFrame:
    """The rows as `locate` leaves them."""
    values = [event(domain, event_id=row.name, asset_id=row.name, observed_at=row.at) for row in rows]
    return frame(values, domain).with_columns(
        pl.col("offset") + first_offset,
        pl.lit("bin").alias("kind"),
        pl.lit(1, dtype=pl.UInt8).alias("quality"),
        pl.lit(0, dtype=pl.UInt64).alias("failed"),
    )


class Line:
    """The stages `lateness` and `order` of one partition, and what has come out of them."""

    def __init__(self, disorder_ms: int = DISORDER, domain: Domain = "sensor") -> None:
        self.disorder_ms, self.domain = disorder_ms, domain
        self.held = Held(domain)
        self.watermark = self.passed = self.offset = 0
        self.out: list[tuple[str, int, int]] = []

    @property
    def clock(self) -> int:
        return max(self.watermark, self.passed)

    def take(self, rows: Sequence[Row]) -> list[str]:
        """Records arrive; the names of the rows that go on."""
        return self.take_frame(stored(rows, self.offset, self.domain))

    def take_frame(self, arrived: pl.DataFrame) -> list[str]:
        """The same of records that are a frame already."""
        marked, self.watermark = mark_late(arrived, self.watermark, disorder_ms=self.disorder_ms, max_future_ms=_FUTURE)
        self.offset += len(arrived)
        return self._note(self.held.step(marked, passed_ms=self.passed, clock_ms=self.clock))

    def advance(self, to_ms: int) -> list[str]:
        """Time passes; the names of the rows that go on."""
        self.passed = max(self.passed, to_ms)
        return self._note(self.held.step(None, passed_ms=self.passed, clock_ms=self.clock))

    def _note(self, found: pl.DataFrame | None) -> list[str]:
        if found is None:
            return []
        assert len(found) > 0
        new = found.select(
            "asset_id", pl.col("observed_at").cast(pl.Int64), pl.col("watermark").dt.epoch("ms")
        ).rows()  # fmt: skip
        self.out += new
        return [name for name, _, _ in new]


Step = Row | int  # a record, or time passing to an instant


def by_hand(steps: Sequence[Step], disorder_ms: int = DISORDER) -> list[tuple[str, int, int]]:
    """What should have come out after these steps: one sort of all rows, and the end of time."""
    rows, watermark, passed = [], 0, 0
    frame = stored([step for step in steps if isinstance(step, Row)])
    identity = dict(zip(frame["asset_id"], identities(frame), strict=True))
    for offset, step in enumerate(steps):
        if isinstance(step, int):
            passed = max(passed, step)
            continue
        before = max(watermark, passed)
        k, behind = max(step.at, before), step.at < before
        tie = offset if behind else identity[step.name]
        rows.append((k, not behind, tie, (step.name, step.at, k)))
        watermark = max(watermark, step.at - disorder_ms)
    clock = max(watermark, passed)
    return [row for k, waits, _, row in sorted(rows) if not waits or k < clock]


def runs(steps: Sequence[Step], sizes: Iterator[int]) -> Iterator[list[Row] | int]:
    """The steps with records gathered into batches of these sizes at most; time passes between batches."""
    batch: list[Row] = []
    size = next(sizes)
    for step in steps:
        if isinstance(step, Row):
            batch.append(step)
        if batch and (isinstance(step, int) or len(batch) == size):
            yield batch
            batch, size = [], next(sizes)
        if isinstance(step, int):
            yield step
    if batch:
        yield batch


def through(
    steps: Sequence[Step], sizes: Iterator[int], *, restarts: bool = False, disorder_ms: int = DISORDER
) -> Line:
    """The steps in batches of these sizes; with `restarts` each begins from a snapshot."""
    line = Line(disorder_ms)
    whole = stored([step for step in steps if isinstance(step, Row)])
    for step in runs(steps, sizes):
        if restarts:
            held = Held("sensor")
            held.restore(line.held.snapshot())
            line.held = held
        if isinstance(step, int):
            line.advance(step)
        else:
            line.take_frame(whole.slice(line.offset, len(step)))
    return line


def always(size: int) -> Iterator[int]:
    while True:
        yield size


@st.composite
def logs(draw: st.DrawFn) -> list[Step]:
    """Records that go on in time unevenly, some far behind, many at one instant; sometimes time passes by itself."""
    steps: list[Step] = []
    now = 1_000
    for number in range(draw(st.integers(1, 60))):
        now += draw(st.sampled_from((0, 0, 1, 3, 20, 80)))
        if draw(st.integers(0, 9)) == 0:
            steps.append(now - draw(st.sampled_from((0, 10, DISORDER))))
        else:
            steps.append(Row(now - draw(st.sampled_from((0, 0, 1, 10, DISORDER, DISORDER + 1, 300))), f"e{number}"))
    return steps


# --- what goes on, and when


def test_a_row_waits_until_time_has_passed_it() -> None:
    """Up to the allowed disorder an earlier one may still come; at the row's own instant, too."""
    line = Line()
    assert line.take([Row(1_000, "a")]) == []
    assert line.take([Row(1_000 + DISORDER, "b")]) == []
    assert line.take([Row(1_001 + DISORDER, "c")]) == ["a"]
    assert len(line.held) == 2


def test_rows_go_on_in_the_order_of_event_time() -> None:
    """What arrived out of order leaves in order, with the time that has come with each row."""
    line = Line()
    line.take([Row(1_030, "c"), Row(1_010, "a"), Row(1_020, "b")])
    assert line.take([Row(2_000, "d")]) == ["a", "b", "c"]
    assert line.out == [("a", 1_010, 1_010), ("b", 1_020, 1_020), ("c", 1_030, 1_030)]


def test_a_row_behind_the_time_goes_on_at_once() -> None:
    """It is too late for its place; it stands at how far time had come before it, ahead of what was observed then."""
    line = Line()
    line.take([Row(2_000, "a"), Row(1_000, "late"), Row(2_000 - DISORDER, "edge")])
    assert line.out == [("late", 1_000, 2_000 - DISORDER)]
    line.take([Row(3_000, "b")])
    assert line.out[1:] == [("edge", 2_000 - DISORDER, 2_000 - DISORDER), ("a", 2_000, 2_000)]


def test_rows_behind_the_time_keep_the_order_of_the_log() -> None:
    """Where event time cannot decide any more, the offset does."""
    line = Line()
    names = [f"late-{number}" for number in range(20)]
    assert line.take([Row(2_000, "a"), *(Row(1_900 - 7 * (n % 3), name) for n, name in enumerate(names))]) == names


def test_equal_instants_are_decided_by_identity() -> None:
    """Two gateways that swap places in the log do not swap places before the detectors."""
    names = [f"e{number}" for number in range(30)]
    orders = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        line = Line()
        line.take([Row(1_000, name) for name in names])
        orders.append(line.take([Row(2_000, "end")]))
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(names)


def test_without_disorder_a_row_waits_for_a_later_instant() -> None:
    """With nothing allowed a row still waits until its instant is over; older ones are behind the time."""
    line = Line(disorder_ms=0)
    assert line.take([Row(1_000, "a"), Row(1_000, "b"), Row(999, "late")]) == ["late"]
    assert sorted(line.take([Row(1_001, "c")])) == ["a", "b"]
    assert line.advance(1_001) == []
    assert line.advance(1_002) == ["c"]


def test_time_that_passes_lets_rows_go_on() -> None:
    """A quiet partition is not held up for ever; who comes behind the time that has passed goes on at once."""
    line = Line()
    line.take([Row(1_000, "a"), Row(1_020, "b")])
    assert line.advance(1_010) == ["a"]
    assert line.advance(1_000) == []
    assert line.take([Row(1_005, "behind"), Row(1_010, "c")]) == ["behind"]
    assert line.advance(1_021) == ["c", "b"]
    assert line.out[1:] == [("behind", 1_005, 1_010), ("c", 1_010, 1_010), ("b", 1_020, 1_020)]


@pytest.mark.parametrize("domain", DOMAINS)
def test_only_what_is_read_is_kept(domain: Domain) -> None:
    """Rows go on with the columns of their domain; of reports nothing is read, so nothing waits."""
    line = Line(domain=domain)
    line.take([Row(1_000, "a")])
    found = line.held.step(None, passed_ms=0, clock_ms=5_000)
    if domain == "report":
        assert found is None
    else:
        assert found is not None
        assert found.columns == [*COLUMNS[domain], "domain", "watermark"]
        assert found["domain"].to_list() == [domain]


# --- whatever the cut, the arrival, the restart


@quick
@given(steps=logs(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_the_cut_of_the_batches_changes_nothing(steps: list[Step], sizes: list[int]) -> None:
    """Batches of one, of seven, of all, of any size, and a restart before each: one sequence, the sorted one."""
    expected = by_hand(steps)
    for cuts in (always(1), always(7), always(5_000), iter([*sizes, *[3] * 60])):
        assert through(steps, cuts).out == expected
    assert through(steps, iter([*sizes, *[3] * 60]), restarts=True).out == expected


@quick
@given(steps=logs(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_without_disorder_the_cut_changes_nothing(steps: list[Step], sizes: list[int]) -> None:
    """A disorder of 0 is no exception."""
    expected = by_hand(steps, disorder_ms=0)
    for cuts in (always(1), iter([*sizes, *[3] * 60]), always(5_000)):
        assert through(steps, cuts, disorder_ms=0).out == expected


@quick
@given(
    gaps=st.lists(st.sampled_from((0, 0, 1, 5, 30)), min_size=1, max_size=60),
    delays=st.lists(st.integers(0, DISORDER), min_size=60, max_size=60),
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=60),
)
def test_the_order_of_arrival_changes_nothing(gaps: list[int], delays: list[int], sizes: list[int]) -> None:
    """A log shuffled within the allowed disorder, in other cuts, gives the same sequence as the log in order."""
    rows, now = [], 1_000
    for number, gap in enumerate(gaps):
        now += gap
        rows.append(Row(now, f"e{number}"))
    arrival = sorted(zip(rows, delays, strict=False), key=lambda pair: pair[0].at + pair[1])
    in_order = through(rows, always(5_000))
    shuffled = through([row for row, _ in arrival], iter([*sizes, 1]))
    assert shuffled.out == in_order.out
    assert len(shuffled.held) == len(in_order.held)
    assert shuffled.advance(10**6) == in_order.advance(10**6)


@pytest.mark.parametrize("size", [1, 7])
def test_many_runs(size: int) -> None:
    """Far more batches wait than runs are kept: the sequence is the sorted one, and the runs stay few."""
    rng = random.Random(3)
    rows = [Row(1_000 + number + rng.randrange(400), f"e{number}") for number in range(900)]
    line, whole = Line(disorder_ms=500), stored(rows)
    for start in range(0, len(rows), size):
        line.take_frame(whole.slice(start, size))
        assert len(line.held._runs) <= 64
    assert line.out == by_hand(rows, disorder_ms=500)
    assert len(line.held) > 300
    line.advance(10**6)
    assert line.out == by_hand([*rows, 10**6], disorder_ms=500)
    assert len(line.held) == 0


# --- snapshots


def test_a_snapshot_of_another_code_is_read() -> None:
    """A column that detectors did not read yet is null for the rows that waited; one they read no more is dropped."""
    line = Line()
    line.take([Row(1_000, "a")])
    older = pl.read_ipc(line.held.snapshot()).drop("fill_level").with_columns(pl.lit(1).alias("gone"))
    held = Held("sensor")
    held.restore(_ipc(older))
    found = held.step(None, passed_ms=0, clock_ms=5_000)
    assert found is not None
    assert found.select("asset_id", "fill_level").rows() == [("a", None)]
    assert "gone" not in found.columns


@pytest.mark.parametrize("broken", [b"", b"{}", b"ARROW1\x00\x00", b"\xff" * 40])
def test_restore_refuses_what_is_no_snapshot(broken: bytes) -> None:
    """Bytes that are no snapshot give one ValueError that says what to do."""
    with pytest.raises(ValueError, match="rebuild the partition's state"):
        Held("sensor").restore(broken)


def test_restore_refuses_other_types() -> None:
    """A column of another type is no row of this domain."""
    line = Line()
    line.take([Row(1_000, "a")])
    wrong: Any = pl.read_ipc(line.held.snapshot()).with_columns(pl.lit("x").alias("_place"))
    with pytest.raises(ValueError, match="rebuild the partition's state"):
        Held("sensor").restore(_ipc(wrong))


def _ipc(rows: pl.DataFrame) -> bytes:
    return rows.write_ipc(None).getvalue()
