-- Workers by their newest sample: those heard within the ten minutes before the newest sample of anybody, which may be up to a
-- day old. `state` is silent after a minute without one, else waiting (for ClickHouse or Kafka), not ready, or ready.
SELECT
    worker,
    toInt64(greatest(0, dateDiff('second', last_at, {now:DateTime64(3)}))) AS age_s,
    multiIf(age_s > 60, 'silent', waiting_for != '', 'waiting', ready = 0, 'not ready', 'ready') AS state,
    waiting_for,
    stalled_s,
    last_at
FROM
(
    SELECT
        worker,
        max(said_at) AS last_at,
        max(max(said_at)) OVER () AS anybody_at,
        sumIf(newest, metric = 'vigie_ready') AS ready,
        arrayStringConcat(
            arraySort(groupArrayIf(labels['what'], metric = 'vigie_waiting_for' AND newest > 0)), ', '
        ) AS waiting_for,
        sumIf(newest, metric = 'vigie_stalled_seconds') AS stalled_s
    FROM
    (
        SELECT worker, metric, labels, argMax(value, at) AS newest, max(at) AS said_at
        FROM worker_samples
        WHERE metric IN ('vigie_ready', 'vigie_waiting_for', 'vigie_stalled_seconds')
            AND at >= subtractDays({now:DateTime64(3)}, 1)
        GROUP BY worker, metric, labels
    )
    GROUP BY worker
)
WHERE last_at >= subtractMinutes(anybody_at, 10)
ORDER BY indexOf(['silent', 'waiting', 'not ready', 'ready'], state), worker
