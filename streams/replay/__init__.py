"""Reading history again: a topic into another topic, and dead letters to where they came from.

What holds for both:

- A **throw-away consumer** reads (`source`): it belongs to no group, commits nothing, and ends at offsets that were
  fixed when it began.
- An **idempotent producer** writes (`sender`), one request at a time, and stops at the first record that is not taken:
  of each partition of the source a prefix is in the target, whenever the process dies.
- Every record that is sent bears the **run** that sent it and the place it comes from (`provenance`), so what a killed
  process had sent is read back from Kafka itself (`traces`), nothing being missing and nothing twice.
- Every run has a row in ClickHouse (`journal`), which its process keeps alive. Another process takes the run up only
  when that row has not moved for a while.

Not used: Kafka's transactions. vigie, like most readers here, reads records as they come, and those of a transaction
that was given up would count. What that leaves open: a process that is frozen for longer than VIGIE_REPLAY_STALE_S (a
suspended virtual machine), taken for dead, and wakes up, may still send what it had handed to its client by then.
"""

from __future__ import annotations


class ReplayError(RuntimeError):
    """A replay or a retry cannot be done, or could not be finished; the message says what to do."""
