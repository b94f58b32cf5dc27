"""A ClickHouse HTTP endpoint over the embedded engine: one process owns the directory, others speak HTTP to it.

It speaks as much of ClickHouse's HTTP interface as its HTTP clients use. Statements and data pass as bytes; nothing is
decoded on the way. Writable, it is for tests and for several workers on one machine, and listens on loopback only;
read-only, it runs statements that read, within limits.

What it does not do: passwords, sessions (what `SET`, `USE` or a temporary table changes ends with its request),
external data, compressed answers, ClickHouse's own `compress` and `decompress` framing.
"""

from sinks.clickhouse_gateway.server import Gateway, serve

__all__ = ["Gateway", "serve"]
