-- Events of SensorObservation: one row per stored event. (topic, partition, offset) ends the sorting key, so a row that is
-- inserted again replaces itself. `failed`: bit i is the i-th measure of the contract that left its plausible range.
CREATE TABLE IF NOT EXISTS events_sensor
(
    jurisdiction_id LowCardinality(String),
    kind LowCardinality(String),
    asset_id String,
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    source LowCardinality(String),
    longitude Nullable(Float64) CODEC(ZSTD(1)),
    latitude Nullable(Float64) CODEC(ZSTD(1)),
    location_quality LowCardinality(String),
    zones Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)),
    quality UInt8,
    failed UInt64 CODEC(ZSTD(1)),
    late Bool,
    sensor_type LowCardinality(String),
    fill_level Nullable(Float64) CODEC(ZSTD(1)),
    temperature_c Nullable(Float64) CODEC(ZSTD(1)),
    tilt_deg Nullable(Float64) CODEC(ZSTD(1)),
    lid_open Nullable(Bool),
    battery_ratio Nullable(Float64) CODEC(ZSTD(1)),
    distance_mm Nullable(Float64) CODEC(ZSTD(1)),
    humidity_ratio Nullable(Float64) CODEC(ZSTD(1)),
    pressure_hpa Nullable(Float64) CODEC(ZSTD(1)),
    precipitation_mm Nullable(Float64) CODEC(ZSTD(1)),
    wind_speed_m_s Nullable(Float64) CODEC(ZSTD(1)),
    pm10_ug_m3 Nullable(Float64) CODEC(ZSTD(1)),
    pm2_5_ug_m3 Nullable(Float64) CODEC(ZSTD(1)),
    no2_ug_m3 Nullable(Float64) CODEC(ZSTD(1)),
    o3_ug_m3 Nullable(Float64) CODEC(ZSTD(1)),
    laeq_dba Nullable(Float64) CODEC(ZSTD(1)),
    motion_count Nullable(Int64) CODEC(ZSTD(1)),
    period_s Nullable(Float64) CODEC(ZSTD(1)),
    territory_version LowCardinality(String),
    topic LowCardinality(String),
    partition UInt16,
    offset Int64 CODEC(Delta, ZSTD(1)),
    chunk Int64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(observed_at)
ORDER BY (jurisdiction_id, kind, toStartOfHour(observed_at), asset_id, observed_at, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 1000;
