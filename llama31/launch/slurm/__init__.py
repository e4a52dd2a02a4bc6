"""Runs as Slurm jobs: submitting them, what the jobs do, and watching them."""
