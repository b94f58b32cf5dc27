"""The limits on dead letters: where they are first exceeded belongs to the log and not to the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from processors.pipeline import SINK_STAGE, Outcome, run
from processors.refusals import Breach, RefusalLimits, Refusals
from schemas.contracts import contract_of
from schemas.records import Batch
from schemas.rejects import REJECT_SCHEMA, Reason
from schemas.writers import own_writers
from tests.support.batches import HOUR, Ran, batch, cut, encoded, event, events, reference, state_of

#: What became of a record: None stored, or the reason of its reject.
Ends = Sequence[str | None]

LIMITS = RefusalLimits(max_ratio=0.3, max_consecutive=3, window=10)


def step(refusals: Refusals, ends: Ends, first: int = 0, limits: RefusalLimits = LIMITS) -> Breach | None:
    """One batch whose offsets go by threes."""
    rows = [(row, "validate", reason, "") for row, reason in enumerate(ends) if reason is not None]
    offsets = 3 * np.arange(first, first + len(ends), dtype=np.int64)
    return refusals.step(offsets, pl.DataFrame(rows[::-1], schema=REJECT_SCHEMA, orient="row"), limits)


def first_breach(
    ends: Ends, sizes: Iterator[int], limits: RefusalLimits = LIMITS, restart: bool = False
) -> Breach | None:
    """The first breach in batches of these sizes; with `restart` each begins from a snapshot."""
    refusals, start = Refusals(), 0
    while start < len(ends):
        size = next(sizes)
        if restart:
            held, refusals = refusals.snapshot(), Refusals()
            refusals.restore(held)
        if breach := step(refusals, ends[start : start + size], start, limits):
            return breach
        start += size
    return None


def by_hand(ends: Ends, limits: RefusalLimits) -> Breach | None:
    """Record by record, everything counted anew."""
    bad = [reason is not None and reason != "duplicate" for reason in ends]
    for last in range(len(ends)):
        row = last + 1
        while row > 0 and bad[row - 1]:
            row -= 1
        for kind, since in (("consecutive", row), ("ratio", last + 1 - limits.window)):
            counted = [i for i in range(max(since, 0), last + 1) if bad[i]]
            limit = limits.max_consecutive if kind == "consecutive" else limits.max_ratio * limits.window
            if since < 0 or len(counted) <= limit:
                continue
            reasons = Counter(str(ends[i]) for i in counted)
            reason = min(reasons, key=lambda name: (-reasons[name], name))
            return Breach(kind, len(counted), last + 1 - since, 3 * counted[0], 3 * last, reason)  # type: ignore[arg-type]
    return None


def always(size: int) -> Iterator[int]:
    while True:
        yield size


ENDS = st.lists(
    st.one_of(st.none(), st.none(), st.none(), st.sampled_from(("decode", "decode", "contract", "duplicate"))),
    max_size=60,
)


@given(ends=ENDS, sizes=st.lists(st.integers(1, 30), min_size=60, max_size=60))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_cut_of_the_batches_changes_nothing(ends: list[str | None], sizes: list[int]) -> None:
    """Batches of one, of seven, of all, of any size, and a restart before each: the breach of a count by hand."""
    expected = by_hand(ends, LIMITS)
    for cuts in (always(1), always(7), always(100), iter(sizes)):
        assert first_breach(ends, cuts) == expected
    assert first_breach(ends, iter(sizes), restart=True) == expected


def test_too_many_in_a_row() -> None:
    """As many as are allowed are allowed; the next one is the breach, and says where the row began and why."""
    refusals = Refusals()
    assert step(refusals, [None, "decode", "contract", "decode"]) is None
    assert step(refusals, ["decode", None], 4) == Breach("consecutive", 4, 4, 3, 12, "decode")


def test_a_stored_record_ends_the_row() -> None:
    """Three, one stored, three: nothing is wrong with that while the window is not full."""
    assert step(Refusals(), ["decode"] * 3 + [None] + ["decode"] * 3) is None


def test_the_share_is_judged_once_the_window_is_full() -> None:
    """The first records of a partition are no share of anything; the record that fills the window decides, stored or
    not."""
    bad = ["decode", "decode", None, "contract", "quality", None, None, None, None]
    assert step(Refusals(), bad) is None
    assert step(Refusals(), [*bad, None]) == Breach("ratio", 4, 10, 0, 27, "decode")


def test_the_window_moves() -> None:
    """What lies further back than the window is forgotten."""
    good: list[str | None] = [None] * 7
    assert step(Refusals(), (["decode"] * 3 + good) * 20) is None
    assert step(Refusals(), [*["decode"] * 3, *good, None, *["decode"] * 3, None, "decode"]) is not None


def test_duplicates_are_no_refusals() -> None:
    """They end a row, and they count as records: a publisher that sends everything twice is no fault of ours."""
    assert step(Refusals(), [None, "duplicate"] * 50) is None
    assert step(Refusals(), ["decode", "decode", "duplicate", "decode", "decode"]) is None


def test_a_breach_goes_on_until_it_is_over() -> None:
    """While a limit is exceeded each refused record says so; after good records none does."""
    refusals = Refusals()
    for number in range(4, 8):
        told = step(refusals, ["decode"] * (4 if number == 4 else 1), 0 if number == 4 else number - 1)
        assert told == Breach("consecutive", number, number, 0, 3 * (number - 1), "decode")
    assert step(refusals, [None, None], 7) is None
    assert step(refusals, [None], 9) == Breach("ratio", 7, 10, 0, 27, "decode")
    assert step(refusals, [None] * 10, 10) is None
    assert step(refusals, ["decode"], 20) is None


def test_limits_may_change_between_two_lives() -> None:
    """A window that has grown is judged once it has been filled anew, one that has shrunk at once."""
    refusals = Refusals()
    step(refusals, [None] * 10)
    restored = Refusals()
    restored.restore(refusals.snapshot())
    wide = RefusalLimits(max_ratio=0.01, max_consecutive=9, window=20)
    assert step(restored, ["decode", None] * 2, 10, wide) is None
    assert step(restored, [None] * 6, 14, wide) == Breach("ratio", 2, 20, 30, 57, "decode")
    narrow = RefusalLimits(max_ratio=0.3, max_consecutive=9, window=5)
    assert step(restored, ["decode", "decode"], 20, narrow) == Breach("ratio", 2, 5, 60, 63, "decode")


@pytest.mark.parametrize(
    "broken", [b"", b"[]", b"{}", b'{"version": 99}', b'{"version": 1, "window": [[1]], "row": [1, 2, {}]}']
)
def test_restore_refuses_what_is_no_snapshot(broken: bytes) -> None:
    """Bytes that are no snapshot give one ValueError that says what to do, and leave the count as it was."""
    refusals = Refusals()
    step(refusals, ["decode"] * 3)
    before = refusals.snapshot()
    with pytest.raises(ValueError, match="rebuild the partition's state"):
        refusals.restore(broken)
    assert refusals.snapshot() == before


# --- in the pipeline


def test_a_flood_of_rejects_is_a_breach_of_its_batch() -> None:
    """An outcome tells of it, with what happened most; rejects of all stages count, across batches and chunks."""
    good = encoded("sensor", events(40))
    bad = encoded("sensor", [event(event_id=f"bad-{n}", jurisdiction_id="123456789") for n in range(30)])
    whole = batch([*good[:20], *bad, b"junk", *good[20:]])
    limits = RefusalLimits(max_ratio=1.0, max_consecutive=30, window=50)
    for sizes in ([71], [7] * 11):
        ran = Ran(cut(whole, sizes), reference(refusals=limits, chunk_records=16))
        found = [outcome.breach for outcome in ran.outcomes if outcome.breach]
        assert found == [Breach("consecutive", 31, 31, 20, 50, "unknown_jurisdiction")]
        assert len(ran.events) == 40


def test_duplicates_of_a_whole_log_are_no_breach() -> None:
    """A topic that is published a second time is full of duplicates, and the worker goes on."""
    values = encoded("sensor", events(30))
    ran = Ran([batch([*values, *values])], reference(refusals=RefusalLimits(0.1, 5, 20)))
    assert len(ran.refused) == 30
    assert [outcome.breach for outcome in ran.outcomes] == [None]


def test_what_clickhouse_refused_touches_nothing_else() -> None:
    """A condemned offset is a reject of the stage `sink`; the rest is as if its record had never been there: no window,
    no duplicate, no watermark, no alert."""
    at = events(1)[0]["observed_at"]
    far = event(event_id="far", observed_at=at + HOUR // 2, fill_level=0.99)
    end = event(event_id="end", observed_at=at + HOUR // 2 + 1, fill_level=None)
    values = encoded("sensor", [*events(3), far, *events(6)[3:], end, far])
    whole = _outcome(batch(values), frozenset())
    condemned = _outcome(batch(values), frozenset({3, 8}))
    without = _outcome(batch([*values[:3], *values[4:8]], offsets=[0, 1, 2, 4, 5, 6, 7]), frozenset())
    assert condemned.refused.rows() == [
        (3, SINK_STAGE, Reason.SINK, "refused by ClickHouse"), (8, SINK_STAGE, Reason.SINK, "refused by ClickHouse"),
    ]  # fmt: skip
    assert_frame_equal(condemned.events.drop("row"), without.events.drop("row"))
    assert condemned.transitions == without.transitions == ()
    assert [(t.alertname, t.state) for t in whole.transitions] == [("bin_full", "firing")]
    assert whole.refused["reason"].to_list() == ["duplicate"]
    assert whole.events["late"].sum() > condemned.events["late"].sum() == 0


def test_a_condemned_record_keeps_the_reason_of_its_bytes() -> None:
    """What no longer decodes is told for what it is: ClickHouse never saw it."""
    outcome = _outcome(batch([b"junk", *encoded("sensor", events(1))]), frozenset({0, 1}))
    assert outcome.refused["reason"].to_list() == ["decode", "sink"]


def _outcome(one: Batch, offsets: frozenset[int]) -> Outcome:
    """The outcome of one batch of a new partition, of which ClickHouse has refused some offsets."""
    shared = reference()
    (outcome,) = run(one, state_of(one, shared), shared, own_writers(contract_of("sensor")), offsets)
    return outcome
