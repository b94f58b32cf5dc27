-- Every replay of a topic and every retry of dead letters that was really run: who did it, what was asked for (`selection`), what
-- was fixed at the start (`plan`), and how far it had come when everything before was confirmed (`cut`), these three as JSON.
-- Each row replaces the one before of its run: read with FINAL. `updated_at` is ClickHouse's own clock, so that it only moves
-- forward, whichever machine goes on with a run; while a process lives it moves every few seconds.
CREATE TABLE IF NOT EXISTS replay_runs
(
    run_id String,
    kind LowCardinality(String),
    state LowCardinality(String),
    who LowCardinality(String),
    process String,
    started_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3),
    ended_at Nullable(DateTime64(3, 'UTC')),
    source LowCardinality(String),
    targets Array(LowCardinality(String)),
    selection String,
    plan String,
    cut String,
    read UInt64,
    sent UInt64,
    left_out Map(LowCardinality(String), UInt64),
    problem String
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY run_id
SETTINGS non_replicated_deduplication_window = 1000;
