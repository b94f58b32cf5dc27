-- One row per alert life (fingerprint, starts_at): its newest state. argMax passes over nulls, which tuples keep.
CREATE VIEW IF NOT EXISTS alerts AS
SELECT
    jurisdiction_id,
    alertname,
    fingerprint,
    starts_at,
    any(t.domain) AS domain,
    any(t.severity) AS severity,
    any(t.asset_id) AS asset_id,
    any(t.zone_layer) AS zone_layer,
    any(t.zone_code) AS zone_code,
    any(t.category) AS category,
    argMax(entered, sequence) AS state,
    max(at) AS changed_at,
    argMax(tuple(t.ends_at), sequence).1 AS ends_at,
    argMax(tuple(t.value), sequence).1 AS value,
    argMax(tuple(t.threshold), sequence).1 AS threshold,
    argMax(t.summary, sequence) AS summary,
    countIf(entered = 'firing') > 0 AS fired
FROM (SELECT *, state AS entered FROM alert_transitions FINAL) AS t
GROUP BY jurisdiction_id, alertname, fingerprint, starts_at;
