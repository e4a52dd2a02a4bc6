"""Command line: python3 -m llama31, or llama31 where it is installed."""
