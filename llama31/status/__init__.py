"""Show the progress of runs."""
