"""What only a ClickHouse server understands (users, roles, limits), as far as it can be known without one.

The embedded engine has the same parser, the same settings and the same rights, but makes no users by SQL. So users.sql
is parsed by it; and its grants and limits are put, word for word, into the configuration of an engine whose only user
then is `vigie` or `grafana`. What is left to a server: CREATE USER and ALTER USER themselves, passwords of parameters,
and CHANGEABLE_IN_READONLY.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
import yaml

from sinks.clickhouse import Sink
from tests.deploy.compose import DEPLOY, ROOT

_FOLDER: Final = DEPLOY / "clickhouse"
_TEXT: Final = "\n".join(line for line in (_FOLDER / "users.sql").read_text("utf-8").splitlines() if line[:2] != "--")
_STATEMENTS: Final = tuple(" ".join(part.split()) for part in _TEXT.split(";") if part.strip())

#: ClickHouse's numbers: ACCESS_DENIED, READONLY, TOO_MANY_ROWS_OR_BYTES.
_DENIED, _READONLY, _TOO_MANY = 497, 164, 396


@dataclass(frozen=True)
class Limit:
    """One setting of the profile: its value, and what may be asked for instead."""

    value: str | None
    least: str | None
    most: str | None
    changeable: bool


def limits() -> dict[str, Limit]:
    """The settings of the profile `dashboard_limits`."""
    (statement,) = (one for one in _STATEMENTS if one.startswith("ALTER SETTINGS PROFILE dashboard_limits"))
    found = {}
    for part in statement.partition(" SETTINGS ")[2].partition(" SETTINGS ")[2].split(", "):
        shape = r"(\w+)(?: = (\S+))?(?: MIN (\S+))?(?: MAX (\S+))?( CHANGEABLE_IN_READONLY)?"
        setting = re.fullmatch(shape, part)
        assert setting, part
        name, value, least, most, changeable = setting.groups()
        found[name] = Limit(value, least, most, changeable is not None)
    return found


def rights(grantee: str) -> list[str]:
    """GRANT and REVOKE of a user or role, in order, without its name: as a configuration has them."""
    said = (re.fullmatch(rf"((?:GRANT|REVOKE) .*) (?:TO|FROM) {grantee}", one) for one in _STATEMENTS)
    return [found[1] for found in said if found]


# --- the SQL as text


@pytest.mark.parametrize("statement", _STATEMENTS, ids=lambda one: one[:40])
def test_every_statement_is_parsed(clickhouse: Sink, statement: str) -> None:
    """By the parser of the engine that vigie runs on; privileges and clauses that do not exist are refused by it."""
    ((parsed,),) = clickhouse.rows("SELECT formatQuerySingleLine({q:String})", {"q": statement})
    # It writes some clauses another way; the objects it speaks of are the same.
    assert parsed.replace("`", "").split()[:3] == statement.split()[:3]


@pytest.mark.parametrize(
    "broken",
    [
        "GRANT SELEKT ON city.* TO dashboards",
        "CREATE USER grafana IDENTIFED BY 'x'",
        "ALTER SETTINGS PROFILE dashboard_limits SETTINGS readonly = 1 CHANGABLE_IN_READONLY",
    ],
)
def test_the_parser_notices_a_misspelt_word(clickhouse: Sink, broken: str) -> None:
    """What the test above relies on."""
    with pytest.raises(Exception, match="yntax error"):
        clickhouse.rows("SELECT formatQuerySingleLine({q:String})", {"q": broken})


def test_every_limit_is_a_setting(clickhouse: Sink) -> None:
    """The parser takes any name; the server would not."""
    known = {name for (name,) in clickhouse.rows("SELECT name FROM system.settings")}
    assert set(limits()) - known == set()
    assert "max_execution_times" not in known


def test_no_password_is_in_the_file() -> None:
    """Each comes as a parameter, and there is one for each user."""
    named = [one for one in _STATEMENTS if "IDENTIFIED" in one]
    assert len(named) == 4
    for statement in named:
        (user,) = re.findall(r"USER (?:IF NOT EXISTS )?(\w+)", statement)
        assert f"IDENTIFIED WITH sha256_password BY {{{user}_password:String}}" in statement


def test_it_may_run_again_while_workers_write() -> None:
    """Nothing is dropped or replaced on the way: a user that is gone for an instant stops every worker."""
    assert not any(re.search(r"\bDROP\b|\bOR REPLACE\b", one) for one in _STATEMENTS)
    made = [one for one in _STATEMENTS if one.startswith("CREATE")]
    assert made
    assert all(" IF NOT EXISTS " in one for one in made)


def test_grafana_gets_one_role_and_its_limits() -> None:
    """Read-only, and bounded in time, memory and rows; a result that is too large fails instead of being cut short."""
    found = limits()
    assert (found["readonly"].value, found["readonly"].changeable) == ("1", False)
    assert {"max_execution_time", "max_memory_usage", "max_result_rows", "max_result_bytes"} <= set(found)
    assert found["result_overflow_mode"].value == "'throw'"
    assert "GRANT dashboards TO grafana" in _STATEMENTS
    assert "ALTER USER grafana DEFAULT ROLE dashboards" in _STATEMENTS
    assert any(one.endswith("SETTINGS PROFILE 'dashboard_limits'") for one in _STATEMENTS if "USER grafana" in one)
    assert rights("grafana") == ["GRANT dashboards"]
    assert rights("dashboards") == ["GRANT SELECT ON city.*", "REVOKE SELECT(reporter_pseudonym) ON city.events_report"]


def test_what_grafana_sends_along_may_be_changed() -> None:
    """Its driver adds max_execution_time to each query: the timeout of the data source, 60 s by default, and 5 s.
    Refused, no panel would show anything. The server's configuration allows for such settings."""
    changeable = {name: it for name, it in limits().items() if it.changeable}
    assert set(changeable) == {"max_execution_time", "max_threads", "additional_table_filters"}
    source = _data_source()
    asked = int(source.get("queryTimeout", "60")) + 5
    assert int(changeable["max_execution_time"].most or 0) >= asked
    for custom in source.get("customSettings", []):
        limit = changeable[custom["setting"]]
        assert int(limit.least or 0) <= int(custom["value"]) <= int(limit.most or 0)
    server = ElementTree.parse(_FOLDER / "config.d" / "vigie.xml")
    assert server.findtext("access_control_improvements/settings_constraints_replace_previous") == "true"


