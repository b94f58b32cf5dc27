"""The receiver of alerts that the settings describe: the same for the worker and for whoever tries it."""

from __future__ import annotations

from typing import Final

from sinks.webhook import Receiver
from streams.settings import Settings

#: Stands as `receiver` in every body.
_NAME: Final = "webhook"


def receiver(url: str, settings: Settings) -> Receiver:
    """The receiver at that address, signed for with the secrets of the settings. Raises ValueError."""
    return Receiver(_NAME, url, tuple(secret.get_secret_value() for secret in settings.webhook_secrets))
