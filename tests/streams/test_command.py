"""The command as a process: what it says is said, it ends when it is done, and it loads no more than it uses."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

#: A thread that never ends, as one that hangs in a dead connection.
_HANGING: Final = """
import sys, threading
from streams.cli.main import run
threading.Thread(target=threading.Event().wait).start()
sys.argv = ["vigie", *{arguments}]
run()
"""
#: Modules that take a fifth and a third of a second to import, after everything that a worker imports and stores.
_LOADED: Final = """
import streams.cli.worker
from tests.sinks.test_rows import event, ran, state_table, tables
assert state_table([event()]).num_rows and tables(ran([event()]))
import sys
print(*sorted({{"pandas", "confluent_kafka.schema_registry"}} & set(sys.modules)))
"""


def ended(script: str, **given: object) -> subprocess.CompletedProcess[str]:
    """A process that runs that script to its end."""
    command = [sys.executable, "-c", script.format(**given)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_command_ends_though_a_thread_hangs() -> None:
    """Its exit code and every word that it wrote are there: nothing holds up who waits for them."""
    done = ended(_HANGING, arguments=["--version"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout
    wrong = ended(_HANGING, arguments=["supervise"])
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr


def test_a_worker_loads_nothing_that_it_may_not_need() -> None:
    """Neither Pandas, which PyArrow imports where it is asked to read Python's lists, nor a registry's HTTP client."""
    done = ended(_LOADED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
