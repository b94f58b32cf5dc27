"""Where results go: `results/latest-NAME.json`, and a dated copy to keep."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import commit, machine
from benchmarks.process import ROOT

RESULTS: Final = ROOT / "benchmarks" / "results"


def head(quick: bool) -> dict[str, Any]:
    """What every result begins with: when, on what, under which load of others. Call before measuring."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(ROOT),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "quick": quick,
    }


def write(name: str, found: Mapping[str, Any], keep: bool) -> Path:
    """Write a result, and with `keep` a copy named after day and commit; returns the latest's path."""
    text = json.dumps(found, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    latest: Path = RESULTS / f"latest-{name}.json"
    latest.write_text(text, "utf-8")
    if keep:
        day = datetime.now(UTC).date().isoformat()
        (RESULTS / f"{day}-{name}-{commit(ROOT) or 'uncommitted'}.json").write_text(text, "utf-8")
    return latest
