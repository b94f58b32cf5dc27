"""What a demo shows on a terminal while it runs, and what it prints at the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from streams.clock import instant, monotonic_s
from streams.demo import Demo
from streams.summary import RULES


class Live:
    """A table that is redrawn in place on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rich = RichLive(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last_s = 0.0
        self._last_records = 0
        self._rate = 0.0
        self._told_s = 0.0

    def __enter__(self) -> Self:
        if self._rich is not None:
            self._rich.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.__exit__(kind, error, trace)

    def say(self, message: str) -> None:
        self._console.print(message, highlight=False)

    def show(self, demo: Demo) -> None:
        """Take in the state of a running demo."""
        now_s, records = monotonic_s(), demo.worker.tally.records
        if now_s - self._last_s >= 1.0:
            if self._last_s:
                self._rate = (records - self._last_records) / (now_s - self._last_s)
            self._last_s, self._last_records = now_s, records
        if self._rich is not None:
            self._rich.update(_screen(demo, self._rate), refresh=True)
        elif now_s - self._told_s >= 10.0:
            self._told_s = now_s
            self.say(f"{records} records stored or refused, {self._rate:.0f}/s, {demo.lag} under way")


def _screen(demo: Demo, rate: float) -> RenderableType:
    tally, clock = demo.worker.tally, demo.clock
    at = clock.event_ms(clock.now_ms())
    latency = tally.latency_ms()
    head = Text.assemble(
        ("vigie ", "bold"),
        f"{demo.territory.name}   event time {instant(at):%a %H:%M} UTC   ",
        f"{rate:,.0f} records/s   lag {demo.lag:,}   visible after {latency['p50']:,.0f} ms (p50)",
    )
    flow = _table("stored by domain", "events")
    for domain, n in sorted(tally.stored_by_domain.items()):
        flow.add_row(domain, f"{n:,}")
    flow.add_row("late, stored", f"{tally.late:,}")
    refused = _table("refused", "records")
    for reason, n in sorted(tally.rejected.items()):
        refused.add_row(reason, f"{n:,}")
    refused.add_row("duplicate", f"{tally.duplicates:,}")
    alerts = _table("alerts", "fired", "open")
    for rule in RULES:
        fired = tally.transitions[rule, "firing"]
        alerts.add_row(rule, f"{fired}", f"{fired - tally.transitions[rule, 'resolved']}")
    zones = _table(f"{demo.territory.layers[0]}", "events", "open alerts")
    for name, events, open_alerts in demo.zones:
        zones.add_row(name, f"{events:,}", f"{open_alerts}")
    row = Table.grid(padding=(0, 4))
    row.add_row(flow, refused, alerts, zones)
    return Group(head, Text(""), row)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def printed(account: Mapping[str, Any]) -> RenderableType:
    """The account of a run, for people."""
    numbers = _table("records", "")
    numbers.add_row("produced", f"{account['produced']:,}")
    numbers.add_row("stored", f"{account['stored']:,}")
    numbers.add_row("refused", f"{sum(account['rejected'].values()):,}")
    for reason, n in account["rejected"].items():
        numbers.add_row(f"  {reason}", f"{n:,}")
    numbers.add_row("duplicates", f"{account['duplicates']:,}")
    numbers.add_row("in windows", f"{account['window_events']:,}")
    numbers.add_row("events/s", f"{account['events_per_s']:,.0f}")
    latency = account["visible_latency_ms"]
    numbers.add_row("visible after, p50", f"{latency['p50']:,.0f} ms")
    numbers.add_row("visible after, p99", f"{latency['p99']:,.0f} ms")
    numbers.add_row("memory, peak", f"{account['peak_rss_mib']:,.0f} MiB")
    alerts = _table("faults", "injected", "found", "false")
    for rule, count in account["alerts"].items():
        alerts.add_row(rule, *(f"{count[name]}" for name in ("injected", "found", "false")))
    row = Table.grid(padding=(0, 2))
    row.add_row(numbers, alerts)
    title = f"{account['territory']}, seed {account['seed']}" + (", ended early" if account["interrupted"] else "")
    return Group(Text(title, style="bold"), row)
