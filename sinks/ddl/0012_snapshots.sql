-- The state of each partition and the offset it includes; the newest of the newest owner wins. `state` ends in a checksum of
-- its own. A snapshot is written after everything it includes is durable: a restart resumes at next_offset.
-- For zone detectors, which need all partitions, topic is '' and epoch the jurisdiction.
CREATE TABLE IF NOT EXISTS snapshots
(
    topic LowCardinality(String),
    epoch LowCardinality(String),
    partition UInt16,
    next_offset Int64,
    watermark DateTime64(3, 'UTC'),
    code_version LowCardinality(String),
    owner String,
    taken_at DateTime64(3, 'UTC'),
    version UInt64,
    state String CODEC(NONE)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (topic, epoch, partition)
SETTINGS non_replicated_deduplication_window = 1000;
