-- The sum of each of some measures (`metrics`: kind.field) over the districts together, per hour, by time. A count is told when
-- its period is over, and booked where it began: buckets must be multiples of the counters' periods, and one that is not over
-- for a quarter of an hour yet is left out, because it would look like a fall.
SELECT
    toStartOfInterval(window_start, toIntervalSecond({bucket_s:UInt32})) AS time,
    metric,
    sum(w.sum) * 3600 / {bucket_s:UInt32} AS per_hour
FROM windows AS w
WHERE layer = {layer:String} AND metric IN {metrics:Array(String)}
    AND window_start >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND window_start < toStartOfInterval(subtractMinutes({until:DateTime64(3)}, 15), toIntervalSecond({bucket_s:UInt32}))
    AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, zone_code))
GROUP BY time, metric
ORDER BY time, metric
