-- Alerts whose fingerprint begins so, with what they are about and since when: the latest life of each, at most so many.
SELECT fingerprint, jurisdiction_id, alertname, severity, state, starts_at, ends_at, summary
FROM alerts
WHERE startsWith(fingerprint, {prefix:String})
ORDER BY fingerprint, starts_at DESC
LIMIT 1 BY fingerprint
LIMIT {most:UInt32}
