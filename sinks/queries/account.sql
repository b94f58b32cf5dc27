-- What became of the records of the period by topic, from the workers' counters: in = stored + rejected + duplicates.
-- `unaccounted` is what the workers themselves miss at their newest sample of the period: 0, or something is wrong.
SELECT
    replaceOne(labels['topic'], 'city.raw.', '') AS topic,
    toInt64(sumIf(added, metric = 'vigie_records_total')) AS records,
    toInt64(sumIf(added, metric = 'vigie_events_stored_total')) AS stored,
    toInt64(sumIf(added, metric = 'vigie_rejects_total')) AS rejected,
    toInt64(sumIf(added, metric = 'vigie_duplicates_total')) AS duplicates,
    toInt64(sumIf(added, metric = 'vigie_late_events_total')) AS late,
    records - stored - rejected - duplicates AS difference,
    toInt64(sumIf(value, metric = 'vigie_unaccounted_records' AND newest)) AS unaccounted
FROM
(
    SELECT
        at,
        metric,
        labels,
        value,
        lagInFrame(value, 1, value) OVER (
            PARTITION BY worker, metric, toString(labels) ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
        ) AS before,
        if(value >= before, value - before, value) AS added,
        at = max(at) OVER (PARTITION BY worker, metric, toString(labels)) AS newest
    FROM worker_samples
    WHERE metric IN (
            'vigie_records_total', 'vigie_events_stored_total', 'vigie_rejects_total', 'vigie_duplicates_total',
            'vigie_late_events_total', 'vigie_unaccounted_records'
        )
        AND at >= subtractMinutes({since:DateTime64(3)}, 10) AND at <= {until:DateTime64(3)}
)
WHERE at >= {since:DateTime64(3)}
GROUP BY topic
ORDER BY topic
