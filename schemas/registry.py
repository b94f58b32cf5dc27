"""Which writer schema do these framing bytes name? Known contracts, an operator's folder, or a schema registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from schemas.contracts import Contract
from schemas.framing import CONFLUENT, single_object_prefix
from schemas.writers import IncompatibleSchemaError, Writer, own_writer, writer

_NOT_FOUND: Final = 404
#: Callers try again themselves, and say so while they wait; a registry that hangs is one that is away.
_CLIENT: Final = {"max.retries": 0, "timeout": 10}


class RegistryAwayError(RuntimeError):
    """The schema registry did not answer. Its records are neither good nor bad until it does."""


class Writers:
    """Resolves prefixes to writers, remembering what it found. Safe from several threads.

    A schema that is found and does not fit the contract is None like one that nobody knows. What a registry does not
    know is asked again at the next batch: it may be registered a moment later.
    """

    def __init__(self, *, older: Iterable[Path] = (), registry_url: str | None = None) -> None:
        """`older`: Avro schema files of vendors' earlier versions, known by fingerprint. Raises ValueError for a bad
        one."""
        self._older = [_read(path) for path in older]
        self._registry = _Registry(registry_url) if registry_url else None
        self._found: dict[tuple[str, bytes], Writer | None] = {}
        self._lock = threading.Lock()

    @property
    def older(self) -> tuple[str, ...]:
        """The framing bytes of the older schemas, in hexadecimal."""
        return tuple(single_object_prefix(schema).hex() for schema in self._older)

    def resolve(self, contract: Contract, prefix: bytes) -> Writer | None:
        """The writer that these framing bytes name, None where the record cannot be an event. Raises
        RegistryAwayError."""
        key = (contract.name, prefix)
        with self._lock:
            if key not in self._found:
                if prefix.startswith(CONFLUENT):
                    schema = self._ask(int.from_bytes(prefix[1:5], "big"))
                    if schema is None:
                        return None
                    self._found[key] = _fitting(contract, schema)
                else:
                    self._found[key] = self._by_fingerprint(contract, prefix)
            return self._found[key]

    def _by_fingerprint(self, contract: Contract, prefix: bytes) -> Writer | None:
        if prefix == single_object_prefix(contract.schema):
            return own_writer(contract)
        found = next((schema for schema in self._older if single_object_prefix(schema) == prefix), None)
        return _fitting(contract, found) if found else None

    def _ask(self, schema_id: int) -> Mapping[str, Any] | None:
        return self._registry.schema(schema_id) if self._registry else None

    def check(self) -> None:
        """Ask the registry anything at all. Raises RegistryAwayError."""
        self._ask(1)


class _Registry:
    """The client of a schema registry. With its HTTP library it takes a fifth of a second to import: for those who have
    a registry."""

    def __init__(self, url: str) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError

        self._client = SchemaRegistryClient({"url": url, **_CLIENT})
        self._error = SchemaRegistryError

    def schema(self, schema_id: int) -> Mapping[str, Any] | None:
        """The schema of that number, None where there is none that could be a record's. Raises RegistryAwayError."""
        try:
            found = self._client.get_schema(schema_id)
        except self._error as error:
            if error.http_status_code == _NOT_FOUND:
                return None
            raise RegistryAwayError(f"schema registry answered {error.http_status_code}") from error
        except OSError as error:
            raise RegistryAwayError(f"schema registry cannot be reached: {error}") from error
        except Exception as error:
            # The client's HTTP library is its own business and changes between its releases.
            if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
                raise RegistryAwayError(f"schema registry cannot be reached: {error}") from error
            raise
        schema: Mapping[str, Any] = json.loads(found.schema_str or "null")
        return schema if isinstance(schema, dict) else None


def _fitting(contract: Contract, schema: Mapping[str, Any]) -> Writer | None:
    try:
        return writer(contract, schema)
    except IncompatibleSchemaError:
        return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        schema = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not an Avro schema file: {error}") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise ValueError(f"{path}: an Avro schema of a record is expected")
    return schema
