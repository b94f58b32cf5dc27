-- Records made durable per second and what became of them, by time, all workers together: in = stored + rejected + duplicates.
-- Counters begin at 0 with each start of a worker. The bucket that is not over yet is left out.
SELECT
    toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
    sumIf(added, metric = 'vigie_records_total') / {bucket_s:UInt32} AS records,
    sumIf(added, metric = 'vigie_events_stored_total') / {bucket_s:UInt32} AS stored,
    sumIf(added, metric = 'vigie_rejects_total') / {bucket_s:UInt32} AS rejected,
    sumIf(added, metric = 'vigie_duplicates_total') / {bucket_s:UInt32} AS duplicates
FROM
(
    SELECT
        at,
        metric,
        lagInFrame(value, 1, value) OVER (
            PARTITION BY worker, metric, toString(labels) ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
        ) AS before,
        if(value >= before, value - before, value) AS added
    FROM worker_samples
    WHERE metric IN ('vigie_records_total', 'vigie_events_stored_total', 'vigie_rejects_total', 'vigie_duplicates_total')
        AND at >= subtractMinutes({since:DateTime64(3)}, 10) AND at <= {until:DateTime64(3)}
)
WHERE at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND at < toStartOfInterval({until:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
GROUP BY time
ORDER BY time
