-- Refused records that `vigie dead-letter retry` has sent again, by the place they were refused at and their broker time there
-- (offsets begin again when a topic is created anew, its time does not). Whoever is here is not sent another time.
CREATE TABLE IF NOT EXISTS dead_letter_retries
(
    topic LowCardinality(String),
    partition UInt16,
    offset Int64,
    received_at DateTime64(3, 'UTC'),
    retry UInt8,
    run_id String,
    stored_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (topic, partition, offset, received_at)
SETTINGS non_replicated_deduplication_window = 1000;
