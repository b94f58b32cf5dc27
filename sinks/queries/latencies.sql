-- Quantiles that workers measure (`metrics`), in seconds, by time: the worst of the workers and samples of each bucket.
SELECT
    toStartOfInterval(at, toIntervalSecond({bucket_s:UInt32})) AS time,
    concat('p', toString(round(100 * toFloat64OrZero(labels['quantile'])))) AS quantile,
    max(value) AS seconds
FROM worker_samples
WHERE metric IN {metrics:Array(String)}
    AND at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND at <= {until:DateTime64(3)}
GROUP BY time, quantile
ORDER BY time, quantile
