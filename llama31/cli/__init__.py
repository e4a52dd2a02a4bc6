"""The verbs of python3 -m llama31."""
