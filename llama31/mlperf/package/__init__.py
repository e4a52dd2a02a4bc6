"""Build the directory tree of an MLPerf submission."""
