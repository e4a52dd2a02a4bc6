"""Estimates of a run's memory, disk space and time. Standard library only, so that planning is fast."""
