-- How many alerts are not over, by severity, and how many of them somebody has acknowledged: always one row. One that is only
-- pending does not count; one whose zone in the layer is not known counts whatever districts are named.
SELECT
    countIf(severity = 'critical') AS critical,
    countIf(severity = 'error') AS error,
    countIf(severity = 'warning') AS warning,
    countIf(severity = 'info') AS info,
    countIf(state = 'acknowledged') AS acknowledged
FROM alert_places
WHERE ends_at IS NULL AND state != 'pending'
    AND (empty({jurisdictions:Array(String)}) OR has({jurisdictions:Array(String)}, jurisdiction_id))
    AND (
        empty({districts:Array(String)})
        OR has({districts:Array(String)}, zones[{layer:String}])
        OR (NOT is_placed AND NOT mapContains(zones, {layer:String}))
    )
