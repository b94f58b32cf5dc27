-- Zones of a layer that are in force, for a choice: value and text. A code that several authorities use is one choice. A
-- backslash in a code is doubled, because Grafana quotes values without minding it.
SELECT replaceAll(code, '\\', '\\\\') AS value, arrayStringConcat(groupUniqArray(title), ', ') AS text
FROM
(
    SELECT z.code AS code, n.title AS title
    FROM zones_now AS z
    INNER JOIN zone_names AS n ON n.jurisdiction_id = z.jurisdiction_id AND n.layer = z.layer AND n.code = z.code
    WHERE z.layer = {layer:String} AND z.code != ''
        AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, z.jurisdiction_id))
        AND ifNull(z.valid_from <= {now:DateTime64(3)}, true) AND ifNull(z.valid_to > {now:DateTime64(3)}, true)
)
GROUP BY value
ORDER BY text, value
