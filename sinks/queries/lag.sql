-- Records in Kafka that are not durable yet, by topic and time: of each partition the newest sample, whichever worker holds it.
-- The bucket that is not over yet is left out: workers that have not spoken in it yet would look like a fall.
SELECT time, topic, sum(newest) AS lag
FROM
(
    SELECT
        toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
        replaceOne(labels['topic'], 'city.raw.', '') AS topic,
        labels['partition'] AS part,
        argMax(value, at) AS newest
    FROM worker_samples
    WHERE metric = 'vigie_lag_records'
        AND at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
        AND at < toStartOfInterval({until:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    GROUP BY time, topic, part
)
GROUP BY time, topic
ORDER BY time, topic
