"""What is done about an error of ClickHouse or Kafka: one table, three treatments, and whatever is not in it stops the
process. Stopping is always safe, because nothing is acknowledged before it is durable; so an entry is only a RETRY when
it passes by itself, and only a REJECT when it can be the fault of one row.

Client libraries are not imported: errors are told apart by the numbers and names that the systems themselves publish.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Treatment(StrEnum):
    """RETRY: the same again, within a budget. REJECT: this row or message alone is refused. STOP: end the process."""

    RETRY = "retry"
    REJECT = "reject"
    STOP = "stop"


class Origin(StrEnum):
    """Whose number it is. HTTP is what stands before ClickHouse, SYSTEM the operating system."""

    CLICKHOUSE = "ClickHouse"
    HTTP = "HTTP"
    KAFKA = "Kafka"
    SYSTEM = "system"
    CLASS = "class"


@dataclass(frozen=True)
class Known:
    """An error that is known. Errors of the origin CLASS have no number and are known by their class's name."""

    origin: Origin
    number: int
    name: str
    treatment: Treatment
    hint: str = ""


_LOGIN: Final = "check user and password in VIGIE_CLICKHOUSE_URL"
_RIGHTS: Final = (
    "grant the user of VIGIE_CLICKHOUSE_URL what it needs (INSERT, SELECT, CREATE, ALTER DELETE, COLUMN and SETTINGS)"
)
_INIT: Final = "run `vigie init`"
_SPACE: Final = "free some space and start again"
_KAFKA_LOGIN: Final = "check VIGIE_KAFKA_USERNAME and VIGIE_KAFKA_PASSWORD"
_KAFKA_RIGHTS: Final = "grant VIGIE_KAFKA_USERNAME its topics (read raw, write dead letters and alerts) and its group"


def _rows(origin: Origin, treatment: Treatment, *entries: tuple[int, str] | tuple[int, str, str]) -> list[Known]:
    return [Known(origin, number, name, treatment, *rest) for number, name, *rest in entries]


