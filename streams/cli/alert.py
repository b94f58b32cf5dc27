"""`vigie alert`: what is open, what became of it, who has taken it on, and whether a receiver hears of it."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from sinks.acknowledgements import Acknowledgement, acknowledge
from sinks.clickhouse import Sink
from sinks.queries import ask
from sinks.webhook_signature import new_secret
from streams import setup
from streams.cli import alert_pages as pages
from streams.cli.alert_trial import Trial, tried
from streams.cli.errors import Failure, say, settings, told
from streams.clock import utc_now
from streams.receiver import receiver
from streams.settings import SettingsError

#: Somebody waits for the answer: what stays away longer is told instead of being waited for.
_PATIENCE_S: Final = 30.0
#: A worker writes a snapshot every few seconds as long as anything arrives.
_STALE_S: Final = 600.0
#: Candidates that are named when a prefix says too little.
_MOST_NAMED: Final = 5
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{1,16}")
_NOTHING_IS_HERE: Final = "run `vigie init`, or start a worker of this version"
_SEVERITIES: Final = ("critical", "error", "warning", "info", "unknown")


class _Fingerprint(click.ParamType):
    """A fingerprint or the beginning of one."""

    name = "fingerprint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _FINGERPRINT.fullmatch(value.lower()):
            self.fail(f"{value!r} is not the beginning of a fingerprint, which has sixteen digits 0-9a-f", param, ctx)
        return str(value.lower())


class _Line(click.ParamType):
    """Text on one line, of bounded length."""

    name = "text"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if len(text) > self.most or not text.isprintable():
            self.fail(f"at most {self.most} characters on one line are expected", param, ctx)
        return text


class _Siren(click.ParamType):
    name = "SIREN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[0-9]{9}", value):
            self.fail(f"{value!r} is no SIREN: nine digits are expected", param, ctx)
        return str(value)


_AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, instants in UTC.")


@click.group()
def alert() -> None:
    """Look at alerts, acknowledge them, and try the receiver of webhooks.

    An alert is named by its fingerprint, or by as much of its beginning as no other has.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of assets and people are written in any script, and a terminal may know one only.
        sys.stdout.reconfigure(errors="replace")


# --- reading


@alert.command("list")
@click.option("--jurisdiction", "jurisdictions", multiple=True, type=_Siren(), help="That authority only; repeatable.")
@click.option(
    "--severity", "severities", multiple=True, type=click.Choice(_SEVERITIES), help="That severity only; repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Below them those that are over, the last to end first.")
@click.option(
    "--limit", default=1_000, show_default=True, type=click.IntRange(1), help="At most so many that are over."
)
@_AS_JSON
def list_alerts(
    jurisdictions: Sequence[str], severities: Sequence[str], everything: bool, limit: int, as_json: bool
) -> None:
    """List open alerts: the most severe first, then the oldest."""
    authorities = list(jurisdictions)
    with told():
        with _clickhouse() as sink:
            found = ask(sink, "open_alerts", jurisdictions=authorities)
            rows = [row for row in found if not severities or row["severity"] in severities]
            over: list[dict[str, Any]] = []
            if everything:
                over = ask(sink, "ended_alerts", jurisdictions=authorities, severities=list(severities), most=limit)
            _warn_of_age(sink)
        if as_json:
            click.echo(json.dumps([pages.plain(row) for row in (*rows, *over)], indent=2, ensure_ascii=False))
        else:
            pages.show_list(rows, over, utc_now(), narrowed=bool(jurisdictions or severities))


@alert.command()
@click.argument("fingerprint", type=_Fingerprint())
@_AS_JSON
def show(fingerprint: str, as_json: bool) -> None:
    """Show one alert: labels, evidence, and every transition of this life and former ones."""
    with told():
        with _clickhouse() as sink:
            lives = _lives(sink, fingerprint)
            steps = ask(sink, "alert_steps", fingerprint=lives[0]["fingerprint"])
            _warn_of_age(sink)
        if as_json:
            click.echo(json.dumps(pages.history(lives, steps), indent=2, ensure_ascii=False))
        else:
            pages.show_alert(lives, steps, utc_now())


# --- acknowledging


@alert.command()
@click.argument("fingerprint", type=_Fingerprint())
@click.option("--by", type=_Line(100), help="Who takes it on; default: the login name.")
@click.option("--note", type=_Line(500), default="", help="What others should know. No citizen's name or address.")
def ack(fingerprint: str, by: str | None, note: str) -> None:
    """Acknowledge a firing alert: somebody has taken it on.

    It is shown in `vigie alert list` and in the view `alerts`. It falls when the alert is told anew. Receivers of
    webhooks hear nothing of it.
    """
    with told():
        name = by or _login()
        with _clickhouse() as sink:
            click.echo(_acknowledged(sink, fingerprint, name, note))


