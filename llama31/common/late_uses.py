"""Changes of functions that use a deferred module only to find that there is nothing for it to do.

The compiler of torch, 800 modules: torch and Megatron-Core decorate functions at import or before the first optimizer
step. Nothing is compiled on a CPU; on a GPU the first call of a function that is compiled imports the compiler.

ModelOpt: NeMo asks it at each save and resume whether it has changed the model.

Source files, of which torch asks 10,000 times whether they are there, for the names of a hundred lines.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
MODELOPT = "modelopt"
STATE = "modelopt_state"
"""Directory in a checkpoint with the state of ModelOpt."""


def is_executed(name: str) -> bool:
    """Return whether a module is imported, and not just deferred."""
    return type(sys.modules.get(name)) is ModuleType


def _compile_at_first_call(module: ModuleType) -> None:
    """Have Megatron's decorator `jit_fuser`, which is torch.compile, compile a function when it is first called."""
    import torch

    def jit_fuser(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] | None = None

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal compiled
            if torch.compiler.is_compiling():  # called from a function that is being compiled, which includes it
                return function(*arguments, **keywords)
            if compiled is None:
                compiled = torch.compile(function)
            return compiled(*arguments, **keywords)

        return call

    if vars(module).get("jit_fuser") is torch.compile:
        vars(module)["jit_fuser"] = jit_fuser


def _disable_if_imported(module: ModuleType) -> None:
    """Have torch's decorator, which hides a function from the compiler, not import it: it cannot see the function."""
    original = module._disable_dynamo

    @functools.wraps(original)
    def disable(function: Callable[..., Any] | None = None, recursive: bool = True) -> Any:
        if function is None:
            return functools.partial(disable, recursive=recursive)
        disabled = original(function, recursive)

        @functools.wraps(disabled)
        def call(*arguments: Any, **keywords: Any) -> Any:
            return (disabled if is_executed(COMPILER) else function)(*arguments, **keywords)

        return call

    vars(module)["_disable_dynamo"] = disable


def _suppress_errors(module: ModuleType) -> None:
    """Have torch fall back to uncompiled code on an error, as NeMo's recipes of Nemotron-H set it for all models."""
    module.suppress_errors = True  # type: ignore[attr-defined]


def _break_graph_if_imported(module: ModuleType) -> None:
    """Have torch's optimizers not import the compiler for its `graph_break`, which does nothing in uncompiled code."""
    import torch

    original = vars(module).get("_use_grad_for_differentiable")

    def use_grad(function: Callable[..., Any]) -> Callable[..., Any]:
        assert original
        breaking = original(function)

        @functools.wraps(breaking)
        def call(optimizer: Any, *arguments: Any, **keywords: Any) -> Any:
            if is_executed(COMPILER):
                return breaking(optimizer, *arguments, **keywords)
            with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
                return function(optimizer, *arguments, **keywords)

        return call

    if original:
        vars(module)["_use_grad_for_differentiable"] = use_grad


def _name_lines_by_frames(module: ModuleType) -> None:
    """Have torch name the line that registers an operator without Python's `inspect`, which looks for all modules."""

    def get_source(stacklevel: int) -> str:
        frame = sys._getframe(stacklevel)
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"

    if "get_source" in vars(module):
        vars(module)["get_source"] = get_source


def _use_modelopt_if_imported(module: ModuleType) -> None:
    """Have NeMo ask a model for its state of ModelOpt only where there can be one: in a process that imported it."""
    from nemo.lightning.io.pl import ckpt_to_weights_subdir

    save, restore = module.save_modelopt_state, module.restore_modelopt_state

    @functools.wraps(save)
    def save_modelopt_state(model: Any, path: str, checkpoint_io: Any) -> None:
        if is_executed(MODELOPT):
            save(model, path, checkpoint_io)

    @functools.wraps(restore)
    def restore_modelopt_state(model: Any, path: Any = None, trainer: Any = None) -> Any:
        saved = path or (trainer and getattr(trainer.strategy.restore_config, "path", trainer.ckpt_path))
        if saved and (is_executed(MODELOPT) or (ckpt_to_weights_subdir(saved, is_saving=False) / STATE).exists()):
            return restore(model, path, trainer)
        return None

    vars(module).update(save_modelopt_state=save_modelopt_state, restore_modelopt_state=restore_modelopt_state)


CHANGES = {
    "nemo.collections.llm.modelopt.model_utils": _use_modelopt_if_imported,
    "megatron.core.jit": _compile_at_first_call,
    "torch._compile": _disable_if_imported,
    "torch._library.utils": _name_lines_by_frames,
    "torch._dynamo.config": _suppress_errors,
    "torch.optim.optimizer": _break_graph_if_imported,
}
"""Changes of modules, made once these are executed."""
