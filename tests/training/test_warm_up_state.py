"""Statistics of fp8 around a warm-up, on modules that hold what Transformer Engine's modules hold."""

from types import SimpleNamespace

import torch

from llama31.training.warm_up import delayed_scaling, restore_delayed_scaling, synthetic

HISTORY, TENSORS = 4, 3


class RecipeState(SimpleNamespace):
    """Transformer Engine's recipe states are compared by identity."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Quantised(torch.nn.Module):
    """`fp8_meta` as TransformerEngineBaseModule has it; empty before the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fp8_meta: dict[str, RecipeState] = {}

    def initialise(self) -> "Quantised":
        """As the first forward pass with delayed scaling does."""
        for key in ("scaling_fwd", "scaling_bwd"):
            scale, history = torch.ones(TENSORS), torch.zeros(HISTORY, TENSORS)
            self.fp8_meta[key] = RecipeState(scale=scale, amax_history=history)
        return self

    def compute(self) -> None:
        """As a step does."""
        for state in self.fp8_meta.values():
            state.scale.mul_(3)
            state.amax_history.add_(7)

    def values(self) -> list[list[float]]:
        return [value.flatten().tolist() for state in self.fp8_meta.values() for value in vars(state).values()]


def test_statistics_of_delayed_scaling_return_to_what_they_were() -> None:
    """A resumed run's are restored; a module that had none begins as if it had seen no forward pass."""
    resumed, fresh, other = Quantised().initialise(), Quantised(), Quantised()
    resumed.compute()
    other.fp8_meta["scaling_fwd"] = RecipeState(quantizer_type=None)  # tensorwise scaling: no state
    model = torch.nn.ModuleList([resumed, fresh, other])
    before, places = resumed.values(), [state.scale.data_ptr() for state in resumed.fp8_meta.values()]
    saved = delayed_scaling(model)
    fresh.initialise()
    for module in (resumed, fresh):
        module.compute()
    restore_delayed_scaling(model, saved)
    assert resumed.values() == before
    assert fresh.values() == Quantised().initialise().values()
    assert places == [state.scale.data_ptr() for state in resumed.fp8_meta.values()], "kernels hold these addresses"


def test_synthetic_batches_are_sequences_of_the_vocabulary_and_draw_from_no_global_state() -> None:
    before = torch.get_rng_state()
    batches = synthetic(vocab_size=50, micro_batch_size=2, seq_length=16)
    (one, *_), (other, *_) = next(batches), next(batches)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one["tokens"][:, 1:], one["labels"][:, :-1])
    assert one["tokens"].shape == one["loss_mask"].shape == one["position_ids"].shape == (2, 16)
    assert one["tokens"].min() >= 0 and one["tokens"].max() < 50 and not torch.equal(one["tokens"], other["tokens"])
    (again, *_) = next(synthetic(50, 2, 16))
    assert torch.equal(again["tokens"], one["tokens"]), "all ranks of a tensor-parallel group see the same"
