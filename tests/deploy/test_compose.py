"""deploy/compose.yaml: valid, confined, and made for the settings, the Kafka and the ClickHouse that vigie has. No
container runs here; what can be known of the file without one is known."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from jsonschema.validators import validator_for

from streams.settings import PREFIX, load
from tests.deploy import compose
from tests.deploy.compose import DEPLOY, FILE, ROOT, Compose, MissingVariableError, interpolated, problems
from tests.support.kafka import POM

_EXAMPLE: Final = compose.variables_of((DEPLOY / ".env.example").read_text("utf-8"))
_FILLED: Final = {name: f"{number}Abc" for number, name in enumerate(_EXAMPLE)}

_RAW: Final = compose.load()
_FILE: Final = interpolated(_RAW, _FILLED)
_SERVICES: Final[dict[str, dict[str, Any]]] = _FILE["services"]
_OURS: Final = {name: it for name, it in _SERVICES.items() if it["image"].startswith("localhost/vigie:")}
_WORKERS: Final = {name: it for name, it in _OURS.items() if it.get("command") == ["worker"]}

_GRAFANA: Final = DEPLOY / "grafana"


def against_the_schema(given: Compose) -> list[str]:
    """Where it departs from the JSON schema of the Compose Specification, as check-jsonschema ships it."""
    package = find_spec("check_jsonschema")
    assert package is not None and package.origin is not None
    schema = json.loads((Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text("utf-8"))
    found = validator_for(schema)(schema).iter_errors(given)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def seconds(text: str) -> int:
    """`45s` as a number; the file uses no other unit."""
    return int(text.removesuffix("s"))


# --- the file itself


def test_the_file_is_what_the_specification_says() -> None:
    """Every key is one that Compose knows, every value of the kind it takes."""
    assert against_the_schema(_RAW) == []
    assert against_the_schema(_FILE) == []


@pytest.mark.parametrize(
    ("service", "broken", "said"),
    [
        ("kafka", {"memlimit": "1g"}, "'memlimit'"),
        ("init", {"depends_on": {"kafka": {"condition": "healthy"}}}, "'healthy'"),
        ("grafana", {"healthcheck": {"test": ["CMD", "true"], "intervall": "5s"}}, "'intervall'"),
    ],
)
def test_the_schema_notices_a_misspelt_key(service: str, broken: dict[str, Any], said: str) -> None:
    """A check that lets everything pass would look the same."""
    damaged = deepcopy(_RAW)
    damaged["services"][service].update(broken)
    found = against_the_schema(damaged)
    assert any(line.startswith(f"services/{service}") and said in line for line in found), found


def test_the_file_keeps_the_rules() -> None:
    """Pinned images, nothing beyond 127.0.0.1, health checks, no literal secret, mounts that exist, least rights."""
    assert problems(_RAW) == []


def _service(name: str, **changed: Any) -> Callable[[Compose], None]:
    return lambda broken: broken["services"][name].update(changed)


def _variable(service: str, **changed: Any) -> Callable[[Compose], None]:
    return lambda broken: broken["services"][service]["environment"].update(changed)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_service("kafka", image="apache/kafka:latest"), "kafka: image apache/kafka:latest is not pinned"),
        (_service("kafka", image="apache/kafka"), "kafka: image apache/kafka is not pinned"),
        (_service("grafana", image="grafana/grafana:13"), "is not pinned to a full version"),
        (_service("grafana", ports=["3000:3000"]), "port 3000:3000 is published beyond 127.0.0.1"),
        (_service("grafana", ports=["0.0.0.0:3000:3000"]), "is published beyond 127.0.0.1"),
        (_service("grafana", ports=[{"target": 3000, "published": 3000}]), "is published beyond 127.0.0.1"),
        (_service("kafka", network_mode="host"), "kafka: is not on the network vigie alone"),
        (lambda broken: broken["networks"].update(other=None), "more than one network"),
        (_service("clickhouse", healthcheck={}), "clickhouse: stays up without a health check"),
        (_service("worker-1", restart="always"), "worker-1: does not come back"),
        (_service("worker-1", restart="no"), "worker-1: ends by itself, and nobody waits for it"),
        (_variable("grafana", GF_SECURITY_ADMIN_PASSWORD="admin"), "GF_SECURITY_ADMIN_PASSWORD holds a secret"),
        (_variable("grafana", CLICKHOUSE_PASSWORD="${CLICKHOUSE_GRAFANA_PASSWORD}"), "or starts without one"),
        (_variable("worker-2", VIGIE_CLICKHOUSE_URL="http://vigie:city@clickhouse:8123/city"), "a URL holds a secret"),
        (_service("clickhouse", volumes=["./no-such-file:/x:ro"]), "./no-such-file is not there"),
        (_service("clickhouse", volumes=["/etc:/x:ro"]), "/etc is not there below deploy/"),
        (_service("clickhouse-users", volumes=["./clickhouse/users.sql:/users.sql"]), "may write to ./clickhouse"),
        (_service("kafka", volumes=["elsewhere:/var/lib/kafka/data"]), "volumes used and declared differ"),
        (_service("init", depends_on={"database": {"condition": "service_healthy"}}), "which is not there"),
        (_service("init", depends_on={"territory": {"condition": "service_healthy"}}), "which has no check"),
        (
            _service("grafana", depends_on={"kafka": {"condition": "service_completed_successfully"}}),
            "waits for the end of kafka, which stays up",
        ),
        (_service("grafana", depends_on={"kafka": {"condition": "service_started"}}), "does not wait for kafka"),
        (_service("grafana", read_only=False), "grafana: may write to its own files"),
        (_service("grafana", cap_drop=[]), "grafana: keeps capabilities"),
        (_service("grafana", privileged=True), "grafana: keeps capabilities"),
        (_service("grafana", security_opt=[]), "grafana: may gain privileges"),
        (_service("grafana", mem_limit=None), "grafana: has no limit of memory"),
        (_service("grafana", logging={}), "grafana: may fill the disk"),
    ],
)
def test_every_rule_notices_when_it_is_broken(damage: Callable[[Compose], None], said: str) -> None:
    """Each on a copy of the real file, in which nothing else is wrong."""
    broken = deepcopy(_RAW)
    damage(broken)
    new = [sentence for sentence in problems(broken) if sentence not in problems(_RAW)]
    assert any(said in sentence for sentence in new), new


# --- passwords


@pytest.mark.parametrize("name", sorted(_EXAMPLE))
def test_nothing_starts_without_a_password(name: str) -> None:
    """Each variable of .env.example is asked for by name when it is empty, and used when it is not."""
    with pytest.raises(MissingVariableError, match=rf"{name}: set it in deploy/\.env"):
        interpolated(_RAW, _FILLED | {name: ""})
    assert any(_FILLED[name] in text for text in compose.strings(_SERVICES))


def test_the_example_holds_no_password_and_nothing_else_is_asked_for() -> None:
    """Copied as it is, it starts nothing; filled in, it is all there is to fill in."""
    assert set(_EXAMPLE.values()) == {""}
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text("utf-8")))
    assert asked == set(_EXAMPLE)
    assert "/deploy/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_the_command_of_the_readme_makes_the_passwords(tmp_path: Path) -> None:
    """Copied from deploy/README.md: four different passwords, for the user's eyes alone, that Compose takes."""
    blocks = re.findall(r"^```\n(.*?)^```$", (DEPLOY / "README.md").read_text("utf-8"), re.M | re.S)
    (block,) = (block for block in blocks if "/dev/urandom" in block)
    subprocess.run(["bash", "-euc", block.replace("cd deploy\n", "")], cwd=tmp_path, check=True, timeout=30)
    made = compose.variables_of((tmp_path / ".env").read_text("utf-8"))
    assert set(made) == set(_EXAMPLE)
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", value) for value in made.values())
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert interpolated(_RAW, made)["services"]["grafana"]["environment"]["CLICKHOUSE_PASSWORD"]


