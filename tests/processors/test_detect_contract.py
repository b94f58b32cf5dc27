"""One suite every asset detector passes: repeatable, the same in every cut, after a restart, with holes, in bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from processors.detect.asset import AssetDetectors
from processors.detect.findings import FINDING_SCHEMA
from processors.quality import failed_bit
from processors.territory import Rules, Silent
from schemas.contracts import Domain, contract_of
from tests.processors.detect_samples import (
    HOUR,
    JURISDICTION,
    MINUTE,
    OTHER,
    batches,
    detectors,
    frame,
    ms,
    run,
    territory,
)

T0 = ms("2026-03-20T15:00")
ASSETS = ("a", "b", "c", "unlisted")
DOMAINS: tuple[Domain, ...] = ("sensor", "lighting", "roadway")


def _readings(domain: Domain) -> list[dict[str, Any]]:
    """Readings that raise, clear, keep and say nothing, for every rule of a domain."""
    if domain == "sensor":
        return [
            {"fill_level": 0.9},
            {"fill_level": 0.7},
            {"fill_level": 0.3},
            {"temperature_c": 90.0, "fill_level": 0.85},
            {"temperature_c": 20.0},
            {"fill_level": 0.9, "temperature_c": 80.0, "failed": failed_bit(contract_of("sensor"), "fill_level")},
            {"fill_level": 0.9, "kind": "weather"},
            {},
        ]
    if domain == "lighting":
        return [
            {"power_state": power, "lamp_status": status}
            for power in ("on", "off", "low", "booting_up", "unknown")
            for status in ("ok", "defective_lamp", "unknown")
        ]
    return [{"count": 3.0}, {}]


def _make(domain: Domain) -> AssetDetectors:
    rules = Rules(silent=Silent(intervals=2, dead_after_s=5 * 3_600))
    listed = {"a": 1_800.0, "b": 900.0, "c": None}
    return detectors(territory(domain=domain, intervals=listed, rules=rules), territory(OTHER, domain=domain))


def _events(domain: Domain, drawn: list[tuple[int, int, int, int, bool]]) -> pl.DataFrame:
    """Events whose event time goes on unevenly and sometimes back, far beyond the allowed disorder."""
    readings, clock, events = _readings(domain), T0, []
    for asset, minutes, reading, quality, elsewhere in drawn:
        clock += max(minutes, 0) * MINUTE
        events.append(
            {"asset_id": ASSETS[asset], "at": clock + min(minutes, 0) * MINUTE, "quality": quality}
            | {"jurisdiction_id": OTHER if elsewhere else JURISDICTION}
            | readings[reading % len(readings)]
        )
    return frame(domain, events)


DRAWN = st.lists(
    st.tuples(
        st.integers(0, len(ASSETS) - 1),
        st.sampled_from([-240, -70, -20, -5, 0, 0, 1, 3, 15, 45, 130]),
        st.integers(0, 14),
        st.sampled_from([1, 1, 1, 2, 3, 4, 9]),
        st.booleans(),
    ),
    max_size=60,
)


@pytest.mark.parametrize("domain", DOMAINS)
@given(drawn=DRAWN, size=st.integers(1, 20))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_cut_of_the_batches_changes_nothing(
    domain: Domain, drawn: list[tuple[int, int, int, int, bool]], size: int
) -> None:
    """The same events in batches of one, of seven, of any size, or in one, give exactly the same findings."""
    rows, end = _events(domain, drawn), T0 + 200 * HOUR
    whole = run(lambda: _make(domain), rows, 5_000, end)
    for cut in (1, 7, size):
        assert_frame_equal(run(lambda: _make(domain), rows, cut, end), whole)


@pytest.mark.parametrize("domain", DOMAINS)
@given(drawn=DRAWN, size=st.integers(1, 10), stop_at=st.integers(0, 20))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_restart_changes_nothing(
    domain: Domain, drawn: list[tuple[int, int, int, int, bool]], size: int, stop_at: int
) -> None:
    """Stopped before any batch and restored from the snapshot, the findings are those of never having stopped."""
    rows, end = _events(domain, drawn), T0 + 200 * HOUR
    running = run(lambda: _make(domain), rows, size, end)
    assert_frame_equal(run(lambda: _make(domain), rows, size, end, stop_at=stop_at), running)


@pytest.mark.parametrize("domain", DOMAINS)
def test_many_rows_in_other_cuts(domain: Domain) -> None:
    """A thousand events of few assets: batches of 1, 7 and 5 000 agree, there is much to agree on, raises alternate."""
    rng = np.random.default_rng(7)
    drawn = list(
        zip(
            rng.integers(0, len(ASSETS), 1_000).tolist(),
            rng.choice([-90, -20, -5, 0, 1, 5, 40, 90], 1_000).tolist(),
            rng.integers(0, 15, 1_000).tolist(),
            rng.choice([1, 2, 3, 4, 9], 1_000, p=[0.7, 0.1, 0.1, 0.05, 0.05]).tolist(),
            (rng.random(1_000) < 0.2).tolist(),
            strict=True,
        )
    )
    rows = _events(domain, drawn)
    whole = run(lambda: _make(domain), rows, 5_000)
    for cut in (1, 7):
        assert_frame_equal(run(lambda: _make(domain), rows, cut), whole)
    assert whole.height > 40
    steps = whole.filter(pl.col("rule") != "silent")
    for (_, _, asset), changes in steps.group_by("rule", "jurisdiction_id", "asset_id", maintain_order=True):
        raised = changes["raised"].to_list()
        assert raised == [number % 2 == 0 for number in range(len(raised))], asset


@pytest.mark.parametrize("domain", DOMAINS)
def test_repeatable(domain: Domain) -> None:
    """The same rows to two new detectors give the same findings and the same snapshot, byte for byte."""
    rows = _events(domain, [(n % 4, n % 50, n, 1, False) for n in range(200)])
    one, other = _make(domain), _make(domain)
    for batch, watermark in batches(rows, 13):
        assert_frame_equal(one.step(batch, watermark), other.step(batch, watermark))
    assert one.snapshot() == other.snapshot()


@pytest.mark.parametrize("domain", [*DOMAINS, "report"])
def test_survives_holes_and_nothing(domain: Domain) -> None:
    """Rows of nulls, empty frames and no frame give no findings and leave the detectors working."""
    one = _make(domain)
    empty = frame(domain, [])
    hollow = frame(domain, [{"asset_id": "a", "at": T0}]).with_columns(
        pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in contract_of(domain).frame_schema().items()
        if name not in ("jurisdiction_id", "asset_id")
    )
    for nothing in (empty, hollow, hollow.with_columns(pl.lit(None, pl.UInt8).alias("quality")), None):
        found = one.step(nothing, 0)
        assert found.is_empty() and dict(found.schema) == FINDING_SCHEMA
    restored = _make(domain)
    restored.restore(one.snapshot())
    samples: dict[str, dict[str, Any]] = {"sensor": {"fill_level": 0.9}, "lighting": {"lamp_status": "column_issue"}}
    loud = samples.get(domain, {})
    expected = 1 if loud else 0
    assert restored.step(frame(domain, [{"asset_id": "a", "at": T0, **loud}]), 0).height == expected


@pytest.mark.parametrize("domain", DOMAINS)
def test_memory_is_bounded_by_the_assets_seen(domain: Domain) -> None:
    """A hundred more batches of the same assets leave the state as large as it was."""
    one = _make(domain)
    sizes = []
    for lap in range(100):
        rows = [{"asset_id": f"asset-{n}", "at": T0 + lap * MINUTE, **_readings(domain)[0]} for n in range(20)]
        one.step(frame(domain, rows), T0 + lap * MINUTE)
        sizes.append(len(one.snapshot()))
    assert max(sizes) < 1.2 * sizes[0]


@pytest.mark.parametrize("domain", DOMAINS)
def test_leaves_the_frame_alone(domain: Domain) -> None:
    """The stage reads its frame and does not change it."""
    rows = _events(domain, [(n % 4, 5, n, 1, False) for n in range(50)])
    copy = rows.clone()
    _make(domain).step(rows, T0)
    assert_frame_equal(rows, copy)
