"""The CPU backend: "cuda" means the CPU within it, nothing changes outside, and what it lacks is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, model_parallel_cuda_manual_seed
from one_rank import one_rank
from torch.overrides import _get_current_function_mode_stack

from llama31.model.cpu_backend import cpu_backend

WATCHED = (torch.cuda, torch.cuda.random, torch.cuda.memory, torch.random, megatron_random)
CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="says what torch does without a CUDA device")


def state() -> list[dict[str, Any]]:
    """Every attribute of the modules that the backend touches."""
    return [dict(vars(module)) for module in WATCHED]


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Nothing that the test did outlasts it."""
    before, modes = state(), len(_get_current_function_mode_stack())
    yield
    for module, old, new in zip(WATCHED, before, state(), strict=True):
        assert old.keys() == new.keys()
        changed = [name for name, value in old.items() if new[name] is not value]
        assert not changed, f"{module.__name__}: {changed} must be what they were"
    assert len(_get_current_function_mode_stack()) == modes


@pytest.mark.usefixtures("unchanged")
class TestItEnds:
    def test_in_order(self) -> None:
        outside = torch.cuda.device_count()
        with cpu_backend():
            assert torch.cuda.device_count() == 1
        assert torch.cuda.device_count() == outside

    def test_after_an_exception(self) -> None:
        with pytest.raises(ZeroDivisionError), cpu_backend():
            _ = 1 / 0

    def test_the_inner_one_before_the_outer(self) -> None:
        with cpu_backend():
            with cpu_backend():
                assert torch.ones(2, device="cuda").type() == "torch.cuda.FloatTensor"
            assert torch.ones(2, device="cuda").type() == "torch.cuda.FloatTensor"
            assert torch.cuda.current_device() == CPU

    @without_cuda
    def test_and_torch_is_without_cuda_again(self) -> None:
        with cpu_backend():
            pass
        for use in (lambda: torch.ones(1, device="cuda"), torch.ones(1).cuda, torch.cuda.current_device):
            with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
                use()
        assert torch.ones(1).type() == "torch.FloatTensor"


# Devices

