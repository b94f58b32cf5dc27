"""The short chaos run: every kind of fault in ninety seconds, and at the end every number adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos.schedule import kinds
from tests.support.pipeline import ROOT
from tests.support.required import require_kafka

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.alone]

_SEED: Final = 1
#: Catching up on a slow machine included; far beyond it something hangs that should have said so.
_PATIENCE_S: Final = 1_200.0


@pytest.mark.timeout(_PATIENCE_S + 60)
def test_ninety_seconds_of_chaos(tmp_path: Path) -> None:
    """Whatever dies, every record is stored or rejected once, every window counts right, every alert is delivered."""
    require_kafka()
    file = tmp_path / "summary.json"
    command = [sys.executable, "-m", "tests.chaos", "--for", "90s", "--seed", str(_SEED)]
    done = subprocess.run(
        [*command, "--summary", str(file), "--folder", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-10_000:]}"
    summary: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert summary["differences"] == 0
    assert summary["records"] == summary["stored"] + summary["rejected"] + summary["duplicates"]
    assert summary["records"] > 90 * summary["rate"] / 2
    assert min(summary["stored"], summary["rejected"], summary["duplicates"]) > 0
    assert set(summary["faults_by_kind"]) == set(kinds())
    assert summary["faults"] == sum(summary["faults_by_kind"].values()) >= 20
    assert summary["alerts"]["deliveries"] >= summary["alerts"]["fired"] > 0
