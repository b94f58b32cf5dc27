-- How old the newest data of each kind of source is, and how many of its assets are registered, have ever been heard, and
-- were heard in time. `state` goes by the usual reporting interval of the kind (one hour where none is known, six for
-- reports): fresh up to two intervals and five minutes, late up to four, then stale; never for a kind nobody has heard, and
-- for reports of which none came in 30 days. An asset that no registry knows counts for a week after its last word.
SELECT
    s.jurisdiction_id AS jurisdiction_id,
    s.source AS source,
    if(s.newest IS NULL, NULL, toInt64(greatest(0, dateDiff('second', assumeNotNull(s.newest), {now:DateTime64(3)})))) AS age_s,
    multiIf(
        age_s IS NULL, 'never',
        age_s <= 2 * s.interval_s + 300, 'fresh',
        age_s <= 4 * s.interval_s + 300, 'late',
        'stale'
    ) AS state,
    s.registered AS registered,
    s.heard AS heard,
    s.in_time AS in_time,
    s.newest AS newest
FROM
(
    SELECT
        jurisdiction_id,
        concat(domain, ' / ', kind) AS source,
        countIf(registered) AS registered,
        countIf(heard_at IS NOT NULL) AS heard,
        countIf(heard_at >= subtractSeconds({now:DateTime64(3)}, toInt64(4 * ifNull(report_interval_s, 3600)))) AS in_time,
        max(heard_at) AS newest,
        ifNull(quantileExactOrNull(0.5)(report_interval_s), 3600) AS interval_s
    FROM supervised_assets AS a
    WHERE (a.registered OR heard_at >= subtractDays({now:DateTime64(3)}, 7))
        AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    GROUP BY jurisdiction_id, source
    UNION ALL
    SELECT
        t.jurisdiction_id AS jurisdiction_id,
        'report' AS source,
        NULL AS registered,
        NULL AS heard,
        NULL AS in_time,
        r.newest AS newest,
        21600 AS interval_s
    FROM (SELECT DISTINCT jurisdiction_id FROM zones_now) AS t
    LEFT JOIN
    (
        SELECT jurisdiction_id, toNullable(max(observed_at)) AS newest
        FROM events_report FINAL
        WHERE observed_at >= subtractDays({now:DateTime64(3)}, 30)
        GROUP BY jurisdiction_id
    ) AS r ON r.jurisdiction_id = t.jurisdiction_id
    WHERE empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, t.jurisdiction_id)
) AS s
ORDER BY indexOf(['never', 'stale', 'late', 'fresh'], state), jurisdiction_id, source
