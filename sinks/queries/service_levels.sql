-- The service level of each district: the share of its assets that were heard in time and have no open alert (one that is
-- only pending does not count). Counted are the assets whose district is known, because they have been heard at least once;
-- in time is within four of an asset's reporting intervals (of one hour where none is known), so that no news is no service.
-- One that no registry knows counts for a week after its last word.
SELECT
    if(n.title != '', n.title, if(s.code = '', 'in no district', s.code)) AS district,
    s.assets AS assets,
    s.overdue AS overdue,
    s.in_alert AS in_alert,
    s.in_service AS in_service,
    s.in_service / s.assets AS service_level,
    s.jurisdiction_id AS jurisdiction_id,
    s.code AS district_code
FROM
(
    SELECT
        a.jurisdiction_id AS jurisdiction_id,
        a.zones[{layer:String}] AS code,
        count() AS assets,
        countIf(NOT a.in_time) AS overdue,
        countIf(o.asset_id != '') AS in_alert,
        countIf(a.in_time AND o.asset_id = '') AS in_service
    FROM
    (
        SELECT
            jurisdiction_id,
            asset_id,
            zones,
            heard_at >= subtractSeconds({now:DateTime64(3)}, toInt64(4 * ifNull(report_interval_s, 3600))) AS in_time
        FROM supervised_assets
        WHERE heard_at IS NOT NULL AND (registered OR heard_at >= subtractDays({now:DateTime64(3)}, 7))
            AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    ) AS a
    LEFT JOIN
    (
        SELECT DISTINCT jurisdiction_id, assumeNotNull(asset_id) AS asset_id
        FROM alerts
        WHERE ends_at IS NULL AND state != 'pending' AND ifNull(asset_id, '') != ''
            AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    ) AS o ON o.jurisdiction_id = a.jurisdiction_id AND o.asset_id = a.asset_id
    WHERE empty({districts:Array(String)}) OR has({districts:Array(String)}, a.zones[{layer:String}])
    GROUP BY jurisdiction_id, code
) AS s
LEFT JOIN zone_names AS n ON n.jurisdiction_id = s.jurisdiction_id AND n.layer = {layer:String} AND n.code = s.code
ORDER BY service_level, assets DESC, jurisdiction_id, district_code
