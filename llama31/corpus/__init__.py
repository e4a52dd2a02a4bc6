"""The corpus: from C4's json.gz files to token files."""
