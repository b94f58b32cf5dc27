"""How alerts look on a terminal and as JSON: words for severities, spans and states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sinks.webhook import LABELS

Row = Mapping[str, Any]

#: A mark beside the word, of a length that can be seen without reading and without colour; and the colour.
_SEVERITIES: Final[Mapping[str, tuple[str, str]]] = {
    "critical": ("!!!", "bold red"),
    "error": ("!!", "red"),
    "warning": ("!", "yellow"),
    "info": ("-", ""),
    "unknown": ("?", ""),
}
#: Digits of a fingerprint in the list: two of a million alerts that were ever seen seldom share them.
_SHORT: Final = 8
#: Where the output is no terminal, nothing is folded.
_WIDE: Final = 10_000
_UNITS: Final = (("day", "days", 86_400), ("h", "h", 3_600), ("min", "min", 60), ("s", "s", 1))


# --- words


def aware(instant: datetime) -> datetime:
    """An instant as ClickHouse gives it (UTC, without saying so) as one that says so."""
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def span(seconds: float) -> str:
    """A span of time in its two largest units: `2 days 4 h`, `5 min`, `0 s`."""
    left = max(0, int(seconds))
    for place, (one, several, length) in enumerate(_UNITS):
        count, rest = divmod(left, length)
        if count:
            words = f"{count} {one if count == 1 else several}"
            smaller = _UNITS[place + 1 : place + 2]
            # Seconds beside minutes are noise after a few of them.
            if smaller and (further := rest // smaller[0][2]) and (smaller[0][2] > 1 or count < 10):
                words += f" {further} {smaller[0][0]}"
            return words
    return "0 s"


def ago(then: datetime, now: datetime) -> str:
    return f"{span((now - aware(then)).total_seconds())} ago"


def instant(when: datetime) -> str:
    """To the second, UTC."""
    return f"{aware(when):%Y-%m-%d %H:%M:%S} UTC"


def acknowledged(row: Row, now: datetime) -> str:
    return f"acknowledged by {printable(row['acknowledged_by'])} {ago(row['acknowledged_at'], now)}"


def printable(text: str) -> str:
    """Text from records and people, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _severity(row: Row) -> Text:
    mark, style = _SEVERITIES.get(row["severity"], ("?", ""))
    return Text(f"{mark:<3} {row['severity']}", style)


def _open_for(row: Row, now: datetime) -> str:
    end = now if row["ends_at"] is None else aware(row["ends_at"])
    return span((end - aware(row["starts_at"])).total_seconds())


def _state(row: Row, now: datetime) -> str:
    if row["state"] == "acknowledged":
        return acknowledged(row, now)
    return str(row["state"]) if row["ends_at"] is None else f"{row['state']} {ago(row['ends_at'], now)}"


# --- pages


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def show_list(opened: Sequence[Row], over: Sequence[Row], now: datetime, *, narrowed: bool) -> None:
    """A table of alerts, and how many there are. `narrowed`: not all were asked for."""
    console = _console()
    rows = (*opened, *over)
    if rows:
        several = len({row["jurisdiction_id"] for row in rows}) > 1
        table = Table(box=None, pad_edge=False)
        for heading in ("severity", "fingerprint", "open for", "state", *(["authority"] if several else [])):
            table.add_column(heading, no_wrap=heading != "state")
        table.add_column("what", overflow="fold")
        for row in rows:
            table.add_row(
                _severity(row),
                row["fingerprint"][:_SHORT],
                _open_for(row, now),
                _state(row, now),
                *([row["jurisdiction_id"]] if several else []),
                printable(row["summary"]),
            )
        console.print(table)
    console.print(_counted(opened, over, narrowed))


def _counted(opened: Sequence[Row], over: Sequence[Row], narrowed: bool) -> str:
    if not opened:
        words = "none of these alerts is open" if narrowed else "no alert is open"
    else:
        by_severity = Counter(row["severity"] for row in opened)
        taken = sum(row["state"] == "acknowledged" for row in opened)
        parts = [f"{by_severity[name]} {name}" for name in _SEVERITIES if by_severity[name]]
        these = " of these" if narrowed else ""
        words = f"{len(opened):,}{these} open: {', '.join(parts)}{f'; {taken:,} acknowledged' if taken else ''}"
    return f"{words}; {len(over):,} over" if over else words


def show_alert(lives: Sequence[Row], steps: Sequence[Row], now: datetime) -> None:
    """One alert: what it is now, and its history, the latest life first."""
    console = _console()
    life = lives[0]
    console.print(Text.assemble(_severity(life), f"  {life['alertname']}, {_state(life, now)}"))
    console.print(printable(life["summary"]), soft_wrap=True)
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(life, now):
        facts.add_row(name, printable(value))
    console.print(facts)
    for number, (starts_at, taken) in enumerate(_by_life(steps)):
        of = next((one for one in lives if one["starts_at"] == starts_at), life)
        lasted = f"{'open for' if of['ends_at'] is None else 'lasted'} {_open_for(of, now)}"
        console.print(f"\n{'this life' if number == 0 else 'before'}: since {instant(starts_at)}, {lasted}")
        table = Table(box=None, pad_edge=False, show_header=False)
        for place in range(3):
            table.add_column(no_wrap=place < 2, overflow="fold")
        for at, state, words in _history(taken):
            table.add_row(f"  {instant(at)}", state, printable(words))
        console.print(table)


def _facts(life: Row, now: datetime) -> Iterator[tuple[str, str]]:
    yield "fingerprint", life["fingerprint"]
    names = {"jurisdiction_id": "authority", "asset_id": "asset", "zone_layer": "layer", "zone_code": "zone"}
    for label in LABELS:
        # The first and the last stand in the heading.
        if label not in ("alertname", "severity") and life[label] is not None:
            yield names.get(label, label), str(life[label])
    if life["value"] is not None:
        yield "value", f"{life['value']:g}"
    if life["threshold"] is not None:
        yield "threshold", f"{life['threshold']:g}"
    yield "began", f"{instant(life['starts_at'])}, {ago(life['starts_at'], now)}"


def _by_life(steps: Sequence[Row]) -> Iterator[tuple[datetime, list[Row]]]:
    for starts_at, taken in groupby(steps, key=lambda step: step["starts_at"]):
        yield starts_at, list(taken)


def _history(steps: Sequence[Row]) -> Iterator[tuple[datetime, str, str]]:
    """Transitions, each followed by its acknowledgement: that one bears the wall clock, the others event time."""
    for step in steps:
        yield step["at"], step["state"], step["summary"]
        if step["acknowledged_at"] is not None:
            note = f": {step['note']}" if step["note"] else ""
            yield step["acknowledged_at"], "acknowledged", f"by {step['acknowledged_by']}{note}"


# --- JSON


def plain(row: Row) -> dict[str, Any]:
    """The row with instants as RFC 3339 text, UTC."""
    return {
        name: aware(value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }


def history(lives: Sequence[Row], steps: Sequence[Row]) -> dict[str, Any]:
    """One alert: its fingerprint, labels, and lives, each with its transitions in order, the latest life first."""
    taken = dict(_by_life(steps))
    told = [
        plain({name: value for name, value in life.items() if name not in (*LABELS, "fingerprint")})
        | {"transitions": [plain(step) for step in taken.get(life["starts_at"], [])]}
        for life in lives
    ]
    labels = {name: lives[0][name] for name in LABELS if lives[0][name] is not None}
    return {"fingerprint": lives[0]["fingerprint"], "labels": labels, "lives": told}
