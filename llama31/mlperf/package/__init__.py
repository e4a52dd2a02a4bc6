"""The files of an MLPerf submission."""
