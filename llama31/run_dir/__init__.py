"""The files of a run directory: written by a run, read by everything after it."""
