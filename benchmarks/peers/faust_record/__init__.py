"""Faust, record by record."""