def _data_source() -> dict[str, Any]:
    """What the data source is provisioned with; nothing before its own change is there."""
    for file in (DEPLOY / "grafana" / "provisioning" / "datasources").glob("*.y*ml"):
        return dict(yaml.safe_load(file.read_text("utf-8"))["datasources"][0]["jsonData"])
    return {}


def test_no_query_reads_what_dashboards_may_not() -> None:
    """The pseudonym of a citizen is revoked: a panel that named it would fail on a server, and only there."""
    asked = [*(ROOT / "sinks" / "queries").glob("*.sql"), *(DEPLOY / "grafana").rglob("*.json")]
    assert asked
    assert [str(file) for file in asked if "reporter_pseudonym" in file.read_text("utf-8")] == []


# --- the configuration


def test_the_configuration_is_well_formed() -> None:
    """Both files are read by the server at each start; a bad one keeps it down."""
    for file in ("config.d/vigie.xml", "users.d/admin.xml"):
        assert ElementTree.parse(_FOLDER / file).getroot().tag == "clickhouse"


def test_the_administrator_has_a_password_and_the_default_user_is_gone() -> None:
    """The password comes out of the environment under the name that the compose file gives."""
    users = ElementTree.parse(_FOLDER / "users.d" / "admin.xml").find("users")
    assert users is not None
    assert {user.tag for user in users} == {"default", "admin"}
    assert users.find("default[@remove='remove']") is not None
    password = users.find("admin/password")
    assert password is not None
    assert (password.get("from_env"), password.text) == ("CLICKHOUSE_ADMIN_PASSWORD", None)
    assert users.findtext("admin/access_management") == "1"


