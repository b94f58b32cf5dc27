-- Every life of one alert, the latest first: its labels, its newest evidence and state, and who acknowledged that.
SELECT
    jurisdiction_id,
    alertname,
    severity,
    state,
    domain,
    asset_id,
    zone_layer,
    zone_code,
    category,
    starts_at,
    changed_at,
    value,
    threshold,
    summary,
    fingerprint,
    ends_at,
    acknowledged_at,
    acknowledged_by,
    transition_id
FROM alerts
WHERE fingerprint = {fingerprint:String}
ORDER BY starts_at DESC
