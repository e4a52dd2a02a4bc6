"""Checkpoints: conversion between Hugging Face and NeMo."""

from typing import Literal

Format = Literal["nemo", "hf"]
"""What a checkpoint can be converted to."""
