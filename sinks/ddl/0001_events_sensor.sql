-- Events of SensorObservation: one row per stored event. (topic, epoch, partition, offset) ends the sorting key, so a row that
-- is inserted again replaces itself, and of two owners the one with the higher term wins. `failed`: bit i is the i-th measure of the contract that left its plausible range.
CREATE TABLE IF NOT EXISTS events_sensor
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
    sensor_type LowCardinality(String),
    fill_level Nullable(Float64),
    temperature_c Nullable(Float64),
    tilt_deg Nullable(Float64),
    lid_open Nullable(Bool),
    battery_ratio Nullable(Float64),
    distance_mm Nullable(Float64),
    humidity_ratio Nullable(Float64),
    pressure_hpa Nullable(Float64),
    precipitation_mm Nullable(Float64),
    wind_speed_m_s Nullable(Float64),
    pm10_ug_m3 Nullable(Float64),
    pm2_5_ug_m3 Nullable(Float64),
    no2_ug_m3 Nullable(Float64),
    o3_ug_m3 Nullable(Float64),
    laeq_dba Nullable(Float64),
    motion_count Nullable(Int64),
    period_s Nullable(Float64),
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
