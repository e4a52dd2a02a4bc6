#!/usr/bin/env python3
"""Converts a Hugging Face Llama to a NeMo checkpoint, or back: python3 -m llama31 convert, with the same options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llama31.cli import main as cli

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    cli.main()
