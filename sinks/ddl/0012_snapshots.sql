-- How far each partition has come: the last offset that is durable, and the watermark there. The newest offset wins.
CREATE TABLE IF NOT EXISTS snapshots
(
    topic LowCardinality(String),
    partition UInt16,
    last_offset Int64,
    watermark DateTime64(3, 'UTC'),
    code_version LowCardinality(String),
    taken_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(taken_at)
ORDER BY (topic, partition)
SETTINGS non_replicated_deduplication_window = 1000;
