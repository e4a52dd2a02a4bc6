"""Redundant tensors in Hugging Face checkpoints. Standard library only.

Llama 2's original files store RoPE's frequencies in each layer, which transformers now computes. Files of tied models
may store the output layer in addition to the embedding. Both are dropped if their values are as expected.
"""

import math
import re
import struct
from collections.abc import Mapping

from llama31.checkpoint.formats.architecture import Architecture
from llama31.checkpoint.formats.safetensors_header import Stored, some

FREQUENCIES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
OUTPUT, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BLOCK = 1 << 24  # bytes compared at a time
PRECISION = {"float32": (1e-5, 0.0), "bfloat16": (2**-8, 0.0), "float16": (2**-10, 2**-24)}
"""Relative and absolute tolerance of each type; float32's allows for another order of operations."""


def drop(llama: Architecture, tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
    """Return the tensors without the redundant ones, and a line for each kind of those with unexpected values."""
    frequencies = [name for name in tensors if FREQUENCIES.fullmatch(name)]
    expected = llama.rope.frequencies(llama.head_size)
    problems: list[str] = []
    if differing := [name for name in frequencies if not _holds(tensors[name], expected)]:
        stored = tensors[differing[0]]
        problems.append(
            f"{stored.file}: {some(differing)}: not the frequencies of config.json's RoPE (theta {llama.rope_theta}, "
            f"{'llama3' if llama.rope_scaling else 'no'} scaling, heads of {llama.head_size}); one of them is wrong"
        )
    known = set(frequencies)
    if llama.tied_embeddings and OUTPUT in tensors and EMBEDDING in tensors:
        known.add(OUTPUT)
        if not _equal(tensors[OUTPUT], tensors[EMBEDDING]):
            problems.append(
                f"{tensors[OUTPUT].file}: {OUTPUT} is not {EMBEDDING}, although config.json has tie_word_embeddings "
                f"true; false converts both, without {OUTPUT} the embedding is the output layer"
            )
    return {name: stored for name, stored in tensors.items() if name not in known}, problems


def _holds(stored: Stored, expected: list[float]) -> bool:
    """Return whether a tensor holds these numbers, within the precision of its type."""
    relative, absolute = PRECISION[stored.dtype]
    return stored.shape == (len(expected),) and all(
        math.isclose(found, number, rel_tol=relative, abs_tol=absolute)
        for found, number in zip(_numbers(stored), expected, strict=True)
    )


def _numbers(stored: Stored) -> tuple[float, ...]:
    data = stored.read(0, stored.size)
    if stored.dtype == "bfloat16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[start : start + 2] for start in range(0, len(data), 2))
    letter = "e" if stored.dtype == "float16" else "f"
    return struct.unpack(f"<{math.prod(stored.shape)}{letter}", data)


def _equal(one: Stored, other: Stored) -> bool:
    """Return whether two tensors are bitwise equal."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and all(
        one.read(offset, BLOCK) == other.read(offset, BLOCK) for offset in range(0, one.size, BLOCK)
    )
