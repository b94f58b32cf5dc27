"""The stages in a worker: what they wait for is told."""

from __future__ import annotations

import pytest

from processors.pipeline import Turn
from schemas.contracts import Contract
from schemas.registry import RegistryAwayError, Writers
from schemas.writers import Writer, own_writers
from streams import intake as intake_module
from streams.intake import Intake
from streams.settings import load
from tests.support.batches import batch_of, events, reference, state_of


class Shy(Writers):
    """Writers of a registry that answers at the third time of asking."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def resolve(self, contract: Contract, prefix: bytes) -> Writer | None:
        self.asked += 1
        if self.asked < 3:
            raise RegistryAwayError("nobody there")
        return own_writers(contract).get(prefix)


def test_a_registry_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is waited for, and no longer: who waits is not stuck."""
    seen: list[bool] = []
    shared, writers = reference(), Shy()
    intake = Intake(load(retry_budget_s=60.0), shared, writers)
    monkeypatch.setattr(intake_module, "sleep_s", lambda seconds: seen.append(intake.is_waiting))
    one = batch_of(events(3))
    ((outcome,),) = intake.through_the_stages([Turn(one, state_of(one, shared))])
    assert (seen, intake.is_waiting, len(outcome.events)) == ([True, True], False, 3)


def test_a_registry_that_stays_away_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the budget it is an error."""
    shared, writers = reference(), Shy()
    intake = Intake(load(retry_budget_s=0.001), shared, writers)
    monkeypatch.setattr(intake_module, "sleep_s", lambda seconds: None)
    monkeypatch.setattr(intake_module, "monotonic_s", iter((0.0, 1.0)).__next__)
    one = batch_of(events(3))
    with pytest.raises(RegistryAwayError):
        intake.through_the_stages([Turn(one, state_of(one, shared))])
    assert not intake.is_waiting
