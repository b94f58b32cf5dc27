"""deploy/Containerfile: its lines promise a user without rights, packages checked by hash, and nothing that is not in
the locks. They are read, not run."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from typing import Final

import pytest

from tests.deploy.compose import DEPLOY, ROOT

_TEXT: Final = (DEPLOY / "Containerfile").read_text("utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and argument of each line; continued lines are one, comments none."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    split = (line.split(maxsplit=1) for line in lines.splitlines() if line.strip())
    return [(name.upper(), " ".join(rest.split())) for name, rest in split]


def problems(text: str) -> list[str]:
    """What breaks a promise."""
    found = instructions(text)
    said = [
        f"FROM {image} is not pinned"
        for name, image in found
        if name == "FROM" and not re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+( AS \w+)?", image)
    ]
    last = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    users = [argument for name, argument in found[last:] if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        said.append("the image runs as root, or as a user that a cluster cannot tell from root")
    commands = [command for name, run in found if name == "RUN" for command in run.split(" && ")]
    for command in commands:
        if re.search(r"\bpip\b.* (install|wheel)\b", command):
            locked = "--require-hashes" in command and "--only-binary :all:" in command
            if not locked and not ("--no-index" in command and "--no-deps" in command):
                said.append(f"packages come in unchecked: {command}")
    if re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host|\bcurl\b|\bwget\b|\bADD\b", text):
        said.append("it names a host to fetch from")
    if any(name == "HEALTHCHECK" for name, _ in found):
        said.append("a health check for every command at once")
    if ("ENTRYPOINT", '["vigie"]') not in found[last:]:
        said.append("it does not start vigie")
    return said


def sources(text: str) -> set[str]:
    """What is copied from the repository."""
    copies = (argument.split() for name, argument in instructions(text) if name == "COPY")
    return {source for *given, _ in copies if not given[0].startswith("--from=") for source in given}


def test_the_lines_keep_what_is_promised() -> None:
    """Pinned base, hashes for everything that is fetched, no host, a user with a number above 0, vigie at the start."""
    assert problems(_TEXT) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("FROM python:3.11.16-slim-trixie\n", "FROM python:3-slim\n", "FROM python:3-slim is not pinned"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("USER 10001:10001\n", "USER root\n", "runs as root"),
        ("USER 10001:10001\n", "USER 0:0\n", "runs as root"),
        ("USER 10001:10001\n", "USER vigie\n", "runs as root"),
        ("install --require-hashes", "install", "packages come in unchecked"),
        ("--no-index --no-deps /wheels", "/wheels", "packages come in unchecked"),
        ("WORKDIR /tmp", "RUN curl --output /tmp/tool https://example.org/tool", "names a host"),
        ('ENTRYPOINT ["vigie"]', 'ENTRYPOINT ["sh"]', "does not start vigie"),
        ("WORKDIR /tmp", "HEALTHCHECK CMD true", "a health check"),
    ],
)
def test_a_broken_promise_is_noticed(before: str, after: str, said: str) -> None:
    """Each on a copy of the real file, in which nothing else is wrong."""
    assert before in _TEXT
    assert [one for one in problems(_TEXT.replace(before, after, 1)) if said in one]


def test_what_is_copied_is_there_and_is_let_through() -> None:
    """A context without the lock, or with .env and .git in it, is found out here and not by whoever builds."""
    assert all((ROOT / source).exists() for source in sources(_TEXT))
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources(_TEXT)
    assert not any(fnmatch(name, rule[1:]) for name in (".env", ".git", "deploy") for rule in rules[1:])


def test_the_context_holds_what_the_wheel_is_made_of() -> None:
    """The packages that pyproject.toml names, with their data, are copied whole."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= sources(_TEXT)
    assert project["project"]["readme"] in sources(_TEXT)


def test_the_build_backend_comes_out_of_the_lock() -> None:
    """The lines that are cut out of the developers' lock are one entry, with its hashes."""
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8").splitlines()
    (cut,) = re.findall(r"sed --quiet '/(\S+)/,/(# via)/p' (\S+)", _TEXT)
    assert cut == ("^setuptools==", "# via", "requirements-dev.lock")
    (first,) = (place for place, line in enumerate(lock) if re.match(cut[0], line))
    length = next(place for place, line in enumerate(lock[first:]) if "# via" in line)
    entry = lock[first : first + length]
    assert len(entry) >= 2
    assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in entry[1:])


def test_both_stages_have_the_same_python() -> None:
    """The environment is made in one and used in the other: its interpreter is a link to the image's own."""
    bases = set(re.findall(r"^FROM (\S+)", _TEXT, re.M))
    assert len(bases) == 1
