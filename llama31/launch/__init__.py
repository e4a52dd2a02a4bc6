"""Start the ranks of a run, on this machine or in a Slurm job."""
