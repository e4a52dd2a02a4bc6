"""Rotary position embedding (RoPE) in config.json, of transformers 4 and 5. Standard library only.

transformers 4 writes `rope_theta` and `rope_scaling`, and ignores `rope_parameters` without a warning. transformers 5
writes `rope_parameters`, and also reads the older fields. A file may have both, such as one that transformers 5 wrote
and transformers 4 saved again: then the older fields are transformers 4's defaults and describe another model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llama31.checkpoint.formats.fields import Fields
from llama31.common.errors import UserError

DEFAULT_THETA = 10_000.0  # of Llama 1 and 2, whose config.json may omit it; also transformers' default
OLD, NEW = "rope_scaling", "rope_parameters"


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling of the rotary embedding's low frequencies (Llama 3.1's published reference code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class Rope(NamedTuple):
    """RoPE's base and the scaling of its frequencies; Llama 3.0 and before have no scaling."""

    theta: float
    scaling: RopeScaling | None

    def hugging_face(self) -> dict[str, Any]:
        """Return the fields of LlamaConfig for both transformers 4 and 5."""
        scaling = vars(self.scaling) if self.scaling else {}
        kind = "llama3" if self.scaling else "default"
        return {
            "rope_theta": self.theta,
            OLD: {"rope_type": kind, **scaling} if scaling else None,
            NEW: {"rope_type": kind, "rope_theta": self.theta, **scaling},
        }

    def frequencies(self, head_size: int) -> list[float]:
        """Return the rotation per token of each pair of a head's dimensions, radians (transformers' inv_freq)."""
        unscaled = [self.theta ** (-2 * pair / head_size) for pair in range(head_size // 2)]
        return [self._scaled(frequency) for frequency in unscaled] if self.scaling else unscaled

    def _scaled(self, frequency: float) -> float:
        scaling = self.scaling
        assert scaling
        turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * (kept + (1 - kept) / scaling.factor)


def read(config: Mapping[str, Any], path: Path) -> Rope:
    """Parse RoPE from the fields of the config.json at `path`.

    Raises UserError if a field is unknown, if a required one is missing, or if the fields of transformers 4 and of
    transformers 5 describe different models.
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
    """Parse RoPE from the object `name`, with the file's `theta` as default. Return None if there is no such object."""
    read = fields.inner(name)
    if read is None:
        return None
    kind = read.value("rope_type", read.value("type", None))
    read.need("rope_type", {"llama3", "default"}, "supported: llama3, default", default=kind)
    read.need("type", {kind}, f"{name}.rope_type is {kind}", default=kind)
    known = ["rope_type", "type", "rope_theta", "partial_rotary_factor"]
    known += RopeScaling.__dataclass_fields__ if kind == "llama3" else ()
    unknown = {key: value for key, value in read.fields.items() if key not in known and value is not None}
    if unknown:
        raise UserError(
            f"{read.path}: {name}.{key} is {str(value)[:80]}, which could mean another model; known with "
            f"rope_type {kind}: {', '.join(known[2:])}"
            for key, value in unknown.items()
        )
    read.need("partial_rotary_factor", {1}, "a Llama rotates whole heads", default=1)
    if theta is None and read.value("rope_theta", None) is None:
        raise fields.error(
            "rope_theta", f"is missing, in {name} and outside of it; set the value that the model was trained with"
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
    length = scaling.original_max_position_embeddings  # transformers 5 prefers the file's own field to this
    fields.need("original_max_position_embeddings", {length}, f"{read.prefix[:-1]} has {length}", default=length)
    return scaling


def _shown(rope: Rope) -> str:
    scaling = ", ".join(f"{name} {value}" for name, value in vars(rope.scaling).items()) if rope.scaling else "none"
    return f"theta {rope.theta}, scaling {scaling}"


def _advice(outside: float, name: str = NEW) -> str:
    """Return what to do if `name` and the older fields, with theta `outside`, disagree."""
    if outside == DEFAULT_THETA:
        fields = f"rope_theta and {OLD}" if name == NEW else "the rope_theta outside"
        return (
            f"{name} is right if transformers 4 saved the file: it ignores this theta, and adds its own "
            f"default; remove {fields}"
        )
    return "remove the one that is wrong"
