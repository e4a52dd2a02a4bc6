"""Code that knows nothing of the benchmark: errors, files, locks, JSON, progress, units, processes."""
