"""What a client of the gateway is told when its request is not done, under ClickHouse's own numbers."""

from __future__ import annotations

from typing import Final

_BAD: Final = (
    6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676,
)  # fmt: skip
_UNKNOWN: Final = (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511)
#: The HTTP status of those numbers that ClickHouse answers with something else than 500.
_STATUS: Final = (
    dict.fromkeys(_BAD, 400)
    | dict.fromkeys(_UNKNOWN, 404)
    | {48: 501, 76: 503, 159: 408, 209: 503, 229: 413, 290: 413, 381: 411, 439: 503, 497: 403}
)


class RefusedError(Exception):
    """The request was not done, or failed. `code` is ClickHouse's number, the message is the body of the answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS.get(self.code, 500)


class CutShortError(Exception):
    """The client went away, or was lost, before the end of its request. Nothing of it may be used."""


class StoppingError(Exception):
    """The gateway is ending: nothing new is begun."""


def refused(code: int, name: str, message: str) -> RefusedError:
    """An error of the gateway's own, in the words and under the number that a server would use."""
    return RefusedError(code, f"Code: {code}. DB::Exception: {message}. ({name})")
