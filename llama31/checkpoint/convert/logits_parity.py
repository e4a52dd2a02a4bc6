"""The logits by which two checkpoints are compared: of which tokens, and how close they are. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama31.checkpoint.formats.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 64  # in the batch
RUN = 16  # tokens at consecutive positions; near ones decide attention to neighbours, far ones show RoPE's scaling
POSITIONS = 8192  # the tokens are spread over; the context of Llama 3.0, beyond which Llama 3.1 scales RoPE


@dataclass(frozen=True)
class Difference:
    """Absolute difference of two models' logits over all tokens of the batch and all ids of the vocabulary."""

    tokens: int
    maximum: float
    mean: float
    limit: float = 1e-4
    """Largest difference that passes."""

    @property
    def passes(self) -> bool:
        """Whether the models are the same; false for NaN."""
        return self.maximum <= self.limit


def shape(llama: Architecture) -> tuple[int, int, int]:
    """Return the shape of the logits: [batch, sequence, vocabulary]."""
    return 1, min(TOKENS, llama.max_position_embeddings), llama.vocab_size


def tokens(llama: Architecture) -> "Tensor":
    """Return the random token ids to compare by, [batch, sequence]; the same each time."""
    import torch

    return torch.randint(llama.vocab_size, shape(llama)[:2], generator=torch.Generator().manual_seed(0))


def positions(llama: Architecture) -> "Tensor":
    """Return the positions of the tokens in their sequence, [sequence]: runs of neighbours, far apart, in order.

    What RoPE does at a position thousands of tokens away is computed with as few tokens as are needed otherwise.
    """
    import torch

    count = shape(llama)[1]
    gaps = max(1, (count - 1) // RUN)
    gap = (min(POSITIONS, llama.max_position_embeddings) - count) // gaps
    return torch.arange(count) + torch.arange(count) // RUN * gap


def difference(one: "Tensor", other: "Tensor") -> Difference:
    """Compare logits, [batch, sequence, vocabulary]. Overwrites `one`."""
    import torch

    with torch.inference_mode():
        absolute = one.sub_(other).abs_()
        return Difference(one.shape[1], absolute.max().item(), absolute.mean().item())
