"""The table of errors: every entry under its own name, what is not in it stops, and no system is taken for another."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from typing import Final

import aiokafka.errors as aiokafka
import confluent_kafka
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, ProgrammingError, StreamFailureError

from sinks.clickhouse import Sink, SinkAwayError, SinkError
from sinks.errors import TABLE, Known, Origin, Treatment, clickhouse_number, has_lost_partitions, hint, known, treatment

#: Kafka's names, where librdkafka has others.
_RDKAFKA: Final = {
    "CORRUPT_MESSAGE": "INVALID_MSG",
    "UNKNOWN_TOPIC_OR_PARTITION": "UNKNOWN_TOPIC_OR_PART",
    "NOT_LEADER_OR_FOLLOWER": "NOT_LEADER_FOR_PARTITION",
    "MESSAGE_TOO_LARGE": "MSG_SIZE_TOO_LARGE",
    "INVALID_TOPIC_EXCEPTION": "TOPIC_EXCEPTION",
    "UNKNOWN_SERVER_ERROR": "UNKNOWN",
}

_BY_CLASS: Final[dict[str, list[Exception]]] = {
    "ConnectionError": [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ConnectionRefusedError("refused"),
        BrokenPipeError(errno.EPIPE, "broken"),
        http.client.RemoteDisconnected("closed"),
    ],
    "IncompleteRead": [http.client.IncompleteRead(b"half")],
    "TimeoutError": [TimeoutError("timed out"), TimeoutError(errno.ETIMEDOUT, "timed out")],
    "gaierror": [socket.gaierror(socket.EAI_AGAIN, "temporary failure")],
    "SSLEOFError": [ssl.SSLEOFError(8, "EOF occurred in violation of protocol")],
    "SSLCertVerificationError": [
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        OperationalError("Error SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] …') executing HTTP request attempt 1"),
    ],
    "OperationalError": [
        OperationalError("Error HTTPConnectionPool(…): Max retries exceeded executing HTTP request attempt 1"),
        StreamFailureError("the answer broke off"),
    ],
    **{
        name: [getattr(aiokafka, name)("words")]
        for name in (
            "KafkaConnectionError",
            "KafkaTimeoutError",
            "NodeNotReadyError",
            "NoBrokersAvailable",
            "StaleMetadata",
            "MetadataEmptyBrokerList",
            "CorrelationIdError",
            "AuthenticationFailedError",
        )
    },
    "CommitFailedError": [aiokafka.CommitFailedError()],
}


def raised_by_aiokafka(number: int) -> list[object]:
    kinds = [kind for kind in vars(aiokafka).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if issubclass(kind, aiokafka.BrokerResponseError)]
    return [kind() for kind in ours if getattr(kind, "errno", None) == number]


def raised(entry: Known) -> list[object]:
    """The error of an entry, in every form in which the client libraries raise it or hand it out."""
    match entry.origin:
        case Origin.CLICKHOUSE:
            text = f"Code: {entry.number}. DB::Exception: words ({entry.name}) (version 26.9.2.1)"
            short = DatabaseError(f"Received ClickHouse exception, code: {entry.number}", code=entry.number)
            return [short, DatabaseError(text), OperationalError(text), StreamFailureError(text)]
        case Origin.HTTP:
            text = f"HTTP driver received HTTP status {entry.number}, server response: words"
            return [DatabaseError(text), OperationalError(text)]
        case Origin.KAFKA:
            error = confluent_kafka.KafkaError(entry.number)
            return [error, confluent_kafka.KafkaException(error), *raised_by_aiokafka(entry.number)]
        case Origin.SYSTEM:
            return [OSError(entry.number, "words")]
        case Origin.CLASS:
            return list(_BY_CLASS[entry.name])


# --- the table


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: f"{entry.origin}-{entry.number}-{entry.name}")
def test_every_entry_is_treated_as_the_table_says(entry: Known) -> None:
    """Whoever raises it, known by number, text or class: one error, one treatment, one hint."""
    for error in raised(entry):
        assert known(error) == entry, repr(error)
        assert (treatment(error), hint(error)) == (entry.treatment, entry.hint)


def test_nothing_stands_in_the_table_twice() -> None:
    """Two treatments for one error would make the order of the lines decide."""
    numbers = [(e.origin, e.number) for e in TABLE if e.origin != Origin.CLASS]
    names = [(e.origin, e.name) for e in TABLE]
    assert len(set(numbers)) == len(numbers)
    assert len(set(names)) == len(names)


def test_clickhouse_numbers_have_the_names_clickhouse_gives_them(clickhouse: Sink) -> None:
    """A number that ClickHouse calls something else would be treated for another error."""
    ours = {entry.number: entry.name for entry in TABLE if entry.origin == Origin.CLICKHOUSE}
    sql = "SELECT number, errorCodeToName(number) FROM numbers(2000) WHERE number IN {ours:Array(UInt32)}"
    assert dict(clickhouse.rows(sql, {"ours": list(ours)})) == ours


def test_kafka_numbers_have_the_names_kafka_gives_them() -> None:
    """Both client libraries know the protocol's numbers; the table must mean the same ones."""
    ours = {entry.number: entry.name for entry in TABLE if entry.origin == Origin.KAFKA}
    assert {n: getattr(confluent_kafka.KafkaError, _RDKAFKA.get(name, name)) for n, name in ours.items()} == {
        n: n for n in ours
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TOO_MANY_PARTS", Treatment.RETRY),
        ("MEMORY_LIMIT_EXCEEDED", Treatment.RETRY),
        ("TABLE_IS_READ_ONLY", Treatment.RETRY),
        ("VIOLATED_CONSTRAINT", Treatment.REJECT),
        ("VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Treatment.REJECT),
        ("NOT_ENOUGH_SPACE", Treatment.STOP),
        ("UNKNOWN_TABLE", Treatment.STOP),
        ("AUTHENTICATION_FAILED", Treatment.STOP),
        ("NOT_ENOUGH_REPLICAS", Treatment.RETRY),
        ("MESSAGE_TOO_LARGE", Treatment.REJECT),
        ("TOPIC_AUTHORIZATION_FAILED", Treatment.STOP),
        ("FENCED_INSTANCE_ID", Treatment.STOP),
    ],
)
def test_the_decisions_that_matter_most(name: str, expected: Treatment) -> None:
    """Load and replication pass, a row or message may be at fault, the rest is for a person."""
    assert [entry.treatment for entry in TABLE if entry.name == name] == [expected]


