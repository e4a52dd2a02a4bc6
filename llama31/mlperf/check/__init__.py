"""Check MLPerf logs, one by one and as a submission."""
