-- One replay or retry by its id: its newest row, and how many seconds ago by ClickHouse's clock it was written.
SELECT *, dateDiff('millisecond', updated_at, now64(3)) / 1000 AS age_s
FROM replay_runs FINAL
WHERE run_id = {run_id:String}
