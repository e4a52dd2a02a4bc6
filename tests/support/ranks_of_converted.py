"""A rank that loads converted checkpoints as Megatron does, in several layouts, under torchrun.

    ranks_of_converted.py TOKENS OUTPUT CHECKPOINT...

For each layout and checkpoint, the logits of the tokens in the torch file TOKENS go to OUTPUT. The first checkpoint,
loaded at TP=2 in its own type, is saved again by Megatron itself, into OUTPUT too.
"""

import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from llamas import ONE_HEAD
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from llama31.model.cpu_backend import cpu_backend
from llama31.model.device import Backend

PREFIX = "module."
OWN_SAVE = "own save"


@dataclass(frozen=True)
class Vocabulary:
    """What NeMo asks of a tokenizer, which pads it for the layout."""

    vocab_size: int


def load(checkpoint: Path, vocab_size: int, dtype: torch.dtype) -> Any:
    """Megatron's model of this rank, with the weights of a checkpoint; the configuration is the context's."""
    from nemo.lightning import io  # not above: Megatron's save starts a process that would import it again

    from llama31.model.llama import adapt

    config = io.load_context(checkpoint, subpath="model.config")
    adapt(config, Backend("cpu", transformer_engine=False))
    config.vocab_size = None
    config.bf16, config.fp16, config.params_dtype, config.pipeline_dtype = False, False, dtype, dtype
    config.parallel_output = False
    config.tensor_model_parallel_size = parallel_state.get_tensor_model_parallel_world_size()
    config.pipeline_model_parallel_size = parallel_state.get_pipeline_model_parallel_world_size()
    model = config.configure_model(Vocabulary(vocab_size)).to(dtype).eval()
    state = model.sharded_state_dict(prefix=PREFIX)
    loaded = dist_checkpointing.load(state, str(checkpoint / "weights"))
    ours = {name.removeprefix(PREFIX): value for name, value in loaded.items() if name.startswith(PREFIX)}
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not [name for name in missing if "_extra_state" not in name], missing
    assert not unexpected
    return model


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor | None:
    """Logits [batch, sequence, vocabulary] on the last stage."""
    with torch.inference_mode():
        if not parallel_state.is_pipeline_first_stage():
            hidden = torch.empty(tokens.shape[1], tokens.shape[0], model.config.hidden_size)
            torch.distributed.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
            model.set_input_tensor(hidden)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        found = model(tokens, positions, attention_mask=None)
        if parallel_state.is_pipeline_last_stage():
            return found
        torch.distributed.send(found.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        return None


def vocabulary(checkpoint: Path, tokens: torch.Tensor) -> int:
    """Ids of the model: its context's, or else its tokenizer's."""
    from nemo.lightning import io

    config = yaml.safe_load((checkpoint / "context" / "model.yaml").read_text())["config"]
    return config["vocab_size"] or io.load_context(checkpoint, subpath="model").tokenizer.vocab_size


def main() -> None:
    tokens, output, checkpoints = torch.load(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
    torch.distributed.init_process_group("gloo")
    for layout in ({"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}):
        parallel_state.initialize_model_parallel(**layout)
        model_parallel_cuda_manual_seed(1234)
        name = "tp" if "tensor_model_parallel_size" in layout else "pp"
        for checkpoint in checkpoints:
            if name == "tp" and checkpoint.name == ONE_HEAD:
                continue
            found = logits(load(checkpoint, vocabulary(checkpoint, tokens), torch.float32), tokens)
            if found is not None and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
                torch.save(found, output / f"{checkpoint.name} {name}.pt")
        if name == "tp":
            model = load(checkpoints[0], vocabulary(checkpoints[0], tokens), torch.bfloat16)
            own = output / OWN_SAVE / "weights"
            own.mkdir(parents=True, exist_ok=True)
            torch.distributed.barrier()
            dist_checkpointing.save(model.sharded_state_dict(prefix=PREFIX), str(own))
        parallel_state.destroy_model_parallel()
    torch.distributed.barrier()


if __name__ == "__main__":
    with cpu_backend():
        main()
    for child in multiprocessing.active_children():  # Megatron's writer of checkpoints
        child.terminate()
    os._exit(0)
