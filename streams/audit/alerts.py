"""Alerts as they are stored: one name one thing, states that follow each other, and an event that each goes back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from schemas.contracts import domain_of
from sinks.audited_alerts import instants_with_events
from sinks.clickhouse import Sink
from streams.audit.accounting import Extent
from streams.audit.differences import Findings, some

#: Where a transition was made: a partition of a topic in one of its lives (topic '' for zones).
PLACE: Final = ("topic", "epoch", "partition")
#: What is numbered: alerts of a partition go on when its topic is created anew.
ALERT: Final = ("topic", "partition", "fingerprint")

#: The states that may follow each state within one life of an alert. "" is before its beginning.
_FOLLOWS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"pending", "firing"}),
    "pending": frozenset({"firing", "expired"}),
    "firing": frozenset({"firing", "acknowledged", "resolved"}),
    "acknowledged": frozenset({"firing", "acknowledged", "resolved"}),
}
_ENDED: Final = frozenset({"resolved", "expired"})
_LAWFUL: Final = frozenset((before, after) for before, found in _FOLLOWS.items() for after in found)


def place_of(row: Mapping[str, object]) -> str:
    """Where an alert belongs, as people read it."""
    return f"{row['topic']}/{row['partition']}" if row["topic"] else "zones"


def described(row: Mapping[str, object]) -> str:
    """One transition in a few words."""
    return f"{row['alertname']} {row['about']} {row['state']} (fingerprint {row['fingerprint']}, #{row['sequence']})"


def structure(told: pl.DataFrame) -> Findings:
    """What one can see of transitions alone. `told`: see `sinks.audited_alerts.transitions`."""
    findings = Findings()
    _sequences(told, findings)
    _contents(told, findings)
    _lives(told, findings)
    return findings


def _sequences(told: pl.DataFrame, findings: Findings) -> None:
    per = told.group_by(*ALERT, maintain_order=True).agg(
        pl.col("sequence").n_unique().alias("n"),
        pl.col("sequence").max().alias("last"),
        pl.col("sequence").alias("sequences"),
        pl.col("alertname", "about").first(),
    )
    for row in per.filter(pl.col("n") != pl.col("last")).iter_rows(named=True):
        there = set(row["sequences"])
        holes = [number for number in range(1, row["last"] + 1) if number not in there]
        findings.add(
            "alert_sequence",
            place_of(row),
            f"{row['alertname']} {row['about']} (fingerprint {row['fingerprint']})",
            {"transitions": row["n"], "last": row["last"], "missing": len(holes)},
            f"transitions {some(holes)} of this alert are not in alert_transitions, though #{row['last']} is: rows "
            "were lost. Look for them on city.alerts by the fingerprint",
        )


def _contents(told: pl.DataFrame, findings: Findings) -> None:
    names = told.group_by(*ALERT, "sequence", maintain_order=True).agg(
        pl.col("transition_id").n_unique().alias("ids"),
        pl.col("contents").max(),
        pl.col("alertname", "about", "state").first(),
    )
    for row in names.filter((pl.col("ids") > 1) | (pl.col("contents") > 1)).iter_rows(named=True):
        findings.add(
            "alert_sequence",
            place_of(row),
            described(row),
            {"transition_ids": row["ids"], "contents": row["contents"]},
            f"one number of one alert stands for {max(row['ids'], row['contents'])} different transitions: receivers "
            "were told two histories. Did another code version or another territory read these records again?",
        )


def _lives(told: pl.DataFrame, findings: Findings) -> None:
    """Neighbours in an alert's history: do they follow each other?"""
    # Holes and repeats are told already; what follows across them says nothing more.
    sound = (pl.col("sequence").n_unique() == pl.col("sequence").max()) & (pl.len() == pl.col("sequence").max())
    rows = told.filter(sound.over(*ALERT)).sort(*ALERT, "sequence")
    ended = list(_ENDED)
    before = pl.col("state", "at_ms", "starts_ms").shift(1).over(*ALERT).name.prefix("before_")
    rows = rows.with_columns(before).with_columns(
        (pl.col("before_state").is_null() | pl.col("before_state").is_in(ended)).alias("begins")
    )
    pair = pl.concat_str(pl.when("begins").then(pl.lit("")).otherwise(pl.col("before_state")), pl.lit(">"), "state")
    lawful = pair.is_in([f"{one}>{next_}" for one, next_ in sorted(_LAWFUL)])
    over = pl.col("state").is_in(ended)
    for wrong, what in (
        (~lawful, "it cannot follow the state before"),
        (pl.col("at_ms") < pl.col("starts_ms"), "it happened before the alert began"),
        (~pl.col("begins") & (pl.col("starts_ms") != pl.col("before_starts_ms")), "the alert's beginning has changed"),
        (pl.col("begins") & (pl.col("starts_ms") < pl.col("before_starts_ms")), "it began before the life before it"),
        (~pl.col("begins") & (pl.col("at_ms") < pl.col("before_at_ms")), "it happened before the transition before it"),
        (over & pl.col("ends_ms").is_null(), "it ends the alert and names no end"),
        (over & (pl.col("ends_ms") != pl.col("at_ms")), "its end is not the instant at which it ended"),
        (~over & pl.col("ends_ms").is_not_null(), "it names an end while the alert lasts"),
    ):
        for row in rows.filter(wrong).iter_rows(named=True):
            before_state = "nothing" if row["begins"] else row["before_state"]
            findings.add(
                "alert_life",
                place_of(row),
                described(row),
                {"at_ms": row["at_ms"], "starts_ms": row["starts_ms"]},
                f"{what} ({row['state']} after {before_state}): receivers were told something that cannot be",
            )