def _acknowledged(sink: Sink, prefix: str, by: str, note: str) -> str:
    """Acknowledge it; what there is to say of it."""
    life = _lives(sink, prefix)[0]
    name, about = life["fingerprint"], pages.printable(life["summary"])
    now = utc_now()
    if life["state"] == "acknowledged":
        return f"{name} was {pages.acknowledged(life, now)}, and nothing is changed: {about}"
    if life["state"] == "pending":
        raise Failure(
            f"{name} is pending: nobody has been told of it yet, so there is nothing to acknowledge ({about})"
        )
    if life["state"] != "firing":
        over = f"{life['state']} {pages.ago(life['ends_at'] or life['changed_at'], now)}"
        raise Failure(f"{name} is over, {over}, so there is nothing to acknowledge: {about}")
    given = Acknowledgement(
        life["jurisdiction_id"], name, pages.aware(life["starts_at"]), life["transition_id"], by, note, now
    )
    acknowledge(given, sink)
    life = _lives(sink, name)[0]
    if life["transition_id"] != given.transition_id:
        raise Failure(f"{name} has changed meanwhile, it is {life['state']}: look at it with `vigie alert show {name}`")
    return f"{name} is acknowledged by {pages.printable(life['acknowledged_by'])}: {about}"


def _login() -> str:
    """The name that somebody logged in with, under sudo too; the environment can be made to say anything."""
    try:
        return os.getlogin()
    except OSError:
        pass
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise click.UsageError("there is no login name here: say who you are with --by") from None


# --- the receiver


@alert.command()
@click.argument("url", required=False)
@click.option("--resolve", is_flag=True, help="Then send that the same alert has ended.")
@click.option(
    "--severity", type=click.Choice(_SEVERITIES[:4]), default="info", show_default=True, help="Severity of the alert."
)
def test(url: str | None, resolve: bool, severity: str) -> None:
    """Send a signed test alert to a receiver, by default VIGIE_WEBHOOK_URL, once.

    It is called VigieTest, and says what it is. Signed with VIGIE_WEBHOOK_SECRETS, as real ones are. Exit code 0 when
    the receiver took it (2xx). See docs/webhooks.md.
    """
    with told():
        chosen = settings()
        if not chosen.webhook_secrets:
            raise SettingsError("VIGIE_WEBHOOK_SECRETS is not set: `vigie alert secret` makes one, for both sides")
        address = url or chosen.webhook_url
        if not address:
            raise click.UsageError("there is no URL: give one, or set VIGIE_WEBHOOK_URL")
        try:
            to = receiver(address, chosen)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        for trial in tried(to, chosen.external_url, severity, resolve):
            _report(trial, to.secrets)
            if trial.delivery.outcome != "delivered":
                raise Failure("the receiver did not take it")


def _report(trial: Trial, secrets: Sequence[str]) -> None:
    for line in trial.lines(secrets):
        click.echo(line)


@alert.command()
def secret() -> None:
    """Print a new secret for VIGIE_WEBHOOK_SECRETS and the receiver.

    To rotate: put it before the old one, separated by a comma; give it to the receiver; take the old one away.
    """
    click.echo(new_secret())


# --- what they share


@contextmanager
def _clickhouse() -> Iterator[Sink]:
    """The ClickHouse of the settings, with our tables."""
    chosen = settings()
    url = urlsplit(chosen.clickhouse_url.get_secret_value())
    if url.scheme == "chdb" and not Path(url.path).is_dir():
        # The engine would make one.
        raise setup.SetupError(f"there is no ClickHouse in {url.path}: check VIGIE_CLICKHOUSE_URL")
    patience = {name: min(_PATIENCE_S, getattr(chosen, name)) for name in ("retry_budget_s", "start_timeout_s")}
    sink = setup.sink(chosen.model_copy(update=patience), say)
    try:
        if not sink.rows("EXISTS TABLE acknowledgements")[0][0]:
            raise setup.SetupError(f"ClickHouse does not have all of our tables: {_NOTHING_IS_HERE}")
        yield sink
    finally:
        sink.close()


def _lives(sink: Sink, prefix: str) -> list[dict[str, Any]]:
    """The lives of the one alert whose fingerprint begins so, the latest first."""
    named = ask(sink, "alerts_named", prefix=prefix, most=_MOST_NAMED + 1)
    if not named:
        raise Failure(f"there is no alert {prefix}: `vigie alert list --all` shows those there are")
    if len(named) > 1:
        listed = [f"{one['fingerprint']} is {one['state']}: {one['summary']}" for one in named[:_MOST_NAMED]]
        more = ["and more"] if len(named) > _MOST_NAMED else []
        raise Failure(f"several alerts begin with {prefix}: write more of the one you mean", *listed, *more)
    return ask(sink, "alert_lives", fingerprint=named[0]["fingerprint"])


def _warn_of_age(sink: Sink) -> None:
    """Who sees no alert must know whether anybody has looked."""
    taken = ask(sink, "last_snapshot")
    if not taken:
        say("warning: no worker has written to this ClickHouse yet")
        return
    at = taken[0]["taken_at"]
    now = utc_now()
    if (now - pages.aware(at)).total_seconds() > _STALE_S:
        say(f"warning: no worker has written to this ClickHouse since {pages.instant(at)}, {pages.ago(at, now)}")
