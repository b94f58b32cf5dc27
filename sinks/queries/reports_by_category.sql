-- New citizen reports of the period by category and district: the twelve busiest categories, the others together.
SELECT
    concat(
        multiIf(n.title != '', n.title, c.zone_code = '', 'in no district', c.zone_code),
        if(c.authorities > 1, concat(', ', c.jurisdiction_id), '')
    ) AS district,
    if(c.place <= 12, c.service, 'other') AS category,
    sum(c.received) AS reports
FROM
(
    SELECT
        jurisdiction_id,
        zone_code,
        service,
        received,
        dense_rank() OVER (ORDER BY total DESC, service) AS place,
        uniqExact(jurisdiction_id) OVER () AS authorities
    FROM
    (
        SELECT
            jurisdiction_id,
            zone_code,
            replaceOne(metric, '.received', '') AS service,
            sum(w.count) AS received,
            sum(sum(w.count)) OVER (PARTITION BY service) AS total
        FROM windows AS w
        WHERE layer = {layer:String} AND endsWith(metric, '.received')
            AND window_start >= toStartOfMinute({since:DateTime64(3)}) AND window_start <= {until:DateTime64(3)}
            AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
            AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, zone_code))
        GROUP BY jurisdiction_id, zone_code, service
    )
) AS c
LEFT JOIN zone_names AS n ON n.jurisdiction_id = c.jurisdiction_id AND n.layer = {layer:String} AND n.code = c.zone_code
GROUP BY district, category
ORDER BY category, reports DESC, district
