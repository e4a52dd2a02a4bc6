"""Whether a run as the settings say would start on this machine, or on all nodes of a Slurm step."""
