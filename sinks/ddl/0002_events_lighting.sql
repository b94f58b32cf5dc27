-- Events of LightingObservation: one row per stored event. (topic, epoch, partition, offset) ends the sorting key, so a row that
-- is inserted again replaces itself, and of two owners the one with the higher term wins. `failed`: bit i is the i-th measure of the contract that left its plausible range.
CREATE TABLE IF NOT EXISTS events_lighting
(
    jurisdiction_id LowCardinality(String),
    kind LowCardinality(String),
    asset_id String,
    observed_at DateTime64(3, 'UTC') CODEC(Delta, LZ4),
    received_at DateTime64(3, 'UTC') CODEC(Delta, LZ4),
    event_id String,
    source LowCardinality(String),
    longitude Nullable(Float64),
    latitude Nullable(Float64),
    location_quality LowCardinality(String),
    zones Map(LowCardinality(String), LowCardinality(String)),
    quality UInt8,
    failed UInt64,
    late Bool,
    power_state LowCardinality(String),
    lamp_status LowCardinality(String),
    power_w Nullable(Float64),
    voltage_v Nullable(Float64),
    current_a Nullable(Float64),
    energy_kwh Nullable(Float64),
    dimming_ratio Nullable(Float64),
    territory_version LowCardinality(String),
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    offset Int64 CODEC(Delta, LZ4),
    chunk Int64 CODEC(Delta, LZ4),
    term UInt32 CODEC(Delta, LZ4),
    INDEX offsets offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(term)
PARTITION BY toDate(observed_at)
ORDER BY (jurisdiction_id, kind, toStartOfHour(observed_at), asset_id, observed_at, topic, epoch, partition, offset)
SETTINGS non_replicated_deduplication_window = 1000, min_bytes_for_wide_part = 67108864;
