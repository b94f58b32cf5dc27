-- Rejects by reason and the time they came in, duplicates left out.
SELECT
    toStartOfInterval(received_at, toIntervalSecond({bucket_s:UInt32})) AS time,
    reason,
    count() AS rejected
FROM rejects FINAL
WHERE reason != 'duplicate'
    AND received_at >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND received_at <= {until:DateTime64(3)}
GROUP BY time, reason
ORDER BY time, reason
