"""Settings: environment (`VIGIE_…`) over an optional file, parsed once into one frozen object. Nothing else reads the
environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

# One worker per core: Polars' own threads would only fight over it. It reads this once, when it is first imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

PREFIX: Final = "VIGIE_"
#: Names the settings file.
FILE_VARIABLE: Final = "VIGIE_SETTINGS"


class SettingsError(ValueError):
    """A setting is wrong; one problem per line, each naming its variable."""


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Every setting of the worker. Lists are separated by commas in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    kafka_bootstrap: str = Field("localhost:9092", description="Kafka brokers, host:port separated by commas")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to speak with the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, with a SASL_ security"
    )
    kafka_username: str | None = Field(None, description="SASL user")
    kafka_password: SecretStr | None = Field(None, description="SASL password")
    kafka_ca_file: Path | None = Field(None, description="certificate authorities of the brokers (PEM)")
    group: str = Field("vigie", min_length=1, description="consumer group; also the Faust application id")
    instance_id: str | None = Field(None, description="static membership: a name that this worker keeps over restarts")
    schema_registry_url: str | None = Field(None, description="registry for records in Confluent framing")
    older_schemas: Paths = Field((), description="Avro schema files of vendors' earlier versions")
    clickhouse_url: SecretStr = Field(
        SecretStr("chdb:///var/lib/vigie/clickhouse"),
        description="chdb:///path, or https://user:password@host:8443/database",
    )
    territories: Paths = Field((), description="territory folders, separated by commas")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of a topic that `vigie init` creates")
    replication: int = Field(1, ge=1, le=32767, description="replicas of a topic that `vigie init` creates")
    retention_days: float = Field(
        7.0, gt=0, description="how long Kafka keeps raw records, and every transition of an alert"
    )
    webhook_url: str | None = Field(None, description="receiver of alert transitions")
    webhook_secrets: Secrets = Field((), description="signing secrets whsec_<base64>, the newest first")
    external_url: str = Field("http://localhost:6066", description="where a person reads more; stands in each webhook")
    flush_interval_s: Seconds = Field(1.0, description="rows become readable at least this often")
    snapshot_interval_s: Seconds = Field(5.0, description="a restart reads again what is newer than the last snapshot")
    flush_rows: int = Field(100_000, ge=1, description="or as soon as this many wait")
    batch_records: int = Field(30_000, ge=1, description="about so many records of one partition are handled at once")
    linger_s: float = Field(
        0.1,
        ge=0,
        description="how long a fetch that brings little waits for more; up to five times as long where many do, "
        "and then for a flush that is under way",
    )
    fetch_bytes: int = Field(2_097_152, ge=1_024, description="most bytes fetched from one partition at once")
    disorder_s: float = Field(
        1.0,
        ge=0,
        description="how much older than its neighbours an event may be and not be late; alerts wait for so long",
    )
    max_future_s: Seconds = Field(300.0, description="how far ahead of the broker's clock an event may be")
    max_age_days: float = Field(400.0, gt=0, description="how far behind the broker's clock an event may be")
    max_record_bytes: int = Field(1_048_576, ge=1, description="larger records are refused")
    chunk_records: int = Field(65_536, ge=1, le=65_536, description="records of one unit of aggregation")
    idle_grace_s: Seconds = Field(
        2.0, description="how long a partition must be quiet before time passes without events"
    )
    zone_watch_interval_s: Seconds = Field(60.0, description="how often zones are looked at for hot spots")
    start_timeout_s: Seconds = Field(60.0, description="how long to wait for Kafka, registry and ClickHouse at start")
    retry_budget_s: Seconds = Field(
        3_600.0,
        description="how long ClickHouse or Kafka may be away before the worker stops; fetching waits meanwhile",
    )
    clickhouse_timeout_s: Seconds = Field(20.0, description="how long ClickHouse may take for one answer")
    watchdog_s: Seconds = Field(300.0, description="the worker ends when records wait and nothing moves for so long")
    session_timeout_s: Seconds = Field(60.0, description="after so long without a word Kafka takes a worker for dead")
    rebalance_timeout_s: Seconds = Field(60.0, description="how long Kafka waits for workers to hand over partitions")
    max_invalid_ratio: float = Field(
        0.5, gt=0, le=1, description="the worker stops when more of a partition's last records than this are refused"
    )
    invalid_window: int = Field(10_000, ge=1, description="how many last records that is judged by")
    max_consecutive_invalid: int = Field(
        1_000, ge=1, description="the worker stops when more records of a partition in a row are refused"
    )
    drain_timeout_s: Seconds = Field(
        25.0, description="how long a rebalance or a stop may take to finish what is begun"
    )
    webhook_budget_s: Seconds = Field(
        900.0, description="how long one notification is tried again before that is logged as an error; then it goes on"
    )
    web_host: str = Field("127.0.0.1", min_length=1, description="address that /live, /ready and /metrics listen on")
    web_port: int = Field(
        6066, ge=0, le=65_535, description="their port: one of its own for each worker of a machine; 0: none"
    )
    sample_interval_s: Seconds = Field(15.0, description="how often the metrics are kept in ClickHouse")
    replay_topics: Names = Field((), description="topics that `vigie replay` may write to, separated by commas")
    replay_stale_s: Seconds = Field(
        30.0, description="after so long without a word from its process, a replay or retry may be taken up by another"
    )
    log_batches: bool = Field(True, description="log one line per batch")
    threads: int = Field(0, ge=0, description="threads for blocking work; 0 takes one per core")

    @field_validator("webhook_url", "schema_registry_url", "external_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("clickhouse_url")
    @classmethod
    def _is_clickhouse(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in ("chdb", "http", "https", "clickhouse", "clickhouses"):
            raise ValueError("must begin with chdb://, http:// or https://")
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Settings:
        if self.drain_timeout_s >= self.rebalance_timeout_s:
            raise ValueError(
                "VIGIE_DRAIN_TIMEOUT_S must be below VIGIE_REBALANCE_TIMEOUT_S: "
                "who hands over later than Kafka waits has lost the partition already"
            )
        if self.webhook_url and not self.webhook_secrets:
            raise ValueError("VIGIE_WEBHOOK_URL needs VIGIE_WEBHOOK_SECRETS: webhooks are always signed")
        if self.kafka_security.startswith("SASL") and not (self.kafka_username and self.kafka_password):
            raise ValueError(
                f"VIGIE_KAFKA_SECURITY={self.kafka_security} needs VIGIE_KAFKA_USERNAME and VIGIE_KAFKA_PASSWORD"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)

    def shown(self) -> dict[str, str]:
        """Every setting as text, secrets masked."""
        return {name: _masked(name, getattr(self, name)) for name in type(self).model_fields}


def _masked(name: str, value: Any) -> str:
    if name == "clickhouse_url":
        return without_password(value.get_secret_value())
    if isinstance(value, tuple):
        return ", ".join(_masked("", item) for item in value)
    if value is None:
        return ""
    return "********" if isinstance(value, SecretStr) else without_password(str(value))


def without_password(url: str) -> str:
    """A URL that may be shown: neither its password nor its query, which can hold one."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "********"
    if not parts.password and not parts.query:
        return url
    user = f"{parts.username}:********@" if parts.password else f"{parts.username}@" if parts.username else ""
    place = f"{user}{parts.hostname or ''}{port}"
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def load(**fixed: Any) -> Settings:
    """Settings: `fixed` over the environment over the file named by VIGIE_SETTINGS. Raises SettingsError."""
    in_file = _file(os.environ.get(FILE_VARIABLE))
    given = {**{name: value for name, value in in_file.items() if PREFIX + name.upper() not in os.environ}, **fixed}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    outside = {FILE_VARIABLE, *(n for n in os.environ if n.startswith("VIGIE_REQUIRE_"))}
    strange = sorted(n for n in os.environ if n.upper().startswith(PREFIX) and n.upper() not in known | outside)
    if strange:
        raise SettingsError(
            "\n".join(f"{name} is no setting; `vigie check --print` shows those there are" for name in strange)
        )
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_problem(e) for e in error.errors())) from None


def _problem(error: Any) -> str:
    where = PREFIX + str(error["loc"][0]).upper() + ": " if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}{message[:1].lower() + message[1:] if where else message}"


def _file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text("utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{FILE_VARIABLE}={path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{FILE_VARIABLE}={path}: a mapping of settings is expected")
    return {str(key).lower(): value for key, value in found.items()}
