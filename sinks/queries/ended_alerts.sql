-- Alerts that are over, of these authorities and severities (none named: all): those that ended last, at most so many.
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
    acknowledged_by
FROM alerts
WHERE ends_at IS NOT NULL
    AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    AND (empty({severities:Array(String)}) OR has({severities:Array(String)}, severity))
ORDER BY ends_at DESC, fingerprint
LIMIT {most:UInt32}
