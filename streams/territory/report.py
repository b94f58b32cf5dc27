"""What a build made of its sources, for a person (Markdown) and for a program (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from streams.territory.remarks import Remark, grouped

Verdict = Literal["repaired", "refused", "doubtful"]
_MEANS: dict[Verdict, str] = {
    "refused": "not in the territory",
    "repaired": "in the territory, changed",
    "doubtful": "in the territory, to be looked at",
}


@dataclass(frozen=True)
class SourceCount:
    """One source: its file, what it filled (`layer quartier`, `lighting/lamp`), rows read, left out by filter, kept."""

    file: str
    into: str
    read: int
    left_out: int
    kept: int


@dataclass(frozen=True)
class BuildReport:
    """What was read and kept, source by source, and every remark. No time stamps: the same input, the same report."""

    territory: str
    version: str
    sources: tuple[SourceCount, ...] = ()
    repaired: tuple[Remark, ...] = field(default=(), repr=False)
    refused: tuple[Remark, ...] = field(default=(), repr=False)
    doubtful: tuple[Remark, ...] = field(default=(), repr=False)

    @property
    def by_verdict(self) -> dict[Verdict, tuple[Remark, ...]]:
        return {"refused": self.refused, "repaired": self.repaired, "doubtful": self.doubtful}

    def to_json(self) -> bytes:
        """Everything, every item by its number."""
        body: dict[str, Any] = {
            "territory": self.territory,
            "version": self.version,
            "sources": [vars(source) for source in self.sources],
        }
        for verdict, remarks in self.by_verdict.items():
            body[verdict] = [
                {"file": g.file, "reason": g.reason, "unit": g.unit or "file", "numbers": list(g.numbers)}
                | ({"others": list(g.others)} if any(g.others) else {})
                for g in grouped(remarks)
            ]
        return (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode()

    def to_markdown(self) -> bytes:
        """The same for reading: one line per file and reason, the first items named."""
        return ("\n".join(self._markdown()) + "\n").encode()

    def _markdown(self) -> Iterator[str]:
        yield f"# Build of {self.territory}, version {self.version}\n"
        yield "| file | into | read | left out | kept |\n|---|---|---:|---:|---:|"
        for s in self.sources:
            yield f"| {s.file} | {s.into} | {s.read} | {s.left_out} | {s.kept} |"
        for verdict, remarks in self.by_verdict.items():
            yield f"\n## {verdict.capitalize()}: {len(remarks)} ({_MEANS[verdict]})\n"
            for group in grouped(remarks):
                count = f"{len(group.numbers)} × " if len(group.numbers) > 1 else ""
                yield f"- {count}{group.reason} ({group.where})"
            if not remarks:
                yield "Nothing."
