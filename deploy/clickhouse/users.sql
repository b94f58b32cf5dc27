-- The database `city` and who may do what in it. Safe to run again, while workers write: nothing is dropped on the way,
-- and passwords become those of the parameters. A server of your own takes it from its administrator:
--   clickhouse-client --queries-file users.sql --param_vigie_password … --param_grafana_password …
-- Such a server needs settings_constraints_replace_previous (config.d/vigie.xml), which its own config.xml turns on.

CREATE DATABASE IF NOT EXISTS city;

-- Workers, `vigie init`, `vigie audit`: the owner of this database, and of nothing else. They wait for their deletions in
-- system.mutations. No rights on files, URLs or other servers.
CREATE USER IF NOT EXISTS vigie IDENTIFIED WITH sha256_password BY {vigie_password:String};
ALTER USER vigie IDENTIFIED WITH sha256_password BY {vigie_password:String} DEFAULT DATABASE city;
GRANT ALL ON city.* TO vigie;
GRANT SELECT ON system.mutations TO vigie;

-- Whoever looks at dashboards: SELECT on the database and no more. The pseudonym of a citizen is for the workers: a
-- dashboard counts reports, not people.
CREATE ROLE IF NOT EXISTS dashboards;
GRANT SELECT ON city.* TO dashboards;
REVOKE SELECT(reporter_pseudonym) ON city.events_report FROM dashboards;

-- Limits of each. A result that is too large fails: cut short, it would pass for the whole. What Grafana sends along with
-- a query must stay changeable, within bounds: max_execution_time is its own timeout (60 s) and 5 s more;
-- additional_table_filters comes from ad hoc filters.
CREATE SETTINGS PROFILE IF NOT EXISTS dashboard_limits;
ALTER SETTINGS PROFILE dashboard_limits SETTINGS
    readonly = 1,
    max_execution_time = 30 MIN 1 MAX 90 CHANGEABLE_IN_READONLY,
    max_threads = 4 MIN 1 MAX 4 CHANGEABLE_IN_READONLY,
    additional_table_filters CHANGEABLE_IN_READONLY,
    max_memory_usage = 1000000000,
    max_memory_usage_for_user = 2000000000,
    max_result_rows = 200000,
    max_result_bytes = 200000000,
    result_overflow_mode = 'throw',
    max_concurrent_queries_for_user = 40;

CREATE USER IF NOT EXISTS grafana IDENTIFIED WITH sha256_password BY {grafana_password:String};
ALTER USER grafana IDENTIFIED WITH sha256_password BY {grafana_password:String}
    DEFAULT DATABASE city
    SETTINGS PROFILE 'dashboard_limits';
GRANT dashboards TO grafana;
ALTER USER grafana DEFAULT ROLE dashboards;
