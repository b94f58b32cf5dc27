"""The row of a run: one process has it, it moves while that process lives, and only then somebody else takes it up."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sinks.clickhouse import Sink
from sinks.replays import Run, run_of, store_run
from streams.clock import utc_now
from streams.ledger import Place
from streams.replay import ReplayError
from streams.replay.journal import Cut, Journal, abandoned, login, new_id, process_name, taken_up

_STALE_S = 0.8
_CUT = Cut({Place("a/b", 3): 17}, {Place("lab", 0): 5}, read=9, sent=7, left_out={"another key": 2})


def run(**changes: object) -> Run:
    whole = Run(
        run_id=new_id(), kind="replay", state="running", who=login(), process=process_name(), started_at=utc_now(),
        source="a", targets=("lab",), selection="{}", plan="{}", cut=_CUT.to_json(),
    )  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


def of(one: Run, sink: Sink) -> Run:
    found = run_of(one.run_id, sink)
    assert found is not None
    return found


def silent(_: str) -> None:
    """Nobody listens."""


def test_the_row_moves_while_the_process_lives(clickhouse: Sink) -> None:
    """It tells of the last cut, and at the end how the run has ended; between the two it is written again and again."""
    journal = Journal(run(), clickhouse, _STALE_S)
    journal.open()
    journal.note(_CUT)
    first = of(journal.run, clickhouse)
    until = time.monotonic() + 20
    while (now := of(journal.run, clickhouse)).updated_at == first.updated_at or not now.read:
        assert time.monotonic() < until
    assert Cut.of_run(now) == _CUT
    assert (now.state, now.ended_at) == ("running", None) and now.age_s < 10
    journal.check()
    journal.close("interrupted", "Ctrl-C")
    last = of(journal.run, clickhouse)
    assert (last.state, last.problem, last.read, last.sent, last.left_out) == (
        "interrupted", "Ctrl-C", 9, 7, {"another key": 2},
    )  # fmt: skip
    assert last.ended_at is not None


def test_a_run_that_moves_is_left_to_its_process(clickhouse: Sink) -> None:
    """Whoever wants it is told whose it is, as soon as the row is written again."""
    journal = Journal(run(), clickhouse, _STALE_S)
    journal.open()
    with pytest.raises(ReplayError, match="busy"):
        abandoned(of(journal.run, clickhouse), clickhouse, 30.0, silent, lambda found: f"busy: {found.process}")
    journal.close("done")


def test_a_run_whose_process_is_gone_is_taken_up_after_a_while(clickhouse: Sink) -> None:
    """The row stands still: after the time given it is anybody's. One that says it has ended is so at once."""
    gone, said = run(), list[str]()
    store_run(gone, clickhouse, "1")
    began_s = time.monotonic()
    found = abandoned(of(gone, clickhouse), clickhouse, _STALE_S, said.append, lambda _: "busy")
    assert time.monotonic() - began_s > 0.5 * _STALE_S and "may still be under way" in said[0]
    journal = taken_up(found, clickhouse, _STALE_S)
    now = of(gone, clickhouse)
    assert (now.state, now.process, now.started_at) == ("running", journal.run.process, found.started_at)
    journal.close("interrupted")
    ended = of(gone, clickhouse)
    assert abandoned(ended, clickhouse, 1e6, silent, lambda _: "busy") == ended


def test_of_two_that_take_a_run_up_at_a_time_one_gets_it(clickhouse: Sink) -> None:
    """Both have seen that it stood still; the one whose row stays goes on, the other one leaves it alone."""
    gone = run()
    store_run(gone, clickhouse, "1")

    def attempt(_: int) -> Journal | ReplayError:
        try:
            return taken_up(gone, clickhouse, 20.0)
        except ReplayError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(attempt, range(2)))
    (winner,) = (one for one in got if isinstance(one, Journal))
    (loser,) = (one for one in got if isinstance(one, ReplayError))
    assert "just been taken up" in str(loser)
    assert of(gone, clickhouse).process == winner.run.process
    winner.close("done")


def test_a_process_whose_run_was_taken_up_stops(clickhouse: Sink) -> None:
    """One that was frozen and wakes up finds another's name, goes no further, and does not write over it."""
    journal = Journal(run(), clickhouse, _STALE_S)
    journal.open()
    store_run(replace(journal.run, process="another"), clickhouse, "of another")
    with pytest.raises(ReplayError, match="taken the run up: another"):
        checked(journal)
    journal.close("failed")
    assert of(journal.run, clickhouse).process == "another"


def test_a_process_that_cannot_write_its_row_stops(clickhouse: Sink) -> None:
    """Before the time after which another may begin: two must not do the same work."""
    journal = Journal(run(), clickhouse, _STALE_S)
    journal.open()
    journal.leave()
    journal.check()
    began_s = time.monotonic()
    with pytest.raises(ReplayError, match="could not be told"):
        checked(journal)
    assert time.monotonic() - began_s < _STALE_S


def checked(journal: Journal) -> None:
    """Check until that raises."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        journal.check()
        time.sleep(0.01)
