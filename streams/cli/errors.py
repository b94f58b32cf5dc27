"""Errors as people read them: one line on standard error that says what to do, and no traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from schemas.registry import RegistryAwayError
from sinks.clickhouse import SinkError
from streams.broker import BrokerError
from streams.failures import WorkerStopped
from streams.replay import ReplayError
from streams.settings import Settings, SettingsError, load
from streams.setup import SetupError
from streams.simulation.publish import PublishError
from streams.territory.remarks import TerritoryError
from streams.watchdog import StalledError

_KNOWN = (
    BrokerError, SinkError, RegistryAwayError, SetupError, PublishError, StalledError, WorkerStopped, ReplayError,
)  # fmt: skip


class Failure(click.ClickException):
    """Something failed: one line per problem, exit code 1."""

    def __init__(self, *problems: str, exit_code: int = 1) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        for problem in self.problems:
            click.echo(f"Error: {problem}", err=True, file=file)


@contextmanager
def told() -> Iterator[None]:
    """Tell what is known to go wrong in words. Other exceptions are bugs of ours and say so."""
    try:
        yield
    except SettingsError as error:
        raise Failure(*str(error).splitlines(), exit_code=2) from None
    except TerritoryError as error:
        raise Failure(*error.problems) from None
    except _KNOWN as error:
        raise Failure(str(error)) from None
    except OSError as error:
        hint = "; free some space and start again" if error.errno == errno.ENOSPC else ""
        raise Failure(f"{error.filename or 'a file'}: {error.strerror or error}{hint}") from None
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        raise Failure("interrupted") from None
    except Exception as error:
        raise Failure(
            f"this is a bug of vigie, please report it: {type(error).__name__}: {error} ({_where(error)})"
        ) from error


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "no place" if trace is None else f"{trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"


def say(message: str) -> None:
    """Tell a person something on standard error."""
    click.echo(message, err=True)
    sys.stderr.flush()


def settings(**fixed: Any) -> Settings:
    """The settings; wrong ones end the command with exit code 2."""
    return load(**fixed)
