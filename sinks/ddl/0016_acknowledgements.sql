-- What people have acknowledged. An acknowledgement is the answer to one transition: when the alert is told anew there is
-- another one, and it no longer holds. `at` is the wall clock's, where transitions bear event time: they are not compared.
CREATE TABLE IF NOT EXISTS acknowledgements
(
    jurisdiction_id LowCardinality(String),
    fingerprint String,
    starts_at DateTime64(3, 'UTC'),
    transition_id String,
    by String,
    note String,
    at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (jurisdiction_id, fingerprint, starts_at, transition_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- The view of 0009 with them: one row per alert life (fingerprint, starts_at), its newest state. A firing alert whose newest
-- transition (`transition_id`) has been acknowledged is `acknowledged`. What is not over has no `ends_at`, whatever its state.
-- argMax passes over nulls, which tuples keep.
CREATE OR REPLACE VIEW alerts AS
WITH l.entered = 'firing' AND a.transition_id = l.newest AS held
SELECT
    l.jurisdiction_id AS jurisdiction_id,
    l.alertname AS alertname,
    l.fingerprint AS fingerprint,
    l.starts_at AS starts_at,
    l.domain AS domain,
    l.severity AS severity,
    l.asset_id AS asset_id,
    l.zone_layer AS zone_layer,
    l.zone_code AS zone_code,
    l.category AS category,
    if(held, 'acknowledged', l.entered) AS state,
    l.changed_at AS changed_at,
    l.ends_at AS ends_at,
    l.value AS value,
    l.threshold AS threshold,
    l.summary AS summary,
    l.fired AS fired,
    l.newest AS transition_id,
    if(held, a.at, NULL) AS acknowledged_at,
    if(held, a.by, NULL) AS acknowledged_by
FROM
(
    SELECT
        jurisdiction_id,
        alertname,
        fingerprint,
        starts_at,
        any(t.domain) AS domain,
        any(t.severity) AS severity,
        any(t.asset_id) AS asset_id,
        any(t.zone_layer) AS zone_layer,
        any(t.zone_code) AS zone_code,
        any(t.category) AS category,
        argMax(t.state, sequence) AS entered,
        argMax(t.transition_id, sequence) AS newest,
        max(at) AS changed_at,
        argMax(tuple(t.ends_at), sequence).1 AS ends_at,
        argMax(tuple(t.value), sequence).1 AS value,
        argMax(tuple(t.threshold), sequence).1 AS threshold,
        argMax(t.summary, sequence) AS summary,
        countIf(t.state = 'firing') > 0 AS fired
    FROM alert_transitions AS t FINAL
    GROUP BY jurisdiction_id, alertname, fingerprint, starts_at
) AS l
LEFT JOIN (SELECT * FROM acknowledgements FINAL) AS a
    ON a.jurisdiction_id = l.jurisdiction_id AND a.fingerprint = l.fingerprint
    AND a.starts_at = l.starts_at AND a.transition_id = l.newest;
