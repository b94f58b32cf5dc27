"""`vigie` as if its code had another version: what an upgrade, or the way back, looks like to stored state.

    python tests/support/other_version.py VERSION worker --until-caught-up

Run by its path, because `tests` is not installed and a command of these tests runs in a folder of its own.
"""

from __future__ import annotations

import sys

from processors import pipeline


def main() -> None:
    version, *arguments = sys.argv[1:]
    vars(pipeline)["CODE_VERSION"] = version
    # Only now: whoever imports the version by its name gets this one.
    from streams.cli.main import main as vigie

    vigie(arguments, prog_name="vigie")


if __name__ == "__main__":
    main()
