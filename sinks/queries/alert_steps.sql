-- Every transition of one alert, the latest life first and each life in its order, with who acknowledged it.
SELECT
    t.starts_at AS starts_at,
    t.sequence AS sequence,
    t.transition_id AS transition_id,
    t.state AS state,
    t.at AS at,
    t.value AS value,
    t.threshold AS threshold,
    t.summary AS summary,
    if(a.transition_id = t.transition_id, a.at, NULL) AS acknowledged_at,
    if(a.transition_id = t.transition_id, a.by, NULL) AS acknowledged_by,
    if(a.transition_id = t.transition_id, a.note, NULL) AS note
FROM (SELECT * FROM alert_transitions FINAL WHERE fingerprint = {fingerprint:String}) AS t
LEFT JOIN (SELECT * FROM acknowledgements FINAL WHERE fingerprint = {fingerprint:String}) AS a
    ON a.starts_at = t.starts_at AND a.transition_id = t.transition_id
ORDER BY starts_at DESC, sequence, transition_id
