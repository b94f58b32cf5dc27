-- The outlines of the zones of a layer that are in force, as about 3 000 points at even distances, and their names in the
-- middle: a map without tiles.
WITH edges AS
(
    SELECT
        jurisdiction_id,
        code,
        arrayJoin(arrayZip(arrayPopBack(ring), arrayPopFront(ring))) AS edge,
        edge.1 AS a,
        edge.2 AS b,
        sqrt(pow(a.1 - b.1, 2) + pow(a.2 - b.2, 2)) AS length
    FROM
    (
        SELECT
            jurisdiction_id,
            code,
            arrayJoin(arrayJoin(readWKTMultiPolygon(replaceRegexpOne(wkt, '^POLYGON (.*)$', 'MULTIPOLYGON (\\1)')))) AS ring
        FROM zones_now
        WHERE layer = {layer:String} AND position(wkt, '((') > 0
            AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
            AND (empty({districts:Array(String)}) OR has({districts:Array(String)}, code))
            AND ifNull(valid_from <= {now:DateTime64(3)}, true) AND ifNull(valid_to > {now:DateTime64(3)}, true)
    )
)
SELECT latitude, longitude, label
FROM
(
    SELECT
        arrayJoin(range(toUInt32(greatest(1, ceil(3000 * length / total))))) / greatest(1, ceil(3000 * length / total)) AS share,
        a.2 + share * (b.2 - a.2) AS latitude,
        a.1 + share * (b.1 - a.1) AS longitude,
        '' AS label,
        code
    FROM (SELECT code, a, b, length, sum(length) OVER () AS total FROM edges)
    WHERE total > 0
    UNION ALL
    SELECT 0 AS share, middle.2 AS latitude, middle.1 AS longitude, title AS label, code
    FROM zone_names
    WHERE layer = {layer:String} AND (jurisdiction_id, code) IN (SELECT jurisdiction_id, code FROM edges)
)
ORDER BY label, code, longitude, latitude
