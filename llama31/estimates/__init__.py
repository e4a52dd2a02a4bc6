"""What a run will take: memory, disk and time, by arithmetic alone. Standard library, so that a plan is quick."""