TABLE: Final[tuple[Known, ...]] = (
    *_rows(
        Origin.CLICKHOUSE,
        Treatment.RETRY,
        # Load: queries, threads, connections, memory, parts and quotas become free again.
        (159, "TIMEOUT_EXCEEDED"),
        (173, "CANNOT_ALLOCATE_MEMORY"),
        (201, "QUOTA_EXCEEDED"),
        (202, "TOO_MANY_SIMULTANEOUS_QUERIES"),
        (203, "NO_FREE_CONNECTION"),
        (241, "MEMORY_LIMIT_EXCEEDED"),
        (252, "TOO_MANY_PARTS"),
        (364, "RECEIVED_ERROR_TOO_MANY_REQUESTS"),
        (439, "CANNOT_SCHEDULE_TASK"),
        (692, "TOO_MANY_MUTATIONS"),
        (700, "USER_SESSION_LIMIT_EXCEEDED"),
        (745, "SERVER_OVERLOADED"),
        (749, "TCP_CONNECTION_LIMIT_REACHED"),
        (762, "HTTP_CONNECTION_LIMIT_REACHED"),
        (777, "MEMORY_RESERVATION_KILLED"),
        (778, "MEMORY_RESERVATION_FAILED"),
        (1019, "QUERY_SLOT_ACQUISITION_TIMEOUT"),
        (1020, "MEMORY_RESERVATION_ACQUISITION_TIMEOUT"),
        # The server's own network.
        (95, "CANNOT_READ_FROM_SOCKET"),
        (96, "CANNOT_WRITE_TO_SOCKET"),
        (198, "DNS_ERROR"),
        (209, "SOCKET_TIMEOUT"),
        (210, "NETWORK_ERROR"),
        # The client library sends a request again under the same id when its connection was closed; the first may run.
        (216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING"),
        # A server that goes down, comes up, or gave way to another statement.
        (236, "ABORTED"),
        (341, "UNFINISHED"),
        (394, "QUERY_WAS_CANCELLED"),
        (473, "DEADLOCK_AVOIDED"),
        (517, "CANNOT_ASSIGN_ALTER"),
        (696, "ASYNC_LOAD_CANCELED"),
        (733, "TABLE_IS_BEING_RESTARTED"),
        (735, "QUERY_WAS_CANCELLED_BY_CLIENT"),
        # Replicas and their Keeper. 242 is a replica that lost its Keeper; 319 an insert of which it does not know the
        # end, which the token makes safe to send again.
        (225, "NO_ZOOKEEPER"),
        (242, "TABLE_IS_READ_ONLY"),
        (254, "NO_ACTIVE_REPLICAS"),
        (265, "NO_AVAILABLE_REPLICA"),
        (279, "ALL_CONNECTION_TRIES_FAILED"),
        (285, "TOO_FEW_LIVE_REPLICAS"),
        (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE"),
        (297, "SHARD_HAS_NO_CONNECTIONS"),
        (319, "UNKNOWN_STATUS_OF_INSERT"),
        (369, "ALL_REPLICAS_ARE_STALE"),
        (519, "NO_REMOTE_SHARD_AVAILABLE"),
        (529, "NOT_A_LEADER"),
        (999, "KEEPER_EXCEPTION"),
    ),
    *_rows(
        Origin.CLICKHOUSE,
        Treatment.REJECT,
        (6, "CANNOT_PARSE_TEXT"),
        (25, "CANNOT_PARSE_ESCAPE_SEQUENCE"),
        (26, "CANNOT_PARSE_QUOTED_STRING"),
        (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"),
        (38, "CANNOT_PARSE_DATE"),
        (41, "CANNOT_PARSE_DATETIME"),
        (69, "ARGUMENT_OUT_OF_BOUND"),
        (70, "CANNOT_CONVERT_TYPE"),
        (72, "CANNOT_PARSE_NUMBER"),
        (128, "TOO_LARGE_ARRAY_SIZE"),
        (130, "CANNOT_READ_ARRAY_FROM_TEXT"),
        (131, "TOO_LARGE_STRING_SIZE"),
        # In a column that the table computes from the row.
        (153, "ILLEGAL_DIVISION"),
        (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
        (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN"),
        (376, "CANNOT_PARSE_UUID"),
        (407, "DECIMAL_OVERFLOW"),
        (441, "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING"),
        (467, "CANNOT_PARSE_BOOL"),
        (469, "VIOLATED_CONSTRAINT"),
        (563, "CANNOT_READ_MAP_FROM_TEXT"),
        (675, "CANNOT_PARSE_IPV4"),
        (676, "CANNOT_PARSE_IPV6"),
        (691, "UNKNOWN_ELEMENT_OF_ENUM"),
    ),
    *_rows(
        Origin.CLICKHOUSE,
        Treatment.STOP,
        (16, "NO_SUCH_COLUMN_IN_TABLE", _INIT),
        # A column of another type: every row is refused, so none of them is to blame.
        (53, "TYPE_MISMATCH", _INIT),
        (60, "UNKNOWN_TABLE", _INIT),
        (81, "UNKNOWN_DATABASE", "create the database that VIGIE_CLICKHOUSE_URL names, then run `vigie init`"),
        # The Arrow file as a whole, never one row.
        (117, "INCORRECT_DATA"),
        (164, "READONLY", "the user of VIGIE_CLICKHOUSE_URL may only read: give it another profile"),
        (192, "UNKNOWN_USER", _LOGIN),
        (193, "WRONG_PASSWORD", _LOGIN),
        (194, "REQUIRED_PASSWORD", _LOGIN),
        (195, "IP_ADDRESS_NOT_ALLOWED", _RIGHTS),
        (218, "TABLE_IS_DROPPED", _INIT),
        # When the log of tokens could not be written, inserts may fail until ClickHouse is started again.
        (243, "NOT_ENOUGH_SPACE", _SPACE),
        (291, "DATABASE_ACCESS_DENIED", _RIGHTS),
        (452, "SETTING_CONSTRAINT_VIOLATION", "let the user of VIGIE_CLICKHOUSE_URL change the setting named"),
        (472, "READONLY_SETTING", "let the user of VIGIE_CLICKHOUSE_URL change the setting named"),
        (497, "ACCESS_DENIED", _RIGHTS),
        (516, "AUTHENTICATION_FAILED", _LOGIN),
        (720, "USER_EXPIRED", _LOGIN),
        # Tokens are not honoured: what is sent again would be stored twice.
        (764, "DEDUPLICATION_IS_NOT_POSSIBLE"),
        (774, "TABLE_IS_PERMANENTLY_READ_ONLY"),
    ),
    *_rows(
        Origin.HTTP,
        Treatment.RETRY,
        (408, "Request Timeout"),
        (425, "Too Early"),
        (429, "Too Many Requests"),
        # Stands for every 5xx: a proxy whose server is away or overloaded.
        (500, "Server Error"),
    ),
    *_rows(Origin.HTTP, Treatment.STOP, (401, "Unauthorized", _LOGIN), (403, "Forbidden", _RIGHTS)),
    *_rows(
        Origin.KAFKA,
        Treatment.RETRY,
        # A checksum that was right when it was sent: damaged on the way.
        (2, "CORRUPT_MESSAGE"),
        # Metadata lags behind after a broker's restart; a topic that really is missing outlasts the budget.
        (3, "UNKNOWN_TOPIC_OR_PARTITION", _INIT),
        (5, "LEADER_NOT_AVAILABLE"),
        (6, "NOT_LEADER_OR_FOLLOWER"),
        (7, "REQUEST_TIMED_OUT"),
        (8, "BROKER_NOT_AVAILABLE"),
        (9, "REPLICA_NOT_AVAILABLE"),
        (13, "NETWORK_EXCEPTION"),
        (14, "COORDINATOR_LOAD_IN_PROGRESS"),
        (15, "COORDINATOR_NOT_AVAILABLE"),
        (16, "NOT_COORDINATOR"),
        (19, "NOT_ENOUGH_REPLICAS"),
        (20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
        (41, "NOT_CONTROLLER"),
        # A broker's disk: the partition gets another leader.
        (56, "KAFKA_STORAGE_ERROR"),
        (72, "LISTENER_NOT_FOUND"),
        (74, "FENCED_LEADER_EPOCH"),
        (75, "UNKNOWN_LEADER_EPOCH"),
        (78, "OFFSET_NOT_AVAILABLE"),
        (80, "PREFERRED_LEADER_NOT_AVAILABLE"),
        (83, "ELIGIBLE_LEADERS_NOT_AVAILABLE"),
        (88, "UNSTABLE_OFFSET_COMMIT"),
        (89, "THROTTLING_QUOTA_EXCEEDED"),
        (100, "UNKNOWN_TOPIC_ID"),
        (103, "INCONSISTENT_TOPIC_ID"),
        (129, "REBOOTSTRAP_REQUIRED"),
        # The member rejoins by itself. The same commit must not be tried again: see `has_lost_partitions`.
        (22, "ILLEGAL_GENERATION"),
        (25, "UNKNOWN_MEMBER_ID"),
        (27, "REBALANCE_IN_PROGRESS"),
        # librdkafka's own numbers. A message that timed out may have arrived: dead letters and alerts are delivered at
        # least once, under a stable id.
        (-195, "_TRANSPORT"),
        (-193, "_RESOLVE"),
        (-192, "_MSG_TIMED_OUT"),
        (-187, "_ALL_BROKERS_DOWN"),
        (-185, "_TIMED_OUT"),
        (-184, "_QUEUE_FULL"),
        (-180, "_WAIT_COORD"),
        (-166, "_TIMED_OUT_QUEUE"),
        (-164, "_WAIT_CACHE"),
        (-153, "_RETRY"),
        (-142, "_ASSIGNMENT_LOST"),
    ),
    *_rows(
        Origin.KAFKA,
        Treatment.REJECT,
        (10, "MESSAGE_TOO_LARGE"),
        # The topic's limits on a message's time, and what else a broker finds in one message.
        (32, "INVALID_TIMESTAMP"),
        (87, "INVALID_RECORD"),
    ),
    *_rows(
        Origin.KAFKA,
        Treatment.STOP,
        (-1, "UNKNOWN_SERVER_ERROR"),
        (1, "OFFSET_OUT_OF_RANGE", "records were deleted before they were read: lengthen the topic's retention"),
        (17, "INVALID_TOPIC_EXCEPTION"),
        # A whole batch, not one message.
        (18, "RECORD_LIST_TOO_LARGE", "raise segment.bytes of the topic"),
        (23, "INCONSISTENT_GROUP_PROTOCOL", "another program is in the group VIGIE_GROUP: choose another name"),
        (29, "TOPIC_AUTHORIZATION_FAILED", _KAFKA_RIGHTS),
        (30, "GROUP_AUTHORIZATION_FAILED", _KAFKA_RIGHTS),
        (31, "CLUSTER_AUTHORIZATION_FAILED", _KAFKA_RIGHTS),
        (33, "UNSUPPORTED_SASL_MECHANISM", "check VIGIE_KAFKA_SASL_MECHANISM"),
        (35, "UNSUPPORTED_VERSION"),
        (58, "SASL_AUTHENTICATION_FAILED", _KAFKA_LOGIN),
        (82, "FENCED_INSTANCE_ID", "another worker runs under the same VIGIE_INSTANCE_ID: give each its own"),
        (90, "PRODUCER_FENCED"),
        # librdkafka says so only after the metadata had half a minute to arrive.
        (-188, "_UNKNOWN_TOPIC", _INIT),
        (-190, "_UNKNOWN_PARTITION", _INIT),
        (-181, "_SSL", "check VIGIE_KAFKA_SECURITY and VIGIE_KAFKA_CA_FILE"),
        (-169, "_AUTHENTICATION", _KAFKA_LOGIN),
        (-150, "_FATAL"),
        (-144, "_FENCED", "another worker runs under the same VIGIE_INSTANCE_ID: give each its own"),
    ),
    *_rows(
        Origin.SYSTEM,
        Treatment.RETRY,
        (errno.ENETDOWN, "ENETDOWN"),
        (errno.ENETUNREACH, "ENETUNREACH"),
        (errno.ENETRESET, "ENETRESET"),
        (errno.EHOSTDOWN, "EHOSTDOWN"),
        (errno.EHOSTUNREACH, "EHOSTUNREACH"),
    ),
    *_rows(Origin.SYSTEM, Treatment.STOP, (errno.ENOSPC, "ENOSPC", _SPACE), (errno.EDQUOT, "EDQUOT", _SPACE)),
    *_rows(
        Origin.CLASS,
        Treatment.RETRY,
        # Python: refused, reset, broken or cut off, silent, and a name that cannot be resolved now.
        (0, "ConnectionError"),
        (0, "IncompleteRead"),
        (0, "TimeoutError"),
        (0, "gaierror"),
        (0, "SSLEOFError"),
        # clickhouse-connect: what it says when there was no answer, or the answer broke off.
        (0, "OperationalError"),
        # aiokafka, where no broker gave a number.
        (0, "KafkaConnectionError"),
        (0, "KafkaTimeoutError"),
        (0, "NodeNotReadyError"),
        (0, "NoBrokersAvailable"),
        (0, "StaleMetadata"),
        (0, "MetadataEmptyBrokerList"),
        (0, "CorrelationIdError"),
        (0, "CommitFailedError"),
    ),
    *_rows(
        Origin.CLASS,
        Treatment.STOP,
        (0, "SSLCertVerificationError", "give the certificate authority: ca_cert=FILE in VIGIE_CLICKHOUSE_URL's query"),
        (0, "AuthenticationFailedError", _KAFKA_LOGIN),
    ),
)

_BY_NUMBER: Final = {(known.origin, known.number): known for known in TABLE if known.origin != Origin.CLASS}
_BY_CLASS: Final = {known.name: known for known in TABLE if known.origin == Origin.CLASS}

#: The partitions are another's, or will be: a commit for them is left alone, and whoever owns them commits.
_LOST: Final = frozenset({"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "_ASSIGNMENT_LOST"})

_CLICKHOUSE_SAYS: Final = re.compile(r"\bCode: (\d+)\. DB::")
_HTTP_SAYS: Final = re.compile(r"\bHTTP status (\d{3})\b")
_CERTIFICATE: Final = "CERTIFICATE_VERIFY_FAILED"
_NO_SPACE: Final = "No space left on device"


def treatment(error: object) -> Treatment:
    """What is done about an error of clickhouse-connect, aiokafka, confluent_kafka (KafkaError, too) or the system."""
    found = known(error)
    return found.treatment if found else Treatment.STOP


def hint(error: object) -> str:
    """What a person can do about it; empty when the error says all there is."""
    found = known(error)
    return found.hint if found else ""


def has_lost_partitions(error: object) -> bool:
    """Whether Kafka refused because the group has moved on: the same commit must not be tried again."""
    found = known(error)
    return found is not None and (found.name in _LOST or found.name == "CommitFailedError")


def known(error: object) -> Known | None:
    """The error's entry in the table; None for what is not in it."""
    classes = [kind.__name__ for kind in type(error).__mro__]
    by_class = next((_BY_CLASS[name] for name in classes if name in _BY_CLASS), None)
    if "ClickHouseError" in classes:
        return _of_clickhouse(error, by_class)
    kafka = _kafka_number(error, classes)
    if kafka is not None:
        return _BY_NUMBER.get((Origin.KAFKA, kafka))
    if by_class is None and isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get((Origin.SYSTEM, error.errno))
    return by_class


def clickhouse_number(error: object) -> int | None:
    """The number ClickHouse gave to the error, if any."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    found = _CLICKHOUSE_SAYS.search(str(error))
    return int(found[1]) if found else None


def _of_clickhouse(error: object, by_class: Known | None) -> Known | None:
    text = str(error)
    if _NO_SPACE in text:
        # Said under several numbers, by the engine and by whatever it wrote with.
        return _BY_NUMBER[Origin.SYSTEM, errno.ENOSPC]
    number = clickhouse_number(error)
    if number is not None:
        return _BY_NUMBER.get((Origin.CLICKHOUSE, number))
    if _CERTIFICATE in text:
        return _BY_CLASS["SSLCertVerificationError"]
    status = _HTTP_SAYS.search(text)
    if status is not None:
        return _BY_NUMBER.get((Origin.HTTP, min(int(status[1]), 500)))
    return by_class


def _kafka_number(error: Any, classes: list[str]) -> int | None:
    """aiokafka numbers its classes; confluent_kafka has a method `code`, on what it raises as the first argument."""
    if "BrokerResponseError" in classes:
        return getattr(error, "errno", None)
    inner = error.args[0] if "KafkaException" in classes and error.args else error
    code = getattr(inner, "code", None)
    return int(code()) if type(inner).__name__ == "KafkaError" and callable(code) else None
