-- Alerts that are not over, where they are and how long they have lasted: the most severe first, then the oldest, at most
-- 500. An alert whose zone in the layer is not known is listed whatever districts are named.
SELECT
    a.severity AS severity,
    a.state AS state,
    toInt64(greatest(0, dateDiff('second', a.starts_at, {now:DateTime64(3)}))) AS age_s,
    a.alertname AS alertname,
    a.place AS place,
    if(n.title != '', n.title, a.zones[{layer:String}]) AS district,
    a.category AS category,
    a.value AS value,
    a.threshold AS threshold,
    a.summary AS summary,
    a.acknowledged_by AS acknowledged_by,
    a.starts_at AS starts_at,
    a.jurisdiction_id AS jurisdiction_id,
    a.zones[{layer:String}] AS district_code,
    a.fingerprint AS fingerprint
FROM alert_places AS a
LEFT JOIN zone_names AS n
    ON n.jurisdiction_id = a.jurisdiction_id AND n.layer = {layer:String} AND n.code = a.zones[{layer:String}]
WHERE a.ends_at IS NULL AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, a.jurisdiction_id))
    AND (
        empty({districts:Array(String)})
        OR has({districts:Array(String)}, a.zones[{layer:String}])
        OR (NOT a.is_placed AND NOT mapContains(a.zones, {layer:String}))
    )
ORDER BY indexOf(['critical', 'error', 'warning', 'info'], a.severity), starts_at, fingerprint
LIMIT 500
