-- What each worker says of itself every few seconds: its metrics by name, as `/metrics` tells them. For people who watch the
-- pipeline without a Prometheus; kept for 30 days. Counters begin at 0 with each start of a worker.
CREATE TABLE IF NOT EXISTS worker_samples
(
    at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    worker LowCardinality(String),
    metric LowCardinality(String),
    labels Map(LowCardinality(String), LowCardinality(String)),
    value Float64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (metric, worker, at)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 1000;
