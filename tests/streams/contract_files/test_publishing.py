"""Publishing a file to a broker: keys, places and confirmations, and what is left when it does not go well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Message

from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.broker import in_process_broker
from streams.clock import WallClock, monotonic_s
from streams.contract_files.lines import Judged
from streams.contract_files.publishing import Kept, UnconfirmedError, kept, send
from streams.settings import Settings, load
from streams.simulation.publish import publish
from streams.simulation.records import Record
from tests.streams.contract_files.judging import written
from tests.streams.contract_files.mistakes import avro_file, value
from tests.streams.contract_files.test_cli import run, values_file
from tests.support.city import CITY
from tests.support.pipeline import everything

_TOPIC: Final = RAW_TOPICS["sensor"]
_SENSOR: Final = contract_of("sensor")


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An in-process broker, and settings that name it."""
    monkeypatch.delenv("VIGIE_TERRITORIES", raising=False)
    with in_process_broker() as address:
        monkeypatch.setenv("VIGIE_KAFKA_BOOTSTRAP", address)
        yield address


def now() -> int:
    return WallClock().now_ms()


def of_many_assets(count: int) -> list[dict[str, Any]]:
    return [value(n, now(), asset_id=f"bin-{n % 7}") for n in range(1, count + 1)]


def payloads(messages: list[Message]) -> set[tuple[bytes | None, bytes | None]]:
    return {(message.key(), message.value()) for message in messages}


@pytest.mark.parametrize("form", ["jsonl", "avro"])
def test_each_record_is_published_under_its_key_as_it_was_judged(bootstrap: str, tmp_path: Path, form: str) -> None:
    """Key, bytes and topic are those that the contract says; counts are told, and all of them confirmed."""
    values = of_many_assets(500)
    content = values_file(values) if form == "jsonl" else avro_file(values)
    done = run("publish", written(tmp_path, f"readings.{form}", content))
    assert (done.exit_code, done.stdout) == (0, "city.raw.sensor: 500 records, each confirmed\n"), done.stderr
    found = everything(bootstrap, [_TOPIC])
    expected = {(f"{CITY}|{v['asset_id']}".encode(), encode(_SENSOR, v)) for v in values}
    assert payloads(found) == expected
    assert len(found) == 500


def test_keys_go_where_java_clients_put_them(bootstrap: str, tmp_path: Path) -> None:
    """An asset's records meet those that another producer sends for it, in order, in one partition."""
    values = of_many_assets(40)
    assert run("publish", written(tmp_path, "readings.jsonl", values_file(values))).exit_code == 0
    again = [Record(_TOPIC, f"{CITY}|bin-{n}".encode(), b"x", 0) for n in range(7)]
    publish(again, bootstrap, pace=None, stop=lambda: False, on_progress=lambda _: None)
    places: dict[bytes | None, set[int | None]] = {}
    for message in everything(bootstrap, [_TOPIC]):
        places.setdefault(message.key(), set()).add(message.partition())
    assert len(places) == 7
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len({next(iter(partitions)) for partitions in places.values()}) > 1


def test_good_records_alone_with_skip_errors(bootstrap: str, tmp_path: Path) -> None:
    """The bad ones are told and left out, and the exit code still says that not all of the file is there."""
    values = of_many_assets(5)
    values[2]["jurisdiction_id"] = "1"
    done = run("publish", written(tmp_path, "readings.jsonl", values_file(values)), "--skip-errors")
    assert done.exit_code == 1
    assert "4 records, each confirmed" in done.stdout
    assert len(everything(bootstrap, [_TOPIC])) == 4


def test_standard_input_is_judged_before_it_is_published(bootstrap: str) -> None:
    """What can be read once only is kept until all of it is known to be good."""
    done = run("publish", "-", "--format", "jsonl", stdin=values_file(of_many_assets(30)))
    assert (done.exit_code, len(everything(bootstrap, [_TOPIC]))) == (0, 30)
    done = run("publish", "-", "--format", "jsonl", stdin=values_file([*of_many_assets(30), {"event_id": ""}]))
    assert (done.exit_code, len(everything(bootstrap, [_TOPIC]))) == (1, 30)


