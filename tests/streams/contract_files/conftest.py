"""The small city as a folder, for commands that read their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.territory.files import versioned, write
from tests.support.city import city


@pytest.fixture(scope="session")
def small_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("territory") / "small"
    write(versioned(city()), folder)
    return folder
