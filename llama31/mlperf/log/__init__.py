"""The MLPerf log of a run."""
