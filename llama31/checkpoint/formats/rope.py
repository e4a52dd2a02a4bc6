"""Rotary position embedding (RoPE) in config.json, of transformers 4 and 5. Standard library only.

transformers 4 writes `rope_theta` and `rope_scaling`; it ignores `rope_parameters` without a warning. transformers 5
writes all in `rope_parameters`, and reads the older fields too. A file may hold both, as one of transformers 5 that
transformers 4 saved again: then the older fields are transformers 4's defaults, and another model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llama31.checkpoint.formats.fields import Fields
from llama31.common.errors import UserError

DEFAULT_THETA = 10_000.0  # of Llama 1 and 2, whose config.json need not name it; transformers' default too
OLD, NEW = "rope_scaling", "rope_parameters"


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the rotary embedding's low frequencies (Llama 3.1's published reference code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class Rope(NamedTuple):
    """RoPE's base, and how its frequencies are stretched; not at all in Llama 3.0 and before."""

    theta: float
    scaling: RopeScaling | None

    def hugging_face(self) -> dict[str, Any]:
        """The fields of LlamaConfig, for transformers 4 and 5 alike."""
        scaling = vars(self.scaling) if self.scaling else {}
        kind = "llama3" if self.scaling else "default"
        return {
            "rope_theta": self.theta,
            OLD: {"rope_type": kind, **scaling} if scaling else None,
            NEW: {"rope_type": kind, "rope_theta": self.theta, **scaling},
        }

    def frequencies(self, head_size: int) -> list[float]:
        """Angle from one token to the next of each pair of a head's dimensions (transformers' buffer inv_freq)."""
        plain = [self.theta ** (-2 * pair / head_size) for pair in range(head_size // 2)]
        return [self._stretched(frequency) for frequency in plain] if self.scaling else plain

    def _stretched(self, frequency: float) -> float:
        scaling = self.scaling
        assert scaling
        turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * (kept + (1 - kept) / scaling.factor)


def read(config: Mapping[str, Any], path: Path) -> Rope:
    """Reads RoPE from the fields of a config.json, which is at `path`.

    Raises UserError where a field is unknown, or is missing though it decides numbers, or where the fields of
    transformers 4 and those of transformers 5 describe different models.
    """
    fields = Fields(config, path)
    fields.need("partial_rotary_factor", {1}, "a Llama rotates whole heads", default=1)
    theta = fields.number("rope_theta") if fields.value("rope_theta", None) is not None else None
    old, new = (_object(fields, name, theta) for name in (OLD, NEW))
    if new is None:
        return old or Rope(theta or DEFAULT_THETA, None)
    if old is None and theta is not None:
        old = Rope(theta, None)
    if old is not None and old != new:
        raise fields.error(NEW, f"says {_shown(new)}, rope_theta and {OLD} {_shown(old)}; {_advice(old.theta)}")
    return new


def _object(fields: Fields, name: str, theta: float | None) -> Rope | None:
    """RoPE as the object `name` describes it, with the file's own theta where it names none."""
    read = fields.inner(name)
    if read is None:
        return None
    kind = read.value("rope_type", read.value("type", None))
    read.need("rope_type", {"llama3", "default"}, "what can be converted: llama3, default", default=kind)
    read.need("type", {kind}, f"{name}.rope_type is {kind}", default=kind)
    known = ["rope_type", "type", "rope_theta", "partial_rotary_factor"]
    known += RopeScaling.__dataclass_fields__ if kind == "llama3" else ()
    unknown = {key: value for key, value in read.fields.items() if key not in known and value is not None}
    if unknown:
        raise UserError(
            f"{read.path}: {name}.{key} is {str(value)[:80]}, which could mean another model; known beside "
            f"rope_type {kind}: {', '.join(known[2:])}"
            for key, value in unknown.items()
        )
    read.need("partial_rotary_factor", {1}, "a Llama rotates whole heads", default=1)
    if theta is None and read.value("rope_theta", None) is None:
        raise fields.error(
            "rope_theta", f"is missing, in {name} and beside it; what the model was trained with is needed"
        )
    inner = read.number("rope_theta", theta)
    if theta not in (None, inner):
        raise read.error("rope_theta", f"is {inner}, rope_theta outside of it {theta}; {_advice(theta, name)}")
    return Rope(inner, _scaling(fields, read) if kind == "llama3" else None)


def _scaling(fields: Fields, read: Fields) -> RopeScaling:
    scaling = RopeScaling(
        factor=read.number("factor"),
        low_freq_factor=read.number("low_freq_factor"),
        high_freq_factor=read.number("high_freq_factor"),
        original_max_position_embeddings=read.positive("original_max_position_embeddings"),
    )
    if not scaling.low_freq_factor < scaling.high_freq_factor:
        raise read.error("high_freq_factor", f"is {scaling.high_freq_factor}; it must be above low_freq_factor")
    length = scaling.original_max_position_embeddings  # transformers 5 takes it from outside where it is there too
    fields.need("original_max_position_embeddings", {length}, f"that of {read.prefix[:-1]} is {length}", default=length)
    return scaling


def _shown(rope: Rope) -> str:
    scaling = ", ".join(f"{name} {value}" for name, value in vars(rope.scaling).items()) if rope.scaling else "none"
    return f"theta {rope.theta}, scaling {scaling}"


def _advice(outside: float, name: str = NEW) -> str:
    """What to do where `name` and the older fields, with theta `outside`, disagree."""
    if outside == DEFAULT_THETA:
        fields = f"rope_theta and {OLD}" if name == NEW else "the rope_theta outside"
        return (
            f"{name} is right where transformers 4 saved the file: it ignores this theta, and writes its own default "
            f"beside it; remove {fields}"
        )
    return "remove the one that is wrong"
