"""Which records are replayed, when each may go out, and what it bears then."""

from __future__ import annotations

import pytest

from sinks.replays import Refused
from streams.replay.pacing import Pace
from streams.replay.provenance import ORIGIN_HEADER, RUN_HEADER, marks, origin
from streams.replay.selection import Judge, Selection

_KEY = b"213400017|bin-1"


@pytest.mark.parametrize(
    ("selection", "key", "at_ms", "why"),
    [
        (Selection("t"), None, 0, None),
        (Selection("t", from_ms=10, to_ms=20), _KEY, 10, None),
        (Selection("t", from_ms=10, to_ms=20), _KEY, 9, "outside the time"),
        (Selection("t", from_ms=10, to_ms=20), _KEY, 20, "outside the time"),
        (Selection("t", keys=("a", "213400017|bin-1")), _KEY, 0, None),
        (Selection("t", keys=("213400017|bin",)), _KEY, 0, "another key"),
        (Selection("t", keys=("a",)), None, 0, "another key"),
        (Selection("t", jurisdictions=("213400017",)), _KEY, 0, None),
        (Selection("t", jurisdictions=("999999999",)), _KEY, 0, "another jurisdiction"),
        (Selection("t", jurisdictions=("213400017",)), b"213400017", 0, "no jurisdiction in the key"),
        (Selection("t", jurisdictions=("2134",)), b"2134|bin", 0, "no jurisdiction in the key"),
        (Selection("t", jurisdictions=("213400017",)), None, 0, "no jurisdiction in the key"),
    ],
)
def test_what_is_left_out_and_why(selection: Selection, key: bytes | None, at_ms: int, why: str | None) -> None:
    """From the first instant to before the last; whole keys; the authority that a key begins with."""
    assert Judge(selection).leaves_out(key, at_ms) == why


def test_a_selection_is_kept_as_json() -> None:
    """A run that is taken up days later chooses the same records; what else is written beside it does not matter."""
    chosen = Selection("t", from_ms=5, partitions=(1, 3), keys=("é|1",), jurisdictions=("213400017",))
    assert Selection.of_json(chosen.to_json().replace("{", '{"rate": 5, ', 1)) == chosen
    assert Selection.of_json(Selection("t").to_json()) == Selection("t")


def test_the_spacing_is_the_original_one_divided() -> None:
    """Ten times as fast: a second becomes a tenth. What is behind goes at once and loses nothing of its place."""
    pace = Pace(10.0, None)
    assert not pace.is_free
    assert pace.due_s(1_000, now_s=50.0) == 50.0
    assert pace.due_s(2_000, now_s=50.01) == pytest.approx(50.1)
    # The broker was away for a while.
    assert pace.due_s(3_000, now_s=58.0) < 58.0
    assert pace.due_s(101_000, now_s=58.0) == pytest.approx(60.0)
    # Times that go back are no reason to wait.
    assert pace.due_s(500, now_s=58.0) <= 58.0


def test_never_more_than_the_rate() -> None:
    """So many a second and no burst after a pause, but for a quarter of a second's; with the spacing, the later
    counts."""
    pace, now_s, sent = Pace(None, 100.0), 10.0, list[float]()
    for number in range(300):
        if number == 150:
            now_s += 5.0
        now_s = max(now_s, pace.due_s(0, now_s))
        sent.append(now_s)
    assert sent[149] - sent[0] == pytest.approx(1.49)
    assert sent[299] - sent[150] >= 1.49 - 0.26
    # Nobody wakes up in time: the rate is kept all the same.
    late, now_s = Pace(None, 5_000.0), 0.0
    for _ in range(5_000):
        now_s = late_by_2_ms(late.due_s(0, now_s), now_s)
    assert 0.99 < now_s < 1.02
    both = Pace(1.0, 100.0)
    assert [both.due_s(at_ms, 0.0) for at_ms in (0, 1, 1_000)] == pytest.approx([0.0, 0.01, 1.0])
    assert Pace(None, None).is_free


def late_by_2_ms(due_s: float, now_s: float) -> float:
    """When somebody who waits until then goes on."""
    return now_s if due_s <= now_s else max(due_s, now_s + 0.002)


def test_a_copy_says_where_it_comes_from() -> None:
    """The run, and the place and time of the original; of a copy of a copy the last ones count."""
    own = [("ce_id", b"1"), ("ce_id", b"2")]
    first = [*own, *marks(b"run-1", "city.raw.sensor", 3, 17, 1_789_430_400_123)]
    assert first[-1] == (ORIGIN_HEADER, b"city.raw.sensor/3/17@1789430400123")
    assert origin(first, b"run-1") == Refused("city.raw.sensor", 3, 17, 1_789_430_400_123)
    assert origin(first, b"run-2") is None and origin(own, b"run-1") is None
    second = [*first, *marks(b"run-2", "lab", 0, 5, -1)]
    assert origin(second, b"run-1") is None
    assert origin(second, b"run-2") == Refused("lab", 0, 5, -1)


@pytest.mark.parametrize(
    "value", [None, b"", b"lab/0/5", b"lab/x/5@1", b"lab/0/5@1 ", b"a/b/0/5@1", b"\xff/0/5@1", b"lab/70000/5@1"]
)
def test_what_is_no_origin_is_nobodys(value: bytes | None) -> None:
    """Whoever writes our headers by hand does not stop a run that reads them."""
    assert origin([(RUN_HEADER, b"run"), (ORIGIN_HEADER, value)], b"run") is None
