"""Settings of arithmetic in fp8 and NVFP4: which of them apply, what they become, and what cannot be combined.

The names and values are those of NeMo's MegatronMixedPrecision and Megatron-Core's TransformerConfig. The scaling
recipes are Transformer Engine's, 2.9: transformer_engine/common/recipe.
"""

from collections.abc import Collection, Iterator
from typing import Any

from llama31.config.model_sizes import SIZES
from llama31.config.problem import Problem, assignment
from llama31.settings import Fp8Recipe, Precision, ReduceType, Settings

DELAYED = ("fp8_amax_history_len", "fp8_amax_compute_algo")
FP8 = ("fp8_recipe", *DELAYED, "fp8_param_gather", "fp8_dot_product_attention")
LAYERS = ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16")


def recipe(settings: Settings) -> str:
    """Return the scaling recipe: FP8_RECIPE in fp8, nvfp4 in NVFP4, empty in bf16 and fp32."""
    if settings.precision is Precision.nvfp4:
        return settings.precision.name
    return settings.fp8_recipe.name if settings.precision is Precision.fp8 else ""


def applicable(settings: Settings) -> tuple[str, ...]:
    """Return the fields that have an effect with this precision and recipe."""
    if settings.precision is Precision.nvfp4:
        return LAYERS
    if settings.precision is not Precision.fp8:
        return ()
    is_delayed = settings.fp8_recipe is Fp8Recipe.delayed
    return FP8 if is_delayed else (*(name for name in FP8 if name not in DELAYED), *LAYERS)


def param_gather(settings: Settings) -> bool:
    """Return whether weights are kept and gathered in fp8: FP8_PARAM_GATHER, or its default as in NeMo's recipes."""
    if settings.precision is not Precision.fp8:
        return False
    is_blockwise = settings.fp8_recipe is Fp8Recipe.blockwise
    return not is_blockwise if settings.fp8_param_gather is None else settings.fp8_param_gather


def gathers_in_gradients(settings: Settings) -> bool:
    """Return whether weights are gathered in the memory of the gradients: in Megatron, those of mxfp8."""
    return param_gather(settings) and settings.fp8_recipe is Fp8Recipe.mxfp8


def arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of NeMo's MegatronMixedPrecision beside those of bf16."""
    found: dict[str, Any] = {}
    if settings.precision is Precision.nvfp4:
        found["fp4"] = found["fp4_recipe"] = "nvfp4"
    elif settings.precision is Precision.fp8:
        is_mxfp8 = settings.fp8_recipe is Fp8Recipe.mxfp8
        found = {
            "fp8": "e4m3" if is_mxfp8 else "hybrid",  # as in NeMo's recipes; hybrid: gradients in e5m2
            "fp8_recipe": settings.fp8_recipe.name,
            "fp8_param_gather": param_gather(settings),
            "fp8_dot_product_attention": settings.fp8_dot_product_attention,
        }
        if is_mxfp8:
            found["reuse_grad_buf_for_mxfp8_param_ag"] = param_gather(settings)
        if settings.fp8_recipe is Fp8Recipe.delayed:
            found["fp8_amax_history_len"] = settings.fp8_amax_history_len
            found["fp8_amax_compute_algo"] = settings.fp8_amax_compute_algo.name
    start, end = (getattr(settings, name) for name in LAYERS)
    if start or end:
        found |= {"first_last_layers_bf16": True, **dict(zip(LAYERS, (start, end), strict=True))}
    return found


def described(settings: Settings) -> str:
    """Return the arithmetic as text, for the plan."""
    parts = [settings.precision.name]
    if settings.precision is Precision.fp8:
        parts[0] += f" ({settings.fp8_recipe.name} scaling)"
        if settings.fp8_recipe is Fp8Recipe.delayed:
            parts.append(f"{settings.fp8_amax_compute_algo.name} of {settings.fp8_amax_history_len} steps")
        parts.append("weights in fp8" if param_gather(settings) else "weights in bf16")
        if settings.fp8_dot_product_attention:
            parts.append("attention in fp8")
    start, end = (getattr(settings, name) for name in LAYERS)
    if start or end:
        parts.append(f"the first {start} and last {end} layers in bf16")
    if settings.precision is not Precision.fp32:
        parts.append(f"gradients in {settings.grad_reduce_dtype.name}")
    return ", ".join(parts)


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield settings that have no effect, and combinations that Megatron refuses."""
    usual = Settings()
    for name in (*FP8, *LAYERS):
        value, default = getattr(settings, name), getattr(usual, name)
        if value != default and name not in applicable(settings):
            beside = assignment("precision", settings.precision)
            if settings.precision is Precision.fp8:
                beside = assignment("fp8_recipe", settings.fp8_recipe)
            yield Problem(name, f"{assignment(name, value)}: has no effect with {beside}", (default,))
    if settings.precision is Precision.fp32 and settings.grad_reduce_dtype is not ReduceType.fp32:
        what = f"{assignment('grad_reduce_dtype', settings.grad_reduce_dtype)}: PRECISION=fp32 keeps gradients in fp32"
        yield Problem("grad_reduce_dtype", what, (ReduceType.fp32,))
    if settings.size not in SIZES:
        return
    most = SIZES[settings.size].layers // settings.pipeline_parallel_size
    for name in LAYERS:
        if name in applicable(settings) and (value := getattr(settings, name)) > most:
            yield Problem(name, f"{assignment(name, value)}: a pipeline stage has {most} layers", (most,))


def not_run_by(settings: Settings, gpu: str, recipes: Collection[str]) -> Iterator[Problem]:
    """Yield a problem if the recipe is not among those that a GPU runs."""
    wanted = recipe(settings)
    if not wanted or wanted in recipes:
        return
    if settings.precision is Precision.nvfp4 or not recipes:
        what = f"{assignment('precision', settings.precision)}: Transformer Engine does not run it on {gpu}"
        yield Problem("precision", what, (Precision.fp8, Precision.bf16) if recipes else (Precision.bf16,))
    else:
        what = f"{assignment('fp8_recipe', settings.fp8_recipe)}: Transformer Engine does not run it on {gpu}"
        yield Problem("fp8_recipe", what, tuple(one for one in Fp8Recipe if one.name in recipes))
