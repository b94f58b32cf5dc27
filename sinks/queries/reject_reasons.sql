-- Rejects of the period by topic, stage, reason and detail, the most frequent first, at most 200; duplicates are among them.
SELECT
    replaceOne(topic, 'city.raw.', '') AS topic,
    stage,
    reason,
    detail,
    count() AS records,
    max(received_at) AS newest
FROM rejects FINAL
WHERE received_at >= {since:DateTime64(3)} AND received_at <= {until:DateTime64(3)}
GROUP BY topic, stage, reason, detail
ORDER BY records DESC, topic, stage, reason, detail
LIMIT 200
