"""Room on disk for what a run writes."""

from llama31.config.model_sizes import SIZES
from llama31.data.inputs import Data
from llama31.settings import Precision, Settings


def training_index(settings: Settings, data: Data) -> int:
    """About the bytes of the arrays of the training index (`llama31.data.order`).

    For each sequence: the documents that it touches, int32 each, and where it begins and ends, as a place among them
    and an offset, int32 each. A sequence of L tokens and its last label touch 1 + L * documents / tokens documents on
    average, as it begins anywhere in one. For a blend of several parts: its part, int16, and its number there, int64.
    """
    samples = data.indexed_samples(settings)
    available = data.available_samples(settings.seq_length)
    blend = 2 + 8 if len(data.train) - len(data.skipped_parts(settings.seq_length)) > 1 else 0
    size = 0.0
    for part in data.train:
        share = part.sequences(settings.seq_length) / available
        touched = 1 + settings.seq_length * part.documents / part.tokens
        size += samples * share * (4 * touched + 2 * 2 * 4 + blend)
    return round(size)


def checkpoint(settings: Settings, vocab_size: int) -> int:
    """Bytes of the tensors of a checkpoint to go on from: 14 a parameter, and 16 in fp32.

    Megatron's distributed optimizer saves fp32 weights and Adam's two moments beside the model's own weights, also
    where these are fp32 themselves.
    """
    weight = 4 if settings.precision is Precision.fp32 else 2
    return SIZES[settings.size].parameters(vocab_size) * (weight + 3 * 4)