# --- the rights, carried out


def _open(folder: Path, *configuration: str, said: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Statements to the engine in a process of its own, opened under a configuration, or with all rights."""
    return subprocess.run(
        [sys.executable, "-m", "tests.deploy.as_user", str(folder / "data"), *configuration],
        input=json.dumps(said),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=60,
    )


@dataclass(frozen=True)
class Engine:
    """A directory of the embedded engine with the database `city`, and configurations to open it under."""

    folder: Path

    def run(self, statements: list[str], configuration: Path | None = None) -> list[int | None]:
        """The error number of each statement, None where it was carried out."""
        done = _open(self.folder, *([str(configuration)] if configuration else []), said=statements)
        assert done.returncode == 0, done.stderr[-3_000:]
        answers: list[int | None] = json.loads(done.stdout)
        return answers

    def as_user(self, grantee: str, settings: dict[str, Limit]) -> Path:
        """A configuration whose only user has the rights and limits of that one in users.sql.

        `changeable` is left out: the engine knows it only under a setting that it does not read when it is embedded.
        """
        values = "".join(
            f"<{name}>{it.value.strip(chr(39))}</{name}>" for name, it in settings.items() if it.value is not None
        )
        grants = "".join(f"<query>{escape(one)}</query>" for one in rights(grantee))
        users = self.folder / f"{grantee}-users.xml"
        users.write_text(
            f"<clickhouse><profiles><default>{values}</default></profiles><quotas><default/></quotas><users><default>"
            "<password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>"
            f"<grants>{grants}</grants></default></users></clickhouse>",
            "utf-8",
        )
        configuration = self.folder / f"{grantee}.xml"
        configuration.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>", "utf-8")
        return configuration


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """As a server is before its first `vigie init`: the database, and one that is none of vigie's business."""
    made = Engine(tmp_path_factory.mktemp("users"))
    prepared = ["CREATE DATABASE city", "CREATE TABLE default.other (number Int64) ENGINE = MergeTree ORDER BY number"]
    assert made.run(prepared) == [None, None]
    return made


_OWN: Final = (
    "migrate",
    "migrate",
    "INSERT INTO rejects (topic, offset, received_at) VALUES ('a', 1, now64(3))",
    "SELECT count() FROM rejects FINAL",
    "delete",
    "SELECT mutation_id FROM system.mutations WHERE database = currentDatabase()",
    "ALTER TABLE rejects ADD COLUMN IF NOT EXISTS later UInt8",
    "ALTER TABLE rejects DROP COLUMN later",
    "show tables",
)
_NOT_OWN: Final = (
    "SELECT * FROM default.other",
    "INSERT INTO default.other VALUES (1)",
    "CREATE DATABASE another",
    "SELECT * FROM file('/etc/hostname', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "INSERT INTO FUNCTION file('out.csv', 'CSV', 'a Int8') VALUES (1)",
)


@pytest.fixture(scope="module")
def as_vigie(engine: Engine) -> list[int | None]:
    """What the user `vigie` is answered; the tables are there afterwards."""
    return engine.run([*_OWN, *_NOT_OWN], engine.as_user("vigie", {}))


@pytest.mark.integration
def test_the_rights_of_vigie_are_enough_and_no_more(as_vigie: list[int | None]) -> None:
    """Under the grants of users.sql, `vigie init` makes its tables and a worker inserts, reads and takes back; another
    database, files and other hosts are closed."""
    assert dict(zip(_OWN, as_vigie, strict=False)) == dict.fromkeys(_OWN)
    assert dict(zip(_NOT_OWN, as_vigie[len(_OWN) :], strict=True)) == dict.fromkeys(_NOT_OWN, _DENIED)


_SAMPLES: Final = {
    r"Array\(String\)": "['a']",
    r"Array\(U?Int\d+\)": "[1]",
    r"DateTime.*": "toDateTime64('2026-01-01 00:00:00', 3, 'UTC')",
    r"U?Int\d+|Float\d+": "1",
    r"String": "'a'",
}


#: A dashboard may not reach tables by a function.
_TABLE_FUNCTION: Final = "FROM merge("


def named_queries() -> list[str]:
    """The queries of `sinks/queries`, with something of the right type for each parameter."""

    def sample(found: re.Match[str]) -> str:
        (value,) = (value for kind, value in _SAMPLES.items() if re.fullmatch(kind, found[1]))
        return value

    texts = [file.read_text("utf-8") for file in sorted((ROOT / "sinks" / "queries").glob("*.sql"))]
    bare = ["\n".join(line for line in text.splitlines() if not line.startswith("--")).strip() for text in texts]
    return [re.sub(r"\{\w+:\s*([^}]+?)\s*\}", sample, text.rstrip(";")) for text in bare]


@pytest.mark.integration
@pytest.mark.usefixtures("as_vigie")
def test_a_dashboard_reads_and_does_nothing_else(engine: Engine) -> None:
    """Under the grants and limits of users.sql every table, view and named query of vigie can be read, but for the
    pseudonym; nothing can be written, changed or reached, and a result beyond the limit fails."""
    with_all = ("windows", "alerts", "worker_samples", "asset_state", "snapshots", "rejects", "zones", "assets")
    read = [
        *(f"SELECT * FROM city.{name}" for name in with_all),
        "SELECT count() FROM city.events_report FINAL",
        "SELECT * EXCEPT reporter_pseudonym FROM city.events_report",
        "SELECT name FROM system.tables WHERE database = 'city'",
        *(query for query in named_queries() if _TABLE_FUNCTION not in query),
    ]
    refused = {
        # What only commands ask, with the rights of their user.
        **{query: _DENIED for query in named_queries() if _TABLE_FUNCTION in query},
        "SELECT reporter_pseudonym FROM city.events_report": _DENIED,
        "SELECT * FROM city.events_report": _DENIED,
        "SELECT * FROM default.other": _DENIED,
        "INSERT INTO city.rejects (topic) VALUES ('a')": _DENIED,
        "ALTER TABLE city.rejects DELETE WHERE 1": _DENIED,
        "DELETE FROM city.rejects WHERE 1": _DENIED,
        "TRUNCATE TABLE city.rejects": _DENIED,
        "DROP TABLE city.rejects": _DENIED,
        "CREATE TABLE city.mine (a Int8) ENGINE = Memory": _DENIED,
        "SELECT * FROM file('/etc/hostname', 'LineAsString')": _DENIED,
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')": _DENIED,
        "SET readonly = 0": _READONLY,
        "SELECT 1 SETTINGS max_memory_usage = 100000000000": _READONLY,
        "SELECT 1 SETTINGS max_result_rows = 0": _READONLY,
        f"SELECT number FROM numbers({limits()['max_result_rows'].value}0)": _TOO_MANY,
    }
    answers = engine.run([*read, *refused], engine.as_user("dashboards", limits()))
    assert dict(zip(read, answers, strict=False)) == dict.fromkeys(read)
    assert dict(zip(refused, answers[len(read) :], strict=True)) == refused


@pytest.mark.integration
def test_the_administrators_password_comes_out_of_the_environment(tmp_path: Path) -> None:
    """The file as it stands, its administrator under the name that the embedded engine logs in by, without a password:
    refused as soon as the variable holds one."""
    users = (_FOLDER / "users.d" / "admin.xml").read_text("utf-8").replace('<default remove="remove"/>', "")
    profiles = "<profiles><default/></profiles><quotas><default/></quotas></clickhouse>"
    users = re.sub(r"(</?)admin>", r"\1default>", users).replace("</clickhouse>", profiles)
    (tmp_path / "users.xml").write_text(users, "utf-8")
    configuration = tmp_path / "config.xml"
    configuration.write_text(f"<clickhouse><users_config>{tmp_path}/users.xml</users_config></clickhouse>", "utf-8")
    refused = _open(tmp_path, str(configuration), said=["SELECT 1"], CLICKHOUSE_ADMIN_PASSWORD="secret")
    assert refused.returncode != 0
    assert "AUTHENTICATION_FAILED" in refused.stderr
