"""A whole installation under seeded faults, against a generator that knows the truth: `python -m tests.chaos`."""
