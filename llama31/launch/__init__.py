"""From settings to running ranks, here or in a Slurm job."""
