"""Grafana: what it is provisioned with, and the maker of its dashboards."""
