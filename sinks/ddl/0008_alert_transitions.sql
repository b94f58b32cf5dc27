-- Every transition of every alert; appended, and safe to repeat. The fields are those of the Alert contract, and how far its
-- partition had been read when it was made (topic '' for alerts of zones, which need all partitions).
CREATE TABLE IF NOT EXISTS alert_transitions
(
    transition_id String,
    fingerprint String,
    sequence UInt64,
    alertname LowCardinality(String),
    jurisdiction_id LowCardinality(String),
    domain LowCardinality(String),
    asset_id Nullable(String),
    zone_layer LowCardinality(Nullable(String)),
    zone_code LowCardinality(Nullable(String)),
    category LowCardinality(Nullable(String)),
    severity LowCardinality(String),
    state LowCardinality(String),
    at DateTime64(3, 'UTC'),
    starts_at DateTime64(3, 'UTC'),
    ends_at Nullable(DateTime64(3, 'UTC')),
    value Nullable(Float64),
    threshold Nullable(Float64),
    summary String,
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    offset Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(starts_at)
ORDER BY (jurisdiction_id, alertname, fingerprint, starts_at, sequence, transition_id)
SETTINGS non_replicated_deduplication_window = 1000;
