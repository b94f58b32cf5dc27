"""Logging: structlog, JSON unless a terminal listens, on a descriptor of its own (see schemas.panics)."""

from __future__ import annotations

import logging
from typing import Any

import structlog

from schemas.panics import own_stderr


def configure(level: int = logging.INFO) -> None:
    """Set up structlog and send what libraries log from WARNING on the same way. Call once, at start."""
    stream = own_stderr()
    renderer: Any = structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def logger(name: str) -> Any:
    """The logger of a part of the program."""
    return structlog.get_logger(part=name)
