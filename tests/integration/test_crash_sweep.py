"""Nothing lost, nothing counted twice: a worker killed with SIGKILL at the steps that it takes.

The steps are discovered (tests/support/steps.py), the lives and the kills are led by tests/support/sweep.py on real
Kafka, and what must hold is written in tests/support/oracles.py. All steps take longer than a check of a change may:
`make sweep` (VIGIE_SWEEP=all) kills at every one, in parts that stand for themselves, and otherwise at some that the
seed draws.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.excuses import excuse
from tests.support.required import require_kafka
from tests.support.steps import site_of
from tests.support.sweep import Report, Sweep

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

#: Another seed draws other records, other later hits, and other delays.
_SEED: Final = int(os.environ.get("VIGIE_SWEEP_SEED", "3"))
_ALL: Final = os.environ.get("VIGIE_SWEEP") == "all"
#: Lives spend half of their time waiting: for a fetch, for time to pass. Other tests run beside a sample.
_LANES: Final = 3 if _ALL else 1
#: Of the steps reached, about 300.
_SAMPLE: Final = 0.03
#: A part takes ten minutes on two cores, the sample some three.
_PATIENCE_S: Final = 3_600 if _ALL else 900
#: All of them together are every step.
_PARTS: Final = 4 if _ALL else 1

#: Of the parts that this process has run to their end.
_reports: list[Report] = []


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line that is shown also when the test succeeds."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    return lambda line: terminal.write_line(line)


def killed_so_far() -> set[str]:
    """The steps that a worker was killed at in the parts before."""
    return {step for report in _reports for step in report.work.done}


def told(report: Report, say: Callable[[str], None]) -> None:
    """Show what a sweep has done; nothing may have been violated."""
    say("")
    for line in report.lines():
        say(line)
    assert [fault for violation in report.violations for fault in violation.faults] == []


@pytest.mark.timeout(_PATIENCE_S)
@pytest.mark.parametrize("number", range(_PARTS))
def test_killed_at_its_steps(number: int, tmp_path: Path, say: Callable[[str], None]) -> None:
    """Wherever a worker is killed, its successor goes on, and every oracle holds: at rest, caught up, and against a
    worker that nobody disturbed."""
    require_kafka()
    elsewhere = killed_so_far()
    if _ALL:
        report = Sweep(tmp_path, seed=_SEED, lanes=_LANES, part=(number, _PARTS), elsewhere=elsewhere).run()
    else:
        report = Sweep(tmp_path, seed=_SEED, lanes=_LANES, share=0.0, sample=_SAMPLE).run()
    told(report, say)
    assert set(report.work.done) <= report.work.reached
    assert len(report.work.reached) > 200, "so few steps are no loop: look at how they are found"
    if _ALL:
        _reports.append(report)
        assert report.work.missed == []
        assert set(report.work.done) == report.work.planned
        assert {step for step in report.work.reached if report.work.is_mine(step)} <= report.work.planned | elsewhere
    else:
        assert report.kills > 5


@pytest.mark.skipif(not _ALL, reason="another worker and a gateway take their time: VIGIE_SWEEP=all has them")
@pytest.mark.timeout(_PATIENCE_S)
def test_killed_while_another_comes_and_goes(tmp_path: Path, say: Callable[[str], None]) -> None:
    """The same for a worker whose partitions change hands, over HTTP: at what only such a worker does, and at a sample
    of the rest."""
    require_kafka()
    if len(_reports) < _PARTS:
        pytest.skip(f"{len(_reports)} of {_PARTS} parts were run in this process")
    elsewhere = killed_so_far()
    report = Sweep.of_pairs(tmp_path, seed=_SEED, lanes=2, sample=_SAMPLE, elsewhere=elsewhere).run()
    told(report, say)
    _reports.append(report)
    assert report.work.missed == []
    assert set(report.work.done) == report.work.planned
    assert report.work.reached - elsewhere <= report.work.planned


@pytest.mark.skipif(not _ALL, reason="a few steps do not reach every place: VIGIE_SWEEP=all takes all of them")
def test_every_place_is_reached() -> None:
    """No await and no effect of a worker is left out, but for those that a rule excuses; and wherever a worker has been
    seen, one was killed."""
    if len(_reports) <= _PARTS:
        pytest.skip(f"{len(_reports)} of {_PARTS + 1} parts were run in this process")
    reached = {site_of(step) for report in _reports for step in report.work.reached}
    imported = {module for report in _reports for module in report.work.imported}
    sites = {site.name: site for site in _reports[0].sites}
    must = {name for name, site in sites.items() if name not in reached and excuse(site, imported) is None}
    assert must == set()
    assert {step for report in _reports for step in report.work.reached} == killed_so_far()
