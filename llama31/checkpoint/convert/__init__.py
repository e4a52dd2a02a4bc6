"""Conversion of checkpoints between NeMo and Hugging Face."""
