"""Checks of MLPerf logs, alone and as a submission."""
