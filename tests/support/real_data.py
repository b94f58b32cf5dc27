"""Where the real public data is, for the tests that read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parents[2]


def real_data(*parts: str) -> Path:
    """The path of a file or folder of the real data, which lies in `shared/data` beside the repository.

    Skips the test, with the reason, where it is absent; fails it when VIGIE_REQUIRE_REAL_DATA is 1.
    """
    path = _ROOT.parent.joinpath("shared", "data", *parts)
    if not path.exists():
        reason = f"real data is absent: no {'/'.join(parts) or 'folder'} in shared/data beside the repository"
        if os.environ.get("VIGIE_REQUIRE_REAL_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
