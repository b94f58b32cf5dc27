"""What an embedded ClickHouse holds, asked in a process of its own: a process can open one directory only.

    python -m benchmarks.stored DIRECTORY FOLDER < JSON list of statements

Writes the answer of statement i to FOLDER/i.arrow, nothing for a statement without an answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from benchmarks.process import ROOT, ProcessError, module

_TIMEOUT_S: Final = 600.0


def answers(directory: Path, statements: Sequence[str], folder: Path) -> list[pl.DataFrame]:
    """The answer to each statement, in order; no other process may have the directory open.

    A frame without columns stands for no rows, and for a statement without an answer. Raises ProcessError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        module("benchmarks.stored", directory, folder), input=json.dumps(list(statements)).encode(), cwd=ROOT,
        capture_output=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise ProcessError(f"ClickHouse did not answer:\n{done.stderr.decode('utf-8', 'replace')[-3_000:]}")
    files = [folder / f"{number}.arrow" for number in range(len(statements))]
    return [pl.read_ipc(file) if file.exists() else pl.DataFrame() for file in files]


def main() -> None:
    """Answer the statements on standard input."""
    from sinks.clickhouse import connect

    sink = connect(f"chdb://{Path(sys.argv[1]).absolute()}", retry_budget_s=1.0)
    try:
        for number, statement in enumerate(json.load(sys.stdin)):
            if statement.lstrip().upper().startswith("SELECT"):
                found = sink.frame(statement)
                if found.width:
                    found.write_ipc(Path(sys.argv[2]) / f"{number}.arrow")
            else:
                sink.command(statement)
    finally:
        sink.close()


if __name__ == "__main__":
    main()
