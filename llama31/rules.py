"""Rules of MLPerf Training's llama31_8b benchmark: every number once, with its source.

Sources: the benchmark's description (docs/benchmark.md), MLCommons' training rules, and for the contents of a log the
rule files of the mlperf-logging package (compliance_checker/training_6.1.0, rcp_checker/training_6.1.0). Standard
library only.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

BENCHMARK = "llama31_8b"
RULESETS = ("5.1.0", "6.0.0", "6.1.0")  # the compliance checker's rulesets that include llama31_8b

# Data: c4/en/3.0.1 has 1,024 training shards, merged by 128 into 8 parts; the benchmark trains on the last 256 shards.
TRAIN_SHARDS = 1024
SHARDS_PER_PART = 128
BENCHMARK_PARTS = (6, 7)
VALIDATION_SHARDS = 8
VALIDATION_DOCUMENTS = 91_205  # the first of the unshuffled validation set
VALIDATION_TOKENS = 47_186_855  # of these documents, by the Llama 3.1 tokenizer
PART_6_DOCUMENTS = 45_608_611  # of MLCommons' preprocessed data, whose .idx has 912,172,262 bytes
PART_6_TOKENS = 20_994_193_570  # and whose .bin has 83,976,774,280 bytes, 4 for each token
VOCABULARY_SIZE = 128_256  # ids of the Llama 3.1 tokenizer

# Where MLCommons publishes the data: README.md of its small_llm_pretraining since commit c6688f11. metadata/NAME.uri
# there has the address of the files, metadata/NAME.md5 their MD5 sums (mlcommons/r2-downloader).
DATA_SITE = "https://training.mlcommons-storage.org"
PUBLISHED_SETS = {
    "preprocessed": "llama-3-1-8b-preprocessed-c4-dataset",
    "tokenizer": "llama-3-1-8b-tokenizer",
    "raw": "c4-full-dataset-unzipped",
}
PUBLISHED_PART = 6  # the only training part among the preprocessed files

# Model
SIZE = "8b"
SEQUENCE_LENGTH = 8192

# Optimizer: closed_llama31_8b.yaml; the default of the warmup is from the benchmark description.
OPTIMIZER_NAME = "adamw"
ADAM_BETA1 = 0.9
ADAM_BETA2 = 0.95
ADAM_EPSILON = 1e-5
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
END_LR_FRACTION = 0.1  # of the base learning rate
MAX_STEPS = 1_200_000  # length of the learning rate schedule; no run is that long
DECAY_SCHEDULE = "cosine with linear warmup"
DROPOUT = 0.0
ALLOCATED_SEQUENCES = 163_840  # the reference's allocation: 5,120 steps at a global batch size of 32
WARMUP_FRACTION = 0.1  # of the allocated steps

# Evaluation and quality
EVAL_EVERY = 12_288  # training sequences between evaluations, before rounding up to whole steps
EVAL_SAMPLES = 1024  # sequences: the first of the validation data, unshuffled
TARGET = 3.3  # log perplexity, nats per token

# Submission
RUNS_PER_SUBMISSION = 10
RCP_WORDS = ("global_batch_size", "submission_benchmark", "eval_accuracy", "eval_error")
"""rcp_checker searches each line's text for these (read_submission_file) and reads the line's value or samples_count,
even if the word is not the line's key. So no other line may contain one."""


@dataclass(frozen=True)
class ReferencePoint:
    """A reference convergence point: rcps_llama31_8b.json of mlperf-logging's rcp_checker/training_6.1.0.

    Samples are sequences. `mean` and `minimum` are samples to converge, which rcp_checker computes from the
    reference's 20 seeds: the mean of a submission must be at least `minimum`.
    """

    global_batch_size: int
    learning_rate: float
    warmup_samples: int
    mean: int
    minimum: int


REFERENCE_POINTS = {
    point.global_batch_size: point
    for point in (
        ReferencePoint(16, 4e-4, 256, 161_109, 157_920),
        ReferencePoint(32, 8e-4, 4096, 178_859, 173_650),
        ReferencePoint(64, 8e-4, 6144, 226_645, 218_922),
        ReferencePoint(96, 1e-3, 16_348, 278_640, 270_340),
        ReferencePoint(128, 2e-3, 32_768, 344_747, 327_043),
    )
}

