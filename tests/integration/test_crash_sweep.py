"""Nothing lost, nothing counted twice: a worker killed with SIGKILL at every step that it ever takes.

The steps are discovered (tests/support/steps.py), the lives and the kills are led by tests/support/sweep.py on real
Kafka, and what must hold is written in tests/support/oracles.py. `python -m tests.support.sweep --help` sweeps by hand,
all steps or some.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.kafka import kafka_available
from tests.support.sweep import Sweep

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

#: Another seed draws other records, other later hits, and other delays.
_SEED: Final = 3
#: Lives spend half of their time waiting: for a fetch, for time to pass.
_LANES: Final = 3


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line that is shown also when the test succeeds."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    return lambda line: terminal.write_line(line)


def test_killed_at_every_step(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Wherever a worker is killed, its successor goes on, and every oracle holds: at rest, caught up, and against a
    worker that nobody disturbed. No step of the loop is left out, but for those that only an error leads to."""
    reason = kafka_available()
    if reason is not None:
        if os.environ.get("VIGIE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"VIGIE_REQUIRE_KAFKA=1, but {reason}")
        pytest.skip(reason)
    report = Sweep(tmp_path, seed=_SEED, lanes=_LANES).run()
    say("")
    for line in report.lines():
        say(line)
    assert report.faults == []
    killed_at = set(report.work.done)
    assert killed_at == report.work.reached, "every step that was reached was killed at"
    assert report.kills > 200, "so few steps are no loop: look at how they are found"
