"""Acknowledgements: they show in the view of alerts until the alert is told anew, and disturb nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processors.alerts import AlertBook
from sinks import stored
from sinks.acknowledgements import Acknowledgement, acknowledge
from sinks.clickhouse import Sink, migrations
from sinks.queries import ask
from sinks.rows import Origin
from sinks.store import store_alerts
from tests.sinks.test_store import transition
from tests.support.batches import HOUR, RECEIVED_MS
from tests.support.city import CITY

_AT = datetime(2026, 9, 15, 0, 5, tzinfo=UTC)
_ORIGIN = Origin("city.raw.sensor", 0, "T1", 1)

_FIRING = transition(1, "firing", RECEIVED_MS, value=0.9)
_WORSE = transition(2, "firing", RECEIVED_MS + HOUR, value=0.99)
_RESOLVED = transition(3, "resolved", RECEIVED_MS + 2 * HOUR, ends_at=RECEIVED_MS + 2 * HOUR)


def tell(sink: Sink, *steps: dict[str, Any]) -> None:
    for step in steps:
        store_alerts([(_ORIGIN, 7, step)], sink)


def take_on(sink: Sink, step: dict[str, Any], by: str = "Ada", at: datetime = _AT, note: str = "") -> None:
    starts_at = datetime.fromtimestamp(step["starts_at"] / 1_000, UTC)
    acknowledge(Acknowledgement(CITY, step["fingerprint"], starts_at, step["transition_id"], by, note, at), sink)


def alerts(sink: Sink) -> list[tuple[Any, ...]]:
    return sink.rows("SELECT state, acknowledged_by, acknowledged_at, ends_at IS NULL FROM alerts ORDER BY starts_at")


def test_a_firing_alert_that_was_taken_on_is_acknowledged(clickhouse: Sink) -> None:
    """The view says by whom and when; it is open as before, and the history is what the worker wrote."""
    tell(clickhouse, _FIRING)
    assert alerts(clickhouse) == [("firing", None, None, True)]
    before = clickhouse.rows("SELECT * FROM alert_transitions")
    take_on(clickhouse, _FIRING)
    assert alerts(clickhouse) == [("acknowledged", "Ada", _AT.replace(tzinfo=None), True)]
    assert clickhouse.rows("SELECT * FROM alert_transitions") == before
    (row,) = ask(clickhouse, "open_alerts", jurisdictions=[CITY])
    assert (row["state"], row["acknowledged_by"]) == ("acknowledged", "Ada")


def test_it_falls_when_the_alert_is_told_anew(clickhouse: Sink) -> None:
    """Whoever took on a silent asset has not taken on a dead one; the later answer counts again."""
    tell(clickhouse, _FIRING)
    take_on(clickhouse, _FIRING)
    tell(clickhouse, _WORSE)
    assert alerts(clickhouse) == [("firing", None, None, True)]
    take_on(clickhouse, _WORSE, "Blaise")
    assert alerts(clickhouse)[0][:2] == ("acknowledged", "Blaise")


def test_it_is_of_a_transition_and_not_of_an_instant(clickhouse: Sink) -> None:
    """A worker that catches up tells at noon what happened at ten: an answer given at eleven was not to that."""
    tell(clickhouse, _FIRING)
    take_on(clickhouse, _FIRING, at=_AT + timedelta(days=1))
    tell(clickhouse, _WORSE)
    assert alerts(clickhouse)[0][0] == "firing"


def test_what_is_over_is_over(clickhouse: Sink) -> None:
    """An acknowledged alert that ends is resolved, and its next life begins without an acknowledgement."""
    later = RECEIVED_MS + 100 * HOUR
    tell(clickhouse, _FIRING)
    take_on(clickhouse, _FIRING)
    tell(clickhouse, _RESOLVED)
    assert alerts(clickhouse) == [("resolved", None, None, False)]
    tell(clickhouse, transition(4, "firing", later, starts_at=later))
    assert [state for state, *_ in alerts(clickhouse)] == ["resolved", "firing"]


@pytest.mark.parametrize("state", ["pending", "expired", "resolved"])
def test_only_what_fires_can_be_acknowledged(clickhouse: Sink, state: str) -> None:
    """A row that is there all the same changes nothing of it."""
    step = transition(1, state, RECEIVED_MS, ends_at=None if state == "pending" else RECEIVED_MS)
    tell(clickhouse, step)
    take_on(clickhouse, step)
    assert alerts(clickhouse)[0][:3] == (state, None, None)


def test_it_is_of_one_alert(clickhouse: Sink) -> None:
    """Its neighbours, of the same authority and begun in the same instant, are not taken on with it."""
    other = transition(1, "firing", RECEIVED_MS, fingerprint="e" * 16, transition_id="e-1")
    tell(clickhouse, _FIRING, other)
    take_on(clickhouse, _FIRING)
    found = dict(clickhouse.rows("SELECT fingerprint, state FROM alerts"))
    assert found == {"f" * 16: "acknowledged", "e" * 16: "firing"}


def test_the_newest_answer_to_a_transition_counts(clickhouse: Sink) -> None:
    """Two people at the same moment are one acknowledgement, whatever has been merged."""
    tell(clickhouse, _FIRING)
    take_on(clickhouse, _FIRING, "Blaise", _AT + timedelta(seconds=1))
    take_on(clickhouse, _FIRING, "Ada", _AT)
    for _ in range(2):
        assert [row[1] for row in alerts(clickhouse)] == ["Blaise"]
        clickhouse.command("OPTIMIZE TABLE acknowledgements FINAL")


def test_a_new_owner_takes_the_alert_over_as_it_was_told(clickhouse: Sink) -> None:
    """What is read back for a partition knows nothing of people: the alert goes on, under its next number."""
    tell(clickhouse, _FIRING, _WORSE)
    before = stored.newest_transitions(_ORIGIN, 1_000, clickhouse)
    take_on(clickhouse, _WORSE)
    assert stored.newest_transitions(_ORIGIN, 1_000, clickhouse) == before
    assert [one["state"] for one in before] == ["firing"]
    AlertBook().adopt(before)


def test_the_steps_of_an_alert_come_with_who_answered_them(clickhouse: Sink) -> None:
    """The latest life first; an answer that has fallen is still in the history, with its note."""
    later = RECEIVED_MS + 100 * HOUR
    tell(clickhouse, _FIRING, _WORSE, _RESOLVED, transition(4, "firing", later, starts_at=later))
    take_on(clickhouse, _FIRING, note="on my way")
    found = ask(clickhouse, "alert_steps", fingerprint="f" * 16)
    told = [(step["sequence"], step["state"], step["acknowledged_by"], step["note"]) for step in found]
    assert told == [
        (4, "firing", None, None), (1, "firing", "Ada", "on my way"), (2, "firing", None, None),
        (3, "resolved", None, None),
    ]  # fmt: skip


def test_a_directory_of_before_gets_them(clickhouse: Sink) -> None:
    """The view of the version before is replaced, and what was stored is seen through the new one."""
    tell(clickhouse, _FIRING)
    shipped = dict(migrations())
    clickhouse.command("DROP VIEW alerts")
    clickhouse.command("DROP TABLE acknowledgements SYNC")
    try:
        clickhouse.command(shipped["0009_alerts"][0])
        assert clickhouse.rows("SELECT state FROM alerts") == [("firing",)]
    finally:
        for statement in shipped["0016_acknowledgements"]:
            clickhouse.command(statement)
    take_on(clickhouse, _FIRING)
    assert alerts(clickhouse)[0][:2] == ("acknowledged", "Ada")
