"""Submit runs as Slurm jobs, run them, and follow them."""
