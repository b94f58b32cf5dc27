-- Counters of the workers (`metrics`) per second, by their labels and time, all workers together. A counter begins at 0 with
-- each start of a worker: what it has after a fall is what was added. The bucket that is not over yet is left out.
SELECT
    toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
    arrayStringConcat(arrayMap(value -> replaceOne(value, 'city.raw.', ''), mapValues(labels)), ' ') AS series,
    sum(if(value >= before, value - before, value)) / {bucket_s:UInt32} AS per_s
FROM
(
    SELECT
        at,
        labels,
        value,
        lagInFrame(value, 1, value) OVER (
            PARTITION BY worker, metric, toString(labels) ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
        ) AS before
    FROM worker_samples
    WHERE metric IN {metrics:Array(String)}
        AND at >= subtractMinutes({since:DateTime64(3)}, 10) AND at <= {until:DateTime64(3)}
)
WHERE at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND at < toStartOfInterval({until:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
GROUP BY time, series
ORDER BY time, series
