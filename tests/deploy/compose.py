"""deploy/compose.yaml as tests read it: loaded, interpolated as Compose does it, and held against the rules of this
house. A rule gives sentences; none of them means that it is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
FILE: Final = DEPLOY / "compose.yaml"

Compose = dict[str, Any]
Rule = Callable[[Compose], Iterator[str]]

_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:[?-])([^}]*))?\})")
_SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY", re.I)
_MUST_BE_GIVEN: Final = re.compile(r"\$\{\w+:\?[^}]+\}")


class MissingVariableError(LookupError):
    """A variable without which Compose refuses to start; the message is the file's."""


def load(path: Path = FILE) -> Compose:
    """The file as it stands, its anchors merged, its variables not yet filled in."""
    found: Compose = yaml.safe_load(path.read_text("utf-8"))
    return found


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """The same with `${NAME}`, `${NAME:?why}`, `${NAME:-instead}` and `$$` replaced. Raises MissingVariableError."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _filled(found, variables), value) if isinstance(value, str) else value


def _filled(found: re.Match[str], variables: Mapping[str, str]) -> str:
    escaped, name, kind, text = found.groups()
    if escaped:
        return "$"
    given = variables.get(name, "")
    if not given and kind == ":?":
        raise MissingVariableError(f"{name}: {text}")
    return given or (text if kind == ":-" else "")


def variables_of(env_file: str) -> dict[str, str]:
    """The variables of an .env file, in plain `NAME=value` lines."""
    lines = (line for line in env_file.splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def strings(value: Any) -> Iterator[str]:
    """Every text in it, at whatever depth."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def services(compose: Compose) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose["services"].items()


def ends_by_itself(service: Mapping[str, Any]) -> bool:
    """Whether it does one thing and ends; everything else is to stay up."""
    return service.get("restart") in ("no", "on-failure")


def _pinned(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        image, _, tag = str(service.get("image", "")).rpartition(":")
        if not image or not re.fullmatch(r"v?\d+\.\d+\.\d+(\.\d+)*", tag):
            yield f"{name}: image {service.get('image')} is not pinned to a full version"


def _local(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        for port in service.get("ports", []):
            if not (isinstance(port, str) and re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)):
                yield f"{name}: port {port} is published beyond 127.0.0.1"
        if service.get("networks") != ["vigie"] or "network_mode" in service:
            yield f"{name}: is not on the network vigie alone"
    if list(compose["networks"]) != ["vigie"]:
        yield "there is more than one network"


def _watched(compose: Compose) -> Iterator[str]:
    awaited = {target for _, service in services(compose) for target in service.get("depends_on", {})}
    for name, service in services(compose):
        if ends_by_itself(service):
            if name not in awaited and "profiles" not in service:
                yield f"{name}: ends by itself, and nobody waits for it"
        elif service.get("restart") != "unless-stopped":
            yield f"{name}: does not come back when it dies"
        elif not service.get("healthcheck", {}).get("test"):
            yield f"{name}: stays up without a health check"


def _without_secrets(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        for variable, value in service.get("environment", {}).items():
            if _SECRET.search(variable) and not _MUST_BE_GIVEN.fullmatch(str(value)):
                yield f"{name}: {variable} holds a secret, or starts without one"
    for text in strings(compose):
        for password in re.findall(r"://[^/@:\s]*:(.+)@", text):
            if not _MUST_BE_GIVEN.fullmatch(password):
                yield f"a URL holds a secret, or starts without one: {text}"


def _mounted(compose: Compose) -> Iterator[str]:
    used = set()
    for name, service in services(compose):
        for mount in service.get("volumes", []):
            source, _, rest = mount.partition(":")
            if not source.startswith((".", "/")):
                used.add(source)
                continue
            path = (DEPLOY / source).resolve()
            if DEPLOY not in path.parents or not path.exists():
                yield f"{name}: {source} is not there below deploy/"
            if not rest.endswith(":ro"):
                yield f"{name}: may write to {source}"
    if used != set(compose["volumes"]):
        yield f"volumes used and declared differ: {sorted(used ^ set(compose['volumes']))}"


def _ordered(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        for target, how in service.get("depends_on", {}).items():
            other, condition = compose["services"].get(target), how["condition"]
            if other is None:
                yield f"{name}: waits for {target}, which is not there"
            elif condition == "service_healthy" and "healthcheck" not in other:
                yield f"{name}: waits for the health of {target}, which has no check"
            elif condition == "service_completed_successfully" and not ends_by_itself(other):
                yield f"{name}: waits for the end of {target}, which stays up"
            elif condition == "service_started":
                yield f"{name}: does not wait for {target} to be of use"


def _confined(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        if not service.get("read_only"):
            yield f"{name}: may write to its own files"
        if service.get("cap_drop") != ["ALL"] or "cap_add" in service or service.get("privileged"):
            yield f"{name}: keeps capabilities"
        if service.get("security_opt") != ["no-new-privileges:true"]:
            yield f"{name}: may gain privileges"
        if not service.get("mem_limit"):
            yield f"{name}: has no limit of memory"
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"{name}: may fill the disk with its output"


#: Full versions, 127.0.0.1 only, health or an end, no literal secret, mounts that exist, a possible order, few rights.
RULES: Final[tuple[Rule, ...]] = (_pinned, _local, _watched, _without_secrets, _mounted, _ordered, _confined)


def problems(compose: Compose) -> list[str]:
    """What is wrong with it by any rule."""
    return [sentence for rule in RULES for sentence in rule(compose)]
