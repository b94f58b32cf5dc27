"""`vigie alert test` against real receivers: what is sent, what is told of each answer, and the exit code."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from sinks.webhook_signature import new_secret, verify
from streams.cli.alert import alert
from tests.support.gateway import free_port
from tests.support.receiver import (
    Answer,
    Received,
    WebhookReceiver,
    drip_body,
    gone,
    redirect,
    reset,
    status,
    too_many,
)
from tests.support.webhook_page import PAGE, blocks

#: The same in every process: they are part of the names of tests.
_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_OTHER: Final = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()


def run(*arguments: str, secrets: str | None = _SECRET, url: str | None = None) -> Result:
    settings = {"VIGIE_WEBHOOK_SECRETS": secrets, "VIGIE_WEBHOOK_URL": url}
    result = CliRunner(env=settings).invoke(alert, ["test", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback would have been shown"
    return result


def tried(*script: Answer, options: tuple[str, ...] = ()) -> tuple[Result, list[Received]]:
    """A trial against a receiver that answers so, and what it was sent."""
    with WebhookReceiver(script) as http:
        return run(http.url, *options), list(http.requests)


def opened(request: Received) -> dict[str, Any]:
    """The one alert of a request whose signature is good now."""
    verify(request.headers, request.body, [_SECRET], time.time())
    (found,) = json.loads(request.body)["alerts"]
    return dict(found)


# --- what is sent


def test_one_request_that_says_it_is_a_test() -> None:
    """Once, signed as a real alert, under a name that no rule has, with a sentence that nobody can misunderstand."""
    done, (request,) = tried()
    assert done.exit_code == 0
    sent = opened(request)
    assert sent["status"] == "firing"
    assert sent["labels"]["alertname"] == "VigieTest"
    assert sent["labels"]["jurisdiction_id"] == "000000000"
    assert sent["labels"]["severity"] == "info"
    assert sent["annotations"]["summary"].startswith("TEST ")
    assert request.headers["webhook-id"] in done.stdout


def test_resolve_ends_what_was_begun() -> None:
    """The same alert under two names: a receiver that opens a ticket closes it again."""
    done, requests = tried(options=("--resolve", "--severity", "critical"))
    assert done.exit_code == 0
    firing, resolved = (opened(request) for request in requests)
    assert (firing["status"], resolved["status"]) == ("firing", "resolved")
    for same in ("fingerprint", "startsAt", "labels"):
        assert firing[same] == resolved[same]
    assert firing["labels"]["severity"] == "critical"
    assert requests[0].headers["webhook-id"] != requests[1].headers["webhook-id"]


def test_nobody_is_told_resolved_who_was_not_told_firing() -> None:
    """A receiver that did not take the beginning is not sent the end."""
    done, requests = tried(status(500), options=("--resolve",))
    assert done.exit_code == 1
    assert len(requests) == 1


def test_another_trial_is_another_alert() -> None:
    """A receiver that acts once for each id acts on every trial."""
    with WebhookReceiver() as http:
        for _ in range(2):
            assert run(http.url).exit_code == 0
        first, second = http.requests
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


def test_the_configured_receiver_is_tried_where_none_is_named() -> None:
    """What a worker will use is what a person wants to try."""
    with WebhookReceiver() as http:
        assert run(url=http.url).exit_code == 0
        assert len(http.requests) == 1


# --- what is told


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (status(204, b""), 0, ["204 No Content", "counts as told"]),
        (status(299), 0, ["299, after"]),
        (status(422, b"no such rule"), 1, ["422 Unprocessable", "no such rule", "given up", "for good"]),
        (gone(), 1, ["410 Gone", "all after it"]),
        (status(503), 1, ["503 Service Unavailable", "is sent again"]),
        (too_many("120"), 1, ["429 Too Many Requests", "asks for 120 s"]),
        (status(401), 1, ["401 Unauthorized", "look at", "the secrets on both sides"]),
        (status(404), 1, ["404 Not Found", "look at", "no receiver"]),
        (reset(), 1, ["none: the connection was cut before an answer", "is sent again"]),
        (drip_body(), 0, ["200 OK"]),
    ],
)
def test_each_answer_in_words(answer: Answer, code: int, words: list[str]) -> None:
    """What came, how long it took, and what a worker would do; exit code 0 for 2xx alone; never a second attempt."""
    done, requests = tried(answer)
    assert done.exit_code == code, done.output
    assert len(requests) == 1
    assert [word for word in words if word not in done.stdout] == [], done.stdout
    assert re.search(r"after [\d,]+ ms", done.stdout)
    assert ("did not take it" in done.stderr) == (code == 1)


def test_redirects_are_not_followed() -> None:
    """Who was redirected would be sent signed alerts that were meant for another."""
    with WebhookReceiver() as elsewhere, WebhookReceiver([redirect(elsewhere.url)]) as http:
        done = run(http.url)
        assert (done.exit_code, elsewhere.requests) == (1, [])
    assert f"it points to  {elsewhere.url}" in done.stdout
    assert "redirects are not followed" in done.stdout


def test_no_connection_is_told_as_the_system_says_it() -> None:
    """A port where nobody listens, and a name that nobody has."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = run(f"http://127.0.0.1:{nobody.getsockname()[1]}/hook")
    assert done.exit_code == 1
    assert "none: no connection (" in done.stdout
    assert "refused" in done.stdout


