"""Helpers that know nothing of the benchmark: errors, files, locks, JSON, progress, units."""
