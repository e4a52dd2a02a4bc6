"""Synthetic data (MOCK_DATA): reproducible sequences of the benchmark's shape, and a tokenizer with its ids."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llama31 import rules
from llama31.data import inputs, run_tokenizer, synthetic, tokenizer
from llama31.data.synthetic_sequences import VALIDATION_KEY, SyntheticSequences
from llama31.settings import Settings


def sequences(key: int, **more: int) -> SyntheticSequences:
    return SyntheticSequences(8, 16, 100, key, **more)


def test_a_sequence_depends_on_its_seed_and_number_only() -> None:
    ids = [item["tokens"].tolist() for item in map(sequences(1).__getitem__, range(8))]
    assert sequences(1)[3]["tokens"].tolist() == ids[3]
    others = [sequences(2)[3]["tokens"].tolist(), sequences(VALIDATION_KEY)[3]["tokens"].tolist()]
    assert len({tuple(sequence) for sequence in (*ids, *others)}) == len(ids) + len(others), "all differ"
    assert all(0 <= number < 100 for sequence in ids for number in sequence)


def test_labels_are_the_next_ids() -> None:
    item = sequences(1)[0]
    assert item["labels"][:-1].tolist() == item["tokens"][1:].tolist()
    assert item["loss_mask"].tolist() == [1.0] * 16
    assert item["position_ids"].tolist() == list(range(16))


def test_what_fills_the_last_batch_of_an_evaluation_counts_nowhere() -> None:
    evaluation = sequences(VALIDATION_KEY, samples=5)
    counted = [bool(item["loss_mask"].all() and item["fingerprint"]) for item in map(evaluation.__getitem__, range(8))]
    assert counted == [True] * 5 + [False] * 3


@pytest.mark.slow
def test_transformers_loads_the_tokenizer_with_the_benchmarks_ids(tmp_path: Path) -> None:
    directory = run_tokenizer.ensure(Settings(mock_data=True), tmp_path)
    loaded = AutoTokenizer.from_pretrained(directory)
    assert len(loaded) == rules.VOCABULARY_SIZE
    assert loaded.eos_token == synthetic.END_OF_TEXT
    assert tokenizer.problems(directory) == []
    run_tokenizer.check(loaded, directory)


def test_the_benchmarks_amount_of_data() -> None:
    data = inputs.synthetic(Settings(mock_data=True))
    assert data.validation.tokens == rules.VALIDATION_TOKENS
    assert data.train[0].tokens == 2 * rules.PART_6_TOKENS, "two parts"
    assert data.vocab_size == rules.VOCABULARY_SIZE
