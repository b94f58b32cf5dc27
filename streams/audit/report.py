"""The audit as people read it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from streams.audit.run import Audit


def show(found: Audit, console: Console | None = None) -> None:
    """Print partitions, notes and differences; the last line says how it stands."""
    out = console or Console(soft_wrap=True, highlight=False)
    out.print(_partitions(found))
    if found.repaired is not None:
        for place, chunk in found.repaired.chunks:
            out.print(f"[green]repaired[/] {place}, chunk {chunk}")
        for sentence in found.repaired.refused:
            out.print(f"[red]not repaired[/] {sentence}")
    for note in found.findings.notes:
        out.print(f"[dim]note: {note}[/]")
    totals = found.totals
    sums = (
        f"in = stored + rejected + duplicates: {totals['records']:,} = {totals['stored']:,} + {totals['rejected']:,} + "
        f"{totals['duplicates']:,}\nalerts: {totals['transitions']:,} transitions stored, "
        f"{totals['transitions_recomputed']:,} made again from stored events"
    )
    if not found.differences:
        out.print(f"{sums}\n[green]no differences[/]")
        return
    out.print(sums)
    for difference in found.differences:
        counts = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in difference.counts.items())
        out.print(f"[red]{difference.kind}[/] {difference.place}, {difference.what} ({counts}): {difference.told}")
    out.print(f"[red]{len(found.differences):,} differences[/]")


def _partitions(found: Audit) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("partition")
    for heading in ("first", "next", "records", "stored", "rejected", "duplicates", "missing", "in Kafka"):
        table.add_column(heading, justify="right")
    for one in found.partitions:
        extent, account = one.extent, one.account
        kafka = "" if extent.kafka is None else f"{extent.kafka[0]:,}-{extent.kafka[1]:,}"
        numbers = (one.records, account.stored, account.rejected - account.duplicates, account.duplicates, one.missing)
        table.add_row(extent.place, f"{extent.first:,}", f"{extent.end:,}", *(f"{n:,}" for n in numbers), kafka)
    return table
