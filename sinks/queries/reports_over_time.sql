-- New citizen reports per hour by category, by time. The bucket that is not over yet is left out: it would look like a fall.
SELECT
    toStartOfInterval(window_start, toIntervalSecond({bucket_s:UInt32})) AS time,
    replaceOne(metric, '.received', '') AS category,
    sum(w.count) * 3600 / {bucket_s:UInt32} AS per_hour
FROM windows AS w
WHERE layer = {layer:String} AND endsWith(metric, '.received')
    AND window_start >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND window_start < toStartOfInterval({until:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
    AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, zone_code))
GROUP BY time, category
ORDER BY time, category
