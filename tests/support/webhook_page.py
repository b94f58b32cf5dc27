"""What `docs/webhooks.md` shows of real deliveries, made by the code that makes them.

    python -m tests.support.webhook_page    # writes it into the page again

Blocks of the page have names, in a comment before them: `<!-- name -->`.
"""

from __future__ import annotations

import base64
import json
import re
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

import polars as pl

from processors.alerts import AlertBook, Transition, to_record
from processors.detect.hot_spot import hot_spots
from processors.territory import ReportHotSpot
from sinks.webhook import Receiver, WebhookSink, body
from tests.support.batches import HOUR, MINUTE, RECEIVED_MS, Ran, batch_of, event, reference
from tests.support.city import CITY
from tests.support.receiver import Received, WebhookReceiver

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"
#: The bytes 0 to 31, as the page says.
SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
EXTERNAL_URL: Final = "https://vigie.example"
#: A request's own; the others are HTTP's.
_HEADERS: Final = ("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature")
_BLOCK: Final = re.compile(r"(<!-- (\w+) -->\n```\w*\n)(.*?)(```\n)", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """The named blocks of a page."""
    return {name: content for _, name, content, _ in _BLOCK.findall(text)}


@cache
def bin_alert() -> tuple[Transition, Transition]:
    """What the stages make of a bin that fills up and is emptied: firing and resolved."""
    at = RECEIVED_MS - 4 * HOUR
    readings = [(0, 0.62), (30 * MINUTE, 0.97), (2 * HOUR, 0.05)]
    told = Ran(
        [
            batch_of(
                [
                    event(event_id=f"e-{number}", observed_at=at + after, fill_level=level)
                    for number, (after, level) in enumerate([*readings, (3 * HOUR, 0.05)])
                ]
            )
        ],
        reference(),
    ).transitions
    firing, resolved = told
    return firing, resolved


def zone_alert() -> Transition:
    """The hot spot of two days with a report an hour in four quarters, then fourteen in one."""
    minutes = [(zone, 60 * hour) for zone in ("Q01", "Q02", "Q03", "Q04") for hour in range(48)]
    minutes += [("Q03", 48 * 60 - 5 * number) for number in range(1, 15)]
    windows = pl.DataFrame(
        {
            "window_start": pl.Series([RECEIVED_MS + minute * MINUTE for _, minute in minutes], dtype=pl.Int64),
            "zone_code": [zone for zone, _ in minutes],
            "category": ["street_lighting"] * len(minutes),
            "count": [1] * len(minutes),
        }
    ).with_columns(pl.col("window_start").cast(pl.Datetime("ms", "UTC")))
    end_ms = RECEIVED_MS + 48 * HOUR
    (firing,) = AlertBook().step(hot_spots(windows, ReportHotSpot(), CITY, end_ms, layer="quartier"), end_ms)
    return firing


def request() -> Received:
    """The firing bin as it is sent: by the real sender, to a real receiver."""
    firing, _ = bin_alert()
    clock = firing.at.timestamp() + 1.25
    with (
        WebhookReceiver() as http,
        WebhookSink(
            Receiver("webhook", http.url, (SECRET,)),
            clock=lambda: clock,
            monotonic=time.monotonic,
            external_url=EXTERNAL_URL,
        ) as sink,
    ):
        assert sink.deliver(to_record(firing)).outcome == "delivered"
        (received,) = http.requests
    return received


def made() -> dict[str, str]:
    """What the code makes, by the name of its block."""
    firing, resolved = bin_alert()
    received = request()
    head = "".join(f"{name}: {received.headers[name]}\n" for name in _HEADERS)
    return {
        "firing": _lines(_body(firing)),
        "resolved": _lines(_body(resolved)["alerts"][0]),
        "zone": _lines(_body(zone_alert())["alerts"][0]),
        "request": f"{head}\n{received.body.decode()}\n",
    }


def written(text: str) -> str:
    """The page with its blocks as the code makes them."""
    made_now = made()

    def block(found: re.Match[str]) -> str:
        head, name, content, foot = found.groups()
        return f"{head}{made_now.get(name, content)}{foot}"

    return _BLOCK.sub(block, text)


def _body(transition: Transition) -> dict[str, Any]:
    receiver = Receiver("webhook", "https://on-call.example", (SECRET,))
    sent: dict[str, Any] = json.loads(body(to_record(transition), receiver, EXTERNAL_URL))
    return sent


def _lines(value: object) -> str:
    """As JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
