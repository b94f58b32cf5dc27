-- The newest state of each asset, by event time. Read it with FINAL, or through `assets_now`.
CREATE TABLE IF NOT EXISTS asset_state
(
    jurisdiction_id LowCardinality(String),
    domain LowCardinality(String),
    asset_id String,
    kind LowCardinality(String),
    observed_at DateTime64(3, 'UTC'),
    received_at DateTime64(3, 'UTC'),
    longitude Nullable(Float64),
    latitude Nullable(Float64),
    location_quality LowCardinality(String),
    zones Map(LowCardinality(String), LowCardinality(String)),
    quality UInt8,
    measures Map(LowCardinality(String), Float64),
    states Map(LowCardinality(String), LowCardinality(String))
)
ENGINE = ReplacingMergeTree(observed_at)
ORDER BY (jurisdiction_id, domain, asset_id, kind)
SETTINGS non_replicated_deduplication_window = 1000;
