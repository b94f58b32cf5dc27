"""`vigie demo`: broker, worker, ClickHouse and a simulated city in one process, and the account of it at the end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Final

from processors.territory import Territory
from sinks.clickhouse import Sink
from streams import setup
from streams.broker import in_process_broker
from streams.clock import ScaledClock, instant, monotonic_s, utc_now
from streams.interrupt import undisturbed
from streams.settings import Settings, load
from streams.simulation.city import Simulation, simulate
from streams.simulation.publish import publish
from streams.summary import busiest_zones, summarize
from streams.worker import Worker

_DAY_S: Final = 86_400.0
#: Records that may be under way: far below what the in-process broker keeps, so it never drops one.
_MOST_UNDER_WAY: Final = 20_000
#: A run that makes no progress for so long is over, whatever is missing.
_STALLED_S: Final = 60.0
_LEAD_MS: Final = 500
_ZONES_S: Final = 3.0


@dataclass(frozen=True)
class Plan:
    """What to simulate. `speed` is event seconds per second; None lets a whole day pass in `for_s`."""

    for_s: float = 60.0
    seed: int = 7
    rate: float = 2_000.0
    speed: float | None = None
    data_dir: Path | None = None
    keep: bool = False

    @property
    def event_seconds_per_second(self) -> float:
        return self.speed if self.speed is not None else max(1.0, _DAY_S / self.for_s)


class Demo:
    """One run. `show` is called about four times a second with the running demo."""

    def __init__(self, plan: Plan, territory: Territory, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.territory = territory
        self.say = say
        self.clock = ScaledClock(plan.event_seconds_per_second)
        self.worker: Worker
        self.simulation: Simulation
        self.zones: list[tuple[str, int, int]] = []
        """Name, events and open alerts of the busiest zones of the first layer, a few seconds old."""
        self.published = 0
        self.interrupted = False
        self._halt = threading.Event()
        self._publish_failure: BaseException | None = None

    @property
    def lag(self) -> int:
        """Records published and not yet durable."""
        return self.published - self.worker.tally.records

    def interrupt(self) -> None:
        """End early, cleanly: what is under way is stored and accounted for."""
        self.interrupted = True
        self._halt.set()

    def run(self, show: Callable[[Demo], None]) -> dict[str, Any]:
        """Run to the end. Returns the summary; raises what stopped the worker."""
        with ExitStack() as stack:
            bootstrap = stack.enter_context(in_process_broker())
            folder = self._folder(stack)
            settings = self._settings(bootstrap, folder)
            with undisturbed():
                sink = setup.sink(settings, self.say)
                stack.callback(sink.close)
                setup.tables(sink)
                setup.publish_territories({self.territory.jurisdiction_id: self.territory}, sink)
            simulation = asyncio.run(self._live(settings, sink, show))
            summary = summarize(sink, self.territory.layers[0], simulation.truth, self.worker.tally)
            summary |= {"interrupted": self.interrupted, "seed": self.plan.seed, "territory": self.territory.name}
            return summary

    def _folder(self, stack: ExitStack) -> Path:
        if self.plan.data_dir is not None:
            self.plan.data_dir.mkdir(parents=True, exist_ok=True)
            return self.plan.data_dir.resolve()
        folder = Path(mkdtemp(prefix="vigie-demo-"))
        if self.plan.keep:
            self.say(f"keeping the ClickHouse files in {folder}")
        else:
            stack.callback(rmtree, folder, ignore_errors=True)
        return folder

    def _settings(self, bootstrap: str, folder: Path) -> Settings:
        return load(
            kafka_bootstrap=bootstrap,
            kafka_security="PLAINTEXT",
            clickhouse_url=f"chdb://{folder}",
            schema_registry_url=None,
            group="vigie-demo",
            instance_id=None,
            web_port=0,
            flush_interval_s=0.5,
            snapshot_interval_s=1.0,
            log_batches=False,
            idle_grace_s=2.0,
            zone_watch_interval_s=1.0,
        )

    async def _live(self, settings: Settings, sink: Sink, show: Callable[[Demo], None]) -> Simulation:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        territories = {self.territory.jurisdiction_id: self.territory}
        worker = self.worker = Worker(settings, territories, sink, self.clock)
        working = asyncio.create_task(worker.work())
        try:
            await self._until(lambda: worker.is_ready or working.done() or self.interrupted)
            self.clock.begin(self.plan.for_s, _LEAD_MS)
            simulation = self._simulation()
            publishing = loop.run_in_executor(None, self._publish, settings.kafka_bootstrap, simulation)
            try:
                await self._until_done(worker, working, publishing, show)
            finally:
                self._halt.set()
                await publishing
        finally:
            worker.stop()
            await working
        if self._publish_failure is not None:
            raise self._publish_failure
        show(self)
        return simulation

    def _signalled(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.say("ending: storing what is under way (again to end at once)")
        self.interrupt()

    def _simulation(self) -> Simulation:
        self.simulation = simulate(
            self.territory,
            seed=self.plan.seed,
            start=instant(self.clock.start_ms),
            end=instant(self.clock.end_ms),
            events=round(self.plan.rate * self.plan.for_s),
            wall_now=utc_now,
        )
        return self.simulation

    async def _until(self, done: Callable[[], bool]) -> None:
        until = monotonic_s() + _STALLED_S
        while not done():
            if monotonic_s() > until:
                raise RuntimeError("the worker was given no partitions by the in-process broker within a minute")
            await asyncio.sleep(0.05)

    def _publish(self, bootstrap: str, simulation: Simulation) -> None:
        def pace(at_ms: int) -> float:
            self.clock.published_ms = at_ms
            if simulation.truth.produced - self.worker.tally.records > _MOST_UNDER_WAY:
                return 0.02
            return (self.clock.wall_ms(at_ms) - self.clock.now_ms()) / 1_000

        def progress(sent: int) -> None:
            self.published = sent

        try:
            publish(simulation.records(), bootstrap, pace=pace, stop=self._halt.is_set, on_progress=progress)
            if simulation.truth.complete:
                self.clock.published_ms = self.clock.end_ms
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._publish_failure = error

    async def _until_done(
        self,
        worker: Worker,
        working: asyncio.Task[None],
        publishing: asyncio.Future[None],
        show: Callable[[Demo], None],
    ) -> None:
        seen, moved_s, asked_s = -1, monotonic_s(), 0.0
        while not working.done():
            show(self)
            if monotonic_s() - asked_s > _ZONES_S:
                self.zones = await worker.between_flushes(lambda sink: busiest_zones(sink, self.territory.layers[0]))
                asked_s = monotonic_s()
            await asyncio.sleep(0.25)
            if worker.tally.records != seen:
                seen, moved_s = worker.tally.records, monotonic_s()
            if not publishing.done():
                continue
            if self._publish_failure is not None or monotonic_s() - moved_s > _STALLED_S:
                return
            if seen < self.published:
                continue
            if self.interrupted or worker.has_seen(self.clock.end_ms):
                return
