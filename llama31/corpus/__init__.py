"""Corpus preparation: from C4's json.gz shards to token files."""
