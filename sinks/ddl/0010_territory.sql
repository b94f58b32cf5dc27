-- What the worker was told of each territory, by version, so that old rows can be read with the zones of their time.
CREATE TABLE IF NOT EXISTS zones
(
    jurisdiction_id LowCardinality(String),
    layer LowCardinality(String),
    code LowCardinality(String),
    name String,
    valid_from Nullable(DateTime64(3, 'UTC')),
    valid_to Nullable(DateTime64(3, 'UTC')),
    wkt String CODEC(ZSTD(3)),
    territory_version LowCardinality(String),
    loaded_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(loaded_at)
ORDER BY (jurisdiction_id, territory_version, layer, code, assumeNotNull(valid_from));

CREATE TABLE IF NOT EXISTS assets
(
    jurisdiction_id LowCardinality(String),
    asset_id String,
    domain LowCardinality(String),
    kind LowCardinality(String),
    name Nullable(String),
    longitude Float64,
    latitude Float64,
    report_interval_s Nullable(Float64),
    depth_mm Nullable(Float64),
    circuit_id Nullable(String),
    cabinet_id Nullable(String),
    daily_flow Nullable(Float64),
    morning_peak_flow Nullable(Float64),
    evening_peak_flow Nullable(Float64),
    territory_version LowCardinality(String),
    loaded_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(loaded_at)
ORDER BY (jurisdiction_id, territory_version, asset_id);