def test_a_topic_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody at the address: the setting is named, after the time that is allowed."""
    monkeypatch.setenv("VIGIE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("VIGIE_START_TIMEOUT_S", "0.3")
    done = run("publish", written(tmp_path, "readings.jsonl", values_file(of_many_assets(1))))
    assert done.exit_code == 1
    assert "127.0.0.1:1" in done.stderr
    assert "VIGIE_KAFKA_BOOTSTRAP" in done.stderr


# --- what is left when it does not go well


@pytest.fixture
def three() -> Iterator[Kept]:
    """Three good records, on lines 4, 5 and 9."""
    with kept() as records:
        for line in (4, 5, 9):
            payload = encode(_SENSOR, value(line, now()))
            records.add(Judged(line, True, payload=payload, key=f"{CITY}|bin-00017".encode()))
        yield records


def settings_for(bootstrap: str) -> Settings:
    return load(kafka_bootstrap=bootstrap)


def test_what_is_kept_comes_back_as_it_was(three: Kept) -> None:
    """Lines, keys and values, in order, as often as asked."""
    assert [line for line, _, _ in three] == [4, 5, 9]
    assert [key for _, key, _ in three] == [f"{CITY}|bin-00017".encode()] * 3
    assert three.size_bytes == sum(len(payload) for _, _, payload in three) > 0


def test_a_broker_that_is_away_confirms_nothing(three: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is the one to go on from, and the broker's address is told."""
    monkeypatch.setattr("streams.simulation.publish._DELIVERY_TIMEOUT_MS", 300)
    with pytest.raises(UnconfirmedError, match=r"127\.0\.0\.1:1.*0 of 3 records were confirmed.*--from-line 4 "):
        send(three, _TOPIC, settings_for("127.0.0.1:1"), rate=None, stop=lambda: False, on_confirmed=print_nothing,
             unit="line")  # fmt: skip


def print_nothing(_: int) -> None:
    """Nobody looks at the bar."""


def test_an_interruption_says_where_to_go_on(bootstrap: str, three: Kept) -> None:
    """Stopped after the first: the second, which is drawn, goes out too, and the line after it is the next."""
    done: list[int] = []
    with pytest.raises(
        UnconfirmedError, match=r"interrupted\. 2 of 3 records were confirmed: go on with --from-line 6"
    ):
        send(three, _TOPIC, settings_for(bootstrap), rate=0.5, stop=lambda: bool(done), on_confirmed=done.append,
             unit="line")  # fmt: skip
    assert done == [1, 2]
    assert len(everything(bootstrap, [_TOPIC])) == 2


def test_a_record_that_the_broker_refuses_is_the_first_to_go_on_from(bootstrap: str) -> None:
    """A record too large for the client never leaves: those before it are confirmed or told, none is passed over."""
    with kept() as records:
        for line, size in ((1, 10), (2, 2_000_000), (3, 10)):
            records.add(Judged(line, True, payload=b"x" * size, key=b"k"))
        with pytest.raises(UnconfirmedError, match="--from-line") as caught:
            send(records, _TOPIC, settings_for(bootstrap), rate=50.0, stop=lambda: False, on_confirmed=print_nothing,
                 unit="line")  # fmt: skip
    told = re.search(r"(\d) of 3 .*--from-line (\d)", str(caught.value))
    assert told is not None
    assert int(told[2]) == 1 + int(told[1]) <= 2


def test_the_rate_is_kept(bootstrap: str, three: Kept) -> None:
    """At twenty a second the third record goes out a tenth of a second after the first."""
    begun = monotonic_s()
    sent = send(three, _TOPIC, settings_for(bootstrap), rate=20.0, stop=lambda: False, on_confirmed=print_nothing,
                unit="line")  # fmt: skip
    assert monotonic_s() - begun >= 0.1
    assert dict(sent.confirmed) == {_TOPIC: 3}


def test_going_on_from_a_line_publishes_the_rest(bootstrap: str, tmp_path: Path) -> None:
    """With --from-line what is before it is judged and not sent again."""
    values = of_many_assets(10)
    file = written(tmp_path, "readings.jsonl", values_file(values))
    assert run("publish", file, "--from-line", 8).exit_code == 0
    assert payloads(everything(bootstrap, [_TOPIC])) == {
        (f"{CITY}|{v['asset_id']}".encode(), encode(_SENSOR, v)) for v in values[7:]
    }
