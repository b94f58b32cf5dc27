"""Quix Streams: the job as one StreamingDataFrame a topic."""
