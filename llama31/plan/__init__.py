"""Validate the settings of a run and show its plan."""
