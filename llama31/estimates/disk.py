"""Disk space of training indices and checkpoints."""

from llama31.config.model_sizes import SIZES
from llama31.data.inputs import Data
from llama31.settings import Precision, Settings


def training_index(settings: Settings, data: Data) -> int:
    """Return the approximate size of the training index (`llama31.data.order`), bytes.

    For each sequence: its documents, int32 each, and its start and end, a position and an offset each, int32. A
    sequence of L tokens and its last label spans 1 + L * documents / tokens documents on average, as it starts anywhere
    in one. For a blend of several parts: its part, int16, and its number in it, int64. Synthetic data has none.
    """
    if settings.mock_data:
        return 0
    samples = data.indexed_samples(settings)
    available = data.available_samples(settings.seq_length)
    blend = 2 + 8 if len(data.train) - len(data.skipped_parts(settings.seq_length)) > 1 else 0
    size = 0.0
    for part in data.train:
        share = part.sequences(settings.seq_length) / available
        documents = 1 + settings.seq_length * part.documents / part.tokens
        size += samples * share * (4 * documents + 2 * 2 * 4 + blend)
    return round(size)


def checkpoint(settings: Settings, vocab_size: int) -> int:
    """Return the size of the tensors in a resumable checkpoint, bytes: 14 per parameter, 16 in fp32.

    Megatron's distributed optimizer saves fp32 weights and Adam's two moments in addition to the model's weights, even
    if those are fp32.
    """
    weight = 4 if settings.precision is Precision.fp32 else 2
    return SIZES[settings.size].parameters(vocab_size) * (weight + 3 * 4)
