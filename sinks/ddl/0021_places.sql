-- What is known of each asset by what it said last, by event time: one row per asset and kind.
CREATE OR REPLACE VIEW assets_now AS
SELECT
    jurisdiction_id,
    domain,
    asset_id,
    kind,
    observed_at,
    received_at,
    longitude,
    latitude,
    location_quality,
    zones,
    quality,
    measures,
    states
FROM asset_state FINAL;

-- The zones of each authority's newest territory, one row per vintage. `middle` is (longitude, latitude) of the middle of the
-- zone's bounding box, which may lie outside of it.
CREATE OR REPLACE VIEW zones_now AS
WITH
    arrayMap(number -> toFloat64(number), extractAll(wkt, '-?[0-9.]+(?:e-?[0-9]+)?')) AS numbers,
    arrayFilter((number, at) -> at % 2 = 1, numbers, arrayEnumerate(numbers)) AS longitudes,
    arrayFilter((number, at) -> at % 2 = 0, numbers, arrayEnumerate(numbers)) AS latitudes
SELECT
    jurisdiction_id,
    layer,
    code,
    name,
    valid_from,
    valid_to,
    wkt,
    (
        (arrayMin(longitudes) + arrayMax(longitudes)) / 2,
        (arrayMin(latitudes) + arrayMax(latitudes)) / 2
    ) AS middle,
    territory_version
FROM zones FINAL
WHERE (jurisdiction_id, territory_version) IN (
    SELECT jurisdiction_id, argMax(territory_version, loaded_at) FROM zones GROUP BY jurisdiction_id
);

-- What to call a zone: one row per authority, layer and code, by its last vintage. `title` tells zones of one name apart.
CREATE OR REPLACE VIEW zone_names AS
SELECT
    jurisdiction_id,
    layer,
    code,
    argMax(z.name, ifNull(valid_from, toDateTime64(0, 3, 'UTC'))) AS name,
    if(name IN ('', code), code, concat(name, ' (', code, ')')) AS title,
    argMax(z.middle, ifNull(valid_from, toDateTime64(0, 3, 'UTC'))) AS middle
FROM zones_now AS z
GROUP BY jurisdiction_id, layer, code;

-- The registry of each authority's newest territory, which may be empty.
CREATE OR REPLACE VIEW registry_now AS
SELECT
    jurisdiction_id,
    asset_id,
    domain,
    kind,
    name,
    longitude,
    latitude,
    report_interval_s,
    territory_version
FROM assets FINAL
WHERE (jurisdiction_id, territory_version) IN (
    SELECT jurisdiction_id, argMax(territory_version, loaded_at)
    FROM
    (
        SELECT jurisdiction_id, territory_version, loaded_at FROM assets
        UNION ALL
        SELECT jurisdiction_id, territory_version, loaded_at FROM zones
    )
    GROUP BY jurisdiction_id
);

-- One row per asset that the registry knows or that has spoken for itself: citizens' reports and road closures about an
-- asset are not its own words. One that an older registry had and the newest has not is there no more. `heard_at` is null
-- for one that has never spoken: its zones are not known then. Position and zones are those of its last word, else the
-- registry's position.
CREATE OR REPLACE VIEW supervised_assets AS
SELECT
    jurisdiction_id,
    asset_id,
    max(of_registry) AS registered,
    if(registered, anyIf(u.domain, of_registry), argMax(u.domain, said_at)) AS domain,
    if(registered, anyIf(u.kind, of_registry), argMax(u.kind, said_at)) AS kind,
    anyIf(u.name, of_registry) AS name,
    anyIf(u.report_interval_s, of_registry) AS report_interval_s,
    maxOrNullIf(said_at, NOT of_registry) AS heard_at,
    argMaxIf(u.zones, said_at, NOT of_registry) AS zones,
    argMaxIf(position, said_at, position.1 IS NOT NULL AND position.2 IS NOT NULL) AS place,
    place.1 AS longitude,
    place.2 AS latitude
FROM
(
    SELECT
        jurisdiction_id,
        asset_id,
        toBool(true) AS of_registry,
        domain,
        kind,
        name,
        report_interval_s,
        toDateTime64(0, 3, 'UTC') AS said_at,
        CAST(map(), 'Map(String, String)') AS zones,
        (toNullable(longitude), toNullable(latitude)) AS position
    FROM registry_now
    UNION ALL
    SELECT
        jurisdiction_id,
        asset_id,
        toBool(false) AS of_registry,
        domain,
        splitByChar('.', assumeNotNull(kind))[1] AS kind,
        NULL AS name,
        NULL AS report_interval_s,
        observed_at AS said_at,
        zones,
        (longitude, latitude) AS position
    FROM assets_now
    WHERE domain != 'report' AND kind != 'closure'
        AND ((jurisdiction_id, asset_id) IN (SELECT jurisdiction_id, asset_id FROM registry_now)
            OR (jurisdiction_id, asset_id) NOT IN (SELECT jurisdiction_id, asset_id FROM assets))
) AS u
GROUP BY jurisdiction_id, asset_id;

-- Alerts with the place they are about: the asset's, else the zone's. `zones` holds the zone of each layer; `is_placed` says
-- whether it holds all of them: not for an asset that has never spoken, nor for a zone, whose other layers are not known.
CREATE OR REPLACE VIEW alert_places AS
SELECT
    l.jurisdiction_id AS jurisdiction_id,
    l.alertname AS alertname,
    l.fingerprint AS fingerprint,
    l.starts_at AS starts_at,
    l.domain AS domain,
    l.severity AS severity,
    l.state AS state,
    l.asset_id AS asset_id,
    l.zone_layer AS zone_layer,
    l.zone_code AS zone_code,
    l.category AS category,
    l.changed_at AS changed_at,
    l.ends_at AS ends_at,
    l.value AS value,
    l.threshold AS threshold,
    l.summary AS summary,
    l.fired AS fired,
    l.acknowledged_by AS acknowledged_by,
    multiIf(
        ifNull(l.asset_id, '') != '', if(ifNull(a.name, '') != '', concat(a.name, ' (', l.asset_id, ')'), l.asset_id),
        z.title != '', z.title,
        ifNull(l.zone_code, '')
    ) AS place,
    if(
        ifNull(l.zone_code, '') != '',
        CAST(map(assumeNotNull(l.zone_layer), assumeNotNull(l.zone_code)), 'Map(String, String)'),
        a.zones
    ) AS zones,
    ifNull(l.zone_code, '') = '' AND a.heard_at IS NOT NULL AS is_placed,
    if(z.code != '', toNullable(z.middle.1), a.longitude) AS longitude,
    if(z.code != '', toNullable(z.middle.2), a.latitude) AS latitude
FROM alerts AS l
LEFT JOIN supervised_assets AS a ON a.jurisdiction_id = l.jurisdiction_id AND a.asset_id = ifNull(l.asset_id, '')
LEFT JOIN zone_names AS z
    ON z.jurisdiction_id = l.jurisdiction_id AND z.layer = ifNull(l.zone_layer, '') AND z.code = ifNull(l.zone_code, '');
