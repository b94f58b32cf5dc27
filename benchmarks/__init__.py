"""Benchmarks of the whole pipeline against peers, in one run. The protocol is in README.md here."""
