"""Files of checkpoints, of NeMo and of Hugging Face."""
