"""Everything that leaves: ClickHouse, dead letters, webhooks."""
