-- Where assets are and whether they are heard: `state` is in time, overdue (silent for more than four of its reporting
-- intervals, of one hour where none is known) or never heard. At most 3 000, those that have been heard before the others,
-- always the same ones. One that no registry knows is shown for a week after its last word.
SELECT
    latitude,
    longitude,
    if(ifNull(name, '') != '', concat(assumeNotNull(name), ' (', asset_id, ')'), asset_id) AS asset,
    kind,
    multiIf(
        heard_at IS NULL, 'never heard',
        heard_at >= subtractSeconds({now:DateTime64(3)}, toInt64(4 * ifNull(report_interval_s, 3600))), 'in time',
        'overdue'
    ) AS state,
    transform(state, ['in time', 'overdue', 'never heard'], ['', '×', '–'], '') AS mark,
    transform(state, ['in time', 'overdue', 'never heard'], [2, 1, 0], 0) AS heard,
    heard_at
FROM supervised_assets
WHERE latitude IS NOT NULL AND longitude IS NOT NULL AND (registered OR heard_at >= subtractDays({now:DateTime64(3)}, 7))
    AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, zones[{layer:String}]))
ORDER BY heard_at IS NULL, cityHash64(jurisdiction_id, asset_id)
LIMIT 3000
