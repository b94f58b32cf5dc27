-- Events of RoadwayObservation: one row per stored event. (topic, epoch, partition, offset) ends the sorting key, so a row that
-- is inserted again replaces itself, and of two owners the one with the higher term wins. `failed`: bit i is the i-th measure of the contract that left its plausible range.
CREATE TABLE IF NOT EXISTS events_roadway
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
    observation_type LowCardinality(String),
    channel_id LowCardinality(Nullable(String)),
    mobility_type LowCardinality(String),
    period_s Nullable(Float64),
    count Nullable(Float64),
    uptime_ratio Nullable(Float64),
    occupancy_ratio Nullable(Float64),
    speed_kmh Nullable(Float64),
    condition_index Nullable(Float64),
    roughness_mm_m Nullable(Float64),
    vibration_g Nullable(Float64),
    surface_temperature_c Nullable(Float64),
    closure_start_at Nullable(DateTime64(3, 'UTC')),
    closure_end_at Nullable(DateTime64(3, 'UTC')),
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
