"""Who may import whom and who may do what, read from the syntax trees of every file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parents[1]
_PRODUCT: Final = ("schemas", "processors", "sinks", "streams")
_AROUND: Final = ("benchmarks", "deploy", "tests")

#: Our packages that each of them may import.
_ALLOWED: Final = {
    "schemas": {"schemas"},
    "processors": {"processors", "schemas"},
    "sinks": {"sinks", "schemas"},
    "streams": {"streams", "processors", "sinks", "schemas"},
}
_MOST_LINES: Final = 400
_REASON: Final = "Longer than 400 lines because "


@cache
def files(*packages: str) -> tuple[Path, ...]:
    return tuple(sorted(path for package in packages for path in (_ROOT / package).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


def imported(module: ast.Module, package: str = "") -> Iterator[str]:
    """Full names of what is imported anywhere, inside functions too; `package` resolves relative ones."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    return set(imported(tree(path), ".".join(path.relative_to(_ROOT).parent.parts)))


def heads(path: Path) -> set[str]:
    """Top-level names of what a file imports."""
    return {full.split(".")[0] for full in imports_of(path)}


def uses(module: ast.Module, owners: set[str], members: set[str]) -> bool:
    """Whether `owner.member` or `something.owner.member` stands anywhere."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr in members:
            owner = node.value
            last = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if last in owners:
                return True
    return False


def reads_environment(module: ast.Module) -> bool:
    members = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    return uses(module, {"os"}, members) or any(full in {f"os.{m}" for m in members} for full in imported(module))


def reads_clock(module: ast.Module) -> bool:
    taken = {full.split(".")[0] for full in imported(module)}
    return "time" in taken or uses(module, {"datetime", "date"}, {"now", "utcnow", "today"})


def prints(module: ast.Module) -> bool:
    calls = (node.func for node in ast.walk(module) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id in ("print", "pprint") for called in calls)


def offenders(packages: tuple[str, ...], wrong: Callable[[Path], bool], *but: str) -> list[str]:
    """Files of the packages that do what they must not, except those allowed to."""
    return [name(path) for path in files(*packages) if name(path) not in but and wrong(path)]


# --- who may import whom


@pytest.mark.parametrize("package", _PRODUCT)
def test_packages_import_only_what_stands_below_them(package: str) -> None:
    """It flows one way: contracts below, stages and sinks beside each other, the running program on top."""
    ours = {*_PRODUCT, *_AROUND}
    found = {name(path): sorted(heads(path) & ours - _ALLOWED[package]) for path in files(package)}
    assert {path: taken for path, taken in found.items() if taken} == {}


def test_only_the_running_program_knows_faust() -> None:
    """Replacing it must touch one package."""
    assert offenders(("schemas", "processors", "sinks"), lambda p: bool(heads(p) & {"faust", "mode", "aiokafka"})) == []


def test_only_one_module_knows_a_clickhouse_client() -> None:
    """Everything else speaks to the sink, which is the same for the embedded engine and a server."""
    found = offenders(_PRODUCT, lambda p: bool(heads(p) & {"clickhouse_connect", "chdb", "clickhouse_driver"}))
    assert [path for path in found if not path.startswith("sinks/clickhouse")] == []
    assert found


def test_stages_know_no_clock_no_chance_and_no_log() -> None:
    """A stage is a function of its arguments: what would make it differ from run to run is not at hand."""
    away = {"faust", "asyncio", "logging", "structlog", "time", "random", "secrets", "uuid", "os", "requests", "httpx"}
    assert offenders(("processors",), lambda p: bool(heads(p) & away)) == []


def test_contracts_and_stages_touch_no_sink_or_broker() -> None:
    """Neither files nor sockets of the outside: `schemas` reads its own files and asks the registry, nothing more."""
    away = {"confluent_kafka", "socket", "subprocess", "urllib", "sqlite3"}
    assert offenders(("processors",), lambda p: bool(heads(p) & away)) == []
    kafka = [full for p in files("schemas") for full in imports_of(p) if full.startswith("confluent_kafka")]
    assert all(full.startswith("confluent_kafka.schema_registry") for full in kafka)


# --- who may do what


def test_only_the_settings_read_the_environment() -> None:
    """One object holds every setting, so one page describes them all."""
    assert offenders(_PRODUCT, lambda p: reads_environment(tree(p)), "streams/settings.py") == []


def test_only_one_module_reads_the_clock() -> None:
    """Everything else is told the time, so a demo can run a day in a minute and a test can stand still."""
    assert offenders(_PRODUCT, lambda p: reads_clock(tree(p)), "streams/clock.py") == []


def test_nothing_prints() -> None:
    """What a person is to read goes through the console or the log."""
    assert offenders((*_PRODUCT, *_AROUND), lambda p: prints(tree(p))) == []


def test_long_files_say_why() -> None:
    """Past 400 lines a file is asking a question; one that has an answer gives it."""

    def too_long(path: Path) -> bool:
        text = path.read_text("utf-8")
        return len(text.splitlines()) > _MOST_LINES and _REASON not in text

    assert offenders((*_PRODUCT, *_AROUND), too_long) == []


def test_every_module_says_what_it_is() -> None:
    """A file that holds anything begins with a docstring."""
    assert offenders((*_PRODUCT, *_AROUND), lambda p: bool(tree(p).body) and not ast.get_docstring(tree(p))) == []


def test_every_test_states_its_promise() -> None:
    """A test without a docstring says what it does and not why it matters."""
    silent = [
        f"{name(path)}::{node.name}"
        for path in files("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


# --- that these tests can see


@pytest.mark.parametrize(
    ("source", "sees"),
    [
        ("import os\nos.environ['A']", reads_environment),
        ("from os import getenv", reads_environment),
        ("import os as system\ndef f():\n    from os import environ", reads_environment),
        ("import time", reads_clock),
        ("from time import monotonic", reads_clock),
        ("import datetime\ndatetime.datetime.now()", reads_clock),
        ("from datetime import datetime\nnow = datetime.utcnow", reads_clock),
        ("from datetime import date\ndate.today()", reads_clock),
        ("if True:\n    print('x')", prints),
    ],
)
def test_what_is_forbidden_is_noticed(source: str, sees: Callable[[ast.Module], bool]) -> None:
    """A rule that nothing could break would hold for ever."""
    assert sees(ast.parse(source))


@pytest.mark.parametrize(
    ("source", "sees"),
    [
        ("import os\nos.cpu_count()", reads_environment),
        ("from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)", reads_clock),
        ("console.print('x')", prints),
    ],
)
def test_what_is_allowed_is_let_pass(source: str, sees: Callable[[ast.Module], bool]) -> None:
    """Counting cores, making an instant of a number and a console's own method are none of these."""
    assert not sees(ast.parse(source))


def test_imports_are_found_wherever_they_stand() -> None:
    """In a function, as a member, relative or renamed: an import is an import."""
    source = "import a.b as c\ndef f():\n    from d.e import g\nfrom . import h\nfrom ..i import j\n"
    assert set(imported(ast.parse(source), "k.l")) == {"a.b", "d.e.g", "k.l.h", "k.i.j"}
