-- Workers that have said something within a day, by their newest sample. `state` is silent after a minute without one, else
-- waiting (for ClickHouse or Kafka), not ready, or ready.
SELECT
    worker,
    toInt64(greatest(0, dateDiff('second', max(said_at), {now:DateTime64(3)}))) AS age_s,
    multiIf(age_s > 60, 'silent', waiting_for != '', 'waiting', ready = 0, 'not ready', 'ready') AS state,
    sumIf(newest, metric = 'vigie_ready') AS ready,
    arrayStringConcat(arraySort(groupArrayIf(labels['what'], metric = 'vigie_waiting_for' AND newest > 0)), ', ') AS waiting_for,
    sumIf(newest, metric = 'vigie_stalled_seconds') AS stalled_s,
    max(said_at) AS last_at
FROM
(
    SELECT worker, metric, labels, argMax(value, at) AS newest, max(at) AS said_at
    FROM worker_samples
    WHERE metric IN ('vigie_ready', 'vigie_waiting_for', 'vigie_stalled_seconds')
        AND at >= subtractDays({now:DateTime64(3)}, 1)
    GROUP BY worker, metric, labels
)
GROUP BY worker
ORDER BY indexOf(['silent', 'waiting', 'not ready', 'ready'], state), worker
