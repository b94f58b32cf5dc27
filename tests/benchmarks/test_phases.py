"""An open loop keeps its own time."""

from __future__ import annotations

from benchmarks.phases import Phases, alarm_instants, due

_PHASES = Phases(warm_up_s=20, rows_s=60, alarms_s=75)


def test_phases_follow_each_other() -> None:
    """Rows are looked at after the warm-up and before any alarm, and time passes after the last one."""
    assert (_PHASES.rows_end_s, _PHASES.alarms_end_s, _PHASES.end_s) == (80, 155, 160)


def test_alarms_lie_in_their_phase_at_known_instants() -> None:
    """The same seed gives the same instants, rising, and none while rows are looked at."""
    found = alarm_instants(_PHASES, 300, seed=1)
    assert found == sorted(found) == alarm_instants(_PHASES, 300, seed=1)
    assert len(found) == 300
    assert found[0] >= _PHASES.rows_end_s
    assert found[-1] < _PHASES.alarms_end_s
    assert alarm_instants(_PHASES, 300, seed=2) != found


def test_a_rate_is_held_exactly() -> None:
    """Record i is due after i / rate seconds: neither drift nor waiting for who reads."""
    assert [due(t, 1_000, 10_000) for t in (-1.0, 0.0, 0.0009, 0.0011, 1.0005)] == [0, 1, 1, 2, 1_001]
    assert due(1e9, 1_000, 10_000) == 10_000
    # A loop that was held up for a second owes all of it.
    assert due(2.0, 50_000, 10**9) - due(1.0, 50_000, 10**9) == 50_000
