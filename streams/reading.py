"""How far the client has read each partition, which is not always where its last record was.

A transaction ends with a marker: an offset without a record, which the client passes over and says nothing of. So a
partition may be read to its end though its end is behind the last record, and a batch may begin behind the end of the
one before it with nothing left out. What is noted here tells both from records that were passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from faust.types import TP

from streams.fetching import behind


@dataclass(frozen=True)
class Reading:
    """How far one partition is read. No record lies between `handed` and `position`.

    `handed` is the offset behind the last record that the client gave, `position` the one it asks for next; from
    `since` on the last run of records leaves nothing out. `state` is the client's, one for each assignment, and
    `unreset` something in it that is replaced when its position is lost and begins anew elsewhere.
    """

    state: Any
    unreset: object
    since: int
    handed: int
    position: int


class Readings:
    """The readings of one client. They are noted in its thread, in one stretch with what they tell of; anybody may ask.

    States are aiokafka's: what is not public of it is its sign of a reset.
    """

    def __init__(self) -> None:
        self._readings: dict[TP, Reading] = {}
        self._suspended = 0

    # -- in the client's thread ----------------------------------------------------------------------------------------

    def fetched(self, records: Mapping[TP, Sequence[Any]], states: Mapping[TP, Any]) -> None:
        """The client has just given these records, and stands where the states say."""
        if self._suspended:
            return
        for tp, state in states.items():
            before = self._readings.get(tp)
            if before is not None and before.state is not state:
                before = None
            if run := records.get(tp):
                self._readings[tp] = _behind(run, before, state)
            elif before is not None and state.has_valid_position:
                self._readings[tp] = replace(before, position=state.position)

    def moved(self, offsets: Mapping[TP, int], states: Mapping[TP, Any]) -> None:
        """The client is about to be moved to these offsets."""
        if self._suspended:
            return
        for tp, offset in offsets.items():
            if tp in states:
                self._readings[tp] = Reading(states[tp], states[tp]._position_fut, offset, offset, offset)

    def forget(self, partitions: Mapping[TP, int]) -> None:
        """Nobody knows where the client stands in these."""
        for tp in partitions:
            self._readings.pop(tp, None)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Nothing is known, and nothing noted, while the client is moved in many steps."""
        self._suspended += 1
        self._readings.clear()
        try:
            yield
        finally:
            self._suspended -= 1

    # -- in any thread -------------------------------------------------------------------------------------------------

    def since(self, tp: TP, run: Sequence[Any]) -> int:
        """From where on this run, the last that the client gave of the partition, leaves nothing out."""
        reading, first = self._readings.get(tp), int(run[0].offset)
        return first if reading is None or reading.handed != behind(run[-1]) else min(reading.since, first)

    def end(self, tp: TP, state: Any, offset: int) -> int:
        """Behind which record the log up to `offset` ends, once the client has read so far; before that, `offset`.

        Whoever has processed everything up to there has everything that the client gave, and there was no more.
        """
        reading = self._readings.get(tp)
        if reading is None or reading.state is not state or reading.position < offset:
            return offset
        return min(reading.handed, offset)


def _behind(run: Sequence[Any], before: Reading | None, state: Any) -> Reading:
    first, sign = int(run[0].offset), state._position_fut
    unbroken = before is not None and before.unreset is sign
    since = min(before.handed, first) if before is not None and unbroken else first
    return Reading(state, sign, since, behind(run[-1]), state.position)
