"""ClickHouse over plain HTTP: what a run is judged by is not read with the code that is judged."""

from __future__ import annotations

import io
from typing import Any, Final

import httpx
import polars as pl

_TIMEOUT_S: Final = 60.0


class DatabaseError(Exception):
    """ClickHouse did not answer, or not with rows."""


class Database:
    """Asks over HTTP. `url` is that of the server. May be used from several threads."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._client = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)

    def frame(self, sql: str) -> pl.DataFrame:
        """A query's result; columns that are no plain type are best cast in the query. Raises DatabaseError."""
        return pl.read_ipc_stream(io.BytesIO(self._ask(sql, "ArrowStream")))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """A query's result as tuples. Raises DatabaseError."""
        return self.frame(sql).rows()

    def close(self) -> None:
        self._client.close()

    def _ask(self, sql: str, format: str) -> bytes:
        try:
            answer = self._client.post("/", content=f"{sql} FORMAT {format}")
        except httpx.HTTPError as error:
            raise DatabaseError(f"ClickHouse does not answer: {type(error).__name__} {error}") from error
        if answer.status_code != 200:
            raise DatabaseError(f"ClickHouse refused {sql[:200]}: {answer.text[:500]}")
        return answer.content
