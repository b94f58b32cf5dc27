"""Batches through the stages, in a thread: resolve its writer schemas, run, and hold the account."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from processors.pipeline import Limits, Outcome, Reference, Turn, admit, run_together
from processors.refusals import Breach, RefusalLimits
from processors.validate import ClockLimits
from schemas.contracts import Contract, Domain, contract_of
from schemas.records import Batch
from schemas.registry import RegistryAwayError, Writers
from schemas.writers import Writer
from streams.clock import monotonic_s, sleep_s
from streams.failures import WorkerStopped
from streams.log import logger
from streams.settings import Settings


class AccountingError(RuntimeError):
    """A batch whose records did not end as exactly one event or one reject each: a bug of ours, never data's fault."""


class PoisonError(WorkerStopped):
    """So many records of a partition are refused that it cannot be its senders' everyday mistakes."""

    def __init__(self, topic: str, partition: int, breach: Breach) -> None:
        setting = "VIGIE_MAX_CONSECUTIVE_INVALID" if breach.kind == "consecutive" else "VIGIE_MAX_INVALID_RATIO"
        super().__init__(
            f"{breach.refused} of {breach.records} records of {topic}/{partition} are refused (offsets "
            f"{breach.first_offset} to {breach.last_offset}, most often: {breach.reason}). Nothing of that batch has "
            "gone to the dead letters. If the senders are wrong, stop them; if vigie is (a new schema, another "
            f"territory), set it right; if they shall all be dead letters, raise {setting}"
        )


class Intake:
    """The blocking work between a fetched batch and its outcomes."""

    def __init__(self, settings: Settings, reference: Reference, writers: Writers) -> None:
        self._settings = settings
        self._reference = reference
        self._writers = writers
        self._log = logger("intake")
        self._waiting: set[object] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether the registry is away and being waited for. For any thread."""
        return bool(self._waiting)

    def through_the_stages(self, turns: Sequence[Turn]) -> list[list[Outcome]]:
        """Take batches of a topic through every stage, together. Changes their states; returns the outcomes of each.

        Raises RegistryAwayError when the registry stays away longer than the retry budget, and AccountingError.
        """
        writers = self._patient(contract_of(turns[0].state.domain))
        found = run_together(turns, self._reference, writers)
        for batch, outcomes in zip((turn.batch for turn in turns), found, strict=True):
            ended = sum(len(o.events) + len(o.refused) for o in outcomes)
            if ended != len(batch):
                raise AccountingError(
                    f"{len(batch)} records of {batch.topic}/{batch.partition} from offset {batch.first_offset} "
                    f"became {ended} events and rejects"
                )
        return found

    def would_admit(self, batch: Batch, domain: Domain) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What would become of these records now, each by itself, with `received_ms` as the broker's time: (events,
        rejects). Raises RegistryAwayError as above."""
        writers = self._patient(contract_of(domain))
        return admit(batch, domain, self._reference, writers)

    def _patient(self, contract: Contract) -> _Patient:
        return _Patient(self._writers, contract, self._settings.retry_budget_s, self._waiting)

    def log_batch(self, batch: Batch, outcomes: Sequence[Outcome], seconds: float) -> None:
        """One line about a batch that went through."""
        if not self._settings.log_batches:
            return
        self._log.info(
            "batch",
            topic=batch.topic,
            partition=batch.partition,
            first_offset=batch.first_offset,
            last_offset=batch.last_offset,
            rows=len(batch),
            bytes=batch.size_bytes,
            stored=sum(len(o.events) for o in outcomes),
            rejected={reason: n for o in outcomes for reason, n in o.refused["reason"].value_counts().iter_rows()},
            duration_ms=round(seconds * 1_000, 1),
        )


class _Patient:
    """The writers of one contract, by framing; while the registry is away it is waited for, within a budget, and this
    is in `waiting`."""

    def __init__(self, writers: Writers, contract: Contract, budget_s: float, waiting: set[object]) -> None:
        self._writers = writers
        self._contract = contract
        self._until = monotonic_s() + budget_s
        self._waiting = waiting
        self._found: dict[bytes, Writer | None] = {}

    def get(self, prefix: bytes, /) -> Writer | None:
        try:
            while prefix not in self._found:
                try:
                    self._found[prefix] = self._writers.resolve(self._contract, prefix)
                except RegistryAwayError as error:
                    if monotonic_s() > self._until:
                        raise
                    self._waiting.add(self)
                    logger("intake").warning("waiting for the schema registry", error=str(error))
                    sleep_s(1.0)
        finally:
            self._waiting.discard(self)
        return self._found[prefix]


def limits(settings: Settings) -> Limits:
    """The limits of the stages, in their units."""
    return Limits(
        clock=ClockLimits(
            max_future_ms=round(settings.max_future_s * 1_000), max_age_ms=round(settings.max_age_days * 86_400_000)
        ),
        disorder_ms=round(settings.disorder_s * 1_000),
        chunk_records=settings.chunk_records,
        max_record_bytes=settings.max_record_bytes,
        refusals=RefusalLimits(
            max_ratio=settings.max_invalid_ratio,
            max_consecutive=settings.max_consecutive_invalid,
            window=settings.invalid_window,
        ),
    )


def unseen(batch: Batch, next_offset: int | None) -> Batch | None:
    """The part of a batch from `next_offset` on; None when there is none."""
    if next_offset is None or batch.first_offset >= next_offset:
        return batch
    if batch.last_offset < next_offset:
        return None
    return batch.part(int((batch.offsets < next_offset).sum()), len(batch))
