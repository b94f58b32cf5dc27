-- Who has held each partition, and under which term. A term belongs to one owner; the highest is today's.
CREATE TABLE IF NOT EXISTS owners
(
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    term UInt32,
    owner String,
    generation Int64,
    claimed_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, epoch, partition, term, owner)
SETTINGS non_replicated_deduplication_window = 1000;
