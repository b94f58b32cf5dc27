"""`python -m tests.deploy.as_user DIRECTORY [CONFIG]`: the embedded ClickHouse, opened as the user of a configuration.

Reads statements from standard input, a JSON list; writes a JSON list with ClickHouse's error number for each, or null
where it was carried out. `migrate`, `delete` and `show tables` in its place do what vigie does under these names. A
process of its own, because an engine takes its users when it starts and there is one to a process.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import streams.settings  # noqa: F401 - tells Polars how many threads it may have

# isort: split
import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse import Sink, SinkError, migrate


def attempt(sink: Sink, statement: str) -> int | None:
    """The number of the error that the statement ends with; None when it is carried out."""
    try:
        if statement == "migrate":
            migrate(sink)
        elif statement == "delete":
            sink.delete("rejects", "offset < 0")
        elif statement == "show tables":
            sink.rows("SHOW TABLES")
        elif re.match(r"SELECT|WITH", statement):
            sink.client.query(statement)
        else:
            sink.client.command(statement)
    except (ClickHouseError, SinkError) as error:
        found = re.search(r"Code: (\d+)|\bcode (\d+)|^(\d+) ", str(error))
        return int(next(group for group in found.groups() if group)) if found else -1
    return None


def main(directory: str, *configuration: str) -> None:
    options: dict[str, Any] = {}
    if configuration:
        # The database must be there already; without a configuration it is made.
        options = {"database": "city", "chdb_options": {"config-file": configuration[0]}}
    client = clickhouse_connect.get_client(dsn=f"chdb://{directory}", **options)
    sink = Sink(client, f"chdb://{directory}", retry_budget_s=0.2)
    answers = [attempt(sink, statement) for statement in json.load(sys.stdin)]
    client.close()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
