"""`vigie alert list | show | ack`: what a person on call reads and types, and what is refused in words."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from sinks.acknowledgements import acknowledge
from sinks.clickhouse import Sink
from sinks.rows import Origin
from sinks.store import Snapshot, store_alerts, store_snapshots
from streams.cli import alert as command
from streams.cli import alert_pages as pages
from streams.cli.alert import alert
from tests.sinks.test_store import transition
from tests.support.batches import DAY, HOUR, MINUTE, RECEIVED_MS
from tests.support.city import CITY, TOWN

_ORIGIN: Final = Origin("city.raw.sensor", 0, "T1", 1)
_NOW: Final = datetime.fromtimestamp(RECEIVED_MS / 1_000, UTC)


class OnCall:
    """A person in front of a terminal, at `now`."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.url = sink.url
        self.now = _NOW

    def tell(self, fingerprint: str, *steps: tuple[str, int], **labels: Any) -> None:
        """Store transitions (state, milliseconds before now) of one life of an alert."""
        starts = RECEIVED_MS - steps[0][1]
        first = labels.pop("first", 1)
        for number, (state, ago) in enumerate(steps, first):
            at = RECEIVED_MS - ago
            step = transition(
                number, state, at, starts_at=starts, ends_at=at if state in ("resolved", "expired") else None,
                fingerprint=fingerprint, transition_id=f"{fingerprint}-{starts}-{number}", **labels,
            )  # fmt: skip
            store_alerts([(_ORIGIN, 7, step)], self.sink)

    def worked(self, ago: timedelta) -> None:
        """Let a worker have written a snapshot so long ago."""
        at = self.now - ago
        store_snapshots([Snapshot(_ORIGIN, 8, at, "v", "w", at, b"")], self.sink)

    def run(self, *arguments: str, **settings: str) -> Result:
        found = {"VIGIE_CLICKHOUSE_URL": self.url} | settings
        result = CliRunner(env=found).invoke(alert, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback would have been shown"
        assert "bug of vigie" not in result.output
        return result

    def reads(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    def is_told(self, *arguments: str, code: int = 1) -> str:
        """What goes wrong, with that exit code."""
        done = self.run(*arguments)
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        return done.stderr


@pytest.fixture
def on_call(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> OnCall:
    one = OnCall(clickhouse)
    monkeypatch.setattr(command, "utc_now", lambda: one.now)
    one.worked(timedelta(seconds=3))
    return one


def in_columns(text: str) -> list[list[str]]:
    """The cells of a printed table, told apart by two blanks."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


# --- list


def test_the_worst_and_then_the_oldest_come_first(on_call: OnCall) -> None:
    """Severity as a mark and a word, how long it is open in words, and as much of the name as one types."""
    on_call.tell("aaaaaaaa00000001", ("firing", 3 * MINUTE), severity="warning", summary="Bin 1 is full")
    on_call.tell("bbbbbbbb00000002", ("firing", 2 * DAY + 4 * HOUR), severity="warning", summary="Bin 2 is full")
    on_call.tell("cccccccc00000003", ("firing", MINUTE), severity="critical", summary="Bin 3 may be on fire")
    on_call.tell("dddddddd00000004", ("pending", 20_000), severity="info", summary="Lamp 4 is lit in daylight")
    on_call.tell(
        "eeeeeeee00000005", ("firing", DAY), ("resolved", HOUR), severity="critical", summary="Bin 5 has cooled"
    )
    assert in_columns(on_call.reads("list")) == [
        ["severity", "fingerprint", "open for", "state", "what"],
        ["!!! critical", "cccccccc", "1 min", "firing", "Bin 3 may be on fire"],
        ["!", "warning", "bbbbbbbb", "2 days 4 h", "firing", "Bin 2 is full"],
        ["!", "warning", "aaaaaaaa", "3 min", "firing", "Bin 1 is full"],
        ["-", "info", "dddddddd", "20 s", "pending", "Lamp 4 is lit in daylight"],
        ["4 open: 1 critical, 2 warning, 1 info"],
    ]


def test_what_is_over_comes_below(on_call: OnCall) -> None:
    """With --all: the last to end first, how long it lasted and since when it is over; --limit bounds those."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), summary="one")
    on_call.tell("bbbbbbbb00000002", ("firing", DAY), ("resolved", HOUR), summary="two")
    on_call.tell("cccccccc00000003", ("pending", 2 * DAY), ("expired", 2 * DAY - 5_000), summary="three")
    assert in_columns(on_call.reads("list", "--all"))[1:] == [
        ["!", "warning", "aaaaaaaa", "1 min", "firing", "one"],
        ["!", "warning", "bbbbbbbb", "23 h", "resolved 1 h ago", "two"],
        ["!", "warning", "cccccccc", "5 s", "expired 1 day 23 h ago", "three"],
        ["1 open: 1 warning; 2 over"],
    ]
    assert "three" not in on_call.reads("list", "--all", "--limit", "1")


def test_severity_and_authority_narrow_the_list(on_call: OnCall) -> None:
    """Repeatable; an authority is named where there are several; nothing found is said with care."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), severity="error", summary="one")
    on_call.tell("bbbbbbbb00000002", ("firing", MINUTE), severity="info", jurisdiction_id=TOWN, summary="two")
    on_call.tell("cccccccc00000003", ("firing", DAY), ("resolved", HOUR), severity="info", summary="three")
    both = on_call.reads("list")
    assert CITY in both
    assert TOWN in both
    assert on_call.reads("list", "--severity", "error", "--severity", "info").count("\n") == 4
    town = on_call.reads("list", "--jurisdiction", TOWN)
    assert ("two" in town, "one" in town, TOWN in town) == (True, False, False)
    assert "1 of these open: 1 info" in town
    assert on_call.reads("list", "--severity", "critical") == "none of these alerts is open\n"
    over = on_call.reads("list", "--all", "--severity", "error")
    assert ("one" in over, "three" in over) == (True, False)
    assert "nine digits" in on_call.is_told("list", "--jurisdiction", "34", code=2)


def test_a_quiet_city_is_told_from_a_worker_that_is_away(on_call: OnCall) -> None:
    """No alert is good news only where somebody has looked."""
    done = on_call.run("list")
    assert (done.stdout, done.stderr) == ("no alert is open\n", "")
    on_call.now += timedelta(hours=3)
    done = on_call.run("list")
    assert done.stdout == "no alert is open\n"
    assert "warning: no worker has written to this ClickHouse since 2026-09-14 23:59:57 UTC, 3 h ago" in done.stderr
    on_call.sink.command("TRUNCATE TABLE snapshots")
    assert "no worker has written to this ClickHouse yet" in on_call.run("list").stderr


def test_a_list_for_programs(on_call: OnCall) -> None:
    """--json: whole fingerprints, nulls and numbers as they are, instants in UTC that say so."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), value=0.9)
    (found,) = json.loads(on_call.reads("list", "--json"))
    assert found["fingerprint"] == "aaaaaaaa00000001"
    assert (found["value"], found["ends_at"], found["acknowledged_by"]) == (0.9, None, None)
    assert found["starts_at"] == "2026-09-14T23:59:00.000Z"
    assert json.loads(on_call.reads("list", "--severity", "info", "--json")) == []


def test_names_from_records_do_not_steer_the_terminal(on_call: OnCall) -> None:
    """An asset may be called anything: neither escape codes nor the table's own markup take effect."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), summary="Bin \x1b[2J[bold red]x[/] is full")
    for text in (on_call.reads("list"), on_call.reads("show", "a")):
        assert "Bin \N{REPLACEMENT CHARACTER}[2J[bold red]x[/] is full" in text


def test_a_terminal_that_knows_few_letters_gets_what_it_can_show(on_call: OnCall) -> None:
    """A name in another script is no reason to show no alert at all."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), summary="Conteneur Évry plein")
    done = CliRunner(charset="ascii", env={"VIGIE_CLICKHOUSE_URL": on_call.url}).invoke(alert, ["list"])
    assert done.exit_code == 0
    assert b"Conteneur ?vry plein" in done.stdout_bytes


# --- show


def test_one_alert_and_all_its_lives(on_call: OnCall) -> None:
    """Labels, evidence, and every transition with its acknowledgement, the latest life first."""
    name = "aaaaaaaa00000001"
    on_call.tell(name, ("firing", 3 * DAY), ("resolved", 2 * DAY), summary="Bin bin-00017 …")
    on_call.tell(
        name, ("pending", 2 * HOUR), ("firing", HOUR), first=3, summary="Bin bin-00017 is full", value=0.97,
        threshold=0.8, category="waste", zone_layer="quartier", zone_code="Q1",
    )  # fmt: skip
    on_call.reads("ack", "aaaa", "--by", "Ada Byron", "--note", "truck 12 is on its way")
    on_call.now += timedelta(minutes=5)
    assert in_columns(on_call.reads("show", "aaaa")) == [
        ["!", "warning", "bin_full, acknowledged by Ada Byron 5 min ago"],
        ["Bin bin-00017 is full"],
        ["fingerprint", name],
        ["authority", CITY],
        ["domain", "sensor"],
        ["asset", "bin-00017"],
        ["layer", "quartier"],
        ["zone", "Q1"],
        ["category", "waste"],
        ["value", "0.97"],
        ["threshold", "0.8"],
        ["began", "2026-09-14 22:00:00 UTC, 2 h 5 min ago"],
        [],
        ["this life: since 2026-09-14 22:00:00 UTC, open for 2 h 5 min"],
        ["2026-09-14 22:00:00 UTC", "pending", "Bin bin-00017 is full"],
        ["2026-09-14 23:00:00 UTC", "firing", "Bin bin-00017 is full"],
        ["2026-09-15 00:00:00 UTC", "acknowledged", "by Ada Byron: truck 12 is on its way"],
        [],
        ["before: since 2026-09-12 00:00:00 UTC, lasted 1 day"],
        ["2026-09-12 00:00:00 UTC", "firing", "Bin bin-00017 …"],
        ["2026-09-13 00:00:00 UTC", "resolved", "Bin bin-00017 …"],
    ]


def test_one_alert_for_programs(on_call: OnCall) -> None:
    """--json: labels once, lives with their transitions."""
    on_call.tell("aaaaaaaa00000001", ("firing", DAY), ("resolved", HOUR))
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), first=3)
    found = json.loads(on_call.reads("show", "aaaaaaaa00000001", "--json"))
    assert found["fingerprint"] == "aaaaaaaa00000001"
    assert found["labels"] == {
        "alertname": "bin_full", "jurisdiction_id": CITY, "domain": "sensor", "asset_id": "bin-00017",
        "severity": "warning",
    }  # fmt: skip
    told = [(life["state"], [step["state"] for step in life["transitions"]]) for life in found["lives"]]
    assert told == [("firing", ["firing"]), ("resolved", ["firing", "resolved"])]


@pytest.mark.parametrize("name", ["show", "ack"])
def test_a_name_must_mean_one_alert(on_call: OnCall, name: str) -> None:
    """As much as no other begins with, in either case; else the candidates are named, or that there is none."""
    on_call.tell("abcd000000000001", ("firing", MINUTE), summary="one")
    on_call.tell("abce000000000002", ("firing", MINUTE), summary="two")
    told = on_call.is_told(name, "abc")
    assert "several alerts begin with abc: write more" in told
    assert "abcd000000000001 is firing: one" in told
    assert "abce000000000002 is firing: two" in told
    assert "there is no alert ff" in on_call.is_told(name, "ff")
    for wrong in ("xyz", "%", "abcd000000000001a", ""):
        assert "is not the beginning of a fingerprint" in on_call.is_told(name, wrong, code=2)
    assert "one" in on_call.reads(name, "ABCD")
    for number in range(9):
        on_call.tell(f"99{number}0000000000000", ("firing", MINUTE))
    assert "and more" in on_call.is_told(name, "99")


# --- ack


def test_acknowledged_once_and_said_so_twice(on_call: OnCall) -> None:
    """The first answer stays: a second one is harmless, and is told whose the first is."""
    on_call.tell("aaaaaaaa00000001", ("firing", MINUTE), summary="Bin 1 is full")
    assert on_call.reads("ack", "aaaa", "--by", "Ada") == "aaaaaaaa00000001 is acknowledged by Ada: Bin 1 is full\n"
    on_call.now += timedelta(seconds=90)
    again = on_call.reads("ack", "aaaa", "--by", "Blaise")
    assert again == "aaaaaaaa00000001 was acknowledged by Ada 1 min 30 s ago, and nothing is changed: Bin 1 is full\n"
    assert "acknowledged by Ada 1 min 30 s ago" in on_call.reads("list")
    assert "1 open: 1 warning; 1 acknowledged" in on_call.reads("list")
    assert on_call.sink.rows("SELECT by FROM acknowledgements") == [("Ada",)]


def test_it_is_open_again_when_it_gets_worse(on_call: OnCall) -> None:
    """Told anew it is firing, and can be taken on anew."""
    on_call.tell("aaaaaaaa00000001", ("firing", HOUR))
    on_call.reads("ack", "aaaa", "--by", "Ada")
    on_call.tell("aaaaaaaa00000001", ("firing", HOUR), ("firing", MINUTE))
    assert "acknowledged" not in on_call.reads("list")
    assert "is acknowledged by Blaise" in on_call.reads("ack", "aaaa", "--by", "Blaise")
    history = on_call.reads("show", "aaaa").partition("this life")[2]
    assert history.index("by Ada") < history.index("by Blaise")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("pending", MINUTE)], "is pending: nobody has been told of it yet"),
        ([("firing", HOUR), ("resolved", MINUTE)], "is over, resolved 1 min ago, so there is nothing"),
        ([("pending", HOUR), ("expired", MINUTE)], "is over, expired 1 min ago, so there is nothing"),
    ],
)
def test_what_does_not_fire_cannot_be_acknowledged(
    on_call: OnCall, steps: Sequence[tuple[str, int]], words: str
) -> None:
    """Exit code 1 and the reason; nothing is stored."""
    on_call.tell("aaaaaaaa00000001", *steps)
    assert words in on_call.is_told("ack", "aaaa")
    assert on_call.sink.rows("SELECT count() FROM acknowledgements") == [(0,)]