INDEXED_PER_MEAN = 4  # default of SAMPLES_AVAILABLE, in multiples of the samples that the reference needs


def reference_point(size: str, global_batch_size: int) -> ReferencePoint | None:
    """Return what the reference needed with this batch size; None if that is unknown, or the model is another."""
    return REFERENCE_POINTS.get(global_batch_size) if size == SIZE else None


def reference_mean(global_batch_size: int) -> int:
    """Return the mean samples that the reference needs to converge, interpolated linearly between its points.

    Below the smallest batch: the mean of the smallest, an upper bound. Above the largest: as many steps as the largest
    takes, since larger batches do not take more.
    """
    points = sorted(REFERENCE_POINTS.values(), key=lambda point: point.global_batch_size)
    for low, high in pairwise([points[0], *points]):
        if global_batch_size <= high.global_batch_size:
            width = high.global_batch_size - low.global_batch_size
            share = max(0, global_batch_size - low.global_batch_size) / width if width else 0
            return math.ceil(low.mean + share * (high.mean - low.mean))
    return math.ceil(points[-1].mean * global_batch_size / points[-1].global_batch_size)


def samples_available(global_batch_size: int) -> int:
    """Return the default of SAMPLES_AVAILABLE, in training sequences."""
    return INDEXED_PER_MEAN * reference_mean(global_batch_size)


def allocated_steps(allocated_sequences: int, global_batch_size: int) -> int:
    """Return the optimizer steps for `allocated_sequences`, rounded up."""
    return math.ceil(allocated_sequences / global_batch_size)


def warmup_steps(allocated_sequences: int, global_batch_size: int) -> int:
    """Return the default warmup: 10% of the allocated steps, at least one (benchmark description, optimizer)."""
    return max(1, round(WARMUP_FRACTION * allocated_steps(allocated_sequences, global_batch_size)))


def end_learning_rate(base_learning_rate: float) -> float:
    """Return the learning rate at the end of the schedule, rounded to 12 digits so that 0.1 * 8e-4 is 8e-5."""
    return float(f"{END_LR_FRACTION * base_learning_rate:.12g}")


def steps_between_evaluations(eval_every: int, global_batch_size: int) -> int:
    """Return CEIL(eval_every / global_batch_size): `eval_every` in sequences, the result in optimizer steps."""
    return math.ceil(eval_every / global_batch_size)


def without_rcp_words(text: str) -> str:
    """Return the text with hyphens in the words that rcp_checker searches for (`RCP_WORDS`)."""
    for word in RCP_WORDS:
        text = text.replace(word, word.replace("_", "-"))
    return text


def validation_name(documents: int) -> str:
    """Return the file name, without extension, of the customised validation set of `documents` documents."""
    return f"c4-validation-{documents}-samples.en"


def train_part_name(part: int) -> str:
    """Return the file name, without extension, of training part 0..7: shards 128 * part to 128 * part + 127."""
    return f"c4-train.en_{part}"


def train_shard_name(shard: int) -> str:
    """Return the file name of a C4 training shard."""
    return f"c4-train.{shard:05d}-of-{TRAIN_SHARDS:05d}.json.gz"


def validation_shard_name(shard: int) -> str:
    """Return the file name of a C4 validation shard."""
    return f"c4-validation.{shard:05d}-of-{VALIDATION_SHARDS:05d}.json.gz"


def token_file_name(name: str) -> str:
    """Return the prefix of the .bin/.idx pair made from `name`, named as Megatron's preprocessing does."""
    return f"{name}_text_document"


@dataclass(frozen=True)
class KnownCounts:
    """Documents and tokens in a file of MLCommons' preprocessed data (Llama 3.1 tokenizer)."""

    documents: int
    tokens: int
    any_tokenizer: bool
    """Whether a file of this name has that many documents also with another tokenizer."""


KNOWN_COUNTS = {
    token_file_name(train_part_name(6)): KnownCounts(PART_6_DOCUMENTS, PART_6_TOKENS, any_tokenizer=False),
    token_file_name(validation_name(VALIDATION_DOCUMENTS)): KnownCounts(
        VALIDATION_DOCUMENTS, VALIDATION_TOKENS, any_tokenizer=True
    ),
}
"""Known counts by the prefix of the token file."""
