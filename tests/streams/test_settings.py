"""Settings: parsed once, refused at start by the name of the variable, shown without secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streams.settings import Settings, SettingsError, load, without_password


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("VIGIE_"):
            monkeypatch.delenv(name)


def in_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, "utf-8")
    monkeypatch.setenv("VIGIE_SETTINGS", str(path))


def problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What is said of an environment with these settings."""
    for name, value in variables.items():
        monkeypatch.setenv(f"VIGIE_{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    return str(caught.value)


# --- where they come from


def test_there_are_defaults_for_everything() -> None:
    """An empty environment is a valid one: what is missing for a job is that job's to say."""
    assert load().kafka_bootstrap == "localhost:9092"


def test_the_environment_counts_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for the installation, a variable for the exception, an argument for the command that knows better."""
    in_file(tmp_path, monkeypatch, "group: of-the-file\nflush_rows: 7\nFLUSH_INTERVAL_S: 3\n")
    monkeypatch.setenv("VIGIE_GROUP", "of-the-environment")
    found = load(partitions=9)
    assert (found.group, found.partitions) == ("of-the-environment", 9)
    assert (found.flush_rows, found.flush_interval_s) == (7, 3.0)
    assert load(group="of-the-command").group == "of-the-command"


def test_lists_are_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment a list is one text; in the file it may be a list."""
    monkeypatch.setenv("VIGIE_TERRITORIES", "a/montpellier, b ,")
    assert load().territories == (Path("a/montpellier"), Path("b"))
    monkeypatch.delenv("VIGIE_TERRITORIES")
    in_file(tmp_path, monkeypatch, "territories: [a, b]\n")
    assert load().territories == (Path("a"), Path("b"))


def test_settings_do_not_change() -> None:
    """One frozen object, parsed once."""
    with pytest.raises(ValidationError):
        setattr(load(), "group", "other")  # noqa: B010 - mypy knows that it cannot be assigned


def test_the_environments_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not begin with VIGIE_, and what only the tests read, is none of ours."""
    monkeypatch.setenv("VIGIEX", "1")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "elsewhere:1")
    monkeypatch.setenv("VIGIE_REQUIRE_KAFKA", "1")
    assert load().kafka_bootstrap == "localhost:9092"


# --- what is refused


def test_unknown_variables_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting would be ignored in silence for years: each is named, and where the right ones stand."""
    said = problem(monkeypatch, flush_intervall_s="3", grupe="x")
    assert said.splitlines() == [
        "VIGIE_FLUSH_INTERVALL_S is no setting; `vigie check --print` shows those there are",
        "VIGIE_GRUPE is no setting; `vigie check --print` shows those there are",
    ]


def test_unknown_names_in_the_file_are_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same misspelling in the file is named as its variable would be."""
    in_file(tmp_path, monkeypatch, "flush_intervall_s: 3\n")
    with pytest.raises(SettingsError, match="VIGIE_FLUSH_INTERVALL_S: "):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kafka_security", "TLS"),
        ("kafka_sasl_mechanism", "MD5"),
        ("group", ""),
        ("clickhouse_url", "ftp://host/x"),
        ("clickhouse_url", "localhost:8123"),
        ("webhook_url", "host/hook"),
        ("schema_registry_url", "registry:8081"),
        ("external_url", "grafana"),
        ("partitions", "0"),
        ("partitions", "many"),
        ("partitions", "1025"),
        ("replication", "0"),
        ("retention_days", "0"),
        ("flush_interval_s", "0"),
        ("flush_interval_s", "-1"),
        ("flush_rows", "0"),
        ("snapshot_interval_s", "0"),
        ("batch_records", "0"),
        ("linger_s", "-0.1"),
        ("fetch_bytes", "1"),
        ("disorder_s", "-1"),
        ("max_future_s", "0"),
        ("max_age_days", "0"),
        ("max_record_bytes", "0"),
        ("chunk_records", "0"),
        ("chunk_records", "65537"),
        ("idle_grace_s", "0"),
        ("start_timeout_s", "soon"),
        ("retry_budget_s", "0"),
        ("clickhouse_timeout_s", "0"),
        ("watchdog_s", "0"),
        ("session_timeout_s", "0"),
        ("rebalance_timeout_s", "0"),
        ("drain_timeout_s", "0"),
        ("max_invalid_ratio", "0"),
        ("max_invalid_ratio", "1.1"),
        ("invalid_window", "0"),
        ("max_consecutive_invalid", "0"),
        ("threads", "-1"),
        ("threads", "1.5"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """One line, which begins with the variable to correct."""
    said = problem(monkeypatch, **{name: value})
    assert len(said.splitlines()) == 1
    assert said.startswith(f"VIGIE_{name.upper()}: ")


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody starts a worker five times to learn of five mistakes."""
    said = problem(monkeypatch, partitions="0", flush_rows="0", kafka_security="TLS").splitlines()
    assert sorted(line.split(":")[0] for line in said) == [
        "VIGIE_FLUSH_ROWS", "VIGIE_KAFKA_SECURITY", "VIGIE_PARTITIONS",
    ]  # fmt: skip


def test_a_refused_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is logged and pasted into tickets."""
    assert "hunter2" not in problem(monkeypatch, clickhouse_url="ftp://user:hunter2@host/x")


def test_settings_that_need_each_other_are_asked_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook is always signed; SASL has a user and a password."""
    assert "VIGIE_WEBHOOK_SECRETS" in problem(monkeypatch, webhook_url="https://host/hook")
    monkeypatch.delenv("VIGIE_WEBHOOK_URL")
    said = problem(monkeypatch, kafka_security="SASL_SSL", kafka_username="vigie")
    assert "VIGIE_KAFKA_PASSWORD" in said


@pytest.mark.parametrize(("drain", "rebalance"), [("60", "60"), ("25", "20")])
def test_a_drain_ends_before_kafka_has_given_up(monkeypatch: pytest.MonkeyPatch, drain: str, rebalance: str) -> None:
    """Who hands over later than Kafka waits has lost the partition already: both settings are named, and why."""
    said = problem(monkeypatch, drain_timeout_s=drain, rebalance_timeout_s=rebalance)
    assert "VIGIE_DRAIN_TIMEOUT_S must be below VIGIE_REBALANCE_TIMEOUT_S" in said


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "a: [1", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The error names the file by the variable that names it."""
    in_file(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError, match="VIGIE_SETTINGS="):
        load()


def test_a_file_that_is_absent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that leads nowhere is a mistake, not an empty file; an empty file is one."""
    monkeypatch.setenv("VIGIE_SETTINGS", str(tmp_path / "absent.yaml"))
    with pytest.raises(SettingsError, match="cannot be read"):
        load()
    in_file(tmp_path, monkeypatch, "")
    assert load().group == "vigie"


# --- what is shown

_SECRETS: dict[str, Any] = {
    "kafka_security": "SASL_SSL",
    "kafka_username": "vigie",
    "kafka_password": "hunter2-kafka",
    "clickhouse_url": "https://vigie:hunter2-clickhouse@db.example.org:8443/city",
    "webhook_url": "https://us:hunter2-hook@hooks.example.org/x",
    "webhook_secrets": "whsec_aHVudGVyMg==,whsec_b2xk",
    "schema_registry_url": "http://r:hunter2-registry@registry:8081",
}


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords, signing secrets and credentials in URLs: in `shown`, in the object's own text, nowhere."""
    for name, value in _SECRETS.items():
        monkeypatch.setenv(f"VIGIE_{name.upper()}", value)
    found = load()
    shown = found.shown()
    for text in shown.values():
        assert "hunter2" not in text
        assert "aHVudGVyMg" not in text
    assert shown["clickhouse_url"] == "https://vigie:********@db.example.org:8443/city"
    assert shown["kafka_password"] == "********"
    assert shown["webhook_secrets"] == "********, ********"
    assert shown["webhook_url"] == "https://us:********@hooks.example.org/x"
    # The two URLs that may hold credentials are not secrets by type; what is one is hidden in any text of the object.
    for secret in ("hunter2-kafka", "hunter2-clickhouse", "aHVudGVyMg"):
        assert secret not in repr(found)


def test_everything_is_shown() -> None:
    """`shown` leaves out no setting, and each one has a description for people."""
    assert set(load().shown()) == set(Settings.model_fields)
    assert all(f.description for f in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("chdb:///data", "chdb:///data"),
        ("http://host:8123/db", "http://host:8123/db"),
        ("http://user@host/db", "http://user@host/db"),
        ("http://user:pw@host/db", "http://user:********@host/db"),
        ("http://user:pw@host:1/db?x=1", "http://user:********@host:1/db"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    """Only the password goes; what helps to find a mistake stays."""
    assert without_password(url) == shown
