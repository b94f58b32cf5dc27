"""The contracts: what may travel, how it is written on the wire, and why a record may be refused."""
