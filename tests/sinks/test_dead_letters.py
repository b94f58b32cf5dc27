"""Dead letters: the record as it came, and headers that say where it came from and why it was refused."""

from __future__ import annotations

import polars as pl
import pytest

from schemas.rejects import REJECT_SCHEMA, Reason, rejects
from sinks.dead_letters import LEFT_OUT_HEADER, REPLAY_HEADER, DeadLetter, Told, dead_letters, retries_of, told
from tests.support.batches import RECEIVED_MS, Ran, batch, encoded, event, reference


def letters_of(refused: pl.DataFrame) -> list[DeadLetter]:
    one = batch(
        [b"first", None, b"\xff\x00third"],
        partition=3,
        offsets=[10, 14, 15],
        received_ms=[RECEIVED_MS, RECEIVED_MS + 1, RECEIVED_MS + 2],
        keys=[b"key", None, b""],
        headers=[
            (),
            (("ce_id", b"17"), ("ce_id", b"18"), ("empty", None)),
            (("vigie_replay_count", b"1"), ("vigie_reason", b"decode")),
        ],
    )
    return list(dead_letters(one, refused))


def refused(*rows: int) -> pl.DataFrame:
    return rejects(pl.Series(rows, dtype=pl.UInt32), "validate", Reason.CONTRACT, "source is empty")


def test_the_record_is_unchanged() -> None:
    """Key, value and timestamp are the original's, nulls and empty bytes included: a replay sends the same record."""
    found = letters_of(refused(0, 1, 2))
    assert [(letter.key, letter.value, letter.timestamp_ms) for letter in found] == [
        (b"key", b"first", RECEIVED_MS), (None, None, RECEIVED_MS + 1), (b"", b"\xff\x00third", RECEIVED_MS + 2),
    ]  # fmt: skip


def test_headers_say_where_and_why() -> None:
    """The headers of Kafka Connect, the reason from the closed list, and how often it was replayed: never yet."""
    (letter,) = letters_of(refused(0))
    assert letter.headers == (
        ("__connect.errors.topic", b"city.raw.sensor"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"10"),
        ("__connect.errors.stage", b"validate"),
        ("__connect.errors.exception.class.name", b"vigie.Reject"),
        ("__connect.errors.exception.message", b"source is empty"),
        ("vigie_reason", b"contract"),
        ("vigie_replay_count", b"0"),
    )


def test_original_headers_come_first_and_unchanged() -> None:
    """CloudEvents headers, repeated names and nulls stay as they were, before ours."""
    (letter,) = letters_of(refused(1))
    assert letter.headers[:3] == (("ce_id", b"17"), ("ce_id", b"18"), ("empty", None))
    assert letter.headers[3] == ("__connect.errors.topic", b"city.raw.sensor")
    assert ("__connect.errors.offset", b"14") in letter.headers


def test_a_replayed_record_keeps_its_count() -> None:
    """The count is the replay's to raise: a record that fails again keeps the one it brings, with the new reason."""
    (letter,) = letters_of(refused(2))
    assert [value for name, value in letter.headers if name == "vigie_replay_count"] == [b"1"]
    assert [value for name, value in letter.headers if name == "vigie_reason"][-1] == b"contract"


def test_no_rejects_no_letters() -> None:
    """A batch of events sends nothing."""
    assert letters_of(pl.DataFrame(schema=REJECT_SCHEMA)) == []


def test_no_value_of_the_record_stands_in_the_headers() -> None:
    """Whatever was wrong, the message names field and rule: what people wrote stays in the record."""
    secret = "jeanne.martin@example.org"
    values = [
        event("report", event_id="1", reporter_pseudonym=secret),
        event("report", event_id="2", service_code=secret),
        event("report", event_id="3", jurisdiction_id=secret),
        event("report", event_id=secret * 6),
        event("report", event_id="5", longitude=-140.123456, latitude=1.0),
    ]
    ran = Ran([batch([*encoded("report", values), secret.encode()], "report")], reference())
    (outcome,) = ran.outcomes
    found = list(dead_letters(outcome.batch, outcome.refused))
    assert len(found) == 6
    for letter in found:
        text = b" ".join(value or b"" for _, value in letter.headers)
        assert secret.encode() not in text
        assert b"140.12" not in text


def test_a_whole_batch_is_told_record_by_record() -> None:
    """Each reject of a batch becomes one letter with its own position and reason."""
    good = encoded("sensor", [event()])
    ran = Ran([batch([b"x", *good, None, *good], first_offset=50)], reference())
    (outcome,) = ran.outcomes
    found = {
        dict(letter.headers)["__connect.errors.offset"]: dict(letter.headers)["vigie_reason"]
        for letter in dead_letters(outcome.batch, outcome.refused)
    }
    assert found == {b"50": b"decode", b"52": b"decode", b"53": b"duplicate"}


# --- read again


def test_a_letter_tells_what_was_written_on_it() -> None:
    """Place, stage, reason, message and count; and the record's own headers apart, so that it can be sent as it was."""
    (letter,) = letters_of(refused(1))
    found = told(letter.headers)
    assert found == Told(
        topic="city.raw.sensor", partition=3, offset=14, stage="validate", reason="contract", message="source is empty",
        retries=0, headers=(("ce_id", b"17"), ("ce_id", b"18"), ("empty", None)), has_value=True,
    )  # fmt: skip


def test_the_last_of_several_refusals_counts() -> None:
    """A record that was a dead letter of somebody else's, or that was sent again with our headers left on it, brings
    such headers: they are its own."""
    (letter,) = letters_of(refused(0))
    foreign = (("__connect.errors.topic", b"orders"), ("vigie_reason", b"decode"))
    found = told((*foreign, *letter.headers))
    assert found is not None
    assert (found.topic, found.reason, found.headers) == ("city.raw.sensor", "contract", foreign)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ((), 0), ((b"1",), 1), ((b"2", b"0"), 2), ((b"many",), 0), ((b"-1",), 0), ((None, b"1"), 1), ((b"",), 0),
        ((b"1 ",), 0), ((b"9999",), 0), (("²".encode(),), 0),
    ],
)  # fmt: skip
def test_what_is_no_count_counts_as_none(values: tuple[bytes | None, ...], count: int) -> None:
    """The largest number there is; whatever else somebody wrote there neither stops a retry nor ends it."""
    assert retries_of([(REPLAY_HEADER, value) for value in values]) == count


@pytest.mark.parametrize(
    "spoilt",
    [
        {"__connect.errors.topic": None}, {"__connect.errors.offset": b"x"}, {"__connect.errors.partition": b"-1"},
        {"__connect.errors.partition": b"65536"},
        {"__connect.errors.offset": b"1" * 19}, {"vigie_reason": None}, {"__connect.errors.topic": b""},
    ],
)  # fmt: skip
def test_what_is_no_letter_is_none(spoilt: dict[str, bytes | None]) -> None:
    """Anybody may write to the topic."""
    (letter,) = letters_of(refused(0))
    headers = [(name, spoilt.get(name, value)) for name, value in letter.headers]
    assert told([header for header in headers if header[1] is not None]) is None


def test_a_letter_cannot_write_on_a_terminal() -> None:
    """Control characters in what somebody else wrote are shown as a mark."""
    (letter,) = letters_of(refused(0))
    headers = [(n, b"\x1b[2Jgone\n" if n.endswith("message") else value) for n, value in letter.headers]
    found = told([*headers, (LEFT_OUT_HEADER, b"70")])
    assert found is not None
    assert found.message == "\N{REPLACEMENT CHARACTER}[2Jgone\N{REPLACEMENT CHARACTER}"
    assert not found.has_value
