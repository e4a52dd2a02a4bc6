"""Write and read the MLPerf log of a run."""
