"""Checkpoints: conversion between Hugging Face and NeMo."""
