"""Room on disk for what a run writes."""

from llama31.inputs import Data
from llama31.settings import Precision, Settings
from llama31.sizes import SIZES


def training_index(settings: Settings, data: Data) -> int:
    """Bytes of the arrays of Megatron's training index, one pass over the data.

    For each part (megatron.core.datasets.gpt_dataset): the documents in shuffled order, int32; where each sequence
    begins and the last one ends, as a document and an offset, int32 each; the sequences in shuffled order, uint32.
    For a blend of several parts (blended_dataset): of each sequence the part, int16, and its number there, int64.
    """
    sequences, parts = data.available_samples(settings.seq_length), len(data.train)
    documents = sum(part.documents for part in data.train)
    blend = (2 + 8) * sequences if parts > 1 else 0
    return 4 * documents + 8 * (sequences + parts) + 4 * sequences + blend


def checkpoint(settings: Settings, vocab_size: int) -> int:
    """Bytes of the tensors of a checkpoint to go on from: 14 a parameter, and 16 in fp32.

    Megatron's distributed optimizer saves fp32 weights and Adam's two moments beside the model's own weights, also
    where these are fp32 themselves.
    """
    weight = 4 if settings.precision is Precision.fp32 else 2
    return SIZES[settings.size].parameters(vocab_size) * (weight + 3 * 4)
