-- Instants that event time was lifted to because nothing came, where alerts were made of it. Whoever reads the partition
-- again lets time pass at the same offset to the same instant, and so makes the same alerts.
CREATE TABLE IF NOT EXISTS passes
(
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    offset Int64,
    passed DateTime64(3, 'UTC'),
    term UInt32
)
ENGINE = ReplacingMergeTree(term)
ORDER BY (topic, epoch, partition, offset, passed)
SETTINGS non_replicated_deduplication_window = 1000;
