-- One-minute windows per zone and metric, summed over partitions and chunks, each chunk at its newest version; what was taken back (count 0) is left out.
-- "" as zone_code: in no zone of that layer. Totals of whole steps are exact; only the last product is a float.
CREATE VIEW IF NOT EXISTS windows AS
SELECT
    jurisdiction_id,
    layer,
    zone_code,
    metric,
    window_start,
    sum(n) AS count,
    sum(n_late) AS late,
    sum(steps) * any(step) AS sum,
    sum(squares) * any(step) * any(step) AS sum_squares,
    min(lowest) * any(step) AS minimum,
    max(highest) * any(step) AS maximum,
    argMax(newest, (newest_at, newest)) * any(step) AS last,
    max(newest_at) AS last_at,
    sum / count AS mean
FROM
(
    SELECT
        jurisdiction_id,
        layer,
        metric,
        window_start,
        zone_code,
        any(resolution) AS step,
        argMax(count, version) AS n,
        argMax(late, version) AS n_late,
        argMax(sum, version) AS steps,
        argMax(sum_squares, version) AS squares,
        argMax(minimum, version) AS lowest,
        argMax(maximum, version) AS highest,
        argMax(last, version) AS newest,
        argMax(last_at, version) AS newest_at
    FROM window_rows
    GROUP BY jurisdiction_id, layer, metric, window_start, zone_code, topic, epoch, partition, chunk
    HAVING n > 0
)
GROUP BY jurisdiction_id, layer, metric, window_start, zone_code;
