"""`/live`, `/ready` and `/metrics` on Faust's web server, and nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from faust.web.base import BlueprintManager

from streams.telemetry.metrics import CONTENT_TYPE, Sample, exposition


def serve(app: Any, *, unready: Callable[[], Sequence[str]], samples: Callable[[], Iterable[Sample]]) -> None:
    """Have the app's web server answer. Call before it starts.

    /live     200 while the event loop turns; what does not turn does not answer
    /ready    200, or 503 with the reasons, as JSON: {"ready": false, "reasons": ["…"]}
    /metrics  Prometheus' text format
    """
    # Faust would also show its graph of services, tables and routes.
    app.web.blueprints = BlueprintManager([])

    async def live(web: Any, request: Any) -> Any:
        return web.json({"live": True})

    async def ready(web: Any, request: Any) -> Any:
        reasons = list(unready())
        return web.json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def metrics(web: Any, request: Any) -> Any:
        return web.bytes(exposition(samples()), headers={"Content-Type": CONTENT_TYPE})

    for path, page in (("/live", live), ("/ready", ready), ("/metrics", metrics)):
        app.page(path)(page)
