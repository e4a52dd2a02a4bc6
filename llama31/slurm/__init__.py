"""Runs as jobs of a Slurm cluster: submitting them, what the jobs do, and watching them."""
