-- Layers of zones of these authorities (none named: all), for a choice: value and text; those that usually are districts first.
SELECT DISTINCT replaceAll(layer, '\\', '\\\\') AS value, layer AS text
FROM zones_now
WHERE empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id)
ORDER BY text IN ('district', 'quartier', 'commune') DESC, text
