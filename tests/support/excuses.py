"""Which sites a life without faults need not reach: rules about the code, checked there, and no list.

A site is excused when it stands in an `except` or in a branch that ends in `raise`, when a worker does not import its
module, or when whatever mentions its function is excused in its turn. Mentions are found by the bare name, anywhere in
`streams` and `sinks`: a name used for two things excuses less, never more.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from tests.support.steps import ROOT, Site, module_of

Rule = Literal["handles an error", "not part of a worker", "called by these only"]


@dataclass(frozen=True)
class _Use:
    """A mention of a name: where it stands, and whether in an `except`."""

    module: str
    function: str
    handles_error: bool


@cache
def _uses_in(root: Path) -> Mapping[str, tuple[_Use, ...]]:
    """By bare name: where `streams` and `sinks` mention it."""
    found: dict[str, list[_Use]] = {}
    for folder in ("streams", "sinks"):
        for path in sorted((root / folder).rglob("*.py")):
            module = module_of(path.relative_to(root).as_posix())
            for name, use in _uses(ast.parse(path.read_text("utf-8")), _Use(module, "", False)):
                found.setdefault(name, []).append(use)
    return {name: tuple(uses) for name, uses in found.items()}


def _uses(node: ast.AST, here: _Use) -> Iterator[tuple[str, _Use]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _uses(child, _Use(here.module, f"{here.function}.{child.name}".lstrip("."), False))
            continue
        if isinstance(child, ast.Name | ast.Attribute):
            yield (child.id if isinstance(child, ast.Name) else child.attr), here
        yield from _uses(child, replace(here, handles_error=here.handles_error or isinstance(child, ast.ExceptHandler)))


def excuse(site: Site, loaded: Collection[str], root: Path = ROOT) -> Rule | None:
    """Why that site need not be reached, or None when it must be. `loaded`: our modules that a worker imports."""
    if module_of(site.file) not in loaded:
        return "not part of a worker"
    if site.handles_error:
        return "handles an error"
    if _is_called_by_excused_only(site.function, loaded, root, frozenset()):
        return "called by these only"
    return None


def _is_called_by_excused_only(function: str, loaded: Collection[str], root: Path, asking: frozenset[str]) -> bool:
    bare = function.rpartition(".")[2]
    uses = [use for use in _uses_in(root).get(bare, ()) if use.function != function]
    # A function that nobody mentions is called from outside: by Faust, or as a method of Python's.
    if not uses or bare in asking or bare.startswith("__"):
        return False
    return all(
        use.handles_error
        or use.module not in loaded
        or (bool(use.function) and _is_called_by_excused_only(use.function, loaded, root, asking | {bare}))
        for use in uses
    )
