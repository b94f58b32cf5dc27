"""Workers run in processes and environments of their own; what goes wrong with them is told by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.environments import CannotSetUp, python_of, versions_of
from benchmarks.processes import BenchmarkError, Done, run


def script(text: str, folder: Path, timeout_s: float = 60.0) -> Done:
    """What a Python process that runs this text printed."""
    return run([sys.executable, "-c", text], core=None, log=folder / "log.txt", timeout_s=timeout_s)


def test_figures_are_the_last_line(tmp_path: Path) -> None:
    """Whatever a framework prints before, and a terminal's control sequences with it."""
    done = script("""print('{"events": 1}\\nready'); print('\\x1b[0m{"events": 2, "of": {"a": 1}}')""", tmp_path)
    assert done.figures() == {"events": 2, "of": {"a": 1}}
    assert done.wall_s > 0


@pytest.mark.parametrize("printed", ["", "done", "{done}"])
def test_no_figures_are_no_run(tmp_path: Path, printed: str) -> None:
    """A worker that ends well and says nothing is not measured."""
    with pytest.raises(BenchmarkError, match="no figures"):
        script(f"print({printed!r})", tmp_path).figures()


def test_a_failure_tells_what_the_process_told(tmp_path: Path) -> None:
    """Its exit code and the end of its standard error."""
    with pytest.raises(BenchmarkError, match=r"(?s)exit code 3.*out of luck"):
        script("import sys; sys.stderr.write('out of luck'); sys.exit(3)", tmp_path)


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    """A session never waits for ever."""
    with pytest.raises(BenchmarkError, match="no end after"):
        script("import time; time.sleep(60)", tmp_path, timeout_s=0.2)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a peer named `some`, whose environment is made below the same folder."""
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "requirements.txt").write_text("# why\nquix[all]==1.0  # pinned\n\nother==2\n", "utf-8")
    return folder


def test_an_environment_is_made_once_for_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch, peer: Path) -> None:
    """Other requirements make another environment; the same ones cost nothing."""
    tools: list[list[str]] = []

    def make(name: str, command: Sequence[str]) -> str:
        tools.append(list(command))
        python = environments.CACHE / name / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        return "{}"

    monkeypatch.setattr(environments, "_make", make)
    assert python_of("some") == python_of("some") == environments.CACHE / "some" / "bin" / "python"
    assert len(tools) == 2
    versions_of("some")
    assert tools[-1][-2:] == ["quix", "other"]
    (peer / "requirements.txt").write_text("other==3\n", "utf-8")
    python_of("some")
    assert len(tools) == 5


def test_a_peer_that_cannot_be_set_up_is_named(monkeypatch: pytest.MonkeyPatch, peer: Path) -> None:
    """With what the tool printed: nobody else knows why."""
    broken = peer / "python"
    broken.write_text("#!/bin/sh\necho no such version >&2\nexit 4\n", "utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(CannotSetUp, match=r"(?s)some cannot be set up: .*exit code 4.*no such version"):
        python_of("some")