def test_an_answer_is_bounded_and_harmless() -> None:
    """The beginning of a long answer, on one line, without what would steer a terminal."""
    done, _ = tried(status(500, b"\x1b[2J\x07<html>\n\n oh " + b"x" * 100_000))
    (line,) = [line for line in done.stdout.splitlines() if "it says" in line]
    assert "<html> oh xxx" in line
    assert line.endswith(" …")
    assert len(line) < 400
    assert line.isprintable()


def test_no_secret_is_shown() -> None:
    """Neither ours nor one that a careless receiver sends back, and no token that stands in the URL's path or query."""
    body = f"expected {_SECRET}, key {_SECRET.removeprefix('whsec_')}".encode()
    with WebhookReceiver([status(401, body)]) as http:
        done = run(f"{http.origin}/hooks/token-in-path?key=token-in-query", secrets=f"{_SECRET},{_OTHER}")
    assert "it says       expected ********, key ********" in done.stdout
    for hidden in (_SECRET, _SECRET[6:], _OTHER, _OTHER[6:], "token-in"):
        assert hidden not in done.output


@pytest.mark.parametrize(
    ("arguments", "secrets", "words"),
    [
        (("http://127.0.0.1:1/",), None, "VIGIE_WEBHOOK_SECRETS is not set: `vigie alert secret` makes one"),
        (("http://127.0.0.1:1/",), "whsec_c2hvcnQ=", "secrets[0]: a secret has at least 24 bytes"),
        ((), _SECRET, "there is no URL: give one, or set VIGIE_WEBHOOK_URL"),
        (("on-call.example/hook",), _SECRET, "must begin with https:// or http://"),
        (("https://me:word@on-call.example/",), _SECRET, "must not hold a user or password"),
        (("http://127.0.0.1:1/", "--severity", "fatal"), _SECRET, "fatal"),
    ],
)
def test_what_cannot_be_tried_is_wrong_usage(arguments: tuple[str, ...], secrets: str | None, words: str) -> None:
    """Exit code 2, before anything is sent, and what to do; a secret is not quoted."""
    done = run(*arguments, secrets=secrets)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "c2hvcnQ" not in done.output


def test_a_new_secret_is_one() -> None:
    """What the command prints is taken as it is, by both sides, and is another one each time."""
    first, second = (CliRunner().invoke(alert, ["secret"]).stdout for _ in range(2))
    assert first != second
    with WebhookReceiver() as http:
        assert run(http.url, secrets=first.strip()).exit_code == 0
        verify(http.requests[0].headers, http.requests[0].body, [first.strip()], time.time())


# --- the page


@contextmanager
def receiver_of_the_page(folder: Path, secret: str) -> Iterator[tuple[str, Path]]:
    """The receiver of `docs/webhooks.md`, run as the page says: its URL, and what it prints."""
    found, port = blocks(PAGE.read_text("utf-8")), free_port()
    (folder / "receiver.py").write_text(found["check"] + "\n" + found["receiver"], "utf-8")
    output = folder / "printed.txt"
    with output.open("wb") as out, (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "receiver.py", str(port)],
            cwd=folder, env={"WEBHOOK_SECRETS": secret}, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
        )  # fmt: skip
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "errors.txt").read_text("utf-8")
                assert time.monotonic() < until
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", output
    finally:
        process.kill()
        process.wait()


def anonymous(text: str) -> str:
    """Without what differs from trial to trial."""
    return re.sub(r"after [\d,]+ ms", "after N ms", re.sub(r"webhook-id \w+|:\d{4,5}\b", "…", text))


def test_the_receiver_of_the_page_works(tmp_path: Path) -> None:
    """Copied from the page it takes a trial, tells it once, and refuses one that is signed with another secret; the
    page shows what the command prints of it."""
    found = blocks(PAGE.read_text("utf-8"))
    with receiver_of_the_page(tmp_path, f"{_OTHER},{_SECRET}") as (url, output):
        taken = run(url, "--resolve")
        refused = run(url, secrets=new_secret())
    assert (taken.exit_code, refused.exit_code) == (0, 1)
    assert anonymous(f"$ vigie alert test {url} --resolve\n{taken.output}") == anonymous(found["trial"])
    assert anonymous(f"$ vigie alert test {url}\n{refused.output}") == anonymous(found["refused"])
    firing, resolved = output.read_text("utf-8").splitlines()
    assert firing.startswith("firing info TEST ")
    assert resolved.startswith("resolved info TEST ")
