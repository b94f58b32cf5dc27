"""`vigie demo` as a newcomer runs it: every number accounted for, every fault found, every end a clean one."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from streams.summary import HOT_SPOT, THRESHOLD_RULES
from tests.support.pipeline import Command, failed, succeeded, vigie

pytestmark = pytest.mark.integration

#: Simulated kinds of dirt that are stored with the place they meant.
_SWAPPED: Final = ("swapped_report", "swapped_asset")
#: A demo that is told to end stores what is under way and is gone within this.
_SOON_S: Final = 10.0


def account(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def assert_adds_up(summary: dict[str, Any]) -> None:
    """What holds for every run, however it ended: nothing is lost, made up, or counted twice."""
    truth = summary["truth"]
    assert summary["produced"] == truth["produced"] > 0
    assert summary["produced"] == summary["stored"] + sum(summary["rejected"].values()) + summary["duplicates"]
    assert summary["window_events"] == summary["stored"] == truth["stored"]
    assert summary["rejected"] == truth["refused"]
    assert summary["duplicates"] == truth["duplicates"]
    assert summary["location_quality"].get("swapped", 0) == sum(truth["dirt"].get(kind, 0) for kind in _SWAPPED)


def assert_nothing_left(folder: Path) -> None:
    """The temporary ClickHouse is gone with the demo (Faust's own empty folder is not)."""
    assert [path.name for path in folder.glob("vigie-demo-*") if path.name != "vigie-demo-faust"] == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_account_of_a_demo(seed: int, tmp_path: Path) -> None:
    """Produced is stored, refused for the right reason, or a duplicate; each injected fault is found, and no other."""
    path = tmp_path / "out.json"
    arguments = ("--for", "12s", "--rate", 1_500, "--seed", seed, "--summary", path)
    succeeded(vigie("demo", *arguments, folder=tmp_path / "run"))
    summary = account(path)
    assert_adds_up(summary)
    assert not summary["interrupted"]
    assert all(summary["truth"]["dirt"].values())
    assert summary["late"] >= summary["truth"]["late"] > 0, "late events are stored, and marked"
    for rule in THRESHOLD_RULES:
        count = summary["alerts"][rule]
        assert count["injected"] > 0, rule
        assert count == {"injected": count["injected"], "found": count["injected"], "false": 0}, rule
    hot_spot = summary["alerts"][HOT_SPOT]
    assert hot_spot["found"] == hot_spot["injected"] == 1
    assert hot_spot["false"] <= 1
    assert summary["events_per_s"] > 0
    assert 0 < summary["visible_latency_ms"]["p50"] <= summary["visible_latency_ms"]["p99"]
    assert_nothing_left(tmp_path / "run")


@pytest.mark.alone
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends a demo within seconds, with exit code 0 and an account of what was published until then.

    While it runs, a second one on the same folder is told so at once and disturbs nothing.
    """
    path, data = tmp_path / "out.json", tmp_path / "data"
    arguments = ("demo", "--rate", 1_500, "--seed", 4, "--data-dir", data)
    with Command(*arguments, "--for", "60s", "--summary", path, folder=tmp_path / "first") as demo:
        demo.wait_for_text("records stored or refused")
        second = vigie(*arguments, "--for", "5s", folder=tmp_path / "second")
        failed(second, str(data), "already open in another process")
        # The line that comes every ten seconds, for the second time: records are under way.
        demo.wait_for(lambda: demo.text.count("records stored or refused") > 1, "it told its progress")
        demo.interrupt()
        interrupted_s = time.monotonic()
        done = demo.wait()
        assert time.monotonic() - interrupted_s < _SOON_S
    succeeded(done)
    summary = account(path)
    assert_adds_up(summary)
    assert summary["interrupted"] is True
    assert not summary["truth"]["complete"]
    assert all(summary["alerts"][rule]["false"] == 0 for rule in THRESHOLD_RULES)


@pytest.mark.parametrize("after_s", [0.3, 0.6, 1.0, 1.5, 2.5])
def test_interrupted_while_starting(after_s: float, tmp_path: Path) -> None:
    """Ctrl-C before anything is published ends as cleanly: no traceback, nothing left running."""
    with Command("demo", "--for", "60s", "--rate", 100, folder=tmp_path) as demo:
        started_s = time.monotonic()
        demo.wait_for(lambda: time.monotonic() - started_s > after_s, f"{after_s} s had passed")
        demo.interrupt(signal.SIGINT)
        done = demo.wait(_SOON_S + 5)
    assert done.code in (0, 1)
    assert "Traceback" not in done.text
    assert "bug of vigie" not in done.text
    assert_nothing_left(tmp_path)


def test_broken_territory(synthetic_folder: Path, tmp_path: Path) -> None:
    """A territory that cannot be used is refused at start: file, feature and reason, exit code 1."""
    folder = tmp_path / "broken"
    (folder / "zones").mkdir(parents=True)
    for file in synthetic_folder.rglob("*.*"):
        (folder / file.relative_to(synthetic_folder)).write_bytes(file.read_bytes())
    layer = folder / "zones" / "quartier.geojson"
    collection = json.loads(layer.read_text("utf-8"))
    collection["features"][2]["geometry"] = {"type": "Point", "coordinates": [3.9, 43.5]}
    layer.write_text(json.dumps(collection), "utf-8")
    done = vigie("demo", "--for", "5s", "--territory", folder, folder=tmp_path / "run")
    failed(done, "zones/quartier.geojson", "feature 3", "Point")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--for", "soon"), "--for soon"),
        (("--for", "-5s"), "above zero"),
        (("--rate", "0"), "--rate"),
        (("--seed", "-1"), "--seed"),
        (("--speed", "0.5"), "--speed"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], word: str, tmp_path: Path) -> None:
    """Wrong options end at once with exit code 2 and name the option."""
    failed(vigie("demo", *arguments, folder=tmp_path), word, code=2)


def test_wrong_setting(tmp_path: Path) -> None:
    """A setting that nobody knows or cannot be read ends with exit code 2 and names its variable."""
    failed(vigie("check", folder=tmp_path, settings={"partitions": "many"}), "VIGIE_PARTITIONS", code=2)
    failed(vigie("check", folder=tmp_path, settings={"partitoins": 4}), "VIGIE_PARTITOINS", code=2)