def test_an_alert_that_changes_meanwhile_is_not_taken_for_acknowledged(
    on_call: OnCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was to what the person saw: they are told that there is something new."""
    on_call.tell("aaaaaaaa00000001", ("firing", HOUR))

    def slowly(*arguments: Any) -> None:
        on_call.tell("aaaaaaaa00000001", ("firing", HOUR), ("firing", MINUTE))
        acknowledge(*arguments)

    monkeypatch.setattr(command, "acknowledge", slowly)
    assert "has changed meanwhile, it is firing" in on_call.is_told("ack", "aaaa", "--by", "Ada")


def test_who_acknowledges_is_who_logged_in(on_call: OnCall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login, under sudo too; without a terminal the user of the process; where there is none, --by is needed.

    The environment has no say.
    """
    login = pwd.getpwuid(os.getuid()).pw_name

    def taken_on_by() -> Any:
        on_call.sink.command("TRUNCATE TABLE acknowledgements")
        done = on_call.run("ack", "aaaa", USER="somebody", LOGNAME="somebody")
        assert done.exit_code == 0, done.output
        return on_call.sink.rows("SELECT by FROM acknowledgements")[0][0]

    def nobody(*_: Any) -> Any:
        raise OSError("no terminal")

    on_call.tell("aaaaaaaa00000001", ("firing", HOUR))
    monkeypatch.setattr(os, "getlogin", lambda: "ada")
    assert taken_on_by() == "ada"
    monkeypatch.setattr(os, "getlogin", nobody)
    assert taken_on_by() == login
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    on_call.sink.command("TRUNCATE TABLE acknowledgements")
    assert "say who you are with --by" in on_call.is_told("ack", "aaaa", code=2)


@pytest.mark.parametrize(
    "wrong", [("--by", "a\nb"), ("--by", "a" * 101), ("--note", "a" * 501), ("--note", "\x1b[2J")], ids=repr
)
def test_what_people_write_is_one_line(on_call: OnCall, wrong: tuple[str, str]) -> None:
    """Others read it in a list: no line breaks, no escape codes, and no novel."""
    on_call.tell("aaaaaaaa00000001", ("firing", HOUR))
    assert "on one line" in on_call.is_told("ack", "aaaa", *wrong, code=2)


# --- what is missing


def test_a_directory_that_is_not_there_is_not_made(on_call: OnCall, tmp_path: Path) -> None:
    """A slip of the pen in VIGIE_CLICKHOUSE_URL is told, and leaves no database behind."""
    on_call.url = f"chdb://{tmp_path}/nowhere"
    for name in (("list",), ("show", "a"), ("ack", "a")):
        assert f"there is no ClickHouse in {tmp_path}/nowhere: check VIGIE_CLICKHOUSE_URL" in on_call.is_told(*name)
    assert not (tmp_path / "nowhere").exists()


def test_tables_of_an_older_version_are_told(on_call: OnCall) -> None:
    """Before the first start of this version there is nothing to acknowledge in."""
    on_call.sink.command("RENAME TABLE acknowledgements TO elsewhere")
    try:
        told = on_call.is_told("list")
    finally:
        on_call.sink.command("RENAME TABLE elsewhere TO acknowledgements")
    assert "does not have all of our tables: run `vigie init`" in told


# --- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (599, "9 min 59 s"), (600, "10 min"),
        (3_599, "59 min"), (3_600, "1 h"), (11_100, "3 h 5 min"), (86_400, "1 day"), (100_000, "1 day 3 h"),
        (40 * 86_400, "40 days"),
    ],
)  # fmt: skip
def test_spans_in_words(seconds: float, words: str) -> None:
    """Two units at most, and what a clock that is ahead gives is nothing."""
    assert pages.span(seconds) == words
