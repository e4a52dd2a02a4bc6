"""Modules that `deferred_imports` defers, with the reasons. The only list of them."""

UNUSED: dict[str, tuple[str, ...]] = {
    "boto3": ("TensorBoard's files in S3; runs write to a directory",),
    "botocore": ("as boto3",),
    "datasets": ("Hugging Face's data sets; training reads token files",),
    "megatron.core.inference": (
        "generation",
        *("BaseInferenceContext", "DynamicInferenceContext", "StaticInferenceContext"),
        *("GPTInferenceWrapper", "InferenceWrapperConfig"),
    ),
    "modelopt": ("quantisation and distillation", "DistillationLossBalancer", "DistillationModel"),
    "nemo.collections.llm.gpt.data.fine_tuning": ("fine-tuning", "FineTuningDataModule"),
    "nemo.collections.llm.inference": ("generation", "_setup_trainer_and_restore_model"),
    "nemo.collections.llm.modelopt.distill.loss": (
        "distillation",
        *("HiddenStateCosineLoss", "LogitsAndIntermediatesLossBalancer", "LogitsKLLoss", "ProjectionLayer"),
    ),
    "nemo.collections.llm.modelopt.distill.model": ("distillation", "DistillationGPTModel"),
    "nemo.collections.llm.modelopt.prune": (
        "pruning",
        *("PruningConfig", "prune_language_model", "save_pruned_model"),
    ),
    "nemo.collections.llm.modelopt.quantization": (
        "quantisation",
        *("ExportConfig", "QuantizationConfig", "Quantizer"),
    ),
    "nemo.export": ("exports to inference engines", "load_distributed_model_weights"),
    "nemo_run.cli.devspace": ("NeMo-Run's command line",),
    "nemo_run.cli.experiment": ("NeMo-Run's command line",),
    "nemo_run.core.execution": (
        "NeMo-Run's launchers; torchrun or srun starts the ranks",
        *("Executor", "LocalExecutor", "SkypilotExecutor", "SlurmExecutor"),
    ),
    "nemo_run.run.experiment": ("NeMo-Run's launchers", "Experiment"),
    "onnx": ("export",),
    "pandas": ("tables of scikit-learn and datasets",),
    "peft": ("fine-tuning of transformers' models",),
    "pytorch_lightning": ("the old name of lightning",),
    "scipy": ("mathematics of metrics that are not used",),
    "sklearn": ("metrics for transformers' generation", "roc_curve"),
    "sympy": ("symbolic shapes of torch's compiler",),
    "torch._dynamo": ("torch's compiler; see `late_uses`", "OptimizedModule", "TransformGetItemToIndex"),
    "torch.fx.experimental.symbolic_shapes": (
        "torch's compiler",
        *("GuardOnDataDependentSymNode", "guard_or_false", "statically_known_true"),
    ),
    "torch.utils._sympy": ("torch's compiler",),
    "torch.utils.cpp_extension": ("compilation of C++ code",),
    "tqdm.cli": ("tqdm's command line", "main"),
    "wandb": ("Weights & Biases; WANDB=1 uses it",),
}
"""Modules, with all modules in them, that are executed when they are used: the reason, and names with stand-ins."""

REEXPORTS = {
    "nemo.collections.llm": "data, recipes and tools for all purposes",
    "nemo.collections.llm.gpt.data": "data for fine-tuning",
    "nemo.collections.llm.gpt.model": "30 architectures",
    "nemo.collections.llm.modelopt": "quantisation, distillation and pruning",
    "nemo.collections.llm.modelopt.distill": "distillation",
    "nemo.collections.llm.recipes": "recipes of all models",
    "nemo.lightning.pytorch.callbacks": "callbacks that the recipe does not name",
    "nemo_run": "launchers",
    "torchmetrics": "100 metrics; Lightning uses their base class",
    "torchmetrics.utilities": "parts of metrics",
}
"""Packages whose `__init__` imports names from its own modules: why most of them are not needed."""
