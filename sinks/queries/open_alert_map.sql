-- Alerts that fire and whose position is known, the least severe first, so that others lie on top; `mark` is the sign
-- of the severity. At most 2 000, the most severe.
SELECT
    latitude,
    longitude,
    transform(severity, ['critical', 'error', 'warning', 'info'], ['◆', '▲', '●', '○'], '?') AS mark,
    alertname,
    severity,
    5 - indexOf(['critical', 'error', 'warning', 'info'], severity) AS weight,
    state,
    toInt64(greatest(0, dateDiff('second', starts_at, {now:DateTime64(3)}))) AS age_s,
    place,
    summary
FROM
(
    SELECT latitude, longitude, severity, alertname, state, starts_at, place, summary, fingerprint
    FROM alert_places
    WHERE ends_at IS NULL AND state != 'pending' AND latitude IS NOT NULL AND longitude IS NOT NULL
        AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
        AND (
            empty({districts:Array(String)})
            OR has({districts:Array(String)}, zones[{layer:String}])
            OR (NOT is_placed AND NOT mapContains(zones, {layer:String}))
        )
    ORDER BY indexOf(['critical', 'error', 'warning', 'info'], severity), starts_at, fingerprint
    LIMIT 2000
)
ORDER BY weight, starts_at DESC, fingerprint
