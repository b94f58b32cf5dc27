"""A slot keeps a worker running, strikes it, and counts every end of it. Real processes, with no Kafka to reach."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.territory.files import write
from tests.chaos.slots import FaultError, Slot
from tests.chaos.town import town

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A worker that waits for a Kafka at which nobody listens, and gives up."""
    folder = tmp_path_factory.mktemp("slots")
    write(town(20.0), folder / "town")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    return {
        "kafka_bootstrap": nobody,
        "clickhouse_url": f"chdb://{folder / 'clickhouse'}",
        "territories": folder / "town",
        "start_timeout_s": 60,
    }


Make = Callable[..., Slot]


@pytest.fixture
def make(settings: dict[str, object], tmp_path: Path) -> Iterator[Make]:
    """Slots that leave no process behind."""
    made: list[Slot] = []

    def slot(**more: object) -> Slot:
        made.append(Slot("worker-1", tmp_path, settings | more, lambda line: None))
        return made[-1]

    yield slot
    for one in made:
        one.remove()


def until(so: Callable[[], bool], slot: Slot) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline, slot.tail()
        slot.watch()
        time.sleep(0.05)


def test_a_worker_that_ends_by_itself_is_started_again(make: Make) -> None:
    """As an orchestrator does: its exit code is counted, and each start writes into a folder of its own."""
    slot = make(start_timeout_s=0.2)
    slot.start()
    until(lambda: slot.starts >= 3, slot)
    assert slot.own_ends[1] >= 2
    assert set(slot.own_ends) == {1}
    assert slot.killed == 0
    assert sorted(path.name for path in slot.folder.iterdir()) == ["001", "002", "003"]


def test_a_killed_worker_stays_down_until_it_is_started(make: Make) -> None:
    """A kill is ours: it is counted as one, the supervisor leaves it alone, and a start brings it back."""
    slot = make()
    slot.start()
    slot.kill()
    for _ in range(5):
        slot.watch()
        time.sleep(0.05)
    assert (slot.starts, slot.killed, slot.own_ends.total()) == (1, 1, 0)
    slot.start()
    slot.kill()
    assert (slot.starts, slot.killed) == (2, 2)


def test_a_frozen_worker_is_not_started_again(make: Make) -> None:
    """While it is stopped it does nothing and is not replaced; afterwards it lives."""
    slot = make()
    slot.start()
    (pid,) = slot.pids()

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]

    slot.freeze(lambda: until(lambda: state() == "T", slot))
    until(lambda: state() != "T", slot)
    assert slot.starts == 1
    slot.kill()


def test_a_worker_that_ignores_sigterm_is_told(make: Make) -> None:
    """Too late is an error, and no process is left."""
    slot = make()
    slot.start()
    with pytest.raises(FaultError, match="had not ended 0 s after SIGTERM"):
        slot.terminate(0.0)
    assert slot.pids() == []
    assert slot.killed == 1


def test_a_worker_that_is_not_up_in_time_is_told(make: Make) -> None:
    """Whoever waits for a worker at the end of a run is not kept waiting."""
    slot = make()
    slot.start()
    with pytest.raises(FaultError, match="not up before the end of the run"):
        slot.wait_until_it_listens(halt=lambda: True)
