"""Checks that every rank makes, because their answer depends on its machine: data, device, packages, host memory.

The launcher validates a run once. What it found is in run.json, and each rank compares that with its own machine.
"""

import importlib.metadata
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama31.checkpoint import identity
from llama31.common.errors import UserError
from llama31.config import devices, paths
from llama31.data import inputs, run_tokenizer, token_file, token_manifest
from llama31.data.inputs import Data
from llama31.estimates import host_memory
from llama31.run_dir import record
from llama31.settings import Settings

PACKAGES = ("torch", "nemo_toolkit", "megatron-core", "lightning", "transformer_engine", "numpy", "mlperf-logging")


def versions() -> dict[str, str]:
    """Return the versions of those of PACKAGES that are installed."""
    found = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            # Not `version`, which parses the README in the metadata too: 3 ms for each package.
            metadata = importlib.metadata.distribution(package).read_text("METADATA") or ""
            found[package] = metadata.partition("\nVersion: ")[2].partition("\n")[0]
    return found


def fingerprint(settings: Settings, data: Data) -> dict[str, str]:
    """Return the SHA-256 of the tokenizer, and of each token file that of its manifest or else its counts."""
    return {"tokenizer": run_tokenizer.fingerprint(settings), **identity.token_files(data)}


def check(run_dir: Path, settings: Settings) -> Data:
    """Return the data seen here. Raises UserError with all differences from the machine that validated the run."""
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    recorded, settings = record.load_record(run_dir), paths.of_ranks(settings)
    try:
        data = inputs.read_headers(settings, recorded["tokenizer"]["ids"])
        found = [*_other_device(recorded, settings), *_other_versions(recorded), *_other_data(recorded, settings, data)]
        found += host_memory.lacking(settings, data.vocab_size)
    except UserError as error:
        found = error.lines
    if found:
        raise UserError(f"{host}: {line}" for line in found)
    return data


def _other_device(recorded: dict[str, Any], settings: Settings) -> Iterator[str]:
    here, there = devices.device(settings).name, recorded["device"]
    if here != there:
        given = f"DEVICE={settings.device.name}"
        yield f"{given}: {here} here, but {there} where the run was validated; use equal machines, or DEVICE=cpu"


def _other_versions(recorded: dict[str, Any]) -> Iterator[str]:
    here, there = versions(), recorded["versions"]
    for package in PACKAGES:
        if here.get(package) != there.get(package):
            yield (
                f"{package} {here.get(package, 'is not installed')}, but {there.get(package, 'not installed')} where "
                "the run was validated; install the same version on all machines"
            )


def _other_data(recorded: dict[str, Any], settings: Settings, data: Data) -> Iterator[str]:
    here, there = fingerprint(settings, data), recorded["data"]
    if here["tokenizer"] != there["tokenizer"]:
        yield f"TOKENIZER_PATH={settings.tokenizer_path}: not the tokenizer that was validated"
    for file in (*data.train, data.validation):
        name = file.prefix.name
        made = token_manifest.read(file.prefix)
        if here[name] != there[name] or (made and (made.documents, made.tokens) != (file.documents, file.tokens)):
            yield (
                f"{token_file.bin_path(file.prefix)}: {file.tokens:,} tokens in {file.documents:,} documents, not the "
                "file that was validated; PREPROCESSED_PATH must hold the same data on all machines"
            )