# --- the workers and commands of vigie


@pytest.mark.parametrize("name", sorted(_OURS))
def test_settings_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of each container of ours is read by the code that will read it: a misspelt name fails here."""
    for variable in [known for known in os.environ if known.upper().startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, value in _SERVICES[name].get("environment", {}).items():
        monkeypatch.setenv(variable, value)
    load()


def test_the_override_of_the_readme_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied from deploy/README.md: it speaks of services that there are, in settings that there are, and mounts the
    territory where nothing else is."""
    blocks = re.findall(r"^  ```\n(.*?)^  ```$", (DEPLOY / "README.md").read_text("utf-8"), re.M | re.S)
    (block,) = (block for block in blocks if "VIGIE_TERRITORIES" in block)
    override = interpolated(yaml.safe_load(block), {"WEBHOOK_SECRETS": "whsec_c2VjcmV0"})["services"]
    assert set(override) == set(_WORKERS)
    for variable in [known for known in os.environ if known.upper().startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for name, changed in override.items():
        for variable, value in changed["environment"].items():
            monkeypatch.setenv(variable, value)
        (mount,) = changed["volumes"]
        assert mount.split(":")[1:] == [str(load().territories[0]), "ro"]
        assert not any(mount.split(":")[1].startswith(other.split(":")[1]) for other in _SERVICES[name]["volumes"])


def test_a_misspelt_setting_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above relies on."""
    monkeypatch.setenv("VIGIE_KAFKA_BOOTSTRAPS", "kafka:9092")
    with pytest.raises(ValueError, match="VIGIE_KAFKA_BOOTSTRAPS is no setting"):
        load()


def test_there_are_two_workers_that_keep_their_partitions() -> None:
    """The same but for their names: static membership needs one for each."""
    assert len(_WORKERS) == 2
    names = {it["environment"]["VIGIE_INSTANCE_ID"] for it in _WORKERS.values()}
    assert names == set(_WORKERS)
    alike = [deepcopy(it) for it in _WORKERS.values()]
    for it in alike:
        del it["environment"]["VIGIE_INSTANCE_ID"]
    assert alike[0] == alike[1]


@pytest.mark.parametrize("name", sorted(_WORKERS))
def test_a_worker_is_asked_where_it_answers_and_given_time(name: str) -> None:
    """The health check asks /ready on the port of the settings; a stop waits longer than a worker takes to finish."""
    worker = _SERVICES[name]
    environment = worker["environment"]
    assert f":{environment['VIGIE_WEB_PORT']}/ready" in worker["healthcheck"]["test"][-1]
    assert seconds(worker["stop_grace_period"]) >= float(environment["VIGIE_DRAIN_TIMEOUT_S"]) + 10


def test_the_command_of_a_health_check_compiles() -> None:
    """A line of Python inside YAML is checked by nobody else."""
    tests = [it["healthcheck"]["test"] for it in _SERVICES.values() if "healthcheck" in it]
    lines = [test[3] for test in tests if test[1].startswith("python") and test[2] == "-c"]
    assert len(lines) == len(_WORKERS)
    for line in lines:
        compile(line, "healthcheck", "exec")


def test_territories_are_read_where_they_are_made() -> None:
    """The folder that `territory synth` writes is the one that workers and the simulator are pointed at."""
    (made,) = re.findall(r"--out (\S+)", _SERVICES["territory"]["command"][0])
    assert {it["environment"]["VIGIE_TERRITORIES"] for it in _WORKERS.values()} == {made}
    assert f"--territory {made} " in _SERVICES["simulator"]["command"][0]
    for name in ("territory", "simulator", *_WORKERS):
        (mount,) = _SERVICES[name]["volumes"]
        volume, folder, *how = mount.split(":")
        assert (volume, made.startswith(f"{folder}/")) == ("territories", True)
        assert how == ([] if name == "territory" else ["ro"])


def test_our_image_has_our_version() -> None:
    """One image for all, built here, named after the version that it holds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {it["image"] for it in _OURS.values()} == {f"localhost/vigie:{version}"}
    assert {(it["build"]["context"], it["build"]["dockerfile"]) for it in _OURS.values()} == {
        ("..", "deploy/Containerfile")
    }


def test_nobody_of_ours_starts_before_the_tables() -> None:
    """Everything that reads or writes the city comes after `vigie init`, which comes after Kafka and the users."""
    done = {"condition": "service_completed_successfully"}
    for name in (*_WORKERS, "simulator", "grafana"):
        assert _SERVICES[name]["depends_on"]["init"] == done
    assert _SERVICES["init"]["depends_on"] == {"kafka": {"condition": "service_healthy"}, "clickhouse-users": done}


# --- who talks to whom


def test_the_kafka_is_the_one_that_tests_run_on() -> None:
    """The version of deploy/kafka/pom.xml, on which every test of this project runs."""
    namespace = {"m": "http://maven.apache.org/POM/4.0.0"}
    (version,) = ElementTree.parse(POM).findall(".//m:dependency[m:artifactId='kafka_2.13']/m:version", namespace)
    assert _SERVICES["kafka"]["image"] == f"apache/kafka:{version.text}"


def test_everybody_finds_kafka() -> None:
    """Containers by the name of the service, programs of this machine by the port that is published."""
    advertised = _SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    inside, outside = (listener.split("://")[1] for listener in advertised.split(","))
    asked = {it["environment"]["VIGIE_KAFKA_BOOTSTRAP"] for it in _OURS.values() if "environment" in it}
    assert asked | {_SERVICES["schema-registry"]["environment"]["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"]} == {inside}
    assert [f"{outside}:{outside.rpartition(':')[2]}"] == _SERVICES["kafka"]["ports"]


def test_everybody_finds_clickhouse() -> None:
    """Name, port and database of the URL are those of the service and of users.sql, the password is the user's."""
    sql = (DEPLOY / "clickhouse" / "users.sql").read_text("utf-8")
    urls = {it["environment"]["VIGIE_CLICKHOUSE_URL"] for it in _OURS.values() if "environment" in it}
    (url,) = map(urlsplit, urls)
    assert (url.scheme, url.hostname, url.port) == ("http", "clickhouse", 8123)
    assert f"CREATE DATABASE IF NOT EXISTS {url.path[1:]};" in sql
    assert f"CREATE USER IF NOT EXISTS {url.username} " in sql
    given = _SERVICES["clickhouse-users"]["environment"]
    assert url.password == given["VIGIE"] == _FILLED["CLICKHOUSE_VIGIE_PASSWORD"]
    shown = _SERVICES["grafana"]["environment"]["CLICKHOUSE_PASSWORD"]
    assert shown == given["GRAFANA"] == _FILLED["CLICKHOUSE_GRAFANA_PASSWORD"]


def test_users_are_made_by_the_server_that_they_are_made_for() -> None:
    """The client has the server's version, logs in as its administrator, and gives every parameter of users.sql."""
    users, server = _SERVICES["clickhouse-users"], _SERVICES["clickhouse"]
    assert (users["image"], users["user"]) == (server["image"], server["user"])
    assert users["environment"]["CLICKHOUSE_PASSWORD"] == server["environment"]["CLICKHOUSE_ADMIN_PASSWORD"]
    (command,) = users["command"]
    assert "\n" not in command
    asked = set(re.findall(r"\{(\w+):String\}", (DEPLOY / "clickhouse" / "users.sql").read_text("utf-8")))
    assert set(re.findall(r"--param_(\w+) \"\$\w+\"", command)) == asked


def test_the_registry_is_where_workers_ask() -> None:
    """Its port and name; the schemas it lets in are those that history can be replayed with."""
    registry = _SERVICES["schema-registry"]["environment"]
    urls = {it["environment"]["VIGIE_SCHEMA_REGISTRY_URL"] for it in _WORKERS.values()}
    assert urls == {f"http://schema-registry:{registry['QUARKUS_HTTP_PORT']}/apis/ccompat/v7"}
    assert registry["APICURIO_RULES_GLOBAL_COMPATIBILITY"] == "BACKWARD_TRANSITIVE"


def test_the_memory_that_is_spoken_of_is_the_memory_that_is_given() -> None:
    """What stays up, the simulator included; file and README say the same."""
    size = {"m": 1 / 1024, "g": 1.0}
    limits = [it["mem_limit"] for it in _SERVICES.values() if it["restart"] != "no"]
    total = f"{sum(float(limit[:-1]) * size[limit[-1]] for limit in limits):g} GiB"
    assert f"may take {total} of memory" in FILE.read_text("utf-8")
    assert total in (DEPLOY / "README.md").read_text("utf-8")


def test_what_the_readme_says_of_ports_is_so() -> None:
    """Its table names every address that is published, and no other."""
    published = {f"127.0.0.1:{port.split(':')[1]}" for it in _SERVICES.values() for port in it.get("ports", [])}
    told = set(re.findall(r"^\| `(127\.0\.0\.1:\d+)`", (DEPLOY / "README.md").read_text("utf-8"), re.M))
    assert told == published


def test_grafana_asks_as_the_user_that_may_only_read() -> None:
    """The data source that is provisioned: the service, the user and the variable that this file knows."""
    (file,) = (_GRAFANA / "provisioning" / "datasources").glob("*.y*ml")
    (source,) = yaml.safe_load(file.read_text("utf-8"))["datasources"]
    asked = source["jsonData"]
    assert (asked["host"], asked["port"], asked["username"]) == ("clickhouse", 8123, "grafana")
    assert source["secureJsonData"]["password"] in ("$CLICKHOUSE_PASSWORD", "${CLICKHOUSE_PASSWORD}")
    plugin, _, _ = _SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"].partition("@")
    assert source["type"] == plugin
