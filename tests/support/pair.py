"""A lane in which partitions change hands: a second worker joins in the midst of each life, and leaves again.

Both share one ClickHouse through a gateway. The worker that is killed meanwhile is the first one.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.support.gateway import gateway
from tests.support.lane import Course, Lane, Life, Phase
from tests.support.pipeline import Command

#: A second worker is there within seconds, and gone within its drain deadline and a session.
_PATIENCE_S: Final = 60.0
#: A heartbeat of three in a session, and the hand-over that it brings.
_HEARD_S: Final = 3.0
_PAUSE_S: Final = 0.05

_SETTINGS: Final[dict[str, object]] = {
    # A worker hears of a rebalance by its heartbeat, three in a session.
    "session_timeout_s": 6,
    "rebalance_timeout_s": 15,
    "drain_timeout_s": 8,
}


class PairLane(Lane):
    """A lane whose lives are those of the first of two workers. The second one is there in the phase `quiet`."""

    def _open(self, stack: ExitStack) -> None:
        self._gateway = stack.enter_context(gateway(self.folder / "gateway"))

    @property
    def url(self) -> str:
        return f"{self._gateway.url}/{self.group.replace('-', '_')}"

    @property
    def settings(self) -> dict[str, object]:
        return {**super().settings, **_SETTINGS}

    def renew(self, *, keep: bool = False) -> None:
        super().renew(keep=keep)
        self._reader.rows(self._gateway.url, f"CREATE DATABASE {self.group.replace('-', '_')}")

    def _lead(self, life: Life, process: subprocess.Popen[bytes], folder: Path, course: Course) -> None:
        if course is not Course.WHOLE:
            super()._lead(life, process, folder, course)
            return
        if self._wait(life, process, self.is_caught_up, "it had caught up"):
            self._enter(life, folder, Phase.QUIET)
            with self._second(life, folder):
                joined = self._wait(life, process, lambda: self.topics.members(self.group) == 2, "another had joined")
                if joined:
                    self.send()
                    self._wait(life, process, self.is_caught_up, "both had caught up")
                    self.send()
            # So that the first is at work when it hears that the other's partitions are its own.
            until = time.monotonic() + _HEARD_S
            while process.poll() is None and time.monotonic() < until:
                self.send()
                time.sleep(_PAUSE_S)
            self._wait(life, process, lambda: self.topics.members(self.group) == 1, "the other one had gone")
            self._wait(life, process, self.is_caught_up, "it had caught up with what the other one left")
            self.send()
            time.sleep(self._random.random() / 4)
        if process.poll() is None:
            self._enter(life, folder, Phase.END)
            process.terminate()
        self._wait(life, process, lambda: False, "it had ended")

    @contextlib.contextmanager
    def _second(self, life: Life, folder: Path) -> Iterator[None]:
        """Another worker of the group, for the time of the block; then it is ended as an operator would."""
        settings = {name: value for name, value in self.settings.items() if name != "instance_id"}
        with Command("worker", folder=folder / "second", settings=settings) as worker:
            yield
            worker.process.terminate()
            # It need not have stored everything: the first may have died while both waited for each other.
            try:
                worker.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                life.faults.append(f"the second worker had not ended {_PATIENCE_S:.0f} s after SIGTERM")
