"""Random states are saved and set again, also where Megatron's tracker holds generators, as with CUDA graphs."""

import io
from collections.abc import Iterator

import pytest
import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from one_rank import one_rank

from llama31.training import rng_state


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


def test_generators_of_the_tracker_are_saved_as_tensors_and_set_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    monkeypatch.setattr(get_cuda_rng_tracker(), "states_", {"model-parallel-rng": generator})
    stored = io.BytesIO()
    torch.save(rng_state.states(), stored)
    stored.seek(0)
    drawn = torch.rand(3, generator=generator), torch.rand(3)
    rng_state.set_states(torch.load(stored, weights_only=True))
    assert get_cuda_rng_tracker().get_states()["model-parallel-rng"] is generator
    again = torch.rand(3, generator=generator), torch.rand(3)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))


def test_other_states_of_the_tracker_are_set_as_they_were() -> None:
    tracker = get_cuda_rng_tracker()
    saved = rng_state.states()
    with tracker.fork():
        drawn = torch.rand(3)
    rng_state.set_states(saved)
    with tracker.fork():
        assert torch.equal(torch.rand(3), drawn)
