-- When a worker last wrote down how far it has come (no row: never). What is older than that may have changed since.
SELECT max(taken_at) AS taken_at FROM snapshots FINAL HAVING count() > 0
