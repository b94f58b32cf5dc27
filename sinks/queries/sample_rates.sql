-- Counters of the workers (`metrics`) per second, by their labels and time, all workers together. A counter begins at 0 with
-- each start of a worker: what it has after a fall is what was added, and one that a worker did not have before was 0. The
-- bucket that is not over yet is left out.
SELECT
    toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
    arrayStringConcat(arrayMap(value -> replaceOne(value, 'city.raw.', ''), mapValues(labels)), ' ') AS series,
    sum(if(value >= before, value - before, value)) / {bucket_s:UInt32} AS per_s
FROM
(
    SELECT
        s.at AS at,
        s.labels AS labels,
        s.value AS value,
        lagInFrame(s.value, 1, if(s.at > w.heard_from, 0, s.value)) OVER (
            PARTITION BY s.worker, s.metric, toString(s.labels) ORDER BY s.at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
        ) AS before
    FROM worker_samples AS s
    INNER JOIN
    (
        SELECT worker, min(at) AS heard_from
        FROM worker_samples
        WHERE metric = 'vigie_ready' AND at >= subtractMinutes({since:DateTime64(3)}, 10) AND at <= {until:DateTime64(3)}
        GROUP BY worker
    ) AS w ON w.worker = s.worker
    WHERE s.metric IN {metrics:Array(String)}
        AND s.at >= subtractMinutes({since:DateTime64(3)}, 10) AND s.at <= {until:DateTime64(3)}
)
WHERE at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND at < toStartOfInterval({until:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
GROUP BY time, series
ORDER BY time, series
