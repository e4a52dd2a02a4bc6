"""What this project adds to NeMo's training loop: callbacks, strategy, saving, progress."""
