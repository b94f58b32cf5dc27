-- Window rows: the aggregate of one (window, zone, metric) over one chunk. Values are whole steps of `resolution`.
-- The version is the owner's term and the next offset (term * 2^42 + offset), so the newest emission of the newest owner
-- wins; a row of count 0 takes an older one back. Read the view `windows` instead.
CREATE TABLE IF NOT EXISTS window_rows
(
    window_start DateTime('UTC') CODEC(Delta, ZSTD(1)),
    jurisdiction_id LowCardinality(String),
    layer LowCardinality(String),
    zone_code LowCardinality(String),
    metric LowCardinality(String),
    resolution Float64,
    count UInt64 CODEC(ZSTD(1)),
    late UInt64 CODEC(ZSTD(1)),
    sum Int64 CODEC(ZSTD(1)),
    sum_squares Int64 CODEC(ZSTD(1)),
    minimum Int64 CODEC(ZSTD(1)),
    maximum Int64 CODEC(ZSTD(1)),
    last Int64 CODEC(ZSTD(1)),
    last_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    chunk Int64,
    version UInt64 CODEC(Delta, ZSTD(1)),
    INDEX chunks chunk TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(window_start)
ORDER BY (jurisdiction_id, layer, metric, window_start, zone_code, topic, epoch, partition, chunk)
SETTINGS non_replicated_deduplication_window = 1000;
