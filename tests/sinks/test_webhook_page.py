"""What `docs/webhooks.md` says is so: its payloads are sent, its check holds on real deliveries, its answers too."""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import pytest

from processors.alerts import to_record
from sinks.webhook import Delivery, Receiver, WebhookSink
from sinks.webhook_signature import new_secret
from tests.support.receiver import Received, WebhookReceiver, status
from tests.support.webhook_page import PAGE, SECRET, bin_alert, blocks, written

Check = Callable[[Mapping[str, str], bytes, list[str]], bool]

_TEXT: Final = PAGE.read_text("utf-8")
_CODE: Final = blocks(_TEXT)["check"]
_OLD, _NEW = new_secret(), new_secret()


def test_its_payloads_are_those_that_are_sent() -> None:
    """The stages, the sender and a receiver make them again: what differs is put right by
    `python -m tests.support.webhook_page`."""
    assert written(_TEXT) == _TEXT
    assert {"request", "firing", "resolved", "zone"} <= blocks(_TEXT).keys()


# --- the signature check


@pytest.fixture
def check() -> Check:
    """The check on the page: exactly its text."""
    names: dict[str, Any] = {}
    exec(compile(_CODE, str(PAGE), "exec"), names)
    found: Check = names["is_ours"]
    return found


def sent(*secrets: str, shift_s: float = 0.0) -> Received:
    """A delivery made by the real sender, signed with these, its clock set wrong by so much."""
    with (
        WebhookReceiver() as http,
        WebhookSink(
            Receiver("webhook", http.url, secrets),
            clock=lambda: time.time() + shift_s,
            monotonic=time.monotonic,
            external_url="https://vigie.example",
        ) as sink,
    ):
        assert sink.deliver(to_record(bin_alert()[0])).outcome == "delivered"
        (received,) = http.requests
    return received


def test_the_check_is_ten_lines_without_a_library() -> None:
    """Whoever writes a receiver can read it in a minute and has nothing to install; it compares in constant time."""
    assert len([line for line in _CODE.splitlines() if line.strip()]) <= 10
    imports = [
        alias.name for node in ast.walk(ast.parse(_CODE)) if isinstance(node, ast.Import) for alias in node.names
    ]
    assert set(imports) <= sys.stdlib_module_names
    assert "hmac.compare_digest" in _CODE
    assert "==" not in _CODE


def test_it_accepts_what_is_sent(check: Check) -> None:
    """A delivery of the real sender, with its headers and bytes as they arrived."""
    one = sent(_NEW)
    assert check(one.headers, one.body, [_NEW]) is True


def test_it_accepts_every_step_of_a_rotation(check: Check) -> None:
    """Old on both sides; signed with both while the receiver knows one of them; new on both sides."""
    both = sent(_NEW, _OLD)
    assert both.headers["webhook-signature"].count("v1,") == 2
    for known in ([_OLD], [_NEW], [_NEW, _OLD]):
        assert check(both.headers, both.body, known)
    assert check(sent(_OLD).headers, both.body, [_OLD, _NEW])
    assert not check(sent(_NEW).headers, both.body, [_OLD]), "the old one alone is not enough any more"


def test_it_refuses_what_nobody_signed(check: Check) -> None:
    """Another secret or none; a body, id or instant that was changed on the way."""
    one = sent(_NEW)
    assert not check(one.headers, one.body, [_OLD])
    assert not check(one.headers, one.body, [])
    assert not check(one.headers, one.body.replace(b"bin-00017", b"bin-00018"), [_NEW])
    assert not check(one.headers, one.body + b" ", [_NEW])
    stamp = int(one.headers["webhook-timestamp"])
    for changed in ({"webhook-id": "another"}, {"webhook-timestamp": str(stamp + 1)}, {"webhook-signature": "v1,"}):
        assert not check({**one.headers, **changed}, one.body, [_NEW])


def test_it_refuses_what_is_not_of_now(check: Check) -> None:
    """What was recorded and is sent again, and what comes from a clock that is far off; a little off is well."""
    for shift_s in (-310.0, 310.0):
        one = sent(_NEW, shift_s=shift_s)
        assert not check(one.headers, one.body, [_NEW])
    for shift_s in (-290.0, 290.0):
        one = sent(_NEW, shift_s=shift_s)
        assert check(one.headers, one.body, [_NEW])


def test_it_answers_whatever_comes(check: Check) -> None:
    """Anybody can send anything to a receiver: the check says no, and does not raise."""
    one = sent(_NEW)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert not check({key: value for key, value in one.headers.items() if key != name}, one.body, [_NEW])
        for wrong in ("", "é", "²", "-1", "1e9", "9" * 5_000, "v1,é", "v1"):
            assert not check({**one.headers, name: wrong}, one.body, [_NEW])
    assert not check({}, b"", [_NEW])


def test_the_request_of_the_page_is_good_for_other_languages(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secret, headers and body on the page fit together, so an implementation can be tried on them."""
    head, message = blocks(_TEXT)["request"].rstrip("\n").split("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines())
    assert f"`{SECRET}`" in _TEXT
    monkeypatch.setattr(time, "time", lambda: float(headers["webhook-timestamp"]))
    assert check(headers, message.encode(), [SECRET])


# --- the answers


def answers_of_the_page() -> list[tuple[str, str]]:
    """Each status on the page with what follows from it."""
    table = re.search(r"\| you answer \| what follows \|\n\|.*\n((?:\|.*\n)+)", _TEXT)
    assert table is not None
    found = []
    for row in table[1].splitlines():
        statuses, follows = (cell.strip() for cell in row.strip("|").split("|"))
        found += [(one, follows) for one in statuses.split(", ")]
    return found


def outcomes(codes: Iterable[int]) -> dict[int, Delivery]:
    """What the real sender makes of each status, in one attempt."""
    # The sender stops at 410.
    ordered = sorted(codes, key=lambda code: code == 410)
    with (
        WebhookReceiver([status(code) for code in ordered]) as http,
        WebhookSink(
            Receiver("webhook", http.url, (_NEW,)),
            clock=time.time,
            monotonic=time.monotonic,
            external_url="",
            budget_s=0.0,
        ) as sink,
    ):
        return {code: sink.deliver(to_record(bin_alert()[0])) for code in ordered}


def test_every_answer_is_treated_as_the_page_says() -> None:
    """What a receiver's author reads is what a worker does, for every status of the page."""
    named = {"told": "delivered", "refused": "refused", "disabled": "disabled", "sent again": "gave_up"}
    promised = {
        code: (next(result for words, result in named.items() if follows.startswith(words)), "settings" in follows)
        for answer, follows in answers_of_the_page()
        for code in range(*_range_of(answer))
    }
    assert len(promised) > 15
    assert promised == {code: (got.outcome, got.is_misdirected) for code, got in outcomes(promised).items()}


def _range_of(answer: str) -> tuple[int, int, int]:
    """The range of `503`, and of `5xx`, of which two are tried (304 has no body)."""
    if answer.endswith("xx"):
        first = int(answer[0]) * 100 + (1 if answer[0] == "3" else 0)
        return first, first + 3, 2
    return int(answer), int(answer) + 1, 1
