"""Train as the examples of NeMo's documentation do, as a rank of torchrun: the peer of dev.bench.start.

    torchrun --module dev.bench.plain_nemo DIRECTORY NAME=value ...

Trains this project's model for one step by llm.pretrain, with NeMo's data module, Megatron's index and NeMo's logger.
From this project come only the parts that stock NeMo lacks here: the CPU backend and the model configuration without
Transformer Engine. Writes DIRECTORY/rank-N.log with the times of its start.
"""

import os
import sys
from pathlib import Path

from llama31.common import deferred_imports, skip_megatron_compile
from llama31.run_dir import startup_log


def main() -> None:
    """Train one step."""
    directory = Path(sys.argv[1])
    log = open(directory / f"rank-{os.environ['RANK']}.log", "wb")  # noqa: SIM115 - open until exit
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    startup_log.reached(startup_log.RANK)
    from llama31.config.resolve import resolve

    settings = resolve([*sys.argv[2:], f"JOB_DIR={directory}"], {}).settings
    startup_log.reached(startup_log.CHECKED)
    deferred_imports.remove()
    sys.modules.pop(skip_megatron_compile.NAME)  # stock Megatron tries to compile it
    import fiddle
    from lightning.pytorch import Callback
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.collections.common.tokenizers import AutoTokenizer
    from nemo.lightning.pytorch.optim import MegatronOptimizerModule

    from llama31.config import paths
    from llama31.model.cpu_backend import cpu_backend
    from llama31.model.device import Backend
    from llama31.model.llama import model_config

    startup_log.reached(startup_log.IMPORTED)

    class Data(llm.PreTrainingDataModule):
        """NeMo's data module, which logs when the index is built."""

        def build(self, *arguments: object, **others: object) -> None:
            startup_log.reached(startup_log.JOINED)
            super().build(*arguments, **others)
            startup_log.reached(startup_log.INDEXED)

    class StartLog(Callback):
        """Logs when training starts, and exits after one step."""

        def on_train_start(self, *_: object) -> None:
            startup_log.reached(startup_log.READY)

        def on_megatron_microbatch_start(self, **_: object) -> None:
            startup_log.reached(startup_log.BATCH)

        def on_train_batch_end(self, *_: object) -> None:
            startup_log.reached(startup_log.STEPPED)
            log.flush()
            os._exit(0)

    with cpu_backend():
        tokenizer = AutoTokenizer(settings.tokenizer_path)
        (prefix,) = map(str, paths.train_prefixes(settings))
        validation = str(paths.validation_prefix(settings))
        llm.pretrain(
            model=llm.LlamaModel(
                fiddle.build(model_config(settings, Backend("cpu", transformer_engine=False))), tokenizer=tokenizer
            ),
            data=Data(
                paths={"train": [prefix], "validation": [validation], "test": [validation]},
                seq_length=settings.seq_length,
                micro_batch_size=settings.mbs,
                global_batch_size=settings.gbs,
                num_workers=0,
                persistent_workers=False,
                tokenizer=tokenizer,
                index_mapping_dir=str(directory / "index"),
            ),
            trainer=nl.Trainer(
                accelerator="cpu",
                devices=settings.gpus_per_node,
                max_steps=100,
                val_check_interval=100,
                limit_val_batches=1,
                num_sanity_val_steps=0,
                enable_checkpointing=False,
                enable_progress_bar=False,
                use_distributed_sampler=False,
                strategy=nl.MegatronStrategy(
                    process_group_backend="gloo", ddp="megatron", ckpt_async_save=False, gradient_as_bucket_view=True
                ),
                plugins=nl.MegatronMixedPrecision(precision="32"),
                callbacks=[StartLog()],
            ),
            optim=MegatronOptimizerModule(_optimizer(settings.max_lr)),
            log=nl.NeMoLogger(log_dir=str(directory), ckpt=None),
        )


def _optimizer(learning_rate: float) -> object:
    from megatron.core.optimizer import OptimizerConfig

    return OptimizerConfig(optimizer="adam", lr=learning_rate, bf16=False, use_distributed_optimizer=True)


if __name__ == "__main__":
    main()
