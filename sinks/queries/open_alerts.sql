-- Alerts that are not over, of these authorities (none named: all): the most severe first, then the oldest.
-- `acknowledged` is a firing one that somebody has taken on; `pending` is one that nobody has been told of yet.
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
WHERE ends_at IS NULL AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
ORDER BY indexOf(['critical', 'error', 'warning', 'info', 'unknown'], severity), starts_at, fingerprint