def settled(told: pl.DataFrame, extents: Sequence[Extent], zones_ms: int, *, strict_end: bool) -> pl.DataFrame:
    """The transitions that the newest snapshots include: those must have been confirmed by Kafka.

    A snapshot is written after them. What was made later may be under way, or be made again by the next owner.
    `zones_ms`: how far event time has come with the zones.
    """
    if strict_end or told.is_empty():
        return told
    known = pl.DataFrame(
        [
            ("", "", 0, 0, zones_ms),
            *(
                (e.origin.topic, e.origin.epoch, e.origin.partition, e.mark.next_offset, e.mark.watermark_ms)
                for e in extents
                if e.mark is not None
            ),
        ],
        schema={"topic": pl.String, "epoch": pl.String, "partition": pl.Int64, "_next": pl.Int64, "_clock": pl.Int64},
        orient="row",
    )
    rows = told.join(known, on=list(PLACE), how="left")
    in_time = (pl.col("at_ms") <= pl.col("_clock")) & ((pl.col("offset") < pl.col("_next")) | (pl.col("topic") == ""))
    return rows.filter(in_time).drop("_next", "_clock")


def evidence(told: pl.DataFrame, sink: Sink) -> Findings:
    """Every alert of a reading or a state goes back to a stored event of that asset at the instant it began.

    Silence has no event; it is made again from all of them (`streams.audit.findings`).
    """
    findings = Findings()
    begun = told.sort("sequence").filter(
        (pl.col("topic") != "") & pl.col("asset_id").is_not_null() & (pl.col("alertname") != "silent")
        & pl.col("state").is_in(["pending", "firing"])
    ).unique([*ALERT, "starts_ms"], keep="first", maintain_order=True)  # fmt: skip
    for (topic,), rows in begun.group_by("topic", maintain_order=True):
        found = instants_with_events(domain_of(str(topic)), rows, sink)
        for row in rows.join(found, on=found.columns, how="anti", maintain_order="left").iter_rows(named=True):
            findings.add(
                "alert_evidence",
                place_of(row),
                described(row),
                {"starts_ms": row["starts_ms"]},
                "no stored event of this asset bears the instant at which the alert began: it was told of something "
                "that is not stored",
            )
    return findings
