-- The mean of some measures (`metrics`: kind.field), by district and time: the twelve districts with the most readings.
SELECT
    b.bucket AS time,
    concat(
        multiIf(n.title != '', n.title, b.zone_code = '', 'in no district', b.zone_code),
        if(b.authorities > 1, concat(', ', b.jurisdiction_id), '')
    ) AS district,
    b.mean AS mean
FROM
(
    SELECT
        bucket,
        jurisdiction_id,
        zone_code,
        mean,
        dense_rank() OVER (ORDER BY readings DESC, jurisdiction_id, zone_code) AS place,
        uniqExact(jurisdiction_id) OVER () AS authorities
    FROM
    (
        SELECT
            toStartOfInterval(window_start, toIntervalSecond({bucket_s:UInt32})) AS bucket,
            jurisdiction_id,
            zone_code,
            sum(w.sum) / sum(w.count) AS mean,
            sum(sum(w.count)) OVER (PARTITION BY jurisdiction_id, zone_code) AS readings
        FROM windows AS w
        WHERE layer = {layer:String} AND metric IN {metrics:Array(String)}
            AND window_start >= toStartOfInterval({since:DateTime64(3)}, toIntervalSecond({bucket_s:UInt32}))
            AND window_start <= {until:DateTime64(3)}
            AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
            AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, zone_code))
        GROUP BY bucket, jurisdiction_id, zone_code
    )
) AS b
LEFT JOIN zone_names AS n ON n.jurisdiction_id = b.jurisdiction_id AND n.layer = {layer:String} AND n.code = b.zone_code
WHERE b.place <= 12
ORDER BY time, district
