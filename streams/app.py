"""The Faust application: agents, group membership, settings pinned with their reasons."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import faust
from faust.types.auth import AuthProtocol, SASLMechanism

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from streams.settings import Settings
from streams.transport import SCHEME, BatchSchema, Keeper

Handler = Callable[[Any], Awaitable[None]]

#: Fetches of a partition that may wait in one agent's queue: each is some 10 000 records, so a few are plenty.
_QUEUED_BATCHES = 4
#: Records that the client gives at once where it gives them one by one. A fetch of fewer is a small one, after which it
#: rests: from one partition a fetch brings some 30 000 at most.
MOST_POLLED = 10_000


def build(
    settings: Settings,
    keeper: Keeper,
    *,
    ingest: Handler,
    notify: Handler,
    on_failure: Callable[[BaseException], None],
) -> Any:
    """The application. `ingest` and `notify` get the Faust message of one batch; `on_failure` stops the process.

    A failed event must never be taken for done, so an agent's exception does not restart the agent.
    """
    app: Any = faust.App(
        settings.group,
        broker=";".join(f"{SCHEME}://{host.strip()}" for host in settings.kafka_bootstrap.split(",")),
        broker_credentials=_credentials(settings),
        autodiscover=False,
        store="memory://",
        web_enabled=settings.web_port > 0,
        web_bind=settings.web_host,
        web_host=settings.web_host,
        web_port=settings.web_port or None,
        # Faust makes this folder though nothing of ours is kept in it.
        datadir=str(Path(gettempdir()) / f"{settings.group}-faust"),
        # Topics are made by `vigie init`; declaring them raises NodeNotReadyError on the in-process broker.
        topic_allow_declare=False,
        # A worker that does not fetch for a while (sink down, idle standby) must not be thrown out of its group.
        broker_max_poll_interval=86_400.0,
        broker_session_timeout=settings.session_timeout_s,
        # Faust refuses one below the session's, which it waits for in a rebalance.
        broker_request_timeout=max(90.0, 1.5 * settings.session_timeout_s),
        broker_rebalance_timeout=settings.rebalance_timeout_s,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 3),
        broker_max_poll_records=min(settings.batch_records, MOST_POLLED),
        broker_check_crcs=True,
        consumer_max_fetch_size=settings.fetch_bytes,
        consumer_auto_offset_reset="earliest",
        # A topic that was deleted and created anew is taken up again within this; by default it takes five minutes.
        consumer_metadata_max_age_ms=10_000,
        consumer_group_instance_id=settings.instance_id,
        # We have no tables. With the default of 1, those who came first keep so much that the last may get nothing.
        table_standby_replicas=0,
        producer_threaded=False,
        producer_acks=-1,
        producer_linger=0.005,
        # By default a send hangs for 20 minutes in a broker that is away, and nobody hears of it.
        producer_request_timeout=30.0,
        # A dead letter is a raw record and its headers: never too large to be let go of.
        producer_max_request_size=max(4 * settings.max_record_bytes, 67_108_864),
        stream_wait_empty=True,
        stream_buffer_maxsize=_QUEUED_BATCHES,
        stream_processing_timeout=86_400.0,
    )
    app.keeper = keeper

    async def failed(agent: Any, error: BaseException) -> None:
        on_failure(error)

    # Faust gives every agent this one as its `on_error`; its own would commit.
    app._on_agent_error = failed
    for domain, topic in RAW_TOPICS.items():
        _agent(app, f"ingest_{domain}", topic, ingest)
    _agent(app, "notify", ALERT_TOPIC, notify)
    app.finalize()
    return app


def _agent(app: Any, name: str, topic: str, handle: Handler) -> None:
    async def agent(stream: Any) -> None:
        async for event in stream.events():
            await handle(event.message)

    app.agent(app.topic(topic, acks=False, schema=BatchSchema()), name=name)(agent)


def _credentials(settings: Settings) -> Any:
    if settings.kafka_security == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    if settings.kafka_security == "SSL":
        return faust.SSLCredentials(context)
    assert settings.kafka_password is not None
    secure = settings.kafka_security == "SASL_SSL"
    credentials = faust.SASLCredentials(
        username=settings.kafka_username,
        password=settings.kafka_password.get_secret_value(),
        ssl_context=context if secure else None,
        mechanism=SASLMechanism(settings.kafka_sasl_mechanism),
    )
    credentials.protocol = AuthProtocol.SASL_SSL if secure else AuthProtocol.SASL_PLAINTEXT
    return credentials
