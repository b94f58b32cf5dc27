"""The tools of the crash sweep: steps are found, hooked without changing anything, named for good, and killed at.

Longer than 400 lines because every form of an await has its sample beside its test.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from streams.broker import BrokerError
from streams.territory.files import versioned, write
from tests.support.excuses import excuse
from tests.support.load import territory
from tests.support.pipeline import broker_in_process, environment
from tests.support.stepped import IMPORTED, Kill, Trace, read, recorder
from tests.support.steps import ROOT, Site, label_of, names, rewritten, site_of, sites, step, watched_files

_LOOP: Final = "streams/sample.py"

_SAMPLE: Final = """
import asyncio

class Box:
    async def __aenter__(self):
        log.append("entered")
        return 7
    async def __aexit__(self, kind, error, trace):
        log.append("left")
        return kind is ValueError

async def turns(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i

async def double(value):
    log.append(f"doubling {value}")
    return 2 * value

class Loop:
    async def run(self):
        found = [await double(n) for n in (1, 2)]
        async with Box() as seven:
            found.append(seven)
            raise ValueError
        async for n in turns(2):
            found.append(n)
        found += [n async for n in turns(1)]
        found.append(await double(await double(5)))
        try:
            await asyncio.wait_for(asyncio.sleep(9), 0)
        except TimeoutError:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return found
"""


def run(source: str, entry: Callable[[dict[str, Any]], Any]) -> tuple[Any, list[str], list[str]]:
    """What the entry gives in the rewritten module, the steps it reached, and what the module logged."""
    reached: list[str] = []
    log: list[str] = []
    tree, _ = rewritten(source, _LOOP)
    space: dict[str, Any] = {**names(reached.append), "log": log}
    exec(compile(tree, _LOOP, "exec"), space)
    return entry(space), reached, log


def test_hooks_change_nothing() -> None:
    """A rewritten module gives the same values, swallows the same exceptions and acts in the same order."""
    plain: dict[str, Any] = {"log": []}
    exec(compile(_SAMPLE, "plain", "exec"), plain)
    expected = asyncio.run(plain["Loop"]().run())
    found, _, log = run(_SAMPLE, lambda space: asyncio.run(space["Loop"]().run()))
    assert found == expected == [2, 4, 7, 0, 1, 0, 20]
    assert log == plain["log"]


def test_every_step_is_told_in_order() -> None:
    """Before and after of each kind of place are told; what raises has no after; the last turn of a loop has none."""
    _, reached, _ = run(_SAMPLE, lambda space: asyncio.run(space["Loop"]().run()))
    mine = [name.split(" | ", 2)[2] for name in reached if " | Loop.run | " in name]
    assert mine == [
        *(f"await double(n) | {when}" for when in ("before", "after") * 2),
        "async with Box() (enter) | before",
        "async with Box() (enter) | after",
        "async with Box() (exit) | before",
        "async with Box() (exit) | after",
        *(f"async for n in turns(2) (next) | {when}" for when in ("before", "after", "before", "after", "before")),
        *(f"async for n in turns(1) (next) | {when}" for when in ("before", "after", "before")),
        "await double(5) | before",
        "await double(5) | after",
        "await double(await double(5)) | before",
        "await double(await double(5)) | after",
        "await asyncio.wait_for(asyncio.sleep(9), 0) | before",
        *(f"await asyncio.sleep(0){number} | {when}" for number in ("", " #2", " #3") for when in ("before", "after")),
    ]


def test_before_is_before_anything_happens() -> None:
    """At "before" nothing of what is awaited has happened, at "after" all of it: a kill there leaves just that."""
    log: list[str] = []
    tree, _ = rewritten(
        "async def double(v):\n    log.append('doubled')\nasync def run():\n    await double(1)\n", _LOOP
    )
    space: dict[str, Any] = {**names(lambda name: log.append(name.rsplit(" | ", 1)[1])), "log": log}
    exec(compile(tree, _LOOP, "exec"), space)
    asyncio.run(space["run"]())
    assert log == ["before", "doubled", "after"]


def test_names_hold_no_line_numbers() -> None:
    """Lines that come or go elsewhere leave the names of steps as they are, so that a seed means the same kills."""
    moved = "'''Another first line.'''\n# and a comment\n\n\n" + _SAMPLE.replace(
        "        found = ", "\n        found = "
    )
    before, after = rewritten(_SAMPLE, _LOOP)[1], rewritten(moved, _LOOP)[1]
    assert [site.name for site in before] == [site.name for site in after]
    assert [site.line for site in before] != [site.line for site in after]
    assert len({site.name for site in before}) == len(before), "and no two places have one name"


class FakeClient:
    """A client that remembers what it was asked."""

    def __init__(self, reached: list[str]) -> None:
        self.reached = reached
        self.asked: list[tuple[Any, ...]] = []

    def insert_arrow(self, table: str, rows: Any, **settings: Any) -> int:
        self.asked.append((table, rows, settings, len(self.reached)))
        return len(rows)


def test_effects_are_calls_on_a_client() -> None:
    """In the modules of effects a call on a client is told before and after, with its table, and nothing else is."""
    insert = "return max(0, self.client.insert_arrow(table, rows, a=1))"
    source = f"class Sink:\n    def insert(self, table, rows):\n        {insert}"
    tree, found = rewritten(source, "sinks/clickhouse.py")
    assert [site.name for site in found] == ["sinks/clickhouse.py | Sink.insert | self.client.insert_arrow(…)"]
    reached: list[str] = []
    space = names(reached.append)
    exec(compile(tree, "sample", "exec"), space)
    sink = space["Sink"]()
    sink.client = FakeClient(reached)
    assert sink.insert("rejects", [1, 2]) == 2
    assert sink.client.asked == [("rejects", [1, 2], {"a": 1}, 1)]
    name = found[0].name
    assert reached == [step(name, "before", "insert_arrow rejects"), step(name, "after", "insert_arrow rejects")]
    assert {site_of(one) for one in reached} == {name}


@pytest.mark.parametrize(
    ("method", "first", "label"),
    [
        ("insert_arrow", "events_sensor", "insert_arrow events_sensor"),
        ("query", "SELECT count() FROM zones WHERE code = 'Q 01'", "query SELECT zones"),
        ("query", "\nSELECT a.x FROM b AS a\nJOIN `c` USING x", "query SELECT b c"),
        ("query", "SELECT n FROM (SELECT 1 AS n FROM windows)", "query SELECT windows"),
        ("command", "CREATE TABLE IF NOT EXISTS rejects (a Int8)", "command CREATE rejects"),
        ("command", "CREATE VIEW IF NOT EXISTS windows AS SELECT 1 FROM rows", "command CREATE windows"),
        ("command", "CREATE OR REPLACE VIEW alerts AS SELECT 1 FROM rows", "command CREATE alerts"),
        ("command", "DELETE FROM window_rows WHERE topic = 'x'", "command DELETE window_rows"),
        ("send", object(), "send"),
        ("close", None, "close"),
        ("build_request", "POST", "build_request POST"),
    ],
)
def test_what_an_effect_does(method: str, first: Any, label: str) -> None:
    """Effects of one place are told apart by method and table, never by values: a name is the same in every run."""
    assert label_of(method, () if first is None else (first,)) == label


def test_every_await_of_the_loop_is_a_site() -> None:
    """Nothing is listed by hand: what the files hold is what is found, and every module of effects has some."""
    for path in watched_files():
        tree = ast.parse(path.read_text("utf-8"))
        found = sites(path)
        if path.parent.name == "streams":
            awaits = sum(isinstance(node, ast.Await | ast.AsyncFor) for node in ast.walk(tree))
            awaits += sum(node.is_async for node in ast.walk(tree) if isinstance(node, ast.comprehension))
            blocks = sum(len(node.items) for node in ast.walk(tree) if isinstance(node, ast.AsyncWith))
            assert len(found) == awaits + 2 * blocks, path.name
        else:
            assert found, f"{path.name} has no call on a client: look at what counts as one"
    names_of_files = {path.relative_to(ROOT).as_posix() for path in watched_files()}
    assert {"streams/worker.py", "streams/transport.py", "sinks/clickhouse.py", "sinks/webhook.py"} <= names_of_files
    assert not [name for name in names_of_files if name.count("/") > 1], "commands and simulation are not the loop"


# --- killing


def test_killed_at_the_nth_time(tmp_path: Path) -> None:
    """The kill comes at the chosen time of the chosen step, in whichever thread, and what was reached is on disk."""
    died = threading.Event()
    file = tmp_path / "trace"
    hook = recorder(file, Kill("b", hit=3), died.set)
    for name in ("a", "b", "b", "a"):
        hook(name)
    assert not died.is_set()
    threads = [threading.Thread(target=hook, args=("b",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert died.is_set()
    with file.open() as lines:
        assert read(lines).hits == {"a": 2, "b": 4}


def test_armed_by_a_file(tmp_path: Path) -> None:
    """Times before the file is there do not count: a step can be killed in one phase of a life."""
    died = threading.Event()
    armed = tmp_path / "armed"
    hook = recorder(tmp_path / "trace", Kill("a", armed_by=armed), died.set)
    hook("a")
    assert not died.is_set()
    armed.touch()
    hook("a")
    assert died.is_set()


def test_killed_in_the_midst(tmp_path: Path) -> None:
    """With a delay the step goes on, and the kill comes while what it began is under way."""
    died = threading.Event()
    hook = recorder(tmp_path / "trace", Kill("a", delay_ms=20), died.set)
    started = time.monotonic()
    hook("a")
    assert not died.is_set()
    assert died.wait(5)
    assert time.monotonic() - started >= 0.02


def test_trouble_is_what_the_code_expects(tmp_path: Path) -> None:
    """A step that is to fail raises once what the `try` around it names, or a lost connection."""
    awaited = next(site for site in sites(ROOT / "streams" / "custody.py") if "BrokerError" in site.catches)
    called = next(site for site in sites(ROOT / "sinks" / "clickhouse.py") if "insert_arrow" in site.text)
    importlib.import_module("streams.custody")
    for site, kind in ((awaited, BrokerError), (called, ConnectionError)):
        name = step(site.name, "before")
        hook = recorder(tmp_path / "trace", None, lambda: None, name)
        hook("another")
        with pytest.raises(kind):
            hook(name)
        hook(name)


def test_what_is_caught_and_what_leads_to_an_error() -> None:
    """A site knows what its `try` catches; what stands in an except or before a raise only handles errors."""
    source = (
        "async def f(x):\n"
        "    try:\n"
        "        await one()\n"
        "        try:\n"
        "            await two()\n"
        "        finally:\n"
        "            await three()\n"
        "    except (OSError, ValueError):\n"
        "        await four()\n"
        "    else:\n"
        "        await five()\n"
        "    if x:\n"
        "        await six()\n"
        "        raise OSError\n"
        "    if x:\n"
        "        await seven()\n"
    )
    found = {site.text.split()[1]: (site.catches, site.handles_error) for site in rewritten(source, _LOOP)[1]}
    both = ("OSError", "ValueError")
    assert found == {
        "one()": (both, False),
        "two()": (both, False),
        "three()": (both, False),
        "four()": ((), True),
        "five()": ((), False),
        "six()": ((), True),
        "seven()": ((), False),
    }


def test_a_constant_that_is_gone_is_said(tmp_path: Path) -> None:
    """A limit that is lowered for the sweep must exist: otherwise what it stood for would go untested unseen."""
    code = (
        "from tests.support.steps import install\n"
        "install(lambda name: None, {'streams.notify._MOST_WAITING': 1, 'streams.produce._GONE': 1})\n"
        "import streams.notify\n"
        "assert streams.notify._MOST_WAITING == 1\n"
        "import streams.produce\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "streams.produce has no constant _GONE" in done.stderr


def test_hooks_that_come_too_late_are_refused() -> None:
    """A module imported before the hook would have steps that nobody sees."""
    code = "import streams.ledger\nfrom tests.support.steps import install\ninstall(lambda name: None)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "streams.ledger" in done.stderr.splitlines()[-1]


def test_a_line_cut_short_does_not_count() -> None:
    """The kill can come in the midst of another thread's line."""
    trace = read(["a\n", f"{IMPORTED}streams.worker\n", "b\n", "hal"])
    assert (trace.steps, trace.imported) == (["a", "b"], {"streams.worker"})


@pytest.mark.integration
def test_the_real_command_is_stepped(tmp_path: Path) -> None:
    """The runner runs the real worker to its end as if it were not there; and kills it where it is told to."""
    folder = tmp_path / "territory"
    write(versioned(territory()), folder)

    def worker(trace: Path, *kill: str) -> int:
        runner = [sys.executable, "-m", "tests.support.stepped", "--record", str(trace), *kill]
        command = [*runner, "--", "worker", "--until-caught-up"]
        # Each has a broker of its own: this one would wait a minute for the member before.
        with broker_in_process() as bootstrap:
            settings = {
                "kafka_bootstrap": bootstrap,
                "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
                "territories": folder,
            }
            done = subprocess.run(
                command, cwd=ROOT, env=environment(settings), capture_output=True, check=False, timeout=60
            )
        assert not done.returncode or kill, done.stderr
        return done.returncode

    worker(tmp_path / "plain")
    plain = trace_of(tmp_path / "plain")
    assert "streams.worker" in plain.imported
    # Where the tables are known already, so that both lives get there.
    chosen = next(name for name in plain.hits if "app.start()" in name and "| after" in name)
    assert worker(tmp_path / "killed", *Kill(chosen).arguments) == -signal.SIGKILL
    killed = trace_of(tmp_path / "killed")
    assert killed.steps[-1] == chosen
    assert killed.hits[chosen] == 1


def trace_of(file: Path) -> Trace:
    with file.open() as lines:
        return read(lines)


# --- what need not be reached


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """Two packages with awaits of every kind of excuse."""
    (tmp_path / "streams").mkdir()
    (tmp_path / "sinks").mkdir()
    (tmp_path / "streams" / "loop.py").write_text(
        "async def main():\n"
        "    await work()\n"
        "    try:\n"
        "        await work()\n"
        "    except OSError:\n"
        "        await mend()\n"
        "async def work():\n"
        "    await pause()\n"
        "async def mend():\n"
        "    await deeper()\n"
        "async def deeper():\n"
        "    await pause()\n"
        "async def pause():\n"
        "    await nothing()\n"
        "async def shown():\n"
        "    await nothing()\n",
        "utf-8",
    )
    (tmp_path / "streams" / "show.py").write_text("async def show():\n    await shown()\n", "utf-8")
    return tmp_path


def test_excuses_are_read_from_the_code(small_root: Path) -> None:
    """Excused is what stands in an except, what only that leads to, and what a worker does not import; no more."""
    found: dict[str, Any] = {}
    for file in ("loop.py", "show.py"):
        for site in sites(small_root / "streams" / file, small_root):
            found[f"{site.function} {site.text} {site.number}"] = excuse(site, {"streams.loop"}, small_root)
    assert found == {
        "main await work() 1": None,
        "main await work() 2": None,
        "main await mend() 1": "handles an error",
        "work await pause() 1": None,
        "mend await deeper() 1": "called by these only",
        "deeper await pause() 1": "called by these only",
        "pause await nothing() 1": None,
        "shown await nothing() 1": "called by these only",
        "show await shown() 1": "not part of a worker",
    }


def test_a_function_that_nobody_mentions_is_called_from_outside(small_root: Path) -> None:
    """What Faust calls is mentioned nowhere in our code, and must be reached."""
    called = Site("streams/loop.py", "Consumer.on_revoked", "await x()", 1, "await", 1, False)
    assert excuse(called, {"streams.loop"}, small_root) is None
