-- Authorities of which a territory is known, for a choice: value and text.
SELECT jurisdiction_id AS value, jurisdiction_id AS text
FROM (SELECT jurisdiction_id FROM zones_now UNION DISTINCT SELECT jurisdiction_id FROM registry_now)
ORDER BY value
