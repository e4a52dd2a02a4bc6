"""Check whether a run with the given settings would start: on this machine, or on all nodes of a Slurm step."""