# --- what is not in it


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("Code: 49. DB::Exception: logical error", code=49),
        DatabaseError("Code: 98765. DB::Exception: of a later version", code=98765),
        OperationalError("Code: 98765. DB::Exception: of a later version", code=98765),
        DatabaseError("HTTP driver received HTTP status 404"),
        DatabaseError("no number at all"),
        ProgrammingError("Attempt to execute concurrent queries within the same session."),
        confluent_kafka.KafkaError(12345),
        confluent_kafka.KafkaException(confluent_kafka.KafkaError(-199)),
        aiokafka.UnknownError(),
        aiokafka.BrokerResponseError(),
        aiokafka.ProducerClosed(),
        aiokafka.IllegalStateError("words"),
        OSError(errno.EMFILE, "too many open files"),
        OSError("without a number"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ValueError("ours"),
        KeyError("ours"),
        AssertionError(),
        MemoryError(),
        KeyboardInterrupt(),
        "not even an error",
        None,
    ],
    ids=repr,
)
def test_what_is_unknown_stops(error: object) -> None:
    """An error nobody has thought about is not waited for and blames no row; a bug of ours least of all."""
    assert treatment(error) == Treatment.STOP


@pytest.mark.parametrize("error", [SinkError("refused"), SinkAwayError("away for an hour")], ids=repr)
def test_what_was_retried_is_not_retried_again(error: SinkError) -> None:
    """The sink has spent its budget; another round of it would be a budget without end."""
    assert treatment(error) == Treatment.STOP


# --- one system's numbers are not another's


def test_numbers_belong_to_the_one_who_gave_them() -> None:
    """6 is a bad text to ClickHouse, a moved leader to Kafka and a missing device to the system; 28 a full disk only
    to the system."""
    assert treatment(DatabaseError("bad text", code=6)) == Treatment.REJECT
    assert treatment(aiokafka.NotLeaderForPartitionError()) == Treatment.RETRY
    assert treatment(confluent_kafka.KafkaError(6)) == Treatment.RETRY
    assert treatment(OSError(errno.ENXIO, "no such device")) == Treatment.STOP
    assert hint(OSError(errno.ENOSPC, "full")) == "free some space and start again"
    assert hint(DatabaseError("cannot print", code=28)) == ""


def test_a_number_outranks_the_way_it_was_reported() -> None:
    """A proxy answers 503 for what ClickHouse itself refused: ClickHouse's word counts."""
    assert treatment(OperationalError("HTTP status 503: Code: 60. DB::Exception: no table")) == Treatment.STOP
    assert treatment(OperationalError("whatever", code=469)) == Treatment.REJECT


@pytest.mark.parametrize("status", [500, 502, 503, 504, 521, 599])
def test_every_failure_of_a_proxy_passes(status: int) -> None:
    """Whatever it calls it, the server behind it is away."""
    assert treatment(DatabaseError(f"HTTP driver received HTTP status {status}, server response: x")) == Treatment.RETRY


def test_numbers_within_other_words_are_not_clickhouse_numbers() -> None:
    """Only ClickHouse's own phrase counts, not any number after the word code."""
    assert clickhouse_number(DatabaseError("status code: 241, postcode 34000")) is None
    assert clickhouse_number(DatabaseError("Code: 241. DB::Exception: Memory limit")) == 241


def test_a_full_disk_is_told_in_whatever_words() -> None:
    """The engine says it under several numbers, some of which would be retried; a full disk does not empty itself."""
    error = DatabaseError("Code: 210. DB::Exception: cannot write: No space left on device", code=210)
    assert (treatment(error), hint(error)) == (Treatment.STOP, "free some space and start again")


def test_a_commit_of_an_older_generation_is_told_apart() -> None:
    """The worker goes on, but that commit must be left alone: its partitions are another's."""
    lost = [aiokafka.IllegalGenerationError(), aiokafka.UnknownMemberIdError(), aiokafka.RebalanceInProgressError()]
    for error in (*lost, aiokafka.CommitFailedError(), confluent_kafka.KafkaError(22)):
        assert has_lost_partitions(error)
        assert treatment(error) == Treatment.RETRY
    for error in (aiokafka.RequestTimedOutError(), aiokafka.NotCoordinatorError(), DatabaseError("x", code=22), None):
        assert not has_lost_partitions(error)
