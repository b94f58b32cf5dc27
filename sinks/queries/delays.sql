-- How far event time and snapshots are behind the wall clock, in seconds, by topic and time: of each partition the newest
-- sample, whichever worker holds it, and of these the worst; null where none is known.
SELECT time, topic, max(event_time) AS event_time_s, max(snapshot) AS snapshot_s
FROM
(
    SELECT
        toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
        replaceOne(labels['topic'], 'city.raw.', '') AS topic,
        labels['partition'] AS part,
        argMaxOrNullIf(toUnixTimestamp64Milli(at) / 1000 - value, at, metric = 'vigie_watermark_timestamp_seconds') AS event_time,
        argMaxOrNullIf(toUnixTimestamp64Milli(at) / 1000 - value, at, metric = 'vigie_snapshot_timestamp_seconds') AS snapshot
    FROM worker_samples
    WHERE metric IN ('vigie_watermark_timestamp_seconds', 'vigie_snapshot_timestamp_seconds') AND value > 0
        AND at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
        AND at <= {until:DateTime64(3)}
    GROUP BY time, topic, part
)
GROUP BY time, topic
ORDER BY time, topic
