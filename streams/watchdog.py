"""The watchdog: records wait, the ledger does not move, and nothing excuses it. Pure: it is told the time.

A worker can be stuck in ways nobody thought of; a process that ends is started again by its orchestrator, one that
hangs is not. It does not notice what stops itself: whoever looks should do so from a thread of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: One interval between two looks counts for at most this share of the limit: a process that was stopped (a debugger, a
#: suspended machine, a starved thread) and goes on must get the chance to move before it is judged.
_MOST_OF_LIMIT: Final = 0.25


class StalledError(RuntimeError):
    """Nothing has moved for too long; the process should end with a code that is not 0."""


@dataclass
class Watchdog:
    """Adds up the time without progress. `limit_s`: how long that may be. `rebalance_s`: how long rebalances may excuse
    it, all together, before there is progress again; a group that rebalances for ever is stuck as well."""

    limit_s: float
    rebalance_s: float = 60.0
    stalled_s: float = field(default=0.0, init=False)
    _rebalancing_s: float = field(default=0.0, init=False)
    _last: tuple[float, int, bool] | None = field(default=None, init=False)

    def look(self, now_s: float, *, progress: int, lag: bool, away: bool = False, rebalancing: bool = False) -> float:
        """Seconds of stall so far, for a metric. Raises StalledError from the limit on.

        `now_s`: monotonic. `progress`: any number that changes when the ledger moves. `lag`: records wait. `away`:
        ClickHouse or Kafka is being waited for, within a budget of its own. `rebalancing`: partitions are being handed
        over.
        """
        before_s, before, lagged = self._last or (now_s, progress, False)
        self._last = (now_s, progress, lag)
        if progress != before or not lag:
            self.stalled_s = self._rebalancing_s = 0.0
            return 0.0
        passed_s = min(max(now_s - before_s, 0.0), _MOST_OF_LIMIT * self.limit_s) if lagged else 0.0
        if away:
            return self.stalled_s
        if rebalancing:
            excused_s = min(passed_s, self.rebalance_s - self._rebalancing_s)
            self._rebalancing_s += excused_s
            passed_s -= excused_s
        self.stalled_s += passed_s
        if self.stalled_s >= self.limit_s:
            raise StalledError(
                f"records wait, but for {self.stalled_s:.0f} s nothing was made durable (VIGIE_WATCHDOG_S is "
                f"{self.limit_s:.0f}), not counting time spent waiting for ClickHouse or Kafka: the worker is stuck. "
                "It ends so that it can be started again; nothing is lost. The last lines of the log say where it "
                "stopped"
            )
        return self.stalled_s
