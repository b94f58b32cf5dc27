"""Why a worker stops by itself: reasons that a person can do something about, told in words and without a traceback."""

from __future__ import annotations


class WorkerStopped(RuntimeError):
    """The worker has ended with nothing more acknowledged; the message says why and what to do."""


class NotDrainedError(WorkerStopped):
    """What was begun could not be stored in time: nothing is lost, and some work is done again."""


class KafkaError(WorkerStopped):
    """Kafka did not confirm dead letters or alerts, or has ended the worker's membership."""
