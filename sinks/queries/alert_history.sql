-- Alerts that fired and lasted into the period, as regions of time: the most severe and newest 200, begun at most 31 days
-- before it. One that is not over ends with the period.
SELECT
    time,
    timeEnd,
    title,
    text,
    tags
FROM
(
    SELECT
        starts_at AS time,
        least(ifNull(ends_at, {until:DateTime64(3)}), {until:DateTime64(3)}) AS timeEnd,
        concat(severity, ': ', alertname) AS title,
        concat(place, if(summary = '', '', concat(' – ', summary))) AS text,
        concat(severity, ',', domain) AS tags
    FROM alert_places
    WHERE fired
        AND starts_at >= subtractDays({since:DateTime64(3)}, 31)
        AND starts_at <= {until:DateTime64(3)}
        AND ifNull(ends_at >= {since:DateTime64(3)}, true)
        AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
        AND (
            empty({districts:Array(String)})
            OR has({districts:Array(String)}, zones[{layer:String}])
            OR (NOT is_placed AND NOT mapContains(zones, {layer:String}))
        )
    ORDER BY indexOf(['critical', 'error', 'warning', 'info'], severity), time DESC, fingerprint
    LIMIT 200
)
ORDER BY time, title, text
