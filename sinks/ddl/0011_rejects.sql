-- Records that could not become events: where they are and why. Never their bytes, key or values.
CREATE TABLE IF NOT EXISTS rejects
(
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    offset Int64 CODEC(Delta, ZSTD(1)),
    term UInt32 CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    stage LowCardinality(String),
    reason LowCardinality(String),
    detail LowCardinality(String)
)
ENGINE = ReplacingMergeTree(term)
PARTITION BY toYYYYMM(received_at)
ORDER BY (topic, epoch, partition, offset)
SETTINGS non_replicated_deduplication_window = 1000;
