-- Retries of dead letters of which it is not known what they sent last: they run, or were cut short. The oldest first, without this one.
SELECT *, dateDiff('millisecond', updated_at, now64(3)) / 1000 AS age_s
FROM replay_runs FINAL
WHERE kind = 'retry' AND state IN ('running', 'failed') AND run_id != {run_id:String}
ORDER BY started_at, run_id
