"""Files to install vigie with. Only the maker of the dashboards is Python."""
