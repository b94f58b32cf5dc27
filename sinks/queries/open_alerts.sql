-- Alerts that are not over, of these authorities (none named: all): the most severe first, then the oldest.
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
    fingerprint
FROM alerts
WHERE ends_at IS NULL AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
ORDER BY indexOf(['critical', 'error', 'warning', 'info'], severity), starts_at, fingerprint
