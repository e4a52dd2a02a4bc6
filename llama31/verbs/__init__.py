"""The verbs of python3 -m llama31 but for those of the corpus. Imports wait until a verb is called."""
