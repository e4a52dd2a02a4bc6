"""Mutation fuzzing of everything that reads files of others: python3 -m dev.fuzz."""