CUDA = ["cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 3)]


@pytest.mark.parametrize("device", CUDA, ids=str)
def test_what_is_made_on_cuda_is_made_on_the_cpu(device: str | torch.device) -> None:
    with cpu_backend():
        ones = torch.ones(2, 2)
        made = [
            torch.empty(2, device=device),
            torch.tensor([1.0], device=device),
            torch.arange(3, device=device),
            torch.full_like(ones, 2, device=device),
            ones.new_zeros(2, device=device),
            ones.to(device),
            ones.to(device, torch.float64),
            ones.to(device=device, non_blocking=True),
            ones.cuda(),
            ones.cuda(device, non_blocking=True),
            torch.nn.Linear(2, 2, device=device).weight,
            torch.nn.Linear(2, 2).to(device).weight,
            torch.nn.Linear(2, 2).cuda().weight,
        ]
        assert [tensor.device for tensor in made] == [CPU] * len(made)
        assert made[6].dtype is torch.float64
        with torch.device(device):
            assert torch.zeros(1).device == CPU


def test_other_devices_stay_what_they_are() -> None:
    with cpu_backend():
        assert torch.empty(2, device="meta").device.type == "meta"
        assert torch.ones(2).to(torch.ones(1, dtype=torch.float64)).dtype is torch.float64
        assert torch.ones(2).to("meta").is_meta


def test_page_locked_memory_is_plain_memory() -> None:
    with cpu_backend():
        assert torch.tensor(3, pin_memory=True).to("cuda", non_blocking=True) == 3
        assert not torch.empty(3, pin_memory=True).is_pinned()


def test_types_have_the_names_that_megatrons_optimizers_know() -> None:
    with cpu_backend():
        for dtype, name in ((torch.float32, "Float"), (torch.bfloat16, "BFloat16"), (torch.float16, "Half")):
            assert torch.ones(1, dtype=dtype).type() == f"torch.cuda.{name}Tensor"
        assert torch.ones(1).type(torch.int64).dtype is torch.int64


def test_streams_are_no_ops() -> None:
    with cpu_backend():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            total = torch.ones(10).cuda().sum()
        torch.cuda.synchronize()
        assert total == 10


# What is not there

REFUSED: dict[str, Callable[[], Any]] = {
    "memory_allocated": lambda: torch.cuda.memory_allocated(),
    "max_memory_allocated": lambda: torch.cuda.max_memory_allocated(),
    "max_memory_reserved": lambda: torch.cuda.max_memory_reserved(),
    "memory_stats": lambda: torch.cuda.memory_stats(),
    "mem_get_info": lambda: torch.cuda.mem_get_info(),
    "seed": lambda: torch.cuda.seed(),
    "seed_all": lambda: torch.cuda.seed_all(),
    "initial_seed": lambda: torch.cuda.initial_seed(),
    "set_device": lambda: torch.cuda.set_device(0),
    "current_stream": lambda: torch.cuda.current_stream(),
    "Event": lambda: torch.cuda.Event(enable_timing=True),
    "CUDAGraph": lambda: torch.cuda.CUDAGraph(),
    "Generator": lambda: torch.Generator(device="cuda"),
    "get_device_properties": lambda: torch.cuda.get_device_properties(0),
    "get_device_capability": lambda: torch.cuda.get_device_capability(),
    "type": lambda: torch.ones(1).type("torch.cuda.FloatTensor"),
    "pin_memory": lambda: torch.ones(1).pin_memory(),
}


@without_cuda
@pytest.mark.parametrize("what", REFUSED)
def test_no_answer_is_better_than_a_wrong_one(what: str) -> None:
    with cpu_backend(), pytest.raises((AssertionError, RuntimeError, AttributeError, ValueError, TypeError)):
        REFUSED[what]()


# Random states


@pytest.fixture
def rank() -> Iterator[None]:
    with one_rank():
        yield


def drawn() -> list[float]:
    return torch.rand(4, device="cuda").tolist()


@pytest.mark.usefixtures("rank")
class TestMegatronsRandomStates:
    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        found = []
        for seed in (5, 6, 5):
            model_parallel_cuda_manual_seed(seed)
            with get_cuda_rng_tracker().fork():
                found.append((drawn(), drawn()))
        assert found[0] == found[2] != found[1]
        assert found[0][0] != found[0][1]

    def test_a_fork_does_not_touch_what_is_outside(self) -> None:
        model_parallel_cuda_manual_seed(5)
        undisturbed = [drawn(), drawn()]
        model_parallel_cuda_manual_seed(5)
        first = drawn()
        with get_cuda_rng_tracker().fork():
            drawn()
        assert [first, drawn()] == undisturbed

    def test_nor_after_an_exception(self) -> None:
        model_parallel_cuda_manual_seed(5)
        before = torch.cuda.get_rng_state()
        with pytest.raises(ZeroDivisionError), get_cuda_rng_tracker().fork():
            drawn()
            _ = 1 / 0
        assert torch.equal(torch.cuda.get_rng_state(), before)

    def test_a_fork_continues_where_the_previous_one_ended(self) -> None:
        model_parallel_cuda_manual_seed(5)
        tracker = get_cuda_rng_tracker()
        with tracker.fork():
            straight = [drawn(), drawn()]
        model_parallel_cuda_manual_seed(5)
        parts = []
        for _ in range(2):
            with tracker.fork():
                parts.append(drawn())
            drawn()
        assert parts == straight

    def test_states_have_numbers_of_their_own(self) -> None:
        model_parallel_cuda_manual_seed(5)
        tracker = get_cuda_rng_tracker()
        tracker.add("mine", 77)
        with tracker.fork("mine"):
            mine = drawn()
        with tracker.fork():
            others = drawn()
        torch.manual_seed(77)
        assert mine == drawn() != others

    def test_saved_states_give_the_numbers_again(self) -> None:
        model_parallel_cuda_manual_seed(5)
        tracker = get_cuda_rng_tracker()
        states, default = tracker.get_states(), torch.cuda.get_rng_state()
        with tracker.fork():
            inside = drawn()
        outside = drawn()
        tracker.set_states(states)
        torch.cuda.set_rng_state(default)
        with tracker.fork():
            assert drawn() == inside
        assert drawn() == outside

    def test_recomputation_sees_the_numbers_of_the_first_time(self) -> None:
        model_parallel_cuda_manual_seed(5)
        start = torch.ones(1000, device="cuda", requires_grad=True)

        def dropped(x: torch.Tensor) -> torch.Tensor:
            with get_cuda_rng_tracker().fork():
                return torch.nn.functional.dropout(x, 0.5) + torch.nn.functional.dropout(x, 0.5)

        out = megatron_random.checkpoint(dropped, False, start)
        out.sum().backward()
        assert torch.equal(start.grad, out.detach()), "x * mask has the gradient mask"

    def test_every_way_to_seed_reaches_what_is_drawn(self) -> None:
        found = []
        for seed in (torch.manual_seed, torch.cuda.manual_seed, torch.cuda.manual_seed_all):
            seed(3)
            found.append(drawn())
        assert found[0] == found[1] == found[2]
