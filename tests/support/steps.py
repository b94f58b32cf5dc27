"""The steps of the loop: every await and every effect, found in the syntax trees and hooked when modules are imported.

A *site* is a place in the source: an `await`, the turn of an `async for`, the entry or exit of an `async with`, or a
call on a client (ClickHouse's, HTTP's). A *step* is the instant just before or just after a site, told apart by what
the call does where the source cannot say (`insert events_sensor`). Names of sites hold no line numbers: file, function
and text, and a number where the same text stands twice in a function.

`install` must come before the modules are imported. Nothing of ours is imported here, so that a runner can do that.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType
from typing import Any, Final, Literal

ROOT: Final = Path(__file__).resolve().parents[2]

Kind = Literal["await", "next", "enter", "exit", "effect"]
When = Literal["before", "after"]
#: Told of every step as it is reached, in whichever thread. What it raises is raised there.
Hook = Callable[[str], None]

#: Modules of which every await is a step: `streams.worker` is one, `streams.cli.worker` is not.
_LOOP: Final = re.compile(r"streams\.\w+")
#: Modules of which every call on a client is a step.
_EFFECTS: Final = frozenset({"sinks.clickhouse", "sinks.webhook"})
_CLIENTS: Final = frozenset({"client", "_client"})
#: Enough to recognize an expression in a report.
_TEXT: Final = 90

_BEFORE: Final = "__step_before__"
_AFTER: Final = "__step_after__"
_TURNS: Final = "__step_turns__"
_BLOCK: Final = "__step_block__"
_EFFECT: Final = "__step_effect__"


@dataclass(frozen=True, order=True)
class Site:
    """A place in the source that has a before and an after.

    `handles_error` is whether it stands in an `except`, or in a branch that ends in `raise`. `catches`: what the `try`
    around it catches, as the source writes it.
    """

    file: str
    function: str
    text: str
    number: int
    kind: Kind
    line: int = field(compare=False)
    handles_error: bool = field(compare=False)
    catches: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """What it is called in steps, reports and on the command line."""
        number = f" #{self.number}" if self.number > 1 else ""
        turn = {"next": " (next)", "enter": " (enter)", "exit": " (exit)"}.get(self.kind, "")
        return f"{self.file} | {self.function} | {self.text}{turn}{number}"


def step(site: str, when: When, label: str = "") -> str:
    """The name of a step; `label` says what an effect does."""
    return f"{site} | {when}" + (f" | {label}" if label else "")


def site_of(step_name: str) -> str:
    """The name of the site that a step is before or after."""
    return " | ".join(step_name.split(" | ")[:3])


def is_loop(module: str) -> bool:
    """Whether the awaits of that module are steps."""
    return _LOOP.fullmatch(module) is not None


def is_watched(module: str) -> bool:
    """Whether anything in that module is a step."""
    return is_loop(module) or module in _EFFECTS


def watched_files(root: Path = ROOT) -> Iterator[Path]:
    """The files of the modules that are watched."""
    for path in sorted([*(root / "streams").glob("*.py"), *(root / "sinks").glob("*.py")]):
        if is_watched(module_of(path.relative_to(root).as_posix())):
            yield path


def module_of(file: str) -> str:
    """The module that a file is, from its path below the root."""
    return file.removesuffix(".py").replace("/", ".")


# --- finding and rewriting


def rewritten(source: str, file: str) -> tuple[ast.Module, list[Site]]:
    """The module with every site hooked, and the sites. `file` is its path from the root, `streams/worker.py`.

    Values, exceptions and the order of evaluation stay what they are. An await that raises has no after.
    """
    rewriter = _Rewriter(file, awaits=is_loop(module_of(file)), effects=module_of(file) in _EFFECTS)
    tree = rewriter.visit(ast.parse(source, file))
    return ast.fix_missing_locations(tree), rewriter.sites


def sites(path: Path, root: Path = ROOT) -> list[Site]:
    """The sites of a file of ours."""
    return rewritten(path.read_text("utf-8"), path.relative_to(root).as_posix())[1]


class _Rewriter(ast.NodeTransformer):
    def __init__(self, file: str, *, awaits: bool, effects: bool) -> None:
        self.sites: list[Site] = []
        self._file = file
        self._awaits = awaits
        self._effects = effects
        self._names: list[str] = []
        self._handlers = 0
        self._catches: tuple[str, ...] = ()
        self._seen: dict[tuple[str, str, Kind], int] = {}

    def _site(self, node: ast.expr, text: str, kind: Kind) -> ast.Constant:
        function = ".".join(self._names) or "<module>"
        short = " ".join(text.split())
        short = short if len(short) <= _TEXT else short[: _TEXT - 1] + "…"
        number = self._seen[function, short, kind] = self._seen.get((function, short, kind), 0) + 1
        handles = self._handlers > 0
        found = Site(self._file, function, short, number, kind, node.lineno, handles, () if handles else self._catches)
        self.sites.append(found)
        return ast.Constant(found.name)

    def _inside(self, node: Any) -> Any:
        self._names.append(node.name)
        # An `except` or a `try` around a definition is not around its call.
        outside, self._handlers, self._catches = (self._handlers, self._catches), 0, ()
        self.generic_visit(node)
        self._handlers, self._catches = outside
        self._names.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _inside

    def visit_Try(self, node: ast.Try) -> ast.AST:
        outside = self._catches
        caught = [name for handler in node.handlers for name in _caught(handler)]
        self._catches = tuple(caught) or outside
        node.body = self._visited(node.body)
        self._catches = outside
        node.handlers = self._visited(node.handlers, handles=True)
        node.orelse, node.finalbody = self._visited(node.orelse), self._visited(node.finalbody)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = self.visit(node.test)
        node.body = self._visited(node.body, handles=_ends_in_raise(node.body))
        node.orelse = self._visited(node.orelse, handles=_ends_in_raise(node.orelse))
        return node

    def _visited(self, nodes: Sequence[Any], *, handles: bool = False) -> list[Any]:
        self._handlers += handles
        visited = [self.visit(node) for node in nodes]
        self._handlers -= handles
        return visited

    def visit_Await(self, node: ast.Await) -> ast.AST:
        if not self._awaits:
            return self.generic_visit(node)
        name = self._site(node, ast.unparse(node), "await")
        self.generic_visit(node)
        # The operand is evaluated first, so "before" is after a call that makes a coroutine and before it begins.
        return _call(_AFTER, name, ast.Await(_call(_BEFORE, name, node.value)))

    def _loop(self, node: Any) -> Any:
        if self._awaits and (isinstance(node, ast.AsyncFor) or getattr(node, "is_async", False)):
            name = self._site(node.iter, f"async for {ast.unparse(node.target)} in {ast.unparse(node.iter)}", "next")
            self.generic_visit(node)
            node.iter = _call(_TURNS, name, node.iter)
            return node
        return self.generic_visit(node)

    visit_AsyncFor = visit_comprehension = _loop

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        names = []
        for item in node.items if self._awaits else ():
            text = f"async with {ast.unparse(item.context_expr)}"
            names.append([self._site(item.context_expr, text, kind) for kind in ("enter", "exit")])
        self.generic_visit(node)
        for item, (entry, exit_) in zip(node.items, names, strict=False):
            item.context_expr = _call(_BLOCK, entry, exit_, item.context_expr)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not self._effects or not _is_on_client(node.func):
            return self.generic_visit(node)
        name = self._site(node, f"{ast.unparse(node.func)}(…)", "effect")
        self.generic_visit(node)
        return ast.Call(ast.Name(_EFFECT, ast.Load()), [name, node.func, *node.args], node.keywords)


def _caught(handler: ast.ExceptHandler) -> Iterator[str]:
    """What an `except` names, as it is written."""
    named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    yield from (ast.unparse(one) for one in named)


def _ends_in_raise(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _is_on_client(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute):
        return False
    owner = called.value
    last = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return last in _CLIENTS


def _call(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(arguments), [])


# --- what an effect does

_STATEMENT: Final = re.compile(r"\b(?:FROM|JOIN|INTO|TABLE|VIEW|UPDATE|EXISTS)\s+(?!SELECT\b)`?([A-Za-z_]\w*)`?", re.I)
_CREATED: Final = re.compile(r"\b(?:EXISTS|REPLACE\s+VIEW)\s+`?(\w+)", re.I)
#: More names would tell no more steps apart.
_MOST_TABLES: Final = 3


def label_of(method: str, arguments: Sequence[Any]) -> str:
    """What a call on a client does: the method, and the table or the tables of its SQL.

    Never values: the same step has the same name in every run.
    """
    (first, *_) = [*arguments, None]
    if not isinstance(first, str):
        return method
    if " " not in first.strip():
        return f"{method} {first.strip()}" if re.fullmatch(r"[\w.]+", first.strip()) else method
    verb = first.split(maxsplit=1)[0].upper()
    tables = dict.fromkeys(name for name in _STATEMENT.findall(first) if name.upper() not in ("IF", "NOT", "EXISTS"))
    named = _CREATED.findall(first)[:1] if verb == "CREATE" else list(tables)[:_MOST_TABLES]
    return " ".join([method, verb, *named])


# --- hooks


@dataclass(frozen=True)
class _Turns:
    """An asynchronous iterator whose turns are hooked."""

    hook: Hook
    name: str
    inner: Any

    def __aiter__(self) -> _Turns:
        return _Turns(self.hook, self.name, self.inner.__aiter__())

    async def __anext__(self) -> Any:
        self.hook(step(self.name, "before"))
        value = await self.inner.__anext__()
        self.hook(step(self.name, "after"))
        return value


@dataclass(frozen=True)
class _Block:
    """An asynchronous context manager whose entry and exit are hooked."""

    hook: Hook
    entry: str
    exit: str
    inner: Any

    async def __aenter__(self) -> Any:
        self.hook(step(self.entry, "before"))
        value = await self.inner.__aenter__()
        self.hook(step(self.entry, "after"))
        return value

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        self.hook(step(self.exit, "before"))
        swallowed = await self.inner.__aexit__(kind, error, trace)
        self.hook(step(self.exit, "after"))
        return swallowed


def names(hook: Hook) -> dict[str, Any]:
    """What a rewritten module needs in its namespace."""

    def at(when: When) -> Callable[[str, Any], Any]:
        def passed(name: str, value: Any) -> Any:
            hook(step(name, when))
            return value

        return passed

    def effect(name: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        label = label_of(function.__name__, arguments)
        hook(step(name, "before", label))
        value = function(*arguments, **keywords)
        hook(step(name, "after", label))
        return value

    return {
        _BEFORE: at("before"),
        _AFTER: at("after"),
        _TURNS: lambda name, inner: _Turns(hook, name, inner),
        _BLOCK: lambda entry, exit_, inner: _Block(hook, entry, exit_, inner),
        _EFFECT: effect,
    }


class _Loader(SourceFileLoader):
    """Loads a watched module rewritten. Never from a cache of compiled code, and into none."""

    def __init__(self, fullname: str, path: str, hook: Hook, constants: Mapping[str, int]) -> None:
        super().__init__(fullname, path)
        self._hook = hook
        self._constants = constants

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path).decode("utf-8")
        tree, _ = rewritten(source, fullname.replace(".", "/") + ".py")
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        space = module.__dict__
        space.update(names(self._hook))
        super().exec_module(module)
        for name, value in self._constants.items():
            if name not in space:
                raise RuntimeError(f"{module.__name__} has no constant {name}: what set it must be changed")
            space[name] = value


class _Finder(MetaPathFinder):
    """Finds watched modules where the other finders do, and has them rewritten."""

    def __init__(self, hook: Hook, constants: Mapping[str, int]) -> None:
        self._hook = hook
        self._constants = constants

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not is_watched(fullname):
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(fullname, path, target)
            if found is not None:
                if type(found.loader) is SourceFileLoader:
                    mine = {n.rpartition(".")[2]: v for n, v in self._constants.items() if n.startswith(f"{fullname}.")}
                    found.loader = _Loader(fullname, found.loader.path, self._hook, mine)
                return found
        return None


def install(hook: Hook, constants: Mapping[str, int] = MappingProxyType({})) -> None:
    """Have `hook` told of every step of the modules imported from now on. Raises RuntimeError when it is too late.

    `constants` replace numbers of watched modules, by full name: limits that no small load would ever meet.
    """
    early = sorted(name for name in sys.modules if is_watched(name))
    if early:
        raise RuntimeError(f"imported before the hook, so their steps would be missed: {', '.join(early)}")
    sys.meta_path.insert(0, _Finder(hook, constants))
