"""What a run prints at its end, and the file it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, machine
from tests.support.pipeline import ROOT

#: A run that goes badly wrong says the same thing of many records.
_MOST_WRONG: Final = 30


def with_machine(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, with what it ran on."""
    return {**summary, "commit": commit(ROOT), "machine": machine()}


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Print the account, and everything that is wrong."""
    table = Table.grid(padding=(0, 3))
    for _ in range(4):
        table.add_column()
    ends = summary["worker_ends"]
    left = [
        ("records", f"{summary['records']:,}"),
        ("stored", f"{summary['stored']:,}"),
        ("rejected", f"{summary['rejected']:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in summary["rejected_by_reason"].items()),
        ("duplicates", f"{summary['duplicates']:,}"),
        ("events/s", f"{summary['events_per_s']:,}"),
        ("longest stall", f"{summary['longest_stall_s']:.1f} s"),
        ("of a partition", f"{summary['longest_partition_stall_s']:.1f} s"),
        ("waiting when healed", f"{summary['lag_when_healed']:,}"),
        ("catching up", f"{summary['catch_up_s']:.1f} s"),
        ("alerts fired", f"{summary['alerts']['fired']:,}"),
        ("webhooks", f"{summary['alerts']['deliveries']:,}"),
    ]
    right = [
        ("faults survived", str(summary["faults"])),
        *((f"  {kind}", str(count)) for kind, count in summary["faults_by_kind"].items()),
        ("workers killed", str(ends["killed"])),
        *((f"ended with {code} after SIGTERM", str(count)) for code, count in ends["after_sigterm"].items()),
        *((f"ended with {code} by themselves", str(count)) for code, count in ends["by_themselves"].items()),
        ("longest drain", f"{summary['longest_drain_s']:.1f} s"),
        ("memory, peak", f"{summary['peak_rss_mib']:,} MiB"),
        ("differences", str(summary["differences"])),
    ]
    blank = ("", "")
    for row in range(max(len(left), len(right))):
        table.add_row(*(left[row] if row < len(left) else blank), *(right[row] if row < len(right) else blank))
    console.print(f"chaos, seed {summary['seed']}, {summary['seconds']:.0f} s", highlight=False)
    console.print(table)
    for difference in (summary["audit"] or [])[:_MOST_WRONG]:
        console.print(f"audit: {difference}", style="red", markup=False, highlight=False)
    for sentence in summary["wrong"][:_MOST_WRONG]:
        console.print(f"wrong: {sentence}", style="red", markup=False, highlight=False)
