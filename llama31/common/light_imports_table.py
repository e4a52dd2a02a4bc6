"""Modules that `light_imports` defers, with the reasons; an entry covers the modules in it too."""

UNUSED = {
    "boto3": "TensorBoard's files in S3; logs are written to a directory",
    "botocore": "as boto3",
    "datasets": "Hugging Face's data sets; training reads token files",
    "leptonai": "a cloud",
    "megatron.core.inference": "generation",
    "modelopt": "quantisation and distillation",
    "nemo.collections.llm.inference": "generation",
    "nemo.collections.llm.gpt.data.fine_tuning": "fine-tuning",
    "nemo.collections.llm.modelopt.distill": "distillation",
    "nemo.collections.llm.modelopt.prune": "pruning",
    "nemo.collections.llm.modelopt.quantization": "quantisation",
    "nemo.export": "exports to inference engines",
    "nemo_run.cli.devspace": "NeMo-Run's command line",
    "nemo_run.cli.experiment": "NeMo-Run's command line",
    "nemo_run.core.execution": "NeMo-Run's launchers; ranks are started by torchrun or srun",
    "nemo_run.core.tunnel": "NeMo-Run's ssh",
    "nemo_run.devspace": "NeMo-Run's command line",
    "nemo_run.run.api": "NeMo-Run's launchers",
    "nemo_run.run.experiment": "NeMo-Run's launchers",
    "nemo_run.run.job": "NeMo-Run's launchers",
    "networkx": "graphs of NeMo-Run's jobs",
    "onnx": "export",
    "pandas": "tables of scikit-learn",
    "peft": "fine-tuning",
    "pytorch_lightning": "the old name of lightning",
    "scipy": "signals and statistics of metrics that are not used",
    "sklearn": "metrics of transformers' generation",
    "sympy": "symbolic shapes of torch's compiler",
    "torch.fx.experimental.symbolic_shapes": "torch's compiler",
    "torch.utils._sympy": "torch's compiler",
    "torch.utils.cpp_extension": "building C++ code",
    "torchx": "NeMo-Run's launchers",
    "wandb": "Weights & Biases, unless WANDB=1",
}

REEXPORTS = {
    "nemo.collections.llm": "models, data, recipes and tools of all kinds",
    "nemo.collections.llm.gpt.data": "data sets for fine-tuning",
    "nemo.collections.llm.gpt.model": "30 architectures",
    "nemo.collections.llm.modelopt": "quantisation, distillation and pruning",
    "nemo.collections.llm.recipes": "recipes of all models",
    "nemo.lightning.pytorch.callbacks": "callbacks that the recipe does not name",
    "nemo_run": "launchers",
    "torchmetrics": "100 metrics, of which Lightning uses the base class",
    "torchmetrics.utilities": "as torchmetrics",
}

COMPILED = {
    "megatron.core.jit": "decorates functions that are compiled",
}
