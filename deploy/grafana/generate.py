"""`python -m deploy.grafana.generate`: writes `dashboards/*.json`, which are committed and never edited by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.grafana.city import city
from deploy.grafana.pipeline import pipeline
from deploy.grafana.targets import Json

FOLDER: Final = Path(__file__).with_name("dashboards")


def dashboards() -> Mapping[str, Json]:
    """Every dashboard by the name of its file."""
    return {"city.json": city(), "pipeline.json": pipeline()}


def text(dashboard: Json) -> str:
    """What the file of a dashboard holds."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write every dashboard into a folder that exists."""
    for name, dashboard in dashboards().items():
        (folder / name).write_text(text(dashboard), "utf-8")


if __name__ == "__main__":
    write()
